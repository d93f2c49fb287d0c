"""Training sequences of equal length out of texts: a long window stays one sequence, short texts are packed."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset, Features, List, Value
from torch import Tensor

from longattn_hf.model.tokenizer import tokenise
from longattn_hf.pipeline.shards import hash_json
from longattn_hf.pipeline.stages import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: `input_ids` is a sequence; those from `num_tokens` on fill it up and are not learnt from.
SEQUENCE_FEATURES = Features({"input_ids": List(Value("int32")), "num_tokens": Value("int64")})
# a window's text tokenised again may come out a few tokens short; such a window still gets a sequence of its own
_SLACK = 64
_VERSION = 1
_TEXTS_AT_ONCE = 64


def pack(documents: Iterable[list[int]], *, window_tokens: int, end_of_text: int) -> Iterator[dict[str, Any]]:
    """Cuts and joins documents to sequences of `window_tokens` tokens.

    A document is cut into whole sequences from its beginning, so that a selected window is one sequence and its far
    dependencies stay in it. What is shorter goes, each with an end-of-text token behind it, into sequences that are
    filled to the last token and may cut a document in two. What is left at the end is dropped.

    Args:
        documents: The token ids of each.
        window_tokens: The sequences' length.
        end_of_text: The token between documents.
    """
    least = window_tokens - window_tokens // _SLACK
    short: list[int] = []
    for ids in documents:
        for start in range(0, len(ids), window_tokens):
            piece = ids[start : start + window_tokens]
            if len(piece) >= least:
                filling = [end_of_text] * (window_tokens - len(piece))
                yield {"input_ids": piece + filling, "num_tokens": len(piece)}
            else:
                short += [*piece, end_of_text]
        while len(short) >= window_tokens:
            yield {"input_ids": short[:window_tokens], "num_tokens": window_tokens}
            short = short[window_tokens:]


def pack_source(
    source: Source,
    tokenizer: "PreTrainedTokenizerFast",
    *,
    window_tokens: int,
    sequences: int,
    seed: int,
    cache: Path,
) -> Dataset:
    """Reads, in random order, as much of a source as gives so many sequences, or all of it.

    Args:
        source: The documents.
        tokenizer: The trained model's.
        window_tokens: The sequences' length.
        sequences: How many are wanted.
        seed: Of the order.
        cache: The folder for the result, which is made once.

    Raises:
        ValueError: The tokenizer has no end-of-text token, or the source does not fill one sequence.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("The model's tokenizer has no end-of-text token to put between documents.")

    def encode(texts: list[str | None]) -> list[list[int]]:
        texts = [text for text in texts if text]
        return tokenise(tokenizer, texts)["input_ids"] if texts else []

    def generate() -> Iterator[dict[str, Any]]:
        encoded = chain.from_iterable(
            encode(batch[source.text_column])
            for batch in source.stream.shuffle(seed=seed, buffer_size=1000).iter(_TEXTS_AT_ONCE)
        )
        packed = pack(encoded, window_tokens=window_tokens, end_of_text=tokenizer.eos_token_id)
        yield from islice(packed, sequences)

    made_from = [source.identity, source.text_column, window_tokens, sequences, seed, _VERSION]
    fingerprint = hash_json([*made_from, tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id])
    dataset = Dataset.from_generator(
        generate, features=SEQUENCE_FEATURES, fingerprint=fingerprint, cache_dir=str(cache)
    )
    if not len(dataset):
        raise ValueError(f"The source of {source.category!r} does not fill one sequence of {window_tokens} tokens.")
    return dataset


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Makes a batch: `input_ids` and `labels`, int64 `[B, T]`, the labels -100 where there is nothing to learn."""
    input_ids_BT = torch.tensor([row["input_ids"] for row in rows])
    num_tokens_B1 = torch.tensor([[row["num_tokens"]] for row in rows])
    is_filling_BT = torch.arange(input_ids_BT.shape[1]) >= num_tokens_B1
    return {"input_ids": input_ids_BT, "labels": input_ids_BT.masked_fill(is_filling_BT, -100)}
