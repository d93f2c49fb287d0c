"""From the far sums of attention maps to the paper's two scores."""

from torch import Tensor

from longattn_hf.attention.api import FarAttention
from longattn_hf.columns import DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, MAP_VARIANCE


def map_scores(far: FarAttention, num_tokens: int, min_distance: int) -> dict[str, Tensor]:
    """Turns the far sums of an attention map into the paper's two scores (arXiv:2502.16860, Eqs. 5 and 7).

    Args:
        far: The sums S1 and S2 over the far region of each head's map, `[B, HQ]`.
        num_tokens: L, the rows of the map.
        min_distance: k, the least distance of a far pair.

    Returns:
        float64 `[B, HQ]` each: `dependency_strength` = S1 / L in [0, 1]; `distribution_uniformity` = minus the
        variance over the (L-k)^2 entries of the far block, at most 0; `map_variance`, the unbiased variance over all
        L^2 entries of the masked map, at least 0.
    """
    mass, energy = far.far_mass, far.far_energy
    block, whole = max(num_tokens - min_distance, 1) ** 2, num_tokens**2
    # rounding can leave a variance of equal entries a hair below zero
    block_variance = ((energy - mass**2 / block) / block).clamp_min(0)
    map_variance = ((energy - mass**2 / whole) / max(whole - 1, 1)).clamp_min(0)
    return {
        DEPENDENCY_STRENGTH: mass / num_tokens,
        DISTRIBUTION_UNIFORMITY: -block_variance,
        MAP_VARIANCE: map_variance,
    }
