"""Loading the few tensors of a checkpoint that a model of one layer needs.

The exact way calls transformers' own loading by its inner names. Where a release has other ones, `from_pretrained`
loads the same numbers, in more time and memory.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from longattn_hf.model.attention_hooks import STOPS_AT_ATTENTION
from longattn_hf.model.byte_ranges import Rows

# what a call by inner names raises in a release that has others
_CHANGED = (ImportError, TypeError, AttributeError)
# what attention modules have stored beside weights: masks and positions, which are computed, and what belongs to
# quantised numbers, which are refused by themselves
_LEFT_OVER = re.compile(
    r"(bias|masked_bias|causal_mask|embed_positions|(.*\.)?(rotary\w*|inv_freq)(\..*)?"
    r"|(.*\.)?(weight[._].+|qweight|scales|qzeros|g_idx|SCB|(input|output|[qkv]|kv|prob)_(scale|zero_point)\w*))"
)


def pick_stored_names(
    network: PreTrainedModel, needed: Mapping[str, Rows], names: Collection[str], *, attention: str | None = None
) -> dict[str, Rows]:
    """Picks from a checkpoint's names those that the `needed` parameters are made of.

    Args:
        network: Of `build_one_layer`.
        needed: The parameters, with the rows that count.
        names: All that the checkpoint holds.
        attention: The first attention module's name, to refuse what the checkpoint holds for its queries and keys and
            the network has no place for; None where `names` are picked already.

    Returns:
        The names, with the rows to read of each; None for all.

    Raises:
        ValueError: The checkpoint holds more for `attention` than its configuration says.
    """
    try:
        targets_of = _renamed_by_transformers(network, names)
    except _CHANGED:
        targets_of = _renamed_by_prefix(network, needed, names)
    if attention:
        refuse_left_out(network, needed, attention, {name: own[0] for name, (own, _) in targets_of.items() if own})
    twins = {twin: name for twin, name in network.all_tied_weights_keys.items() if name in needed}
    picked: dict[str, Rows] = {}
    covered: set[str] = set()
    other_names: dict[str, str] = {}
    for name, (targets, is_converted) in targets_of.items():
        if hit := [target for target in targets if target in needed]:
            # a tensor that is converted on its way is read whole
            picked[name] = None if is_converted else needed[hit[0]]
            covered.update(hit)
        elif targets and targets[0] in twins:
            other_names[twins[targets[0]]] = name
    # a matrix that two parameters share may be stored under the other's name alone
    return picked | {name: needed[twin] for twin, name in other_names.items() if twin not in covered}


def refuse_left_out(
    network: PreTrainedModel, needed: Collection[str], attention: str, parameter_of: Mapping[str, str]
) -> None:
    """Checks that no stored tensor has a part in the first queries and keys that the network leaves out.

    Args:
        network: Of `build_one_layer`.
        needed: The parameters that it reads.
        attention: The first attention module's name.
        parameter_of: By stored name, the parameter that it is, or would be.

    Raises:
        ValueError: One has.
    """
    prefix = f"{network.base_model_prefix}."
    present = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
    modules = {name for name, _ in network.named_modules()}
    for stored, parameter in parameter_of.items():
        known = {parameter, prefix + parameter, parameter.removeprefix(prefix)}
        inside = [name for name in known if name.startswith(f"{attention}.")]
        if known & present or not inside or _LEFT_OVER.fullmatch(inside[0].removeprefix(f"{attention}.")):
            continue
        owner = inside[0]
        while owner not in modules:
            owner = owner.rpartition(".")[0]
        # the values' and the output's projections have no part in the map
        if owner == attention or any(name.startswith(f"{owner}.") for name in needed):
            raise ValueError(
                f"The checkpoint holds {stored}, for which a {network.config.model_type} model of its configuration "
                "has no place, so the first map would be another than the one trained. The files do not belong "
                "together: correct config.json, or fetch the model again."
            )


def _renamed_by_transformers(network: PreTrainedModel, names: Iterable[str]) -> dict[str, tuple[list[str], bool]]:
    """The parameters that each stored tensor becomes, the first of them by name, and whether it is converted."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(network)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    patterns_of = {source: entry.target_patterns for entry in converters for source in entry.source_patterns}
    prefix, state = network.base_model_prefix, network.state_dict()
    targets_of = {}
    for name in names:
        renamed, source = rename_source_key(name, renamings, converters, prefix, state)
        if renamed not in state and name in state:
            renamed, source = rename_source_key(name, [], [], prefix, state)
        first, *others = patterns_of.get(source, [renamed])
        targets = [renamed, *(renamed.replace(first, other) for other in others)]
        targets_of[name] = (targets, source in patterns_of)
    return targets_of


def _renamed_by_prefix(
    network: PreTrainedModel, needed: Collection[str], names: Iterable[str]
) -> dict[str, tuple[list[str], bool]]:
    """As `_renamed_by_transformers`, where its names are the network's own but for the base model's prefix.

    What then is lacking is among the first layer's tensors of other names, so that all of these are read.
    """
    prefix, state = f"{network.base_model_prefix}.", network.state_dict()
    targets_of: dict[str, tuple[list[str], bool]] = {}
    for name in names:
        known = [target for target in (name, prefix + name, name.removeprefix(prefix)) if target in state]
        targets_of[name] = (known[:1], False)
    lacking = list(set(needed).difference(*(targets for targets, _ in targets_of.values())))
    for name, (targets, _) in targets_of.items():
        numbers = [part for part in name.split(".") if part.isdecimal()]
        if lacking and not targets and numbers[:1] in ([], ["0"]):
            targets_of[name] = (lacking, True)
        elif not targets:
            targets_of[name] = ([name], False)
    return targets_of


def load_one_layer(
    network: PreTrainedModel,
    needed: Mapping[str, Rows],
    tensors: dict[str, Tensor],
    device: torch.device,
    *,
    renamed: bool,
) -> None:
    """Puts a checkpoint's tensors into a network of `build_one_layer`, and fills the buffers that are computed.

    Args:
        network: The model on the meta device; the parameters it does not need stay there.
        needed: The names of those it does, with the rows that count.
        tensors: By their names in the checkpoint, or, with `renamed`, in the network, with the rows that
            `pick_stored_names` picks.
        device: Where to put them.
        renamed: Whether the tensors bear the network's names, in its layout.

    Raises:
        ValueError: A tensor is missing, quantised, or of another shape.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(
                f"The checkpoint's {name} is quantised ({tensor.dtype}). Give the unquantised model, or a GGUF file."
            )
    if not renamed:
        tensors = {network.all_tied_weights_keys.get(name, name): tensor for name, tensor in tensors.items()}
        cut = {name: rows for name, rows in pick_stored_names(network, needed, tensors).items() if rows}
        tensors = tensors | {name: _with_zeros_below(tensors[name], rows) for name, (_, rows) in cut.items()}
    try:
        mismatched = _load_exactly(network, tensors, device, renamed)
    except _CHANGED:
        mismatched = _load_publicly(network, needed, tensors, device)
    if mismatched:
        wrong, got, expected = min(mismatched)
        raise ValueError(
            f"The checkpoint's {wrong} has the shape {list(got)}, but its configuration says {list(expected)}. The "
            "files do not belong together: fetch the model again."
        )
    if absent := sorted(name for name in needed if network.get_parameter_or_buffer(name).is_meta):
        raise ValueError(
            f"The checkpoint lacks {', '.join(absent)}, which the first layer needs. Is it a whole "
            f"{network.config.model_type} checkpoint, and not quantised?"
        )
    network.requires_grad_(False)


def _load_exactly(
    network: PreTrainedModel, tensors: dict[str, Tensor], device: torch.device, renamed: bool
) -> Collection[Any]:
    """Loads the tensors by themselves, as transformers' own loading does; returns those of another shape."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    # the settings hold the dtypes that some models keep for some parameters
    settings = LoadStateDictConfig(
        device_map={"": device},
        dtype=network.dtype,
        dtype_plan=network._get_dtype_plan(network.dtype),
        weight_mapping=[] if renamed else get_model_conversion_mapping(network),
    )
    with _quietly():
        loaded, _ = convert_and_load_state_dict_in_model(network, tensors, settings)
    for name, buffer in list(network.named_non_persistent_buffers()):
        _put(network, name, torch.empty_like(buffer, device=device))
    # what has been loaded is marked so, and left as it is
    network.initialize_weights()
    return loaded.mismatched_keys


def _load_publicly(
    network: PreTrainedModel, needed: Collection[str], tensors: dict[str, Tensor], device: torch.device
) -> Collection[Any]:
    """Loads the tensors into a whole model of one layer, from a folder, and takes what is needed from there.

    The same by `from_pretrained` alone, which every release has; it makes the rest of the layer too, at random.
    """
    config = deepcopy(network.config)
    for part in (config, config.get_text_config(decoder=True)):
        # what is needed is not quantised
        vars(part).pop("quantization_config", None)
    with TemporaryDirectory(prefix="longattn_hf-") as folder, _quietly(), torch.random.fork_rng(devices=[]):
        stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
        config.save_pretrained(folder)
        save_file(stored, Path(folder, "model.safetensors"), metadata={"format": "pt"})
        # with its loading info it is a pair, of which the stub does not know
        pair: Any = type(network).from_pretrained(
            folder,
            config=config,
            dtype=network.dtype,
            attn_implementation=STOPS_AT_ATTENTION,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    whole, loaded = pair
    computed = [name for name, _ in network.named_non_persistent_buffers()]
    for name in {*needed} - {*loaded["missing_keys"]} | {*computed}:
        _put(network, name, whole.get_parameter_or_buffer(name).detach().to(device))
    return loaded["mismatched_keys"]


def _put(network: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, attribute = name.rpartition(".")
    module = network.get_submodule(owner)
    setattr(
        module, attribute, nn.Parameter(tensor, requires_grad=False) if attribute in module._parameters else tensor
    )


def converted_together(network: PreTrainedModel, needed: Collection[str]) -> set[str]:
    """Names the parameters that stand in a checkpoint in one tensor with a needed one, and are split off it."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter

        mapping = get_model_conversion_mapping(network)
    except _CHANGED:
        # a whole model is loaded then
        return set()
    targets = [entry.target_patterns for entry in mapping if isinstance(entry, WeightConverter)]
    return {
        name.replace(own, other)
        for several in targets
        for own in several
        for name in needed
        if own in name
        for other in several
    }


def _with_zeros_below(tensor: Tensor, rows: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(rows - len(tensor), *tensor.shape[1:])])


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' progress bars, and its warnings of all that is not there."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
