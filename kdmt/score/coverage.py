"""Source words that an output omits or leaves untranslated, found by word alignment.

A translation table is learnt from the training corpus, and links each word of the reference and of the output to the
source word that most likely produced it. Many source words have no counterpart in a correct translation, so only those
count that the reference translates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.alignment import TranslationTable, align

EMPTY = 0  # id of the empty word

Words = Sequence[str]


@dataclass(frozen=True)
class Coverage:
    """Source words of one sentence, by their index.

    Attributes:
        translated: words that the reference translates: a word of it is linked to them.
        omitted: those of them to which no word of the output is linked.
        foreign: translated words with a letter that the reference does not contain as they are.
        untranslated: those of them that the output contains as they are.
    """

    translated: list[int]
    omitted: list[int]
    foreign: list[int]
    untranslated: list[int]


@dataclass(frozen=True)
class Aligner:
    """Vocabularies and translation table of a training corpus."""

    src_ids: dict[str, int]
    tgt_ids: dict[str, int]
    table: TranslationTable

    @classmethod
    def train(cls, sources: Sequence[Words], targets: Sequence[Words]) -> Aligner:
        """Learn the table from sentence pairs.

        Raises:
            ValueError: if there is no word pair to align.
        """
        src_ids: dict[str, int] = {"": EMPTY}
        tgt_ids: dict[str, int] = {}
        src = [_encode(["", *words], src_ids) for words in sources]
        tgt = [_encode(words, tgt_ids) for words in targets]
        # one more target, so that an unknown word has an id of its own
        return cls(src_ids, tgt_ids, TranslationTable(align(src, tgt), len(tgt_ids) + 1, floor=0.0))

    def linked_sources(self, sources: Sequence[Words], targets: Sequence[Words]) -> list[set[int]]:
        """Return the indices of the source words to which a word of the target is linked, for each sentence pair."""
        if not sources:
            return []
        unknown_src, unknown_tgt = len(self.src_ids), len(self.tgt_ids)
        src = [
            np.array([EMPTY, *(self.src_ids.get(word, unknown_src) for word in words)], dtype=np.int64)
            for words in sources
        ]
        tgt = [np.array([self.tgt_ids.get(word, unknown_tgt) for word in words], dtype=np.int64) for words in targets]
        return [{index for index in links_T.tolist() if index >= 0} for links_T in self.table.link(src, tgt)]

    def cover(self, sources: Sequence[Words], references: Sequence[Words], outputs: Sequence[Words]) -> list[Coverage]:
        """Return the source words that each output omits or leaves untranslated."""
        translated, kept = self.linked_sources(sources, references), self.linked_sources(sources, outputs)
        sentences = zip(sources, references, outputs, map(sorted, translated), kept, strict=True)
        return [_coverage(*sentence) for sentence in sentences]


def _coverage(source: Words, reference: Words, output: Words, translated: list[int], kept: set[int]) -> Coverage:
    of_reference, of_output = set(reference), set(output)
    foreign = [i for i in translated if source[i] not in of_reference and any(map(str.isalpha, source[i]))]
    return Coverage(
        translated=translated,
        omitted=[i for i in translated if i not in kept and source[i] not in of_output],
        foreign=foreign,
        untranslated=[i for i in foreign if source[i] in of_output],
    )


def _encode(words: Words, ids: dict[str, int]) -> NDArray[np.int64]:
    return np.array([ids.setdefault(word, len(ids)) for word in words], dtype=np.int64)
