"""Tests of Marian's model files: golden files of the real Marian, and the layout of int8 matrices."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdmt.errors import UserError
from kdmt.interop.marian import files
from kdmt.interop.marian.files import MarianModel

GOLDEN = Path(__file__).parents[3] / "golden" / "marian"


def offsets(data: bytes) -> tuple[list[tuple[int, int, int, int]], int]:
    """Return the headers of a binary file and the place of the first data."""
    _, count = struct.unpack_from("<QQ", data)
    headers = [struct.unpack_from("<4Q", data, 16 + 32 * number) for number in range(count)]
    place = 16 + 32 * count + sum(header[0] + 4 * header[2] for header in headers)
    (skipped,) = struct.unpack_from("<Q", data, place)
    return headers, place + 8 + skipped


def test_binary_file_equals_that_of_marian(tmp_path: Path) -> None:
    model = files.read_model(GOLDEN / "ssru.npz")
    files.write_binary(tmp_path / "mine.bin", model)
    mine, theirs = (path.read_bytes() for path in (tmp_path / "mine.bin", GOLDEN / "ssru.bin"))
    (own, first), (real, real_first) = offsets(mine), offsets(theirs)
    assert first == real_first
    assert first % 256 == 0
    assert own[:-1] == real[:-1]  # the last one has the options, which are spelled differently
    size = sum(header[3] for header in own[:-1])
    assert mine[first : first + size] == theirs[first : first + size]


def test_npz_and_binary_file_of_marian_are_read_alike() -> None:
    npz, binary = (files.read_model(GOLDEN / name) for name in ("ssru.npz", "ssru.bin"))
    assert npz.options == binary.options
    assert npz.parameters.keys() == binary.parameters.keys()
    assert all(np.array_equal(npz.parameters[name], binary.parameters[name]) for name in npz.parameters)


def test_written_npz_is_read_again_and_repeats(tmp_path: Path) -> None:
    model = files.read_model(GOLDEN / "attention.npz")
    for name in ("a.npz", "b.npz"):
        files.write_npz(tmp_path / name, model)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = files.read_model(tmp_path / "a.npz")
    assert again.options == model.options
    assert all(np.array_equal(again.parameters[name], array) for name, array in model.parameters.items())


def test_int8_matrices_are_transposed_and_end_in_their_multiplier(tmp_path: Path) -> None:
    weight = np.array([[0.5, -1.0, 0.25], [0.1, 0.0, 2.0]], dtype=np.float32)
    embeddings = np.array([[1.0, -4.0], [0.5, 2.0]], dtype=np.float32)
    model = MarianModel({"encoder_l1_self_Wq": weight, "Wemb": embeddings}, {"type": "transformer"})
    files.write_binary(tmp_path / "m.bin", model, {"encoder_l1_self_Wq": 3.0})
    data = (tmp_path / "m.bin").read_bytes()
    headers, first = offsets(data)
    assert [header[1] for header in headers] == [0x4101, 0x4101, 0x0404, 0x0101]  # Wemb, Wq, alpha, options
    emb = np.frombuffer(data, np.int8, 4, first)
    assert emb.tolist() == [32, -127, 16, 64]  # round(127 / 4 * x), halves to even
    assert struct.unpack_from("<f", data, first + 4) == (np.float32(127.0) / np.float32(4.0),)
    second = first + headers[0][3]
    # columns of the matrix one after the other; 127 / 2 = 63.5
    assert np.frombuffer(data, np.int8, 6, second).tolist() == [32, 6, -64, 0, 16, 127]
    third = second + headers[1][3]
    assert struct.unpack_from("<f", data, third) == (3.0,)
    read = files.read_model(tmp_path / "m.bin")
    assert "encoder_l1_self_Wq_QuantMultA" not in read.parameters
    assert np.abs(read.parameters["encoder_l1_self_Wq"] - weight).max() <= 1 / 127
    assert np.abs(read.parameters["Wemb"] - embeddings).max() <= 2 / 127


def test_a_matrix_of_zeros_has_a_finite_multiplier() -> None:
    values, multiplier = files.quantize(np.zeros((2, 2), dtype=np.float32))
    assert not values.any()
    assert multiplier == 1.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("encoder_l1_self_Wq", True), ("decoder_l2_rnn_W", True), ("decoder_l1_ffn_W1", True), ("Wemb", True),
     ("decoder_l1_self_Wo_ln_scale", False), ("decoder_ff_logit_out_b", False), ("decoder_ff_logit_out_Wt", False)],
)  # fmt: skip
def test_matrices_for_int8_products(name: str, expected: bool) -> None:
    assert files.is_matrix(name) is expected


@pytest.mark.parametrize("name", ["ssru.npz", "ssru.bin"])
def test_a_cut_file_is_refused(tmp_path: Path, name: str) -> None:
    content = (GOLDEN / name).read_bytes()
    for size in (0, 7, len(content) // 3, len(content) - 2000):
        path = tmp_path / name
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=name):
            files.read_model(path)


def test_a_damaged_archive_gives_one_message(tmp_path: Path) -> None:
    arrays = dict(np.load(GOLDEN / "ssru.npz"))
    np.savez_compressed(tmp_path / "whole.npz", **{name: arrays[name] for name in (files.OPTIONS, "Wemb")})
    whole, path = (tmp_path / "whole.npz").read_bytes(), tmp_path / "x.npz"
    files.read_model(tmp_path / "whole.npz")
    rng, messages = np.random.default_rng(1), []
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= rng.integers(1, 256)
        path.write_bytes(damaged)
        try:
            files.read_model(path)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 30
    assert all(message.startswith(f"{path}: ") for message in messages)


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    whole = bytearray((GOLDEN / "ssru.npz").read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # flags of a member, and of its entry in the directory
        place = whole.find(signature)
        while place >= 0:
            whole[place + offset] |= 1
            place = whole.find(signature, place + 4)
    (tmp_path / "x.npz").write_bytes(whole)
    with pytest.raises(UserError, match=r"x\.npz: not a readable \.npz file: .*encrypted"):
        files.read_model(tmp_path / "x.npz")


def test_an_archive_without_options_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", Wemb=np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(UserError, match=r"not a model of Marian: it has no special:model\.yml"):
        files.read_model(tmp_path / "x.npz")


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", Wemb=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"x\.npz: not a readable \.npz file"):
        files.read_model(tmp_path / "x.npz")


def test_parameters_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = files.read_model(GOLDEN / "ssru.npz")
    broken = model.parameters | {"Wemb": np.full((2, 2), np.nan, dtype=np.float32)}
    files.write_npz(tmp_path / "x.npz", replace(model, parameters=broken))
    with pytest.raises(UserError, match="Wemb has values that are no finite"):
        files.read_model(tmp_path / "x.npz")
