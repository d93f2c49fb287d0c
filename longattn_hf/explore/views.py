"""What the explorer shows, as plain values: counts, histograms and rows of the table of windows."""

from typing import Any

import numpy as np

from longattn_hf.columns import CATEGORY, DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, LONG_DISTANCE_SCORE, SOURCE
from longattn_hf.explore.scored_corpus import ScoredCorpus, Selected
from longattn_hf.method import get_convention
from longattn_hf.pages.page import visible
from longattn_hf.selection.cut import Selection
from longattn_hf.selection.summary import bin_edges, count_windows, split_histogram

_MOST_SOURCES = 200
_SHORT = {DEPENDENCY_STRENGTH: "strength", DISTRIBUTION_UNIFORMITY: "uniformity"}
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


def shares(corpus: ScoredCorpus, selected: Selected) -> dict[str, float]:
    """Returns, by category, a fraction that keeps as many windows as are kept."""
    found = {}
    for name in corpus.categories:
        rows = corpus.rows_of(name)
        kept = int(selected.kept[rows].sum())
        # fractions are rounded up to whole windows
        found[name] = max(kept - 0.5, 0.0) / max(int(np.isfinite(selected.scores[rows]).sum()), 1)
    return found


def blank(label: str) -> dict[str, Any]:
    """Returns a table without rows."""
    return {"label": label, "head": [], "rows": [], "numbers": []}


def describe_histograms(corpus: ScoredCorpus, selected: Selected, selection: Selection) -> dict[str, Any]:
    """Returns the counts of kept and dropped windows by score, category by category."""
    thresholds = selection.threshold if isinstance(selection.threshold, dict) else cuts(corpus, selected)
    ranked_by = selection.ranked_by
    columns = {ranked_by: selected.scores} | {
        name: corpus.table[name].to_numpy() for name in _columns(corpus) if name != ranked_by
    }
    ranked = [rows[~np.isnan(selected.scores[rows])] for rows in map(corpus.rows_of, corpus.categories)]
    plots: list[dict[str, Any]] = [{} for _ in ranked]
    for column, values in columns.items():
        there = [rows[~np.isnan(values[rows])] for rows in ranked]
        if not any(map(len, there)):
            continue
        # one scale for all categories
        edges = bin_edges(*(values[rows] for rows in there))
        for rows, shown in zip(there, plots, strict=True):
            if len(rows):
                shown[column] = split_histogram(values[rows], selected.kept[rows], edges)
    described = [
        {"name": name, "shown": visible(name), "cut": thresholds[name], "plots": shown}
        for name, shown in zip(corpus.categories, plots, strict=True)
    ]
    names = {name: _SHORT.get(name, name.replace("_", " ")) for name in columns}
    if ranked_by == LONG_DISTANCE_SCORE:
        names[ranked_by] = f"long-distance score ({get_convention(corpus.convention).unit})"
    return {"categories": described, "rankedBy": ranked_by, "names": names}


def _columns(corpus: ScoredCorpus) -> list[str]:
    """The scores that stand in the corpus as they are, whatever selects."""
    names = (*_SHORT, *corpus.scores)
    return [name for name in dict.fromkeys(names) if name in corpus.table.column_names]


def describe_categories(corpus: ScoredCorpus, selected: Selected, other: Selected) -> dict[str, Any]:
    """Returns the table of what each selection keeps of each category, and of all."""
    both = selected.kept & other.kept
    counted = [
        count_windows(corpus.table, kept, [CATEGORY]) | count_windows(corpus.table, kept, [])
        for kept in (selected.kept, other.kept, both)
    ]
    rows = []
    for key in [*((name,) for name in corpus.categories), ()]:
        here, there, shared = (counts[key] for counts in counted)
        row = [visible(key[0]) if key else "all", here.windows]
        for counts in (here, there):
            row += [counts.kept_windows, counts.kept_documents, counts.kept_tokens]
        rows.append([*row, shared.kept_windows])
    head = ["category", "windows", "kept", "documents", "tokens"]
    head += [f"other: {name}" for name in head[2:]] + ["in both"]
    return {"label": "Kept by category", "head": head, "rows": rows, "numbers": list(range(1, len(head)))}


def describe_sources(corpus: ScoredCorpus, selected: Selected, other: Selected) -> dict[str, Any]:
    """Returns the table of what each selection keeps of the largest sources."""
    here, there, shared = (
        count_windows(corpus.table, kept, [SOURCE]) for kept in (selected.kept, other.kept, selected.kept & other.kept)
    )
    order = sorted(here, key=lambda key: (-here[key].windows, key[0] or "unnamed"))
    rows = []
    for key in order[:_MOST_SOURCES]:
        counts = here[key]
        row = [counts.windows, counts.kept_windows, counts.kept_documents, counts.kept_tokens]
        rows.append([visible(key[0] or "unnamed"), *row, there[key].kept_windows, shared[key].kept_windows])
    head = ["source", "windows", "kept", "documents", "tokens", "other: kept", "in both"]
    return {
        "label": "Kept by source",
        "head": head,
        "rows": rows,
        "numbers": list(range(1, len(head))),
        "note": f"The {_MOST_SOURCES} largest of {len(order):,} sources." if len(order) > _MOST_SOURCES else "",
    }


def list_windows(
    corpus: ScoredCorpus,
    selected: Selected,
    other: Selected,
    *,
    category: str,
    order: str,
    words: str,
    count: int = 20,
) -> dict[str, Any]:
    """Returns rows of the table of windows.

    Args:
        corpus: The windows.
        selected: The selection looked at.
        other: The one beside it.
        category: A category.
        order: One of `ORDERS`.
        words: Show only windows whose id, document or source holds this.
        count: How many rows.
    """
    rows = corpus.by_rank(category, selected.scores)
    rows = rows[corpus.search(words)[rows]]
    if order == "only in this selection":
        rows = rows[selected.kept[rows] & ~other.kept[rows]]
    elif order == "only in the other":
        rows = rows[other.kept[rows] & ~selected.kept[rows]]
    found = len(rows)
    if order == "lowest":
        rows = rows[::-1]
    elif order == "around the cut":
        middle = int(selected.kept[rows].sum())
        rows = rows[max(0, middle - count // 2) :]
    sources, names = corpus.codes(SOURCE)
    names_shown = _columns(corpus)
    numbers = [selected.scores, *(corpus.table[name].to_numpy() for name in names_shown)]
    tokens = corpus.table["num_tokens"].to_numpy()
    shown = rows[:count]
    return {
        "label": "Windows",
        "head": ["window", "score", *(_SHORT.get(name, name.replace("_", " ")) for name in names_shown)]
        + ["tokens", "kept", "other", SOURCE],
        "numbers": list(range(1, len(numbers) + 2)),
        "ids": [corpus.id_of(row) for row in shown],
        "rows": [
            [visible(corpus.id_of(row)), *(_cell(values[row]) for values in numbers)]
            + [int(tokens[row]), _yes(selected.kept[row]), _yes(other.kept[row])]
            + [visible(names[sources[row]]) if sources[row] >= 0 else "unnamed"]
            for row in shown
        ],
        "note": f"{len(shown):,} of {found:,} windows of {visible(category)}.",
    }


def _cell(value: float) -> float | str:
    return "-" if np.isnan(value) else float(value)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
