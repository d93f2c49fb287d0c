"""What the scorers that run a whole language model share: what they refuse, and what they say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from longattn_hf.baselines import DeepAttention, DeepFarAttention, Ladm, LossGain, ProLong
from longattn_hf.model.first_layer import FirstLayer
from longattn_hf.model.language_model import load_language_model, token_losses
from longattn_hf.scoring.longattn import LongAttnScorer
from tests.support.tiny import TINY_SIZES, build_tokenizer

SETTINGS = {
    LossGain: {},
    ProLong: {"segment_tokens": 16},
    Ladm: {"span_tokens": 2},
    DeepAttention: {"layer": -1},
    DeepFarAttention: {"layer": -1},
}
each_scorer = pytest.mark.parametrize("score", SETTINGS, ids=lambda score: score.__name__)
pytestmark = pytest.mark.usefixtures("one_thread")


def draw_ids(tokens, seed=0):
    return np.random.default_rng(seed).integers(2, 300, tokens).tolist()


def save(network, path):
    """Writes a model and a tokenizer, and gives the folder's name."""
    network.save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def overflowing(tiny_llama, tmp_path_factory):
    """A folder with the tiny Llama, whose first layer hands on more than float16 can hold."""
    network = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        network.model.layers[0].mlp.down_proj.weight.mul_(3e4)
        network.model.layers[0].mlp.up_proj.weight.mul_(30)
    return save(network, tmp_path_factory.mktemp("model") / "overflowing")


@each_scorer
def test_a_score_that_is_not_finite_is_an_error_that_names_its_row(score, overflowing):
    rows = {"input_ids": [None, draw_ids(128)], "skip_reason": ["missing", None]}
    settings = {"model": overflowing, "device": "cpu", "on_error": "skip", **SETTINGS[score]}
    with pytest.raises(ValueError, match="The score of row 1 is not finite: .* overflow in torch.float16.*'float32'"):
        score(dtype="float16", **settings)(rows)
    scored = score(dtype="float32", **settings)(rows)
    assert scored[score.column][0] is None and np.isfinite(scored[score.column][1])


def test_a_strength_that_is_not_finite_is_an_error_where_another_layers_is_asked_for(overflowing):
    scorer = DeepAttention(model=overflowing, device="cpu", dtype="float16", layer=0)
    with pytest.raises(ValueError, match="The score of row 0 is not finite"):
        scorer({"input_ids": [draw_ids(64)]})


def test_a_window_without_a_far_pair_has_no_strength(tiny_llama):
    scorer = DeepAttention(model=str(tiny_llama), device="cpu", on_error="skip")
    scored = scorer({"input_ids": [draw_ids(tokens) for tokens in (1, 2, 3, 4)]})
    assert scored["deep_strength"][:3] == scored["strength_by_layer"][:3] == [None] * 3
    assert scored["skip_reason"] == [f"too short ({n} tokens, 4 are the least)" for n in (1, 2, 3)] + [None]
    assert 0 < scored["deep_strength"][3] < 1


# heads that do more than multiply: with a transform before it, with a multiplier or a cap behind it
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("bert", {"is_decoder": True}),
        ("falcon_h1", {"lm_head_multiplier": 0.1, "mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_head": 16}),
    ],
)
def test_losses_that_are_not_those_of_the_models_own_logits_are_refused(kind, changes, tmp_path):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**TINY_SIZES, "initializer_range": 0.3, "head_dim": 16, **changes})
    network = AutoModelForCausalLM.from_config(config).eval()
    name, ids = save(network, tmp_path), torch.tensor([draw_ids(64)])
    # the difference that is meant, by hand
    loaded = load_language_model(name, device="cpu")
    with torch.no_grad():
        theirs = cross_entropy(network(ids).logits[0, :-1], ids[0, 1:])
        bare = network.get_output_embeddings()(network.base_model(ids).last_hidden_state)
    assert abs(cross_entropy(bare[0, :-1], ids[0, 1:]) - theirs) > 0.1
    refused = f"losses of a {type(network).__name__} cannot be computed here.*differ by .* nats"
    with pytest.raises(ValueError, match=refused):
        token_losses(loaded, ids)
    for scorer in (LossGain(model=name, device="cpu"), ProLong(model=name, device="cpu", segment_tokens=16)):
        with pytest.raises(ValueError, match=refused):
            scorer.prepare()
        with pytest.raises(ValueError, match=refused):
            scorer({"input_ids": ids.tolist()})
    with pytest.raises(ValueError, match=refused):
        LossGain(model=network)({"input_ids": ids.tolist()})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_losses_of_a_plain_model_are_taken_for_its_own_in_every_dtype(tiny_llama, dtype):
    network = load_language_model(str(tiny_llama), device="cpu", dtype=dtype)
    ids = torch.tensor([draw_ids(64)])
    with torch.no_grad():
        theirs = cross_entropy(network(ids).logits[0, :-1].float(), ids[0, 1:], reduction="none")
    torch.testing.assert_close(token_losses(network, ids)[0], theirs, rtol=0, atol=0.2 if dtype != "float32" else 1e-4)


@each_scorer
def test_a_model_whose_weights_are_not_all_there_is_refused(score, tiny_llama, tmp_path):
    FirstLayer.from_pretrained(str(tiny_llama)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks \d+ of the weights of a LlamaForCausalLM \(.*Name the whole model"):
        score(model=str(tmp_path), device="cpu", **SETTINGS[score]).prepare()


def test_a_head_that_is_tied_to_the_embedding_is_not_missing(tmp_path):
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY_SIZES, tie_word_embeddings=True))
    name, ids = save(network.eval(), tmp_path), torch.tensor([draw_ids(64)])
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        theirs = cross_entropy(network(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    torch.testing.assert_close(token_losses(load_language_model(name, device="cpu"), ids)[0], theirs)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    """A folder with a model whose layers 1 and 3 of 0 to 3 have attention, and its own maps of a window's ids."""
    torch.manual_seed(0)
    layers = ["conv", "full_attention", "conv", "full_attention"]
    sizes = {**TINY_SIZES, "num_hidden_layers": 4, "initializer_range": 0.3, "layer_types": layers}
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model("lfm2", **sizes), attn_implementation="eager")
    with torch.no_grad():
        maps = network.eval()(torch.tensor([draw_ids(96)]), output_attentions=True).attentions
    one, three = (layer[0].double() for layer in maps if layer is not None)
    return save(network, tmp_path_factory.mktemp("model") / "hybrid"), {1: one, 3: three}


def test_a_layer_of_a_hybrid_model_is_counted_among_all_of_its_layers(hybrid):
    name, maps = hybrid
    row = {"input_ids": [draw_ids(96)]}
    strengths = {layer: maps[layer].tril(-24).sum().item() / 4 / 96 for layer in maps}
    # rows 24, 48 and 72, the keys more than 12 before each, and the first one left out
    shares = {
        layer: np.mean([(m[:, r, 1 : r - 12].sum(-1) / m[:, r, 1:].sum(-1)).mean().item() for r in (24, 48, 72)])
        for layer, m in maps.items()
    }
    # half-way down is layer 2, which has none
    for layer, number in {1: 1, 3: 3, -1: 3, -3: 1, None: 1}.items():
        scored = DeepFarAttention(model=name, device="cpu", layer=layer)(row)
        assert scored["deep_far"] == [pytest.approx(shares[number], rel=1e-4)]
    for layer, number in {1: 1, 3: 3, -1: 3, -3: 1}.items():
        scored = DeepAttention(model=name, device="cpu", layer=layer)(row)
        assert scored["deep_strength"] == [pytest.approx(strengths[number], rel=1e-4)]
        by_layer = scored["strength_by_layer"][0]
        assert by_layer == [None, pytest.approx(strengths[1], rel=1e-4), None, pytest.approx(strengths[3], rel=1e-4)]


@pytest.mark.parametrize("score", [DeepAttention, DeepFarAttention], ids=lambda score: score.__name__)
def test_a_layer_without_attention_is_refused_by_name(score, hybrid):
    for layer in (0, -2):
        scorer = score(model=hybrid[0], device="cpu", layer=layer)
        refused = f"layer={layer} of the model has no attention; those of its 4 layers that have are 1, 3, counted"
        with pytest.raises(ValueError, match=refused):
            scorer.prepare()
        with pytest.raises(ValueError, match=refused):
            scorer({"input_ids": [draw_ids(96)]})
    with pytest.raises(IndexError):
        score(model=hybrid[0], device="cpu", layer=4)({"input_ids": [draw_ids(96)]})


@pytest.mark.parametrize("score", [DeepAttention, DeepFarAttention, Ladm], ids=lambda score: score.__name__)
def test_a_model_without_attention_is_refused(score, tmp_path):
    config = AutoConfig.for_model("lfm2", **TINY_SIZES, layer_types=["conv", "conv"])
    name = save(AutoModelForCausalLM.from_config(config), tmp_path)
    with pytest.raises(ValueError, match="layers of a Lfm2ForCausalLM make no call of transformers' attention interf"):
        score(model=name, device="cpu", **SETTINGS[score])({"input_ids": [draw_ids(96)]})


READ_AT_ATTENTION = [DeepAttention, DeepFarAttention, Ladm]


@pytest.mark.parametrize("score", READ_AT_ATTENTION, ids=lambda score: score.__name__)
@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("bert", {}, r"Attention layer 0 \(BertSelfAttention\) is not causal: an encoder"),
        ("doge", {"head_dim": 16}, "The model makes a mask of its own"),
    ],
)
def test_attention_that_is_not_plain_is_refused_at_every_layer(score, kind, changes, reason, tmp_path):
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**TINY_SIZES, **changes}))
    scorer = score(model=save(network, tmp_path), device="cpu", **SETTINGS[score])
    with pytest.raises(ValueError, match=reason):
        scorer.prepare()
    with pytest.raises(ValueError, match=reason):
        scorer({"input_ids": [draw_ids(96)]})


def test_an_argument_that_changes_a_later_layers_map_is_refused(tiny_llama):
    scorer = DeepAttention(model=AutoModelForCausalLM.from_pretrained(tiny_llama))
    later = scorer.load_model().model.layers[1].self_attn
    plain = later.forward
    later.forward = lambda *args, **named: plain(*args, **named, position_bias=torch.zeros(1, 4, 16, 16))
    with pytest.raises(ValueError, match=r"Attention layer 1 \(LlamaAttention\) is given position_bias=a tensor"):
        scorer({"input_ids": [draw_ids(96)]})


def test_layers_of_a_limited_reach_are_read_as_if_they_saw_all(tmp_path):
    torch.manual_seed(0)
    sizes = {**TINY_SIZES, "initializer_range": 0.3}
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model("mistral", **sizes, sliding_window=16))
    wide = AutoModelForCausalLM.from_config(AutoConfig.for_model("mistral", **sizes, sliding_window=None))
    wide.load_state_dict(network.state_dict())
    row = {"input_ids": [draw_ids(96)]}
    # the first layer's queries and keys are the same, whatever the layer sees
    near, far = (
        DeepAttention(model=save(model, tmp_path / str(n)), device="cpu", layer=0)(row)
        for n, model in enumerate([network, wide])
    )
    assert near["deep_strength"] == far["deep_strength"] and near["strength_by_layer"] != far["strength_by_layer"]


@each_scorer
def test_ids_that_are_not_the_models_and_texts_that_are_no_tokens_are_refused_with_a_reason(score, tiny_llama):
    settings = {"model": str(tiny_llama), "device": "cpu", **SETTINGS[score]}
    good = draw_ids(128)
    bad = {
        "token id 300 is outside the vocabulary of 300": [*good[:60], 300, *good[61:]],
        "token id -1 is outside the vocabulary of 300": [*good[:60], -1, *good[61:]],
    }
    scored = score(on_error="skip", **settings)({"input_ids": [*bad.values(), good]})
    assert scored["skip_reason"] == [*bad, None]
    assert scored[score.column][:2] == [None, None] and scored[score.column][2] is not None
    for reason, ids in bad.items():
        with pytest.raises(ValueError, match=f"Row 1 of column 'input_ids' is unusable: {reason}.*on_error='skip'"):
            score(**settings)({"input_ids": [good, ids]})


@each_scorer
def test_a_window_longer_than_the_positions_that_a_model_has_learned_is_refused(score, tmp_path):
    network = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=128)
    )
    scorer = score(model=save(network, tmp_path), device="cpu", on_error="skip", **SETTINGS[score])
    scored = scorer({"input_ids": [draw_ids(128), draw_ids(129)]})
    # ProLong gives the model two segments at a time
    reason = "longer than the 128 positions that the model has learned (129 tokens)" if score is not ProLong else None
    assert scored["skip_reason"] == [None, reason]
    assert [value is None for value in scored[score.column]] == [False, reason is not None]


def words_alone():
    """A tokenizer that makes nothing of blanks."""
    words = {word: place for place, word in enumerate(["[UNK]", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


@pytest.mark.parametrize("score", [LongAttnScorer, *SETTINGS], ids=lambda score: score.__name__)
def test_a_text_of_no_tokens_and_one_that_is_not_unicode_are_refused_with_a_reason(score, tiny_llama):
    scorer = score(model=str(tiny_llama), tokenizer=words_alone(), on_error="skip", **SETTINGS.get(score, {}))
    texts = ["a b c d e f g h " * 16, "  \n ", "a b \ud800 c"]
    scored = scorer({"text": texts})
    assert scored["skip_reason"] == [None, "no tokens", "not Unicode, by a lone surrogate"]
    column = getattr(score, "column", "dependency_strength")
    assert scored[column][0] == scorer({"text": texts[:1]})[column][0] and scored[column][1:] == [None, None]
    for row in (1, 2):
        with pytest.raises(ValueError, match=f"Row 0 of column 'text' is unusable: {scored['skip_reason'][row]}"):
            replace(scorer, on_error="raise")({"text": texts[row : row + 1]})


# Falcon's classes are looked up by the attention's name; transformers itself refuses Bloom and GPT-OSS
@each_scorer
@pytest.mark.parametrize("kind", ["falcon", "bloom", "gpt_oss"])
def test_a_model_with_attention_code_of_its_own_is_refused(score, kind, tmp_path):
    sizes = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 16, "n_layer": 2, "n_head": 4}
    config = AutoConfig.for_model(kind, **{**TINY_SIZES, **(sizes if kind != "falcon" else {})})
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    name = save(network, tmp_path)
    refused = "brings attention code of its own, .* cannot be scored with. Choose a plain causal language model"
    with pytest.raises(ValueError, match=f"{tmp_path.name}' {refused}"):
        score(model=name, device="cpu", **SETTINGS[score]).prepare()
    with pytest.raises(ValueError, match=f"The {type(network).__name__} given {refused}"):
        score(model=network, **SETTINGS[score])


def test_losses_of_a_model_in_one_piece_are_refused_and_its_attention_is_read(tmp_path):
    sizes = {"head_dim": 16, "num_local_experts": 2, "intermediate_size_mlp": 64, "num_experts_per_tok": 1}
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama4_text", **TINY_SIZES, **sizes))
    name, row = save(network, tmp_path), {"input_ids": [draw_ids(128)]}
    for scorer in (LossGain(model=name, device="cpu"), ProLong(model=name, device="cpu", segment_tokens=16)):
        with pytest.raises(
            ValueError, match="losses of a Llama4ForCausalLM cannot be computed here: it gives no hidden"
        ):
            scorer.prepare()
        with pytest.raises(
            ValueError, match="losses of a Llama4ForCausalLM cannot be computed here: it gives no hidden"
        ):
            scorer(row)
    assert 0 < DeepAttention(model=name, device="cpu")(row)["deep_strength"][0] < 1


@each_scorer
def test_a_device_that_torch_does_not_know_is_named(score):
    with pytest.raises(ValueError, match="device='cdua' is none that torch knows"):
        score(model="m", device="cdua")
