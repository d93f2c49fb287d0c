"""What far words add, given the near ones, to the prediction of a text's words: by counting, without a model.

A word is predicted from counts in the words before it, of its pair and triple with the words just before (`ORDERS`).
With c(g) the count of a sequence of words in a context, the probability of word w after words h is, from the shortest
sequences to the longest,

    p_n(w | h) = (c(h w) + p_{n-1}(w)) / (c(h) + 1)

(MacKay and Peto's hierarchical model with all weights 1), p_0 falling with the word's length. Once with the near
context alone and once with all that stands before, and the far gain of a word is the logarithm of their ratio: at most
0 for a word that stands near as often, large for one that stands far and not near. This is a language model's loss
gain, for a small language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from longattn_hf.scoring.base import TextScorer, too_short
from longattn_hf.scoring.words import CHARACTER, number_words, split_words

#: How many words the longest sequence has that is counted.
ORDERS = 3
#: Near is an eighth of the window; the mean goes over the words from the second eighth's end on.
NEAR_SHARE, FIRST_SHARE = 8, 4
#: In fewer words there is little far context, and the order of passages (word_order.py) means nothing.
LEAST_WORDS = 512
# nats: a word's own, and a letter's up to the eighth; about what English text costs by its letters alone
_WORD_COST, _LETTER_COST, _MOST_LETTERS = 1.0, 1.3, 8
# there are some thousand characters, and little is known of each by its length
_CHARACTER_COST = 7.0


def far_gains(words: Sequence[str], near: int) -> np.ndarray:
    """Computes each word's gain from the far words before it, given the near ones.

    Args:
        words: The text's words.
        near: How many words before a word are near to it.

    Returns:
        In nats, float64 `[T]`; 0 for the first `near` words and the one after, which have no far context.
    """
    ids, costs = number_words(words), _spelling_costs(words)
    places = np.arange(len(ids))
    starts, zeros = np.maximum(places - near, 0), np.zeros(len(ids), dtype=np.int64)
    with_near = with_all = np.exp(-costs)
    sequences, before = ids, np.zeros(len(ids), dtype=np.int64)
    for order in range(ORDERS):
        if order:
            # a sequence of n words is one of n - 1 that ends before the last word, and that word
            before = np.concatenate([[0], sequences[:-1] + 1])
            sequences = np.unique(before * (ids.max(initial=0) + 1) + ids, return_inverse=True)[1]
        whole, part = _Counter(sequences), _Counter(before)
        with_near = (whole.count(starts, places) + with_near) / (part.count(starts, places) + 1)
        with_all = (whole.count(zeros, places) + with_all) / (part.count(zeros, places) + 1)
    return np.log(with_all / with_near)


def mean_far_gain(words: Sequence[str]) -> float:
    """The mean far gain in nats a word, over the last three quarters of a text."""
    return float(far_gains(words, max(len(words) // NEAR_SHARE, 1))[len(words) // FIRST_SHARE :].mean())


def why_too_short(text: str) -> str | None:
    """Says why a text has too few words to be scored by them; None if it has enough."""
    return too_short(len(split_words(text)), "words", LEAST_WORDS)


def _spelling_costs(words: Sequence[str]) -> np.ndarray:
    cost_of = {
        word: _CHARACTER_COST if CHARACTER.match(word) else _WORD_COST + _LETTER_COST * min(len(word), _MOST_LETTERS)
        for word in set(words)
    }
    return np.array([cost_of[word] for word in words])


class _Counter:
    """Counts, for every place, how often its label stands in a range of places."""

    def __init__(self, labels: np.ndarray) -> None:
        self._bases = labels.astype(np.int64) * (len(labels) + 1)
        self._keys = np.sort(self._bases + np.arange(len(labels)))

    def count(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Counts each place's label in `[start, end)` of that place."""
        return np.searchsorted(self._keys, self._bases + ends) - np.searchsorted(self._keys, self._bases + starts)


@dataclass(frozen=True, kw_only=True)
class WordGainScorer(TextScorer):
    """Scores windows by the mean gain of their words from far words, given the near ones, in nats a word.

    Adds `word_gain`, which is 0 where far words add nothing, and below where near ones alone predict better. It is the
    first of the three parts of `FarGainScorer`, by itself: it follows more closely what a language model gains from
    far context, and it prefers text that was shuffled, in which what was near is far. So it is for documents that are
    in order, behind `gate: kind`, which refuses logs, tables and chat. Reads the text column alone, needs neither
    model nor calibration, and refuses windows of fewer than 512 words.
    """

    column: ClassVar[str] = "word_gain"
    citation: ClassVar[str] = "This package; the counts are after MacKay and Peto, Nat. Lang. Eng. 1(3), 1995."

    def _why_refused(self, value: str, rank: int | None) -> str | None:
        return why_too_short(value)

    def _score(self, text: str, rank: int | None) -> float:
        return mean_far_gain(split_words(text))
