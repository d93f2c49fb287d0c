import math

import numpy as np
import pytest
import torch

from longattn_hf.attention import far_attention, far_rows
from longattn_hf.attention.guess import Guess, guess_rows
from longattn_hf.attention.sampled import (
    Drawn,
    _standard_errors,
    draw_cells,
    estimate_sums,
    expect_misses,
    sampled_far_attention,
)
from tests.support.attention_ladder import draw

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS, FAR, RUN = 700, 175, 8
Q, K = draw(seqs=2, heads=4, key_heads=2, tokens=TOKENS, head_size=16, gain=1.5)
EXACT = far_attention(Q, K, min_distance=FAR)


def scores(far):
    block = (TOKENS - FAR) ** 2
    uniformity = -(far.far_energy - far.far_mass**2 / block) / block
    return far.far_mass.mean(1) / TOKENS, uniformity.mean(1)


def estimates(guess_keys, seeds=200):
    return [
        sampled_far_attention(Q, K, min_distance=FAR, row_fraction=1 / RUN, seed=seed, guess_keys=guess_keys)
        for seed in range(seeds)
    ]


def test_cells_are_drawn_in_proportion_to_their_sizes_and_the_largest_for_sure():
    sizes = torch.tensor([1.0, 1, 2, 4, 50, 2, 20, 3, 3], dtype=torch.float64)
    # of three cells 50 is 1.7 by its share, and of the two that are left 20 is 1.1; the others share one
    chances = torch.tensor([1, 1, 2, 4, 16, 2, 16, 3, 3]) / 16
    drawn = [draw_cells(sizes, 1 / 3, seed=seed) for seed in range(2000)]
    counts = torch.stack([one.cells_N for one in drawn]).flatten().bincount(minlength=9) / len(drawn)
    # a frequency of 1/4 in 2,000 drawings is known to .01
    torch.testing.assert_close(counts, chances.float(), rtol=0, atol=0.04)
    assert counts[4] == counts[6] == 1
    for one in drawn:
        assert len(one.cells_N) == 3 and (one.cells_N.diff() >= 0).all()
        torch.testing.assert_close(one.chances_N, chances[one.cells_N].double())


@pytest.mark.parametrize("gain", [0.5, 12])
def test_so_few_rows_that_one_alone_is_drawn_are_one_more_so_that_there_is_an_error(gain):
    q, k = draw(seqs=1, heads=4, key_heads=2, tokens=64, head_size=16, gain=gain)
    exact, num_cells = far_attention(q, k, min_distance=16).far_mass.mean() / 64, 4 * 48
    for cells in (0.1, 1, 3):
        found = [
            sampled_far_attention(q, k, min_distance=16, row_fraction=cells / num_cells, seed=seed, guess_keys=0)
            for seed in range(100)
        ]
        assert {int(one.num_rows[0]) for one in found} == {max(2, cells)}
        errors = torch.cat([one.dependency_strength_error for one in found])
        misses = torch.stack([one.far.far_mass.mean() / 64 for one in found]) - exact
        assert errors.isfinite().all() and (errors > 0).any()
        # unbiased: the mean of 100 within five of its own errors
        assert misses.mean().abs() < 5 * misses.std() / 100**0.5
    one = torch.tensor([1.0, 1, 2, 4, 50, 2, 20, 3, 3], dtype=torch.float64)
    assert (draw_cells(one, 1 / 3, seed=0).chances_N < 1).sum() == 1


def test_each_unit_of_the_line_of_chances_gives_one_cell_and_a_seed_always_the_same():
    ones = torch.ones(803, dtype=torch.float64)
    drawn = draw_cells(ones, 1 / 8, seed=3)
    assert len(drawn.cells_N) == 100 and (drawn.chances_N == 100 / 803).all()
    assert (drawn.cells_N * 100 // 803 - torch.arange(100)).abs().max() <= 1
    assert torch.equal(drawn.cells_N, draw_cells(ones, 1 / 8, seed=3).cells_N)
    assert not torch.equal(drawn.cells_N, draw_cells(ones, 1 / 8, seed=4).cells_N)
    found = torch.stack([draw_cells(ones, 1 / 8, seed=seed).cells_N for seed in range(100)])
    assert found.flatten().unique().tolist() == list(range(803))


def test_what_a_guess_is_expected_to_miss_goes_by_what_it_misses_in_the_pilots():
    guess = guess_rows(Q[0], K[0], min_distance=FAR, guess_keys=100)
    sizes = expect_misses(guess, 4, num_tokens=TOKENS, min_distance=FAR).numpy()
    sums, exact = guess.sums_2QF.double().numpy(), guess.exact_2QP.double().numpy()
    mass, energy = sums
    missed, block = exact - sums[..., guess.pilots_P], (TOKENS - FAR) ** 2
    likely = np.stack(
        [np.sqrt(np.maximum(mass * (1 - mass), 1e-9)), (energy + energy.mean(1, keepdims=True) / 1000) ** 0.75]
    )
    changes = np.stack([missed[0], 2 * mass.sum(1, keepdims=True) / block * missed[0] - missed[1]])
    rms = np.sqrt(((changes / likely[..., guess.pilots_P]) ** 2).mean(-1, keepdims=True))
    strength, uniformity = (part / part.mean() for part in rms * likely)
    expected = np.sqrt(0.3 * strength**2 + uniformity**2)
    expected = 0.3 * expected.mean() + 0.7 * expected
    np.testing.assert_allclose(sizes / sizes.mean(), expected.flatten() / expected.mean(), rtol=1e-4)
    perfect = Guess(guess.sums_2QF, guess.pilots_P, guess.sums_2QF[..., guess.pilots_P])
    assert expect_misses(perfect, 4, num_tokens=TOKENS, min_distance=FAR).tolist() == [1] * 4 * (TOKENS - FAR)


@pytest.mark.parametrize("guess_keys", [0, 100])
def test_all_rows_give_the_exact_sums_without_error(guess_keys):
    all_rows = sampled_far_attention(Q, K, min_distance=FAR, row_fraction=1.0, guess_keys=guess_keys)
    torch.testing.assert_close(all_rows.far.far_mass, EXACT.far_mass, rtol=1e-6, atol=0)
    torch.testing.assert_close(all_rows.far.far_energy, EXACT.far_energy, rtol=1e-6, atol=0)
    assert all_rows.num_rows.tolist() == [4 * (TOKENS - FAR)] * 2 and all_rows.far.impl == "blockwise"
    assert not all_rows.dependency_strength_error.any() and not all_rows.distribution_uniformity_error.any()


@pytest.mark.parametrize("guess_keys", [0, 100])
def test_estimates_are_unbiased_and_their_errors_are_as_large_as_said(guess_keys):
    found = estimates(guess_keys)
    for power, exact in ((1, EXACT.far_mass), (2, EXACT.far_energy)):
        drawn = torch.stack([f.far.far_mass if power == 1 else f.far.far_energy for f in found])
        # eight means of 200 drawings each: beyond four standard errors once in 2,000 such tests
        assert ((drawn.mean(0) - exact).abs() < 4 * drawn.std(0) / math.sqrt(len(drawn))).all()
    for at, name in enumerate(("dependency_strength_error", "distribution_uniformity_error")):
        spread = torch.stack([scores(f.far)[at] for f in found]).std(0)
        said = torch.stack([getattr(f, name) for f in found]).square().mean(0).sqrt()
        # the spread of 200 drawings is known to 5 %; runs that differ make the error said too large, never too small
        assert (said > 0.85 * spread).all() and (said < 1.6 * spread).all()


def test_an_estimate_adds_what_the_cells_drawn_miss_over_their_chances():
    generator = torch.Generator().manual_seed(0)
    sums, exact = torch.rand(2, 2, 3, generator=generator), torch.rand(2, 4, generator=generator)
    drawn = Drawn(torch.tensor([0, 2, 2, 4]), torch.tensor([0.5, 0.25, 0.25, 1.0], dtype=torch.float64))
    guess = Guess(sums, torch.tensor([0]), sums[..., :1])
    found, errors = estimate_sums(exact, guess, drawn, 2, num_tokens=5, min_distance=2)
    missed = (exact - sums.flatten(1)[:, drawn.cells_N]).double()
    first = sums[:, 0].double().sum(-1) + 2 * missed[:, 0] + 4 * missed[:, 1] + 4 * missed[:, 2]
    torch.testing.assert_close(found, torch.stack([first, sums[:, 1].double().sum(-1) + missed[:, 3]], 1))
    # how much the means over both heads change: U = (M^2 / 9 - E) / 9
    changes = torch.stack([missed[0] / 5, (2 * found[0, [0, 0, 0, 1]] / 9 * missed[0] - missed[1]) / 9]) / 2
    torch.testing.assert_close(errors, _standard_errors(changes, drawn.chances_N))
    alone, _ = estimate_sums(exact, None, drawn, 2, num_tokens=5, min_distance=2)
    exact = exact.double()
    both = torch.stack([2 * exact[:, 0] + 4 * exact[:, 1] + 4 * exact[:, 2], exact[:, 3]], 1)
    torch.testing.assert_close(alone, both)


def test_an_error_is_worked_out_as_by_hand():
    # over their chances 2, 6, 4 and, for sure, 7; the differences are 4 and -2, and 3/4 and 1/2 of three not read
    chances = torch.tensor([0.5, 0.25, 0.25, 1.0], dtype=torch.float64)
    changes = torch.tensor([[1.0, 1.5, 1, 7], [1, 0.5, 0.5, -3]], dtype=torch.float64)
    expected = (16 * (0.5 + 0.75) / 4 + 4 * (0.75 + 0.75) / 4) * 3 / 2
    torch.testing.assert_close(_standard_errors(changes, chances), torch.tensor([expected, 0]).sqrt().double())
    assert _standard_errors(changes, torch.ones(4)).tolist() == [0, 0]
    assert _standard_errors(changes[:, :1], chances[:1]).isnan().all()


def test_where_a_guess_is_useless_the_estimate_is_unbiased_and_knows_its_error():
    """Each row attends to a far key of its own, and most rows to one that does not guess."""
    generator = torch.Generator().manual_seed(0)
    k = torch.nn.functional.normalize(torch.randn(1, 1, TOKENS, 32, generator=generator), dim=-1)
    picked = (torch.rand(TOKENS, generator=generator) * (torch.arange(TOKENS) - FAR).clamp_min(0)).long()
    q = 30 * k[:, :, picked]
    exact = far_attention(q, k, min_distance=FAR, scale=1.0)
    guess = guess_rows(q[0], k[0], min_distance=FAR, scale=1.0, guess_keys=100)
    missed = torch.stack(far_rows(q, k, min_distance=FAR, scale=1.0))[:, 0, 0, FAR:] - guess.sums_2QF[:, 0]
    assert (missed[1] > 0.5).float().mean() > 0.5
    drawn = [
        sampled_far_attention(q, k, min_distance=FAR, row_fraction=1 / RUN, seed=seed, scale=1.0, guess_keys=100)
        for seed in range(200)
    ]
    for at, name in enumerate(("dependency_strength_error", "distribution_uniformity_error")):
        found = torch.stack([scores(one.far)[at] for one in drawn])
        said = torch.stack([getattr(one, name) for one in drawn]).square().mean().sqrt()
        assert (found.mean() - scores(exact)[at]).abs() < 4 * found.std() / math.sqrt(200)
        assert 0.85 * found.std() < said < 1.6 * found.std()


@pytest.mark.parametrize(("min_distance", "guess_keys"), [(128, 100), (128, TOKENS - 1)])
def test_a_guess_takes_part_where_it_saves_work_and_the_nearest_keys_are_near(min_distance, guess_keys):
    def mass(**settings):
        return sampled_far_attention(Q, K, row_fraction=1 / RUN, **settings).far.far_mass

    def alone(min_distance):
        return mass(min_distance=min_distance, guess_keys=0)

    assert not torch.equal(mass(min_distance=min_distance, guess_keys=guess_keys), alone(min_distance))
    assert torch.equal(mass(min_distance=min_distance - 1, guess_keys=guess_keys), alone(min_distance - 1))
    assert torch.equal(mass(min_distance=min_distance, guess_keys=TOKENS), alone(min_distance))


def test_a_guess_from_few_keys_leaves_less_to_chance():
    """Rows differ in how much their nearest keys draw them, which the guess knows, and in little else."""
    generator = torch.Generator().manual_seed(0)
    k = torch.randn(1, 1, 1500, 16, generator=generator)
    q = 0.5 * torch.randn(1, 2, 1500, 16, generator=generator)
    # a row's logit with its own key, of size 4 on average, is exactly what its last components say
    k[..., 8:] = torch.nn.functional.one_hot(torch.arange(1500) % 8, 8)
    q[..., 8:] = 20 * k[..., 8:] * torch.rand(1, 2, 1500, 1, generator=generator)
    k[:, :, :1200, 8:] *= 0.1
    exact = far_attention(q, k, min_distance=300).far_mass.sum()
    spread = {}
    for guess_keys in (0, 200):
        drawn = [
            sampled_far_attention(q, k, min_distance=300, row_fraction=1 / 16, seed=seed, guess_keys=guess_keys)
            for seed in range(30)
        ]
        spread[guess_keys] = math.sqrt(sum((float(d.far.far_mass.sum() - exact)) ** 2 for d in drawn) / 30)
    # 0.54 here; a guess that told nothing would give 1
    assert spread[200] < 0.7 * spread[0]


def test_a_window_does_not_feel_its_neighbours_in_the_batch():
    together = sampled_far_attention(Q, K, min_distance=FAR, row_fraction=1 / RUN, guess_keys=100)
    for b in range(2):
        alone = sampled_far_attention(
            Q[b : b + 1], K[b : b + 1], min_distance=FAR, row_fraction=1 / RUN, guess_keys=100
        )
        assert torch.equal(alone.far.far_mass[0], together.far.far_mass[b])
        assert torch.equal(alone.far.far_energy[0], together.far.far_energy[b])
        assert alone.dependency_strength_error[0] == together.dependency_strength_error[b]


@pytest.mark.parametrize("tokens", [50, 600])
def test_without_far_rows_the_sums_are_zero(tokens):
    q, k = draw(tokens=tokens)
    found = sampled_far_attention(q, k, min_distance=tokens, row_fraction=1 / 4)
    assert found.far.far_mass.item() == found.far.far_energy.item() == found.num_rows.item() == 0
    assert found.dependency_strength_error.item() == 0


def test_a_single_run_is_made_two_for_its_error_to_be_known():
    q, k = draw(tokens=100)
    found = sampled_far_attention(q, k, min_distance=90, row_fraction=1 / 16)
    assert found.num_rows.item() == 2 and found.dependency_strength_error.isfinite().all()


@pytest.mark.parametrize("guess_keys", [0, 100])
def test_a_key_that_drowns_all_others_is_no_error(guess_keys):
    q, k = Q.clone(), K.clone()
    q[..., 0], k[..., 0] = 30.0, 0.0
    k[:, :, 400, 0] = 100.0
    exact, _ = far_rows(q, k, min_distance=FAR)
    found = sampled_far_attention(q, k, min_distance=FAR, row_fraction=1 / RUN, guess_keys=guess_keys)
    assert found.far.far_mass.isfinite().all() and found.far.far_energy.isfinite().all()
    difference = (found.far.far_mass - exact.double().sum(-1)).mean(1).abs() / TOKENS
    assert (difference < 5 * found.dependency_strength_error).all()


def test_what_is_not_finite_shows():
    k = K.clone()
    k[0, 0, 30] = torch.nan
    found = sampled_far_attention(Q, k, min_distance=FAR, row_fraction=1 / RUN, guess_keys=100)
    assert found.far.far_mass[0, :2].isnan().all() and found.far.far_mass[1].isfinite().all()


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, math.nan])
def test_a_fraction_outside_zero_to_one_is_named(fraction):
    with pytest.raises(ValueError, match="row_fraction must be above 0 and at most 1"):
        sampled_far_attention(Q, K, min_distance=FAR, row_fraction=fraction)
