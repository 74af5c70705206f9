"""Tests of the Transformer's consistency, in float64: incremental decoding, padding, other sentences in a batch.

tests/unit/interop/fairseq/test_parity.py compares it with fairseq itself.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kdmt.choices import DecoderKind
from kdmt.models.architecture import TransformerConfig
from kdmt.models.transformer import FeedForward, Transformer
from kdmt.types import EOS, PAD

VOCAB = 17
BASE = TransformerConfig(
    encoder_layers=2,
    decoder_layers=2,
    encoder_embed_dim=16,
    decoder_embed_dim=16,
    encoder_ffn_embed_dim=24,
    decoder_ffn_embed_dim=20,
    encoder_attention_heads=2,
    decoder_attention_heads=4,
    max_source_positions=20,
    max_target_positions=20,
)
CONFIGS = {
    "post-norm": BASE,
    "pre-norm": replace(BASE, encoder_normalize_before=True, decoder_normalize_before=True),
    "learned positions": replace(BASE, encoder_learned_pos=True, decoder_learned_pos=True),
    "narrow shallow decoder": replace(BASE, decoder_embed_dim=8, decoder_layers=1),
    "shared, gelu, layernorm_embedding": replace(
        BASE, share_all_embeddings=True, activation_fn="gelu", layernorm_embedding=True
    ),
    "SSRU": replace(BASE, decoder="ssru"),
    "SSRU, pre-norm": replace(BASE, decoder="ssru", encoder_normalize_before=True, decoder_normalize_before=True),
    "SSRU, tied layers, Marian's layout": replace(
        BASE, decoder="ssru", tied_decoder_layers=True, layout="marian", encoder_attention_heads=4
    ),
    "tied layers": replace(BASE, tied_decoder_layers=True),
    "Marian's layout": replace(BASE, layout="marian", encoder_attention_heads=4, activation_fn="swish"),
    "Marian's layout, shared": replace(BASE, layout="marian", encoder_attention_heads=4, share_all_embeddings=True),
}

every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def make_model(config: TransformerConfig) -> Transformer:
    torch.manual_seed(1)
    return Transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB, pad=PAD).double().eval()


def random_tokens(*lengths: int, seed: int = 0) -> Tensor:
    """Return a row of tokens for each length, padded on the right; the first token is </s>, as in decoder input."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = torch.randint(3, VOCAB, (length,), generator=generator)
        row[0] = EOS
    return tokens


SRC = random_tokens(7, 3, 1, 5)
PREV = random_tokens(4, 6, 2, 1, seed=1)


@every_config
@torch.no_grad()
def test_incremental_decoding_equals_teacher_forcing(config: TransformerConfig) -> None:
    model = make_model(config)
    expected_BTV = model(SRC, PREV)
    cache = model.start_cache(model.encode(SRC), beam=1, max_len=PREV.size(1))
    found_BTV = torch.stack([model.decode_step(PREV[:, position], cache) for position in range(PREV.size(1))], dim=1)
    assert cache.length == PREV.size(1)
    torch.testing.assert_close(found_BTV[PREV.ne(PAD)], expected_BTV[PREV.ne(PAD)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("decoder", ["self_attention", "ssru"])
@torch.no_grad()
def test_cache_after_reordering_and_selecting_sentences(decoder: DecoderKind) -> None:
    model = make_model(replace(BASE, decoder=decoder))
    beam, prefixes_NT = 3, torch.randint(3, VOCAB, (12, 3), generator=torch.Generator().manual_seed(2))
    cache = model.start_cache(model.encode(SRC), beam=beam, max_len=5)
    for position in range(2):
        model.decode_step(prefixes_NT[:, position], cache)
    order_N = torch.tensor([2, 0, 0, 4, 4, 5, 6, 8, 7, 11, 11, 11])
    cache.reorder(order_N)
    cache.select_sentences(torch.tensor([0, 3]))
    rows_N = torch.tensor([0, 1, 2, 9, 10, 11])
    last_N = prefixes_NT[rows_N, 2]
    found_NV = model.decode_step(last_N, cache)

    taken_NT = torch.cat([prefixes_NT[order_N[rows_N], :2], last_N[:, None]], dim=1)
    expected_NV = model(SRC[rows_N // beam], taken_NT)[:, -1]
    torch.testing.assert_close(found_NV, expected_NV, rtol=0, atol=1e-12)


@every_config
@torch.no_grad()
def test_result_does_not_depend_on_padding_and_other_sentences(config: TransformerConfig) -> None:
    model = make_model(config)
    together_BTV = model(SRC, PREV)
    wider = torch.nn.functional.pad
    padded_BTV = model(wider(SRC, (0, 5), value=PAD), wider(PREV, (0, 4), value=PAD))
    real_BT = PREV.ne(PAD)
    torch.testing.assert_close(padded_BTV[:, : PREV.size(1)][real_BT], together_BTV[real_BT], rtol=0, atol=1e-12)
    for src, prev, logits_TV in zip(SRC, PREV, together_BTV, strict=True):
        src, prev = src[src.ne(PAD)], prev[prev.ne(PAD)]
        alone_TV = model(src[None], prev[None])[0]
        torch.testing.assert_close(alone_TV, logits_TV[: len(prev)], rtol=0, atol=1e-12)


@every_config
@torch.no_grad()
def test_position_depends_only_on_earlier_tokens(config: TransformerConfig) -> None:
    model = make_model(config)
    prev, before_BTV = PREV[1:2], model(SRC[1:2], PREV[1:2])
    for changed in range(1, prev.size(1)):
        other = prev.clone()
        other[0, changed] = 3 + (other[0, changed] - 2) % (VOCAB - 3)
        after_BTV = model(SRC[1:2], other)
        torch.testing.assert_close(after_BTV[:, :changed], before_BTV[:, :changed], rtol=0, atol=1e-12)
        assert not torch.allclose(after_BTV[:, changed], before_BTV[:, changed])


@torch.no_grad()
def test_every_target_position_depends_on_every_source_token() -> None:
    model = make_model(BASE)
    src, prev = SRC[:1], PREV[:1]
    before_BTV = model(src, prev)
    for position in range(src.size(1)):
        other = src.clone()
        other[0, position] = 3 + (other[0, position] - 2) % (VOCAB - 3)
        assert ((model(other, prev) - before_BTV).abs().amax(dim=-1) > 1e-6).all()


@torch.no_grad()
def test_embedding_is_sum_of_scaled_token_and_position() -> None:
    model = make_model(BASE)
    expected = model.src_embed.tokens.weight[SRC[0]] * math.sqrt(16) + model.src_embed.positions.table[:7]
    torch.testing.assert_close(model.src_embed(SRC[:1])[0], expected)


@torch.no_grad()
def test_post_norm_states_are_normalised_and_pre_norm_ends_in_a_norm() -> None:
    for config in (BASE, CONFIGS["pre-norm"]):
        states_BSD = make_model(config).encode(SRC).states_BSD  # the norms are initialised with gain 1 and bias 0
        torch.testing.assert_close(states_BSD.mean(dim=-1), torch.zeros_like(states_BSD[..., 0]))
        torch.testing.assert_close(
            states_BSD.var(dim=-1, correction=0), torch.ones_like(states_BSD[..., 0]), rtol=0.01, atol=0
        )


@pytest.mark.parametrize(
    ("settings", "shared"),
    [
        ({}, set()),
        ({"share_decoder_input_output_embed": True}, {"output"}),
        ({"share_all_embeddings": True}, {"output", "source"}),
    ],
)
def test_embeddings_are_shared_as_configured(settings: dict[str, bool], shared: set[str]) -> None:
    model = make_model(replace(BASE, **settings))
    target = model.tgt_embed.tokens.weight
    assert (model.output_weight_VD is target) == ("output" in shared)
    assert (model.src_embed.tokens.weight is target) == ("source" in shared)
    assert len(list(model.parameters())) == len(list(make_model(BASE).parameters())) - len(shared)


def test_tied_decoder_layers_have_the_same_parameters() -> None:
    tied, untied = (make_model(replace(BASE, tied_decoder_layers=is_tied)) for is_tied in (True, False))
    one_layer = make_model(replace(BASE, decoder_layers=1))
    names = [name for name, _ in one_layer.named_parameters()]
    assert [name for name, _ in tied.named_parameters()] == names
    assert len(tied.decoder_layers) == len(untied.decoder_layers) == 2
    assert not torch.equal(tied(SRC, PREV), one_layer(SRC, PREV))  # it is applied twice


def test_sharing_requires_equal_vocabularies() -> None:
    with pytest.raises(ValueError, match="joined vocabulary"):
        Transformer(replace(BASE, share_all_embeddings=True), src_vocab_size=10, tgt_vocab_size=11, pad=PAD)


@every_config
def test_logits_are_features_times_output_weight(config: TransformerConfig) -> None:
    model = make_model(config)
    if config.layout == "marian":
        torch.nn.init.normal_(model.output_proj.bias)  # it is 0 at first
    features_BTD = model.decode(PREV, model.encode(SRC))
    torch.testing.assert_close(features_BTD @ model.output_weight_VD.t(), model(SRC, PREV))


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_is_applied_only_in_training(rate: str) -> None:
    rates = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    without = make_model(replace(BASE, **rates))
    model = make_model(replace(BASE, **{**rates, rate: 0.5}))
    assert torch.equal(model(SRC, PREV), without(SRC, PREV))
    assert torch.equal(without.train()(SRC, PREV), without.eval()(SRC, PREV))
    model.train()
    assert not torch.equal(model(SRC, PREV), model(SRC, PREV))


@every_config
def test_every_parameter_gets_a_gradient(config: TransformerConfig) -> None:
    model = make_model(config)
    model(SRC, PREV).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_embeddings_are_initialised_as_in_fairseq() -> None:
    torch.manual_seed(1)
    config = replace(BASE, encoder_embed_dim=64, decoder_embed_dim=64)
    model = Transformer(config, src_vocab_size=500, tgt_vocab_size=500, pad=PAD)
    for weight in (model.src_embed.tokens.weight, model.tgt_embed.tokens.weight, model.output_proj.weight):
        assert float(weight.detach().std()) == pytest.approx(64**-0.5, rel=0.03)
    assert not model.src_embed.tokens.weight[PAD].any()
    assert not model.tgt_embed.tokens.weight[PAD].any()


def test_feed_forward_keeps_no_more_than_inputs_and_activation() -> None:
    """ReLU out of place keeps its result only, and autograd copies no gradient (CopySlices)."""
    layer = make_model(BASE).encoder_layers[0].ffn
    assert isinstance(layer, FeedForward)
    x_BSD = torch.randn(3, 5, 16, dtype=torch.float64, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out_BSD = layer(x_BSD)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    activations = [size for address, size in kept.items() if address not in parameters]
    assert sum(activations) == 3 * 5 * (16 + 24) * 8  # inputs of the two linear layers; the second is ReLU's result
    names, nodes = set(), [out_BSD.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None and node.name() not in names:
            names.add(node.name())
            nodes += [previous for previous, _ in node.next_functions]
    assert "CopySlices" not in names


def test_the_cache_takes_any_number_of_rows_of_each_sentence() -> None:
    """Rows that were repeated, moved and removed continue like rows that were decoded from the start."""
    model = make_model(BASE)
    sources = torch.tensor([[5, 6, 7, EOS], [8, EOS, PAD, PAD], [9, 10, EOS, PAD]])
    with torch.inference_mode():
        cache = model.start_cache(model.encode(sources), beam=1, max_len=2)
        model.decode_step(torch.tensor([EOS, EOS, EOS]), cache)
        cache.take_rows(torch.tensor([0, 0, 2]), torch.tensor([0, 0, 2]))
        model.decode_step(torch.tensor([5, 6, 7]), cache)
        cache.take_rows(torch.tensor([1, 2, 2, 2]), torch.tensor([0, 1, 1, 1]))
        found = model.decode_step(torch.tensor([8, 9, 10, 11]), cache)
        prefixes = torch.tensor([[EOS, 6, 8], [EOS, 7, 9], [EOS, 7, 10], [EOS, 7, 11]])
        expected = model(sources[[0, 2, 2, 2]], prefixes)[:, -1]
    torch.testing.assert_close(found, expected)
