"""`--set a.b=c` with paths and values of every kind."""

from __future__ import annotations

import random
from pathlib import Path

import yaml

from fuzz.case import Case, stage
from fuzz.damage import ESCAPES, PWNED, _entries
from fuzz.kinds.settings import _WORK, STAGES, bomb

_PATHS = (
    *("", ".", "..", "a", "a.b", "prepare.", ".prepare", "prepare..train", "prepare.train.²", "prepare.train.-1"),
    *(
        "prepare.train.99",
        "prepare.train.0.source.path.x",
        "prepare.train.١",
        "students.\0",
        f"students.{ESCAPES}.data",
    ),
    *(
        "students.raw.train",
        "name",
        "x" * 10_000,
        "a." * 5_000 + "b",
        "prepare.train.9" + "9" * 5_000,
        "students.x y.data",
    ),
    *("prepare.train.0.__class__", "teacher.model.arch", "score.tokenize", "target_lang", "prepare.test", "students"),
)
_VALUES = (
    *("", "~", "true", "-1", "0", "1e400", ".nan", "-.inf", "9" * 5_000, "1e999999999", "0x" + "f" * 300, "1:99:99"),
    *("!!int abc", "!!float x", "!!timestamp x", "2020-99-99", "!!binary '#'", "[", "{", "}", "]", "&a [*a]", "*a"),
    *(
        "[" * 3_000 + "]" * 3_000,
        "[" * 100_000 + "]" * 100_000,
        "{<<: 1}",
        "{<<: [1]}",
        "x" * 100_000,
        ESCAPES,
        '"\\e[31m"',
    ),
    *(f"!!python/object/apply:os.system ['touch {PWNED}']", "!!set {a}", "? [a]", "\t", "%", "@x", "`x`", "---", "..."),
    *("{a: 1, a: 2}", "[[1, 2], [3]]", '"\\ud800"', "\udcff", '"\\0"', "...\n---", "'", '"', "null", "1_000", "²", "-"),
    *(
        "{type: words}",
        "../../x",
        "/",
        "/dev/zero",
        "text",
        "text/train.en",
        "10000000000",
        "0.5",
        "none",
        "auto",
        "bleu",
    ),
)


def damage(rng: random.Random, folder: Path) -> Case:
    document = yaml.safe_load((folder / "tiny.yaml").read_bytes())
    known = [".".join(map(str, path)) for _, _, path in _entries(document)]
    known = [path for path in known if not path.endswith(_WORK)]
    sets = []
    for _ in range(rng.choice([1, 1, 2])):
        path = rng.choice(known) if rng.random() < 0.6 else rng.choice(_PATHS)
        value = rng.choice(_VALUES) if rng.random() < 0.93 else bomb().replace("\n", ", ").join("{}")
        sets.append(rng.choice([f"{path}={value}"] * 9 + [path]).replace("\0", "␀"))  # an argument cannot contain NUL
    command = stage(rng.choice(STAGES), *sets)
    return Case(f"--set {' --set '.join(each[:80] for each in sets)}", (command,), again=stage("prepare"))
