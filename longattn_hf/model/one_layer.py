"""A causal language model cut down to what its first queries and keys depend on.

The model is built without memory (on torch's meta device) with one layer, and run once on tensors without values, up
to the call of its attention. What the queries and keys depend on is then read off autograd's graph, so that no
architecture needs code of its own: those parameters are loaded and no others, and the modules that they have no part
in are not run either.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from longattn_hf.files import hash_json
from longattn_hf.model.attention_hooks import STOPS_AT_ATTENTION, AttentionCall, stop_at_attention
from longattn_hf.model.byte_ranges import Rows
from longattn_hf.model.idle import Idle
from longattn_hf.model.one_layer_loading import converted_together

# where quantisation methods name the modules that they leave alone
_SPARES = ("modules_to_not_convert", "ignore", "llm_int8_skip_modules")
# settings that no first map depends on, and those of RoPE, which a layer's identity holds as they are
_NO_PART = {"_name_or_path", "architectures", "auto_map", "first_layer_of", "transformers_version", "rope_parameters"}
_NO_PART |= {"dtype", "torch_dtype", "quantization_config", "initializer_range", "tie_word_embeddings", "use_cache"}
_NO_PART |= {"bos_token_id", "eos_token_id", "id2label", "label2id", "return_dict", "chunk_size_feed_forward"}


def build_one_layer(
    config: PreTrainedConfig, dtype: torch.dtype, *, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, dict[str, Rows], str]:
    """Builds a model of one layer on the meta device, with the modules that its first map does not need idle.

    Args:
        config: The model's configuration; it is changed to one layer.
        dtype: Of the parameters.
        trust_remote_code: Whether to run modelling code from the model's repository.

    Returns:
        The model, and what its first queries and keys depend on: the names of parameters and stored buffers, each with
        the rows that count: of the matrix of a fused projection whose queries and keys come before its values, as
        Phi-3's, the first N of M rows; None for all, also where heads hold q, k and v in turn, as GPT-NeoX's. Then
        the first attention module's name.

    Raises:
        ValueError: The model's first layer is not causal softmax attention called by transformers' interface.
    """
    if config.is_encoder_decoder:
        raise ValueError(f"A {config.model_type} model is an encoder-decoder; give a causal (decoder-only) model.")
    text = config.get_text_config(decoder=True)
    _cut_to_one_layer(config, text)
    # models keep traces of having run, such as RoPE frequencies for long texts, so another copy is used
    needed, idle, attention = _trace(_on_meta(config, dtype, trust_remote_code))
    network = _on_meta(config, dtype, trust_remote_code)
    _refuse_quantisation(network, needed)
    for name, width in idle.items():
        network.set_submodule(name, Idle(network.get_submodule(name), width))
    return network.eval(), needed, attention


def _cut_to_one_layer(config: PreTrainedConfig, text: PreTrainedConfig) -> None:
    layers = getattr(text, "num_hidden_layers", None)
    for name, value in list(vars(text).items()):
        # what an architecture says of each layer; other lists, such as limits of two numbers, may be as long by chance
        of_layers = "layer" in name and isinstance(value, list) and len(value) == layers
        if name == "layer_types" and value or of_layers:
            setattr(text, name, value[:1])
    try:
        text.num_hidden_layers = 1
    except NotImplementedError as error:
        raise ValueError(f"A {config.model_type} model cannot be cut to its first layer: {error}") from error


def hash_settings(config: PreTrainedConfig) -> str:
    """Hashes the settings of one layer beside its RoPE and dtype: head sizes, scale, eps of the norms and the like.

    What is off (None or False) is left out, as is a setting of a later release of transformers that stands at its
    default; the hash does not depend on where the configuration was read.

    Args:
        config: As `build_one_layer` leaves it.

    Returns:
        Hexadecimal sha256.
    """
    settings = settings_of_one_layer(config) | settings_of_one_layer(config.get_text_config(decoder=True))
    without = _NO_PART | set(config.sub_configs)
    kept = {name: value for name, value in settings.items() if name not in without and not _is_off(value)}
    # a configuration of the model's own code may hold anything
    return hash_json(json.loads(json.dumps(kept, default=str)))


def settings_of_one_layer(config: PreTrainedConfig) -> dict[str, Any]:
    """Returns a configuration of `build_one_layer` as plain values, without what it says of the other layers."""
    settings = config.to_dict()
    for part in (settings, settings.get("text_config") or {}):
        if others := part.get("per_layer_config"):
            part["per_layer_config"] = {layer: others[layer] for layer in others if str(layer) == "0"}
    return settings


def _is_off(value: Any) -> bool:
    # 0 is a value of its own, though it equals False
    return value is None or value is False


def _refuse_quantisation(network: PreTrainedModel, needed: Mapping[str, Rows]) -> None:
    """Checks that the configuration does not quantise what the map is made of: a quantised product is another map.

    Raises:
        ValueError: It does.
    """
    settings = getattr(network.config, "quantization_config", None)
    if not settings:
        return
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    spared = [name for key in _SPARES for name in settings.get(key) or ()]
    for name in needed:
        owner = name.rpartition(".")[0]
        # not every model's products are made by nn.Linear: GPT-2's are not; rows that ids pick are no product
        is_factor = network.get_parameter_or_buffer(name).ndim == 2
        is_factor &= not isinstance(network.get_submodule(owner), nn.Embedding)
        if is_factor and not any(part in owner for part in spared):
            raise ValueError(
                f"The model's configuration quantises its weights ({settings.get('quant_method', 'unnamed method')}), "
                f"{owner} too, which is not computed here: its map is not that of plain weights. Give the unquantised "
                "model or a GGUF file; if the weights are stored whole, drop quantization_config from config.json."
            )


def _on_meta(config: PreTrainedConfig, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=STOPS_AT_ATTENTION, trust_remote_code=trust_remote_code
            )
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"A {config.model_type} model cannot be built as a causal language model that goes through transformers' "
            f"attention interface: {error}"
        ) from error


class _ScalarsOfWholeTexts(TorchDispatchMode):
    """Answers models that look at a number of a tensor without values: a mask's is one, a position's is low."""

    def __torch_dispatch__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        return func(*args, **(kwargs or {}))


def _trace(network: PreTrainedModel) -> tuple[dict[str, Rows], dict[str, int], str]:
    """Finds what the first queries and keys depend on.

    Returns:
        The names of the parameters and stored buffers they depend on, with the rows that count; the names, with the
        widths of their outputs, of the modules that run before them and hold none of those; the attention's name.
    """
    # not on the meta device, where transformers before 5.20 cannot run
    without_values = FakeTensorMode(allow_non_fake_inputs=True)
    with without_values:
        network.to_empty(device="cpu").eval()
    ran: list[tuple[nn.Module, Tensor]] = []
    for module in network.modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_hook(lambda module, _, output: ran.append((module, output)))
    computed = {name for name, _ in network.named_non_persistent_buffers()}
    buffers = {name: buffer for name, buffer in network.named_buffers() if name not in computed}
    stored = dict(network.named_parameters()) | buffers
    for tensor in stored.values():
        tensor.requires_grad_(tensor.is_floating_point())
    kind = network.config.model_type
    layer_types = getattr(network.config.get_text_config(decoder=True), "layer_types", None)
    layer = f"The first layer of a {kind} model{f' ({layer_types[0]})' if layer_types else ''}"
    try:
        with torch.enable_grad(), without_values, _ScalarsOfWholeTexts():
            call = stop_at_attention(network, torch.zeros(1, 8, dtype=torch.int64))
    except (RuntimeError, NotImplementedError, AttributeError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"{layer} cannot be followed to a call of transformers' attention interface: {error}"
        ) from error
    if call is None:
        raise ValueError(
            f"{layer} makes no call of transformers' attention interface: it is a state-space or linear-attention "
            "layer, or brings attention code of its own. Choose another model."
        )
    call.refuse_unless_plain()
    needed = _leaves_of(call, {id(tensor): name for name, tensor in stored.items()})
    name_of = {module: name for name, module in network.named_modules()}
    kept = needed.keys() | converted_together(network, needed)
    idle = {
        name_of[module]: output.shape[-1]
        for module, output in ran
        if not {f"{name_of[module]}.{name}" for name, _ in module.named_parameters(recurse=False)} & kept
    }
    return needed, idle, name_of.get(call.module, "")


def _leaves_of(call: AttentionCall, name_of: Mapping[int, str]) -> dict[str, Rows]:
    leaves: dict[str, Rows] = {}
    seen = set()
    stack = [call.q.grad_fn, call.k.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves[name_of[id(node.variable)]] = None
        elif (product := _product_cut_by(node)) is not None:
            # what is cut off a product's end stands in the last rows of its matrix
            *others, (transposed, _) = product.next_functions
            matrix = transposed.next_functions[0][0].variable
            stop = min(node._saved_end, matrix.shape[0])
            used = leaves.get(name_of[id(matrix)], (0, matrix.shape[0]))
            leaves[name_of[id(matrix)]] = used and (max(used[0], stop), matrix.shape[0])
            stack += [earlier for earlier, _ in others]
        else:
            stack += [earlier for earlier, _ in node.next_functions]
    return {name: None if rows and rows[0] == rows[1] else rows for name, rows in leaves.items()}


def _product_cut_by(node: Node) -> Node | None:
    """The product `x @ weight.T` of which a node keeps some columns; None where it does anything else."""
    if node.name() != "SliceBackward0":
        return None
    sizes = node._saved_self_sym_sizes
    if node._saved_dim != len(sizes) - 1 or node._saved_step != 1:
        return None
    product = node.next_functions[0][0]
    while product.name() in ("ViewBackward0", "UnsafeViewBackward0"):
        if product._saved_self_sym_sizes[-1] != sizes[-1]:
            return None
        product = product.next_functions[0][0]
    if product.name() not in ("MmBackward0", "AddmmBackward0"):
        return None
    transposed = product.next_functions[-1][0]
    is_weight = transposed is not None and transposed.name() == "TBackward0"
    return product if is_weight and hasattr(transposed.next_functions[0][0], "variable") else None
