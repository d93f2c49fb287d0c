"""The oracle: the method's equations as they stand, a block of rows at a time. Written to be read, never optimised."""

import torch
from torch import Tensor

_BLOCK_ROWS = 256


def far_rows(
    q_BHRD: Tensor,
    k_BHTD: Tensor,
    *,
    min_distance: int,
    scale: float,
    positions_R: Tensor,
    lengths_B: Tensor | None = None,
    probability_dtype: torch.dtype | None = None,
    causal: bool = True,
    padding_counts: bool = False,
) -> tuple[Tensor, Tensor]:
    """Each query row's far mass and far energy, [B, HQ, R]; arguments as in `longattn_hf.attention.far_rows`.

    Computes in float32, or float64 for float64 inputs, with O(rows of a block x T) memory. With `probability_dtype`,
    each probability is rounded to it and back before it enters the sums. `causal` and `padding_counts` are those of
    `longattn_hf.attention.far_attention`.
    """
    dtype = torch.promote_types(q_BHRD.dtype, torch.float32)
    num_seqs, num_heads, num_rows, _ = q_BHRD.shape
    heads_per_key = num_heads // k_BHTD.shape[1]
    keys_T = torch.arange(k_BHTD.shape[2], device=k_BHTD.device)
    mass_BHR = torch.zeros(num_seqs, num_heads, num_rows, dtype=dtype, device=q_BHRD.device)
    energy_BHR = torch.zeros_like(mass_BHR)

    for b in range(num_seqs):
        for h in range(num_heads):
            k_TD = k_BHTD[b, h // heads_per_key].to(dtype)
            # causal rows before the padding do not see its keys in any case
            hidden_T = keys_T >= (k_BHTD.shape[2] if lengths_B is None else lengths_B[b])
            for start in range(0, num_rows, _BLOCK_ROWS):
                rows = slice(start, start + _BLOCK_ROWS)
                distance_RT = positions_R[rows, None] - keys_T
                logits_RT = q_BHRD[b, h, rows].to(dtype) @ k_TD.T * scale
                hidden_RT = (hidden_T | (distance_RT < 0)) if causal else hidden_T.expand_as(distance_RT)
                map_RT = logits_RT.masked_fill(hidden_RT, -torch.inf).softmax(-1)
                if probability_dtype is not None:
                    map_RT = map_RT.to(probability_dtype).to(dtype)
                far_RT = map_RT.masked_fill(distance_RT < min_distance, 0)  # Eqs. 4 and 6
                mass_BHR[b, h, rows] = far_RT.sum(-1)
                energy_BHR[b, h, rows] = far_RT.square().sum(-1)

    if lengths_B is not None and not padding_counts:
        padding_BR = positions_R >= lengths_B[:, None]
        mass_BHR.masked_fill_(padding_BR[:, None], 0)
        energy_BHR.masked_fill_(padding_BR[:, None], 0)
    return mass_BHR, energy_BHR
