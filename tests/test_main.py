"""The command line, and the package as a wheel brings it."""

import os
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
