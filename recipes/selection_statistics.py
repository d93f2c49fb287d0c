"""How well a score separates windows, with intervals: area under the ROC curve, pairs won, rank correlation."""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A share in [0, 1] with its 95% bootstrap interval and the windows of the smaller side."""

    value: float
    low: float
    high: float
    windows: int


def auc(intact: np.ndarray, control: np.ndarray, *, seed: int = 0) -> Estimate:
    """The chance that an intact window scores above a control, ties counting half.

    The interval resamples both sides, each window being of a document of its own.
    """
    wins = _wins(intact[:, None], control[None, :])
    rng = np.random.default_rng(seed)
    rows = _counts(rng, len(intact))
    columns = _counts(rng, len(control))
    draws = np.einsum("ri,ij,rj->r", rows, wins, columns, optimize=True)
    return _estimate(wins.mean(), draws, min(len(intact), len(control)))


def pairs_won(intact: np.ndarray, control: np.ndarray, *, seed: int = 0) -> Estimate:
    """The share of pairs in which the intact window scores above the control made of it, ties counting half."""
    wins = _wins(intact, control)
    draws = _counts(np.random.default_rng(seed), len(wins)) @ wins
    return _estimate(wins.mean(), draws, len(wins))


def rank_correlation(columns: np.ndarray) -> np.ndarray:
    """Spearman's correlation between columns: `[windows, scores]` to `[scores, scores]`; NaN for a constant column."""
    ranks = np.apply_along_axis(_ranks, 0, columns)
    with np.errstate(invalid="ignore"):
        return np.atleast_2d(np.corrcoef(ranks, rowvar=False))


def _ranks(values: np.ndarray) -> np.ndarray:
    unique, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _wins(intact: np.ndarray, control: np.ndarray) -> np.ndarray:
    return (intact > control) + 0.5 * (intact == control)


def _counts(rng: np.random.Generator, size: int) -> np.ndarray:
    """Weights `[RESAMPLES, size]` of bootstrap samples, each row summing to 1."""
    return rng.multinomial(size, np.full(size, 1 / size), size=RESAMPLES) / size


def _estimate(value: float, draws: np.ndarray, windows: int) -> Estimate:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value=float(value), low=float(low), high=float(high), windows=windows)
