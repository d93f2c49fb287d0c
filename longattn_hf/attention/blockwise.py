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

import torch
from torch import Tensor
from torch.nn.functional import pad

# a tile's rows (of all query heads of a key head) and keys; products of other than whole _UNITs are slower
_TILE_ON_CPU = (768, 768)
_TILE_ELSEWHERE = (4096, 8192)
# positions from a block's first row to its last
_SPAN_ON_CPU = 1024
_UNIT = 64


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
    block_rows = max(_UNIT, tile_rows // q_BHGRD.shape[2] // _UNIT * _UNIT)

    if q_BHRD.device.type == "cpu" and len(positions_R):
        # of rows far apart a block computes much that the first ones do not see, so it takes fewer
        near = _SPAN_ON_CPU * len(positions_R) // (int(positions_R[-1] - positions_R[0]) + 1)
        block_rows = min(block_rows, max(_UNIT, near // _UNIT * _UNIT))

    # rows too early to have a far key, and rows of padding, stay 0
    start = int(torch.searchsorted(positions_R, min_distance))
    stops = [len(positions_R)] * len(q_BHRD)
    if lengths_B is not None:
        stops = torch.searchsorted(positions_R, lengths_B).tolist()

    for b, stop in enumerate(stops):
        k_HTE = pad(k_BHTD[b].to(dtype), (0, 1), value=1.0)
        # late rows see the most keys: beginning with them leaves short blocks to fill the gaps at the end
        blocks = iter([(h, i) for i in reversed(range(start, stop, block_rows)) for h in range(len(k_HTE))])

        def work(b: int = b, stop: int = stop, k_HTE: Tensor = k_HTE, blocks: Iterator = blocks) -> None:
            # one buffer for all tiles: fresh pages cost a few percent
            buffer = k_HTE.new_empty(q_BHGRD.shape[2] * block_rows * tile_keys)
            for h, i in blocks:
                rows = slice(i, min(i + block_rows, stop))
                q_GRD = q_BHGRD[b, h, :, rows].to(dtype) * (scale * math.log2(math.e))
                block = _Block(q_GRD, k_HTE[h], positions_R[rows], min_distance, tile_keys, buffer)
                mass_BHGR[b, h, :, rows], energy_BHGR[b, h, :, rows] = block.mass_and_energy()

        run_on_all_threads(work, q_BHRD.device)
    return mass_BHGR.flatten(1, 2), energy_BHGR.flatten(1, 2)


class _Block:
    """Rows of one key head's query heads, with at least one far key each; q holds the factor to base-2 logits."""

    def __init__(
        self, q_GRD: Tensor, k_TE: Tensor, positions_R: Tensor, min_distance: int, tile_keys: int, buffer: Tensor
    ) -> None:
        self.q_GRD, self.k_TE, self.positions_R, self.min_distance = q_GRD, k_TE, positions_R, min_distance
        self.tile_keys, self.buffer = tile_keys, buffer
        self.first, self.last = int(positions_R.min()), int(positions_R.max())

    def mass_and_energy(self) -> tuple[Tensor, Tensor]:
        """[G, R] each."""
        own_GR = torch.linalg.vecdot(self.q_GRD, self.k_TE[self.positions_R, :-1])
        sums_3GR = self._exp2_sums(own_GR)
        # a row's own key contributes 1, so that nothing underflows that matters; and what overflows shows
        again_GR = ~sums_3GR.isfinite().all(0)
        if again_GR.any():
            positions_R = self.positions_R.expand_as(again_GR)[again_GR]
            rest = _Block(
                self.q_GRD[again_GR][None], self.k_TE, positions_R, self.min_distance, self.tile_keys, self.buffer
            )
            sums_3GR[:, again_GR] = rest._exp2_sums(rest._largest_logits())[:, 0]
        total_GR, far_GR, squares_GR = sums_3GR
        return far_GR / total_GR, squares_GR / total_GR / total_GR

    def _exp2_sums(self, reference_GR: Tensor) -> Tensor:
        """[3, G, R]: exp2(logit - reference) summed over the keys seen, over the far ones, and squared over these."""
        q_GRE = torch.cat([self.q_GRD, -reference_GR[..., None]], dim=-1)
        nearest_far = self.last - self.min_distance
        total, far, norms = [], [], []
        for keys in self._tiles():
            weights_GRS = self._logits(q_GRE, self.k_TE, keys).exp2_()
            sum_GR = weights_GRS.sum(-1)
            total.append(sum_GR)
            if keys.start > nearest_far:
                continue
            if keys.stop > self.first - self.min_distance + 1:
                weights_GRS *= self._distances(keys, self.min_distance - 1).clamp_(0, 1)
                sum_GR = weights_GRS.sum(-1)
            far.append(sum_GR)
            norms.append(torch.linalg.vector_norm(weights_GRS, dim=-1))
        return torch.stack([torch.stack(total).sum(0), torch.stack(far).sum(0), torch.stack(norms).square_().sum(0)])

    def _largest_logits(self) -> Tensor:
        k_TD = self.k_TE[:, :-1]
        return torch.stack([self._logits(self.q_GRD, k_TD, keys).amax(-1) for keys in self._tiles()]).amax(0)

    def _logits(self, q_GRE: Tensor, k_TE: Tensor, keys: slice) -> Tensor:
        """[G, R, S] base-2 logits, -inf where a row does not see the key; they lie in the block's buffer."""
        q_NE, k_SE = q_GRE.flatten(0, 1), k_TE[keys]
        logits_NS = self.buffer[: len(q_NE) * len(k_SE)].view(len(q_NE), len(k_SE))
        torch.mm(q_NE, k_SE.T, out=logits_NS)
        logits_GRS = logits_NS.unflatten(0, q_GRE.shape[:2])
        if keys.stop > self.first + 1:
            # +inf where it sees the key; ten times faster than masked_fill_
            torch.minimum(logits_GRS, (self._distances(keys, 0) + 0.5) * torch.inf, out=logits_GRS)
        return logits_GRS

    def _distances(self, keys: slice, less: int) -> Tensor:
        """[R, S]: how far each key lies behind each row, less a constant."""
        ahead_R = (self.positions_R - (keys.start + less)).to(self.q_GRD.dtype)
        return ahead_R[:, None] - torch.arange(keys.stop - keys.start, device=ahead_R.device)

    def _tiles(self) -> Iterator[slice]:
        """Slices of at most `tile_keys` keys over all that any row sees, cut where a mask begins or ends to be due."""
        stop_all = self.last + 1
        cuts = {
            _down(self.first - self.min_distance + 1),
            _up(self.last - self.min_distance + 1),
            _down(self.first + 1),
        }
        for start, stop in pairwise(sorted({0, stop_all, *(cut for cut in cuts if cut < stop_all)})):
            step = _up(math.ceil((stop - start) / math.ceil((stop - start) / self.tile_keys)))
            yield from (slice(i, min(i + step, stop)) for i in range(start, stop, step))


def _down(count: int) -> int:
    return count // _UNIT * _UNIT


def _up(count: int) -> int:
    return -(-count // _UNIT) * _UNIT


def run_on_all_threads(work: Callable[[], None], device: torch.device) -> None:
    """Calls `work` once on each of as many CPU threads as torch would use, their operations being single-threaded."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1

    # the mode is a thread's own
    @torch.inference_mode()
    def alone() -> None:
        work()

    if threads == 1:
        return alone()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for done in [pool.submit(alone) for _ in range(threads)]:
                done.result()
    finally:
        # that setting is a thread's own too, but also what later threads begin with
        torch.set_num_threads(threads)
