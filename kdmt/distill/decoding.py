"""The teacher at work: decode the blocks that are missing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kdmt.config import Decode
from kdmt.decode.lengths import max_lengths
from kdmt.distill.blocks import Block, Decoded, is_complete, plan_blocks, write_block
from kdmt.types import EOS, Hypothesis

# sources, their indices in the training set, progress -> hypotheses of each source, best first
Decoder = Callable[[list[np.ndarray], list[int], Callable[[int], None]], list[list[Hypothesis]]]


def decode_blocks(
    decode: Decoder,
    sources: Sequence[np.ndarray],
    settings: Decode,
    *,
    folder: Path,
    block_size: int,
    key: str,
    max_source_tokens: int,
    max_target_tokens: int,
    progress: Callable[[int], None],
) -> list[Block]:
    """Decode every block whose file is not there yet; a killed run loses the block it was at.

    A block's batches are made of its own sentences alone, so what is in a file depends on nothing else.

    Args:
        decode: translates the sentences of one block.
        sources: ids of all training sources, each ending in </s>.
        settings: of which the maximum lengths count, that `decode` keeps to.
        folder: takes the block files.
        key: names the teacher, vocabulary, data and settings.
        max_source_tokens: longer sources are not decoded and count as empty hypotheses.
        max_target_tokens: the model's limit on the maximum length.
        progress: called with numbers of sentences as they are done.

    Returns:
        All blocks, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".partial-*"):
        leftover.unlink()
    blocks = plan_blocks(len(sources), block_size)
    for block in blocks:
        if is_complete(folder, block, key):
            progress(block.count)
            continue
        own = [sources[index] for index in range(block.first, block.first + block.count)]
        decoded = _decode_block(decode, own, block, settings, max_source_tokens, max_target_tokens, progress)
        write_block(folder, block, key, decoded)
    return blocks


def source_sha(source: np.ndarray) -> str:
    """A short hash of a source's ids."""
    return hashlib.sha256(np.asarray(source, dtype="<i8").tobytes()).hexdigest()[:16]


def _decode_block(
    decode: Decoder,
    sources: list[np.ndarray],
    block: Block,
    settings: Decode,
    max_source_tokens: int,
    max_target_tokens: int,
    progress: Callable[[int], None],
) -> list[Decoded]:
    fitting = [i for i, source in enumerate(sources) if 1 < len(source) <= max_source_tokens]
    progress(len(sources) - len(fitting))
    found = decode([sources[i] for i in fitting], [block.first + i for i in fitting], progress)
    hypotheses = dict(zip(fitting, found, strict=True))
    limits = max_lengths(
        [len(source) for source in sources], settings.max_len_a, settings.max_len_b, limit=max_target_tokens - 1
    )
    decoded = []
    for i, source in enumerate(sources):
        nbest = hypotheses.get(i, [])
        decoded.append(
            Decoded(
                index=block.first + i,
                source_sha=source_sha(source),
                tokens=tuple(_without_eos(hypothesis.tokens) for hypothesis in nbest),
                scores=tuple(hypothesis.score for hypothesis in nbest),
                at_limit=tuple(len(hypothesis.tokens) >= limits[i] for hypothesis in nbest),
            )
        )
    return decoded


def _without_eos(tokens: tuple[int, ...]) -> tuple[int, ...]:
    return tokens[:-1] if tokens and tokens[-1] == EOS else tokens
