"""The special symbols, which have the ids of fairseq."""

from __future__ import annotations

from kdmt.types import BOS, EOS, PAD, SPECIALS, UNK


def test_special_symbols_have_the_ids_of_fairseqs_dictionary() -> None:
    assert [SPECIALS[symbol] for symbol in (BOS, PAD, EOS, UNK)] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert sorted((BOS, PAD, EOS, UNK)) == list(range(len(SPECIALS)))
