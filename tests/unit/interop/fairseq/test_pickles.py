"""Tests of reading checkpoints without running code: objects other than tensors and settings are refused by name."""

from __future__ import annotations

import argparse
import builtins
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdmt.errors import UserError
from kdmt.interop.fairseq.names import HIDDEN, named_in
from kdmt.interop.fairseq.pickles import HARMLESS, Inert, is_checkpoint_file, plain, read_pickle

GOLDEN = Path(__file__).parents[3] / "golden" / "fairseq"


class Calls:
    """Object that is pickled as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def of_fairseq(monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes a class that is pickled like fairseq's class of that name."""

    def make(module: str, name: str, **members: Any) -> Any:
        made = type(name, (), {"__module__": module, **members})
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(parts[end - 1]))
        setattr(sys.modules[module], name, made)
        return made

    return make


def saved(tmp_path: Path, content: Any, **options: Any) -> Path:
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path, **options)
    return path


def content(**more: Any) -> dict[str, Any]:
    return {"args": argparse.Namespace(arch="transformer"), "model": OrderedDict(w=torch.ones(2)), **more}


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_and_tensors_are_read(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path, content(), _use_new_zipfile_serialization=zipped)
    found = read_pickle(path)
    assert torch.equal(found["model"]["w"], torch.ones(2))
    assert plain(found["args"]) == {"arch": "transformer"}
    assert isinstance(found["args"], Inert)


@pytest.mark.parametrize("case", sorted(path.stem for path in GOLDEN.glob("*.pt")))
def test_real_files_are_read(case: str) -> None:
    found = read_pickle(GOLDEN / f"{case}.pt")
    assert found["model"]["encoder.embed_tokens.weight"].dtype == torch.float32
    assert "fairseq" not in sys.modules
    assert "omegaconf" not in sys.modules


def test_meters_are_inert() -> None:
    meters = read_pickle(GOLDEN / "old_post_norm_shared.pt")["extra_state"]["train_meters"]
    assert [type(each).__name__ for each in meters.values()] == ["AverageMeter", "TimeMeter", "StopwatchMeter"]
    assert all(isinstance(each, Inert) for each in meters.values())


CALLS = {
    "posix.system": Calls(os.system, "touch harmed"),
    "builtins.eval": Calls(builtins.eval, "open('harmed', 'w')"),
    "builtins.exec": Calls(builtins.exec, "open('harmed', 'w')"),
    "builtins.getattr": Calls(builtins.getattr, Path("harmed"), "touch"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["top", "args", "model", "meters"])
def test_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, zipped: bool, where: str) -> None:
    monkeypatch.chdir(tmp_path)
    call = CALLS[name]
    given = {
        "top": content(optimizer=call),
        "args": content(args=argparse.Namespace(arch="transformer", hidden=[{"deeper": call}])),
        "model": content(model=OrderedDict(w=call)),
        "meters": content(extra_state={"train_meters": [call]}),
    }[where]
    path = saved(tmp_path, given, _use_new_zipfile_serialization=zipped)
    named = name if zipped else name.removeprefix("builtins.")
    with pytest.raises(UserError, match=rf"refused, since it carries .*{named}"):
        read_pickle(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_all_other_objects_are_named(tmp_path: Path, zipped: bool, protocol: int) -> None:
    given = content(a=CALLS["posix.system"], b=CALLS["builtins.eval"])
    path = saved(tmp_path, given, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    with pytest.raises(UserError, match=r"carries builtins\.eval, posix\.system: ") as refusal:
        read_pickle(path)
    assert_no_advice(refusal.value)


def assert_no_advice(error: Exception) -> None:
    """Check that the message does not contain PyTorch's advice to allow or run the content of the file."""
    assert "weights_only" not in str(error)
    assert "safe_globals" not in str(error)
    assert "trust" not in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("protocol", [4, 5])
def test_unsupported_protocol_is_refused(tmp_path: Path, protocol: int) -> None:
    with pytest.raises(UserError, match="not a checkpoint that can be read, or a damaged one: ") as refusal:
        read_pickle(saved(tmp_path, content(), pickle_protocol=protocol))
    assert_no_advice(refusal.value)


def legacy(tmp_path: Path, program: bytes) -> Path:
    """Write a file in the format before PyTorch 1.6 whose content is the given pickle."""
    head = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"".join([*head, program, pickle.dumps([], protocol=2)]))
    return path


def text(value: str) -> bytes:
    """Return the operations that push a string (SHORT_BINUNICODE) and memoize it."""
    return b"\x8c" + struct.pack("<B", len(value)) + value.encode() + b"\x94"


BENIGN = text("argparse") + text("Namespace")
HIDING = {  # operations of protocol 4 that look up a name, and that name
    "plain": (text("os") + text("system") + b"\x93", "os.system"),
    "remembered": (text("system") + text("os") + b"00" + b"h\x01" + b"h\x00" + b"\x93", "os.system"),
    "dropped": (text("os") + text("system") + BENIGN + b"00" + b"\x93", "os.system"),
    "under a mark": (text("os") + text("system") + b"(" + BENIGN + b"1" + b"\x93", "os.system"),
    "doubled": (text("code") + b"2" + b"\x93", "code.code"),
    "instance": (b"(ios\nsystem\n", "os.system"),
    "by number": (b"\x82\x05", HIDDEN),
    "made up": (text("os") + text("sys") + b"\x85" + b"\x93", HIDDEN),
}


@pytest.mark.parametrize("case", HIDING)
def test_names_are_found_for_all_operations(tmp_path: Path, case: str) -> None:
    program, name = HIDING[case]
    path = legacy(tmp_path, b"\x80\x04" + program + b".")
    assert named_in(path) == {name}
    with pytest.raises(UserError, match=rf"checkpoint\.pt: refused, since it carries {name}: "):
        read_pickle(path)


def test_names_before_the_damage_are_reported(tmp_path: Path) -> None:
    path = saved(tmp_path, content(a=CALLS["posix.system"]), _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"carries posix\.system: "):
        read_pickle(path)


def test_non_ascii_name_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"carries größe\.system: "):
        read_pickle(legacy(tmp_path, b"\x80\x02c" + "größe".encode() + b"\nsystem\n."))


def test_checkpoint_files_are_recognised(tmp_path: Path) -> None:
    assert all(is_checkpoint_file(path) for path in GOLDEN.glob("*.pt"))
    (tmp_path / "best").write_text("checkpoint_4\n")
    (tmp_path / "empty").touch()
    assert not any(map(is_checkpoint_file, (tmp_path, tmp_path / "best", tmp_path / "empty", tmp_path / "none")))


def test_other_classes_of_fairseq_are_refused(tmp_path: Path, of_fairseq) -> None:
    task = of_fairseq("fairseq.tasks.translation", "TranslationTask")
    with pytest.raises(UserError, match=r"carries fairseq\.tasks\.translation\.TranslationTask: "):
        read_pickle(saved(tmp_path, content(task_state=task())))


@pytest.mark.parametrize("zipped", [True, False])
def test_dictionaries_of_other_classes_keep_their_items(tmp_path: Path, of_fairseq, zipped: bool) -> None:
    meters = of_fairseq("fairseq.logging.meters", "MetersDict", __init__=_takes_anything)
    extra = Built(meters, (), {"priorities": [(1, 0, "loss")], "items": "no method"}, {"loss": 0.5})
    counts = defaultdict(list, {"seen": [1, 2]})
    path = saved(
        tmp_path, content(extra_state={"meters": extra, "counts": counts}), _use_new_zipfile_serialization=zipped
    )
    found = read_pickle(path)["extra_state"]
    assert plain(found) == {"meters": {"loss": 0.5}, "counts": {"seen": [1, 2]}}
    assert {type(each) for each in found.values()} == {OrderedDict}


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_numbers_of_numpy_are_inert(tmp_path: Path, module: str) -> None:
    path = saved(tmp_path, content(best=np.float64(0.5)), _use_new_zipfile_serialization=False)
    written = np.float64(0.5).__reduce__()[0].__module__.encode()
    assert path.read_bytes().count(written) == 1
    path.write_bytes(path.read_bytes().replace(written, module.encode()))
    assert type(read_pickle(path)["best"]) is HARMLESS[f"{module}.scalar"]


class Built(Calls):
    """Call whose result then receives a state, as with pickle's BUILD."""

    def __init__(
        self, function: Any, arguments: tuple[Any, ...], state: Any, items: dict[str, Any] | None = None
    ) -> None:
        self.call = (function, arguments, state, None, None if items is None else iter(items.items()))


def _takes_anything(*_: Any) -> None:
    pass


def test_stand_in_class_cannot_be_exploited(tmp_path: Path, of_fairseq) -> None:
    """It is called with any arguments and given any state: attributes of its class, another class, slots."""
    meter = of_fairseq("fairseq.meters", "AverageMeter", __init__=_takes_anything)
    states = [({"x": 1}, {"__class__": "y", "__reduce__": "z"}), {"__setstate__": "w", "fields": 1}, [1, 2], "text"]
    given = [Built(meter, ("touch", 3), state) for state in states]
    found = read_pickle(saved(tmp_path, content(extra_state=given)))["extra_state"]
    assert [type(each) for each in found] == [HARMLESS["fairseq.meters.AverageMeter"]] * len(states)
    assert [each.fields for each in found] == states
    assert [each.arguments for each in found] == [("touch", 3)] * len(states)


def test_fields_of_a_namespace_are_not_called(tmp_path: Path) -> None:
    """The fields of a namespace may have the names of methods."""
    path = saved(tmp_path, content(args=argparse.Namespace(get="x", __setstate__="y", arch="transformer")))
    assert plain(read_pickle(path)["args"]) == {"get": "x", "__setstate__": "y", "arch": "transformer"}


def test_allowed_classes_do_not_change_torch_load(tmp_path: Path) -> None:
    path = saved(tmp_path, content())
    read_pickle(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, zipped: bool, share: float) -> None:
    path = saved(tmp_path, content(w=torch.ones(500)), _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        UserError, match=r"checkpoint\.pt: not a checkpoint that can be read, or a damaged one"
    ) as refusal:
        read_pickle(path)
    assert_no_advice(refusal.value)


@pytest.mark.parametrize("text", [b"", b"not a checkpoint\n", b"\x80\x02", b"PK\x03\x04", bytes(1000)])
def test_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"checkpoint\.pt: not a checkpoint"):
        read_pickle(path)


def test_zip_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(UserError, match="not a checkpoint"):
        read_pickle(path)


@pytest.mark.parametrize("given", [[1, 2], torch.ones(3), {1: 2}, None])
def test_other_content_is_refused(tmp_path: Path, given: Any) -> None:
    with pytest.raises(UserError, match="not a fairseq checkpoint"):
        read_pickle(saved(tmp_path, given))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.pt: there is no such file"):
        read_pickle(tmp_path / "absent.pt")


def test_recursive_settings_are_refused(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    found = read_pickle(saved(tmp_path, content(cfg=endless)))
    with pytest.raises(UserError, match="nested too deeply"):
        plain(found["cfg"])


def test_shared_settings_are_visited_once(tmp_path: Path) -> None:
    """Each of 30 levels contains the next level twice: expanded, these would be 2 ** 30 values."""
    settings: Any = "x"
    for _ in range(30):
        settings = [settings, settings]
    assert plain(read_pickle(saved(tmp_path, content(cfg=settings)))["cfg"])[1][0][1] is not None


def test_tensors_in_settings_are_refused(tmp_path: Path) -> None:
    found = read_pickle(saved(tmp_path, content(cfg={"model": {"adaptive_input": torch.ones(3)}})))
    with pytest.raises(UserError, match="there is a tensor"):
        plain(found["cfg"])


def test_attributes_of_a_dictionary_do_not_hide_its_methods(tmp_path: Path) -> None:
    attributes = dict.fromkeys(("get", "items", "keys"), "no method")
    given = Built(OrderedDict, (), attributes, content(cfg=Built(OrderedDict, (), attributes, {"arch": "transformer"})))
    found = read_pickle(saved(tmp_path, given))
    assert plain(found["cfg"]) == {"arch": "transformer"}
    assert found.get("model").keys() == {"w"}
