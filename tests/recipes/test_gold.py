import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from longattn_hf.model.language_model import load_language_model, token_losses
from recipes.benchmarks.gold import main
from recipes.benchmarks.gold_report import (
    CLASSES,
    classify_tokens,
    compare_layers,
    compare_with_gain,
    measure_reliability,
    share_gain,
)
from recipes.benchmarks.gold_windows import Stretches, choose_windows, measure_gain
from recipes.benchmarks.planted_windows import Cutter, Document
from recipes.benchmarks.splits import calibration_documents, held_out_documents, is_held_out
from tests.support.tiny import build_tokenizer


def test_stretches_are_spread_up_to_the_windows_end():
    # 512 near tokens, then steps of (4096 - 512) // 3
    stretches = Stretches(window_tokens=4096)
    assert (stretches.length, stretches.near, stretches.starts) == (512, 512, [1196, 2390, 3584])
    assert Stretches(window_tokens=100, count=2, tokens=10, near_tokens=20).starts == [50, 90]
    with pytest.raises(ValueError, match="2 stretches of 60 tokens after 20 near ones do not fit in a window of 100"):
        Stretches(window_tokens=100, count=2, tokens=60, near_tokens=20).starts  # noqa: B018


def test_a_tokens_gain_is_its_loss_with_the_near_context_minus_that_with_all(tiny_llama):
    network = load_language_model(str(tiny_llama))
    ids = np.arange(5, 105) % 60
    measured = measure_gain(network, ids, Stretches(window_tokens=100, count=2, tokens=10, near_tokens=20))
    gains, losses = measured.gains, measured.losses
    logits = network(input_ids=torch.from_numpy(ids[None])).logits[0].log_softmax(-1)
    near = network(input_ids=torch.from_numpy(ids[None, 70:100])).logits[0].log_softmax(-1)
    for place in range(10):
        whole = -logits[89 + place, ids[90 + place]].item()
        assert losses[1, place] == pytest.approx(whole, abs=1e-4)
        assert gains[1, place] == pytest.approx(-near[19 + place, ids[90 + place]].item() - whole, abs=1e-4)


def test_the_far_attention_is_the_maps_share_beyond_the_near_tokens_without_the_first(tiny_llama):
    ids, stretches = np.arange(5, 105) % 60, Stretches(window_tokens=100, count=2, tokens=10, near_tokens=20)
    found = measure_gain(load_language_model(str(tiny_llama)), ids, stretches).far_attention
    eager = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation="eager")
    with torch.inference_mode():
        maps = eager(input_ids=torch.from_numpy(ids[None]), output_attentions=True).attentions
    assert len(found) == len(maps)
    for share, map_BHTS in zip(found, maps, strict=True):
        # of rows 25, 49, 73 and 97 the keys 1 to 4, 28, 52 and 76
        rows = [
            map_BHTS[0, :, row, 1 : row - 20].sum(-1) / map_BHTS[0, :, row, 1:].sum(-1) for row in (25, 49, 73, 97)
        ]
        assert share == pytest.approx(torch.stack(rows).mean().item(), abs=1e-5)


def test_losses_at_places_are_those_of_all(tiny_llama):
    network, ids = load_language_model(str(tiny_llama)), torch.arange(40)[None] % 60
    places = torch.tensor([1, 7, 39])
    torch.testing.assert_close(token_losses(network, ids, places), token_losses(network, ids)[:, places - 1])


def test_tokens_are_classed_by_where_they_and_their_pairs_stood():
    # near are the places 4 to 7, the stretch 8 to 12
    ids = np.array([1, 2, 3, 9, 5, 6, 3, 5, 6, 2, 3, 6, 7])
    assert [CLASSES[c] for c in classify_tokens(ids, start=8, length=5, near=4)] == [
        "pair stands near",  # 5 6
        "token stands far, not near",  # 2
        "token near, pair far only",  # 2 3
        "token near, pair nowhere",  # 3 6
        "token nowhere before",  # 7
    ]


def test_the_shares_of_gain_add_up_and_are_those_of_the_classes():
    window = {
        "category": "a",
        "ids": [1, 2, 3, 1, 4],
        "gains": [[3.0, 1.0]],
        "settings": {"starts": [3], "stretch_tokens": 2, "near_tokens": 1},
    }
    rows = {row["class"]: row for row in share_gain([window])}
    assert rows["token stands far, not near"]["share_of_gain"] == 0.75
    assert (
        rows["token nowhere before"]["share_of_gain"] == 0.25
        and rows["token nowhere before"]["share_of_tokens"] == 0.5
    )
    assert rows["pair stands near"]["gain_of_a_token"] is None


def test_scores_are_correlated_within_categories_and_a_missing_one_is_the_lowest():
    gains, categories = np.array([1.0, 2, 3, 30, 20, 10]), np.array(list("aaabbb"))
    columns = {
        "same": gains,
        "other": np.array([1.0, 2, 3, 1, 2, 3]),
        "missing": np.array([np.nan, 2, 3, 3, 2, np.nan]),
    }
    rows = {row["score"]: row for row in compare_with_gain(gains, categories, columns)}
    assert [rows[name]["spearman"] for name in columns] == pytest.approx([1, 0, 1])
    assert rows["other"]["by_category"]["a"][0] == pytest.approx(1) and rows["missing"]["without_a_score"] == 2


def test_layers_are_compared_on_the_windows_that_have_them():
    gains, categories = np.array([1.0, 2, 3, 9, 30, 20, 10]), np.array(list("aaaabbb"))
    shares = [[0.1, 0.3], [0.2, 0.2], [0.3, 0.1], None, [0.3, 0.1], [0.2, 0.2], [0.1, 0.3]]
    rows = compare_layers(gains, categories, shares)
    assert [(row["layer"], row["windows"]) for row in rows] == [(0, 6), (1, 6)]
    assert [row["spearman"] for row in rows] == pytest.approx([1, -1]) and "score" not in rows[0]
    assert compare_layers(gains, categories, [None, *shares[1:]]) == []


def test_the_reliability_of_the_mean_follows_spearman_and_brown():
    # ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15) = .6, of the mean of two 1.2 / 1.6
    found = measure_reliability(np.array([[1.0, 2], [2, 1], [3, 4], [4, 3]]), np.array(["a"] * 4))
    assert found == pytest.approx({"between_stretches": 0.6, "of_the_mean": 0.75})


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two categories, of which each document has words of its own."""
    folder, sources = tmp_path_factory.mktemp("documents"), []
    for category in ("prose", "verse"):
        texts = [" ".join(f"{category}{i}x{n}" for n in range(400)) for i in range(16)]
        path = folder / f"{category} [1].jsonl"
        path.write_text("".join(json.dumps({"id": f"{category}/{i}", "text": t}) + "\n" for i, t in enumerate(texts)))
        sources.append(f"{category}={path}")
    return sources


def test_a_document_is_held_out_by_its_beginning_alone():
    texts = [f"document {i} " + "x " * 2000 for i in range(400)]
    documents = [Document(id=str(i), category="a", text=text) for i, text in enumerate(texts)]
    held = held_out_documents(documents)
    assert 0.52 < len(held) / 400 < 0.68
    assert {d.id for d in held}.isdisjoint(d.id for d in calibration_documents(documents))
    for document in documents[:20]:
        longer = Document(id="other", category="b", text="\n" + document.text + "more")
        assert is_held_out(longer) == is_held_out(document)


def test_windows_come_from_the_categories_in_turn():
    documents = [Document(id=f"{c}{i}", category=c, text="w " * 500) for c in "ab" for i in range(5)]
    cutter = Cutter(tokenizer=build_tokenizer(), window_tokens=64, donors=documents)
    names = [w["name"] for w in choose_windows(documents, cutter, per_category=2, seed=0)]
    assert names == ["a-0000", "b-0000", "a-0001", "b-0001"]


def test_a_run_goes_on_where_it_stopped_and_reports(tiny_llama, sources, tmp_path, capsys):
    folder, out = tmp_path / "gold", tmp_path / "gold.json"
    words = ["--documents", *sources, "--model", str(tiny_llama), "--window_tokens", "128", "--folder", str(folder)]
    words += ["--out", str(out), "--scores", "random", "length", "--windows"]
    main([*words, "3"])
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(times) == 6
    main([*words, "4"])
    assert {name: (folder / name).stat().st_mtime_ns for name in times} == times and len(list(folder.iterdir())) == 8
    report = json.loads(out.read_text())
    assert report["windows_by_category"] == {"prose": 4, "verse": 4} and out.with_suffix(".png").exists()
    assert {row["score"] for row in report["scores"]} == {"random", "length"}
    assert [(row["layer"], row["windows"]) for row in report["layers"]] == [(0, 8), (1, 8)]
    for category in ("prose", "verse"):
        assert sum(r["share_of_tokens"] for r in report["tokens"] if r["category"] == category) == pytest.approx(1)
    with pytest.raises(SystemExit, match="other settings"):
        main([*words, "4", "--near_tokens", "8"])
    with pytest.raises(SystemExit, match="other documents"):
        main(
            [
                *words,
                "4",
                "--documents",
                sources[0].replace("prose=", "verse="),
                sources[1].replace("verse=", "prose="),
            ]
        )


def test_more_stretches_are_measured_beside_those_that_are_known(tiny_llama, sources, tmp_path):
    out, folder = tmp_path / "gold.json", tmp_path / "gold"
    words = ["--documents", *sources, "--model", str(tiny_llama), "--window_tokens", "128", "--scores", "random"]
    words += ["--windows", "3", "--out", str(out), "--folder", str(folder)]
    # steps of 112 // 2 and of 112 // 4: the stretches of the first are among those of the second
    main([*words, "--stretches", "2"])
    few = json.loads(out.read_text())
    first = {path.name: json.loads(path.read_text()) for path in folder.iterdir()}
    assert {str(window["settings"]["starts"]) for window in first.values()} == {"[56, 112]"}
    main([*words, "--stretches", "4"])
    network = load_language_model(str(tiny_llama))
    for name, window in first.items():
        more = json.loads((folder / name).read_text())
        assert more["settings"]["starts"] == [28, 56, 84, 112]
        assert [more["gains"][1], more["gains"][3]] == window["gains"] and more["cpu_seconds"] > window["cpu_seconds"]
        at_once = measure_gain(network, np.array(window["ids"]), Stretches(window_tokens=128, count=4))
        assert np.allclose(more["gains"], at_once.gains, atol=2e-4)
    # a report of the first two reads nothing else
    main([*words, "--stretches", "2", "--minutes", "0"])
    again = json.loads(out.read_text())
    assert again["reliability"] == few["reliability"] and again["tokens"] == few["tokens"]
    (folder / next(iter(first))).write_text(json.dumps(first[next(iter(first))]))
    with pytest.raises(SystemExit, match="fewer than three windows of a category"):
        main([*words, "--stretches", "4", "--minutes", "0"])
