import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from longattn_hf.pipeline.settings import check_settings
from recipes.compare_selections import CompareConfig, compare
from recipes.training.collages import deal_collages
from recipes.training.scratch import ScratchConfig, save_scratch_models
from tests.support.tiny import save_tiny_llama

_WORDS = "far near attention window token the of document layer head mass score category keeps reads".split()

SCRATCH = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=600)


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
        # a name that `datasets` would take for a pattern
        "output_dir": str(folder / "out [1]"),
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


def test_the_model_of_a_run_that_is_evaluated_is_not_needed_again(compared):
    config, table = compared
    run = Path(config.output_dir) / "runs" / "gzip-1"
    aside = run.with_name("aside")
    aside.mkdir()
    for path in run.iterdir():
        if path.name != "evaluation.json":
            path.rename(aside / path.name)
    assert compare(config) == table
    assert [path.name for path in run.iterdir()] == ["evaluation.json"]
    for path in aside.iterdir():
        path.rename(run / path.name)
    aside.rmdir()


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
        ({"scratch": {"hidden_size": 64}}, "Give either model= or scratch=, not model="),
        ({"model": None}, "Give either model= or scratch=, not model=None and scratch={}"),
        ({"model": None, "scratch": {"hidden_sizes": 64}}, "'hidden_sizes' in scratch. Did you mean 'hidden_size'"),
        ({"model": None, "scratch": SCRATCH}, "longattn need a model that has learnt something: give scorer="),
        ({"collage_tokens": 0}, "collage_tokens=0 must be positive"),
    ],
)
def test_a_wrong_type_at_any_depth_is_refused_before_anything_is_done(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        check_settings(CompareConfig, settings | changes, "the configuration")


def name_of(category, n):
    """A word that stands in one document alone."""
    return "".join(
        "abcdefghijklmnopqrstuvwxyz"[k] for k in np.random.default_rng([n, len(category)]).permutation(26)[:8]
    )


@pytest.fixture(scope="module")
def from_scratch(settings, tmp_path_factory):
    """A comparison of intact windows with collages; it stopped once, in the second seed, and went on."""
    folder = tmp_path_factory.mktemp("scratch")
    rng = np.random.default_rng(1)
    for category in ("book", "codes"):
        texts = [" ".join(rng.choice([*_WORDS, *[name_of(category, n)] * 4], 400)) for n in range(10)]
        Dataset.from_dict({"text": texts}).to_json(folder / f"{category}.jsonl")
    changes = {
        "model": None,
        "scratch": SCRATCH,
        "documents": [
            {"category": path.stem, "path": "json", "data_files": str(path)} for path in sorted(folder.glob("*.jsonl"))
        ],
        # a name that `datasets` would take for a pattern
        "output_dir": str(folder / "out [1]"),
        "scores": ["random", "collage"],
        "token_budget": 8 * 128,
        "collage_tokens": 64,
        "train": {"tokens": 6 * 128, "batch_windows": 2, "learning_rate": 1e-2},
        "evaluate": {"windows": 2, "needles": []},
    }
    config = CompareConfig(**settings | changes)
    in_the_way = folder / "out [1]" / "runs" / "random-1"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    with pytest.raises(OSError, match="random-1"):
        compare(config)
    stamps = stamps_of(folder / "out [1]")
    first = json.loads((folder / "out [1]" / "comparison.json").read_text())["results"]
    in_the_way.unlink()
    return config, stamps, first, compare(config)


def stamps_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_model_from_scratch_has_the_sizes_asked_for_and_weights_by_seed(from_scratch, tmp_path):
    config, *_ = from_scratch
    folder = Path(config.output_dir) / "scratch"
    models = [AutoModelForCausalLM.from_pretrained(folder / str(seed)) for seed in (0, 1)]
    # the embedding; of the layer four projections, three matrices of the MLP and two norms; the last norm
    assert models[0].num_parameters() == 600 * 32 + (4 * 32 * 32 + 3 * 32 * 48 + 2 * 32) + 32
    assert models[0].config.max_position_embeddings == 128
    weights = [model.get_input_embeddings().weight for model in models]
    assert (weights[0] != weights[1]).float().mean() > 0.99
    texts = [row["text"] for c in ("book", "codes") for row in read(folder.parent / "documents/select" / f"{c}.jsonl")]
    torch.manual_seed(123)
    save_scratch_models(ScratchConfig(**SCRATCH), texts, tmp_path, window_tokens=128, seeds=[1])
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "1" / name).read_bytes() == (folder / "1" / name).read_bytes()


def test_its_tokenizer_has_seen_the_documents_to_select_from_and_no_other(from_scratch):
    config, *_ = from_scratch
    folder = Path(config.output_dir)
    tokenizer = AutoTokenizer.from_pretrained(folder / "scratch" / "0")
    lengths = {"select": [], "held_out": []}
    for part, of_part in lengths.items():
        for category in ("book", "codes"):
            names = [name_of(category, n) for n in range(10)]
            for row in read(folder / "documents" / part / f"{category}.jsonl"):
                (name,) = set(names) & set(row["text"].split())
                of_part.append(len(tokenizer(f" {name}", add_special_tokens=False)["input_ids"]))
    assert lengths["select"] == [1] * 14
    assert len(lengths["held_out"]) == 6 and min(lengths["held_out"]) > 2


def test_collages_are_the_random_windows_passages_and_none_is_intact(from_scratch):
    config, *_ = from_scratch
    folder = Path(config.output_dir)
    tokenizer = AutoTokenizer.from_pretrained(folder / "scratch" / "0")
    for seed in (0, 1):
        for category in ("book", "codes"):
            windows, collages = (
                read(folder / "selections" / f"{score}-{seed}" / f"{category}.jsonl")
                for score in ("random", "collage")
            )
            assert sum(row["num_tokens"] for row in windows) == sum(row["num_tokens"] for row in collages) == 8 * 128
            halves = {}
            for row in windows:
                ids = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
                halves[row["id"]] = (tokenizer.decode(ids[:64]), tokenizer.decode(ids[64:]))
            document_of = {row["id"]: row["doc_id"] for row in windows}
            for row in collages:
                first, second = row["made_of"]
                assert row["text"] == halves[first][0] + halves[second][1]
                assert document_of[first] != document_of[second]
            for place in (0, 1):
                assert Counter(row["made_of"][place] for row in collages) == Counter(halves.keys())


def test_passages_that_cannot_be_dealt_out_to_strangers_are_refused():
    rows = {"id": list("abcd"), "doc_id": ["x", "x", "x", "y"], "input_ids": [[1, 2, 3, 4]] * 4}
    for tokens in (2, 4):
        with pytest.raises(ValueError, match=f"4 tokens, up to 3 of one document, .* passages of {tokens} tokens"):
            deal_collages(Dataset.from_dict(rows), None, tokens=tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 256}, "vocab_size=256 must be at least 257"),
        ({"num_hidden_layers": 0}, "must be positive"),
        ({"num_key_value_heads": 0}, "must be positive"),
        ({"hidden_size": 34}, "hidden_size=34 must be a multiple of twice num_attention_heads=2"),
        ({"num_key_value_heads": 3}, "a multiple of num_key_value_heads=3"),
    ],
)
def test_sizes_that_make_no_model_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ScratchConfig(**SCRATCH | changes)


def test_a_comparison_that_stopped_tells_of_the_seeds_so_far_and_goes_on(from_scratch):
    config, stamps, first, table = from_scratch
    folder = Path(config.output_dir)
    assert [result["loss"]["mean"]["count"] for result in first.values()] == [1, 1, 1]
    results = json.loads((folder / "comparison.json").read_text())["results"]
    assert [result["loss"]["mean"]["count"] for result in results.values()] == [1, 2, 2]
    assert results["collage"]["far gain"]["minus_random"]["count"] == 2
    kept = {path: stamp for path, stamp in stamps.items() if path.name not in ("comparison.json", "comparison.md")}
    del kept[folder / "runs" / "random-1"]
    assert {"scratch", "selections", "runs"} <= {path.relative_to(folder).parts[0] for path in kept}
    assert kept.items() <= stamps_of(folder).items()
    # what is lost is made again, and comes out the same
    shutil.rmtree(folder / "runs" / "collage-1")
    assert compare(config) == table
    assert kept.items() <= stamps_of(folder).items()
