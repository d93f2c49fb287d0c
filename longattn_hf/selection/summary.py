"""Counts of kept and dropped windows by score, small enough to be sent to a page however many windows there are."""

from typing import Any

import numpy as np


def bin_edges(values: np.ndarray, count: int, *, through: float | None = None) -> np.ndarray:
    """Returns ascending edges of bins of equal width that cover `values`, float64, at most `count + 2` of them.

    Args:
        values: Finite, not empty.
        count: About how many bins.
        through: One edge lies exactly here, so that no bin straddles a cut.
    """
    low, high = float(values.min()), float(values.max())
    # equal values get one bin around them
    width = (high - low) / count or max(abs(low) * 1e-3, 1e-12)
    if through is None or not low <= through <= high:
        through = low
    before, behind = np.ceil((through - low) / width - 1e-9), np.floor((high - through) / width + 1e-9) + 1
    edges = through + width * np.arange(-before, behind + 1)
    edges[0] = min(edges[0], low)
    # the last bin holds its right edge
    return edges[:-1] if len(edges) > 2 and edges[-2] >= high else edges


def split_histogram(values: np.ndarray, kept: np.ndarray, edges: np.ndarray) -> dict[str, list]:
    """Counts the kept and the dropped values of each bin; plain lists, for JSON."""
    return {
        "edges": edges.tolist(),
        "kept": np.histogram(values[kept], edges)[0].tolist(),
        "dropped": np.histogram(values[~kept], edges)[0].tolist(),
    }


def split_cells(x: np.ndarray, y: np.ndarray, kept: np.ndarray, *, count: int) -> dict[str, Any]:
    """Counts windows in cells of two scores: `edges_x`, `edges_y`, and `cells`, rows of (column, row, kept, all)."""
    edges = bin_edges(x, count), bin_edges(y, count)
    every, _, _ = np.histogram2d(x, y, edges)
    taken, _, _ = np.histogram2d(x[kept], y[kept], edges)
    cells = [(int(i), int(j), int(taken[i, j]), int(every[i, j])) for i, j in np.argwhere(every)]
    return {"edges_x": edges[0].tolist(), "edges_y": edges[1].tolist(), "cells": cells}
