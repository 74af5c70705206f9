"""A packed row gives each sentence what the padded batch gives it: outputs and gradients, in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from kdmt.corpus.packing import PackingShape, pack, shift_right
from kdmt.errors import UserError
from kdmt.models.architecture import architecture
from kdmt.models.build import build_transformer
from kdmt.models.packed_attention import load_flash, packed_attention, uses_flash
from kdmt.models.transformer import Transformer
from kdmt.types import EOS, PAD, Packing

VOCAB = 40
LENGTHS = [5, 1, 9, 3, 7]
TARGETS = [2, 8, 9, 1, 4]
SHAPE = PackingShape(max_tokens=40, max_length=9, max_sentences=6)


def packing_of(lengths: list[int]) -> Packing:
    return packed([np.full(length, EOS) for length in lengths])[1]


def packed(sentences: list[np.ndarray]) -> tuple[torch.Tensor, Packing]:
    return pack(np.concatenate(sentences), np.array(list(map(len, sentences))), SHAPE)


def attention_by_sentence(q_NHC: torch.Tensor, k_NHC: torch.Tensor, v_NHC: torch.Tensor, causal: bool) -> torch.Tensor:
    """softmax(q k' / sqrt(C)) v, one sentence after another, by the formula."""
    found, start, begin = [], 0, 0
    for keys, queries in zip(LENGTHS, LENGTHS if causal else TARGETS, strict=True):
        q, k, v = q_NHC[start : start + queries], k_NHC[begin : begin + keys], v_NHC[begin : begin + keys]
        scores_HTS = torch.einsum("thc,shc->hts", q, k) / q.size(-1) ** 0.5
        if causal:
            scores_HTS = scores_HTS.masked_fill(torch.ones(queries, keys).triu(1).bool(), -torch.inf)
        found.append(torch.einsum("hts,shc->thc", scores_HTS.softmax(-1), v))
        start, begin = start + queries, begin + keys
    return torch.cat(found)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_stays_inside_each_sentence(causal: bool) -> None:
    torch.manual_seed(1)
    query, key, value = torch.randn(3, SHAPE.num_positions, 2, 4, dtype=torch.float64)
    keys, queries = packing_of(LENGTHS), packing_of(LENGTHS if causal else TARGETS)
    found_NHC = packed_attention(query, key, value, queries, keys, causal=causal)
    wanted_MHC = attention_by_sentence(query, key, value, causal)
    assert torch.allclose(found_NHC[: len(wanted_MHC)], wanted_MHC, atol=1e-12)
    assert found_NHC.isfinite().all()


@pytest.mark.parametrize(
    ("device_type", "dtype", "head_width", "expected"),
    [
        ("cuda", torch.bfloat16, 64, True),
        ("cuda", torch.float16, 256, True),
        ("cuda", torch.float32, 64, False),
        ("cuda", torch.bfloat16, 260, False),
        ("cuda", torch.bfloat16, 12, False),
        ("cpu", torch.bfloat16, 64, False),
    ],
)
def test_flash_attention_is_used_where_it_can_be(
    device_type: str, dtype: torch.dtype, head_width: int, expected: bool
) -> None:
    load_flash()
    assert uses_flash(device_type, dtype, head_width) is expected


def test_flash_attention_is_not_used_where_pytorch_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdmt.models.packed_attention._varlen_attn", None)
    assert not uses_flash("cuda", torch.bfloat16, 64)


def test_models_are_loaded_without_the_modules_of_compilation() -> None:
    """They take a second, which every process that loads a model would need."""
    program = "import sys, kdmt.models.build; print('torch._dynamo' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def model_of(**settings: Any) -> Transformer:
    torch.manual_seed(2)
    config = architecture("transformer_tiny", {"dropout": 0.0, **settings})
    return build_transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).double()


def padded(sentences: list[np.ndarray]) -> torch.Tensor:
    rows = [torch.from_numpy(sentence).long() for sentence in sentences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"encoder_normalize_before": True, "decoder_normalize_before": True, "layernorm_embedding": True},
        {"encoder_learned_pos": True, "decoder_learned_pos": True, "activation_fn": "gelu"},
        {"layout": "marian"},
        {"layout": "marian", "decoder": "ssru", "decoder_layers": 1},
    ],
)
def test_a_model_reads_packed_sentences_as_padded_ones(settings: dict[str, Any]) -> None:
    rng, model = np.random.default_rng(3), model_of(**settings)
    sources, targets = (
        [np.append(rng.integers(4, VOCAB, length - 1), EOS) for length in lengths] for lengths in (LENGTHS, TARGETS)
    )
    src_BS, tgt_BT = padded(sources), padded(targets)
    prev_BT = tgt_BT.roll(1, 1).masked_fill(tgt_BT.eq(PAD), PAD)
    prev_BT[:, 0] = EOS
    wanted_MV = model(src_BS, prev_BT)[tgt_BT.ne(PAD)]
    (src_1N, source), (tgt_1N, target) = packed(sources), packed(targets)
    encoded = model.encode(src_1N, packing=source)
    found_1ND = model.decode(shift_right(tgt_1N, target), encoded, packing=target)
    found_MV = found_1ND[0, : target.num_tokens] @ model.output_weight_VD.t()
    assert torch.allclose(found_MV, wanted_MV, atol=1e-10)
    weights = torch.randn_like(wanted_MV)
    wanted = torch.autograd.grad((wanted_MV * weights).sum(), list(model.parameters()))
    found = torch.autograd.grad((found_MV * weights).sum(), list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found, wanted, strict=True))


def test_padded_batches_use_no_program_of_packed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, compiled = model_of(), list[str]()
    for layer in model.encoder_layers:
        monkeypatch.setattr(layer, "compile", lambda **_: None)
        monkeypatch.setattr(layer, "_compiled_call_impl", lambda *inputs: compiled.append("program") or inputs[0])
    for layer in model.decoder_layers:
        monkeypatch.setattr(layer, "compile", lambda **_: None)
    model.compile_layers(packed=True)
    tokens = np.array([7, EOS])
    tokens_1N, packing = packed([tokens])
    model.encode(torch.from_numpy(tokens)[None])
    assert compiled == []
    model.encode(tokens_1N, packing=packing)
    assert len(compiled) == len(model.encoder_layers)


def test_positions_of_padding_are_within_those_of_a_model() -> None:
    """The longest sentence of the data set is a target, longer than the source positions of the model."""
    model = model_of(max_source_positions=4)
    tokens_1N, packing = packed([np.array([7, 8, EOS])])
    assert packing.max_length > 4
    assert model.encode(tokens_1N, packing=packing).states_BSD.isfinite().all()


def test_a_model_with_language_tokens_is_refused() -> None:
    model = model_of(source_token=5)
    tokens_1N, packing = packed([np.array([7, EOS])])
    with pytest.raises(UserError, match="language tokens"):
        model.encode(tokens_1N, packing=packing)
