"""A small Llama from scratch: a tokenizer trained on the documents at hand, and random weights."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from longattn_hf.pipeline.settings import settings

_END_OF_TEXT = "<|endoftext|>"
# one for each byte, and the end of a text
_LEAST_VOCABULARY = 257


@settings
class ScratchConfig:
    """The sizes of a model from scratch, named as transformers' `LlamaConfig` names them.

    Attributes:
        hidden_size: The width of the residual stream.
        intermediate_size: The width of the MLPs.
        num_hidden_layers: The number of layers.
        num_attention_heads: The number of query heads.
        num_key_value_heads: The number of key heads; that of the query heads if None.
        vocab_size: Of the byte-level BPE tokenizer.
        tie_word_embeddings: Whether the output embedding is the input embedding.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    vocab_size: int = 8192
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        heads, key_heads = self.num_attention_heads, self.num_key_value_heads
        key_heads = heads if key_heads is None else key_heads
        if min(self.hidden_size, self.intermediate_size, self.num_hidden_layers, heads, key_heads) < 1:
            raise ValueError(f"The sizes of a model from scratch must be positive, not {asdict(self)}.")
        if self.vocab_size < _LEAST_VOCABULARY:
            raise ValueError(f"vocab_size={self.vocab_size} must be at least {_LEAST_VOCABULARY}: a token a byte.")
        if self.hidden_size % (2 * heads) or heads % key_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of twice num_attention_heads={heads}, and that a "
                f"multiple of num_key_value_heads={key_heads}."
            )


def save_scratch_models(
    config: ScratchConfig, texts: Iterable[str], folder: Path, *, window_tokens: int, seeds: Sequence[int]
) -> None:
    """Writes `folder/SEED` for each seed: a model's folder, all with the same tokenizer and each with other weights.

    Args:
        config: The sizes.
        texts: What the tokenizer is trained on.
        folder: Receives the models.
        window_tokens: The longest context.
        seeds: Of the weights.
    """
    tokenizer = train_tokenizer(texts, config.vocab_size)
    llama = LlamaConfig(
        **asdict(config), max_position_embeddings=window_tokens, bos_token_id=None, eos_token_id=tokenizer.eos_token_id
    )
    for seed in seeds:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            LlamaForCausalLM(llama).save_pretrained(folder / str(seed))
        tokenizer.save_pretrained(folder / str(seed))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer; of few texts it has fewer tokens than asked for."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END_OF_TEXT)
