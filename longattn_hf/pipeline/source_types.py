"""The types that documents' columns have in a build: plain ones, and for one name the same in all sources."""

import json
from collections.abc import Mapping, Sequence
from datetime import date, time
from typing import Any

import numpy as np
from datasets import ClassLabel, Features, LargeList, List, Value

_TEXT = Value("string")
_PLAIN = {"large_string": "string", "string_view": "string", "large_binary": "binary", "binary_view": "binary"}


def plain_type(feature: Any) -> Any:
    """Returns the type that a column of another is kept as: names for labels, and one of several encodings."""
    if isinstance(feature, ClassLabel):
        return _TEXT
    if isinstance(feature, Value):
        return Value(_PLAIN.get(feature.dtype, feature.dtype))
    if isinstance(feature, List):
        return List(plain_type(feature.feature), length=feature.length)
    if isinstance(feature, LargeList):
        return List(plain_type(feature.feature))
    if isinstance(feature, dict):
        return {name: plain_type(inner) for name, inner in feature.items()}
    return feature


def agree(sources: Sequence[Features | None]) -> dict[str, Any]:
    """Returns the type of each column that sources have, the same for all: one that holds every source's values.

    Whole numbers of several widths become the widest, and so do others; what has no common kind is text, as is a
    column whose first rows do not tell its type.
    """
    kinds: dict[str, list[Any]] = {}
    for features in sources:
        for name, feature in (features or {}).items():
            kinds.setdefault(name, []).append(plain_type(feature))
    return {name: _common(of_one) for name, of_one in kinds.items()}


def _common(kinds: Sequence[Any]) -> Any:
    if all(kind == kinds[0] for kind in kinds):
        return _TEXT if kinds[0] == Value("null") else kinds[0]
    try:
        dtypes = [np.dtype(kind.dtype) for kind in kinds if isinstance(kind, Value)]
    except TypeError:
        return _TEXT
    widest = np.result_type(*dtypes) if len(dtypes) == len(kinds) else None
    # a whole number may be too large to be exact as another
    same = widest is not None and {d.kind for d in dtypes} <= ({"f"} if widest.kind == "f" else {"i", "u"})
    return Value(str(widest)) if same and widest is not None and widest.kind in "iuf" else _TEXT


def convert(values: list[Any], feature: Any, kept_as: Any) -> list[Any]:
    """Returns a column's values, None where a value is null, as those of the type that it is kept as.

    Args:
        values: As `datasets` reads them.
        feature: Their type; None where it is not known.
        kept_as: As `agree` says.
    """
    named = [_named(value, feature) for value in values] if _has_labels(feature) else values
    if kept_as != _TEXT or (feature is not None and plain_type(feature) == _TEXT):
        return named
    return [as_text(value) for value in named]


def _has_labels(feature: Any) -> bool:
    if isinstance(feature, List | LargeList):
        return _has_labels(feature.feature)
    if isinstance(feature, dict):
        return any(map(_has_labels, feature.values()))
    return isinstance(feature, ClassLabel)


def _named(value: Any, feature: Any) -> Any:
    """Puts a label's name in place of its number."""
    if value is None:
        return None
    if isinstance(feature, ClassLabel):
        # -1 is how `datasets` writes that there is none
        return feature.int2str(int(value)) if int(value) >= 0 else None
    if isinstance(feature, List | LargeList):
        return [_named(one, feature.feature) for one in value]
    if isinstance(feature, dict):
        return {name: _named(one, feature.get(name)) for name, one in value.items()}
    return value


def as_text(value: object) -> str | None:
    """Returns a value as the text that stands for it in a column that holds any, such as a source or a licence."""
    if value is None or isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if value else None
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return ", ".join(value) or None
    return json.dumps(value, default=str, ensure_ascii=False, sort_keys=True)


def differ(features: Features | None, types: Mapping[str, Any]) -> dict[str, str]:
    """Names the columns that are kept as another type than they come with."""
    known = (features or {}).items()
    return {n: str(types[n]) for n, feature in known if n in types and feature not in (types[n], Value("null"))}
