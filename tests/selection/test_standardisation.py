"""The scale of the scores on small numbers, where each value can be worked out by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest

from longattn_hf.selection.moments import Moments
from longattn_hf.selection.standardisation import (
    ScoreStatistics,
    group_rows,
    long_distance_scores,
    ranking_scores,
)

RAW = ("dependency_strength", "distribution_uniformity", "map_variance")


def raw_scores(strengths, uniformities=None, variances=None, **columns):
    nothing = [0.0] * len(strengths)
    values = dict(zip(RAW, (strengths, uniformities or nothing, variances or nothing), strict=True))
    return pa.table({name: pa.array(column, pa.float64()) for name, column in values.items()} | columns)


def test_moments_are_those_of_the_definition():
    moments = Moments.of(np.array([1.0, 2.0, 6.0]))
    # the mean is 3, the deviations -2, -1 and 3
    assert moments == Moments(count=3, mean=3.0, squared_deviations=14.0, minimum=1.0, maximum=6.0)
    assert moments.std == math.sqrt(14 / 3)
    assert moments.standardise(np.array([3.0, 3 + math.sqrt(14 / 3)]), "zscore").tolist() == pytest.approx([0, 1])
    assert moments.standardise(np.array([1.0, 6.0, 3.0, 11.0]), "minmax").tolist() == pytest.approx([0, 1, 0.4, 2])
    both = moments.merge(Moments.of(np.array([-1.0, 7.0])))
    assert both == Moments(count=5, mean=3.0, squared_deviations=46.0, minimum=-1.0, maximum=7.0)


@pytest.mark.parametrize("how", ["zscore", "minmax"])
@pytest.mark.parametrize("value", [0.1, -0.1, 1e-14, -1e-14, 0.0])
def test_equal_values_are_at_zero_and_nearly_equal_ones_are_apart(how, value):
    # the mean of seven tenths is not a tenth in binary
    equal = np.full(7, value)
    assert Moments.of(equal).standardise(equal, how).tolist() == [0.0] * 7
    apart = np.array([value, value + 1e-9 * max(abs(value), 1e-5)])
    expected = [-1, 1] if how == "zscore" else [0, 1]
    np.testing.assert_allclose(Moments.of(apart).standardise(apart, how), expected, atol=1e-4)


def test_the_long_distance_score_is_worked_out_as_by_hand():
    # the Z-scores are -1, 1 and 1, -1; on a scale from 0 to 1 they are 0, 1 and 1, 0
    table = raw_scores([0.2, 0.4], [-1e-9, -3e-9], [4e-9, 2e-9])
    assert long_distance_scores(table, by=None) == pytest.approx([-0.5, 0.5])
    assert long_distance_scores(table, by=None, alpha=2.0) == pytest.approx([1.0, -1.0])
    for convention in ("reference_code", "reference_code_causal"):
        assert long_distance_scores(table, by=None, convention=convention) == pytest.approx([-0.5, 1.0])


def test_groups_come_in_the_order_of_their_names_and_each_window_needs_one():
    table = pa.table({"category": ["b", "a", "b", "c", "a"]})
    groups = group_rows(table, "category", np.array([True, True, True, False, True]))
    assert {name: rows.tolist() for name, rows in groups.items()} == {"a": [1, 4], "b": [0, 2], "c": []}
    assert [*groups] == ["a", "b", "c"]
    assert group_rows(table, None, np.array([0, 1, 0, 0, 1], dtype=bool))["all"].tolist() == [1, 4]
    with pytest.raises(ValueError, match="Column 'category' is null in 2 rows; every window needs a category"):
        group_rows(pa.table({"category": ["a", None, None]}), "category", np.ones(3, dtype=bool))


def test_windows_without_scores_are_in_no_statistics_and_half_a_score_is_an_error():
    table = raw_scores([0.2, None, 0.4], [0.0, None, 0.0], [0.0, None, 0.0], category=["a", "b", "a"])
    statistics = ScoreStatistics.of(table)
    assert [*statistics.by_category] == ["a"] and statistics.by_category["a"]["dependency_strength"].count == 2
    np.testing.assert_allclose(long_distance_scores(table), [-1, math.nan, 1])
    with pytest.raises(ValueError, match="'map_variance' holds a value that is not finite"):
        long_distance_scores(raw_scores([0.2, 0.3], variances=[0.0, None]), by=None)


def test_statistics_of_different_categories_and_of_one_scorer_are_put_together(tmp_path):
    scorer = {"tensors": "a1"}
    one, two = (
        ScoreStatistics(ScoreStatistics.of(raw_scores([0.2, 0.4], category=[name] * 2)).by_category, scorer)
        for name in "ab"
    )
    both = one.merge(two)
    assert both == ScoreStatistics({**one.by_category, **two.by_category}, scorer)
    both.save(tmp_path / "s.json")
    assert ScoreStatistics.load(tmp_path / "s.json") == both
    # of one whose scorer is not known, nothing can be said
    unknown = ScoreStatistics(two.by_category)
    assert one.merge(unknown).scorer is None and unknown.merge(one).scorer is None
    assert one.merge(one).by_category["a"]["dependency_strength"].count == 4


@pytest.mark.parametrize(
    ("strengths", "warned"),
    [
        # the statistics have a mean of 1 and a standard deviation of 0.5
        ([3.1, 3.1], "4.2"),
        ([-1.1, -1.1], "4.2"),
        ([2.9, 2.9], None),
        ([-0.9, -0.9], None),
        # one window says nothing of a corpus; nor does the half that lies near
        ([9.0], None),
        ([1.0, 1.0, 9.0], None),
    ],
)
def test_a_corpus_that_lies_four_standard_deviations_off_is_warned_of(caplog, strengths, warned):
    statistics = ScoreStatistics.of(raw_scores([0.5, 1.5]), by=None)
    long_distance_scores(raw_scores(strengths), by=None, statistics=statistics)
    assert bool(caplog.records) == bool(warned)
    assert not warned or f"Half of the windows of 'all' have a dependency strength {warned} standard" in caplog.text


def test_a_scale_of_equal_scores_warns_of_nothing(caplog):
    statistics = ScoreStatistics.of(raw_scores([0.5, 0.5]), by=None)
    assert long_distance_scores(raw_scores([0.9, 0.9]), by=None, statistics=statistics).tolist() == [0, 0]
    assert not caplog.records


def test_windows_rank_by_a_column_or_by_the_weighted_sum_of_z_scores():
    table = pa.table(
        {
            "category": ["a", "a", "b", "b", "b"],
            "x": [1.0, 3.0, 10.0, 30.0, None],
            "y": pa.array([4, 2, 7, 9, 8]),
            "none": pa.nulls(5),
            "flag": [True] * 5,
        }
    )
    np.testing.assert_array_equal(ranking_scores(table, "x"), [1, 3, 10, 30, math.nan])
    assert ranking_scores(table, "y").tolist() == [4, 2, 7, 9, 8]
    # the Z-scores are -1, 1, -1, 1 and 1, -1, -1, 1
    np.testing.assert_allclose(ranking_scores(table, {"x": 2.0, "y": 1.0}), [-1, 1, -3, 3, math.nan])
    # over all, y has a mean of 6 and squared deviations of 4, 16, 1, 9 and 4
    expected = np.array([2, 4, -1, -3, -2]) / math.sqrt(34 / 5)
    np.testing.assert_allclose(ranking_scores(table, {"y": -1.0}, by=None), expected)
    assert np.isnan(ranking_scores(table, "none")).all() and np.isnan(ranking_scores(table, {"none": 1.0})).all()
    with pytest.raises(ValueError, match="Column 'flag' is bool, and windows are ranked by numbers"):
        ranking_scores(table, "flag")
    with pytest.raises(ValueError, match="No column 'z'; the columns are category, x, y, none, flag"):
        ranking_scores(table, {"x": 1.0, "z": 1.0})
