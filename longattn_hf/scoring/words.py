"""A text's words, for the scores that count them, and the runs of them that come twice."""

import re
from collections.abc import Sequence

import numpy as np

# the scripts that set no blanks between words, in which a character with its marks counts as a word: Han, Kana, Thai,
# Lao, Myanmar, Khmer
_UNSPACED = (
    "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
)
# the vowel signs, tone marks and stacked letters of those
_MARKS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u17b4-\u17d3\u3099\u309a"
_WORD = re.compile(rf"[{_UNSPACED}][{_MARKS}]*|[^\W{_UNSPACED}]+|[^\w\s]")
CHARACTER = re.compile(rf"[{_UNSPACED}]")
#: Words of a run that is taken for a copy where it comes again.
COPY_WORDS = 6
# an odd multiplier, of which powers modulo 2^64 never vanish
_HASH_BASE = np.uint64(0x9E3779B97F4A7C15)


def split_words(text: str) -> list[str]:
    """Splits a text into words and marks; in scripts without blanks, into characters."""
    return _WORD.findall(text)


def number_words(words: Sequence[str]) -> np.ndarray:
    """Numbers words by their first appearance: int64 `[T]`."""
    number_of: dict[str, int] = {}
    return np.array([number_of.setdefault(word, len(number_of)) for word in words], dtype=np.int64)


def hash_runs(ids: np.ndarray) -> np.ndarray:
    """Hashes each run of `COPY_WORDS` words, given as numbers: uint64 `[T - COPY_WORDS + 1]`."""
    hashes = np.zeros(len(ids) - COPY_WORDS + 1, dtype=np.uint64)
    for offset in range(COPY_WORDS):
        hashes = hashes * _HASH_BASE + ids[offset : offset + len(hashes)].astype(np.uint64) + np.uint64(1)
    return hashes
