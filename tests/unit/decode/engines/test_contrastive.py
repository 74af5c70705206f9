"""Tests of contrastive tests of a translator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdmt.config import Context
from kdmt.decode.engines.contrastive import contrast
from kdmt.decode.engines.translator import Translator
from kdmt.score.contrastive import ContrastivePair

TEACHER = Path("runs/tiny/teacher")
PAIRS = [
    ContrastivePair("ba be", "ok uk", ("uk ok", "ok"), ("gi ga",)),
    ContrastivePair("da", "olp", ("ulp",), ("gi ga",)),
]


@pytest.fixture
def translator(finished: Path) -> Translator:  # noqa: ARG001
    return Translator.load(TEACHER)


def test_margins_are_differences_of_log_probabilities(translator: Translator) -> None:
    """Compare with the forced scores of each pair on its own."""
    result = contrast(translator, PAIRS)
    for pair, margin in zip(PAIRS, result.margins, strict=True):
        right, *wrong = [float(np.sum(translator.score([pair.source], [target])[0])) for target in pair.targets]
        assert margin == pytest.approx(right - max(wrong), abs=1e-4)


def test_a_model_without_context_reads_the_source_alone(translator: Translator) -> None:
    assert translator.with_context("ba be", ["gi ga"]) == "ba be"
    without = [replace(pair, context=()) for pair in PAIRS]
    assert contrast(translator, PAIRS) == contrast(translator, without)


def test_a_model_with_context_reads_the_previous_sentences(translator: Translator) -> None:
    text = replace(translator.codec.text, context=Context(sentences=2))
    reading = replace(translator, codec=replace(translator.codec, text=text))
    assert reading.with_context("ba be", ["gi ga"]) == "gi ga <sep> ba be"
    assert reading.with_context("ba be", ["ga", "", "gi", "da"]) == "gi <sep> da <sep> ba be"
    assert reading.with_context("ba be", []) == "<sep> ba be"
    assert contrast(reading, PAIRS) != contrast(translator, PAIRS)


def test_progress_counts_targets(translator: Translator) -> None:
    calls: list[tuple[int, int]] = []
    contrast(translator, PAIRS, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(5, 5)]
