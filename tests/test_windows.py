import dataclasses
import multiprocessing
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from longattn_hf import WindowDocuments, cut_windows
from longattn_hf.columns.features import WINDOW_FEATURES
from tests.support.tiny import build_tokenizer

TEXT = "The far tokens matter. 日本語 😀 naïve 𝒳 café. "


def algorithm_1(num_tokens, window):
    """The paper's listing, token by token positions, kept apart from the package's own form."""
    taken, left, right = [], 0, num_tokens
    while right - left > 3 * window:
        taken.append((left, left + window))
        taken.append((right - window, right))
        left += window
        right -= window
    rest = right - left
    if window < rest <= 2 * window:
        taken += [(left, left + window), (right - window, right)]
    elif 2 * window < rest <= 3 * window:
        middle = left + (rest - window) // 2
        taken += [(left, left + window), (middle, middle + window), (right - window, right)]
    return taken


@pytest.mark.parametrize("window", [1, 2, 7, 10])
def test_windows_are_those_of_algorithm_1_at_every_length_but_exactly_one_window(window):
    for num_tokens in range(12 * window):
        expected = [(0, window)] if num_tokens == window else algorithm_1(num_tokens, window)
        assert cut_windows(num_tokens, window) == expected


def test_every_token_of_a_document_of_at_least_one_window_is_in_a_window():
    for num_tokens in range(10, 200):
        covered = np.zeros(num_tokens, dtype=int)
        for start, end in cut_windows(num_tokens, 10):
            covered[start:end] += 1
        assert covered.min() == 1 and covered.max() <= 2


@pytest.fixture
def windowing(tiny_llama):
    return WindowDocuments(tokenizer=str(tiny_llama), window_tokens=16)


def documents(**columns):
    return Dataset.from_dict(columns)


def cut(dataset, transform, **kwargs):
    return dataset.map(transform, batched=True, remove_columns=dataset.column_names, **kwargs)


def test_a_window_holds_the_documents_own_ids_and_its_text_is_a_slice_of_the_document(windowing):
    texts = [TEXT * 3, "😀" * 50, "plain ascii text, long enough to be cut " * 4]
    windows = cut(documents(text=texts, id=["a", "b", "c"], year=[1, 2, 3]), windowing)
    tokenizer = build_tokenizer()
    by_id = dict(zip("abc", texts, strict=True))
    assert set(windows["doc_id"]) == {"a", "b", "c"}
    for row in windows:
        text = by_id[row["doc_id"]]
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert row["input_ids"] == ids[row["start_token"] : row["start_token"] + 16]
        assert row["num_tokens"] == 16
        assert text[row["start_char"] : row["end_char"]] == row["text"]
        assert row["year"] == "abc".index(row["doc_id"]) + 1


def test_a_row_says_all_of_its_window_and_its_names_are_hashes_of_text_and_place(windowing):
    # this tokenizer learnt none of these words: each character is a token
    text = "zq" * 22
    rows = windowing({"text": [text]})
    # 44 tokens are front, middle and back of 16
    places = [(0, 16), (14, 30), (28, 44)]
    name = sha256(text.encode())
    expected = {
        "doc_hash": [name.hexdigest()[:32]] * 3,
        "doc_id": [name.hexdigest()[:32]] * 3,
        "id": [sha256(text.encode() + f"\0{a}:{b}:{a}:{b}".encode()).hexdigest()[:32] for a, b in places],
        "window_index": [0, 1, 2],
        "num_windows": [3] * 3,
        "start_char": [0, 14, 28],
        "end_char": [16, 30, 44],
        "start_token": [0, 14, 28],
        "num_tokens": [16] * 3,
        "overlap_tokens": [0, 2, 2],
        "text": [text[a:b] for a, b in places],
    }
    assert {name: rows[name] for name in expected} == expected and rows.keys() == {*expected, "input_ids"}
    # what these are is the version: caches of earlier ones must not be taken for them
    assert windowing.version == 2


def test_without_settings_the_windows_are_the_papers(tiny_llama):
    text = "zq" * 20_000
    # 40,000 tokens are a front and a back of 32,768
    assert WindowDocuments(tokenizer=str(tiny_llama))({"text": [text, None]})["start_token"] == [0, 40_000 - 32_768]


def test_a_window_of_one_token_is_a_window_and_one_of_none_is_refused(tiny_llama):
    rows = WindowDocuments(tokenizer=str(tiny_llama), window_tokens=1)({"text": ["zqz"]})
    # the last three tokens are front, middle and back
    assert rows["text"] == ["z", "q", "z"] and rows["overlap_tokens"] == [0] * 3
    for tokens in (0, -1):
        with pytest.raises(ValueError, match=f"window_tokens={tokens} must be at least 1"):
            WindowDocuments(tokenizer="t", window_tokens=tokens)
    with pytest.raises(ValueError, match="on_error='ignore' must be 'raise' or 'skip'"):
        WindowDocuments(tokenizer="t", on_error="ignore")


def test_the_first_and_last_window_take_the_blanks_that_no_token_holds(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2, "c": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(tmp_path)
    LlamaConfig().save_pretrained(tmp_path)
    rows = WindowDocuments(tokenizer=str(tmp_path), window_tokens=2)({"text": ["  a b c a  "]})
    assert rows["text"] == ["  a b", " c a  "]
    assert (rows["start_char"], rows["end_char"]) == ([0, 5], [5, 11])


@pytest.mark.parametrize("length", [2**20 - 1, 2**20, 2**20 + 1, 2**21 + 5])
def test_a_long_text_has_the_hash_of_all_of_it_and_is_looked_through_to_its_end(windowing, length):
    text = "zq " * (length // 3) + "z" * (length % 3)
    transform = dataclasses.replace(windowing, window_tokens=2**22, keep_skipped=True)
    assert transform({"text": [text[:-1] + "\ud800", text]})["skip_reason"] == [
        "not Unicode, by a lone surrogate",
        "too short",
    ]
    rows = dataclasses.replace(windowing, window_tokens=2**19)({"text": [text]})
    assert rows["doc_hash"][0] == sha256(text.encode()).hexdigest()[:32]


def test_windows_that_share_no_token_tile_the_document_though_its_characters_span_tokens(windowing):
    text = "😀" * 48
    tokens = len(build_tokenizer()(text, add_special_tokens=False)["input_ids"])
    assert tokens > 96 and tokens % 48 == 0, "an emoji is to take several tokens"
    for window_tokens in (tokens // 2, tokens // 2 + 1):
        windows = cut(
            documents(text=[text]), WindowDocuments(tokenizer=windowing.tokenizer, window_tokens=window_tokens)
        )
        front, back = windows
        assert front["start_char"] == 0 and back["end_char"] == len(text)
        assert back["overlap_tokens"] == 2 * window_tokens - tokens
        if not back["overlap_tokens"]:
            assert front["text"] + back["text"] == text


def test_the_sum_of_tokens_less_overlap_counts_each_covered_token_once(windowing):
    for length in range(16, 120):
        windows = cut_windows(length, 16)
        text = "".join(chr(97 + i % 26) + " " for i in range(length))
        rows = windowing({"text": [text]})
        starts = [s for s in rows["start_token"]]
        covered = {t for s in starts for t in range(s, s + 16)}
        assert sum(rows["num_tokens"]) - sum(rows["overlap_tokens"]) == len(covered)
        assert len(windows) > 0


def test_columns_have_their_declared_types_and_ids_are_int32(windowing):
    windows = cut(documents(text=[TEXT * 3]), windowing)
    for name, feature in WINDOW_FEATURES.items():
        assert windows.features[name] == feature, name


def test_ids_depend_on_the_text_and_the_window_and_on_nothing_else(windowing):
    first = cut(documents(text=[TEXT * 3, TEXT * 4]), windowing)
    again = cut(documents(text=[TEXT * 4], other=[1]), windowing)
    assert len(set(first["id"])) == len(first)
    assert [i for i, d in zip(first["id"], first["doc_id"], strict=True) if d == again["doc_id"][0]] == list(
        again["id"]
    )


def test_skipped_documents_leave_a_row_with_a_reason_when_asked(windowing):
    texts = ["short", "", None, TEXT * 3]
    rows = WindowDocuments(tokenizer=windowing.tokenizer, window_tokens=16, keep_skipped=True)(
        {"text": texts, "source": list("wxyz")}
    )
    skipped = [(s, r) for s, r in zip(rows["source"], rows["skip_reason"], strict=True) if r]
    assert skipped == [("w", "too short"), ("x", "empty"), ("y", "missing")]
    assert rows["source"].count("z") == sum(reason is None for reason in rows["skip_reason"]) > 0


def test_a_reason_of_an_earlier_stage_stays(windowing):
    batch = {"text": [TEXT * 3, TEXT * 3, TEXT * 3], "skip_reason": ["a secret", None, float("nan")]}
    rows = dataclasses.replace(windowing, keep_skipped=True)(batch)
    count = len(windowing({"text": [TEXT * 3]})["id"])
    assert rows["skip_reason"] == ["a secret"] + [None] * 2 * count and rows["text"][0] is None
    with pytest.raises(ValueError, match="Row 0 of column 'text' is a secret"):
        dataclasses.replace(windowing, on_error="raise")(batch)


@pytest.mark.parametrize(
    ("value", "reason"), [(None, "missing"), ("", "empty"), (b"bytes", "not text"), (7, "not text"), ([], "not text")]
)
def test_a_bad_row_raises_or_is_skipped_as_asked(windowing, value, reason):
    strict = WindowDocuments(tokenizer=windowing.tokenizer, window_tokens=16, on_error="raise")
    with pytest.raises(ValueError, match=rf"Row 1 of column 'text' is {reason}.*on_error='skip'"):
        strict({"text": [TEXT * 3, value]})
    assert len(windowing({"text": [value, TEXT * 3]})["id"]) == len(windowing({"text": [TEXT * 3]})["id"])


def test_binary_columns_and_missing_columns_are_told_apart(windowing):
    binary = Dataset.from_dict({"text": [b"abc"]}, features=Features({"text": Value("binary")}))
    assert len(windowing(binary[:])["id"]) == 0
    with pytest.raises(ValueError, match="No column 'text'.*the columns are body"):
        windowing({"body": ["x"]})
    with pytest.raises(ValueError, match="batched=True"):
        windowing({"text": "one document"})


def test_a_category_can_be_given_to_a_source_that_has_none(windowing):
    transform = WindowDocuments(tokenizer=windowing.tokenizer, window_tokens=16, category="book")
    assert set(transform({"text": [TEXT * 3], "category": ["other"]})["category"]) == {"book"}
    numbered = pa.table({"text": [TEXT * 3], "category": [7], "year": [1]})
    for one, type_, value in ((transform, pa.string(), "book"), (windowing, pa.int64(), 7)):
        cut = one(numbered)
        assert cut.schema.field("category").type == type_ and set(cut["category"].to_pylist()) == {value}
        assert cut.column_names.count("category") == 1 and set(cut["year"].to_pylist()) == {1}
    assert "category" not in windowing({"text": [TEXT * 3]})


def test_special_tokens_written_in_a_document_stay_text(windowing):
    rows = windowing({"text": ["<s></s>" * 20]})
    assert not {0, 1} & {int(i) for ids in rows["input_ids"] for i in ids}


def test_several_processes_give_what_one_gives_and_a_second_run_is_a_cache_hit(windowing, tmp_path):
    source = documents(text=[TEXT * n for n in range(2, 8)])
    source.to_parquet(tmp_path / "docs.parquet")
    source = Dataset.from_parquet(str(tmp_path / "docs.parquet"), cache_dir=str(tmp_path / "cache"))
    alone = cut(source, windowing)
    assert alone._fingerprint == cut(source, windowing)._fingerprint
    together = cut(source, windowing, num_proc=2)
    assert alone.to_list() == together.to_list()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("format_type", [None, "numpy", "torch"])
def test_documents_keep_their_ids_in_every_format(windowing, format_type):
    corpus = documents(id=[7, 8], text=[TEXT * 3, TEXT * 4]).with_format(format_type)
    windows = cut(corpus, windowing).with_format(None)
    assert set(windows["doc_id"]) == {"7", "8"}


def test_a_lone_surrogate_is_skipped_with_its_reason_or_refused(windowing):
    skipping = dataclasses.replace(windowing, keep_skipped=True)
    rows = skipping({"text": ["half a pair \ud800 " * 9, TEXT * 3]})
    assert rows["skip_reason"][0] == "not Unicode, by a lone surrogate" and rows["skip_reason"][1] is None
    with pytest.raises(ValueError, match="Row 0 of column 'text' is not Unicode, by a lone surrogate"):
        dataclasses.replace(windowing, on_error="raise")({"text": ["\udfff"]})
