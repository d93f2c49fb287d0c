"""Renders the committed cards: those of the demo's and the paper's datasets.

    python -m recipes.render_cards [OUT ...]

A dataset's recipe in recipes/configs gets the card of one that was not run. The output folder of a finished build
gives that dataset's card, reports and figures instead.
"""

import shutil
from pathlib import Path

from longattn_hf.files import write_text
from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.packaged_configs import CONFIGS
from longattn_hf.pipeline.recipe import plan_report
from longattn_hf.pipeline.refusal import refusing
from longattn_hf.pipeline.settings import Several, read_command_line, settings
from longattn_hf.report.card import render_card
from longattn_hf.report.facts import Report

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "dataset_cards"
RECIPES = [CONFIGS / "demo.yaml", *sorted(CONFIGS.glob("longabc*.yaml"))]


@settings
class RenderConfig:
    """Which cards to make.

    Attributes:
        builds: The output folders of finished builds.
    """

    builds: Several[str] = ()


def main(arguments: list[str] | None = None) -> None:
    """Writes `dataset_cards/<name>/` for finished builds, and for the recipes that have no build's card there."""
    with refusing("render_cards"):
        render(read_command_line(RenderConfig, arguments, positional=("builds",), description=__doc__))


def render(config: RenderConfig) -> None:
    """Writes the cards; raises as `read_report` and `load_config`."""
    for build in map(BuildFolder, config.builds):
        folder = write_card(read_report(build))
        shutil.copytree(build.figures, folder.figures, dirs_exist_ok=True)
        shutil.copy(build.page, folder.page)
    for path in RECIPES:
        folder = BuildFolder(CARDS / load_config(path).name)
        if not folder.report.exists() or read_report(folder).not_run:
            words = f"--config {path.resolve().relative_to(ROOT).as_posix()}"
            write_card(plan_report(load_config(path), words))


def read_report(folder: BuildFolder) -> Report:
    """Reads the report of a build, or of a card."""
    return Report.from_json(folder.report.read_text(encoding="utf-8"))


def write_card(report: Report) -> BuildFolder:
    """Writes a report and the card it renders to; returns their folder."""
    folder = BuildFolder(CARDS / report.name)
    write_text(folder.card, render_card(report))
    write_text(folder.report, report.to_json())
    print(f"{folder.path.relative_to(ROOT)}: {'not run' if report.not_run else 'from a build'}")
    return folder


if __name__ == "__main__":
    main()
