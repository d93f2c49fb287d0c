"""Scores are read in the convention that they were made in, wherever they are read again."""

import json
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, load_dataset

from longattn_hf.__main__ import main
from longattn_hf.commands import tables
from longattn_hf.commands.tables import read_notes, write_rows
from longattn_hf.explore.scored_corpus import ScoredCorpus
from longattn_hf.explore.session import Session
from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.run import build
from longattn_hf.selection.select import add_long_distance_score, select_windows
from longattn_hf.selection.standardisation import ScoreStatistics
from tests.support.recipes import text, write_recipe
from tests.support.scored_build import write_build

# Z-scores of strengths and uniformities: 1 and -1 of a, -1 and 1 of b; on the scale from least to largest, strengths
# and variances: 1 and 0 of a, 0 and 1 of b. With alpha 2 the paper's scores are -1 of a and 1 of b, and the released
# code's 1 and -2
APART = [
    {"id": "a", "dependency_strength": 0.5, "distribution_uniformity": -9.0, "map_variance": 1.0},
    {"id": "b", "dependency_strength": 0.4, "distribution_uniformity": -1.0, "map_variance": 9.0},
]
KEPT_BY = {"paper": ["b"], "reference_code": ["a"], "reference_code_causal": ["a"]}
ASIDE = "nothing says in which convention it was scored, so it is read as 'paper'"


def score(model, path, convention):
    """Scores texts, and puts scores whose readings differ in the place of theirs."""
    Dataset.from_list([{"text": text(20, i)} for i in range(2)]).to_parquet(path.with_suffix(".texts.parquet"))
    settings = json.dumps({"convention": convention, "window_tokens": 64, "min_distance": 8})
    words = ["--scorer", "longattn", "--model", str(model), "--settings", settings, "-o", str(path)]
    main(["score", str(path.with_suffix(".texts.parquet")), *words])
    rows = load_dataset("parquet", data_files=str(path), split="train").to_list()
    apart = Dataset.from_list([row | other for row, other in zip(rows, APART, strict=True)])
    write_rows(apart, str(path), read_notes([str(path)]))
    return path


def select(*words):
    main(["select", *map(str, words), "--fraction", "0.5", "--alpha", "2"])


def kept(path):
    return load_dataset("parquet", data_files=str(path), split="train")["id"]


@pytest.mark.parametrize("convention", KEPT_BY)
def test_a_selection_reads_scores_as_they_were_made_or_as_it_is_told(tiny_llama, tmp_path, convention, caplog):
    path = score(tiny_llama, tmp_path / "scored.parquet", convention)
    select(path, "-o", tmp_path / "kept.parquet")
    assert list(kept(tmp_path / "kept.parquet")) == KEPT_BY[convention]
    # what is kept says it too
    assert read_notes([str(tmp_path / "kept.parquet")])["longattn"]["convention"] == convention
    for other, ids in KEPT_BY.items():
        select(path, "-o", tmp_path / "kept.parquet", "--convention", other)
        assert list(kept(tmp_path / "kept.parquet")) == ids
    assert ASIDE not in caplog.text
    with pytest.raises(SystemExit, match="select: convention='papers' is not known; use one of 'paper'"):
        select(path, "--convention", "papers")


@pytest.mark.parametrize("convention", KEPT_BY)
def test_a_further_score_leaves_all_that_a_file_says_of_itself(tiny_llama, tmp_path, convention):
    path = score(tiny_llama, tmp_path / "scored.parquet", convention)
    before = read_notes([str(path)])
    words = ["--text_column", "id", "--scorer", "gzip", "length", "gzip", "-o", str(tmp_path / "more.parquet")]
    main(["score", str(path), *words])
    notes = read_notes([str(tmp_path / "more.parquet")])
    # a tokenizer's count, here the model's, is no less so for a further score
    assert before["num_tokens"] == str(tiny_llama) and before["longattn"]["convention"] == convention
    assert notes == before | {"scores": ["long_distance_score", "gzip_ratio", "length"]}
    select(tmp_path / "more.parquet", "-o", tmp_path / "kept.parquet")
    assert list(kept(tmp_path / "kept.parquet")) == KEPT_BY[convention]
    # what LongAttn scores anew, it scores with what it is given now
    again = [
        "--scorer",
        "longattn",
        "--model",
        str(tiny_llama),
        "--settings",
        "{min_distance: 3}",
        "--text_column",
        "id",
    ]
    main(["score", str(tmp_path / "more.parquet"), *again, "-o", str(tmp_path / "again.parquet")])
    notes = read_notes([str(tmp_path / "again.parquet")])
    assert notes["longattn"]["convention"] == "paper" and notes["longattn"]["min_distance"] == 3


def test_files_that_longattn_scored_in_several_ways_get_no_further_score(tiny_llama, tmp_path):
    paths = [str(score(tiny_llama, tmp_path / f"{name}.parquet", name)) for name in ("paper", "reference_code")]
    words = ["--text_column", "id", "--scorer", "length", "-o", str(tmp_path / "both.parquet")]
    with pytest.raises(SystemExit, match="score: LongAttn scored the files with several settings: .*'reference_code'"):
        main(["score", *paths, *words])
    assert not (tmp_path / "both.parquet").exists()
    main(["score", paths[0], paths[0], *words])
    assert read_notes([str(tmp_path / "both.parquet")])["longattn"]["convention"] == "paper"


def test_a_selection_reads_what_a_file_says_of_itself_once(tmp_path, monkeypatch):
    path = tmp_path / "scored.parquet"
    write_rows(Dataset.from_list(APART), str(path), {"scores": ["long_distance_score"]})
    asked, read = [], tables.read_notes
    monkeypatch.setattr(tables, "read_notes", lambda files: asked.append(files) or read(files))
    select(path, "-o", tmp_path / "kept.parquet", "--convention", "paper")
    assert asked == [[str(path)]] and kept(tmp_path / "kept.parquet")[:] == ["b"]


def test_where_nothing_says_the_convention_a_line_says_what_is_taken(tmp_path, caplog):
    Dataset.from_list(APART).to_json(tmp_path / "scored.jsonl")
    with caplog.at_level(logging.WARNING):
        select(tmp_path / "scored.jsonl", "-o", tmp_path / "kept.parquet")
        assert ASIDE in caplog.text and kept(tmp_path / "kept.parquet")[:] == ["b"]
        caplog.clear()
        select(tmp_path / "scored.jsonl", "-o", tmp_path / "kept.parquet", "--convention", "reference_code")
        assert not caplog.text and kept(tmp_path / "kept.parquet")[:] == ["a"]


def test_the_explorer_reads_files_that_say_nothing_as_it_is_told(tmp_path, caplog):
    Dataset.from_list([row | {"num_tokens": 64} for row in APART]).to_parquet(tmp_path / "scored.parquet")
    with caplog.at_level(logging.WARNING):
        corpus = ScoredCorpus(tmp_path)
        assert ASIDE in caplog.text and corpus.convention == "paper"
        caplog.clear()
        corpus = ScoredCorpus(tmp_path, convention="reference_code")
        assert not caplog.text and corpus.convention == "reference_code"
    session = Session(tmp_path, convention="reference_code")
    selected = session.select(replace(session.start(), alpha=2.0))
    assert [session.corpus.id_of(row) for row in np.flatnonzero(selected.kept)] == ["a"]
    with pytest.raises(ValueError, match="convention='papers' is not known"):
        ScoredCorpus(tmp_path, convention="papers")
    write_build(tmp_path / "out")
    with pytest.raises(ValueError, match="were scored as 'paper', and convention=reference_code is for files that do"):
        ScoredCorpus(tmp_path / "out", convention="reference_code")
    assert ScoredCorpus(tmp_path / "out", convention="paper").convention == "paper"


def test_scores_of_several_conventions_are_refused_and_so_is_another_s_scale(tiny_llama, tmp_path):
    paper = score(tiny_llama, tmp_path / "one.parquet", "paper")
    code = score(tiny_llama, tmp_path / "two.parquet", "reference_code")
    with pytest.raises(SystemExit, match="select: Scores of several conventions .*one.parquet as 'paper', .*two.par"):
        select(paper, code)
    moments = ScoreStatistics.of(Dataset.from_list(APART), by=None).by_category["all"]
    ScoreStatistics({"all": moments}, {"convention": "paper"}).save(tmp_path / "statistics.json")
    with pytest.raises(SystemExit, match="two.parquet as 'reference_code', the statistics as 'paper'"):
        select(code, "--statistics", tmp_path / "statistics.json")


def test_statistics_that_know_their_convention_are_read_in_it():
    rows = Dataset.from_list(APART)
    moments = ScoreStatistics.of(rows, by=None).by_category
    for convention, ids in KEPT_BY.items():
        scale = ScoreStatistics(moments, {"convention": convention})
        scored = add_long_distance_score(rows, alpha=2.0, by=None, statistics=scale)
        assert select_windows(scored, fraction=0.5, by=None)["id"][:] == ids
        asked = add_long_distance_score(rows, alpha=2.0, by=None, statistics=scale, convention="paper")
        assert select_windows(asked, fraction=0.5, by=None)["id"][:] == KEPT_BY["paper"]


def test_the_explorer_of_scored_files_reads_them_as_they_were_made(tiny_llama, tmp_path):
    (tmp_path / "files").mkdir()
    path = score(tiny_llama, tmp_path / "files" / "scored.parquet", "reference_code")
    path.with_suffix(".texts.parquet").unlink()
    session = Session(tmp_path / "files", model=str(tiny_llama))
    assert session.start().convention == "reference_code"
    view = session.view("a")
    assert view.min_distance == 8 and len(view.tokens) == 64


def test_a_build_s_files_are_read_in_its_convention(tiny_llama, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("longattn_hf.report.figures.draw_figures", lambda *given: [])
    documents = {"book": [{"text": text(40, i)} for i in range(6)]}
    recipe = write_recipe(tmp_path, tiny_llama, documents, convention="reference_code", alpha=2.0)
    output = build(load_config(recipe, {"output_dir": str(tmp_path / "out")})).folder
    (file,) = (output / "scores").glob("*.parquet")
    main(["select", str(file), "--fraction", "0.25", "--alpha", "2", "-o", str(tmp_path / "kept.parquet")])
    rows = load_dataset("parquet", data_files=str(file), split="train")
    assert sorted(kept(tmp_path / "kept.parquet")) == sorted(row["id"] for row in rows if row["kept"])
    scores = dict(zip(rows["id"], rows["long_distance_score"], strict=True))
    again = load_dataset("parquet", data_files=str(tmp_path / "kept.parquet"), split="train")
    assert dict(zip(again["id"], again["long_distance_score"], strict=True)).items() <= scores.items()
    (shard, *_) = (output / "work" / "scores").rglob("*.parquet")
    main(["select", str(shard), "--fraction", "1", "-o", str(tmp_path / "work.parquet")])
    assert ASIDE not in caplog.text
    with pytest.raises(ValueError, match="scorers gives longattn convention, which the build itself sets: give it th"):
        build(load_config(recipe, {"scorers": {"longattn": {"convention": "paper"}}}))


def test_the_page_of_a_row_shows_it_as_it_was_scored(tiny_llama, tmp_path):
    Dataset.from_list([{"text": text(20, i)} for i in range(4)]).to_parquet(tmp_path / "texts.parquet")
    settings = '{"convention": "reference_code_causal", "window_tokens": 64, "min_distance": 8}'
    words = ["--scorer", "longattn", "--model", str(tiny_llama), "--settings", settings]
    main(["score", str(tmp_path / "texts.parquet"), *words, "-o", str(tmp_path / "scored.parquet")])
    rows = load_dataset("parquet", data_files=str(tmp_path / "scored.parquet"), split="train").to_list()
    words = ["--model", str(tiny_llama), "-o", str(tmp_path / "page.html"), "--row", "2"]
    main(["explain", str(tmp_path / "scored.parquet"), *words])
    page = json.loads(re.search('id="data">(.*?)</script>', (tmp_path / "page.html").read_text())[1])
    assert page["minDistance"] == 8
    assert dict(page["facts"])["dependency strength"] == pytest.approx(rows[2]["dependency_strength"], rel=1e-3)
    parts = []
    for name in ("dependency_strength", "map_variance"):
        values = [row[name] for row in rows]
        parts.append((rows[2][name] - min(values)) / (max(values) - min(values)))
    assert page["why"][0].startswith(f"Long-distance score {parts[0] - parts[1] / 2:.2f}: strength ")
    main(["explain", str(tmp_path / "scored.parquet"), *words, "--convention", "paper"])
    other = json.loads(re.search('id="data">(.*?)</script>', (tmp_path / "page.html").read_text())[1])
    assert "standard deviations" in other["why"][0] and "standard deviations" not in page["why"][0]
