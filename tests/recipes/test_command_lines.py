import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG_OF = {
    "recipes.benchmarks.attention_cost": "AttentionCostConfig",
    "recipes.benchmarks.calibrate_echo": "CalibrateConfig",
    "recipes.benchmarks.pipeline_cost": "PipelineCostConfig",
    "recipes.benchmarks.planted": "PlantedConfig",
    "recipes.benchmarks.sampling": "SamplingConfig",
    "recipes.benchmarks.scale": "ScaleConfig",
    "recipes.benchmarks.settings": "ChoicesConfig",
    "recipes.compare_selections": "CompareConfig",
    "recipes.evaluate_model": "EvaluateConfig",
    "recipes.train_longattn": "TrainConfig",
}
BENCHMARKS = [name for name in CONFIG_OF if name.startswith("recipes.benchmarks.")]
PLACEHOLDERS = {"...", "--any_setting", "VALUE"}


def documented_commands():
    """Every command that README, a recipe's docstring or a configuration's comment shows, with the words after it."""
    for path in [
        ROOT / "README.md",
        *sorted((ROOT / "recipes").rglob("*.py")),
        *sorted(ROOT.glob("recipes/configs/*")),
    ]:
        text = re.sub(r"(?<!`)`(?!`)|\\\n", "\n", path.read_text()) if path.name == "README.md" else path.read_text()
        text = text.replace("\\\n", " ")
        pattern = r"(?:accelerate launch(?: --num_processes \d+)? |python -m )(recipes[\w./]+)(.*(?:\n[^`\n#]*\}\]')?)"
        for program, words in re.findall(pattern, text):
            words = shlex.split(words.replace("[--any_setting VALUE]", "").replace("[", "[ "), comments=True)
            yield path.name, program.removesuffix(".py").replace("/", "."), words


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_mistyped_option_is_refused_with_the_nearest(name):
    with pytest.raises(SystemExit, match=r"^\w+: Unknown setting 'windw-tokens' in the command line. Did you mean"):
        import_module(name).main(["--windw-tokens", "64"])
