"""Tests that exported models give the same results as in PyTorch, and that failed exports leave no files."""

from __future__ import annotations

import errno
import json
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import ctranslate2
import numpy as np
import pytest
import torch
from small_transformers import (
    CONFIGS,
    POSITIONS,
    POST_NORM,
    make_model,
    make_sources,
    symbols,
    vocabulary_sizes,
    write_text_processing,
)
from tiny_pipeline import hash_tree, kdmt

from kdmt.checksum import verify_checkpoint
from kdmt.config import Decode
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.errors import UserError
from kdmt.interop import export_folder as exported
from kdmt.interop.ctranslate2_export import Quantization, export_checkpoint, export_model
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import build_nonautoregressive, build_transformer, describe_model
from kdmt.models.checkpoint import save_checkpoint
from kdmt.models.transformer import Transformer

LENGTHS = [1, 5, 9, 20, 3]
SOURCES = make_sources(LENGTHS)
TARGETS = make_sources([4, 20, 0, 7, 9], seed=1)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def export(
    model: Transformer, folder: Path, *, quantization: Quantization = "float32", companions: tuple[Path, ...] = ()
) -> Path:
    src_size, tgt_size = vocabulary_sizes(model.config)
    src, tgt = symbols(src_size, "s"), symbols(tgt_size, "s" if model.config.share_all_embeddings else "t")
    export_model(model, folder, src_symbols=src, tgt_symbols=tgt, quantization=quantization, companions=companions)
    return folder


def ctranslate2_log_probs(folder: Path, config: TransformerConfig, compute_type: str = "float32") -> list[list[float]]:
    """Return the teacher-forced log-probabilities of the targets, including </s>."""
    src_size, tgt_size = vocabulary_sizes(config)
    src, tgt = symbols(src_size, "s"), symbols(tgt_size, "s" if config.share_all_embeddings else "t")
    translator = ctranslate2.Translator(str(folder), intra_threads=1, compute_type=compute_type)
    results = translator.score_batch(
        [[src[token] for token in source] for source in SOURCES],
        [[tgt[token] for token in target[:-1]] for target in TARGETS],
    )
    return [result.log_probs for result in results]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_log_probabilities_equal_pytorch(tmp_path: Path, config: TransformerConfig) -> None:
    model = make_model(config)
    found = ctranslate2_log_probs(export(model, tmp_path / "out"), config)
    for mine, expected in zip(found, TorchEngine(model).score_pairs(SOURCES, TARGETS), strict=True):
        assert mine == pytest.approx(expected.tolist(), abs=1e-4)


def test_exported_options_give_the_same_search_as_kdmt(tmp_path: Path) -> None:
    """CTranslate2 is used directly: the input has </s>, and `translate.json` holds the keyword arguments."""
    folder, decode = tmp_path / "out", Decode(beam=3, lenpen=0.6, max_len_a=0.0, max_len_b=POSITIONS - 1)
    src, tgt = symbols(15, "s"), symbols(18, "t")
    export_model(make_model(eos_logit=0.0), folder, src_symbols=src, tgt_symbols=tgt, decode=decode)
    options = json.loads((folder / "translate.json").read_text())
    theirs = ctranslate2.Translator(str(folder), intra_threads=1).translate_batch(
        [[src[token] for token in source] for source in SOURCES], **options
    )
    ours = CTranslate2Engine(folder).decode(SOURCES, decode)
    assert [result.hypotheses[0] for result in theirs] == [[tgt[token] for token in nbest[0].tokens] for nbest in ours]
    assert any(0 < len(nbest[0].tokens) < POSITIONS - 1 for nbest in ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_of_other_dtypes_are_exported(tmp_path: Path, dtype: torch.dtype) -> None:
    model = make_model(dtype=dtype)
    found = ctranslate2_log_probs(export(model, tmp_path / "out"), POST_NORM)
    expected = TorchEngine(model.double()).score_pairs(SOURCES, TARGETS)
    assert np.concatenate(found) == pytest.approx(np.concatenate(expected), abs=1e-4)


@pytest.mark.parametrize("quantization", get_args(Quantization))
@pytest.mark.parametrize("name", ["post-norm", "everything at once"])
def test_export_does_not_change_the_model(tmp_path: Path, name: str, quantization: Quantization) -> None:
    model = make_model(CONFIGS[name], dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    export(model, tmp_path / "out", quantization=quantization)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert torch.equal(tensor, before[name])


def test_int8_is_smaller_and_close_to_float32(tmp_path: Path) -> None:
    model = make_model()
    sizes = {}
    for quantization in ("float32", "int8"):
        folder = export(model, tmp_path / quantization, quantization=quantization)
        sizes[quantization] = (folder / "model.bin").stat().st_size
    # computed in float32: in int8, an x86 CPU without VNNI would saturate on weights of this size
    found = np.concatenate(ctranslate2_log_probs(tmp_path / "int8", POST_NORM))
    expected = np.concatenate(TorchEngine(model).score_pairs(SOURCES, TARGETS))
    assert sizes["int8"] < 0.6 * sizes["float32"]  # positions and norms are not quantised
    assert 1e-4 < abs(found - expected).max() < 0.5


# CTranslate2's number of each type in model.bin (ctranslate2/specs/model_spec.py): of matrices, and of norms
STORED = {
    "float32": (0, 0),
    "float16": (4, 4),
    "bfloat16": (5, 5),
    "int16": (2, 0),
    "int8": (1, 0),
    "int8_float32": (1, 0),
    "int8_float16": (1, 4),
    "int8_bfloat16": (1, 5),
}


@pytest.mark.parametrize("quantization", get_args(Quantization))
def test_weights_are_stored_in_the_given_types(tmp_path: Path, quantization: Quantization) -> None:
    model = make_model()
    folder = export(model, tmp_path / "out", quantization=quantization)
    types = stored_types(folder / "model.bin")
    assert (types["encoder/layer_0/ffn/linear_0/weight"], types["encoder/layer_0/ffn/layer_norm/gamma"]) == STORED[
        quantization
    ]
    found = np.concatenate(ctranslate2_log_probs(folder, POST_NORM))  # computed in float32
    expected = np.concatenate(TorchEngine(model).score_pairs(SOURCES, TARGETS))
    assert found == pytest.approx(expected, abs=1e-4 if quantization == "float32" else 0.5)


def stored_types(path: Path) -> dict[str, int]:
    """Return the type number of each variable of a `model.bin`."""
    data, place = path.read_bytes(), 0

    def take(form: str) -> tuple[int, ...]:
        nonlocal place
        place += struct.calcsize(form)
        return struct.unpack_from(form, data, place - struct.calcsize(form))

    def string() -> str:
        nonlocal place
        (size,) = take("<H")
        place += size
        return data[place - size : place - 1].decode()

    take("<I"), string()
    types = {}
    for _ in range(take("<II")[1]):
        name = string()
        take(f"<{take('<B')[0]}I")
        types[name], size = take("<BI")
        place += size
    return types


def test_folder_contains_description_companions_and_checksums(tmp_path: Path) -> None:
    model = make_model()
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "codes").write_text("a b\n")
    (tmp_path / "text.json").write_text("{}")
    folder = export(model, tmp_path / "out", companions=(tmp_path / "tokenizer", tmp_path / "text.json"))
    assert json.loads((folder / "model.json").read_text()) == describe_model(model)
    assert (folder / "tokenizer" / "codes").read_text() == "a b\n"
    assert (folder / "text.json").read_text() == "{}"
    config = json.loads((folder / "config.json").read_text())
    assert (config["decoder_start_token"], config["add_source_eos"], config["add_source_bos"]) == ("</s>", False, False)
    assert json.loads((folder / "source_vocabulary.json").read_text()) == symbols(15, "s")
    verify_checkpoint(folder)
    (folder / "model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.bin"):
        verify_checkpoint(folder)


# ----------------------------------------------------------------------------------------------------- refused models


@pytest.mark.parametrize("family", ["nat", "cmlm", "ctc", "dag"])
def test_non_autoregressive_model_is_refused(tmp_path: Path, family: str) -> None:
    nat = NATConfig(family=family)  # type: ignore[arg-type]
    model = build_nonautoregressive(POST_NORM, nat, src_vocab_size=15, tgt_vocab_size=18)
    with pytest.raises(UserError, match=f"no decoder for a '{family}' model"):
        export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("src", "tgt", "message"),
    [
        (symbols(14), symbols(18), "source dictionary has 14 symbols, the model 15"),
        (symbols(15), symbols(19), "target dictionary has 19 symbols, the model 18"),
        (symbols(15), [*symbols(17), "4"], "target dictionary lists '4' twice"),
        (symbols(19)[4:], symbols(18), "source dictionary does not begin with <s> <pad> </s> <unk>"),
    ],
)
def test_incompatible_dictionaries_are_refused(tmp_path: Path, src: list[str], tgt: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        export_model(make_model(), tmp_path / "out", src_symbols=src, tgt_symbols=tgt)
    assert list(tmp_path.iterdir()) == []


def test_a_decoder_with_ssrus_is_refused(tmp_path: Path) -> None:
    model = make_model(replace(POST_NORM, decoder="ssru"))
    with pytest.raises(
        UserError, match=r"SSRUs .*Marian, Bergamot, ONNX Runtime and PyTorch run the model; .*self_attention"
    ):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tied_decoder_layers_are_exported(tmp_path: Path) -> None:
    model = make_model(replace(POST_NORM, tied_decoder_layers=True))
    found = ctranslate2_log_probs(export(model, tmp_path / "out"), model.config)
    for mine, expected in zip(found, TorchEngine(model).score_pairs(SOURCES, TARGETS), strict=True):
        assert mine == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_side_without_layers_is_refused(tmp_path: Path) -> None:
    config = TransformerConfig(encoder_layers=0, decoder_layers=1, encoder_embed_dim=16, decoder_embed_dim=16)
    with pytest.raises(UserError, match=r"no encoder without layers \(model\.encoder_layers is 0\)"):
        export(make_model(config), tmp_path / "out")


def test_unknown_quantization_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quantization 'int4' is none of float32, float16, bfloat16, int16, int8"):
        export(make_model(), tmp_path / "out", quantization="int4")  # type: ignore[arg-type]


def test_missing_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(UserError, match="pip install ctranslate2"):
        export(make_model(), tmp_path / "out")


# ------------------------------------------------------------------------------------------------------ failed exports


def test_existing_folder_is_not_changed(tmp_path: Path) -> None:
    folder = export(make_model(), tmp_path / "out")
    before = hash_tree(tmp_path)
    with pytest.raises(UserError, match="exists already"):
        export(make_model(seed=1), folder)
    assert hash_tree(tmp_path) == before


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_export_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(_: Path) -> str:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(exported, "file_sha256", fail)  # called when all files except the last one are written
        with pytest.raises(type(error)):
            export(make_model(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_next_export_removes_the_files_of_a_killed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(exported, "file_sha256", killed)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed process does not clean up
        with pytest.raises(KeyboardInterrupt):
            export(make_model(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [".partial-out"]
    export(make_model(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# ---------------------------------------------------------------------------------------------------------- shortlists


# ------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Make a run with a checkpoint that contains its tokenizer and dictionaries."""
    size, companions = write_text_processing(tmp_path / "prepare")
    config = replace(POST_NORM, share_all_embeddings=True)
    model = build_transformer(config, src_vocab_size=size, tgt_vocab_size=size)
    save_checkpoint(tmp_path / "run" / "average", model, companions=companions)
    return tmp_path / "run" / "average"


def test_export_by_command(tmp_path: Path, checkpoint: Path) -> None:
    out = tmp_path / "out"
    result = kdmt("export", "--to", "ctranslate2", checkpoint.parent, out, "--quantization", "int8")
    assert (result.code, result.err) == (0, f"{checkpoint.parent}: opened {checkpoint}\n")
    kept = {name for name in hash_tree(checkpoint) if name.startswith(("tokenizer", "text", "dict"))}
    assert len(kept) == 5
    assert {name: hash_tree(out)[name] for name in kept} == {name: hash_tree(checkpoint)[name] for name in kept}
    before = hash_tree(out)
    again = kdmt("export", "--to", "ctranslate2", checkpoint, out)
    assert again.code == 2
    assert f"{out}: exists already; nothing was written" in again.err
    assert hash_tree(out) == before
    export_checkpoint(checkpoint, tmp_path / "other", quantization="int8")
    without_card = {name: sha for name, sha in before.items() if name not in ("README.md", "checksums.json")}
    other = hash_tree(tmp_path / "other")
    assert {name: sha for name, sha in other.items() if name != "checksums.json"} == without_card


def test_options_of_the_command_are_exported(tmp_path: Path, checkpoint: Path) -> None:
    out = tmp_path / "out"
    assert kdmt("export", "--to", "ctranslate2", checkpoint, out, "--beam", "3", "--lenpen", "0.6").code == 0
    options = json.loads((out / "translate.json").read_text())
    assert (options["beam_size"], options["length_penalty"]) == (3, 0.6)


def test_translate_reads_an_exported_model(tmp_path: Path, checkpoint: Path) -> None:
    export_checkpoint(checkpoint, tmp_path / "out")
    stdin = b"abba ba\n\nbab\n"
    mine, torchs = (kdmt("translate", folder, "--beam", "3", stdin=stdin) for folder in (tmp_path / "out", checkpoint))
    assert mine == torchs
    assert mine.code == 0
    assert len(mine.out.splitlines()) == 3


def test_export_of_other_folders_is_refused(tmp_path: Path) -> None:
    result = kdmt("export", "--to", "ctranslate2", tmp_path, tmp_path / "out")
    assert result.code == 2
    assert not (tmp_path / "out").exists()
    assert kdmt("export", "--to", "elsewhere", tmp_path, tmp_path / "out").code == 2
