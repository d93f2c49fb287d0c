"""How a card writes numbers, names and documents' text."""

import html
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined, Undefined

from longattn_hf.pages import text as markdown

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def environment(not_run: bool) -> Environment:
    """Returns what renders the card's template; what is missing of a recipe that was not run is written so."""
    absent = "not run" if not_run else "-"
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "code": markdown.code,
        "excerpt": markdown.excerpt,
        "html": lambda text: html.escape(markdown.plain(text)),
        "count": count,
        "percent": lambda value: f"{value:.1%}",
        "fact": lambda value: "not run" if value is None and not_run else markdown.code(value),
        "fence": markdown.fence,
        "link": quote,
        "prose": markdown.prose,
        "caption": lambda path: markdown.prose(Path(path).stem.replace("_", " ")),
        # a category that was not run has no facts to look up
        "number": lambda value, spread=None: (
            absent if value is None or (not_run and isinstance(value, Undefined)) else number(value, spread)
        ),
        "share": lambda value: absent if value is None else f"{value:.0%}",
        "python": lambda value: json.dumps(value, ensure_ascii=False),
        "type_name": _type_name,
    }
    return environment


def number(value: float, spread: float | None = None) -> str:
    """Writes a number as people do: 12,345 and 1.23 M, 0.1523 and -7.26 × 10⁻⁹.

    Args:
        value: A count, which is an integer, or a measure.
        spread: That of the measure's values; what is next to nothing beside it is 0.
    """
    if isinstance(value, int):
        for unit, name in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
            # what rounds to the next unit is written in it
            if abs(value) >= 0.9995 * unit and abs(value) >= 10**6:
                return f"{float(f'{value / unit:.3g}'):g} {name}"
        return f"{value:,}"
    if not value or abs(value) < 1e-9 * (spread or 0):
        return "0"
    if 1e-3 <= abs(value) < 1e6 or not math.isfinite(value):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    digits, power = f"{value:.2e}".split("e")
    return f"{digits} × 10{raised(int(power))}"


def raised(value: int) -> str:
    """Writes an integer as a power, or as the sign of a note."""
    return str(value).translate(_RAISED)


def count(value: int, one: str, several: str = "") -> str:
    """Writes a count with what is counted: 1 window, 12,345 windows."""
    return f"{number(value)} {one if value == 1 else several or one + 's'}"


def _type_name(feature: Mapping[str, Any]) -> str:
    """Names the type of a column as `Features` writes it to YAML."""
    if "dtype" in feature:
        return feature["dtype"] if isinstance(feature["dtype"], str) else next(iter(feature["dtype"]))
    kind = next(name for name in feature if name != "name")
    inner = feature[kind]
    return f"{kind} of {inner}" if isinstance(inner, str) else kind
