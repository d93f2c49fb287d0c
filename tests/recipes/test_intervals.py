import math
from itertools import product

import numpy as np
import pytest

from recipes.intervals import (
    Estimate,
    area_under_curve,
    mean_over_items,
    mean_over_runs,
    pairs_won,
    rank_correlation,
    with_standard_error,
)


def test_students_interval_of_three_runs_is_that_of_the_tables():
    # mean 2, standard deviation 1, and 4.303 for two degrees of freedom
    estimate = mean_over_runs([1.0, 2.0, 3.0])
    assert (estimate.value, estimate.count) == (2, 3)
    assert estimate.high - 2 == 2 - estimate.low == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)


def test_runs_that_agree_have_an_interval_without_width_and_one_run_has_none():
    assert mean_over_runs([0.5, 0.5, 0.5]) == Estimate(value=0.5, low=0.5, high=0.5, count=3)
    assert mean_over_runs([0.5]) == Estimate(value=0.5, count=1)
    assert mean_over_items(np.array([3.0])) == Estimate(value=3.0, count=1)
    assert area_under_curve(np.array([1.0]), np.array([0.0, 2.0])) == Estimate(value=0.5, count=1)


def test_the_bootstrap_of_a_mean_is_that_of_all_samples_drawn_by_hand():
    values = np.array([0.0, 1.0, 5.0])
    means = [np.mean(drawn) for drawn in product(values, repeat=3)]
    # of the 27 equally likely samples the lowest and the highest have a share of 3.7% each, more than 2.5%
    assert (min(means), max(means)) == (0, 5)
    estimate = mean_over_items(values)
    assert (estimate.low, estimate.value, estimate.high) == (0, 2, 5)


def test_the_bootstrap_of_many_values_is_as_wide_as_the_normal_distributions():
    values = np.random.default_rng(0).normal(size=2000)
    estimate = mean_over_items(values)
    # the ends of 2000 resamples scatter by some hundredths of the width
    half = 1.96 * values.std() / math.sqrt(2000)
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.1)


def test_an_area_is_one_half_of_equal_scores_and_one_of_separate_ones():
    same, above = np.full(5, 2.0), np.arange(5.0) + 10
    assert area_under_curve(same, same) == Estimate(value=0.5, low=0.5, high=0.5, count=5)
    assert area_under_curve(above, same[:3]) == Estimate(value=1.0, low=1.0, high=1.0, count=3)


def test_an_area_of_many_windows_is_as_uncertain_as_hanley_and_mcneil_say():
    rng = np.random.default_rng(0)
    estimate = area_under_curve(rng.random(300), rng.random(200))
    # of scores that tell nothing: the variance (m + n + 1) / (12 m n)
    half = 1.96 * math.sqrt(501 / (12 * 300 * 200))
    assert estimate.value == pytest.approx(0.5, abs=1.5 * half)
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.1)


def test_the_same_seed_gives_the_same_interval():
    first, second = np.random.default_rng(1).random((2, 30))
    assert pairs_won(first, second) == pairs_won(first, second)
    assert area_under_curve(first, second) == area_under_curve(first, second)
    assert mean_over_items(first, seed=0) != mean_over_items(first, seed=1)


def test_a_standard_error_becomes_the_normal_interval():
    estimate = with_standard_error(0.5, 0.1)
    assert (estimate.low, estimate.high) == (pytest.approx(0.304004, abs=1e-6), pytest.approx(0.695996, abs=1e-6))


def test_estimates_are_written_with_their_interval_if_there_is_one():
    assert str(Estimate(value=0.5, low=0.25, high=1.0)) == "0.500 [0.250, 1.000]"
    assert str(Estimate(value=0.5, count=1)) == "0.500"


def test_a_constant_column_correlates_with_nothing():
    matrix = rank_correlation(np.array([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0]]))
    assert matrix[0, 0] == pytest.approx(1) and np.isnan(matrix[0, 1]) and np.isnan(matrix[1, 1])
    assert rank_correlation(np.arange(3.0)[:, None]).shape == (1, 1)
