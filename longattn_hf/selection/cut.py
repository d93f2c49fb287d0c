"""From raw scores to kept windows: the long-distance score, and the cut within each category.

Nothing here needs a model or a GPU: a scored corpus can be selected from again, in seconds, with another `alpha`,
budget or threshold.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longattn_hf.columns import CATEGORY, DOC_HASH, DOC_ID, ID, KEPT, LONG_DISTANCE_SCORE, SELECTION_SCORE
from longattn_hf.method import get_convention
from longattn_hf.selection.cautions import caution, count_tied
from longattn_hf.selection.gate import draw, is_refused, refusals
from longattn_hf.selection.overlap import Spans, without_overlaps
from longattn_hf.selection.standardisation import (
    RAW_SCORES,
    ScoreStatistics,
    get_column,
    group_rows,
    long_distance_scores,
    ranking_scores,
)

logger = logging.getLogger(__name__)

_BUDGETS = ("token_budget", "total_token_budget")
#: The names of the limits, of which a selection has one.
LIMITS = ("threshold", "fraction", *_BUDGETS)

#: What a selection reads beside scores and the category, where it is there.
SELECTION_COLUMNS = (ID, DOC_ID, DOC_HASH, "source", CATEGORY, "start_token", "num_tokens")

Limit = float | Mapping[str, float] | None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How to score and select windows: the scale, and one of four limits, for all categories or by category.

    A `convention` other than that of the scoring run ranks the sums that are there in the other reading; what would
    need another run (weights, rounding, a second BOS) stays as it was.

    Attributes:
        alpha: The weight of the distribution uniformity.
        convention: One of `longattn_hf.method`: `"paper"`, `"reference_code"` or `"reference_code_causal"`.
        score: The column that ranks windows, larger being better, or columns with weights: the weighted sum of their
            Z-scores within each category.
        threshold: Keep the windows whose long-distance score is above it.
        fraction: Keep this share of the windows of a category, rounded up.
        token_budget: Keep the best windows as long as their tokens sum to no more than this.
        total_token_budget: The same of all categories together, one number. Windows are taken in the order of the
            share of their category that ranks before them, so each category keeps about the same share of itself.
        refuse_overlap: Leave out a window that shares tokens with a better one of its document.
        combine: What a weighted sum is of: `"zscore"` or `"rank"`; see `ranking_scores`.
        gate: The least value that a window may have in other columns, whatever its score. Shares are of the windows
            before it.
        temperature: Above 0, windows are drawn at random, the better the likelier (see `draw`); 0 keeps the best.
        seed: Of that draw.
        statistics: The scale to put scores on; that of the windows themselves if None.

    Raises:
        ValueError: Not exactly one limit is given, or one is out of range.
    """

    alpha: float = 0.5
    convention: str = "paper"
    score: str | Mapping[str, float] = LONG_DISTANCE_SCORE
    threshold: Limit = None
    fraction: Limit = None
    token_budget: Limit = None
    total_token_budget: float | None = None
    refuse_overlap: bool = False
    combine: Literal["zscore", "rank"] = "zscore"
    gate: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 0.0
    seed: int = 0
    statistics: ScoreStatistics | None = None

    def __post_init__(self) -> None:
        get_convention(self.convention)
        weights = self.score.values() if isinstance(self.score, Mapping) else (1,)
        if not all(map(math.isfinite, weights)) or not any(weights):
            raise ValueError(f"score={self.score} must give columns finite weights that are not all 0.")
        if self.combine not in ("zscore", "rank"):
            raise ValueError(f"combine={self.combine!r} must be 'zscore' or 'rank'.")
        if not all(map(math.isfinite, self.gate.values())):
            raise ValueError(f"gate={dict(self.gate)} must give each column a finite least value.")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be a finite number of at least 0.")
        if self.seed < 0:
            raise ValueError(f"The seed of a draw is {self.seed}, and must be at least 0.")
        if self.temperature and self.threshold is not None:
            raise ValueError("A draw by temperature keeps a fraction or a budget; a threshold leaves no choice.")
        if not math.isfinite(self.alpha):
            raise ValueError(f"alpha={self.alpha} must be a finite number.")
        if len(self.limit) != 1:
            given = " and ".join(self.limit) or "none of them"
            names = f"{', '.join(LIMITS[:-1])} and {LIMITS[-1]}"
            raise ValueError(f"Give exactly one of {names}, not {given}.")
        ((name, limits),) = self.limit.items()
        if name == "total_token_budget" and isinstance(limits, Mapping):
            raise ValueError(f"{name}={dict(limits)} must be one number; token_budget takes one for each category.")
        for value in limits.values() if isinstance(limits, Mapping) else (limits,):
            if name == "fraction" and not 0 <= value <= 1:
                raise ValueError(f"fraction={value} must lie in [0, 1].")
            if name in _BUDGETS and not value >= 0:
                raise ValueError(f"{name}={value} must be at least 0.")
            # only NaN is not itself; an integer may be larger than any float
            if value != value:
                raise ValueError(f"{name}={value} is not a number, and nothing is above it.")

    @property
    def limit(self) -> dict[str, Any]:
        """The limit that is given, by name."""
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}

    @property
    def score_columns(self) -> set[str]:
        """The columns that decide."""
        return ({self.score} if isinstance(self.score, str) else set(self.score)) | set(self.gate)

    @property
    def ranked_by(self) -> str:
        """The column that ranks windows, of the table that `apply` returns."""
        return self.score if isinstance(self.score, str) else SELECTION_SCORE

    def limit_of(self, category: str) -> float:
        """Returns the limit of one category.

        Raises:
            ValueError: The limits name other categories only.
        """
        ((name, limits),) = self.limit.items()
        if not isinstance(limits, Mapping):
            return limits
        limits = {str(name): limit for name, limit in limits.items()}
        if category not in limits:
            raise ValueError(f"{name} names {', '.join(map(repr, limits))} but not the category {category!r}; add it.")
        return limits[category]

    def check_categories(self, categories: Sequence[str]) -> None:
        """Checks that limits by category are of just these, and the statistics of these and others; or ValueError."""
        ((name, limits),) = self.limit.items()
        given = {str(category) for category in limits} if isinstance(limits, Mapping) else {*categories}
        if missing := [category for category in categories if category not in given]:
            raise ValueError(f"{name} lacks the category {', '.join(map(repr, missing))}; add it.")
        if unknown := sorted(given - {*categories}):
            names = ", ".join(map(repr, unknown))
            raise ValueError(f"{name} names {names}, and the categories are {', '.join(map(repr, categories))}.")
        known = self.statistics.by_category if self.statistics else categories
        if missing := [category for category in categories if category not in known]:
            raise ValueError(f"The statistics have no category {', '.join(map(repr, missing))}; give others.")

    def apply(self, table: pa.Table, by: str | None = CATEGORY) -> pa.Table:
        """Adds `long_distance_score`, where there are raw scores, `selection_score`, where several rank, and `kept`.

        Raises:
            ValueError: As `long_distance_scores` and `keep_mask`.
        """
        table = self.add_scores(table, by)
        return table.append_column(KEPT, pa.array(keep_mask(table, self, by)))

    def add_scores(self, table: pa.Table, by: str | None = CATEGORY) -> pa.Table:
        """Puts what `apply` adds, but for `kept`, in place of what is there; raises as `long_distance_scores`."""
        # a command's help needs no pandas
        from longattn_hf.rows import put_array

        if self.score == LONG_DISTANCE_SCORE or {*RAW_SCORES} <= {*table.column_names}:
            scores = long_distance_scores(
                table, alpha=self.alpha, by=by, convention=self.convention, statistics=self.statistics
            )
            table = put_array(table, LONG_DISTANCE_SCORE, pa.array(scores, from_pandas=True))
        if not isinstance(self.score, str):
            sums = ranking_scores(table, self.score, by, self.combine)
            table = put_array(table, SELECTION_SCORE, pa.array(sums, from_pandas=True))
        return table


def keep_mask(table: pa.Table, selection: Selection, by: str | None = CATEGORY) -> np.ndarray:
    """Marks the windows to keep, the best of each category; see `select_windows`. Returns bool `[len(table)]`."""
    return keep_ranked(table, selection, *rank_windows(table, selection, by))


def keep_with_cautions(
    table: pa.Table, selection: Selection, by: str | None = CATEGORY
) -> tuple[np.ndarray, list[str]]:
    """Marks as `keep_mask`, and returns what `caution` says of each category of all windows."""
    scores, ranked = rank_windows(table, selection, by)
    keep, refused = keep_ranked(table, selection, scores, ranked), refusals(table, selection.gate)
    sentences: list[str] = []
    for group, rows in group_rows(table, by, np.ones(len(table), dtype=bool)).items():
        order, scored = ranked[group]
        sentences += caution(
            group,
            len(rows),
            unscored=len(rows) - scored,
            tied=count_tied(scores[order], keep[order]),
            refused={reason: int(mask[rows].sum()) for reason, mask in refused.items()},
            score=selection.ranked_by,
        )
    return keep, sentences


def keep_ranked(
    table: pa.Table, selection: Selection, scores: np.ndarray, ranked: Mapping[str, tuple[np.ndarray, int]]
) -> np.ndarray:
    """Marks the windows to keep of those that `rank_windows` has ranked, bool `[len(table)]`."""
    keep = np.zeros(len(table), dtype=bool)
    (name,) = selection.limit
    if name == "total_token_budget":
        ranked = {"The corpus": (_in_turn(ranked), len(table))}
    for group, (order, count) in ranked.items():
        limit = selection.limit_of(group)
        if name == "threshold":
            order = order[scores[order] > limit]
        if name == "fraction":
            # a share is what its digits say: in binary, 0.07 of 100 is a hair more than 7
            order = order[: math.ceil(Fraction(str(limit)) * count)]
        if name in _BUDGETS:
            running = np.cumsum(_lengths_of(table, order))
            if (held := int(running[-1]) if len(order) else 0) < limit or not len(order):
                logger.warning("%s holds %s tokens, fewer than the budget of %s: all are kept.", group, held, limit)
            order = order[running <= limit]
        keep[order] = True
    return keep


def _lengths_of(table: pa.Table, rows: np.ndarray) -> np.ndarray:
    """Returns the numbers of tokens of some windows, in their order; raises ValueError where one is not known."""
    column = get_column(table, "num_tokens")
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise ValueError(f"Column 'num_tokens' is {column.type}, and a budget counts in numbers.")
    lengths = column.to_numpy()[rows]
    if unknown := int((lengths != lengths).sum()):
        raise ValueError(
            f"Column 'num_tokens' says nothing of {unknown:,} of the {len(rows):,} windows that could be kept, and a "
            "budget needs the length of each: leave them out, or give a fraction or a threshold."
        )
    return lengths


def _in_turn(ranked: Mapping[str, tuple[np.ndarray, int]]) -> np.ndarray:
    """Returns the rows of all categories in one order, so that its beginning holds equal shares of each."""
    nothing = np.empty(0, dtype=np.int64)
    rows = np.concatenate([nothing, *(order for order, _ in ranked.values())])
    shares = np.concatenate([nothing, *(np.arange(len(order)) / count for order, count in ranked.values())])
    # equal shares in the order of the categories' names
    return rows[np.argsort(shares, kind="stable")]


def rank_windows(
    table: pa.Table, selection: Selection, by: str | None = CATEGORY
) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, int]]]:
    """Returns what ranks, float64 `[len(table)]`, and by category the rows that gate and overlap leave, best first.

    Beside these rows stands how many of the category have a score.
    """
    scores = ranking_scores(table, selection.score, by, selection.combine)
    if selection.temperature:
        scores = draw(table, scores, temperature=selection.temperature, seed=selection.seed, by=by)
    passes = ~is_refused(table, selection.gate)
    # rows that nobody cut have no name of their own: ties go to the first
    names = table[ID] if ID in table.column_names else np.arange(len(table))
    keys = pa.table({"score": scores, ID: names})
    by_score = [("score", "descending"), (ID, "ascending")]
    best_first = pc.sort_indices(keys, sort_keys=by_score).to_numpy().astype(np.int64)
    spans = Spans.of(table) if selection.refuse_overlap else None
    ranked = {}
    for group, rows in group_rows(table, by, ~np.isnan(scores)).items():
        member = np.zeros(len(table), dtype=bool)
        member[rows] = passes[rows]
        order = best_first[member[best_first]]
        ranked[group] = order if spans is None else without_overlaps(order, spans), len(rows)
    return scores, ranked
