"""Documents' tokens and where each ends, piece by piece: memory and time that do not follow the tokenizer's own.

`tokenizers` takes about 250 bytes a token of a text while it works on it. Here a text is cut where that changes no id
(see `Splits`), and what recurs between two such places, mostly a word, is tokenised once and remembered.
"""

import json
import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from longattn_hf.model.splits import Splits, is_byte_level

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

#: Characters of a piece, and of those that are tokenised at once.
_PIECE, _BATCH = 2**17, 2**20
#: What is remembered: so many stretches, each of no more than so many characters.
_REMEMBERED, _LONGEST = 2**17, 64
#: With so many remembered, text that is mostly new is not worth remembering.
_LEARNT = 2**13
#: Characters on both sides of a cut that are tokenised again, in one, to see that the ids are the same.
_CHECKED = 200


class Tokens(NamedTuple):
    """A text's token ids, int32 of shape (n,), and the character behind which each ends, uint32 of shape (n,)."""

    ids: np.ndarray
    ends: np.ndarray


class _Piece(NamedTuple):
    row: int
    start: int
    text: str
    cuts: np.ndarray


class DocumentTokenizer:
    """Tokenises documents as `tokenise` does, and tells where each token ends.

    A character whose bytes fall to several tokens ends with the first of them. Blanks that a token holds belong to it,
    whatever the tokenizer's own offsets leave out.

    Needs, beside the texts, 8 bytes a token and about 150 MB. A tokenizer without safe places to cut takes a text
    whole, at about 250 bytes a token, and a warning says so.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self._name = tokenizer.name_or_path
        # its own: without the step that trims offsets, and free to be set otherwise than the one it was given
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.post_processor = None
        self._backend.encode_special_tokens = True
        self._backend.no_truncation()
        self._backend.no_padding()
        settings = json.loads(self._backend.to_str())
        self._splits = Splits(settings)
        self._bytes = _bytes_by_id(settings) if is_byte_level(settings) else []
        self._lengths = np.array([len(token) for token in self._bytes], dtype=np.int64)
        self._known: dict[str, bytes | None] = {}
        self._warned = False
        # the text of which too little recurs
        self._unlike: int | None = None

    def __call__(self, texts: Sequence[str]) -> Iterator[Tokens]:
        """Yields each text's tokens, in order; none of the texts may be empty."""
        row, ids, ends = 0, array("i"), array("I")
        self._unlike = None
        for batch in _batches(piece for row, text in enumerate(texts) for piece in self._cut(row, text)):
            for piece, (some_ids, some_ends) in zip(batch, self._encode(batch), strict=True):
                if piece.row > row:
                    yield Tokens(np.frombuffer(ids, np.int32), np.frombuffer(ends, np.uint32))
                    row, ids, ends = piece.row, array("i"), array("I")
                ids.frombytes(some_ids.astype(np.int32).tobytes())
                ends.frombytes((some_ends + piece.start).astype(np.uint32).tobytes())
        if texts:
            yield Tokens(np.frombuffer(ids, np.int32), np.frombuffer(ends, np.uint32))

    def _cut(self, row: int, text: str) -> Iterator[_Piece]:
        start, size = 0, _PIECE
        if len(text) > size and self._splits.reason:
            size = len(text)
            self._warn(size, self._splits.reason)
        while start < len(text):
            # one character more, so that a piece can end in front of it
            piece = text[start : start + size + 1]
            cuts = self._splits.cuts(piece)
            if start + len(piece) < len(text):
                if not len(cuts):
                    size *= 2
                    self._warn(size, "it holds no place where it can be cut without a change of ids")
                    continue
                piece, cuts = piece[: cuts[-1]], cuts[:-1]
                self._check(text, start + len(piece))
            yield _Piece(row, start, piece, cuts)
            start, size = start + len(piece), _PIECE

    def _check(self, text: str, cut: int) -> None:
        """Compares the ids on both sides of a cut with those of the same text in one."""
        sides = [text[max(0, cut - _CHECKED) : cut], text[cut : cut + _CHECKED]]
        left, right, whole = self._backend.encode_batch_fast([*sides, "".join(sides)], add_special_tokens=False)
        if left.ids + right.ids != whole.ids:
            raise ValueError(
                f"The tokenizer of {self._name!r} gives other ids for {''.join(sides)!r} when it is cut at {cut}, "
                "which its own splits rule out. Its tokenizer.json and the installed tokenizers do not agree."
            )

    def _warn(self, size: int, reason: str) -> None:
        if not self._warned:
            logger.warning(
                "%s: %d characters are tokenised in one, at about 250 bytes a token, since %s.",
                self._name,
                size,
                reason,
            )
        self._warned = True

    def _encode(self, batch: Sequence[_Piece]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns the ids and ends of pieces, the ends from each piece's own start."""
        found = [self._encode_by_bytes(piece) if self._bytes else None for piece in batch]
        others = [piece.text for piece, tokens in zip(batch, found, strict=True) if tokens is None]
        encoded = iter(self._backend.encode_batch(others, add_special_tokens=False))
        return [_by_offsets(next(encoded)) if tokens is None else tokens for tokens in found]

    def _encode_by_bytes(self, piece: _Piece) -> tuple[np.ndarray, np.ndarray] | None:
        """As `_encode`, from the tokens' bytes; None where these do not spell the piece."""
        known = self._known
        stretches = [piece.text] if piece.row == self._unlike else _stretches(piece)
        new = set(stretches) - known.keys()
        if len(known) > _LEARNT and 3 * sum(map(len, new)) > len(piece.text):
            # Chinese, numbers, random letters: too little recurs to be worth remembering, here and in what follows
            stretches, new, self._unlike = [piece.text], {piece.text}, piece.row
        if len(known) + len(new) > _REMEMBERED:
            known.clear()
            new = set(stretches)
        encoded = self._backend.encode_batch_fast(list(new), add_special_tokens=False)
        known.update((stretch, self._spelt(stretch, one.ids)) for stretch, one in zip(new, encoded, strict=True))
        parts = [part for stretch in stretches if (part := known[stretch]) is not None]
        for stretch in new:
            if len(stretch) > _LONGEST:
                del known[stretch]
        return None if len(parts) < len(stretches) else self._joined(piece.text, parts)

    def _spelt(self, stretch: str, ids: list[int]) -> bytes | None:
        """Returns ids as bytes if their tokens spell the stretch, or it behind the blank that some tokenizers add."""
        spelt, raw = b"".join([self._bytes[token] for token in ids]), stretch.encode()
        return np.array(ids, np.int32).tobytes() if spelt in (raw, b" " + raw) else None

    def _joined(self, text: str, parts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        ids, raw = np.frombuffer(b"".join(parts), np.int32), text.encode()
        ends = np.cumsum(self._lengths[ids])
        # the first stretch alone can have got a blank
        ends -= ends[-1] - len(raw)
        if len(raw) != len(text):
            # a character ends with the token that holds its first byte
            starts = (np.frombuffer(raw, np.uint8) & 0xC0) != 0x80
            ends = np.concatenate([[0], np.cumsum(starts)])[ends]
        return ids, ends


@lru_cache(maxsize=4)
def document_tokenizer(tokenizer: "PreTrainedTokenizerFast") -> DocumentTokenizer:
    """Returns the one `DocumentTokenizer` of a loaded tokenizer."""
    return DocumentTokenizer(tokenizer)


def _stretches(piece: _Piece) -> list[str]:
    # in a script without blanks they are long and seldom recur
    if len(piece.cuts) < len(piece.text) // 8:
        return [piece.text]
    return [piece.text[start:stop] for start, stop in pairwise([0, *piece.cuts.tolist(), len(piece.text)])]


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    size = 0
    for piece in pieces:
        if batch and size + len(piece.text) > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += len(piece.text)
    if batch:
        yield batch


def _by_offsets(encoding: Encoding) -> tuple[np.ndarray, np.ndarray]:
    ends = np.array([end for _, end in encoding.offsets], dtype=np.int64)
    return np.array(encoding.ids, dtype=np.int32), np.maximum.accumulate(ends)


def _bytes_by_id(settings: dict[str, Any]) -> list[bytes]:
    """Returns what each token of a byte-level vocabulary spells; nothing for those that are not of its alphabet."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {ord(char): byte for byte, char in bytes_to_unicode().items()}
    vocabulary, added = (
        settings["model"]["vocab"],
        {token["id"]: token["content"] for token in settings["added_tokens"]},
    )
    spelt = [b""] * (1 + max([*vocabulary.values(), *added]))
    for token, number in vocabulary.items():
        if all(ord(char) in byte_of for char in token):
            spelt[number] = token.translate(byte_of).encode("latin-1")
    for number, content in added.items():
        spelt[number] = content.encode()
    return spelt
