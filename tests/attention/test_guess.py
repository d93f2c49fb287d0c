import numpy as np
import pytest
import torch

from longattn_hf.attention import far_rows
from longattn_hf.attention.guess import _choose_keys, _guess_all, _look, pick_pilots
from tests.support.attention_ladder import draw

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = 700
Q, K = draw(heads=4, key_heads=2, tokens=TOKENS, head_size=16, gain=1.5)


@pytest.mark.parametrize("min_distance", [128, 129, 300, TOKENS - 2])
def test_a_guess_from_every_key_is_the_map_itself(min_distance):
    # with so many keys to choose, each is chosen for sure and stands for itself
    guess = _guess_all(Q[0], K[0], min_distance, 0.2, 10 * TOKENS)
    exact = torch.stack(far_rows(Q, K, min_distance=min_distance, scale=0.2))[:, 0, :, min_distance:]
    torch.testing.assert_close(guess.sums_2QF, exact, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(guess.exact_2QP, exact[..., guess.pilots_P], rtol=1e-5, atol=1e-12)
    # logits of hundreds and more, whose exponentials overflow beside that of a row's own key
    for gain in (30, 3000):
        guess = _guess_all(gain * Q[0], K[0], min_distance, 0.2, 10 * TOKENS)
        exact = torch.stack(far_rows(gain * Q, K, min_distance=min_distance, scale=0.2))[:, 0, :, min_distance:]
        torch.testing.assert_close(guess.sums_2QF, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("far_rows_", "min_distance"), [(200, 80), (40, 64)])
def test_a_keys_chance_is_half_even_and_half_by_the_energy_that_some_rows_give_it(far_rows_, min_distance):
    tokens, num_keys = far_rows_ + min_distance, 30
    q, k = draw(heads=3, tokens=far_rows_, head_size=8, gain=2.0)[0][0], draw(tokens=tokens, head_size=8)[1][0, 0]
    # up to 64 rows, from the first to the last, are read in full
    pilots = [int(at) for at in np.linspace(0, far_rows_ - 1, min(64, far_rows_))]
    assert pick_pilots(far_rows_).tolist() == pilots
    chosen, weights = _choose_keys(_look(q, k, pick_pilots(far_rows_), min_distance)[0], num_keys)
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
    importance, _ = _look(q, torch.linspace(0, 1000, 200)[:, None], pick_pilots(50), 150)
    chosen, weights = _choose_keys(importance, 50)
    # half of 50 of 200 keys: one in eight, the first where chances of an eighth have come to a half
    assert chosen.tolist() == list(range(3, 200, 8)) and weights.tolist() == [8.0] * 25
