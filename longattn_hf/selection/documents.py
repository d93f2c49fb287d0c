"""Which windows are of one document."""

import numpy as np
import pyarrow as pa

from longattn_hf.columns import CATEGORY, DOC_HASH, DOC_ID


def number_documents(table: pa.Table) -> np.ndarray | None:
    """Numbers the documents that windows are of, int64 `[len(table)]`; None where no column names them.

    Two windows are of one document if they have the same `doc_id` and `doc_hash`, as far as there are such columns,
    and are of one source and category: sources may number their documents alike. A window without either name is a
    document of its own.
    """
    names = [name for name in (DOC_ID, DOC_HASH) if name in table.column_names]
    if not names:
        return None
    numbers, unnamed = np.zeros(len(table), dtype=np.int64), np.ones(len(table), dtype=bool)
    for name in (*names, *(one for one in ("source", CATEGORY) if one in table.column_names)):
        values = _number(table[name])
        if name in names:
            unnamed &= values < 0
        # numbered anew each time, so that none overflows
        numbers = _number(pa.chunked_array([numbers * (len(table) + 1) + values + 1])).copy()
    numbers[unnamed] = len(table) + np.arange(int(unnamed.sum()))
    return numbers


def _number(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers a column's values, int64 `[len(column)]`, -1 for null."""
    indices = column.combine_chunks().dictionary_encode().indices
    return indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
