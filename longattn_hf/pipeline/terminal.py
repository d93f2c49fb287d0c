"""How the programs speak: results on stdout, for people or as JSON; on stderr what goes on and what to do next."""

import argparse
import io
import json
import logging
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from longattn_hf.pages.page import visible

#: The options of every program that has a result.
OUTPUT = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
_group = OUTPUT.add_argument_group("output")
_group.add_argument(
    "--json", action="store_true", help="Print the result as one JSON object; all else goes to stderr. For programs."
)
_group.add_argument(
    "--quiet", action="store_true", help="Print the result alone, and errors: no progress, no hints, no warnings."
)

# the least that is left of a name
_LEAST_COLUMNS = 8


@dataclass(frozen=True)
class Output:
    """How a program is to speak: as people read it or as JSON, and whether of its result alone."""

    json: bool = False
    quiet: bool = False

    @classmethod
    def read(cls, arguments: Sequence[str] | None) -> "Output":
        """Reads the options of `OUTPUT` among others."""
        given, _ = OUTPUT.parse_known_args(arguments)
        return cls(given.json, given.quiet)

    @contextmanager
    def speaking(self, *, first: bool = True) -> Iterator[None]:
        """Shows what the package logs: what goes on, of the first process alone, and warnings; only errors if quiet.

        Bars of libraries are for terminals.
        """
        from datasets.utils import disable_progress_bars
        from huggingface_hub.utils import disable_progress_bars as disable_bars_of_the_hub
        from tqdm.contrib.logging import logging_redirect_tqdm

        if self.quiet or not sys.stderr.isatty():
            disable_progress_bars()
            disable_bars_of_the_hub()
        handler = logging.StreamHandler()
        handler.setFormatter(_PlainInfo("%(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        package = logging.getLogger(__name__.partition(".")[0])
        level = package.level
        package.setLevel(logging.ERROR if self.quiet else logging.INFO if first else logging.WARNING)
        try:
            # a line stands above the bar, and not in it
            with logging_redirect_tqdm():
                yield
        finally:
            package.setLevel(level)

    def show(self, result: object, facts: Mapping[str, Any]) -> None:
        """Prints a result, as its text or as its facts."""
        say(json.dumps(facts) if self.json else result)


class _PlainInfo(logging.Formatter):
    """Leaves level and logger away from what is no warning."""

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if record.levelno == logging.INFO else super().format(record)


def say(text: object) -> None:
    """Prints on stdout, also what its encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    print(text, flush=True)  # noqa: T201


def lay_out(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lays rows of cells out as the lines of a table that fits the terminal, or 80 columns where there is none.

    First cells stand to the left, and are shortened where all would not fit; the others to the right. Characters as
    wide as two, and marks that take no room, count as what they take.
    """
    rows = [[visible(cell) for cell in row] for row in rows]
    first, *others = (max(map(_columns_of, column)) for column in zip(*rows, strict=True))
    room = shutil.get_terminal_size().columns - sum(width + 2 for width in others)
    first = min(first, max(room, _LEAST_COLUMNS))
    lines = []
    for name, *cells in rows:
        line = _shorten(name, first)
        line += " " * (first - _columns_of(line))
        for cell, width in zip(cells, others, strict=True):
            line += "  " + " " * (width - _columns_of(cell)) + cell
        lines.append(line.rstrip())
    return lines


def fold(sentence: str) -> str:
    """Breaks a sentence into lines that fit the terminal, or 80 columns where there is none."""
    columns = shutil.get_terminal_size().columns
    return textwrap.fill(sentence, columns, subsequent_indent="  ", break_on_hyphens=False)


def _columns_of(text: str) -> int:
    """Counts the columns that a text takes in a terminal."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(c) in "FW")
        for c in text
    )


def _shorten(text: str, width: int) -> str:
    """Leaves out the middle of what is wider."""
    short, kept = text, len(text)
    while _columns_of(short) > width:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return short


def clock(seconds: float, *, now: float) -> str:
    """Says what the clock will show in so many seconds from `now`, with the day if that is another."""
    then = time.localtime(now + seconds)
    is_today = then[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M" if is_today else "%a %d %b %H:%M", then)
