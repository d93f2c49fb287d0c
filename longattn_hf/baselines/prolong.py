"""ProLong: sentence-level dependency by the perplexities of pairs of segments."""

import math
from collections import defaultdict
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar

import numpy as np
import torch
from transformers import PreTrainedModel

from longattn_hf.baselines.token_scorer import TokenScorer
from longattn_hf.model.language_model import prove_losses, token_losses


@dataclass(frozen=True, kw_only=True)
class ProLong(TokenScorer):
    """ProLong's long dependency score, over sampled pairs of a window's segments.

    With P(i) the perplexity of segment i alone and P(i|j) that with an earlier segment j put before it, N segments in
    all: the dependency strength is (P(i) - P(i|j)) / P(i), the dependency distance (i - j) / (N - 1), and the
    dependency specificity of segment i is 1 - H / ln n, H being the entropy of the softmax of P(i) - P(i|j) over the
    n segments j sampled with it, or 1 where n is 1. The score is the sum, over the pairs whose strength is above
    `threshold`, of (strength + distance) times specificity. No segment's first token is predicted.

    Attributes:
        segment_tokens: A segment's length.
        pairs: How many pairs are sampled; all where there are fewer.
        threshold: The least strength that counts.
        seed: Of the sample, together with the window's tokens.
        batch_pairs: How many pairs the model sees at once.
    """

    column: ClassVar[str] = "prolong"
    citation: ClassVar[str] = "Chen et al., Long Context is Not Long at All, ACL 2024, arXiv:2405.17915."

    segment_tokens: int = 128
    pairs: int = 500
    threshold: float = 0.1
    seed: int = 11
    batch_pairs: int = 8

    def _check_model(self, network: PreTrainedModel) -> None:
        prove_losses(network)

    def _why_refused(self, ids: np.ndarray, rank: int | None) -> str | None:
        if reason := super()._why_refused(ids, rank):
            return reason
        enough = len(ids) >= 2 * self.segment_tokens
        return None if enough else f"too short ({len(ids)} tokens, no two segments of {self.segment_tokens})"

    def _tokens_at_once(self, ids: np.ndarray) -> int:
        return 2 * self.segment_tokens

    def _score(self, ids: np.ndarray, rank: int | None) -> float:
        count = len(ids) // self.segment_tokens
        segments_NT = torch.from_numpy(ids[: count * self.segment_tokens]).view(count, -1)
        later, earlier = np.tril_indices(count, -1)
        if len(later) > self.pairs:
            digest = sha256(ids.tobytes()).digest()
            rng = np.random.default_rng([self.seed, int.from_bytes(digest[:8], "big")])
            chosen = np.sort(rng.choice(len(later), self.pairs, replace=False))
            later, earlier = later[chosen], earlier[chosen]
        alone = self._perplexities(segments_NT, rank)
        both = self._perplexities(torch.cat([segments_NT[earlier], segments_NT[later]], dim=1), rank)
        if not (np.isfinite(alone).all() and np.isfinite(both).all()):
            # a pair whose strength is no number would pass for one below the threshold
            return math.nan
        return _combine(alone, both, later, earlier, self.threshold)

    def _perplexities(self, rows_BT: torch.Tensor, rank: int | None) -> np.ndarray:
        network, last = self.load_model(rank), self.segment_tokens - 1
        losses = [token_losses(network, rows)[:, -last:].mean(1) for rows in rows_BT.split(self.batch_pairs)]
        return torch.cat(losses).double().exp().cpu().numpy()


def _combine(
    alone_N: np.ndarray, both_P: np.ndarray, later_P: np.ndarray, earlier_P: np.ndarray, threshold: float
) -> float:
    drop_P = alone_N[later_P] - both_P
    drops_of = defaultdict(list)
    for segment, drop in zip(later_P, drop_P, strict=True):
        drops_of[segment].append(drop)
    specificity = {segment: _specificity(np.array(drops)) for segment, drops in drops_of.items()}
    strength_P = drop_P / alone_N[later_P]
    distance_P = (later_P - earlier_P) / (len(alone_N) - 1)
    weights_P = np.array([specificity[segment] for segment in later_P])
    return float(((strength_P + distance_P) * weights_P)[strength_P > threshold].sum())


def _specificity(drops: np.ndarray) -> float:
    if len(drops) == 1:
        return 1.0
    weights = np.exp(drops - drops.max())
    weights /= weights.sum()
    entropy = -(weights * np.log(np.maximum(weights, np.finfo(float).tiny))).sum()
    return float(np.clip(1 - entropy / math.log(len(drops)), 0, 1))
