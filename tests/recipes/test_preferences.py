import json
from collections import Counter

import numpy as np
import pytest

from longattn_hf.baselines.far_gain import FarGainScorer, load_far_gain_calibration
from recipes.benchmarks.calibrate_far_gain import main as calibrate
from recipes.benchmarks.controls import (
    all_kinds,
    bars_for,
    change_fields,
    compare_topics,
    mix_words,
    write_markov_text,
)
from recipes.benchmarks.junk import read_words, write_junk
from recipes.benchmarks.junk_texts import MAKERS
from recipes.benchmarks.planted_windows import Document, plant
from recipes.benchmarks.preferences import chance_of_top, main
from recipes.benchmarks.splits import held_out_documents
from tests.support.tiny import build_tokenizer

WINDOW = 2048


def spell(number):
    """A number in letters: words with digits have no topic."""
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


@pytest.fixture(scope="module")
def documents():
    """Documents that drift from words to words, each of a vocabulary of its own or of one of two topics."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(24):
        topic = i % 2
        words = [
            f"topic{'ab'[topic]}{spell(rng.integers(30))}"
            if rng.random() < 0.3
            else f"d{spell(i)}x{spell(rng.integers(n // 40, n // 40 + 60))}"
            for n in range(4000)
        ]
        lines = [" ".join(words[j : j + 12]) + "." for j in range(0, len(words), 12)]
        text = "\n\n".join("\n".join(lines[j : j + 8]) for j in range(0, len(lines), 8))
        made.append(Document(id=f"prose/{i}", category="prose", text=text))
    return made


def test_mixed_words_stay_within_their_64():
    text = " ".join(f"w{n}" for n in range(130)) + "!"
    mixed = mix_words(text, np.random.default_rng(0)).split()
    assert mixed != text.split() and len(mixed) == 130
    own = [{int(w.strip("!w") or -1) for w in mixed[i : i + 64]} for i in (0, 64)]
    assert own[0] == set(range(64)) and own[1] == set(range(64, 128))


def test_markov_text_has_only_pairs_of_the_text():
    text = "a b c a c b a b b c c a"
    drawn = write_markov_text(text, np.random.default_rng(0)).split()
    assert len(drawn) == 12
    words = text.split()
    # where a text ends, anything may follow
    allowed = set(zip(words, words[1:], strict=False)) | {("a", w) for w in words}
    assert set(zip(drawn, drawn[1:], strict=False)) <= allowed


def test_a_fifth_of_the_words_is_replaced():
    changed = change_fields("a " * 1000, ["b"], np.random.default_rng(0)).split()
    assert len(changed) == 1000 and 160 < changed.count("b") < 240


def test_topics_are_alike_by_the_words_that_few_texts_have():
    # of three texts, "the" is in all and weighs nothing; two share "whale"
    cosines = compare_topics(["the whale swims", "the whale dives", "the train stops"])
    whale, once = np.log(3 / 2), np.log(3)
    np.testing.assert_allclose(cosines[0, 1], whale**2 / (whale**2 + once**2))
    np.testing.assert_allclose([cosines[0, 0], cosines[0, 2]], [1, 0], atol=1e-12)


def test_every_kind_is_made_and_topic_collages_keep_to_their_topic(documents):
    rows = list(
        plant(documents, build_tokenizer(), window_tokens=WINDOW, per_category=2, seed=0, available=all_kinds(WINDOW))
    )
    made = Counter(row["kind"] for row in rows)
    # the prose defines no names of code; a document has no room for all passages of its own
    assert {name for name in all_kinds(WINDOW) if not made[name]} <= {"definitions", "reordered_1024"}
    assert {len(row["input_ids"]) for row in rows} == {WINDOW}
    for row in rows:
        if row["kind"].startswith("topic_collage"):
            topics = Counter(word[5] for word in row["text"].split() if word.startswith("topic"))
            assert max(topics.values()) > 0.9 * topics.total()
    assert set(bars_for(WINDOW)) <= set(all_kinds(WINDOW))


def test_junk_of_every_kind_is_as_long_as_asked_for_and_speaks_with_the_documents_words(documents):
    junk = list(write_junk(documents, count=2, characters=6000, seed=0))
    made = [text for text in junk if text.source == "made"]
    assert {text.kind for text in made} == set(MAKERS)
    assert all(len(text.text) >= 5990 for text in made)
    assert [text.text for text in write_junk(documents, count=2, characters=6000, seed=0)] == [t.text for t in junk]
    for text in made:
        if text.kind != "ocr_noise":
            assert "topic" in text.text.lower() or "xa" in text.text.lower(), text.kind


def test_in_a_script_without_blanks_pairs_of_letters_are_words():
    text = "".join(chr(0x4E00 + n % 900) for n in range(5000))
    words = read_words([Document(id="c", category="c", text=text)], seed=0)
    assert {len(word) for word in words.words} == {2}


def test_the_top_is_shared_by_equal_scores():
    # of nine, the top eighth has 9 / 8 places: the best has one; two equals behind it share what is left
    found = chance_of_top(np.array([5.0, 1, 1, 1, 1, 1, 1]), np.array([4.0, 4.0]), 1 / 8)
    np.testing.assert_allclose(found, [1 / 16, 1 / 16])
    assert chance_of_top(np.zeros(8), np.array([-np.inf]), 1 / 2).tolist() == [0]
    np.testing.assert_allclose(chance_of_top(np.zeros(7), np.zeros(1), 1 / 8), [1 / 8])


@pytest.fixture(scope="module")
def source(documents, tmp_path_factory):
    path = tmp_path_factory.mktemp("documents") / "prose.jsonl"
    path.write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in documents))
    return f"prose={path}"


def test_calibration_makes_a_file_that_the_score_reads_and_never_reads_held_out_documents(
    source, documents, tiny_llama, tmp_path, monkeypatch
):
    words = ["--documents", source, "--corpus", "toy", "--model", str(tiny_llama), "--window_tokens", str(WINDOW)]
    words += ["--windows", "3", "--out"]
    calibrate([*words, str(tmp_path / "all.json")])
    calibration = load_far_gain_calibration(str(tmp_path / "all.json"))
    assert calibration.corpus == "toy" and [kind.name for kind in calibration.kinds] == ["prose"]
    scorer = FarGainScorer(calibration=str(tmp_path / "all.json"))
    assert scorer({"text": documents[0].text[:9000]})["far_gain_raw"] != 0
    # other texts in the held-out documents change nothing
    held = {d.id for d in held_out_documents(documents)}
    rows = [{"id": d.id, "text": d.text[:5000] + "z " * 9000 if d.id in held else d.text} for d in documents]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words[1] = f"prose={other}"
    calibrate([*words, str(tmp_path / "other.json")])
    assert (tmp_path / "other.json").read_text() == (tmp_path / "all.json").read_text()


def test_the_page_says_what_a_score_keeps(source, tiny_llama, tmp_path):
    out = tmp_path / "page.json"
    main(
        ["--documents", source, "--model", str(tiny_llama), "--window_tokens", str(WINDOW), "--windows", "2"]
        + ["--scores", "length", "random", "--junk", "2", "--out", str(out), "--note", "Toy documents."]
    )
    report, page = json.loads(out.read_text()), out.with_suffix(".md").read_text()
    assert {row["kind"] for row in report["junk"]} >= set(MAKERS)
    assert all(0 <= row["top_eighth"] <= row["top_half"] <= 1 for row in report["junk"])
    assert "Toy documents." in page and "| words_64 (pairs) | .95 |" in page and "**length**: reaches" in page
