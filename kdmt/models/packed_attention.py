"""Attention inside the sentences of packed rows (`kdmt.corpus.packing`).

On a GPU and in half precision this is FlashAttention for variable lengths, `torch.nn.attention.varlen`. Elsewhere the
sentences are padded for `scaled_dot_product_attention` and packed again, which is the reference.

Shapes: N positions of a row, H heads, C width of a head, B sentences, T longest sentence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from kdmt.types import Packing

_MAX_HEAD_WIDTH, _HEAD_WIDTH_MULTIPLE = 256, 8  # limits of FlashAttention

_varlen_attn: Callable[..., object] | None = None  # set by `load_flash`


@cache
def load_flash() -> None:
    """Load FlashAttention for variable lengths if PyTorch has it, from version 2.11 on.

    This is called before packed sentences are read on a GPU. It takes a second, since it loads the modules of
    `torch.compile`.
    """
    global _varlen_attn  # compiled layers read it
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before PyTorch 2.10
        return
    if "window_size" in inspect.signature(varlen_attn).parameters:
        _varlen_attn = varlen_attn


def packed_attention(
    query_NHC: Tensor, key_NHC: Tensor, value_NHC: Tensor, queries: Packing, keys: Packing, *, causal: bool = False
) -> Tensor:
    """Attend from each sentence of one row to the same sentence of another row, or of the same: [N, H, C].

    The result at padding is of no use, but finite.

    Args:
        queries, keys: limits of the sentences in the two rows.
        causal: whether a query sees only keys up to its own position.
    """
    if uses_flash(query_NHC.device.type, query_NHC.dtype, query_NHC.size(2)):
        return _flash(query_NHC, key_NHC, value_NHC, queries, keys, causal)
    return _attend_padded(query_NHC, key_NHC, value_NHC, queries, keys, causal)


def uses_flash(device_type: str, dtype: torch.dtype, head_width: int) -> bool:
    """Return whether FlashAttention for variable lengths, once loaded, computes attention of this type and width."""
    fits = head_width <= _MAX_HEAD_WIDTH and head_width % _HEAD_WIDTH_MULTIPLE == 0
    return _varlen_attn is not None and device_type == "cuda" and dtype in (torch.bfloat16, torch.float16) and fits


def _flash(
    query_NHC: Tensor, key_NHC: Tensor, value_NHC: Tensor, queries: Packing, keys: Packing, causal: bool
) -> Tensor:
    assert _varlen_attn is not None
    found = _varlen_attn(
        query_NHC,
        key_NHC,
        value_NHC,
        queries.starts,
        keys.starts,
        queries.max_length,
        keys.max_length,
        window_size=(-1, 0) if causal else (-1, -1),
    )
    assert isinstance(found, Tensor)
    return found


def _padded(
    query_NHC: Tensor, key_NHC: Tensor, value_NHC: Tensor, queries: Packing, keys: Packing, causal: bool
) -> Tensor:
    key_BHSC, value_BHSC = (unpack_sentences(each, keys) for each in (key_NHC, value_NHC))
    keep_B11S = None if causal else _real_BT(keys)[:, None, None, :]  # the causal mask hides padding on the right
    found_BHTC = F.scaled_dot_product_attention(
        unpack_sentences(query_NHC, queries), key_BHSC, value_BHSC, attn_mask=keep_B11S, is_causal=causal
    )
    return pack_sentences(found_BHTC, queries, len(query_NHC))


_attend_padded: Callable[..., Tensor] = _padded  # replaced by `leave_padded_uncompiled`


@cache
def leave_padded_uncompiled() -> None:
    """Keep the reference out of compiled layers, since its shapes differ from batch to batch.

    This is called before layers are compiled; as a decorator it would load the modules of `torch.compile` always.
    """
    global _attend_padded  # compiled layers read it
    _attend_padded = torch.compiler.disable(_padded)


def _lengths_B(packing: Packing) -> Tensor:
    return packing.starts[: packing.num_sentences + 1].diff().long()


def _real_BT(packing: Packing) -> Tensor:
    """Return the mask of the real tokens of the padded sentences: bool [B, T]."""
    return torch.arange(packing.longest, device=packing.starts.device) < _lengths_B(packing)[:, None]


def unpack_sentences(values_NHC: Tensor, packing: Packing) -> Tensor:
    """Return padded sentences, [B, H, T, C]; the padding contains tokens of other sentences."""
    starts_B1 = packing.starts[: packing.num_sentences, None].long()
    index_BT = starts_B1 + torch.arange(packing.longest, device=starts_B1.device)
    values_BTHC = values_NHC.index_select(0, index_BT.clamp_max(len(values_NHC) - 1).flatten())
    return values_BTHC.unflatten(0, index_BT.shape).transpose(1, 2)


def pack_sentences(values_BHTC: Tensor, packing: Packing, num_positions: int) -> Tensor:
    """Return a packed row of the sentences, with zeros at its padding: [N, H, C]. The inverse of `unpack_sentences`."""
    values_MHC = values_BHTC.transpose(1, 2).flatten(0, 1).index_select(0, _padded_index_M(packing))
    return F.pad(values_MHC, (0, 0, 0, 0, 0, num_positions - packing.num_tokens))


def _padded_index_M(packing: Packing) -> Tensor:
    """Return the index of each real token in the flattened padded sentences: int64 [M]."""
    sentences_B = torch.arange(packing.num_sentences, device=packing.starts.device)
    sentence_M = sentences_B.repeat_interleave(_lengths_B(packing), output_size=packing.num_tokens)
    return sentence_M * packing.longest + packing.position_N[: packing.num_tokens]
