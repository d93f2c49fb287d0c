import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, get_cosine_schedule_with_warmup

from longattn_hf.files import claim
from longattn_hf.pipeline.settings import check_settings, read_command_line
from recipes.train_longattn import SETTINGS, TrainConfig, last_checkpoint, load_model, make_arguments, mix, train
from recipes.training.packing import collate, pack
from tests.support.tiny import save_tiny_llama

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # so tiny a model only loses by more, and the same number of threads gives the same sums
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    # a small init, so that a few steps lower the loss
    return save_tiny_llama(tmp_path_factory.mktemp("base") / "model", initializer_range=0.02)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    for name in ("arxiv", "code", "wiki"):
        rows = [f"{name} {number} " + "far attention matters " * (20 if name != "wiki" else 1) for number in range(60)]
        # not Parquet: datasets sleeps five seconds after shuffling a stream of that
        Dataset.from_dict({"text": rows}).to_json(folder / f"{name}.jsonl")
    return {path.stem: path for path in folder.glob("*.jsonl")}


def settings(base: Path, texts: dict[str, Path], output: Path, **changes) -> dict:
    weights = {"arxiv": 0.6, "code": 0.3, "wiki": 0.1}
    sources = [
        {"weight": weights[name], "category": name, "path": "json", "data_files": str(path)}
        for name, path in sorted(texts.items())
    ]
    values = {
        "model": str(base),
        "sources": sources,
        "output_dir": str(output),
        "window_tokens": 64,
        "batch_windows": 4,
        "tokens": 12 * 4 * 64,
        "rope_theta": 5e4,
        "learning_rate": 1e-3,
        "checkpoint_steps": 2,
    }
    return values | changes


def test_a_long_window_is_one_sequence_and_short_texts_fill_the_others():
    window, almost, short = list(range(128)), list(range(126)), [7] * 30
    sequences = list(pack([short, window, short, almost, *[short] * 3], window_tokens=128, end_of_text=1))
    assert [s["input_ids"] for s in sequences] == [
        window,
        almost + [1, 1],
        # the fifth short text is cut, and its rest waits for more
        [*short, 1] * 4 + [7] * 4,
    ]
    assert [s["num_tokens"] for s in sequences] == [128, 126, 128]


def test_packing_loses_no_token_but_the_last_rest():
    documents = [[index] * length for index, length in enumerate([5, 300, 64, 63, 1, 200, 17, 90], start=10)]
    sequences = list(pack(documents, window_tokens=64, end_of_text=1))
    kept = [token for s in sequences for token in s["input_ids"][: s["num_tokens"]] if token != 1]
    given = [token for document in documents for token in document]
    assert len(given) - 64 < len(kept) <= len(given)
    assert all(len(s["input_ids"]) == 64 for s in sequences)
    for token in set(given):
        assert kept.count(token) <= given.count(token)


def test_what_fills_a_sequence_up_is_not_learnt_from():
    batch = collate([{"input_ids": [3, 4, 1], "num_tokens": 2}, {"input_ids": [5, 1, 6], "num_tokens": 3}])
    assert batch["input_ids"].tolist() == [[3, 4, 1], [5, 1, 6]]
    # an end-of-text token inside counts, the filling does not
    assert batch["labels"].tolist() == [[3, 4, -100], [5, 1, 6]]


def test_the_mix_follows_the_weights_and_repeats_a_source_that_runs_out(base, texts, tmp_path):
    config = TrainConfig(**settings(base, texts, tmp_path, tokens=100 * 4 * 64))
    tokenizer = AutoTokenizer.from_pretrained(base)
    windows, different = mix(config, tokenizer, tmp_path)
    assert len(windows) == 400
    read = [tokenizer.decode(ids) for ids in windows["input_ids"]]
    wiki = sum("wiki" in text for text in read)
    # expected 40 with a standard deviation of 6
    assert 40 - 4 * 6 <= wiki <= 40 + 4 * 6
    assert different["2 wiki"] < wiki, "60 short texts do not fill so many sequences: they must have begun again"
    again, _ = mix(config, tokenizer, tmp_path / "again")
    assert again["input_ids"] == windows["input_ids"]


def test_the_model_gets_the_raised_base_and_room_for_the_windows(base, texts, tmp_path):
    config = TrainConfig(**settings(base, texts, tmp_path, window_tokens=1024, tokens=1024 * 4))
    model = load_model(config)
    assert model.config.rope_parameters["rope_theta"] == 5e4
    assert model.config.max_position_embeddings == 1024
    # the frequency of dimension pair j of a head of 16 is theta^(-j/8)
    expected = 5e4 ** (-torch.arange(8) / 8)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected)


def test_training_learns_on_a_cosine_and_a_finished_run_is_left_alone(base, texts, tmp_path):
    config = TrainConfig(**settings(base, texts, tmp_path / "run", warmup_ratio=0.25))
    model = train(config)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    log = [entry for entry in report["log"] if "loss" in entry]
    assert log[-1]["loss"] < 0.85 * log[0]["loss"]
    assert report["steps"] == 12 and report["tokens"] == 12 * 4 * 64
    assert report["model"]["rope"]["rope_theta"] == 5e4
    schedule = cosine(1e-3, warmup=3, steps=12)
    assert [entry["learning_rate"] for entry in log] == pytest.approx(schedule)
    assert AutoConfig.from_pretrained(model).rope_parameters["rope_theta"] == 5e4
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"model", "report.json", "settings.json"}
    before = (model / "model.safetensors").stat().st_mtime_ns
    assert train(config) == model
    assert (model / "model.safetensors").stat().st_mtime_ns == before


def cosine(top: float, *, warmup: int, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=top)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    rates = []
    for _ in range(steps):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    return rates


def test_a_killed_run_goes_on_to_the_same_weights(base, texts, tmp_path):
    whole = train(TrainConfig(**settings(base, texts, tmp_path / "whole", tokens=24 * 4 * 64)))
    values = settings(base, texts, tmp_path / "killed", tokens=24 * 4 * 64)
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    command = [sys.executable, str(ROOT / "recipes" / "train_longattn.py"), "--config", str(tmp_path / "config.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    deadline = time.monotonic() + 120
    while last_checkpoint(tmp_path / "killed") is None:
        assert process.poll() is None and time.monotonic() < deadline, "the run ended without a checkpoint"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model").exists(), "the kill came too late to test anything"
    # a checkpoint that the kill left unfinished must not be gone on from
    torn = tmp_path / "killed" / "checkpoint-1000"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_step": 10')
    resumed = train(TrainConfig(**values))
    report = json.loads((tmp_path / "killed" / "report.json").read_text())
    assert report["resumed_from"] not in (None, "checkpoint-1000")
    expected, actual = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    for name, tensor in expected.items():
        # the same arithmetic in the same order; only the process differs
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=0)


def test_another_runs_folder_is_refused(base, texts, tmp_path):
    def claim_for(**changes):
        config = TrainConfig(**settings(base, texts, tmp_path, **changes))
        claim(tmp_path / SETTINGS, config.work, folder=tmp_path)

    claim_for()
    claim_for(windows_per_device=2)
    with pytest.raises(ValueError, match=r"other settings: learning_rate was 0.001 and is now 0.01"):
        claim_for(learning_rate=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 100}, "less than one batch of 4 sequences"),
        ({"sources": []}, "names no sources"),
        ({"sources": [{"category": "a", "path": "b"}]}, "lacks weight"),
        ({"sources": [{"category": "a", "path": "b", "weight": 0}]}, "weight=0.* must be positive"),
        # as in a build
        ({"sources": [{"category": "a", "path": "b", "weight": 1, "max_documents": -1}]}, "max_documents=-1 must be"),
        ({"learning_rate": "fast"}, "learning_rate='fast' .* must be float"),
        (
            {"sources": [{"category": "a", "path": "b", "weight": "0.3"}]},
            "weight='0.3' in a source must be float, not",
        ),
        ({"sources": [{"category": "a", "path": "b", "weight": 1, "columns": ["id", 2]}]}, "2 in it is int"),
        ({"sources": [{"category": "a", "path": "b", "wieght": 1}]}, "'wieght' in a source. Did you mean 'weight'"),
        ({"rope_scaling": {8: "yarn"}}, "rope_scaling=.* must be a mapping .*; 8 in it is int"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(base, texts, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        check_settings(TrainConfig, settings(base, texts, tmp_path, **changes), "the configuration")


def test_a_batch_that_does_not_divide_and_an_unknown_trainer_argument_are_refused(base, texts, tmp_path):
    with pytest.raises(ValueError, match="must be a multiple of windows_per_device x processes = 3 x 1"):
        make_arguments(TrainConfig(**settings(base, texts, tmp_path, windows_per_device=3)))
    with pytest.raises(ValueError, match="TrainingArguments does not take"):
        make_arguments(TrainConfig(**settings(base, texts, tmp_path, trainer={"learning_speed": 1})))


@pytest.mark.parametrize(("name", "long"), [("train_8b", 0.9), ("train_smollm2", 0.9)])
def test_the_configurations_are_the_papers_mix(name, long):
    config = read_command_line(TrainConfig, ["--config", str(ROOT / "recipes" / "configs" / f"{name}.yaml")])
    weights = {source.category: source.weight for source in config.sources}
    assert weights == {"arxiv": 0.3, "book": 0.3, "code": 0.3, "wiki": 0.03, "github": 0.03, "web": 0.04}
    assert config.window_tokens == 32768 and config.learning_rate == 1e-5 and config.rope_theta


def test_the_command_line_goes_before_the_file(tmp_path):
    path = str(ROOT / "recipes" / "configs" / "train_8b.yaml")
    config = read_command_line(TrainConfig, ["--config", path, "--tokens", "8_000_000", "--output_dir", "elsewhere"])
    assert config.tokens == 8_000_000 and config.output_dir == "elsewhere"
    with pytest.raises(ValueError, match="No such file"):
        read_command_line(TrainConfig, ["--config", str(tmp_path / "none.yaml")])
    (tmp_path / "bad.yaml").write_text("modle: x")
    with pytest.raises(ValueError, match="Unknown setting 'modle' .* Did you mean 'model'"):
        read_command_line(TrainConfig, ["--config", str(tmp_path / "bad.yaml")])
