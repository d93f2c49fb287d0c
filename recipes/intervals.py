"""Means with 95% intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000
# Student's t at 97.5%, by degrees of freedom
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean with its 95% interval and the number of independent values; no interval for a single one."""

    value: float
    low: float | None
    high: float | None
    count: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_over_items(values: np.ndarray, *, seed: int = 0) -> Mean:
    """The mean of many independent values, such as one a document, with a percentile bootstrap interval."""
    count = len(values)
    if count < 2:
        return Mean(value=float(values.mean()), low=None, high=None, count=count)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES) / count
    low, high = np.quantile(weights @ values, [0.025, 0.975])
    return Mean(value=float(values.mean()), low=float(low), high=float(high), count=count)


def mean_over_runs(values: Sequence[float]) -> Mean:
    """The mean of two to ten training runs, with Student's interval, which a bootstrap of so few understates."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return Mean(value=float(array.mean()), low=None, high=None, count=len(array))
    half = _T[min(len(array) - 1, max(_T))] * array.std(ddof=1) / math.sqrt(len(array))
    return Mean(
        value=float(array.mean()), low=float(array.mean() - half), high=float(array.mean() + half), count=len(array)
    )
