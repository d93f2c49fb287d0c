"""What a person asks of the list of windows, as a line of conditions: `tokens >= 8000 and source contains wiki`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from longattn_hf.pages.text import did_you_mean

_COLUMN, _HOW = r'"[^"]+"|[\w.\-]+', r"<=|>=|!=|=|<|>|contains\b"
_ONE = re.compile(rf"\s*(?P<column>{_COLUMN})\s*(?P<how>{_HOW})\s*(?P<value>.+?)\s*", re.IGNORECASE | re.DOTALL)
# an "and" inside a value is none of ours unless a column and a comparison follow
_AND = re.compile(rf"\s+and\s+(?=(?:{_COLUMN})\s*(?:{_HOW}))", re.IGNORECASE)
_COMPARE = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "=": np.equal,
    "!=": np.not_equal,
}
_YES_NO = {"yes": True, "true": True, "no": False, "false": False}


@dataclass(frozen=True)
class Texts:
    """A column of texts: int `[N]` codes, -1 for none, and the texts that they stand for."""

    codes: np.ndarray
    names: Sequence[str] | np.ndarray


#: A column that conditions are put to: numbers, NaN for none, or bools, `[N]`, or texts.
Column = np.ndarray | Texts


def meet(conditions: str, columns: Mapping[str, Column]) -> np.ndarray:
    """Marks the rows that meet all conditions; a row without a value meets none.

    Args:
        conditions: Joined by `and`; each a column, one of `< <= > >= = != contains`, and a value.
        columns: What can be asked about, by name.

    Returns:
        bool `[N]`.

    Raises:
        ValueError: There is no such column, or the column and the value do not go together.
    """
    met: list[np.ndarray] = []
    for one in _AND.split(conditions.strip()):
        match = _ONE.fullmatch(one)
        if match is None:
            raise ValueError(
                f"The filter {one!r} is not understood: write a column, one of < <= > >= = != contains, and a value, "
                f"as in 'tokens >= 1000 and source contains wiki'. The columns: {', '.join(columns)}."
            )
        name, how = match["column"].strip('"'), match["how"].lower()
        met.append(_meet_one(_find(name, columns), name, how, _unquote(match["value"])))
    return np.all(met, axis=0)


def _find(name: str, columns: Mapping[str, Column]) -> Column:
    if name in columns:
        return columns[name]
    hint = did_you_mean(name, columns) + f" The columns: {', '.join(columns)}."
    raise ValueError(f"The filter's column {name!r} is not here. {hint.strip()}")


def _meet_one(column: Column, name: str, how: str, value: str) -> np.ndarray:
    if isinstance(column, Texts):
        if how not in ("contains", "=", "!="):
            raise ValueError(f"The filter's column {name!r} holds text: write contains, = or !=, not {how}.")
        low = value.lower()
        holds = [low in str(text).lower() if how == "contains" else str(text) == value for text in column.names]
        marked = np.array([*holds, False])[column.codes]
        return ~marked & (column.codes >= 0) if how == "!=" else marked
    if column.dtype == bool:
        if how not in ("=", "!=") or value.lower() not in _YES_NO:
            raise ValueError(f"The filter's column {name!r} is yes or no: write '{name} = yes', not {how} {value!r}.")
        return _COMPARE[how](column, _YES_NO[value.lower()])
    try:
        number = float(value)
    except ValueError:
        number = np.nan
    if how == "contains" or np.isnan(number):
        raise ValueError(f"The filter's column {name!r} holds numbers: '{how} {value}' says nothing of them.")
    return _COMPARE[how](column, number) & ~np.isnan(column)


def _unquote(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
