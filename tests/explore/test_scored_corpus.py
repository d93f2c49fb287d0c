import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset
from huggingface_hub import HfApi

from longattn_hf.explore.app import _headline
from longattn_hf.explore.listing import find_windows, show_page
from longattn_hf.explore.scored_corpus import ScoredCorpus
from longattn_hf.explore.session import Session
from longattn_hf.explore.state import State
from longattn_hf.explore.views import (
    cuts,
    describe_categories,
    describe_histograms,
    describe_sources,
)
from longattn_hf.pipeline.config import load_config
from longattn_hf.selection.cut import LIMITS, Selection
from longattn_hf.selection.select import add_long_distance_score, select_windows
from tests.support.scored_build import CATEGORIES, NASTY, write_build


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "out"
    return folder, write_build(folder, "some/model")


def kept_ids(corpus, choice):
    return {corpus.id_of(row) for row in np.flatnonzero(corpus.select(choice).kept)}


def selected_ids(dataset, choice):
    scored = add_long_distance_score(dataset, alpha=choice.alpha, convention=choice.convention)
    return set(select_windows(scored, **choice.limit, refuse_overlap=choice.refuse_overlap)["id"])


CHOICES = (
    Selection(fraction=0.3),
    Selection(alpha=1.0, fraction=0.5, refuse_overlap=True),
    Selection(token_budget=960, convention="reference_code"),
    Selection(total_token_budget=1000, refuse_overlap=True),
    Selection(threshold={"arxiv": 0.4, "book": -0.2}, alpha=0.0),
)


@pytest.mark.parametrize("choice", CHOICES, ids=repr)
def test_what_it_selects_is_what_select_windows_selects(build, choice):
    folder, whole = build
    assert kept_ids(ScoredCorpus(folder), choice) == selected_ids(whole, choice)


def test_a_running_build_and_one_without_its_work_are_read_too(build, tmp_path):
    _, whole = build
    write_build(tmp_path / "running", running=True)
    running = ScoredCorpus(tmp_path / "running")
    assert running.running and running.published_kept is None
    shutil.copytree(build[0], tmp_path / "alone", ignore=shutil.ignore_patterns("work"))
    alone = ScoredCorpus(tmp_path / "alone")
    assert not alone.running and kept_ids(alone, CHOICES[0]) == kept_ids(running, CHOICES[0])
    (tmp_path / "running" / "work" / "scores" / "book" / "000-00000-00001.parquet").unlink()
    some = ScoredCorpus(tmp_path / "running")
    assert len(some) < len(whole) and some.categories == list(CATEGORIES)
    (tmp_path / "running" / "work" / "scores" / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no scored windows yet"):
        ScoredCorpus(tmp_path / "running" / "work" / "scores" / "empty")


def test_each_window_is_opened_with_its_own_text_wherever_it_stands(build, tmp_path):
    folder, whole = build
    texts = dict(zip(whole["id"], whole["text"], strict=True))
    corpus = ScoredCorpus(folder)
    for row in range(0, len(corpus), 7):
        window = corpus.read_window(row)
        assert window["text"] == texts[corpus.id_of(row)] and window["id"] == corpus.id_of(row)
        assert corpus.row_of(window["id"]) == row
    write_build(tmp_path / "running", running=True)
    running = ScoredCorpus(tmp_path / "running")
    assert running.read_window(5)["text"] == texts[running.id_of(5)]
    with pytest.raises(ValueError, match="no window 'nowhere'"):
        corpus.row_of("nowhere")


def test_a_text_that_a_damaged_page_holds_is_not_shown(tmp_path):
    write_build(tmp_path / "out")
    corpus = ScoredCorpus(tmp_path / "out")
    window, path = corpus.read_window(0), None
    for path in sorted((tmp_path / "out" / "work" / "windows").rglob("*.parquet")):
        if window["id"] in pq.read_table(path, columns=["id"])["id"].to_pylist():
            break
    whole, metadata = path.read_bytes(), pq.read_metadata(path)
    ids, noticed = pq.read_table(path, columns=["id"])["id"].to_pylist(), 0
    group = metadata.row_group(ids.index(window["id"]) // 7)
    (text,) = (c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "text")
    start = text.dictionary_page_offset or text.data_page_offset
    places = range(start + 40, start + text.total_compressed_size, 11)
    for at in places:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert corpus.read_window(0) == window, at
        except OSError:
            noticed += 1
    # what else there is says nothing of the texts: the least and the greatest of them in the pages' headers
    assert noticed > 0.2 * len(places)


def test_a_published_data_set_shows_all_scores_and_the_texts_of_kept_windows(build, hub, tmp_path):
    folder, whole = build
    api = HfApi()
    api.create_repo("me/small", repo_type="dataset")
    api.upload_folder(repo_id="me/small", folder_path=folder, repo_type="dataset", ignore_patterns=["work/*"])
    corpus = ScoredCorpus("me/small")
    assert corpus.name == "me/small" and kept_ids(corpus, Selection(fraction=0.5)) == set(
        whole.filter(lambda r: r["kept"])["id"]
    )
    texts = dict(zip(whole["id"], whole["text"], strict=True))
    kept = np.flatnonzero(corpus.published_kept)
    for row in kept[::9]:
        assert corpus.read_window(row)["text"] == texts[corpus.id_of(row)]
    with pytest.raises(ValueError, match="holds that of kept windows only"):
        corpus.read_window(int(np.flatnonzero(~corpus.published_kept)[0]))


@pytest.mark.parametrize("choice", [replace(choice, convention="paper") for choice in CHOICES], ids=repr)
def test_a_recipe_is_a_configuration_that_selects_the_same(build, choice, tmp_path):
    folder, whole = build
    (tmp_path / "recipe.yaml").write_text(ScoredCorpus(folder).recipe(choice))
    config = load_config(tmp_path / "recipe.yaml")
    assert (config.name, config.model, config.window_tokens, config.min_distance) == ("small", "some/model", 96, 16)
    assert [source.path for source in config.sources] == ["me/arxiv", "me/book"]
    names = ("alpha", "convention", *LIMITS, "refuse_overlap")
    again = Selection(**{name: getattr(config, name) for name in names})
    assert again == choice and selected_ids(whole, again) == kept_ids(ScoredCorpus(folder), choice)


def test_a_published_data_set_that_says_what_it_was_built_from_gives_a_whole_recipe(build, tmp_path):
    shutil.copytree(build[0], tmp_path / "alone", ignore=shutil.ignore_patterns("work"))
    settings = json.loads((build[0] / "work" / "settings.json").read_text())
    report = json.loads((build[0] / "report.json").read_text())
    report["recipe"] = {name: settings[name] for name in ("name", "model", "sources")}
    report["settings"] |= {"model": "a name for readers", "window_tokens": 96, "min_distance": 16}
    (tmp_path / "alone" / "report.json").write_text(json.dumps(report))
    (tmp_path / "recipe.yaml").write_text(ScoredCorpus(tmp_path / "alone").recipe(CHOICES[0]))
    config = load_config(tmp_path / "recipe.yaml")
    assert (config.model, config.fraction, config.pretty_name) == ("some/model", 0.3, "Small")
    assert [source.path for source in config.sources] == ["me/arxiv", "me/book"]


def test_a_recipe_without_known_sources_says_what_is_missing(build, tmp_path):
    shutil.copytree(build[0], tmp_path / "alone", ignore=shutil.ignore_patterns("work"))
    text = ScoredCorpus(tmp_path / "alone").recipe(Selection(fraction=0.25))
    assert "does not say what it was built from" in text
    assert yaml.safe_load(text) == {"alpha": 0.5, "convention": "paper", "refuse_overlap": False, "fraction": 0.25}
    with pytest.raises(ValueError, match="is a comparison"):
        ScoredCorpus(build[0]).recipe(Selection(fraction=0.25, convention="reference_code"))


def test_scores_on_another_builds_scale_need_that_scale(build, tmp_path):
    shutil.copytree(build[0], tmp_path / "out")
    report = tmp_path / "out" / "report.json"
    report.write_text(report.read_text().replace('"alpha": 0.5', '"alpha": 0.5, "statistics": "other.json"'))
    with pytest.raises(ValueError, match="on the scale of another build's other.json"):
        ScoredCorpus(tmp_path / "out")


def test_the_cut_that_is_shown_keeps_what_is_kept(build):
    corpus = ScoredCorpus(build[0])
    for choice in CHOICES[:4]:
        mine = corpus.select(choice)
        same = replace(choice, **dict.fromkeys(LIMITS) | {"threshold": cuts(corpus, mine)})
        assert np.array_equal(corpus.select(same).kept, mine.kept)
    none = corpus.select(Selection(fraction=0.0))
    assert not corpus.select(Selection(threshold=cuts(corpus, none))).kept.any()


def test_the_tables_count_what_is_kept(build):
    folder, whole = build
    corpus = ScoredCorpus(folder)
    mine, other = corpus.select(CHOICES[0]), corpus.select(CHOICES[1])
    ours, theirs = selected_ids(whole, CHOICES[0]), selected_ids(whole, CHOICES[1])

    def count(rows, ids):
        kept = [row for row in rows if row["id"] in ids]
        return [len(kept), len({row["doc_id"] for row in kept}), sum(row["num_tokens"] for row in kept)]

    rows = whole.remove_columns(["text", "input_ids"]).to_list()
    for name, *numbers in describe_categories(corpus, mine, other)["rows"]:
        inside = [row for row in rows if name in ("all", row["category"])]
        both = sum(row["id"] in ours & theirs for row in inside)
        assert numbers == [len(inside), *count(inside, ours), *count(inside, theirs), both]
    for name, *numbers in describe_sources(corpus, mine, other)["rows"]:
        inside = [row for row in rows if row["source"] == name]
        both = sum(row["id"] in ours & theirs for row in inside)
        assert numbers == [len(inside), *count(inside, ours), count(inside, theirs)[0], both]
    for category in describe_histograms(corpus, mine, CHOICES[0])["categories"]:
        for plot in category["plots"].values():
            assert sum(plot["kept"]) == sum(row["id"] in ours for row in rows if row["category"] == category["name"])


def test_windows_are_listed_from_both_ends_around_the_cut_and_by_search(build):
    corpus = ScoredCorpus(build[0])
    mine, other = corpus.select(CHOICES[0]), corpus.select(CHOICES[1])

    def listed(order, words="", count=6):
        listed = find_windows(corpus, mine, other, category="book", order=order, words=words)
        found = show_page(corpus, mine, other, listed, count=count)
        return [corpus.row_of(name) for name in found["names"]], found

    scores = np.sort(mine.scores[corpus.rows_of("book")])
    assert mine.scores[listed("highest")[0]].tolist() == scores[::-1][:6].tolist()
    assert mine.scores[listed("lowest")[0]].tolist() == scores[:6].tolist()
    assert mine.kept[listed("around the cut")[0]].tolist() == [True] * 3 + [False] * 3
    only = listed("only in this selection", count=99)[0]
    assert set(only) == set(np.flatnonzero(mine.kept & ~other.kept)) & set(corpus.rows_of("book"))
    only = listed("only in the other", count=99)[0]
    assert set(only) == set(np.flatnonzero(other.kept & ~mine.kept)) & set(corpus.rows_of("book"))
    rows, found = listed("highest", words="SOURCE-3<B>", count=99)
    assert rows and {row[-1] for row in found["rows"]} == {"source-3<b>"}
    wanted = corpus.id_of(rows[0])
    assert listed("highest", words=wanted[:9])[0] == [rows[0]] and not listed("highest", words="nothing")[0]


def test_columns_that_a_data_set_does_not_have_are_not_needed(tmp_path):
    rows = {name: np.random.default_rng(0).random(9) for name in ("dependency_strength", "distribution_uniformity")}
    rows |= {"id": [f"w{n}" for n in range(9)], "map_variance": np.ones(9), "num_tokens": [8] * 9, "text": [NASTY] * 9}
    Dataset.from_dict(rows).to_parquet(tmp_path / "one.parquet")
    corpus = ScoredCorpus(tmp_path)
    assert corpus.categories == ["all"] and corpus.select(Selection(fraction=0.5)).kept.sum() == 5
    assert corpus.read_window(3)["text"] == NASTY
    described = describe_sources(
        corpus, corpus.select(Selection(fraction=0.5)), corpus.select(Selection(fraction=1.0))
    )
    assert described["rows"] == [["unnamed", 9, 5, 5, 40, 9, 5]]


def test_a_folder_may_have_brackets_in_its_name(tmp_path):
    folder = tmp_path / "[v1] run"
    whole = write_build(folder)
    corpus = ScoredCorpus(folder)
    texts = dict(zip(whole["id"], whole["text"], strict=True))
    assert len(corpus) == len(whole) and corpus.read_window(3)["text"] == texts[corpus.id_of(3)]
    shutil.rmtree(folder / "work")
    alone = ScoredCorpus(folder)
    kept = int(np.flatnonzero(alone.published_kept)[0])
    assert alone.read_window(kept)["text"] == texts[alone.id_of(kept)]


def test_a_dataset_that_is_not_there_is_said_to_be_so(hub, clock):
    hub.create("me/there", {"README.md": b"# None"})
    with pytest.raises(ValueError, match="opening the dataset 'me/none' is not possible: there is no such repository"):
        ScoredCorpus("me/none")
    with pytest.raises(ValueError, match="there is no such branch, tag or commit"):
        ScoredCorpus("me/there", revision="v9")
    circle = {"Location": "/api/datasets/me/there"}
    hub.fault("GET", "/api/datasets/me/there$", status=302, body=b"", headers=circle, times=None)
    with pytest.raises(ValueError, match="the server's redirects have no end"):
        ScoredCorpus("me/there")


@pytest.mark.parametrize("ids", [None, "numbers", "texts", "some are null", "fractions", "days", "categories"])
def test_a_file_of_any_scorers_is_opened_whatever_its_ids(tmp_path, ids):
    texts = [f"text {n} of " + "many words " * (n % 4) for n in range(9)]
    Dataset.from_dict({"text": texts, "echo": [0.5] * 9}).to_parquet(tmp_path / "short.parquet")
    with pytest.raises(ValueError, match="short.parquet has no column num_tokens, the windows' lengths"):
        Session(tmp_path / "short.parquet")
    (tmp_path / "short.parquet").unlink()
    scores = {
        "num_tokens": [4] * 9,
        "echo": [float(n * 7 % 9) for n in range(9)],
        "far_gain": [float(n % 9) for n in range(9)],
    }
    values = {
        None: pa.array(range(9)),
        "numbers": pa.array([10 * n for n in range(9)]),
        "texts": pa.array([f"id-{n}" for n in range(9)]),
        "some are null": pa.array([n if n else None for n in range(9)]),
        "fractions": pa.array([n + 0.5 for n in range(9)]),
        "days": pa.array([86_400_000 * n for n in range(9)], pa.timestamp("ms")),
        "categories": pa.array([f"id-{n}" for n in range(9)]).dictionary_encode(),
    }[ids]
    names = [str(name) for name in values.cast(pa.string()).to_pylist()]
    table = pa.table({"text": texts, **scores, **({"id": values} if ids else {})})
    pq.write_table(table, tmp_path / "s.parquet", row_group_size=4)
    for opened in (tmp_path / "s.parquet", tmp_path):
        session = Session(opened)
        assert session.corpus.scores == ["echo", "far_gain"] and session.corpus.categories == ["all"]
        state = replace(State.start(session), score="far_gain", fraction=0.3)
        selected, other = map(session.select, state.selections(session))
        page = show_page(session.corpus, selected, other, state.find(session, selected, other), 1)
        best = names[::-1]
        assert page["names"] == best and [row[0] for row in page["rows"]] == best
        assert [session.corpus.id_of(row) for row in np.flatnonzero(selected.kept)] == sorted(best[:3])
        assert session.open_window(best[2], state.selections(session)[0])["text"] == texts[6]
        assert [excerpt[-1] for excerpt in session.excerpts(best[:2], "")] == [texts[8], texts[7]]
        search = session.search("TEXT 4", "all")
        search.go_on(10)
        assert np.flatnonzero(search.found).tolist() == [session.corpus.row_of(names[4])]


def test_what_a_reader_should_know_of_a_selection_is_said_of_the_one_that_is_shown(tmp_path):
    scores = {"num_tokens": [4] * 9, "echo": [0.0] * 8 + [1.0], "length": [float(n) for n in range(9)]}
    Dataset.from_dict({"text": ["a"] * 9} | scores).to_parquet(tmp_path / "s.parquet")
    session = Session(tmp_path / "s.parquet")
    assert not session.select(Selection(score="length", fraction=0.5)).cautions
    selected = session.select(Selection(score="echo", fraction=0.5))
    # each row is a document, and its only category is all of it
    assert describe_categories(session.corpus, selected, selected)["rows"] == [["all", 9, 5, 5, 20, 5, 5, 20, 5]]
    (sentence,) = selected.cautions
    assert sentence.startswith("8 of the 9 windows of all have the same echo at the cut")
    assert _headline(session, [sentence]).endswith(f"**Mind:** {sentence}")


def test_what_is_no_corpus_is_said_to_be_so_without_asking_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.jsonl").write_text("{}")
    for path in (tmp_path / "docs.jsonl", "docs.jsonl"):
        with pytest.raises(ValueError, match="docs.jsonl is neither a folder nor a Parquet file"):
            ScoredCorpus(path)
    for path in (tmp_path / "nowhere", "scored.parquet"):
        with pytest.raises(ValueError, match="(nowhere|scored.parquet) is not there. Give a build's folder"):
            ScoredCorpus(path)


def test_files_whose_ids_are_of_several_types_are_one_corpus(tmp_path):
    for name, ids in {"a": [1, 2], "b": ["x", "y"]}.items():
        columns = {"id": ids, "text": [f"{name} {one}" for one in ids], "num_tokens": [4, 4], "echo": [0.1, 0.2]}
        Dataset.from_dict(columns).to_parquet(tmp_path / f"{name}.parquet")
    session = Session(tmp_path)
    assert session.texts(["1", "2", "x", "y"]) == ["a 1", "a 2", "b x", "b y"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"num_tokens": [None, 2]}, "column 'num_tokens' is null in 1 rows; every window needs one"),
        ({"num_tokens": ["3", "2"]}, "column 'num_tokens' is string, and must be the windows' lengths in tokens"),
        ({"num_tokens": [3, 2], "category": [None, None]}, "column 'category' is null in 2 rows; every window needs"),
        ({"num_tokens": [3, 2], "category": ["a", None]}, "column 'category' is null in 1 rows; every window needs"),
    ],
)
def test_scored_rows_without_a_length_or_a_category_are_refused_in_one_line(tmp_path, columns, message, capsys):
    from longattn_hf.__main__ import main

    Dataset.from_dict({"text": ["a", "b"], "far_gain": [1.0, 2.0]} | columns).to_parquet(tmp_path / "s.parquet")
    with pytest.raises(SystemExit, match=f"explore: .*s.parquet: {message}"):
        main(["explore", str(tmp_path / "s.parquet"), "--no_browser", "--port", "0"])
