"""Far sums from a sample of the map's rows: unbiased, with a standard error, for a fraction of the cost.

Every row of every head is first guessed from a few keys. The guess is summed over all, and the rows read exactly
estimate only what it misses (the difference estimator of survey sampling: Sarndal, Swensson and Wretman 1992, section
6.3). A few rows of a few heads hold most of that, for energy comes in peaks, so a row's chance of being read goes by
how much the guess is expected to miss in it (section 3.6.2); its weight is the inverse of its chance, so that the
estimate is unbiased however poor the guess. Each head has rows of its own.

Shape suffixes: B batch, H key head, Q query heads, T keys, F rows with a far key, P pilot rows, R rows read of a key
head's query heads, D head size; a cell is a row of a head: C all cells of a window, head after head, N drawn ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from longattn_hf.attention.api import FarAttention, Impl, far_rows, pick_impl, validate
from longattn_hf.attention.guess import Guess, guess_rows

# the share of a cell's chance that is the same for all, which bounds the weights of cells thought to miss nothing
_EVEN = 0.3
# how the energy's error grows with the energy guessed
_POWER = 0.75
# what the mass's variance counts beside the uniformity's, each in units of its own mean
_MASS = 0.3


@dataclass(frozen=True, kw_only=True)
class SampledAttention:
    """Estimates of a layer's far sums.

    Attributes:
        far: The estimated sums, as `far_attention` returns them; `far.far_energy` may be a little below zero.
        dependency_strength_error: [B] float64, the standard error of the dependency strength's mean over heads.
        distribution_uniformity_error: [B] float64, that of the distribution uniformity.
        num_rows: [B] int64, the rows read exactly, each of one head.
    """

    far: FarAttention
    dependency_strength_error: Tensor
    distribution_uniformity_error: Tensor
    num_rows: Tensor


@dataclass(frozen=True)
class Drawn:
    """The cells of a window to read exactly.

    Attributes:
        cells_N: int64, ascending places among all cells, head after head; one may be drawn twice.
        chances_N: float64, how often each is drawn on average; 1 for those that are always.
    """

    cells_N: Tensor
    chances_N: Tensor


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
        row_fraction: The share of all heads' rows to read exactly, in (0, 1]; a row more where it leaves one alone to
            chance, of which no error could be told.
        seed: Of the drawing.
        scale: As in `far_attention`.
        impl: What reads the sampled rows, as in `far_attention`.
        guess_keys: As in `guess_rows`; 0 reads the sampled rows alone.

    Returns:
        The estimates. The mean over all drawings is the exact sum; the uniformity's has a bias far below its error,
        since it holds the square of the mass.

    Raises:
        ValueError: If `row_fraction` is not in (0, 1], or as in `far_attention`.
    """
    if not 0 < row_fraction <= 1:
        raise ValueError(f"row_fraction must be above 0 and at most 1, not {row_fraction!r}")
    validate(q, k, min_distance=min_distance, scale=scale, positions=None, lengths=None)
    shape = {"num_tokens": k.shape[2], "min_distance": min_distance}
    sums, errors, num_rows = [], [], []
    for q_QTD, k_HTD in zip(q, k, strict=True):
        guess = guess_rows(q_QTD, k_HTD, min_distance=min_distance, scale=scale, guess_keys=guess_keys)
        # on the CPU, where a sum does not depend on the run
        guess = guess and Guess(guess.sums_2QF.cpu(), guess.pilots_P, guess.exact_2QP.cpu())
        sizes_C = expect_misses(guess, len(q_QTD), **shape)
        drawn = draw_cells(sizes_C, row_fraction, seed=seed)
        while (drawn.chances_N < 1).sum() == 1:
            # a draw that has no neighbour tells nothing of the error: one more
            drawn = draw_cells(sizes_C, (len(drawn.cells_N) + 1) / len(sizes_C), seed=seed)
        exact_2N = _read(q_QTD, k_HTD, drawn.cells_N, min_distance=min_distance, scale=scale, impl=impl)
        sums_2Q, errors_2 = estimate_sums(exact_2N.cpu(), guess, drawn, len(q_QTD), **shape)
        sums.append(sums_2Q)
        errors.append(errors_2)
        num_rows.append(len(drawn.cells_N))
    sums_2BQ, errors_2B = torch.stack(sums, 1).to(q.device), torch.stack(errors, 1).to(q.device)
    return SampledAttention(
        far=FarAttention(sums_2BQ[0], sums_2BQ[1], pick_impl(impl, q.device)),
        dependency_strength_error=errors_2B[0],
        distribution_uniformity_error=errors_2B[1],
        num_rows=torch.tensor(num_rows),
    )


def expect_misses(guess: Guess | None, num_heads: int, *, num_tokens: int, min_distance: int) -> Tensor:
    """Says how much the guess is expected to miss in each cell, in proportion: float64 [C], all above 0.

    In proportion to a power of the energy guessed, and to the spread of a yes or no with the mass guessed as its
    chance; how large that is in each head, the pilots say.
    """
    if guess is None:
        return torch.ones(num_heads * max(num_tokens - min_distance, 0), dtype=torch.float64)
    mass_QF, energy_QF = guess_2QF = guess.sums_2QF.double()
    floor_Q1 = 1e-3 * energy_QF.mean(-1, keepdim=True) + 1e-300
    likely_2QF = torch.stack([(mass_QF * (1 - mass_QF)).clamp_min(1e-9).sqrt(), (energy_QF + floor_Q1) ** _POWER])
    missed_2QP = guess.exact_2QP.double() - guess_2QF[..., guess.pilots_P]
    changes_2QP = _changes(missed_2QP, mass_QF.sum(-1, keepdim=True), num_heads, num_tokens, min_distance)
    scales_2Q1 = (changes_2QP / likely_2QF[..., guess.pilots_P]).square().mean(-1, keepdim=True).sqrt()
    sizes_2C = (scales_2Q1 * likely_2QF).flatten(1)
    sizes_2C /= sizes_2C.mean(-1, keepdim=True)
    # 0 / 0 where all is guessed as it is; and what is not finite shows in the sums
    strength_C, uniformity_C = sizes_2C.nan_to_num_(0, 0, 0)
    size_C = (_MASS * strength_C.square() + uniformity_C.square()).sqrt()
    mean = size_C.mean()
    return _EVEN * mean + (1 - _EVEN) * size_C if mean > 0 else torch.ones_like(size_C)


def draw_cells(sizes_C: Tensor, row_fraction: float, *, seed: int) -> Drawn:
    """Draws cells with chances in proportion to their sizes, those that would come out above 1 for sure.

    The cells, one after the other and each as long as its chance, make a line; a point is drawn from each unit of it.
    """
    count = max(1, round(len(sizes_C) * row_fraction)) if len(sizes_C) else 0
    sure_C = torch.full(sizes_C.shape, count == len(sizes_C))
    while not sure_C.all():
        rest_C = sizes_C.masked_fill(sure_C, 0)
        chances_C = rest_C * ((count - sure_C.sum()) / rest_C.sum())
        if not (more_C := chances_C >= 1).any():
            break
        sure_C |= more_C
    cells_N = sure_C.nonzero().flatten()
    chances_N = torch.ones(len(cells_N), dtype=torch.float64)
    if (points := count - len(cells_N)) > 0:
        line_C = chances_C.cumsum(0)
        chance = torch.rand(points, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        at = (torch.arange(points) + chance) * (line_C[-1] / points)
        drawn = torch.searchsorted(line_C, at, right=True).clamp_max(int((~sure_C).nonzero()[-1]))
        cells_N, order = torch.cat([cells_N, drawn]).sort(stable=True)
        chances_N = torch.cat([chances_N, chances_C[drawn]])[order]
    return Drawn(cells_N, chances_N)


def estimate_sums(
    exact_2N: Tensor, guess: Guess | None, drawn: Drawn, num_heads: int, *, num_tokens: int, min_distance: int
) -> tuple[Tensor, Tensor]:
    """Estimates a window's far sums.

    Args:
        exact_2N: [2, N] mass and energy of the cells drawn.
        guess: What `guess_rows` returns.
        drawn: What `draw_cells` returns.
        num_heads: HQ.
        num_tokens: The window's length.
        min_distance: As in `far_attention`.

    Returns:
        float64 [2, HQ] mass and energy, and [2] the standard errors of strength and uniformity, of the means over the
        heads.
    """
    missed_2N, sums_2Q = exact_2N.double(), torch.zeros(2, num_heads, dtype=torch.float64)
    if guess is not None:
        guess_2QF = guess.sums_2QF.double()
        missed_2N, sums_2Q = missed_2N - guess_2QF.flatten(1)[:, drawn.cells_N], guess_2QF.sum(-1)
    head_N = drawn.cells_N // max(num_tokens - min_distance, 1)
    sums_2Q = sums_2Q.index_add(1, head_N, missed_2N / drawn.chances_N)
    changes_2N = _changes(missed_2N, sums_2Q[0, head_N], num_heads, num_tokens, min_distance)
    return sums_2Q, _standard_errors(changes_2N, drawn.chances_N)


def _changes(missed_2X: Tensor, mass_X: Tensor, num_heads: int, num_tokens: int, min_distance: int) -> Tensor:
    """[2, ...] by how much what is missed in a cell changes strength and uniformity, the means over the heads.

    To first order, for the uniformity is not linear in the mass, of which `mass_X` is the head's sum.
    """
    block = max(num_tokens - min_distance, 1) ** 2
    uniformity_X = (2 * mass_X / block * missed_2X[0] - missed_2X[1]) / block
    return torch.stack([missed_2X[0] / num_tokens, uniformity_X]) / num_heads


def _standard_errors(changes_2N: Tensor, chances_N: Tensor) -> Tensor:
    """The standard errors of sums over all cells, from the differences between neighbouring draws.

    Neighbours are taken for draws from cells alike; where these differ in truth, the error comes out too large.
    """
    free_N = chances_N < 1
    weighted_2N, unread_N = (changes_2N / chances_N)[:, free_N], (1 - chances_N)[free_N]
    if not len(unread_N):
        return weighted_2N.new_zeros(len(weighted_2N))
    pairs = len(unread_N) - 1
    squares_2 = (weighted_2N.diff(dim=-1).square() * (unread_N[1:] + unread_N[:-1]) / 4).sum(-1)
    # of a single draw nothing is known: 0 / 0
    return (squares_2 * len(unread_N) / pairs).sqrt() if pairs else torch.full_like(squares_2, torch.nan)


def _read(
    q_QTD: Tensor, k_HTD: Tensor, cells_N: Tensor, *, min_distance: int, scale: float | None, impl: Impl
) -> Tensor:
    """[2, N] mass and energy of some cells of a window."""
    num_far = max(q_QTD.shape[1] - min_distance, 1)
    # ascending rows, of all the query heads of a key head together
    order_N = (cells_N % num_far).argsort(stable=True)
    heads_N, positions_N = (cells_N // num_far)[order_N], (cells_N % num_far)[order_N] + min_distance
    exact_2N = q_QTD.new_empty(2, len(cells_N), dtype=torch.promote_types(q_QTD.dtype, torch.float32))
    for h, k_TD in enumerate(k_HTD):
        mine_N = heads_N // (len(q_QTD) // len(k_HTD)) == h
        positions_R = positions_N[mine_N].to(q_QTD.device)
        q_RD = q_QTD[heads_N[mine_N].to(q_QTD.device), positions_R]
        sums = far_rows(
            q_RD[None, None],
            k_TD[None, None],
            min_distance=min_distance,
            scale=scale,
            positions=positions_R,
            impl=impl,
        )
        exact_2N[:, order_N[mine_N].to(q_QTD.device)] = torch.stack(sums)[:, 0, 0]
    return exact_2N
