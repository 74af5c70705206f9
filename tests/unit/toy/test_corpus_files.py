"""The toy corpus: counts, disjoint splits, the same bytes everywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from kdmt.toy import corpus_files

Corpus = dict[str, list[tuple[str, str]]]  # split -> pairs


SMALL = {"train": 1000, "valid": 100, "test": 100}


SMALL_SHA256 = "c409c9beeec10ddcc8b2d9a1092055c05b837c6f7fbf1e40583b4b32ccae8838"


def bare(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum() or character.isspace())


def test_counts_are_as_requested_and_training_pairs_are_unique(corpus: Corpus) -> None:
    assert {split: len(pairs) for split, pairs in corpus.items()} == {"train": 3000, "valid": 200, "test": 200}
    assert len(set(corpus["train"])) == 3000


@pytest.mark.parametrize("side", [0, 1])
def test_sentences_of_test_and_valid_are_in_no_other_split(corpus: Corpus, side: int) -> None:
    train, valid, test = ([bare(pair[side]) for pair in corpus[split]] for split in ("train", "valid", "test"))
    assert len(set(valid + test)) == 400
    assert not set(train) & set(valid + test)


def test_a_smaller_training_set_is_the_beginning_of_a_larger_one(corpus: Corpus) -> None:
    assert corpus_files.make_corpus({"train": 50, "valid": 200, "test": 200}, seed=7)["train"] == corpus["train"][:50]


def test_bytes_are_the_same_on_every_machine(tmp_path: Path) -> None:
    corpus_files.write_corpus(tmp_path, SMALL, seed=1)
    data = b"".join((tmp_path / name).read_bytes() for name in sorted(corpus_files.FILES))
    assert hashlib.sha256(data).hexdigest() == SMALL_SHA256
