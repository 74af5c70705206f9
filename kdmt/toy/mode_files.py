"""The files of a language of known modes: {train,valid,test}.{qaa,qab} and manifest.json.

`qaa` is the source and `qab` the target: ISO 639 reserves these codes for local use. No source sentence occurs twice.
Each target is one draw from the right translations of its source.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from kdmt.checksum import file_sha256
from kdmt.errors import UserError
from kdmt.files import read_optional_json, write_json, write_text
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
            write_text(path, "".join(f"{pair[side]}\n" for pair in pairs))
            hashes[path.name] = file_sha256(path)
    write_json(out / "manifest.json", _request(language, counts, seed) | {"sha256": hashes}, indent=2)


def is_up_to_date(out: Path, language: ModeLanguage, counts: Mapping[str, int], seed: int) -> bool:
    """Return whether the folder holds this corpus, made by this version of the generator."""
    try:
        manifest = read_optional_json(out / "manifest.json")
        hashes = {f"{split}.{code}": file_sha256(out / f"{split}.{code}") for split in SPLITS for code in SIDES}
    except UserError:  # a file is missing or damaged
        return False
    return manifest == _request(language, counts, seed) | {"sha256": hashes}


def _request(language: ModeLanguage, counts: Mapping[str, int], seed: int) -> dict[str, object]:
    """Return what the corpus depends on: language, seed, counts, and the sha256 of the generator's files."""
    generator = {name: file_sha256(_HERE / name) for name in _INGREDIENTS}
    return {"language": language.name, "seed": seed, "counts": dict(counts), "generator": generator}
