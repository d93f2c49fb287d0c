"""What all scorers share: rows in, columns of scores out, as a `datasets.map` callable."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from longattn_hf.columns import INPUT_IDS, SKIP_REASON, TEXT
from longattn_hf.files import hash_json
from longattn_hf.model.identity import KnowsItsBytes, identify_once
from longattn_hf.rows import TypedList, columns_of, first_row, is_null, table_of, with_columns

# what the score does not depend on; a model is known by its bytes
_THIS_RUN = ("model", "revision", "gguf_file", "token", "tokenizer", "trust_remote_code", "device", "batch_tokens")
# more at a time only take a CPU out of its caches, and fresh memory
_CPU_BATCH_TOKENS = 8192


class Scorer(KnowsItsBytes, ABC):
    """Scores windows, one or a batch of them.

    Subclasses are frozen dataclasses of plain values, so that they can be pickled and `datasets` knows a result again.
    They may make fields of the attributes below.

    Attributes:
        text_column: The column with the window's text.
        on_error: What a row that cannot be scored does: `"raise"`, or `"skip"`, which leaves its scores null and says
            why in the column `skip_reason`.
        makes_rows: False: it adds columns; see `on_arrow`.

    Raises:
        ValueError: `on_error` is neither.
    """

    makes_rows: ClassVar[bool] = False

    text_column: str = TEXT
    on_error: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f"on_error={self.on_error!r} must be 'raise' or 'skip'.")

    def prepare(self) -> None:
        """Loads what scoring needs, so that what is missing is said before the first window.

        Raises:
            ValueError: A model or its tokenizer cannot be used here.
        """

    @property
    def fingerprint(self) -> str:
        """Hashes all that a score depends on: settings and bytes of models, not where and in what batches it runs."""
        # subclasses are dataclasses
        settings = asdict(self)  # type: ignore[call-overload]
        settings = {name: value for name, value in settings.items() if name not in _THIS_RUN}
        return hash_json([type(self).__name__, settings, self._bytes_scored_with()])

    def _bytes_scored_with(self) -> Any:
        return [[identify_once(model) for model in self._models()], self._other_bytes()]

    def __call__(self, batch: Any, rank: int | None = None) -> Any:
        """Scores one window or a batch of them; `rank` (`with_rank=True`) picks the GPU where there are several.

        A table of Arrow, pandas or polars, as those formats of `datasets` hand on, comes back as an Arrow table with
        the scores beside its columns; a mapping gives a mapping of the scores.
        """
        if (table := table_of(batch)) is not None:
            return with_columns(table, self._score_batch(columns_of(table), rank))
        column = self.column_of(batch)
        if not _is_batch(batch[column], column == INPUT_IDS):
            return first_row(self._score_batch({name: [value] for name, value in batch.items()}, rank), batch)
        return self._score_batch(batch, rank)

    def _score_batch(self, batch: Mapping[str, Any], rank: int | None) -> dict[str, TypedList]:
        values, reasons = self._usable_rows(batch, self.column_of(batch), rank)
        scores_of = self._score_rows(values, rank)
        columns = {
            name: TypedList([scores_of[row][name] if row in scores_of else None for row in range(len(reasons))], kind)
            for name, kind in self.added_columns.items()
        }
        if self.on_error == "skip":
            columns[SKIP_REASON] = TypedList(reasons, pa.string())
        return columns

    @property
    @abstractmethod
    def added_columns(self) -> Mapping[str, pa.DataType]:
        """The columns of scores that it adds, with their types; not the reasons of rows that have none."""

    @abstractmethod
    def _score_rows(self, values: Mapping[int, Any], rank: int | None) -> Mapping[int, Mapping[str, Any]]:
        """Scores what `_read` made of usable rows, by their numbers: a value for each of `added_columns`."""

    @property
    def readable_columns(self) -> tuple[str, ...]:
        """The columns that can be scored, the best first."""
        return (self.text_column,)

    def column_of(self, batch: Collection[str]) -> str:
        """Returns the one of a batch's columns that is scored.

        Raises:
            ValueError: It has none that can be.
        """
        for name in self.readable_columns:
            if name in batch:
                return name
        raise ValueError(
            f"No column {' or '.join(map(repr, self.readable_columns))} to score; the columns are "
            f"{', '.join(map(str, batch))}. Name the text's column with text_column=."
        )

    def _usable_rows(
        self, batch: Mapping[str, Any], column: str, rank: int | None
    ) -> tuple[dict[int, Any], list[str | None]]:
        """Returns what is to be scored, by row, and for the other rows the reason why they are not."""
        values = batch[column]
        already = batch[SKIP_REASON] if SKIP_REASON in batch else [None] * len(values)
        # some formats have another null than None
        already = [reason if isinstance(reason, str) else None for reason in already]
        # a row that an earlier stage skipped, with its reason, is no error here
        is_ids = column == INPUT_IDS
        reasons = [old or self._why_unreadable(value, is_ids) for old, value in zip(already, values, strict=True)]
        good = [row for row, reason in enumerate(reasons) if reason is None]
        usable = dict(zip(good, self._read(column, [values[row] for row in good]), strict=True))
        for row in good:
            reasons[row] = self._why_refused(usable[row], rank)
            if reasons[row]:
                del usable[row]
        for row, reason in enumerate(reasons):
            if reason and not already[row] and self.on_error == "raise":
                raise ValueError(self._refusal(row, column, reason))
        return usable, reasons

    def _why_unreadable(self, value: Any, is_ids: bool) -> str | None:
        """Says why a row's value cannot be read; None if it can."""
        return _why_unusable(value, is_ids)

    def _read(self, column: str, values: list[Any]) -> Sequence[Any]:
        """Turns usable values of a column into what is scored."""
        return values

    def _why_refused(self, value: Any, rank: int | None) -> str | None:
        """Says why what was read cannot be scored; None if it can."""
        return None

    def _refusal(self, row: int, column: str, reason: str) -> str:
        return f"Row {row} of column {column!r} is {reason}; drop such rows before scoring."


@dataclass(frozen=True, kw_only=True)
class TextScorer(Scorer):
    """A scorer of single texts, which adds a float column of its name and may say what it is made of.

    Attributes:
        column: The column that it adds, float64; null where the column `skip_reason` of an earlier stage says why.
        parts: Further columns that it adds, what the score is made of, with their types.
        citation: Where the score comes from.
        text_column: The column with the window's text.
        on_error: What a row that cannot be scored does: `"raise"`, or `"skip"`, which leaves its scores null and says
            why in the column `skip_reason`.
        version: Raised whenever the output changes, so that cached results are not taken for new ones.

    Raises:
        ValueError: On a missing column, or a row that cannot be scored.
    """

    column: ClassVar[str]
    parts: ClassVar[Mapping[str, pa.DataType]] = {}
    citation: ClassVar[str]

    text_column: str = TEXT
    on_error: Literal["raise", "skip"] = "raise"
    version: int = 1

    @property
    def added_columns(self) -> Mapping[str, pa.DataType]:
        """The score's column, and its parts."""
        return {self.column: pa.float64(), **self.parts}

    def _score_rows(self, values: Mapping[int, Any], rank: int | None) -> dict[int, dict[str, Any]]:
        rows = {}
        for row, value in values.items():
            scored = self._score(value, rank)
            rows[row] = dict(zip(self.added_columns, scored if isinstance(scored, tuple) else (scored,), strict=True))
        return rows

    @abstractmethod
    def _score(self, value: Any, rank: int | None, /) -> float | tuple[Any, ...]:
        """Scores one window: a number for `column`, or a tuple of it and a value for each of `parts`."""


def _is_batch(values: Any, of_ids: bool) -> bool:
    """Tells a column of a batch from one row's value; `datasets.map` passes either."""
    if values is None or isinstance(values, str | bytes):
        return False
    if not of_ids:
        return isinstance(values, Sequence | np.ndarray)
    # an array or a tensor
    if hasattr(values, "ndim") and values.dtype != object:
        return values.ndim == 2
    # a null among ids makes a row no batch
    return any(hasattr(row, "__len__") for row in values) or (len(values) > 0 and all(row is None for row in values))


def _why_unusable(value: Any, is_ids: bool) -> str | None:
    """Says why a row cannot be scored by anything; None if it can."""
    if is_null(value):
        return "missing"
    if not is_ids:
        return None if isinstance(value, str) and value else "empty" if value == "" else "not text"
    array = np.asarray(value)
    if array.size == 0:
        return "empty"
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        return f"not a list of integer token ids ({array.dtype}, {array.ndim} dimensions)"
    return None


def too_short(count: int, unit: str, least: int) -> str | None:
    """Says why a window of so many words, bytes or tokens is not scored; None if it is long enough."""
    return f"too short ({count} {unit}, {least} are the least)" if count < least else None


def equal_lengths(
    ids: Mapping[int, np.ndarray], batch_tokens: int, *, on_cpu: bool = False, padded_to: int = 0
) -> Iterator[list[int]]:
    """Groups rows that follow one another and are equally long, to be scored together.

    Args:
        ids: The rows' token ids, int `[T]`.
        batch_tokens: The most tokens of a group of several rows.
        on_cpu: Whether a CPU scores them, on which no group has more than 8,192.
        padded_to: The length that shorter rows are padded to before they are scored.
    """
    most, group = min(batch_tokens, _CPU_BATCH_TOKENS) if on_cpu else batch_tokens, list[int]()
    for row, row_ids in ids.items():
        tokens = (len(group) + 1) * max(len(row_ids), padded_to)
        if group and (len(row_ids) != len(ids[group[0]]) or tokens > most):
            yield group
            group = []
        group.append(row)
    if group:
        yield group
