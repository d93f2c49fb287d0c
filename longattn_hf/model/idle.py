"""A stand-in for the modules that a first attention map does not need."""

from typing import Any

import torch
from torch import Tensor, nn


class Idle(nn.Module):
    """Stands where a module was whose outcome nobody looks at: the right shape, in no time.

    Attributes:
        width: The last dimension of what it gives.
    """

    def __init__(self, module: nn.Module, width: int) -> None:
        super().__init__()
        self.width = width
        self.weights = {name: tensor.shape for name, tensor in module.named_parameters(recurse=False)}
        self.dtype = next(module.parameters(recurse=False)).dtype

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """Gives zeros `[..., width]` for whatever the module was given, hidden states or ids, by whatever name."""
        hidden: Tensor = next(value for value in (*given, *named.values()) if isinstance(value, Tensor))
        # whole, since some models write into what a module gives
        if not hidden.is_floating_point():
            # an embedding, given ids
            return hidden.new_zeros(*hidden.shape, self.width, dtype=self.dtype)
        return hidden.new_zeros(*hidden.shape[:-1], self.width)

    def __getattr__(self, name: str) -> Any:
        # some models look at a module's weight, for its dtype or as a bias of its own
        shapes = self.__dict__.get("weights", {})
        if name in shapes:
            return torch.zeros(shapes[name], dtype=self.dtype)
        return super().__getattr__(name)
