"""`report.html`: the card's facts with interactive plots, in one file that needs no network."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from markdown_it import MarkdownIt

from longattn_hf.columns import CATEGORY, DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, KEPT, MAP_VARIANCE
from longattn_hf.files import write_text
from longattn_hf.hub.card_merge import BEGIN, END
from longattn_hf.pages.page import render_page, visible
from longattn_hf.report.card import render_card
from longattn_hf.report.facts import Report
from longattn_hf.report.parts import CategoryFacts
from longattn_hf.selection.summary import bin_edges, split_cells, split_histogram

PAGE = "report.html"

# the plane's
_STRENGTHS = (DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY)


def write_report_page(scores: pa.Table, report: Report, folder: Path) -> str:
    """Writes the page of a scored and selected corpus; takes the arguments of `render_report_page`.

    Args:
        scores: All windows.
        report: The run's report.
        folder: The build's output folder; the page replaces its predecessor as a whole.

    Returns:
        The page's path relative to `folder`.
    """
    write_text(folder / PAGE, render_report_page(scores, report))
    return PAGE


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
    card = render_card(replace(report, page=None, figures=[]))
    text = card[card.index(BEGIN) + len(BEGIN) : card.index(END)]
    first, heading, rest = text.partition("\n## Use\n")
    markdown = _markdown()
    plots = '<div id="plots"><p>The plots need JavaScript; all numbers stand below.</p></div>'
    body = f"<main>{markdown.render(visible(first))}{plots}{markdown.render(visible(heading + rest))}</main>"
    data = {
        "rankedBy": report.ranked_by,
        "names": {name: report.in_words(name) for name in report.scores},
        "categories": [_describe(scores, name, facts, report) for name, facts in report.run_categories.items()],
        "sources": [
            [visible(row.source), visible(row.category), row.windows, row.kept_windows] for row in report.sources
        ],
    }
    return render_page(
        title=report.pretty_name,
        body=body,
        data=data,
        scripts=("plots.js", "report.js"),
        start='LongAttn.report(document.getElementById("plots"), data);',
    )


def _markdown() -> MarkdownIt:
    """A renderer that takes HTML for text, and lets wide tables scroll."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")

    def open_table(renderer: object, tokens: Sequence, index: int, options: object, env: object) -> str:
        return '<div class="la-scroll" tabindex="0" role="region" aria-label="Table"><table>\n'

    def close_table(renderer: object, tokens: Sequence, index: int, options: object, env: object) -> str:
        return "</table></div>\n"

    markdown.add_render_rule("table_open", open_table)
    markdown.add_render_rule("table_close", close_table)
    return markdown


def _describe(scores: pa.Table, name: str, facts: CategoryFacts, report: Report) -> dict[str, Any]:
    """Counts one category's windows for the plots."""
    first = report.ranked_by
    plotted = [first, *(score for score in report.scores if score not in (first, MAP_VARIANCE))]
    rows = scores.select([*plotted, KEPT, "num_tokens"]).filter(pa.compute.equal(scores[CATEGORY], name))
    rows = rows.filter(rows[first].is_valid())
    described: dict[str, Any] = {"name": visible(name), "cut": facts.cut, "windows": len(rows)}
    if not len(rows):
        return described
    kept = rows[KEPT].to_numpy(zero_copy_only=False).astype(bool)
    histograms = {}
    for column in plotted:
        there = rows[column].is_valid().to_numpy(zero_copy_only=False)
        values = rows[column].drop_null().to_numpy()
        if len(values):
            edges = bin_edges(values, through=facts.cut if column == first else None)
            histograms[column] = split_histogram(values, kept[there], edges)
    ranks = rows[first].to_numpy()
    tokens = np.histogram(ranks, histograms[first]["edges"], weights=rows["num_tokens"])[0]
    described |= {"histograms": histograms, "tokens": [int(count) for count in tokens]}
    if {*_STRENGTHS} <= histograms.keys():
        there = rows[DEPENDENCY_STRENGTH].is_valid().to_numpy(zero_copy_only=False)
        strength, uniformity = (rows[column].drop_null().to_numpy() for column in _STRENGTHS)
        described["plane"] = split_cells(strength, uniformity, kept[there])
    return described
