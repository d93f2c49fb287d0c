"""LADM: dependency between spans, by the attention that one pays to the other."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from longattn_hf.baselines.token_scorer import TokenScorer
from longattn_hf.model.attention_hooks import AttentionCall, observe_attention
from longattn_hf.model.attention_layers import attention_layers


@dataclass(frozen=True, kw_only=True)
class Ladm(TokenScorer):
    """LADM's contextual dependency score, the mean over the model's layers.

    With PFS(i, j) the attention that span j's tokens pay to span i, summed over both and averaged over heads (Eq. 2):
    AFS(j) is the standard deviation of PFS(i, j) over the earlier spans i times the sum of (j - i)/N PFS(i, j) (Eqs.
    3-4), and the score the sum of j/N AFS(j) (Eq. 5). Spans i and j are taken at a stride; the first span and those
    near j are left out, as are spans j near the window's start. The paper uses a model of its own, trained for it; any
    causal language model will do here. No more than one span's rows of a map exist at a time.

    Attributes:
        span_tokens: A span's length; a 256th of the window if None (the paper's 128 of 32768).
        stride: The step, in spans, from one span that is taken to the next.
        near_spans: How many spans before span j are left out.
    """

    column: ClassVar[str] = "ladm"
    citation: ClassVar[str] = "Chen et al., LADM, ACL 2025, arXiv:2503.02502."

    span_tokens: int | None = None
    stride: int = 4
    near_spans: int = 4

    def _check_model(self, network: PreTrainedModel) -> None:
        attention_layers(network)

    def _why_refused(self, ids: np.ndarray, rank: int | None) -> str | None:
        if reason := super()._why_refused(ids, rank):
            return reason
        span = self._span_of(ids)
        count = len(ids) // span
        return None if count >= 32 else f"too short ({len(ids)} tokens, {count} spans of {span}; LADM needs 32)"

    def _span_of(self, ids: np.ndarray) -> int:
        return self.span_tokens or max(len(ids) // 256, 1)

    def _score(self, ids: np.ndarray, rank: int | None) -> float:
        span = self._span_of(ids)
        count = len(ids) // span
        scores: list[float] = []

        def observe(call: AttentionCall) -> None:
            scores.append(self._score_layer(call.q[0], call.k[0], call.scale, span, count))

        network = self.load_model(rank)
        self._check_model(network)
        with torch.inference_mode(), observe_attention(observe):
            window = torch.from_numpy(ids[None, : count * span]).to(network.device)
            network.base_model(input_ids=window, use_cache=False)
        return float(np.mean(scores))

    def _score_layer(self, q_HTD: Tensor, k_KTD: Tensor, scale: float, span: int, count: int) -> float:
        k_HTD = k_KTD.repeat_interleave(len(q_HTD) // len(k_KTD), dim=0)
        total = 0.0
        for j in range(count // 16, count, self.stride):
            earlier = torch.arange(1, max(j - self.near_spans, 1), self.stride)
            if len(earlier) < 2:
                continue
            rows, seen = slice(j * span, (j + 1) * span), (j + 1) * span
            logits_HRT = (q_HTD[:, rows] @ k_HTD[:, :seen].mT).float() * scale
            hidden_RT = torch.ones(span, seen, dtype=torch.bool, device=logits_HRT.device).triu(seen - span + 1)
            map_HRT = logits_HRT.masked_fill(hidden_RT, -torch.inf).softmax(-1)
            focus_I = map_HRT.sum(1).mean(0).view(-1, span).sum(-1).cpu().double()[earlier]
            aggregated = focus_I.std(correction=0) * ((j - earlier) / count * focus_I).sum()
            total += float(j / count * aggregated)
        return total
