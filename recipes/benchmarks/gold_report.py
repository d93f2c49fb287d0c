"""How well scores predict the measured gains, and which tokens carry them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from recipes.intervals import correlation_within

#: The classes of tokens, in the order in which they are told apart.
CLASSES = (
    "pair stands near",
    "token stands far, not near",
    "token near, pair far only",
    "token near, pair nowhere",
    "token nowhere before",
)


def compare_with_gain(
    gains: np.ndarray, categories: np.ndarray, columns: Mapping[Any, np.ndarray]
) -> list[dict[str, Any]]:
    """Correlates each score's ranks with the gains' within categories, the best first.

    Args:
        gains: Gains of the windows in nats, float `[N]`.
        categories: Their categories, `[N]`.
        columns: The scores, float `[N]` each; NaN where a window has none, which counts as the lowest.
    """
    rows = []
    for name, values in columns.items():
        known = np.where(np.isnan(values), -np.inf, values)
        estimate = correlation_within(known, gains, categories)
        by_category = {c: correlation_within(known, gains, np.where(categories == c, c, "")) for c in set(categories)}
        rows.append(
            {
                "score": name,
                "spearman": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "by_category": {c: [e.value, e.low, e.high] for c, e in sorted(by_category.items())},
                "without_a_score": int(np.isnan(values).sum()),
            }
        )
    return sorted(rows, key=lambda row: -row["spearman"])


def compare_layers(
    gains: np.ndarray, categories: np.ndarray, shares: Sequence[Sequence[float] | None]
) -> list[dict[str, Any]]:
    """Correlates the far attention of each layer with the gain, as `compare_with_gain`, from the first layer on.

    Args:
        gains: Gains of the windows in nats, float `[N]`.
        categories: Their categories, `[N]`.
        shares: Of each window, the far attention of each layer; None of windows measured before it was kept.

    Returns:
        The rows, with the layer's number in place of the score's name; none where fewer than three windows of a
        category have it.
    """
    known = np.array([share is not None for share in shares])
    if min(((categories == c) & known).sum() for c in set(categories)) < 3:
        return []
    columns = dict(enumerate(np.array([share for share in shares if share is not None]).T))
    rows = compare_with_gain(gains[known], categories[known], columns)
    rows.sort(key=lambda row: row["score"])
    return [{"layer": row.pop("score"), "windows": int(known.sum()), **row} for row in rows]


def measure_reliability(gains: np.ndarray, categories: np.ndarray) -> dict[str, float]:
    """Tells how much of a window's gain is the window's: no score can be expected to correlate beyond its root.

    Args:
        gains: Each stretch's gain, float `[N, stretches]`.
        categories: `[N]`.

    Returns:
        The mean rank correlation of two stretches within categories, and by Spearman and Brown's formula the
        reliability of the mean over all.
    """
    count = gains.shape[1]
    between = float(
        np.mean(
            [
                stats.spearmanr(gains[categories == c, i], gains[categories == c, j]).statistic
                for c in set(categories)
                for i in range(count)
                for j in range(i)
            ]
        )
    )
    return {"between_stretches": between, "of_the_mean": count * between / (1 + (count - 1) * between)}


def classify_tokens(ids: np.ndarray, start: int, length: int, near: int) -> np.ndarray:
    """Sorts a stretch's tokens into `CLASSES`: int `[length]`.

    Args:
        ids: The window's token ids, int `[T]`.
        start: Where the stretch starts.
        length: Its length.
        near: How many tokens before its start are near; all before these are far.
    """
    last: dict[int, int] = {}
    last_pair: dict[tuple[int, int], int] = {}
    classes = np.empty(length, dtype=np.int64)
    nearest = start - near
    for place, token in enumerate(ids[: start + length].tolist()):
        pair = (int(ids[place - 1]), token) if place else (-1, token)
        if place >= start:
            if last_pair.get(pair, -1) >= nearest:
                found = 0
            elif token not in last:
                found = 4
            elif last[token] < nearest:
                found = 1
            else:
                found = 2 if pair in last_pair else 3
            classes[place - start] = found
        last[token] = last_pair[pair] = place
    return classes


def share_gain(windows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Shares the gain of measured windows among the classes of tokens, for each category."""
    rows = []
    for category in sorted({window["category"] for window in windows}):
        classes, gains = [], []
        for window in windows:
            if window["category"] == category:
                settings = window["settings"]
                for start, gain in zip(settings["starts"], window["gains"], strict=True):
                    ids = np.asarray(window["ids"])
                    classes.append(classify_tokens(ids, start, settings["stretch_tokens"], settings["near_tokens"]))
                    gains.append(gain)
        of, gain = np.concatenate(classes), np.concatenate(gains)
        for number, name in enumerate(CLASSES):
            here = of == number
            rows.append(
                {
                    "category": category,
                    "class": name,
                    "share_of_tokens": float(here.mean()),
                    "share_of_gain": float(gain[here].sum() / gain.sum()),
                    "gain_of_a_token": float(gain[here].mean()) if here.any() else None,
                }
            )
    return rows


def plot_gold(report: Mapping[str, Any], path: Path) -> None:
    """Draws the scores' correlations with their intervals, and what share of the gain each class of tokens carries."""
    rows = list(reversed(report["scores"]))
    figure = Figure(figsize=(11, 1.4 + 0.24 * len(rows)), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    values = [row["spearman"] for row in rows]
    errors = np.array([[row["spearman"] - row["low"], row["high"] - row["spearman"]] for row in rows]).T
    left.errorbar(values, range(len(rows)), xerr=errors, fmt="o", color="tab:purple", markersize=4, linewidth=1)
    left.axvline(0, color="grey", linewidth=0.8)
    left.set_yticks(range(len(rows)), [row["score"] for row in rows], fontsize=7)
    left.set_xlabel("rank correlation with the gain, within category", fontsize=8)
    left.set_title(f"{report['windows']} windows of {report['settings']['window_tokens']} tokens", fontsize=9)
    categories = list(dict.fromkeys(row["category"] for row in report["tokens"]))
    base = np.zeros(len(categories))
    for name in CLASSES:
        shares = np.array([row["share_of_gain"] for row in report["tokens"] if row["class"] == name])
        right.bar(categories, shares, bottom=base, label=name)
        base = base + shares
    right.set_title("share of the gain", fontsize=9)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=len(CLASSES), fontsize=6)
    figure.savefig(path, metadata={"Software": None})
