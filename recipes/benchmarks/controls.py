"""Controls that scores of shared words fail: right words in wrong places, strangers of one topic, text without sense.

They join those of planted_windows.py; `all_kinds` returns both.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse

from recipes.benchmarks.planted_windows import Cutter, Document, Kind, Made, kinds_for

_WORD = re.compile(r"\w+|[^\w\s]")
# a blank after the end of a sentence, or the place after a full stop of the scripts without blanks
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])")
_PASSAGES_A_DONOR = 6
_MIXED_WORDS = 64
_FIELD = re.compile(r"\w+")
_CHANGED_FIELDS = 0.2


def all_kinds(window_tokens: int) -> dict[str, Kind]:
    """Returns every kind of control by name: those of `kinds_for`, and

    - `topic_collage_N`: passages of N tokens, those most like the first in topic, each of another document;
    - `reordered_N`: passages of N tokens from all over the window's own document, out of order;
    - `sentences`, `lines`: the same window, its sentences or lines in random order;
    - `words_64`: the same window, the words of each 64 in random order;
    - `markov`: words drawn by the pairs of words that the window has;
    - `changing_fields`: one paragraph again and again, another fifth of its words replaced each time.
    """  # noqa: D415
    kinds = kinds_for(window_tokens)
    for tokens in dict.fromkeys((512, window_tokens // 4)):
        if tokens <= window_tokens // 2:
            kinds[f"topic_collage_{tokens}"] = Kind(make=TopicCollage(tokens), paired=False, target="auc")
    for tokens in (1024, 2048):
        if tokens <= window_tokens // 2:
            kinds[f"reordered_{tokens}"] = Kind(make=Reordered(tokens), paired=True, target="pairs")
    for name, change in (
        ("sentences", _shuffle_sentences),
        ("lines", _shuffle_lines),
        ("words_64", mix_words),
        ("markov", write_markov_text),
    ):
        kinds[name] = Kind(make=Rewritten(change), paired=True, target="pairs")
    kinds["changing_fields"] = Kind(make=_changing_fields, paired=False, target="auc")
    return kinds


def bars_for(window_tokens: int) -> dict[str, float]:
    """What a score should reach on each kind of control, `area` or `pairs`; kinds without a bar are left out."""
    quarter = window_tokens // 4
    bars = {
        f"shuffle_{quarter}": 0.85,
        "shuffle_128": 0.90,
        "shuffle_512": 0.90,
        "collage_512": 0.95,
        f"collage_{quarter}": 0.95,
        "topic_collage_512": 0.90,
        f"topic_collage_{quarter}": 0.90,
        "reordered_1024": 0.80,
        "words_64": 0.95,
        "sentences": 0.90,
    }
    return {name: bar for name, bar in bars.items() if name in all_kinds(window_tokens)}


@dataclass(frozen=True)
class Rewritten:
    """Makes a control of a window's text."""

    change: Callable[[str, np.random.Generator], str]

    def __call__(self, cutter: Cutter, document: Document, intact: np.ndarray, rng: np.random.Generator) -> Made:
        """Changes the text; tokens that are missing afterwards are taken from a second run."""
        text = cutter.tokenizer.decode(intact)
        ids = cutter.encode(self.change(text, rng))
        while len(ids) < len(intact):
            ids = np.concatenate([ids, cutter.encode(self.change(text, rng))])
        return None, ids[: len(intact)]


@dataclass(frozen=True)
class Reordered:
    """Makes a window of passages of one document, from all over it and out of order."""

    tokens: int

    def __call__(
        self, cutter: Cutter, document: Document, intact: np.ndarray, rng: np.random.Generator
    ) -> Made | None:
        """Cuts the passages; None where the document has no room for them."""
        needed = len(intact) // self.tokens
        part = len(document.text) // (2 * needed)
        parts = [
            Document(id=document.id, category=document.category, text=document.text[i * part : (i + 1) * part])
            for i in range(2 * needed)
        ]
        order = rng.permutation(2 * needed)[:needed]
        while (np.diff(order) > 0).all():
            order = rng.permutation(2 * needed)[:needed]
        passages = [cutter.cut(parts[i], self.tokens, rng) for i in order]
        if any(passage is None for passage in passages):
            return None
        return None, np.concatenate([p for p in passages if p is not None])


@dataclass(frozen=True)
class TopicCollage:
    """Makes a collage of passages that are alike in topic, by the cosine of their TF-IDF vectors."""

    tokens: int

    def __call__(
        self, cutter: Cutter, document: Document, intact: np.ndarray, rng: np.random.Generator
    ) -> Made | None:
        """Takes a passage, and of as many other documents as needed the passages most like it."""
        passages, owners, likeness = _passages(cutter.window_tokens, self.tokens, tuple(cutter.donors), cutter.encode)
        needed = -(-len(intact) // self.tokens)
        if len(set(owners)) < needed:
            return None
        first = int(rng.integers(len(passages)))
        chosen, used = [first], {owners[first]}
        for i in np.argsort(-likeness[first], kind="stable"):
            if len(chosen) == needed:
                break
            if owners[i] not in used:
                chosen.append(int(i))
                used.add(owners[i])
        return None, np.concatenate([passages[i] for i in rng.permutation(chosen)])[: len(intact)]


@lru_cache(maxsize=2)
def _passages(
    window_tokens: int, tokens: int, donors: Sequence[Document], encode: Callable[[str], np.ndarray]
) -> tuple[list[np.ndarray], list[str], np.ndarray]:
    """Cuts passages of all donors, the same for every control, and compares each with each."""
    passages, owners, texts = [], [], []
    for number, donor in enumerate(donors):
        rng = np.random.default_rng([tokens, number])
        for start in rng.integers(max(len(donor.text) - 5 * tokens, 1), size=_PASSAGES_A_DONOR):
            text = donor.text[start : start + 6 * tokens]
            ids = encode(text)
            if len(ids) >= tokens:
                passages.append(ids[:tokens])
                owners.append(donor.id)
                texts.append(text[: round(len(text) * tokens / len(ids))])
    return passages, owners, compare_topics(texts)


def compare_topics(texts: Sequence[str]) -> np.ndarray:
    """Computes the cosines between the TF-IDF vectors of texts: float64 `[texts, texts]`.

    Words are lower-cased; a letter of a script without blanks counts as a word. A word's weight is
    `(1 + log(count)) * log(texts / texts with it)`.
    """
    number_of: dict[str, int] = defaultdict(lambda: len(number_of))
    rows, columns, weights = [], [], []
    for row, text in enumerate(texts):
        words = re.findall(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]|[^\W\d_]+", text.lower())
        for word, count in Counter(words).items():
            rows.append(row)
            columns.append(number_of[word])
            weights.append(1 + np.log(count))
    matrix = sparse.csr_array((weights, (rows, columns)), shape=(len(texts), len(number_of)))
    matrix = matrix * np.log(len(texts) / np.maximum((matrix > 0).sum(axis=0), 1))
    lengths = np.sqrt((matrix * matrix).sum(axis=1))
    matrix = sparse.csr_array(matrix / np.maximum(lengths, 1e-12)[:, None])
    return (matrix @ matrix.T).toarray()


def _shuffle_sentences(text: str, rng: np.random.Generator) -> str:
    sentences = _SENTENCE_END.split(text)
    return " ".join(sentences[i] for i in rng.permutation(len(sentences)))


def _shuffle_lines(text: str, rng: np.random.Generator) -> str:
    lines = text.split("\n")
    return "\n".join(lines[i] for i in rng.permutation(len(lines)))


def mix_words(text: str, rng: np.random.Generator) -> str:
    """Puts the words of each 64 in random order; blanks stay where they are."""
    words = _WORD.findall(text)
    mixed = [w for i in range(0, len(words), _MIXED_WORDS) for w in rng.permutation(words[i : i + _MIXED_WORDS])]
    following = iter(mixed)
    return _WORD.sub(lambda _: str(next(following)), text)


def write_markov_text(text: str, rng: np.random.Generator) -> str:
    """Draws as many words as a text has, each from those that follow the last one in the text."""
    pieces = re.findall(r"\s*(?:\w+|[^\w\s])", text)
    following = defaultdict(list)
    for piece, after in zip(pieces, pieces[1:], strict=False):
        following[piece].append(after)
    drawn = [pieces[0]]
    while len(drawn) < len(pieces):
        choices = following[drawn[-1]] or pieces
        drawn.append(choices[rng.integers(len(choices))])
    return "".join(drawn)


def _changing_fields(cutter: Cutter, document: Document, intact: np.ndarray, rng: np.random.Generator) -> Made:
    paragraph = cutter.tokenizer.decode(cutter.paragraph(48, 256, rng))
    others = _FIELD.findall(cutter.donors[rng.integers(len(cutter.donors))].text[:20000])
    text = ""
    while len(ids := cutter.encode(text)) < len(intact):
        text += "".join(change_fields(paragraph, others, rng) for _ in range(8))
    return None, ids[: len(intact)]


def change_fields(paragraph: str, others: Sequence[str], rng: np.random.Generator) -> str:
    """Replaces a fifth of a paragraph's words by others, and ends it with a blank line."""
    changed = _FIELD.sub(
        lambda match: others[rng.integers(len(others))] if rng.random() < _CHANGED_FIELDS else match[0], paragraph
    )
    return changed.rstrip("\n") + "\n\n"
