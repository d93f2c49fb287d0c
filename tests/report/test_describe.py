"""The facts of a report, from a table small enough to count by hand."""

import json
import math
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import pytest

from longattn_hf.report.describe import (
    DocumentCounts,
    compare_conventions,
    describe_categories,
    describe_sources,
    software_versions,
)
from longattn_hf.report.examples import echoing_passage, pick_examples
from longattn_hf.report.parts import CategoryFacts, Spread
from longattn_hf.selection.cut import Selection

SCORES = ("dependency_strength", "distribution_uniformity", "map_variance", "long_distance_score")


PAPER = Selection(fraction=0.5)


def table(rows, names):
    return pa.table({name: pa.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)})


@pytest.fixture
def scores():
    names = ("id", "category", "source", "license", "doc_id", "num_tokens", "kept", "skip_reason", *SCORES)
    return table(
        [
            ("a", "book", "x", "CC0", "1", 10, True, None, 0.5, -3.0, 2.0, 1.5),
            ("b", "book", "x", "CC0", "1", 20, True, None, 0.3, -1.0, 4.0, 0.5),
            ("c", "book", "x", "MIT", "2", 30, False, None, 0.1, -2.0, 9.0, -2.0),
            ("d", "book", None, None, "3", 40, False, "too short", None, None, None, None),
            ("e", "book", None, None, "3", 50, False, "empty", None, None, None, None),
            ("f", "book", None, None, "3", 60, False, "too short", None, None, None, None),
            ("g", "code", "x", "CC0", "4", 70, False, None, 0.4, -4.0, 1.0, -0.5),
        ],
        names,
    )


@pytest.fixture
def counts():
    book, code = DocumentCounts(), DocumentCounts()
    book.add(4, {"too short": 1}, [("x", "CC0", 3), (None, None, 1)])
    book.add(3, {"too short": 1, "empty": 1}, [("x", "CC0", 1), ("x", "MIT", 2)])
    code.add(2, {}, [("x", "CC0", 2)])
    return {"book": book, "code": code, "law": DocumentCounts()}


def test_documents_are_counted_over_parts_and_come_back_from_plain_values(counts):
    assert (counts["book"].documents, counts["book"].skipped) == (7, {"too short": 2, "empty": 1})
    assert counts["book"].by_source == {("x", "CC0"): 4, (None, None): 1, ("x", "MIT"): 2}
    again = DocumentCounts()
    again.add(**json.loads(json.dumps(counts["book"].to_plain())))
    assert again == counts["book"]


def test_a_categorys_facts_are_those_of_its_windows(scores, counts):
    facts = describe_categories(scores, counts, PAPER, SCORES)
    assert [*facts] == ["book", "code", "law"]
    deviation = math.sqrt(((0.5 - 0.3) ** 2 + (0.1 - 0.3) ** 2) / 3)
    book = facts["book"]
    assert book.scores["dependency_strength"].std == pytest.approx(deviation)
    assert book.scores["dependency_strength"].mean == pytest.approx(0.3)
    assert (book.scores["dependency_strength"].min, book.scores["dependency_strength"].max) == (0.1, 0.5)
    assert book.scores["distribution_uniformity"] == Spread(min=-3, mean=-2, max=-1, std=math.sqrt(2 / 3))
    assert book.scores["map_variance"] == Spread(min=2, mean=5, max=9, std=math.sqrt(26 / 3))
    assert (book.scores["long_distance_score"].min, book.scores["long_distance_score"].max, book.cut) == (-2, 1.5, 0.5)
    assert (book.documents, book.windows, book.tokens) == (7, 6, 210)
    assert (book.kept_windows, book.kept_tokens, book.kept_documents) == (2, 30, 1)
    # in the order of their names
    assert [*book.skipped.items()] == [("empty", 1), ("too short", 2)]
    assert [*book.windows_skipped.items()] == [("empty", 1), ("too short", 2)]
    assert (facts["code"].kept_windows, facts["code"].cut, facts["code"].tokens) == (0, None, 70)
    nothing = Spread(min=None, mean=None, max=None, std=None)
    assert facts["law"] == CategoryFacts(
        **dict.fromkeys(("documents", "windows", "tokens", "kept_windows", "kept_tokens", "kept_documents"), 0),
        scores=dict.fromkeys(SCORES, nothing),
        skipped={},
        windows_skipped={},
        cut=None,
    )
    unskipped = describe_categories(scores.drop_columns(["skip_reason"]), counts, PAPER, SCORES)["book"]
    assert unskipped.windows_skipped == {} and unskipped.windows == 6


def test_equal_scores_on_both_sides_of_the_cut_are_counted_but_not_those_of_a_draw(counts):
    windows = pa.table(
        {
            **{"id": list("abcdef"), "doc_id": list("abcdef"), "category": ["book"] * 6, "num_tokens": [1] * 6},
            "length": [2.0, 1.0, 1.0, 1.0, 1.0, None],
            "kind": [1.0, 1.0, 1.0, 1.0, -1.0, 1.0],
        }
    )
    for temperature, gate, tied in ((0.0, {}, 4), (0.0, {"kind": 0}, 3), (1.0, {}, 0)):
        selection = Selection(score="length", fraction=0.4, temperature=temperature, gate=gate)
        facts = describe_categories(selection.apply(windows), counts, selection, ["length"])["book"]
        assert (facts.kept_windows, facts.tied) == (2, tied)


def test_a_sources_row_counts_its_documents_and_windows(scores, counts):
    rows = [
        (row.category, row.source, row.license, row.documents, row.windows, row.kept_windows)
        for row in describe_sources(scores, counts)
    ]
    assert rows == [
        ("book", "x", "CC0", 4, 2, 2),
        ("book", "x", "MIT", 2, 1, 0),
        ("book", "unnamed", "unknown", 1, 3, 0),
        ("code", "x", "CC0", 2, 1, 0),
    ]
    # documents without a window, of a source that no window names
    counts["book"].add(5, {}, [("y", None, 5)])
    assert ("y", "unknown", 5, 0, 0) in [
        (row.source, row.license, row.documents, row.windows, row.kept_windows)
        for row in describe_sources(scores, counts)
    ]


def ranked(strengths, uniformities, variances, kept, category="book"):
    """Windows whose Z-scores and places between 0 and 1 are read off: the long-distance score is given by hand."""
    count = len(strengths)
    return pa.table(
        {
            "id": [f"{category}{at}" for at in range(count)],
            "category": [category] * count,
            "kept": kept,
            "long_distance_score": pa.array(
                [None if s is None else s + u for s, u in zip(strengths, uniformities, strict=True)], pa.float64()
            ),
            "dependency_strength": pa.array(strengths, pa.float64()),
            "distribution_uniformity": pa.array(uniformities, pa.float64()),
            "map_variance": pa.array(variances, pa.float64()),
        }
    )


def test_two_conventions_are_compared_by_rank_and_by_what_both_keep():
    # by the released code these score 0, 1/3, 2/3 and 1 less alpha times 0, 0, 1 and 0
    one = ranked([0.0, 1.0, 2.0, 3.0, None], [0.0] * 4 + [None], [0, 0, 9, 0, None], [False, False, True, True, False])
    for alpha, spearman, overlap in (
        # order 0 1 2 3
        (0.1, 1.0, 1.0),
        # order 0 2 1 3: two places of one rank, 1 - 6 * 2 / (4 * 15)
        (0.5, 0.8, 0.5),
        # order 2 0 1 3
        (2.0, 1 - 6 * 6 / 60, 0.5),
    ):
        agreement = compare_conventions(one, replace(PAPER, alpha=alpha))
        assert agreement.other_convention == "reference_code" and [*agreement.categories] == ["book"]
        assert agreement.categories["book"].spearman == pytest.approx(spearman)
        assert agreement.categories["book"].kept_overlap == overlap
    assert compare_conventions(one, replace(PAPER, convention="reference_code")).other_convention == "paper"


def test_ties_are_kept_by_name_and_what_says_nothing_is_none():
    # all score 0 by the released code, so it keeps book0
    tied = ranked([0.5] * 4, [1.0, 2.0, 3.0, 4.0], [1.0] * 4, [False, True, False, False])
    single = ranked([0.5], [1.0], [1.0], [False], category="code")
    agreement = compare_conventions(pa.concat_tables([tied, single]), PAPER).categories
    assert (agreement["book"].spearman, agreement["book"].kept_overlap) == (None, 0)
    assert (agreement["code"].spearman, agreement["code"].kept_overlap) == (None, None)


@pytest.mark.parametrize(("count", "each"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 2)])
def test_examples_are_the_windows_at_both_ends_with_a_passage_of_their_text(count, each):
    order = np.random.default_rng(count).permutation(count)
    scores = ranked(order.tolist(), [0.5] * count, [1.0] * count, [True] * count)
    scores = scores.append_column(
        "source", pa.array([None if at == count - 1 else f"s{at}" for at in order], pa.string())
    )
    unscored = ranked([None], [None], [None], [False], category="code").append_column("source", pa.array(["z"]))
    texts = [f"{at} " + "x" * 400 for at in order] + ["none"]
    both = pa.concat_tables([scores, unscored])
    examples = pick_examples(both, PAPER, SCORES, lambda rows: [(texts[row], row / 8) for row in rows.tolist()])
    assert [*examples] == ["book"]
    best = [int(np.flatnonzero(order == rank)[0]) for rank in reversed(range(count))]
    for found, expected in ((examples["book"].highest, best[:each]), (examples["book"].lowest, best[-each:])):
        assert [example.id for example in found] == [f"book{row}" for row in expected]
        for example, row in zip(found, expected, strict=True):
            assert example.excerpt == texts[row][:300] and len(example.excerpt) == 300
            assert example.far_share == row / 8
            assert example.scores == dict(zip(SCORES, (order[row], 0.5, 1.0, order[row] + 0.5), strict=True))
            assert example.source == ("unnamed" if order[row] == count - 1 else f"s{order[row]}")


def test_examples_of_one_score_are_in_the_order_of_their_names():
    scores = ranked([1.0] * 4, [0.0] * 4, [1.0] * 4, [True] * 4).take([2, 0, 3, 1])
    examples = pick_examples(scores, PAPER, SCORES, lambda rows: [("text", None)] * len(rows))["book"]
    assert [[e.id for e in end] for end in (examples.highest, examples.lowest)] == [
        ["book0", "book1"],
        ["book2", "book3"],
    ]
    assert examples.highest[0].source == "unnamed"


def test_of_many_categories_the_largest_have_examples():
    # c00 has one window, c11 twelve
    scores = pa.concat_tables(
        ranked([0.0] * (at + 1), [0.0] * (at + 1), [1.0] * (at + 1), [True] * (at + 1), f"c{at:02}")
        for at in range(12)
    )
    examples = pick_examples(scores, PAPER, SCORES, lambda rows: [("text", None)] * len(rows))
    assert [*examples] == [f"c{at:02}" for at in range(2, 12)]


def test_the_passage_of_a_text_is_where_most_words_stood_far_before():
    names = [f"alpha{at:02}" for at in range(40)]
    # the names once, then 3,000 characters of short words, then two of the names, then all, then short words again
    once, gap, rest = " ".join(names), "of it " * 500, "as to " * 200
    text = f"{once} {gap}{names[0]} {names[1]} {rest}{once} {rest}"
    passage = echoing_passage(text)
    assert len(passage) == 300 and passage.startswith("alpha00 alpha01 alpha02") and "alpha36" in passage
    assert echoing_passage("no such words here. " * 2) == "no such words here. " * 2
    assert echoing_passage("") == ""


def test_the_versions_are_those_that_are_installed():
    versions = software_versions()
    assert versions["torch"] == version("torch") and {"python", "longattn_hf", "transformers"} < versions.keys()
