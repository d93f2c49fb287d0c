"""The moments of a column of scores: enough to put scores on its scale."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Count, mean, sum of squared deviations and extremes of one column: enough to standardise, and mergeable."""

    count: int
    mean: float
    squared_deviations: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: np.ndarray, errors: np.ndarray | None = None) -> "Moments":
        """Takes the moments of a non-empty float64 array, or of what its values estimate.

        Args:
            values: Float64.
            errors: The standard errors of the values, which spread them further apart than what they estimate; NaN for
                none. No more than half of the squared deviations is put down to them.
        """
        mean = float(values.mean())
        squared = float(((values - mean) ** 2).sum())
        noise = 0.0 if errors is None else float(np.nansum(errors**2)) * (1 - 1 / len(values))
        return cls(
            count=len(values),
            mean=mean,
            squared_deviations=max(squared - noise, squared / 2),
            minimum=float(values.min()),
            maximum=float(values.max()),
        )

    def merge(self, other: "Moments") -> "Moments":
        """Returns the moments of both populations together (Chan, Golub and LeVeque's pairwise update)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + apart * other.count / count,
            squared_deviations=self.squared_deviations
            + other.squared_deviations
            + apart**2 * self.count * other.count / count,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
        )

    @property
    def std(self) -> float:
        """The population's standard deviation (divided by N)."""
        return math.sqrt(self.squared_deviations / self.count)

    def standardise(self, values: np.ndarray, how: str) -> np.ndarray:
        """Puts `values` on this population's scale: `"zscore"` or `"minmax"`; a constant population maps to 0."""
        shift, width = (self.mean, self.std) if how == "zscore" else (self.minimum, self.maximum - self.minimum)
        # a width within rounding of the values is that of a constant population
        flat = width <= np.finfo(np.float64).eps * max(abs(self.minimum), abs(self.maximum))
        return np.zeros_like(values) if flat else (values - shift) / width
