"""The passage of a window that attends back furthest, against a map computed whole."""

from dataclasses import replace

import numpy as np
import pytest

from longattn_hf.explore.token_view import explain
from longattn_hf.scoring.longattn import LongAttnScorer
from longattn_hf.scoring.passages import find_passages

TEXT = "def window(tokens, size): return tokens[:size]\n" * 12 + "Naïve café 日本語. " * 20


@pytest.fixture(scope="module")
def scorer(tiny_llama):
    return LongAttnScorer(str(tiny_llama), device="cpu", min_distance=16, impl="reference")


def test_the_passage_is_the_run_of_tokens_with_the_largest_far_share(scorer):
    view = explain(TEXT, scorer)
    # every row is read of a text this short
    means = {at: view.far_share[at : at + 64].mean() for at in range(16, len(view.tokens) - 63)}
    best = max(means, key=means.get)
    ((passage, share),) = find_passages(scorer, [TEXT])
    assert share == pytest.approx(means[best], abs=5.1e-5) and share > np.mean(view.far_share)
    ids = scorer.token_ids({"text": TEXT})[best : best + 64]
    assert passage == scorer.load_tokenizer().decode(ids).strip("\ufffd") and passage in TEXT


def test_of_a_long_text_a_sample_of_the_rows_finds_it(scorer, monkeypatch):
    monkeypatch.setattr("longattn_hf.scoring.passages._ROWS", 40)
    view = explain(TEXT, scorer)
    ((passage, share),) = find_passages(scorer, [TEXT])
    # the share is that of the passage's own rows, not of the sample
    assert share in {round(view.far_share[at : at + 64].mean(), 4) for at in range(16, len(view.tokens) - 63)}
    assert passage in TEXT


def test_a_text_without_room_for_a_passage_or_that_cannot_be_read_stays_as_it_is(scorer):
    assert find_passages(scorer, ["short", TEXT[:90], ""]) == [("short", None), (TEXT[:90], None), ("", None)]
    narrow = replace(scorer, window_tokens=20)
    assert find_passages(narrow, [TEXT]) == [(TEXT, None)]
