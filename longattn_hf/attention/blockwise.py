"""Exact streaming far sums in plain PyTorch: any device, O(block) memory beside the inputs."""

import torch
from torch import Tensor

_BLOCK_ROWS = 128
_BLOCK_KEYS = 512


def far_rows(
    q_BHRD: Tensor,
    k_BHTD: Tensor,
    *,
    min_distance: int,
    scale: float,
    positions_R: Tensor,
    lengths_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Each query row's far mass and far energy, [B, HQ, R]; arguments as in `longattn_hf.attention.far_rows`."""
    dtype = torch.promote_types(q_BHRD.dtype, torch.float32)
    num_seqs, num_heads, num_rows, _ = q_BHRD.shape
    num_key_heads, num_keys = k_BHTD.shape[1:3]
    mass_BHR = torch.zeros(num_seqs, num_heads, num_rows, dtype=dtype, device=q_BHRD.device)
    energy_BHR = torch.zeros_like(mass_BHR)
    keys_T = torch.arange(num_keys, device=k_BHTD.device)
    q_BKGRD = q_BHRD.unflatten(1, (num_key_heads, -1))

    for b in range(num_seqs):
        for h in range(num_key_heads):
            heads = slice(h * q_BKGRD.shape[2], (h + 1) * q_BKGRD.shape[2])
            for start in range(0, num_rows, _BLOCK_ROWS):
                rows = slice(start, start + _BLOCK_ROWS)
                q_GRD = q_BKGRD[b, h, :, rows].to(dtype) * scale
                max_GR = q_GRD.new_full(q_GRD.shape[:2], -torch.inf)
                sum_GR, mass_GR, energy_GR = (torch.zeros_like(max_GR) for _ in range(3))
                for first in range(0, int(positions_R[rows][-1]) + 1, _BLOCK_KEYS):
                    keys = slice(first, first + _BLOCK_KEYS)
                    distance_RT = positions_R[rows, None] - keys_T[keys]
                    logits_GRT = (q_GRD @ k_BHTD[b, h, keys].to(dtype).T).masked_fill(distance_RT < 0, -torch.inf)
                    new_GR = torch.maximum(max_GR, logits_GRT.amax(-1))
                    shrink_GR = (max_GR - new_GR).exp()
                    weights_GRT = (logits_GRT - new_GR[..., None]).exp()
                    far_GRT = weights_GRT.masked_fill(distance_RT < min_distance, 0)
                    max_GR = new_GR
                    sum_GR = sum_GR * shrink_GR + weights_GRT.sum(-1)
                    mass_GR = mass_GR * shrink_GR + far_GRT.sum(-1)
                    energy_GR = energy_GR * shrink_GR.square() + far_GRT.square().sum(-1)
                mass_BHR[b, heads, rows] = mass_GR / sum_GR
                energy_BHR[b, heads, rows] = energy_GR / sum_GR.square()

    if lengths_B is not None:
        padding_BR = positions_R >= lengths_B[:, None]
        mass_BHR.masked_fill_(padding_BR[:, None], 0)
        energy_BHR.masked_fill_(padding_BR[:, None], 0)
    return mass_BHR, energy_BHR
