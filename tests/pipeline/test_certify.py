"""Builds whose cut is certified: few windows scored exactly, and what they all would keep."""

import json
import shutil

import numpy as np
import pytest
from datasets import load_dataset

import longattn_hf.pipeline.certify as certify
from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.folder import BuildFolder
from longattn_hf.pipeline.processes import ALONE
from longattn_hf.pipeline.run import build
from longattn_hf.pipeline.scoring import make_scorers
from longattn_hf.pipeline.shards import ScoredShards, read_shard
from tests.support.recipes import text, write_recipe

WORDS = [
    "the",
    "far",
    "tokens",
    "of",
    "a",
    "long",
    "document",
    "matter",
    "more",
    "than",
    "you",
    "think",
    "42",
    "(see)",
]
CATEGORIES = ("book", "code")
WINDOWS = 24


def document(number):
    # two kinds far apart, so that samples part them: a cut between them hangs on few windows, one inside on more
    return text(110, number, WORDS[:2] if number % 4 == 0 else WORDS)


@pytest.fixture(scope="module")
def recipe(tiny_llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    documents = {
        category: [{"text": document(100 * at + i)} for i in range(WINDOWS)] for at, category in enumerate(CATEGORIES)
    }
    # random weights make rows so unlike that samples say little: a high confidence reads nearly all windows whole
    how = {"alpha": 0.1, "certify": True, "confidence": 0.3, "row_fraction": 0.25}
    return write_recipe(folder, tiny_llama, documents, window_tokens=256, documents_per_shard=8, **how)


def run(recipe, output, **overrides):
    return build(load_config(recipe, {"output_dir": str(output)} | overrides))


def table(output):
    return load_dataset(str(output), "scores", split="train").to_pandas().set_index("id")


def results(output):
    paths = [path for path in output.rglob("*") if path.is_file() and "work" not in path.relative_to(output).parts]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def exact(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("exact") / "out"
    run(recipe, output, certify=False, row_fraction=None)
    return table(output)


@pytest.fixture(scope="module")
def certified(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("certified") / "out"
    return output, run(recipe, output)


class Killed(BaseException):
    pass


def again(output):
    """The windows that have been scored exactly, by shard."""
    folder = BuildFolder(output).scores_by("longattn-exact")
    return {
        path.relative_to(folder).as_posix(): set(read_shard(path)["id"].to_pylist())
        for path in folder.rglob("*.parquet")
    }


def test_few_windows_are_scored_exactly_and_the_others_keep_their_standard_errors(certified, exact):
    output, result = certified
    windows = table(output)
    whole = windows["row_fraction"] == 1
    assert 0.1 < whole.mean() < 0.9 and set(windows["row_fraction"]) == {0.25, 1.0}
    assert set(windows.index[whole]) == set().union(*again(output).values())
    for name in ("dependency_strength", "distribution_uniformity"):
        assert (windows.loc[whole, name] == exact.loc[windows.index[whole], name]).all()
        assert ((windows[f"{name}_standard_error"] == 0) == whole).all()
    assert result.scored_windows == len(windows) + whole.sum()
    # the cut lies where the windows were read exactly, so hardly any other is kept
    assert (windows["kept"] != exact["kept"]).sum() <= 6


def test_the_report_says_what_was_decided_by_what_and_how_surely(certified):
    output, result = certified
    windows = table(output)
    for category in CATEGORIES:
        here = windows[windows["category"] == category]
        facts = result.report.certificate[category]
        for step in facts.steps:
            of_step = here[here["row_fraction"] == step.row_fraction]
            assert (step.kept, step.dropped) == (of_step["kept"].sum(), (~of_step["kept"]).sum())
        assert sum(step.kept + step.dropped for step in facts.steps) == len(here)
        assert 0 <= facts.wrong <= 0.35 and 0 <= facts.moved <= 0.35 * here["kept"].sum()
    card = (output / "README.md").read_text()
    assert card.count("| probability that any is wrong |") == 1 and "Confidence asked for: 0.3." in card
    assert json.loads((output / "report.json").read_text())["settings"]["row_fraction"] == 0.25
    # the scale is that of the scores that the estimates are of, with which the table selects the same again
    from longattn_hf.selection.cut import Selection

    published = load_dataset(str(output), "scores", split="train").with_format("arrow")[:]
    plain = published.drop_columns(["kept", "long_distance_score"])
    assert Selection(alpha=0.1, fraction=0.25).apply(plain)["kept"].equals(published["kept"])


def test_a_build_that_is_killed_while_it_scores_again_ends_in_the_same_bytes(recipe, certified, tmp_path, monkeypatch):
    output, write, calls = tmp_path / "out", certify.write_shard, []

    def until_killed(path, *rest):
        write(path, *rest)
        calls.append(path)
        if len(calls) == 5:
            raise Killed

    monkeypatch.setattr(certify, "write_shard", until_killed)
    with pytest.raises(Killed):
        run(recipe, output)
    monkeypatch.undo()
    half = sum(map(len, again(output).values()))
    finished = run(recipe, output)
    whole = sum(map(len, again(certified[0]).values()))
    assert 0 < half < whole and finished.scored_windows == whole - half
    assert finished.reused["scores_again"] == half and finished.facts["reused"] == finished.reused
    assert results(output) == results(certified[0]) and again(output) == again(certified[0])
    assert run(recipe, output).scored_windows == 0


def test_another_cut_scores_only_what_it_needs_and_leaves_the_first_as_it_was(recipe, certified, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(certified[0], output)
    before = again(output)
    tokens = int(table(output).query("category == 'book'")["num_tokens"].sum())
    other = run(recipe, output, token_budget=tokens // 2, confidence=0.9)
    after = again(output)
    assert all(before[name] <= after[name] for name in before)
    more = sum(map(len, after.values())) - sum(map(len, before.values()))
    assert 0 < other.scored_windows == more < len(table(output)) - sum(map(len, before.values()))
    # what this cut used of the other's
    exactly = (table(output)["row_fraction"] == 1).sum()
    assert 0 < other.reused["scores_again"] == exactly - more < sum(map(len, before.values()))
    # a fresh build of this cut is the same, whatever had been scored for the other
    fresh = tmp_path / "fresh"
    run(recipe, fresh, token_budget=tokens // 2, confidence=0.9)
    assert results(fresh) == results(output)
    assert run(recipe, output).scored_windows == 0 and results(output) == results(certified[0])


def test_a_higher_confidence_scores_more_and_keeps_what_exact_scores_keep(recipe, certified, exact, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(certified[0], output)
    result = run(recipe, output, confidence=0.99)
    windows = table(output)
    assert result.scored_windows > 0
    assert (windows["kept"] == exact["kept"]).all()
    assert sum(facts.wrong for facts in result.report.certificate.values()) <= 0.01
    # where that is most windows, the card says that exact scores would have done
    card, whole = (
        (output / "README.md").read_text(),
        (windows["row_fraction"] == 1).groupby(windows["category"]).mean(),
    )
    assert whole.max() > 0.5
    for category in CATEGORIES:
        assert (f"Most windows of `{category}` were read whole" in card) == (whole[category] > 0.5)


def test_processes_share_what_is_scored_again(recipe, certified, tmp_path):
    from longattn_hf.pipeline.processes import Process
    from longattn_hf.pipeline.scoring import make_scorers
    from longattn_hf.pipeline.shards import ScoredShards

    output = tmp_path / "out"
    shutil.copytree(certified[0], output)
    shutil.rmtree(BuildFolder(output).scores_by("longattn-exact"))
    config = load_config(recipe, {"output_dir": str(output)})
    shards, scorers = ScoredShards.load(BuildFolder(output)), make_scorers(config)
    rounds = [certify._Refinement(config, shards, scorers) for _ in range(2)]
    counts = np.zeros(2, dtype=int)
    while rounds[0].plan() is None:
        counts += [one.score(Process(index, 2)) for index, one in enumerate(rounds)]
    assert (counts > 0).all() and again(output) == again(certified[0])


def test_an_exact_corpus_is_not_taken_for_a_sampled_one(recipe, tmp_path):
    run(recipe, tmp_path / "out", certify=False, row_fraction=None, scorers=["longattn"])
    with pytest.raises(ValueError, match="row_fraction was None and is now 0.0625"):
        run(recipe, tmp_path / "out", row_fraction=None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"scorers": ["longattn", "gzip"], "select_by": "gzip"}, "not with select_by gzip_ratio"),
        ({"confidence": 1.0}, "confidence=1.0 must lie between 0 and 1"),
        ({"convention": "reference_code"}, "not with convention='reference_code'"),
    ],
)
def test_what_cannot_be_certified_is_refused_before_anything_is_read(recipe, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        run(recipe, tmp_path / "out", **overrides)


def test_windows_that_a_round_asks_for_twice_are_scored_once(certified, recipe, tmp_path):
    folder = BuildFolder(shutil.copytree(certified[0], tmp_path / "out"))
    config = load_config(recipe, {"output_dir": str(folder.path)})
    shards, scorers = ScoredShards.load(folder), make_scorers(config)
    shutil.rmtree(folder.scores_by("longattn-exact"))
    refinement = certify._Refinement(config, shards, scorers)
    assert refinement.plan() is None
    done = refinement.score(ALONE)
    once = again(folder.path)
    assert refinement.score(ALONE) == done == sum(map(len, once.values())) > 0
    assert again(folder.path) == once
    for path in folder.scores_by("longattn-exact").rglob("*.parquet"):
        assert len(read_shard(path)) == len(once[path.relative_to(folder.scores_by("longattn-exact")).as_posix()])
