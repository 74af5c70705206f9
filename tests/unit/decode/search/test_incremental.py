"""Tests that translation while the source arrives equals translation of the whole sentence with the same mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from copy_task import TINY, VOCAB
from small_transformers import CONFIGS, POST_NORM, make_model, make_sources

from kdmt.config import Decode
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.pytorch import TorchEngine, inference
from kdmt.decode.search.incremental import ChunkSession, Session, WaitKSession, wait_k_reads
from kdmt.errors import UserError
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.types import EOS

CAUSAL = replace(POST_NORM, unidirectional_encoder=True)
GREEDY = Decode(beam=1, max_len_a=1.0, max_len_b=4)
LENGTHS = [1, 2, 3, 5, 8, 11, 4, 7]


def waiting_model(config: TransformerConfig = CAUSAL) -> Transformer:
    return make_model(config, eos_logit=-4.0)


def streaming_model(streaming: tuple[int, int]) -> NATransformer:
    torch.manual_seed(4)
    nat = NATConfig(family="ctc", upsample=2, streaming=streaming)
    config = replace(TINY, encoder_layers=2, decoder_layers=2)
    return build_nonautoregressive(config, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double().eval()


def arriving(session: Session, source: np.ndarray) -> tuple[list[int], list[int]]:
    """Return the tokens of a session to which one token is given at a time, and the number of tokens read for each."""
    tokens: list[int] = []
    reads: list[int] = []
    for length in range(1, len(source) + 1):
        new = session.read(source[:length], is_whole=length == len(source))
        tokens, reads = tokens + new, reads + [length] * len(new)
    return tokens, reads


def session(model: Transformer, k: int, decode: Decode = GREEDY) -> WaitKSession:
    return WaitKSession(model, k, max_len_a=decode.max_len_a, max_len_b=decode.max_len_b)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "changes",
    [{}, {"decoder": "ssru"}, {"layout": "marian"}, {"source_token": 4, "target_token": 5}],
    ids=["plain", "ssru", "marian", "multilingual"],
)
def test_wait_k_session_equals_wait_k_decoding_of_a_batch(k: int, changes: dict[str, object]) -> None:
    model, sources = waiting_model(replace(CAUSAL, **changes)), make_sources(LENGTHS)  # type: ignore[arg-type]
    expected = TorchEngine(model, wait_k=k).decode(sources, GREEDY)
    assert len({hypothesis.tokens for (hypothesis,) in expected}) > 4
    with inference([model]):
        for source, (hypothesis,) in zip(sources, expected, strict=True):
            tokens, reads = arriving(session(model, k), source)
            assert tuple(tokens) == hypothesis.tokens
            assert reads == wait_k_reads(len(tokens), k, len(source))[:-1]


@pytest.mark.parametrize(("a", "b"), [(0.0, 3), (0.5, 1), (0.0, 1)])
def test_a_session_keeps_to_the_maximum_length_before_the_source_is_whole(a: float, b: int) -> None:
    model, sources, decode = waiting_model(), make_sources(LENGTHS), Decode(beam=1, max_len_a=a, max_len_b=b)
    expected = TorchEngine(model, wait_k=1).decode(sources, decode)
    with inference([model]):
        for source, (hypothesis,) in zip(sources, expected, strict=True):
            tokens, reads = arriving(session(model, 1, decode), source)
            assert tuple(tokens) == hypothesis.tokens
            if a == 0:  # the limit is known from the first token on
                assert reads == wait_k_reads(len(tokens), 1, len(source))[:-1]


@pytest.mark.parametrize("name", ["post-norm", "pre-norm", "Marian's layout"])
@pytest.mark.parametrize("beam", [1, 4])
def test_k_of_the_whole_source_equals_decoding_of_whole_sentences(name: str, beam: int) -> None:
    """Token for token and score for score: the mask then hides nothing."""
    model = waiting_model(replace(CONFIGS[name], unidirectional_encoder=True))
    sources, settings = make_sources(LENGTHS), GREEDY.model_copy(update={"beam": beam})
    longest = max(map(len, sources))
    whole = TorchEngine(model).decode(sources, settings)
    assert TorchEngine(model, wait_k=longest).decode(sources, settings) == whole
    if beam == 1:
        with inference([model]):
            found = [arriving(session(model, longest), source)[0] for source in sources]
        assert [tuple(tokens) for tokens in found] == [hypothesis.tokens for (hypothesis,) in whole]


def test_smaller_k_gives_other_translations() -> None:
    model, sources = waiting_model(), make_sources(LENGTHS)
    assert TorchEngine(model, wait_k=1).decode(sources, GREEDY) != TorchEngine(model).decode(sources, GREEDY)


def test_translation_does_not_depend_on_its_batch() -> None:
    model, sources = waiting_model(), make_sources(LENGTHS)
    together = TorchEngine(model, wait_k=2).decode(sources, GREEDY)
    alone = [TorchEngine(model, wait_k=2).decode([source], GREEDY)[0] for source in sources]
    assert [found[0].tokens for found in together] == [found[0].tokens for found in alone]


def test_beam_is_refused_before_the_source_is_whole() -> None:
    engine = TorchEngine(waiting_model(), wait_k=3)
    with pytest.raises(UserError, match=r"k = 3: .* a beam of 4 needs a k of at least 12"):
        engine.decode(make_sources(LENGTHS), GREEDY.model_copy(update={"beam": 4}))


def test_models_that_cannot_wait_are_refused() -> None:
    with pytest.raises(UserError, match="unidirectional_encoder"):
        TorchEngine(make_model(), wait_k=3)
    with pytest.raises(UserError, match="right to left"):
        TorchEngine(make_model(replace(CAUSAL, right_to_left=True)), wait_k=3)
    with pytest.raises(UserError, match="k is 0"):
        TorchEngine(waiting_model(), wait_k=0)


@pytest.mark.parametrize("streaming", [(1, 0), (2, 0), (2, 1), (3, 2), (4, 9)])
def test_chunks_equal_decoding_of_whole_sentences(streaming: tuple[int, int]) -> None:
    model = streaming_model(streaming)
    rng = np.random.default_rng(2)
    sources = [np.append(rng.integers(4, VOCAB, size=length), EOS) for length in LENGTHS]
    expected = NATEngine(model).decode(sources, GREEDY)
    assert sum(len(hypothesis.tokens) for (hypothesis,) in expected) > 20
    chunk, right_context = streaming
    with inference([model]):
        for source, (hypothesis,) in zip(sources, expected, strict=True):
            tokens, reads = arriving(ChunkSession(model), source)
            assert tuple(tokens) == hypothesis.tokens
            ends = {*range(chunk + right_context, len(source), chunk), len(source)}
            assert set(reads) <= ends, "tokens of a chunk appear when the chunk and its right context are there"


def test_chunks_that_arrive_together_give_the_same_tokens() -> None:
    model, source = streaming_model((2, 1)), np.array([4, 5, 6, 7, 8, 9, 10, 11, EOS])
    with inference([model]):
        at_once = ChunkSession(model).read(source, is_whole=True)
        assert arriving(ChunkSession(model), source)[0] == at_once
    with pytest.raises(ValueError, match="chunks"):
        ChunkSession(build_nonautoregressive(TINY, NATConfig(family="ctc"), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB))
