"""What the scorers that run a whole language model share: what they refuse, and what they say."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from longattn_hf.baselines import DeepAttention, DeepFarAttention, Ladm, LossGain, ProLong
from longattn_hf.model.first_layer import FirstLayer
from longattn_hf.model.language_model import load_language_model, token_losses
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
