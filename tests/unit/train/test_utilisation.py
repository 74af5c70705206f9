"""The formulas for floating-point operations compared with PyTorch's own counter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from copy_task import nat_objective
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kdmt.config import Student
from kdmt.corpus.batching import Batch, Extras
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.transformer import Transformer
from kdmt.objectives import edited
from kdmt.objectives.build import build_objective
from kdmt.objectives.objective import Objective, Prepared
from kdmt.train import utilisation
from kdmt.train.utilisation import peak_flops, training_flops
from kdmt.types import BOS, EOS, PAD

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
VOCAB = 60
SQUARE = replace(CONFIG, decoder_embed_dim=24, decoder_layers=3, share_all_embeddings=True)
ROWS, WIDTH = 24, 13


def batch_of(src_length: int = WIDTH, tgt_length: int = WIDTH, *, padding: int = 0) -> Batch:
    """Return sentences of equal lengths, with some columns of padding."""
    generator = torch.Generator().manual_seed(1)

    def side(length: int) -> Tensor:
        tokens = torch.full((ROWS, length + padding), PAD)
        tokens[:, : length - 1] = torch.randint(4, VOCAB, (ROWS, length - 1), generator=generator)
        tokens[:, length - 1] = EOS
        return tokens

    src, tgt = side(src_length), side(tgt_length)
    prev = tgt.roll(1, 1)
    prev[:, 0] = EOS
    return Batch(torch.arange(ROWS), src, prev, tgt, ROWS * tgt_length, ROWS * src_length)


def transformer(seed: int, config: TransformerConfig = SQUARE) -> Transformer:
    torch.manual_seed(seed)
    return build_transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)


def addmm_flops(total: tuple[int, ...], left: tuple[int, ...], right: tuple[int, ...], **_: Any) -> int:  # noqa: ARG001
    return 2 * left[0] * left[1] * right[1]


def count(objective: Objective, batch: Batch) -> tuple[float, Prepared]:
    """Return the operations that PyTorch counts for a batch, forward and backward."""
    torch.manual_seed(1)
    objective.train()
    prepared = objective.prepare(batch)
    # on a CPU the counter knows neither fused attention, nor products that are added in place
    mapping = {torch.ops.aten.addmm_: addmm_flops}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        terms = objective(prepared)
        torch.stack([term.sum * term.weight for term in terms.values() if term.weight]).sum().backward()
    return counter.get_total_flops(), prepared


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, encoder_layers=1, decoder_layers=4)], ids=["3+2", "1+4"])
def test_operations_of_a_teacher_are_those_that_pytorch_counts(config: TransformerConfig) -> None:
    objective = build_objective(transformer(1, config), label_smoothing=0.1)
    counted, prepared = count(objective, batch_of(7, 9))
    assert training_flops(objective, prepared) == counted


def test_padding_is_not_counted() -> None:
    objective = build_objective(transformer(1), label_smoothing=0.1)
    without, padded = (Prepared.of(batch_of(padding=padding)) for padding in (0, 5))
    assert training_flops(objective, padded) == training_flops(objective, without)


WITH_TEACHER: dict[str, tuple[dict[str, Any], int]] = {
    "word_kd": ({"word_kd": {}}, 1),
    "word_kd of two teachers": ({"word_kd": {}}, 2),
    "hidden states": ({"word_kd": {}, "hidden_kd": {}}, 1),
    "follower": ({"word_kd": {}, "online": {"kind": "ema", "decay": 0.9}}, 0),
    "peers": ({"word_kd": {}, "online": {"kind": "mutual", "peers": 2}}, 0),
    "masked language model": ({"self_supervised": {}}, 0),
}


@pytest.mark.parametrize("kind", WITH_TEACHER)
def test_operations_of_a_student_are_near_those_that_pytorch_counts(kind: str) -> None:
    section, num_teachers = WITH_TEACHER[kind]
    objective = build_objective(
        transformer(1),
        Student.model_validate(section),
        label_smoothing=0.1,
        teachers=[transformer(2 + number).eval() for number in range(num_teachers)],
    )
    counted, prepared = count(objective, batch_of())
    assert training_flops(objective, prepared) == pytest.approx(counted, rel=0.03)


def test_operations_of_denoising_are_those_that_pytorch_counts() -> None:
    student = Student.model_validate({"self_supervised": {"denoising": {}}})
    objective = build_objective(transformer(1), student, label_smoothing=0.1)
    batch = replace(batch_of(7, 9), extras=Extras(denoising=batch_of(5, 11)))
    counted, prepared = count(objective, batch)
    assert training_flops(objective, prepared) == pytest.approx(counted, rel=1e-9)


NONAUTOREGRESSIVE: dict[str, dict[str, Any]] = {
    "nat": {"family": "nat"},
    "nat with glancing": {"family": "nat", "glancing": [(0, 0.5)]},
    "nat with deep supervision": {"family": "nat", "deep_supervision": 1.0},
    "cmlm": {"family": "cmlm"},
    "cmlm with correction": {"family": "cmlm", "correction": 0.5},
    "inat": {"family": "inat"},
    "nat_crf": {"family": "nat_crf", "crf_candidates": 8},
    "ctc": {"family": "ctc"},
    "ctc with glancing": {"family": "ctc", "glancing": [(0, 0.5)]},
    "nat with layer-wise predictions": {"family": "nat", "deep_supervision": 1.0, "dslp": True, "dslp_mixing": 0.3},
    "ctc with layer-wise predictions": {"family": "ctc", "deep_supervision": 1.0, "dslp": True, "dslp_mixing": 0.3},
    "dag": {"family": "dag"},
    "dag with glancing and deep supervision": {"family": "dag", "glancing": [(0, 0.5)], "deep_supervision": 1.0},
    "levenshtein": {"family": "levenshtein"},
    "insertion": {"family": "insertion"},
}


def nonautoregressive(section: dict[str, Any]) -> Objective:
    torch.manual_seed(1)
    nat = NATConfig(family=section["family"], upsample=2, crf_rank=4, dslp=section.get("dslp", False))
    model = build_nonautoregressive(SQUARE, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    return nat_objective(model, **{key: value for key, value in section.items() if key != "family"})


@pytest.mark.parametrize("kind", NONAUTOREGRESSIVE)
def test_operations_of_a_nonautoregressive_student_are_near_those_that_pytorch_counts(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # drafts of the expected length, since PyTorch counts padding
    kept = round(0.35 * (WIDTH - 1))
    monkeypatch.setattr(edited, "_leave_out", lambda framed: torch.cat([framed[:, : kept + 1], framed[:, -1:]], 1))
    objective = nonautoregressive(NONAUTOREGRESSIVE[kind])
    objective.before_update(0)
    counted, prepared = count(objective, batch_of())
    assert training_flops(objective, prepared) == pytest.approx(counted, rel=0.05)


def test_peak_is_found_by_the_name_of_the_device() -> None:
    assert peak_flops("NVIDIA H200") == peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA L40") is None  # not the L4
    assert peak_flops("NVIDIA RTX A4000") is None


def test_drafts_have_the_expected_length() -> None:
    torch.manual_seed(1)
    framed = torch.randint(4, VOCAB, (4000, 12))
    framed[:, 0], framed[:, -1] = BOS, EOS
    words = edited._leave_out(framed).ne(PAD).sum() - 2 * len(framed)
    assert float(words) == pytest.approx(utilisation._KEPT_IN_DRAFTS * 10 * len(framed), rel=0.05)
