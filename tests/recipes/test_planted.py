import json

import numpy as np
import pytest

from recipes.benchmarks.planted import main
from recipes.benchmarks.planted_windows import INTACT, Document, kinds_for, plant, split_documents
from recipes.intervals import area_under_curve, pairs_won, rank_correlation
from tests.support.tiny import build_tokenizer

WINDOW = 256


@pytest.fixture(scope="module")
def documents():
    """Eight documents of prose and eight of code, each of words of its own."""
    texts = []
    for i in range(8):
        prose = "\n\n".join(" ".join(f"p{i}x{n}" for n in range(j, j + 30)) for j in range(40))
        code = "\n".join(f"def helper_{i}_{n}(a):\n    return helper_{i}_{max(n - 16, 0)}(a)\n" for n in range(60))
        texts += [("prose", i, prose), ("code", i, code)]
    return [Document(id=f"{category}/{i}", category=category, text=text) for category, i, text in texts]


@pytest.fixture(scope="module")
def windows(documents):
    return list(plant(documents, build_tokenizer(), window_tokens=WINDOW, per_category=3, seed=0))


def of_kind(windows, kind, side="control"):
    return {(w["category"], w["pair"]): w for w in windows if w["kind"] == kind and w["side"] == side}


def chunks(ids, tokens):
    return [tuple(ids[i : i + tokens]) for i in range(0, len(ids), tokens)]


def test_every_window_has_the_length_asked_for_and_an_id_of_its_own(windows):
    assert {len(w["input_ids"]) for w in windows} == {WINDOW}
    assert len({w["id"] for w in windows}) == len(windows)
    tokenizer = build_tokenizer()
    assert all(w["text"] == tokenizer.decode(w["input_ids"]) for w in windows)


def test_the_same_seed_gives_the_same_windows_and_another_seed_others(documents, windows):
    def again(seed):
        return list(plant(documents, build_tokenizer(), window_tokens=WINDOW, per_category=3, seed=seed))

    assert [w["text"] for w in again(0)] == [w["text"] for w in windows] != [w["text"] for w in again(1)]


def test_one_kind_alone_is_the_same_as_among_all(documents, windows):
    alone = plant(documents, build_tokenizer(), window_tokens=WINDOW, per_category=3, seed=0, kinds=["near_copies"])
    copies = {w["id"]: w["text"] for w in windows if w["kind"] in (INTACT, "near_copies")}
    assert {w["id"]: w["text"] for w in alone} == copies


def test_a_shuffle_has_the_same_passages_in_another_order(windows):
    intact = of_kind(windows, INTACT, INTACT)
    shuffled = of_kind(windows, f"shuffle_{WINDOW // 4}")
    assert shuffled.keys() == intact.keys()
    for key, window in shuffled.items():
        own, others = chunks(window["input_ids"], WINDOW // 4), chunks(intact[key]["input_ids"], WINDOW // 4)
        assert own != others and sorted(own) == sorted(others)


def test_no_document_is_on_both_sides_of_an_unpaired_comparison(windows):
    own = {w["doc_id"] for w in windows if w["kind"] == INTACT}
    for kind in (f"collage_{WINDOW // 4}", "short_texts", "repetition"):
        for window in of_kind(windows, kind).values():
            # the words tell which document a passage is of
            category = window["category"]
            marks = {
                f"{category}/{i}" for i in range(8) if f"p{i}x" in window["text"] or f"helper_{i}_" in window["text"]
            }
            assert marks and not marks & own, kind


def test_a_collage_takes_each_passage_from_another_document(windows):
    for (category, _), window in of_kind(windows, f"collage_{WINDOW // 4}").items():
        mark = "p{}x" if category == "prose" else "helper_{}_"
        assert sum(mark.format(i) in window["text"] for i in range(8)) == 4


def test_a_repetition_is_one_paragraph_again_and_again(windows):
    for window in of_kind(windows, "repetition").values():
        ids = window["input_ids"]
        assert any((ids[n:] == ids[:-n]).all() for n in range(48, WINDOW // 2 + 129))


def test_near_copies_copy_most_of_four_passages_half_a_window_on(windows):
    intact = of_kind(windows, INTACT, INTACT)
    for key, window in of_kind(windows, "near_copies").items():
        ids, half = window["input_ids"], WINDOW // 2
        assert (ids[:half] == intact[key]["input_ids"][:half]).all()
        # one token in ten is drawn anew
        assert 0.8 < (ids[half:] == ids[:half]).mean() < 1


def test_definitions_are_replaced_only_where_code_uses_them_far_away(documents):
    quarter, kinds = 256, ["definitions"]
    windows = list(plant(documents, build_tokenizer(), window_tokens=4 * quarter, per_category=3, seed=0, kinds=kinds))
    before, after = of_kind(windows, "definitions", INTACT), of_kind(windows, "definitions")
    assert before.keys() == after.keys() == {("code", 0), ("code", 1), ("code", 2)}
    for key, window in after.items():
        assert (window["input_ids"][quarter:] == before[key]["input_ids"][quarter:]).all()
        assert not (window["input_ids"][:quarter] == before[key]["input_ids"][:quarter]).all()


def test_calibration_and_test_share_no_document(documents):
    calibration, test = split_documents(documents, share=0.25, seed=4)
    assert not {d.id for d in calibration} & {d.id for d in test}
    assert {d.id for d in calibration} | {d.id for d in test} == {d.id for d in documents}
    assert [sum(d.category == c for d in calibration) for c in ("prose", "code")] == [2, 2]


def test_what_cannot_be_planted_is_refused(documents):
    with pytest.raises(ValueError, match="no kind origami"):
        next(plant(documents, build_tokenizer(), window_tokens=64, per_category=1, seed=0, kinds=["origami"]))
    with pytest.raises(ValueError, match="has 1 documents; the benchmark needs at least 4"):
        next(plant(documents[:1], build_tokenizer(), window_tokens=64, per_category=1, seed=0))
    with pytest.raises(ValueError, match="No document of category 'code' reaches"):
        next(plant(documents, build_tokenizer(), window_tokens=10**6, per_category=1, seed=0))


def test_the_area_counts_ordered_pairs_and_half_of_the_ties():
    estimate = area_under_curve(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0]))
    # of the six pairs 4 are won and 1 is tied
    assert estimate.value == pytest.approx(4.5 / 6) and estimate.count == 2
    assert estimate.low < estimate.value < estimate.high


def test_pairs_are_compared_with_their_own_partner_only():
    assert pairs_won(np.array([1.0, 5.0, 9.0]), np.array([0.0, 4.0, 9.0])).value == pytest.approx(2.5 / 3)
    whole = pairs_won(np.arange(4.0), np.arange(4.0) - 0.5)
    assert (whole.value, whole.low, whole.high) == (1, 1, 1)


def test_intervals_are_as_wide_as_the_binomials():
    rng = np.random.default_rng(0)
    intact, control = rng.random(200), rng.random(200)
    estimate = pairs_won(intact, control)
    # 1.96 standard deviations of a share of 200, which the bootstrap of 2000 draws finds within a tenth
    expected = 1.96 * np.sqrt(estimate.value * (1 - estimate.value) / 200)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(expected, rel=0.1)


def test_rank_correlation_sees_order_alone_and_averages_ties():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    matrix = rank_correlation(np.stack([x, np.exp(x), -x, np.array([1.0, 1.0, 2.0, 2.0])], axis=1))
    np.testing.assert_allclose(matrix[0], [1, 1, -1, 2 / np.sqrt(5)], atol=1e-12)


def test_the_targets_are_set_on_collages_and_shuffles():
    kinds = kinds_for(8192)
    assert {n for n, k in kinds.items() if k.target == "pairs"} == {"shuffle_128", "shuffle_512", "shuffle_2048"}
    assert {n for n, k in kinds.items() if k.target == "auc"} >= {"collage_512", "collage_2048", "short_texts"}
    assert all(kind.paired == (kind.target != "auc") for kind in kinds.values())


def test_the_program_writes_its_table_pictures_and_costs(tmp_path, tiny_llama, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    for category in ("a", "b"):
        texts = [
            "\n\n".join(" ".join(f"{category}{i}n{n}" for n in rng.zipf(1.6, 90) % 99) for _ in range(30))
            for i in range(8)
        ]
        pq.write_table(
            pa.table({"id": [f"{category}{i}" for i in range(8)], "text": texts}), tmp_path / f"{category}.parquet"
        )
    out = tmp_path / "out" / "selection.json"
    command = ["--model", str(tiny_llama), "--out", str(out)]
    command += ["--documents", f"a={tmp_path}/a.parquet", f"b={tmp_path}/b.parquet", "--window-tokens", "512"]
    command += ["--windows", "2", "--kinds", "shuffle_128", "collage_128", "near_copies"]
    command += ["--scores", "random", "gzip", "longattn", "loss_gain"]
    main(command)
    report = json.loads(out.read_text())
    assert report["window_tokens"] == 512 and report["documents"] == "test"
    # six columns, two categories, three kinds
    columns = {
        "random",
        "gzip_ratio",
        "gzip_middle",
        "dependency_strength",
        "distribution_uniformity",
        "long_distance_score",
        "loss_gain",
    }
    assert {row["score"] for row in report["comparisons"]} == columns
    assert len(report["comparisons"]) == len(columns) * 2 * 3
    assert all(0 <= r["low"] <= r["value"] <= r["high"] <= 1 for r in report["comparisons"])
    assert report["costs"]["loss_gain"]["operations_per_window"] > report["costs"]["longattn"]["operations_per_window"]
    assert np.array(report["rank_correlation"]["spearman"]).shape == (len(columns), len(columns))
    assert (tmp_path / "out" / "selection.png").stat().st_size > 1000
    assert (tmp_path / "out" / "selection-correlation.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "shuffle_128" in printed and "operations a window" in printed
