"""The formula for floating-point operations compared with PyTorch's own counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kdmt.corpus.batching import Batch
from kdmt.models.architecture import TransformerConfig
from kdmt.models.build import build_transformer
from kdmt.train.utilisation import peak_flops, training_flops

CONFIG = TransformerConfig(
    encoder_layers=3,
    decoder_layers=2,
    encoder_embed_dim=24,
    decoder_embed_dim=16,
    encoder_ffn_embed_dim=40,
    decoder_ffn_embed_dim=28,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    dropout=0.0,
)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, encoder_layers=1, decoder_layers=4)], ids=["3+2", "1+4"])
def test_operations_equal_those_that_pytorch_counts(config: TransformerConfig) -> None:
    model = build_transformer(config, src_vocab_size=30, tgt_vocab_size=37)
    src_BS, tgt_BT = torch.randint(4, 30, (5, 7)), torch.randint(4, 37, (5, 9))
    batch = Batch(index_B=torch.arange(5), src_tokens_BS=src_BS, prev_tokens_BT=tgt_BT, num_tgt_tokens=45)
    # the counter does not count fused attention on a CPU, so attention is computed as two products here
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(src_BS, tgt_BT).sum().backward()
    assert counter.get_total_flops() == training_flops(config, batch, num_outputs=45, tgt_vocab_size=37)


def test_peak_is_found_by_the_name_of_the_device() -> None:
    assert peak_flops("NVIDIA H200") == peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA L40") is None  # not the L4
    assert peak_flops("NVIDIA RTX A4000") is None
