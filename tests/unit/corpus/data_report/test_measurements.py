"""Tests of the measurements of prepared text, against counts made line by line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kdmt.corpus.binarize import binarize_tokenized
from kdmt.corpus.data_report import measurements
from kdmt.corpus.data_report.measurements import count_tokens, measure_sample, sample_pairs, vocabulary_use
from kdmt.corpus.vocabulary import Dictionary

LINES = ["a b c", "a a", "", "zzz b", "c c c c c"]


@pytest.fixture
def prefixes(tmp_path: Path) -> tuple[Path, Path, Dictionary]:
    for lang, lines in (("en", LINES), ("de", [f"{line} b".strip() for line in LINES])):
        (tmp_path / f"train.{lang}").write_text("".join(f"{line}\n" for line in lines))
    dictionary = Dictionary.from_counts({"a": 3, "b": 2, "c": 6, "never": 0})
    for lang in ("en", "de"):
        binarize_tokenized(tmp_path / f"train.{lang}", dictionary, tmp_path / lang)
    return tmp_path / "en", tmp_path / "de", dictionary


def test_tokens_are_counted_in_all_sentences(
    prefixes: tuple[Path, Path, Dictionary], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "_CHUNK_SENTENCES", 2)
    found = count_tokens(prefixes[0], len(prefixes[2]))
    words = [line.split() for line in LINES]
    assert (found.sentences, found.tokens, found.unknown) == (5, sum(map(len, words)), 1)
    assert {size: count for size, count in enumerate(found.size_counts.tolist()) if count} == Counter(map(len, words))
    counted = Counter(word for line in words for word in line)
    assert [found.symbol_counts_V[prefixes[2].index(word)] for word in "abc"] == [counted[word] for word in "abc"]
    assert found.mean_size == sum(map(len, words)) / 5


def test_the_use_of_a_vocabulary_leaves_out_special_and_padding_symbols() -> None:
    dictionary = Dictionary.from_counts({"a": 500, "b": 100, "c": 99, "d": 0}, padding_factor=16)
    counts = np.zeros(16, dtype=np.int64)
    counts[:9] = [7, 7, 7, 7, 500, 100, 99, 0, 3]  # the last one is of madeupword0000
    use = vocabulary_use(dictionary, counts)
    assert (use.symbols, use.used, use.frequent) == (4, 3, 2)


def test_a_sample_of_a_small_text_is_all_of_it(prefixes: tuple[Path, Path, Dictionary], tmp_path: Path) -> None:
    sampled = sample_pairs(tmp_path / "train.en", tmp_path / "train.de", len(LINES))
    assert sampled.source == LINES
    found = measure_sample(sampled, prefixes[:2])
    assert found.characters_N2.tolist() == [[len(line), len(f"{line} b".strip())] for line in LINES]
    assert found.words_N2.tolist() == found.tokens_N2.tolist()  # the tokens of this text are its words
    assert found.tokens_per_word(0) == 1.0
    assert found.characters_per_token(1) == pytest.approx(sum(len(f"{x} b".strip()) for x in LINES) / (12 + 5))
    assert found.ratios.tolist() == pytest.approx([7 / 5, 5 / 3, 7 / 5, 11 / 9])  # without the empty line


def test_blocks_of_a_large_text_are_aligned_and_evenly_spaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "SAMPLED_PAIRS", 500)
    for lang in ("en", "de"):
        (tmp_path / lang).write_text("".join(f"{lang} {number}\n" for number in range(2_050)))
    found = sample_pairs(tmp_path / "en", tmp_path / "de", 2_050)
    blocks = [range(0, 100), range(500, 600), range(1000, 1100), range(1500, 1600), range(2000, 2050)]
    assert found.indices == [number for block in blocks for number in block]
    assert found.source == [f"en {number}" for number in found.indices]
    assert found.target == [f"de {number}" for number in found.indices]
