import json
from dataclasses import asdict

import numpy as np
import pytest
from datasets import Dataset

import longattn_hf
from longattn_hf.baselines.by_name import make_scorer, ranking_column
from longattn_hf.baselines.far_gain import FarGainCalibration, FarGainScorer, load_far_gain_calibration
from longattn_hf.baselines.text_kind import SURFACE, Kind, describe_surface, fit_kind
from longattn_hf.baselines.word_gain import WordGainScorer, far_gains, mean_far_gain
from longattn_hf.baselines.word_order import BLOCKS, order_z_scores
from longattn_hf.scoring.words import split_words

ONE_LETTER = np.exp(-(1.0 + 1.3))


def test_words_are_split_at_marks_and_in_scripts_without_blanks_at_characters():
    assert split_words("It's 2 foo_bar, 你好 กิ!") == ["It", "'", "s", "2", "foo_bar", ",", "你", "好", "กิ", "!"]


def test_a_word_that_stands_far_and_not_near_gains_by_its_count():
    # the near word is c: (0 + p0) / (1 + 1); all three are a, b, c: (1 + p0) / (3 + 1); nothing followed c before
    gains = far_gains(["a", "b", "c", "a"], near=1)
    np.testing.assert_allclose(gains[3], np.log(((1 + ONE_LETTER) / 4) / (ONE_LETTER / 2)), rtol=1e-12)
    # the first two have no far context
    assert gains[:2].tolist() == [0, 0]


def test_a_pair_that_stands_far_gains_more_than_its_words():
    # b after a: of five words one is b, then of the one a that something follows, one by b; near is d, a
    once = (1 + ONE_LETTER) / 6
    gains = far_gains(["a", "b", "c", "d", "a", "b"], near=1)
    np.testing.assert_allclose(gains[5], np.log(((1 + once) / 2) / (ONE_LETTER / 2)), rtol=1e-12)


def test_a_word_that_stands_near_as_often_as_anywhere_gains_nothing():
    # all words the same: near (n + p0) / (n + 1) against (m + p0) / (m + 1) for m > n earlier words, both close to 1
    assert abs(mean_far_gain(["same"] * 800)) < 0.002


def test_the_mean_goes_over_the_last_three_quarters():
    words = [f"w{n % 7}" for n in range(80)]
    np.testing.assert_allclose(mean_far_gain(words), far_gains(words, 10)[20:].mean(), rtol=1e-12)


def test_the_order_of_two_halves_against_other_orders_of_quarters():
    # x in one half and y in the other: at distance d up to a quarter, 64 - d pairs of blocks, all alike but d at each
    # border of x and y. The sum over d of 1 / d times that is less by 16 a border. The text has 1 border; of the 23
    # other orders of its quarters 7 have 1, 8 have 2, 8 have 3
    borders = np.array([1] * 7 + [2] * 8 + [3] * 8)
    words = ["x"] * (BLOCKS // 2) + ["y"] * (BLOCKS // 2)
    z_of_quarters = order_z_scores(words)[2]
    np.testing.assert_allclose(z_of_quarters, (borders.mean() - 1) / borders.std(), rtol=1e-9)


def test_a_text_whose_blocks_are_all_alike_has_no_order():
    assert order_z_scores(["x", "y"] * 512) == [0, 0, 0]


def test_a_shuffle_of_eighths_is_seen_at_eighths_and_not_below():
    # eight parts with words of their own, each word also in the next part
    rng = np.random.default_rng(0)
    parts = [[f"w{rng.integers(30 * i, 30 * i + 60)}" for _ in range(320)] for i in range(8)]
    intact = order_z_scores([word for part in parts for word in part])
    shuffled = order_z_scores([word for i in (3, 7, 1, 5, 0, 4, 2, 6) for word in parts[i]])
    assert intact[1] > 4 and shuffled[1] < 1
    assert shuffled[0] > 4


def test_the_surface_of_a_text_worked_out_by_hand():
    text = "Ab 12 ab\n\n- ab 3 Cd\n"
    figures = dict(zip(SURFACE, describe_surface(text), strict=True))
    # 20 characters, 8 words: Ab 12 ab - ab 3 Cd is 7; three digits, eight letters of which two are capitals
    assert len(text) == 20 and split_words(text) == ["Ab", "12", "ab", "-", "ab", "3", "Cd"]
    np.testing.assert_allclose(figures["characters a word"], np.log(20 / 7))
    np.testing.assert_allclose(figures["digits"], np.log(3 / 20 + 0.002))
    np.testing.assert_allclose(figures["letters"], np.log(8.5 / 12.5))
    np.testing.assert_allclose(figures["capitals"], np.log(2 / 8 + 0.005))
    # eight blanks: five spaces, three line ends
    np.testing.assert_allclose(figures["blanks"], np.log(8 / 20 + 0.01))
    # six different words of seven, five of them once
    np.testing.assert_allclose(figures["different words"], np.log(6.5 / 1.5))
    np.testing.assert_allclose(figures["words that stand once"], np.log(5.5 / 1.5))
    # two lines, "a 0 a" and "- a 0 a"
    np.testing.assert_allclose(figures["lines"], np.log(2 / 20 + 1e-4))
    np.testing.assert_allclose(figures["different shapes of lines"], np.log(2.5 / 0.5))
    np.testing.assert_allclose(figures["spread of line length"], np.log(0.5 / 8.5 + 0.02))
    np.testing.assert_allclose(figures["word length"], np.log(2 + 0.1))


def test_the_surface_of_a_text_of_two_pieces_is_their_mean():
    one, other = "plain words in a line\n" * 400, "A1;B2;C3\n" * 978
    both = one[:8000] + other[:8000]
    np.testing.assert_allclose(
        describe_surface(both), (describe_surface(one[:8000]) + describe_surface(other[:8000])) / 2
    )


def test_a_kinds_distance_is_mahalanobis_in_units_of_its_cut():
    kind = Kind(name="k", mean=[1.0, 0.0], precision=[[4.0, 0.0], [0.0, 1.0]], cut=2.0)
    # off by 1.5 and 4: 4 * 2.25 + 16 = 25
    assert kind.distance(np.array([2.5, 4.0])) == 2.5


def test_a_fitted_kind_has_the_mean_and_the_shrunken_covariance():
    surfaces = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    kind = fit_kind("k", surfaces)
    # variances 4 / 3, no covariance, and 0.0025 more
    np.testing.assert_allclose(kind.mean, [1, 1])
    np.testing.assert_allclose(kind.precision, np.eye(2) / (4 / 3 + 0.0025), atol=1e-12)


CALIBRATION = FarGainCalibration(
    corpus="toy",
    window_tokens=4096,
    gain_floor=0.5,
    gain_width=0.25,
    order_floors=[2.0, 1.0, 0.5],
    order_slope=3.0,
    kinds=(),
)


def test_at_its_floors_the_gain_is_a_width_times_log_2_and_the_order_an_eighth():
    np.testing.assert_allclose(CALIBRATION.weigh_gain(0.5), 0.25 * np.log(2))
    np.testing.assert_allclose(CALIBRATION.weigh_order([2.0, 1.0, 0.5]), 1 / 8)
    # twice the floors: each 1 / (1 + exp(-3))
    np.testing.assert_allclose(CALIBRATION.weigh_order([4.0, 2.0, 1.0]), (1 + np.exp(-3)) ** -3)
    assert CALIBRATION.weigh_gain(-900.0) == 0 and CALIBRATION.weigh_order([-9e4, 9, 9]) == 0
    np.testing.assert_allclose(CALIBRATION.weigh_gain(10.5), 10.0)


@pytest.fixture
def text():
    rng = np.random.default_rng(1)
    return " ".join(f"w{rng.integers(n // 8, n // 8 + 200)}" for n in range(1500))


def save(path, **changes):
    path.write_text(json.dumps(asdict(CALIBRATION) | changes))
    return str(path)


def test_the_score_is_made_of_its_parts(tmp_path, text):
    row = FarGainScorer(calibration=save(tmp_path / "c.json"))({"text": text})
    assert list(row) == ["far_gain", "far_gain_raw", "far_gain_order", "far_gain_oddness"]
    words = text.split()
    np.testing.assert_allclose(row["far_gain_raw"], mean_far_gain(words))
    np.testing.assert_allclose(row["far_gain_order"], CALIBRATION.weigh_order(order_z_scores(words)))
    np.testing.assert_allclose(row["far_gain"], CALIBRATION.weigh_gain(row["far_gain_raw"]) * row["far_gain_order"])
    assert row["far_gain_oddness"] == 0


def test_a_window_of_no_known_kind_scores_0_and_keeps_its_parts(tmp_path, text):
    kind = asdict(Kind(name="far off", mean=[9.0] * len(SURFACE), precision=np.eye(len(SURFACE)).tolist(), cut=1.0))
    row = FarGainScorer(calibration=save(tmp_path / "c.json", kinds=[kind]))({"text": text})
    assert row["far_gain"] == 0 and row["far_gain_oddness"] > 1 and row["far_gain_order"] > 0


def test_map_scores_a_dataset_and_says_why_a_short_row_has_no_score(tmp_path, text):
    rows = Dataset.from_dict({"text": [text, "too short", None]})
    scored = rows.map(FarGainScorer(calibration=save(tmp_path / "c.json"), on_error="skip"), batched=True)
    assert scored.features["far_gain"].dtype == "float64"
    assert scored["far_gain"][0] >= 0 and scored["far_gain"][1:] == [None, None]
    assert scored["skip_reason"][:] == [None, "too short (2 words, 512 are the least)", "missing"]
    with pytest.raises(ValueError, match="Row 1 .* too short"):
        rows.map(FarGainScorer(calibration=save(tmp_path / "c.json")), batched=True)


def test_the_gain_is_a_scorer_by_itself_and_does_not_look_at_order_or_kind(tmp_path, text):
    assert ranking_column("word_gain") == "word_gain" and isinstance(make_scorer("word_gain", {}), WordGainScorer)
    row = WordGainScorer()({"text": text})
    assert row == {"word_gain": FarGainScorer(calibration=save(tmp_path / "c.json"))({"text": text})["far_gain_raw"]}
    words = text.split()
    # quarters in another order: what was near is far, so the gain is larger
    shuffled = " ".join(word for i in (2, 0, 3, 1) for word in words[375 * i : 375 * (i + 1)])
    assert WordGainScorer()({"text": shuffled})["word_gain"] > row["word_gain"]
    with pytest.raises(ValueError, match="511 words, 512 are the least"):
        WordGainScorer()({"text": "w " * 511})


def test_the_packages_calibration_tells_a_document_from_its_shuffle_and_from_a_log():
    assert longattn_hf.FarGainScorer is FarGainScorer
    calibration = load_far_gain_calibration()
    assert {kind.name for kind in calibration.kinds} == {"arxiv", "book", "code"}
    lines = "\n".join(f"2024-03-01T00:00:{n % 60:02} INFO worker-{n % 7} done id={n * 37 % 1000}" for n in range(400))
    assert FarGainScorer()({"text": lines})["far_gain"] == 0


def test_a_file_that_is_no_calibration_is_refused(tmp_path):
    for name, content in {"no.json": "{}", "not.json": "no", "list.json": "[]"}.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=f"Cannot read a calibration from .*{name}"):
            load_far_gain_calibration(str(tmp_path / name))
    with pytest.raises(ValueError, match="another version"):
        load_far_gain_calibration(save(tmp_path / "old.json", order_floors=[1.0]))
