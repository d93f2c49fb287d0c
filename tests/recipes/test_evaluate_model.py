import json
import math
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

import recipes.evaluate_model as recipe
from longattn_hf.baselines import LossGain
from longattn_hf.model.language_model import load_language_model
from recipes.evaluate_model import EvaluateConfig, answer, evaluate_model, held_out_windows, losses_of
from recipes.evaluation.benchmarks import _with_intervals, run_benchmarks
from recipes.evaluation.needles import TASKS, make_prompts
from recipes.intervals import Estimate, mean_over_items, mean_over_runs
from tests.support.tiny import save_tiny_llama


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    path = tmp_path_factory.mktemp("held-out") / "book.jsonl"
    Dataset.from_dict({"text": [f"chapter {n}: " + "the far tokens matter " * 40 for n in range(6)]}).to_json(path)
    return [{"category": "book", "path": "json", "data_files": str(path)}]


@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_fills_its_context_and_hides_what_it_asks_for(task, tokenizer):
    prompts = make_prompts(task, tokenizer, length=1500, count=4, seed=3)
    for number, prompt in enumerate(prompts):
        used = len(tokenizer(prompt.text)["input_ids"]) + prompt.answer_tokens
        # a sentence of these words has at most 80 of this tokenizer's tokens
        assert 1500 - 80 <= used <= 1500
        haystack, question = prompt.text.split("\n\nQuestion: ")
        assert len(prompt.values) == {"single": 1, "multi_key": 1}.get(task, 4)
        assert all(haystack.count(f" is {value}.") == 1 and value not in question for value in prompt.values)
        assert haystack.count("A code of the ") == (1 if task == "single" else 4)
        # the depths are spread: one prompt in each quarter
        assert number / 4 <= prompt.depth < (number + 1) / 4
        place = haystack.index(f" is {prompt.values[0]}.") / len(haystack)
        assert place == pytest.approx(prompt.depth, abs=0.15)


def test_prompts_depend_on_the_seed_alone(tokenizer):
    make = lambda seed: make_prompts("multi_query", tokenizer, length=700, count=2, seed=seed)  # noqa: E731
    assert make(0) == make(0)
    assert make(0) != make(1)


def test_a_context_without_room_and_an_unknown_task_are_refused(tokenizer):
    with pytest.raises(ValueError, match="A context of 100 tokens has no room"):
        make_prompts("single", tokenizer, length=100, count=1, seed=0)
    with pytest.raises(ValueError, match="no needle task 'double'"):
        make_prompts("double", tokenizer, length=100, count=1, seed=0)


def test_an_answer_is_what_the_model_goes_on_with(tiny_llama, tokenizer):
    network = load_language_model(str(tiny_llama), device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    ids = tokenizer("The attention of", return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(5):
            ids = torch.cat([ids, plain(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert answer(network, tokenizer, "The attention of", 5) == tokenizer.decode(ids[0, start:])


def test_losses_are_those_of_the_logits_by_position(tiny_llama):
    windows_NT = np.random.default_rng(0).integers(2, 300, (3, 64))
    gain = LossGain(model=str(tiny_llama), short_tokens=8)
    result = losses_of(windows_NT, load_language_model(str(tiny_llama), device="cpu"), gain)
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    ids_NT = torch.from_numpy(windows_NT)
    with torch.no_grad():
        logits_NTV = plain(ids_NT).logits[:, :-1]
    exact_NT = cross_entropy(logits_NTV.transpose(1, 2), ids_NT[:, 1:], reduction="none")
    assert list(result["by_position"]) == [1, 2, 4, 8, 16, 32]
    # losses of about 100 nats in float32
    assert result["by_position"][1]["value"] == pytest.approx(exact_NT[:, 0].mean().item(), rel=1e-5)
    assert result["by_position"][32]["value"] == pytest.approx(exact_NT[:, 31:63].mean().item(), rel=1e-5)
    assert result["mean"]["value"] == pytest.approx(exact_NT.mean().item(), rel=1e-5)
    assert result["far_gain"]["count"] == 3 and result["far_gain"]["value"] != 0


def test_an_evaluation_of_a_model_that_knows_nothing(documents, tmp_path, monkeypatch):
    # all logits are equal, so each of 300 tokens is as likely, with or without far context
    model = save_tiny_llama(tmp_path / "model", initializer_range=1e-12)
    monkeypatch.setattr(recipe, "answer", lambda network, tokenizer, prompt, tokens: "1234567")
    settings = {"window_tokens": 128, "near_tokens": 16, "lengths": [600], "prompts": 2, "windows": 4}
    config = EvaluateConfig(model=str(model), output=str(tmp_path / "out" / "e.json"), documents=documents, **settings)
    report = evaluate_model(config)
    assert json.loads((tmp_path / "out" / "e.json").read_text())["needles"] == report["needles"]
    loss = report["loss"]["book"]
    assert loss["mean"]["value"] == pytest.approx(math.log(300), rel=1e-6) and loss["mean"]["count"] == 4
    assert loss["far_gain"]["value"] == pytest.approx(0, abs=1e-6)
    assert [(cell["task"], cell["length"], cell["num_answers"]) for cell in report["needles"]] == [
        (task, 600, 6) for task in TASKS
    ]
    assert all(cell["recall"] == 0 and cell["recall_interval"][1] > 0.3 for cell in report["needles"])


def test_the_needles_that_are_found_are_counted_task_by_task_and_seed_by_seed(tiny_llama, tmp_path, monkeypatch):
    def reads_only_the_end(network, tokenizer, prompt, tokens):
        return prompt.split("\n\n")[1][-len(prompt) // 2 :]

    monkeypatch.setattr(recipe, "answer", reads_only_the_end)
    settings = {"lengths": [1500], "prompts": 4, "needles": ["single"], "seeds": [0, 1, 2]}
    report = evaluate_model(EvaluateConfig(model=str(tiny_llama), output=str(tmp_path / "e.json"), **settings))
    (cell,) = report["needles"]
    # depths are spread evenly, so half of the needles stand in the half that is read
    assert cell["recall"] == pytest.approx(0.5, abs=0.17)
    assert np.mean(cell["recall_by_seed"]) == pytest.approx(cell["recall"])
    assert "loss" not in report


def test_each_window_is_of_another_document(documents, tiny_llama, tmp_path):
    config = EvaluateConfig(model=str(tiny_llama), output="unused", documents=documents, window_tokens=100, windows=5)
    (windows_NT,) = held_out_windows(config).values()
    assert windows_NT.shape == (5, 100) and windows_NT.dtype == np.int64
    long = EvaluateConfig(model=str(tiny_llama), output="unused", documents=documents, window_tokens=10_000)
    with pytest.raises(ValueError, match="No document of 'book' reaches 10000 tokens"):
        held_out_windows(long)


def test_fewer_than_three_seeds_are_refused():
    with pytest.raises(ValueError, match="at least three different"):
        EvaluateConfig(model="m", output="o", seeds=[0, 1, 1])


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    runs, items = rng.normal(size=(1000, 3)), rng.normal(size=(300, 40))
    covered = np.mean([mean.low <= 0 <= mean.high for mean in map(mean_over_runs, runs)])
    # three standard deviations of a share of 1000 at 95%
    assert covered == pytest.approx(0.95, abs=0.021)
    covered = np.mean([mean.low <= 0 <= mean.high for mean in map(mean_over_items, items)])
    # the bootstrap of 40 is a little too narrow
    assert 0.89 < covered < 0.99
    assert mean_over_runs([2.0]).low is None


def test_the_harness_is_asked_for_by_name_and_code_is_run_on_request_only(monkeypatch):
    with pytest.raises(ValueError, match="humaneval runs code that the model wrote"):
        run_benchmarks(["hellaswag", "humaneval"], "model", lengths=[4096])
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ValueError, match=r"pip install 'longattn_hf\[eval\]'"):
        run_benchmarks(["hellaswag"], "model", lengths=[4096])


def test_the_harnesss_standard_errors_become_intervals():
    metrics = {"alias": "x", "acc,none": 0.5, "acc_stderr,none": 0.1, "4096,none": -1, "8192,none": 0.25}
    metrics |= {"8192_stderr,none": "N/A", "pass@1,create_test": 1.0}
    assert _with_intervals(metrics) == {
        "acc": Estimate(value=0.5, low=pytest.approx(0.304, abs=1e-5), high=pytest.approx(0.696, abs=1e-5)),
        "8192": Estimate(value=0.25),
        "pass@1,create_test": Estimate(value=1.0),
    }
