"""Tests of the folder of a CTranslate2 model: its files, and which folders are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from small_transformers import POSITIONS, make_model, symbols, vocabulary_sizes, write_text_processing
from tiny_pipeline import hash_tree

from kdmt.checksum import file_sha256, verify_checkpoint
from kdmt.config import Decode
from kdmt.errors import UserError
from kdmt.interop.ctranslate2_export import export_model
from kdmt.interop.ctranslate2_folder import (
    Frame,
    ModelFolder,
    add_shortlist,
    check_weights,
    is_model_folder,
    proposed_search,
    translate_options,
)
from kdmt.models.build import build_transformer
from kdmt.models.checkpoint import save_checkpoint
from kdmt.models.transformer import Transformer
from kdmt.types import EOS, PAD, UNK


def export(model: Transformer, folder: Path) -> Path:
    src_size, tgt_size = vocabulary_sizes(model.config)
    export_model(model, folder, src_symbols=symbols(src_size, "s"), tgt_symbols=symbols(tgt_size, "t"))
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    size, companions = write_text_processing(tmp_path / "prepare")
    model = build_transformer(make_model().config, src_vocab_size=size, tgt_vocab_size=size)
    save_checkpoint(tmp_path / "run" / "average", model, companions=companions)
    return tmp_path / "run" / "average"


def write_file(folder: Path, name: str, content: object) -> None:
    """Write a JSON file of a folder and make the checksums fit."""
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    sums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
    (folder / "checksums.json").write_text(json.dumps(sums | {name: file_sha256(path)}), encoding="utf-8")


def describe(folder: Path, **changes: object) -> None:
    """Change keys of `model.json`."""
    values = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    write_file(folder, "model.json", {**values, **changes})


def test_round_trip(tmp_path: Path) -> None:
    folder = export(make_model(), tmp_path / "out")
    model = ModelFolder.open(folder)
    assert (model.max_source_positions, model.max_target_positions) == (POSITIONS, POSITIONS)
    assert model.src_symbols == symbols(15, "s")
    assert model.tgt_symbols == model.vocabulary == symbols(18, "t")
    assert model.frame == Frame((), ("</s>",), ())
    assert is_model_folder(folder)
    assert not is_model_folder(tmp_path)


def test_foreign_model_has_its_own_symbols_and_frame(tmp_path: Path) -> None:
    folder = export(make_model(), tmp_path / "out")
    ours = symbols(18, "t")[::-1]
    write_file(folder, "symbols.json", ours)
    frame = {"source_prefix": ["s5"], "source_suffix": ["</s>", "t6"], "target_prefix": ["t7"]}
    describe(folder, family="huggingface", src_vocab_size=18, frame=frame)
    with pytest.raises(UserError, match=r"model\.json: frame\.source_prefix: not a list of the model's tokens"):
        ModelFolder.open(folder)
    describe(folder, frame={**frame, "source_prefix": ["t5"]})
    model = ModelFolder.open(folder)
    assert model.frame == Frame(("t5",), ("</s>", "t6"), ("t7",))
    assert model.src_symbols == model.tgt_symbols == ours
    assert model.vocabulary == symbols(18, "t")
    describe(folder, frame={})
    with pytest.raises(UserError, match="frame: expected source_prefix, source_suffix, target_prefix"):
        ModelFolder.open(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "not a list of tokens"),
        (["<s>", 5], "not a list of tokens"),
        (["</s>", "a", "a"], "lists a token twice"),
        (["a", "b"], "has no </s>"),
        (["</s>", "a"], "its vocabulary has 2 tgt tokens, and model.json says 18"),
    ],
)
def test_invalid_vocabulary_is_refused(tmp_path: Path, content: object, message: str) -> None:
    folder = export(make_model(), tmp_path / "out")
    write_file(folder, "target_vocabulary.json", content)
    with pytest.raises(UserError, match=message):
        ModelFolder.open(folder)


def test_invalid_position_limit_is_refused(tmp_path: Path) -> None:
    folder = export(make_model(), tmp_path / "out")
    frame = {"source_prefix": [], "source_suffix": ["</s>"], "target_prefix": []}
    write_file(folder, "symbols.json", symbols(18, "t"))
    describe(folder, frame=frame, config={"max_source_positions": 0})
    with pytest.raises(UserError, match=r"model\.json: config\.max_source_positions: '0'"):
        ModelFolder.open(folder)


def test_folders_not_written_by_kdmt_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    for folder in (tmp_path, checkpoint):
        with pytest.raises(UserError, match="not a model that 'kdmt export --to ctranslate2' wrote"):
            ModelFolder.open(folder)
    with pytest.raises(UserError, match=r"has no lexical shortlist \(vmap\.txt\)"):
        ModelFolder.open(export(make_model(), tmp_path / "out"), shortlist=True)


# -------------------------------------------------------------------------------------------------------------- search


def test_proposed_search_equals_the_exported_options(tmp_path: Path) -> None:
    options = translate_options(Decode(beam=3, lenpen=0.6), 30)
    assert (options["beam_size"], options["length_penalty"], options["max_decoding_length"]) == (3, 0.6, 29)
    assert proposed_search(tmp_path) == {}
    (tmp_path / "translate.json").write_text(json.dumps(options), encoding="utf-8")
    assert proposed_search(tmp_path) == {"beam": 3, "lenpen": 0.6}


@pytest.mark.parametrize("content", ["x", "[]", "{}", '{"beam_size": 0, "length_penalty": 1}', '{"beam_size": 2}'])
def test_invalid_options_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "translate.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"translate\.json: "):
        proposed_search(tmp_path)


# ----------------------------------------------------------------------------------------------------------- shortlist


def test_shortlist_is_written_in_ctranslate2_format(tmp_path: Path) -> None:
    folder = export(make_model(), tmp_path / "out")
    before = hash_tree(folder)
    add_shortlist(folder, np.array([EOS, UNK, 7]), {9: np.array([6, PAD, 14]), 4: [5]})
    assert (folder / "vmap.txt").read_text() == "\t</s> <unk> t7\ns4\tt5\ns9\tt6 t14\n"
    verify_checkpoint(folder)
    assert {name for name, sha in hash_tree(folder).items() if before.get(name) != sha} == {
        "checksums.json",
        "vmap.txt",
    }
    add_shortlist(folder, [EOS], {})  # replaces the first shortlist
    assert (folder / "vmap.txt").read_text() == "\t</s>\n"
    verify_checkpoint(folder)
    (folder / "vmap.txt").unlink()
    with pytest.raises(UserError, match=r"vmap\.txt: the checkpoint's file is missing"):
        verify_checkpoint(folder)


@pytest.mark.parametrize(
    ("frequent", "of_token", "message"),
    [
        ([2, 18], {}, "the shortlist has token 18, the vocabulary 18 symbols"),
        ([2, -1], {}, "the shortlist has token -1"),
        ([2], {15: [4]}, "the shortlist has token 15, the vocabulary 15 symbols"),
    ],
)
def test_a_shortlist_of_another_vocabulary_is_refused(
    tmp_path: Path, frequent: list[int], of_token: dict[int, list[int]], message: str
) -> None:
    folder = export(make_model(), tmp_path / "out")
    before = hash_tree(folder)
    with pytest.raises(UserError, match=message):
        add_shortlist(folder, frequent, of_token)
    assert hash_tree(folder) == before


@pytest.mark.parametrize("broken", ["a b", "a\tb", "a\nb", " "])
def test_token_with_white_space_in_a_shortlist_is_refused(tmp_path: Path, broken: str) -> None:
    model, folder = make_model(), tmp_path / "out"
    tgt = [*symbols(17, "t"), broken]
    export_model(model, folder, src_symbols=symbols(15, "s"), tgt_symbols=tgt)
    add_shortlist(folder, [EOS, 16], {})
    with pytest.raises(UserError, match="a shortlist cannot hold"):
        add_shortlist(folder, [EOS, 17], {})


def test_shortlist_requires_an_exported_model(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(UserError, match="not a checkpoint"):
        add_shortlist(tmp_path, [EOS], {})
    with pytest.raises(UserError, match="not a model that 'kdmt export"):
        add_shortlist(checkpoint, [EOS], {})


# ----------------------------------------------------------------------------------------------------------- model.bin


def model_bin(numbers: np.ndarray, kind: int, *, version: int = 6) -> bytes:
    """Return a file with one variable `w`, as ctranslate2's model_spec.py writes it."""

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    content = numbers.tobytes()
    head = struct.pack("<I", version) + string("TransformerSpec") + struct.pack("<II", 3, 1)
    shape = struct.pack("<B", numbers.ndim) + struct.pack(f"<{numbers.ndim}I", *numbers.shape)
    return head + string("w") + shape + struct.pack("<BI", kind, len(content)) + content


@pytest.mark.parametrize(("dtype", "kind"), [("<f4", 0), ("<f2", 4)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_weights_are_refused(tmp_path: Path, dtype: str, kind: int, bad: float) -> None:
    path, numbers = tmp_path / "model.bin", np.ones((3, 4), dtype=dtype)
    path.write_bytes(model_bin(numbers, kind))
    check_weights(path)
    numbers[2, 1] = bad
    path.write_bytes(model_bin(numbers, kind))
    with pytest.raises(UserError, match=r"model\.bin: w has weights that are NaN or infinite"):
        check_weights(path)


def test_non_finite_bfloat16_weights_are_refused(tmp_path: Path) -> None:
    path, bits = tmp_path / "model.bin", np.array([0x3F80, 0xBF80, 0x7F00], dtype="<u2")  # 1, -1, a large number
    path.write_bytes(model_bin(bits, 5))
    check_weights(path)
    bits[1] = 0x7FC0  # NaN
    path.write_bytes(model_bin(bits, 5))
    with pytest.raises(UserError, match="NaN or infinite"):
        check_weights(path)


def test_truncated_file_is_refused_and_unknown_version_is_not_checked(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    whole = model_bin(np.ones(5, dtype="<f4"), 0)
    for size in (0, 3, 20, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="damaged or cut short"):
            check_weights(path)
    path.write_bytes(model_bin(np.full(5, np.nan, dtype="<f4"), 0, version=7))
    check_weights(path)
