"""Links between the words of a sentence pair, by a translation table that is trained on a sample of the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import regex

from kdmt.corpus.alignment import align, diagonal_prior

MIN_PROBABILITY = 0.1  # t(y|x) of a link
_CORE = regex.compile(r"[\p{L}\p{N}](?:.*[\p{L}\p{N}\p{M}])?")  # a word without the punctuation around it


@dataclass(frozen=True)
class TranslatedWords:
    """Finds words of a sentence pair that translate each other.

    Attributes:
        table: t(y|x) of each source word x and target word y, both in the form of `core`.
    """

    table: dict[tuple[str, str], float] = field(default_factory=dict)

    @classmethod
    def train(cls, pairs: Iterable[tuple[str, str]]) -> TranslatedWords:
        """Train the table on sentence pairs, whose words are separated by spaces."""
        src_ids: dict[str, int] = {"": 0}  # 0 is the empty word
        tgt_ids: dict[str, int] = {}
        sources, targets = [], []
        for source, target in pairs:
            sources.append(np.array([0, *(src_ids.setdefault(core(word), len(src_ids)) for word in source.split())]))
            targets.append(
                np.array([tgt_ids.setdefault(core(word), len(tgt_ids)) for word in target.split()], dtype=np.int64)
            )
        if not any(len(source) > 1 and len(target) for source, target in zip(sources, targets, strict=True)):
            return cls()
        found = align(sources, targets)
        src_words, tgt_words = list(src_ids), list(tgt_ids)
        kept = found.t_P >= MIN_PROBABILITY
        triples = zip(
            found.src_ids_P[kept].tolist(), found.tgt_ids_P[kept].tolist(), found.t_P[kept].tolist(), strict=True
        )
        return cls({(src_words[x], tgt_words[y]): t for x, y, t in triples if src_words[x] and tgt_words[y]})

    def find(self, source: Sequence[str], target: Sequence[str]) -> list[tuple[int, int]]:
        """Return the indices of source and target words that are each other's most probable translation."""
        if not source or not target or not self.table:
            return []
        cores = [core(word) for word in target]
        t_TS = np.array([[self.table.get((core(word), other), 0.0) for word in source] for other in cores])
        t_TS *= diagonal_prior(len(source), len(target))[:, 1:]
        best_of_target, best_of_source = t_TS.argmax(axis=1), t_TS.argmax(axis=0)
        return [(i, j) for i, j in enumerate(best_of_source.tolist()) if t_TS[j, i] > 0.0 and best_of_target[j] == i]


def core(word: str) -> str:
    """Return a word without the punctuation around it, in lower case; empty for punctuation."""
    found = _CORE.search(word)
    return "" if found is None else found[0].casefold()


def around_core(word: str) -> tuple[str, str, str]:
    """Return the punctuation before a word, the word, and the punctuation after it."""
    found = _CORE.search(word)
    return ("", word, "") if found is None else (word[: found.start()], found[0], word[found.end() :])
