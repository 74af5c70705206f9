"""Multi-head attention, based on `scaled_dot_product_attention`.

Shapes: B batch, T query length, S key length, D width, H heads, C = D / H width of a head, K beam, N = B * K rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdmt.models.packed_attention import packed_attention
from kdmt.types import Packing

Visible = (
    Tensor | Packing | None
)  # keys that a query sees: a mask (True = real), the limits of packed sentences, or all


def _init_projection(weight: Tensor, *, parts: int, gain: float) -> None:
    """Initialise each of the matrices stacked in one weight with Xavier-uniform values, as fairseq does."""
    for part in weight.chunk(parts, dim=0):
        nn.init.xavier_uniform_(part, gain=gain)


def at_least_float32(values: Tensor) -> Tensor:
    """Convert bfloat16 and float16 to float32; return other types unchanged.

    The largest number of float16 is 65,504, which the logit of a mask and the logarithm of a sum of many terms may
    exceed.
    """
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def split_heads(x_BTD: Tensor, heads: int) -> Tensor:
    """Reshape [B, T, D] to [B, H, T, C]."""
    batch, length, dim = x_BTD.shape
    return x_BTD.view(batch, length, heads, dim // heads).transpose(1, 2)


def merge_heads(x_BHTC: Tensor) -> Tensor:
    """Reshape [B, H, T, C] to [B, T, D]."""
    batch, heads, length, width = x_BHTC.shape
    return x_BHTC.transpose(1, 2).reshape(batch, length, heads * width)


def packed_heads(x_1ND: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Reshape the stacked projections of a packed row to [N, H, C] each."""
    return x_1ND[0].unflatten(1, (parts, heads, -1)).unbind(1)


def attention_weights(
    query_BHTC: Tensor, key_BHSC: Tensor, *, keep_B11S: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Return the weights that `scaled_dot_product_attention` applies to the values, before dropout: [B, H, T, S]."""
    scores_BHTS = query_BHTC @ key_BHSC.transpose(2, 3) / math.sqrt(query_BHTC.size(-1))
    if keep_B11S is not None:
        scores_BHTS = scores_BHTS.masked_fill(~keep_B11S, -math.inf)
    if causal:
        later_TS = torch.ones(scores_BHTS.shape[2:], dtype=torch.bool, device=scores_BHTS.device).triu(1)
        scores_BHTS = scores_BHTS.masked_fill(later_TS, -math.inf)
    return scores_BHTS.softmax(-1, dtype=torch.promote_types(scores_BHTS.dtype, torch.float32))


class SelfAttention(nn.Module):
    """Self-attention with one stacked projection for queries, keys and values."""

    def __init__(self, dim: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        _init_projection(self.qkv_proj.weight, parts=3, gain=1 / math.sqrt(2))
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_BTD: Tensor, *, keep_B11T: Visible = None, causal: bool = False) -> Tensor:
        """Attend over real tokens (`keep_B11T`, True = real) or over earlier positions (`causal`): [B, T, D].

        In packed rows ([1, N, D]) `keep_B11T` has the limits of the sentences.
        """
        if isinstance(keep_B11T, Packing):
            query, key, value = packed_heads(self.qkv_proj(x_BTD), 3, self.heads)
            attended = packed_attention(query, key, value, keep_B11T, keep_B11T, causal=causal)
            return self.out_proj(attended.flatten(1)[None])
        query, key, value = (split_heads(part, self.heads) for part in self.qkv_proj(x_BTD).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=keep_B11T,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
        )
        return self.out_proj(merge_heads(attended))

    def weights(self, x_BTD: Tensor, *, keep_B11T: Tensor | None = None, causal: bool = False) -> Tensor:
        """Return the attention map: [B, H, T, T]."""
        width = 2 * x_BTD.size(-1)  # queries and keys
        projected = F.linear(x_BTD, self.qkv_proj.weight[:width], self.qkv_proj.bias[:width])
        query, key = (split_heads(part, self.heads) for part in projected.chunk(2, dim=-1))
        return attention_weights(query, key, keep_B11S=keep_B11T, causal=causal)

    def step(self, x_ND: Tensor, cache_2NHTC: Tensor, position: int) -> Tensor:
        """Process one position for N rows: [N, D].

        The keys and values are written into the cache; the position attends over all positions up to itself.
        """
        qkv = self.qkv_proj(x_ND).view(x_ND.size(0), 3, self.heads, 1, -1)
        cache_2NHTC[0, :, :, position] = qkv[:, 1, :, 0]
        cache_2NHTC[1, :, :, position] = qkv[:, 2, :, 0]
        key, value = cache_2NHTC[:, :, :, : position + 1]
        return self.out_proj(F.scaled_dot_product_attention(qkv[:, 0], key, value).flatten(1))


@dataclass(frozen=True)
class UnevenRows:
    """Different numbers of rows for the sentences of a batch.

    Attributes:
        places_N: place of each row if every sentence had `most` rows: int64.
        most: largest number of rows of a sentence.
    """

    places_N: Tensor
    most: int

    @classmethod
    def count(cls, sentences_N: Tensor) -> UnevenRows:
        """Return the places of rows from the sentences that they belong to: int64, 0 to B - 1 in ascending order."""
        counts_B = sentences_N.bincount()
        most, first_B = int(counts_B.max()), counts_B.cumsum(0) - counts_B
        within_N = torch.arange(len(sentences_N), device=sentences_N.device) - first_B.index_select(0, sentences_N)
        return cls(sentences_N * most + within_N, most)

    def pad(self, x_ND: Tensor, batch: int) -> Tensor:
        """Return rows with the same number for each sentence, zeros for those that do not exist: [B * most, D]."""
        return x_ND.new_zeros(batch * self.most, x_ND.size(1)).index_copy_(0, self.places_N, x_ND)


class CrossAttention(nn.Module):
    """Attention of the decoder over the encoder's hidden states, whose width may differ."""

    def __init__(self, dim: int, encoder_dim: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.q_proj = nn.Linear(dim, dim)
        self.kv_proj = nn.Linear(encoder_dim, 2 * dim)
        self.out_proj = nn.Linear(dim, dim)
        # fairseq uses the smaller gain only if queries, keys and values have the same width
        gain = 1 / math.sqrt(2) if dim == encoder_dim else 1.0
        nn.init.xavier_uniform_(self.q_proj.weight, gain=gain)
        _init_projection(self.kv_proj.weight, parts=2, gain=gain)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def keys_values(self, states_BSD: Tensor) -> Tensor:
        """Return the keys and values of the source, which are computed once per sentence: [2, B, H, S, C]."""
        key, value = (split_heads(part, self.heads) for part in self.kv_proj(states_BSD).chunk(2, dim=-1))
        return torch.stack([key, value])

    def forward(self, x_BTD: Tensor, states_BSD: Tensor, keep_B11S: Visible, queries: Packing | None = None) -> Tensor:
        """Attend over real source tokens (`keep_B11S`, True = real): [B, T, D].

        In packed rows ([1, N, D]) `keep_B11S` has the limits of the sources and `queries` those of the targets.
        """
        if isinstance(keep_B11S, Packing):
            assert queries is not None
            (query,) = packed_heads(self.q_proj(x_BTD), 1, self.heads)
            key, value = packed_heads(self.kv_proj(states_BSD), 2, self.heads)
            attended = packed_attention(query, key, value, queries, keep_B11S)
            return self.out_proj(attended.flatten(1)[None])
        query = split_heads(self.q_proj(x_BTD), self.heads)
        key, value = (split_heads(part, self.heads) for part in self.kv_proj(states_BSD).chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=keep_B11S, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_proj(merge_heads(attended))

    def weights(self, x_BTD: Tensor, states_BSD: Tensor, keep_B11S: Tensor | None) -> Tensor:
        """Return the attention map: [B, H, T, S]."""
        width = x_BTD.size(-1)
        key_BSD = F.linear(states_BSD, self.kv_proj.weight[:width], self.kv_proj.bias[:width])
        query, key = (split_heads(part, self.heads) for part in (self.q_proj(x_BTD), key_BSD))
        return attention_weights(query, key, keep_B11S=keep_B11S)

    def step(
        self, x_ND: Tensor, keys_values_2BHSC: Tensor, keep_B11S: Tensor, uneven: UnevenRows | None = None
    ) -> Tensor:
        """Process one position for N rows of B sentences: [N, D]. The rows of a sentence share keys and values.

        Args:
            uneven: numbers of rows of the sentences; None if each sentence has N / B rows.
        """
        key, value = keys_values_2BHSC
        query_ND = self.q_proj(x_ND)
        padded_RD = query_ND if uneven is None else uneven.pad(query_ND, key.size(0))
        query = split_heads(padded_RD.view(key.size(0), -1, x_ND.size(1)), self.heads)  # --> [B, H, K, C]
        attended = merge_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=keep_B11S))
        attended_RD = attended.reshape(padded_RD.shape)
        return self.out_proj(attended_RD if uneven is None else attended_RD.index_select(0, uneven.places_N))
