"""Text on standard input and in files for `translate` and `rescore`."""

from __future__ import annotations

import random
from pathlib import Path

from fuzz.case import Case, Command
from fuzz.damage import damage_bytes, replace_path
from fuzz.kinds.corpora import _LINES, _WHOLE

MODELS = ("runs/tiny/teacher", "runs/tiny/students/ctc/seed_1", "runs/tiny/teacher/best")


def damage(rng: random.Random, folder: Path) -> Case:
    lines = (folder / "text/test.en").read_bytes().splitlines()
    name = rng.choice([*_LINES, *_WHOLE, "bytes", "a path"])
    if name in _LINES:
        number = rng.randrange(len(lines))
        lines[number] = _LINES[name](lines[number])
        data = b"\n".join(lines) + rng.choice([b"\n", b"\n", b""])
    elif name in _WHOLE:
        data = _WHOLE[name](lines)
    else:
        data, what = damage_bytes(rng, b"\n".join(lines) + b"\n")
        name = what if name == "bytes" else name
    if rng.random() < 0.6:
        return Case(f"standard input: {name}", (_translate(rng, data),), again=_translate(rng, b"ba be\n"))
    (folder / "lines").write_bytes(data)
    if name == "a path":
        name = replace_path(rng, folder / "lines")
    files = ["lines", "text/test.de"][:: rng.choice([1, -1])]
    command = Command(("rescore", "runs/tiny/teacher", *files, "--workers", "1"))
    return Case(
        f"{name} as {files[0]}",
        (command,),
        again=Command(("rescore", "runs/tiny/teacher", "text/test.en", "text/test.de", "--workers", "1")),
    )


def _translate(rng: random.Random, data: bytes) -> Command:
    options = rng.choice([(), (), ("--buffer-size", "1"), ("--beam", "1"), ("--beam", "3", "--lenpen", "0.5")])
    model = rng.choice(MODELS)
    expected = data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    return Command(("translate", model, *options), stdin=data, lines=expected)
