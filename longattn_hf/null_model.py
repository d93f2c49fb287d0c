"""What the scores would be if attention looked at nothing in particular: the null to read them against."""

import math


def uniform_dependency_strength(ratio: float) -> float:
    """Returns the dependency strength of uniform causal attention, for long windows.

    Row n of a uniform causal map holds 1/n at each key, so the sum of its far entries is (n-k)/n, and the mean over
    the rows tends to `(1 - r) + r ln r` with `r = k/L`: 0.4034 at the paper's r = 1/4.

    Args:
        ratio: The minimum distance over the window's length, both in tokens, in [0, 1].

    Raises:
        ValueError: The ratio lies outside [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio={ratio} must lie in [0, 1]: it is the minimum distance over the window's tokens.")
    return 1 - ratio + (ratio * math.log(ratio) if ratio else 0.0)
