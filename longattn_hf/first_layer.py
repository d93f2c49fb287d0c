"""The queries and keys of a causal language model's first attention layer, and nothing else of the model.

The model is built without memory (on torch's meta device) with one layer, and run once, up to the call of its
attention. What the queries and keys depend on is then read off autograd's graph, so that no architecture needs code of
its own: those parameters are loaded and no others, and the modules that they have no part in are not run either.
"""

import json
import warnings
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig

from longattn_hf.attention_call import STOPS_AT_ATTENTION, AttentionCall, eager_map, stop_at_attention
from longattn_hf.checkpoint import (
    gguf_rope_scaling,
    locate,
    open_gguf,
    read_config,
    read_gguf,
    read_safetensors,
)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class FirstLayer:
    """A causal language model's first attention layer, from token ids to queries and keys.

    Attributes:
        config: The model's configuration, with one layer.
        num_heads: HQ, the query heads.
        num_kv_heads: HK, the key heads.
        head_dim: D.
        vocab_size: Token ids are below this.
        max_positions: The longest text the model was made for; None if it does not say.
        dtype: Of weights, queries and keys.
        device: Where they are.
        identity: What the layer is, for reports and fingerprints: model, revision, sha256 of the tensors read, dtype,
            RoPE settings, architecture. Plain JSON values.
    """

    def __init__(self, model: PreTrainedModel, identity: dict[str, Any], *, rope_is_overridden: bool) -> None:
        self._model = model
        self.identity = identity
        embedding = model.get_input_embeddings()
        self.config: PreTrainedConfig = model.config
        self.vocab_size: int = embedding.weight.shape[0]
        self.dtype: torch.dtype = embedding.weight.dtype
        self.device: torch.device = embedding.weight.device
        self.max_positions: int | None = getattr(_text(model.config), "max_position_embeddings", None)
        self._warns_beyond_positions = not rope_is_overridden
        call = self._call(torch.arange(8)[None] % self.vocab_size)
        _prove_plain(call)
        self.num_heads: int = call.q.shape[1]
        self.num_kv_heads: int = call.k.shape[1]
        self.head_dim: int = call.q.shape[3]

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        revision: str | None = None,
        gguf_file: str | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        rope_theta: float | None = None,
        rope_scaling: Mapping[str, Any] | None = None,
        token: str | bool | None = None,
        trust_remote_code: bool = False,
    ) -> "FirstLayer":
        """Loads the first layer of a model, reading only the tensors that its queries and keys depend on.

        Args:
            model: A local directory, a GGUF file, or a Hub id.
            revision: The Hub repository's branch, tag or commit; its commit is recorded.
            gguf_file: The GGUF file's name inside `model`.
            dtype: float32, bfloat16 or float16, or its name; if None, float32 on a CPU and bfloat16 elsewhere.
            device: If None, the first GPU where there is one.
            rope_theta: A RoPE base in place of the model's own.
            rope_scaling: A RoPE scaling in place of the model's own, as in transformers' configurations, such as
                `{"rope_type": "yarn", "factor": 4.0}`.
            token: As for `huggingface_hub`.
            trust_remote_code: Whether to run modelling code from the repository.

        Raises:
            ValueError: The model cannot be found or read, or its first layer is not causal softmax attention.
        """
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = _as_dtype(dtype, device)
        location = locate(model, revision=revision, gguf_file=gguf_file, token=token)
        gguf = open_gguf(location) if location.gguf_file else None
        if gguf and rope_scaling is None and (scaling := gguf_rope_scaling(gguf)):
            raise ValueError(
                f"{location.name!r} scales RoPE ({scaling}), which transformers does not read from GGUF files. Pass "
                "rope_scaling= with what the model's config.json says, or {'rope_type': 'default'} for none."
            )
        config = read_config(location, trust_remote_code=trust_remote_code)
        rope = _override_rope(config, rope_theta, rope_scaling)
        with torch.inference_mode(False):
            network = _build(config, dtype, trust_remote_code)
            needed = _keep_only_the_path(network)
            if gguf:
                tensors, mapping = read_gguf(gguf, network, needed), []
            else:
                mapping = get_model_conversion_mapping(network)
                tensors = read_safetensors(location, lambda names: _stored_names(network, needed, mapping, names))
            _load(network, needed, tensors.by_name, mapping, device, dtype, location.name)
        identity = {
            "model": location.name,
            "revision": location.commit,
            "sha256": tensors.sha256,
            "dtype": str(dtype).removeprefix("torch."),
            "rope": rope,
            "rope_theta": rope_theta,
            "rope_scaling": dict(rope_scaling) if rope_scaling else None,
            "architecture": type(network).__name__,
        }
        return cls(network, identity, rope_is_overridden=rope_theta is not None or rope_scaling is not None)

    def query_key(self, input_ids: Tensor) -> tuple[Tensor, Tensor, float]:
        """Computes the layer's queries and keys, after RoPE, and the factor that their product is multiplied by.

        Args:
            input_ids: int64 `[B, T]`, whole sequences without padding.

        Returns:
            q `[B, HQ, T, D]`, k `[B, HK, T, D]` and the scale: the map is causal softmax(scale * q k^T).

        Raises:
            ValueError: An id is outside the vocabulary, or T is more than the layer's attention can reach.
        """
        self._check_ids(input_ids)
        call = self._call(input_ids)
        if not call.reaches_everywhere():
            text = _text(self.config)
            names = ("sliding_window", "attention_chunk_size")
            limits = {name: getattr(text, name) for name in names if getattr(text, name, None)}
            raise ValueError(
                f"The first layer of {self.identity['model']!r} does not see all of a window of {input_ids.shape[1]} "
                f"tokens ({limits or 'its mask is not causal attention'}). Use windows that it sees in full, or a "
                "model whose first layer has full attention."
            )
        return call.q, call.k, float(call.scale)

    @torch.inference_mode()
    def _call(self, input_ids: Tensor) -> AttentionCall:
        call = stop_at_attention(self._model, input_ids.to(self.device))
        assert call is not None, "the model was traced to an attention call"
        call.refuse_unless_plain()
        return call

    def _check_ids(self, input_ids: Tensor) -> None:
        if input_ids.ndim != 2 or input_ids.numel() == 0 or input_ids.is_floating_point():
            raise ValueError(f"input_ids must be integers [B, T], not {input_ids.dtype} {list(input_ids.shape)}.")
        low, high = (int(edge) for edge in torch.aminmax(input_ids))
        if low < 0 or high >= self.vocab_size:
            raise ValueError(
                f"Token id {low if low < 0 else high} is outside the vocabulary of {self.vocab_size} ids of "
                f"{self.identity['model']!r}. Were the ids made by another model's tokenizer?"
            )
        length = input_ids.shape[1]
        if self.max_positions is None or length <= self.max_positions:
            return
        if not self.identity["rope"]:
            raise ValueError(
                f"A window of {length} tokens is longer than the {self.max_positions} positions that "
                f"{self.identity['model']!r} has learned. Use shorter windows, or a model with RoPE."
            )
        if self._warns_beyond_positions:
            self._warns_beyond_positions = False
            warnings.warn(
                f"A window of {length} tokens is longer than the {self.max_positions} positions that "
                f"{self.identity['model']!r} was trained for, so its attention is not to be relied on. Pass "
                "rope_theta= or rope_scaling= to stretch them, or use shorter windows.",
                stacklevel=3,
            )


def load_first_layer(
    model: str,
    *,
    revision: str | None = None,
    gguf_file: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    rope_theta: float | None = None,
    rope_scaling: Mapping[str, Any] | None = None,
) -> FirstLayer:
    """Returns `FirstLayer.from_pretrained` of the same arguments, loading it on the first call in a process."""
    scaling = json.dumps(dict(rope_scaling), sort_keys=True) if rope_scaling else None
    return _load_once(model, revision, gguf_file, dtype, device, rope_theta, scaling)


@lru_cache(maxsize=2)
def _load_once(
    model: str,
    revision: str | None,
    gguf_file: str | None,
    dtype: str | None,
    device: str | None,
    rope_theta: float | None,
    rope_scaling: str | None,
) -> FirstLayer:
    return FirstLayer.from_pretrained(
        model,
        revision=revision,
        gguf_file=gguf_file,
        dtype=dtype,
        device=device,
        rope_theta=rope_theta,
        rope_scaling=json.loads(rope_scaling) if rope_scaling else None,
    )


def _as_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in _DTYPES.values():
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(_DTYPES)}.")
    return chosen


def _text(config: PreTrainedConfig) -> PreTrainedConfig:
    """The language model's own part of a configuration."""
    return config.get_text_config(decoder=True)


def _override_rope(
    config: PreTrainedConfig, theta: float | None, scaling: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Puts the overrides into the configuration and returns the first layer's RoPE settings, None if it has none."""
    text = _text(config)
    rope = getattr(text, "rope_parameters", None)
    if not rope:
        if theta is not None or scaling is not None:
            raise ValueError(
                f"A {config.model_type} model has no RoPE, so rope_theta and rope_scaling change nothing."
            )
        return None
    layer_types = getattr(text, "layer_types", None)
    nested = layer_types is not None and layer_types[0] in rope
    own = rope[layer_types[0]] if nested else rope
    if scaling is not None:
        new = dict(scaling)
        new.setdefault("rope_type", new.pop("type", None))
        # these say how much of a head is rotated and how fast, not how it is scaled
        kept = {name: own[name] for name in ("rope_theta", "partial_rotary_factor") if name in own}
        own = kept | new
    if theta is not None:
        own = own | {"rope_theta": float(theta)}
    text.rope_parameters = rope | {layer_types[0]: own} if nested else own
    try:
        text.standardize_rope_params()
        text.validate_rope()
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"rope_scaling={scaling!r} is not what transformers takes: {error}") from error
    used = text.rope_parameters[layer_types[0]] if nested else text.rope_parameters
    if "dynamic" in used["rope_type"]:
        raise ValueError(
            "RoPE of type 'dynamic' depends on the lengths of the windows seen before. Pass rope_scaling= with "
            "another rope_type, such as {'rope_type': 'default'}."
        )
    return json.loads(json.dumps(used))


def _build(config: PreTrainedConfig, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    """Builds the model with one layer and without memory."""
    if config.is_encoder_decoder:
        raise ValueError(f"A {config.model_type} model is an encoder-decoder; give a causal (decoder-only) model.")
    text = _text(config)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1]
    text.num_hidden_layers = 1
    try:
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=STOPS_AT_ATTENTION, trust_remote_code=trust_remote_code
            )
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"A {config.model_type} model is not one that can be scored: a causal language model of transformers that "
            f"goes through its attention interface. {error}"
        ) from error
    return network.eval()


def _keep_only_the_path(network: PreTrainedModel) -> set[str]:
    """Finds the parameters that the first queries and keys depend on, and idles the modules without any of them."""
    ran: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, _, output: ran.append((module, output)))
        for module in network.modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    named = dict(network.named_parameters()) | {
        name: buffer for name, buffer in network.named_buffers() if buffer.is_floating_point()
    }
    for tensor in named.values():
        tensor.requires_grad_(True)
    try:
        with torch.enable_grad(), torch.device("meta"):
            call = stop_at_attention(network, torch.zeros(1, 8, dtype=torch.int64))
    except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
        raise ValueError(
            f"The first layer of a {network.config.model_type} model cannot be followed to its attention: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if call is None:
        raise ValueError(
            f"The first layer of a {network.config.model_type} model does not go through transformers' attention "
            "interface (a state-space or linear-attention layer, or attention code of its own). Choose another model."
        )
    call.refuse_unless_plain()
    needed = _leaves_of(call, {id(tensor): name for name, tensor in named.items()})
    names = {module: name for name, module in network.named_modules()}
    for module, output in ran:
        own = {f"{names[module]}.{name}" for name, _ in module.named_parameters(recurse=False)}
        if not own & needed:
            network.set_submodule(names[module], _Idle(output.shape[-1]))
    for tensor in named.values():
        tensor.requires_grad_(False)
    return needed


def _leaves_of(call: AttentionCall, name_of: Mapping[int, str]) -> set[str]:
    found, seen = set(), set()
    stack = [call.q.grad_fn, call.k.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack += [earlier for earlier, _ in node.next_functions]
        if hasattr(node, "variable"):
            found.add(name_of[id(node.variable)])
    return found


class _Idle(nn.Module):
    """Stands where a projection was whose outcome nobody looks at: the right shape, in no time and memory."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.new_zeros(()).expand(*hidden.shape[:-1], self.width)


def _stored_names(
    network: PreTrainedModel, needed: Collection[str], mapping: list, names: Collection[str]
) -> list[str]:
    """Picks from a checkpoint's names those that the needed parameters are made of, by transformers' own renaming."""
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    state = network.state_dict()
    targets_of = {source: entry.target_patterns for entry in converters for source in entry.source_patterns}
    picked = []
    for name in names:
        renamed, source = rename_source_key(name, renamings, converters, network.base_model_prefix, state)
        if renamed not in state and source is None:
            renamed, _ = rename_source_key(name, [], [], network.base_model_prefix, state)
        first, *others = targets_of.get(source, [renamed])
        if {renamed, *(renamed.replace(first, other) for other in others)} & set(needed):
            picked.append(name)
    return picked


def _load(
    network: PreTrainedModel,
    needed: Collection[str],
    tensors: dict[str, Tensor],
    mapping: list,
    device: torch.device,
    dtype: torch.dtype,
    name: str,
) -> None:
    """Puts tensors into the network, and fills the buffers that are computed rather than loaded."""
    settings = LoadStateDictConfig(device_map={"": device}, dtype=dtype, weight_mapping=mapping)
    told, _ = convert_and_load_state_dict_in_model(network, tensors, settings)
    if told.mismatched_keys:
        wrong, got, expected = sorted(told.mismatched_keys)[0]
        raise ValueError(
            f"{wrong} of {name!r} has the shape {list(got)}, but its configuration says {list(expected)}. The files "
            "do not belong together: fetch the model again."
        )
    if absent := sorted(key for key in needed if network.get_parameter_or_buffer(key).is_meta):
        raise ValueError(
            f"{name!r} lacks {', '.join(absent)}, which its first layer needs. Is it a whole "
            f"{network.config.model_type} checkpoint?"
        )
    for key, buffer in list(network.named_non_persistent_buffers()):
        owner, _, attribute = key.rpartition(".")
        setattr(network.get_submodule(owner), attribute, torch.empty_like(buffer, device=device))
    network.initialize_weights()


def _prove_plain(call: AttentionCall) -> None:
    """Checks on a few tokens that the model's own eager attention gives the map that is computed here."""
    theirs_BHTS = eager_map(call)
    if theirs_BHTS is None:
        return
    q_BHTD, k_BHTD = call.q.double(), call.k.double().repeat_interleave(call.q.shape[1] // call.k.shape[1], dim=1)
    length = q_BHTD.shape[2]
    future = torch.ones(length, length, dtype=torch.bool, device=q_BHTD.device).triu(1)
    ours_BHTS = (q_BHTD @ k_BHTD.mT * call.scale).masked_fill(future, -torch.inf).softmax(-1)
    # the eager path rounds logits and probabilities to the layer's dtype
    tolerance = 64 * torch.finfo(call.q.dtype).eps * max(1.0, float((q_BHTD @ k_BHTD.mT * call.scale).abs().max()))
    if not torch.allclose(theirs_BHTS.double(), ours_BHTS, rtol=0, atol=tolerance):
        raise ValueError(
            f"The first attention layer ({type(call.module).__name__}) does more than softmax(scale * q k^T): its own "
            "map differs. Choose a model whose first layer is plain softmax attention."
        )
