"""RoPE settings of a transformers configuration, and overriding them."""

import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def override_rope(
    config: PreTrainedConfig, rope_theta: float | None, rope_scaling: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Puts overrides of the first layer's RoPE settings into a configuration.

    Args:
        config: The model's configuration; changed in place.
        rope_theta: The base, or None for the model's own.
        rope_scaling: The scaling as in transformers' configurations, or None for the model's own.

    Returns:
        The settings that the first layer will have, as JSON values; None for a model without RoPE.

    Raises:
        ValueError: The model has no RoPE to override, or the settings cannot be used.
    """
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None)
    if not rope:
        if rope_theta is not None or rope_scaling is not None:
            raise ValueError(
                f"A {config.model_type} model has no RoPE, so rope_theta and rope_scaling change nothing."
            )
        return None
    kind = (getattr(text, "layer_types", None) or [None])[0]
    # models whose layers differ have settings for each kind of layer
    own = rope[kind] if kind in rope else rope
    if not isinstance(own, Mapping) or "rope_type" not in {**own, **(rope_scaling or {})}:
        raise ValueError(
            f"The RoPE settings of a {config.model_type} model are not understood: {json.dumps(rope, default=str)} "
            f"says nothing of its first layer ({kind}). Choose another model."
        )
    if rope_scaling is not None:
        # these say how fast and how much of a head is rotated, not how it is scaled
        kept = {name: own[name] for name in ("rope_theta", "partial_rotary_factor") if name in own}
        own = kept | dict(rope_scaling)
        own["rope_type"] = own.pop("type", own.get("rope_type"))
    if rope_theta is not None:
        if not rope_theta > 0:
            raise ValueError(f"rope_theta={rope_theta} must be positive.")
        own = own | {"rope_theta": float(rope_theta)}
    # the frequencies of 'dynamic' depend on the windows seen before
    usable = sorted({"default", *ROPE_INIT_FUNCTIONS} - {"dynamic"})
    if own["rope_type"] not in usable:
        raise ValueError(
            f"RoPE of type {own['rope_type']!r} cannot be used. Pass rope_scaling= with a rope_type among "
            f"{', '.join(usable)}; {{'rope_type': 'default'}} means none."
        )
    text.rope_parameters = rope | {kind: own} if kind in rope else own
    if rope_scaling is not None:
        try:
            text.standardize_rope_params()
            text.validate_rope()
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"rope_scaling={rope_scaling!r} is not what transformers takes: {error}") from error
    used = text.rope_parameters
    return json.loads(json.dumps(used[kind] if kind in rope else used))
