"""The pictures' colours, style and fonts: names of any script, as far as this machine has a font for them."""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.ft2font import FT2Font

# from Okabe and Ito's palette, told apart by people of every colour vision and in grey print
KEPT_COLOUR, DROPPED, CUT, INK = "#0072B2", "#909090", "#D55E00", "#333333"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#EBEBEB",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
_OWN = "DejaVu Sans"
# fonts that draw a box, or nothing, for every character there is
_EMPTY = re.compile("last ?resort|blank|fallback|tofu", re.IGNORECASE)


@contextmanager
def own_style(names: Iterable[str] = ()) -> Iterator[None]:
    """Sets the pictures' style, with fonts for these names."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    # that a font has no bold weight is nothing to tell whoever builds
    logger.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_STYLE | {"font.family": _families_for(names)})
            yield
    finally:
        logger.setLevel(level)


def _families_for(texts: Iterable[str]) -> list[str]:
    """Returns DejaVu Sans and, as far as this machine has them, families with the characters that it lacks."""
    families = [_OWN]
    lacking = {char for text in texts for char in text if char.isprintable() and not _has(_OWN, char)}
    for name in sorted({entry.name for entry in fontManager.ttflist}) if lacking else ():
        found = {char for char in lacking if not _EMPTY.search(name) and _has(name, char)}
        if found:
            families.append(name)
            lacking -= found
        if not lacking:
            break
    return families


def drawable(text: str, most: int = 48) -> str:
    """Writes characters that matplotlib's present families lack as escapes, and leaves out a long name's middle."""
    families = matplotlib.rcParams["font.family"]
    shown = [
        char if char.isprintable() and any(_has(name, char) for name in families) else ascii(char)[1:-1]
        for char in text
    ]
    half = most * len(shown) // max(2 * len("".join(shown)), 1)
    return "".join(shown if len("".join(shown)) <= most else [*shown[:half], "…", *shown[-half:]])


def _has(family: str, char: str) -> bool:
    fonts = _fonts_of(family)
    return bool(fonts) and all(font.get_char_index(ord(char)) for font in fonts)


@cache
def _fonts_of(family: str) -> list[FT2Font]:
    """A family's fonts for labels and for titles; none if it cannot be drawn with, as fonts of pictures cannot."""
    try:
        fonts = [get_font(findfont(FontProperties(family=family, weight=weight))) for weight in ("normal", "bold")]
    except (OSError, RuntimeError):
        # a file that is gone or damaged since the machine's fonts were listed
        return []
    return fonts if all(font.scalable for font in fonts) else []
