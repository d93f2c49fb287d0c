"""What a batch of rows holds before a model sees it: single values or many, usable or not, of which length."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor


def is_batch(values: Any, of_ids: bool) -> bool:
    """Tells a column of a batch from one row's value; `datasets.map` passes either."""
    if values is None or isinstance(values, str | bytes):
        return False
    if not of_ids:
        return isinstance(values, Sequence | np.ndarray)
    if isinstance(values, np.ndarray | Tensor) and values.dtype != object:
        return values.ndim == 2
    return any(row is None or isinstance(row, Sequence | np.ndarray | Tensor) for row in values)


def why_unusable(value: Any, is_ids: bool) -> str | None:
    """Says why a row cannot be scored whatever the model; None if it can."""
    if value is None:
        return "missing"
    if not is_ids:
        return None if isinstance(value, str) and value else "empty" if value == "" else "not text"
    array = np.asarray(value)
    if array.size == 0:
        return "empty"
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        return f"not a list of integer token ids ({array.dtype}, {array.ndim} dimensions)"
    return None


def equal_lengths(ids: Mapping[int, np.ndarray], batch_tokens: int) -> Iterator[list[int]]:
    """Groups rows that follow one another and are equally long, up to `batch_tokens` tokens a group."""
    group: list[int] = []
    for row, row_ids in ids.items():
        if group and (len(row_ids) != len(ids[group[0]]) or (len(group) + 1) * len(row_ids) > batch_tokens):
            yield group
            group = []
        group.append(row)
    if group:
        yield group
