import json
import re

import numpy as np
import pyarrow as pa
import pytest

from longattn_hf.report.facts import Report
from tests.support.reports import example_report

pytest.importorskip("markdown_it", reason="no markdown-it-py: pip install 'longattn_hf[build]'")
pytest.importorskip("jinja2", reason="no jinja2: pip install 'longattn_hf[build]'")

from longattn_hf.report.html_report import render_report_page, write_report_page

REPORT = example_report()
NASTY = '</script><script>alert(1)</script><img src="http://198.51.100.1/x">\x1b[31m'


@pytest.fixture(scope="module")
def scores():
    generator, tables = np.random.default_rng(0), []
    for name, facts in REPORT["categories"].items():
        count = 300
        score = generator.normal(size=count)
        cut = facts["cut"] if facts["cut"] is not None else np.inf
        tables.append(
            pa.table(
                {
                    "category": [name] * count,
                    "num_tokens": np.full(count, 32768),
                    "dependency_strength": generator.normal(0.4, 0.02, count),
                    "distribution_uniformity": -generator.gamma(2, 1e-9, count),
                    "long_distance_score": pa.array(np.where(np.arange(count) < 3, np.nan, score), from_pandas=True),
                    "kept": (score >= cut) & (np.arange(count) >= 3),
                }
            )
        )
    return pa.concat_tables(tables)


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page)[1])


def test_the_page_states_what_the_card_states(scores):
    page = render_report_page(scores, Report.from_dict(REPORT))
    assert page == render_report_page(scores, Report.from_dict(REPORT))
    for name, facts in REPORT["categories"].items():
        row = re.search(rf"<td><code>{re.escape(name)}</code></td>.*?</tr>", page, re.DOTALL)[0]
        for count in ("documents", "windows", "tokens", "kept_windows", "kept_tokens"):
            assert f"{facts[count]:,}</td>" in row
    assert page.count("<h2>") >= 8 and "<h2>Limits</h2>" in page and "<img" not in page


def test_the_plots_counts_are_the_tables(scores):
    for category in data_of(render_report_page(scores, Report.from_dict(REPORT)))["categories"]:
        mine = scores.filter(pa.compute.equal(scores["category"], category["name"]))
        kept = int(pa.compute.sum(mine["kept"]).as_py())
        assert category["windows"] == 297
        for bins in category["histograms"].values():
            assert (sum(bins["kept"]), sum(bins["dropped"])) == (kept, 297 - kept)
        assert sum(category["tokens"]) == 297 * 32768
        if category["cut"] is not None:
            above = np.array(category["histograms"]["long_distance_score"]["edges"][:-1]) >= category["cut"] - 1e-12
            assert np.array(category["histograms"]["long_distance_score"]["kept"])[above].sum() == kept


def test_nothing_that_a_document_holds_becomes_part_of_the_page(scores):
    first = next(iter(REPORT["categories"]))
    example = REPORT["examples"][first]["highest"][0] | {"excerpt": NASTY, "source": NASTY}
    report = REPORT | {
        "pretty_name": NASTY,
        "description": NASTY,
        "examples": REPORT["examples"] | {first: REPORT["examples"][first] | {"highest": [example]}},
        "sources": [REPORT["sources"][0] | {"source": NASTY}],
    }
    page = render_report_page(scores, Report.from_dict(report))
    assert page.count("<script") == 2 and "<img" not in page and "\x1b" not in page
    assert data_of(page)["sources"][0][0] == NASTY.replace("\x1b", "\u241b")


def test_a_category_without_scores_says_so(scores):
    first = next(iter(REPORT["categories"]))
    none = scores.filter(pa.compute.not_equal(scores["category"], first))
    described = {one["name"]: one for one in data_of(render_report_page(none, Report.from_dict(REPORT)))["categories"]}
    assert described[first] == {"name": first, "cut": REPORT["categories"][first]["cut"], "windows": 0}


def test_the_page_opens_from_disk_asks_for_nothing_and_its_cut_moves_by_keys(scores, tmp_path, browser):
    assert write_report_page(scores, Report.from_dict(REPORT), tmp_path) == "report.html"
    page, asked, wrong = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    name = next(name for name, facts in REPORT["categories"].items() if facts["cut"] is not None)
    cut = page.get_by_role("slider", name=f"Cut of {name}", exact=True)
    said = page.locator("#plots .la-grid > div", has=cut).locator("p.la-note")
    mine = scores.filter(pa.compute.equal(scores["category"], name)).filter(
        scores.filter(pa.compute.equal(scores["category"], name))["long_distance_score"].is_valid()
    )
    values = mine["long_distance_score"].to_numpy()
    assert f"{(values >= REPORT['categories'][name]['cut']).sum():,} windows" in said.inner_text()
    cut.press("Home")
    assert f"{len(values):,} windows" in said.inner_text()
    page.get_by_label("Score").select_option("dependency_strength")
    assert page.get_by_role("slider").count() == 0
    page.get_by_label("Find").fill("no such source")
    assert page.get_by_text("0 of 2 sources").is_visible()
    assert asked == [(tmp_path / "report.html").as_uri()] and not wrong
    page.close()
