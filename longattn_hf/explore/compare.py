"""Two selections against each other, and the two windows between which the cut lies."""

from typing import Any

import numpy as np

from longattn_hf.explore.listing import KEPT_BY
from longattn_hf.explore.scored_corpus import ScoredCorpus, Selected
from longattn_hf.pages.page import visible


def compare(corpus: ScoredCorpus, selected: Selected, other: Selected, category: str) -> dict[str, Any]:
    """Returns, as plain values, how two selections agree in a category, and its windows at the cut.

    Args:
        corpus: The windows.
        selected: The selection looked at.
        other: The one beside it.
        category: A category, or all of them, which have a cut each and no pair.

    Returns:
        `lists`: of each way to list windows by both selections how many there are, those that have a score; `pair`:
        the lowest window kept and the highest dropped, each None where there is none.
    """
    rows = corpus.by_rank(category, selected.scores)
    here, there = selected.kept[rows], other.kept[rows]
    lists = {order: int(((here == mine) & (there == others)).sum()) for order, (mine, others) in KEPT_BY.items()}
    pair = {"Lowest kept": np.flatnonzero(here)[-1:], "Highest dropped": np.flatnonzero(~here)[:1]}
    return {
        "category": visible(category),
        "lists": lists,
        "pair": [
            {"label": label, "name": corpus.name_of(rows[at[0]]), "score": float(selected.scores[rows[at[0]]])}
            for label, at in pair.items()
            if len(at) and category in corpus.categories
        ],
    }
