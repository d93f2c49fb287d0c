"""What editors and type checkers see of the package."""

import ast
import importlib
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["longattn_hf", "longattn_hf.baselines", "longattn_hf.pipeline"]


@pytest.mark.parametrize("name", PACKAGES)
def test_type_checkers_see_the_names_that_are_imported_on_first_use(name):
    package = importlib.import_module(name)
    tree = ast.parse((files(name) / "__init__.py").read_text(encoding="utf-8"))
    (branch,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.name: node.module for node in branch.body for alias in node.names if alias.asname == alias.name}
    assert seen == {public: f"{name}.{home}" for public, home in package._HOME_OF.items()}
    assert set(package._HOME_OF) <= set(package.__all__) and set(package._HOME_OF) <= set(dir(package))
    for public, home in seen.items():
        assert getattr(package, public) is getattr(importlib.import_module(home), public)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'; it has"):
        _ = package.nothing


def test_the_package_says_that_it_has_types():
    assert (files("longattn_hf") / "py.typed").is_file()


@pytest.mark.slow
def test_the_package_passes_the_type_checker_and_a_mistyped_argument_does_not(tmp_path):
    pytest.importorskip("mypy", reason="no mypy: pip install 'longattn_hf[dev]'")
    user = tmp_path / "user.py"
    user.write_text(
        "from longattn_hf import LongAttnScorer\n"
        "from longattn_hf.pipeline import build, load_config\n"
        "right = LongAttnScorer('m', min_distance=1)\n"
        "reveal_type(build(load_config('x.yaml')).report.version)\n"
        "LongAttnScorer('m', min_distanse=1)\n"
        "LongAttnScorer('m', on_error='panic')\n"
    )
    # one run for both: most of its time goes into reading torch and its like
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(ROOT / "longattn_hf"), str(user)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    found = [line.rpartition("user.py:")[2] for line in done.stdout.splitlines() if " defined in " not in line]
    assert len(found) == 3, done.stdout + done.stderr
    assert found[0].endswith('note: Revealed type is "str"')
    assert found[1].startswith(
        '5: error: Unexpected keyword argument "min_distanse" for "LongAttnScorer"; did you mean "min_distance"?'
    )
    assert found[2].startswith('6: error: Argument "on_error" to "LongAttnScorer" has incompatible type')
