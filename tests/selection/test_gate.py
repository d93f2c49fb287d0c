"""What a gate refuses, and what a draw keeps."""

import math

import numpy as np
import pyarrow as pa
import pytest

from longattn_hf.columns import KEPT
from longattn_hf.selection.cut import Selection, keep_mask
from longattn_hf.selection.gate import draw, refusals


def test_a_window_is_refused_for_each_column_below_its_least_value_and_null_is_below_all():
    table = pa.table({"x": [1.0, 2.0, None, 0.5], "y": pa.array([9, 1, 9, 9], pa.int64())})
    found = {reason: mask.tolist() for reason, mask in refusals(table, {"x": 1, "y": 2.5}).items()}
    assert found == {"x below 1": [False, False, True, True], "y below 2.5": [False, True, False, False]}
    with pytest.raises(ValueError, match="No column 'z'"):
        refusals(table, {"z": 0})


def test_a_fraction_is_of_the_windows_before_the_gate_and_the_best_that_pass_are_kept():
    table = pa.table({"id": list("abcdef"), "score": [6.0, 5, 4, 3, 2, 1], "ok": [0, 1, 1, 0, 1, 1]})
    kept = Selection(score="score", fraction=0.5, gate={"ok": 1}).apply(table, by=None)
    assert kept[KEPT].to_pylist() == [False, True, True, False, True, False]


def test_a_draw_of_one_follows_the_softmax_of_the_z_scores():
    scores, temperature = np.array([0.0, 1.0, 3.0, 4.0]), 0.7
    table = pa.table({"id": list("abcd")})
    z = (scores - scores.mean()) / scores.std()
    shares = np.exp(z / temperature) / np.exp(z / temperature).sum()
    drawn = np.zeros(4)
    for seed in range(4000):
        drawn[np.argmax(draw(table, scores, temperature=temperature, seed=seed, by=None))] += 1 / 4000
    # four standard errors
    assert drawn == pytest.approx(shares, abs=4 * 0.5 / np.sqrt(4000))


def test_a_draw_does_not_depend_on_the_order_of_the_rows_and_a_larger_budget_keeps_the_smaller_ones():
    chance = np.random.default_rng(0)
    names, scores, order = [f"{n:03d}" for n in range(200)], chance.normal(size=200), chance.permutation(200)
    table = pa.table(
        {"id": names, "s": scores, "num_tokens": [10] * 200, "category": ["ab"[n % 2] for n in range(200)]}
    )
    kept = {}
    for budget in (200, 500):
        selection = Selection(score="s", token_budget=budget, temperature=0.5, seed=3)
        kept[budget] = set(table.filter(selection.apply(table)[KEPT])["id"].to_pylist())
        mixed = table.take(order)
        assert set(mixed.filter(selection.apply(mixed)[KEPT])["id"].to_pylist()) == kept[budget]
    assert kept[200] < kept[500] and len(kept[200]) == 40


def test_ranks_are_summed_from_0_to_1_with_ties_at_their_mean():
    table = pa.table({"id": list("abcd"), "x": [1.0, 1.0, 5.0, 900.0], "y": [4.0, 3.0, 2.0, 1.0]})
    ranked = Selection(score={"x": 1.0, "y": 0.5}, combine="rank", fraction=0.25).apply(table, by=None)
    assert ranked["selection_score"].to_pylist() == pytest.approx([1 / 6 + 0.5, 1 / 6 + 1 / 3, 2 / 3 + 1 / 6, 1.0])


def test_an_infinite_score_ranks_and_has_no_place_in_a_sum_or_a_draw():
    table = pa.table({"id": list("abcd"), "x": [1.0, math.inf, 2.0, 3.0], "y": [1.0, 2.0, 3.0, 4.0]})
    assert keep_mask(table, Selection(score="x", fraction=0.5), by=None).tolist() == [False, True, False, True]
    both = {"x": 1.0, "y": 1.0}
    assert keep_mask(table, Selection(score=both, combine="rank", fraction=0.5), by=None).sum() == 2
    for settings in ({"score": both}, {"score": "x", "temperature": 1.0}):
        with pytest.raises(ValueError, match="1 scores are infinite.*combine='rank'"):
            keep_mask(table, Selection(fraction=0.5, **settings), by=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate": {"x": float("inf")}}, "finite least value"),
        ({"combine": "mean"}, "must be 'zscore' or 'rank'"),
        ({"temperature": float("nan")}, "temperature=nan must be"),
        ({"temperature": 0.5, "seed": -1}, "seed of a draw is -1"),
        ({"temperature": 0.5, "fraction": None, "threshold": 1.0}, "leaves no choice"),
    ],
)
def test_what_cannot_select_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Selection(**{"fraction": 0.5} | settings)
