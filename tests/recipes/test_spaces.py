import math
from pathlib import Path

import evaluate
import numpy as np
import pytest
import yaml
from datasets import Dataset

from longattn_hf import LongAttnScorer, add_long_distance_score

SPACES = Path(__file__).parents[2] / "recipes" / "spaces"
TEXTS = [
    "The attention of a long document reaches far back. " * 4,
    "def window(tokens, size):\n    return tokens[:size]\n" * 3,
    "Naïve café, 日本語のテキスト, and so on. " * 3,
]


@pytest.fixture(scope="module")
def needle_retrieval():
    return evaluate.load(str(SPACES / "needle_retrieval"))


def load_longattn():
    return evaluate.load(str(SPACES / "longattn"), module_type="measurement")


def test_the_measurement_gives_the_scorers_scores_and_their_summary(tiny_llama):
    results = load_longattn().compute(data=TEXTS, model=str(tiny_llama), alpha=0.25)
    scored = Dataset.from_dict({"text": TEXTS}).map(LongAttnScorer(str(tiny_llama)), batched=True)
    scored = add_long_distance_score(scored, alpha=0.25, by=None)
    for name in ("dependency_strength", "distribution_uniformity", "map_variance", "long_distance_score"):
        np.testing.assert_array_equal(results[name], scored[name])
        assert results["summary"][name] == {
            "mean": np.mean(scored[name]),
            "std": np.std(scored[name]),
            "min": min(scored[name]),
            "max": max(scored[name]),
        }
    assert len(set(results["dependency_strength"])) == 3


def test_the_measurement_hands_settings_to_the_scorer_and_leaves_skipped_texts_out_of_the_summary(tiny_llama):
    settings = {"model": str(tiny_llama), "min_distance": 0, "on_error": "skip"}
    results = load_longattn().compute(data=[*TEXTS, ""], **settings)
    # at distance 0 all attention is far, and rows of a softmax sum to 1
    np.testing.assert_allclose(results["dependency_strength"][:3], 1, atol=1e-6)
    assert results["dependency_strength"][3] is None
    assert results["summary"]["dependency_strength"]["mean"] == pytest.approx(1, abs=1e-6)
    assert math.isnan(results["long_distance_score"][3])


def test_the_measurement_says_which_text_cannot_be_scored(tiny_llama):
    with pytest.raises(ValueError, match="Row 1 .* is unusable: empty"):
        load_longattn().compute(data=[TEXTS[0], ""], model=str(tiny_llama))


def test_recall_is_the_mean_share_of_values_found_whatever_the_case(needle_retrieval):
    results = needle_retrieval.compute(
        predictions=["the codes: AB12, cd34", "none", "7"], references=[["ab12", "CD34"], ["ef56", "gh78"], ["7", "8"]]
    )
    assert results["recall"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert results["all_found"] == pytest.approx(1 / 3)
    assert results["num_answers"] == 3


@pytest.mark.parametrize(("found", "low", "high"), [(0, 0.0, 0.2775), (5, 0.2366, 0.7634), (10, 0.7225, 1.0)])
def test_the_interval_of_ten_answers_is_wilsons(needle_retrieval, found, low, high):
    # in closed form z^2 / (n + z^2) above none found, and 1/2 -+ z / (2 sqrt(n + z^2)) around a half
    answers = ["x1"] * found + ["nothing"] * (10 - found)
    results = needle_retrieval.compute(predictions=answers, references=[["x1"]] * 10)
    assert results["recall_interval"] == pytest.approx([low, high], abs=5e-5)


def test_an_answer_without_a_value_to_look_for_is_refused(needle_retrieval):
    with pytest.raises(ValueError, match="Answer 1 has no reference value"):
        needle_retrieval.compute(predictions=["a", "b"], references=[["a"], []])


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("longattn", ["evaluate", "measurement"]),
        ("needle_retrieval", ["evaluate", "metric"]),
        ("select_documents", None),
    ],
)
def test_each_space_has_what_the_hub_asks_of_one(name, tags):
    folder = SPACES / name
    card = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert card["sdk"] == "gradio" and (folder / card["app_file"]).is_file()
    assert card.get("tags") == tags and card["license"] == "apache-2.0"
    # the Hub refuses longer ones
    assert len(card["short_description"]) <= 60
    assert ("evaluate" if tags else "longattn_hf") in (folder / "requirements.txt").read_text()
