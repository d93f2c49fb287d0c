"""Windows and scores of rows in every format that `datasets` hands on, and columns that begin with nulls."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Value

from longattn_hf import EchoScorer, LongAttnScorer, WindowDocuments
from longattn_hf.baselines import GzipRatio
from longattn_hf.columns.features import SCORE_FEATURES

FORMATS = ("pandas", "arrow", "polars", "numpy", "torch")
TEXTS = [" ".join(f"word{(i * n) % 17}" for i in range(60)) for n in range(1, 5)]


@pytest.fixture(scope="module")
def documents():
    return Dataset.from_dict({"id": [7, 7, 8, 9], "text": TEXTS, "category": ["a", "a", "b", "b"]})


@pytest.fixture(scope="module")
def cut(tiny_llama):
    return WindowDocuments(tokenizer=str(tiny_llama), window_tokens=48)


def in_format(dataset, name):
    if name == "polars":
        pytest.importorskip("polars")
    return dataset.with_format(name)


@pytest.mark.parametrize("name", FORMATS)
def test_windows_do_not_depend_on_the_format_of_the_documents(documents, cut, name):
    plain = documents.map(cut, batched=True, remove_columns=documents.column_names)
    formatted = in_format(documents, name).map(cut, batched=True, remove_columns=documents.column_names)
    assert formatted.with_format(None).to_dict() == plain.to_dict()
    assert {n: formatted.features[n] for n in plain.features} == plain.features
    assert set(plain["doc_id"]) == {"7", "8", "9"}


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "one by one"])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("column", ["input_ids", "text"])
def test_scores_do_not_depend_on_the_format_of_the_windows(documents, cut, tiny_llama, name, batched, column):
    windows = documents.map(cut, batched=True, remove_columns=documents.column_names).select_columns(["id", column])
    scorer = LongAttnScorer(str(tiny_llama), per_head=True)
    plain = windows.map(scorer, batched=batched)
    formatted = in_format(windows, name).map(scorer, batched=batched)
    assert [formatted.features[score] for score in SCORE_FEATURES] == [Value("float64")] * len(SCORE_FEATURES)
    assert formatted.with_format(None).to_dict() == plain.to_dict()


def test_scorers_take_a_data_frame_and_a_table_as_they_are(documents):
    table = documents.with_format("arrow")[:]
    for rows in (table, table.to_pandas(), table.to_batches()[0]):
        scored = GzipRatio()(rows)
        assert isinstance(scored, pa.Table) and scored.column_names == ["id", "text", "category", "gzip_ratio"]
        assert scored["gzip_ratio"].to_pylist() == GzipRatio()({"text": TEXTS})["gzip_ratio"]
    with pytest.raises(ValueError, match="Rows come as list; accepted are tables .* mappings of columns too"):
        GzipRatio()([{"text": "a"}])


def test_a_category_that_pandas_calls_missing_is_missing():
    table = pa.table({"text": pa.array(["a", None])})
    scored = GzipRatio(on_error="skip")(table.to_pandas())
    assert scored["skip_reason"].to_pylist() == [None, "missing"]
    assert scored["gzip_ratio"].null_count == 1


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "one by one"])
def test_a_column_that_begins_with_nulls_can_hold_values_later(tiny_llama, batched):
    good, bad = TEXTS[0], ""
    scorer = LongAttnScorer(str(tiny_llama), on_error="skip")
    # the writer fixes the types by what it writes first
    how = {"batched": batched, "writer_batch_size": 2} | ({"batch_size": 2} if batched else {})
    for texts in ([good] * 4 + [bad], [bad] * 4 + [good], [good, bad, bad, good]):
        rows = Dataset.from_dict({"text": texts}).map(scorer, **how)
        assert rows["skip_reason"][:] == [None if text else "empty" for text in texts]
        assert [score is None for score in rows["dependency_strength"]] == [not text for text in texts]
        assert rows.features["skip_reason"] == Value("string")


def test_a_passed_column_that_begins_with_nulls_can_hold_values_later(cut):
    rows = Dataset.from_dict({"text": TEXTS, "license": [None, None, None, "CC0"]})
    windows = rows.map(cut, batched=True, batch_size=1, writer_batch_size=1, remove_columns=rows.column_names)
    assert set(windows["license"][:]) == {None, "CC0"}
    skipping = WindowDocuments(tokenizer=cut.tokenizer, window_tokens=48, keep_skipped=True)
    rows = Dataset.from_dict({"text": ["too short", *TEXTS]})
    windows = rows.map(skipping, batched=True, batch_size=1, writer_batch_size=1, remove_columns=["text"])
    assert windows["skip_reason"][0] == "too short" and windows["doc_hash"][0] is None and windows["doc_hash"][1]


def test_a_row_called_by_hand_gives_plain_values(tiny_llama):
    scorer = LongAttnScorer(str(tiny_llama), on_error="skip")
    row = scorer({"text": TEXTS[0]})
    assert row["skip_reason"] is None and isinstance(row["dependency_strength"], float)
    assert scorer({"text": ""})["dependency_strength"] is None


def test_an_echo_is_null_with_its_reason_for_a_short_window_and_takes_scripts_without_blanks():
    rng = np.random.default_rng(0)
    # of 700 characters of Han and of Thai, none between blanks, each with its marks is a word
    han = "".join(chr(0x4E00 + i) for i in rng.integers(0, 300, 700))
    thai = "".join(chr(0x0E01 + i) + "\u0e34" for i in rng.integers(0, 40, 700))
    scored = EchoScorer(on_error="skip")({"text": [han, thai, "short", han + "".join(reversed(han))]})
    assert scored["skip_reason"] == [None, None, "too short for an echo (1 words, 512 are the least)", None]
    assert scored["echo"][2] is None and scored["echo"][0] > 0
    with pytest.raises(ValueError, match="Row 0 of column 'text' is too short for an echo"):
        EchoScorer()({"text": ["short"]})
