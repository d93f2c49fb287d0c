"""Exact streaming far sums in plain PyTorch: any device, O(block) memory beside a copy of one sequence's keys.

What makes it fast: the query heads that share a key head are the rows of one product. No running maximum is kept: a
row's logit with its own key, known beforehand and always one of the summands, stands in for it, and an additional
column of the product subtracts it; the rows whose exponentials overflow all the same are done again with their true
maximum. Masks touch only the two diagonal bands in which rows differ in what they see or reach. On a CPU, threads take
blocks of rows of their own, since operations shared between threads would wait for the slower one each time.

Shape suffixes: B batch, H key head, G query heads of a key head, R rows of a block, T keys, S keys of a tile,
D head size, E = D + 1.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

# a tile's rows (of all query heads of a key head) and keys
_TILE_ON_CPU = (768, 512)
_TILE_ELSEWHERE = (4096, 8192)


def far_rows(
    q_BHRD: Tensor,
    k_BHTD: Tensor,
    *,
    min_distance: int,
    scale: float,
    positions_R: Tensor,
    lengths_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Each query row's far mass and far energy, [B, HQ, R]; arguments as in `longattn_hf.attention.far_rows`.

    Computes in float32, or float64 for float64 inputs. On a CPU the bits do not depend on the number of threads.
    """
    dtype = torch.promote_types(q_BHRD.dtype, torch.float32)
    q_BHGRD = q_BHRD.unflatten(1, (k_BHTD.shape[1], -1))
    mass_BHGR = torch.zeros(q_BHGRD.shape[:-1], dtype=dtype, device=q_BHRD.device)
    energy_BHGR = torch.zeros_like(mass_BHGR)
    tile_rows, tile_keys = _TILE_ON_CPU if q_BHRD.device.type == "cpu" else _TILE_ELSEWHERE
    block_rows = max(1, tile_rows // q_BHGRD.shape[2])

    # rows too early to have a far key, and rows of padding, stay 0
    start = int(torch.searchsorted(positions_R, min_distance))
    stops = [len(positions_R)] * len(q_BHRD)
    if lengths_B is not None:
        stops = torch.searchsorted(positions_R, lengths_B).tolist()

    for b, stop in enumerate(stops):
        k_HTE = torch.nn.functional.pad(k_BHTD[b].to(dtype), (0, 1), value=1.0)

        def sums(head_and_rows: tuple[int, slice], b: int = b, k_HTE: Tensor = k_HTE) -> tuple[Tensor, Tensor]:
            h, rows = head_and_rows
            q_GRD = q_BHGRD[b, h, :, rows].to(dtype) * (scale * math.log2(math.e))
            return _block_sums(q_GRD, k_HTE[h], positions_R[rows], min_distance, tile_keys)

        # late rows see the most keys: beginning with them leaves short blocks to fill the gaps at the end
        starts = reversed(range(start, stop, block_rows))
        blocks = [(h, slice(i, min(i + block_rows, stop))) for i in starts for h in range(len(k_HTE))]
        for (h, rows), (mass_GR, energy_GR) in zip(blocks, _map(sums, blocks, k_HTE.device), strict=True):
            mass_BHGR[b, h, :, rows] = mass_GR
            energy_BHGR[b, h, :, rows] = energy_GR
    return mass_BHGR.flatten(1, 2), energy_BHGR.flatten(1, 2)


def _block_sums(
    q_GRD: Tensor, k_TE: Tensor, positions_R: Tensor, min_distance: int, tile_keys: int
) -> tuple[Tensor, Tensor]:
    """Far mass and energy of a block of rows with at least one far key each; q holds the factor on base-2 logits."""
    own_GR = torch.linalg.vecdot(q_GRD, k_TE[positions_R, :-1])
    sums_3GR = _exp2_sums(q_GRD, own_GR, k_TE, positions_R, min_distance, tile_keys)
    # the row's own key contributes 1, so nothing that matters underflows; what overflows shows
    overflowed_GR = ~sums_3GR.isfinite().all(0)
    if overflowed_GR.any():
        q_1RD = q_GRD[overflowed_GR][None]
        those_R = positions_R.expand_as(overflowed_GR)[overflowed_GR]
        largest_1R = _largest_logits(q_1RD, k_TE, those_R, tile_keys)
        sums_3GR[:, overflowed_GR] = _exp2_sums(q_1RD, largest_1R, k_TE, those_R, min_distance, tile_keys)[:, 0]
    total_GR, far_GR, squares_GR = sums_3GR
    return far_GR / total_GR, squares_GR / total_GR / total_GR


def _exp2_sums(
    q_GRD: Tensor, reference_GR: Tensor, k_TE: Tensor, positions_R: Tensor, min_distance: int, tile_keys: int
) -> Tensor:
    """Sums of exp2(logit - reference) over the keys seen and over the far ones, and of its square over the latter."""
    q_GRE = torch.cat([q_GRD, -reference_GR[..., None]], dim=-1)
    first, last = int(positions_R.min()), int(positions_R.max())
    total, far, norms = [], [], []
    # within each stretch between these keys, either every row sees (or reaches) every key, or none, or it needs a mask
    cuts = {0, first + 1, last + 1, first - min_distance + 1, last - min_distance + 1}
    for keys in _tiles(cuts, tile_keys):
        logits_GRS = _logits(q_GRE, k_TE, positions_R, keys, masked=keys.stop > first + 1)
        weights_GRS = logits_GRS.exp2_()
        total.append(weights_GRS.sum(-1))
        if keys.start > last - min_distance:
            continue
        if keys.stop > first - min_distance + 1:
            weights_GRS *= (_distances(positions_R, keys) >= min_distance).to(weights_GRS.dtype)
        far.append(weights_GRS.sum(-1))
        norms.append(torch.linalg.vector_norm(weights_GRS, dim=-1))
    return torch.stack([torch.stack(total).sum(0), torch.stack(far).sum(0), torch.stack(norms).square_().sum(0)])


def _largest_logits(q_GRD: Tensor, k_TE: Tensor, positions_R: Tensor, tile_keys: int) -> Tensor:
    tiles = _tiles({0, int(positions_R.max()) + 1}, tile_keys)
    logits = (_logits(q_GRD, k_TE[:, :-1], positions_R, keys, masked=True) for keys in tiles)
    return torch.stack([logits_GRS.amax(-1) for logits_GRS in logits]).amax(0)


def _logits(q_GRE: Tensor, k_TE: Tensor, positions_R: Tensor, keys: slice, *, masked: bool) -> Tensor:
    logits_GRS = (q_GRE.flatten(0, 1) @ k_TE[keys].T).unflatten(0, q_GRE.shape[:2])
    if masked:
        unseen_RS = _distances(positions_R, keys) < 0
        # adding is many times faster than masked_fill_
        logits_GRS += torch.zeros_like(unseen_RS, dtype=logits_GRS.dtype).masked_fill_(unseen_RS, -torch.inf)
    return logits_GRS


def _distances(positions_R: Tensor, keys: slice) -> Tensor:
    return positions_R[:, None] - torch.arange(keys.start, keys.stop, device=positions_R.device)


def _tiles(cuts: set[int], tile_keys: int) -> Iterator[slice]:
    """Slices of nearly equal length, at most `tile_keys`, that cover the stretches between the cuts."""
    for start, stop in pairwise(sorted(cuts)):
        number = -(-(stop - start) // tile_keys)
        edges = [start + (stop - start) * i // number for i in range(number + 1)]
        yield from map(slice, edges, edges[1:])


def _map(function: Callable[[Any], Any], items: list, device: torch.device) -> list:
    """Maps on as many CPU threads as torch would use, each running its operations alone."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return list(map(function, items))
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, items))
    finally:
        # the setting is a thread's own, but also what threads started later begin with
        torch.set_num_threads(threads)
