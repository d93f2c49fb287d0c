import logging

import numpy as np
import pytest
from datasets import Dataset

from longattn_hf import select_windows
from longattn_hf.selection.cautions import caution, count_tied


def test_windows_are_tied_where_equal_scores_stand_on_both_sides_of_the_cut():
    scores = np.array([3.0, 1, 1, 1, 0])
    assert count_tied(scores, np.array([True, True, False, False, False])) == 3
    assert count_tied(scores, np.array([True, True, True, True, False])) == 0
    assert count_tied(scores, np.array([True, False, False, False, False])) == 0
    assert count_tied(scores, np.zeros(5, dtype=bool)) == 0
    assert count_tied(np.empty(0), np.empty(0, dtype=bool)) == 0


def test_few_copies_and_a_few_refusals_are_nothing_to_say():
    assert not list(caution("a", 100, unscored=50, tied=5, refused={"kind below 0": 50}, score="s"))
    assert len(list(caution("a", 100, unscored=51, tied=6, refused={"kind below 0": 51}, score="s"))) == 3
    assert not list(caution("a", 0, unscored=0, tied=0, refused={"kind below 0": 0}, score="s"))


@pytest.fixture
def windows():
    """Ten windows of a category that the score tells apart, and twenty of one that it does not."""
    rows = [{"id": f"a{i}", "category": "a", "s": float(i), "kind": 1.0} for i in range(10)]
    rows += [{"id": f"b{i:02}", "category": "b", "s": 0.0, "kind": -1.0} for i in range(20)]
    return Dataset.from_list(rows)


def test_select_windows_says_that_ids_decide_and_that_the_gate_refuses_most(windows, caplog):
    kept = select_windows(windows, score="s", fraction=0.5)
    assert len(kept) == 15
    assert caplog.messages == [
        "20 of the 20 windows of b have the same s at the cut: which of them are kept, their ids alone decide."
    ]
    caplog.clear()
    assert len(select_windows(windows, score="s", fraction=0.5, gate={"kind": 0})) == 5
    assert caplog.messages == [
        "The gate refused 20 of the 20 windows of b (kind below 0): it may not know their language or kind of text."
    ]


@pytest.mark.parametrize(
    "how",
    [{"fraction": 1.0}, {"threshold": 0.0}, {"threshold": -1.0}, {"fraction": 0.5, "temperature": 1.0}],
    ids=["all", "above", "below", "draw"],
)
def test_nothing_is_said_where_ids_decide_nothing(windows, caplog, how):
    select_windows(windows, score="s", **how)
    assert not caplog.messages


def test_windows_that_a_gate_refuses_and_another_category_are_not_tied(caplog):
    rows = [{"id": str(i), "category": "a", "s": 0.0, "kind": float(i < 8) - 0.5} for i in range(16)]
    select_windows(Dataset.from_list(rows), score="s", fraction=0.5, gate={"kind": 0})
    assert not caplog.messages
    select_windows(Dataset.from_list(rows), score="s", fraction=0.25, gate={"kind": 0}, by=None)
    assert [message.split(" have")[0] for message in caplog.messages] == ["8 of the 16 windows of all"]


def test_windows_without_a_score_are_told_of_and_counted_with_those_that_a_gate_refuses(windows, caplog):
    rows = windows.map(lambda row: {"s": None if row["id"] in ("b00", "b01") or row["category"] == "a" else row["s"]})
    assert len(select_windows(rows, score="s", fraction=1.0, gate={"kind": 0})) == 0
    assert [message.split(",")[0].split(" (")[0] for message in caplog.messages] == [
        "10 of the 10 windows of a have no s",
        "The gate refused 20 of the 20 windows of b",
    ]


def test_a_stream_is_filtered_without_a_word_on_its_parts(windows, caplog):
    caplog.set_level(logging.WARNING)
    stream = windows.select(range(10, 30)).to_iterable_dataset()
    assert list(select_windows(stream, score="s", threshold=-1.0, gate={"kind": 0}, by="category")) == []
    assert not caplog.messages
