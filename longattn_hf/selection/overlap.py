"""Which windows share tokens, and which of them have to go."""

from bisect import bisect
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from longattn_hf.selection.documents import number_documents
from longattn_hf.selection.standardisation import get_column


@dataclass(frozen=True)
class Spans:
    """Where windows lie: each one's document, by number, its first token, and the one after its last; int64 each."""

    document: np.ndarray
    start: np.ndarray
    end: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> "Spans":
        """Reads them.

        Raises:
            ValueError: Nothing says which document a window is of, or where in it.
        """
        document = number_documents(table)
        if document is None:
            raise ValueError(
                "refuse_overlap asks which windows are of one document, and there is neither a column 'doc_id' nor a "
                f"column 'doc_hash'; the columns are {', '.join(table.column_names)}."
            )
        columns = [get_column(table, name) for name in ("start_token", "num_tokens")]
        for name, column in zip(("start_token", "num_tokens"), columns, strict=True):
            if column.null_count:
                raise ValueError(f"Column {name!r} is null in {column.null_count} rows, which refuse_overlap needs.")
        start, count = (column.cast(pa.int64()).to_numpy() for column in columns)
        return cls(document, start, start + count)

    @property
    def order(self) -> np.ndarray:
        """The windows by document and first token."""
        return np.lexsort((self.start, self.document))


def overlapping_pairs(table: pa.Table) -> np.ndarray:
    """Lists the pairs of windows that share tokens of their document, int64 `[P, 2]`; raises as `Spans.of`."""
    spans = Spans.of(table)
    order = spans.order
    document, start, end = spans.document[order], spans.start[order], spans.end[order]
    pairs = []
    # sorted by start, a window that overlaps the one `apart` places before it overlaps those between them too
    for apart in range(1, len(order)):
        touch = (document[apart:] == document[:-apart]) & (start[apart:] < end[:-apart])
        at = np.flatnonzero(touch)
        if not len(at):
            break
        pairs.append(np.stack([order[at], order[at + apart]], axis=1))
    return np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=np.int64)


def without_overlaps(best_first: np.ndarray, spans: Spans) -> np.ndarray:
    """Drops each of some windows that overlaps a better one of them that stays."""
    some = Spans(spans.document[best_first], spans.start[best_first], spans.end[best_first])
    touching = np.sort(_touching(some))
    stays = np.ones(len(best_first), dtype=bool)
    taken: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    places = zip(*(values[touching].tolist() for values in (some.document, some.start, some.end)), strict=True)
    for row, (document, start, end) in zip(touching.tolist(), places, strict=True):
        # what stays of a document lies apart, so that two neighbours tell
        beside = taken[document]
        at = bisect(beside, (start, end))
        if (at and beside[at - 1][1] > start) or (at < len(beside) and beside[at][0] < end):
            stays[row] = False
        else:
            beside.insert(at, (start, end))
    return best_first[stays]


def _touching(spans: Spans) -> np.ndarray:
    """Returns the windows that overlap any other: few, as a rule, and the only ones that are looked at singly."""
    order = spans.order
    if not len(order):
        return order
    # one axis for all documents, one behind the other
    shift = spans.document[order] * (int(spans.end.max()) + 1)
    start, end = shift + spans.start[order], shift + spans.end[order]
    before, behind = np.zeros(len(order), dtype=bool), np.zeros(len(order), dtype=bool)
    before[1:] = np.maximum.accumulate(end)[:-1] > start[1:]
    behind[:-1] = end[:-1] > start[1:]
    return order[before | behind]
