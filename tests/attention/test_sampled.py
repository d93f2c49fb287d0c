import math

import pytest
import torch

from longattn_hf.attention import far_attention, far_rows
from longattn_hf.attention.sampled import sample_rows, sampled_far_attention
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


def test_each_run_of_rows_gives_one_row_that_stands_for_it():
    positions, sizes = sample_rows(103, 20, 1 / 8, seed=3)
    assert (positions - 20).div(8, rounding_mode="floor").tolist() == list(range(11))
    assert sizes.tolist() == [8] * 10 + [3] and positions.max() < 103
    again, _ = sample_rows(103, 20, 1 / 8, seed=3)
    other, _ = sample_rows(103, 20, 1 / 8, seed=4)
    assert torch.equal(positions, again) and not torch.equal(positions, other)
    # every row of a run is drawn, the short run's too
    drawn = torch.stack([sample_rows(103, 20, 1 / 8, seed=seed)[0] for seed in range(300)])
    assert sorted(drawn.flatten().unique().tolist()) == list(range(20, 103))


@pytest.mark.parametrize("guess_keys", [0, 100])
def test_all_rows_give_the_exact_sums_without_error(guess_keys):
    all_rows = sampled_far_attention(Q, K, min_distance=FAR, row_fraction=1.0, guess_keys=guess_keys)
    torch.testing.assert_close(all_rows.far.far_mass, EXACT.far_mass, rtol=1e-6, atol=0)
    torch.testing.assert_close(all_rows.far.far_energy, EXACT.far_energy, rtol=1e-6, atol=0)
    assert all_rows.num_rows == TOKENS - FAR and all_rows.far.impl == "blockwise"
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


def test_without_far_rows_the_sums_are_zero():
    q, k = draw(tokens=50)
    found = sampled_far_attention(q, k, min_distance=50, row_fraction=1 / 4)
    assert found.far.far_mass.item() == found.far.far_energy.item() == found.num_rows == 0
    assert found.dependency_strength_error.item() == 0


def test_a_single_run_has_no_known_error():
    q, k = draw(tokens=100)
    found = sampled_far_attention(q, k, min_distance=90, row_fraction=1 / 16)
    assert found.num_rows == 1 and found.dependency_strength_error.isnan().all()


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
