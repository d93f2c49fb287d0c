"""What all measures share: rows in, one float column out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from longattn_hf.columns import SKIP_REASON, TEXT


@dataclass(frozen=True, kw_only=True)
class Measure(ABC):
    """A measure of a window, as a `datasets.map` callable, batched or not.

    Instances are plain values, so that `datasets` knows a result again.

    Attributes:
        column: The column that it adds, float64; null where the column `skip_reason` of an earlier stage says why.
        parts: Further columns that it adds, what it is made of.
        citation: Where it comes from.
        text_column: The column with the window's text.
        version: Raised whenever the output changes, so that cached results are not taken for new ones.

    Raises:
        ValueError: On a missing column, or a row that cannot be measured.
    """

    column: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ()
    citation: ClassVar[str]

    text_column: str = TEXT
    version: int = 1

    def __call__(self, batch: Mapping[str, Any], rank: int | None = None) -> dict[str, Any]:
        """Measures one row or a batch of them; `rank` (`with_rank=True`) picks the GPU where there are several."""
        name = self._column_of(batch)
        if not _is_batch(batch[name]):
            measured = self({key: [value] for key, value in batch.items()}, rank)
            return {column: values[0] for column, values in measured.items()}
        skipped = batch.get(SKIP_REASON) or [None] * len(batch[name])
        columns: dict[str, list[Any]] = {column: [] for column in (self.column, *self.parts)}
        for row, (value, reason) in enumerate(zip(batch[name], skipped, strict=True)):
            if not reason and (value is None or len(value) == 0):
                state = "missing" if value is None else "empty"
                raise ValueError(f"Row {row} of column {name!r} is {state}; drop such rows before measuring.")
            measured = [None] * len(columns) if reason else self._measure(value, rank)
            for values, one in zip(columns.values(), measured, strict=True):
                values.append(one)
        return columns

    def _column_of(self, batch: Mapping[str, Any]) -> str:
        if self.text_column not in batch:
            raise ValueError(
                f"No column {self.text_column!r} to measure; the columns are {', '.join(batch)}. Name the text's one "
                "with text_column=."
            )
        return self.text_column

    @abstractmethod
    def _measure(self, value: Any, rank: int | None) -> tuple[Any, ...]:
        """Measures one text, or one window's ids: a number for `column` and a value for each of `parts`."""


def _is_batch(values: Any) -> bool:
    if values is None or isinstance(values, str):
        return False
    return len(values) == 0 or values[0] is None or isinstance(values[0], str) or np.ndim(values[0]) == 1
