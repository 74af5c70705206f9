"""fairseq's checkpoints: damaged archives, pickles that would run code, invalid weights and settings."""

from __future__ import annotations

import io
import pickle
import random
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fuzz.case import Case, Command, stage
from fuzz.damage import ESCAPES, Runs, _value, damage_bytes, replace_path

FILES = (
    "post_norm_shared",
    "pre_norm_learned",
    "old_post_norm_shared",
    "post_norm_shared_zipless",
    "cmlm",
    "multilingual",
)


def damage(rng: random.Random, folder: Path) -> Case:
    name = rng.choice(FILES)
    path = folder / "fairseq" / f"{name}.pt"
    choice = rng.random()
    if choice < 0.25:
        data, what = damage_bytes(rng, path.read_bytes())
        path.write_bytes(data)
    elif choice < 0.4 and zipfile.is_zipfile(path):
        what = _members(rng, path)
    elif choice < 0.5:
        pickle_name = rng.choice(list(_PICKLES))
        path.write_bytes(_PICKLES[pickle_name]())
        what = f"is {pickle_name}"
    elif choice < 0.95:
        what = _content(rng, path)
    else:
        what = f"is {replace_path(rng, path)}"
    return Case(f"{path.name}: {what}", (_command(rng, f"fairseq/{name}.pt"),), again=stage("prepare"))


def _command(rng: random.Random, path: str) -> Command:
    data = rng.choice(["fairseq/joined", "fairseq/joined", "fairseq/separate", "fairseq/languages"])
    imported = Command(("import-checkpoint", path, "out", "--data", data), makes="out")
    return rng.choice(
        [
            *[imported] * 6,
            Command(("generate", "fairseq/data-bin", "--path", path, "--cpu", "--beam", "1")),
            Command(("translate", path), stdin=b"ba\n", lines=1),
            Command(("export", "--to", "ctranslate2", path, "out"), makes="out"),
            Command(("rescore", path, "text/test.en", "text/test.de", "--workers", "1")),
            stage("distill", f"distill.teachers=[{path}]"),
            stage("student", f"students.raw.train.init_from={path}", more=("--student", "raw")),
            Command(("import-checkpoint", path, "out", "--data", data, "--bpe-codes", path), makes="out"),
            Command(("import-checkpoint", path, "out", "--data", data, "--sentencepiece", path), makes="out"),
            Command(("import-checkpoint", f"{path}:{path}", "out", "--data", data), makes="out"),
        ]
    )


# ------------------------------------------------------------------------------------------------------- the archive


def _members(rng: random.Random, path: Path) -> str:
    """Replace, remove or rename members of the zip archive."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    change = rng.choice(
        ["removed", "damaged", "renamed", "a pickle that runs a command", "twice", "outside", "many more"]
    )
    if change == "removed":
        del members[name]
    elif change == "damaged":
        members[name], _ = damage_bytes(rng, members[name])
    elif change == "renamed":
        members[ESCAPES] = members.pop(name)
    elif change == "outside":
        members["../../PWNED"] = b"x"
    elif change == "many more":
        members |= {f"archive/data/{number}": b"" for number in range(1000, 6000)}
    elif change == "a pickle that runs a command":
        name = next(name for name in members if name.endswith("data.pkl"))
        members[name] = pickle.dumps({"model": Runs()}, protocol=2)
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return f"{name}: {change}"


def _nested(depth: int) -> bytes:
    """Return a pickle of nested lists, which pickle itself would not write."""
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


_PICKLES: dict[str, Callable[[], bytes]] = {
    "a pickle that runs a command": lambda: pickle.dumps({"model": Runs()}, protocol=2),
    "the same in protocol 4": lambda: pickle.dumps({"model": Runs()}, protocol=4),
    "the same in protocol 0": lambda: pickle.dumps({"model": Runs()}, protocol=0),
    "a pickle of builtins.eval": lambda: b"\x80\x02cbuiltins\neval\nX\x10\x00\x00\x00open('PWNED','w')\x85R.",
    "lists a million deep": lambda: _nested(1_000_000),
    "a protocol of the future": lambda: b"\x80\xff.",
    "a huge string": lambda: b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"x.",
    "a huge long": lambda: b"\x80\x02\x8b\xff\xff\xff\x7fxx.",
    "a memo that is not there": lambda: b"\x80\x02h\x07.",
    "a stack that is empty": lambda: b"\x80\x02t.",
    "a persistent id": lambda: b"\x80\x02X\x01\x00\x00\x00aQ.",
    "nothing but a dictionary": lambda: _saved({}),
    "a list": lambda: _saved([1, 2]),
    "a tensor": lambda: _saved(torch.zeros(3)),
    "a state dictionary": lambda: _saved({"weight": torch.zeros(3)}),
    "a whole module": lambda: _saved(torch.nn.Linear(2, 2)),
    "Hugging Face's": lambda: _saved({"model.shared.weight": torch.zeros(3, 3), "lm_head.weight": torch.zeros(3, 3)}),
    "Lightning's": lambda: _saved({"state_dict": {}, "epoch": 1, "pytorch-lightning_version": "2.0"}),
}


def _saved(content: Any) -> bytes:
    torch.save(content, file := io.BytesIO())
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------- the content


def _content(rng: random.Random, path: Path) -> str:
    """Change weights or settings of the checkpoint."""
    import pickle as plain

    content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_tolerant(plain))
    change = rng.choice([_weights, _weights, _settings, _settings, _settings, _keys])
    what = change(rng, content)
    torch.save(content, path)
    return what


def _tolerant(plain: Any) -> Any:
    """Return a pickle module that can read the classes of fairseq in these files, which are not installed."""

    class Unpickler(plain.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module.startswith(("fairseq", "omegaconf")):
                return Namespace
            return super().find_class(module, name)

    return type("tolerant", (), {"Unpickler": Unpickler, "load": plain.load, "__name__": "tolerant"})


def _weights(rng: random.Random, content: dict[str, Any]) -> str:
    state = content["model"]
    name = rng.choice(list(state))
    tensor = state[name]
    changes: dict[str, Callable[[], Any]] = {
        "NaN": lambda: torch.full_like(tensor, float("nan")),
        "infinity": lambda: torch.full_like(tensor, float("inf")),
        "int64": lambda: tensor.long(),
        "float16": lambda: tensor.half(),
        "complex": lambda: tensor.to(torch.complex64),
        "sparse": lambda: tensor.to_sparse(),
        "on meta": lambda: torch.empty_like(tensor, device="meta"),
        "larger": lambda: torch.cat([tensor, tensor]),
        "transposed": lambda: tensor.t().contiguous() if tensor.dim() == 2 else tensor[None],
        "a scalar": lambda: torch.tensor(1.0),
        "empty": lambda: tensor[:0],
        "expanded": lambda: torch.zeros(1).expand(10**6, 10**6),
        "a list": lambda: tensor.tolist(),
        "a string": lambda: ESCAPES,
        "None": lambda: None,
        "a parameter": lambda: torch.nn.Parameter(tensor.float()),
        "numpy's": lambda: tensor.numpy(),
    }
    change = rng.choice([*changes, "removed", "renamed", "one more"])
    if change == "removed":
        del state[name]
    elif change == "renamed":
        state[rng.choice([f"{name}.more", ESCAPES, "", 7, None, "encoder.layers.999999.fc1.weight"])] = state.pop(name)
    elif change == "one more":
        state["encoder.layers.7.fc1.weight"] = tensor.clone()
    else:
        state[name] = changes[change]()
    return f"weight {name}: {change}"


def _settings(rng: random.Random, content: dict[str, Any]) -> str:
    holder = content.get("args") or content["cfg"]
    if isinstance(holder, dict):
        holder = holder.get("model", holder)
    values = vars(holder) if isinstance(holder, Namespace) else holder
    if not isinstance(values, dict):
        content["cfg"] = content["args"] = _value(rng)
        return "settings of another type"
    name = rng.choice(sorted(map(str, values)))
    values[name] = rng.choice([_value(rng), 10**9, -1, 0, "1", 1.5, None, True])
    return f"setting {name}: {values[name]!r:.60}"


def _keys(rng: random.Random, content: dict[str, Any]) -> str:
    name = rng.choice(list(content))
    change = rng.choice(["removed", "another value", "one more"])
    if change == "removed":
        del content[name]
    else:
        content[name if change == "another value" else ESCAPES] = _value(rng)
    return f"key {name}: {change}"
