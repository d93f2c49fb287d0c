"""Windows whose long-range structure is known, and controls that keep their tokens but not that structure.

Made of any documents with a text and a category. Half of a category's documents give the intact windows and the paired
controls made of them; the other half, the donors, give everything else, so that no document stands on both sides of a
comparison unless its two windows are a pair. `split_documents` cuts off documents for calibration beforehand.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from longattn_hf.model.tokenizer import tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

INTACT = "intact"
# definitions of names that are no ordinary words: with an inner capital, an underscore or a digit
_DEFINITION = re.compile(
    r"(?:\bdef|\bclass|\bfunc|\bfn|\bfunction|\bstruct|\binterface|\btrait|\benum|#define)\s+"
    r"(?=[a-zA-Z]+[A-Z]|\w+_\w|\w*\d)([A-Za-z_]\w{4,})"
)
_LEAST_DEFINITIONS = 3
_TRIES, _TRIES_FOR_PARAGRAPHS = 6, 100
_PASSAGE, _PASSAGES, _CHANGED = 128, 4, 0.1


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document to cut windows out of."""

    id: str
    category: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Cutter:
    """Cuts windows of equal length out of documents of a category, for intact windows and for controls.

    Attributes:
        tokenizer: Of the model that will score.
        window_tokens: Every window's length.
        donors: The documents that controls may take text from.
    """

    tokenizer: "PreTrainedTokenizerFast"
    window_tokens: int
    donors: Sequence[Document]

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text, without special tokens."""
        return np.array(tokenise(self.tokenizer, text)["input_ids"], dtype=np.int32)

    def cut(self, document: Document, tokens: int, rng: np.random.Generator) -> np.ndarray | None:
        """Cuts a passage of that many tokens out of a document at a random line; None where it has none so long."""
        characters = 5 * tokens
        while True:
            room = max(len(document.text) - characters, 0)
            start = int(rng.integers(room + 1))
            start = document.text.find("\n", start, start + 400) + 1 or start if start else 0
            ids = self.encode(document.text[start : start + characters])
            if len(ids) >= tokens:
                return ids[:tokens]
            if room == 0:
                return None
            characters *= 2

    def cut_from_donors(self, tokens: int, rng: np.random.Generator) -> np.ndarray:
        """Joins passages of that many tokens, each of another donor while they last, to one window."""
        passages: list[np.ndarray] = []
        needed = -(-self.window_tokens // tokens)
        while len(passages) < needed:
            before = len(passages)
            for i in rng.permutation(len(self.donors)):
                passage = self.cut(self.donors[i], tokens, rng)
                if passage is not None:
                    passages.append(passage)
                if len(passages) == needed:
                    break
            if len(passages) == before:
                raise ValueError(f"No document left for controls reaches {tokens} tokens.")
        return np.concatenate(passages)[: self.window_tokens]

    def paragraph(self, least: int, most: int, rng: np.random.Generator) -> np.ndarray:
        """Takes a paragraph of so many tokens out of a random donor; of longer ones the beginning.

        Where paragraphs so long are rare, the longest found.
        """
        longest = np.empty(0, dtype=np.int32)
        for _ in range(_TRIES_FOR_PARAGRAPHS):
            text = self.donors[rng.integers(len(self.donors))].text
            start = text.find("\n\n", int(rng.integers(len(text))))
            ids = self.encode(text[start + 2 : start + 2 + 6 * most].split("\n\n")[0] + "\n\n")
            if len(ids) >= least:
                return ids[:most]
            longest = max(longest, ids, key=len)
        return longest


# of a window: the one that stands for the intact side, where it is another than the window itself, and the control
Made = tuple[np.ndarray | None, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of control.

    Attributes:
        make: Makes one from a cutter, a document, its intact window and a generator; None if it cannot be made of it.
        paired: Whether it is made of the intact window itself, and compared with that one alone.
        target: The measure that is asked for: `"auc"`, or the share of `"pairs"` that the intact window wins; None
            where it is open which of the two should win.
    """

    make: Callable[[Cutter, Document, np.ndarray, np.random.Generator], Made | None]
    paired: bool
    target: Literal["auc", "pairs"] | None


def kinds_for(window_tokens: int) -> dict[str, Kind]:
    """Returns the kinds of controls by name, for windows of a length.

    - `shuffle_N`: the same window, its passages of N tokens in random order;
    - `collage_N`: passages of N tokens, each of another document of the category;
    - `short_texts`: single paragraphs of the category's documents, one after another;
    - `repetition`: one paragraph again and again;
    - `near_copies`: the same window, four passages of its second half replaced by passages of its first, one token in
      ten changed: dependency, but a trivial one;
    - `definitions`: code that uses in its second half names that its first quarter defines, against the same code
      with that quarter replaced by code of another document; only where a window with such names is found.
    """
    # at least two passages a window, or there would be nothing to shuffle
    sizes = [n for n in dict.fromkeys((512, window_tokens // 4)) if n <= window_tokens // 2]
    shuffles = dict.fromkeys((*(n for n in (128,) if n <= window_tokens // 2), *sizes))
    kinds = {f"shuffle_{n}": Kind(make=_Shuffle(n), paired=True, target="pairs") for n in shuffles}
    kinds |= {f"collage_{n}": Kind(make=_Collage(n), paired=False, target="auc") for n in sizes}
    return kinds | {
        "short_texts": Kind(make=_short_texts, paired=False, target="auc"),
        "repetition": Kind(make=_repetition, paired=False, target="auc"),
        "near_copies": Kind(make=_near_copies, paired=True, target=None),
        "definitions": Kind(make=_definitions, paired=True, target=None),
    }


def split_documents(
    documents: Sequence[Document], *, share: float, seed: int
) -> tuple[list[Document], list[Document]]:
    """Splits each category's documents at random: `share` of them for calibration, the others for the test."""
    calibration: list[Document] = []
    test: list[Document] = []
    for number, group in enumerate(_by_category(documents).values()):
        order = np.random.default_rng([seed, 0, number]).permutation(len(group))
        cut = round(share * len(group))
        calibration += [group[i] for i in order[:cut]]
        test += [group[i] for i in order[cut:]]
    return calibration, test


def plant(
    documents: Sequence[Document],
    tokenizer: "PreTrainedTokenizerFast",
    *,
    window_tokens: int,
    per_category: int,
    seed: int,
    kinds: Sequence[str] | None = None,
    available: Mapping[str, Kind] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields intact windows, one a document, each followed by its controls.

    Args:
        documents: At least four of each category.
        tokenizer: Of the model that will score.
        window_tokens: Every window's length in tokens.
        per_category: The most intact windows of a category.
        seed: The same seed gives the same windows.
        kinds: Names of kinds; all by default.
        available: The kinds to choose from; `kinds_for(window_tokens)` by default.

    Yields:
        One dictionary a window: `id`, `doc_id`, `category`, `kind`, `side` (`"intact"` or `"control"`), `pair` (the
        number of the intact window within its category), `input_ids` (int32) and `text`.

    Raises:
        ValueError: A category has too few documents or none as long as a window, or a kind is unknown.
    """
    available = available or kinds_for(window_tokens)
    if unknown := set(kinds or ()) - set(available):
        raise ValueError(f"There is no kind {', '.join(sorted(unknown))}; there are {', '.join(available)}.")
    for number, (category, group) in enumerate(_by_category(documents).items()):
        if len(group) < 4:
            raise ValueError(f"Category {category!r} has {len(group)} documents; the benchmark needs at least 4.")
        order = np.random.default_rng([seed, 1, number]).permutation(len(group))
        half = (len(group) + 1) // 2
        cutter = Cutter(tokenizer=tokenizer, window_tokens=window_tokens, donors=[group[i] for i in order[half:]])
        pair = 0
        for document in (group[i] for i in order[:half]):
            intact = cutter.cut(document, window_tokens, np.random.default_rng([seed, 2, number, pair]))
            if intact is None or pair == per_category:
                continue
            yield _row(cutter, document, INTACT, INTACT, pair, intact)
            for place, name in enumerate(available):
                if kinds is None or name in kinds:
                    rng = np.random.default_rng([seed, 3, number, pair, place])
                    made = available[name].make(cutter, document, intact, rng)
                    if made is not None:
                        if made[0] is not None:
                            yield _row(cutter, document, name, INTACT, pair, made[0])
                        yield _row(cutter, document, name, "control", pair, made[1])
            pair += 1
        if not pair:
            raise ValueError(f"No document of category {category!r} reaches {window_tokens} tokens.")


@dataclass(frozen=True)
class _Shuffle:
    tokens: int

    def __call__(self, cutter: Cutter, document: Document, intact: np.ndarray, rng: np.random.Generator) -> Made:
        chunks = np.array_split(intact, range(self.tokens, len(intact), self.tokens))
        order = rng.permutation(len(chunks))
        while (order == np.arange(len(chunks))).all():
            order = rng.permutation(len(chunks))
        return None, np.concatenate([chunks[i] for i in order])


@dataclass(frozen=True)
class _Collage:
    tokens: int

    def __call__(self, cutter: Cutter, document: Document, intact: np.ndarray, rng: np.random.Generator) -> Made:
        return None, cutter.cut_from_donors(self.tokens, rng)


def _short_texts(cutter: Cutter, document: Document, intact: np.ndarray, rng: np.random.Generator) -> Made:
    texts: list[np.ndarray] = []
    while sum(map(len, texts)) < len(intact):
        texts.append(cutter.paragraph(24, 400, rng))
    return None, np.concatenate(texts)[: len(intact)]


def _repetition(cutter: Cutter, document: Document, intact: np.ndarray, rng: np.random.Generator) -> Made:
    return None, np.resize(cutter.paragraph(48, 256, rng), len(intact))


def _near_copies(cutter: Cutter, document: Document, intact: np.ndarray, rng: np.random.Generator) -> Made:
    copy, half = intact.copy(), len(intact) // 2
    passage = min(_PASSAGE, half // _PASSAGES)
    slots = rng.permutation(half // passage)[:_PASSAGES] * passage
    for start in slots:
        changed = rng.random(passage) < _CHANGED
        copy[half + start : half + start + passage] = np.where(
            changed, rng.choice(intact, passage), intact[start : start + passage]
        )
    return None, copy


def _definitions(cutter: Cutter, document: Document, intact: np.ndarray, rng: np.random.Generator) -> Made | None:
    quarter, half = len(intact) // 4, len(intact) // 2

    def names_used_far(ids: np.ndarray) -> int:
        defined = set(_DEFINITION.findall(cutter.tokenizer.decode(ids[:quarter])))
        used = cutter.tokenizer.decode(ids[half:])
        return sum(re.search(rf"\b{re.escape(name)}\b", used) is not None for name in defined)

    windows = [cutter.cut(document, len(intact), rng) for _ in range(_TRIES)]
    best = max((ids for ids in windows if ids is not None), key=names_used_far)
    if names_used_far(best) < _LEAST_DEFINITIONS:
        return None
    others = [cutter.cut(cutter.donors[i], quarter, rng) for i in rng.permutation(len(cutter.donors))[:_TRIES]]
    other = next((ids for ids in others if ids is not None), None)
    return None if other is None else (best, np.concatenate([other, best[quarter:]]))


def _row(cutter: Cutter, document: Document, kind: str, side: str, pair: int, ids: np.ndarray) -> dict[str, Any]:
    return {
        "id": f"{document.category}/{pair}/{kind}/{side}",
        "doc_id": document.id,
        "category": document.category,
        "kind": kind,
        "side": side,
        "pair": pair,
        "input_ids": ids,
        "text": cutter.tokenizer.decode(ids),
    }


def _by_category(documents: Sequence[Document]) -> dict[str, list[Document]]:
    groups: dict[str, list[Document]] = {}
    for document in documents:
        groups.setdefault(document.category, []).append(document)
    return dict(sorted(groups.items()))
