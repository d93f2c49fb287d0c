"""How sure a cut by sampled scores is, and which windows have to be scored more exactly before it is sure.

A sampled score comes with a standard error. A window that lies many of them away from the cut is decided; the others
are scored again from more rows, at last from all, until the chance that any is on the wrong side is small enough; at
once from all where most windows of a category would be in the end. Two things can put a window on the wrong side. Its
own error is settled window by window. The error of the category's scale moves all windows together, so that windows of
unequal make-up change places; it shrinks with the number of windows, and where that is small, those that it comes from
are scored again too.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from longattn_hf.columns import CATEGORY, LONG_DISTANCE_SCORE, STANDARD_ERROR
from longattn_hf.method import get_convention
from longattn_hf.selection.cut import Selection, keep_ranked, rank_windows
from longattn_hf.selection.gate import is_refused
from longattn_hf.selection.moments import Moments
from longattn_hf.selection.overlap import overlapping_pairs
from longattn_hf.selection.standardisation import ScoreStatistics, get_column, get_numbers, group_rows
from longattn_hf.selection.steps import ESTIMATED

# the windows, in z-units around the cut, that show who changes places when the scale does
_NEAR = 0.25
# windows of a category to score again before much is known of how large errors are
_FIRST = 8


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """What is not sure about the cut of a category.

    Attributes:
        wrong: The probability, at most, that exact scores would keep other windows on this scale.
        moved: How many of the windows kept the exact scale is expected to exchange for others.
        kept: How many are kept.
    """

    wrong: float
    moved: float
    kept: int


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """How sure a cut is.

    Attributes:
        categories: By name.
        undecided: int64, the rows to score again now; none where the cut is sure.
        nearly: bool, for each of them whether half its standard error would do.
    """

    categories: Mapping[str, Doubt]
    undecided: np.ndarray
    nearly: np.ndarray


def refuse_uncertain(selection: Selection, confidence: float) -> None:
    """Checks that a selection ranks by what sampled rows estimate with an error.

    Raises:
        ValueError: It ranks by something else, or the confidence is none.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1, as 0.99 does.")
    reasons = {
        f"select_by {selection.score}": selection.score != LONG_DISTANCE_SCORE,
        "a gate of the same score": LONG_DISTANCE_SCORE in selection.gate,
        f"total_token_budget={selection.total_token_budget}": selection.total_token_budget is not None,
        f"temperature={selection.temperature}": selection.temperature > 0,
        f"convention={selection.convention!r}": get_convention(selection.convention).variance_over != "block",
    }
    if given := [reason for reason, applies in reasons.items() if applies]:
        raise ValueError(
            f"certify decides a cut by the long-distance score of the paper, and not with {given[0]}; leave one away."
        )


def certify(table: pa.Table, selection: Selection, *, confidence: float = 0.99) -> Certificate:
    """Says how sure a cut is, and what to score again.

    Args:
        table: Raw scores with standard errors, 0 for exact ones.
        selection: How to select.
        confidence: How probable it has to be that the kept windows, of all categories together, are those that exact
            scores keep on this scale. No more than half of `1 - confidence` of them may hang on the exact scale.

    Raises:
        ValueError: As `refuse_uncertain` and `Selection.apply`.
    """
    refuse_uncertain(selection, confidence)
    statistics = selection.statistics or ScoreStatistics.of(table)
    table = replace(selection, statistics=statistics).add_scores(table)
    scores, ranked = rank_windows(table, selection)
    kept = keep_ranked(table, selection, scores, ranked)
    pairs = _rival_pairs(table, selection, scores)
    allowed = (1 - confidence) / max(len(ranked), 1)
    categories, undecided, nearly = {}, [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=bool)]
    for group, rows in group_rows(table, CATEGORY, ~np.isnan(scores)).items():
        if not len(rows):
            continue
        places, errors = _on_scale(table, rows, statistics.by_category[group], selection.alpha)
        own = np.zeros(len(table))
        own[rows] = np.hypot(*errors)
        order, count = ranked[group][0], int(kept[rows].sum())
        cut = _find_cut(selection, group, scores[order], count)
        doubts, margins = np.zeros(len(table)), np.full(len(table), np.inf)
        for holders, away, chances in _mistakes(table, selection, group, order, count, cut, pairs, scores, own):
            np.add.at(doubts, holders, chances)
            np.minimum.at(margins, holders, away)
        moved, levers = 0.0, np.zeros(len(rows))
        if selection.statistics is None and math.isfinite(cut):
            gaps = np.where(np.isin(rows, order), scores[rows] - cut, np.inf)
            moved, levers = _doubt_of_scale(places, errors, gaps, is_free=selection.threshold is None)
        categories[group] = Doubt(wrong=min(1.0, float(doubts.sum())), moved=moved, kept=count)
        todo, almost = rows[:0], np.empty(0, dtype=bool)
        if doubts.sum() > allowed:
            todo = _largest(doubts, allowed / 2)
            almost = _tail(2 * margins[todo]) <= allowed / 2 / len(todo)
        if moved > (spare := (1 - confidence) / 2 * count):
            share = (spare / moved) ** 2
            more = rows[_largest(levers, share * levers.sum())]
            more = more[~np.isin(more, todo)]
            todo = np.concatenate([todo, more])
            # half an error is a quarter of its square
            almost = np.concatenate([almost, np.full(len(more), share > 0.25)])
        exact = int((own[rows] == 0).sum())
        # what these show of the errors' size, the next ones need not be scored for
        most = max(_FIRST, 3 * exact)
        if exact and 2 * (exact + (~almost).sum()) > len(rows):
            # where most end up exact, a step in between and rounds cost more than they save
            most, almost = len(todo), np.zeros(len(todo), dtype=bool)
        undecided.append(todo[:most])
        nearly.append(almost[:most])
    return Certificate(categories=categories, undecided=np.concatenate(undecided), nearly=np.concatenate(nearly))


def _on_scale(
    table: pa.Table, rows: np.ndarray, moments: Mapping[str, Moments], alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the Z-scores of both parts of some rows, and their weighted errors, float64 `[2, len(rows)]`."""
    places, errors = np.empty((2, len(rows))), np.empty((2, len(rows)))
    for part, (name, weight) in enumerate(zip(ESTIMATED, (1, alpha), strict=True)):
        error = np.nan_to_num(get_numbers(table, name + STANDARD_ERROR)[rows], nan=np.inf)
        places[part] = moments[name].standardise(get_numbers(table, name)[rows], "zscore")
        # a constant part counts nothing, and nor does its error
        errors[part] = abs(weight) * moments[name].standardise(moments[name].mean + error, "zscore")
    return places, errors


def _find_cut(selection: Selection, group: str, best_first: np.ndarray, count: int) -> float:
    """Returns a score that parts the windows that are kept from the others."""
    if selection.threshold is not None:
        return selection.limit_of(group)
    if 0 < count < len(best_first):
        return float(best_first[count - 1 : count + 1].mean())
    return math.inf if count == 0 else -math.inf


def _mistakes(
    table: pa.Table,
    selection: Selection,
    group: str,
    order: np.ndarray,
    count: int,
    cut: float,
    pairs: np.ndarray,
    scores: np.ndarray,
    own: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields all that would have to happen for exact scores to keep other windows of a category.

    That is a window on the wrong side of the cut; one that the budget still has room for, before the one that it has
    none for; and of two that overlap the worse one before the better.

    Yields:
        The row whose score it hangs on, how many standard errors away it is, and its probability.
    """
    away = _in_errors(scores[order] - cut, own[order])
    yield order, away, _tail(away)
    if selection.token_budget is not None and count < len(order):
        tokens = get_column(table, "num_tokens").to_numpy()
        room = selection.limit_of(group) - tokens[order[:count]].sum()
        first, later = order[count], order[count + 1 :]
        later = later[tokens[later] <= room]
        away = _in_errors(scores[first] - scores[later], np.hypot(own[first], own[later]))
        yield np.where(own[later] > 0, later, first), away, _tail(away)
    if selection.refuse_overlap:
        # pairs are of one category each, as windows of one document are
        member = np.zeros(len(table), dtype=bool)
        member[order] = True
        pairs = pairs[member[pairs].any(axis=1)]
        one, two = pairs.T
        away = _in_errors(scores[one] - scores[two], np.hypot(own[one], own[two]))
        # what both are far below the cut matters to nobody
        above = _tail(_signed(cut - scores[one], own[one])) + _tail(_signed(cut - scores[two], own[two]))
        yield np.where(own[one] >= own[two], one, two), away, np.minimum(_tail(away), above)


def _rival_pairs(table: pa.Table, selection: Selection, scores: np.ndarray) -> np.ndarray:
    """Returns the pairs of rows, int64 `[P, 2]`, of which one at most may be kept, since they overlap."""
    if not selection.refuse_overlap:
        return np.empty((0, 2), dtype=np.int64)
    refused = np.isnan(scores) | is_refused(table, selection.gate)
    pairs = overlapping_pairs(table)
    return pairs[~refused[pairs].any(axis=1)]


def _in_errors(apart: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Returns how many standard errors lie between two scores; those of exact ones are infinitely many."""
    return np.abs(_signed(apart, error))


def _signed(apart: np.ndarray, error: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        # equal scores without error have an order, that of their names
        away = np.where(error > 0, apart / error, np.where(apart > 0, np.inf, -np.inf))
    return np.nan_to_num(away, nan=np.inf, posinf=np.inf, neginf=-np.inf)


def _tail(away: np.ndarray) -> np.ndarray:
    """Returns the probability that a normal error is larger than so many standard errors."""
    return np.array([0.5 * math.erfc(value / math.sqrt(2)) for value in away.tolist()])


def _largest(values: np.ndarray, rest: float) -> np.ndarray:
    """Returns the places of the largest values, largest first, but for those that sum to no more than `rest`."""
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > 0]
    left = np.cumsum(values[order][::-1])[::-1]
    return order[(left > rest) | np.isinf(values[order])]


def _doubt_of_scale(
    places: np.ndarray, errors: np.ndarray, gaps: np.ndarray, *, is_free: bool
) -> tuple[float, np.ndarray]:
    """Says how many windows the exact scale would exchange, and which windows' errors make the scale's.

    To first order the error of one window moves the scale's mean by its N-th part, and the standard deviation by its
    N-th part times the window's Z-score; others are moved by the former, and by their own Z-scores times the latter.

    Args:
        places: float64 `[2, N]`, the Z-scores of strength and uniformity.
        errors: float64 `[2, N]`, their standard errors times their weights.
        gaps: float64 `[N]`, how far above the cut each window is; infinite where it is not to be cut.
        is_free: Whether the cut moves with the windows, and keeps equally many.

    Returns:
        The expected number of kept windows that would be others, and float64 `[N]`, to which each window adds to it.
    """
    if (unknown := np.isinf(errors).any(axis=0)).any():
        return float(len(gaps)), np.where(unknown, np.inf, 0.0)
    near = np.exp(-0.5 * (np.minimum(np.abs(gaps), 30 * _NEAR) / _NEAR) ** 2)
    near /= near.sum()
    shift = 0 if is_free else 1
    away = places - (places @ near)[:, None] * (1 - shift)
    squares = (errors / len(gaps)) ** 2
    mean, both, spread = (((squares * places**power).sum(axis=1))[:, None] for power in range(3))
    moves = np.sqrt((shift * mean + 2 * shift * away * both + away**2 * spread).sum(axis=0))
    once, twice = (away @ near)[:, None], (away**2 @ near)[:, None]
    levers = (squares * (shift + 2 * shift * once * places + twice * places**2)).sum(axis=0)
    return float(_tail(_in_errors(gaps, moves)).sum()) * (0.5 if is_free else 1.0), levers
