import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from longattn_hf.pipeline.settings import check_settings
from recipes.compare_selections import CompareConfig, compare
from tests.support.tiny import save_tiny_llama

_WORDS = "far near attention window token the of document layer head mass score category keeps reads".split()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    for category in ("book", "code"):
        texts = [f"{category} {n} " + " ".join(rng.choice(_WORDS, 150)) for n in range(8)]
        Dataset.from_dict({"text": texts}).to_json(folder / f"{category}.jsonl")
    return {
        "model": str(save_tiny_llama(folder / "model", initializer_range=0.02)),
        "documents": [
            {"category": path.stem, "path": "json", "data_files": str(path)} for path in folder.glob("*.jsonl")
        ],
        "output_dir": str(folder / "out"),
        "scores": ["random", "longattn", "gzip"],
        "window_tokens": 128,
        "token_budget": 4 * 128 + 5,
        "held_out": 0.3,
        "seeds": [0, 1],
        "train": {"tokens": 6 * 128, "batch_windows": 2, "learning_rate": 1e-3},
        "evaluate": {"windows": 2, "lengths": [400], "prompts": 1, "needles": ["single"]},
    }


@pytest.fixture(scope="module")
def compared(settings):
    table = compare(CompareConfig(**settings))
    return CompareConfig(**settings), table


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_score_keeps_as_many_tokens_of_each_category(compared):
    config, _ = compared
    folder = Path(config.output_dir)
    for score in config.scores:
        for seed in config.seeds:
            for category in ("book", "code"):
                kept = read(folder / "selections" / f"{score}-{seed}" / f"{category}.jsonl")
                assert sum(row["num_tokens"] for row in kept) == 4 * 128
                held_out = {row["text"] for row in read(folder / "documents" / "held_out" / f"{category}.jsonl")}
                assert held_out and not any(row["text"] in text for row in kept for text in held_out)
    ids = {
        (score, seed): [row["id"] for row in read(folder / "selections" / f"{score}-{seed}" / "book.jsonl")]
        for score in config.scores
        for seed in config.seeds
    }
    assert ids["longattn", 0] == ids["longattn", 1] != ids["gzip", 0]
    assert ids["random", 0] != ids["random", 1]


def test_the_table_holds_means_intervals_and_paired_differences(compared):
    config, table = compared
    folder = Path(config.output_dir)
    results = json.loads((folder / "comparison.json").read_text())["results"]
    assert list(results) == ["untrained", "random", "longattn", "gzip"]
    runs = {
        (score, seed): json.loads((folder / "runs" / f"{score}-{seed}" / "evaluation.json").read_text())["loss"]
        for score in ("random", "longattn")
        for seed in (0, 1)
    }
    loss = {
        key: np.mean([category["mean"]["value"] for category in categories.values()])
        for key, categories in runs.items()
    }
    differences = [loss["longattn", seed] - loss["random", seed] for seed in (0, 1)]
    difference = results["longattn"]["loss"]["minus_random"]
    assert difference["value"] == pytest.approx(np.mean(differences))
    # Student's t with one degree of freedom
    assert difference["high"] - difference["value"] == pytest.approx(12.7062 * np.std(differences, ddof=1) / 2**0.5)
    assert results["random"]["loss"]["mean"]["value"] < results["untrained"]["loss"]["mean"]["value"] - 0.05
    assert results["untrained"]["loss"]["mean"]["low"] is None
    assert (folder / "comparison.md").read_text() == table + "\n"
    assert "| selected by | loss | far gain | needles at 400 |" in table


def test_a_second_call_takes_over_what_is_done(compared):
    config, table = compared
    stamps = {path: path.stat().st_mtime_ns for path in Path(config.output_dir).rglob("*.safetensors")}
    assert stamps and compare(config) == table
    assert stamps == {path: path.stat().st_mtime_ns for path in Path(config.output_dir).rglob("*.safetensors")}


def test_a_budget_that_a_category_cannot_fill_is_refused(settings, tmp_path):
    config = CompareConfig(**settings | {"output_dir": str(tmp_path), "token_budget": 100_000})
    with pytest.raises(ValueError, match="tokens in windows that do not overlap, fewer than the budget of 100000"):
        compare(config)


def test_scores_without_random_or_unknown_are_refused(settings):
    for scores in (["longattn"], ["random", "best"]):
        with pytest.raises(ValueError, match="must hold 'random', to compare with"):
            CompareConfig(**settings | {"scores": scores})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, "1"]}, "seeds=.* in the configuration must be a list of int, not list; '1' in it is str"),
        ({"short": [{"category": "a", "path": "b", "weight": "much"}]}, "weight='much' in a source of short must be"),
        ({"train": {"tokens": "many"}}, "tokens='many' in train must be int, not str"),
        ({"train": {"tokens": 1024, "batch_window": 2}}, "'batch_window' in train. Did you mean 'batch_windows'"),
        (
            {"evaluate": {"lengths": [4096, "8K"]}},
            "lengths=.* in evaluate must be a list of int, .*; '8K' in it is str",
        ),
        ({"documents": []}, "at least one source"),
    ],
)
def test_a_wrong_type_at_any_depth_is_refused_before_anything_is_done(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        check_settings(CompareConfig, settings | changes, "the configuration")
