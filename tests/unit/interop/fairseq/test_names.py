"""Tests of finding the names in pickles without running code, against the lookups of the standard library."""

from __future__ import annotations

import argparse
import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from kdmt.interop.fairseq.names import HIDDEN, is_zip, named_in


class Call:
    """Object that is pickled as a function call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


GIVEN = {"a": Call(eval, "1"), "b": [Call(getattr, 1, "real")] * 2, "c": (argparse.Namespace(x=1), {2, 3})}


def legacy(folder: Path, program: bytes) -> Path:
    """Write a file in the format before PyTorch 1.6 whose content is the given pickle."""
    head = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
    path = folder / "old.pt"
    path.write_bytes(b"".join([*head, program, pickle.dumps([], protocol=2)]))
    return path


def archive(folder: Path, program: bytes) -> Path:
    """Write a file in the zip format of PyTorch 1.6 and later."""
    path = folder / "new.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("new/data.pkl", program)
        file.writestr("new/data/0", b"numbers")
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_names_equal_those_looked_up_by_pickle(tmp_path: Path, protocol: int) -> None:
    looked_up: set[str] = set()

    class Watching(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            real = super().find_class(module, name)
            looked_up.add(f"{real.__module__}.{real.__name__}")
            return real if real in (argparse.Namespace, set) else lambda *_: None

    program = pickle.dumps(GIVEN, protocol=protocol)
    Watching(io.BytesIO(program)).load()
    assert looked_up >= {"builtins.eval", "builtins.getattr"}
    assert named_in(legacy(tmp_path, program)) == looked_up
    assert named_in(archive(tmp_path, program)) == looked_up


def test_both_formats_of_pytorch_are_recognised(tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save(OrderedDict(w=torch.ones(2)), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        assert is_zip(tmp_path / "x.pt") == zipped
        assert named_in(tmp_path / "x.pt") == {
            "collections.OrderedDict",
            "torch.FloatStorage",
            "torch._utils._rebuild_tensor_v2",
        }


def test_computed_name_is_reported_as_hidden(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return b"\x8c" + struct.pack("<B", len(value)) + value.encode() + b"\x94"

    made_up = text("os") + text("sys") + b"\x85" + b"\x93"  # the name is a tuple, not a string
    assert named_in(legacy(tmp_path, b"\x80\x04" + made_up + b".")) == {HIDDEN}
    assert named_in(legacy(tmp_path, b"\x80\x04\x82\x05.")) == {HIDDEN}  # a number in the extension registry


def test_names_before_the_damage_are_found(tmp_path: Path) -> None:
    path = legacy(tmp_path, pickle.dumps(GIVEN, protocol=4))
    path.write_bytes(path.read_bytes()[:-60])
    assert "builtins.eval" in named_in(path)
    (tmp_path / "none").write_bytes(b"no pickle")
    assert named_in(tmp_path / "none") == set()
