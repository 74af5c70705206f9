"""A pipeline small enough to run completely in a test: a made-up language of a few syllables, models of width 16.

Every path in its YAML is relative, so that a finished pipeline can be copied elsewhere and is still up to date there.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

WORDS = {
    "ba": "ok",
    "be": "uk",
    "bi": "ik",
    "da": "olp",
    "de": "ulp",
    "di": "ilp",
    "ga": "rom",
    "ge": "rum",
    "gi": "rim",
}
SIZES = {"train": 80, "valid": 6, "test": 5}

MODEL = {
    "arch": "transformer_tiny",
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_embed_dim": 16,
    "decoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "decoder_ffn_embed_dim": 16,
    "share_all_embeddings": True,
    "dropout": 0.1,
    "max_source_positions": 64,
    "max_target_positions": 64,
}
TRAIN = {
    "max_updates": 4,
    "max_tokens": 200,
    "lr": 0.01,
    "warmup_updates": 4,
    "validate_interval_updates": 2,
    "average_checkpoints": 2,
    "save_interval_updates": 2,
    "log_interval_updates": 1,
    "max_source_tokens": 60,
    "max_target_tokens": 60,
    "threads": 1,
    "precision": "float32",  # because runs are compared bit for bit and the default depends on the machine
}
TEACHER_TRAIN = TRAIN | {  # enough to translate some of it
    "max_updates": 60,
    "max_tokens": 400,
    "lr": 0.02,
    "warmup_updates": 10,
    "validate_interval_updates": 20,
    "save_interval_updates": 20,
    "log_interval_updates": 20,
}
DECODE = {"beam": 2, "max_len_a": 1.0, "max_len_b": 5}


def settings() -> dict[str, Any]:
    """Return the pipeline's YAML document; the caller may change it."""
    split = {name: {"source": {"path": f"text/{name}.en"}, "target": {"path": f"text/{name}.de"}} for name in SIZES}
    student = {"model": MODEL, "train": TRAIN}
    document = {
        "name": "tiny",
        "source_lang": "en",
        "target_lang": "de",
        "prepare": {
            "train": [split["train"]],
            "valid": split["valid"],
            "test": {"test": split["test"]},
            "tokenizer": {"vocab_size": 32},
            "workers": 1,
        },
        "teacher": {"model": MODEL, "train": TEACHER_TRAIN},
        "distill": {
            "checkpoint": "average",
            "decode": DECODE,
            "block_size": 30,
            "executor": "inline",
            "engine": "torch",
        },
        "students": {"raw": {"data": "raw", **student}, "distilled": {"data": "distilled", **student}},
        "score": {
            "checkpoint": "average",
            "beams": [1, 2],
            "bootstrap_samples": 20,
            "speed_sentences": 2,
            "threads": 1,
        },
    }
    return json.loads(json.dumps(document))  # no dictionary twice, because YAML would write it as an alias


def to_yaml(document: Mapping[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False)


@functools.cache
def default_yaml() -> str:
    """Return the YAML text of `settings`."""
    return to_yaml(settings())


@functools.cache
def _distinct_pairs(count: int) -> list[tuple[str, str]]:
    return list(dict.fromkeys(make_pairs(count, seed=1)))


def make_pairs(count: int, *, seed: int) -> list[tuple[str, str]]:
    """Return sentences of 2 to 6 words, each with its word-for-word translation."""
    rng = random.Random(seed)
    sources = [rng.choices(list(WORDS), k=rng.randint(2, 6)) for _ in range(count)]
    return [(" ".join(words), " ".join(WORDS[word] for word in words)) for words in sources]


def write_text(folder: Path, sizes: Mapping[str, int] = SIZES) -> None:
    """Write text/<split>.{en,de}; no sentence of valid or test is in train."""
    pairs = _distinct_pairs(20 * sum(sizes.values()))
    (folder / "text").mkdir(parents=True, exist_ok=True)
    for split, size in sizes.items():
        own, pairs = pairs[:size], pairs[size:]
        for side, lang in enumerate(("en", "de")):
            write_lines(folder / "text" / f"{split}.{lang}", [pair[side] for pair in own])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def write_pipeline(folder: Path, document: Mapping[str, Any] | None = None) -> Path:
    """Write the text and the YAML file of a pipeline, and run nothing."""
    write_text(folder)
    path = folder / "tiny.yaml"
    path.write_text(to_yaml(document) if document else default_yaml(), encoding="utf-8")
    return path


def hash_tree(folder: Path) -> dict[str, str]:
    """Return relative path -> SHA-256 of every file below a folder (also hidden ones), without the workers' logs."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "logs"  # logs hold times and host names
    }


# --------------------------------------------------------------------------------------------------- the command line


@dataclass(frozen=True)
class Finished:
    """The result of a command."""

    code: int
    out: str
    err: str


def kdmt(*arguments: str | Path, stdin: bytes = b"") -> Finished:
    """Run `kdmt ARGUMENTS` through its entry point, in this process and the current folder."""
    from kdmt.cli import main

    with _replaced_streams(stdin) as (out, err):
        argv, sys.argv = sys.argv, ["kdmt", *map(str, arguments)]
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.argv = argv
    return Finished(code, out.getvalue().decode(), err.getvalue().decode())


def run_stages(*stages: str, sets: Iterable[str] = ()) -> list[Finished]:
    """Run stages of ./tiny.yaml one after the other and check that each succeeds."""
    finished = []
    for stage in stages:
        finished.append(kdmt(stage, "tiny.yaml", *(part for setting in sets for part in ("--set", setting))))
        assert finished[-1].code == 0, finished[-1].err
    return finished


@contextmanager
def _replaced_streams(stdin: bytes) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    out, err = io.BytesIO(), io.BytesIO()
    kept = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    sys.stdout, sys.stderr = (io.TextIOWrapper(stream, encoding="utf-8", write_through=True) for stream in (out, err))
    try:
        yield out, err
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            stream.detach()
        sys.stdin, sys.stdout, sys.stderr = kept


def read_pty(leader: int) -> str:
    """Read from the leader's end of a pseudo-terminal until the other end is closed, then close it."""
    parts = []
    try:
        while part := os.read(leader, 65536):
            parts.append(part)
    except OSError:  # EIO means end of file here
        pass
    finally:
        os.close(leader)
    return b"".join(parts).decode()


@contextmanager
def working_in(folder: Path) -> Iterator[Path]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
