"""How much attention goes far back at deeper layers: LongAttn's dependency strength, and one without the sink."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import PreTrainedModel

from longattn_hf.attention.api import far_attention
from longattn_hf.baselines.token_scorer import TokenScorer
from longattn_hf.columns import DEPENDENCY_STRENGTH
from longattn_hf.model.attention_hooks import AttentionCall, observe_attention
from longattn_hf.model.attention_layers import attention_layers
from longattn_hf.scoring.base import too_short
from longattn_hf.scoring.map_scores import map_scores

#: A token is near within an eighth of the window; rows are read from the second quarter on, one in so many.
NEAR_SHARE, FIRST_SHARE, ROWS_APART = 8, 4, 24
_LEAST_TOKENS, _ROWS_AT_ONCE = 64, 64
# a quarter of fewer is no token
_LEAST_FOR_STRENGTH = 4


class _Read(Exception):
    def __init__(self, share: float) -> None:
        super().__init__("the layer was read")
        self.share = share


def far_share(q_BHTD: Tensor, k_BKTD: Tensor, scale: float, *, near: int, first: int) -> float:
    """Tells how much of the attention that does not go to the first token goes farther back than the near ones.

    Trained models send what they do not need to the first token (Xiao et al., arXiv:2309.17453), which is far from
    nearly all others, and says nothing of the text.

    Args:
        q_BHTD: Queries `[B, HQ, T, D]`, after RoPE.
        k_BKTD: Keys `[B, HK, T, D]`, likewise.
        scale: What their products are multiplied by.
        near: How many tokens back is near.
        first: The first row to read.

    Returns:
        The mean over heads and every 24th row, in [0, 1].
    """
    places = torch.arange(k_BKTD.shape[2], device=q_BHTD.device)
    k_BHTD, shares = k_BKTD.repeat_interleave(q_BHTD.shape[1] // k_BKTD.shape[1], dim=1), []
    for rows in places[first::ROWS_APART].split(_ROWS_AT_ONCE):
        back_RT = rows[:, None] - places
        logits_BHRT = (q_BHTD[:, :, rows] @ k_BHTD.mT * scale).float()
        rest_BHRT = logits_BHRT.masked_fill(back_RT < 0, float("-inf")).softmax(-1)[..., 1:]
        far_BHR = (rest_BHRT * (back_RT[:, 1:] > near)).sum(-1)
        shares.append(far_BHR / rest_BHRT.sum(-1).clamp_min(torch.finfo(rest_BHRT.dtype).tiny))
    return torch.cat(shares, dim=-1).mean().item()


@dataclass(frozen=True, kw_only=True)
class DeepFarAttention(TokenScorer):
    """The share of one layer's attention that goes far back, the first token left out; see `far_share`.

    The model is run up to this layer. Far is more than an eighth of the window. Exact for layers with full causal
    attention; a sliding window is not taken into account.

    Attributes:
        layer: Of the model, those without attention counted too; negative counts from the last. None for the one
            half-way down, or the nearest before it (after it if there is none) where that has no attention.

    Raises:
        IndexError: The model has no such layer.
        ValueError: A window has fewer than 64 tokens, the layer has no attention, or a layer's is not plain.
    """

    column: ClassVar[str] = "deep_far"
    citation: ClassVar[str] = "This package; the sink that is left out is arXiv:2309.17453's."

    layer: int | None = None
    version: int = 2

    def _check_model(self, network: PreTrainedModel) -> None:
        attention_layers(network).pick(self.layer)

    def _why_refused(self, value: np.ndarray, rank: int | None) -> str | None:
        return super()._why_refused(value, rank) or too_short(len(value), "tokens", _LEAST_TOKENS)

    def _score(self, ids: np.ndarray, rank: int | None) -> float:
        network, tokens = self.load_model(rank), len(ids)
        layers = attention_layers(network)
        wanted = layers.pick(self.layer)

        def observe(call: AttentionCall) -> None:
            if layers.number_of[call.module] == wanted:
                near, first = tokens // NEAR_SHARE, tokens // FIRST_SHARE
                raise _Read(far_share(call.q, call.k, call.scale, near=near, first=first))

        try:
            with torch.inference_mode(), observe_attention(observe):
                network.base_model(input_ids=torch.from_numpy(ids[None]).to(network.device), use_cache=False)
        except _Read as read:
            return read.share
        raise AssertionError("the layer was observed before")


@dataclass(frozen=True, kw_only=True)
class DeepAttention(TokenScorer):
    """The dependency strength of one deep layer, and of every layer in `strength_by_layer`, from one forward pass.

    Far is a quarter of the window, as in LongAttn, and a strength the mean over a layer's heads, in [0, 1]. The maps
    are never stored. Exact for layers with full causal attention; a sliding window is not taken into account. A layer
    without attention has no strength (null), and one that a model runs several times that of the first.

    Attributes:
        layer: The layer that `deep_strength` is of, those without attention counted too; negative counts from the
            last.

    Raises:
        IndexError: The model has no such layer.
        ValueError: A window has fewer than 4 tokens, the layer has no attention, or a layer's is not plain.
    """

    column: ClassVar[str] = "deep_strength"
    parts: ClassVar[Mapping[str, pa.DataType]] = {"strength_by_layer": pa.list_(pa.float64())}
    citation: ClassVar[str] = "This package; dependency strength is arXiv:2502.16860's (Eq. 5)."

    layer: int = -2
    version: int = 2

    def _check_model(self, network: PreTrainedModel) -> None:
        attention_layers(network).pick(self.layer)

    def _why_refused(self, value: np.ndarray, rank: int | None) -> str | None:
        # without a far pair the strength would be that of a formula, and the best there is
        return super()._why_refused(value, rank) or too_short(len(value), "tokens", _LEAST_FOR_STRENGTH)

    def _score(self, ids: np.ndarray, rank: int | None) -> tuple[float | None, list[float | None]]:
        network, tokens = self.load_model(rank), len(ids)
        layers = attention_layers(network)
        wanted = layers.pick(self.layer)
        strengths: list[float | None] = [None] * layers.count

        def observe(call: AttentionCall) -> None:
            number = layers.number_of[call.module]
            if strengths[number] is None:
                far = far_attention(call.q, call.k, min_distance=tokens // 4, scale=call.scale)
                strengths[number] = map_scores(far, tokens, tokens // 4)[DEPENDENCY_STRENGTH].mean().item()

        with torch.inference_mode(), observe_attention(observe):
            network.base_model(input_ids=torch.from_numpy(ids[None]).to(network.device), use_cache=False)
        return strengths[wanted], strengths
