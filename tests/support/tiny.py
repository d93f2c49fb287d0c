"""Tiny real models and tokenizers, built in code: what the tests use where a user has a pre-trained model."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_TRAINING_TEXT = [
    "The attention of a long document reaches far back, and the far tokens matter.",
    "def window(tokens, size):\n    return tokens[:size]\n",
    "Naïve café — 日本語のテキスト 😀 𝒳 ∑ and so on.",
]


def build_tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens: every Unicode text round-trips, and rare characters span several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TRAINING_TEXT, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def save_tiny_llama(path: Path, *, bos: bool = True, seed: int = 0, **config: object) -> Path:
    """Writes a two-layer random Llama (fp32, safetensors) and its tokenizer to `path`."""
    settings: dict = dict(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(seed)
    # a large init makes the attention far from uniform, so that a mistake shows
    model = LlamaForCausalLM(LlamaConfig(**(settings | {"initializer_range": 0.5} | config)))
    model.save_pretrained(path)
    build_tokenizer(bos=bos).save_pretrained(path)
    return path
