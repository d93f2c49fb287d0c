"""The texts of a window's tokens: how pages show them, and what they receive of its attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from longattn_hf.pages.page import visible

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def token_texts(ids: np.ndarray, tokenizer: "PreTrainedTokenizerFast") -> list[str]:
    """Returns the text that each token adds to that of the tokens before it, so that joined they are the whole text.

    A token that ends inside a character adds nothing, and the one that completes the character adds all of it.
    """

    def decode(start: int, stop: int) -> str:
        return str(tokenizer.decode(ids[start:stop], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    texts = []
    # the tokens decoded are those behind the last whole character, and one more: some tokenizers drop a leading space
    begun, done, before = 0, 0, ""
    for at in range(len(ids)):
        now = decode(begun, at + 1)
        # a character has at most four bytes: what is not whole by then stays broken
        if (now.endswith("\ufffd") and at - done < 3 and at + 1 < len(ids)) or not now.startswith(before):
            texts.append("" if now.startswith(before) else now[len(before) :])
            continue
        texts.append(now[len(before) :])
        begun, done = done, at + 1
        before = decode(begun, done)
    return texts


def show_token(text: str) -> str:
    """Shows a token in its place: what acts instead of being seen, and line breaks, with a sign of their own."""
    return visible(text).replace("\n", "\u21b5\n")


def name_text(text: str) -> str:
    """Names a token's text in a sentence, so that blanks and line breaks can be told."""
    shown = visible(text).replace("\n", "\u21b5").replace(" ", "\u2423")
    return f"\u201c{shown}\u201d" if shown else "parts of characters"


@dataclass(frozen=True, kw_only=True)
class Received:
    """What the tokens of one text, which stands at `places` places, receive of a window's far attention.

    Both shares are of all far attention, in [0, 1]; `even` is what attention spread evenly would give.
    """

    text: str
    places: int
    share: float
    even: float


def sum_by_text(tokens: Sequence[str], received: np.ndarray, even: np.ndarray) -> list[Received]:
    """Sums the far attention that each token receives, `[T]`, by the token's text, most first."""
    texts, codes = np.unique(np.array(tokens, dtype=object), return_inverse=True)
    sums, evens = (np.bincount(codes, values) / (values.sum() or 1.0) for values in (received, even))
    counts = np.bincount(codes)
    return [
        Received(text=texts[at], places=int(counts[at]), share=float(sums[at]), even=float(evens[at]))
        for at in np.argsort(-sums, kind="stable").tolist()
    ]
