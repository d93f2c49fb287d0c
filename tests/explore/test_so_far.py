"""The page of a build that was killed: what all its scorers have so far, selected as the build itself would."""

import shutil
from urllib.parse import parse_qsl

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from longattn_hf.baselines.by_name import SCORERS
from longattn_hf.explore.scored_corpus import ScoredCorpus
from longattn_hf.explore.session import Session
from longattn_hf.explore.state import State
from longattn_hf.explore.views import say_progress
from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.scoring import fingerprints_of, make_scorers
from longattn_hf.pipeline.so_far import write_plan
from longattn_hf.selection.select import add_long_distance_score, select_windows
from tests.support.killed_build import build_and_kill
from tests.support.recipes import text, write_recipe

RAW = ("dependency_strength", "distribution_uniformity", "map_variance")
OWN = ("id", "doc_id", "doc_hash", "source", "category", "start_token", "num_tokens")


@pytest.fixture(scope="module")
def recipe(tiny_llama, tmp_path_factory):
    documents = {name: [{"text": text(90, f"{name}{i}")} for i in range(6)] for name in ("book", "code")}
    return write_recipe(tmp_path_factory.mktemp("recipe"), tiny_llama, documents, documents_per_shard=1, fraction=None)


def joined(folder, *scorers):
    """The windows that all of these scorers have scored, with their scores, by names of the shards alone."""
    names = [
        {path.relative_to(folder.scores_by(s)) for path in folder.scores_by(s).rglob("*.parquet")} for s in scorers
    ]
    rows = {}
    for name in set.intersection(*names):
        for scorer in scorers:
            for row in pq.ParquetFile(folder.scores_by(scorer) / name).read().to_pylist():
                columns = (*OWN, *(RAW if scorer == "longattn" else (SCORERS[scorer][1],)))
                rows.setdefault(row["id"], {}).update({name: row[name] for name in columns})
    return Dataset.from_list(list(rows.values()))


def shown(session):
    selection = State.start(session).selections(session)[0]
    return {session.corpus.id_of(row) for row in np.flatnonzero(session.select(selection).kept)}


SUM = {"select_by": {"gzip": 1.0, "length": 2.0}, "combine": "rank"}
THRESHOLDS = {"book": 1.25, "code": 1.3}
LIMIT = {"fraction": {"book": 0.3, "code": 0.6}}


@pytest.fixture(scope="module")
def killed(recipe, tmp_path_factory):
    """A build that ended while the last of its scorers was about to be through with a document."""
    output = tmp_path_factory.mktemp("killed") / "out"
    return build_and_kill(recipe, output, shards=26, scorers=["gzip", "length", "longattn"], fraction=0.5)


def begin(recipe, folder, **settings):
    """Does what the same build with other settings does first; returns its configuration."""
    config = load_config(recipe, {"output_dir": str(folder.path)} | settings)
    write_plan(folder, config, fingerprints_of(make_scorers(config)))
    return config


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        ({"select_by": "length"} | LIMIT, {"score": "length"} | LIMIT),
        (
            {"gate": {"length": 40.0}, "temperature": 0.5, "draw_seed": 3} | SUM | LIMIT,
            {"score": {"gzip_ratio": 1.0, "length": 2.0}, "combine": "rank", "gate": {"length": 40.0}}
            | {"temperature": 0.5, "seed": 3}
            | LIMIT,
        ),
        ({"token_budget": 100, "refuse_overlap": True}, {"score": "gzip_ratio", "token_budget": 100}),
        ({"threshold": THRESHOLDS}, {"score": "gzip_ratio", "threshold": THRESHOLDS}),
    ],
    ids=["by another score", "a drawn and gated sum", "by the first", "above cuts"],
)
def test_a_killed_build_without_longattn_is_selected_from_as_its_settings_say(recipe, killed, tmp_path, settings, how):
    config = begin(recipe, killed, scorers=["gzip", "length"], **settings)
    windows = joined(killed, "gzip", "length")
    session = Session(killed.path)
    assert session.corpus.running and {*session.corpus.ids} == {*windows["id"]} and len(windows) > 10
    assert session.corpus.categories == ["book", "code"]
    wanted = set(select_windows(windows, **how)["id"])
    assert 0 < len(wanted) < len(windows) and shown(session) == wanted
    assert {*session.corpus.scores} - {"selection_score"} == {"gzip_ratio", "length"}
    opened = session.open_window(min(wanted))
    assert opened["text"] and any("; kept (" in sentence for sentence in opened["why"])
    # what is saved is the whole recipe
    (tmp_path / "recipe.yaml").write_text(session.save_recipe(session.start()))
    assert load_config(tmp_path / "recipe.yaml").selection == config.selection


def test_longattn_that_only_gates_is_read_beside_the_score_that_ranks(recipe, killed):
    begin(recipe, killed, scorers=["gzip"], gate={"longattn": -0.2}, fraction=0.5, alpha=2.0)
    windows = add_long_distance_score(joined(killed, "gzip", "longattn"), alpha=2.0)
    session = Session(killed.path)
    wanted = select_windows(windows, score="gzip_ratio", gate={"long_distance_score": -0.2}, fraction=0.5)
    assert shown(session) == set(wanted["id"]) and session.corpus.scores == ["gzip_ratio", "long_distance_score"]
    # of the last document there is the score of one scorer only
    alone = len(joined(killed, "gzip")) - len(windows)
    assert alone > 0 and len(session.corpus) == len(windows)
    cut = sum(len(pq.ParquetFile(path).read()) for path in killed.windows.rglob("*.parquet"))
    assert say_progress(session.corpus) == (
        f"{len(windows):,} windows so far, of {cut:,} that are cut; the build is not finished. Scored: "
        f"{len(windows) + alone:,} by gzip, {len(windows):,} by longattn. Left out are those that lack a score that "
        "decides (gzip, longattn)."
    )


def test_one_in_a_store_is_looked_at_from_anywhere(recipe, killed):
    begin(recipe, killed, scorers=["length", "gzip"], fraction=0.5, **SUM)
    here, address = Session(killed.path), "memory://far/out"
    fsspec.filesystem("memory").put(str(killed.path), "/far/out", recursive=True)
    there = Session(address)
    assert there.corpus.running and shown(there) == shown(here)
    name = min(shown(there))
    assert there.open_window(name) == here.open_window(name) and there.open_window(name)["text"]


def test_scores_that_an_earlier_run_has_left_are_not_taken_for_those_asked_for(recipe, tmp_path):
    build_and_kill(recipe, tmp_path / "out", shards=9, scorers={"random": {"seed": 1}}, fraction=0.5)
    before = ScoredCorpus(tmp_path / "out")
    cuts = {"threshold": {"book": 0.5, "code": 0.25}}
    folder = build_and_kill(recipe, tmp_path / "out", shards=4, scorers={"random": {"seed": 2}}, **cuts)
    assert len(list(folder.scores_by("random").rglob("*.parquet"))) == 9
    corpus = ScoredCorpus(tmp_path / "out")
    old = dict(zip(before.ids, before.table["random"].to_pylist(), strict=True))
    assert 0 < len(corpus) < len(before)
    assert all(old[name] != value for name, value in zip(corpus.ids, corpus.table["random"].to_pylist(), strict=True))
    # a category that has no window yet has no cut, and a link back to the page's start says nothing of it
    session = Session(folder.path)
    start = State.start(session)
    assert session.corpus.categories == ["book"] and start.thresholds == {"book": 0.5}
    assert start.follow(dict(parse_qsl(start.to_query(start))), session) == (start, [])
    # scores of a scorer that is asked for no more are none of the build's, and one that is new has none yet
    begin(recipe, folder, scorers=["length"], fraction=0.5)
    with pytest.raises(ValueError, match=r"no scored windows yet.* \(length\); so many have been scored: length 0\."):
        ScoredCorpus(folder.path)
    begin(recipe, folder, scorers={"random": {"seed": 2}}, gate="length", fraction=0.5)
    with pytest.raises(ValueError, match=r" \(random, length\); so many have been scored: random \d+, length 0\."):
        ScoredCorpus(folder.path)


def test_a_damaged_shard_of_scores_is_left_out(recipe, killed, tmp_path):
    folder = BuildFolder(shutil.copytree(killed.path, tmp_path / "out"))
    begin(recipe, folder, scorers=["length", "gzip"], fraction=0.5, **SUM)
    whole = len(ScoredCorpus(folder.path))
    for number, path in enumerate(sorted(folder.scores_by("gzip").rglob("*.parquet"))[:2]):
        content = path.read_bytes()
        # the end of one, and in the other a bit of what it holds
        changed = content[: len(content) // 2], content[:60] + bytes([content[60] ^ 1]) + content[61:]
        path.write_bytes(changed[number])
    assert 0 < len(ScoredCorpus(folder.path)) < whole - 1
