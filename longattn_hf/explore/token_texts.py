"""The texts of a window's tokens, and how pages show them."""

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
    return f"\u201c{shown}\u201d" if shown else "a part of a character"
