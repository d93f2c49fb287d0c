"""Which of a model's layers have attention that can be observed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from longattn_hf.model.attention_hooks import AttentionCall, observe_attention
from longattn_hf.model.language_model import CHOOSE_ANOTHER, probe_ids

_layers_of: "WeakKeyDictionary[PreTrainedModel, AttentionLayers]" = WeakKeyDictionary()


@dataclass(frozen=True)
class AttentionLayers:
    """Which of a model's layers have attention that can be observed.

    Attributes:
        number_of: The number of each attention module among the model's layers.
        count: How many layers the model has, with attention and without.
    """

    number_of: Mapping[nn.Module, int]
    count: int

    def pick(self, layer: int | None) -> int:
        """Returns a layer's number, counted from the first; a negative one counts from the last.

        None is the layer half-way down, or, if that has no attention, the nearest before it that has, or after it if
        none has before it.

        Raises:
            IndexError: There is no such layer.
            ValueError: The layer has no attention.
        """
        numbers, middle = sorted(self.number_of.values()), self.count // 2
        if layer is None:
            return max((number for number in numbers if number <= middle), default=numbers[0])
        number = range(self.count)[layer]
        if number not in numbers:
            raise ValueError(
                f"layer={layer} of the model has no attention; those of its {self.count} layers that have are "
                f"{', '.join(map(str, numbers))}, counted from 0."
            )
        return number


@torch.inference_mode()
def attention_layers(network: PreTrainedModel) -> AttentionLayers:
    """Finds, once a network, the layers whose attention `observe_attention` shows.

    Raises:
        ValueError: There are none, or an attention that is not plain.
    """
    if (known := _layers_of.get(network)) is not None:
        return known
    # a module that is called several times stands for one layer
    modules: dict[nn.Module, None] = {}

    def observe(call: AttentionCall) -> None:
        modules[call.module] = None

    with observe_attention(observe):
        network.base_model(input_ids=probe_ids(network)[None], use_cache=False)
    if not modules:
        raise ValueError(
            f"The layers of a {type(network).__name__} make no call of transformers' attention interface: they are "
            f"state-space or linear-attention layers, or bring attention code of their own. {CHOOSE_ANOTHER}"
        )
    numbers: list[Any] = [getattr(module, "layer_idx", None) for module in modules]
    count = network.config.get_text_config(decoder=True).num_hidden_layers
    if len(set(numbers)) < len(modules) or not all(isinstance(n, int) and 0 <= n < count for n in numbers):
        # where modules do not say which layer they are of, each is one
        numbers, count = list(range(len(modules))), len(modules)
    found = _layers_of[network] = AttentionLayers(dict(zip(modules, numbers, strict=True)), count)
    return found
