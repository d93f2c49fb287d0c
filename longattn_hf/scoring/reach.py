"""How long the windows are that a first layer sees in full."""

import math
from weakref import WeakKeyDictionary

from torch import Tensor

from longattn_hf.model.attention_hooks import OutOfReachError
from longattn_hf.model.first_layer import FirstLayer
from longattn_hf.scoring.with_model import beyond_positions

# for each layer the longest window that it sees in full, and the shortest that it does not, of those tried
_known: WeakKeyDictionary[FirstLayer, tuple[int, float]] = WeakKeyDictionary()


def why_out_of_reach(ids_BT: Tensor, layer: FirstLayer) -> str | None:
    """Says why a layer does not see all of windows of equal lengths; None if it does.

    A layer that sees all of a window sees all of a shorter one, so that few lengths are tried.

    Args:
        ids_BT: int64 `[B, T]`, what the layer is given.
        layer: The layer.

    Raises:
        ValueError: As `FirstLayer.query_key`, where it is not the length.
    """
    tokens = ids_BT.shape[1]
    if reason := beyond_positions(tokens, None if layer.identity["rope"] else layer.max_positions):
        return reason
    seen, unseen = _known.get(layer, (0, math.inf))
    if seen < tokens < unseen:
        try:
            # what it sees, only its own mask says
            layer.query_key(ids_BT)
            seen = tokens
        except OutOfReachError:
            unseen = tokens
        _known[layer] = seen, unseen
    return None if tokens <= seen else f"longer than the first layer's attention reaches ({tokens} tokens)"
