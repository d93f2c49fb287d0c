"""A whole causal language model, and its losses, without ever storing the logits of a window.

Shape suffixes: B batch, N rows, T tokens, D hidden size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakSet

import torch
from accelerate import init_empty_weights
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from longattn_hf.files import hash_json
from longattn_hf.model.attention_hooks import SHOWS_ATTENTION
from longattn_hf.model.device import pick_device, pick_dtype, use_one_thread_after_fork
from longattn_hf.model.identity import identify_once, pinned
from longattn_hf.model.loaded import held_by, is_loaded, is_name, name_object
from longattn_hf.model.location import ModelRef, locate, read_config
from longattn_hf.model.tensors import hash_tensors

_LOGIT_ROWS = 512
#: What a message says of a model that is refused.
CHOOSE_ANOTHER = "Choose a plain causal language model, such as a Llama, Mistral, Qwen or OLMo."
_PROBE_TOKENS = 16
_proven: WeakSet[PreTrainedModel] = WeakSet()


def load_language_model(
    model: ModelRef | str, *, dtype: str | None = None, device: str | None = None, rank: int | None = None
) -> PreTrainedModel:
    """Returns a causal language model, loaded on the first call in a process and ready for `observe_attention`.

    Args:
        model: Which model; a name of `name_language_model` too.
        dtype: As in `pick_dtype`.
        device: As in `pick_device`.
        rank: As in `pick_device`.

    Raises:
        ValueError: It cannot be found, lacks weights, has attention of its own, changes its logits after the output
            embedding, or was given as an object that has another dtype or device, or other weights by now.
    """
    use_one_thread_after_fork()
    ref = ModelRef.of(model)
    if is_loaded(ref.name):
        return held_by(ref.name).network_for(dtype, device)
    chosen = pick_device(device, rank=rank)
    identity = identify_once(ref)
    return _load_once(pinned(ref), identity, pick_dtype(dtype, chosen), chosen)


@lru_cache(maxsize=1)
def _load_once(model: ModelRef, identity: str, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    location = locate(model)
    # checks what code may run
    read_config(location, trust_remote_code=model.trust_remote_code)
    with _own_attention_refused(repr(location.name)):
        network, loading = AutoModelForCausalLM.from_pretrained(
            location.path,
            dtype=dtype,
            attn_implementation=SHOWS_ATTENTION,
            trust_remote_code=model.trust_remote_code,
            output_loading_info=True,
            **location.weights_arguments,
        )
    if missing := sorted(loading["missing_keys"]):
        # transformers draws them at random
        raise ValueError(
            f"{location.name!r} lacks {len(missing)} of the weights of a {type(network).__name__} "
            f"({', '.join(missing[:3])}): a first layer saved on its own, or another kind of model. Name the whole "
            "model."
        )
    _refuse_changed_logits(network, repr(location.name))
    # its stub takes the device for the model
    return network.to(device).eval()


@contextmanager
def _own_attention_refused(name: str) -> Iterator[None]:
    """Says of a model that does not go through transformers' attention interface that it cannot be scored with."""
    try:
        yield
    except (KeyError, ValueError) as error:
        if SHOWS_ATTENTION not in str(error) and "scaled_dot_product_attention" not in str(error):
            raise
        raise ValueError(
            f"{name} brings attention code of its own, which does not go through transformers' attention interface, "
            f"so that it cannot be scored with. {CHOOSE_ANOTHER}"
        ) from error


def _refuse_changed_logits(network: PreTrainedModel, name: str) -> None:
    changes = [
        setting
        for setting in ("final_logit_softcapping", "logit_scale", "logits_scaling")
        if getattr(network.config.get_text_config(), setting, None) not in (None, 1.0)
    ]
    if changes:
        raise ValueError(f"{name} changes its logits ({', '.join(changes)}), which is not computed here.")


@dataclass(frozen=True)
class _Given:
    """A network over the weights of a model that was given as an object, which stay that model's own.

    Attributes:
        network: Runs with attention that can be observed.
        versions: How often each weight had been written to.
    """

    network: PreTrainedModel
    versions: tuple[int, ...]

    def network_for(self, dtype: str | None, device: str | None) -> PreTrainedModel:
        """Returns the network, where it is what is asked for and as it was."""
        has = {"dtype": str(self.network.dtype).removeprefix("torch."), "device": str(self.network.device)}
        for name, asked in {"dtype": dtype, "device": device}.items():
            if asked not in (None, has[name]):
                raise ValueError(
                    f"The model given has {name}={has[name]!r}, where the scorer says {name}={asked!r}: move it "
                    "first, or name it."
                )
        if _versions(self.network) != self.versions:
            raise ValueError("The weights of the model given have changed since: make the scorer anew.")
        return self.network


def _versions(network: PreTrainedModel) -> tuple[int, ...]:
    return tuple(weight._version for weight in network.parameters())


def name_language_model(model: Any) -> Any:
    """Returns the name of a loaded causal language model; names stay as they are.

    No weight is copied: the model goes on to be the caller's, and is refused where it has been trained on.

    Raises:
        ValueError: It is no such model, has attention of its own, or is not made of its configuration's weights alone:
            quantised, or with adapters.
    """
    if is_name(model):
        return model
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
        raise ValueError(
            f"model is a {kind}: give a name, or a causal language model of transformers (AutoModelForCausalLM)."
        )
    _refuse_changed_logits(model, f"The {kind} given")
    if len({weight.device for weight in model.parameters()}) > 1:
        raise ValueError(f"The {kind} given lies on several devices: move it to one, or give the name of the model.")
    weights, config = model.state_dict(keep_vars=True), deepcopy(model.config)
    with init_empty_weights(), _own_attention_refused(f"The {kind} given"):
        network = type(model)._from_config(config, attn_implementation=SHOWS_ATTENTION)
    others = [name for names in network.load_state_dict(weights, strict=False, assign=True) for name in names]
    if others:
        raise ValueError(
            f"The {kind} given is not made of its configuration's weights alone ({', '.join(others[:3])}): merge its "
            "adapters, or give the name of the model."
        )
    for module in network.modules():
        # what is no weight, such as RoPE's frequencies; `to` would move the caller's weights too
        module._buffers = {
            name: held if held is None else held.to(model.device) for name, held in module._buffers.items()
        }
    tensors = ((name, str(tensor.dtype), tensor.detach().cpu()) for name, tensor in sorted(weights.items()))
    settings = config.to_json_string(use_diff=False).replace(str(config.name_or_path), "")
    return name_object(
        kind, hash_json([kind, settings, hash_tensors(tensors)]), _Given(network.eval(), _versions(network))
    )


def token_losses(network: PreTrainedModel, ids_BT: Tensor, places: Tensor | None = None) -> Tensor:
    """Returns each token's loss given all before it in its row: float32 `[B, T-1]`, in nats.

    With `places`, int64 `[P]` of at least 1, only the losses of the tokens there: `[B, P]`.

    Raises:
        ValueError: As `prove_losses`.
    """
    prove_losses(network)
    places = torch.arange(1, ids_BT.shape[1]) if places is None else places
    return _losses(network, ids_BT.to(network.device), places.to(network.device))


@torch.inference_mode()
def _losses(network: PreTrainedModel, ids_BT: Tensor, places: Tensor) -> Tensor:
    hidden_BTD = network.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, places - 1]
    head, targets = network.get_output_embeddings(), ids_BT[:, places].reshape(-1)
    rows_ND = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
    # the logits of a whole window would be larger than the model
    parts = [
        cross_entropy(head(rows).float(), next_ids, reduction="none")
        for rows, next_ids in zip(rows_ND.split(_LOGIT_ROWS), targets.split(_LOGIT_ROWS), strict=True)
    ]
    return torch.cat(parts).view(hidden_BTD.shape[:2])


@torch.inference_mode()
def prove_losses(network: PreTrainedModel) -> None:
    """Checks, once a network, that its losses by `token_losses` are those of the logits that it gives itself.

    Raises:
        ValueError: They are not: its head is more than its output embedding, or no part apart from the rest.
    """
    if network in _proven:
        return
    kind = type(network).__name__
    if network.base_model is network:
        raise ValueError(
            f"The losses of a {kind} cannot be computed here: it gives no hidden states apart from its logits. "
            f"{CHOOSE_ANOTHER}"
        )
    ids_T = probe_ids(network)
    logits_TV = network(input_ids=ids_T[None], use_cache=False).logits[0, :-1].float()
    theirs_T = cross_entropy(logits_TV, ids_T[1:], reduction="none")
    ours_T = _losses(network, ids_T[None], torch.arange(1, len(ids_T), device=ids_T.device))[0]
    # a logit is rounded in proportion to its size, and a loss moves by as much as two logits
    largest = logits_TV.nan_to_num(0, 0, 0).abs().max().item()
    tolerance = (1e-5 + 2 * torch.finfo(network.dtype).eps) * max(1.0, largest)
    # what overflows is an error of the row that is scored
    if not torch.allclose(ours_T, theirs_T, rtol=0, atol=tolerance, equal_nan=True):
        raise ValueError(
            f"The losses of a {kind} cannot be computed here: its head is more than its output embedding, so that "
            f"they differ by {(ours_T - theirs_T).abs().max():.2g} nats from those of its own logits. {CHOOSE_ANOTHER}"
        )
    _proven.add(network)


def vocabulary_of(network: PreTrainedModel) -> int:
    """Returns the number that a network's token ids are below."""
    return network.config.get_text_config(decoder=True).vocab_size


def positions_of(network: PreTrainedModel) -> int | None:
    """Returns the most tokens that a network without RoPE has positions for; None where nothing limits them."""
    text = network.config.get_text_config(decoder=True)
    return None if getattr(text, "rope_parameters", None) else getattr(text, "max_position_embeddings", None)


def probe_ids(network: PreTrainedModel) -> Tensor:
    """Returns a few ids to try a network on, int64 `[T]`, where it is."""
    return torch.arange(_PROBE_TOKENS, device=network.device) % vocabulary_of(network)
