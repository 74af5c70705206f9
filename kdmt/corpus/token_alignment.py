"""Alignment of the tokens of a parallel data-bin: IBM model 1 in both directions, made symmetric by grow-diag.

The model is trained on a sample of the pairs and then aligns all of them in chunks, so that memory does not grow with
the data-bin. `</s>` is linked to nothing. Each of several directions has a model of its own, and the tokens for the
languages are linked to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.alignment import TranslationTable, align, spread
from kdmt.corpus.batching import ParallelData
from kdmt.corpus.word_links import Links
from kdmt.types import BOS

TRAINING_PAIRS = 100_000  # that the model is trained on, evenly spaced; about 4 bytes for each pair of their tokens
ITERATIONS = 5
_EMPTY_WORD = BOS  # occurs in no sentence
_CHUNK_PAIRS = 2_000
_NEIGHBOURS = [(-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)]

IntArray = NDArray[np.integer]


class TokenAligner:
    """Aligner of the tokens of sentence pairs.

    Args:
        data: pairs that the model is trained on, in part.
        sizes: number of tokens of the source and of the target dictionary.
        max_pairs: maximum number of pairs that the model is trained on.
        pairs: indices of the pairs that are aligned (default: all).
        tag_ids: tokens of the source and of the target that are linked to nothing where they are before a sentence.

    Raises:
        ValueError: if there is no pair of words to align.
    """

    def __init__(
        self,
        data: ParallelData,
        sizes: tuple[int, int],
        *,
        max_pairs: int = TRAINING_PAIRS,
        pairs: IntArray | None = None,
        tag_ids: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset()),
    ) -> None:
        self._pairs: Sequence[int] | IntArray = range(len(data)) if pairs is None else pairs
        self._tag_ids = tag_ids
        chosen = [self._pairs[place] for place in spread(len(self._pairs), max_pairs)]
        sources, targets, _ = self._read(data, chosen)
        self._forward = TranslationTable(align(_with_empty(sources), targets, iterations=ITERATIONS), sizes[1])
        self._backward = TranslationTable(align(_with_empty(targets), sources, iterations=ITERATIONS), sizes[0])

    def align(self, data: ParallelData) -> Iterator[Links]:
        """Yield the links of each pair, in the order of the data, where a place is that among the tokens with </s>."""
        for start in range(0, len(self._pairs), _CHUNK_PAIRS):
            sources, targets, num_tags = self._read(data, self._pairs[start : start + _CHUNK_PAIRS])
            forward = self._forward.link(_with_empty(sources), targets)
            backward = self._backward.link(_with_empty(targets), sources)
            yield from (links + tags for links, tags in zip(map(grow_diag, forward, backward), num_tags, strict=True))

    def _read(
        self, data: ParallelData, indices: Sequence[int] | IntArray
    ) -> tuple[list[IntArray], list[IntArray], list[NDArray[np.int64]]]:
        """Return the sources and the targets of some pairs without tags and </s>, and the numbers of their tags [2]."""
        sources, targets, num_tags = [], [], []
        for index in indices:
            source, target = data[index]
            assert target is not None
            counts = [count_tags(side, ids) for side, ids in zip((source, target), self._tag_ids, strict=True)]
            sources.append(source[counts[0] : -1])
            targets.append(target[counts[1] : -1])
            num_tags.append(np.array(counts, dtype=np.int64))
        return sources, targets, num_tags


def count_tags(tokens: IntArray, tag_ids: frozenset[int]) -> int:
    """Return the number of tags at the beginning of a sentence."""
    return next((place for place, token in enumerate(tokens.tolist()) if token not in tag_ids), len(tokens))


def grow_diag(source_of_T: IntArray, target_of_S: IntArray) -> Links:
    """Return the links of both directions that grow-diag keeps (Koehn et al. 2003).

    It begins with the links that both directions have, and adds links of either direction next to a link, also
    diagonally, as long as one of their two words has no link yet.

    Args:
        source_of_T: source word of each target word, -1 for none.
        target_of_S: target word of each source word, -1 for none.

    Returns:
        Pairs of a source and a target word, sorted by the target.
    """
    forward = {(source, target) for target, source in enumerate(source_of_T.tolist()) if source >= 0}
    backward = {(source, target) for source, target in enumerate(target_of_S.tolist()) if target >= 0}
    links, either = forward & backward, forward | backward
    sources, targets = {source for source, _ in links}, {target for _, target in links}
    new = sorted(links)
    while new:
        added = []
        for source, target in new:
            for down, right in _NEIGHBOURS:
                link = source + down, target + right
                if link in either and link not in links and (link[0] not in sources or link[1] not in targets):
                    links.add(link)
                    sources.add(link[0])
                    targets.add(link[1])
                    added.append(link)
        new = added
    return np.array(sorted(links, key=lambda link: link[::-1]), dtype=np.int64).reshape(-1, 2)


def _with_empty(sentences: Sequence[IntArray]) -> list[IntArray]:
    empty = np.array([_EMPTY_WORD], dtype=np.int64)
    return [np.concatenate([empty, sentence]) for sentence in sentences]
