"""What a GGUF file says of its first layer's attention, beyond what transformers reads of it.

transformers puts some of a file's fields into a configuration, other ones for each architecture, and what it leaves
out stands at a default there. Here the fields that a first map depends on are put in, or the file is refused.
"""

from collections.abc import Collection, Mapping, Sequence
from math import isclose
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from gguf.gguf_reader import ReaderTensor
    from transformers import PreTrainedConfig

# what architectures call the eps of their norms
_EPS = ("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
# attention tensors that have no part in queries and keys
_NOT_OF_THE_MAP = ("attn_v", "attn_output", "attn_v_norm", "attn_sub_norm", "attn_post_norm", "attn_rot_embd")
# files hold 32 bits
_ROUNDING = 1e-6


class GgufFile(NamedTuple):
    """What is read of a GGUF file: its fields but for the vocabulary's lists, and its tensors, which stay on disk."""

    fields: Mapping[str, Any]
    tensors: Sequence["ReaderTensor"]


def apply_gguf_fields(file: GgufFile, config: "PreTrainedConfig", name: str, *, scaling_is_given: bool) -> None:
    """Puts a file's own fields into the configuration that transformers made of it.

    Args:
        file: The file.
        config: Its configuration; changed in place.
        name: The file's name, for messages.
        scaling_is_given: Whether the caller says how RoPE is scaled, in place of the file.

    Raises:
        ValueError: A field says what the configuration's architecture has no setting for, or RoPE is scaled and
            nothing is given.
    """
    text = config.get_text_config(decoder=True)
    kind = (getattr(text, "layer_types", None) or [None])[0]
    rope: Any = getattr(text, "rope_parameters", None) or {}
    by_kind = kind in rope
    own: dict[str, Any] = rope[kind] if by_kind else rope
    # where layers differ in their RoPE, these fields are those of the full ones, and sliding ones have others
    fields = _Fields(file, name, sliding=by_kind and kind == "sliding_attention")
    if not scaling_is_given:
        fields.refuse_scaling()
    if (
        eps := fields.get("attention.layer_norm_rms_epsilon") or fields.get("attention.layer_norm_epsilon")
    ) is not None:
        for setting in set(_EPS) & set(vars(text)):
            _set(text, setting, eps)
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    length = fields.of_this_layer("attention.key_length", "attention.key_length_swa")
    if length is not None and length != width:
        if "head_dim" not in vars(text):
            raise fields.refusal("attention.key_length", length, f"heads of {width}")
        text.head_dim = width = length
    if own:
        theta = fields.of_this_layer("rope.freq_base", "rope.freq_base_swa")
        if theta is not None and not isclose(theta, own.get("rope_theta", 0.0), rel_tol=_ROUNDING):
            own["rope_theta"] = float(theta)
        rotated = fields.of_this_layer("rope.dimension_count", "rope.dimension_count_swa")
        if rotated is not None and rotated != int(width * own.get("partial_rotary_factor", 1.0)):
            if "partial_rotary_factor" not in own or not 0 < rotated <= width:
                raise fields.refusal("rope.dimension_count", rotated, f"RoPE over all {width} numbers of a head")
            own["partial_rotary_factor"] = rotated / width
    window = fields.get("attention.sliding_window")
    if window and window != getattr(text, "sliding_window", None):
        # a window as long as the model's texts hides nothing
        if "sliding_window" in vars(text) and kind != "full_attention":
            text.sliding_window = window
        elif window < (getattr(text, "max_position_embeddings", None) or window + 1):
            raise fields.refusal("attention.sliding_window", window, "full attention in its first layer")
    scale = fields.get("attention.scale")
    if scale and "query_pre_attn_scalar" in vars(text):
        # a whole number there; where the file's is none, the scale is refused afterwards
        _set(text, "query_pre_attn_scalar", round(scale**-2))


def refuse_other_scale(file: GgufFile, scale: float, name: str) -> None:
    """Checks that a layer's scale is the file's, where the file has one.

    Raises:
        ValueError: It is another.
    """
    fields = _Fields(file, name)
    if (stated := fields.get("attention.scale")) and not isclose(stated, scale, rel_tol=_ROUNDING):
        raise fields.refusal("attention.scale", stated, f"a scale of {scale}")


def refuse_unread_attention(names: Collection[str], name_of: Mapping[str, str]) -> None:
    """Checks that a GGUF file's tensors of the first layer's queries and keys have all a place in the network.

    Args:
        names: Of all the file's tensors.
        name_of: The network's parameters, by the file's names.

    Raises:
        ValueError: One has none.
    """
    for name in sorted(names):
        block, _, rest = name.partition(".attn_")
        if block == "blk.0" and rest and name not in name_of and f"attn_{rest.split('.')[0]}" not in _NOT_OF_THE_MAP:
            raise ValueError(
                f"The GGUF file holds {name}, for which transformers' reading of it has no place, so the first map "
                "would be another than the one trained. Give the model's safetensors."
            )


class _Fields:
    def __init__(self, file: GgufFile, name: str, *, sliding: bool = False) -> None:
        self._file, self._name, self._sliding = file, name, sliding
        self._architecture = file.fields.get("general.architecture")

    def get(self, field: str) -> Any:
        return self._file.fields.get(f"{self._architecture}.{field}")

    def of_this_layer(self, field: str, of_sliding_layers: str) -> Any:
        """The field's value for the first layer; None where the file says nothing of layers of its kind."""
        return self.get(of_sliding_layers if self._sliding else field)

    def refuse_scaling(self) -> None:
        tensors = [f"the tensor {tensor.name}" for tensor in self._file.tensors if tensor.name.startswith("rope_f")]
        kind = self.get("rope.scaling.type")
        stated = [] if kind in (None, "none") else [f"rope.scaling.type = {kind!r}"]
        if kind is None:
            # without a type, llama.cpp scales linearly by either
            factors = {field: self.get(field) for field in ("rope.scaling.factor", "rope.scale_linear")}
            stated = [f"{field} = {factor}" for field, factor in factors.items() if factor not in (None, 0, 1)]
        # a file's scaling is that of its full layers
        if scalings := tensors + ([] if self._sliding else stated):
            raise ValueError(
                f"{self._name!r} scales RoPE ({scalings[0]}), which transformers does not read from GGUF files. Pass "
                "rope_scaling= with what the model's config.json says, or {'rope_type': 'default'} for none."
            )

    def refusal(self, field: str, value: Any, instead: str) -> ValueError:
        return ValueError(
            f"{self._name!r} says {self._architecture}.{field} = {value}, but as transformers reads it, it has "
            f"{instead}. Give the model's safetensors."
        )


def _set(text: "PreTrainedConfig", setting: str, value: float) -> None:
    if not isclose(getattr(text, setting) or 0.0, value, rel_tol=_ROUNDING):
        setattr(text, setting, value)
