"""`report.html`: the card's facts with interactive plots, in one file that needs no network."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from markdown_it import MarkdownIt

from longattn_hf.columns import CATEGORY, DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, KEPT, MAP_VARIANCE
from longattn_hf.hub.card_merge import BEGIN, END
from longattn_hf.pages.page import render_page, visible
from longattn_hf.report.card import render_card
from longattn_hf.report.facts import Report
from longattn_hf.report.parts import CategoryFacts
from longattn_hf.selection.summary import bin_edges, split_cells, split_histogram

# all of the card that is HTML and may stay it
_FOLD = re.compile(r"<details>\n<summary>[^<>]*</summary>\n?|</details>\n?")
# a cut can be tried at this many scores of a category
_MOST_STEPS = 200
# the plane's
_STRENGTHS = (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY)


def render_report_page(scores: pa.Table, report: Report) -> str:
    """Renders the page: the card as HTML, the plots' counts as JSON, and the package's own small scripts.

    Args:
        scores: One row a window, with the columns `category`, the report's scores (where that which ranked is null,
            nothing is drawn of the row), `num_tokens` and `kept`.
        report: The report that the card is rendered from.

    Returns:
        The whole page, the same for the same scores and report.

    Raises:
        ValueError: As `render_card`.
    """
    card = render_card(replace(report, page=None, figures=[]), for_page=True)
    text = card[card.index(BEGIN) + len(BEGIN) : card.index(END)]
    first, limits, rest = text.partition("\n## Limits\n")
    rest, citation, last = (limits + rest).rpartition("\n## Citation\n")
    parts = (
        first,
        '<div id="plots"><p>The plots need JavaScript; the numbers stand below.</p></div>',
        rest,
        '<div id="sources"></div>',
        citation + last,
    )
    markdown = _markdown()
    # every other part is a place for the scripts
    body = "".join(part if at % 2 else markdown.render(visible(part)) for at, part in enumerate(parts))
    rows = {name: _scored_rows(scores, name, report) for name in report.run_categories}
    # one scale for all categories
    edges = {
        score: bin_edges(*values)
        for score in _plotted(report)
        if any(map(len, values := [table[score].drop_null().to_numpy() for table in rows.values()]))
    }
    data = {
        "rankedBy": report.ranked_by,
        "names": {name: report.in_words(name) for name in report.scores},
        # what refuses windows above a cut: their counts are then not those of the kept ones
        "refusedBy": " and ".join(
            words
            for name, words in (("gate", "the gate"), ("refuse_overlap", "a better window that shares tokens"))
            if report.settings.get(name)
        ),
        # a draw has no cut
        "canCut": not report.settings.get("temperature"),
        "categories": [
            {"name": visible(name), "key": name} | _describe(rows[name], facts, edges, report.ranked_by)
            for name, facts in report.run_categories.items()
        ],
        "sources": [
            [visible(row.source), visible(row.category), row.windows, row.kept_windows] for row in report.sources
        ],
    }
    return render_page(
        title=report.pretty_name,
        body=f"<main>{body}</main>",
        data=data,
        scripts=("plots.js", "report.js"),
        start='LongAttn.report(document.getElementById("plots"), document.getElementById("sources"), data);',
    )


def _markdown() -> MarkdownIt:
    """A renderer that takes HTML for text, but for what folds a part away, and lets wide tables scroll."""
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")

    def open_table(renderer: object, tokens: Sequence, index: int, options: object, env: object) -> str:
        return '<div class="la-scroll" tabindex="0" role="region" aria-label="Table"><table>\n'

    def close_table(renderer: object, tokens: Sequence, index: int, options: object, env: object) -> str:
        return "</table></div>\n"

    def show_html(renderer: object, tokens: Sequence, index: int, options: object, env: object) -> str:
        content = tokens[index].content
        return content if _FOLD.fullmatch(content) else html.escape(content)

    markdown.add_render_rule("table_open", open_table)
    markdown.add_render_rule("table_close", close_table)
    markdown.add_render_rule("html_block", show_html)
    markdown.add_render_rule("html_inline", show_html)
    return markdown


def _plotted(report: Report) -> list[str]:
    """The scores that have plots, that which ranked first."""
    return list(dict.fromkeys((report.ranked_by, *(name for name in report.scores if name != MAP_VARIANCE))))


def _scored_rows(scores: pa.Table, name: str, report: Report) -> pa.Table:
    rows = scores.select([*_plotted(report), KEPT, "num_tokens"]).filter(pa.compute.equal(scores[CATEGORY], name))
    return rows.filter(rows[report.ranked_by].is_valid())


def _describe(rows: pa.Table, facts: CategoryFacts, edges: Mapping[str, np.ndarray], first: str) -> dict[str, Any]:
    """Counts one category's windows for the plots."""
    described: dict[str, Any] = {"cut": facts.cut, "windows": len(rows)}
    described |= {"kept": facts.kept_windows, "keptTokens": facts.kept_tokens}
    if not len(rows):
        return described
    kept = rows[KEPT].to_numpy(zero_copy_only=False).astype(bool)
    histograms = {}
    for column in edges:
        there = rows[column].is_valid().to_numpy(zero_copy_only=False)
        if there.any():
            histograms[column] = split_histogram(rows[column].drop_null().to_numpy(), kept[there], edges[column])
    described["histograms"] = histograms
    described["steps"] = _steps(rows[first].to_numpy(), rows["num_tokens"].to_numpy(), facts.cut, edges[first])
    if {*_STRENGTHS} <= histograms.keys():
        there = rows[DEPENDENCY_STRENGTH].is_valid().to_numpy(zero_copy_only=False)
        strength, uniformity = (rows[column].drop_null().to_numpy() for column in _STRENGTHS)
        described["plane"] = split_cells(
            strength, uniformity, kept[there], (edges[DEPENDENCY_STRENGTH], edges[DISTRIBUTION_UNIFORMITY])
        )
    return described


def _steps(ranks: np.ndarray, tokens: np.ndarray, cut: float | None, edges: np.ndarray) -> dict[str, Any]:
    """Lists places for a cut, the cut itself among them, and what each would keep.

    Returns:
        `cuts`, ascending: scores of windows, and one beyond the plot that keeps nothing; `windows` and `tokens`, those
        from each cut up; `thresholds`, as settings that keep just these; `built`, the index of the cut.
    """
    order = np.argsort(-ranks, kind="stable")
    values, firsts, counts = np.unique(-ranks[order], return_index=True, return_counts=True)
    values, windows = -values, firsts + counts
    sums = np.cumsum(tokens[order])[windows - 1]
    at = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MOST_STEPS)).round().astype(int))
    # the lowest of the scores that are kept
    lowest = -1 if cut is None else int((values >= cut).sum()) - 1
    at = np.union1d(at, [lowest] if lowest >= 0 else []).astype(int)
    below = np.append(values[1:], -np.inf)
    width = edges[1] - edges[0]
    beyond = float(edges[-1] + width / 4)
    # a threshold as near its cut as the plot tells, or nearer where windows ask for it
    decimals = max(0, math.ceil(-math.log10(width / 20)))
    cuts = [*values[at[::-1]].tolist(), beyond]
    return {
        "cuts": cuts,
        "windows": [*windows[at[::-1]].tolist(), 0],
        "tokens": [*sums[at[::-1]].tolist(), 0],
        "thresholds": [
            *(_between(below[one], values[one], decimals) for one in at[::-1]),
            _between(values[0], beyond, decimals),
        ],
        "built": cuts.index(float(values[lowest])) if lowest >= 0 else len(cuts) - 1,
    }


def _between(low: float, high: float, least: int) -> float:
    """Returns the number with the fewest decimals, at least `least`, that lies in [low, high), and near its end."""
    for decimals in range(least, least + 18):
        number = float(f"{high:.{decimals}f}")
        if number >= high:
            number = float(f"{number - 10.0**-decimals:.{decimals}f}")
        if low <= number < high:
            # there is no -0
            return number + 0.0
    return float(np.nextafter(high, -np.inf))
