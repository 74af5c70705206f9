"""The files of the toy corpus: parallel text for which the probability of every translation is known.

`write_corpus` writes {train,valid,test}.{en,de} and manifest.json, or with the languages `UNSPACED_LANGUAGES` the same
sentences, the German ones in Thai letters without spaces, as {train,valid,test}.{en,th}. Each target is one draw from
p(target | source). No source and no target of the validation or test set, lowercased and without punctuation, occurs in
another set; the training set holds no pair twice.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path

from kdmt.toy.grammar import render_source
from kdmt.toy.meanings import sample_meaning, sample_translation
from kdmt.toy.thai_letters import remove_spaces

Pair = tuple[str, str]  # source, target

HERE = Path(__file__).parent
INGREDIENTS = ("corpus_files.py", "grammar.py", "lexicon.py", "lexicon.txt", "meanings.py", "thai_letters.py")
SPLITS = ("test", "valid", "train")  # in the order in which they are drawn: later ones avoid earlier sentences
LANGUAGES = ("en", "de")
COUNTS = {"test": 500, "valid": 500, "train": 20_000}  # pairs of each split by default
FILES = [f"{split}.{language}" for split in SPLITS for language in LANGUAGES]
UNSPACED_LANGUAGES = ("en", "th")  # target text in Thai letters without spaces


def make_corpus(counts: dict[str, int], seed: int) -> dict[str, list[Pair]]:
    """Return the pairs of each split. A smaller training set is a prefix of a larger one with the same seed."""
    held_out: set[str] = set()
    corpus: dict[str, list[Pair]] = {}
    for number, split in enumerate(SPLITS):
        rng = random.Random(len(SPLITS) * seed + number)  # a stream each
        pairs: dict[Pair, None] = {}  # a set that keeps its order
        while len(pairs) < counts[split]:
            meaning = sample_meaning(rng)
            pair = render_source(meaning), sample_translation(rng, meaning)
            keys = {f"{language} {normalize(text)}" for language, text in zip(LANGUAGES, pair, strict=True)}
            if held_out.isdisjoint(keys):
                pairs[pair] = None
                if split != "train":
                    held_out |= keys
        corpus[split] = list(pairs)
    return corpus


def normalize(text: str) -> str:
    """Return a sentence in lower case and without punctuation, for comparisons."""
    return re.sub(r"[^\w\s]", "", text.lower())


def write_corpus(out: Path, counts: dict[str, int], seed: int, languages: Pair = LANGUAGES) -> None:
    """Write the text files, and the manifest after them. Each file appears when it is complete."""
    out.mkdir(parents=True, exist_ok=True)
    hashes = {}
    for split, pairs in make_corpus(counts, seed).items():
        for side, language in enumerate(languages):
            lines = [pair[side] for pair in pairs]
            if language == "th":
                lines = [remove_spaces(line) for line in lines]
            data = "".join(f"{line}\n" for line in lines).encode()
            write_whole(out / f"{split}.{language}", data)
            hashes[f"{split}.{language}"] = hashlib.sha256(data).hexdigest()
    manifest = _request(counts, seed) | {"sha256": hashes}
    write_whole(out / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())


def is_up_to_date(out: Path, counts: dict[str, int], seed: int, languages: Pair = LANGUAGES) -> bool:
    """Return whether the folder holds this corpus, made by this version of the generator."""
    try:
        manifest = json.loads((out / "manifest.json").read_bytes())
        names = [f"{split}.{language}" for split in SPLITS for language in languages]
        hashes = {name: sha256_of(out / name) for name in names}
    except (FileNotFoundError, ValueError):
        return False
    return manifest == _request(counts, seed) | {"sha256": hashes}


def _request(counts: dict[str, int], seed: int) -> dict[str, object]:
    """Return what the corpus depends on: seed, counts, and the sha256 of the generator's files."""
    generator = {name: sha256_of(HERE / name) for name in INGREDIENTS}
    return {"seed": seed, "counts": counts, "generator": generator}


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, which appears when it is complete."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_bytes(data)
    aside.replace(path)
