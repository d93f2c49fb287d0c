"""How sure a cut by estimates is, against drawings of the errors and selections of the exact scores."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from longattn_hf.selection.certify import certify, refuse_uncertain
from longattn_hf.selection.cut import Selection
from longattn_hf.selection.standardisation import Moments, ScoreStatistics
from longattn_hf.selection.steps import join_steps, next_steps

RAW = ("dependency_strength", "distribution_uniformity", "map_variance")
ERRORS = ("dependency_strength_standard_error", "distribution_uniformity_standard_error")
#: A scale of mean 0 and standard deviation 1, on which scores are as they stand.
PLAIN = ScoreStatistics(
    {c: {n: Moments(count=1, mean=0, squared_deviations=1, minimum=0, maximum=1) for n in RAW} for c in "ab"}
)


def scored(strengths, errors, *, uniformities=None, categories=None, **columns):
    count = len(strengths)
    values = {
        RAW[0]: np.asarray(strengths, dtype=float),
        RAW[1]: np.zeros(count) if uniformities is None else np.asarray(uniformities, dtype=float),
        RAW[2]: np.zeros(count),
        ERRORS[0]: pa.array(errors, pa.float64()),
        ERRORS[1]: np.zeros(count),
        "id": [f"w{i:04d}" for i in range(count)],
        "category": categories or ["a"] * count,
        "num_tokens": [8] * count,
    }
    return pa.table(values | columns)


def kept(table, selection):
    return selection.apply(table)["kept"].to_numpy(zero_copy_only=False)


def chance_of_another_set(table, selection, draws=400, seed=0):
    """The share of drawings of the errors whose selection is not that of the estimates."""
    rng, before, other = np.random.default_rng(seed), kept(table, selection), 0
    strengths, errors = table[RAW[0]].to_numpy(), table[ERRORS[0]].to_numpy()
    for _ in range(draws):
        drawn = pa.array(strengths + errors * rng.standard_normal(len(table)))
        other += bool((kept(table.set_column(0, RAW[0], drawn), selection) != before).any())
    return other / draws


def test_one_window_near_a_threshold_is_wrong_as_often_as_a_normal_error_says():
    selection = Selection(threshold=1.0, statistics=PLAIN)
    certificate = certify(scored([0.0, 1.3, 3.0], [0.2, 0.2, 0.2]), selection, confidence=0.95)
    # 1.5 standard errors above: 0.0668; the others lie 5 and 10 away
    assert certificate.categories["a"].wrong == pytest.approx(0.0668072, abs=1e-6)
    assert certificate.undecided.tolist() == [1] and certificate.nearly.tolist() == [True]
    assert certificate.categories["a"].moved == 0 and certificate.categories["a"].kept == 2
    assert not len(certify(scored([0.0, 1.3, 3.0], [0.2, 0.2, 0.2]), selection, confidence=0.9).undecided)


@pytest.mark.parametrize("limit", [{"threshold": 0.9}, {"fraction": 0.25}, {"token_budget": 61}, {"token_budget": 5}])
@pytest.mark.parametrize("overlaps", [False, True])
def test_the_probability_of_a_mistake_is_at_most_what_it_claims(limit, overlaps):
    rng = np.random.default_rng(3)
    strengths = np.round(rng.normal(size=24), 2)
    # lengths differ, so that a budget may have room for a window but not for a better one
    lengths = rng.integers(4, 13, 24)
    columns = {"num_tokens": lengths, "doc_id": [f"d{i // 2}" for i in range(24)], "start_token": [0, 3] * 12}
    table = scored(strengths, rng.uniform(0, 0.08, 24), **columns)
    selection = Selection(**limit, refuse_overlap=overlaps, statistics=PLAIN)
    certificate = certify(table, selection, confidence=0.999)
    happens = chance_of_another_set(table, selection, draws=400)
    spread = 3 * math.sqrt(max(happens, 1 / 400) / 400)
    assert happens <= certificate.categories["a"].wrong + spread
    # and it is no idle bound
    assert certificate.categories["a"].wrong <= 6 * happens + 0.05
    assert bool(len(certificate.undecided)) == (certificate.categories["a"].wrong > 0.001)


def test_the_worse_of_two_that_overlap_may_be_the_better():
    table = scored([2.0, 1.9, 0.0, -1.0], [0.05, 0, 0, 0], doc_id=["d", "d", "e", "f"], start_token=[0, 4, 0, 0])
    selection = Selection(fraction=0.25, refuse_overlap=True, statistics=PLAIN)
    certificate = certify(table, selection)
    # two standard errors apart
    assert certificate.categories["a"].wrong == pytest.approx(0.0227501, abs=1e-6)
    assert certificate.undecided.tolist() == [0]
    # where both lie far below the cut, it does not matter
    far = scored([-2.0, -1.9, 3.0, 2.0], [0.05, 0, 0, 0], doc_id=["d", "d", "e", "f"], start_token=[0, 4, 0, 0])
    assert certify(far, selection).categories["a"].wrong < 1e-9


def test_refining_what_is_undecided_ends_in_the_exact_selection():
    """Brute force: with every seed the steps are gone through, and their end compared with the exact choice."""
    wrong = refined = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        truth, uniformities = rng.normal(size=80), rng.normal(size=80)
        categories = ["a", "b"] * 40
        exact = scored(truth, np.zeros(80), uniformities=uniformities, categories=categories)
        estimate = truth + 0.1 * rng.standard_normal(80)
        errors = np.full(80, 0.1)
        selection = Selection(fraction=0.25, statistics=PLAIN)
        for _ in range(20):
            table = scored(estimate, errors, uniformities=uniformities, categories=categories)
            certificate = certify(table, selection, confidence=0.95)
            if not len(certificate.undecided):
                break
            estimate[certificate.undecided], errors[certificate.undecided] = truth[certificate.undecided], 0
        assert sum(doubt.wrong for doubt in certificate.categories.values()) <= 0.05
        wrong += bool((kept(table, selection) != kept(exact, selection)).any())
        refined += (errors == 0).mean() / 30
    # 1.5 of 30 are allowed on average; 6 or more would come of that once in 200
    assert wrong < 6 and 0.05 < refined < 0.4


def test_the_scale_of_estimates_is_that_of_what_they_estimate():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=4000)
    estimates = truth + 0.6 * rng.standard_normal(4000)
    of_estimates = ScoreStatistics.of(scored(estimates, np.full(4000, 0.6))).by_category["a"][RAW[0]]
    # sqrt(1 + 0.36) without the errors
    assert of_estimates.std == pytest.approx(truth.std(), rel=0.03)
    assert Moments.of(estimates).std > 1.1
    hardly = ScoreStatistics.of(scored([0.0, 1.0], [5.0, 5.0])).by_category["a"][RAW[0]]
    assert hardly.squared_deviations == 0.25


@pytest.mark.parametrize("limit", [{"fraction": 0.25}, {"threshold": 0.8}])
def test_the_windows_that_the_exact_scale_exchanges_are_as_many_as_expected(limit):
    """Own errors are far below the gaps here or known, so that what moves is the scale's doing."""
    selection, expected, happened, trials = Selection(alpha=1.0, **limit), 0.0, 0, 150
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        truth, uniformities = rng.normal(size=60), rng.normal(size=60)
        exact = scored(truth, np.zeros(60), uniformities=uniformities)
        errors = np.full(60, 0.3)
        table = scored(truth + errors * rng.standard_normal(60), errors, uniformities=uniformities)
        expected += certify(table, selection).categories["a"].moved / trials
        # the exact scores on the scale of the estimates, and on their own
        on_scale = kept(exact, replace(selection, statistics=ScoreStatistics.of(table)))
        out, into = (on_scale & ~kept(exact, selection)).sum(), (kept(exact, selection) & ~on_scale).sum()
        happened += (out if "fraction" in limit else out + into) / trials
    assert expected == pytest.approx(happened, rel=0.3)


def test_more_windows_are_scored_again_where_the_scale_decides():
    rng = np.random.default_rng(1)
    strengths, uniformities = rng.normal(size=40), rng.normal(size=40)
    errors = np.full(40, 0.2)
    table = scored(strengths, errors, uniformities=uniformities)
    order = np.argsort(-(strengths + uniformities))
    # those around the cut are known
    errors[order[:30]] = 0
    table = scored(strengths, errors, uniformities=uniformities)
    certificate = certify(table, Selection(fraction=0.25, alpha=1.0), confidence=0.9999)
    assert certificate.categories["a"].moved > 0.00005 * 10
    again = set(certificate.undecided.tolist())
    assert again and again <= set(order[30:].tolist())
    # the outermost first, from which most of the standard deviation's error comes
    last = order[30:]
    assert abs(strengths[certificate.undecided[0]]) == max(abs(strengths[last]))


def test_steps_are_put_together_and_errors_grow_to_what_they_turn_out_to_be():
    nothing = [None] * 6

    def step(strengths, errors):
        numbers = {name: pa.array(strengths, pa.float64()) for name in RAW}
        more = {name: pa.array(errors, pa.float64()) for name in ERRORS} if errors else {}
        return pa.table(numbers | more | {"category": ["a"] * 6})

    first = step([1.0, 2.0, 3.0, 4.0, 5.0, None], [0.1, 0.1, 0.1, 0.1, 0.1, None])
    quarter = step([None, None, 3.1, 4.1, None, None], [None, None, 0.05, 0.05, None, None])
    exact = step([1.3, 2.1, 3.2, None, None, None], None)
    table = join_steps([(1 / 16, first), (1 / 4, quarter), (1.0, exact)], [*RAW, *ERRORS])
    assert table[RAW[0]].to_pylist() == [1.3, 2.1, 3.2, 4.1, 5.0, None]
    assert table["row_fraction"].to_pylist() == [1, 1, 1, 0.25, 0.0625, None]
    # the ratios are 3, 1 and 2 beside the four of 1.25 that are expected, and then 2 beside four of those
    of_first = math.sqrt((4 * 1.25**2 + 14) / 7)
    of_quarter = math.sqrt((4 * of_first**2 + 4) / 5)
    errors = [0, 0, 0, 0.05 * of_quarter, 0.1 * of_first, None]
    assert table[ERRORS[0]].to_pylist()[:5] == pytest.approx(errors[:5]) and table[ERRORS[0]].to_pylist()[5] is None
    untouched = join_steps([(1 / 16, first), (1.0, step(nothing, None))], [*RAW, *ERRORS])
    assert untouched[ERRORS[1]].to_pylist()[:5] == pytest.approx([0.125] * 5)
    assert next_steps(table, np.array([3, 4, 4]), np.array([True, True, False])).tolist() == [1, 0.25, 1]


def test_where_most_windows_end_up_exact_the_others_are_scored_exactly_at_once():
    strengths, selection = np.linspace(-2, 2, 40), Selection(fraction=0.5, statistics=PLAIN)

    def undecided(error, exact=()):
        certificate = certify(scored(strengths, [0 if at in exact else error for at in range(40)]), selection)
        return certificate.undecided.tolist(), certificate.nearly

    # eight show how large errors are, also where they leave hardly any decided; and a sample does for some
    assert len(undecided(0.8)[0]) == len(undecided(0.15, exact=(0, 39))[0]) == 8
    assert undecided(0.15, exact=(0, 39))[1].any()
    # then all that are not, though twelve would be next
    again, nearly = undecided(0.8, exact=(0, 1, 38, 39))
    assert len(again) > 20 and not nearly.any()


def test_an_error_that_is_not_known_is_as_good_as_none():
    table = scored([0.0, 5.0, 9.0], [0.1, None, 0.1])
    for selection in (Selection(fraction=0.5), Selection(threshold=1.0)):
        assert certify(table, selection).undecided.tolist()[0] == 1


def test_equal_windows_without_errors_are_decided_by_their_names():
    table = scored([1.0, 1.0, 1.0, 0.0], [0, 0, 0, 0.01])
    certificate = certify(table, Selection(fraction=0.25, statistics=PLAIN))
    assert certificate.categories["a"].wrong < 1e-12 and not len(certificate.undecided)


@pytest.mark.parametrize(
    ("selection", "confidence", "message"),
    [
        (Selection(fraction=0.5, score="gzip_ratio"), 0.99, "not with select_by gzip_ratio"),
        (Selection(fraction=0.5, temperature=0.1), 0.99, "not with temperature=0.1"),
        (Selection(total_token_budget=5), 0.99, "not with total_token_budget=5"),
        (Selection(fraction=0.5, gate={"long_distance_score": 0.0}), 0.99, "a gate of the same score"),
        (Selection(fraction=0.5, convention="reference_code"), 0.99, "not with convention='reference_code'"),
        (Selection(fraction=0.5), 1.0, "confidence=1.0 must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_certified_is_refused(selection, confidence, message):
    with pytest.raises(ValueError, match=message):
        refuse_uncertain(selection, confidence)


def test_a_cut_of_nothing_or_of_all_is_sure():
    table = scored([0.0, 1.0, 2.0], [0.5] * 3)
    for limit in itertools.chain([{"fraction": 0.0}, {"fraction": 1.0}], [{"token_budget": 1000}]):
        certificate = certify(table, Selection(**limit))
        assert not len(certificate.undecided) and certificate.categories["a"].wrong == 0
