"""`report.html`: the card's facts with interactive plots, in one file that needs no network."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from markdown_it import MarkdownIt

from longattn_hf.columns import CATEGORY, DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY, KEPT, LONG_DISTANCE_SCORE
from longattn_hf.files import write_text
from longattn_hf.hub.card_merge import BEGIN, END
from longattn_hf.method import get_convention
from longattn_hf.pages.page import render_page, visible
from longattn_hf.report.card import render_card
from longattn_hf.report.facts import CategoryFacts, Report
from longattn_hf.selection.summary import bin_edges, split_cells, split_histogram

PAGE = "report.html"

_PLOTTED = (LONG_DISTANCE_SCORE, DEPENDENCY_STRENGTH, DISTRIBUTION_UNIFORMITY)


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
        scores: One row a window, with the columns `category`, the raw scores, `long_distance_score` (null where a
            window was not scored; such rows are not drawn), `num_tokens` and `kept`.
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
        "unit": get_convention(report.convention).unit,
        "categories": [_describe(scores, name, facts) for name, facts in report.run_categories.items()],
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


def _describe(scores: pa.Table, name: str, facts: CategoryFacts) -> dict[str, Any]:
    """Counts one category's windows for the plots."""
    rows = scores.select([*_PLOTTED, KEPT, "num_tokens"]).filter(pa.compute.equal(scores[CATEGORY], name))
    rows = rows.filter(rows[LONG_DISTANCE_SCORE].is_valid())
    described = {"name": visible(name), "cut": facts.cut, "windows": len(rows)}
    if not len(rows):
        return described
    values = {column: rows[column].to_numpy() for column in _PLOTTED}
    kept = rows[KEPT].to_numpy(zero_copy_only=False).astype(bool)
    edges = {column: bin_edges(values[column]) for column in _PLOTTED}
    edges[LONG_DISTANCE_SCORE] = bin_edges(values[LONG_DISTANCE_SCORE], through=facts.cut)
    tokens = np.histogram(values[LONG_DISTANCE_SCORE], edges[LONG_DISTANCE_SCORE], weights=rows["num_tokens"])[0]
    return described | {
        "histograms": {column: split_histogram(values[column], kept, edges[column]) for column in _PLOTTED},
        "tokens": [int(count) for count in tokens],
        "plane": split_cells(values[DEPENDENCY_STRENGTH], values[DISTRIBUTION_UNIFORMITY], kept),
    }
