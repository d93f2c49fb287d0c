"""A whole causal language model: its losses, and its attention layer by layer, without ever storing a map.

Shape suffixes: B batch, N rows, T tokens, D hidden size.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from longattn_hf.model.attention_hooks import SHOWS_ATTENTION
from longattn_hf.model.device import pick_device, pick_dtype, use_one_thread_after_fork
from longattn_hf.model.identity import identify_once, pinned
from longattn_hf.model.location import ModelRef, locate, read_config

_LOGIT_ROWS = 512


def load_language_model(
    model: ModelRef | str, *, dtype: str | None = None, device: str | None = None, rank: int | None = None
) -> PreTrainedModel:
    """Returns a causal language model, loaded on the first call in a process and ready for `observe_attention`.

    Args:
        model: Which model.
        dtype: As in `pick_dtype`.
        device: As in `pick_device`.
        rank: As in `pick_device`.

    Raises:
        ValueError: It cannot be found, or changes its logits after the output embedding.
    """
    use_one_thread_after_fork()
    chosen = pick_device(device, rank=rank)
    ref = ModelRef.of(model)
    identity = identify_once(ref)
    return _load_once(pinned(ref), identity, pick_dtype(dtype, chosen), chosen)


@lru_cache(maxsize=1)
def _load_once(model: ModelRef, identity: str, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    location = locate(model)
    # checks what code may run
    read_config(location, trust_remote_code=model.trust_remote_code)
    network = AutoModelForCausalLM.from_pretrained(
        location.path,
        dtype=dtype,
        attn_implementation=SHOWS_ATTENTION,
        trust_remote_code=model.trust_remote_code,
        **location.weights_arguments,
    )
    changes = [
        name
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
        if getattr(network.config.get_text_config(), name, None) not in (None, 1.0)
    ]
    if changes:
        raise ValueError(f"{location.name!r} changes its logits ({', '.join(changes)}), which is not computed here.")
    # its stub takes the device for the model
    return network.to(device).eval()


@torch.inference_mode()
def token_losses(network: PreTrainedModel, ids_BT: Tensor, places: Tensor | None = None) -> Tensor:
    """Returns each token's loss given all before it in its row: float32 `[B, T-1]`, in nats.

    With `places`, int64 `[P]` of at least 1, only the losses of the tokens there: `[B, P]`.
    """
    ids_BT = ids_BT.to(network.device)
    places = torch.arange(1, ids_BT.shape[1]) if places is None else places
    places = places.to(network.device)
    hidden_BTD = network.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, places - 1]
    head, targets = network.get_output_embeddings(), ids_BT[:, places].reshape(-1)
    rows_ND = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
    # the logits of a whole window would be larger than the model
    parts = [
        cross_entropy(head(rows).float(), next_ids, reduction="none")
        for rows, next_ids in zip(rows_ND.split(_LOGIT_ROWS), targets.split(_LOGIT_ROWS), strict=True)
    ]
    return torch.cat(parts).view(hidden_BTD.shape[:2])
