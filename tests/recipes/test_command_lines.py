import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from longattn_hf.pipeline.command_line import read_build
from longattn_hf.pipeline.settings import read_command_line

ROOT = Path(__file__).parents[2]
CONFIG_OF = {
    "recipes.benchmarks.attention_cost": "AttentionCostConfig",
    "recipes.benchmarks.calibrate_echo": "CalibrateConfig",
    "recipes.benchmarks.calibrate_far_gain": "FarGainCalibrationConfig",
    "recipes.benchmarks.certified_cut": "CertifiedCutConfig",
    "recipes.benchmarks.gold": "GoldConfig",
    "recipes.benchmarks.kernel_cost": "KernelCostConfig",
    "recipes.benchmarks.pipeline_cost": "PipelineCostConfig",
    "recipes.benchmarks.planted": "PlantedConfig",
    "recipes.benchmarks.preferences": "PreferencesConfig",
    "recipes.benchmarks.sampling": "SamplingConfig",
    "recipes.benchmarks.scale": "ScaleConfig",
    "recipes.benchmarks.settings": "ChoicesConfig",
    "recipes.benchmarks.tokenising": "TokenisingConfig",
    "recipes.compare_selections": "CompareConfig",
    "recipes.evaluate_model": "EvaluateConfig",
    "recipes.train_longattn": "TrainConfig",
}
BUILD = "recipes.build_longabc"
BENCHMARKS = [name for name in CONFIG_OF if name.startswith("recipes.benchmarks.")]


def documented_commands():
    """Every command that a README, a docstring or a configuration's comment shows: file, program and words."""
    shown = []
    for path in (ROOT / "README.md", *(ROOT / "recipes").rglob("README.md")):
        page, name = path.read_text().replace("\\\n", " "), path.relative_to(ROOT).as_posix()
        shown += [(name, " ".join(span.split())) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", page)]
        shown += [(name, line.strip()) for line in re.findall(r"^ {4}(\S.*)$", page, flags=re.MULTILINE)]
    for path in (*(ROOT / "recipes").rglob("*.py"), *(ROOT / "recipes" / "configs").glob("*.yaml")):
        lines = re.findall(r"^(?:#   | {4})(\w.*)$", path.read_text().replace("\\\n", " "), flags=re.MULTILINE)
        shown += [(path.name, line) for line in lines]
    for name, text in shown:
        command = re.match(r"(?:accelerate launch(?: --num_processes \d+)?|python -m) (recipes[\w./]+)(.*)", text)
        if command:
            # what stands for words that a reader chooses
            words = re.sub(r"\[--any_setting VALUE\]|\[--config FILE\]|--config FILE\.yaml|\.\.\.", "", command[2])
            words = re.sub(r"\[(--\w+ \S+)\]", r"\1", words).replace("_s N", "_s 1")
            yield name, command[1].removesuffix(".py").replace("/", "."), shlex.split(words, comments=True)


COMMANDS = sorted(command for command in documented_commands() if command[1] in (*CONFIG_OF, BUILD))


def test_the_commands_of_every_program_are_looked_at():
    assert {program for _, program, _ in COMMANDS} == {*CONFIG_OF, BUILD}
    assert {"README.md", "recipes/results/README.md", "train_8b.yaml", "planted.py"} <= {
        name for name, _, _ in COMMANDS
    }


@pytest.mark.parametrize(("name", "program", "words"), COMMANDS, ids=str)
def test_every_command_that_is_shown_can_be_read(name, program, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    if program == BUILD:
        read_build(words, default_config=Path("recipes/configs/demo.yaml"))
    else:
        read_command_line(getattr(import_module(program), CONFIG_OF[program]), words)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_mistyped_option_is_refused_with_the_nearest(name):
    with pytest.raises(SystemExit, match=r"^\w+: Unknown setting 'windw-tokens' in the command line. Did you mean"):
        import_module(name).main(["--windw-tokens", "64"])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_help_shows_the_commands_and_what_each_setting_means(name, capsys):
    with pytest.raises(SystemExit) as ended:
        import_module(name).main(["--help"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert f"python -m {name}" in shown and "--window" in shown


@pytest.mark.parametrize(
    ("program", "words", "message"),
    [
        ("sampling", ["--windows", "1"], "windows=1 cannot be ranked"),
        ("sampling", ["--documents", "absent.parquet"], "absent.parquet.* No such file"),
        ("pipeline_cost", ["--rounds", "1"], "rounds=1 leaves nothing to time"),
        ("pipeline_cost", ["--documents", "absent.parquet"], "absent.parquet.* No such file"),
    ],
)
def test_what_a_benchmark_cannot_measure_is_refused_in_one_line(program, words, message, tiny_llama):
    with pytest.raises(SystemExit, match=rf"^{program}: .*{message}.*$"):
        import_module(f"recipes.benchmarks.{program}").main(["--model", str(tiny_llama), *words])


def test_cards_of_a_folder_without_a_build_are_refused_in_one_line(tmp_path):
    render_cards = import_module("recipes.render_cards")
    with pytest.raises(SystemExit, match="^render_cards: .*No such file.*report.json"):
        render_cards.main([str(tmp_path)])
    with pytest.raises(SystemExit, match="^render_cards: Unknown setting 'build' .* Did you mean 'builds'"):
        render_cards.main(["--build", str(tmp_path)])


@pytest.mark.parametrize("program", ["recipes/render_settings.py", "recipes/datatrove_pipeline.py"])
def test_programs_without_settings_have_their_help_and_do_nothing_else(program):
    page = ROOT / "recipes" / "configs" / "README.md"
    before = page.stat().st_mtime_ns
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, program]
    done = subprocess.run([*words, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "recipes" in done.stdout and not done.stderr
    done = subprocess.run([*words, "--helpp"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode and "Traceback" not in done.stderr
    assert page.stat().st_mtime_ns == before
