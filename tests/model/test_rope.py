"""RoPE settings of configurations alone, without a model; that a layer computes by them is tested with the layer."""

import copy
import json

import pytest
from transformers import Gemma3TextConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, T5GemmaConfig

from longattn_hf.model.rope import override_rope

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}


@pytest.mark.parametrize(
    ("config", "theta", "scaling", "expected"),
    [
        (LlamaConfig(), None, None, {"rope_type": "default", "rope_theta": 10000.0}),
        (LlamaConfig(), 5, None, {"rope_type": "default", "rope_theta": 5.0}),
        (LlamaConfig(), 0.5, None, {"rope_type": "default", "rope_theta": 0.5}),
        (LlamaConfig(), None, YARN, YARN | {"rope_theta": 10000.0}),
        (LlamaConfig(), 7e4, YARN | {"rope_theta": 3.0}, YARN | {"rope_theta": 7e4}),
        (LlamaConfig(), None, YARN | {"rope_theta": 3.0}, YARN | {"rope_theta": 3.0}),
        # as older configurations name it; of two names the older one, as in transformers
        (
            LlamaConfig(),
            None,
            {"type": "linear", "factor": 2.0},
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        ),
        # a scaling takes another's place, but for how much is rotated and how fast
        (
            # early releases take the share that is rotated from the older name
            GPTNeoXConfig(rotary_pct=0.5, rope_parameters=YARN | {"rope_theta": 9.0, "partial_rotary_factor": 0.5}),
            None,
            {"rope_type": "default"},
            {"rope_type": "default", "rope_theta": 9.0, "partial_rotary_factor": 0.5},
        ),
        # of layers that differ, the first one's kind
        (Gemma3TextConfig(), None, None, {"rope_type": "default", "rope_theta": 10000.0}),
        (Gemma3TextConfig(), 7e4, None, {"rope_type": "default", "rope_theta": 7e4}),
        (GPT2Config(), None, None, None),
    ],
)
def test_the_first_layers_settings_are_the_configurations_with_what_is_given_in_their_place(
    config, theta, scaling, expected
):
    before = copy.deepcopy(config)
    given = copy.deepcopy(scaling)
    assert override_rope(config, theta, scaling) == expected == json.loads(json.dumps(expected))
    assert scaling == given
    if theta is None and scaling is None:
        assert config.to_dict() == before.to_dict()
    elif isinstance(config, Gemma3TextConfig):
        others = before.rope_parameters["full_attention"]
        assert config.rope_parameters == {"sliding_attention": expected, "full_attention": others}
    else:
        assert config.rope_parameters == expected


def test_of_an_encoder_and_a_decoder_the_decoder_counts():
    config = T5GemmaConfig()
    assert override_rope(config, 77.0, None) == {"rope_type": "default", "rope_theta": 77.0}
    assert config.decoder.rope_parameters["rope_theta"] == 77.0
    assert config.encoder.rope_parameters["rope_theta"] == 10000.0


@pytest.mark.parametrize(
    ("config", "theta", "scaling", "message"),
    [
        (GPT2Config(), 1e4, None, "A gpt2 model has no RoPE, so rope_theta and rope_scaling change nothing"),
        (GPT2Config(), None, YARN, "A gpt2 model has no RoPE"),
        (LlamaConfig(), 0, None, "rope_theta=0 must be positive"),
        (LlamaConfig(), -1.0, None, "rope_theta=-1.0 must be positive"),
        (LlamaConfig(), float("nan"), None, "rope_theta=nan must be positive"),
        (LlamaConfig(), None, {"rope_type": "spiral"}, "'spiral' cannot be used. Pass rope_scaling= with a rope_type"),
        (LlamaConfig(), None, {"rope_type": "dynamic", "factor": 2.0}, "'dynamic' cannot be used.*among default, lin"),
        (LlamaConfig(), None, {"factor": 2.0}, "RoPE of type None cannot be used"),
        (LlamaConfig(), None, {"rope_type": "linear"}, "is not what transformers takes: .*factor"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(config, theta, scaling, message):
    with pytest.raises(ValueError, match=message):
        override_rope(config, theta, scaling)


@pytest.mark.parametrize(
    ("rope", "kinds"),
    [
        ({"full_attention": None}, ["full_attention"]),
        ({"sliding_attention": {"factor": 2.0}}, ["sliding_attention"]),
        ({"rope_theta": 3.0}, ["full_attention"]),
        ({"rope_theta": 3.0}, None),
    ],
)
def test_settings_that_say_nothing_of_the_first_layer_are_not_understood(rope, kinds):
    config = LlamaConfig()
    config.rope_parameters, config.layer_types = rope, kinds
    with pytest.raises(ValueError, match="of a llama model are not understood.* says nothing of its first layer"):
        override_rope(config, None, None)
    if "rope_theta" in rope:
        # the type is all that is missing
        assert override_rope(config, None, {"rope_type": "default"}) == {"rope_type": "default", "rope_theta": 3.0}
