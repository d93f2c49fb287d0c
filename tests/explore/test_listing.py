import io
import json
import shutil
from collections import ChainMap
from dataclasses import replace
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from longattn_hf.explore.compare import compare
from longattn_hf.explore.document_map import map_document
from longattn_hf.explore.listing import ORDERS, export_windows, find_windows, show_page
from longattn_hf.explore.scored_corpus import ALL, ScoredCorpus, Selected
from longattn_hf.explore.session import Session
from longattn_hf.explore.state import State
from longattn_hf.explore.views import describe_histograms
from longattn_hf.selection.cut import Selection
from longattn_hf.selection.select import add_long_distance_score, select_windows
from tests.support.scored_build import CATEGORIES, NASTY, write_build


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("listed") / "out"
    whole = write_build(folder, "some/model")
    scored = add_long_distance_score(whole, alpha=0.5)
    kept = set(select_windows(scored, fraction=0.3)["id"])
    rows = [row | {"kept": row["id"] in kept} for row in scored.remove_columns(["input_ids"])]
    return folder, sorted(rows, key=lambda row: (-row["long_distance_score"], row["id"]))


@pytest.fixture(scope="module")
def corpus(build):
    return ScoredCorpus(build[0])


@pytest.fixture(scope="module")
def pair(corpus):
    return corpus.select(Selection(fraction=0.3)), corpus.select(Selection(alpha=2.0, fraction=0.5))


def pages(corpus, pair, listed, count):
    first = show_page(corpus, *pair, listed, 1, count=count)
    return [first, *(show_page(corpus, *pair, listed, n, count=count) for n in range(2, first["pages"] + 1))]


def test_pages_hold_the_list_from_the_first_to_the_last_window(build, corpus, pair):
    book = [row for row in build[1] if row["category"] == "book"]
    for order in ("highest", "lowest", "around the cut"):
        listed = find_windows(corpus, *pair, category="book", order=order)
        all_pages = pages(corpus, pair, listed, 6)
        wanted = [row["id"] for row in book][:: -1 if order == "lowest" else 1]
        assert [one for page in all_pages for one in page["names"]] == wanted
        assert max(len(page["names"]) for page in all_pages) == 6
    # the page that opens has half of its windows on each side of the cut
    opening = show_page(corpus, *pair, listed, count=6)
    assert [row[opening["head"].index("kept")] for row in opening["rows"]] == ["yes"] * 3 + ["no"] * 3
    beyond = show_page(corpus, *pair, listed, 99, count=6)
    assert beyond["page"] == beyond["pages"] == len(all_pages)
    assert beyond["note"].endswith(f"There is no page 99: the last is {len(all_pages)}.")
    none = show_page(corpus, *pair, find_windows(corpus, *pair, category="book", words="nothing"), 2)
    assert (none["names"], none["page"], none["pages"]) == ([], 1, 1) and none["note"].startswith("0 windows of book.")


def test_a_row_says_rank_document_and_source_and_equal_scores_share_a_rank(build, corpus, pair):
    book = [row for row in build[1] if row["category"] == "book"]
    shown = show_page(corpus, *pair, find_windows(corpus, *pair, category="book", conditions="rank > 2"), count=5)
    for place, (row, found) in enumerate(zip(book[2:], shown["rows"], strict=False), 3):
        cells = dict(zip(shown["head"], found, strict=True))
        assert (cells["rank"], cells["document"], cells["source"]) == (place, row["doc_id"], row["source"])
        assert cells["score"] == pytest.approx(row["long_distance_score"]) and cells["tokens"] == row["num_tokens"]
    scores = pair[0].scores.copy()
    rows = corpus.rows_of("book")
    scores[rows] = np.repeat([3.0, 2.0, 1.0], [2, 3, len(rows) - 5])
    tied = find_windows(corpus, Selected(scores, pair[0].kept), pair[1], category="book")
    assert tied.ranks[:7].tolist() == [1, 1, 3, 3, 3, 6, 6]


def test_filters_ask_about_every_column(build, corpus, pair):
    def ids(conditions, **more):
        return {corpus.id_of(row) for row in find_windows(corpus, *pair, conditions=conditions, **more).rows}

    arxiv = [row for row in build[1] if row["category"] == "arxiv"]
    assert ids("kept = no and start_token > 0", category="arxiv") == {
        row["id"] for row in arxiv if not row["kept"] and row["start_token"]
    }
    assert ids("strength >= 0.41 and document contains ment-2", category="arxiv") == {
        row["id"] for row in arxiv if row["dependency_strength"] >= 0.41 and "document-2" in row["doc_id"]
    }
    assert ids(f"window = {arxiv[5]['id']}", category="arxiv") == {arxiv[5]["id"]}
    quarters = [ids("", category="arxiv", order=order) for order in ORDERS[3:]]
    assert sum(map(len, quarters)) == len(arxiv) and set().union(*quarters) == {row["id"] for row in arxiv}


def test_all_categories_are_one_list_in_which_each_has_its_own_ranks_and_its_own_cut(build, corpus, pair):
    by_category = {name: [row for row in build[1] if row["category"] == name] for name in CATEGORIES}
    rank = {row["id"]: at for rows in by_category.values() for at, row in enumerate(rows, 1)}
    kept = {name: sum(row["kept"] for row in rows) for name, rows in by_category.items()}
    assert corpus.lists == [*CATEGORIES, ALL] and kept["arxiv"] != kept["book"]

    def listed(**how):
        found = find_windows(corpus, *pair, category=ALL, **how)
        shown = [page for page in pages(corpus, pair, found, 7)]
        cells = [dict(zip(page["head"], row, strict=True)) for page in shown for row in page["rows"]]
        names = [name for page in shown for name in page["names"]]
        assert [one["rank"] for one in cells] == [rank[name] for name in names]
        return names, [one["category"] for one in cells], shown[0]["note"]

    names, categories, note = listed()
    assert names == [row["id"] for row in build[1]] and note == f"{len(names)} windows of all categories."
    assert categories == [row["category"] for row in build[1]]
    assert listed(order="lowest")[0] == names[::-1]
    assert listed(conditions="category = book and rank <= 3")[0] == [row["id"] for row in by_category["book"][:3]]
    here, there = ({corpus.id_of(row) for row in np.flatnonzero(one.kept)} for one in pair)
    assert listed(order="only in this selection")[0] == [name for name in names if name in here - there]
    # first the windows that all categories keep, the last of them at each one's cut
    around = [(rank[row["id"]] - kept[row["category"]], -row["long_distance_score"], row["id"]) for row in build[1]]
    found = find_windows(corpus, *pair, category=ALL, order="around the cut")
    assert [corpus.id_of(row) for row in found.rows] == [name for *_, name in sorted(around)]
    assert found.cut == len(here) and pair[0].kept[found.rows[: found.cut]].all()
    assert compare(corpus, *pair, ALL)["pair"] == []
    assert compare(corpus, *pair, ALL)["lists"]["in both selections"] == len(here & there)


def test_a_category_that_is_called_as_all_are_is_listed_alone(tmp_path):
    for categories in ([ALL, "b"], ["b", "b"]):
        scores = dict.fromkeys(("dependency_strength", "distribution_uniformity", "map_variance"), [0.0, 1.0])
        rows = scores | {"id": ["x", "y"], "num_tokens": [8, 8], "category": categories}
        Dataset.from_dict(rows).to_parquet(tmp_path / "one.parquet")
        corpus = ScoredCorpus(tmp_path)
        assert corpus.lists == corpus.categories == sorted({*categories})
        assert all(len(corpus.rows_of(name)) == categories.count(name) for name in categories)


def test_windows_of_equal_ids_have_names_of_their_own(tmp_path):
    ids = ["a", "b", "a", "a#2", "a", "c#1", "d#2", "d", "e#x"]
    scores = {name: np.linspace(0, 1, len(ids)) for name in ("dependency_strength", "distribution_uniformity")}
    rows = scores | {
        "id": ids,
        "map_variance": np.ones(9),
        "num_tokens": [8] * 9,
        "text": [f"of row {n}" for n in range(9)],
    }
    Dataset.from_dict(rows).to_parquet(tmp_path / "one.parquet")
    session = Session(tmp_path)
    corpus = session.corpus
    names = [corpus.name_of(row) for row in range(9)]
    assert names == ["a", "a#2", "a#3", "a#2#1", "b", "c#1", "d", "d#2", "e#x"]
    assert [corpus.row_of(name) for name in names] == list(range(9))
    start = State.start(session)
    selected, other = map(session.select, start.selections(session))
    page = show_page(corpus, selected, other, start.find(session, selected, other))
    assert page["names"] == [names[row] for row in np.argsort(-selected.scores, kind="stable")]
    texts = {name: session.open_window(name)["text"] for name in page["names"]}
    assert [texts[name] for name in page["names"]] == [f"of row {n}" for n in range(8, -1, -1)]
    assert [excerpt[-1] for excerpt in session.excerpts(page["names"], "")] == list(texts.values())
    state, refused = start.follow(dict(parse_qsl(replace(start, window="a#3").to_query(start))), session)
    assert session.open_window(state.window)["text"] == "of row 4" and not refused
    # by ranks one comes to each of them
    walked, name = [], page["names"][0]
    while name:
        walked.append(name)
        name = session.open_window(name)["next"]
    assert walked == page["names"]
    for name in ("a#4", "a#0", "#1", "", "b#2"):
        with pytest.raises(ValueError, match="There is no window"):
            corpus.row_of(name)


def test_the_windows_of_a_bin_are_those_that_the_histogram_counts(corpus, pair):
    drawn = describe_histograms(corpus, pair[0], Selection(fraction=0.3))
    for category in drawn["categories"]:
        for column, plot in category["plots"].items():
            name = "score" if column == drawn["rankedBy"] else column
            edges = json.loads(json.dumps(plot["edges"]))
            for at, (kept, dropped) in enumerate(zip(plot["kept"], plot["dropped"], strict=True)):
                # the last bin holds its upper edge too
                below = "<=" if at == len(plot["kept"]) - 1 else "<"
                asked = f"{name} >= {edges[at]} and {name} {below} {edges[at + 1]}"
                rows = find_windows(corpus, *pair, category=category["name"], conditions=asked).rows
                assert (pair[0].kept[rows].sum(), len(rows)) == (kept, kept + dropped)


def test_an_export_holds_the_whole_list_unrounded(build, corpus, pair):
    listed = find_windows(corpus, *pair, category="book", order="lowest", conditions="kept = no")
    wanted = [row for row in build[1] if row["category"] == "book" and not row["kept"]][::-1]
    parquet = pq.read_table(io.BytesIO(export_windows(corpus, *pair, listed, "parquet"))).to_pylist()
    plain = pd.read_csv(io.BytesIO(export_windows(corpus, *pair, listed, "csv")), float_precision="round_trip")
    for rows in (parquet, plain.to_dict("records")):
        assert len(wanted) > 20 and [row["id"] for row in rows] == [row["id"] for row in wanted]
        for name in ("doc_id", "source", "num_tokens", "dependency_strength", "distribution_uniformity"):
            assert [row[name] for row in rows] == [row[name] for row in wanted]
        # dropped windows stand behind all kept ones
        last = sum(row["category"] == "book" for row in build[1])
        assert [row["rank"] for row in rows] == list(range(last, last - len(wanted), -1))
        assert not any(row["kept"] for row in rows)
    assert np.array_equal(plain["score"], pair[0].scores[listed.rows])
    assert plain["kept_by_other"].tolist() == pair[1].kept[listed.rows].tolist()
    none = find_windows(corpus, *pair, category="book", conditions="rank > 99")
    assert pq.read_table(io.BytesIO(export_windows(corpus, *pair, none, "parquet"))).num_rows == 0
    assert export_windows(corpus, *pair, none, "csv").startswith(b'"id","rank","score","kept","kept_by_other",')


def finish(search):
    while not search.ended:
        search.go_on(0.0)
    return search


def test_texts_are_searched_wherever_they_stand_and_what_was_searched_is_said(tmp_path):
    whole = write_build(tmp_path / "out", "some/model")
    write_build(tmp_path / "running", running=True)
    shutil.copytree(tmp_path / "out", tmp_path / "alone", ignore=shutil.ignore_patterns("work"))
    for name in ("out", "running", "alone"):
        corpus = ScoredCorpus(tmp_path / name)
        for category in (*CATEGORIES, ALL):
            inside = [row for row in whole if category in (row["category"], ALL)]
            # a published dataset has the texts of kept windows only
            here = [row for row in inside if row["kept"] or name != "alone"]
            for words in ("WINDOW 3 OF", "window 31 of", "("):
                search = finish(corpus.search_texts(words, category))
                holding = {row["id"] for row in here if words.lower() in row["text"].lower()}
                assert {corpus.id_of(row) for row in np.flatnonzero(search.found)} == holding
                assert (search.searched, search.to_data()["windows"]) == (len(here), len(inside))


def test_a_search_goes_on_where_it_stopped_and_leaves_out_a_damaged_file(tmp_path):
    whole = write_build(tmp_path / "out", "some/model")
    corpus = ScoredCorpus(tmp_path / "out")
    search, seen = corpus.search_texts(NASTY[:8].upper(), "book"), []
    while not search.ended:
        search.go_on(0.0)
        seen.append(search.searched)
        assert search.found.sum() == search.searched
    books = sum(row["category"] == "book" for row in whole)
    assert seen == sorted(seen) and len(set(seen)) > 3 and seen[-1] == books
    shard = sorted((tmp_path / "out" / "work" / "windows" / "book").glob("*.parquet"))[0]
    shard.write_bytes(shard.read_bytes()[: -shard.stat().st_size // 2])
    # what the published part still holds of it is searched there
    search = finish(ScoredCorpus(tmp_path / "out").search_texts("reaches", "book"))
    half = books - books // 2
    kept = [row["kept"] for row in whole if row["category"] == "book"][:half]
    assert search.searched == search.found.sum() == books - half + sum(kept)


def test_an_excerpt_shows_the_words_in_their_place(tmp_path):
    rows = {name: np.random.default_rng(0).random(3) for name in ("dependency_strength", "distribution_uniformity")}
    texts = ["x" * 300 + " Far\n\tback " + "y" * 300, "short text", "\x1b far " + "z" * 300]
    rows |= {"id": ["a", "b", "c"], "map_variance": np.ones(3), "num_tokens": [8] * 3, "text": texts}
    Dataset.from_dict(rows).to_parquet(tmp_path / "one.parquet")
    excerpts = Session(tmp_path).excerpts(["a", "b", "c"], " FAR ")
    assert excerpts[0] == ["…" + "x" * 23 + " ", "Far", " back " + "y" * 123 + "…"]
    assert excerpts[1] == ["", "", "short text"]
    assert excerpts[2] == ["\u241b ", "far", " " + "z" * 129 + "…"]


def test_a_document_map_has_all_windows_of_the_document_in_their_order(build, corpus, pair):
    for row in (0, 17, 40):
        mapped = map_document(corpus, pair[0], row)
        (own,) = (one for one in build[1] if one["id"] == corpus.id_of(row))
        mine = sorted((one for one in build[1] if one["doc_id"] == own["doc_id"]), key=lambda one: one["start_token"])
        assert mapped["name"] == own["doc_id"] and mapped["all"] == len(mine)
        for one, window in zip(mine, mapped["windows"], strict=True):
            assert (window["name"], window["start"], window["tokens"]) == (
                one["id"],
                one["start_token"],
                one["num_tokens"],
            )
            assert window["kept"] == one["kept"] and window["score"] == pytest.approx(one["long_distance_score"])
            beaten = sum(
                other["long_distance_score"] < one["long_distance_score"]
                for other in build[1]
                if other["category"] == one["category"]
            )
            all_of_them = sum(other["category"] == one["category"] for other in build[1])
            assert window["below"] == pytest.approx(beaten / (all_of_them - 1))


@pytest.fixture(scope="module")
def session(build):
    return Session(build[0])


def test_a_link_leads_back_to_every_state(session):
    start = State.start(session)
    assert start.to_query(start) == "" and start.follow({}, session) == (start, [])
    changes = [
        {"alpha": 1.25, "fraction": 0.1},
        {"keep_by": "token budget", "budget": 960, "refuse_overlap": True},
        {"keep_by": "cut", "thresholds": {"arxiv": 0.1 + 0.2, "book": -1e-9}},
        {"other_alpha": 0.0, "other_convention": "reference_code", "category": "book", "order": "around the cut"},
        {
            "words": "a&b=c#%",
            "conditions": "score >= 0.1 and source contains <b>",
            "text": "far back é\u202e",
            "window": "x",
        },
        {"keep_by": "total budget", "budget": 1000, "category": ALL},
    ]
    for change in [*changes, dict(ChainMap(*changes[2:], *changes))]:
        state = replace(start, **change)
        state = replace(state, paged=state.turn_to(3))
        again, refused = start.follow(dict(parse_qsl(state.to_query(start))), session)
        assert not refused and again == state and again.page == 3
        assert replace(again, words="others").page is None


@pytest.mark.parametrize("limit", [{"fraction": 0.3}, {"token_budget": 960}, {"total_token_budget": 1000}])
def test_the_page_starts_with_what_the_build_s_limit_keeps(tmp_path, limit):
    whole = write_build(tmp_path / "out", "some/model", **limit)
    session = Session(tmp_path / "out")
    start = State.start(session)
    for one in (start, State.start(session).follow({"keep": "cut"}, session)[0]):
        corpus, shown = session.corpus, session.select(one.selections(session)[0])
        assert [corpus.id_of(row) for row in np.flatnonzero(shown.kept)] == sorted(
            whole.filter(lambda row: row["kept"])["id"]
        )
    here, there = start.selections(session)
    assert here.limit == there.limit == start.before == limit


@pytest.mark.parametrize(
    ("link", "refusal"),
    [
        ({"alpha": "much"}, "alpha=much is no number."),
        ({"alpha": "nan"}, "alpha=nan is no number."),
        ({"tokens": "-3"}, "tokens=-3 is no whole number from 0 up."),
        ({"list_page": "1.5"}, "page=1.5 is no whole number"),
        ({"list_page": "1e400"}, "page=1e400 is no number."),
        ({"category": "books"}, "category=books is none of arxiv, book, all categories. Did you mean 'book'?"),
        ({"score": "loss"}, "score=loss is none of long_distance_score."),
        ({"keep": "all"}, "keep=all is none of fraction, token budget, total budget, cut"),
        ({"overlap": "1"}, "overlap=1 is none of yes, no"),
        ({"cut.arxiv": "high"}, "cut.arxiv=high is no number."),
        ({"cut.wiki": "1"}, "cut.wiki=1 is not understood"),
        ({"ctegory": "book"}, "ctegory=book is not understood. Did you mean 'category'?"),
        ({"list": "best"}, "list=best is none of highest, lowest"),
    ],
)
def test_a_link_s_invalid_parts_are_refused_in_words_and_the_others_followed(session, link, refusal):
    start = State.start(session)
    state, refused = start.follow(link | {"other_alpha": "3", "__theme": "dark"}, session)
    assert len(refused) == 1 and refusal in refused[0]
    assert state.other_alpha == 3.0 and state.to_query(start) == "other_alpha=3.0"
