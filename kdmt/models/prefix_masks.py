"""Attention masks of models that translate while the source arrives.

Shapes: T target length, S source length, Q queries, K keys.
"""

from __future__ import annotations

import torch
from torch import Tensor


def visible_prefix(first: int, num_tokens: int, source_length: int, k: int, device: torch.device) -> Tensor:
    """Return the mask of the wait-k policy, g(t) = min(k + t, S) (Ma et al. 2019, STACL): bool [T, S].

    Args:
        first: index of the first target token, from 0; a negative one sees as much as token 0.
        num_tokens: T.
        source_length: S.
        k: number of source tokens that token 0 sees.
    """
    tokens_T = torch.arange(first, first + num_tokens, device=device).clamp_min(0)
    return torch.arange(source_length, device=device) < k + tokens_T[:, None]


def chunk_mask(
    num_queries: int, num_keys: int, *, query_chunk: int, key_chunk: int, ahead: int = 0, device: torch.device
) -> Tensor:
    """Return the mask with which positions see their own chunk, earlier chunks and some keys after them: bool [Q, K].

    Args:
        num_queries, num_keys: Q and K.
        query_chunk, key_chunk: numbers of queries and keys of a chunk.
        ahead: number of keys after its own chunk that a query sees.
    """
    limits_Q = (torch.arange(num_queries, device=device) // query_chunk + 1) * key_chunk + ahead
    return torch.arange(num_keys, device=device) < limits_Q[:, None]
