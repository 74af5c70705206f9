"""The files of the toy languages for several directions: {train,valid,test}.{en,qaa,qab} and manifest.json.

Line i has the same meaning in all languages, each time one draw from the distribution of the language. No meaning
occurs twice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

from kdmt.toy.corpus_files import sha256_of, write_whole
from kdmt.toy.multilingual import TOY_LANGUAGES, Meaning, render, sample_meaning

SPLITS = ("test", "valid", "train")  # in the order in which they are drawn: later ones avoid earlier meanings
COUNTS = {"test": 200, "valid": 200, "train": 2000}  # lines of each split by default
_HERE = Path(__file__).parent
_INGREDIENTS = ("multilingual_files.py", "multilingual.py")


def make_lines(counts: Mapping[str, int], seed: int) -> dict[str, dict[str, list[str]]]:
    """Return the lines of each split and language. A smaller training set is a prefix of a larger one."""
    seen: set[Meaning] = set()
    corpus: dict[str, dict[str, list[str]]] = {}
    for number, split in enumerate(SPLITS):
        rng = random.Random(len(SPLITS) * seed + number)  # a stream each
        lines: dict[str, list[str]] = {code: [] for code in TOY_LANGUAGES}
        while len(lines["en"]) < counts[split]:
            meaning = sample_meaning(rng)
            rendered = {code: render(rng, language, meaning) for code, language in TOY_LANGUAGES.items()}
            if meaning not in seen:
                seen.add(meaning)
                for code, line in rendered.items():
                    lines[code].append(line)
        corpus[split] = lines
    return corpus


def write_lines(out: Path, counts: Mapping[str, int], seed: int) -> None:
    """Write the text files, and the manifest after them. Each file appears when it is complete."""
    out.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for split, by_language in make_lines(counts, seed).items():
        for code, lines in by_language.items():
            path = out / f"{split}.{code}"
            write_whole(path, "".join(f"{line}\n" for line in lines).encode())
            hashes[path.name] = sha256_of(path)
    manifest = _request(counts, seed) | {"sha256": hashes}
    write_whole(out / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())


def is_up_to_date(out: Path, counts: Mapping[str, int], seed: int) -> bool:
    """Return whether the folder holds this corpus, made by this version of the generator."""
    try:
        manifest = json.loads((out / "manifest.json").read_bytes())
        hashes = {f"{split}.{code}": sha256_of(out / f"{split}.{code}") for split in SPLITS for code in TOY_LANGUAGES}
    except (FileNotFoundError, ValueError):
        return False
    return manifest == _request(counts, seed) | {"sha256": hashes}


def _request(counts: Mapping[str, int], seed: int) -> dict[str, object]:
    """Return what the corpus depends on: seed, counts, and the sha256 of the generator's files."""
    generator = {name: sha256_of(_HERE / name) for name in _INGREDIENTS}
    return {"seed": seed, "counts": dict(counts), "generator": generator}
