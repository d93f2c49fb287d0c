"""Selection as users call it: of datasets, their splits, streams, data frames and tables of Arrow."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress
from typing import Any, Literal, TypeVar

import pyarrow as pa
from datasets import Features, IterableDataset, IterableDatasetDict, Value

from longattn_hf.columns import CATEGORY, LONG_DISTANCE_SCORE
from longattn_hf.rows import TypedList, plain_texts, read_table, table_of, with_columns
from longattn_hf.selection.containers import (
    as_container,
    exact,
    in_format_of,
    is_polars,
    keep_rows,
    put_column,
    read_batch,
    read_columns,
)
from longattn_hf.selection.cut import SELECTION_COLUMNS, Selection, keep_mask, keep_with_cautions
from longattn_hf.selection.standardisation import RAW_SCORES, ScoreStatistics, long_distance_scores

logger = logging.getLogger(__name__)

_Rows = TypeVar("_Rows")


def add_long_distance_score(
    dataset: _Rows,
    *,
    alpha: float = 0.5,
    by: str | None = CATEGORY,
    convention: str | None = None,
    statistics: ScoreStatistics | None = None,
) -> _Rows:
    """Adds the column `long_distance_score` to scored windows, replacing one that is there.

    Takes the arguments of `long_distance_scores`; rows without raw scores get null.

    Args:
        dataset: As in `select_windows`; the splits of a `DatasetDict` are put on one scale, that of all of them.
        alpha: The weight of the distribution uniformity.
        by: The categories' column; None for one category.
        convention: One of `longattn_hf.method`; that of the statistics, else the paper's, if None.
        statistics: The scale; that of the windows themselves if None, which a stream cannot know.

    Raises:
        ValueError: `dataset` holds no rows, a stream comes without statistics, or as `long_distance_scores`.
    """
    how = _Scale(alpha, by, convention, statistics)
    if isinstance(dataset, IterableDatasetDict):
        scored = {name: add_long_distance_score(split, **vars(how)) for name, split in dataset.items()}
        return IterableDatasetDict(scored)
    if isinstance(dataset, IterableDataset):
        if statistics is None:
            raise ValueError(
                "Standardising needs all windows, and a stream is never seen whole: give statistics= of a corpus that "
                "was, or take those of this one, which reads it to its end: ScoreStatistics.of(stream)."
            )
        features = dataset.features and Features({**dataset.features, LONG_DISTANCE_SCORE: Value("float64")})
        scores = _BatchScores(how, dataset.features)
        return in_format_of(exact(dataset).map(scores, batched=True, features=features), dataset)
    rows = as_container(dataset)
    return put_column(rows, LONG_DISTANCE_SCORE, how.scores_of(read_columns(rows, *RAW_SCORES, by)))


def select_windows(
    dataset: _Rows,
    *,
    threshold: float | Mapping[str, float] | None = None,
    fraction: float | Mapping[str, float] | None = None,
    token_budget: int | Mapping[str, int] | None = None,
    total_token_budget: int | None = None,
    by: str | None = CATEGORY,
    score: str | Mapping[str, float] = LONG_DISTANCE_SCORE,
    refuse_overlap: bool = False,
    combine: Literal["zscore", "rank"] = "zscore",
    gate: Mapping[str, float] | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    statistics: ScoreStatistics | None = None,
) -> _Rows:
    """Keeps the windows with the highest score of each category, in their own order.

    Exactly one of the first four is given, as one value for every category or as a mapping from category to value.
    Ties are broken by `id`, so the result does not depend on the order of the rows.

    Args:
        dataset: Windows with the column `score`; rows where it is null are never kept. A `Dataset` in any format, a
            `DatasetDict`, whose splits are one corpus (scale, share and budget hold for all of them together), a
            stream, a data frame of pandas or polars, or a table of Arrow. A stream takes a threshold alone.
        threshold: Keep the windows whose score is above it.
        fraction: Keep this share of the windows, rounded up.
        token_budget: Keep the best windows as long as their tokens sum to no more than this.
        total_token_budget: Keep about the same share of each category, as long as all tokens sum to no more than this
            one number; see `Selection`.
        by: The categories' column; None for one category.
        score: The column that ranks windows, larger being better, or columns with weights; see `ranking_scores`.
        refuse_overlap: Leave out a window that shares tokens with a better one of its document, so that no token is
            counted or trained on twice.
        combine: As in `Selection`; so are the other three.
        gate: The least value that a window may have in other columns.
        temperature: Draw at random, the better the likelier.
        seed: Of that draw.
        statistics: Add the long-distance score on this scale first, as `add_long_distance_score` does.

    Returns:
        Rows of the same kind; a `pa.Table` of what only speaks Arrow.

    Raises:
        ValueError: Not exactly one limit is given, one is out of range or lacks a category, a column is missing, or
            a stream is asked for what only a whole corpus tells.
    """
    selection = Selection(
        score=score,
        threshold=threshold,
        fraction=fraction,
        token_budget=token_budget,
        total_token_budget=total_token_budget,
        refuse_overlap=refuse_overlap,
        combine=combine,
        gate=gate or {},
        temperature=temperature,
        seed=seed,
    )
    streams = isinstance(dataset, IterableDataset | IterableDatasetDict)
    if streams:
        _refuse_what_needs_all(selection)
    rows = dataset if streams else as_container(dataset)
    if statistics is not None:
        rows = add_long_distance_score(rows, by=by, statistics=statistics)
    if isinstance(rows, IterableDatasetDict):
        kept = {name: _filter(split, selection, by) for name, split in rows.items()}
        return IterableDatasetDict(kept)
    if isinstance(rows, IterableDataset):
        return _filter(rows, selection, by)
    keep, cautions = keep_with_cautions(read_columns(rows, *_columns_of(selection), by), selection, by)
    for sentence in cautions:
        logger.warning("%s", sentence)
    return keep_rows(rows, keep)


def select_table(table: Any, **how: Any) -> pa.Table:
    """Selects as `select_windows` does, with its arguments, from a table of whatever speaks Arrow, as a `pa.Table`.

    Args:
        table: A `pa.Table`, a `pa.RecordBatch`, or whatever has `__arrow_c_stream__`: polars, pandas, DuckDB.
        **how: The arguments of `select_windows`.

    Raises:
        ValueError: It is no table, or as `select_windows`.
    """
    return plain_texts(read_table(select_windows(table if is_polars(table) else read_table(table), **how)))


@dataclass(frozen=True)
class _Scale:
    """The arguments of `long_distance_scores`."""

    alpha: float
    by: str | None
    convention: str | None
    statistics: ScoreStatistics | None

    def scores_of(self, table: pa.Table) -> pa.Array:
        return pa.array(long_distance_scores(table, **vars(self)), pa.float64(), from_pandas=True)


@dataclass(frozen=True)
class _BatchScores:
    """Adds the long-distance score to batches of a stream, in its format."""

    scale: _Scale
    features: Features | None

    def __call__(self, batch: Any) -> Any:
        scores = self.scale.scores_of(read_batch(batch, self.features, *RAW_SCORES, self.scale.by))
        column = {LONG_DISTANCE_SCORE: TypedList(scores.to_pylist(), pa.float64())}
        return column if (table := table_of(batch)) is None else with_columns(table, column)


@dataclass(frozen=True)
class _BatchFilter:
    """Keeps the rows of a batch of a stream that are above a threshold."""

    selection: Selection
    by: str | None
    features: Features | None

    def __call__(self, batch: Any) -> Any:
        columns = read_batch(batch, self.features, *_columns_of(self.selection), self.by)
        keep = keep_mask(columns, self.selection, self.by)
        if (table := table_of(batch)) is not None:
            return keep_rows(table, keep)
        return {name: list(compress(values, keep)) for name, values in batch.items()}


def _columns_of(selection: Selection) -> tuple[str, ...]:
    return (*SELECTION_COLUMNS, *sorted(selection.score_columns))


def _refuse_what_needs_all(selection: Selection) -> None:
    reasons = {
        **{name: name != "threshold" for name in selection.limit},
        "refuse_overlap": selection.refuse_overlap,
        "a weighted score": not isinstance(selection.score, str),
    }
    if wrong := [name for name, given in reasons.items() if given]:
        raise ValueError(
            f"A stream is never seen whole, which {' and '.join(wrong)} would need: give a threshold= of one column, "
            "with statistics= where it is LongAttn's score, or turn the stream into a Dataset."
        )


def _filter(stream: IterableDataset, selection: Selection, by: str | None) -> IterableDataset:
    names = stream.column_names
    if names is not None and selection.score not in names:
        raise ValueError(
            f"No column {selection.score!r}; the stream's columns are {', '.join(names)}. LongAttn's score is made of "
            "its raw scores with statistics=."
        )
    keep = _BatchFilter(selection, by, stream.features)
    # releases of `datasets` before 5 cannot filter streams of tables, but map them to fewer rows
    return in_format_of(exact(stream).map(keep, batched=True, features=stream.features), stream)
