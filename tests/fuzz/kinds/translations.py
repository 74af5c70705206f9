"""Files of another system's translations and of scores, which settings name."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from fuzz.case import Case, stage
from fuzz.damage import ESCAPES, damage_bytes, replace_path


def damage(rng: random.Random, folder: Path) -> Case:
    made = folder / "runs/tiny"
    targets = (made / "prepare/train.de").read_bytes().splitlines()
    lines = [b"%d\t%b" % (number, line) for number, line in enumerate(targets)]
    name, sets = "imported", ["distill.imported=given", "students={x: {data: imported}}"]
    if rng.random() < 0.5:
        candidates = (made / "distill/nbest").read_bytes().splitlines()
        lines = [b"%b\t%d" % (line.split(b"\t")[0], -number) for number, line in enumerate(candidates)]
        name, sets = (
            "scores",
            [
                "distill.scores=given",
                "students={x: {data: scored}}",
                "distill.decode={beam: 2, nbest: 2, max_len_b: 5}",
            ],
        )
        if rng.random() < 0.5:
            lines = [line.split(b"\t")[1] for line in lines]
    path = folder / "given"
    choice = rng.random()
    if choice < 0.7:
        number, damage_name = rng.randrange(len(lines)), rng.choice(list(_LINES))
        lines[number] = _LINES[damage_name](lines[number])
        path.write_bytes(b"\n".join(lines) + b"\n")
        what = f"line {number + 1}: {damage_name}"
    elif choice < 0.9:
        data, what = damage_bytes(rng, b"\n".join(lines) + b"\n")
        path.write_bytes(data)
    else:
        what = f"is {replace_path(rng, path)}"
    command = stage("distill", *sets)
    command = type(command)(command.arguments, changes=("runs/tiny/",))
    return Case(f"{name}: {what}", (command,), again=stage("prepare"))


_LINES: dict[str, Callable[[bytes], bytes]] = {
    "an index twice": lambda line: b"0" + line[line.find(b"\t") :] if b"\t" in line else line,
    "an index too large": lambda line: b"99999" + line,
    "an index of 5,000 digits": lambda line: b"9" * 5_000 + line,
    "a negative index": lambda line: b"-" + line,
    "an index in other digits": lambda line: "²".encode() + line,
    "no tab": lambda line: line.replace(b"\t", b" "),
    "a tab more": lambda line: line + b"\tx",
    "NaN": lambda line: line.split(b"\t")[0] + b"\tnan",
    "a number alone": lambda _: b"1e400",
    "not a number": lambda _: b"x",
    "empty": lambda _: b"",
    "Latin-1": lambda line: line + b"\xe9",
    "escape sequences": lambda line: line + ESCAPES.encode(),
    "special symbols": lambda line: line + b" <pad> </s>",
    "four megabytes": lambda line: line + b" ok" * 1_400_000,
}
