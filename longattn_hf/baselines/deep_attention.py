"""LongAttn's dependency strength, read at deeper layers than the first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from longattn_hf.attention.api import far_attention
from longattn_hf.baselines.token_scorer import TokenScorer
from longattn_hf.columns import DEPENDENCY_STRENGTH
from longattn_hf.model.attention_hooks import observe_attention
from longattn_hf.scoring.map_scores import map_scores


@dataclass(frozen=True, kw_only=True)
class DeepAttention(TokenScorer):
    """The dependency strength of one deep layer, and of every layer in `strength_by_layer`, from one forward pass.

    Far is a quarter of the window, as in LongAttn, and a strength the mean over a layer's heads, in [0, 1]. The maps
    are never stored. Exact for layers with full causal attention; a sliding window is not taken into account.

    Attributes:
        layer: The layer that `deep_strength` is of; negative counts from the last.

    Raises:
        IndexError: The model has no such layer.
    """

    column: ClassVar[str] = "deep_strength"
    parts: ClassVar[Mapping[str, pa.DataType]] = {"strength_by_layer": pa.list_(pa.float64())}
    citation: ClassVar[str] = "This package; dependency strength is arXiv:2502.16860's (Eq. 5)."

    layer: int = -2

    def _score(self, ids: np.ndarray, rank: int | None) -> tuple[float, list[float]]:
        strengths: list[float] = []
        tokens = len(ids)

        def observe(q_BHTD: Tensor, k_BKTD: Tensor, scale: float) -> None:
            far = far_attention(q_BHTD, k_BKTD, min_distance=tokens // 4, scale=scale)
            strengths.append(map_scores(far, tokens, tokens // 4)[DEPENDENCY_STRENGTH].mean().item())

        network = self.load_model(rank)
        with torch.inference_mode(), observe_attention(observe):
            network.base_model(input_ids=torch.from_numpy(ids[None]).to(network.device), use_cache=False)
        return strengths[self.layer], strengths
