"""A build from a Hub to a Hub: model and documents are read from the local one, and the program publishes there."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, get_dataset_config_names, load_dataset

from longattn_hf.hub.card_merge import BEGIN
from recipes.build_longabc import main
from tests.model.test_byte_ranges import ranges, upload
from tests.support.recipes import text

SCRIPT = Path(__file__).parents[2] / "recipes" / "build_longabc.py"
REPO = "me/tiny-long"
CONFIGS = {"arxiv", "code", "scores"}


def documents(category):
    return [{"id": f"{category}{i}", "text": text(20 + 6 * i, f"{category}{i}")} for i in range(12)]


@pytest.fixture
def recipe(hub, tiny_llama, tmp_path):
    """A configuration whose model and documents are on the Hub: Parquet, and JSON lines of differing fields."""
    # a commit of this test's own, which no cache holds from another
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text(str(tmp_path))
    upload(hub, shutil.copytree(tiny_llama, tmp_path / "model", dirs_exist_ok=True), "org/tiny")
    shards = {}
    for part in range(2):
        buffer = io.BytesIO()
        Dataset.from_list(documents("arxiv")[part::2]).to_parquet(buffer)
        shards[f"data/train-{part:05d}-of-00002.parquet"] = buffer.getvalue()
    hub.create("org/papers", shards)
    lines = [json.dumps(row | {"metadata": [i, str(i), {"n": i}][i % 3]}) for i, row in enumerate(documents("code"))]
    hub.create("org/files", {f"documents/{n}.gz": gzip.compress("\n".join(lines[n::2]).encode()) for n in range(2)})
    sources = [
        {"category": "arxiv", "path": "org/papers", "license": "CC0-1.0"},
        {
            "category": "code",
            "path": "org/files",
            "data_files": "documents/*.gz",
            "json_lines": True,
            "columns": ["id"],
            "license": "MIT",
        },
    ]
    config = {
        "name": "tiny-long",
        "model": "org/tiny",
        "window_tokens": 32,
        "documents_per_shard": 4,
        "fraction": 0.5,
        "sources": sources,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run(recipe, output, *arguments):
    main(["--config", str(recipe), "--output_dir", str(output), "--push_to_hub", REPO, *arguments])


def commits_made(hub):
    return [entry for entry in hub.requests("POST", "/commit/") if entry.status == 200]


def shards_on_the_hub(hub):
    return {path: data for path, data in hub.repos["dataset", REPO].files.items() if path.endswith(".parquet")}


def shards_in(output):
    found = [path for folder in ("data", "scores") for path in (output / folder).rglob("*.parquet")]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in found}


def test_a_build_from_a_hub_to_a_hub_loads_back_as_it_was_built(hub, recipe, tmp_path, capsys):
    output = tmp_path / "out"
    run(recipe, output)
    assert "published as commit" in capsys.readouterr().out and len(commits_made(hub)) == 1
    # the model: its own ranges only
    whole = len(hub.repos["model", "org/tiny"].files["model.safetensors"])
    read = {byte for _, first, last, _ in ranges(hub) for byte in range(first, last + 1)}
    assert 0 < len(read) < whole / 2
    assert set(get_dataset_config_names(REPO)) == CONFIGS
    for name in sorted(CONFIGS):
        ours = load_dataset(str(output), name, split="train")
        theirs = load_dataset(REPO, name, split="train")
        assert len(ours) > 3 and theirs.to_list() == ours.to_list() and theirs.features == ours.features
        assert list(load_dataset(REPO, name, split="train", streaming=True)) == ours.to_list()
    assert set(load_dataset(REPO, split="train")["category"]) == {"arxiv"}, "the default configuration"
    files = hub.repos["dataset", REPO].files
    assert files["report.json"] == (output / "report.json").read_bytes()
    assert files["report.html"] == (output / "report.html").read_bytes()
    assert files["statistics.json"] == (output / "statistics.json").read_bytes()
    assert not [path for path in files if path.startswith("work")]
    # what was read, to the commit
    report, heads = json.loads(files["report.json"]), {}
    for kind, repo_id in (("model", "org/tiny"), ("dataset", "org/papers"), ("dataset", "org/files")):
        heads[repo_id] = hub.repos[kind, repo_id].refs["refs/heads/main"]
    assert report["model"]["revision"] == heads["org/tiny"]
    assert report["settings"]["source_commits"] == {
        f"{name}@main": heads[name] for name in ("org/papers", "org/files")
    }
    card = files["README.md"].decode()
    assert all(commit in card for commit in heads.values())


def test_the_same_command_again_makes_no_commit(hub, recipe, tmp_path):
    output = tmp_path / "out"
    run(recipe, output, "--tag", "v1")
    first = hub.repos["dataset", REPO].refs["refs/heads/main"]
    hub.log.clear()
    run(recipe, output, "--tag", "v1")
    assert not hub.requests("POST", "/commit/") and not hub.requests("PUT", "")
    assert (
        hub.repos["dataset", REPO].refs["refs/heads/main"] == first == hub.repos["dataset", REPO].refs["refs/tags/v1"]
    )


def test_another_fraction_is_one_new_commit_without_a_shard_of_the_old_one(hub, recipe, tmp_path, monkeypatch):
    # several files of little text
    monkeypatch.setattr("longattn_hf.pipeline.output._CHARACTERS_PER_FILE", 1000)
    output = tmp_path / "out"
    run(recipe, output, "--fraction", "1.0")
    before = shards_on_the_hub(hub)
    assert before == shards_in(output)
    run(recipe, output, "--fraction", "0.3")
    assert len(commits_made(hub)) == 2
    after = shards_on_the_hub(hub)
    assert after == shards_in(output)
    assert len(after) < len(before) and not {path for path in before if "arxiv" in path} & set(after)
    for name in sorted(CONFIGS):
        assert (
            load_dataset(REPO, name, split="train").to_list()
            == load_dataset(str(output), name, split="train").to_list()
        )


def test_a_dry_run_of_accelerates_launcher_shows_what_would_go_where_without_a_token(hub, recipe, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", str(SCRIPT)]
    arguments = ["--config", str(recipe), "--output_dir", "out", "--push_to_hub", REPO, "--dry_run"]
    # by what is up soonest
    arguments += ["--scorers", "[length]"]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for part in (f"{REPO}, main: not published (dry run)", "data/arxiv/train-00000-of-00001.parquet", BEGIN, "# tiny"):
        assert part in done.stdout
    assert not [entry for entry in hub.log if entry.method not in ("GET", "HEAD") and "paths-info" not in entry.path]
    assert not [entry for entry in hub.log if entry.authorized] and ("dataset", REPO) not in hub.repos


def test_what_cannot_be_published_ends_the_program_with_what_to_do(hub, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(SystemExit, match="build_longabc: publishing me/tiny-long is not possible: .*write permission"):
        run(recipe, tmp_path / "out")
    hub.repos["dataset", "org/papers"].gated = True
    with pytest.raises(SystemExit, match="Reading the source 'org/papers' is not possible: the repository is gated"):
        run(recipe, tmp_path / "other")
    assert not commits_made(hub)


def test_nothing_that_is_published_tells_of_local_paths_or_the_token(hub, recipe, tiny_llama, tmp_path, capsys):
    corpus = tmp_path / "private" / "corpus"
    corpus.mkdir(parents=True)
    Dataset.from_list(documents("book")).to_parquet(corpus / "train.parquet")
    sources = [
        {"category": "book", "path": str(corpus)},
        {"category": "more", "path": "parquet", "data_files": [str(corpus / "*.parquet")]},
    ]
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256}
    arguments = ["--model", str(tiny_llama), "--sources", json.dumps(sources), "--rope_scaling", json.dumps(scaling)]
    run(recipe, tmp_path / "first", *arguments, "--dry_run")
    statistics = tmp_path / "first" / "statistics.json"
    run(
        recipe, tmp_path / "out", *arguments, "--statistics", str(statistics), "--threshold", "0", "--fraction", "null"
    )
    assert len(commits_made(hub)) == 1
    for path, data in hub.repos["dataset", REPO].files.items():
        for secret in (str(tmp_path), str(tiny_llama.parent), str(Path.home()), "hf_writer"):
            assert secret.encode() not in data, f"{path} tells {secret}"
    for name in ("book", "more", "scores"):
        assert str(tmp_path) not in json.dumps(load_dataset(REPO, name, split="train").to_list())
    settings = json.loads((tmp_path / "out" / "report.json").read_text())["settings"]
    assert settings["rope_scaling"] == scaling
    assert (settings["model"], settings["statistics"]) == (tiny_llama.name, "statistics.json")
    command = json.loads((tmp_path / "out" / "report.json").read_text())["command"]
    assert f"--config recipe.yaml --model {tiny_llama.name} --sources" in command and '"path": "corpus"' in command
    assert "hf_writer" not in capsys.readouterr().out
