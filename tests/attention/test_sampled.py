import math

import numpy as np
import pytest
import torch

from longattn_hf.attention import far_attention, far_rows
from longattn_hf.attention.sampled import (
    _choose_keys,
    _guess_all,
    _standard_error,
    _trust,
    sample_rows,
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


def test_without_a_guess_the_estimate_and_its_errors_are_those_of_survey_sampling():
    found = sampled_far_attention(Q, K, min_distance=FAR, row_fraction=1 / RUN, seed=5, guess_keys=0)
    positions, sizes = (x.numpy() for x in sample_rows(TOKENS, FAR, 1 / RUN, seed=5))
    mass, energy = (x.double().numpy()[:, :, positions] for x in far_rows(Q, K, min_distance=FAR))
    np.testing.assert_allclose(found.far.far_mass, (mass * sizes).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(found.far.far_energy, (energy * sizes).sum(-1), rtol=1e-5)
    # how much the mean over heads would change if one row of each score did: U = (M^2 / block - E) / block
    block, total = (TOKENS - FAR) ** 2, (mass * sizes).sum(-1, keepdims=True)
    changes = {
        "dependency_strength_error": mass.mean(1) / TOKENS,
        "distribution_uniformity_error": ((2 * total * mass / block - energy) / block).mean(1),
    }
    # a row of a run of s stands for s - 1 that were not read, with the variance of its neighbours
    unread = (sizes * (sizes - 1)).sum()
    for name, rows in changes.items():
        variance = (np.diff(rows, axis=1) ** 2).mean(1) / 2
        np.testing.assert_allclose(getattr(found, name), np.sqrt(variance * unread), rtol=1e-4)
    assert found.num_rows == len(positions)


def test_an_error_is_worked_out_as_by_hand():
    # the differences are 2, -1 and 0, 4: half their mean squares are 5/4 and 4; 12 + 12 + 2 is what was not read
    rows, sizes = torch.tensor([[1.0, 3, 2], [5, 5, 9]]), torch.tensor([4.0, 4, 2])
    expected = torch.tensor([math.sqrt(26 * 5 / 4), math.sqrt(26 * 4)])
    torch.testing.assert_close(_standard_error(rows, sizes), expected)
    assert _standard_error(rows, torch.ones(3)).tolist() == [0, 0]


def test_a_run_trusts_the_guess_as_far_as_the_runs_that_are_not_its_neighbours_bear_it_out():
    guess = torch.tensor([1.0, 5, 2, 7, 4, 6, 9])
    # what the even runs hold says how far the odd ones trust, and a constant says nothing
    exact = torch.where(torch.arange(7) % 2 == 0, 3 * guess + 11, 0.5 * guess - 2)
    torch.testing.assert_close(_trust(exact, guess), torch.tensor([0.5, 3, 0.5, 3, 0.5, 3, 0.5]))
    both = torch.stack([exact, torch.ones(7)])
    assert _trust(both, torch.stack([guess, torch.ones(7)]))[1].tolist() == [0] * 7


@pytest.mark.parametrize(("min_distance", "guess_keys"), [(64, 100), (64, TOKENS - 1)])
def test_a_guess_takes_part_where_it_saves_work_and_the_nearest_keys_are_near(min_distance, guess_keys):
    def mass(**settings):
        return sampled_far_attention(Q, K, row_fraction=1 / RUN, **settings).far.far_mass

    def alone(min_distance):
        return mass(min_distance=min_distance, guess_keys=0)

    assert not torch.equal(mass(min_distance=min_distance, guess_keys=guess_keys), alone(min_distance))
    assert torch.equal(mass(min_distance=min_distance - 1, guess_keys=guess_keys), alone(min_distance - 1))
    assert torch.equal(mass(min_distance=min_distance, guess_keys=TOKENS), alone(min_distance))


@pytest.mark.parametrize("min_distance", [64, 65, 300, TOKENS - 2])
def test_a_guess_from_every_key_is_the_map_itself(min_distance):
    # with so many keys to choose, each is chosen for sure and stands for itself
    guess = _guess_all(Q, K, min_distance, 0.2, 10 * TOKENS)
    exact = torch.stack(far_rows(Q, K, min_distance=min_distance, scale=0.2))[..., min_distance:]
    torch.testing.assert_close(guess, exact, rtol=1e-4, atol=1e-12)
    # logits of hundreds: a key after the row may leave next to nothing of what the row sees
    mass, energy = _guess_all(30 * Q, K, min_distance, 0.2, 10 * TOKENS)
    exact_mass, _ = far_rows(30 * Q, K, min_distance=min_distance, scale=0.2)
    assert ((mass - exact_mass[..., min_distance:]).abs() < 1e-3).float().mean() > 0.99
    assert (energy >= 0).all() and (energy <= mass + 1e-6).all()


@pytest.mark.parametrize(("far_rows_", "min_distance"), [(200, 80), (40, 64)])
def test_a_keys_chance_is_half_even_and_half_by_the_energy_that_some_rows_give_it(far_rows_, min_distance):
    tokens, num_keys = far_rows_ + min_distance, 30
    q, k = draw(heads=3, tokens=far_rows_, head_size=8, gain=2.0)[0][0], draw(tokens=tokens, head_size=8)[1][0, 0]
    chosen, weights = _choose_keys(q, k, min_distance, num_keys)
    # up to 64 rows, from the first to the last, are read in full
    pilots = [int(at) for at in np.linspace(0, far_rows_ - 1, min(64, far_rows_))]
    fourth, seen = np.zeros(tokens), np.zeros(tokens)
    for row in pilots:
        logits = q[:, row].double().numpy() @ k[: row + min_distance + 1].double().numpy().T
        weight = 2.0**logits
        fourth[: row + 1] += ((weight / weight.sum(1, keepdims=True)) ** 4).sum(0)[: row + 1]
        seen[: row + 1] += 1
    importance = np.sqrt(fourth / np.maximum(seen, 1))
    chance = np.minimum(1, num_keys / tokens / 2 * (1 + importance / importance.mean()))
    counted = np.floor(np.cumsum(chance) + 0.5)
    expected = np.flatnonzero(np.diff(counted, prepend=0))
    assert chosen.tolist() == expected.tolist() and 0.7 * num_keys < len(chosen) <= num_keys
    np.testing.assert_allclose(weights, 1 / chance[expected], rtol=1e-4)


def test_keys_that_no_row_attends_to_are_chosen_evenly():
    # each row's own key takes all: the others' energies are below float32
    q = torch.full((1, 50, 1), 1000.0)
    chosen, weights = _choose_keys(q, torch.linspace(0, 1000, 200)[:, None], 150, 50)
    # half of 50 of 200 keys: one in eight, the first where chances of an eighth have come to a half
    assert chosen.tolist() == list(range(3, 200, 8)) and weights.tolist() == [8.0] * 25


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
