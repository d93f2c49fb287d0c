"""Far sums from a sample of the query rows: unbiased, with a standard error, for a fraction of the cost.

The rows read exactly are one drawn at random from each run of `1 / row_fraction` consecutive rows. On their own they
say little, for rows differ by their token far more than windows differ from each other. So every row is first guessed
from a few keys, at some percent of the map's cost: the guess is summed over all rows, and the sampled rows estimate
only what it misses (the difference estimator of survey sampling: Sarndal, Swensson and Wretman 1992, section 6.3). How
far to trust the guess is learned from the other half of the sample, so the estimate is unbiased however poor it is.

Shape suffixes: B batch, H key head, G query heads of a key head, Q all query heads, R sampled rows, F rows with a far
key, T keys; in the guess R rows of a block, S chosen keys, L nearest keys of a block, P pilot rows, D head size.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from longattn_hf.attention.api import FarAttention, Impl, far_rows, pick_impl
from longattn_hf.attention.blockwise import run_on_all_threads

# rows that show which keys carry the energy
_PILOT_ROWS = 64
# each row's nearest keys, which take most of its near mass, are never guessed
_LOCAL_KEYS = 64


@dataclass(frozen=True, kw_only=True)
class SampledAttention:
    """Estimates of a layer's far sums.

    Attributes:
        far: The estimated sums, as `far_attention` returns them; `far.far_energy` may be a little below zero.
        dependency_strength_error: [B] float64, the standard error of the dependency strength's mean over heads.
        distribution_uniformity_error: [B] float64, that of the distribution uniformity.
        num_rows: The rows read exactly.
    """

    far: FarAttention
    dependency_strength_error: Tensor
    distribution_uniformity_error: Tensor
    num_rows: int


def sampled_far_attention(
    q: Tensor,
    k: Tensor,
    *,
    min_distance: int,
    row_fraction: float,
    seed: int = 0,
    scale: float | None = None,
    impl: Impl = "auto",
    guess_keys: int = 512,
) -> SampledAttention:
    """Estimates `far_attention` from a share of the rows.

    Args:
        q: [B, HQ, T, D] queries after position embedding.
        k: [B, HK, T, D] keys after position embedding.
        min_distance: As in `far_attention`.
        row_fraction: The share of the rows to read exactly, in (0, 1]; the inverse is rounded to whole rows.
        seed: Of the drawing; windows of one length share the rows drawn.
        scale: As in `far_attention`.
        impl: What reads the sampled rows, as in `far_attention`.
        guess_keys: About how many keys guess the other rows; 0 reads the sampled rows alone. The guess's accuracy
            depends on this number and little on the window's length.

    Returns:
        The estimates. The mean over all drawings is the exact sum; the uniformity's has a bias far below its error,
        since it holds the square of the mass.

    Raises:
        ValueError: If `row_fraction` is not in (0, 1], or as in `far_attention`.
    """
    num_tokens = k.shape[2]
    positions_R, sizes_R = sample_rows(num_tokens, min_distance, row_fraction, seed=seed)
    positions_R, sizes_R = positions_R.to(q.device), sizes_R.to(q.device)
    exact = far_rows(q[:, :, positions_R], k, min_distance=min_distance, scale=scale, positions=positions_R, impl=impl)
    sums_2BQ, errors_2B = estimate_sums(
        torch.stack(exact),
        guess_rows(q, k, min_distance=min_distance, scale=scale, guess_keys=guess_keys),
        positions_R,
        sizes_R,
        num_tokens=num_tokens,
        min_distance=min_distance,
    )
    return SampledAttention(
        far=FarAttention(sums_2BQ[0], sums_2BQ[1], pick_impl(impl, q.device)),
        dependency_strength_error=errors_2B[0],
        distribution_uniformity_error=errors_2B[1],
        num_rows=len(positions_R),
    )


def guess_rows(
    q: Tensor, k: Tensor, *, min_distance: int, scale: float | None = None, guess_keys: int = 512
) -> Tensor | None:
    """Guesses mass and energy of every row with a far key; arguments are those of `sampled_far_attention`.

    Returns:
        float32 [2, B, HQ, F], or None where the window is too short for a guess to pay.
    """
    if not (0 < guess_keys < k.shape[2] and _LOCAL_KEYS <= min_distance < k.shape[2]):
        return None
    return _guess_all(q, k, min_distance, 1 / math.sqrt(q.shape[-1]) if scale is None else scale, guess_keys)


def estimate_sums(
    exact_2BQR: Tensor,
    guess_2BQF: Tensor | None,
    positions_R: Tensor,
    sizes_R: Tensor,
    *,
    num_tokens: int,
    min_distance: int,
) -> tuple[Tensor, Tensor]:
    """Estimates the far sums from a sample of the rows.

    Args:
        exact_2BQR: [2, B, HQ, R] mass and energy of the rows drawn.
        guess_2BQF: What `guess_rows` returns.
        positions_R: As `sample_rows` returns them.
        sizes_R: Likewise.
        num_tokens: The window's length.
        min_distance: As in `far_attention`.

    Returns:
        float64 [2, B, HQ] mass and energy, and [2, B] the standard errors of strength and uniformity, of the means
        over the heads.
    """
    exact_2BQR = exact_2BQR.double()
    sums_2BQ, missed_2BQR = (exact_2BQR * sizes_R).sum(-1), exact_2BQR
    if guess_2BQF is not None:
        guess_2BQF = guess_2BQF.double()
        guess_2BQR = guess_2BQF[..., positions_R - min_distance]
        run = int(sizes_R.max())
        runs_2BQR = pad(guess_2BQF, (0, run * len(sizes_R) - guess_2BQF.shape[-1])).unflatten(-1, (-1, run)).sum(-1)
        trust_2BQR = _trust(exact_2BQR, guess_2BQR)
        sums_2BQ = sums_2BQ + (trust_2BQR * (runs_2BQR - guess_2BQR * sizes_R)).sum(-1)
        # neighbours are compared below, so here they share one factor
        missed_2BQR = exact_2BQR - trust_2BQR.mean(-1, keepdim=True) * guess_2BQR
    block = max(num_tokens - min_distance, 1) ** 2
    # the uniformity's derivatives by mass and energy, for it is not linear in the mass
    uniformity_BQR = (2 * sums_2BQ[0, ..., None] / block * missed_2BQR[0] - missed_2BQR[1]) / block
    strength_error_B = _standard_error(missed_2BQR[0].mean(1), sizes_R) / num_tokens
    return sums_2BQ, torch.stack([strength_error_B, _standard_error(uniformity_BQR.mean(1), sizes_R)])


def sample_rows(num_tokens: int, min_distance: int, row_fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Draws one row from each run of `1 / row_fraction` consecutive rows that have a far key.

    Returns:
        int64 [R] the rows' positions, ascending, and float64 [R] how many rows each stands for.

    Raises:
        ValueError: If `row_fraction` is not in (0, 1].
    """
    if not 0 < row_fraction <= 1:
        raise ValueError(f"row_fraction must be above 0 and at most 1, not {row_fraction!r}")
    run = round(1 / row_fraction)
    starts = torch.arange(min(min_distance, num_tokens), num_tokens, run)
    sizes = (num_tokens - starts).clamp_max(run)
    chance = torch.rand(len(starts), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return starts + (chance * sizes).long(), sizes.double()


def _standard_error(sampled_BR: Tensor, sizes_R: Tensor) -> Tensor:
    """The standard error of the sum over all rows, from the differences between neighbouring runs' draws.

    Neighbours are taken for draws from rows alike; where the runs differ in truth, the error comes out too large.
    """
    variance_B = sampled_BR.diff(dim=-1).square().mean(-1) / 2
    # a run of one row is known for sure, and so without any differences is the sum over no more than such runs
    unknown = (sizes_R * (sizes_R - 1)).sum()
    return (variance_B * unknown).sqrt() if unknown > 0 else torch.zeros_like(variance_B)


def _trust(exact_R: Tensor, guess_R: Tensor) -> Tensor:
    """The factor on each run's guess, [..., R]: the slope of exact on guess among every second run, of the others."""
    slopes = []
    for half in (1, 0):
        exact, guess = exact_R[..., half::2].diff(dim=-1), guess_R[..., half::2].diff(dim=-1)
        spread = guess.square().sum(-1)
        slopes.append(torch.where(spread > 0, (exact * guess).sum(-1) / spread, 0.0))
    even = torch.arange(exact_R.shape[-1], device=exact_R.device) % 2 == 0
    return torch.where(even, slopes[0][..., None], slopes[1][..., None])


def _guess_all(q_BQTD: Tensor, k_BHTD: Tensor, min_distance: int, scale: float, num_keys: int) -> Tensor:
    """Guesses every row with a far key: [2, B, HQ, F] float32, mass and energy."""
    q_BHGFD = q_BQTD.unflatten(1, (k_BHTD.shape[1], -1))[..., min_distance:, :]
    guess_2BHGF = torch.empty(2, *q_BHGFD.shape[:-1], device=q_BHGFD.device)
    # small enough for a core's cache, large enough for a GPU
    step = 128 if q_BHGFD.device.type == "cpu" else 1024
    for b, q_HGFD in enumerate(q_BHGFD):
        for h, q_GFD in enumerate(q_HGFD):
            guess = _Guess(q_GFD.float() * (scale * math.log2(math.e)), k_BHTD[b, h].float(), min_distance, num_keys)
            starts = iter(range(0, q_GFD.shape[1], step))

            def work(b: int = b, h: int = h, guess: _Guess = guess, starts: Iterator = starts) -> None:
                for start in starts:
                    rows = slice(start, min(start + step, guess.q_GFD.shape[1]))
                    guess_2BHGF[:, b, h, :, rows] = guess.of(rows)

            run_on_all_threads(work, q_BHGFD.device)
    return guess_2BHGF.flatten(2, 3)


class _Guess:
    """A key head's guess: a row takes its nearest keys as they are; chosen keys with weights stand for the others.

    q holds the factor to base-2 logits.
    """

    def __init__(self, q_GFD: Tensor, k_TD: Tensor, min_distance: int, num_keys: int) -> None:
        self.q_GFD, self.k_TD, self.min_distance = q_GFD, k_TD, min_distance
        self.chosen_S, self.weights_S = _choose_keys(q_GFD, k_TD, min_distance, num_keys)
        self.chosen, self.k_SD = self.chosen_S.tolist(), k_TD[self.chosen_S]

    def of(self, rows: slice) -> Tensor:
        """[2, G, R] mass and energy of some of the rows with a far key."""
        q_GRD = self.q_GFD[:, rows]
        # one product of all heads' rows, which is faster than a batch of heads
        q_ND, heads_and_rows = q_GRD.flatten(0, 1), q_GRD.shape[:2]
        first, last = self.min_distance + rows.start, self.min_distance + rows.stop - 1
        nearest = first - _LOCAL_KEYS + 1
        near_GRL = (q_ND @ self.k_TD[nearest : last + 1].T).unflatten(0, heads_and_rows)
        positions = torch.arange(nearest, last + 1, device=q_GRD.device, dtype=q_GRD.dtype)
        behind_RL = positions[_LOCAL_KEYS - 1 :, None] - positions
        # -inf outside of a row's nearest keys, +inf within; ten times faster than masked_fill_
        torch.minimum(near_GRL, _within(behind_RL, _LOCAL_KEYS), out=near_GRL)
        away_NS = q_ND @ self.k_SD[: bisect_right(self.chosen, last - _LOCAL_KEYS)].T
        away_GRS = away_NS.unflatten(0, heads_and_rows)
        # keys beyond a row's sight count here: where one drowns all that the row sees, or its square, the guess is 0
        largest_GR1 = near_GRL.amax(-1, keepdim=True)
        if away_GRS.shape[-1]:
            largest_GR1 = torch.maximum(largest_GR1, away_GRS.amax(-1, keepdim=True))
        total_GR = near_GRL.sub_(largest_GR1).exp2_().sum(-1)
        away_GRS = self._reached(away_GRS.sub_(largest_GR1).exp2_(), first, last, _LOCAL_KEYS)
        total_GR += away_GRS @ self.weights_S[: away_GRS.shape[-1]]
        far_GRS = self._reached(away_GRS, first, last, self.min_distance)
        mass_GR = far_GRS @ self.weights_S[: far_GRS.shape[-1]] / total_GR
        squared_GR = total_GR.square()
        energy_GR = far_GRS.square_() @ self.weights_S[: far_GRS.shape[-1]] / squared_GR
        return torch.stack([mass_GR, energy_GR]).masked_fill_(squared_GR == 0, 0)

    def _reached(self, away_GRS: Tensor, first: int, last: int, distance: int) -> Tensor:
        """The columns of the keys that lie `distance` or more behind some row of first to last, 0 in nearer rows."""
        of_all, of_some = (bisect_right(self.chosen, row - distance) for row in (first, last))
        reach_R1 = torch.arange(first, last + 1, device=away_GRS.device)[:, None] - distance
        away_GRS[..., of_all:of_some] *= self.chosen_S[of_all:of_some] <= reach_R1
        return away_GRS[..., :of_some]


def _within(behind: Tensor, distance: int) -> Tensor:
    """+inf where 0 <= behind < distance, -inf elsewhere, for whole numbers."""
    return torch.minimum(behind + 0.5, distance - 0.5 - behind) * torch.inf


def _choose_keys(q_GFD: Tensor, k_TD: Tensor, min_distance: int, num_keys: int) -> tuple[Tensor, Tensor]:
    """Chooses keys to stand for all, [S] ascending, and their weights, [S].

    Half of a key's chance is the even one, and half goes by the root mean square of its energy in a few rows looked
    at in full, which is best for a sum of energies; its weight is the inverse of its chance. The choice is evenly
    spaced rather than random, so that the guess depends on nothing but q and k.
    """
    num_far, num_tokens = q_GFD.shape[1], len(k_TD)
    pilots = torch.linspace(0, num_far - 1, min(_PILOT_ROWS, num_far)).long().tolist()
    squares_PT = k_TD.new_zeros(len(pilots), num_tokens)
    at = iter(range(len(pilots)))

    def work() -> None:
        for p in at:
            logits_GN = q_GFD[:, pilots[p]] @ k_TD[: pilots[p] + min_distance + 1].T
            map_GN = (logits_GN * math.log(2)).softmax(-1)
            squares_PT[p, : pilots[p] + 1] = map_GN[:, : pilots[p] + 1].square_().square_().sum(0)

    run_on_all_threads(work, k_TD.device)
    # 0 for the last keys, whose 0 / 0 is no importance
    reached_T = (torch.tensor(pilots)[:, None] >= torch.arange(num_tokens)).sum(0)
    importance_T = (squares_PT.sum(0, dtype=torch.float64) / reached_T.to(k_TD.device)).sqrt().nan_to_num(nan=0)
    even = num_keys / num_tokens
    chance_T = 0.5 * even * (1 + importance_T / importance_T.mean().clamp_min(1e-300))
    chance_T = chance_T.clamp_max(1)
    steps_T = torch.floor(chance_T.cumsum(0) + 0.5)
    chosen_S = (steps_T.diff(prepend=steps_T.new_zeros(1)) > 0).nonzero().flatten()
    return chosen_S, (1 / chance_T[chosen_S]).float()
