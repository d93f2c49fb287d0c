"""`EchoScorer`: how far a window's words are foretold by its earlier words, at every distance; no model, no GPU.

Derivation. LongAttn asks how much attention goes far back; what makes far context worth reading is that it lowers the
loss of what comes. The cheapest language model that has a context at all is a unigram with a cache (Kuhn and De Mori,
1990): it gives a word w the probability (p(w) + t r(w)) / (1 + t), where p is its share in a background corpus and
r(w) its share among the words of the context. Against the background alone, a context lowers the loss of w by

    log(1 + t r(w) / p(w))

up to the constant log(1 + t). That is a loss gain as a language model's, exact, of integer counts, and it weighs rare
words (names, identifiers, terms) by their rarity. Its mean over the window's words is taken for the context in each
band of distances by itself: [c, 2c), [2c, 4c), ... to a quarter of the window, and all beyond that quarter, which is
LongAttn's far region.

Two things would pass for dependency and are not. A verbatim copy needs no understanding: words that end a run of six
words which the window had before count nothing, so that a paragraph repeated for ever scores 0. And beyond the
quarter any text of the same genre echoes a little: `far_floor` is what intact documents have and collages have not.
What is beyond it says little more, since a shuffle, which moves near context away, only raises it; order shows in the
near bands, whose mean a shuffle lowers. Hence

    echo = near * min(1, far / far_floor) ** sharpness * far ** tilt

It does not see meaning: a far dependency without a shared word is worth nothing to it.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from longattn_hf.model.identity import identify_file
from longattn_hf.scoring.base import TextScorer
from longattn_hf.scoring.words import COPY_WORDS, hash_runs, number_words, split_words

_BLOCK_WORDS = 64
_CACHE_WEIGHT = 0.1
_LEAST_WORDS = 8 * _BLOCK_WORDS


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What `EchoScorer` knows beforehand; see `recipes/benchmarks/calibrate_echo.py`.

    Attributes:
        frequencies: The shares of frequent words in the background corpus.
        other_frequency: The share of any other word.
        far_floor: See the module.
        sharpness: Likewise.
        tilt: Likewise.
        corpus: What it was calibrated on, in words.
    """

    frequencies: Mapping[str, float]
    other_frequency: float
    far_floor: float
    sharpness: float
    tilt: float
    corpus: str

    def combine(self, near: float, far: float) -> float:
        """Makes the score of the two gains: at least 0, larger is better."""
        return near * min(1.0, far / self.far_floor) ** self.sharpness * far**self.tilt


def load_calibration(path: str | None = None) -> Calibration:
    """Reads a calibration: that of the package, or a file that `recipes/benchmarks/calibrate_echo.py` wrote.

    Raises:
        ValueError: The file is not one.
    """
    name = path or "the package's echo_calibration.json"
    file = Path(path or Path(__file__).with_name("echo_calibration.json"))
    try:
        return _read_calibration(file, identify_file(file))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"Cannot read a calibration from {name}: {error}") from error


@lru_cache(maxsize=4)
def _read_calibration(file: Path, identity: str) -> Calibration:
    return Calibration(**json.loads(file.read_text(encoding="utf-8")))


@dataclass(frozen=True, kw_only=True)
class EchoScorer(TextScorer):
    """Scores windows by the echo of their earlier words in later ones; see the module for how and why.

    Adds `echo`, at least 0, and `echo_near` and `echo_far`, the mean loss gains in nats a word that it is made of.
    Reads the text column alone, so that it works with any tokenizer or none. Windows of fewer than 512 words have no
    bands to speak of and are refused.

    Attributes:
        calibration: A file that `recipes/benchmarks/calibrate_echo.py` wrote; the package's own if None.
    """

    column: ClassVar[str] = "echo"
    parts: ClassVar[Mapping[str, pa.DataType]] = {"echo_near": pa.float64(), "echo_far": pa.float64()}
    citation: ClassVar[str] = "This package; the cache model is Kuhn and De Mori, IEEE TPAMI 12(6), 1990."

    calibration: str | None = None
    version: int = 2

    def _other_bytes(self) -> str | None:
        return identify_file(Path(self.calibration)) if self.calibration else None

    def _why_refused(self, value: str, rank: int | None) -> str | None:
        words = len(split_words(value))
        return f"too short for an echo ({words} words, {_LEAST_WORDS} are the least)" if words < _LEAST_WORDS else None

    def _score(self, text: str, rank: int | None) -> tuple[float, float, float]:
        calibration = load_calibration(self.calibration)
        near, far = echo_gains(text, calibration.frequencies, calibration.other_frequency)
        return calibration.combine(near, far), near, far


def word_frequencies(texts: Iterable[str], most: int) -> tuple[dict[str, float], float]:
    """Counts the shares of the most frequent words of some texts, and the mean share of the others."""
    counts = Counter(word for text in texts for word in split_words(text))
    total = counts.total()
    if not total:
        raise ValueError("The texts have no words to count.")
    frequent = {word: count / total for word, count in counts.most_common(most)}
    # where no word is left, another is as rare as one that was seen once
    others = len(counts) - most
    return frequent, (1 - sum(frequent.values())) / others if others > 0 else 1 / total


def echo_gains(text: str, frequencies: Mapping[str, float], other_frequency: float) -> tuple[float, float]:
    """Computes the mean loss gains of a text's words from its near and from its far words.

    Args:
        text: At least 512 words.
        frequencies: Background shares of frequent words.
        other_frequency: That of any other.

    Returns:
        In nats a word: the mean over the bands up to a quarter of the text, and the gain beyond it.

    Raises:
        ValueError: The text is too short.
    """
    words = split_words(text)
    if len(words) < _LEAST_WORDS:
        raise ValueError(f"A window of {len(words)} words is too short for an echo; {_LEAST_WORDS} is the least.")
    blocks = len(words) // _BLOCK_WORDS
    words = words[: blocks * _BLOCK_WORDS]
    ids = number_words(words)
    background = np.array([frequencies.get(word, other_frequency) for word in words])
    block_of = np.arange(len(ids)) // _BLOCK_WORDS
    # before[w, b]: how often w stands in the blocks before b
    before = np.zeros((ids.max() + 1, blocks + 1), dtype=np.int32)
    np.add.at(before, (ids, block_of + 1), 1)
    before.cumsum(axis=1, out=before)
    copied = _ends_a_copy(ids)
    gains = []
    for nearest, end in _bands(blocks):
        stop, start = np.maximum(block_of - nearest + 1, 0), np.maximum(block_of - end + 1, 0)
        counts, sizes = before[ids, stop] - before[ids, start], (stop - start) * _BLOCK_WORDS
        gain = np.log1p(_CACHE_WEIGHT * counts / (np.maximum(sizes, 1) * background))
        gains.append(np.where(copied, 0.0, gain)[sizes > 0].mean())
    return float(np.mean(gains[:-1])), float(gains[-1])


def _bands(blocks: int) -> list[tuple[int, int]]:
    """Distances in blocks, `[nearest, end)`: doubling up to a quarter of the window, then all the rest."""
    quarter, nearest, bands = blocks // 4, 1, []
    while nearest < quarter:
        bands.append((nearest, min(2 * nearest, quarter)))
        nearest *= 2
    return [*bands, (quarter, blocks)]


def _ends_a_copy(ids: np.ndarray) -> np.ndarray:
    """Marks the words that end a run of `COPY_WORDS` which stood at least a block earlier already."""
    _, first, run = np.unique(hash_runs(ids), return_index=True, return_inverse=True)
    copied = np.zeros(len(ids), dtype=bool)
    copied[COPY_WORDS - 1 :] = np.arange(len(run)) - first[run] >= _BLOCK_WORDS
    return copied
