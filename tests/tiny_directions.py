"""A pipeline with several directions that is small enough to run completely in a test.

English is to German as in `tiny_pipeline`; a French word is the German one with a `z` before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_pipeline
from tiny_pipeline import WORDS, write_lines

IN_LANGUAGE: dict[str, Callable[[str], str]] = {
    "en": str,
    "de": WORDS.__getitem__,
    "fr": lambda word: f"z{WORDS[word]}",
}
DIRECTIONS = ("en-de", "en-fr", "fr-en")
ZERO_SHOT = "fr-de"
SIZES = {"train": 40, "valid": 4, "test": 3}


def translate(line: str, target: str) -> str:
    """Return the translation of an English line."""
    return " ".join(map(IN_LANGUAGE[target], line.split()))


def write_split(folder: Path, split: str, lines: list[str]) -> None:
    """Write English lines and their translations to text/<split>.{en,de,fr}."""
    (folder / "text").mkdir(exist_ok=True)
    for code in IN_LANGUAGE:
        write_lines(folder / "text" / f"{split}.{code}", [translate(line, code) for line in lines])


def write_text(folder: Path) -> dict[str, list[str]]:
    """Write the text of all splits; return the English lines of each."""
    pairs = list(dict.fromkeys(tiny_pipeline.make_pairs(600, seed=1)))
    english = {}
    for split, size in SIZES.items():
        own, pairs = pairs[:size], pairs[size:]
        english[split] = [source for source, _ in own]
        write_split(folder, split, english[split])
    return english


def settings() -> dict[str, Any]:
    """Return the YAML document of the pipeline; the caller may change it."""
    document = tiny_pipeline.settings()
    del document["source_lang"], document["target_lang"]

    def parallel(split: str) -> dict[str, Any]:
        return {"parallel": {code: {"path": f"text/{split}.{code}"} for code in IN_LANGUAGE}}

    document |= {"directions": list(DIRECTIONS), "zero_shot": [ZERO_SHOT]}
    document["prepare"] |= {
        "train": [parallel("train")],
        "valid": parallel("valid"),
        "test": {"test": parallel("test")},
        "tokenizer": {"vocab_size": 40},
    }
    document["score"]["beams"] = [1]
    return dict(json.loads(json.dumps(document)))


def write_pipeline(folder: Path, document: dict[str, Any]) -> dict[str, list[str]]:
    """Write the text and tiny.yaml; return the English lines of each split."""
    english = write_text(folder)
    (folder / "tiny.yaml").write_text(tiny_pipeline.to_yaml(document))
    return english
