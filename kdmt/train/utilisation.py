"""Model FLOPs utilisation of a GPU in training (Chowdhery et al. 2022, appendix B).

The multiplications and additions of the model's matrix products are counted, forward and backward, for real and padded
positions. Recomputation for activation checkpointing is not counted.
"""

from __future__ import annotations

import re

from kdmt.corpus.batching import Batch
from kdmt.models.architecture import TransformerConfig

# Dense bf16 TFLOP/s from the data sheets of the manufacturers, by words in the name that the driver reports
PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "A40": 149.7,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}


def peak_flops(device_name: str) -> float | None:
    """Return the peak FLOP/s of a GPU in bf16, None for one that is not in the table."""
    return next((1e12 * tflops for name, tflops in PEAK_TFLOPS.items() if re.search(rf"\b{name}\b", device_name)), None)


def training_flops(config: TransformerConfig, batch: Batch, *, num_outputs: int, tgt_vocab_size: int) -> float:
    """Return the number of floating-point operations of one forward and backward pass over a batch.

    Args:
        num_outputs: number of target tokens whose distribution over the vocabulary is computed.
    """
    rows, src_length = batch.src_tokens_BS.shape
    tgt_length = 0 if batch.prev_tokens_BT is None else batch.prev_tokens_BT.size(1)
    src, tgt = rows * src_length, rows * tgt_length
    enc, dec = config.encoder_embed_dim, config.decoder_embed_dim
    encoder_layer = src * (4 * enc * enc + 2 * enc * config.encoder_ffn_embed_dim + 2 * src_length * enc)
    decoder_layer = (
        tgt * (4 * dec * dec + 2 * tgt_length * dec)  # self-attention
        + tgt * (2 * dec * dec + 2 * src_length * dec)  # cross-attention: queries, output, scores
        + src * 2 * enc * dec  # keys and values of the source
        + tgt * 2 * dec * config.decoder_ffn_embed_dim
    )
    output = num_outputs * dec * tgt_vocab_size
    products = config.encoder_layers * encoder_layer + config.decoder_layers * decoder_layer + output
    return 6.0 * products  # 2 for each product, and twice as many in the backward pass
