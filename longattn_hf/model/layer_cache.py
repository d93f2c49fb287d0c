"""The first layer of a model, named or given as an object, once a process."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from transformers import PreTrainedModel

from longattn_hf.files import hash_json
from longattn_hf.model.device import pick_device, pick_dtype, use_one_thread_after_fork
from longattn_hf.model.first_layer import FirstLayer
from longattn_hf.model.identity import identify_once, pinned
from longattn_hf.model.loaded import held_by, is_loaded, is_name, name_object
from longattn_hf.model.location import ModelRef
from longattn_hf.model.snapshot import Snapshot


def load_first_layer(
    model: ModelRef | str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    rank: int | None = None,
    rope_theta: float | None = None,
    rope_scaling: Mapping[str, Any] | None = None,
) -> FirstLayer:
    """Returns `FirstLayer.from_pretrained` of the same arguments, loading it on the first call in a process.

    Where the model's files have changed it is loaded again. In a forked process, as those of
    `Dataset.map(num_proc=...)`, torch is told to use one thread. `rank` is as in `pick_device`.

    Raises:
        ValueError: It cannot be loaded, or was given as a `FirstLayer` that is other than the arguments say.
    """
    use_one_thread_after_fork()
    scaling = json.dumps(dict(rope_scaling), sort_keys=True) if rope_scaling else None
    ref = ModelRef.of(model)
    if is_loaded(ref.name) and isinstance(layer := held_by(ref.name), FirstLayer):
        asked = {"dtype": dtype, "rope_theta": rope_theta, "rope_scaling": rope_scaling, "device": device}
        has = layer.identity | {"device": str(layer.device)}
        if wrong := [name for name, value in asked.items() if value is not None and has[name] != value]:
            here, there = (", ".join(f"{name}={of[name]!r}" for name in wrong) for of in (has, asked))
            raise ValueError(
                f"The FirstLayer given has {here}, where the scorer says {there}: load it so, or name the model."
            )
        return layer
    chosen = pick_device(device, rank=rank)
    identity = identify_once(ref)
    return _load_once(pinned(ref), identity, pick_dtype(dtype, chosen), chosen, rope_theta, scaling)


@lru_cache(maxsize=2)
def _load_once(
    model: ModelRef,
    identity: str,
    dtype: torch.dtype,
    device: torch.device,
    rope_theta: float | None,
    rope_scaling: str | None,
) -> FirstLayer:
    how: dict[str, Any] = {"dtype": dtype, "device": device, "rope_theta": rope_theta}
    how["rope_scaling"] = json.loads(rope_scaling) if rope_scaling else None
    if is_loaded(model.name):
        return FirstLayer.from_model(held_by(model.name), **how)
    return FirstLayer.from_pretrained(
        model.name,
        revision=model.revision,
        gguf_file=model.gguf_file,
        token=model.token,
        trust_remote_code=model.trust_remote_code,
        **how,
    )


def name_model(model: Any) -> Any:
    """Returns the name of a loaded model or `FirstLayer`; names stay as they are.

    Of a model what its first layer needs is copied, so that what is done to the model later changes no score.

    Raises:
        ValueError: It is neither, or as `FirstLayer.from_model`.
    """
    if is_name(model):
        return model
    if isinstance(model, FirstLayer):
        return name_object("FirstLayer", hash_json(model.identity), model)
    if isinstance(model, PreTrainedModel):
        snapshot = Snapshot.of(model)
        return name_object(snapshot.kind, snapshot.digest, snapshot)
    raise ValueError(
        f"model is a {type(model).__name__}: give a name, a FirstLayer, or a model of transformers (PreTrainedModel)."
    )
