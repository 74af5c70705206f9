"""Tests of Marian's lexical shortlists, with a binary file that Marian's converter made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from kdmt.errors import UserError
from kdmt.interop.marian import shortlist
from kdmt.interop.marian.rows import SideRows
from kdmt.interop.marian.shortlist import LexicalTable

GOLDEN = Path(__file__).parents[3] / "golden" / "marian"


def golden_table() -> tuple[LexicalTable, int]:
    vocabulary = sentencepiece.SentencePieceProcessor(model_file=str(GOLDEN / "vocab.spm"))
    rows = [line.split() for line in (GOLDEN / "lex.s2t").read_text().splitlines()]
    tgt, src = (np.array([vocabulary.piece_to_id(row[side]) for row in rows]) for side in (0, 1))
    t = np.array([float(row[2]) for row in rows])
    order = np.lexsort((-tgt, -t, src))  # of equal probabilities, Marian prefers the higher id
    return LexicalTable(src[order], tgt[order], t[order]), vocabulary.get_piece_size()


def test_binary_shortlist_equals_that_of_marian(tmp_path: Path) -> None:
    table, size = golden_table()
    shortlist.write_binary(tmp_path / "lex.bin", table, size, first=5, best=2)
    assert (tmp_path / "lex.bin").read_bytes() == (GOLDEN / "lex.bin").read_bytes()


def test_table_finds_translations_in_marians_ids() -> None:
    # kdmt's ids 4, 5, 6 are the source words, 7, 8, 9 their translations
    sources = [np.array([a, b, 2]) for a in (4, 5, 6) for b in (4, 5, 6)] * 3
    targets = [np.array([token + 3 if token > 2 else 2 for token in source]) for source in sources]
    index = np.array([2, 3, 9, 8, 7, 6, 5, 4, 0, 1])
    rows = SideRows(index, 3)
    table = shortlist.learn_table(sources, targets, rows, rows)
    first = {src: int(table.tgt_P[table.src_P == src][0]) for src in np.unique(table.src_P).tolist()}
    theirs = {ours: place for place, ours in enumerate(index.tolist())}
    assert first == {theirs[word]: theirs[word + 3] for word in (4, 5, 6)}
    assert (np.diff(table.src_P) >= 0).all()
    for src in first:
        assert (np.diff(table.probability_P[table.src_P == src]) <= 0).all()


def test_text_has_target_source_and_probability(tmp_path: Path) -> None:
    table = LexicalTable(np.array([2]), np.array([1]), np.array([0.25]))
    shortlist.write_table(tmp_path / "lex", table, ["a", "b", "▁c"], ["x", "▁y"])
    assert (tmp_path / "lex").read_text() == "▁y ▁c 0.2500000\n"


def test_a_corpus_without_words_is_refused() -> None:
    rows = SideRows(np.arange(4), 3)
    with pytest.raises(UserError, match="no lexical shortlist can be learnt"):
        shortlist.learn_table([np.array([2])], [np.array([2])], rows, rows)
