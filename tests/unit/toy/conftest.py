"""A small toy corpus for the tests of its modules."""

from __future__ import annotations

import pytest

from kdmt.toy import corpus_files

Corpus = dict[str, list[tuple[str, str]]]  # split -> pairs


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return corpus_files.make_corpus({"train": 3000, "valid": 200, "test": 200}, seed=7)
