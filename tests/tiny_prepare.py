"""The prepare stage of the tiny pipeline in the current folder: its settings, its report and its data-bin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_pipeline import settings, to_yaml

from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.types import EOS

MADE = Path("runs/tiny/prepare")


def change(**changes: Any) -> None:
    """Change settings of `prepare` in ./tiny.yaml."""
    document = settings()
    document["prepare"].update(changes)
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")


def report() -> dict[str, Any]:
    return json.loads((MADE / "report.json").read_text(encoding="utf-8"))


def facts() -> dict[str, Any]:
    return json.loads((MADE / "manifest.json").read_text(encoding="utf-8"))["facts"]


def read_bin(split: str, lang: str) -> list[str]:
    """Return the sentences of a split of the data-bin, tokens separated by spaces, without </s>."""
    codec = TextCodec.load(MADE)
    dictionary = codec.src_dictionary if lang == "en" else codec.tgt_dictionary
    dataset = IndexedDataset(MADE / "data-bin" / f"{split}.en-de.{lang}")
    assert all(sentence[-1] == EOS for sentence in dataset)
    return [" ".join(dictionary.symbols[token] for token in sentence[:-1]) for sentence in dataset]


def words(tokens: str) -> str:
    """Join the pieces of SentencePiece to words."""
    return tokens.replace(" ", "").replace("▁", " ").strip()
