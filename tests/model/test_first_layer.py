import json
import multiprocessing
import shutil
import warnings
from dataclasses import replace
from importlib import import_module

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM, LlamaForCausalLM

from longattn_hf.model.attention_hooks import STOPS_AT_ATTENTION, stop_at_attention
from longattn_hf.model.first_layer import FirstLayer
from longattn_hf.model.layer_cache import load_first_layer
from longattn_hf.model.tokenizer import load_tokenizer
from tests.support.models import needs_smollm2
from tests.support.tiny import TINY_SIZES, build_tokenizer, save_tiny_llama, write_gguf

VOCAB = TINY_SIZES["vocab_size"]
# far from uniform maps, so that a mistake shows
SIZES = TINY_SIZES | dict(pad_token_id=2, initializer_range=0.5)
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
    rope_theta=5e5,
)
LONGROPE = dict(type="longrope", short_factor=[1 + i / 10 for i in range(8)], long_factor=[2.0 + i for i in range(8)])
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
GEMMA = dict(head_dim=16, query_pre_attn_scalar=20, sliding_window=64)
ARCHITECTURES = {
    "llama": ("Llama", dict(attention_bias=True)),
    "llama with llama3 scaling": ("Llama", dict(rope_scaling=LLAMA3)),
    "llama with yarn": ("Llama", dict(rope_scaling=dict(rope_type="yarn", factor=4.0))),
    "mistral": ("Mistral", dict(sliding_window=64)),
    "mixtral": ("Mixtral", dict(num_local_experts=4)),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", dict(head_dim=16)),
    "qwen3 moe": ("Qwen3Moe", dict(head_dim=16, **EXPERTS)),
    "gemma": ("Gemma", dict(head_dim=16)),
    "gemma2 without soft-capping": ("Gemma2", dict(attn_logit_softcapping=None, **GEMMA)),
    "gemma3": ("Gemma3Text", GEMMA),
    "phi": ("Phi", dict(partial_rotary_factor=0.5)),
    "phi3": ("Phi3", {}),
    "phi3 with longrope": ("Phi3", dict(original_max_position_embeddings=32, rope_scaling=LONGROPE)),
    "olmo2": ("Olmo2", {}),
    "gpt_neox": ("GPTNeoX", dict(rotary_pct=0.25)),
    "gpt2": ("GPT2", dict(n_embd=64, n_layer=2, n_head=4, n_positions=512)),
    "opt": ("OPT", dict(ffn_dim=96, word_embed_proj_dim=64)),
    "granite": ("Granite", dict(attention_multiplier=0.1, embedding_multiplier=3.0)),
    "cohere2": ("Cohere2", dict(sliding_window=64)),
    "stablelm": ("StableLm", {}),
    "smollm3": ("SmolLM3", {}),
    "llama4": (
        "Llama4Text",
        dict(head_dim=16, num_local_experts=2, intermediate_size_mlp=64, attention_chunk_size=64),
    ),
    "gemma4 with per-layer embeddings": ("Gemma4Text", dict(head_dim=16)),
    "modernbert decoder": ("ModernBertDecoder", dict(local_attention=400)),
    "sarvam, saved with one matrix for q, k and v": (
        "sarvam_moe",
        dict(head_dim=16, n_group=1, topk_group=1, **EXPERTS),
    ),
    "deepseek v3": (
        "DeepseekV3",
        dict(q_lora_rank=32, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=16)
        | dict(num_key_value_heads=4, n_routed_experts=8, n_group=2, topk_group=1, moe_intermediate_size=32),
    ),
}


ARCHITECTURES |= {
    # what stands for values is written into, and called by its argument's name
    "olmo that clips": ("Olmo", dict(clip_qkv=8.0)),
    "falcon h1": ("FalconH1", dict(mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8)),
}


# before, transformers gave these models masks of their own, and the layers are refused
ASKS_FOR_A_RULE_SINCE = {"opt": "5.10", "stablelm": "5.10", "falcon h1": "5.10"}


def skip_unless_a_rule_is_asked_for(name):
    if Version(transformers.__version__) < Version(ASKS_FOR_A_RULE_SINCE.get(name, "5.0")):
        pytest.skip("this release of transformers gives the model a mask of its own")


def save_model(path, kind, seed=0, **settings):
    """A tiny random model whose norms and biases are random too, and its own eager form."""
    kind_of_config = getattr(transformers, f"{kind}Config", None) or (kind in CONFIG_MAPPING and CONFIG_MAPPING[kind])
    if not kind_of_config:
        pytest.skip(f"this release of transformers has no {kind}")
    config = kind_of_config(**(SIZES | settings))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    model.save_pretrained(path)
    return model


def some_ids(length=60, batch=2):
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))


def causal_map(q, k, scale):
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    return (q.double() @ k.double().mT * scale).masked_fill(future, -torch.inf).softmax(-1)


def own_map(model, ids):
    with torch.no_grad():
        return model(ids, output_attentions=True).attentions[0].double()


def own_query_key(path, ids, **arguments):
    """The queries and keys of the whole model, as transformers loads it."""
    whole = AutoModelForCausalLM.from_pretrained(path, attn_implementation=STOPS_AT_ATTENTION, **arguments)
    with torch.no_grad():
        call = stop_at_attention(whole.eval(), ids)
    return call.q, call.k


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_first_layers_map_is_the_models_own_eager_one(tmp_path, name):
    skip_unless_a_rule_is_asked_for(name)
    kind, settings = ARCHITECTURES[name]
    model = save_model(tmp_path, kind, **settings)
    layer, ids = FirstLayer.from_pretrained(str(tmp_path)), some_ids()
    q, k, scale = layer.query_key(ids)
    theirs = own_map(model, ids)
    # the largest of a row of 60 would be 0.08 on average if attention were uniform
    assert theirs.amax(-1).mean() > 0.15
    assert (causal_map(q, k, scale) - theirs).abs().max() <= 1e-5 * theirs.max()
    assert (layer.num_heads, layer.num_kv_heads, layer.head_dim) == (q.shape[1], k.shape[1], q.shape[3])
    assert layer.vocab_size == VOCAB and q.dtype == k.dtype == layer.dtype == torch.float32
    json.dumps(layer.identity)


def refuse_inner_names(monkeypatch):
    """Makes transformers a release whose loading has other inner names, of which from_pretrained itself needs none."""
    monkeypatch.delattr(import_module("transformers.core_model_loading"), "convert_and_load_state_dict_in_model")
    monkeypatch.delattr(import_module("transformers.conversion_mapping"), "get_model_conversion_mapping")


@pytest.mark.parametrize(
    "name",
    ["llama", "llama with yarn", "mixtral", "qwen2", "qwen3 moe", "gemma3", "phi3", "olmo2", "gpt_neox", "gpt2"]
    + ["opt", "cohere2", "llama4", "deepseek v3", "sarvam, saved with one matrix for q, k and v"],
)
def test_loading_by_public_names_alone_gives_the_same_layer(tmp_path, monkeypatch, name):
    skip_unless_a_rule_is_asked_for(name)
    kind, settings = ARCHITECTURES[name]
    model = save_model(tmp_path, kind, **settings)
    by_inner_names, ids = FirstLayer.from_pretrained(str(tmp_path)), some_ids()
    refuse_inner_names(monkeypatch)
    state = torch.random.get_rng_state()
    layer = FirstLayer.from_pretrained(str(tmp_path))
    assert torch.equal(torch.random.get_rng_state(), state)
    (q, k, scale), theirs = layer.query_key(ids), by_inner_names.query_key(ids)
    assert torch.equal(q, theirs[0]) and torch.equal(k, theirs[1]) and scale == theirs[2]
    own = own_map(model, ids)
    assert (causal_map(q, k, scale) - own).abs().max() <= 1e-5 * own.max()
    # whatever is not needed has no values that could be taken for the model's
    loaded = [{n for n, p in each._model.named_parameters() if not p.is_meta} for each in (layer, by_inner_names)]
    assert loaded[0] <= loaded[1]
    # the tensors of a layer that is converted on its way cannot be told apart without the inner names
    assert "sarvam" in name or layer.identity == by_inner_names.identity


def test_loading_by_public_names_alone_refuses_what_does_not_belong_together(tmp_path, monkeypatch, tiny_llama):
    refuse_inner_names(monkeypatch)
    shutil.copytree(tiny_llama, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tiny_llama / "model.safetensors")
    key = "model.layers.0.self_attn.k_proj.weight"
    save_file(tensors | {key: tensors[key][:16].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"k_proj.weight has the shape \[16, 64\], but its config.* says \[32, 64\]"):
        FirstLayer.from_pretrained(str(tmp_path))
    del tensors[key]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"lacks {key}"):
        FirstLayer.from_pretrained(str(tmp_path))


def test_the_callers_autocast_changes_no_number(tiny_llama):
    layer = FirstLayer.from_pretrained(str(tiny_llama), device="cpu")
    q, k, _ = layer.query_key(some_ids())
    with torch.autocast("cpu", torch.bfloat16):
        again_q, again_k, _ = layer.query_key(some_ids())
        made_inside = FirstLayer.from_pretrained(str(tiny_llama), device="cpu")
    assert torch.equal(again_q, q) and torch.equal(again_k, k)
    assert torch.equal(made_inside.query_key(some_ids())[0], q)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_neox", "phi3"])
def test_bfloat16_queries_and_keys_are_those_of_the_whole_model(tmp_path, name):
    kind, settings = ARCHITECTURES[name]
    save_model(tmp_path, kind, **settings)
    q, k, _ = FirstLayer.from_pretrained(str(tmp_path), dtype="bfloat16").query_key(some_ids())
    q_whole, k_whole = own_query_key(tmp_path, some_ids(), dtype=torch.bfloat16)
    assert q.dtype == torch.bfloat16 and torch.equal(q, q_whole) and torch.equal(k, k_whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_layer_is_bfloat16_unless_told_otherwise_and_float32_is_that_of_the_cpu(tiny_llama):
    assert FirstLayer.from_pretrained(str(tiny_llama)).query_key(some_ids())[0].dtype == torch.bfloat16
    on_gpu = FirstLayer.from_pretrained(str(tiny_llama), dtype="float32")
    on_cpu = FirstLayer.from_pretrained(str(tiny_llama), device="cpu")
    assert on_gpu.device.type == "cuda" and on_cpu.dtype == torch.float32
    for ours, theirs in zip(on_gpu.query_key(some_ids())[:2], on_cpu.query_key(some_ids())[:2], strict=True):
        assert (ours.cpu() - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_a_multimodal_models_text_part_is_read(tmp_path):
    text = {name: SIZES[name] for name in SIZES if name not in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    config = transformers.Gemma3Config(
        text_config=text | GEMMA,
        vision_config=vision | dict(patch_size=14),
        mm_tokens_per_image=4,
        image_token_index=9,
    )
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    layer, ids = FirstLayer.from_pretrained(str(tmp_path)), some_ids()
    ids[ids == 9] = 10
    model.set_attn_implementation("eager")
    assert (causal_map(*layer.query_key(ids)) - own_map(model, ids)).abs().max() <= 1e-5
    read = {name for name, parameter in layer._model.named_parameters() if not parameter.is_meta}
    assert not any("vision" in name for name in read)


NEEDED = {
    "model.embed_tokens.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.k_proj.weight",
}


def test_a_checkpoint_of_nothing_but_the_needed_tensors_is_enough(tmp_path, tiny_llama):
    shutil.copy(tiny_llama / "config.json", tmp_path)
    tensors = load_file(tiny_llama / "model.safetensors")
    save_file({name: tensors[name] for name in NEEDED}, tmp_path / "model.safetensors")
    ours = FirstLayer.from_pretrained(str(tmp_path))
    whole = FirstLayer.from_pretrained(str(tiny_llama))
    assert torch.equal(ours.query_key(some_ids())[0], whole.query_key(some_ids())[0])
    assert ours.identity["sha256"] == whole.identity["sha256"]
    assert {name for name, p in ours._model.named_parameters() if not p.is_meta} == NEEDED


@pytest.mark.parametrize("inner_names", [True, False])
@pytest.mark.parametrize("prefix", ["model.", ""], ids=["whole", "saved without its head"])
@pytest.mark.parametrize("extra", ["q_proj.bias", "k_norm.weight", "q_proj.lora_A.default.weight"])
def test_a_checkpoint_that_holds_more_for_queries_and_keys_than_its_configuration_says_is_refused(
    tmp_path, tiny_llama, monkeypatch, inner_names, prefix, extra
):
    if not inner_names:
        refuse_inner_names(monkeypatch)
    shutil.copy(tiny_llama / "config.json", tmp_path)
    tensors = load_file(tiny_llama / "model.safetensors")
    tensors = {name.replace("model.", prefix, 1): tensor for name, tensor in tensors.items()}
    name = f"{prefix}layers.0.self_attn.{extra}"
    save_file(tensors | {name: torch.ones(64)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"holds {name}, for which a llama model of its configuration has no place"):
        FirstLayer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "left_over"),
    [
        ("llama with yarn", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.self_attn.v_proj.bias"]),
        ("llama with yarn", ["model.layers.1.self_attn.q_proj.bias", "model.layers.0.self_attn.k_scale"]),
        ("gpt2", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
        ("gpt_neox", [f"gpt_neox.layers.0.attention.{name}" for name in ("bias", "rotary_emb.inv_freq")]),
        ("phi3", ["model.layers.0.self_attn.rotary_emb.inv_freq"]),
    ],
)
def test_what_a_checkpoint_holds_beside_queries_and_keys_is_left_over(tmp_path, name, left_over):
    kind, settings = ARCHITECTURES[name]
    save_model(tmp_path, kind, **settings)
    before = FirstLayer.from_pretrained(str(tmp_path)).identity
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {name: torch.ones(8) for name in left_over}, tmp_path / "model.safetensors")
    assert FirstLayer.from_pretrained(str(tmp_path)).identity == before


def test_a_loaded_model_with_more_for_its_queries_than_its_configuration_says_is_refused(tiny_llama):
    model = LlamaForCausalLM.from_pretrained(tiny_llama)
    model.model.layers[0].self_attn.q_proj.bias = torch.nn.Parameter(torch.ones(64))
    with pytest.raises(ValueError, match="holds model.layers.0.self_attn.q_proj.bias, for which"):
        FirstLayer.from_model(model)


@pytest.mark.parametrize("absent", sorted(NEEDED))
def test_a_needed_tensor_that_is_absent_is_named(tmp_path, tiny_llama, absent):
    shutil.copy(tiny_llama / "config.json", tmp_path)
    tensors = load_file(tiny_llama / "model.safetensors")
    save_file({name: tensors[name] for name in NEEDED - {absent}}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"lacks {absent}"):
        FirstLayer.from_pretrained(str(tmp_path))


def test_of_a_sharded_checkpoint_only_the_shards_that_hold_the_needed_tensors_are_opened(tmp_path, tiny_llama):
    LlamaForCausalLM.from_pretrained(tiny_llama).save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    unneeded = set(index.values()) - {index[name] for name in NEEDED}
    assert len(unneeded) >= 2
    for shard in unneeded:
        (tmp_path / shard).unlink()
    ours, single = FirstLayer.from_pretrained(str(tmp_path)), FirstLayer.from_pretrained(str(tiny_llama))
    assert torch.equal(ours.query_key(some_ids())[1], single.query_key(some_ids())[1])
    assert ours.identity["sha256"] == single.identity["sha256"]
    (tmp_path / index["model.embed_tokens.weight"]).unlink()
    with pytest.raises(ValueError, match="A shard that model.safetensors.index.json names is missing"):
        FirstLayer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_a_checkpoint_saved_without_its_head_is_read(tmp_path, name):
    kind, settings = ARCHITECTURES[name]
    save_model(tmp_path / "whole", kind, **settings)
    AutoModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "base")
    ours = FirstLayer.from_pretrained(str(tmp_path / "base")).query_key(some_ids())
    assert torch.equal(ours[0], FirstLayer.from_pretrained(str(tmp_path / "whole")).query_key(some_ids())[0])


def test_the_identity_follows_the_tensors_read_and_no_others(tmp_path, tiny_llama):
    def changed(name, folder):
        shutil.copytree(tiny_llama, tmp_path / folder)
        tensors = load_file(tiny_llama / "model.safetensors")
        tensors[name][0, 0] += 1
        save_file(tensors, tmp_path / folder / "model.safetensors")
        return FirstLayer.from_pretrained(str(tmp_path / folder)).identity

    identity = FirstLayer.from_pretrained(str(tiny_llama)).identity
    assert changed("model.layers.0.self_attn.v_proj.weight", "v")["sha256"] == identity["sha256"]
    assert changed("model.layers.0.self_attn.k_proj.weight", "k")["sha256"] != identity["sha256"]
    assert identity["model"] == "tiny-llama" and identity["revision"] is None
    assert identity["dtype"] == "float32" and identity["architecture"] == "LlamaForCausalLM"
    assert str(tiny_llama) not in json.dumps(identity)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Mistral", dict(sliding_window=16)),
        ("Gemma3Text", GEMMA | dict(sliding_window=16)),
        ("Llama4Text", ARCHITECTURES["llama4"][1] | dict(attention_chunk_size=16)),
    ],
)
def test_a_sliding_or_chunked_first_layer_takes_windows_that_it_sees_in_full_and_no_longer_ones(
    tmp_path, kind, settings
):
    model = save_model(tmp_path, kind, **settings)
    layer = FirstLayer.from_pretrained(str(tmp_path))
    ids = some_ids(length=16)
    assert (causal_map(*layer.query_key(ids)) - own_map(model, ids)).abs().max() <= 1e-5
    # one token more, and the model's own map has a zero where the first key was
    assert own_map(model, some_ids(length=17))[0, 0, 16, 0] == 0
    with pytest.raises(ValueError, match="does not see all of a window of 17 tokens.*16"):
        layer.query_key(some_ids(length=17))


def test_a_full_first_layer_of_a_model_with_sliding_ones_has_no_limit(tmp_path):
    kinds = ["full_attention", "sliding_attention"]
    model = save_model(tmp_path, "Gemma3Text", **GEMMA | dict(sliding_window=16, layer_types=kinds))
    ids = some_ids()
    ours = causal_map(*FirstLayer.from_pretrained(str(tmp_path)).query_key(ids))
    assert (ours - own_map(model, ids)).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("Gemma2", GEMMA, "softcap=50.0 .logit soft-capping: attn_logit_softcapping"),
        ("GptOss", dict(head_dim=16, num_local_experts=4), "s_aux=a tensor of shape .4. .attention sinks"),
        ("Bert", {}, "not causal"),
        ("Mamba", {}, "makes no call of transformers' attention interface"),
        ("Bloom", {}, "(cannot be followed to a|makes no) call of transformers' attention interface"),
        ("GPTNeo", dict(num_layers=2, num_heads=4, attention_types=[[["global"], 2]]), "cannot be built as a causal"),
        ("Llama", dict(rope_scaling=dict(rope_type="dynamic", factor=2.0)), "RoPE of type 'dynamic' cannot be used"),
        ("DeepseekV4", dict(head_dim=16), "RoPE settings of a deepseek_v4 model are not understood"),
    ],
)
def test_a_first_layer_that_is_not_plain_softmax_attention_is_refused(tmp_path, kind, settings, message):
    save_model(tmp_path, kind, **settings)
    with pytest.raises(ValueError, match=message):
        FirstLayer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("head_alone", [True, False], ids=["as the head alone", "as both"])
def test_a_tied_matrix_is_read_under_either_name(tmp_path, head_alone):
    model = save_model(tmp_path, "Llama", tie_word_embeddings=True)
    ids = some_ids()
    q, k, _ = FirstLayer.from_pretrained(str(tmp_path)).query_key(ids)
    tensors = load_file(tmp_path / "model.safetensors")
    matrix = tensors.pop("model.embed_tokens.weight") if head_alone else tensors["model.embed_tokens.weight"].clone()
    save_file(tensors | {"lm_head.weight": matrix}, tmp_path / "model.safetensors")
    again_q, again_k, scale = FirstLayer.from_pretrained(str(tmp_path)).query_key(ids)
    assert torch.equal(q, again_q) and torch.equal(k, again_k)
    assert (causal_map(q, k, scale) - own_map(model, ids)).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        dict(quant_method="bitnet", linear_class="autobitlinear", quantization_mode="online"),
        dict(quant_method="fp8"),
        dict(quant_method="fp8", modules_to_not_convert=["lm_head"]),
        dict(quant_method="bitsandbytes", load_in_8bit=True, llm_int8_skip_modules=["lm_head"]),
        dict(quant_method="a method of tomorrow"),
    ],
    ids=lambda settings: settings["quant_method"],
)
def test_weights_that_are_quantised_while_loading_are_refused(tmp_path, tiny_llama, settings):
    shutil.copytree(tiny_llama, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    with pytest.raises(ValueError, match=rf"quantises its weights \({settings['quant_method']}\), .*self_attn"):
        FirstLayer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    "settings",
    [
        dict(quant_method="bitsandbytes", load_in_8bit=True, llm_int8_skip_modules=["lm_head"]),
        dict(quant_method="fp8"),
    ],
    ids=lambda settings: settings["quant_method"],
)
def test_a_quantisation_of_other_layers_than_linear_ones_is_refused(tmp_path, settings):
    save_model(tmp_path, "GPT2", **ARCHITECTURES["gpt2"][1])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    with pytest.raises(ValueError, match=rf"quantises its weights \({settings['quant_method']}\), .*c_attn"):
        FirstLayer.from_pretrained(str(tmp_path))


def test_a_quantisation_that_spares_the_first_attention_is_none(tmp_path, tiny_llama):
    shutil.copytree(tiny_llama, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    spared = {"quant_method": "mxfp4", "modules_to_not_convert": ["self_attn", "embed_tokens", "lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": spared}))
    q, k, _ = FirstLayer.from_pretrained(str(tmp_path)).query_key(some_ids())
    plain_q, plain_k, _ = FirstLayer.from_pretrained(str(tiny_llama)).query_key(some_ids())
    assert torch.equal(q, plain_q) and torch.equal(k, plain_k)


@pytest.mark.parametrize(
    "name", ["../other/model.safetensors", "/etc/model.safetensors", "a/../../m.safetensors", "", 3]
)
def test_an_index_that_leads_out_of_its_checkpoint_is_refused(tmp_path, tiny_llama, name):
    folder, other = tmp_path / "m", tmp_path / "other"
    for copy in (folder, other):
        shutil.copytree(tiny_llama, copy)
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, name)}))
    with pytest.raises(ValueError, match="which is not one of the checkpoint's own"):
        FirstLayer.from_pretrained(str(folder))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ExaoneMoe", EXPERTS | dict(n_group=1, topk_group=1)),
        ("Mellum", EXPERTS),
        ("Cohere2", dict(sliding_window=64)),
    ],
)
def test_a_saved_layer_says_nothing_of_other_layers_and_can_be_loaded(tmp_path, kind, settings):
    save_model(tmp_path / "whole", kind, **settings)
    build_tokenizer().save_pretrained(tmp_path / "whole")
    layer = FirstLayer.from_pretrained(str(tmp_path / "whole"))
    layer.save_pretrained(tmp_path / "saved")
    saved = FirstLayer.from_pretrained(str(tmp_path / "saved"))
    assert torch.equal(saved.query_key(some_ids())[0], layer.query_key(some_ids())[0])
    assert saved.identity["config_sha256"] == layer.identity["config_sha256"]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("OlmoHybrid", dict(layer_types=["full_attention", "linear_attention"])),
        # the last layer is always a full one
        ("Gemma4Text", dict(head_dim=16, vocab_size_per_layer_input=300)),
        ("Gemma4Text", dict(head_dim=16, global_head_dim=32, vocab_size_per_layer_input=300)),
    ],
)
def test_a_layer_that_cannot_be_the_only_one_of_its_model_is_not_saved(tmp_path, kind, settings):
    save_model(tmp_path / "whole", kind, **settings)
    build_tokenizer().save_pretrained(tmp_path / "whole")
    layer = FirstLayer.from_pretrained(str(tmp_path / "whole"))
    with pytest.raises(ValueError, match="cannot be saved: a .* model cannot be of that one layer. Give the model"):
        layer.save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("ProphetNet", dict(num_encoder_layers=2, num_decoder_layers=2), "cannot be cut to its first layer"),
        ("Xmod", dict(is_decoder=True), "cannot be followed .*Input language unknown"),
    ],
)
def test_a_model_that_cannot_be_followed_is_refused(tmp_path, kind, settings, message):
    sizes = {name: size for name, size in SIZES.items() if kind != "ProphetNet" or name != "num_hidden_layers"}
    getattr(transformers, f"{kind}Config")(**sizes | settings).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"is_encoder_decoder": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        FirstLayer.from_pretrained(str(tmp_path))


def test_an_encoder_decoder_is_refused(tmp_path):
    transformers.T5Config(num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="t5 model is an encoder-decoder"):
        FirstLayer.from_pretrained(str(tmp_path))


@pytest.fixture(scope="module")
def llama_call(tmp_path_factory):
    path = save_tiny_llama(tmp_path_factory.mktemp("call"))
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=STOPS_AT_ATTENTION)
    with torch.no_grad():
        return stop_at_attention(model, some_ids())


@pytest.mark.parametrize(
    ("argument", "value"), [("position_bias", torch.zeros(1)), ("softcap", 30.0), ("something_new", "x")]
)
def test_an_attention_argument_that_is_not_understood_is_refused(llama_call, argument, value):
    llama_call.refuse_unless_plain()
    replace(llama_call, arguments=llama_call.arguments | {argument: None}).refuse_unless_plain()
    with pytest.raises(ValueError, match=f"is given {argument}="):
        replace(llama_call, arguments=llama_call.arguments | {argument: value}).refuse_unless_plain()


def test_a_mask_or_a_scale_that_cannot_be_read_is_refused(llama_call):
    with pytest.raises(ValueError, match="a mask of its own .Tensor."):
        replace(llama_call, mask=torch.zeros(1, 1, 60, 60)).refuse_unless_plain()
    with pytest.raises(ValueError, match="scaled by Tensor"):
        replace(llama_call, arguments=llama_call.arguments | {"scaling": torch.ones(4)}).refuse_unless_plain()
    with pytest.raises(ValueError, match="not causal"):
        replace(llama_call, arguments=llama_call.arguments | {"is_causal": False}).refuse_unless_plain()


def test_a_bidirectional_mask_is_noticed(llama_call):
    assert llama_call.reaches_everywhere()
    assert not replace(
        llama_call, mask=replace(llama_call.mask, allows=lambda b, h, q, k: k == k)
    ).reaches_everywhere()
    blocks = replace(llama_call.mask, allows=lambda b, h, q, k: (k <= q) | (k // 8 == q // 8))
    assert not replace(llama_call, mask=blocks).reaches_everywhere()
    causal = replace(llama_call.mask, allows=lambda b, h, q, k: k <= q)
    assert replace(llama_call, mask=causal).reaches_everywhere()
    assert not replace(llama_call, arguments=llama_call.arguments | {"sliding_window": 59}).reaches_everywhere()


def test_a_model_whose_own_eager_attention_does_more_is_refused(tmp_path, tiny_llama, monkeypatch):
    module = transformers.models.llama.modeling_llama
    plain = module.eager_attention_forward

    def with_a_bias(module, query, key, value, mask, **arguments):
        near = torch.arange(query.shape[2])
        return plain(module, query, key, value, mask - 0.1 * (near[:, None] - near), **arguments)

    monkeypatch.setattr(module, "eager_attention_forward", with_a_bias)
    with pytest.raises(ValueError, match="does more than softmax"):
        FirstLayer.from_pretrained(str(tiny_llama))


def test_ids_that_are_not_the_models_are_named_before_the_embedding_runs(tiny_llama):
    layer = FirstLayer.from_pretrained(str(tiny_llama))
    with pytest.raises(ValueError, match="Token id 300 is outside the vocabulary of 300 ids of 'tiny-llama'"):
        layer.query_key(torch.tensor([[1, 300]]))
    with pytest.raises(ValueError, match="Token id -1 is outside"):
        layer.query_key(torch.tensor([[1, -1]]))
    for wrong in (torch.ones(1, 4), torch.ones(4, dtype=torch.int64), torch.ones(1, 0, dtype=torch.int64)):
        with pytest.raises(ValueError, match="input_ids must be integers"):
            layer.query_key(wrong)


def test_rope_overrides_are_those_of_a_model_made_with_them(tmp_path, tiny_llama):
    overridden = FirstLayer.from_pretrained(str(tiny_llama), rope_theta=2.5e6, rope_scaling=LLAMA3 | {"rope_theta": 1})
    shutil.copytree(tiny_llama, tmp_path / "made")
    config = AutoConfig.from_pretrained(tiny_llama, rope_parameters=LLAMA3 | {"rope_theta": 2.5e6})
    config.save_pretrained(tmp_path / "made")
    made = FirstLayer.from_pretrained(str(tmp_path / "made"))
    own = FirstLayer.from_pretrained(str(tiny_llama))
    assert torch.equal(overridden.query_key(some_ids())[0], made.query_key(some_ids())[0])
    assert not torch.allclose(overridden.query_key(some_ids())[0], own.query_key(some_ids())[0], atol=0.1)
    assert overridden.identity["rope"] == made.identity["rope"] == LLAMA3 | {"rope_theta": 2.5e6}
    assert overridden.identity["rope_theta"] == 2.5e6 and made.identity["rope_theta"] is None
    assert own.identity["rope"] == {"rope_type": "default", "rope_theta": 10000.0}


def test_a_rope_override_touches_the_first_layers_kind_and_keeps_how_much_is_rotated(tmp_path):
    save_model(tmp_path / "gemma", "Gemma3Text", **GEMMA)
    layer = FirstLayer.from_pretrained(str(tmp_path / "gemma"), rope_theta=7e4)
    assert (
        layer.identity["rope"]["rope_theta"] == layer.config.rope_parameters["sliding_attention"]["rope_theta"] == 7e4
    )
    assert layer.config.rope_parameters["full_attention"]["rope_theta"] == 1e6
    save_model(tmp_path / "neox", "GPTNeoX", rotary_pct=0.25)
    scaled = FirstLayer.from_pretrained(str(tmp_path / "neox"), rope_scaling={"type": "linear", "factor": 2.0})
    assert (
        scaled.identity["rope"]["partial_rotary_factor"] == 0.25 and scaled.identity["rope"]["rope_type"] == "linear"
    )


def test_rope_overrides_that_cannot_be_used_are_refused(tmp_path, tiny_llama):
    for scaling in ({"factor": 2.0}, {"rope_type": "spiral"}, {"rope_type": "dynamic", "factor": 2.0}):
        with pytest.raises(
            ValueError, match="cannot be used. Pass rope_scaling= with a rope_type among default, linear"
        ):
            FirstLayer.from_pretrained(str(tiny_llama), rope_scaling=scaling)
    with pytest.raises(ValueError, match="not what transformers takes"):
        FirstLayer.from_pretrained(str(tiny_llama), rope_scaling={"rope_type": "llama3"})
    with pytest.raises(ValueError, match="rope_theta=-1 must be positive"):
        FirstLayer.from_pretrained(str(tiny_llama), rope_theta=-1)
    save_model(tmp_path, *ARCHITECTURES["gpt2"][:1], **ARCHITECTURES["gpt2"][1])
    with pytest.raises(ValueError, match="gpt2 model has no RoPE"):
        FirstLayer.from_pretrained(str(tmp_path), rope_theta=1e6)


def test_a_window_longer_than_the_models_positions_warns_once_unless_rope_is_overridden(tiny_llama):
    layer = FirstLayer.from_pretrained(str(tiny_llama))
    with pytest.warns(UserWarning, match="513 tokens is longer than the 512 positions"):
        layer.query_key(some_ids(length=513))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.query_key(some_ids(length=513))
        FirstLayer.from_pretrained(str(tiny_llama), rope_theta=1e6).query_key(some_ids(length=513))
        FirstLayer.from_pretrained(str(tiny_llama)).query_key(some_ids(length=512))


def test_a_window_longer_than_learned_positions_is_refused(tmp_path):
    save_model(tmp_path, "GPT2", **ARCHITECTURES["gpt2"][1])
    with pytest.raises(ValueError, match="longer than the 512 positions that .* has learned"):
        FirstLayer.from_pretrained(str(tmp_path)).query_key(some_ids(length=513))


def test_a_pickled_checkpoint_is_refused(tmp_path, tiny_llama):
    shutil.copy(tiny_llama / "config.json", tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="neither model.safetensors nor .* Only safetensors and GGUF"):
        FirstLayer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("size", [0, 7, 200, -1])
def test_a_safetensors_file_cut_short_is_named(tmp_path, tiny_llama, size):
    shutil.copytree(tiny_llama, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match="model.safetensors is damaged or cut short.*fetch the model again"):
        FirstLayer.from_pretrained(str(tmp_path))


def test_damaged_text_files_are_named(tmp_path, tiny_llama):
    shutil.copytree(tiny_llama, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {')
    with pytest.raises(ValueError, match="index.json of .* is damaged"):
        FirstLayer.from_pretrained(str(tmp_path))
    for config in ("{", (tiny_llama / "config.json").read_text().replace('"hidden_size": 64', '"hidden_size": "big"')):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ValueError, match="Cannot read the configuration|cannot be built"):
            FirstLayer.from_pretrained(str(tmp_path))


def test_files_that_do_not_belong_together_and_quantised_ones_are_refused(tmp_path, tiny_llama):
    shutil.copytree(tiny_llama, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tiny_llama / "model.safetensors")
    key = "model.layers.0.self_attn.k_proj.weight"
    save_file(tensors | {key: tensors[key][:16].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"k_proj.weight has the shape \[16, 64\], but its configuration says \[32, 64\]"
    ):
        FirstLayer.from_pretrained(str(tmp_path))
    save_file(tensors | {key: tensors[key].to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="k_proj.weight is quantised .torch.float8_e4m3fn."):
        FirstLayer.from_pretrained(str(tmp_path))
    save_file(tensors | {key: torch.full_like(tensors[key], torch.nan)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not finite in torch.float32"):
        FirstLayer.from_pretrained(str(tmp_path))


def test_a_model_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(ValueError, match="neither a directory nor a GGUF file"):
        FirstLayer.from_pretrained(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="has no config.json"):
        FirstLayer.from_pretrained(str(tmp_path))
    (tmp_path / "model.Q4.gguf").write_bytes(b"")
    with pytest.raises(ValueError, match="Pass gguf_file='model.Q4.gguf'"):
        FirstLayer.from_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="has no GGUF file 'other.gguf'; it has model.Q4.gguf"):
        FirstLayer.from_pretrained(str(tmp_path), gguf_file="other.gguf")


def test_a_dtype_that_is_not_one_is_refused(tiny_llama):
    with pytest.raises(ValueError, match="dtype='int8' must be one of float32, bfloat16, float16"):
        FirstLayer.from_pretrained(str(tiny_llama), dtype="int8")


def test_a_gguf_files_map_is_that_of_the_weights_it_was_made_of(tmp_path, tiny_llama):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama)
    layer = FirstLayer.from_pretrained(str(file))
    q, k, _ = layer.query_key(some_ids())
    q_whole, k_whole = own_query_key(tmp_path, some_ids(), gguf_file="tiny.gguf", dtype=torch.float32)
    assert torch.equal(q, q_whole) and torch.equal(k, k_whole)
    # Q8_0 rounds a weight to 1/254 of the largest of its 32; unpermuted rows would be off by as much as q itself
    q_exact = FirstLayer.from_pretrained(str(tiny_llama)).query_key(some_ids())[0]
    assert (q - q_exact).norm() < 0.02 * q_exact.norm()
    assert layer.identity["model"].endswith("tiny.gguf")
    by_directory = FirstLayer.from_pretrained(str(tmp_path), gguf_file="tiny.gguf")
    assert by_directory.identity == layer.identity


def test_rope_scaling_that_transformers_drops_from_a_gguf_file_must_be_given(tmp_path, tiny_llama):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama, rope_factors=True)
    with pytest.raises(ValueError, match="the tensor rope_freqs.weight.*rope_scaling="):
        FirstLayer.from_pretrained(str(file))
    layer = FirstLayer.from_pretrained(str(file), rope_scaling=LLAMA3)
    assert layer.identity["rope"]["rope_type"] == "llama3"


@pytest.mark.parametrize("size", [0, 3, 100, 900, -1000])
def test_a_gguf_file_cut_short_is_named(tmp_path, tiny_llama, size):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match="tiny.gguf is damaged or cut short.*fetch the model again"):
        FirstLayer.from_pretrained(str(file))


@needs_smollm2
@pytest.mark.slow
def test_smollm2s_tokenizer_places_its_tokens_in_the_text(smollm2):
    tokenizer = smollm2.load_tokenizer()
    text = "The café's naïve 😀 test.\n\tdef f(x): return 日本語"
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    assert tokenizer.is_fast and tokenizer.decode(encoded["input_ids"]) == text
    edges = encoded["offset_mapping"]
    assert edges[0][0] == 0 and edges[-1][1] == len(text)
    assert all(start < end for start, end in edges) and sorted(edges) == edges


def test_a_directorys_tokenizer_is_loaded_and_a_missing_one_is_said_so(tmp_path, tiny_llama):
    assert load_tokenizer(str(tiny_llama))("a")["input_ids"][0] == 0
    shutil.copy(tiny_llama / "config.json", tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer that transformers can load"):
        load_tokenizer(str(tmp_path))


def test_a_loaded_layer_is_kept_by_its_arguments(tiny_llama):
    first = load_first_layer(str(tiny_llama), rope_scaling=dict(LLAMA3), device="cpu")
    assert load_first_layer(str(tiny_llama), rope_scaling=dict(reversed(LLAMA3.items())), device="cpu") is first
    assert load_first_layer(str(tiny_llama), device="cpu") is not first


def _sum_of_queries(path, results):
    layer = load_first_layer(path, device="cpu")
    results.put(float(layer.query_key(some_ids(length=500, batch=4))[0].double().sum()))


def test_a_layer_loaded_before_a_fork_works_after_it(tiny_llama):
    ours = load_first_layer(str(tiny_llama), device="cpu").query_key(some_ids(length=500, batch=4))[0].double().sum()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_sum_of_queries, args=(str(tiny_llama), results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        assert [results.get(timeout=60) for _ in workers] == [float(ours)] * 2
    finally:
        for worker in workers:
            worker.kill()


def push(hub_folder, repository="me/tiny", **settings):
    from huggingface_hub import HfApi

    HfApi().create_repo(repository, exist_ok=True, **settings)
    return HfApi().upload_folder(repo_id=repository, folder_path=hub_folder)


def test_a_hub_model_is_pinned_to_its_commit_and_only_the_needed_shards_are_fetched(hub, tmp_path, tiny_llama):
    LlamaForCausalLM.from_pretrained(tiny_llama).save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    commit = push(tmp_path).oid
    layer = FirstLayer.from_pretrained("me/tiny")
    assert layer.identity["revision"] == commit and layer.identity["model"] == "me/tiny"
    local = FirstLayer.from_pretrained(str(tiny_llama))
    assert layer.identity["sha256"] == local.identity["sha256"]
    fetched = {
        entry.path.rpartition("/")[2] for entry in hub.log if entry.method == "GET" and "/resolve/" in entry.path
    }
    assert {name for name in fetched if name.endswith(".safetensors")} == {index[name] for name in NEEDED}


def test_hub_models_that_cannot_be_had_say_why(hub, tmp_path, tiny_llama):
    with pytest.raises(ValueError, match="config.json of 'me/absent'"):
        FirstLayer.from_pretrained("me/absent")
    push(tiny_llama, "me/there")
    with pytest.raises(ValueError, match="at revision v9"):
        FirstLayer.from_pretrained("me/there", revision="v9")
    shutil.copy(tiny_llama / "config.json", tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    push(tmp_path, "me/pickled")
    with pytest.raises(ValueError, match="'me/pickled' has neither model.safetensors nor"):
        FirstLayer.from_pretrained("me/pickled")
