"""The command line, and the package as a wheel brings it."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from longattn_hf.__main__ import COMMANDS, main
from longattn_hf.pipeline.packaged_configs import CONFIGS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: longattn {command} " in capsys.readouterr().out


def test_help_and_version_load_neither_torch_nor_transformers(run_python):
    program = (
        "import sys; from longattn_hf.__main__ import main; main(['--help']); main(['--version']); main([]); "
        "assert not {'torch', 'transformers', 'datasets'} & sys.modules.keys()"
    )
    printed = run_python(program).stdout
    assert all(f"\n  {command} " in printed for command in COMMANDS)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["watch", "OUT", "--once"]], ids=" ".join)
def test_a_command_whose_reader_has_ended_ends_in_one_line(tmp_path, words, unbuffered):
    (tmp_path / "OUT" / "work" / "heartbeats").mkdir(parents=True)
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "longattn_hf", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(words, cwd=tmp_path, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "longattn: Broken pipe.\n")


def test_ctrl_c_ends_a_command_in_one_line(tmp_path):
    os.mkfifo(tmp_path / "d.txt")
    words = [sys.executable, "-m", "longattn_hf", "explain", "d.txt", "--model", "m", "-o", "page.html"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    # opens when the command does, which then waits for the text
    with open(tmp_path / "d.txt", "wb"):
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "longattn: interrupted.\n")
    assert not (tmp_path / "page.html").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pytest.importorskip("hatchling", reason="no hatchling: pip install hatchling")
    words = ["-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    zipfile.ZipFile(path).extractall(folder / "installed")
    return folder / "installed"


def test_a_wheel_brings_recipes_pages_calibrations_and_the_command(wheel):
    brought = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*")}
    tracked = subprocess.run(["git", "ls-files", "longattn_hf"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {*tracked.stdout.split()} <= brought
    assert {
        f"longattn_hf/pipeline/configs/{name}.yaml" for name in ("demo", "longabc_32k", "longabc_32k_70b")
    } <= brought
    (entry_points,) = wheel.glob("*.dist-info/entry_points.txt")
    assert "longattn = longattn_hf.__main__:main" in entry_points.read_text()


def test_the_command_of_a_published_card_works_without_a_checkout(wheel, tmp_path):
    words = ["-m", "longattn_hf.pipeline", "--config", "longabc_32k", "--dry_run", "--window_tokens", "0"]
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, env=environment)
    # the recipe was found and read, up to the setting that is wrong on purpose
    assert done.returncode == 2 and done.stderr.strip().startswith("build: window_tokens"), done.stderr
    where = [sys.executable, "-c", "import longattn_hf; print(longattn_hf.__file__)"]
    printed = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, env=environment).stdout
    assert Path(printed.strip()).is_relative_to(wheel)


def test_a_checkout_s_recipes_are_those_of_the_package():
    for path in CONFIGS.glob("*.yaml"):
        assert (ROOT / "recipes" / "configs" / path.name).resolve() == path
