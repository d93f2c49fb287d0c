"""What the explorer shows, as plain values: counts, histograms and rows of the table of windows."""

from typing import Any

import numpy as np

from longattn_hf.columns import DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, DOC_ID, LONG_DISTANCE_SCORE
from longattn_hf.explore.scored_corpus import SOURCE, Choice, ScoredCorpus, Selected
from longattn_hf.pages.page import visible
from longattn_hf.selection.summary import bin_edges, split_histogram

_BINS = 48
_MOST_SOURCES = 200
#: The ways to sort the table of windows.
ORDERS = ("highest", "lowest", "around the cut", "only in this selection", "only in the other")


def cuts(corpus: ScoredCorpus, selected: Selected) -> dict[str, float]:
    """Returns, by category, the threshold that keeps what is kept: the next number below the lowest score kept.

    Where nothing is kept it is the highest score.
    """
    found = {}
    for name in corpus.categories:
        rows = corpus.rows_of(name)
        scores, kept = selected.scores[rows], selected.kept[rows]
        if kept.any():
            found[name] = float(np.nextafter(scores[kept].min(), -np.inf))
        else:
            found[name] = float(np.nanmax(scores)) if np.isfinite(scores).any() else 0.0
    return found


def describe_histograms(corpus: ScoredCorpus, selected: Selected, choice: Choice) -> dict[str, Any]:
    """Returns the counts of kept and dropped windows by score, category by category."""
    thresholds = choice.threshold if isinstance(choice.threshold, dict) else cuts(corpus, selected)
    columns = {
        LONG_DISTANCE_SCORE: selected.scores,
        DEPENDENCY_STRENGTH: corpus.table[DEPENDENCY_STRENGTH].to_numpy(),
        DISTRIBUTION_UNIFORMITY: corpus.table[DISTRIBUTION_UNIFORMITY].to_numpy(),
    }
    described = []
    for name in corpus.categories:
        rows = corpus.rows_of(name)
        rows = rows[~np.isnan(selected.scores[rows])]
        plots = {}
        for column, values in columns.items() if len(rows) else ():
            edges = bin_edges(values[rows], _BINS)
            plots[column] = split_histogram(values[rows], selected.kept[rows], edges)
        described.append({"name": name, "shown": visible(name), "cut": thresholds[name], "plots": plots})
    unit = "z-units" if corpus.convention == "paper" else "min-max units"
    return {"categories": described, "unit": unit}


def describe_categories(corpus: ScoredCorpus, mine: Selected, other: Selected) -> dict[str, Any]:
    """Returns the table of what each selection keeps of each category, and of all."""
    doc_codes, documents = corpus.codes(DOC_ID)
    tokens = corpus.table["num_tokens"].to_numpy()

    def count(kept: np.ndarray) -> tuple[int, int, int]:
        seen = np.zeros(len(documents) + 1, dtype=bool)
        seen[doc_codes[kept]] = True
        return int(kept.sum()), int(seen.sum()), int(tokens[kept].sum())

    rows, codes = [], corpus.codes("category")
    for name in [*corpus.categories, None]:
        inside = np.ones(len(corpus), dtype=bool) if name is None else codes[0] == codes[1].index(name)
        both = mine.kept & other.kept & inside
        shown = "all" if name is None else visible(name)
        rows.append(
            [shown, int(inside.sum()), *count(mine.kept & inside), *count(other.kept & inside), int(both.sum())]
        )
    head = ["category", "windows", "kept", "documents", "tokens"]
    head += [f"other: {name}" for name in head[2:]] + ["in both"]
    return {"label": "Kept by category", "head": head, "rows": rows, "numbers": list(range(1, len(head)))}


def describe_sources(corpus: ScoredCorpus, mine: Selected, other: Selected) -> dict[str, Any]:
    """Returns the table of what each selection keeps of the largest sources."""
    codes, names = corpus.codes(SOURCE)
    doc_codes, documents = corpus.codes(DOC_ID)
    # a null, code -1, counts as the last
    codes, names = np.where(codes < 0, len(names), codes), [*names, "unnamed"]
    tokens = corpus.table["num_tokens"].to_numpy()

    def count(rows: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(codes[rows], None if weights is None else weights[rows], minlength=len(names)).astype(int)

    doc_codes = np.where(doc_codes < 0, len(documents), doc_codes)
    pairs = np.unique(codes[mine.kept].astype(np.int64) * (len(documents) + 1) + doc_codes[mine.kept])
    kept_documents = np.bincount(pairs // (len(documents) + 1), minlength=len(names))
    every, kept = count(np.ones(len(corpus), dtype=bool)), count(mine.kept)
    columns = [every, kept, kept_documents, count(mine.kept, tokens), count(other.kept), count(mine.kept & other.kept)]
    order = [at for at in np.lexsort((names, -every)) if every[at]]
    head = ["source", "windows", "kept", "documents", "tokens", "other: kept", "in both"]
    return {
        "label": "Kept by source",
        "head": head,
        "rows": [[visible(names[at]), *(int(column[at]) for column in columns)] for at in order[:_MOST_SOURCES]],
        "numbers": list(range(1, len(head))),
        "note": f"The {_MOST_SOURCES} largest of {len(order):,} sources." if len(order) > _MOST_SOURCES else "",
    }


def list_windows(
    corpus: ScoredCorpus, mine: Selected, other: Selected, *, category: str, order: str, words: str, count: int = 20
) -> dict[str, Any]:
    """Returns rows of the table of windows.

    Args:
        corpus: The windows.
        mine: The selection looked at.
        other: The one beside it.
        category: A category.
        order: One of `ORDERS`.
        words: Show only windows whose id, document or source holds this.
        count: How many rows.
    """
    rows = corpus.rows_of(category)
    rows = rows[~np.isnan(mine.scores[rows]) & corpus.search(words)[rows]]
    rows = rows[np.argsort(-mine.scores[rows], kind="stable")]
    if order == "only in this selection":
        rows = rows[mine.kept[rows] & ~other.kept[rows]]
    elif order == "only in the other":
        rows = rows[other.kept[rows] & ~mine.kept[rows]]
    found = len(rows)
    if order == "lowest":
        rows = rows[::-1]
    elif order == "around the cut":
        middle = int(mine.kept[rows].sum())
        rows = rows[max(0, middle - count // 2) :]
    sources, names = corpus.codes(SOURCE)
    strength, uniformity, tokens = (
        corpus.table[name].to_numpy() for name in (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, "num_tokens")
    )
    shown = rows[:count]
    return {
        "label": "Windows",
        "head": ["window", "score", "strength", "uniformity", "tokens", "kept", "other", SOURCE],
        "numbers": [1, 2, 3, 4],
        "ids": [corpus.id_of(row) for row in shown],
        "rows": [
            [visible(corpus.id_of(row)), float(mine.scores[row]), float(strength[row]), float(uniformity[row])]
            + [int(tokens[row]), _yes(mine.kept[row]), _yes(other.kept[row])]
            + [visible(names[sources[row]]) if sources[row] >= 0 else "unnamed"]
            for row in shown
        ],
        "note": f"{len(shown):,} of {found:,} windows of {visible(category)}.",
    }


def _yes(value: bool) -> str:
    return "yes" if value else "no"
