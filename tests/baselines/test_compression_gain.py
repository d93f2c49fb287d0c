import lzma
import random

import pytest
from datasets import Dataset

from longattn_hf.baselines import CompressionGainScorer
from longattn_hf.baselines.by_name import make_scorer, ranking_column
from longattn_hf.baselines.compression_gain import LEAST_BYTES, compressed_size, compression_gain


def words(count, seed):
    drawn = random.Random(seed)
    return "".join("".join(drawn.choices("abcdefghijklmnop", k=drawn.randint(3, 11))) + " " for _ in range(count))


def test_a_size_is_that_of_what_lzma_can_unpack_again():
    plain = words(3000, seed=0).encode()
    size = compressed_size(plain)
    assert 0.3 * len(plain) < size < 0.7 * len(plain)
    assert compressed_size(plain + plain) < 1.05 * size, "a copy at any distance costs next to nothing"
    # of the same filters, with the header that says what is needed to unpack it
    packed = lzma.compress(plain, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=9)
    assert size == pytest.approx(len(packed), rel=0.02)
    assert compressed_size(b"") <= 1


def test_what_stands_far_and_not_near_is_gained_and_what_stands_near_is_not():
    part = [words(500, seed) for seed in range(8)]
    # each part is fresh; the fifth comes again in the eighth, or in the sixth
    fresh, far, near = "".join(part), "".join([*part[:7], part[4]]), "".join([*part[:5], part[4], *part[6:]])
    gains = [compression_gain(text.encode()) for text in (fresh, far, near)]
    assert abs(gains[0]) < 0.05 and abs(gains[2]) < 0.05
    # one part of six, which costs next to nothing with its far context
    cost = 8 * compressed_size(part[4].encode()) / len(part[4])
    assert gains[1] == pytest.approx(cost / 6, rel=0.1)


def test_the_scorer_maps_over_texts_and_says_why_one_has_no_score():
    assert ranking_column("compression_gain") == "compression_gain"
    scorer = make_scorer("compression_gain", {"on_error": "skip"})
    assert isinstance(scorer, CompressionGainScorer)
    japanese = "".join(random.Random(1).choices("あいうえおかきくけこ漢字日本語", k=LEAST_BYTES // 3 + 1))
    texts = [words(800, seed=1), "short", None, japanese, "\ud800" + words(800, seed=2)]
    scored = Dataset.from_dict({"text": texts[:-1]}).map(scorer, batched=True)
    assert scored.features["compression_gain"].dtype == "float64"
    assert scored["skip_reason"][:] == [None, "too short (5 bytes, 2048 are the least)", "missing", None]
    assert [value is None for value in scored["compression_gain"]] == [False, True, True, False]
    assert scored["compression_gain"][0] == compression_gain(texts[0].encode())
    assert scorer({"text": texts[-1]})["compression_gain"] == pytest.approx(0, abs=0.1)
    with pytest.raises(ValueError, match="Row 1 of column 'text' is too short"):
        CompressionGainScorer()({"text": texts[:2]})


def test_passages_in_another_order_gain_more_as_for_a_language_model():
    # a topic's words come again in the next paragraphs, so that they are near in order and far out of it
    topics = [words(40, seed).split() for seed in range(8)]
    paragraphs = [" ".join(random.Random(i).choices(topics[i // 4], k=30)) for i in range(32)]
    order = [i for start in range(4) for i in range(start, 32, 4)]
    ordered, shuffled = ("\n".join(parts).encode() for parts in (paragraphs, [paragraphs[i] for i in order]))
    assert compression_gain(shuffled) > compression_gain(ordered)
