import csv
import json
import math
import random
import re
import threading
import time
import urllib.error
import urllib.request

import pyarrow.parquet as pq
import pytest

from longattn_hf.explore.__main__ import main
from longattn_hf.explore.session import Session
from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.refusal import Refusal
from longattn_hf.selection.select import add_long_distance_score, select_windows
from tests.support.scored_build import CATEGORIES, NASTY, write_build

BADLY_WAITED = 30_000


@pytest.fixture(scope="module")
def build(tmp_path_factory, tiny_llama):
    folder = tmp_path_factory.mktemp("explored") / "small"
    return folder, write_build(folder, str(tiny_llama))


def counts(dataset, *, alpha=0.5, convention="paper", **limit):
    """What the first table should say: by category the kept windows, documents and tokens."""
    kept = select_windows(add_long_distance_score(dataset, alpha=alpha, convention=convention), **limit)
    rows = [kept.filter(lambda row, name=name: row["category"] == name) for name in CATEGORIES]
    return {
        name: [len(part), len(set(part["doc_id"])), sum(part["num_tokens"])]
        for name, part in zip([*CATEGORIES, "all"], [*rows, kept], strict=True)
    }


class Explorer:
    """The page in a real browser, and what it asked for."""

    def __init__(self, browser, address, **settings):
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000}, **settings)
        self.page.set_default_timeout(10_000)
        self.asked, self.wrong, self.address = [], [], address
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.wrong.append(message.text))
        self.page.goto(address)
        self.page.locator("#windows button").first.wait_for(timeout=BADLY_WAITED)

    def counts(self, *columns):
        cells = self.page.evaluate(
            "() => [...document.querySelectorAll('#by-category tbody tr')].map((row) => "
            "[...row.cells].map((cell) => cell.textContent))"
        )
        return {name: [int(values[at].replace(",", "")) for at in columns] for name, *values in cells}

    def wait_for_counts(self, wanted, *, columns=(1, 2, 3)):
        for _ in range(100):
            if (seen := self.counts(*columns)) == wanted:
                return
            self.page.wait_for_timeout(100)
        assert seen == wanted

    def set_number(self, label, value):
        field = self.page.get_by_label(label, exact=True)
        field.fill(str(value))
        field.press("Tab")


@pytest.fixture(scope="module")
def explorer(build, browser, tmp_path_factory):
    pytest.importorskip("gradio", reason="no Gradio: pip install 'longattn_hf[explore]'")
    import uvicorn

    from longattn_hf.explore.server import make_server

    session = Session(build[0], recipe=tmp_path_factory.mktemp("recipe") / "recipe.yaml")
    server = uvicorn.Server(uvicorn.Config(make_server(session), host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    explorer = Explorer(browser, f"http://127.0.0.1:{port}/")
    explorer.session = session
    yield explorer
    explorer.page.close()
    server.should_exit = True
    thread.join(10)


def test_the_page_starts_with_the_builds_own_selection(explorer, build):
    explorer.wait_for_counts(counts(build[1], fraction=0.5))
    explorer.wait_for_counts(counts(build[1], fraction=0.5, alpha=1.0), columns=(4, 5, 6))


def test_alpha_fraction_budget_and_overlap_change_the_counts_as_select_windows_would(explorer, build):
    page, whole = explorer.page, build[1]
    explorer.set_number("Alpha", 1.5)
    explorer.wait_for_counts(counts(whole, alpha=1.5, fraction=0.5))
    explorer.set_number("Fraction of each category", 0.2)
    explorer.wait_for_counts(counts(whole, alpha=1.5, fraction=0.2))
    page.get_by_label("token budget").check()
    explorer.set_number("Tokens of each category", 1000)
    explorer.wait_for_counts(counts(whole, alpha=1.5, token_budget=1000))
    page.get_by_label("Refuse overlapping windows").check()
    explorer.wait_for_counts(counts(whole, alpha=1.5, token_budget=1000, refuse_overlap=True))
    page.get_by_label("reference_code", exact=True).check()
    other = counts(whole, alpha=1.0, convention="reference_code", token_budget=1000, refuse_overlap=True)
    explorer.wait_for_counts(other, columns=(4, 5, 6))


def test_the_cut_is_dragged_and_moved_by_keys_and_saved_as_a_recipe(explorer, build):
    page, whole = explorer.page, build[1]
    page.get_by_label("fraction", exact=True).check()
    page.get_by_label("Refuse overlapping windows").uncheck()
    explorer.wait_for_counts(counts(whole, alpha=1.5, fraction=0.2))
    handles = {
        name: page.get_by_role("slider", name=f"Cut of {name}, long-distance score (z-units)") for name in CATEGORIES
    }
    box = handles["arxiv"].bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] - 60, box["y"] + 40, steps=5)
    page.mouse.up()
    page.get_by_label("cut", exact=True).and_(page.locator(":checked")).wait_for()
    before = {name: float(handle.get_attribute("aria-valuenow")) for name, handle in handles.items()}
    explorer.wait_for_counts(counts(whole, alpha=1.5, threshold=before))
    handles["book"].press("ArrowLeft")
    page.wait_for_function(
        "([label, old]) => document.querySelector(`[aria-label='${label}']`).getAttribute('aria-valuenow') != old",
        arg=["Cut of book, long-distance score (z-units)", str(before["book"])],
    )
    page.wait_for_timeout(300)
    after = {name: float(handle.get_attribute("aria-valuenow")) for name, handle in handles.items()}
    assert after["book"] < before["book"] and after["arxiv"] == before["arxiv"]
    explorer.wait_for_counts(counts(whole, alpha=1.5, threshold=after))
    page.get_by_role("button", name="Save as recipe").click()
    page.get_by_text("Written to").wait_for()
    config = load_config(explorer.session.recipe)
    assert (config.alpha, config.threshold, config.fraction) == (1.5, after, None)
    assert page.get_by_label("Recipe", exact=True).text_content() == explorer.session.recipe.read_text()


class Walk:
    """What the page should keep, by a model of its own of what the controls mean."""

    def __init__(self, whole):
        self.whole, self.by, self.values = whole, "fraction", {"alpha": 0.5, "fraction": 0.5, "budget": 2000}
        self.overlap, self.cuts, self.before, self.other_alpha = False, None, {"fraction": 0.5}, 1.0

    @property
    def is_valid(self):
        needed = {"fraction": ["fraction"], "token budget": ["budget"], "cut": []}[self.by]
        values = [self.values[name] for name in (*needed, "alpha")]
        return all(value != "" for value in values) and (self.by != "fraction" or 0 <= self.values["fraction"] <= 1)

    def scored(self, alpha):
        return add_long_distance_score(self.whole, alpha=alpha)

    def kept(self, alpha, limit):
        return select_windows(self.scored(alpha), refuse_overlap=self.overlap, **limit)

    def step(self):
        """Takes what the page takes over when its controls are valid; returns the limits of both selections."""
        if self.by == "cut":
            if self.cuts is None:
                kept, scored = self.kept(self.values["alpha"], self.before), self.scored(self.values["alpha"])
                self.cuts = {}
                for name in CATEGORIES:
                    mine, every = (
                        [
                            r["long_distance_score"]
                            for r in rows
                            if r["category"] == name and r["long_distance_score"] is not None
                        ]
                        for rows in (kept, scored)
                    )
                    self.cuts[name] = math.nextafter(min(mine), -math.inf) if mine else max(every)
            here = {"threshold": self.cuts}
            kept, every = self.kept(self.values["alpha"], here), self.scored(self.values["alpha"])
            counts = {
                name: (
                    kept["category"].count(name),
                    sum(r["category"] == name and r["long_distance_score"] is not None for r in every),
                )
                for name in CATEGORIES
            }
            return here, {"fraction": {name: max(k - 0.5, 0) / n for name, (k, n) in counts.items()}}
        self.cuts = None
        name = "fraction" if self.by == "fraction" else "token_budget"
        self.before = {name: self.values["fraction" if self.by == "fraction" else "budget"]}
        return self.before, self.before


@pytest.mark.slow
def test_what_the_page_says_is_what_select_windows_keeps_in_every_state(explorer, build):
    page, chance = Explorer(explorer.page.context.browser, explorer.address).page, random.Random(0)
    fresh = Explorer.__new__(Explorer)
    fresh.page = page
    walk, labels = Walk(build[1]), {"fraction": "Fraction of each category", "budget": "Tokens of each category"}
    for _ in range(30):
        what = chance.choice(["alpha", "by", "by", "fraction", "budget", "overlap", "other"])
        if what == "by":
            walk.by = chance.choice(["fraction", "token budget", "cut"])
            page.get_by_label(walk.by, exact=True).check()
        elif what == "overlap":
            walk.overlap = not walk.overlap
            page.get_by_label("Refuse overlapping windows").set_checked(walk.overlap)
        elif what == "other":
            walk.other_alpha = chance.choice([0, 0.5, 7])
            fresh.set_number("Other selection: alpha", walk.other_alpha)
        else:
            choices = {"alpha": [0, 0.5, 9, ""], "fraction": [0, 0.3, 0.7, 1, 1.5, ""], "budget": [0, 600, 3000, ""]}
            walk.values[what] = chance.choice(choices[what])
            fresh.set_number(labels.get(what, "Alpha"), walk.values[what])
        if not walk.is_valid:
            page.get_by_text("This selects nothing").wait_for()
            assert fresh.counts() == {}
            continue
        page.get_by_text("This selects nothing").wait_for(state="hidden")
        here, there = walk.step()
        fresh.wait_for_counts(counts(walk.whole, alpha=walk.values["alpha"], refuse_overlap=walk.overlap, **here))
        other = counts(walk.whole, alpha=walk.other_alpha, refuse_overlap=walk.overlap, **there)
        fresh.wait_for_counts(other, columns=(4, 5, 6))
    page.close()


def test_it_answers_its_own_page_under_its_own_names_and_takes_no_files(explorer):
    def status(path="", **headers):
        request = urllib.request.Request(explorer.address + path, headers=headers)
        try:
            return urllib.request.urlopen(request).status
        except urllib.error.HTTPError as error:
            return error.code

    own = explorer.address.removeprefix("http://").rstrip("/")
    assert status() == status(Host="localhost:7860") == status(Origin=f"http://{own}") == 200
    assert status(Host="evil.example") == status(Origin="https://evil.example") == 403
    assert status(Origin="null") == status("gradio_api/upload") == 403
    assert status("export/windows.csv") == 200 and status("export/windows.exe") == status("export/other.csv") == 404
    assert status("export/windows.csv?alpha=x") == status("export/windows.csv?filter=x") == 400
    assert status("export/windows.csv", Host="evil.example") == 403


def test_windows_are_searched_and_opened_and_a_click_tells_where_a_token_looks(explorer):
    page, session = explorer.page, explorer.session
    page.get_by_label("Search id, document or source").fill("document-8")
    page.get_by_text("3 windows of").wait_for()
    page.locator("#windows .la-link").nth(1).click()
    page.locator("#window [role=listbox]").wait_for(timeout=BADLY_WAITED)
    opened = re.search(r"[0-9a-f]{16}", page.locator("#window h2").inner_text())[0]
    view = session.view(opened)
    assert page.locator("#window [role=option]").count() == len(view.tokens)
    assert f"dependency strength {view.scores['dependency_strength']:.4g}" in page.locator("#window").inner_text()
    unlisted = next(at for at in range(20, 80) if str(at) not in view.to_data(listed_rows=24)["far"])
    page.locator(f"#token-{unlisted}").click()
    page.locator("#window .la-details h3", has_text=f"Token {unlisted}:").wait_for()
    page.locator("#window .la-details tbody tr").first.wait_for()
    found = page.locator("#window .la-details tbody button").all_inner_texts()
    assert [int(text) for text in found] == [it.position for it in view.top_far(unlisted, 5)]
    page.keyboard.press("ArrowRight")
    page.locator("#window .la-details h3", has_text=f"Token {unlisted + 1}:").wait_for()


def test_a_window_says_why_it_has_its_score_and_leads_to_the_next_rank(explorer, build):
    page, title = explorer.page, explorer.page.locator("#window h2")
    page.get_by_label("fraction", exact=True).check()
    explorer.set_number("Alpha", 0.5)
    explorer.set_number("Fraction of each category", 0.2)
    page.get_by_label("Search id, document or source").fill("")
    explorer.wait_for_counts(counts(build[1], fraction=0.2))
    ranked = sorted(
        (row for row in add_long_distance_score(build[1]) if row["category"] == CATEGORIES[0]),
        key=lambda row: (-row["long_distance_score"], row["id"]),
    )
    page.get_by_label(f"Open window {ranked[0]['id']}").click()
    for rank, row in enumerate(ranked[:3], 1):
        page.locator("#window h2", has_text=row["id"]).wait_for(timeout=BADLY_WAITED)
        why = page.get_by_label("Why this score").locator("li").all_inner_texts()
        assert why[0].startswith(f"Long-distance score {row['long_distance_score']:.2f}: strength ")
        assert why[1].startswith(f"Rank {rank} of {len(ranked)} in {CATEGORIES[0]}, ") and why[1].endswith(
            f"; kept ({-(-len(ranked) // 5)} are)."
        )
        assert page.get_by_role("button", name="Previous rank").is_disabled() == (rank == 1)
        page.get_by_role("button", name="Next rank").click()
    page.locator("#window h2", has_text=ranked[3]["id"]).wait_for(timeout=BADLY_WAITED)
    page.get_by_role("button", name="Previous rank").click()
    page.locator("#window h2", has_text=ranked[2]["id"]).wait_for(timeout=BADLY_WAITED)
    assert title.count() == 1
    view, cells = (
        explorer.session.view(ranked[2]["id"]),
        page.get_by_label("What receives the far attention").locator("td"),
    )
    first = view.by_text[0]
    assert cells.nth(1).inner_text() == str(first.places)
    assert float(cells.nth(2).inner_text().removesuffix(" %")) == pytest.approx(100 * first.share, rel=0.05)
    assert float(cells.nth(3).inner_text().removesuffix("\u00d7")) == pytest.approx(first.share / first.even, rel=0.05)


def listed(page):
    """The ids of the list's rows."""
    return page.locator("#windows .la-link").evaluate_all("(links) => links.map((link) => link.dataset.id)")


def wait_for_list(page, wanted):
    for _ in range(100):
        if (seen := listed(page)) == wanted:
            return
        page.wait_for_timeout(100)
    assert seen == wanted


def test_a_window_s_text_is_there_before_its_attention(explorer):
    page, session = explorer.page, explorer.session
    last = page.locator("#windows .la-link").last
    opened = last.get_attribute("data-id")
    # the attention waits for a lock that only the test gives back
    with session._looking:
        last.click()
        page.locator("#window h2", has_text=opened).wait_for(timeout=BADLY_WAITED)
        text = page.get_by_label("Text of the window")
        assert text.inner_text() == session.open_window(opened)["text"].rstrip("\n")
        page.get_by_text("Computing where the attention of 96 tokens goes").wait_for()
        assert page.get_by_role("progressbar", name="Computing the attention").is_visible()
        assert page.locator("#windows [aria-current] .la-link").get_attribute("data-id") == opened
        # another one's text comes at once too, and the first one's attention never takes its place
        other = page.locator("#windows .la-link").first
        other.click()
        page.locator("#window h2", has_text=other.get_attribute("data-id")).wait_for(timeout=BADLY_WAITED)
    page.locator("#window [role=listbox]").wait_for(timeout=BADLY_WAITED)
    assert page.locator("#window progress").count() == text.count() == 0
    assert page.locator("#window h2", has_text=other.get_attribute("data-id")).count() == 1


def test_texts_are_searched_and_the_place_is_marked(explorer, build):
    page, whole = explorer.page, build[1]
    page.get_by_label("Search the texts").fill("WINDOW 12 of")
    page.get_by_label("Search the texts").press("Enter")
    arxiv = [row for row in whole if row["category"] == "arxiv"]
    holding = [row["id"] for row in arxiv if "window 12 of" in row["text"]]
    wait_for_list(page, holding)
    page.get_by_text(f"\u201cWINDOW 12 of\u201d: 1 found in {len(arxiv)} of {len(arxiv)} texts.").wait_for()
    page.locator("#windows mark", has_text="window 12 of").wait_for()
    page.get_by_label("Search the texts").fill("")
    page.get_by_label("Search the texts").press("Enter")
    page.get_by_text(f"{len(arxiv)} windows of arxiv").wait_for()
    page.get_by_role("textbox", name="Filter").fill("tokns > 3")
    page.get_by_text("Did you mean 'tokens'?").wait_for()
    assert listed(page) == []
    page.get_by_role("button", name="Take the filter off").click()
    page.get_by_text(f"{len(arxiv)} windows of arxiv").wait_for()


def test_a_bar_lists_its_windows_by_mouse_and_by_keys(explorer, build):
    page = explorer.page
    ranked = sorted(
        (row for row in add_long_distance_score(build[1]) if row["category"] == "book"),
        key=lambda row: (-row["long_distance_score"], row["id"]),
    )
    bars = page.locator("section[aria-label=book] .la-histogram").first.locator(".la-bin")
    # the highest windows, whose bin has its upper edge too
    count = sum(int(part) for part in re.findall(r"(\d+) (?:kept|dropped)", bars.last.get_attribute("aria-label")))
    bars.last.click()
    wait_for_list(page, [row["id"] for row in ranked[:count]])
    assert page.get_by_role("combobox", name="Category").input_value() == "book"
    bars.first.focus()
    low = sum(int(part) for part in re.findall(r"(\d+) (?:kept|dropped)", bars.nth(1).get_attribute("aria-label")))
    before = sum(int(part) for part in re.findall(r"(\d+) (?:kept|dropped)", bars.nth(0).get_attribute("aria-label")))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_for_list(page, [row["id"] for row in ranked[len(ranked) - before - low : len(ranked) - before]])
    page.get_by_role("button", name="Take the filter off").click()
    page.get_by_text(f"{len(ranked)} windows of book").wait_for()
    wait_for_list(page, [row["id"] for row in ranked[:20]])
    page.get_by_role("button", name="Next page").click()
    wait_for_list(page, [row["id"] for row in ranked[20:40]])


def test_the_list_is_taken_along_as_it_is_shown(explorer, build):
    page = explorer.page
    page.get_by_role("textbox", name="Filter").fill("kept = yes")
    page.get_by_text("8 windows of book").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    rows = list(csv.DictReader(download.value.path().open(encoding="utf-8")))
    assert download.value.suggested_filename == "windows.csv"
    assert [row["id"] for row in rows] == listed(page) and len(rows) == 8
    with page.expect_download() as download:
        page.get_by_role("link", name="Parquet").click()
    assert pq.read_table(download.value.path())["id"].to_pylist() == listed(page)


def test_the_address_leads_back_and_says_what_of_it_is_refused(explorer, browser):
    page = explorer.page
    page.locator("#windows .la-link").nth(3).click()
    page.wait_for_url("**window=*")
    shown, before = listed(page), explorer.counts(1, 2, 3, 4, 5, 6)
    again = Explorer(browser, f"{page.url}&alpha=9&list_page=7&page=7&keep=everything&cut.wiki=x", color_scheme="dark")
    # a name that is there twice counts as it stands last
    again.page.set_viewport_size({"width": 390, "height": 800})
    again.page.get_by_text("keep=everything is none of fraction, token budget, cut").wait_for()
    again.page.get_by_text("page=7 is not understood").wait_for()
    again.page.get_by_text("cut.wiki=x is not understood").wait_for()
    again.page.get_by_text("There is no page 7: the last is 1.").wait_for()
    again.set_number("Alpha", 0.5)
    again.wait_for_counts(before, columns=(1, 2, 3, 4, 5, 6))
    wait_for_list(again.page, shown)
    again.page.locator("#window h2", has_text=shown[3]).wait_for(timeout=BADLY_WAITED)
    assert again.page.locator("#windows [aria-current] .la-link").get_attribute("data-id") == shown[3]
    assert again.page.get_by_role("textbox", name="Filter").input_value() == "kept = yes"
    # in the dark, on a telephone's screen, nothing makes the page wider than it is
    wide, has = again.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= has and again.page.locator("body.dark").count() == 1 and again.wrong == []
    again.page.close()


def test_the_document_s_other_windows_are_a_key_away(explorer, build):
    page = explorer.page
    opened = re.search(r"[0-9a-f]{16}", page.locator("#window h2").inner_text())[0]
    (own,) = (row for row in build[1] if row["id"] == opened)
    document = sorted((row for row in build[1] if row["doc_id"] == own["doc_id"]), key=lambda row: row["start_token"])
    bars = page.locator(".la-map-window")
    assert bars.count() == len(document) == 3
    # the first two overlap, so that they lie in two lanes
    assert bars.nth(0).get_attribute("y") != bars.nth(1).get_attribute("y")
    other = next(at for at, row in enumerate(document) if row["id"] != opened)
    bars.nth(other).press("Enter")
    page.locator("#window h2", has_text=document[other]["id"]).wait_for(timeout=BADLY_WAITED)


def test_a_documents_markup_is_shown_as_text(explorer):
    text = explorer.page.locator("#window .la-text").inner_text()
    assert NASTY.replace("\x1b", "\u241b").replace("\u202e", "<U+202E>").rstrip() in text
    assert explorer.page.evaluate("window.hurt") is None
    explorer.page.get_by_role("button", name="By source").click()
    explorer.page.locator("#by-source td", has_text="source-1<b>").wait_for()


def test_each_control_has_a_name_for_a_screen_reader(explorer):
    controls = "input, select, textarea, button, [role=slider], [role=listbox], svg[role]"
    nameless = explorer.page.evaluate(
        """(controls) => [...document.querySelectorAll(controls)].filter((node) => node.checkVisibility())
          .filter((node) => ![node.getAttribute("aria-label"), node.innerText, node.title,
            ...[...(node.labels || [])].map((label) => label.innerText),
            document.getElementById(node.getAttribute("aria-labelledby"))?.innerText].some((name) => name))
          .map((node) => node.outerHTML.slice(0, 200))""",
        controls,
    )
    assert not nameless


def test_nothing_is_asked_of_another_machine_and_no_script_fails(explorer):
    assert len(explorer.asked) > 10
    assert [url for url in explorer.asked if not url.startswith((explorer.address, "data:", "blob:"))] == []
    assert explorer.wrong == []


def test_a_window_whose_model_is_missing_shows_its_text(build, tmp_path):
    session = Session(build[0], model=str(tmp_path / "nowhere"))
    shown = session.open_window(session.corpus.id_of(0))
    assert "Only the text can be shown" in session.look(shown["id"])["note"] and "<script>" in shown["text"]
    assert "\x1b" not in json.dumps(shown)


def test_the_command_says_what_is_wrong_with_its_argument(tmp_path):
    with pytest.raises(Refusal, match="holds no scored windows yet|longattn_hf.explore.") as refusal:
        main([str(tmp_path), "--no_browser", "--port", "0"])
    assert refusal.value.code == 2
