"""Scores of several steps, each more exact and of fewer windows than the one before, put together."""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longattn_hf.columns import (
    CATEGORY,
    DEPENDENCY_STRENGTH,
    DISTRIBUTION_UNIFORMITY,
    ROW_FRACTION,
    STANDARD_ERROR,
)
from longattn_hf.selection.standardisation import get_numbers, group_rows

#: The share of the rows that the first step reads where nothing else is said, and that of the second.
FIRST_FRACTION, NEXT_FRACTION = 1 / 16, 1 / 4
#: The scores that samples estimate with a standard error.
ESTIMATED = (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY)
# errors turn out up to 1.25 times as large as they claim where few rows hold most of what is missed; this is taken for
# what four windows have shown, until windows that are scored twice show better
_EXPECTED_RATIO, _EXPECTED_COUNT = 1.25, 4


def join_steps(steps: Sequence[tuple[float, pa.Table]], added: Sequence[str]) -> pa.Table:
    """Puts together what windows were scored by in several steps.

    Args:
        steps: The share of the rows that a step reads, and its scores: a row for every window, null where it has none.
            The coarsest come first, the exact ones, which have no standard errors, last.
        added: The columns of the first step's scores.

    Returns:
        The first table with each window's finest scores, the column `row_fraction`, and standard errors as large as
        those of windows scored exactly too have turned out to be, 0 for these.
    """
    # libraries of data frames, which settings alone do not need
    from longattn_hf.rows import put_array

    table, finest_first = steps[0][1], steps[::-1]
    scored = [pc.if_else(pc.is_valid(scores[DEPENDENCY_STRENGTH]), share, None) for share, scores in finest_first]
    columns = {name: [scores[name] for _, scores in finest_first if name in scores.column_names] for name in added}
    values = {name: pc.coalesce(*found) for name, found in columns.items()}
    for name in ESTIMATED:
        estimates = [get_numbers(scores, name) for _, scores in steps]
        errors = np.where(np.isnan(estimates).all(axis=0), np.nan, 0)
        exact = estimates.pop()
        expected: dict[str, float] = {}
        for estimate, (_, scores) in zip(estimates, steps, strict=False):
            claimed = get_numbers(scores, name + STANDARD_ERROR)
            for group, rows in group_rows(table, CATEGORY, ~np.isnan(estimate)).items():
                with np.errstate(divide="ignore", invalid="ignore"):
                    ratios = ((estimate - exact) / claimed)[rows]
                ratios = ratios[np.isfinite(ratios)]
                squares = _EXPECTED_COUNT * expected.get(group, _EXPECTED_RATIO) ** 2 + (ratios**2).sum()
                # a finer sample's errors are as much larger than they claim as those of the coarser
                expected[group] = math.sqrt(squares / (_EXPECTED_COUNT + len(ratios)))
                errors[rows] = claimed[rows] * expected[group]
        errors[~np.isnan(exact)] = 0
        values[name + STANDARD_ERROR] = pa.array(errors, from_pandas=True)
    for name, column in values.items():
        table = put_array(table, name, column)
    return table.append_column(ROW_FRACTION, pc.coalesce(*scored))


def next_steps(table: pa.Table, undecided: np.ndarray, nearly: np.ndarray) -> np.ndarray:
    """Says from what share of the rows to score undecided windows again, float64 `[len(undecided)]`: 1/4 or all.

    Args:
        table: What `join_steps` returns.
        undecided: int64, the rows.
        nearly: bool, whether half of each one's standard error would do.
    """
    so_far = table[ROW_FRACTION].to_numpy()[undecided]
    return np.where(nearly & (so_far <= NEXT_FRACTION / 4), NEXT_FRACTION, 1.0)
