"""Counts of kept and dropped windows, by group and by score: one set for figures, pages and terminals.

They are small enough to be sent to a page however many windows there are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longattn_hf.selection.documents import number_documents

#: Cards and pictures show more of so many categories.
MOST_CATEGORIES = 10
# a name that no scored row has
_DOCUMENT = "longattn_hf.document"


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
        table: One row a window, with the columns `num_tokens` and `by`, one that is missing counting as null, and
            those that `number_documents` reads; without them each window is a document of its own.
        kept: bool `[len(table)]`.
        by: The columns whose values tell the groups apart; with none of them all windows are one group, `()`.

    Returns:
        By the groups' values.
    """
    nothing = pa.nulls(len(table), pa.int64())
    names = dict.fromkeys((*by, "num_tokens"))
    columns = {name: table[name] if name in table.column_names else pa.chunked_array([nothing]) for name in names}
    numbers = number_documents(table)
    columns[_DOCUMENT] = pa.chunked_array([np.arange(len(table)) if numbers is None else numbers])
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
    sums = [("num_tokens", "count", all_rows), ("num_tokens", "sum"), (_DOCUMENT, "count_distinct")]
    groups = table.group_by(list(by), use_threads=False).aggregate(sums)
    return {
        tuple(row[name] for name in by): (
            row["num_tokens_count"],
            row["num_tokens_sum"] or 0,
            row[f"{_DOCUMENT}_count_distinct"],
        )
        for row in groups.to_pylist()
        if row["num_tokens_count"]
    }


def pick_largest(counts: Mapping[str, int]) -> list[str]:
    """Returns the `MOST_CATEGORIES` with the highest counts, in the order of `counts`; of equal ones the first."""
    largest = sorted(counts, key=lambda name: -counts[name])[:MOST_CATEGORIES]
    return [name for name in counts if name in largest]


def bin_edges(*groups: np.ndarray, most: int = 60) -> np.ndarray:
    """Returns ascending edges of bins of one width that cover all groups, float64: one scale to compare them on.

    The width is that of Freedman and Diaconis for the group in the middle, 2 IQR / n^(1/3), rounded to 1, 2, 2.5 or 5
    times a power of ten, with at least about 8 bins in that group and at most `most` in all; edges are its multiples.

    Args:
        groups: Finite values of each category, float `[N]`; at least one of them is not empty.
        most: The most bins, give or take the one that rounding adds.
    """
    groups = tuple(values for values in groups if len(values))
    low, high = (float(end) for end in (min(map(np.min, groups)), max(map(np.max, groups))))
    if high - low > 1e-12 * max(abs(low), abs(high)):
        widths = []
        for values in groups:
            quarter, three_quarters = np.quantile(values, (0.25, 0.75))
            # where half of the values are equal, Sturges's rule
            widths.append(
                2 * (three_quarters - quarter) / len(values) ** (1 / 3)
                or np.ptp(values) / (math.log2(len(values)) + 1)
                or high - low
            )
        middle = float(np.median([np.ptp(values) for values in groups])) or high - low
        width = max(min(float(np.median(widths)), middle / 8), (high - low) / most)
        step, power = _round_width(width)
        if (high - low) / float(f"{step}e{power}") > most:
            step, power = _round_width(width, up=True)
    else:
        # equal values get one bin, or two where they lie on an edge but for a rounding
        step, power = _round_width(abs(low) / 4 or 0.25)
    first, last = (math.floor(end / float(f"{step}e{power}")) for end in (low, high))
    # by way of decimals, so that 3 tenths are 0.3
    while float(f"{first * step}e{power}") > low:
        first -= 1
    while float(f"{last * step}e{power}") < high or last == first:
        last += 1
    return np.array([float(f"{at * step}e{power}") for at in range(first, last + 1)])


def _round_width(width: float, *, up: bool = False) -> tuple[int, int]:
    """Rounds to the nearest of 1, 2, 2.5 and 5 times a power of ten, or the next above: digits, and the power."""
    power = math.floor(math.log10(width)) - 1
    ratio = width / float(f"1e{power}")
    choices = [step for step in (10, 20, 25, 50, 100) if not up or step >= ratio]
    return min(choices, key=lambda step: abs(math.log(step / ratio))), power


def split_histogram(values: np.ndarray, kept: np.ndarray, edges: np.ndarray) -> dict[str, list]:
    """Counts the kept and the dropped values of each bin; plain lists, for JSON."""
    return {
        "edges": edges.tolist(),
        "kept": np.histogram(values[kept], edges)[0].tolist(),
        "dropped": np.histogram(values[~kept], edges)[0].tolist(),
    }


def split_cells(
    x: np.ndarray, y: np.ndarray, kept: np.ndarray, edges: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    """Counts windows in cells of two scores: `edges_x`, `edges_y`, and `cells`, rows of (column, row, kept, all)."""
    every, _, _ = np.histogram2d(x, y, edges)
    taken, _, _ = np.histogram2d(x[kept], y[kept], edges)
    cells = [(int(i), int(j), int(taken[i, j]), int(every[i, j])) for i, j in np.argwhere(every)]
    return {"edges_x": edges[0].tolist(), "edges_y": edges[1].tolist(), "cells": cells}
