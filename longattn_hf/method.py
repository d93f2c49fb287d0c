"""The declared conventions of LongAttn, the paper's text and its authors' released code, and the uniform null."""

import math
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Convention:
    """Every point in which the paper (arXiv:2502.16860, section 3) and its released code differ.

    Attributes:
        name: How users ask for it.
        variance_over: The population of the distribution uniformity's variance: `"block"` is the (L-k)^2 entries of
            Eqs. 6-7, divided by their number; `"map"` is all L^2 entries of the masked map, divided by one less.
        standardisation: Per category: `"zscore"` (Eq. 8) or `"minmax"` to [0, 1].
        dtype: The weights' dtype; None leaves it to the device.
        probability_dtype: Each attention probability is rounded to it before it is summed; None keeps float32.
        rope_theta: The RoPE base put in place of the model's own; None keeps the model's.
        encodes_text_again: The window's text, not its ids, goes to the model: BOS and a space are put before it,
            it is tokenised with special tokens (so BOS stands twice), and cut at the window's length, losing its last
            tokens.
        pads: A window that comes out shorter is padded to the window's length. Rows of padding count in the sums and
            in the length, and no row sees their keys.
        causal: `"always"`, or `"padded"`: only where there is padding. A whole window's rows then see the keys after
            them too, since transformers 4.43.3, to which the released code is pinned, hands its layer no mask (sdpa
            is to be causal by itself) and the code's own softmax knows of none. Uniform attention of that kind has
            a strength of 0.2813, not 0.4034, which the paper's mean strengths (0.39 to 0.43, its Table 10) are near.
            In the released code a padded window masks all of its batch; here each window is a batch of its own.
        fraction: The share kept where a user names no threshold, fraction or budget; None demands one.
    """

    name: str
    variance_over: Literal["block", "map"]
    standardisation: Literal["zscore", "minmax"]
    dtype: str | None = None
    probability_dtype: str | None = None
    rope_theta: float | None = None
    encodes_text_again: bool = False
    pads: bool = False
    causal: Literal["always", "padded"] = "always"
    fraction: float | None = None

    @property
    def unit(self) -> str:
        """The unit of its long-distance score."""
        return "z-units" if self.standardisation == "zscore" else "min-max units"


_REFERENCE_CODE = Convention(
    name="reference_code",
    variance_over="map",
    standardisation="minmax",
    dtype="float16",
    probability_dtype="float16",
    rope_theta=2_500_000.0,
    encodes_text_again=True,
    pads=True,
    causal="padded",
    fraction=0.5,
)
CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention(name="paper", variance_over="block", standardisation="zscore"),
        _REFERENCE_CODE,
        # what the released code says, and the paper's own figures are made by
        replace(_REFERENCE_CODE, name="reference_code_causal", causal="always"),
    )
}


def get_convention(name: str) -> Convention:
    """Returns the convention called `name`.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in CONVENTIONS:
        raise ValueError(f"convention={name!r} is not known; use one of {', '.join(map(repr, CONVENTIONS))}.")
    return CONVENTIONS[name]


def uniform_dependency_strength(ratio: float) -> float:
    """Returns the dependency strength of uniform causal attention, for long windows: the null to read scores against.

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
