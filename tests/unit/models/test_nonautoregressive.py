"""Tests of non-autoregressive models of every family."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from copy_task import TINY, VOCAB
from torch.nn import functional as F

from kdmt.errors import UserError
from kdmt.families import ALIGNED, EDITING, FAMILIES, POSITIONAL, FamilyName
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_model, build_nonautoregressive, describe_model
from kdmt.models.nonautoregressive import NATransformer
from kdmt.types import BOS, EOS, PAD, UNK


def small(family: FamilyName = "ctc", upsample: int = 2, *, layers: int = 1) -> NATransformer:
    torch.manual_seed(1)
    nat = NATConfig(family=family, upsample=upsample)
    config = replace(TINY, dropout=0.0, decoder_layers=layers)
    model = build_nonautoregressive(config, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    return model.double()


@pytest.mark.parametrize("family", [*POSITIONAL, *ALIGNED, *EDITING])
def test_model_is_rebuilt_from_its_description(family: FamilyName) -> None:
    model = small(family, upsample=3).float()
    again = build_model(describe_model(model))
    assert isinstance(again, NATransformer)
    assert again.nat == model.nat
    assert {name: each.shape for name, each in again.named_parameters()} == {
        name: each.shape for name, each in model.named_parameters()
    }


# ------------------------------------------------------------------------------- learned positions, GELU, decoder input


def learned(family: FamilyName, upsample: int = 3, **nat: Any) -> NATransformer:
    torch.manual_seed(1)
    config = replace(
        TINY, dropout=0.0, encoder_learned_pos=True, decoder_learned_pos=True, activation_fn="gelu", init="bert"
    )
    settings = NATConfig(family=family, upsample=upsample, **nat)
    return build_nonautoregressive(config, settings, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double()


def features_of_longest(model: NATransformer) -> torch.Tensor:
    """Return the decoder features of two sentences, of which the first has all positions that the model allows."""
    longest = model.config.max_source_positions
    src_tokens_BS = torch.full((2, longest), 5).index_fill(1, torch.tensor([longest - 1]), EOS)
    src_tokens_BS[1, 3], src_tokens_BS[1, 4:] = EOS, PAD
    encoded = model.encode(src_tokens_BS)
    if model.nat.family == "ctc":
        return model.decode_all(*model.upsample(src_tokens_BS), encoded)
    if model.nat.family == "dag":
        return model.decode_all(*model.vertices(src_tokens_BS), encoded)
    width = model.config.max_target_positions
    tokens_BT = torch.full((2, width), UNK).index_fill(1, torch.tensor([width - 1]), EOS)
    if model.family.positions == "draft":  # a draft has an <s> more
        return model.read_draft(F.pad(tokens_BT, (1, 0), value=BOS), encoded)
    return model.fill(src_tokens_BS, tokens_BT, encoded)


@pytest.mark.parametrize("layout", ["own", "fairseq"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_learned_position_of_the_longest_sentence_is_used_and_trained(family: FamilyName, layout: Any) -> None:
    if layout == "fairseq" and FAMILIES[family].fairseq is None:
        pytest.skip("fairseq does not have the family")
    model = learned(family, layout=layout)
    features_BLD = features_of_longest(model)
    positions = features_BLD.size(1) + (model.nat.frame if model.family.has_target_positions else 0)
    if FAMILIES[family].positions == "aligned":
        assert positions == 3 * model.config.max_source_positions
    features_BLD.square().sum().backward()
    for embed, used in ((model.src_embed, model.config.max_source_positions + model.nat.frame),
                        (model.tgt_embed, positions)):  # fmt: skip
        gradient = embed.positions.weight.grad
        assert gradient is not None
        assert gradient.shape == (PAD + 1 + used, model.config.decoder_embed_dim)
        assert gradient.any(1).tolist() == [False] * (PAD + 1) + [True] * used


@pytest.mark.parametrize("family", FAMILIES)
def test_learned_positions_with_the_values_of_sinusoids_give_the_same_features(family: FamilyName) -> None:
    model = learned(family)
    config = replace(model.config, encoder_learned_pos=False, decoder_learned_pos=False)
    fixed = build_nonautoregressive(config, model.nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double()
    others = {name: each for name, each in model.named_parameters() if "positions" not in name}
    fixed.load_state_dict(others, strict=False)
    for own, expected in ((model.src_embed, fixed.src_embed), (model.tgt_embed, fixed.tgt_embed)):
        table = expected.positions(0, len(own.positions.weight) - PAD - 1)
        with torch.no_grad():
            own.positions.weight[PAD + 1 :] = table
    torch.testing.assert_close(features_of_longest(model), features_of_longest(fixed), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_activation_is_gelu(family: FamilyName) -> None:
    layer = learned(family).decoder_layers[0].ffn
    x_TD = torch.linspace(-3, 3, 64, dtype=torch.float64).view(2, 32)
    hidden = layer.fc1(x_TD)
    expected = layer.fc2(hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)))
    torch.testing.assert_close(layer(x_TD), expected)


def test_ctc_inputs_are_copies_of_the_source_or_the_embedding_of_unk() -> None:
    src_tokens_BS = torch.tensor([[7, 8, EOS], [9, EOS, PAD]])
    copies, unknown = (small("ctc"), learned("ctc", 2, source_copy="none"))
    x_BLD, keep_BL = copies.upsample(src_tokens_BS)
    row_BSD = copies.src_embed.tokens.weight[src_tokens_BS] * 32**0.5
    torch.testing.assert_close(x_BLD, row_BSD.repeat_interleave(2, dim=1))
    x_BLD, also_BL = unknown.upsample(src_tokens_BS)
    assert torch.equal(keep_BL, also_BL)
    assert keep_BL.sum(1).tolist() == [6, 4]
    expected_D = unknown.tgt_embed.tokens.weight[UNK] * 32**0.5
    torch.testing.assert_close(x_BLD[keep_BL], expected_D.expand(10, -1))
    assert not x_BLD[~keep_BL].any()
    more_BLD, keep_BL = unknown.upsample(src_tokens_BS, torch.tensor([2, 5]))
    assert more_BLD.shape[:2] == (2, 10)
    assert keep_BL.sum(1).tolist() == [6, 10]


@pytest.mark.parametrize("family", ["nat", "inat", "nat_crf"])
def test_unknown_words_of_the_target_are_unk_without_copies_of_the_source(
    family: FamilyName, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = learned(family, source_copy="none"), []
    decode = model.decode_all
    monkeypatch.setattr(
        model, "decode_all", lambda x_BTD, *others, **more: (seen.append(x_BTD), decode(x_BTD, *others, **more))[1]
    )
    sources = torch.tensor([[7, 8, EOS]])
    shown_BT = torch.tensor([[UNK, 9, UNK, EOS]])
    model.fill(sources, shown_BT, model.encode(sources))
    torch.testing.assert_close(seen[0], model.tgt_embed.tokens.weight[shown_BT] * 32**0.5)


# ---------------------------------------------------------------------------------------------- layer-wise predictions


def predicting(family: FamilyName, *, pre_norm: bool = False, **nat: Any) -> NATransformer:
    torch.manual_seed(1)
    config = replace(TINY, dropout=0.0, decoder_layers=3, decoder_normalize_before=pre_norm)
    settings = NATConfig(family=family, upsample=2, dslp=True, **nat)
    model = build_nonautoregressive(config, settings, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    return model.double().eval()


DSLP: list[FamilyName] = ["nat", "cmlm", "ctc"]


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("family", DSLP)
@torch.no_grad()
def test_each_layer_reads_the_prediction_of_the_layer_below(family: FamilyName, pre_norm: bool) -> None:
    """Compute the recursion of Huang et al. 2022 for one sentence, with numpy between the layers."""
    model = predicting(family, pre_norm=pre_norm)
    source = torch.tensor([[7, 8, 9, EOS]])
    encoded = model.encode(source)
    if family == "ctc":
        x_BLD, keep_BL = model.upsample(source)
        found = model.decode_all(x_BLD, keep_BL, encoded)
    else:
        seen_BT = torch.tensor([[UNK, 6, UNK, UNK, EOS]])
        found = model.fill(source, seen_BT, encoded)
        copies = model._copied(source, seen_BT.ne(PAD)) if family == "nat" else model.tgt_embed.look_up(seen_BT)
        x_BLD = torch.where(seen_BT.eq(UNK)[:, :, None], copies, model.tgt_embed.look_up(seen_BT))
    hidden = model.tgt_embed.place(x_BLD)
    embeddings = model.tgt_embed.tokens.weight.numpy()
    outputs = embeddings if family != "ctc" else np.concatenate([embeddings, model.blank_1D.numpy()])
    predictions = []
    for number, layer in enumerate(model.decoder_layers):
        hidden = layer(hidden, encoded.states_BSD, None, None)
        if number == 2:
            break
        features = hidden if model.decoder_norm is None else model.decoder_norm(hidden)
        logits = features[0].numpy() @ outputs.T
        if family != "ctc":
            logits[:, PAD] = -np.inf
        predictions.append(logits.argmax(1))
        both = np.concatenate([hidden[0].numpy(), outputs[predictions[-1]] * 32**0.5], axis=1)
        hidden = torch.from_numpy(both @ model.layer_inputs[number].weight.numpy().T)[None]
    expected = hidden if model.decoder_norm is None else model.decoder_norm(hidden)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert len(set(predictions[0].tolist())) > 1


@pytest.mark.parametrize("family", DSLP)
def test_projections_of_predictions_are_trained_and_described(family: FamilyName) -> None:
    model = predicting(family)
    features_BLD = features_of_longest(model)
    features_BLD.square().sum().backward()
    assert len(model.layer_inputs) == 2
    for projection in model.layer_inputs:
        assert projection.weight.shape == (32, 64)
        assert projection.bias is None
        assert projection.weight.grad is not None
        assert bool(projection.weight.grad.abs().sum(0).all())  # both the hidden state and the embedding
    again = build_model(describe_model(model))
    assert isinstance(again, NATransformer)
    assert again.nat == model.nat
    assert again.nat.dslp


def test_revised_predictions_are_read_by_the_next_layer() -> None:
    model = predicting("ctc")
    source = torch.tensor([[7, 8, EOS]])
    x_BLD, keep_BL = model.upsample(source)
    encoded, calls = model.encode(source), []

    def keep(number: int, features_BLD: torch.Tensor, symbols_BL: torch.Tensor) -> torch.Tensor:
        calls.append((number, features_BLD, symbols_BL))
        return symbols_BL

    plain = model.decode_all(x_BLD, keep_BL, encoded)
    assert torch.equal(model.decode_all(x_BLD, keep_BL, encoded, revise=keep), plain)
    assert [number for number, _, _ in calls] == [0, 1]
    for _, features_BLD, symbols_BL in calls:
        assert torch.equal(model.best_symbols(features_BLD)[0], symbols_BL)
    other = model.decode_all(x_BLD, keep_BL, encoded, revise=lambda number, _, best: 12 - best if number else best)
    assert not torch.equal(other, plain)


@pytest.mark.parametrize(
    "settings", [{"family": "dag"}, {"family": "levenshtein"}, {"family": "cmlm", "layout": "fairseq"}]
)
def test_models_without_layer_wise_predictions_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"nat\.dslp: "):
        NATConfig(dslp=True, **settings)
