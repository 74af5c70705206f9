"""Delays of simultaneous translations of a test set, and their latency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdmt.config import Score
from kdmt.corpus.codec import cut_source
from kdmt.decode.engines.engine import Engine
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.precision import products
from kdmt.decode.engines.pytorch import TorchEngine, inference
from kdmt.decode.engines.simultaneous import SourceWords, finished_text, word_delays
from kdmt.decode.engines.translator import Translator
from kdmt.decode.search.incremental import ChunkSession, wait_k_reads
from kdmt.score.lagging import Timing, mean_latency
from kdmt.score.systems import Way
from kdmt.stages.variants import ScoredText
from kdmt.stages.workspace import Workspace
from kdmt.types import Hypothesis


def wait_k_ways(score: Score, engine: Engine) -> list[Way]:
    """Return the ways of decoding with the wait-k policy; none if the encoder of a system is not unidirectional."""
    if score.simultaneous is None or not isinstance(engine, TorchEngine):
        return []
    config = engine.model.config
    if not config.unidirectional_encoder or config.right_to_left:
        return []
    return [Way(wait_k=k) for k in score.simultaneous.wait_k]


def has_delays(score: Score, engine: Engine, way: Way) -> bool:
    """Return whether latency is measured: with the wait-k policy, and of students that translate in chunks."""
    return way.wait_k is not None or (score.simultaneous is not None and _streams(engine))


def _streams(engine: Engine) -> bool:
    return isinstance(engine, NATEngine) and engine.model.nat.streaming is not None


def measure_delays(
    workspace: Workspace, translator: Translator, text: ScoredText, found: Sequence[Hypothesis | None], way: Way
) -> list[list[int]]:
    """Return the delay of each word of the translations of a test set, in words of the source as published.

    Args:
        found: hypothesis of each sentence; None for a source without words.
    """
    codec, engine = translator.codec, translator.engine
    as_text = finished_text(codec) if workspace.config.score.detokenized else codec.decode_target
    lines, _ = text.raw_texts(workspace)
    # what is published as processed text is not processed again
    encode = codec.encode_source if codec.text.text.already_applied else codec.encode_raw_source
    sources = [
        cut_source(source, translator.max_source_tokens) for source in codec.encode_source(text.sources(workspace))
    ]
    delays: list[list[int]] = []
    for line, source, hypothesis in zip(lines, sources, found, strict=True):
        if hypothesis is None:
            delays.append([])
            continue
        if isinstance(engine, NATEngine):
            tokens, reads = _in_chunks(engine, source)
        else:
            assert way.wait_k is not None, "only these have delays"
            tokens, reads = list(hypothesis.tokens), wait_k_reads(len(hypothesis.tokens), way.wait_k, len(source))
        delays.append(word_delays(tokens, reads, SourceWords.of(line, encode), as_text))
    return delays


def _in_chunks(engine: NATEngine, source: np.ndarray) -> tuple[list[int], list[int]]:
    """Return the tokens of a translation in chunks, and the number of source tokens read for each and for the end."""
    session = ChunkSession(engine.model, device=engine.device)
    tokens, reads = list[int](), list[int]()
    with inference([engine.model]), products(engine.device, engine.precision):
        for length in range(1, len(source) + 1):
            new = session.read(source[:length], is_whole=length == len(source))
            tokens += new
            reads += [length] * len(new)
    return tokens, [*reads, len(source)]


def latency_of(
    workspace: Workspace, text: ScoredText, references: Sequence[str], delays: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Return the latency of a test set by the name of the metric.

    Args:
        references: references in the form that is scored.
    """
    lines, _ = text.raw_texts(workspace)
    return mean_latency(
        [
            Timing(own, len(line.split()), len(reference.split(" ")))
            for line, reference, own in zip(lines, references, delays, strict=True)
        ]
    )
