"""How the authors' released code makes a model's input of a window, and reads the map; see `longattn_hf.method`."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from longattn_hf.method import Convention

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerFast


def encode_again(texts: list[str], tokenizer: "PreTrainedTokenizerFast", window_tokens: int | None) -> "BatchEncoding":
    """Tokenises windows' texts behind a BOS token that the tokenizer then adds once more, cut at `window_tokens`."""
    cut = {"truncation": True, "max_length": window_tokens} if window_tokens else {}
    texts = [f"{tokenizer.bos_token or ''} {text}" for text in texts]
    return tokenizer(texts, return_attention_mask=False, verbose=False, **cut)


def read(
    ids_BT: Tensor,
    convention: Convention,
    tokenizer: "PreTrainedTokenizerFast | None",
    window_tokens: int | None,
) -> tuple[Tensor, dict[str, Any]]:
    """Returns what a convention gives to the model for windows of equal lengths, and how it reads their maps.

    Args:
        ids_BT: int64 `[B, T]`, without padding.
        convention: The convention.
        tokenizer: What names the token to pad with, or its EOS token; for conventions that pad.
        window_tokens: The length that is padded to; None for none.

    Returns:
        The ids with their padding, int64 `[B, T']`, and arguments of `far_attention`.

    Raises:
        ValueError: There is no token to pad with.
    """
    length = ids_BT.shape[1]
    dtype = getattr(torch, convention.probability_dtype) if convention.probability_dtype else None
    reading: dict[str, Any] = {"probability_dtype": dtype}
    if convention.pads and window_tokens and length < window_tokens:
        assert tokenizer is not None, "a convention that pads has a tokenizer"
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if pad_id is None:
            raise ValueError(
                f"The tokenizer has neither a padding nor an EOS token to fill a window of {length} tokens with, as "
                f"convention={convention.name!r} does. Drop windows shorter than {window_tokens} tokens."
            )
        ids_BT = pad(ids_BT, (0, window_tokens - length), value=pad_id)
        reading |= {"lengths": torch.full((len(ids_BT),), length), "padding_counts": True}
    elif convention.causal == "padded":
        reading["causal"] = False
    return ids_BT, reading
