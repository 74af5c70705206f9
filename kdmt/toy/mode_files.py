"""The files of a language of known modes: {train,valid,test}.{qaa,qab} and manifest.json.

`qaa` is the source and `qab` the target: ISO 639 reserves these codes for local use. No source sentence occurs twice.
Each target is one draw from the right translations of its source.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

from kdmt.toy.corpus_files import sha256_of, write_whole
from kdmt.toy.modes import ModeLanguage, sample_source, sample_translation

Pair = tuple[str, str]  # source, target

SPLITS = ("test", "valid", "train")  # in the order in which they are drawn: later ones avoid earlier sentences
COUNTS = {"test": 1000, "valid": 1000, "train": 20_000}  # pairs of each split by default
SIDES = ("qaa", "qab")
_HERE = Path(__file__).parent
_INGREDIENTS = ("mode_files.py", "modes.py")


def make_pairs(language: ModeLanguage, counts: Mapping[str, int], seed: int) -> dict[str, list[Pair]]:
    """Return the pairs of each split. A smaller training set is a prefix of a larger one with the same seed."""
    sources: set[str] = set()
    corpus: dict[str, list[Pair]] = {}
    for number, split in enumerate(SPLITS):
        rng = random.Random(len(SPLITS) * seed + number)  # a stream each
        corpus[split] = []
        while len(corpus[split]) < counts[split]:
            source = sample_source(rng, language)
            target = sample_translation(rng, language, source)
            if source not in sources:
                sources.add(source)
                corpus[split].append((source, target))
    return corpus


def write_pairs(out: Path, language: ModeLanguage, counts: Mapping[str, int], seed: int) -> None:
    """Write the text files, and the manifest after them. Each file appears when it is complete."""
    out.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for split, pairs in make_pairs(language, counts, seed).items():
        for side, code in enumerate(SIDES):
            path = out / f"{split}.{code}"
            write_whole(path, "".join(f"{pair[side]}\n" for pair in pairs).encode())
            hashes[path.name] = sha256_of(path)
    manifest = _request(language, counts, seed) | {"sha256": hashes}
    write_whole(out / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())


def is_up_to_date(out: Path, language: ModeLanguage, counts: Mapping[str, int], seed: int) -> bool:
    """Return whether the folder holds this corpus, made by this version of the generator."""
    try:
        manifest = json.loads((out / "manifest.json").read_bytes())
        hashes = {f"{split}.{code}": sha256_of(out / f"{split}.{code}") for split in SPLITS for code in SIDES}
    except (FileNotFoundError, ValueError):
        return False
    return manifest == _request(language, counts, seed) | {"sha256": hashes}


def _request(language: ModeLanguage, counts: Mapping[str, int], seed: int) -> dict[str, object]:
    """Return what the corpus depends on: language, seed, counts, and the sha256 of the generator's files."""
    generator = {name: sha256_of(_HERE / name) for name in _INGREDIENTS}
    return {"language": language.name, "seed": seed, "counts": dict(counts), "generator": generator}
