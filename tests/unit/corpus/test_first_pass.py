from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kdmt.config import Clean
from kdmt.corpus.clean import clean_chunk
from kdmt.corpus.fingerprints import Finders
from kdmt.corpus.first_pass import CleanedChunk, RawChunk, TrainingCorpus, run_first_pass
from kdmt.corpus.pool import mapping_in_order
from kdmt.corpus.rules.pair_text import LanguagePair
from kdmt.corpus.sentence_lengths import RatioMedian


def apply_rules(chunk: RawChunk) -> CleanedChunk:
    return clean_chunk(chunk, languages=LanguagePair(), forbidden=None)


@pytest.mark.parametrize("chunk_pairs", [1, 3, 100])
def test_text_lengths_and_counts_of_each_corpus_are_those_of_all_its_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_pairs: int
) -> None:
    monkeypatch.setattr("kdmt.corpus.first_pass.CHUNK_PAIRS", chunk_pairs)
    corpora = [
        TrainingCorpus("a", [("a  b", "été"), ("", "x"), ("c", "d"), ("c", "d")]),
        TrainingCorpus("b", [("e f g", "h i j")], clean=Clean(max_words=2)),
        TrainingCorpus("c", [("k", "l")], tag="<c>"),
    ]
    finders, median = Finders(tmp_path, Clean()), RatioMedian()
    passed = run_first_pass(
        tmp_path, corpora, Clean(), apply_rules, finders, median, partial(mapping_in_order, workers=1)
    )
    assert [one.source.read_text(encoding="utf-8") for one in passed] == ["a b\nc\nc\n", "", "k\n"]
    assert [one.target.read_text(encoding="utf-8") for one in passed] == ["été\nd\nd\n", "", "l\n"]
    assert [(one.pairs_in, one.num_pairs) for one in passed] == [(4, 3), (1, 0), (1, 1)]
    assert [one.counts for one in passed] == [Counter(empty=1, whitespace=1), Counter(max_words=1), Counter()]
    assert np.fromfile(passed[0].characters, dtype=np.uint32).tolist() == [3, 3, 1, 1, 1, 1]
    assert [one.examples for one in passed] == [{"empty": [("", "x")]}, {"max_words": [("e f g", "h i j")]}, {}]
    assert finders.exact["pair"].find().tolist() == [False, False, True, False]
    assert median.value() == 1.0
