import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset

from longattn_hf.__main__ import main
from longattn_hf.explore.session import Session
from longattn_hf.explore.token_texts import name_text, sum_by_text
from longattn_hf.explore.token_view import explain
from longattn_hf.explore.why import say_attention, stand
from longattn_hf.scoring.longattn import LongAttnScorer
from longattn_hf.selection.select import add_long_distance_score, select_windows
from longattn_hf.selection.standardisation import Moments, ScoreStatistics
from tests.support.scored_build import CATEGORIES, write_build

# mean 4 and 8, population deviation 2 and 4
STRENGTH, UNIFORMITY = [2.0, 4.0, 6.0, 2.0, 6.0], [-12.0, -4.0, -4.0, -12.0, -8.0]
FAR_GAIN = [5.0, 4.0, 1.0, 3.0, float("nan")]


def five(categories="aaaaa"):
    table = pa.table(
        {
            "category": list(categories),
            "dependency_strength": STRENGTH,
            "distribution_uniformity": UNIFORMITY,
            "map_variance": [-value for value in UNIFORMITY],
        }
    )
    strength, uniformity = np.array(STRENGTH), np.array(UNIFORMITY)
    # worked out apart from the code: (x - mean) / deviation, half of the second
    longattn = (strength - 4) / strength.std() + 0.5 * (uniformity + 8) / uniformity.std()
    return table, {"long_distance_score": longattn, "far_gain": np.array(FAR_GAIN)}


def test_a_standing_says_rank_parts_and_what_other_scores_would_do():
    table, scores = five()
    third = stand(table, 2, scores, kept=np.array([False, True, True, False, False]))
    z = [2 / np.std(STRENGTH), 4 / np.std(UNIFORMITY)]
    assert [*third.parts.values()] == pytest.approx(z)
    assert third.sentences() == [
        f"Long-distance score {z[0] + z[1] / 2:.2f}: strength {z[0]:.2f} standard deviations above the mean of its "
        f"category, uniformity {z[1]:.2f} above, which counts 0.5 times.",
        "Rank 1 of 5 in a, above 80% of them; kept (2 are).",
        "By far gain (1.00) rank 4 of 4, not in the best 2: the two scores disagree.",
    ]
    first = stand(table, 0, scores, kept=np.array([False, True, True, False, False]), alpha=-1.0).sentences()
    assert (
        "strength 1.12 standard deviations below" in first[0] and "uniformity 1.12 below, which counts -1" in first[0]
    )
    assert first[1] == "Rank 4 of 5 in a, above 0% of them; not kept (2 are)."
    assert first[2] == "By far gain (5.00) rank 1 of 4, in the best 2: the two scores disagree."
    fourth = stand(table, 3, scores, kept=np.array([False, False, True, False, True])).sentences()
    assert fourth[2] == "By far gain (3.00) rank 3 of 4, not in the best 2 by either."


def test_a_window_kept_against_its_rank_says_that_something_else_decided():
    table, scores = five()
    # the best is refused, and the last takes its place
    kept = np.array([True, False, False, False, False])
    decided = "which its rank alone does not say: a tie, an overlap, a gate or a draw decided."
    assert stand(table, 2, scores, kept=kept).sentences()[1].endswith(f"not kept (1 are), {decided}")
    assert stand(table, 0, scores, kept=kept).sentences()[1].endswith(f"; kept (1 are), {decided}")
    assert decided not in stand(table, 3, scores, kept=kept).sentences()[1]


def test_only_windows_of_the_category_and_with_a_score_count():
    table, scores = five("aabba")
    assert stand(table, 4, {"far_gain": scores["far_gain"]}) is None
    standing = stand(table, 1, {"far_gain": scores["far_gain"]})
    assert (standing.by.rank, standing.by.windows, standing.kept, standing.kept_windows) == (2, 2, None, 1)
    assert standing.sentences() == ["Far gain 4.00.", "Rank 2 of 2 in a, above 0% of them."]
    assert [place.name for place in stand(table, 4, scores).others] == []


def test_other_conventions_and_another_corpus_s_scale_are_said_as_they_are():
    table, scores = five()
    released = stand(table, 1, scores, convention="reference_code", alpha=0.5)
    # strength 4 of 2 to 6; variance 4 of 4 to 12, subtracted
    assert released.parts == {"strength": 0.5, "variance": 0.0}
    assert released.sentences()[0].endswith(
        ": strength 50% of the way from its category's least to its largest, variance 0%, which counts -0.5 times."
    )
    moments = Moments(count=9, mean=0.0, squared_deviations=9.0, minimum=-1.0, maximum=1.0)
    scale = ScoreStatistics({"a": dict.fromkeys(table.column_names[1:], moments)})
    assert stand(table, 1, scores, statistics=scale).parts == {"strength": 4.0, "uniformity": -4.0}


def test_far_attention_is_summed_by_text():
    tokens = [".", "the", ".", "", "the", "."]
    sums = sum_by_text(tokens, np.array([4.0, 1, 3, 0, 1, 1]), np.array([5.0, 4, 3, 2, 1, 0]))
    assert [(one.text, one.places, one.share, one.even) for one in sums] == [
        (".", 3, pytest.approx(0.8), pytest.approx(8 / 15)),
        ("the", 2, pytest.approx(0.2), pytest.approx(5 / 15)),
        ("", 1, 0.0, pytest.approx(2 / 15)),
    ]
    heads = np.array([0.25, 0.05])
    one, two, *more = say_attention(sums, strength=0.15, even=0.4, min_distance=2048, first=4 / 10, heads=heads)
    assert one == (
        "Of all attention 15% goes at least 2,048 tokens back (the strength); spread evenly, 40% would. Head 0 sends "
        "most, 25%, head 1 least, 5%."
    )
    assert two == (
        "Most far attention goes to “.” 80% (1.5 times even), “the” 20% (0.6 times even). Full stops, line breaks and "
        "other tokens without letters or digits receive 80% of it (even: 53%), which links no contents."
    )
    assert more == ["The window's first token receives 40% of it: attention comes to rest there."]
    # half of a Chinese letter is none without letters
    parts = sum_by_text(["", "\u6f22", ""], np.array([3.0, 1, 0]), np.array([1.0, 1, 1]))
    (_, sentence) = say_attention(parts, strength=0.15, even=0.4, min_distance=2048, first=0.0, heads=heads)
    assert "goes to parts of characters 75%" in sentence and "digits receive 0% of it (even: 0%)" in sentence
    nothing = sum_by_text(tokens, np.zeros(6), np.zeros(6))
    assert len(say_attention(nothing, strength=0.0, even=0.0, min_distance=6, first=0.0, heads=heads)) == 1
    assert (
        name_text(" \n") == "“␣↵”"
        and name_text("\x1b\u202e") == "“␛<U+202E>”"
        and name_text("") == "parts of characters"
    )


def whole_map(view, keys):
    q, k = view._q[0].double(), view._k[0].double()
    logits = view._scale * q @ k[:, :keys].repeat_interleave(len(q) // len(k), 0).mT
    if view._causal:
        logits.masked_fill_(torch.ones(logits.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
    return logits.softmax(-1).mean(0).numpy()


@pytest.mark.parametrize(
    "settings", [{}, {"convention": "reference_code", "rope_theta": 10_000.0}], ids=["paper", "code"]
)
def test_a_view_s_sentences_are_sums_over_the_whole_map(tiny_llama, settings):
    scorer = LongAttnScorer(str(tiny_llama), device="cpu", min_distance=16, **settings)
    text = "def window(tokens, size): return tokens[:size]. Naïve café.\n" * 3
    if settings:
        # a whole window, whose rows see later keys too
        scorer = replace(scorer, window_tokens=len(scorer.load_tokenizer()("<s> " + text)["input_ids"]))
    view = explain(text, scorer)
    length = len(view.tokens)
    # every row is read where there are no more than 512
    assert view.profile["rows"].tolist() == list(range(length))
    distance = np.arange(length)[:, None] - np.arange(length)
    far = distance >= 16
    seen = np.full(length, length) if settings else np.arange(1, length + 1)
    received = (whole_map(view, length) * far).sum(0)
    even = (far / seen[:, None]).sum(0)
    # the released code rounds its probabilities to float16; the view's map does not
    assert view.profile["received"] == pytest.approx(received, rel=2e-3, abs=1e-6)
    assert view.profile["even"] == pytest.approx(even)
    stops = [at for at, token in enumerate(view.tokens) if token == "."]
    (of_stops,) = (one for one in view.by_text if one.text == ".")
    assert (of_stops.places, of_stops.share) == (6, pytest.approx(received[stops].sum() / received.sum(), rel=2e-3))
    assert of_stops.even == pytest.approx(even[stops].sum() / even.sum())
    shown = [float(number) for number in re.findall(r"(\d+)% (?:goes|would)", view.why()[0].replace("evenly, ", ""))]
    assert shown == pytest.approx([100 * view.scores["dependency_strength"], 100 * even.sum() / length], abs=0.5)
    assert view.to_data()["seen"] == {"keys": length, "causal": not settings}


@pytest.fixture(scope="module")
def build(tmp_path_factory, tiny_llama):
    folder = tmp_path_factory.mktemp("why") / "small"
    return folder, write_build(folder, str(tiny_llama))


def test_the_explorer_s_windows_say_where_they_stand_and_lead_through_the_ranks(build):
    session = Session(build[0])
    scored = add_long_distance_score(build[1], alpha=0.5)
    kept = set(select_windows(scored, fraction=0.5)["id"])
    for category in CATEGORIES:
        rows = sorted(
            (row for row in scored if row["category"] == category),
            key=lambda row: (-row["long_distance_score"], row["id"]),
        )
        at, window_id = 0, rows[0]["id"]
        assert session.open_window(window_id)["previous"] is None
        while window_id and at < 5:
            shown = session.open_window(window_id)
            assert window_id == rows[at]["id"] and shown["why"][0].startswith(
                f"Long-distance score {rows[at]['long_distance_score']:.2f}: strength "
            )
            state = "kept" if window_id in kept else "not kept"
            assert (
                f"Rank {at + 1} of {len(rows)} in {category}, " in shown["why"][1]
                and f"; {state} (" in shown["why"][1]
            )
            assert session.look(window_id)["why"][-1].startswith("Most far attention goes to ")
            at, window_id = at + 1, shown["next"]
        last = session.open_window(rows[-1]["id"])
        assert last["next"] is None and last["previous"] == rows[-2]["id"] and "; not kept (" in last["why"][1]
    alone = Session(build[0], model="/nowhere").open_window(rows[0]["id"])
    assert "text" in alone and alone["why"][1].startswith("Rank 1 of ")
    other = session.open_window(rows[0]["id"], replace(session.start(), alpha=3.0))
    assert "which counts 3 times" in other["why"][0]


def test_the_page_of_a_scored_row_says_where_it_stands(build, tiny_llama, tmp_path, capsys):
    build[1].to_parquet(tmp_path / "scored.parquet")
    words = ["--model", str(tiny_llama), "--min_distance", "16", "-o", str(tmp_path / "page.html")]
    main(["explain", str(tmp_path / "scored.parquet"), "--row", "7", *words])
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    data = json.loads(re.search('id="data">(.*?)</script>', (tmp_path / "page.html").read_text())[1])
    row = add_long_distance_score(build[1], alpha=0.5)[7]
    assert data["why"][0].startswith(f"Long-distance score {row['long_distance_score']:.2f}: ")
    assert "; kept (" in data["why"][1] if row["kept"] else "; not kept (" in data["why"][1]
    Dataset.from_list([{"text": "no score of any kind " * 9}]).to_json(tmp_path / "plain.jsonl")
    main(["explain", str(tmp_path / "plain.jsonl"), *words])
    data = json.loads(re.search('id="data">(.*?)</script>', (tmp_path / "page.html").read_text())[1])
    assert data["why"][0].startswith("Of all attention ")
