"""Far attention's row statistics in one streaming pass over the keys, as one Triton kernel for CUDA GPUs.

A program owns a tile of query rows and walks the keys once. For each row it carries the sum of exp over the near keys
and the sums of exp and of exp^2 over the far ones; no logit ever leaves the chip. The query heads that share a key
head lie side by side in the rows of a tile, so that each key tile is loaded once for all.

No running maximum is kept: a row's largest logit among its last keys, its own key included, stands in for it. It is
one of the summands, so that nothing underflows that matters. What overflows leaves NaN, and a second launch, which as
a rule finds nothing to do, does those rows again with their true maximum. Sums stay spread over the threads of a row
until the end, squares are added as they are multiplied, and keys come by a tensor descriptor where that can be: what
a step issues beside exponentials should not be what it waits for.

A tile's keys fall into four spans, each its own loop, so that masks are computed only where a border runs through:

    0 ........ wholly far ........ | far border | ... near ... | diagonal |
    every row's far keys            some rows'    no row's       may be beyond a row, or far when the distance is small

Names: `b_` values of a block, `o_` offsets, `m_` masks; a row is a pair of query position and query head.
"""

# ruff: noqa: ANN001, ANN202  a kernel's arguments are typed by the launch; what is not constexpr has no Python type

import contextvars
import math

import torch
import triton
import triton.language as tl

from longattn_hf.attention.tiles import INTERPRETED, Tile, can_describe, pick_tile, split_head


@triton.jit
def _load_columns(rows, stride_d, head_dim: tl.constexpr, first: tl.constexpr, num: tl.constexpr):
    """Loads columns [first, first + num) of the rows pointed at, with zeros beyond the head's size."""
    o_d = first + tl.arange(0, num)
    cells = rows[:, None] + (o_d * stride_d)[None, :]
    if first + num > head_dim:
        return tl.load(cells, mask=(o_d < head_dim)[None, :], other=0.0)
    return tl.load(cells)


@triton.jit
def _logits(q, keys, first, block_keys: tl.constexpr, parts: tl.constexpr, how: tl.constexpr, last: tl.constexpr):
    """[rows, keys / parts, parts] logits, not yet scaled, of the keys from `first` on; `last` where they may end."""
    k, num_keys, stride_kt, stride_kd = keys
    head_dim: tl.constexpr = how[0]
    d0: tl.constexpr = how[1]
    d1: tl.constexpr = how[2]
    precision: tl.constexpr = how[3]
    if how[4]:
        b_k = k.load([first, 0])
        b_s = tl.dot(q[0], tl.trans(b_k), input_precision=precision)
    else:
        # the 64-bit part of an address is one scalar a step; offsets inside a tile fit 32 bits
        o_load = tl.arange(0, block_keys)
        o_load = tl.minimum(o_load, num_keys - 1 - first) if last else o_load
        rows = k + tl.cast(first, tl.int64) * stride_kt + o_load * stride_kt
        b_k = _load_columns(rows, stride_kd, head_dim, 0, d0)
        b_s = tl.dot(q[0], tl.trans(b_k), input_precision=precision)
        if d1 > 0:
            b_k1 = _load_columns(rows, stride_kd, head_dim, d0, d1)
            b_s = tl.dot(q[1], tl.trans(b_k1), b_s, input_precision=precision)
    return tl.reshape(b_s, [b_s.shape[0], block_keys // parts, parts])


@triton.jit
def _up_to(o_last, first, block_keys: tl.constexpr, parts: tl.constexpr):
    """[rows, keys / parts, parts]: which of the keys from `first` on are at most each row's `o_last`."""
    # a thread's keys then differ by constants, where an index for each would fill the registers
    o_part, o_step = tl.arange(0, parts), tl.arange(0, block_keys // parts) * parts
    return o_step[None, :, None] <= (o_last[:, None] - first - o_part[None, :])[:, None, :]


@triton.jit
def _add_squares(b_sum, b_w):
    """[rows, parts]: b_sum and the squares of b_w, [rows, steps, parts], in one instruction each instead of two."""
    if b_w.shape[1] == 1:
        b_last = tl.reshape(b_w, b_sum.shape)
        return tl.fma(b_last, b_last, b_sum)
    else:
        b_halves = tl.reshape(b_w, [b_w.shape[0], 2, b_w.shape[1] // 2, b_w.shape[2]])
        b_w0, b_w1 = tl.split(tl.permute(b_halves, [0, 2, 3, 1]))
        return _add_squares(_add_squares(b_sum, b_w0), b_w1)


@triton.jit
def _largest(q, o_n, keys, start, stop, block_keys: tl.constexpr, parts: tl.constexpr, how: tl.constexpr):
    """Each row's largest logit, not yet scaled, among the keys [start, stop) that it sees."""
    b_max = tl.full([o_n.shape[0], parts], float("-inf"), tl.float32)
    for first in tl.range(start, stop, block_keys):
        b_s = _logits(q, keys, first, block_keys, parts, how, last=True)
        b_max = tl.maximum(b_max, tl.max(tl.where(_up_to(o_n, first, block_keys, parts), b_s, float("-inf")), 1))
    return tl.max(b_max, 1)


# fmt: off
@triton.jit
def _absorb(
    b_near, b_far, b_far2, b_ref, q, o_n, min_distance, keys, start, stop, log2_scale,
    block_keys: tl.constexpr, parts: tl.constexpr, how: tl.constexpr, far: tl.constexpr, diagonal: tl.constexpr,
):  # fmt: on
    """Takes the keys [start, stop) into the rows' sums; `far` is "all", "some" or "none", `diagonal` masks keys > n.

    b_near and b_far are the sums of w = exp2(logit - b_ref) over near and far keys, b_far2 that of w^2 over far ones,
    [rows, parts] each; logits and b_ref, [rows], in units of log2.
    """
    for first in tl.range(start, stop, block_keys):
        b_s = _logits(q, keys, first, block_keys, parts, how, last=diagonal)
        b_w = tl.exp2(tl.fma(b_s, log2_scale, -b_ref[:, None, None]))
        if diagonal:
            b_w = tl.where(_up_to(o_n, first, block_keys, parts), b_w, 0.0)
        if far != "all":
            b_near += tl.sum(b_w, 1)
        if far == "some":
            b_w = tl.where(_up_to(o_n - min_distance, first, block_keys, parts), b_w, 0.0)
            # what this leaves is as exact as the sum of near and far, which is all that it is for
            b_near -= tl.sum(b_w, 1)
        if far != "none":
            b_far += tl.sum(b_w, 1)
            # a step's squares by themselves first: one by one onto a long sum each would lose its last bits
            b_far2 += _add_squares(tl.zeros_like(b_far2), b_w)
    return b_near, b_far, b_far2


# fmt: off
@triton.jit(do_not_specialize=["num_rows", "num_keys", "min_distance", "again"])
def _far_rows_kernel(
    q, k, positions, lengths, mass, energy,
    num_rows, num_keys, min_distance, log2_scale, again,
    stride_qb, stride_qh, stride_qr, stride_qd,
    stride_kb, stride_kh, stride_kt, stride_kd,
    num_key_heads: tl.constexpr, group: tl.constexpr,
    head_dim: tl.constexpr, d0: tl.constexpr, d1: tl.constexpr,
    block_rows: tl.constexpr, block_keys: tl.constexpr, parts: tl.constexpr,
    precision: tl.constexpr, described: tl.constexpr,
):  # fmt: on
    """Writes mass and energy of all rows, or, `again`, of those whose mass is NaN."""
    # late rows see the most keys; starting with them leaves only short programs for the end
    first_flat = (tl.num_programs(0) - 1 - tl.program_id(0)) * block_rows
    i_h, i_b = tl.program_id(1), tl.program_id(2)

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

    o_out = (i_b.to(tl.int64) * num_key_heads * group + o_h) * num_rows + o_r
    if again:
        b_mass = tl.load(mass + o_out)
        m_row = m_row & (b_mass != b_mass)
        if tl.max(m_row.to(tl.int32), 0) == 0:
            return
    if (n_first >= length) | (n_last < min_distance):
        tl.store(mass + o_out, tl.zeros([block_rows], tl.float32), mask=m_row)
        tl.store(energy + o_out, tl.zeros([block_rows], tl.float32), mask=m_row)
        return

    q_rows = q + i_b.to(tl.int64) * stride_qb + o_h.to(tl.int64) * stride_qh + o_r.to(tl.int64) * stride_qr
    b_q0 = _load_columns(q_rows, stride_qd, head_dim, 0, d0)
    b_q = (b_q0, _load_columns(q_rows, stride_qd, head_dim, d0, d1)) if d1 > 0 else (b_q0, b_q0)
    k += i_b.to(tl.int64) * stride_kb + i_h.to(tl.int64) * stride_kh
    if described:
        k = tl.make_tensor_descriptor(k, [num_keys, head_dim], [stride_kt, 1], [block_keys, d0])
    keys = (k, num_keys, stride_kt, stride_kd)
    how: tl.constexpr = (head_dim, d0, d1, precision, described)

    # the four spans' borders, in whole key tiles; each row sees a key of the last span
    diagonal = n_first // block_keys * block_keys
    border = tl.minimum(tl.maximum(n_first + 1 - min_distance, 0) // block_keys * block_keys, diagonal)
    near = tl.minimum(tl.cdiv(n_last + 1 - min_distance, block_keys) * block_keys, diagonal)

    start = tl.where(again != 0, 0, diagonal)
    b_ref = _largest(b_q, o_n, keys, start, n_last + 1, block_keys, parts, how) * log2_scale
    b_near = tl.zeros([block_rows, parts], tl.float32)
    b_far = tl.zeros([block_rows, parts], tl.float32)
    b_far2 = tl.zeros([block_rows, parts], tl.float32)
    # fmt: off
    b_near, b_far, b_far2 = _absorb(
        b_near, b_far, b_far2, b_ref, b_q, o_n, min_distance, keys, 0, border, log2_scale,
        block_keys, parts, how, far="all", diagonal=False)
    b_near, b_far, b_far2 = _absorb(
        b_near, b_far, b_far2, b_ref, b_q, o_n, min_distance, keys, border, near, log2_scale,
        block_keys, parts, how, far="some", diagonal=False)
    b_near, b_far, b_far2 = _absorb(
        b_near, b_far, b_far2, b_ref, b_q, o_n, min_distance, keys, near, diagonal, log2_scale,
        block_keys, parts, how, far="none", diagonal=False)
    b_near, b_far, b_far2 = _absorb(
        b_near, b_far, b_far2, b_ref, b_q, o_n, min_distance, keys, diagonal, n_last + 1, log2_scale,
        block_keys, parts, how, far="some", diagonal=True)
    # fmt: on
    b_mass, b_energy = tl.sum(b_far, 1), tl.sum(b_far2, 1)
    b_sum = tl.sum(b_near, 1) + b_mass
    b_mass = tl.where(b_sum + b_energy < float("inf"), b_mass / b_sum, float("nan"))
    tl.store(mass + o_out, tl.where(m_valid, b_mass, 0.0), mask=m_row)
    tl.store(energy + o_out, tl.where(m_valid, b_energy / b_sum / b_sum, 0.0), mask=m_row)


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
    generation = torch.cuda.get_device_capability(q_BHRD.device)[0] if q_BHRD.device.type == "cuda" else 0
    tile = tile or pick_tile(generation, q_BHRD.dtype, head_dim)
    if INTERPRETED and q_BHRD.dtype == torch.bfloat16:
        # the interpreter multiplies the bits of bfloat16 as integers; float32 holds the same values
        q_BHRD, k_BHTD = q_BHRD.float(), k_BHTD.float()
    d0, d1 = split_head(head_dim)
    group = num_heads // num_key_heads
    mass_BHR = torch.empty(num_seqs, num_heads, num_rows, dtype=torch.float32, device=q_BHRD.device)
    energy_BHR = torch.empty_like(mass_BHR)
    grid = (triton.cdiv(num_rows * group, tile.rows), num_key_heads, num_seqs)
    # a context of its own, for descriptors want memory while a kernel runs, and whose it is holds for a whole context
    context = contextvars.copy_context()
    context.run(triton.set_allocator, lambda size, _, __: k_BHTD.new_empty(size, dtype=torch.int8))
    with torch.cuda.device_of(q_BHRD):
        # the second time for the rows, usually none, whose exponentials overflow
        for again in (0, 1):
            # fmt: off
            context.run(
                _far_rows_kernel[grid], q_BHRD, k_BHTD, positions_R, lengths_B, mass_BHR, energy_BHR,
                num_rows, num_keys, min(min_distance, num_keys), scale * math.log2(math.e), again,
                *q_BHRD.stride(), *k_BHTD.stride(),
                num_key_heads=num_key_heads, group=group, head_dim=head_dim, d0=d0, d1=d1,
                block_rows=tile.rows, block_keys=tile.keys, parts=tile.parts,
                # the kernel is exact: float32 products are not rounded to TensorFloat-32
                precision="ieee" if q_BHRD.dtype == torch.float32 else "tf32",
                described=can_describe(generation, k_BHTD),
                **tile.options,
            )  # fmt: on
    return mass_BHR, energy_BHR
