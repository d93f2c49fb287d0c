"""How much the far context lowers a language model's loss."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from transformers import PreTrainedModel

from longattn_hf.baselines.token_scorer import TokenScorer
from longattn_hf.model.language_model import prove_losses, token_losses


@dataclass(frozen=True, kw_only=True)
class LossGain(TokenScorer):
    """The mean drop of a token's loss, in nats, when the window's far tokens are given besides the near ones.

    The long context of a token is all of the window before it. Its short context is its own block of
    `short_tokens` tokens up to it and the block before: between one and two times `short_tokens`. The mean goes over
    the tokens from the third block on, those whose two contexts differ.

    Attributes:
        short_tokens: The block's length; a sixteenth of the window if None.
        weighted: Multiply each token's drop by its probability given the long context, as LongFilter does (Eq. 7).
    """

    column: ClassVar[str] = "loss_gain"
    citation: ClassVar[str] = "After LongFilter: Deng et al., Beyond Length, arXiv:2510.25804, section 3.3."

    short_tokens: int | None = None
    weighted: bool = False

    def _check_model(self, network: PreTrainedModel) -> None:
        prove_losses(network)

    def _why_refused(self, ids: np.ndarray, rank: int | None) -> str | None:
        if reason := super()._why_refused(ids, rank):
            return reason
        block = self.short_tokens or len(ids) // 16
        if block >= 1 and len(ids) >= 3 * block:
            return None
        # of 16 tokens a sixteenth is a block
        least = 3 * self.short_tokens if self.short_tokens else 16
        return (
            f"too short ({len(ids)} tokens, no far context beyond blocks of {block}; it needs at least {least} tokens)"
        )

    def _score(self, ids: np.ndarray, rank: int | None) -> float:
        block = self.short_tokens or len(ids) // 16
        network = self.load_model(rank)
        whole = torch.from_numpy(ids[: len(ids) // block * block])
        # row r holds blocks r+1 and r+2; the losses of its second block's tokens are wanted
        short_RT = token_losses(network, whole.unfold(0, 2 * block, block)[1:])[:, block - 1 :]
        long_T = token_losses(network, whole[None])[0, 2 * block - 1 :]
        drop_T = short_RT.reshape(-1) - long_T
        return (drop_T * (-long_T).exp() if self.weighted else drop_T).mean().item()
