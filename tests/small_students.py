"""Small models and batches for tests of objectives."""

from __future__ import annotations

import torch
from torch import Tensor

from kdmt.corpus.batching import Batch
from kdmt.models.architecture import architecture
from kdmt.models.build import build_transformer
from kdmt.models.transformer import Transformer
from kdmt.types import EOS, PAD

V, EPSILON = 19, 0.1


def small(seed: int, *, dim: int = 8) -> Transformer:
    torch.manual_seed(seed)
    sides = {
        f"{side}_{field}": value
        for side in ("encoder", "decoder")
        for field, value in {"layers": 1, "embed_dim": dim, "ffn_embed_dim": 16, "attention_heads": 2}.items()
    }
    config = architecture("transformer", {**sides, "dropout": 0.0})
    return build_transformer(config, src_vocab_size=V, tgt_vocab_size=V).double()


def batch_of(lengths: list[int], seed: int = 1, *, width: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    width = max(width, *lengths)
    src, tgt = torch.full((2, len(lengths), width), PAD)
    for row, length in enumerate(lengths):
        for side in (src, tgt):
            side[row, :length] = torch.randint(4, V, (length,), generator=generator)
            side[row, length - 1] = EOS
    prev = tgt.roll(1, 1)
    prev[:, 0] = EOS
    return Batch(torch.arange(len(lengths)), src, prev, tgt, sum(lengths), sum(lengths))


def logits_of(model: Transformer, batch: Batch) -> Tensor:
    assert batch.prev_tokens_BT is not None
    assert batch.tgt_tokens_BT is not None
    return model(batch.src_tokens_BS, batch.prev_tokens_BT)[batch.tgt_tokens_BT.ne(PAD)]
