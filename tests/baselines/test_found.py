"""What cards say of each scorer is what the yardstick's results say."""

import json
import re
from functools import cache
from pathlib import Path
from statistics import mean

import pytest

from longattn_hf.baselines.by_name import FOUND, SCORERS

RESULTS = Path(__file__).parents[2] / "recipes" / "results"
CATEGORIES = ("arxiv", "book", "code")
PREFERENCES, GOLD = "preferences-development-4096", "gold-development-4096"
SIX_STRETCHES = "gold-development-4096-six-stretches"


@cache
def results(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def gain(score):
    (found,) = (one for one in results(GOLD)["scores"] if one["score"] == score)
    return [found["spearman"], found["low"], found["high"]]


def half_way():
    layers = results(SIX_STRETCHES)["layers"]
    found = layers[len(layers) // 2]
    assert found["layer"] == len(layers) // 2 and found["windows"] == results(SIX_STRETCHES)["windows"]
    return [found["spearman"], found["low"], found["high"]]


def junk(score):
    return [mean(one["top_eighth"] for one in results(PREFERENCES)["junk"] if one["score"] == score)]


def compared(name, score, kind):
    rows = [row for row in results(name)["comparisons"] if (row["score"], row["kind"]) == (score, kind)]
    return [next(row["value"] for row in rows if row["category"] == category) for category in CATEGORIES]


def few(score):
    name = "selection-development-2048"
    return [*compared(name, score, "collage_512"), *compared(name, score, "shuffle_512"), 0.5]


def collages(score):
    return [*compared("selection-development-4096", score, "collage_512"), 0.5]


# the numbers with a point of each scorer's sentences, in their order
MEASURED = {
    "longattn": lambda: [],
    "echo": lambda: [],
    "word_gain": lambda: [*gain("far_gain_raw"), *junk("far_gain_raw"), *junk("far_gain_raw_and_kind")],
    "compression_gain": lambda: [
        *gain("compression_gain"),
        *junk("compression_gain"),
        *junk("compression_gain_and_kind"),
    ],
    "far_gain": lambda: [*junk("far_gain"), *gain("far_gain")],
    "kind": lambda: [*junk("far_gain_raw_and_kind"), *junk("far_gain_raw")],
    "gzip": lambda: [*collages("gzip_ratio"), *junk("gzip_ratio"), *gain("gzip_ratio")],
    "length": lambda: [*collages("length"), *gain("length")],
    "random": lambda: [*junk("random"), *gain("random")],
    "loss_gain": lambda: few("loss_gain"),
    "prolong": lambda: few("prolong"),
    "ladm": lambda: few("ladm"),
    "deep": lambda: few("deep_strength"),
    "deep_far": lambda: half_way(),
}


def test_each_scorer_has_two_sentences_at_most():
    assert FOUND.keys() == SCORERS.keys() == MEASURED.keys()
    for words in FOUND.values():
        assert words.endswith(".") and len(re.findall(r"\.(?= [A-Z]|$)", words)) <= 2


@pytest.mark.parametrize("name", SCORERS)
def test_its_numbers_are_those_of_the_results(name):
    said = re.findall(r"-?\d?\.\d+", FOUND[name])
    assert said == [re.sub(r"\b0(?=\.)", "", f"{value:.2f}") for value in MEASURED[name]()]


def reached(score):
    rows = [row for row in results(PREFERENCES)["comparisons"] if row["score"] == score and row["target"] is not None]
    return sum(row["value"] >= row["target"] for row in rows), len(rows)


def test_what_they_count_and_say_in_words_is_so_too():
    gold, bars = (
        results(GOLD)["windows"],
        dict(zip(("far_gain", "echo"), map(reached, ("far_gain", "echo")), strict=True)),
    )
    for name, words in FOUND.items():
        measured = results(SIX_STRETCHES)["windows"] if name == "deep_far" else gold
        assert re.findall(r"(\S+) windows of 4,096", words) == [str(measured)] * ("rank correlation" in words)
        assert ("2,048" in words) == (name in ("loss_gain", "prolong", "ladm", "deep"))
    few_windows = {row["windows"] for row in results("selection-development-2048")["comparisons"]}
    assert few_windows == {5} and results(GOLD)["settings"]["window_tokens"] == 4096
    assert f"reached {bars['far_gain'][0]} of {bars['far_gain'][1]} bars" in FOUND["far_gain"]
    assert f"echo reached {bars['echo'][0]}." in FOUND["far_gain"] and bars["far_gain"][1] == bars["echo"][1]
    # of the sentences without numbers: at chance, half, and did not follow
    assert all(0.35 < value < 0.65 for value in collages("long_distance_score"))
    assert all(0.45 < value < 0.65 for value in collages("length")) and 0.45 < junk("echo")[0] < 0.55
    for score in ("long_distance_score", "echo", "gzip_ratio", "length"):
        _, low, high = gain(score)
        assert low < 0 < high
    refused = [one for one in results(PREFERENCES)["refused"] if one["score"] == "far_gain_raw_and_kind"]
    assert len(refused) == 3 and not any(one["share"] for one in refused)
