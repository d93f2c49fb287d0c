import csv
import json
import re
import urllib.error
import urllib.request

import pyarrow.parquet as pq
import pytest

from longattn_hf.explore.__main__ import main
from longattn_hf.explore.scored_corpus import ALL
from longattn_hf.explore.session import Session
from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.refusal import Refusal
from longattn_hf.selection.select import add_long_distance_score, select_windows
from tests.support.accessibility import violations
from tests.support.explorer_page import BADLY_WAITED, Explorer, counts
from tests.support.scored_build import CATEGORIES, NASTY


def test_the_page_starts_with_the_builds_own_selection(explorer, explored):
    explorer.wait_for_counts(counts(explored[1], fraction=0.5))
    explorer.wait_for_counts(counts(explored[1], fraction=0.5, alpha=1.0), columns=(4, 5, 6))


def test_alpha_fraction_budget_and_overlap_change_the_counts_as_select_windows_would(explorer, explored):
    page, whole = explorer.page, explored[1]
    explorer.set_number("Alpha", 1.5)
    explorer.wait_for_counts(counts(whole, alpha=1.5, fraction=0.5))
    explorer.set_number("Fraction of each category", 0.2)
    explorer.wait_for_counts(counts(whole, alpha=1.5, fraction=0.2))
    page.get_by_label("token budget").check()
    explorer.set_number("Tokens to keep", 1000)
    explorer.wait_for_counts(counts(whole, alpha=1.5, token_budget=1000))
    page.get_by_label("total budget").check()
    explorer.wait_for_counts(counts(whole, alpha=1.5, total_token_budget=1000))
    page.get_by_label("token budget").check()
    page.get_by_label("Refuse overlapping windows").check()
    explorer.wait_for_counts(counts(whole, alpha=1.5, token_budget=1000, refuse_overlap=True))
    page.get_by_label("reference_code", exact=True).check()
    other = counts(whole, alpha=1.0, convention="reference_code", token_budget=1000, refuse_overlap=True)
    explorer.wait_for_counts(other, columns=(4, 5, 6))


def test_the_cut_is_dragged_and_moved_by_keys_and_saved_as_a_recipe(explorer, explored):
    page, whole = explorer.page, explored[1]
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
    page.wait_for_url(lambda url: f"cut.book={after['book']}" in url and f"cut.arxiv={after['arxiv']}" in url)
    page.get_by_role("button", name="Save as recipe").click()
    page.get_by_text("Written to").wait_for()
    config = load_config(explorer.session.recipe)
    assert (config.alpha, config.threshold, config.fraction) == (1.5, after, None)
    assert page.get_by_label("Recipe", exact=True).text_content() == explorer.session.recipe.read_text()


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


def test_a_window_says_why_it_has_its_score_and_leads_to_the_next_rank(explorer, explored):
    page, title = explorer.page, explorer.page.locator("#window h2")
    page.get_by_label("fraction", exact=True).check()
    explorer.set_number("Alpha", 0.5)
    explorer.set_number("Fraction of each category", 0.2)
    page.get_by_label("Search id, document or source").fill("")
    explorer.wait_for_counts(counts(explored[1], fraction=0.2))
    ranked = sorted(
        (row for row in add_long_distance_score(explored[1]) if row["category"] == CATEGORIES[0]),
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


def test_a_window_s_text_is_there_before_its_attention(explorer):
    page, session = explorer.page, explorer.session
    last = page.locator("#windows .la-link").last
    opened = last.get_attribute("data-name")
    # the attention waits for a lock that only the test gives back
    with session._looking:
        last.click()
        page.locator("#window h2", has_text=opened).wait_for(timeout=BADLY_WAITED)
        text = page.get_by_label("Text of the window")
        assert text.inner_text() == session.open_window(opened)["text"].rstrip("\n")
        page.get_by_text("Computing where the attention of 96 tokens goes").wait_for()
        assert page.get_by_role("progressbar", name="Computing the attention").is_visible()
        assert page.locator("#windows [aria-current] .la-link").get_attribute("data-name") == opened
        # another one's text comes at once too, and the first one's attention never takes its place
        other = page.locator("#windows .la-link").first
        other.click()
        page.locator("#window h2", has_text=other.get_attribute("data-name")).wait_for(timeout=BADLY_WAITED)
    page.locator("#window [role=listbox]").wait_for(timeout=BADLY_WAITED)
    assert page.locator("#window progress").count() == text.count() == 0
    assert page.locator("#window h2", has_text=other.get_attribute("data-name")).count() == 1


def test_texts_are_searched_and_the_place_is_marked(explorer, explored, browser):
    page, whole = explorer.page, explored[1]
    page.get_by_label("Search the texts").fill("WINDOW 12 of")
    page.get_by_label("Search the texts").press("Enter")
    arxiv = [row for row in whole if row["category"] == "arxiv"]
    holding = [row["id"] for row in arxiv if "window 12 of" in row["text"]]
    explorer.wait_for_list(holding)
    page.get_by_text(f"\u201cWINDOW 12 of\u201d: 1 found in {len(arxiv)} of {len(arxiv)} texts.").wait_for()
    page.locator("#windows mark", has_text="window 12 of").wait_for()
    # those of all categories, from the keyboard
    page.get_by_label("Search the texts").fill("window 1")
    page.get_by_label("Search the texts").press("Enter")
    page.get_by_text("\u201cwindow 1\u201d:").wait_for()
    page.get_by_role("button", name="Search all categories").press("Enter")
    ranked = sorted(
        add_long_distance_score(whole, alpha=0.5), key=lambda row: (-row["long_distance_score"], row["id"])
    )
    found = [row for row in ranked if "window 1" in row["text"]]
    assert {row["category"] for row in found} == {*CATEGORIES} and len(found) <= 20
    explorer.wait_for_list([row["id"] for row in found])
    page.get_by_text(f"{len(found)} found in {len(whole)} of {len(whole)} texts.").wait_for()
    page.get_by_text(f"{len(found)} windows of all categories.").wait_for()
    assert page.get_by_role("combobox", name="Category").input_value() == ALL
    heads = page.locator("#windows th").all_inner_texts()
    cells = page.locator(f"#windows tbody td:nth-child({heads.index('category') + 1})").all_inner_texts()
    assert cells == [row["category"] for row in found]
    page.locator("#windows mark", has_text="window 1").nth(len(found) - 1).wait_for()
    assert page.get_by_role("button", name="Search all categories").count() == 0
    # and by a link, also where a filter is put to them
    page.get_by_role("textbox", name="Filter").fill("category = book")
    books = [row["id"] for row in found if row["category"] == "book"]
    explorer.wait_for_list(books)
    again = Explorer(browser, page.url)
    again.wait_for_list(books)
    again.page.get_by_text(f"{len(books)} windows of all categories.").wait_for()
    assert again.wrong == []
    again.page.close()
    page.get_by_role("textbox", name="Filter").fill("")
    page.get_by_role("combobox", name="Category").click()
    page.get_by_role("option", name="arxiv", exact=True).click()
    page.get_by_label("Search the texts").fill("")
    page.get_by_label("Search the texts").press("Enter")
    page.get_by_text(f"{len(arxiv)} windows of arxiv").wait_for()
    page.get_by_role("textbox", name="Filter").fill("tokns > 3")
    page.get_by_text("Did you mean 'tokens'?").wait_for()
    assert explorer.listed() == []
    page.get_by_role("button", name="Take the filter off").click()
    page.get_by_text(f"{len(arxiv)} windows of arxiv").wait_for()


def test_a_bar_lists_its_windows_by_mouse_and_by_keys(explorer, explored):
    page = explorer.page
    ranked = sorted(
        (row for row in add_long_distance_score(explored[1]) if row["category"] == "book"),
        key=lambda row: (-row["long_distance_score"], row["id"]),
    )
    bars = page.locator("section[aria-label=book] .la-histogram").first.locator(".la-bin")
    # the highest windows, whose bin has its upper edge too
    count = sum(int(part) for part in re.findall(r"(\d+) (?:kept|dropped)", bars.last.get_attribute("aria-label")))
    bars.last.click()
    explorer.wait_for_list([row["id"] for row in ranked[:count]])
    assert page.get_by_role("combobox", name="Category").input_value() == "book"
    bars.first.focus()
    low = sum(int(part) for part in re.findall(r"(\d+) (?:kept|dropped)", bars.nth(1).get_attribute("aria-label")))
    before = sum(int(part) for part in re.findall(r"(\d+) (?:kept|dropped)", bars.nth(0).get_attribute("aria-label")))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    explorer.wait_for_list([row["id"] for row in ranked[len(ranked) - before - low : len(ranked) - before]])
    page.get_by_role("button", name="Take the filter off").click()
    page.get_by_text(f"{len(ranked)} windows of book").wait_for()
    explorer.wait_for_list([row["id"] for row in ranked[:20]])
    page.get_by_role("button", name="Next page").click()
    explorer.wait_for_list([row["id"] for row in ranked[20:40]])


def test_the_list_is_taken_along_as_it_is_shown(explorer, explored):
    page = explorer.page
    page.get_by_role("textbox", name="Filter").fill("kept = yes")
    page.get_by_text("8 windows of book").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    rows = list(csv.DictReader(download.value.path().open(encoding="utf-8")))
    assert download.value.suggested_filename == "windows.csv"
    assert [row["id"] for row in rows] == explorer.listed() and len(rows) == 8
    with page.expect_download() as download:
        page.get_by_role("link", name="Parquet").click()
    assert pq.read_table(download.value.path())["id"].to_pylist() == explorer.listed()


def test_the_address_leads_back_and_says_what_of_it_is_refused(explorer, browser):
    page = explorer.page
    shown, before = explorer.listed(), explorer.counts(1, 2, 3, 4, 5, 6)
    page.locator("#windows .la-link").nth(3).click()
    page.wait_for_url(f"**window={shown[3]}*")
    again = Explorer(browser, f"{page.url}&alpha=9&list_page=7&page=7&keep=everything&cut.wiki=x", color_scheme="dark")
    # a name that is there twice counts as it stands last
    again.page.set_viewport_size({"width": 390, "height": 800})
    again.page.get_by_text("keep=everything is none of fraction, token budget, total budget, cut").wait_for()
    again.page.get_by_text("page=7 is not understood").wait_for()
    again.page.get_by_text("cut.wiki=x is not understood").wait_for()
    again.page.get_by_text("There is no page 7: the last is 1.").wait_for()
    again.set_number("Alpha", 0.5)
    again.wait_for_counts(before, columns=(1, 2, 3, 4, 5, 6))
    again.wait_for_list(shown)
    again.page.locator("#window h2", has_text=shown[3]).wait_for(timeout=BADLY_WAITED)
    assert again.page.locator("#windows [aria-current] .la-link").get_attribute("data-name") == shown[3]
    assert again.page.get_by_role("textbox", name="Filter").input_value() == "kept = yes"
    # in the dark, on a telephone's screen, nothing makes the page wider than it is
    wide, has = again.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= has and again.page.locator("body.dark").count() == 1 and again.wrong == []
    again.page.close()


def test_the_document_s_other_windows_are_a_key_away(explorer, explored):
    page = explorer.page
    opened = re.search(r"[0-9a-f]{16}", page.locator("#window h2").inner_text())[0]
    (own,) = (row for row in explored[1] if row["id"] == opened)
    document = sorted(
        (row for row in explored[1] if row["doc_id"] == own["doc_id"]), key=lambda row: row["start_token"]
    )
    bars = page.locator(".la-map-window")
    assert bars.count() == len(document) == 3
    # the first two overlap, so that they lie in two lanes
    assert bars.nth(0).get_attribute("y") != bars.nth(1).get_attribute("y")
    other = next(at for at, row in enumerate(document) if row["id"] != opened)
    bars.nth(other).press("Enter")
    page.locator("#window h2", has_text=document[other]["id"]).wait_for(timeout=BADLY_WAITED)


def test_two_selections_are_lists_and_the_windows_at_the_cut_stand_side_by_side(explorer, explored):
    page, whole = explorer.page, explored[1]
    page.get_by_role("textbox", name="Filter").fill("")
    ranked = sorted(
        (row for row in add_long_distance_score(whole) if row["category"] == "book"),
        key=lambda row: (-row["long_distance_score"], row["id"]),
    )
    # the other selection is in the convention that a test before this has chosen
    readings = ({"alpha": 0.5}, {"alpha": 1.0, "convention": "reference_code"})
    here, there = (
        set(select_windows(add_long_distance_score(whole, **reading), fraction=0.2)["id"]) for reading in readings
    )
    only = [row["id"] for row in ranked if row["id"] in here - there]
    page.get_by_role("button", name=f"List those only in this selection: {len(only)}").click()
    explorer.wait_for_list(only)
    page.get_by_role("button", name="Read the lowest kept beside the highest dropped").click()
    last = max(at for at, row in enumerate(ranked) if row["id"] in here)
    pair = {"lowest kept": ranked[last], "highest dropped": ranked[last + 1]}
    for label, row in pair.items():
        text = page.get_by_role("region", name=f"Text of the {label}")
        text.wait_for()
        assert text.inner_text().startswith(row["text"][:20])
        assert row["text"][-60:].strip() in text.inner_text()
    page.get_by_role("button", name="Open the highest dropped").click()
    page.locator("#window h2", has_text=pair["highest dropped"]["id"]).wait_for(timeout=BADLY_WAITED)


def test_axe_finds_nothing_in_the_page(explorer):
    if not explorer.page.locator("#window [role=listbox]").count():
        explorer.page.locator("#windows .la-link").first.click()
    explorer.page.locator("#window [role=listbox]").wait_for(timeout=BADLY_WAITED)
    assert violations(explorer.page) == []


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


def test_a_window_whose_model_is_missing_shows_its_text(explored, tmp_path):
    session = Session(explored[0], model=str(tmp_path / "nowhere"))
    shown = session.open_window(session.corpus.id_of(0))
    assert "Only the text can be shown" in session.look(shown["name"])["note"] and "<script>" in shown["text"]
    assert "\x1b" not in json.dumps(shown)


def test_the_command_says_what_is_wrong_with_its_argument(tmp_path):
    with pytest.raises(Refusal, match="holds no scored windows yet|longattn_hf.explore.") as refusal:
        main([str(tmp_path), "--no_browser", "--port", "0"])
    assert refusal.value.code == 2
