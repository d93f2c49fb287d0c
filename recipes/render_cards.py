"""Renders the committed cards of the recipes' data sets.

    python -m recipes.render_cards [OUT ...]

A data set's recipe in recipes/configs gets the card of one that was not run. The output directory of a finished build
gives that data set's card, reports and figures instead.
"""

import json
import shutil
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from datasets import Features, Value

from longattn_hf.columns import (
    CATEGORY,
    INPUT_IDS,
    KEPT,
    LONG_DISTANCE_SCORE,
    SCORE_FEATURES,
    SELECTION_FEATURES,
    TEXT,
    WINDOW_FEATURES,
)
from longattn_hf.pipeline import output
from longattn_hf.pipeline.config import BuildConfig, load_config
from longattn_hf.report.card import render_card
from recipes.build_longabc import CONFIGS, describe_recipe, model_name

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "dataset_cards"
RECIPES = [CONFIGS / "demo.yaml", *sorted(CONFIGS.glob("longabc*.yaml"))]


def main(builds: list[str]) -> None:
    """Writes `dataset_cards/<name>/` for finished builds, and for the recipes that have no build's card there."""
    for build in builds:
        folder = write_card(json.loads((Path(build) / "report.json").read_text(encoding="utf-8")))
        shutil.copytree(Path(build) / "figures", folder / "figures", dirs_exist_ok=True)
        shutil.copy(Path(build) / "report.html", folder)
    for path in RECIPES:
        report = CARDS / load_config(path).name / "report.json"
        if not report.exists() or json.loads(report.read_text(encoding="utf-8")).get("not_run"):
            write_card(plan_report(path))


def write_card(report: dict[str, Any]) -> Path:
    """Writes a report and the card it renders to; returns their folder."""
    card = render_card(report)
    folder = CARDS / report["name"]
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(f"{folder.relative_to(ROOT)}: {'not run' if report.get('not_run') else 'from a build'}")
    return folder


def plan_report(path: Path) -> dict[str, Any]:
    """Returns the report of a recipe that was not run.

    Args:
        path: Its configuration, in this repository.

    Raises:
        ValueError: As `load_config`.
    """
    config = load_config(path)
    words = f"--config {path.resolve().relative_to(ROOT).as_posix()}"
    return describe_recipe(config, words) | {
        "not_run": True,
        "model": {"model": model_name(config.model)},
        "categories": {category: {} for category in config.categories},
        "sources": [
            {"source": it.source or it.path, "license": it.license or "unknown", "category": it.category}
            for it in config.sources
        ],
        "configs": plan_configs(config),
    }


def plan_configs(config: BuildConfig) -> dict[str, dict[str, Any]]:
    """Returns the configurations that a build would leave: where their files would be, and their columns."""
    nothing = pa.table({CATEGORY: pa.array([], pa.string()), KEPT: pa.array([], pa.bool_())})
    nothing = nothing.append_column("start_char", pa.array([], pa.int64()))
    nothing = nothing.append_column("end_char", pa.array([], pa.int64()))
    windows = {name: feature for name, feature in WINDOW_FEATURES.items() if name != INPUT_IDS}
    carried = dict.fromkeys(("source", "license", CATEGORY), Value("string"))
    kept = windows | carried | SCORE_FEATURES | {LONG_DISTANCE_SCORE: SELECTION_FEATURES[LONG_DISTANCE_SCORE]}
    scores = {name: feature for name, feature in (kept | SELECTION_FEATURES).items() if name != TEXT}
    return {
        file.config: {
            "data_files": f"{PurePosixPath(file.path).parent}/train-*.parquet",
            "features": Features(scores if file.config == output.SCORES else kept)._to_yaml_list(),
        }
        for file in output.plan_files(nothing, config.categories)
    }


if __name__ == "__main__":
    main(sys.argv[1:])
