"""How much, and how evenly, each token attends far back: exact sums over the softmax map, which is never stored.

Shape suffixes here and below: B batch, H query heads (HQ) or key heads (HK), R query rows, T keys, D head size.
"""

import math
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from packaging.version import Version
from torch import Tensor

#: The first release of Triton that the fused kernel is tested with.
LEAST_TRITON = Version("3.6")

Impl = Literal["auto", "reference", "blockwise", "fused"]

__all__ = ["FarAttention", "Impl", "far_attention", "far_rows", "pick_impl"]


@dataclass(frozen=True)
class FarAttention:
    """Sums over the far region (keys at least `min_distance` behind their query) of each head's attention map.

    Attributes:
        far_mass: [B, HQ] float64, the sum of the far probabilities (S1), in [0, T].
        far_energy: [B, HQ] float64, the sum of their squares (S2), in [0, far_mass].
        impl: The implementation that ran.
    """

    far_mass: Tensor
    far_energy: Tensor
    impl: str


def far_attention(
    q: Tensor,
    k: Tensor,
    *,
    min_distance: int,
    scale: float | None = None,
    impl: Impl = "auto",
    lengths: Tensor | None = None,
    probability_dtype: torch.dtype | None = None,
    causal: bool = True,
    padding_counts: bool = False,
) -> FarAttention:
    """Sums each head's causal attention map, and its square, over the far region (arXiv:2502.16860, Eqs. 1-7).

    Args:
        q: [B, HQ, T, D] queries after position embedding, any float dtype; statistics are float32, of float64 float64.
        k: [B, HK, T, D] keys after position embedding; HQ is a multiple of HK, as in grouped-query attention.
        min_distance: Least distance in tokens of a far pair: query n (0-based) counts the keys i <= n - min_distance.
        scale: Factor on the logits; 1/sqrt(D) by default.
        impl: "reference", "blockwise" or "fused", which never falls back to another one; "auto" as in `pick_impl`.
        lengths: [B] integers: the rows and keys of sequence b from lengths[b] on are padding and count nothing.
        probability_dtype: Round each probability to this dtype before summing; known to "reference" only.
        causal: Whether a row sees no key after its own; where not, its far keys are the same. Likewise.
        padding_counts: Whether rows of padding, which see the keys before it, count in the sums. Likewise.

    Returns:
        The sums, which do not depend on the run or on a sequence's neighbours in the batch.

    Raises:
        ValueError: If an argument's type, shape or value is not as above.
    """
    num_tokens = k.shape[-2] if k.ndim else 0
    validate(q, k, min_distance=min_distance, scale=scale, positions=None, lengths=lengths)
    # the rows before have no far key
    first = min(min_distance, num_tokens)
    positions = torch.arange(first, num_tokens, device=q.device)
    mass_BHR, energy_BHR, name = _run(
        impl,
        q[:, :, first:],
        k,
        min_distance=min_distance,
        scale=scale,
        positions=positions,
        lengths=lengths,
        probability_dtype=probability_dtype,
        causal=causal,
        padding_counts=padding_counts,
    )
    return FarAttention(mass_BHR.sum(-1, dtype=torch.float64), energy_BHR.sum(-1, dtype=torch.float64), name)


def far_rows(
    q: Tensor,
    k: Tensor,
    *,
    min_distance: int,
    scale: float | None = None,
    positions: Tensor | None = None,
    lengths: Tensor | None = None,
    impl: Impl = "auto",
    probability_dtype: torch.dtype | None = None,
    causal: bool = True,
    padding_counts: bool = False,
) -> tuple[Tensor, Tensor]:
    """The far sums of single query rows; arguments are those of `far_attention`, but for the rows.

    Args:
        q: [B, HQ, R, D] the queries of the rows wanted.
        k: [B, HK, T, D] all keys.
        min_distance: As in `far_attention`.
        scale: As in `far_attention`.
        positions: [R] integers in [0, T), ascending: the position of each row of q; by default R = T, all of them.
        lengths: As in `far_attention`; a row of padding gives 0.
        impl: As in `far_attention`.
        probability_dtype: As in `far_attention`.
        causal: As in `far_attention`.
        padding_counts: As in `far_attention`.

    Returns:
        Two [B, HQ, R] tensors: each row's far mass in [0, 1] and far energy in [0, mass]; float32, of float64 float64.

    Raises:
        ValueError: If an argument's type, shape or value is not as above.
    """
    validate(q, k, min_distance=min_distance, scale=scale, positions=positions, lengths=lengths)
    if positions is None:
        positions = torch.arange(k.shape[2], device=q.device)
    mass_BHR, energy_BHR, _ = _run(
        impl,
        q,
        k,
        min_distance=min_distance,
        scale=scale,
        positions=positions,
        lengths=lengths,
        probability_dtype=probability_dtype,
        causal=causal,
        padding_counts=padding_counts,
    )
    return mass_BHR, energy_BHR


def pick_impl(
    impl: Impl,
    device: torch.device,
    *,
    probability_dtype: torch.dtype | None = None,
    causal: bool = True,
    padding_counts: bool = False,
) -> str:
    """Names the implementation that `impl` stands for on `device`.

    "auto" is "reference" where one of the last three, as in `far_attention`, is not the default; else "fused" on CUDA
    where a Triton that is new enough is installed, else "blockwise"; every other name stands for itself.

    Raises:
        ValueError: If `impl` is unknown, or cannot do as asked.
    """
    if impl not in get_args(Impl):
        raise ValueError(f"impl must be one of {', '.join(get_args(Impl))}, not {impl!r}")
    if probability_dtype is not None and not probability_dtype.is_floating_point:
        raise ValueError(f"probability_dtype must be a floating-point dtype, not {probability_dtype}")
    if probability_dtype is not None or not causal or padding_counts:
        if impl not in ("auto", "reference"):
            raise ValueError(
                f"impl={impl!r} can neither round probabilities, nor see later keys, nor count padding; use "
                "impl='reference'"
            )
        return "reference"
    if impl != "auto":
        return impl
    return "fused" if device.type == "cuda" and _has_triton() else "blockwise"


def _has_triton() -> bool:
    try:
        import triton
    except ImportError:
        return False
    return Version(triton.__version__) >= LEAST_TRITON


def try_impl(
    impl: Impl, device: torch.device, dtype: torch.dtype, *, probability_dtype: torch.dtype | None = None
) -> None:
    """Runs an implementation on four tokens.

    Raises:
        ValueError: It cannot be used on this device; says why.
    """
    q = torch.zeros(1, 1, 4, 64, dtype=dtype, device=device)
    try:
        far_attention(q, q, min_distance=1, impl=impl, probability_dtype=probability_dtype)
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"impl={impl!r} cannot be used on {device}: {error}. Use impl='auto'.") from error


def _run(
    impl: Impl,
    q: Tensor,
    k: Tensor,
    *,
    min_distance: int,
    scale: float | None,
    positions: Tensor,
    lengths: Tensor | None,
    **reading: Any,
) -> tuple[Tensor, Tensor, str]:
    name = pick_impl(impl, q.device, **reading)
    # imported on first use: fused needs Triton, which is optional
    module: ModuleType = import_module(f"longattn_hf.attention.{name}")
    if q.numel() == 0:
        zeros = q.new_zeros(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
        return zeros, zeros.clone(), name
    # under autocast, products would be rounded to half precision
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        mass_BHR, energy_BHR = module.far_rows(
            q.detach(),
            k.detach(),
            min_distance=min_distance,
            scale=1 / math.sqrt(q.shape[-1]) if scale is None else scale,
            positions_R=positions.to(q.device, torch.int64),
            lengths_B=None if lengths is None else lengths.to(q.device, torch.int64),
            # the others know of one reading only
            **(reading if name == "reference" else {}),
        )
    return mass_BHR, energy_BHR, name


def validate(
    q: Tensor,
    k: Tensor,
    *,
    min_distance: int,
    scale: float | None,
    positions: Tensor | None,
    lengths: Tensor | None,
) -> None:
    shapes = f"q is {list(q.shape)} and k is {list(k.shape)}"
    if q.ndim != 4 or k.ndim != 4:
        raise ValueError(f"q and k must be [batch, heads, tokens, head size], but {shapes}")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or 0 in k.shape:
        raise ValueError(f"q and k must agree in batch and head size and k must not be empty, but {shapes}")
    if q.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"the number of query heads must be a multiple of the number of key heads, but {shapes}")
    if not q.is_floating_point() or q.dtype != k.dtype or q.device != k.device:
        raise ValueError(
            f"q and k must share a floating-point dtype and a device, "
            f"but q is {q.dtype} on {q.device} and k is {k.dtype} on {k.device}"
        )
    if isinstance(min_distance, bool) or not isinstance(min_distance, int) or min_distance < 0:
        raise ValueError(f"min_distance must be an integer of at least 0, not {min_distance!r}")
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"scale must be finite, not {scale!r}")
    num_rows, num_tokens = q.shape[2], k.shape[2]
    if positions is None and num_rows != num_tokens:
        raise ValueError(f"q must have a row for each of the {num_tokens} keys, or positions be given, but {shapes}")
    if positions is not None:
        _validate_integers("positions", positions, shape=(num_rows,), most=num_tokens - 1)
        if (positions.diff() < 0).any():
            raise ValueError("positions must be in ascending order; sort them and the rows of q with them")
    if lengths is not None:
        _validate_integers("lengths", lengths, shape=(k.shape[0],), most=num_tokens)


def _validate_integers(name: str, value: Tensor, *, shape: tuple[int, ...], most: int) -> None:
    if value.shape != shape or value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise ValueError(f"{name} must be integers of shape {list(shape)}, not {value.dtype} of {list(value.shape)}")
    if value.numel() and not (0 <= value.min() and value.max() <= most):
        raise ValueError(f"{name} must lie in [0, {most}], but lie in [{value.min()}, {value.max()}]")
