"""The benchmark's pictures: how well each score tells intact windows from controls, and how the scores agree."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot_areas(report: Mapping[str, Any], path: Path) -> None:
    """Draws a cell a score and kind, one panel a category, coloured by the share that the intact window wins."""
    rows = report["comparisons"]
    categories, scores, kinds = (
        list(dict.fromkeys(row[name] for row in rows)) for name in ("category", "score", "kind")
    )
    figure = Figure(figsize=(2.2 + 3.4 * len(categories), 1.6 + 0.26 * len(scores)), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    for axes, category in zip(figure.subplots(1, len(categories), squeeze=False)[0], categories, strict=True):
        cells = np.full((len(scores), len(kinds)), np.nan)
        for row in rows:
            if row["category"] == category:
                cells[scores.index(row["score"]), kinds.index(row["kind"])] = row["value"]
        image = _draw_cells(axes, cells, scores if category == categories[0] else [""] * len(scores), kinds, (0, 1))
        axes.set_title(category, fontsize=9)
    figure.colorbar(image, ax=figure.axes, shrink=0.7, label="share won by the intact window")
    figure.savefig(path, metadata={"Software": None})


def plot_correlation(report: Mapping[str, Any], path: Path) -> None:
    """Draws the matrix of rank correlations on intact windows."""
    names = report["rank_correlation"]["columns"]
    side = 2.4 + 0.34 * len(names)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    cells = np.array(report["rank_correlation"]["spearman"], dtype=float)
    image = _draw_cells(axes, cells, names, names, (-1, 1))
    axes.set_title(f"Spearman, {report['rank_correlation']['windows']} intact windows", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.7)
    figure.savefig(path, metadata={"Software": None})


def _draw_cells(axes: Any, cells: np.ndarray, rows: list[str], columns: list[str], limits: tuple[float, float]) -> Any:
    image = axes.imshow(cells, cmap="PuOr", vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    middle, width = sum(limits) / 2, limits[1] - limits[0]
    for row, column in np.argwhere(np.isfinite(cells)):
        value = cells[row, column]
        dark = abs(value - middle) > 0.36 * width
        axes.text(
            column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color="white" if dark else "black"
        )
    return image
