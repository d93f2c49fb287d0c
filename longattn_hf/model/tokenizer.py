"""A model's tokenizer, and the one way in which documents are tokenised."""

from functools import lru_cache
from typing import TYPE_CHECKING

from longattn_hf.model.location import ModelRef, locate

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerFast


def load_tokenizer(
    model: ModelRef | str, *, token: str | bool | None = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerFast":
    """Loads a model's tokenizer from where `locate` finds the model.

    Returns:
        A fast tokenizer: one that gives each token's place in the text.

    Raises:
        ValueError: There is none, or it is not a fast one.
    """
    from transformers import AutoTokenizer

    location = locate(model, token=token)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            location.path, trust_remote_code=trust_remote_code, **location.loading_arguments
        )
    except (OSError, KeyError, ValueError, ImportError, TypeError) as error:
        raise ValueError(f"{location.name!r} has no tokenizer that transformers can load: {error}") from error
    if not tokenizer.is_fast:
        raise ValueError(
            f"The tokenizer of {location.name!r} is a slow one ({type(tokenizer).__name__}), which cannot tell where "
            "a token stands in the text. Use a model with a tokenizer.json."
        )
    return tokenizer  # type: ignore[return-value]  # a fast one


@lru_cache(maxsize=4)
def load_tokenizer_once(model: ModelRef) -> "PreTrainedTokenizerFast":
    """Loads a tokenizer on the first call in a process, and returns the same one afterwards."""
    return load_tokenizer(model)


def tokenise(tokenizer: "PreTrainedTokenizerFast", text: str | list[str]) -> "BatchEncoding":
    """Tokenises a text or several as they stand: none gets special tokens, and those written in a text are text."""
    return tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
    )
