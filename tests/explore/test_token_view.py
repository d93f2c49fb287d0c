import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from longattn_hf.attention.reference import far_rows as reference_rows
from longattn_hf.columns.features import SCORE_FEATURES
from longattn_hf.explore.token_texts import token_texts
from longattn_hf.explore.token_view import explain
from longattn_hf.scoring.longattn import LongAttnScorer
from tests.support.tiny import build_tokenizer

TEXT = "Naïve café — 日本語のテキスト 😀 𝒳 ∑. def window(tokens, size): return tokens[:size]\n" * 4
NASTY = '</script><script>alert(1)</script><b onclick="x">&amp;\x1b[31mred\x1b[0m\u202eabc\u2028<!-- $x$'


@pytest.fixture(scope="module")
def scorer(tiny_llama):
    return LongAttnScorer(str(tiny_llama), device="cpu", min_distance=16)


@pytest.fixture(scope="module")
def view(scorer):
    return explain(TEXT, scorer)


def head_mean_map(view):
    """The whole causal map, the mean over the heads, in float64: what the view must never hold."""
    q, k = view._q[0].double(), view._k[0].double()
    logits = view._scale * q @ k.repeat_interleave(len(q) // len(k), 0).mT
    future = torch.ones(logits.shape[1:], dtype=torch.bool).triu(1)
    return logits.masked_fill(future, -torch.inf).softmax(-1).mean(0).numpy()


def test_the_scores_are_the_scorers(scorer, view):
    for settings in ({}, {"min_distance": None}, {"add_bos": False}):
        other = replace(scorer, **settings)
        assert explain(TEXT, other).scores == pytest.approx(
            {name: other({"text": TEXT})[name] for name in SCORE_FEATURES}
        )
    per_head = replace(scorer, per_head=True)({"text": TEXT})["dependency_strength_per_head"]
    assert view.head_strength == pytest.approx(per_head)
    ids = scorer.load_tokenizer()(TEXT, add_special_tokens=False)["input_ids"]
    assert explain({"input_ids": ids, "source": "here"}, scorer).scores == pytest.approx(view.scores)
    # another scorer's reason is none of this one's
    assert explain({"text": TEXT, "skip_reason": "too short"}, scorer).scores == view.scores


@pytest.mark.parametrize("padding", [0, 37])
def test_the_released_codes_map_is_shown_as_it_is_read(scorer, padding):
    length = len(scorer.load_tokenizer()("<s> " + TEXT)["input_ids"])
    released = replace(scorer, convention="reference_code", rope_theta=10_000.0, window_tokens=length + padding)
    view = explain(TEXT, released)
    assert view.scores == pytest.approx({name: released({"text": TEXT})[name] for name in SCORE_FEATURES})
    assert len(view.tokens) == length + padding
    q, k = view._q[0].double(), view._k[0].double().repeat_interleave(2, 0)
    logits = view._scale * q @ k[:, :length].mT
    if padding:
        logits.masked_fill_(torch.ones(len(view.tokens), length, dtype=torch.bool).triu(1), -torch.inf)
    far = logits.softmax(-1).mean(0).numpy()
    far[np.arange(len(view.tokens))[:, None] - np.arange(length) < 16] = 0
    assert view.far_share == pytest.approx(far.sum(1), rel=2e-3, abs=1e-6)
    for row in (40, length - 1, len(view.tokens) - 1):
        assert view.top_far(row)[0].position == far[row].argmax()
    rows, edges = view.profile["rows"], view.profile["edges"]
    beyond = [far[row, : row + 1 - 16].sum() for row in rows]
    assert view.profile["attention"][edges[:-1] >= 16].sum() == pytest.approx(np.mean(beyond), rel=1e-4)


def test_each_tokens_far_share_is_its_row_of_the_map(view):
    mass, _ = reference_rows(
        view._q.double(),
        view._k.double(),
        min_distance=16,
        scale=view._scale,
        positions_R=torch.arange(len(view.tokens)),
    )
    assert view.far_share == pytest.approx(mass[0].mean(0).numpy(), abs=1e-6)
    assert view.far_share[:16].max() == 0 < view.far_share[16:].max() <= 1


def test_the_profile_is_the_maps_mass_by_distance(view):
    length, whole = len(view.tokens), head_mean_map(view)
    profile = view.profile
    rows, edges = profile["rows"], profile["edges"]
    assert len(rows) == min(length, 512) and 16 in edges and edges[0] == 0 and edges[-1] == length
    distance = np.arange(length)[:, None] - np.arange(length)
    uniform = np.tril(np.ones((length, length))) / np.arange(1, length + 1)[:, None]
    for name, entries in (("attention", whole), ("uniform", uniform)):
        for at, value in enumerate(profile[name]):
            inside = (distance >= edges[at]) & (distance < edges[at + 1])
            # the bin's float32 probabilities are rounded to 2^-24 each, and some thousand of them are summed
            assert value == pytest.approx((entries * inside)[rows].sum(1).mean(), abs=1e-6)
        assert profile[name].sum() == pytest.approx(1, abs=1e-6)


def test_rows_are_sampled_from_a_long_window_one_from_each_run(scorer):
    ids = np.random.default_rng(0).integers(2, 300, 1500)
    with pytest.warns(UserWarning, match="longer than the 512 positions"):
        view = explain({"input_ids": ids}, scorer)
    rows = view.profile["rows"]
    bounds = np.linspace(0, 1501, 513).astype(int)
    assert len(view.tokens) == 1501 and (rows >= bounds[:-1]).all() and (rows < bounds[1:]).all()
    # a stratified sample of a third of the rows gives the strength to a few percent
    far = view.profile["edges"][:-1] >= 16
    assert view.profile["attention"][far].sum() == pytest.approx(view.scores["dependency_strength"], rel=0.05)


def test_a_token_names_the_far_tokens_that_it_attends_to_most(view):
    whole = head_mean_map(view)
    for position in (len(view.tokens) - 1, 40, 16):
        far = whole[position, : position - 16 + 1]
        found = view.top_far(position, 5)
        assert [it.position for it in found] == np.argsort(-far)[:5].tolist()
        assert [it.attention for it in found] == pytest.approx(np.sort(far)[::-1][:5].tolist(), rel=1e-5)
        assert [it.text for it in found] == [view.tokens[it.position] for it in found]
    assert view.top_far(15) == []
    with pytest.raises(ValueError, match="must lie in"):
        view.top_far(len(view.tokens))


def test_the_tokens_texts_joined_are_the_text(view):
    assert "".join(view.tokens) == "<s>" + TEXT
    tokenizer = build_tokenizer(bos=False)
    # the last character is cut in the middle, and a broken one stands inside
    ids = np.array(tokenizer("a😀b日")["input_ids"])[:-1]
    broken = np.concatenate([ids[:-1], ids[2:4], tokenizer("end")["input_ids"]])
    for some in (ids, broken):
        texts = token_texts(some, tokenizer)
        assert len(texts) == len(some) and "".join(texts) == tokenizer.decode(some)


def test_text_of_any_kind_stays_text(scorer):
    view = explain(NASTY + TEXT, scorer, title=NASTY)
    page = view.to_html()
    assert page.count("<script") == page.count("</script>") == 2 and "alert(1)</" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u2028\u202e]", page)
    data = json.loads(re.search('id="data">(.*?)</script>', page)[1])
    shown = "".join(data["tokens"])
    assert "</script><script>alert(1)</script>" in shown and "\u241b[31mred" in shown and "<U+202E>abc" in shown
    frame = view._repr_html_()
    assert frame.count("<") == 2 and 'sandbox="allow-scripts"' in frame
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")


def test_the_plot_shows_profile_strengths_and_shares(scorer):
    pytest.importorskip("matplotlib")
    figure = explain(TEXT, scorer, title="$ not math").plot()
    figure.canvas.draw()
    along, by_distance, by_head = figure.axes
    assert along.get_title() == "$ not math" and by_distance.get_xscale() == "log"
    assert len(by_head.patches) == 4


def test_an_unusable_window_says_why(scorer):
    with pytest.raises(ValueError, match="unusable: empty"):
        explain("", scorer)
    with pytest.raises(ValueError, match="No column"):
        explain({"body": "text"}, scorer)
