"""A whole causal language model: its losses, and its attention layer by layer, without ever storing a map.

Shape suffixes: B batch, H heads, T tokens, D head or hidden size.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AttentionInterface, AutoModelForCausalLM, GgufConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from longattn_hf.model.tensors import locate

_OBSERVED = "longattn_observed_sdpa"
_LOGIT_ROWS = 512
#: Called with each layer's queries [B, HQ, T, D], keys [B, HK, T, D] and scale.
Observer = Callable[[Tensor, Tensor, float], None]
_observers: list[Observer] = []


def load_language_model(
    model: str,
    *,
    revision: str | None = None,
    gguf_file: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    rank: int | None = None,
) -> PreTrainedModel:
    """Returns a causal language model, loaded on the first call in a process and ready for `observe_attention`.

    Raises:
        ValueError: It cannot be found, or changes its logits after the output embedding.
    """
    if device is None:
        local = rank if rank is not None else int(os.environ.get("LOCAL_RANK", 0))
        device = f"cuda:{local % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    return _load_once(model, revision, gguf_file, dtype or ("float32" if device == "cpu" else "bfloat16"), device)


@lru_cache(maxsize=1)
def _load_once(model: str, revision: str | None, gguf_file: str | None, dtype: str, device: str) -> PreTrainedModel:
    location = locate(model, revision=revision, gguf_file=gguf_file)
    # packed weights are slower than plain ones for whole windows
    quantization = {"quantization_config": GgufConfig(dequantize=True)} if location.gguf_file else {}
    network = AutoModelForCausalLM.from_pretrained(
        location.path,
        dtype=getattr(torch, dtype),
        attn_implementation=_OBSERVED,
        **location.loading_arguments,
        **quantization,
    )
    changes = [
        name
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
        if getattr(network.config.get_text_config(), name, None) not in (None, 1.0)
    ]
    if changes:
        raise ValueError(f"{location.name!r} changes its logits ({', '.join(changes)}), which is not computed here.")
    return network.to(device).eval()


@torch.inference_mode()
def token_losses(network: PreTrainedModel, ids_BT: Tensor) -> Tensor:
    """Returns each token's loss given all before it in its row: float32 `[B, T-1]`, in nats."""
    ids_BT = ids_BT.to(network.device)
    hidden_BTD = network.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
    head, targets = network.get_output_embeddings(), ids_BT[:, 1:].reshape(-1)
    rows_ND = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
    # the logits of a whole window would be larger than the model
    parts = [
        cross_entropy(head(rows).float(), wanted, reduction="none")
        for rows, wanted in zip(rows_ND.split(_LOGIT_ROWS), targets.split(_LOGIT_ROWS), strict=True)
    ]
    return torch.cat(parts).view(hidden_BTD.shape[:2])


@contextmanager
def observe_attention(observer: Observer) -> Iterator[None]:
    """Calls `observer` with each layer's queries and keys, in order, while models run inside."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def _observed(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **arguments: Any
) -> tuple[Tensor, None]:
    scaling = arguments.get("scaling")
    for observer in _observers:
        observer(query, key, query.shape[-1] ** -0.5 if scaling is None else scaling)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)


AttentionInterface.register(_OBSERVED, _observed)
AttentionMaskInterface.register(_OBSERVED, sdpa_mask)
