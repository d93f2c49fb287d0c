"""Estimates with 95% intervals, by scipy: means, areas under ROC curves, pairs won; and rank correlations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimate with its 95% interval.

    Attributes:
        value: The estimate.
        low: The interval's lower end; None where one value alone, or nothing, tells how far it may be off.
        high: The interval's upper end.
        count: Of the independent values behind it, of the smaller side where there are two; None if not known.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_over_items(values: np.ndarray, *, seed: int = 0) -> Estimate:
    """The mean of many independent values, such as one a document, with a percentile bootstrap interval."""
    return _bootstrap(np.mean, values, seed=seed)


def mean_over_runs(values: Sequence[float]) -> Estimate:
    """The mean of a few training runs, with Student's interval, which a bootstrap of so few understates."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Estimate(value=mean, count=count)
    half = float(stats.t.ppf(0.975, count - 1) * stats.sem(values))
    return Estimate(value=mean, low=mean - half, high=mean + half, count=count)


def with_standard_error(value: float, error: float) -> Estimate:
    """A value of a known standard error, with the normal distribution's interval."""
    half = float(stats.norm.ppf(0.975) * error)
    return Estimate(value=value, low=value - half, high=value + half)


def area_under_curve(intact: np.ndarray, control: np.ndarray, *, seed: int = 0) -> Estimate:
    """The chance that an intact window scores above a control, ties counting half: the area under the ROC curve.

    The interval resamples both sides, each window being of a document of its own.
    """
    return _bootstrap(_area, intact, control, seed=seed)


def pairs_won(intact: np.ndarray, control: np.ndarray, *, seed: int = 0) -> Estimate:
    """The share of pairs in which the intact window scores above the control made of it, ties counting half."""
    return mean_over_items((intact > control) + 0.5 * (intact == control), seed=seed)


def rank_correlation(columns: np.ndarray) -> np.ndarray:
    """Spearman's correlation between columns: `[windows, scores]` to `[scores, scores]`; NaN for a constant column."""
    # stats.spearmanr returns a number for two columns, and warns of a constant one
    with np.errstate(invalid="ignore"):
        return np.atleast_2d(np.corrcoef(stats.rankdata(columns, axis=0), rowvar=False))


def correlation_within(values: np.ndarray, others: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> Estimate:
    """The mean over groups of Spearman's correlation of two columns; the interval resamples each group's rows.

    A group without a name is left out; a constant column has no correlation, and counts 0.
    """
    rows = [np.flatnonzero(groups == group) for group in sorted(set(groups)) if group]

    def mean_correlation(*chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        found = [_spearman(values[row], others[row], axis) for row in chosen]
        return np.mean(np.nan_to_num(found), axis=0)

    return _bootstrap(mean_correlation, *rows, seed=seed)


def _spearman(values: np.ndarray, others: np.ndarray, axis: int) -> np.ndarray:
    ranks = [stats.rankdata(column, axis=axis) for column in (values, others)]
    first, second = (rank - rank.mean(axis, keepdims=True) for rank in ranks)
    with np.errstate(invalid="ignore"):
        return (first * second).sum(axis) / np.sqrt(np.square(first).sum(axis) * np.square(second).sum(axis))


def _area(intact: np.ndarray, control: np.ndarray, axis: int = -1) -> np.ndarray:
    # the method is that of a p-value, which nobody asks for
    u = stats.mannwhitneyu(intact, control, method="asymptotic", axis=axis).statistic
    return u / (intact.shape[axis] * control.shape[axis])


def _bootstrap(statistic: Callable[..., Any], *samples: np.ndarray, seed: int) -> Estimate:
    value, count = float(statistic(*samples)), min(map(len, samples))
    if count < 2:
        return Estimate(value=value, count=count)
    rng = np.random.default_rng(seed)
    result = stats.bootstrap(samples, statistic, n_resamples=_RESAMPLES, method="percentile", rng=rng)
    low, high = map(float, result.confidence_interval)
    return Estimate(value=value, low=low, high=high, count=count)
