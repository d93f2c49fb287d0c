"""What the programs print: for people at 80 and at 200 columns, for programs, and where there is no terminal."""

import io
import json
import logging
import re
import sys
import time
import unicodedata
from dataclasses import fields

import pytest
from accelerate import PartialState
from datasets import Dataset, load_dataset

from longattn_hf.__main__ import COMMANDS, main
from longattn_hf.pipeline import heartbeat
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.heartbeat import Progress
from longattn_hf.pipeline.options import make_parser
from longattn_hf.pipeline.processes import Process, join_processes
from longattn_hf.pipeline.terminal import Output, clock, fold, lay_out
from tests.support.recipes import text, write_recipe

#: Two columns a character, and longer than what is left of 80 columns.
NAMES = ("書籍", "a_category_whose_name_has_more_than_forty_characters")


@pytest.fixture(scope="module")
def recipe(tiny_llama, tmp_path_factory):
    documents = {
        name: [{"id": f"{name}{i}", "text": text(20 + 9 * i, f"{name}{i}")} for i in range(8)] for name in NAMES
    }
    settings = {"documents_per_shard": 2, "scorers": ["length"], "fraction": 0.5}
    return write_recipe(tmp_path_factory.mktemp("recipe"), tiny_llama, documents, **settings)


@pytest.fixture(scope="module")
def output(recipe, tmp_path_factory):
    """Where a build of the recipe is finished."""
    folder = tmp_path_factory.mktemp("out") / "small"
    main(["build", "--config", str(recipe), "--output_dir", str(folder)])
    return folder


def width_of(line):
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def scores_of(folder):
    return load_dataset("parquet", data_files=f"{folder}/scores/*.parquet", split="train").to_pandas()


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]


def test_a_build_tells_its_stages_what_it_reuses_and_what_another_cut_changes(recipe, tmp_path, caplog, capsys):
    words = ["build", "--config", str(recipe), "--output_dir", str(tmp_path)]
    main(words)
    first, windows = scores_of(tmp_path), len(scores_of(tmp_path))
    assert told(caplog) == [
        "1 of 4: cutting documents into windows",
        f"  16 documents, {windows:,} windows",
        "2 of 4: scoring by length",
        f"  {windows:,} scores by length",
        "3 of 4: selecting",
        f"  {first.kept.sum()} of {windows:,} windows kept",
        "4 of 4: writing the dataset, its report and its card",
    ]
    shown = capsys.readouterr()
    assert f"{tmp_path}: {windows} windows scored" in shown.out and "Nothing" not in shown.out
    for hint in (f"{tmp_path}/report.html", f"{tmp_path}/README.md", f"longattn explore {tmp_path}", "--fraction;"):
        assert hint in shown.err
    # a shard of windows and one of scores are gone, and another cut is asked for
    lost_windows, lost_scores = sorted((tmp_path / "work/windows").rglob("*.parquet"))[:2]
    (tmp_path / "work/scores-length" / lost_scores.relative_to(tmp_path / "work/windows")).unlink()
    rescored = len(Dataset.from_parquet(str(lost_scores)))
    recut = len(Dataset.from_parquet(str(lost_windows)))
    lost_windows.unlink()
    caplog.clear()
    main([*words, "--fraction", "0.25"])
    second = scores_of(tmp_path)
    gone = len({*first.id[first.kept]} - {*second.id[second.kept]})
    assert gone > 0 and {*second.id[second.kept]} <= {*first.id[first.kept]}
    lines = told(caplog)
    assert (
        lines[1]
        == f"  16 documents (14 from an earlier run), {windows} windows ({windows - recut} from an earlier run)"
    )
    assert lines[3] == f"  {windows} scores by length ({windows - rescored} from an earlier run)"
    assert lines[5].endswith(f" kept: 0 added, {gone} removed, {second.kept.sum()} kept as before")
    capsys.readouterr()
    caplog.clear()
    main([*words, "--fraction", "0.25"])
    assert (
        told(caplog) == [] and "\nNothing was to be done: the folder holds this very build." in capsys.readouterr().out
    )


@pytest.mark.parametrize("columns", [80, 200])
def test_the_table_fits_the_terminal_and_its_numbers_stand_to_the_right(output, recipe, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    main(["build", "--config", str(recipe), "--output_dir", str(output)])
    title, head, *rows = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert title == "Ranked by length; the cut is the lowest score kept:"
    assert head.split() == ["category", "documents", "windows", "kept", "tokens", "kept", "share", "cut"]
    assert {width_of(line) for line in (head, *rows)} == {width_of(head)} and width_of(head) <= columns
    assert (NAMES[1] in rows[1]) == (columns == 200) and ("…" in rows[1]) == (columns == 80)
    table = scores_of(output)
    for row, name in zip(rows, (*NAMES, None), strict=True):
        mine = table if name is None else table[table.category == name]
        kept = mine[mine.kept]
        cut = "-" if name is None else f"{kept.length.min():.3g}"
        share = f"{kept.num_tokens.sum() / mine.num_tokens.sum():.1%}"
        counts = [8 if name else 16, len(mine), len(kept), kept.num_tokens.sum()]
        assert row.split()[1:] == [*(f"{count:,}" for count in counts), share, cut]


def test_for_programs_the_result_is_one_object_and_nothing_else(output, recipe, capsys):
    main(["build", "--config", str(recipe), "--output_dir", str(output), "--json"])
    facts, table = json.loads(capsys.readouterr().out), scores_of(output)
    assert 0 <= facts.pop("seconds") < 60
    categories = facts.pop("categories")
    assert facts == {
        "folder": str(output), "ranked_by": "length", "scored_windows": 0, "reused": {}, "changes": None,
        "cautions": [], "is_new": False, "published": None,
    }  # fmt: skip
    for name, counts in categories.items():
        mine = table[table.category == name]
        kept = mine[mine.kept]
        assert counts == {
            "documents": 8, "windows": len(mine), "tokens": mine.num_tokens.sum(), "kept_windows": len(kept),
            "kept_tokens": kept.num_tokens.sum(), "cut": kept.length.min(),
        }  # fmt: skip
    main(["publish", str(output), "me/small", "--dry_run", "--json"])
    published = json.loads(capsys.readouterr().out)
    assert (published["repo_id"], published["commit"], published["rows"]["scores"]) == ("me/small", None, len(table))


def test_quiet_means_the_result_alone(output, recipe, tmp_path, capsys, caplog):
    main(["build", "--config", str(recipe), "--output_dir", str(tmp_path), "--fraction", "0.25", "--quiet"])
    shown = capsys.readouterr()
    assert shown.err == "" and caplog.records == [] and shown.out.startswith("Ranked by length")
    with pytest.raises(SystemExit):
        main(["build", "--config", str(recipe), "--quiet", "--window_tokens", "0"])
    assert "window_tokens=0 must be at least 1" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch, capsys, caplog):
    caplog.set_level(logging.INFO, logger="longattn_hf")
    monkeypatch.setattr(heartbeat, "_SECONDS_BETWEEN_LINES", 0.0)

    def work(index=0):
        progress = Progress(None, process=index, processes=2, stage="scores", total=4, unit="windows")
        progress._heartbeat.started -= 10
        progress.update(1)
        progress.__exit__(None)

    work()
    line = told(caplog)[0]
    # three are left at 10 seconds each
    assert re.fullmatch(r"scores: 1 of 4 windows, 0\.10/s, done at \d\d:\d\d", line)
    assert line.endswith((clock(30, now=time.time()), clock(29, now=time.time())))
    work(index=1)
    assert len(told(caplog)) == 1 and capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", Terminal())
    work()
    assert "1/4" in sys.stderr.getvalue() and len(told(caplog)) == 1
    assert re.search(r"done at \d\d:\d\d", sys.stderr.getvalue())
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Output(quiet=True).speaking():
        work()
    assert sys.stderr.getvalue() == ""


def test_publishing_draws_no_bar_where_there_is_no_terminal(output, hub, run_python):
    done = run_python(
        "import os; del os.environ['HF_HUB_DISABLE_PROGRESS_BARS']\n"
        f"from longattn_hf.__main__ import main; main(['publish', {str(output)!r}, 'me/small'])"
    )
    assert "published as commit" in done.stdout and hub.requests("PUT", "/lfs/")
    assert "%|" not in done.stderr and "\r" not in done.stderr


def test_selecting_and_writing_say_how_far_they_are_as_scoring_does(recipe, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(heartbeat, "_SECONDS_BETWEEN_LINES", 0.0)
    words = ["build", "--config", str(recipe), "--output_dir", str(tmp_path)]
    main(words)
    progress = [re.fullmatch(r"(.+): ([\d,]+) of ([\d,]+) (.+?), .*done at .+", line) for line in told(caplog)]
    last = {found[1]: tuple(found.groups()[1:]) for found in progress if found}
    table, report = scores_of(tmp_path), json.loads((tmp_path / "report.json").read_text())
    examples = {one["id"] for of in report["examples"].values() for one in (*of["highest"], *of["lowest"])}
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "work" not in path.parts]
    counts = {
        "windows": (2, "source parts"), "scores": (len(table), "windows"), "scores read": (len(table), "windows"),
        "scores written": (len(table), "windows"), "windows written": (int(table.kept.sum()), "windows"),
        "examples": (len(examples), "windows"), "report": (3, "parts"), "files placed": (len(files), "files"),
    }  # fmt: skip
    assert last == {stage: (str(count), str(count), unit) for stage, (count, unit) in counts.items()}
    assert [*last] == [*counts]
    # a terminal has a bar of each
    monkeypatch.setattr(sys, "stderr", Terminal())
    main([*words, "--fraction", "0.25"])
    assert all(f"{stage}: 100%" in sys.stderr.getvalue() for stage in [*counts][2:])
    caplog.clear()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    main([*words, "--quiet"])
    assert sys.stderr.getvalue() == "" and not caplog.records


def test_only_the_first_process_tells_what_goes_on(caplog):
    with Output().speaking():
        for index in (0, 1):
            Process(index, 2).say("%d of %d", index, 2)
    assert told(caplog) == ["0 of 2"]


def test_a_launcher_that_was_asked_for_two_and_started_one_is_told_of(monkeypatch, caplog):
    # what `accelerate launch --num_processes 2` tells its process where there is no GPU
    for name in ("WORLD_SIZE", "LOCAL_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    PartialState._reset_state()
    assert join_processes().count == 1 and not caplog.records
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert join_processes().count == 1
    assert "asked for several processes, and has started this one alone" in caplog.text
    PartialState._reset_state()


def test_the_clock_names_the_day_where_it_is_another(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    noon = 1_764_158_400.0  # 26 November 2025, 12:00
    assert clock(90 * 60, now=noon) == "13:30" and clock(13 * 3600, now=noon) == "Thu 27 Nov 01:00"
    monkeypatch.undo()
    time.tzset()


def test_tables_count_marks_that_take_no_room_and_characters_that_take_two(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    # an accent of its own, a sequence that would turn the terminal red
    lines = lay_out([("e\u0301té", "1"), ("日本", "22"), ("\x1b[31m", "333")])
    assert lines == ["e\u0301té      1", "日本    22", "␛[31m  333"]
    assert lay_out([("x" * 30, "12,345")]) == [f"xxxxxx…xxxxx{'12,345':>8}"]
    assert fold("as many words as do not fit").splitlines() == ["as many words as do", "  not fit"]


def test_help_is_read_at_eighty_columns_and_loads_little(run_python):
    program = (
        "import sys\nfrom longattn_hf.__main__ import COMMANDS, main\n"
        "for command in COMMANDS:\n    try:\n        main([command, '--help'])\n    except SystemExit:\n        pass\n"
        "assert not {'torch', 'transformers', 'datasets', 'pandas', 'gradio'} & {*sys.modules}\n"
    )
    pages = run_python(program, COLUMNS="80").stdout.split("usage: longattn ")[1:]
    assert len(pages) == len(COMMANDS)
    for command, page in zip(COMMANDS, pages, strict=True):
        assert all(len(line) <= 80 for line in page.splitlines())
        examples = page.partition("\nexamples:\n")[2].strip().splitlines()
        assert examples and f"longattn {command} " in f"{examples[0].strip()} " and "class '" not in page
        assert ("--json" in page) == (command in ("build", "score", "select", "publish", "estimate"))


def test_every_setting_has_meaning_kind_default_and_group_in_the_help():
    shown = make_parser(BuildConfig).format_help()
    for group in BuildConfig.GROUPS.values():
        assert f"\n{group}:\n" in shown
    words = " ".join(shown.split())
    for setting in fields(BuildConfig):
        entry = words.partition(f" --{setting.name} ")[2].partition(" --")[0]
        assert re.search(r"\. (Required|Default: .+)\.", entry), entry
    for shape in (
        "--alpha NUMBER The weight", "--dtype float32|bfloat16|float16 The", "--certify [true|false] Score",
        "--fraction NUMBER|{NAME: NUMBER} Keep", "Default: 32768.", "--language [TEXT ...] Language", "Default: en.",
    ):  # fmt: skip
        assert shape in words
    assert make_parser(BuildConfig).parse_args(["--gguf-file", "x"]).gguf_file == "x"
