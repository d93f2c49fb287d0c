"""Where the windows of one document lie in it, and which of them are kept."""

from typing import Any

import numpy as np

from longattn_hf.columns import DOC_ID, SOURCE
from longattn_hf.explore.scored_corpus import ScoredCorpus, Selected
from longattn_hf.pages.page import visible

_MOST = 400


def map_document(corpus: ScoredCorpus, selected: Selected, row: int) -> dict[str, Any] | None:
    """Returns the windows of a window's document, as plain values for the page's map.

    Args:
        corpus: The windows.
        selected: The selection looked at.
        row: A window of the document.

    Returns:
        The document's name, how many windows it has, and of each, in their order, its name, first token, tokens, score
        (None without one), the share of its category's windows that score lower, and whether it is kept; None where
        the corpus does not say which document a window is of.
    """
    (documents, names), (sources, _) = corpus.codes(DOC_ID), corpus.codes(SOURCE)
    if documents[row] < 0 or "start_token" not in corpus.table.column_names:
        return None
    category = corpus.category_of(row)
    among = corpus.rows_of(category)
    rows = among[(documents[among] == documents[row]) & (sources[among] == sources[row])]
    starts = corpus.table["start_token"].to_numpy()
    rows = rows[np.argsort(starts[rows], kind="stable")]
    # of a document with more windows, those around the opened one
    place = int(np.flatnonzero(rows == row)[0])
    shown = rows[max(0, place - _MOST // 2) :][:_MOST]
    ordered = np.sort(selected.scores[among][~np.isnan(selected.scores[among])])
    tokens = corpus.table["num_tokens"].to_numpy()
    windows = []
    for one in shown:
        score = None if np.isnan(selected.scores[one]) else float(selected.scores[one])
        below = None if score is None else float(np.searchsorted(ordered, score) / max(len(ordered) - 1, 1))
        windows.append(
            {
                "name": corpus.name_of(one),
                "start": int(starts[one]),
                "tokens": int(tokens[one]),
                "score": score,
                "below": below,
                "kept": bool(selected.kept[one]),
            }
        )
    return {"name": visible(str(names[documents[row]])), "windows": windows, "all": len(rows)}
