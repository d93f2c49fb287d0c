"""What keeps windows out whatever their score, and the draw that lets chance have a part in the choice."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from longattn_hf.columns import ID
from longattn_hf.selection.standardisation import get_numbers, group_rows, standardise_finite


def refusals(table: pa.Table, gate: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Says which windows a gate refuses, and why.

    Args:
        table: One row a window.
        gate: The least value that a window may have in each column; a null is below all.

    Returns:
        bool `[len(table)]` by reason; one window may be refused for several.

    Raises:
        ValueError: A column is missing, or holds no numbers.
    """
    with np.errstate(invalid="ignore"):
        return {f"{name} below {least:g}": ~(get_numbers(table, name) >= least) for name, least in gate.items()}


def is_refused(table: pa.Table, gate: Mapping[str, float]) -> np.ndarray:
    """Marks the windows that a gate refuses for any reason, bool `[len(table)]`; raises as `refusals`."""
    return np.any([np.zeros(len(table), dtype=bool), *refusals(table, gate).values()], axis=0)


def draw(table: pa.Table, scores: np.ndarray, *, temperature: float, seed: int, by: str | None) -> np.ndarray:
    """Perturbs scores so that the highest of them are a sample of softmax(z / temperature) without replacement.

    That is the Gumbel-top-k trick (Kool, van Hoof and Welling, ICML 2019, arXiv:1903.06059). The same windows, seed
    and temperature draw the same, in any order of the rows; a larger budget keeps all that a smaller one keeps.

    Args:
        table: One row a window.
        scores: float64 `[len(table)]`, NaN where there is none.
        temperature: Above 0; towards 0 the draw is the ranking, at large values it is uniform.
        seed: Of the draw.
        by: The column within whose groups scores are standardised.

    Returns:
        float64 `[len(table)]`.

    Raises:
        ValueError: A score is infinite.
    """
    names = table[ID] if ID in table.column_names else pa.array(np.arange(len(table)))
    order = pc.sort_indices(names).to_numpy()
    noise = np.empty(len(table))
    noise[order] = np.random.default_rng(seed).gumbel(size=len(table))
    drawn = np.full(len(table), np.nan)
    for rows in group_rows(table, by, ~np.isnan(scores)).values():
        if len(rows):
            drawn[rows] = standardise_finite(scores[rows], "the scores drawn by") / temperature + noise[rows]
    return drawn
