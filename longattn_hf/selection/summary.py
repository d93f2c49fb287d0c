"""Counts of kept and dropped windows, by group and by score: one set for figures, pages and terminals.

They are small enough to be sent to a page however many windows there are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longattn_hf.columns import DOC_ID


@dataclass(frozen=True, kw_only=True)
class WindowCounts:
    """The windows of a group and their tokens, and of those kept the windows, tokens and documents."""

    windows: int = 0
    tokens: int = 0
    kept_windows: int = 0
    kept_tokens: int = 0
    kept_documents: int = 0


def count_windows(
    table: pa.Table, kept: np.ndarray | pa.ChunkedArray, by: Sequence[str]
) -> dict[tuple[Any, ...], WindowCounts]:
    """Counts windows by group.

    Args:
        table: One row a window, with the columns `num_tokens`, `doc_id` and `by`; one that is missing counts as null.
        kept: bool `[len(table)]`.
        by: The columns whose values tell the groups apart; with none of them all windows are one group, `()`.

    Returns:
        By the groups' values.
    """
    nothing = pa.nulls(len(table), pa.int64())
    names = dict.fromkeys((*by, "num_tokens", DOC_ID))
    columns = {name: table[name] if name in table.column_names else pa.chunked_array([nothing]) for name in names}
    if pa.types.is_dictionary(columns[DOC_ID].type):
        columns[DOC_ID] = pa.chunked_array([chunk.indices for chunk in columns[DOC_ID].chunks])
    selected, counts = _sum_groups(pa.table(columns).filter(kept), by), {}
    for group, (windows, tokens, _) in _sum_groups(pa.table(columns), by).items():
        kept_windows, kept_tokens, kept_documents = selected.get(group, (0, 0, 0))
        counts[group] = WindowCounts(
            windows=windows,
            tokens=tokens,
            kept_windows=kept_windows,
            kept_tokens=kept_tokens,
            kept_documents=kept_documents,
        )
    return counts


def _sum_groups(table: pa.Table, by: Sequence[str]) -> dict[tuple[Any, ...], tuple[int, int, int]]:
    """Returns each group's windows, tokens and documents."""
    all_rows = pc.CountOptions(mode="all")
    sums = [("num_tokens", "count", all_rows), ("num_tokens", "sum"), (DOC_ID, "count_distinct", all_rows)]
    groups = table.group_by(list(by), use_threads=False).aggregate(sums)
    return {
        tuple(row[name] for name in by): (
            row["num_tokens_count"],
            row["num_tokens_sum"] or 0,
            row[f"{DOC_ID}_count_distinct"],
        )
        for row in groups.to_pylist()
        if row["num_tokens_count"]
    }


def bin_edges(values: np.ndarray, *, through: float | None = None, most: int = 60) -> np.ndarray:
    """Returns ascending edges of bins of equal width that cover `values`, float64.

    The number of bins grows as the cube root of that of the values, from 8 to `most`, and one or two more.

    Args:
        values: Finite, not empty.
        through: One edge lies exactly here, so that no bin straddles a cut; the lowest value if None or not between.
        most: The most bins.
    """
    low, high = float(values.min()), float(values.max())
    anchor = through if through is not None and low <= through <= high else low
    # equal values get one bin
    width = (high - low) / np.clip(round(3 * len(values) ** (1 / 3)), 8, most) or abs(low) / 4 or 0.25
    # a bin to the right of the anchor even if the highest value is the anchor itself
    first, last = math.floor((low - anchor) / width), max(math.ceil((high - anchor) / width), 1)
    edges = anchor + width * np.arange(first, last + 1)
    # rounding may leave an extreme just outside
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return edges


def split_histogram(values: np.ndarray, kept: np.ndarray, edges: np.ndarray) -> dict[str, list]:
    """Counts the kept and the dropped values of each bin; plain lists, for JSON."""
    return {
        "edges": edges.tolist(),
        "kept": np.histogram(values[kept], edges)[0].tolist(),
        "dropped": np.histogram(values[~kept], edges)[0].tolist(),
    }


def split_cells(x: np.ndarray, y: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    """Counts windows in cells of two scores: `edges_x`, `edges_y`, and `cells`, rows of (column, row, kept, all)."""
    edges = bin_edges(x), bin_edges(y)
    every, _, _ = np.histogram2d(x, y, edges)
    taken, _, _ = np.histogram2d(x[kept], y[kept], edges)
    cells = [(int(i), int(j), int(taken[i, j]), int(every[i, j])) for i, j in np.argwhere(every)]
    return {"edges_x": edges[0].tolist(), "edges_y": edges[1].tolist(), "cells": cells}
