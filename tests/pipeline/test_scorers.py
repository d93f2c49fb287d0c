"""Builds that score by more than LongAttn, or without it."""

import gzip
import json
import random
import shutil
import string
from dataclasses import replace

import numpy as np
import pytest
import yaml
from datasets import load_dataset

from longattn_hf.pipeline.config import load_config
from longattn_hf.pipeline.run import build
from tests.support.recipes import text, write_recipe
from tests.support.tiny import build_tokenizer

WORDS = ["".join(random.Random(i).choices(string.ascii_lowercase, k=3 + i % 7)) for i in range(60)]
CATEGORIES = ("book", "code")


def document(number):
    # few different words in some, many in others, so that they compress differently
    return text(120, number, WORDS[: 2 + 3 * number])


@pytest.fixture(scope="module")
def recipe(tiny_llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    documents = {
        category: [
            {"id": f"{category}{i}", "text": document(i), "length": -i, "random": f"own {i}"} for i in range(1, 13)
        ]
        for category in CATEGORIES
    }
    return write_recipe(folder, tiny_llama, documents, name="several", window_tokens=64, documents_per_shard=4)


def run(recipe, output, **overrides):
    return build(load_config(recipe, {"output_dir": str(output)} | overrides))


def table(output):
    return load_dataset(str(output), "scores", split="train").to_pandas()


def gzip_ratio(text):
    plain = text.encode()
    return len(gzip.compress(plain, mtime=0)) / len(plain)


def kept_ids(output, category):
    return set(load_dataset(str(output), category, split="train")["id"])


@pytest.fixture(scope="module")
def both(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("both") / "out"
    return output, run(recipe, output, scorers=["longattn", "gzip", "length"], select_by="gzip")


def test_the_windows_that_another_score_ranks_highest_are_kept(both):
    output, result = both
    scores = table(output)
    for category in CATEGORIES:
        windows = scores[scores["category"] == category]
        count = -(-len(windows) // 4)
        best = windows.sort_values(["gzip_ratio", "id"], ascending=[False, True]).head(count)
        kept = load_dataset(str(output), category, split="train")
        assert kept_ids(output, category) == set(best["id"]) and count > 5
        for row in kept:
            assert row["gzip_ratio"] == gzip_ratio(row["text"]) and row["length"] == len(row["text"])
            assert row["long_distance_score"] is not None
        assert result.categories[category].cut == best["gzip_ratio"].min()


def test_a_sources_own_column_of_a_scores_name_gives_way_where_the_score_is_there(both, recipe, tmp_path):
    # nothing scores by chance here, so the column `random` is the source's
    assert set(table(both[0])["random"]) >= {"own 1", "own 12"}
    assert table(both[0])["length"].min() > 0
    run(recipe, tmp_path / "out", scorers=["gzip"])
    assert table(tmp_path / "out")["length"].max() < 0


def test_report_and_card_show_every_score_and_what_the_others_would_have_kept(both):
    output, result = both
    report, scores = result.report, table(output)
    assert report.ranked_by == "gzip_ratio" and "long_distance_score" in report.scores
    windows = scores[scores["category"] == "book"]
    spread = result.categories["book"].scores["length"]
    assert (spread.min, spread.max) == (windows["length"].min(), windows["length"].max())
    for name in ("length", "long_distance_score"):
        facts = report.others[name]["book"]
        assert facts.spearman == pytest.approx(windows[["gzip_ratio", name]].corr("spearman").iloc[0, 1])
        would = windows.sort_values([name, "id"], ascending=[False, True]).head(windows["kept"].sum())
        assert facts.kept_overlap == pytest.approx(would["kept"].mean())
        apart = windows[name].rank() - windows["gzip_ratio"].rank()
        assert facts.only_here.id == windows.loc[apart[windows["kept"]].idxmin(), "id"]
        assert facts.only_there.id == windows.loc[apart[~windows["kept"]].idxmax(), "id"]
    card = (output / "README.md").read_text()
    assert "rank highest by the `gzip_ratio`" in card and "How the same windows rank otherwise" in card
    assert "| `length` | `book` |" in card and (output / "report.html").read_text().count('"gzip_ratio"') > 1
    assert sorted(path.name for path in (output / "figures").iterdir()) == [
        "gzip_ratios.png",
        "kept_by_source.png",
        "strength_and_uniformity.png",
    ]
    assert "Ranked by gzip_ratio" in str(result)


def test_a_scorer_that_comes_later_scores_alone_and_ends_in_the_same_bytes(recipe, both, tmp_path):
    output = tmp_path / "out"
    first = run(recipe, output)
    shards = {path: path.stat().st_mtime_ns for path in (output / "work" / "scores").rglob("*.parquet")}
    second = run(recipe, output, scorers=["longattn", "gzip", "length"], select_by="gzip")
    assert first.scored_windows == second.scored_windows == len(table(output))
    assert shards == {path: path.stat().st_mtime_ns for path in (output / "work" / "scores").rglob("*.parquet")}
    for name in ("report.json", "README.md", "statistics.json"):
        assert (output / name).read_bytes() == (both[0] / name).read_bytes()
    assert run(recipe, output, scorers=["longattn", "gzip", "length"], select_by="length").scored_windows == 0
    damaged = next((output / "work" / "scores-gzip").rglob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-3] + b"xxx")
    again = run(recipe, output, scorers=["longattn", "gzip", "length"], select_by="gzip")
    assert 0 < again.scored_windows < len(table(output))


def test_weighted_sums_of_zscores_and_of_ranks_select(recipe, tmp_path):
    weights = {"gzip": 1.0, "longattn": 2.0}
    for combine in ("zscore", "rank"):
        output = tmp_path / combine
        run(recipe, output, scorers=["longattn", "gzip"], select_by=weights, combine=combine)
        scores = table(output)
        for category in CATEGORIES:
            windows = scores[scores["category"] == category]
            columns = windows[["gzip_ratio", "long_distance_score"]]
            if combine == "zscore":
                sums = ((columns - columns.mean()) / columns.std(ddof=0)) @ [1.0, 2.0]
            else:
                sums = ((columns.rank() - 1) / (len(columns) - 1)) @ [1.0, 2.0]
            assert windows["selection_score"].to_numpy() == pytest.approx(sums.to_numpy())
            best = windows.loc[sums.sort_values(ascending=False).index[: windows["kept"].sum()], "id"]
            assert set(best) == kept_ids(output, category)
        assert "the sum of 1 times `gzip`, 2 times `longattn`" in (output / "README.md").read_text()


def test_a_gate_refuses_whatever_the_score_and_the_report_counts_it_with_its_reason(recipe, tmp_path):
    output = tmp_path / "out"
    least = 1.0
    result = run(recipe, output, scorers=["length"], gate={"gzip": least}, fraction=0.5)
    scores = table(output)
    for category in CATEGORIES:
        windows = scores[scores["category"] == category]
        refused = windows["gzip_ratio"] < least
        assert 0 < refused.sum() < len(windows)
        assert result.categories[category].refused == {"gzip_ratio below 1": refused.sum()}
        count = min(-(-len(windows) // 2), (~refused).sum())
        best = windows[~refused].sort_values(["length", "id"], ascending=[False, True]).head(count)
        assert set(best["id"]) == kept_ids(output, category)
        longest = windows[refused].sort_values(["length", "id"], ascending=[False, True])["id"].head(2)
        assert [example.id for example in result.report.refused[category]] == list(longest)
    card = (output / "README.md").read_text()
    assert "## Refused by the gate" in card and "gzip\\_ratio below 1" in card


def test_a_gate_that_refuses_a_whole_category_says_so_at_once_and_in_the_card(recipe, tmp_path, caplog):
    result = run(recipe, tmp_path / "out", scorers=["length"], gate={"gzip": 99.0}, fraction=0.5)
    said = [
        f"The gate refused {facts.windows} of the {facts.windows} windows of {category} (gzip_ratio below 99): it may "
        "not know their language or kind of text."
        for category, facts in result.categories.items()
    ]
    assert [m for m in caplog.messages if "The gate" in m] == said == result.facts["cautions"]
    limits = (tmp_path / "out" / "README.md").read_text().split("## Limits")[1].split("## What is in it")[0]
    assert all(sentence.replace("_", "\\_") in limits for sentence in said)


def test_a_draw_is_of_the_seed_and_follows_the_score(recipe, tmp_path):
    output, drawn = tmp_path / "out", {}
    for temperature, seed in ((0.3, 0), (0.3, 1), (1e-6, 0), (1e6, 0)):
        run(recipe, output, scorers=["length"], temperature=temperature, draw_seed=seed)
        scores = table(output)
        drawn[temperature, seed] = scores[scores["kept"]]
    assert set(drawn[0.3, 0]["id"]) != set(drawn[0.3, 1]["id"])
    run(recipe, output, scorers=["length"])
    best = set(table(output).query("kept")["id"])
    assert set(drawn[1e-6, 0]["id"]) == best
    mean = table(output)["length"].mean()
    assert drawn[0.3, 0]["length"].mean() > mean + 0.5 * (table(output).query("kept")["length"].mean() - mean)
    assert len(best & set(drawn[1e6, 0]["id"])) < len(best)


def test_a_build_without_attention_needs_a_tokenizer_and_no_weights(recipe, tmp_path, tiny_llama):
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    shutil.copy(tiny_llama / "config.json", tmp_path / "tokenizer")
    output = tmp_path / "out"
    result = run(recipe, output, model=str(tmp_path / "tokenizer"), scorers=["gzip"])
    assert "dependency_strength" not in table(output).columns and not (output / "statistics.json").exists()
    assert not result.report.has_longattn and result.report.model.sha256 is None
    card = (output / "README.md").read_text()
    assert "arxiv.org/abs/2502.16860" in card and "first-layer" not in card.split("## Use")[0]
    assert run(recipe, output, model=str(tmp_path / "tokenizer"), scorers=["gzip"]).scored_windows == 0


def test_a_model_that_is_not_there_is_refused_before_the_folder_is_claimed(recipe, tmp_path):
    with pytest.raises(ValueError, match="'nowhere/at.gguf' is neither a directory nor a GGUF file"):
        run(recipe, tmp_path / "out", model="nowhere/at.gguf", scorers=["gzip"])
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.stat().st_size]
    assert run(recipe, tmp_path / "out", scorers=["gzip"]).scored_windows


def test_windows_that_a_deciding_scorer_refuses_are_counted_with_its_reason(recipe, tmp_path):
    result = run(recipe, tmp_path / "out", scorers=["gzip", "far_gain"], select_by="far_gain")
    facts = result.categories["book"]
    assert facts.kept_windows == 0 and sum(facts.windows_skipped.values()) == facts.windows
    # one reason, whatever the windows' own lengths
    assert list(facts.windows_skipped) == ["too short (512 words are the least)"]
    assert result.report.cautions[0] == (
        f"{facts.windows} of the {facts.windows} windows of book have no far_gain, so that none of them is kept."
    )
    # where it does not decide, it leaves nothing out
    other = run(recipe, tmp_path / "out", scorers=["gzip", "far_gain"])
    assert other.categories["book"].windows_skipped == {} and other.categories["book"].kept_windows > 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"scorers": ["ecko"]}, "There is no scorer 'ecko'. Did you mean 'echo'?"),
        ({"scorers": []}, "scorers names none"),
        ({"scorers": ["gzip"], "select_by": "echo"}, "select_by names 'echo', and the scorers are gzip"),
        ({"scorers": ["gzip"], "select_by": {"gzip": 0.0}}, "finite weights that are not all 0"),
        ({"scorers": ["gzip"], "gate": {"gzip": float("nan")}}, "finite least value"),
        ({"scorers": ["gzip"], "temperature": -1.0}, "temperature=-1.0 must be"),
        ({"scorers": ["gzip"], "temperature": 1.0, "threshold": 0.5, "fraction": None}, "leaves no choice"),
        ({"scorers": ["gzip"], "statistics": "statistics.json"}, "the scorers do not name longattn"),
        ({"scorers": {"random": {"seeds": 1}}}, "The scorer 'random' has no setting 'seeds'. Did you mean 'seed'?"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(recipe, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        run(recipe, tmp_path / "out", sources=[{"category": "a", "path": "nowhere/at-all"}], **overrides)


def test_the_settings_of_a_scorer_are_its_own(recipe, tmp_path):
    run(recipe, tmp_path / "out", scorers={"random": {"seed": 7}})
    from longattn_hf.baselines.simple import RandomScore

    kept = load_dataset(str(tmp_path / "out"), "book", split="train")
    assert kept["random"] == [RandomScore(seed=7)({"text": text})["random"] for text in kept["text"]]


def test_two_processes_share_the_shards_of_all_scorers(recipe, tmp_path, both):
    from longattn_hf.pipeline.folder import BuildFolder
    from longattn_hf.pipeline.processes import Process
    from longattn_hf.pipeline.scoring import make_scorers, score_windows
    from longattn_hf.pipeline.shards import ScoredShards

    shutil.copytree(both[0], tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "work" / "scores-gzip")
    config = load_config(recipe, {"scorers": ["longattn", "gzip"]})
    shards = ScoredShards.load(BuildFolder(tmp_path / "out"))
    done = [score_windows(shards, make_scorers(config), process=Process(index, 2)) for index in range(2)]
    assert sum(done) == shards.rows.sum() and np.all(np.array(done) > 0)
    for path in (both[0] / "work" / "scores-gzip").rglob("*.parquet"):
        other = tmp_path / "out" / path.relative_to(both[0])
        assert other.read_bytes() == path.read_bytes()


def test_a_report_says_which_scores_select(both):
    report = json.loads((both[0] / "report.json").read_text())
    assert report["settings"]["select_by"] == "gzip" and report["ranked_by"] == "gzip_ratio"


@pytest.mark.parametrize("scorers", [["longattn", "gzip", "length"], ["gzip", "length"]])
def test_the_explorer_ranks_by_any_score_and_starts_with_the_builds_own_selection(recipe, tmp_path, scorers):
    from longattn_hf.explore import listing, views
    from longattn_hf.explore.session import Session

    output = tmp_path / "out"
    run(recipe, output, scorers=scorers, select_by="gzip", gate={"length": 66})
    session, scores = Session(output), table(output).sort_values("id")
    start = session.start()
    assert session.corpus.scores[0] == start.score == "gzip_ratio" and start.gate == {"length": 66}
    selected = session.select(start)
    assert selected.kept.tolist() == scores["kept"].tolist() and 0 < selected.kept.sum()
    other = session.select(replace(start, score="length"))
    for category in CATEGORIES:
        windows = scores[(scores["category"] == category).to_numpy()]
        count = min(-(-len(windows) // 4), (windows["length"] >= 66).sum())
        best = windows.sort_values(["length", "id"], ascending=[False, True]).head(count)
        rows = session.corpus.rows_of(category)
        assert {session.corpus.id_of(row) for row in rows[other.kept[rows]]} == set(best["id"])
    drawn = views.describe_histograms(session.corpus, other, replace(start, score="length"))
    assert drawn["rankedBy"] == "length" and {"gzip_ratio", "length"} <= drawn["categories"][0]["plots"].keys()
    found = listing.find_windows(session.corpus, other, selected, category="book")
    listed = listing.show_page(session.corpus, other, selected, found, count=3)
    assert [row[1] for row in listed["rows"]] == sorted(scores.query("category == 'book'")["length"])[:-4:-1]
    again = yaml.safe_load(session.corpus.recipe(replace(start, score="length")))
    assert again["select_by"] == "length" and again["gate"] == {"length": 66}
