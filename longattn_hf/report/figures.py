"""The card's pictures of the scores: where the cut fell, what the two scores weigh, and whose windows were kept.

Drawn with matplotlib's objects and the Agg canvas only, in matplotlib's own defaults and, where it has the characters,
DejaVu Sans, so the same scores give the same bytes whatever a user's settings are.
"""

import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from longattn_hf.columns import (
    CATEGORY,
    DEPENDENCY_STRENGTH,
    DISTRIBUTION_UNIFORMITY,
    KEPT,
    LONG_DISTANCE_SCORE,
    SOURCE,
)
from longattn_hf.files import replacing
from longattn_hf.method import uniform_dependency_strength
from longattn_hf.report.facts import Report
from longattn_hf.report.figure_style import CUT, DROPPED, INK, KEPT_COLOUR, drawable, own_style
from longattn_hf.selection.summary import MOST_CATEGORIES, bin_edges, count_windows, pick_largest, split_histogram

_SHARE_KEPT = LinearSegmentedColormap.from_list("share_kept", ["#DADADA", KEPT_COLOUR])
# beyond this many windows in a panel single points hide each other, so cells are coloured by the share kept
_MOST_POINTS = 4_000
_MOST_SOURCES = 20
# bars of a category whose largest is this much lower than another's could not be read on one scale
_ONE_SCALE = 10


@dataclass(frozen=True, kw_only=True)
class _Windows:
    """The scored windows of one category, or pooled of several, as float64 and bool arrays `[N]`, and the cut."""

    name: str
    cut: float | None
    score: np.ndarray
    kept: np.ndarray
    strength: np.ndarray
    uniformity: np.ndarray
    pooled: bool = False


def draw_figures(scores: pa.Table, report: Report, folder: Path) -> list[str]:
    """Draws the figures of a scored and selected corpus into `folder/figures`.

    Args:
        scores: One row a window, with the columns `category`, `kept`, the report's `ranked_by` (null where a window
            was not scored; such rows are not drawn), where LongAttn scored its `dependency_strength` and
            `distribution_uniformity`, and optionally `source`.
        report: The run's report; its categories are the panels, in their order. Of more than eleven, those with the
            most windows have panels of their own, and one panel is for all others.
        folder: The build's output folder. Each picture replaces its predecessor at once, as a whole.

    Returns:
        The pictures' paths relative to `folder`, as the report's `figures` wants them.

    Raises:
        ValueError: `scores` lacks a column, or holds a category that the report does not.
    """
    if SOURCE not in scores.column_names:
        scores = scores.append_column(SOURCE, pa.nulls(len(scores), pa.string()))
    plane = (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY) if report.has_longattn else ()
    needed = list(dict.fromkeys((CATEGORY, SOURCE, report.ranked_by, *plane, KEPT)))
    missing = [name for name in needed if name not in scores.column_names]
    if missing:
        raise ValueError(f"The figures need {', '.join(missing)}; the columns are {', '.join(scores.column_names)}.")
    scores = scores.select(needed).filter(scores[report.ranked_by].is_valid())
    unknown = set(scores[CATEGORY].unique().to_pylist()) - report.run_categories.keys()
    if unknown:
        raise ValueError(f"The report has no category {', '.join(sorted(map(repr, unknown)))} that the scores have.")
    categories = _shown_categories(scores, {name: facts.cut for name, facts in report.run_categories.items()}, report)
    null = uniform_dependency_strength(report.settings["min_distance"] / report.settings["window_tokens"])
    names = [one.name for one in categories] + [name for name in scores[SOURCE].unique().to_pylist() if name]
    with own_style(names):
        figures = {f"{report.ranked_by}s": _score_figure(categories, report.in_words(report.ranked_by))}
        if plane:
            figures["strength_and_uniformity"] = _strength_figure(categories, null)
        figures["kept_by_source"] = _source_figure(scores)
        return [_save(figure, folder, f"figures/{name}.png") for name, figure in figures.items()]


def _windows_of(scores: pa.Table, name: str, cut: float | None, ranked_by: str = LONG_DISTANCE_SCORE) -> _Windows:
    rows = scores.filter(pc.equal(scores[CATEGORY], name))
    score, kept = rows[ranked_by].to_numpy(), rows[KEPT].to_numpy().astype(bool)
    plane = [np.empty(0)] * 2
    if DEPENDENCY_STRENGTH in rows.column_names:
        plane = [rows[column].to_numpy() for column in (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY)]
    return _Windows(name=name, cut=cut, score=score, kept=kept, strength=plane[0], uniformity=plane[1])


def _shown_categories(scores: pa.Table, cuts: dict[str, float | None], report: Report) -> list[_Windows]:
    shown = list(cuts)
    if len(cuts) > MOST_CATEGORIES + 1:
        counts = dict(zip(*scores[CATEGORY].value_counts().flatten(), strict=True))
        counts = {name.as_py(): count.as_py() for name, count in counts.items()}
        shown = pick_largest({name: counts.get(name, 0) for name in cuts})
    categories = [_windows_of(scores, name, cuts[name], report.ranked_by) for name in shown]
    if others := len(cuts) - len(shown):
        rest = scores.filter(pc.invert(pc.is_in(scores[CATEGORY], pa.array(shown))))
        rest = rest.set_column(rest.column_names.index(CATEGORY), CATEGORY, pa.array([""] * len(rest), pa.string()))
        categories.append(replace(_windows_of(rest, "", None, report.ranked_by), name=f"{others} others", pooled=True))
    return categories


def _score_figure(categories: list[_Windows], label: str) -> Figure:
    figure, panels = _panels(categories)
    full = [(axes, windows) for axes, windows in panels if len(windows.score)]
    edges = bin_edges(*(windows.score for _, windows in full)) if full else np.arange(2.0)
    counts = [split_histogram(windows.score, windows.kept, edges) for _, windows in full]
    peaks = [int(np.add(bins["kept"], bins["dropped"]).max()) for bins in counts]
    alone = [peak for (_, windows), peak in zip(full, peaks, strict=True) if not windows.pooled]
    one_scale = not alone or min(alone) * _ONE_SCALE >= max(alone)
    for (axes, windows), bins, peak in zip(full, counts, peaks, strict=True):
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(visible=False, axis="x")
        bars: dict[str, Any] = dict(width=np.diff(edges), align="edge", edgecolor="white", linewidth=0.4)
        axes.bar(edges[:-1], bins["kept"], color=KEPT_COLOUR, **bars)
        axes.bar(edges[:-1], bins["dropped"], bottom=bins["kept"], color=DROPPED, **bars)
        axes.set(
            xlim=(edges[0], edges[-1]), ylim=(0, 1.08 * (max(alone) if one_scale and not windows.pooled else peak))
        )
        if windows.pooled:
            axes.set_ylabel("own scale", fontsize=8)
        if windows.cut is not None:
            axes.axvline(windows.cut, color=CUT, linestyle="--", linewidth=1.4)
    figure.supxlabel(label, fontsize=9)
    figure.supylabel("windows" if one_scale else "windows (own scales)", fontsize=9)
    cut = Line2D([], [], color=CUT, linestyle="--", label="cut: lowest score kept")
    _add_legend(figure, [Patch(color=KEPT_COLOUR, label="kept"), Patch(color=DROPPED, label="dropped"), cut])
    return figure


def _strength_figure(categories: list[_Windows], null: float) -> Figure:
    figure, panels = _panels(categories)
    largest = max((np.nanmax(np.abs(windows.uniformity), initial=0.0) for windows in categories), default=0.0)
    exponent = math.floor(math.log10(largest)) if largest else 0
    points = [
        np.stack([one.strength, one.uniformity / 10.0**exponent])[:, np.isfinite(one.strength)] for one in categories
    ]
    # one scale for all, with a margin
    ends = [_with_margin(values) for values in np.concatenate([*points, np.empty((2, 0))], axis=1)]
    cells, nulls = None, []
    for (axes, windows), (x, y) in zip(panels, points, strict=True):
        if not len(windows.score):
            continue
        axes.set(xlim=ends[0], ylim=ends[1])
        kept = windows.kept[np.isfinite(windows.strength)]
        if len(x) > _MOST_POINTS:
            shares = kept.astype(float)
            cells = axes.hexbin(
                x,
                y,
                shares,
                gridsize=36,
                extent=(*ends[0], *ends[1]),
                cmap=_SHARE_KEPT,
                vmin=0,
                vmax=1,
                linewidths=0.1,
            )
        else:
            dropped = ~kept
            axes.scatter(x[dropped], y[dropped], s=16, facecolors="none", edgecolors="#8A8A8A", linewidths=0.9)
            axes.scatter(x[kept], y[kept], s=20, color=KEPT_COLOUR, linewidths=0, alpha=0.85)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        # the points set the scale: a null far from them stands in the legend alone
        low, high = ends[0]
        if low <= null <= high:
            nulls.append(axes.axvline(null, color=INK, linestyle=":", linewidth=1.2, zorder=3))
    figure.supxlabel("dependency strength (share of the attention mass that is far)", fontsize=9)
    unit = rf", in units of $10^{{{exponent}}}$" if exponent else ""
    label = f"distribution uniformity\n(minus a variance{unit})"
    figure.supylabel(label, fontsize=9, parse_math=True, multialignment="center")
    where = "" if nulls else ", outside the panels"
    style: Literal[":", "none"] = ":" if nulls else "none"
    handles = [Line2D([], [], color=INK, linestyle=style, label=f"uniform attention ({null:.3f}{where})")]
    point: dict[str, Any] = dict(linestyle="none", marker="o", markersize=5)
    if any(len(windows.score) <= _MOST_POINTS for windows in categories):
        handles.insert(0, Line2D([], [], markerfacecolor="none", color="#8A8A8A", label="dropped", **point))
        handles.insert(0, Line2D([], [], color=KEPT_COLOUR, label="kept", **point))
    if cells is not None:
        bar = figure.colorbar(cells, ax=[axes for axes, _ in panels], shrink=0.8, aspect=25, pad=0.02)
        bar.set_label("share of the cell's windows kept")
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        bar.outline.set_visible(False)
    _add_legend(figure, handles)
    return figure


def _with_margin(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    low, high = values.min(), values.max()
    margin = 0.08 * (high - low) or 0.08 * abs(low) or 0.5
    return float(low - margin), float(high + margin)


def _source_figure(scores: pa.Table) -> Figure:
    by_source = count_windows(scores, scores[KEPT], [SOURCE])
    # the largest sources, ties by name, each as (name, kept, windows)
    counts = sorted(
        ((source or "unnamed", counted.kept_windows, counted.windows) for (source,), counted in by_source.items()),
        key=lambda row: (-row[2], row[0]),
    )
    rows, rest = counts[:_MOST_SOURCES], counts[_MOST_SOURCES:]
    rows.sort(key=lambda row: (-row[1] / row[2], -row[2], row[0]))
    if rest:
        rows.append((f"{len(rest):,} smaller sources", sum(row[1] for row in rest), sum(row[2] for row in rest)))
    figure = _figure(8.0, 1.3 + 0.22 * max(len(rows), 2))
    axes = figure.add_subplot()
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    places = np.arange(len(rows))
    shares = np.array([row[1] / row[2] for row in rows])
    axes.barh(places, 1, color="#EDEDED", height=0.72)
    axes.barh(places, shares, color=KEPT_COLOUR, height=0.72)
    for place, (_, taken, windows) in enumerate(rows):
        axes.text(
            1.01, place, f"{taken:,} of {windows:,}", va="center", fontsize=8, transform=axes.get_yaxis_transform()
        )
    axes.set_yticks(places, [drawable(row[0]) for row in rows], fontsize=8)
    axes.set(xlim=(0, 1), ylim=(max(len(rows), 1) - 0.5, -0.5), xlabel="share of the source's windows kept")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if rows:
        share = pc.mean(scores[KEPT]).as_py()
        label = f"all sources together ({share:.0%})"
        line = axes.axvline(share, color=CUT, linestyle="--", linewidth=1.4, label=label, clip_on=False)
        _add_legend(figure, [line])
    else:
        _say_empty(axes)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _panels(categories: list[_Windows]) -> tuple[Figure, list[tuple[Axes, _Windows]]]:
    """One titled panel a category, in rows of at most three, or of four smaller ones."""
    many = len(categories) > 6
    width = min(4 if many else 3, max(len(categories), 1))
    height = math.ceil(len(categories) / width) or 1
    figure = _figure(max((2.6 if many else 3.1) * width, 5.2), (2.1 if many else 2.7) * height + 0.7)
    grid = figure.add_gridspec(height, width)
    panels = [(figure.add_subplot(grid[divmod(at, width)]), windows) for at, windows in enumerate(categories)]
    for axes, windows in panels:
        axes.set_title(drawable(windows.name, most=26), loc="left", fontweight="bold", pad=18)
        count = f"{windows.kept.sum():,} of {len(windows.kept):,} windows kept"
        axes.annotate(count, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", fontsize=8)
        if not len(windows.score):
            _say_empty(axes)
    return figure, panels


def _say_empty(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no scored windows", ha="center", va="center", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def _add_legend(figure: Figure, handles: list[Any]) -> None:
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8.5)


def _save(figure: Figure, folder: Path, name: str) -> str:
    picture = io.BytesIO()
    # the software's name and version would change the bytes with every release
    figure.savefig(picture, format="png", metadata={"Software": None})
    with replacing(folder / name) as file:
        file.write(picture.getvalue())
    return name
