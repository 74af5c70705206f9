"""Pipelines with several directions that are small enough for tests.

English is to German as in `tiny_pipeline`; a French word is the German one with a `z` before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tiny_pipeline
from tiny_pipeline import WORDS, Finished, kdmt, working_in, write_lines

Words = Mapping[str, Callable[[str], str]]  # language -> word of the language for an English word

IN_LANGUAGE: Words = {
    "en": str,
    "de": WORDS.__getitem__,
    "fr": lambda word: f"z{WORDS[word]}",
}
DIRECTIONS = ("en-de", "en-fr", "fr-en")
ZERO_SHOT = "fr-de"
SIZES = {"train": 40, "valid": 4, "test": 3}


def document(**changes: Any) -> dict[str, Any]:
    """Return the YAML document of a pipeline with line-aligned text in three languages and default models."""

    def parallel(split: str) -> dict[str, Any]:
        return {"parallel": {code: {"path": f"text/{split}.{code}"} for code in IN_LANGUAGE}}

    prepare = {
        "train": [parallel("train")],
        "valid": parallel("valid"),
        "test": {"test": parallel("test")},
        "tokenizer": {"vocab_size": 40},
        "workers": 1,
    }
    whole = {"name": "tiny", "directions": list(DIRECTIONS), "zero_shot": [ZERO_SHOT], "prepare": prepare}
    return dict(json.loads(json.dumps(whole | changes)))  # no dictionary twice, because YAML would write it as an alias


def settings() -> dict[str, Any]:
    """Return the document of a pipeline whose stages all run in a test; the caller may change it."""
    whole = tiny_pipeline.settings()
    del whole["source_lang"], whole["target_lang"]
    whole["score"]["beams"] = [1]
    return whole | document()


# ---------------------------------------------------------------------------------------------------------------- text


def translate(line: str, target: str) -> str:
    """Return the translation of an English line."""
    return " ".join(map(IN_LANGUAGE[target], line.split()))


def write_split(
    folder: Path, split: str, lines: list[str], *, more: Words | None = None, form: Callable[[str], str] = str
) -> None:
    """Write English lines and their translations to text/<split>.<lang>.

    Args:
        more: further languages.
        form: function that changes each written line.
    """
    (folder / "text").mkdir(parents=True, exist_ok=True)
    for code, word in {**IN_LANGUAGE, **(more or {})}.items():
        translated = [" ".join(map(word, line.split())) for line in lines]
        write_lines(folder / "text" / f"{split}.{code}", map(form, translated))


def write_text(folder: Path, *, more: Words | None = None, form: Callable[[str], str] = str) -> dict[str, list[str]]:
    """Write the text of all splits (`write_split`); return the English lines of each."""
    pairs = list(dict.fromkeys(tiny_pipeline.make_pairs(600, seed=1)))
    english = {}
    for split, size in SIZES.items():
        own, pairs = pairs[:size], pairs[size:]
        english[split] = [source for source, _ in own]
        write_split(folder, split, english[split], more=more, form=form)
    return english


def write_pipeline(folder: Path, made: Mapping[str, Any], *, more: Words | None = None) -> dict[str, list[str]]:
    """Write the text and tiny.yaml; return the English lines of each split."""
    english = write_text(folder, more=more)
    (folder / "tiny.yaml").write_text(tiny_pipeline.to_yaml(made), encoding="utf-8")
    return english


# ------------------------------------------------------------------------------------------------------- prepare stage


def run_prepare(folder: Path, made: Mapping[str, Any], *options: str) -> Finished:
    """Write tiny.yaml, and run its prepare stage on the text that is there."""
    (folder / "tiny.yaml").write_text(tiny_pipeline.to_yaml(made), encoding="utf-8")
    with working_in(folder):
        return kdmt("prepare", "tiny.yaml", *options)


def prepared(folder: Path, made: Mapping[str, Any]) -> Path:
    """Run the prepare stage on the text that is there, and return its folder."""
    finished = run_prepare(folder, made)
    assert finished.code == 0, finished.err
    return folder / "runs" / "tiny" / "prepare"
