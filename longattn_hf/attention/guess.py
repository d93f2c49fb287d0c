"""Guesses every row's far sums from a few keys, at some percent of the map's cost, and how far off that may be.

The rows of a block take the nearest keys as they are; some hundred keys, chosen with unequal chances, stand with
weights for all others. A few rows, the pilots, are looked at in full: they show which keys carry the energy, and what
is missed.

Shape suffixes: H key head, G query heads of a key head, Q all query heads, T keys, F rows with a far key; R rows of a
block, N those of all G heads, S chosen keys, L nearest keys of a block, P pilot rows, D head size, E = D + 2.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from longattn_hf.attention.blockwise import run_on_all_threads

_PILOT_ROWS = 64
# pilots that share one product
_PILOTS_AT_ONCE = 8
# each row's nearest keys, which take most of its near mass, are never guessed; nor are those of its block's other rows
_LOCAL_KEYS = 64


@dataclass(frozen=True)
class Guess:
    """What a few keys say of each row of a window.

    Attributes:
        sums_2QF: float32, mass and energy of every row with a far key.
        pilots_P: int64, the rows looked at in full, counted from the first with a far key.
        exact_2QP: float32, their sums.
    """

    sums_2QF: Tensor
    pilots_P: Tensor
    exact_2QP: Tensor


def guess_rows(
    q: Tensor, k: Tensor, *, min_distance: int, scale: float | None = None, guess_keys: int = 512
) -> Guess | None:
    """Guesses the far sums of every row with a far key, of one window.

    Args:
        q: [HQ, T, D] queries after position embedding.
        k: [HK, T, D] keys likewise.
        min_distance: As in `far_attention`.
        scale: As in `far_attention`.
        guess_keys: About how many keys guess; the guess's accuracy depends on this and little on T.

    Returns:
        The guess, or None where the window is too short for one to pay.
    """
    if not (0 < guess_keys < k.shape[1] and 2 * _LOCAL_KEYS <= min_distance < k.shape[1]):
        return None
    return _guess_all(q, k, min_distance, 1 / math.sqrt(q.shape[-1]) if scale is None else scale, guess_keys)


def pick_pilots(num_far: int) -> Tensor:
    """Returns the rows to look at in full, int64 [P], counted from the first with a far key: evenly spaced ones."""
    return torch.linspace(0, num_far - 1, min(_PILOT_ROWS, num_far)).long()


def _guess_all(q: Tensor, k: Tensor, min_distance: int, scale: float, num_keys: int) -> Guess:
    q_HGFD = q.unflatten(0, (len(k), -1))[..., min_distance:, :]
    num_far = q_HGFD.shape[2]
    pilots_P = pick_pilots(num_far)
    sums_2HGF = torch.empty(2, *q_HGFD.shape[:-1], device=q.device)
    exact_2HGP = torch.empty(*sums_2HGF.shape[:-1], len(pilots_P), device=q.device)
    # small enough for a core's cache, large enough for a GPU
    step = 128 if q.device.type == "cpu" else 1024
    # no row of a block has a far key among its block's nearest
    step = min(step, min_distance - _LOCAL_KEYS + 1)
    for h, (q_GFD, k_TD) in enumerate(zip(q_HGFD, k, strict=True)):
        q_GFD, k_TD = q_GFD.float() * (scale * math.log2(math.e)), k_TD.float()
        importance_T, exact_2HGP[:, h] = _look(q_GFD, k_TD, pilots_P, min_distance)
        head = _Head(q_GFD, k_TD, min_distance, *_choose_keys(importance_T, num_keys), step)
        starts = iter(range(0, num_far, step))

        def work(h: int = h, head: _Head = head, starts: Iterator = starts) -> None:
            for start in starts:
                rows = slice(start, min(start + step, num_far))
                sums_2HGF[:, h, :, rows] = head.guess(rows)

        run_on_all_threads(work, q.device)
    return Guess(sums_2HGF.flatten(1, 2), pilots_P, exact_2HGP.flatten(1, 2))


def _look(q_GFD: Tensor, k_TD: Tensor, pilots_P: Tensor, min_distance: int) -> tuple[Tensor, Tensor]:
    """Looks at the pilots in full: float64 [T], each key's root mean square energy in them, and their sums [2, G, P].

    q holds the factor to base-2 logits.
    """
    pilots, num_tokens = pilots_P.tolist(), len(k_TD)
    parts = [pilots[at : at + _PILOTS_AT_ONCE] for at in range(0, len(pilots), _PILOTS_AT_ONCE)]
    squares_XT = k_TD.new_zeros(len(parts), num_tokens)
    exact_2GP = k_TD.new_zeros(2, len(q_GFD), len(pilots))
    at = iter(range(len(parts)))

    def work() -> None:
        for x in at:
            rows = torch.tensor(parts[x], device=k_TD.device)
            stop = parts[x][-1] + min_distance + 1
            logits_GRT = (q_GFD[:, rows].flatten(0, 1) @ k_TD[:stop].T).unflatten(0, (-1, len(rows)))
            # whole numbers, exact in float32, so that a minimum masks, which is ten times faster than masked_fill_
            behind_RT = (rows[:, None] + min_distance - torch.arange(stop, device=k_TD.device)).to(k_TD.dtype)
            map_GRT = torch.minimum(logits_GRT.mul_(math.log(2)), (behind_RT + 0.5) * torch.inf).softmax(-1)
            far_RT = (behind_RT[:, : stop - min_distance] - (min_distance - 1)).clamp_(0, 1)
            far_GRT = map_GRT[..., : stop - min_distance].mul_(far_RT)
            mass_GR, far_GRT = far_GRT.sum(-1), far_GRT.square_()
            place = slice(x * _PILOTS_AT_ONCE, x * _PILOTS_AT_ONCE + len(rows))
            exact_2GP[:, :, place] = torch.stack([mass_GR, far_GRT.sum(-1)])
            squares_XT[x, : stop - min_distance] = far_GRT.square_().sum((0, 1))

    run_on_all_threads(work, k_TD.device)
    # 0 for the last keys, whose 0 / 0 is no importance
    reached_T = (pilots_P[:, None] >= torch.arange(num_tokens)).sum(0)
    importance_T = (squares_XT.sum(0, dtype=torch.float64) / reached_T.to(k_TD.device)).sqrt().nan_to_num(nan=0)
    return importance_T, exact_2GP


def _choose_keys(importance_T: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    """Chooses keys to stand for all, [S] ascending, and their weights, [S].

    Half of a key's chance is the even one, and half goes by its importance, which is best for a sum of energies; its
    weight is the inverse of its chance. The choice is evenly spaced rather than random, so that the guess depends on
    nothing but q and k.
    """
    even = num_keys / len(importance_T)
    chance_T = 0.5 * even * (1 + importance_T / importance_T.mean().clamp_min(1e-300))
    chance_T = chance_T.clamp_max(1)
    steps_T = torch.floor(chance_T.cumsum(0) + 0.5)
    chosen_S = (steps_T.diff(prepend=steps_T.new_zeros(1)) > 0).nonzero().flatten()
    return chosen_S, (1 / chance_T[chosen_S]).float()


class _Head:
    """The query heads of a key head, in blocks of at most `step` rows; q holds the factor to base-2 logits.

    Each chosen key's weight is split: its root is in the product, as one more component, for the norm to see the
    weight once where it sees the exponential twice; the other root comes with the sum.
    """

    def __init__(
        self, q_GFD: Tensor, k_TD: Tensor, min_distance: int, chosen_S: Tensor, weights_S: Tensor, step: int
    ) -> None:
        self.min_distance, self.chosen_S, self.chosen = min_distance, chosen_S, chosen_S.tolist()
        # the heads of a row side by side, so that a block is one matrix
        self.q_FGE, self.k_TE = pad(q_GFD.transpose(0, 1), (0, 2), value=1.0), pad(k_TD, (0, 2), value=1.0)
        # a row's logit with its own key stands in for the largest, as long as nothing overflows
        self.q_FGE[..., -2] = -torch.linalg.vecdot(self.q_FGE[..., :-2], k_TD[min_distance:, None])
        self.roots_S, self.k_SE = weights_S.sqrt(), self.k_TE[chosen_S]
        self.k_TE[:, -1], self.k_SE[:, -1] = 0.0, weights_S.log2() / 2
        last_R, nearest_L = torch.arange(step) + (_LOCAL_KEYS - 1), torch.arange(step + _LOCAL_KEYS - 1)
        # +inf where a row sees the key, else -inf; ten times faster than masked_fill_
        self.seen_RL = ((last_R[:, None] - nearest_L + 0.5) * torch.inf).to(k_TD.device)

    def guess(self, rows: slice) -> Tensor:
        """[2, G, R] mass and energy of some of the rows with a far key."""
        q_RGE, first, last = self.q_FGE[rows], self.min_distance + rows.start, self.min_distance + rows.stop - 1
        sums_2RG = self._sums(q_RGE, first, last)
        lost_RG = ~sums_2RG.isfinite().all(0)
        if lost_RG.any():
            sums_2RG = torch.where(lost_RG, self._sums(self._below_largest(q_RGE, first, last), first, last), sums_2RG)
        return sums_2RG.transpose(1, 2)

    def _sums(self, q_RGE: Tensor, first: int, last: int) -> Tensor:
        near_RGL, away_RGS = self._logits(q_RGE, first, last)
        total_RG = near_RGL.exp2_().sum(-1)
        total_RG += away_RGS.exp2_() @ self.roots_S[: away_RGS.shape[-1]]
        far_RGS = self._reached(away_RGS, first, last)
        mass_RG = far_RGS @ self.roots_S[: far_RGS.shape[-1]] / total_RG
        energy_RG = (torch.linalg.vector_norm(far_RGS, dim=-1) / total_RG).square()
        return torch.stack([mass_RG, energy_RG])

    def _logits(self, q_RGE: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        """[R, G, L] of the nearest keys, -inf where a row sees none, and [R, G, S] of the chosen ones before them."""
        nearest = first - _LOCAL_KEYS + 1
        # one product of all heads' rows, which is faster than a batch of heads
        q_NE = q_RGE.flatten(0, 1)
        near_NL = q_NE @ self.k_TE[nearest : last + 1].T
        away_NS = q_NE @ self.k_SE[: bisect_left(self.chosen, nearest)].T
        near_RGL, away_RGS = (logits_N.unflatten(0, q_RGE.shape[:2]) for logits_N in (near_NL, away_NS))
        seen_RL = self.seen_RL[: near_RGL.shape[0], : near_RGL.shape[2]]
        return torch.minimum(near_RGL, seen_RL[:, None], out=near_RGL), away_RGS

    def _below_largest(self, q_RGE: Tensor, first: int, last: int) -> Tensor:
        """Takes each row's largest logit off in place of its own key's."""
        q_RGE = q_RGE.clone()
        q_RGE[..., -2] = 0
        both = [logits.amax(-1) for logits in self._logits(q_RGE, first, last) if logits.shape[-1]]
        q_RGE[..., -2] = -torch.stack(both).amax(0)
        return q_RGE

    def _reached(self, away_RGS: Tensor, first: int, last: int) -> Tensor:
        """The columns of the keys that are far from some row of first to last, 0 in nearer rows."""
        of_all, of_some = (bisect_right(self.chosen, row - self.min_distance) for row in (first, last))
        reach_R1 = torch.arange(first, last + 1, device=away_RGS.device)[:, None] - self.min_distance
        away_RGS[..., of_all:of_some] *= (self.chosen_S[of_all:of_some] <= reach_R1)[:, None]
        return away_RGS[..., :of_some]
