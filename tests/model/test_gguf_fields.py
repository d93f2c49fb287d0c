"""The maps of GGUF files whose fields transformers does not read, against the models that they were written of."""

import gguf
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from longattn_hf.model.first_layer import FirstLayer
from tests.support.tiny import TINY_SIZES

IDS = torch.randint(3, 300, (1, 60), generator=torch.Generator().manual_seed(1))
# norms that add 1 to their weights are stored with it
_PLUS_ONE = ("gemma3", "nemotron")


def write_twin(path, kind, architecture, fields, tensors=None, **settings):
    """Writes a tiny random model as llama.cpp's converter does, in float32; returns its own eager first map."""
    torch.manual_seed(0)
    sizes = TINY_SIZES | dict(pad_token_id=2, initializer_range=0.5)
    config = getattr(transformers, f"{kind}Config")(**sizes | settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_vocab_size(300)
    writer.add_pad_token_id(2)
    writer.add_token_list([str(number) for number in range(300)])
    for name, value in ({"attention.layer_norm_rms_epsilon": 1e-5} | fields).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(f"{architecture}.{name}", value)
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, 2)
    for name, tensor in model.state_dict().items():
        base, _, suffix = name.rpartition(".")
        if (theirs := names.get_name(base)) is None or (theirs == "output" and config.tie_word_embeddings):
            continue
        values = tensor.float().numpy()
        if architecture == "llama" and theirs.endswith(("attn_q", "attn_k")):
            rows = values.reshape(-1, 2, 8, *values.shape[1:])
            values = np.ascontiguousarray(rows.swapaxes(1, 2).reshape(values.shape))
        if architecture in _PLUS_ONE and name.endswith("norm.weight"):
            values = values + 1
        writer.add_tensor(f"{theirs}.{suffix}", values)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with torch.no_grad():
        return model(IDS, output_attentions=True).attentions[0].double()


def first_map(path, **arguments):
    q, k, scale = FirstLayer.from_pretrained(str(path), **arguments).query_key(IDS)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    future = torch.ones(60, 60, dtype=torch.bool).triu(1)
    return (q.double() @ k.double().mT * scale).masked_fill(future, -torch.inf).softmax(-1)


EPS = {"attention.layer_norm_epsilon": 1e-5}
GEMMA = {"attention.key_length": 16, "attention.sliding_window": 64, "rope.freq_base": 1e6}
GEMMA_SETTINGS = dict(head_dim=16, sliding_window=64, rms_norm_eps=1e-5)
LINEAR = dict(rope_type="linear", factor=8.0)


@pytest.mark.parametrize(
    ("kind", "architecture", "fields", "settings"),
    [
        ("Llama", "llama", {"rope.dimension_count": 16, "rope.freq_base": 10000.0}, dict(rms_norm_eps=1e-5)),
        ("Starcoder2", "starcoder2", EPS | {"rope.freq_base": 1e6}, dict(rope_theta=1e6)),
        ("StableLm", "stablelm", EPS | {"rope.freq_base": 1e6, "rope.dimension_count": 4}, dict(rope_theta=1e6)),
        ("StableLm", "stablelm", EPS | {"rope.dimension_count": 8}, dict(partial_rotary_factor=0.5)),
        ("Nemotron", "nemotron", EPS | {"rope.dimension_count": 16}, dict(partial_rotary_factor=1.0)),
        ("Nemotron", "nemotron", {"attention.layer_norm_rms_epsilon": 0.25}, dict(norm_eps=0.25)),
        ("Phi3", "phi3", {"rope.dimension_count": 12}, dict(partial_rotary_factor=0.75)),
        ("Qwen3", "qwen3", {"attention.key_length": 32}, dict(head_dim=32, rms_norm_eps=1e-5)),
        ("Gemma3Text", "gemma3", GEMMA, GEMMA_SETTINGS | dict(query_pre_attn_scalar=256)),
        (
            "Gemma3Text",
            "gemma3",
            GEMMA | {"attention.scale": 168**-0.5},
            GEMMA_SETTINGS | dict(query_pre_attn_scalar=168),
        ),
        # only the full layers are scaled
        (
            "Gemma3Text",
            "gemma3",
            GEMMA | {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
            GEMMA_SETTINGS | dict(query_pre_attn_scalar=256, rope_scaling=LINEAR),
        ),
    ],
)
def test_fields_that_transformers_leaves_out_are_read(tmp_path, kind, architecture, fields, settings):
    own = write_twin(tmp_path / "m.gguf", kind, architecture, fields, **settings)
    assert (first_map(tmp_path / "m.gguf") - own).abs().max() <= 1e-5


def test_a_gguf_files_sliding_window_is_the_layers(tmp_path):
    write_twin(tmp_path / "m.gguf", "Phi3", "phi3", {"attention.sliding_window": 32}, sliding_window=32)
    with pytest.raises(ValueError, match="does not see all of a window of 60 tokens .*32"):
        first_map(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("kind", "architecture", "fields", "message"),
    [
        ("Llama", "llama", {"rope.dimension_count": 8, "attention.key_length": 16}, "rope.dimension_count = 8"),
        ("Starcoder2", "starcoder2", {"attention.key_length": 32}, "attention.key_length = 32"),
        ("Starcoder2", "starcoder2", {"rope.dimension_count": 8}, "rope.dimension_count = 8"),
        ("Llama", "llama", {"attention.sliding_window": 32}, "attention.sliding_window = 32"),
        ("Qwen2", "qwen2", {"attention.sliding_window": 32}, "attention.sliding_window = 32"),
        ("Llama", "llama", {"attention.scale": 0.125}, "attention.scale = 0.125"),
        ("Llama", "llama", {"rope.scale_linear": 4.0}, "scales RoPE .rope.scale_linear = 4.0"),
        ("Llama", "llama", {"rope.scaling.factor": 4.0}, "scales RoPE .rope.scaling.factor = 4.0"),
    ],
)
def test_a_field_that_the_configuration_has_no_setting_for_is_refused(tmp_path, kind, architecture, fields, message):
    write_twin(tmp_path / "m.gguf", kind, architecture, fields)
    with pytest.raises(ValueError, match=message):
        first_map(tmp_path / "m.gguf")


def test_fields_that_change_nothing_are_no_reason_to_refuse(tmp_path):
    fields = {
        "attention.scale": 0.25,
        "attention.sliding_window": 512,
        "rope.scale_linear": 1.0,
        "attention.key_length": 16,
    }
    own = write_twin(tmp_path / "m.gguf", "Llama", "llama", fields, rms_norm_eps=1e-5)
    assert (first_map(tmp_path / "m.gguf") - own).abs().max() <= 1e-5


def test_a_scaling_that_is_given_stands_for_the_files(tmp_path):
    fields = {"rope.scale_linear": 4.0}
    scaling = dict(rope_type="linear", factor=4.0)
    own = write_twin(tmp_path / "m.gguf", "Llama", "llama", fields, rms_norm_eps=1e-5, rope_scaling=scaling)
    assert (first_map(tmp_path / "m.gguf", rope_scaling=scaling) - own).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["blk.0.attn_q.bias", "blk.0.attn_k_norm.weight", "blk.0.attn_sinks"])
def test_a_tensor_for_queries_and_keys_that_nothing_takes_is_refused(tmp_path, name):
    write_twin(tmp_path / "m.gguf", "Llama", "llama", {}, {name: np.ones(64, dtype=np.float32)})
    with pytest.raises(ValueError, match=f"holds {name}, for which"):
        first_map(tmp_path / "m.gguf")


def test_tensors_of_values_and_of_other_layers_are_left_over(tmp_path):
    ones = np.ones(64, dtype=np.float32)
    extra = {"blk.0.attn_v.bias": ones[:32], "blk.0.attn_output.bias": ones, "blk.1.attn_q.bias": ones}
    own = write_twin(tmp_path / "m.gguf", "Llama", "llama", {}, extra, rms_norm_eps=1e-5)
    assert (first_map(tmp_path / "m.gguf") - own).abs().max() <= 1e-5
