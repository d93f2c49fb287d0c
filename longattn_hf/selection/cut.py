"""From raw scores to kept windows: the long-distance score, and the cut within each category.

Nothing here needs a model or a GPU: a scored corpus can be selected from again, in seconds, with another `alpha`,
budget or threshold.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from longattn_hf.columns import CATEGORY, DOC_ID, ID, LONG_DISTANCE_SCORE
from longattn_hf.selection.standardisation import (
    RAW_SCORES,
    ScoreStatistics,
    get_column,
    group_rows,
    long_distance_scores,
)

logger = logging.getLogger(__name__)


def keep_mask(
    table: pa.Table,
    *,
    threshold: float | Mapping[str, float] | None = None,
    fraction: float | Mapping[str, float] | None = None,
    token_budget: int | Mapping[str, int] | None = None,
    by: str | None = CATEGORY,
    refuse_overlap: bool = False,
) -> np.ndarray:
    """Marks the windows to keep, the best of each category; see `select_windows`. Returns bool `[len(table)]`."""
    given = {"threshold": threshold, "fraction": fraction, "token_budget": token_budget}
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) != 1:
        came = " and ".join(chosen) or "none of them"
        raise ValueError(f"Pass exactly one of threshold, fraction and token_budget, not {came}.")
    ((how, limits),) = chosen.items()
    scores = get_column(table, LONG_DISTANCE_SCORE).to_numpy().astype(np.float64)
    tokens = get_column(table, "num_tokens").to_numpy()
    best_first = np.lexsort((get_column(table, ID).to_numpy(zero_copy_only=False).astype(str), -scores))
    conflicts = _overlapping_pairs(table) if refuse_overlap else np.empty((0, 2), dtype=np.int64)
    keep = np.zeros(len(table), dtype=bool)
    for group, rows in group_rows(table, by, ~np.isnan(scores)).items():
        limit = _limit_of(group, how, limits)
        member = np.zeros(len(table), dtype=bool)
        member[rows] = True
        order = best_first[member[best_first]]
        if how == "threshold":
            order = order[scores[order] > limit]
        order = _without_conflicts(order, conflicts)
        if how == "fraction":
            order = order[: math.ceil(limit * len(rows))]
        if how == "token_budget":
            running = np.cumsum(tokens[order])
            if not len(order) or running[-1] < limit:
                held = int(running[-1]) if len(order) else 0
                logger.warning("%s holds %s tokens, fewer than the budget of %s: all are kept.", group, held, limit)
            order = order[running <= limit]
        keep[order] = True
    return keep


def _limit_of(group: str, how: str, limits: float | Mapping[str, float]) -> float:
    if isinstance(limits, Mapping):
        if group not in limits:
            raise ValueError(f"{how} names {', '.join(map(repr, limits))} but not the category {group!r}; add it.")
        limits = limits[group]
    if how == "fraction" and not 0 <= limits <= 1:
        raise ValueError(f"fraction={limits} must lie in [0, 1].")
    if how == "token_budget" and limits < 0:
        raise ValueError(f"token_budget={limits} must be at least 0.")
    return limits


def _overlapping_pairs(table: pa.Table) -> np.ndarray:
    """Lists the pairs of windows that share tokens of their document, int64 `[P, 2]`."""
    start = get_column(table, "start_token").to_numpy()
    end = start + get_column(table, "num_tokens").to_numpy()
    owners = [name for name in (DOC_ID, "source", CATEGORY) if name in table.column_names]
    codes = [table.column(name).combine_chunks().dictionary_encode().indices.to_numpy() for name in owners]
    order = np.lexsort((start, *codes))
    start, end, codes = start[order], end[order], [code[order] for code in codes]
    pairs = []
    # sorted by start, a window that overlaps the one `apart` places before it overlaps those between them too
    for apart in range(1, len(order)):
        touch = np.all([code[apart:] == code[:-apart] for code in codes], axis=0) & (start[apart:] < end[:-apart])
        at = np.flatnonzero(touch)
        if not len(at):
            break
        pairs.append(np.stack([order[at], order[at + apart]], axis=1))
    return np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=np.int64)


def _without_conflicts(order: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Drops each window that overlaps a better one that stays."""
    rank = np.full(max(order.max(initial=-1), pairs.max(initial=-1)) + 1, len(order))
    rank[order] = np.arange(len(order))
    pairs = pairs[(rank[pairs] < len(order)).all(axis=1)]
    better, worse = np.where((rank[pairs[:, 0]] < rank[pairs[:, 1]])[:, None], pairs, pairs[:, ::-1]).T
    refused = np.zeros(len(rank), dtype=bool)
    # a window that no better one can refuse any more stays, and refuses all that it overlaps
    while len(better):
        open_to_refusal = np.zeros(len(rank), dtype=bool)
        open_to_refusal[worse] = True
        refused[worse[~open_to_refusal[better]]] = True
        live = ~refused[better] & ~refused[worse]
        better, worse = better[live], worse[live]
    return order[~refused[order]]


def add_long_distance_score(
    dataset: Dataset,
    *,
    alpha: float = 0.5,
    by: str | None = CATEGORY,
    convention: str = "paper",
    statistics: ScoreStatistics | None = None,
) -> Dataset:
    """Adds the column `long_distance_score` to scored windows, replacing one that is there.

    Takes the arguments of `long_distance_scores`; rows without raw scores get null.

    Raises:
        ValueError: `dataset` is not a `Dataset`, or as `long_distance_scores`.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"Standardising needs all windows at once, a datasets.Dataset, and got {type(dataset).__name__}: take one "
            "split of a DatasetDict, and turn an IterableDataset into a Dataset first."
        )
    scores = long_distance_scores(
        _small_table(dataset, *RAW_SCORES, by), alpha=alpha, by=by, convention=convention, statistics=statistics
    )
    if LONG_DISTANCE_SCORE in dataset.column_names:
        dataset = dataset.remove_columns(LONG_DISTANCE_SCORE)
    return dataset.add_column(LONG_DISTANCE_SCORE, pa.array(scores, from_pandas=True))


def select_windows(
    dataset: Dataset,
    *,
    threshold: float | Mapping[str, float] | None = None,
    fraction: float | Mapping[str, float] | None = None,
    token_budget: int | Mapping[str, int] | None = None,
    by: str | None = CATEGORY,
    refuse_overlap: bool = False,
) -> Dataset:
    """Keeps the windows with the highest long-distance score of each category, in the dataset's own order.

    Exactly one of the first three is given, as one value for every category or as a mapping from category to value.
    Ties are broken by `id`, so the result does not depend on the order of the rows.

    Args:
        dataset: Windows with the column `long_distance_score`; rows where it is null are never kept.
        threshold: Keep the windows whose score is above it.
        fraction: Keep this share of the windows, rounded up.
        token_budget: Keep the best windows as long as their tokens sum to no more than this.
        by: The categories' column; None for one category.
        refuse_overlap: Leave out a window that shares tokens with a better one of its document, so that no token is
            counted or trained on twice.

    Raises:
        ValueError: Not exactly one limit is given, one is out of range or lacks a category, or a column is missing.
    """
    wanted = (ID, DOC_ID, "source", CATEGORY, "start_token", "num_tokens", LONG_DISTANCE_SCORE, by)
    mask = keep_mask(
        _small_table(dataset, *wanted),
        threshold=threshold,
        fraction=fraction,
        token_budget=token_budget,
        by=by,
        refuse_overlap=refuse_overlap,
    )
    return dataset.select(np.flatnonzero(mask))


def _small_table(dataset: Dataset, *names: str | None) -> pa.Table:
    present: list[Any] = [name for name in dict.fromkeys(names) if name in dataset.column_names]
    return dataset.select_columns(present).with_format("arrow")[:]
