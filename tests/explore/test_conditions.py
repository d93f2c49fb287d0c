import numpy as np
import pytest

from longattn_hf.explore.conditions import Texts, meet

NAN = float("nan")
COLUMNS = {
    "tokens": np.array([10, 20, 30, 40]),
    "score": np.array([0.5, NAN, -0.5, 1e-9]),
    "kept": np.array([True, False, True, False]),
    "source": Texts(np.array([0, 1, -1, 2]), ["Wiki and more", "books", "a > b"]),
    "my column": np.array([1.0, 2.0, 3.0, 4.0]),
}


@pytest.mark.parametrize(
    ("conditions", "rows"),
    [
        ("tokens >= 20", [1, 2, 3]),
        ("tokens>20 AND tokens<=40 and tokens != 30", [3]),
        ("score > 0", [0, 3]),
        ("score != 0.5", [2, 3]),
        ("score = 1e-9", [3]),
        ("score < inf", [0, 2, 3]),
        ("kept = yes", [0, 2]),
        ("kept != Yes and score > -1", [3]),
        ("source contains WIKI", [0]),
        ("source = books", [1]),
        ("source = Books", []),
        ("source != books", [0, 3]),
        ("source contains wiki and more", [0]),
        ('source = "a > b"', [3]),
        ('"my column" >= 3 and kept = no', [3]),
        ("source contains and", [0]),
    ],
)
def test_rows_that_meet_all_conditions_are_marked(conditions, rows):
    assert np.flatnonzero(meet(conditions, COLUMNS)).tolist() == rows


@pytest.mark.parametrize(
    ("conditions", "refusal"),
    [
        ("tokns > 3", "column 'tokns' is not here. Did you mean 'tokens'?"),
        ("tokens", "'tokens' is not understood: write a column, one of"),
        ("tokens >", "is not understood"),
        ("tokens > many", "'tokens' holds numbers: '> many' says nothing"),
        ("tokens > nan", "'tokens' holds numbers"),
        ("tokens contains 1", "'tokens' holds numbers"),
        ("source > a", "'source' holds text: write contains, = or !=, not >"),
        ("kept = maybe", "'kept' is yes or no: write 'kept = yes'"),
        ("kept < yes", "'kept' is yes or no"),
        ("tokens > 3 or tokens < 2", "holds numbers: '> 3 or tokens < 2'"),
        ("and", "is not understood"),
    ],
)
def test_what_is_not_understood_is_refused_in_words(conditions, refusal):
    with pytest.raises(ValueError) as error:
        meet(conditions, COLUMNS)
    assert refusal in str(error.value)
