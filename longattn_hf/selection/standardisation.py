"""The scale of each category's raw scores, and the long-distance score on it (arXiv:2502.16860, Eq. 8)."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longattn_hf.columns import CATEGORY, DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, MAP_VARIANCE, STANDARD_ERROR
from longattn_hf.files import write_json
from longattn_hf.method import get_convention
from longattn_hf.selection.moments import Moments

logger = logging.getLogger(__name__)

# standard deviations that the median of a corpus of the same scorer does not stray from another's mean
_FAR_OFF = 4.0

RAW_SCORES = (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, MAP_VARIANCE)


@dataclass(frozen=True)
class ScoreStatistics:
    """The moments of the raw scores, category by category: `by_category[category][column]`.

    Attributes:
        by_category: The moments.
        scorer: What made the scores, as plain values: scores of another scorer are on another scale. None where that
            is not known.
    """

    by_category: Mapping[str, Mapping[str, Moments]]
    scorer: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, scores: Any, by: str | None = CATEGORY) -> "ScoreStatistics":
        """Takes the statistics of raw scores in whatever `select_windows` takes; rows without scores do not count.

        The splits of a `DatasetDict` are one corpus; a stream is read once, to its end. Where there are standard
        errors, the scale is that of the scores that its own estimate.

        Raises:
            ValueError: A column is missing, or a score is not finite.
        """
        # libraries of data frames, which settings alone do not need
        from longattn_hf.selection.containers import read_columns

        table = read_columns(scores, *RAW_SCORES, *(name + STANDARD_ERROR for name in RAW_SCORES), by)
        columns, groups = _raw_scores(table, by)
        known = [name for name in RAW_SCORES if name + STANDARD_ERROR in table.column_names]
        errors = {name: get_numbers(table, name + STANDARD_ERROR) for name in known}
        return cls(
            {
                group: {
                    name: Moments.of(columns[name][rows], errors[name][rows] if name in errors else None)
                    for name in RAW_SCORES
                }
                for group, rows in groups.items()
                if len(rows)
            }
        )

    @property
    def convention(self) -> str | None:
        """The convention of the scores; None where it is not known."""
        return self.scorer.get("convention") if self.scorer else None

    def merge(self, other: "ScoreStatistics") -> "ScoreStatistics":
        """Returns the statistics of both corpora together.

        Raises:
            ValueError: They are of different scorers.
        """
        if self.scorer is not None and other.scorer is not None:
            other.refuse_unless_made_by(self.scorer, "the other statistics")
        merged = {group: dict(moments) for group, moments in self.by_category.items()}
        for group, moments in other.by_category.items():
            known = merged.get(group)
            merged[group] = {n: known[n].merge(m) if known else m for n, m in moments.items()}
        return ScoreStatistics(merged, self.scorer if other.scorer is not None else None)

    def refuse_unless_made_by(self, scorer: Mapping[str, Any], name: str) -> None:
        """Checks that the statistics are of a scorer's scores, and warns where they do not say all of whose they are.

        Raises:
            ValueError: They are of another's; says in what.
        """
        if self.scorer is None:
            logger.warning("%s do not say what scored, so nothing tells whether they are on the same scale.", name)
            return
        keys = {*scorer, *self.scorer}
        # earlier releases did not write it
        if ("settings" in scorer) != ("settings" in self.scorer):
            keys.remove("settings")
            logger.warning("%s do not say with what settings of the model, so nothing tells whether they match.", name)
        other = [key for key in sorted(keys) if scorer.get(key) != self.scorer.get(key)]
        if other:
            differences = ", ".join(f"{key} ({self.scorer.get(key)!r}, here {scorer.get(key)!r})" for key in other)
            raise ValueError(
                f"{name} are of another scorer's scores, on another scale; they differ in {differences}. Give the "
                "statistics of a build with the same settings."
            )

    def save(self, path: str | Path) -> None:
        """Writes the statistics as JSON: the categories, with the scorer beside them where it is known."""
        plain = asdict(self)
        write_json(Path(path), plain if self.scorer is not None else plain["by_category"])

    @classmethod
    def load(cls, path: str | Path) -> "ScoreStatistics":
        """Reads what `save` wrote, so that another corpus can be put on this one's scale.

        Raises:
            ValueError: The file is missing, or holds something else.
        """
        try:
            plain = json.loads(Path(path).read_text(encoding="utf-8"))
            by_category = plain["by_category"] if "by_category" in plain else plain
            moments = {g: {n: Moments(**m) for n, m in of_one.items()} for g, of_one in by_category.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"The statistics {path} cannot be read: {error}") from error
        numbers = [value for of_one in moments.values() for m in of_one.values() for value in vars(m).values()]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers) or any(
            {*of_one} != {*RAW_SCORES} or min(m.count for m in of_one.values()) < 1 for of_one in moments.values()
        ):
            raise ValueError(f"The statistics {path} are damaged: every category has finite moments of {RAW_SCORES}.")
        return cls(moments, plain.get("scorer") if by_category is not plain else None)


def get_numbers(table: pa.Table, name: str) -> np.ndarray:
    """Returns a column as float64 `[len(table)]` with NaN for null; a NaN of its own is an error, not a gap.

    Raises:
        ValueError: The column is missing, holds no numbers, or a NaN.
    """
    column = get_column(table, name)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise ValueError(f"Column {name!r} is {column.type}, and windows are ranked by numbers.")
    column = column.cast(pa.float64())
    if pc.any(pc.is_nan(column)).as_py():
        raise ValueError(f"Column {name!r} holds NaN, which is no score: a row without a score has null there.")
    return column.to_numpy()


def _warn_if_far_off(group: str, strengths: np.ndarray, moments: Moments) -> None:
    """Warns where a whole category lies where hardly a window of the statistics' corpus did."""
    apart = abs(float(np.median(strengths)) - moments.mean)
    if len(strengths) > 1 and apart > _FAR_OFF * moments.std > 0:
        logger.warning(
            "Half of the windows of %r have a dependency strength %.1f standard deviations and more from the mean of "
            "the statistics given: were those of another model, window length or convention?",
            group,
            apart / moments.std,
        )


def _raw_scores(scores: pa.Table, by: str | None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Splits a table into float64 columns and, group by group in name order, the rows that carry scores."""
    columns = {name: get_numbers(scores, name) for name in RAW_SCORES}
    scored = ~np.isnan(columns[DEPENDENCY_STRENGTH])
    for name, values in columns.items():
        if not np.isfinite(values[scored]).all():
            raise ValueError(f"Column {name!r} holds a value that is not finite; score those windows again.")
    return columns, group_rows(scores, by, scored)


def group_rows(table: pa.Table, by: str | None, included: np.ndarray) -> dict[str, np.ndarray]:
    """Returns, in the order of the groups' names, the indices of each group's rows that are `included`."""
    if by is None:
        return {"all": np.flatnonzero(included)}
    encoded = get_column(table, by).combine_chunks().dictionary_encode()
    if encoded.null_count:
        raise ValueError(f"Column {by!r} is null in {encoded.null_count} rows; every window needs a category.")
    codes = encoded.indices.to_numpy()
    names = encoded.dictionary.to_pylist()
    return {str(names[code]): np.flatnonzero((codes == code) & included) for code in np.argsort(names, kind="stable")}


def get_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Returns the column, or raises a ValueError that says which there are and what makes the missing one."""
    if name not in table.column_names:
        raise ValueError(
            f"No column {name!r}; the columns are {', '.join(table.column_names)}. Score the windows with "
            "LongAttnScorer first; name the categories' column with by=, or pass by=None for one category."
        )
    return table.column(name)


def long_distance_scores(
    scores: pa.Table,
    *,
    alpha: float = 0.5,
    by: str | None = CATEGORY,
    convention: str | None = None,
    statistics: ScoreStatistics | None = None,
) -> np.ndarray:
    """Combines the standardised strength and uniformity of each window (arXiv:2502.16860, Eq. 8).

    Args:
        scores: A table with the raw score columns and `by`.
        alpha: The weight of the distribution uniformity.
        by: The column within whose groups scores are standardised; None for one group.
        convention: `"paper"` (Z-scores, variance over the far block) or `"reference_code"` (min-max, over the map);
            that of the statistics, as far as they say it, else the paper's, if None.
        statistics: The scale to use; that of `scores` itself if None.

    Returns:
        float64 `[len(scores)]`, in z-units (in [-alpha, 1] for `"reference_code"`), larger is better; NaN for rows
        without raw scores.

    Raises:
        ValueError: On a missing column, a score that is not finite, or a category that `statistics` does not have.
    """
    reading = get_convention(convention or (statistics and statistics.convention) or "paper")
    if not math.isfinite(alpha):
        raise ValueError(f"alpha={alpha} must be a finite number.")
    columns, groups = _raw_scores(scores, by)
    statistics = statistics or ScoreStatistics.of(scores, by)
    result = np.full(len(scores), np.nan)
    for group, rows in groups.items():
        if not len(rows):
            continue
        if group not in statistics.by_category:
            known = ", ".join(map(repr, statistics.by_category))
            raise ValueError(f"The statistics given have no category {group!r}, only {known}.")
        moments = statistics.by_category[group]
        _warn_if_far_off(group, columns[DEPENDENCY_STRENGTH][rows], moments[DEPENDENCY_STRENGTH])
        uniformity, sign = (DISTRIBUTION_UNIFORMITY, 1) if reading.variance_over == "block" else (MAP_VARIANCE, -1)
        strength_z, uniformity_z = (
            moments[name].standardise(columns[name][rows], reading.standardisation)
            for name in (DEPENDENCY_STRENGTH, uniformity)
        )
        result[rows] = strength_z + sign * alpha * uniformity_z
    return result


def ranking_scores(
    table: pa.Table,
    score: str | Mapping[str, float],
    by: str | None = CATEGORY,
    combine: Literal["zscore", "rank"] = "zscore",
) -> np.ndarray:
    """Returns what windows are ranked by, float64 `[len(table)]`; NaN where one of the columns is null.

    Args:
        table: The windows.
        score: A column, or columns with weights, which give a weighted sum within each group.
        by: The categories' column; None for one category.
        combine: What is summed: `"zscore"`, or `"rank"`, from 0 for the lowest to 1 for the highest, ties sharing
            their mean, which no outlier can rule.

    Raises:
        ValueError: A column is missing or holds no numbers, or Z-scores are asked of an infinite one.
    """
    names = [score] if isinstance(score, str) else list(score)
    columns = {name: get_numbers(table, name) for name in names}
    if isinstance(score, str):
        return columns[score]
    missing = np.isnan(np.stack(list(columns.values()))).any(axis=0)
    result = np.full(len(table), np.nan)
    for rows in group_rows(table, by, ~missing).values():
        if len(rows):
            parts = [weight * _on_one_scale(columns[name][rows], combine, name) for name, weight in score.items()]
            result[rows] = np.sum(parts, axis=0)
    return result


def _on_one_scale(values: np.ndarray, how: str, name: str) -> np.ndarray:
    if how == "zscore":
        return standardise_finite(values, name)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    return (last - (counts - 1) / 2)[place] / max(len(values) - 1, 1)


def standardise_finite(values: np.ndarray, name: str) -> np.ndarray:
    """Returns the Z-scores of values of this name, float64 alike.

    Raises:
        ValueError: One is infinite, so that none has a Z-score.
    """
    if np.isinf(values).any():
        raise ValueError(
            f"Of {name}, {np.isinf(values).sum()} scores are infinite, and then there are no Z-scores: a weighted sum "
            "with combine='rank' takes them; else make them null, as where there is no score."
        )
    return Moments.of(values).standardise(values, "zscore")
