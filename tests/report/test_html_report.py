import json
import re

import numpy as np
import pyarrow as pa
import pytest

from longattn_hf.report.facts import Report
from tests.support.accessibility import violations
from tests.support.reports import example_report

pytest.importorskip("markdown_it", reason="no markdown-it-py: pip install 'longattn_hf[build]'")
pytest.importorskip("jinja2", reason="no jinja2: pip install 'longattn_hf[build]'")

from longattn_hf.report.html_report import render_report_page

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
    categories = data_of(render_report_page(scores, Report.from_dict(REPORT)))["categories"]
    first = categories[0]
    for category in categories:
        mine = scores.filter(pa.compute.equal(scores["category"], category["name"]))
        kept = int(pa.compute.sum(mine["kept"]).as_py())
        assert category["windows"] == 297
        for bins in category["histograms"].values():
            assert (sum(bins["kept"]), sum(bins["dropped"])) == (kept, 297 - kept)
        # all categories are on one scale
        edges = {score: bins["edges"] for score, bins in category["histograms"].items()}
        assert edges == {score: bins["edges"] for score, bins in first["histograms"].items()}
        # each step says what it keeps, and its threshold, rounded, keeps just that
        values, steps = mine["long_distance_score"].drop_null().to_numpy(), category["steps"]
        assert len(steps["cuts"]) in (201, 202) and steps["windows"][0] == 297 and steps["windows"][-1] == 0
        for cut, windows, tokens, threshold in zip(*(steps[name] for name in list(steps)[:4]), strict=True):
            assert (values >= cut).sum() == (values > threshold).sum() == windows and tokens == 32768 * windows
        assert max(len(str(threshold)) for threshold in steps["thresholds"]) <= 9
        built = steps["cuts"][steps["built"]]
        assert built == (values[values >= category["cut"]].min() if kept else steps["cuts"][-1])


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
    facts = REPORT["categories"][first]
    kept = {"kept": facts["kept_windows"], "keptTokens": facts["kept_tokens"]}
    assert described[first] == {"name": first, "key": first, "cut": facts["cut"], "windows": 0} | kept


def test_the_page_opens_from_disk_asks_for_nothing_and_all_follows_its_cut(scores, tmp_path, browser):
    alone = REPORT | {"settings": REPORT["settings"] | {"refuse_overlap": False}}
    (tmp_path / "report.html").write_text(render_report_page(scores, Report.from_dict(alone)))
    page, asked, wrong = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    name = next(name for name, facts in REPORT["categories"].items() if facts["cut"] is not None)
    cut = page.get_by_role("slider", name=f"Cut of {name}", exact=True)
    panel = page.locator("#plots .la-grid > div", has=cut)
    legend, bars = panel.locator(".la-legend"), panel.locator(".la-fill-kept")
    mine = scores.filter(pa.compute.equal(scores["category"], name))
    values = np.sort(mine["long_distance_score"].drop_null().to_numpy())
    facts = REPORT["categories"][name]
    assert violations(page) == []
    as_built = f"{facts['kept_windows']} kept ({facts['kept_tokens']:,} tokens)"
    assert as_built in legend.inner_text()
    heights = bars.evaluate_all("bars => bars.map((bar) => Number(bar.getAttribute('height')))")
    cut.press("Home")
    assert f"{len(values):,} would be kept ({len(values) * 32768:,} tokens)" in legend.inner_text()
    assert panel.locator(".la-fill-dropped").count() == 0
    setting = page.get_by_role("region", name="Setting")
    chosen = json.loads(setting.inner_text().removeprefix("threshold: ").strip())
    assert list(chosen) == list(REPORT["categories"]) and chosen[name] < values[0]
    # dragged to the middle of the plot, all follow before the handle is let go
    box, plot = cut.bounding_box(), panel.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(plot["x"] + plot["width"] * 0.6, box["y"])
    threshold = json.loads(setting.inner_text().removeprefix("threshold: ").strip())[name]
    above = int((values > threshold).sum())
    assert 0 < above < len(values) and f"{above:,} would be kept ({above * 32768:,} tokens)" in legend.inner_text()
    assert f"{len(values) - above:,} would be dropped" in legend.inner_text()
    assert f"{above:,} of {len(values):,} windows kept" in panel.locator("svg").get_attribute("aria-label")
    assert bars.evaluate_all("bars => bars.map((bar) => Number(bar.getAttribute('height')))") != heights
    page.mouse.up()
    cut.press("End")
    assert "0 would be kept (0 tokens)" in legend.inner_text() and bars.count() == 0
    page.get_by_role("button", name="Reset the cuts").click()
    assert as_built in legend.inner_text()
    assert bars.evaluate_all("bars => bars.map((bar) => Number(bar.getAttribute('height')))") == heights
    assert page.get_by_role("button", name="Reset the cuts").is_disabled()
    # where more than the cut refuses windows, its counts are not said to be those of the kept ones
    (tmp_path / "report.html").write_text(render_report_page(scores, Report.from_dict(REPORT)))
    page.reload()
    cut.press("Home")
    assert "297 from the cut up" in legend.inner_text() and "would be kept" not in legend.inner_text()
    assert page.get_by_text("a better window that shares tokens refuses windows too").is_visible()
    page.get_by_label("Score").select_option("dependency_strength")
    assert page.get_by_role("slider").count() == 0
    page.get_by_label("Find").fill("no such source")
    assert page.get_by_text("0 of 2 sources").is_visible()
    assert set(asked) == {(tmp_path / "report.html").as_uri()} and not wrong
    page.close()


@pytest.mark.parametrize("count", [1, 30])
def test_one_category_is_not_blown_up_and_thirty_are_not_all_drawn(scores, browser, tmp_path, count):
    facts, names = REPORT["categories"]["code"], [f"c{at:02}" for at in range(count)]
    few = scores.filter(pa.compute.equal(scores["category"], "code")).slice(3, 20)
    tables = [few.set_column(0, "category", pa.array([name] * 20)) for name in names]
    report = REPORT | {"categories": dict.fromkeys(names, facts), "configs": {"c00": REPORT["configs"]["code"]}}
    (tmp_path / "report.html").write_text(
        render_report_page(pa.concat_tables(tables), Report.from_dict(report | {"default_config": "c00"}))
    )
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    plots = page.locator("#plots .la-grid").first.locator("svg")
    assert plots.count() == min(count, 9)
    # text is 11 units of the 330 that a plot is wide
    assert 8 <= 11 * plots.first.bounding_box()["width"] / 330 <= 16
    assert page.evaluate("document.documentElement.scrollHeight") <= 4000
    assert page.evaluate("document.documentElement.scrollWidth") <= 1400
    if count > 9:
        page.get_by_label("Find a category").fill("C2")
        assert [heading.inner_text() for heading in page.locator("#plots h3").all()][:2] == ["c20", "c21"]
        page.get_by_label("Find a category").fill("c07")
        assert plots.count() == 1 and page.get_by_text("1 of 30 categories.").is_visible()
    page.close()


def test_of_html_only_what_folds_a_part_away_stays(scores):
    report = REPORT | {
        "description": "<b>x</b> <details open>\n\n<details>\n<summary><i>y</i></summary>\n\n<p onclick=z>\n"
    }
    page = render_report_page(scores, Report.from_dict(report))
    assert "<b>" not in page and "<details open>" not in page and "<i>" not in page and "<p onclick" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page and "&lt;summary&gt;&lt;i&gt;y" in page
    assert page.count("<details>\n<summary>Columns</summary>") == 1


def test_the_page_says_what_a_threshold_keeps_of_equal_scores(scores, tmp_path, browser):
    report = json.loads(json.dumps(REPORT | {"settings": REPORT["settings"] | {"refuse_overlap": False}}))
    more = 0
    for name, facts in report["categories"].items():
        values = (
            scores.filter(pa.compute.equal(scores["category"], name))["long_distance_score"].drop_null().to_numpy()
        )
        if facts["cut"] is not None:
            # as where the cut goes through three equal scores and leaves two of them out
            facts["kept_windows"], more = int((values >= facts["cut"]).sum()) - 2, more + 2
    (tmp_path / "report.html").write_text(render_report_page(scores, Report.from_dict(report)))
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert page.get_by_text(f"As a threshold the cut keeps {more} more, of scores equal to it.").count() == 1
    page.close()
