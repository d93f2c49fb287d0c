"""Far attention's row statistics in one streaming pass over the keys, as one Triton kernel for CUDA GPUs.

A program owns a tile of query rows and walks the keys once. For each row it carries the running maximum of the
logits, the sum of exp, and, for the far keys, the sums of exp and of exp^2; no logit ever leaves the chip. The query
heads that share a key head lie side by side in the rows of a tile, so that each key tile is loaded once for all.

A tile's keys fall into four spans, each its own loop, so that masks are computed only where a border runs through:

    0 ........ wholly far ........ | far border | ... near ... | diagonal |
    every row's far keys            some rows'    no row's       may be beyond a row, or far when the distance is small

Names: `b_` values of a block, `o_` offsets, `m_` masks; a row is a pair of query position and query head.
"""

# ruff: noqa: ANN001, ANN202  a kernel's arguments are typed by the launch; what is not constexpr has no Python type

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

# Triton reads this variable when it is imported and kernels are decorated
INTERPRETED = triton.knobs.runtime.interpret


@dataclass(frozen=True, kw_only=True)
class Tile:
    """What one program works on at a time; it changes the order of the sums, so nothing picks it at run time.

    Attributes:
        rows: Query rows (positions times grouped heads), a power of two of at least 16.
        keys: Keys per step, a power of two of at least 16.
        warps: Warps of 32 threads per program.
        stages: Key tiles in flight, this step's included.
        registers: Most registers per thread, which decides how many programs share a multiprocessor; None lets the
            compiler choose.
    """

    rows: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None


@triton.jit
def _load_columns(rows, stride_d, head_dim: tl.constexpr, first: tl.constexpr, num: tl.constexpr):
    """Loads columns [first, first + num) of the rows pointed at, with zeros beyond the head's size."""
    o_d = first + tl.arange(0, num)
    cells = rows[:, None] + (o_d * stride_d)[None, :]
    if first + num > head_dim:
        return tl.load(cells, mask=(o_d < head_dim)[None, :], other=0.0)
    return tl.load(cells)


# fmt: off
@triton.jit
def _absorb(
    b_max, b_sum, b_far, b_far2, b_q0, b_q1, o_n, k, start, stop, num_keys, min_distance, log2_scale,
    stride_kt, stride_kd, head_dim: tl.constexpr, d0: tl.constexpr, d1: tl.constexpr,
    block_keys: tl.constexpr, precision: tl.constexpr, far: tl.constexpr, diagonal: tl.constexpr,
):  # fmt: on
    """Takes the keys [start, stop) into the rows' sums; `far` is "all", "some" or "none", `diagonal` masks keys > n.

    b_max is the running maximum of the logits in units of log2, b_sum the sum of w = exp2(logit - maximum), b_far and
    b_far2 the sums of w and w^2 over far keys. With far="all" b_far is left alone, as b_sum holds it; with far="none"
    b_far and b_far2 are, and so stay relative to the maximum they came with.
    """
    o_key = tl.arange(0, block_keys)
    for first in tl.range(start, stop, block_keys):
        # the 64-bit part of an address is one scalar a step; offsets inside a tile fit 32 bits
        o_load = tl.minimum(o_key, num_keys - 1 - first) if diagonal else o_key
        rows = k + tl.cast(first, tl.int64) * stride_kt + o_load * stride_kt
        b_k0 = _load_columns(rows, stride_kd, head_dim, 0, d0)
        b_s = tl.dot(b_q0, tl.trans(b_k0), input_precision=precision)
        if d1 > 0:
            b_k1 = _load_columns(rows, stride_kd, head_dim, d0, d1)
            b_s = tl.dot(b_q1, tl.trans(b_k1), b_s, input_precision=precision)
        if diagonal:
            b_s = tl.where((first + o_key)[None, :] <= o_n[:, None], b_s, float("-inf"))
        b_new = tl.maximum(b_max, tl.max(b_s, 1) * log2_scale)
        b_shrink = tl.exp2(b_max - b_new)
        b_w = tl.exp2(tl.fma(b_s, log2_scale, -b_new[:, None]))
        b_sum = b_sum * b_shrink + tl.sum(b_w, 1)
        b_max = b_new
        if far == "some":
            b_w = tl.where((first + o_key)[None, :] <= (o_n - min_distance)[:, None], b_w, 0.0)
            b_far = b_far * b_shrink + tl.sum(b_w, 1)
        if far != "none":
            b_far2 = b_far2 * (b_shrink * b_shrink) + tl.sum(b_w * b_w, 1)
    return b_max, b_sum, b_far, b_far2


# fmt: off
@triton.jit(do_not_specialize=["num_rows", "num_keys", "min_distance"])
def _far_rows_kernel(
    q, k, positions, lengths, mass, energy,
    num_rows, num_keys, min_distance, log2_scale,
    stride_qb, stride_qh, stride_qr, stride_qd,
    stride_kb, stride_kh, stride_kt, stride_kd,
    num_key_heads: tl.constexpr, group: tl.constexpr,
    head_dim: tl.constexpr, d0: tl.constexpr, d1: tl.constexpr,
    block_rows: tl.constexpr, block_keys: tl.constexpr, precision: tl.constexpr,
):  # fmt: on
    # late rows see the most keys; starting with them leaves only short programs for the end
    num_tiles = tl.cdiv(num_rows * group, block_rows)
    num_key_maps = tl.num_programs(0) // num_tiles
    first_flat = (num_tiles - 1 - tl.program_id(0) // num_key_maps) * block_rows
    i_b = (tl.program_id(0) % num_key_maps // num_key_heads).to(tl.int64)
    i_h = (tl.program_id(0) % num_key_maps % num_key_heads).to(tl.int64)

    # rows past the end repeat the last one: their loads need no mask, only their stores do
    last_flat = num_rows * group - 1
    o_flat = first_flat + tl.arange(0, block_rows)
    m_row = o_flat <= last_flat
    o_flat = tl.minimum(o_flat, last_flat)
    o_r, o_h = o_flat // group, i_h * group + o_flat % group
    o_n = tl.load(positions + o_r).to(tl.int32)
    n_first = tl.load(positions + first_flat // group).to(tl.int32)
    n_last = tl.load(positions + tl.minimum(first_flat + block_rows - 1, last_flat) // group).to(tl.int32)
    length = num_keys
    if lengths is not None:
        length = tl.load(lengths + i_b).to(tl.int32)
    m_valid = o_n < length
    o_n, n_last = tl.minimum(o_n, length - 1), tl.minimum(n_last, length - 1)

    o_out = (i_b * num_key_heads * group + o_h) * num_rows + o_r
    if (n_first >= length) | (n_last < min_distance):
        tl.store(mass + o_out, tl.zeros([block_rows], tl.float32), mask=m_row)
        tl.store(energy + o_out, tl.zeros([block_rows], tl.float32), mask=m_row)
        return

    q_rows = q + i_b * stride_qb + o_h * stride_qh + o_r.to(tl.int64) * stride_qr
    b_q0 = _load_columns(q_rows, stride_qd, head_dim, 0, d0)
    b_q1 = b_q0
    if d1 > 0:
        b_q1 = _load_columns(q_rows, stride_qd, head_dim, d0, d1)
    k += i_b * stride_kb + i_h * stride_kh

    # the four spans' borders, in whole key tiles
    diagonal = (n_first + 1) // block_keys * block_keys
    border = tl.maximum(n_first + 1 - min_distance, 0) // block_keys * block_keys
    near = tl.minimum(tl.cdiv(n_last + 1 - min_distance, block_keys) * block_keys, diagonal)

    # finite, for the difference of two such is taken where a span is empty
    b_max = tl.full([block_rows], -1e38, tl.float32)
    b_sum = tl.zeros([block_rows], tl.float32)
    b_far2 = tl.zeros([block_rows], tl.float32)
    # fmt: off
    b_max, b_sum, b_far, b_far2 = _absorb(
        b_max, b_sum, b_sum, b_far2, b_q0, b_q1, o_n, k, 0, border, num_keys, min_distance, log2_scale,
        stride_kt, stride_kd, head_dim, d0, d1, block_keys, precision, far="all", diagonal=False)
    b_max, b_sum, b_far, b_far2 = _absorb(
        b_max, b_sum, b_sum, b_far2, b_q0, b_q1, o_n, k, border, near, num_keys, min_distance, log2_scale,
        stride_kt, stride_kd, head_dim, d0, d1, block_keys, precision, far="some", diagonal=False)
    b_far_max = b_max
    b_max, b_sum, b_far, b_far2 = _absorb(
        b_max, b_sum, b_far, b_far2, b_q0, b_q1, o_n, k, near, diagonal, num_keys, min_distance, log2_scale,
        stride_kt, stride_kd, head_dim, d0, d1, block_keys, precision, far="none", diagonal=False)
    b_shrink = tl.exp2(b_far_max - b_max)
    b_far, b_far2 = b_far * b_shrink, b_far2 * (b_shrink * b_shrink)
    b_max, b_sum, b_far, b_far2 = _absorb(
        b_max, b_sum, b_far, b_far2, b_q0, b_q1, o_n, k, diagonal, n_last + 1, num_keys, min_distance, log2_scale,
        stride_kt, stride_kd, head_dim, d0, d1, block_keys, precision, far="some", diagonal=True)
    # fmt: on
    tl.store(mass + o_out, tl.where(m_valid, b_far / b_sum, 0.0), mask=m_row)
    tl.store(energy + o_out, tl.where(m_valid, b_far2 / (b_sum * b_sum), 0.0), mask=m_row)


def far_rows(
    q_BHRD: torch.Tensor,
    k_BHTD: torch.Tensor,
    *,
    min_distance: int,
    scale: float,
    positions_R: torch.Tensor,
    lengths_B: torch.Tensor | None = None,
    tile: Tile | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each query row's far mass and far energy, [B, HQ, R] float32; arguments as in `longattn_hf.attention.far_rows`.

    `tile` overrides `pick_tile`, for measurements.

    Raises:
        ValueError: If q's dtype, head size or device is none that the kernel serves.
    """
    num_seqs, num_heads, num_rows, head_dim = q_BHRD.shape
    num_key_heads, num_keys = k_BHTD.shape[1:3]
    if q_BHRD.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"the fused kernel takes bfloat16, float16 or float32, not {q_BHRD.dtype}; use 'blockwise'")
    if head_dim > 256:
        raise ValueError(f"the fused kernel takes head sizes up to 256, not {head_dim}; use 'blockwise'")
    if q_BHRD.device.type != "cuda" and not INTERPRETED:
        raise ValueError(f"the fused kernel runs on CUDA devices, not {q_BHRD.device.type}; use impl='blockwise'")
    if scale <= 0:
        # the kernel takes the maximum before it scales
        q_BHRD, scale = (-q_BHRD, -scale) if scale < 0 else (torch.zeros_like(q_BHRD), 1.0)
    tile = tile or pick_tile(q_BHRD.device, q_BHRD.dtype, head_dim)
    if INTERPRETED and q_BHRD.dtype == torch.bfloat16:
        # the interpreter multiplies the bits of bfloat16 as integers; float32 holds the same values
        q_BHRD, k_BHTD = q_BHRD.float(), k_BHTD.float()
    d0, d1 = split_head(head_dim)
    group = num_heads // num_key_heads
    mass_BHR = torch.empty(num_seqs, num_heads, num_rows, dtype=torch.float32, device=q_BHRD.device)
    energy_BHR = torch.empty_like(mass_BHR)
    grid = (triton.cdiv(num_rows * group, tile.rows) * num_seqs * num_key_heads,)
    with torch.cuda.device_of(q_BHRD):
        # fmt: off
        _far_rows_kernel[grid](
            q_BHRD, k_BHTD, positions_R, lengths_B, mass_BHR, energy_BHR,
            num_rows, num_keys, min(min_distance, num_keys), scale * math.log2(math.e),
            *q_BHRD.stride(), *k_BHTD.stride(),
            num_key_heads=num_key_heads, group=group, head_dim=head_dim, d0=d0, d1=d1,
            block_rows=tile.rows, block_keys=tile.keys,
            # the kernel is exact: float32 products are not rounded to TensorFloat-32
            precision="ieee" if q_BHRD.dtype == torch.float32 else "tf32",
            num_warps=tile.warps, num_stages=tile.stages, maxnreg=tile.registers,
        )  # fmt: on
    return mass_BHR, energy_BHR


def split_head(head_dim: int) -> tuple[int, int]:
    """Splits a head into two column blocks of powers of two (the second may be 0), as tensor cores need them.

    96 gives 64 and 32 rather than one block of 128, a quarter of it zeros.
    """
    whole = max(16, triton.next_power_of_2(head_dim))
    first = whole // 2
    rest = max(16, triton.next_power_of_2(head_dim - first))
    return (first, rest) if head_dim > 16 and first + rest < whole else (whole, 0)


def pick_tile(device: torch.device, dtype: torch.dtype, head_dim: int) -> Tile:
    """The tile for a device: fixed, rather than tuned at run time, so that a device always gives the same bits.

    Two programs share a multiprocessor where registers and shared memory allow, so that one's exponentials overlap
    with the other's matrix product; each of the two alone takes about as long as the other.
    """
    if INTERPRETED:
        # the interpreter pays for operations, not for elements
        return Tile(rows=256, keys=128, warps=1, stages=1)
    if dtype == torch.float32:
        # exact products run on the scalar units, whose operands fill the registers at any larger tile
        return Tile(rows=32, keys=32, warps=4, stages=1)
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10):
        return Tile(rows=128, keys=128 if head_dim <= 128 else 64, warps=8, stages=2, registers=128)
    # fits the 99 KiB of shared memory that every device since Ampere has
    return Tile(rows=128, keys=64 if head_dim <= 128 else 32, warps=8, stages=2, registers=128)
