import json
import math
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset

from longattn_hf import add_long_distance_score, select_windows
from longattn_hf.selection.cut import Selection, keep_mask
from longattn_hf.selection.moments import Moments
from longattn_hf.selection.standardisation import ScoreStatistics, long_distance_scores


def scored_windows(count=40, seed=0, categories=("arxiv", "book")):
    random = np.random.default_rng(seed)
    return Dataset.from_dict(
        {
            "id": [f"w{i:04d}" for i in range(count)],
            "doc_id": [f"d{i // 2}" for i in range(count)],
            "category": [categories[i % len(categories)] for i in range(count)],
            "start_token": [0] * count,
            "num_tokens": [100] * count,
            "dependency_strength": random.uniform(0.2, 0.5, count),
            "distribution_uniformity": -random.lognormal(-14, 1, count),
            "map_variance": random.lognormal(-15, 1, count),
        }
    )


def test_the_paper_score_is_the_sum_of_z_scores_within_each_category():
    windows = scored_windows()
    scored = add_long_distance_score(windows, alpha=0.5)
    for category in ("arxiv", "book"):
        rows = [row for row in scored if row["category"] == category]
        strength = np.array([row["dependency_strength"] for row in rows])
        uniformity = np.array([row["distribution_uniformity"] for row in rows])
        expected = (strength - strength.mean()) / strength.std() + 0.5 * (
            uniformity - uniformity.mean()
        ) / uniformity.std()
        np.testing.assert_allclose([row["long_distance_score"] for row in rows], expected, rtol=1e-12)


def test_the_reference_codes_score_is_min_max_strength_less_half_min_max_map_variance():
    windows = scored_windows(categories=("code",))
    scored = add_long_distance_score(windows, convention="reference_code")
    strength, variance = (np.array(windows[name]) for name in ("dependency_strength", "map_variance"))
    expected = (strength - strength.min()) / np.ptp(strength) - 0.5 * (variance - variance.min()) / np.ptp(variance)
    np.testing.assert_allclose(scored["long_distance_score"], expected, rtol=1e-12)


def test_alpha_zero_ranks_by_strength_alone():
    scored = add_long_distance_score(scored_windows(), alpha=0.0, by=None)
    assert np.argsort(scored["long_distance_score"]).tolist() == np.argsort(scored["dependency_strength"]).tolist()


def test_statistics_merged_over_shards_are_those_of_the_whole():
    windows = scored_windows(101).with_format("arrow")[:]
    whole = ScoreStatistics.of(windows)
    merged = ScoreStatistics.of(windows.slice(0, 3))
    for start in range(3, 101, 14):
        merged = merged.merge(ScoreStatistics.of(windows.slice(start, 14)))
    for category, columns in whole.by_category.items():
        for name, moments in columns.items():
            other = merged.by_category[category][name]
            assert (other.count, other.minimum, other.maximum) == (moments.count, moments.minimum, moments.maximum)
            assert math.isclose(other.mean, moments.mean, rel_tol=1e-12)
            assert math.isclose(other.std, moments.std, rel_tol=1e-12)


def test_saved_statistics_put_a_later_corpus_on_the_same_scale(tmp_path):
    first, later = scored_windows(40), scored_windows(10, seed=1)
    ScoreStatistics.of(first.with_format("arrow")[:]).save(tmp_path / "statistics.json")
    statistics = ScoreStatistics.load(tmp_path / "statistics.json")
    together = pa.concat_tables([d.with_format("arrow")[:] for d in (first, later)])
    np.testing.assert_array_equal(
        long_distance_scores(together, statistics=statistics)[40:],
        add_long_distance_score(later, statistics=statistics)["long_distance_score"],
    )
    with pytest.raises(ValueError, match="no category 'code', only 'arxiv', 'book'"):
        add_long_distance_score(scored_windows(categories=("code",)), statistics=statistics)
    assert set(json.loads((tmp_path / "statistics.json").read_text())) == {"arxiv", "book"}


def test_one_window_or_equal_scores_standardise_to_zero():
    assert add_long_distance_score(scored_windows(1))["long_distance_score"][:] == [0.0]
    assert Moments.of(np.full(5, 0.3)).standardise(np.full(5, 0.3), "minmax").tolist() == [0.0] * 5


def test_windows_without_scores_stay_without_and_are_never_kept():
    windows = scored_windows(6, categories=("book",)).to_dict()
    for name in ("dependency_strength", "distribution_uniformity", "map_variance"):
        windows[name][2] = None
    scored = add_long_distance_score(Dataset.from_dict(windows))
    assert scored["long_distance_score"][2] is None
    kept = select_windows(scored, fraction=1.0)
    assert len(kept) == 5 and "w0002" not in kept["id"]


def test_a_score_that_is_not_finite_is_an_error_never_a_row():
    windows = scored_windows(6).to_dict()
    windows["map_variance"][3] = math.inf
    with pytest.raises(ValueError, match="'map_variance' holds a value that is not finite"):
        add_long_distance_score(Dataset.from_dict(windows))


@pytest.fixture
def scored():
    return add_long_distance_score(scored_windows(40))


def best(scored, category, count):
    rows = sorted((-r["long_distance_score"], r["id"]) for r in scored if r["category"] == category)
    return {identifier for _, identifier in rows[:count]}


def test_a_fraction_keeps_the_best_of_each_category_rounded_up(scored):
    kept = select_windows(scored, fraction=0.26)
    assert set(kept["id"]) == best(scored, "arxiv", 6) | best(scored, "book", 6)
    assert kept["id"][:] == sorted(kept["id"])


def test_a_budget_is_filled_as_far_as_it_goes_and_never_passed(scored, caplog):
    assert set(select_windows(scored, token_budget=599)["id"]) == best(scored, "arxiv", 5) | best(scored, "book", 5)
    kept = select_windows(scored, token_budget={"arxiv": 100, "book": 0})
    assert set(kept["id"]) == best(scored, "arxiv", 1)
    assert set(select_windows(scored, token_budget=600)["id"]) == best(scored, "arxiv", 6) | best(scored, "book", 6)
    # exactly what there is is no lack
    assert len(select_windows(scored, token_budget=2000)) == 40 and not caplog.records


def test_a_budget_larger_than_the_corpus_keeps_all_and_says_so(scored, caplog):
    assert len(select_windows(scored, token_budget=10**9)) == 40
    assert "arxiv holds 2000 tokens, fewer than the budget of 1000000000" in caplog.text
    unscored = Dataset.from_dict(
        {"id": ["a"], "category": ["x"], "num_tokens": [9], "long_distance_score": pa.array([None], pa.float64())}
    )
    assert len(select_windows(unscored, token_budget=5)) == 0
    assert "x holds 0 tokens, fewer than the budget of 5" in caplog.text


def test_a_total_budget_takes_windows_by_their_place_in_their_category_until_it_is_spent(caplog):
    rows = [
        # id, category, tokens, score; the categories' scores are on scales of their own
        ("a", "A", 10, 0.4),
        ("b", "A", 20, 0.3),
        ("c", "A", 10, 0.2),
        ("d", "A", 10, 0.1),
        ("e", "B", 30, 90.0),
        ("f", "B", 10, 80.0),
        ("g", "C", 50, -7.0),
    ]
    names = ("id", "category", "num_tokens", "score")
    # shares that rank before: a, e and g 0, b 1/4, c and f 1/2, d 3/4; so a 10, e 40, g 90, b 110, c 120, f 130, d 140
    kept = {0: "", 39: "a", 40: "ae", 89: "ae", 90: "aeg", 109: "aeg", 110: "abeg", 129: "abceg", 139: "abcefg"}
    for order in (rows, rows[::-1], [rows[at] for at in (3, 6, 0, 5, 2, 4, 1)]):
        table = pa.table(dict(zip(names, map(list, zip(*order, strict=True)), strict=True)))
        for budget, best in kept.items():
            chosen = select_windows(table, score="score", total_token_budget=budget)
            assert "".join(sorted(chosen["id"].to_pylist())) == best, budget
    assert len(select_windows(table, score="score", total_token_budget=140)) == 7 and not caplog.records
    assert len(select_windows(table, score="score", total_token_budget=141)) == 7
    assert "The corpus holds 140 tokens, fewer than the budget of 141: all are kept." in caplog.text
    assert len(select_windows(table.slice(0, 0), score="score", total_token_budget=9)) == 0


@pytest.mark.parametrize("how", [{}, {"gate": {"map_variance": 3e-7}}, {"refuse_overlap": True}, {"temperature": 0.5}])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.3])
def test_a_total_budget_for_what_a_fraction_keeps_keeps_the_same(how, share):
    # 30 windows of arxiv and 10 of book; a fraction is of the scored windows of each
    scored = add_long_distance_score(scored_windows(40, categories=("arxiv", "arxiv", "arxiv", "book")))
    chosen = select_windows(scored, fraction=share, **how)
    assert [chosen["category"][:].count(name) for name in ("arxiv", "book")] == [
        math.ceil(30 * share),
        math.ceil(10 * share),
    ]
    for spare in (0, 99):
        again = select_windows(scored, total_token_budget=100 * len(chosen) + spare, **how)
        assert again["id"][:] == chosen["id"][:]


def test_windows_that_a_gate_or_a_better_one_refuses_spend_nothing_of_a_total_budget():
    table = pa.table(
        {
            "id": ["a1", "a2", "a3", "a4", "b1", "b2"],
            "doc_id": ["d", "d", "d", "d", "e", "e"],
            "category": ["A"] * 4 + ["B"] * 2,
            "start_token": [0, 50, 100, 200, 0, 100],
            "num_tokens": [100] * 6,
            "long_distance_score": [4.0, 3, 2, 1, 9, 8],
            "ok": [1, 1, 1, 1, 0, 1],
        }
    )
    overlap, gate = {"refuse_overlap": True}, {"gate": {"ok": 1}}
    # by overlap a2 goes: shares that rank before are 0 of a1 and b1, 1/4 of a3, 2/4 of a4 and 1/2 of b2
    kept = [select_windows(table, total_token_budget=b, **overlap)["id"].to_pylist() for b in (200, 300, 400)]
    assert kept == [["a1", "b1"], ["a1", "a3", "b1"], ["a1", "a3", "a4", "b1"]]
    # by the gate b1 goes, and nothing is before b2
    kept = [select_windows(table, total_token_budget=b, **gate)["id"].to_pylist() for b in (200, 300)]
    assert kept == [["a1", "b2"], ["a1", "a2", "b2"]]


def test_a_threshold_keeps_what_is_above_it(scored):
    kept = select_windows(scored, threshold=0.7)
    assert set(kept["id"]) == {r["id"] for r in scored if r["long_distance_score"] > 0.7}
    assert 0 < len(kept) < 40
    least = min(kept["long_distance_score"])
    assert set(select_windows(scored, threshold=least)["id"]) == {
        r["id"] for r in kept if r["long_distance_score"] != least
    }


def test_the_outcome_does_not_depend_on_the_rows_order_even_with_ties(scored):
    tied = scored.remove_columns("long_distance_score").add_column("long_distance_score", [1.0] * 20 + [0.5] * 20)
    kept = select_windows(tied, fraction=0.35)
    shuffled = select_windows(tied.shuffle(seed=3), fraction=0.35)
    assert set(kept["id"]) == set(shuffled["id"]) and len(kept) == 14


def test_refusing_overlap_counts_no_token_twice():
    # one document: front 0-100, back 60-160, and a third window that touches neither
    table = pa.table(
        {
            "id": ["front", "back", "far", "other"],
            "doc_id": ["d", "d", "d", "e"],
            "category": ["book"] * 4,
            "start_token": [0, 60, 160, 60],
            "num_tokens": [100] * 4,
            "long_distance_score": [1.0, 2.0, 0.5, 0.1],
        }
    )
    assert keep_mask(table, Selection(fraction=1.0)).tolist() == [True] * 4
    assert keep_mask(table, Selection(fraction=1.0, refuse_overlap=True)).tolist() == [False, True, True, True]
    assert keep_mask(table, Selection(token_budget=200, refuse_overlap=True)).tolist() == [False, True, True, False]
    assert keep_mask(table, Selection(threshold=0.4, refuse_overlap=True)).tolist() == [False, True, True, False]


@pytest.mark.parametrize("encode", [False, True])
def test_windows_without_a_documents_name_overlap_with_none(encode):
    table = pa.table(
        {
            "id": list("abcde"),
            # two of a document, and of those that nobody named each by itself; a source that is null is one of them
            "doc_id": pa.array(["d", "d", None, None, None]),
            "source": pa.array([None, None, None, None, "s"]),
            "category": ["book"] * 5,
            "start_token": [0] * 5,
            "num_tokens": [100] * 5,
            "long_distance_score": [1.0, 2.0, 3.0, 4.0, 5.0],
        }
    )
    if encode:
        for at in (1, 2):
            encoded = table.column(at).combine_chunks().dictionary_encode()
            table = table.set_column(at, table.column_names[at], encoded)
    kept = keep_mask(table, Selection(fraction=1.0, refuse_overlap=True))
    assert kept.tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("named", ["doc_hash", None])
def test_refusing_overlap_asks_for_a_name_of_the_documents(named):
    table = pa.table(
        {
            "id": ["a", "b"],
            "category": ["book"] * 2,
            "start_token": [0, 0],
            "num_tokens": [100, 100],
            "long_distance_score": [1.0, 2.0],
        }
    )
    everything = Selection(fraction=1.0, refuse_overlap=True)
    if named:
        assert keep_mask(table.append_column(named, pa.array(["h", "i"])), everything).all()
        assert keep_mask(table.append_column(named, pa.array(["h", "h"])), everything).tolist() == [False, True]
        return
    with pytest.raises(ValueError, match="'doc_id'.*'doc_hash'.*id, category"):
        keep_mask(table, everything)
    unknown = table.append_column("doc_id", pa.array(["d", "d"])).set_column(3, "num_tokens", pa.array([100, None]))
    with pytest.raises(ValueError, match="'num_tokens' is null in 1 rows"):
        keep_mask(unknown, everything)


def test_refusing_overlap_takes_many_copies_of_one_window():
    count = 20_000
    table = pa.table(
        {
            "id": [f"w{i}" for i in range(count)],
            "doc_id": ["d"] * count,
            "category": ["book"] * count,
            "start_token": [0] * count,
            "num_tokens": [100] * count,
            "long_distance_score": np.arange(count) / count,
        }
    )
    # the pairs alone would take gigabytes
    assert np.flatnonzero(keep_mask(table, Selection(fraction=1.0, refuse_overlap=True))).tolist() == [count - 1]


def greedy(table, limit=None):
    """The windows kept one by one, the best first, each unless it shares tokens with one that is kept."""
    kept = []
    for row in sorted(table.to_pylist(), key=lambda row: (-row["score"], row["id"])):
        same = [k for k in kept if all(k[name] == row[name] for name in ("doc_id", "doc_hash", "source", "category"))]
        reach = (row["start_token"], row["start_token"] + row["num_tokens"])
        if (limit is None or row["score"] > limit) and not any(
            k["start_token"] < reach[1] and reach[0] < k["start_token"] + k["num_tokens"] for k in same
        ):
            kept.append(row)
    return {row["id"] for row in kept}


@pytest.mark.parametrize("seed", range(8))
def test_refusing_overlap_keeps_what_taking_the_best_one_by_one_does(seed):
    random, count = np.random.default_rng(seed), 120
    table = pa.table(
        {
            "id": [f"w{i}" for i in random.permutation(count)],
            # ties, too
            "score": random.integers(0, 40, count).astype(float),
            # documents with many windows on top of one another, that share a name with another text or source
            "doc_id": [f"d{i}" for i in random.integers(0, 2, count)],
            "doc_hash": [f"h{i}" for i in random.integers(0, 2, count)],
            "source": [f"s{i}" for i in random.integers(0, 2, count)],
            "category": [f"c{i}" for i in random.integers(0, 2, count)],
            "start_token": random.integers(0, 60, count),
            "num_tokens": random.integers(1, 30, count),
        }
    )
    for limit in (None, 10.0, 45.0):
        selection = {"fraction": 1.0} if limit is None else {"threshold": limit}
        mask = keep_mask(table, Selection(score="score", refuse_overlap=True, **selection))
        assert set(table.filter(mask)["id"].to_pylist()) == greedy(table, limit), limit


def test_a_refused_window_does_not_refuse_others():
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "doc_id": ["d"] * 3,
            "start_token": [0, 50, 100],
            "num_tokens": [100] * 3,
            "long_distance_score": [3.0, 2.0, 1.0],
        }
    )
    assert keep_mask(table, Selection(fraction=1.0, refuse_overlap=True), by=None).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "exactly one of threshold, fraction, token_budget and total_token_budget, not none"),
        ({"fraction": 0.5, "threshold": 1.0}, "not threshold and fraction"),
        ({"fraction": 1.5}, r"fraction=1.5 must lie in \[0, 1\]"),
        ({"fraction": -0.5}, r"fraction=-0.5 must lie in \[0, 1\]"),
        ({"token_budget": -1}, "at least 0"),
        ({"token_budget": {"arxiv": 5}}, "not the category 'book'"),
        ({"total_token_budget": -1}, "total_token_budget=-1 must be at least 0"),
        ({"total_token_budget": {"arxiv": 5}}, "must be one number; token_budget takes one for each"),
        ({"total_token_budget": 5, "token_budget": 5}, "not token_budget and total_token_budget"),
        ({"fraction": 1.0, "score": {"num_tokens": 0.0}}, "finite weights that are not all 0"),
        ({"fraction": 1.0, "score": {"num_tokens": 1.0, "start_token": math.nan}}, "finite weights that are not all"),
        ({"fraction": 1.0, "score": {}}, "finite weights that are not all 0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(scored, limits, message):
    with pytest.raises(ValueError, match=message):
        select_windows(scored, **limits)


def test_without_settings_overlap_is_kept_and_the_uniformity_weighs_a_half():
    windows = scored_windows(40).remove_columns("doc_id").add_column("doc_id", ["d"] * 40)
    raw = windows.with_format("arrow")[:]
    half = long_distance_scores(raw, alpha=0.5)
    scored = add_long_distance_score(windows)
    assert scored["long_distance_score"][:] == long_distance_scores(raw).tolist() == half.tolist()
    # all windows are the same tokens of one document
    assert len(select_windows(scored, fraction=1.0)) == 40
    assert len(select_windows(scored, fraction=1.0, refuse_overlap=True)) == 2
    table = Selection(fraction=1.0).apply(raw)
    assert table["kept"].to_pylist() == [True] * 40 and table["long_distance_score"].to_pylist() == half.tolist()


def test_a_selection_adds_the_papers_score_where_it_can_and_needs_it_for_none_but_its_own():
    table = scored_windows(4, categories=("all",)).add_column("gain", [1, 4, 2, 3]).with_format("arrow")[:]
    for ready in (table, table.drop_columns(["map_variance"])):
        chosen = Selection(score="gain", fraction=0.5).apply(ready)
        assert chosen["kept"].to_pylist() == [False, True, False, True]
        assert ("long_distance_score" in chosen.column_names) == (ready is table)
    with pytest.raises(ValueError, match="No column 'map_variance'"):
        Selection(fraction=0.5).apply(table.drop_columns(["map_variance"]))
    whole = Selection(score={"gain": 1.0, "long_distance_score": 0.0}, fraction=0.5).apply(table, by=None)
    assert whole["kept"].to_pylist() == [False, True, False, True]


def test_a_score_that_is_there_is_replaced_and_ties_of_nameless_rows_go_to_the_first(scored):
    stale = scored.remove_columns("long_distance_score").add_column("long_distance_score", [9.0] * 40)
    again = add_long_distance_score(stale)
    assert again["long_distance_score"][:] == scored["long_distance_score"][:]
    assert again.column_names.count("long_distance_score") == 1
    assert select_windows(stale.remove_columns("id"), fraction=0.1, by=None)["doc_id"][:] == ["d0", "d0", "d1", "d1"]


def test_missing_columns_and_other_containers_are_named(scored):
    with pytest.raises(ValueError, match="No column 'dependency_strength'"):
        add_long_distance_score(scored.remove_columns("dependency_strength"))
    with pytest.raises(ValueError, match="No column 'genre'"):
        add_long_distance_score(scored, by="genre")
    with pytest.raises(ValueError, match="'zeal' is not known; use one of 'paper', 'reference_code'"):
        add_long_distance_score(scored, convention="zeal")


def test_a_million_windows_are_selected_in_seconds_without_their_text():
    table = scored_windows(1_000_000).with_format("arrow")[:]
    scores = long_distance_scores(table)
    mask = keep_mask(
        table.append_column("long_distance_score", pa.array(scores)), Selection(fraction=0.125, refuse_overlap=True)
    )
    # the two windows of each document lie in different categories, which share no token budget
    assert mask.sum() == 125_000


@pytest.mark.parametrize("share", range(1, 101))
def test_a_share_is_what_its_digits_say(share):
    table = scored_windows(100, categories=("all",)).add_column("long_distance_score", np.arange(100.0))
    assert len(select_windows(table, fraction=share / 100)) == share


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": math.nan}, "threshold=nan is not a number"),
        ({"threshold": {"arxiv": 0.0, "book": math.nan}}, "threshold=nan is not a number"),
        ({"fraction": math.nan}, r"fraction=nan must lie in \[0, 1\]"),
        ({"token_budget": math.nan}, "token_budget=nan must be at least 0"),
        ({"fraction": 0.5, "alpha": math.nan}, "alpha=nan must be a finite number"),
        ({"fraction": 0.5, "alpha": math.inf}, "alpha=inf must be a finite number"),
        ({"fraction": 0.5, "convention": "other"}, "convention='other' is not known"),
    ],
)
def test_numbers_that_select_nothing_sensible_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Selection(**values)


def test_limits_may_name_categories_by_their_own_values():
    windows = {"id": ["a", "b"], "num_tokens": [1, 1], "long_distance_score": [0.1, 0.2]}
    numbered = Dataset.from_dict(windows | {"category": [1, 2]})
    assert select_windows(numbered, fraction={1: 1.0, 2: 0.0})["id"][:] == ["a"]
    labelled = Dataset.from_dict(windows | {"category": [0, 1]}).cast_column("category", ClassLabel(names=["x", "y"]))
    assert select_windows(labelled, fraction={"x": 0.0, "y": 1.0})["id"][:] == ["b"]
    features = labelled.features
    unlabelled = Dataset.from_dict(windows | {"category": [None, 1]}, features=features)
    with pytest.raises(ValueError, match="Column 'category' is null in 1 rows"):
        select_windows(unlabelled, fraction=1.0)
    with pytest.raises(ValueError, match="fraction names '1' but not the category '2'"):
        select_windows(numbered, fraction={1: 1.0})


def statistics_of(scores, **scorer):
    return replace(ScoreStatistics.of(scores.with_format("arrow")[:]), scorer=scorer or None)


def test_statistics_know_their_scorer_and_refuse_another(tmp_path):
    statistics_of(scored_windows(40), tensors="a1", window_tokens=8192, min_distance=None).save(tmp_path / "s.json")
    loaded = ScoreStatistics.load(tmp_path / "s.json")
    loaded.refuse_unless_made_by({"tensors": "a1", "window_tokens": 8192, "min_distance": None}, "They")
    with pytest.raises(ValueError, match=r"They are of another scorer's .* window_tokens \(8192, here 4096\)"):
        loaded.refuse_unless_made_by({"tensors": "a1", "window_tokens": 4096}, "They")
    with pytest.raises(ValueError, match=r"tensors \('b2', here 'a1'\)"):
        loaded.merge(statistics_of(scored_windows(3), tensors="b2", window_tokens=8192, min_distance=None))
    assert loaded.merge(statistics_of(scored_windows(3))).scorer is None


def test_statistics_that_do_not_say_whose_they_are_or_lie_far_off_are_warned_of(caplog):
    own = statistics_of(scored_windows(40))
    own.refuse_unless_made_by({"tensors": "a1"}, "The statistics s.json")
    assert "The statistics s.json do not say what scored" in caplog.text
    caplog.clear()
    add_long_distance_score(scored_windows(40, seed=3), statistics=own)
    assert not caplog.records
    away = scored_windows(40).to_pandas()
    away["dependency_strength"] += 10 * away["dependency_strength"].std() + 1
    add_long_distance_score(Dataset.from_pandas(away), statistics=own)
    assert "standard deviations and more from the mean of the statistics given" in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"mean"', '"maen"', 1),
        lambda text: text.replace('"dependency_strength"', '"dependency_length"', 1),
        lambda text: re.sub('"count": [0-9]+', '"count": 0', text),
        lambda text: text.replace('"mean": ', '"mean": NaN, "x": ', 1),
        lambda text: re.sub('"mean": [^,]+', '"mean": NaN', text, count=1),
        lambda text: re.sub('"maximum": [^,}]+', '"maximum": Infinity', text, count=1),
        lambda text: re.sub('"mean": ([^,]+)', r'"mean": "\1"', text, count=1),
        lambda text: "[]",
        lambda text: "\xff\xfe",
    ],
)
def test_damaged_statistics_are_refused_by_name(tmp_path, damage):
    path = tmp_path / "statistics.json"
    statistics_of(scored_windows(40)).save(path)
    path.write_text(damage(path.read_text()), encoding="latin-1")
    with pytest.raises(ValueError, match=r"The statistics .*statistics.json (cannot be read|are damaged)"):
        ScoreStatistics.load(path)
    with pytest.raises(ValueError, match="absent.json cannot be read"):
        ScoreStatistics.load(tmp_path / "absent.json")


def test_documents_that_share_an_id_do_not_refuse_one_another():
    windows = pa.table(
        {
            "id": ["a", "b", "c"],
            "doc_id": ["0", "0", "0"],
            "doc_hash": ["x", "y", "y"],
            "category": ["k"] * 3,
            "start_token": [0, 0, 5],
            "num_tokens": [10, 10, 10],
            "long_distance_score": [3.0, 2.0, 1.0],
        }
    )
    kept = select_windows(Dataset(windows), fraction=1.0, refuse_overlap=True)
    # c shares tokens with b of the same text; a is of another
    assert kept["id"][:] == ["a", "b"]


@pytest.mark.parametrize("column", ["dependency_strength", "map_variance"])
def test_a_score_that_is_not_a_number_is_an_error_and_a_missing_one_is_none(column):
    table = scored_windows(4).with_format("arrow")[:]
    at = table.column_names.index(column)
    with_nan = table.set_column(at, column, pa.array([math.nan, *table[column].to_pylist()[1:]]))
    with pytest.raises(ValueError, match=f"Column '{column}' holds NaN"):
        long_distance_scores(with_nan)
    with pytest.raises(ValueError, match="alpha=nan must be a finite number"):
        long_distance_scores(table, alpha=math.nan)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (
            pa.array([1, None, 1]),
            "says nothing of 1 of the 2 windows that could be kept, and a budget needs the length",
        ),
        (pa.array([1.0, float("nan"), 1.0]), "says nothing of 1 of the 2 windows"),
        (pa.array(["1", "1", "1"]), "'num_tokens' is string, and a budget counts in numbers"),
    ],
)
@pytest.mark.parametrize("limit", ["token_budget", "total_token_budget"])
def test_a_budget_of_windows_whose_lengths_are_not_known_is_refused(lengths, message, limit):
    table = pa.table({"id": list("abc"), "score": pa.array([1.0, 2.0, None]), "num_tokens": lengths})
    with pytest.raises(ValueError, match=message):
        select_windows(table, score="score", by=None, **{limit: 5})
    # of a window that cannot be kept nobody asks
    reordered = table.set_column(1, "score", pa.array([1.0, None, 2.0]))
    if not pa.types.is_string(lengths.type):
        assert select_windows(reordered, score="score", by=None, **{limit: 1})["id"].to_pylist() == ["c"]
