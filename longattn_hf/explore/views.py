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
#: The scores' parts as the page calls them.
SHORT = {DEPENDENCY_STRENGTH: "strength", DISTRIBUTION_UNIFORMITY: "uniformity"}


def say_progress(corpus: ScoredCorpus) -> str:
    """Says how many windows there are, and of a build that goes on how far each scorer is."""
    if (so_far := corpus.so_far) is None:
        return f"{len(corpus):,} windows scored."
    words = f"{len(corpus):,} windows so far"
    if cut := sum(so_far.windows.values()):
        words += f", of {cut:,} that are cut"
    words += "; the build is not finished."
    scored = {name: count for name, count in so_far.scored.items() if len(so_far.scorers) > 1}
    if scored:
        words += f" Scored: {', '.join(f'{count:,} by {name}' for name, count in scored.items())}."
    if any(count > len(corpus) for count in scored.values()):
        words += f" Left out are those that lack a score that decides ({', '.join(so_far.deciding)})."
    return words


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
        name: corpus.table[name].to_numpy() for name in score_columns(corpus) if name != ranked_by
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
    names = {name: SHORT.get(name, name.replace("_", " ")) for name in columns}
    if ranked_by == LONG_DISTANCE_SCORE:
        names[ranked_by] = f"long-distance score ({get_convention(corpus.convention).unit})"
    return {"categories": described, "rankedBy": ranked_by, "names": names}


def score_columns(corpus: ScoredCorpus) -> list[str]:
    """Returns the scores that stand in the corpus as they are, whatever selects."""
    names = (*SHORT, *corpus.scores)
    return [name for name in dict.fromkeys(names) if name in corpus.table.column_names]


def describe_categories(corpus: ScoredCorpus, selected: Selected, other: Selected) -> dict[str, Any]:
    """Returns the table of what each selection keeps of each category, and of all where there are several."""
    both = selected.kept & other.kept
    counted = [
        count_windows(corpus.table, kept, [CATEGORY]) | count_windows(corpus.table, kept, [])
        for kept in (selected.kept, other.kept, both)
    ]
    rows = []
    keys: list[tuple[str, ...]] = [(name,) for name in corpus.categories]
    for key in [*keys, ()] if len(keys) > 1 else keys:
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
