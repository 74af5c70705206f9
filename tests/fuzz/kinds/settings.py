"""Pipeline files: settings of other types and sizes, and YAML that is not written by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import yaml

from fuzz.case import Case, stage
from fuzz.damage import PWNED, damage_bytes, damage_values, replace_path

# the amount of work, for which any number is valid
_WORK = ("max_updates", "warmup_updates", "patience")
STAGES = ("prepare", "teacher", "distill", "knowledge", "student", "score")


def damage(rng: random.Random, folder: Path) -> Case:
    path = folder / "tiny.yaml"
    data = path.read_bytes()
    choice = rng.random()
    if choice < 0.4:
        document, what = damage_values(rng, yaml.safe_load(data), spare=lambda place: place.endswith(_WORK))
        data = yaml.safe_dump(document, sort_keys=False, allow_unicode=rng.random() < 0.5).encode(
            errors="surrogatepass"
        )
        path.write_bytes(data)
    elif choice < 0.85:
        name = rng.choice(list(ODD_YAML))
        what = f"with {name}"
        path.write_bytes(ODD_YAML[name](data))
    elif choice < 0.93:
        data, what = damage_bytes(rng, data)
        path.write_bytes(data)
    else:
        what = f"is {replace_path(rng, path)}"
    name = rng.choice(STAGES)
    return Case(f"tiny.yaml {what}", (stage(name),), again=stage("prepare"))


def _with(text: str) -> Callable[[bytes], bytes]:
    return lambda data: data + text.encode(errors="surrogatepass")


def bomb(levels: int = 9, width: int = 9) -> str:
    """Return aliases of aliases: 9 ** 9 strings in a few hundred bytes."""
    lines = [f"a0: &a0 [{', '.join(['lol'] * width)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def merges(levels: int = 22) -> str:
    """Return mappings that are merged twice into the next, level by level."""
    lines = ["m0: &m0 {a: 1, b: 2}"]
    lines += [f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}], k{n}: 1}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


ODD_YAML: dict[str, Callable[[bytes], bytes]] = {
    "an alias bomb": _with(bomb()),
    "an alias bomb as a setting": lambda data: bomb().encode() + data.replace(b"name: tiny", b"name: *a8"),
    "an alias bomb of keys": _with("".join(f"k{n}: &k{n} {{x: 1}}\n" for n in range(3)) + "? [*k0, *k1]\n: 1\n"),
    "nested merges": _with(merges()),
    "a merge with itself": _with("m: &m {<<: *m}\n"),
    "an alias of itself": _with("l: &l [*l]\n"),
    "a setting that is an alias of itself": lambda data: data.replace(b"students:", b"students: &s\n  loop: *s", 1),
    "deep lists": _with("d: " + "[" * 5_000 + "]" * 5_000 + "\n"),
    "very deep lists": _with("d: " + "[" * 200_000 + "]" * 200_000 + "\n"),
    "deep mappings": _with("d: " + "{a: " * 3_000 + "1" + "}" * 3_000 + "\n"),
    "a date that is none": _with("d: 2020-99-99\n"),
    "a date as a setting": lambda data: data.replace(b"name: tiny", b"name: 2020-01-01"),
    "a number that is none": _with("n: !!int abc\n"),
    "a float that is none": _with("n: !!float abc\n"),
    "a bool that is none": _with("n: !!bool abc\n"),
    "a timestamp that is none": _with("n: !!timestamp abc\n"),
    "binary data that is none": _with("n: !!binary '####'\n"),
    "binary data": lambda data: data.replace(b"name: tiny", b"name: !!binary dGlueQ=="),
    "a set": lambda data: data.replace(b"students:", b"students: !!set {a, b}\nx:", 1),
    "pairs": _with("n: !!omap [a: 1, a: 2]\n"),
    "a number in base 60": _with("n: 1:99:99\n"),
    "a number of 5,000 digits": lambda data: data.replace(b"max_updates: 4", b"max_updates: " + b"9" * 5_000, 1),
    "a long number as a key": _with(f"{'9' * 5_000}: 1\n"),
    "a Python object": _with(f"p: !!python/object/apply:os.system ['touch {PWNED}']\n"),
    "a tag of its own": _with("p: !mine {a: 1}\n"),
    "NUL": _with("n: a\0b\n"),
    "a control character": _with("n: \x1b[31m\n"),
    "escaped control characters": _with('"\\x1b[31mred\\x07": 1\n'),
    "an escaped control character as a value": lambda data: data.replace(b"name: tiny", b'name: "\\e[31mx\\0"'),
    "a name of 100,000 characters": lambda data: data.replace(b"name: tiny", b"name: " + b"x" * 100_000),
    "a key of 100,000 characters": _with(f"{'k' * 1_000}: 1\n? {'x' * 100_000}\n: 2\n"),
    "a key given twice": _with("name: other\n"),
    "tabs": lambda data: data.replace(b"  ", b"\t"),
    "two documents": _with("---\nname: other\n"),
    "a directive": lambda data: b"%YAML 9.9\n---\n" + data,
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "Latin-1": lambda data: data + b"# caf\xe9\n",
    "a surrogate": _with("n: \ud800\n"),
    "an escaped surrogate": lambda data: data.replace(b"name: tiny", b'name: "\\ud800"'),
    "a surrogate in a path": lambda data: data.replace(b"text/train.en", b'"text/\\udcff.en"'),
    "NUL in a path": lambda data: data.replace(b"text/train.en", b'"text/\\0.en"'),
    "a very long path": lambda data: data.replace(b"text/train.en", b"x/" * 3_000 + b"train.en"),
    "a very long name": lambda data: data.replace(b"text/train.en", b"x" * 300),
    "a path in a file": lambda data: data.replace(b"text/train.en", b"text/train.de/train.en"),
    "a path that is a folder": lambda data: data.replace(b"text/train.en", b"text"),
    "a path that is empty": lambda data: data.replace(b"text/train.en", b"''"),
    "a file of the system": lambda data: data.replace(b"text/train.en", b"/proc/self/mem"),
    "an empty list": lambda _: b"[]\n",
    "nothing but a comment": lambda _: b"# nothing\n",
    "a number": lambda _: b"12\n",
    "keys that are lists": _with("? [a, b]\n: 1\n"),
    "keys that are null": _with("~: 1\n"),
    "numbers as keys": _with("1: 1\n1.5: 2\ntrue: 3\n"),
    "nan": lambda data: data.replace(b"lr: 0.01", b"lr: .nan"),
    "inf": lambda data: data.replace(b"lr: 0.01", b"lr: .inf"),
    "a huge layer": lambda data: data.replace(b"encoder_layers: 1", b"encoder_layers: 1000000000", 1),
    "a huge width": lambda data: data.replace(b"encoder_embed_dim: 16", b"encoder_embed_dim: 10000000000", 1),
    "huge positions": lambda data: data.replace(b"max_source_positions: 64", b"max_source_positions: 99999999999", 1),
    "a huge block": lambda data: data.replace(b"block_size: 30", b"block_size: 99999999999999999999", 1),
    "a huge beam": lambda data: data.replace(b"- 2\n  bootstrap", b"- 1000000\n  bootstrap", 1),
    "many threads": lambda data: data.replace(b"threads: 1", b"threads: 1000000"),
    "many resamples": lambda data: data.replace(b"bootstrap_samples: 20", b"bootstrap_samples: 99999999999999"),
    "a huge vocabulary": lambda data: data.replace(b"vocab_size: 32", b"vocab_size: 999999999999"),
    "a device that is none": lambda data: data.replace(b"threads: 1", b"device: 'cuda:99'", 1),
    "a name that leads away": lambda data: data.replace(b"name: tiny", b"name: ../../tiny"),
    "a name of dots": lambda data: data.replace(b"name: tiny", b"name: .."),
    "a name too long for a file": lambda data: data.replace(b"name: tiny", b"name: " + b"x" * 300),
    "a student's name too long for a file": lambda data: data.replace(b"  raw:", b"  " + b"x" * 300 + b":"),
    "a test set too long for a file": lambda data: data.replace(b"    test:", b"    test" + b"x" * 300 + b":"),
}
