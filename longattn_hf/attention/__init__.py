"""Queries and keys in, far sums out; torch only."""

from longattn_hf.attention.api import FarAttention, far_attention, far_rows, pick_impl

__all__ = ["FarAttention", "far_attention", "far_rows", "pick_impl"]
