"""A copy of the few tensors that a loaded model's first queries and keys depend on."""

from copy import deepcopy
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from longattn_hf.files import hash_json
from longattn_hf.model.one_layer import build_one_layer
from longattn_hf.model.one_layer_loading import refuse_left_out
from longattn_hf.model.tensors import Tensors, hash_tensors


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a first layer is made of, as it was when a loaded model was given.

    Attributes:
        kind: The model's class.
        config: Its configuration.
        tensors: The tensors, on the CPU, by the names of a causal language model's parameters.
    """

    kind: str
    config: PreTrainedConfig
    tensors: Tensors

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Snapshot":
        """Takes the tensors of a model: those of its embedding and its first layer's queries and keys.

        Raises:
            ValueError: Its first layer is not causal softmax attention, or it is not made of its configuration's
                parameters alone: quantised, or with adapters.
        """
        network, needed, attention = build_one_layer(deepcopy(model.config), model.dtype)
        prefix = f"{network.base_model_prefix}."
        there = {**dict(model.named_buffers()), **dict(model.named_parameters())}
        # a model without its head has its base's names
        known = {name: name if name in there else name.removeprefix(prefix) for name in needed}
        if absent := sorted(name for name, own in known.items() if own not in there):
            raise ValueError(
                f"The {type(model).__name__} given lacks {', '.join(absent)}, which its first layer needs: merge its "
                "adapters, or give the name of the model."
            )
        refuse_left_out(network, needed, attention, {name: name for name in there})
        tensors: dict[str, Tensor] = {name: there[own].detach().cpu().clone() for name, own in known.items()}
        digest = hash_tensors((name, str(tensor.dtype), tensor) for name, tensor in sorted(tensors.items()))
        config = deepcopy(model.config)
        return cls(kind=type(model).__name__, config=config, tensors=Tensors(by_name=tensors, sha256=digest))

    @property
    def digest(self) -> str:
        """A hash of the tensors and of the configuration, but for where it was read from."""
        settings = self.config.to_json_string(use_diff=False)
        return hash_json([self.kind, settings.replace(str(self.config.name_or_path), ""), self.tensors.sha256])
