"""A build that has nothing to do is known at once, and one that has something to do is never taken for it."""

import os
import shutil
from pathlib import Path

import pytest
from datasets import Dataset

from longattn_hf.pipeline import run as stages
from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.processes import Process
from longattn_hf.pipeline.run import build
from longattn_hf.pipeline.traces import describe_inputs
from tests.model.test_byte_ranges import upload
from tests.pipeline.test_build import results
from tests.support.recipes import text, write_recipe


@pytest.fixture
def recipe(tiny_llama, tmp_path):
    shutil.copytree(tiny_llama, tmp_path / "model")
    rows = [{"id": f"{i}", "text": text(60 + 9 * (i // 2), i)} for i in range(12)]
    return write_recipe(tmp_path, tmp_path / "model", {"book": rows}, parts=2, fraction=0.5, scorers=["length"])


@pytest.fixture
def long_way(monkeypatch):
    """How often the stages were gone through."""
    gone, whole = [], stages._build
    monkeypatch.setattr(stages, "_build", lambda *given: gone.append(1) or whole(*given))
    return gone


def run(recipe, engine=None, **overrides):
    return build(load_config(recipe, {"output_dir": str(recipe.parent / "out")} | overrides), engine=engine)


def change_and_hide(path: Path):
    """Flips a bit, and sets the time of change back."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def add_documents(folder: Path):
    rows = [{"id": f"new-{i}", "text": text(200, f"new {i}")} for i in range(3)]
    Dataset.from_list(rows).to_parquet(folder / "book-2.parquet")


CHANGES = {
    "a kept shard": lambda folder: change_and_hide(next((folder / "out" / "data").rglob("*.parquet"))),
    "a shard of scores": lambda folder: change_and_hide(next((folder / "out/work/scores-length").rglob("*.parquet"))),
    "the report": lambda folder: change_and_hide(folder / "out" / "report.json"),
    "a picture": lambda folder: next((folder / "out" / "figures").iterdir()).unlink(),
    "the traces": lambda folder: change_and_hide(folder / "out" / "work" / "traces.json"),
    "the mark": lambda folder: (folder / "out" / "work" / "finished.json").unlink(),
    "more documents": add_documents,
    "other documents": lambda folder: shutil.copy(folder / "book-0.parquet", folder / "book-1.parquet"),
    "the tokenizer": lambda folder: (folder / "model" / "tokenizer_config.json").write_text("{}"),
}


def test_a_file_of_ones_own_beside_the_dataset_stops_no_build(recipe, long_way):
    first = run(recipe)
    own = Path(os.fsdecode(os.fsencode(first.folder) + b"/not utf-8 \xff.txt"))
    own.write_text("mine")
    again = run(recipe)
    assert results(again.folder) == results(first.folder) and own.read_text() == "mine"
    # that it is there was found out once
    assert len(long_way) == 2 and run(recipe).scored_windows == 0 and len(long_way) == 2


def test_the_same_command_again_goes_through_no_stage(recipe, long_way):
    first = run(recipe)
    before = results(first.folder)
    again = run(recipe)
    assert len(long_way) == 1 and first.scored_windows > 5 and again.scored_windows == 0
    assert results(again.folder) == before and str(again) == str(first)
    run(recipe, fraction=0.25)
    run(recipe, fraction=0.25)
    assert len(long_way) == 2


def test_whatever_changed_is_found(recipe, long_way):
    built = run(recipe)
    for name, change in CHANGES.items():
        before = results(built.folder)
        change(recipe.parent)
        del long_way[:]
        for _ in range(2):
            run(recipe)
            assert len(long_way) == 1, name
        assert (results(built.folder) == before) == ("documents" not in name), name
        if "documents" in name:
            fresh = run(recipe, output_dir=str(recipe.parent / name))
            assert results(built.folder) == results(fresh.folder), name


def test_of_a_model_on_the_hub_one_request_tells_that_nothing_is_to_be_done(recipe, hub, tiny_llama, long_way):
    upload(hub, tiny_llama, "org/tiny")
    first = run(recipe, model="org/tiny")
    hub.log.clear()
    again = run(recipe, model="org/tiny")
    assert len(long_way) == 1 and str(again) == str(first)
    assert [(entry.method, entry.path) for entry in hub.log] == [("HEAD", "/org/tiny/resolve/main/config.json")]
    # the same commit, which nobody has to be asked for
    commit = hub.repos["model", "org/tiny"].refs["refs/heads/main"]
    run(recipe, model="org/tiny", revision=commit, overwrite=True)
    hub.log.clear()
    run(recipe, model="org/tiny", revision=commit, overwrite=True)
    assert len(long_way) == 2 and not hub.log
    run(recipe, model="org/tiny", overwrite=True)
    hub.push(hub.repos["model", "org/tiny"], {"notes.txt": b"another commit"})
    run(recipe, model="org/tiny", overwrite=True)
    assert len(long_way) == 4


def test_what_the_first_of_several_processes_finds_holds_for_all(recipe, long_way):
    first = run(recipe)
    told = []

    def tell(found):
        told.append(found)
        return True

    assert str(run(recipe, engine=Process(0, 2, tell=tell))) == str(first) and told == [True]
    assert str(run(recipe, engine=Process(1, 2, tell=tell))) == str(first) and told == [True, False]
    assert len(long_way) == 1


def test_a_build_that_has_nothing_to_do_loads_no_model_library(recipe, run_python):
    words = ["build", "--config", str(recipe), "--output_dir", str(recipe.parent / "out"), "--scorers", "[longattn]"]
    program = f"import sys\nfrom longattn_hf.__main__ import main\nmain({words})\nprint(*sys.modules)"
    assert "Nothing was to be done" not in run_python(program).stdout
    again = run_python(program).stdout
    assert "Nothing was to be done" in again
    assert not {"torch", "transformers", "accelerate", "matplotlib"} & {*again.split()}


def test_what_cannot_be_told_without_a_network_or_another_file_goes_the_long_way(recipe, tmp_path):
    def inputs(**overrides):
        config = load_config(recipe, {"output_dir": str(tmp_path / "out")} | overrides)
        return describe_inputs(config, "", stages.BuildFolder(config.folder))

    known = inputs()
    assert known is not None and known == inputs() and known != inputs(fraction=0.25)
    assert inputs(model="org/model") is None
    assert inputs(sources=[{"category": "book", "path": "org/books"}]) is None
    pinned = {"category": "book", "path": "org/books", "revision": "0123456789" * 4}
    assert inputs(sources=[pinned]) is not None
    assert inputs(scorers={"far_gain": {"calibration": "mine.json"}}) is None
