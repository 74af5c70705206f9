"""Random meanings and translations of the toy language: frequencies, membership, lengths."""

from __future__ import annotations

import random
from typing import Any

from kdmt.toy import grammar, meanings

Corpus = dict[str, list[tuple[str, str]]]  # split -> pairs


def sample_meanings(count: int, seed: int) -> list[Any]:
    rng = random.Random(seed)
    return [meanings.sample_meaning(rng) for _ in range(count)]


def test_every_sampled_target_is_among_the_translations_of_its_source() -> None:
    rng = random.Random(4)
    for meaning in sample_meanings(200, seed=4):
        source = grammar.render_source(meaning)
        assert grammar.is_valid(source, meanings.sample_translation(rng, meaning))
    assert not grammar.is_valid("Peter helps my brothers.", "Peter hilft meine Brüder.")


def test_sentences_are_short(corpus: Corpus) -> None:
    lengths = sorted(len(target.split()) for _, target in corpus["train"])
    assert lengths[len(lengths) // 20] >= 4
    assert lengths[-len(lengths) // 20] <= 16
