"""Tests of the attention masks of models that translate while the source arrives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from copy_task import TINY, VOCAB
from small_transformers import CONFIGS, POST_NORM, make_model

from kdmt.errors import UserError
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.prefix_masks import visible_prefix
from kdmt.types import EOS

CAUSAL = replace(POST_NORM, unidirectional_encoder=True)


@pytest.mark.parametrize("k", [1, 3, 9])
def test_a_target_token_sees_k_plus_its_index_source_tokens(k: int) -> None:
    mask = visible_prefix(0, 5, 7, k, torch.device("cpu"))
    assert mask.sum(1).tolist() == [min(k + token, 7) for token in range(5)]
    assert all(row == sorted(row, reverse=True) for row in mask.tolist()), "a prefix"


@pytest.mark.parametrize("name", ["post-norm", "pre-norm", "Marian's layout", "learned positions"])
def test_states_of_a_unidirectional_encoder_are_those_of_each_prefix(name: str) -> None:
    model = make_model(replace(CONFIGS[name], unidirectional_encoder=True))
    src_tokens = torch.tensor([[5, 6, 7, 8, 9, EOS]])
    whole = model.encode(src_tokens).states_BSD
    for length in range(1, 7):
        prefix = model.encode(src_tokens[:, :length]).states_BSD
        torch.testing.assert_close(prefix, whole[:, :length])


def test_padding_does_not_change_the_states_of_a_unidirectional_encoder() -> None:
    model = make_model(CAUSAL)
    short, long = torch.tensor([[5, 6, EOS]]), torch.tensor([[5, 6, EOS, 1, 1], [5, 6, 7, 8, EOS]])
    torch.testing.assert_close(model.encode(long).states_BSD[:1, :3], model.encode(short).states_BSD)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize(
    "changes",
    [{}, {"source_token": 4}, {"target_token": 5}, {"decoder": "ssru"}, {"layout": "marian"}],
    ids=["plain", "source token", "target token", "ssru", "marian"],
)
def test_wait_k_reads_each_token_from_its_prefix_alone(k: int, changes: dict[str, object]) -> None:
    """Neither teacher-forced nor incremental decoding differs from decoding in which only the prefix exists."""
    model = make_model(replace(CAUSAL, **changes))  # type: ignore[arg-type]
    src_tokens, prev_tokens = torch.tensor([[5, 6, 7, 8, EOS]]), torch.tensor([[EOS, 6, 7, 8, 9, 10]])
    with torch.inference_mode():
        waiting = model.waiting(model.encode(src_tokens), k)
        features = model.decode(prev_tokens, waiting)[..., : model.config.decoder_embed_dim]
        logits = model.output_proj(features)
        cache = model.start_cache(waiting, beam=1, max_len=6)
        oracle = model.start_cache(model.encode(src_tokens[:, :k]), beam=1, max_len=6)
        for token in range(6):
            prefix = model.encode(src_tokens[:, : k + token])
            keys_values = [layer.cross_attn.keys_values(prefix.states_BSD) for layer in model.decoder_layers]
            oracle.cross_2BHSC, oracle.keep_B11S = keys_values, prefix.keep_BS[:, None, None, :]
            expected = model.decode_step(prev_tokens[:, token], oracle)
            torch.testing.assert_close(model.decode_step(prev_tokens[:, token], cache), expected)
            torch.testing.assert_close(logits[:, token], expected)


def test_wait_k_of_the_whole_source_changes_nothing() -> None:
    model = make_model(CAUSAL)
    src_tokens, prev_tokens = torch.tensor([[5, 6, EOS, 1], [5, 6, 7, EOS]]), torch.tensor([[EOS, 6], [EOS, 7]])
    encoded = model.encode(src_tokens)
    whole, waiting = (model.decode(prev_tokens, each) for each in (encoded, model.waiting(encoded, 4)))
    torch.testing.assert_close(waiting, whole, rtol=0.0, atol=1e-12)


def test_a_later_source_token_does_not_change_an_earlier_prediction() -> None:
    model = make_model(CAUSAL)
    prev_tokens = torch.tensor([[EOS, 6, 7, 8]])
    first, second = (
        model.decode(prev_tokens, model.waiting(model.encode(torch.tensor([[5, 6, 7, last, EOS]])), 2))
        for last in (8, 11)
    )
    torch.testing.assert_close(first[:, :2], second[:, :2], rtol=0.0, atol=0.0)
    assert not torch.allclose(first[:, 2], second[:, 2]), "token 2 sees four source tokens"


def test_wait_k_needs_a_unidirectional_encoder() -> None:
    model = make_model()
    with pytest.raises(UserError, match="unidirectional_encoder"):
        model.waiting(model.encode(torch.tensor([[5, EOS]])), 1)
    with pytest.raises(ValueError, match="k is 0"):
        make_model(CAUSAL).waiting(make_model(CAUSAL).encode(torch.tensor([[5, EOS]])), 0)


@pytest.mark.parametrize(("chunk", "right_context"), [(2, 0), (2, 1), (3, 2), (1, 4), (9, 0)])
@pytest.mark.parametrize("settings", [{}, {"dslp": True}], ids=["plain", "dslp"])
def test_output_of_a_chunk_needs_the_chunk_and_its_right_context_alone(
    chunk: int, right_context: int, settings: dict[str, bool]
) -> None:
    model = ctc_model((chunk, right_context), **settings)
    length, upsample = 8, model.nat.upsample
    src_tokens = torch.tensor([[4, 5, 6, 7, 8, 9, 10, EOS]])
    with torch.inference_mode():
        whole = _features(model, src_tokens)
        for start in range(0, length, chunk):
            end = min(start + chunk, length)
            found = _features(model, src_tokens[:, : end + right_context])
            positions = slice(upsample * start, upsample * end)
            torch.testing.assert_close(found[:, positions], whole[:, positions])


@pytest.mark.parametrize("right_context", [0, 1, 2])
def test_output_of_a_chunk_depends_on_its_right_context(right_context: int) -> None:
    model = ctc_model((2, right_context))
    changes = []
    with torch.inference_mode():
        whole = _features(model, torch.tensor([[4, 5, 6, 7, 8, EOS]]))
        for place in range(2, 5):
            tokens = [4, 5, 6, 7, 8, EOS]
            tokens[place] = 11
            changes.append(not torch.allclose(_features(model, torch.tensor([tokens]))[:, :4], whole[:, :4]))
    assert changes == [place < 2 + right_context for place in range(2, 5)]


def test_padding_does_not_change_a_streaming_model() -> None:
    model = ctc_model((2, 1))
    short, long = torch.tensor([[5, 6, EOS]]), torch.tensor([[5, 6, EOS, 1, 1], [5, 6, 7, 8, EOS]])
    torch.testing.assert_close(_features(model, long)[:1, :6], _features(model, short))


def test_a_chunk_of_the_whole_source_is_the_model_without_chunks() -> None:
    plain, streaming = ctc_model(None), ctc_model((6, 0))
    streaming.load_state_dict(plain.state_dict())
    src_tokens = torch.tensor([[4, 5, 6, 7, 8, EOS]])
    torch.testing.assert_close(_features(streaming, src_tokens), _features(plain, src_tokens))


def test_streaming_is_for_ctc_students() -> None:
    with pytest.raises(UserError, match="no streaming 'dag' models"):
        NATConfig(family="dag", streaming=(2, 0))
    with pytest.raises(UserError, match="too small"):
        ctc_model((0, 0))


def ctc_model(streaming: tuple[int, int] | None, *, dslp: bool = False) -> NATransformer:
    torch.manual_seed(1)
    nat = NATConfig(family="ctc", upsample=2, streaming=streaming, dslp=dslp)
    config = replace(TINY, encoder_layers=3, decoder_layers=2)
    return build_nonautoregressive(config, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double().eval()


def _features(model: NATransformer, src_tokens: torch.Tensor) -> torch.Tensor:
    inputs, keep = model.upsample(src_tokens)
    return model.decode_all(inputs, keep, model.encode(src_tokens))
