"""Options and paths of the commands that are not stages, and of `distill`."""

from __future__ import annotations

import random
from pathlib import Path

from fuzz.case import Case, Command, stage
from fuzz.damage import ESCAPES

_NUMBERS = (
    *(
        "0",
        "-1",
        "1",
        "2",
        "1000",
        "-1000",
        "1e308",
        "nan",
        "inf",
        "-inf",
        "1000000000",
        "99999999999999999999",
        "x",
        "",
    ),
    *("1.5", "²", "0x10", "1_000", "9" * 5_000),
)
_PATHS = (
    *(
        "",
        ".",
        "..",
        "/",
        "/dev/null",
        "/dev/zero",
        "/proc/self/mem",
        "nowhere",
        "x" * 300,
        "x/" * 3_000,
        "text/train.en",
    ),
    *("text/train.en/x", "runs", "tiny.yaml", "runs/tiny/teacher", "runs/tiny/prepare", "runs/tiny/teacher/last"),
    *("runs/tiny/students/raw", "runs/tiny/teacher/average/model.safetensors", "runs/tiny/distill/blocks/000000.gz"),
    *("runs/tiny/teacher/average/dict.en.txt", ESCAPES, "\udcff", "a\nb", "~", "runs/tiny/distill", "text"),
)
_DEVICES = ("", "cpu", "cuda", "cuda:99", "cuda:-1", "tpu", "meta", "mps", ESCAPES, "cpu:7", "auto:1")
_TEACHER = "runs/tiny/teacher"


def damage(rng: random.Random, _: Path) -> Case:
    command = rng.choice([_translate, _translate, _rescore, _export, _generate, _distill, _import, _plugin])(rng)
    return Case(str(command)[:200], (command,), again=stage("prepare"))


def _some(rng: random.Random, *names: str) -> list[str]:
    """Return one or two options with numbers."""
    chosen = rng.sample(names, min(len(names), rng.choice([0, 1, 1, 2])))
    return [part for name in chosen for part in (f"--{name}", rng.choice(_DEVICES if name == "device" else _NUMBERS))]


def _path(rng: random.Random, usual: str) -> str:
    return rng.choice([usual, usual, rng.choice(_PATHS)])


def _translate(rng: random.Random) -> Command:
    names = (
        "beam",
        "lenpen",
        "max-len-a",
        "max-len-b",
        "iterations",
        "length-beam",
        "buffer-size",
        "threads",
        "device",
    )
    model = _path(rng, rng.choice([_TEACHER, "runs/tiny/students/ctc/seed_1"]))
    return Command(("translate", model, *_some(rng, *names)), stdin=b"ba be\nbi\n", lines=2)


def _rescore(rng: random.Random) -> Command:
    options = _some(rng, "threads", "device")
    paths = _path(rng, _TEACHER), _path(rng, "text/test.en"), _path(rng, "text/test.de")
    return Command(("rescore", *paths, "--workers", "1", *options))


def _export(rng: random.Random) -> Command:
    to = rng.choice(["ctranslate2", "fairseq", "ctranslate2", "ct2", ""])
    out = rng.choice(
        ["out", "out", "text", "text/train.en/out", "x" * 300, "", ".", "new/folder/out", "/dev/null/x", ESCAPES]
    )
    options = [
        *_some(rng, "beam", "lenpen"),
        *rng.choice([[], [], ["--quantization", rng.choice(["int8", "float16", "x"])]]),
    ]
    makes = None if out in ("", ".") else out.split("/")[0]
    return Command(("export", "--to", to, _path(rng, _TEACHER), out, *options), makes=makes)


def _generate(rng: random.Random) -> Command:
    names = (
        *("beam", "nbest", "lenpen", "max-len-a", "max-len-b", "batch-size", "max-tokens", "num-shards", "shard-id"),
        *("max-source-positions", "seed", "iter-decode-max-iter", "required-batch-size-multiple", "unkpen", "threads"),
    )
    subset = rng.choice(["test", "test", "valid", "none", "", "../test", ESCAPES])
    options = [
        *_some(rng, *names),
        *rng.choice([[], [], ["--remove-bpe", "x"], ["--scoring", "x"], ["--nonsense"], ["--fp16"]]),
    ]
    data = _path(rng, "runs/tiny/prepare/data-bin")
    paths = ":".join(_path(rng, _TEACHER) for _ in range(rng.choice([1, 1, 2, 3])))
    return Command(("generate", data, "--path", paths, "--gen-subset", subset, "--cpu", *options))


def _distill(rng: random.Random) -> Command:
    shard = rng.choice(["0/2", "1/0", "2/2", "-1/2", "x", "1/2/3", "9" * 5_000 + "/2", f"0/{10**18}", "²/3", "", "0/"])
    if rng.random() < 0.5:
        return Command(("distill", "tiny.yaml", "--shard", shard), changes=("runs/tiny/distill",))
    return Command(("distill", "tiny.yaml", "--verify", *_some(rng, "verify-blocks", "verify-seed")))


def _import(rng: random.Random) -> Command:
    if rng.random() < 0.5:
        checkpoint, data = _path(rng, _TEACHER), _path(rng, "runs/tiny/prepare/data-bin")
        return Command(("import-checkpoint", checkpoint, "out", "--data", data), makes="out")
    data, new = _path(rng, "text"), rng.choice(["new.yaml", "tiny.yaml", "x" * 300, "no/new.yaml", "text", ""])
    return Command(("import-fairseq", data, new), makes=new or None)


def _plugin(rng: random.Random) -> Command:
    arguments = [
        ("fairseq-plugin",),
        ("none",),
        ("--version",),
        ("translate",),
        ("prepare", "tiny.yaml", "--runs", "text/train.en"),
    ]
    arguments += [("prepare", "tiny.yaml", "--mirror", "nowhere"), ("student", "tiny.yaml", "--student", ESCAPES)]
    return Command(rng.choice(arguments))
