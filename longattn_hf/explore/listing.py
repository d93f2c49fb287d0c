"""The list of windows: which of them, in which order, page by page, and whole as a table to take along."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from longattn_hf.columns import CATEGORY, DOC_ID, ID, KEPT, SOURCE
from longattn_hf.explore.conditions import Column, Texts, meet
from longattn_hf.explore.scored_corpus import ALL, ScoredCorpus, Selected
from longattn_hf.explore.texts import TextSearch
from longattn_hf.explore.views import SHORT, score_columns
from longattn_hf.pages.page import visible

#: The ways to list windows: two orders, one that begins at the cut, and four that compare two selections.
ORDERS = (
    "highest",
    "lowest",
    "around the cut",
    "only in this selection",
    "only in the other",
    "in both selections",
    "in neither selection",
)
#: Rows of a page of the list.
PAGE = 20
#: The forms of `export_windows`.
FORMS = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
#: Whether each selection keeps the windows of the lists that compare two.
KEPT_BY = {ORDERS[3]: (True, False), ORDERS[4]: (False, True), ORDERS[5]: (True, True), ORDERS[6]: (False, False)}


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The windows of a list, in its order.

    Attributes:
        category: Their category, or `ALL`.
        rows: The corpus's rows.
        ranks: The rank of each by the selection's score in its own category, from 1; equal scores share the best.
        cut: How many stand above the cut around which the list opens; None where it opens with the first.
        search: The search that has found them, if any.
        filtered: Whether conditions hold others back.
    """

    category: str
    rows: np.ndarray
    ranks: np.ndarray
    cut: int | None
    search: TextSearch | None
    filtered: bool


def find_windows(
    corpus: ScoredCorpus,
    selected: Selected,
    other: Selected,
    *,
    category: str,
    order: str = ORDERS[0],
    words: str = "",
    conditions: str = "",
    search: TextSearch | None = None,
) -> Listed:
    """Finds the windows to list.

    Args:
        corpus: The windows.
        selected: The selection looked at.
        other: The one beside it.
        category: One of the corpus's `lists`. All categories stand in one order by the score; around the cut, each
            of them around its own.
        order: One of `ORDERS`.
        words: Only windows whose id, document or source holds this.
        conditions: Only windows that meet these; see `meet`.
        search: Only windows whose texts it has found.

    Raises:
        ValueError: The conditions are not understood.
    """
    rank, above_cut = np.full((2, len(corpus)), np.nan)
    for name in corpus.categories_in(category):
        among = corpus.by_rank(name, selected.scores)
        ordered = -selected.scores[among]
        rank[among] = np.searchsorted(ordered, ordered, side="left") + 1
        above_cut[among] = selected.kept[among].sum() - np.arange(len(among))
    rows = corpus.by_rank(category, selected.scores)
    if order == "around the cut":
        rows = rows[np.argsort(-above_cut[rows], kind="stable")]
    shown = corpus.search(words)[rows]
    if filtered := bool(conditions.strip()):
        shown &= meet(conditions, _columns(corpus, selected, other, rank))[rows]
    if search is not None:
        shown &= search.found[rows]
    if order in KEPT_BY:
        here, there = KEPT_BY[order]
        shown &= (selected.kept[rows] == here) & (other.kept[rows] == there)
    rows = rows[shown][:: -1 if order == "lowest" else 1]
    ranks = rank[rows].astype(np.int64)
    cut = int(selected.kept[rows].sum()) if order == "around the cut" else None
    return Listed(category=category, rows=rows, ranks=ranks, cut=cut, search=search, filtered=filtered)


def show_page(
    corpus: ScoredCorpus,
    selected: Selected,
    other: Selected,
    listed: Listed,
    page: int | None = None,
    *,
    count: int = PAGE,
) -> dict[str, Any]:
    """Returns a page of a list, as plain values.

    Args:
        corpus: The windows.
        selected: The selection looked at.
        other: The one beside it.
        listed: The list.
        page: From 1; None for the one that the list opens with.
        count: Rows of a page.
    """
    # the page that the list opens with begins here, and the others lie before and behind it
    first = max(0, (listed.cut or 0) - count // 2)
    starts = sorted({0, *range(first % count, max(len(listed.rows), 1), count)})
    number = starts.index(first) + 1 if page is None else min(max(page, 1), len(starts))
    at = slice(starts[number - 1], starts[number] if number < len(starts) else None)
    names = score_columns(corpus)
    numbers = [selected.scores, *(corpus.table[name].to_numpy() for name in names)]
    tokens = corpus.table["num_tokens"].to_numpy()
    texts = {"category": CATEGORY} if listed.category not in corpus.categories else {}
    texts |= {"document": DOC_ID, "source": SOURCE}
    columns = [Texts(*corpus.codes(name)) for name in texts.values()]
    head = ["window", "score", "rank", *(SHORT.get(name, name.replace("_", " ")) for name in names)]
    note = f"{len(listed.rows):,} windows of {visible(listed.category)}."
    if page not in (None, number):
        note += f" There is no page {page:,}: the {'last' if page > number else 'first'} is {number:,}."
    return {
        "label": "Windows",
        "head": [*head, "tokens", "kept", "other", *texts],
        "numbers": list(range(1, len(head) + 1)),
        "names": [corpus.name_of(row) for row in listed.rows[at]],
        "rows": [
            [visible(corpus.id_of(row)), _cell(numbers[0][row]), int(rank), *(_cell(v[row]) for v in numbers[1:])]
            + [int(tokens[row]), "yes" if selected.kept[row] else "no", "yes" if other.kept[row] else "no"]
            + [_name(one, row) for one in columns]
            for row, rank in zip(listed.rows[at], listed.ranks[at], strict=True)
        ],
        "note": note,
        "page": number,
        "pages": len(starts),
        "search": listed.search.to_data() if listed.search else None,
        "filtered": listed.filtered,
        "everywhere": ALL if ALL in corpus.lists and listed.category != ALL else "",
    }


def export_windows(corpus: ScoredCorpus, selected: Selected, other: Selected, listed: Listed, form: str) -> bytes:
    """Writes all pages of a list, scores unrounded, without the texts.

    Args:
        corpus: The windows.
        selected: The selection looked at.
        other: The one beside it.
        listed: The list.
        form: One of `FORMS`.
    """
    rows = pa.array(listed.rows)
    table = pa.table(
        {
            ID: pa.array([corpus.id_of(row) for row in listed.rows], pa.string()),
            "rank": listed.ranks,
            "score": pa.array(selected.scores[listed.rows], from_pandas=True),
            KEPT: selected.kept[listed.rows],
            "kept_by_other": other.kept[listed.rows],
        }
    )
    for name in corpus.table.column_names:
        if name not in table.column_names:
            column = corpus.table[name].take(rows)
            table = table.append_column(name, column.cast(pa.string()) if _is_text(column) else column)
    sink = io.BytesIO()
    if form == "csv":
        csv.write_csv(table, sink)
    else:
        pq.write_table(table, sink)
    return sink.getvalue()


def _columns(corpus: ScoredCorpus, selected: Selected, other: Selected, rank: np.ndarray) -> dict[str, Column]:
    """What can be asked about, under the names in the list and those of the columns."""
    columns: dict[str, Column] = {
        "score": selected.scores,
        "rank": rank,
        "kept": selected.kept,
        "other": other.kept,
        "window": Texts(np.arange(len(corpus)), corpus.ids),
    }
    short = SHORT | {"num_tokens": "tokens", DOC_ID: "document"}
    for name in corpus.table.column_names:
        if name != ID:
            column = corpus.table[name]
            value = Texts(*corpus.codes(name)) if _is_text(column) else column.to_numpy()
            columns.setdefault(short.get(name, name), value)
            columns.setdefault(name, value)
    return columns


def _is_text(column: pa.ChunkedArray) -> bool:
    return pa.types.is_dictionary(column.type)


def _name(texts: Texts, row: int) -> str:
    code = texts.codes[row]
    return visible(str(texts.names[code])) if code >= 0 else "unnamed"


def _cell(value: float) -> float | str:
    return "-" if np.isnan(value) else float(value)
