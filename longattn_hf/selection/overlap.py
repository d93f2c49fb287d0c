"""Which windows share tokens, and which of them have to go."""

import numpy as np
import pyarrow as pa

from longattn_hf.columns import CATEGORY, DOC_HASH, DOC_ID
from longattn_hf.selection.standardisation import get_column


def overlapping_pairs(table: pa.Table) -> np.ndarray:
    """Lists the pairs of windows that share tokens of their document, int64 `[P, 2]`.

    A window whose `doc_id` is null is a document of its own, as where documents are counted.
    """
    start = get_column(table, "start_token").to_numpy()
    end = start + get_column(table, "num_tokens").to_numpy()
    owners = [name for name in (DOC_ID, DOC_HASH, "source", CATEGORY) if name in table.column_names]
    encoded = [table.column(name).combine_chunks().dictionary_encode().indices for name in owners]
    codes = [indices.cast(pa.int64()).fill_null(-1).to_numpy() for indices in encoded]
    if DOC_ID in owners:
        codes[0] = np.where(codes[0] < 0, -1 - np.arange(len(table)), codes[0])
    order = np.lexsort((start, *codes))
    start, end, codes = start[order], end[order], [code[order] for code in codes]
    pairs = []
    # sorted by start, a window that overlaps the one `apart` places before it overlaps those between them too
    for apart in range(1, len(order)):
        touch = np.all([code[apart:] == code[:-apart] for code in codes], axis=0) & (start[apart:] < end[:-apart])
        at = np.flatnonzero(touch)
        if not len(at):
            break
        pairs.append(np.stack([order[at], order[at + apart]], axis=1))
    return np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=np.int64)


def without_conflicts(order: np.ndarray, pairs: np.ndarray, count: int) -> np.ndarray:
    """Drops each window that overlaps a better one that stays; of a corpus of `count` windows."""
    rank = np.full(count, len(order))
    rank[order] = np.arange(len(order))
    pairs = pairs[(rank[pairs] < len(order)).all(axis=1)]
    better, worse = np.where((rank[pairs[:, 0]] < rank[pairs[:, 1]])[:, None], pairs, pairs[:, ::-1]).T
    refused = np.zeros(count, dtype=bool)
    # a window that no better one can refuse any more stays, and refuses all that it overlaps
    while len(better):
        open_to_refusal = np.zeros(count, dtype=bool)
        open_to_refusal[worse] = True
        refused[worse[~open_to_refusal[better]]] = True
        live = ~refused[better] & ~refused[worse]
        better, worse = better[live], worse[live]
    return order[~refused[order]]
