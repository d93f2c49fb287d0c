"""Self-contained web pages: the package's styles and scripts inline, data as JSON, text of any origin as text."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent

# nothing but what stands in the page itself: no address of any kind can be fetched, whatever a document holds
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'"

# control characters but tab and line break (ANSI codes begin with one), and those that turn or hide text around them
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Writes characters that act instead of being seen as what they are: ESC as U+241B, a direction as <U+202E>."""

    def show(match: re.Match[str]) -> str:
        code = ord(match[0])
        return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else f"<U+{code:04X}>"

    return _INVISIBLE.sub(show, text.replace("\r\n", "\n"))


def embed(data: Any) -> str:
    """Writes plain values as JSON that can stand inside a script element, whatever texts they hold."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def read_asset(*names: str) -> str:
    """Returns styles or scripts of the package, one behind the other."""
    return "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in names)


def render_page(*, title: str, body: str, data: Any, scripts: Sequence[str], start: str) -> str:
    """Puts a page together that needs nothing beside itself: no network, no other file.

    Args:
        title: Its title, as text.
        body: The HTML of its body.
        data: Plain values, for the scripts as `data`.
        scripts: Names of the package's scripts.
        start: The JavaScript that draws `data`.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{html.escape(visible(title))}</title>
<style>
{read_asset("page.css")}</style>
</head>
<body class="la">
{body}
<script type="application/json" id="data">{embed(data)}</script>
<script>
{read_asset(*scripts)}
LongAttn.followSystemTheme();
const data = JSON.parse(document.getElementById("data").textContent);
{start}
</script>
</body>
</html>
"""
