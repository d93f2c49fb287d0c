"""Tiny real models and tokenizers, built in code: what the tests use where a user has a pre-trained model."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TINY_SIZES = dict(
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
    torch.manual_seed(seed)
    # a large init makes the attention far from uniform, so that a mistake shows
    model = LlamaForCausalLM(LlamaConfig(**(TINY_SIZES | {"initializer_range": 0.5} | config)))
    model.save_pretrained(path)
    build_tokenizer(bos=bos).save_pretrained(path)
    return path


def write_gguf(path: Path, source: Path, *, rope_factors: bool = False, split: str | None = "gpt-2") -> Path:
    """Writes a tiny Llama as llama.cpp does: pairs of rotated rows side by side, in Q8_0 where they are matrices.

    Args:
        path: The file.
        source: What `save_tiny_llama` wrote.
        rope_factors: Scale RoPE, as llama.cpp stores that of Llama 3.1.
        split: The name of the tokenizer's split; none is named if None.
    """
    import gguf

    config = AutoConfig.from_pretrained(source)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(config.vocab_size)
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    writer.add_tokenizer_model("gpt2")
    if split:
        writer.add_tokenizer_pre(split)
    writer.add_token_list(sorted(tokenizer["vocab"], key=tokenizer["vocab"].get))
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["merges"]])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_add_bos_token(True)
    tensors = load_file(source / "model.safetensors")
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    for layer in range(config.num_hidden_layers):
        for theirs, ours in {
            "input_layernorm": "attn_norm",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output",
            "mlp.gate_proj": "ffn_gate",
            "mlp.up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down",
            "post_attention_layernorm": "ffn_norm",
        }.items():
            names[f"model.layers.{layer}.{theirs}.weight"] = f"blk.{layer}.{ours}.weight"
    for theirs, ours in names.items():
        values = tensors[theirs].float().numpy()
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(ours.split(".")[-2])
        if heads:
            rows = values.reshape(heads, 2, values.shape[0] // heads // 2, -1)
            values = np.ascontiguousarray(rows.swapaxes(1, 2).reshape(values.shape))
        if values.ndim == 2:
            q8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(ours, gguf.quantize(values, q8), raw_dtype=q8)
        else:
            writer.add_tensor(ours, values)
    if rope_factors:
        writer.add_tensor("rope_freqs.weight", np.ones(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
