"""What all scorers share, on a scorer whose scores are read off."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
import torch

from longattn_hf.baselines.loss_gain import LossGain
from longattn_hf.scoring.base import Scorer, TextScorer, _is_batch, _why_unusable


@dataclass(frozen=True, kw_only=True)
class Letters(TextScorer):
    """Counts letters, and says which was the first."""

    column = "letters"
    parts = {"first": pa.string()}
    citation = "made up"

    def _why_refused(self, value, rank):
        return "a secret" if value == "secret" else None

    def _score(self, value, rank, /):
        return float(len(value)), value[0]


@dataclass(frozen=True, kw_only=True)
class Sum(Scorer):
    """Adds up ids, or the letters of a text where there are none; `rank` weighs them."""

    readable_columns = ("input_ids", "text")
    added_columns = {"sum": pa.int64()}
    on_error: str = "raise"

    def _score_rows(self, values, rank):
        return {row: {"sum": int(sum(ids)) * (rank or 1)} for row, ids in values.items()}

    def _read(self, column, values):
        return values if column == "input_ids" else [[ord(c) for c in text] for text in values]


def test_rows_of_text_are_scored_one_by_one_or_together_with_their_parts():
    assert Letters()({"text": ["far", "a"], "x": [1, 2]}) == {"letters": [3.0, 1.0], "first": ["f", "a"]}
    assert Letters()({"text": "far"}) == {"letters": 3.0, "first": "f"}
    assert Letters()({"text": np.array(["far", "a"], dtype=object)})["letters"] == [3.0, 1.0]
    assert Letters(text_column="body")({"body": ("far",), "text": ["x"]})["letters"] == [3.0]
    with pytest.raises(ValueError, match=r"No column 'text' to score; the columns are body, x. Name .*text_column="):
        Letters()({"body": ["x"], "x": [1]})


def test_what_cannot_be_scored_is_an_error_or_null_with_its_reason_and_an_earlier_reason_stays():
    texts, reasons = ["far", None, "", 5, "secret", "old"], [None, "missing", "empty", "not text", "a secret", "early"]
    rows = Letters(on_error="skip")({"text": texts, "skip_reason": [float("nan")] + [None] * 4 + ["early"]})
    assert rows["skip_reason"] == reasons
    assert rows["letters"] == [3.0] + [None] * 5 and rows["first"] == ["f"] + [None] * 5
    for row in range(1, 5):
        with pytest.raises(ValueError, match=f"Row {row} of column 'text' is {reasons[row]}; drop such rows"):
            Letters()({"text": ["far"] * row + [texts[row]]})
    assert Letters()({"text": ["far", "old"], "skip_reason": [None, "early"]}) == {
        "letters": [3.0, None],
        "first": ["f", None],
    }
    with pytest.raises(ValueError, match="argument 2 is longer"):
        Letters()({"text": ["far", "old"], "skip_reason": [None]})
    one = Letters(on_error="skip")({"text": ""})
    assert one == {"letters": None, "first": None, "skip_reason": "empty"}


@pytest.mark.parametrize("make", [Letters, Sum, LossGain], ids=lambda kind: kind.__name__)
def test_on_error_is_one_of_two_words(make):
    with pytest.raises(ValueError, match="on_error='Skip' must be 'raise' or 'skip'"):
        make(on_error="Skip", **({"model": "m"} if make is LossGain else {}))


@pytest.mark.parametrize(
    ("ids", "sums"),
    [
        ([[1, 2], [3]], [3, 3]),
        ([None, [3]], [None, 3]),
        ([[1, 2], [[3]], [1.5], []], [3, None, None, None]),
        (np.array([[1, 2], [3, 4]]), [3, 7]),
        (torch.tensor([[1, 2], [3, 4]]), [3, 7]),
        (np.array([np.array([1, 2]), np.array([3])], dtype=object), [3, 3]),
        (np.array([1, 2]), 3),
        (torch.tensor([1, 2]), 3),
        ([1, 2], 3),
        (None, None),
        ([], None),
    ],
)
def test_ids_come_as_a_column_or_as_those_of_one_row(ids, sums):
    assert Sum(on_error="skip")({"input_ids": ids, "text": ["a"] * 4})["sum"] == sums


def test_the_best_column_is_read_and_the_rank_is_handed_on():
    assert Sum()({"text": "ab", "input_ids": [1, 2]}) == {"sum": 3}
    assert Sum()({"text": ["ab", "b"]}, rank=2) == {"sum": [2 * (97 + 98), 2 * 98]}
    assert Sum()({"text": "b"}, rank=2) == {"sum": 2 * 98}
    table = Sum()(pa.table({"text": ["b"], "x": [1]}), rank=3)
    assert (
        table.to_pydict() == {"text": ["b"], "x": [1], "sum": [3 * 98]} and table.schema.field("sum").type == "int64"
    )
    with pytest.raises(ValueError, match="No column 'input_ids' or 'text' to score"):
        Sum()({"x": [1]})


def test_what_is_a_batch_and_what_is_usable_are_told_apart():
    assert not any(_is_batch(value, ids) for value in (None, "text", b"text") for ids in (True, False))
    assert _is_batch(["a"], False) and _is_batch(("a",), False) and _is_batch(np.array(["a"]), False)
    assert not _is_batch(5, False)
    for batch in ([[1]], [None, [1]], [None, None], [np.array([1]), None]):
        assert _is_batch(batch, True)
    for row in ([1], [None, 1], [1, None], [], np.array([1, None])):
        assert not _is_batch(row, True)
    assert [_why_unusable(value, False) for value in (None, np.nan, "", "a", 5, [])] == [
        "missing",
        "missing",
        "empty",
        None,
        "not text",
        "not text",
    ]
    assert [_why_unusable(value, True) for value in (None, [], [1], np.array([[1]]))] == [
        "missing",
        "empty",
        None,
        "not a list of integer token ids (int64, 2 dimensions)",
    ]
    assert _why_unusable([1.5], True) == "not a list of integer token ids (float64, 1 dimensions)"


def test_a_scorer_that_gives_other_values_than_it_says_is_an_error_never_a_row():
    class Short(Letters):
        def _score(self, value, rank, /):
            return (1.0,)

    class Loses(Letters):
        def _read(self, column, values):
            return values[1:]

    for scorer in (Short(), Loses()):
        with pytest.raises(ValueError, match="argument 2 is shorter"):
            scorer({"text": ["far", "a"]})
