"""Text of any origin set into Markdown so that nothing of it is taken for Markdown, HTML or the card's own markers.

And what a refusal says of a name that is nearly one.
"""

import html
import json
import re
import textwrap
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# zero-width (non-)joiners shape letters and emoji; every other character that does not print is shown as U+FFFD
_JOINERS = "\u200c\u200d"


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Returns a sentence that names the nearest of the known names, or another where none is near."""
    near = get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]!r}?" if near else otherwise


def plain(text: str) -> str:
    """Puts the text on one line of visible characters, with no opening of an HTML comment."""
    return _visible(" ".join(text.split()))


def prose(text: str) -> str:
    """Escapes text for a sentence or the cell of a table."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(plain(text), quote=False))


def code(value: Any) -> str:
    """Sets a value as inline code, fit for the cell of a table: text as it is, null as `none`, the rest as JSON."""
    text = value if isinstance(value, str) else "none" if value is None else json.dumps(value, ensure_ascii=False)
    text = plain(text)
    ticks = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    # a table takes a bar for its own even inside code
    return f"{ticks}{pad}{text}{pad}{ticks}".replace("|", "\\|")


def fence(text: str, language: str = "text") -> str:
    """Sets text as a fenced block, line by line, with a fence longer than any run of backticks in it."""
    lines = [_visible(line).rstrip() for line in text.expandtabs(4).splitlines()]
    ticks = "`" * max(3, _longest_run(text) + 1)
    return "\n".join([ticks + language, *lines, ticks])


def excerpt(text: str, width: int = 100, most: int = 5) -> str:
    """Sets a piece of a document as a fenced block of at most `most` lines, none blank, its long lines wrapped."""
    lines = [line for line in text.expandtabs(4).splitlines() if line.strip()]
    wrapped = [part for line in textwrap.dedent("\n".join(lines)).splitlines() for part in textwrap.wrap(line, width)]
    return fence("\n".join(wrapped if len(wrapped) <= most else [*wrapped[:most], "…"]))


def _visible(line: str) -> str:
    shown = (" " if c.isspace() else c if c.isprintable() or c in _JOINERS else "\ufffd" for c in line)
    return "".join(shown).replace("<!--", "<! --")


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
