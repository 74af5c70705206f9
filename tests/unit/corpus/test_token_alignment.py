"""Alignment of tokens in both directions: grow-diag by hand, a lexicon that is recovered, chunks of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from copy_task import write_pairs

from kdmt.corpus import token_alignment
from kdmt.corpus.token_alignment import TokenAligner, grow_diag

VOCAB = 40


def grown(source_of: list[int], target_of: list[int]) -> set[tuple[int, ...]]:
    return {tuple(link) for link in grow_diag(np.array(source_of), np.array(target_of)).tolist()}


def test_links_of_both_directions_grow_to_neighbours_without_links() -> None:
    assert grown([0, 1, 2], [0, 1, 2]) == {(0, 0), (1, 1), (2, 2)}
    # target 1 has no link of both directions and is next to 0-0
    assert grown([0, 0, 2], [0, -1, 2]) == {(0, 0), (0, 1), (2, 2)}
    # 3-0 is next to no link: grow-diag leaves it out; 2-0 is, diagonally
    assert grown([3, 1, -1], [-1, 1, -1, -1]) == {(1, 1)}
    assert grown([2, 1, -1], [-1, 1, -1]) == {(1, 1), (2, 0)}
    # diagonal, over a link that was added before
    assert grown([0, 0, 1], [0, -1]) == {(0, 0), (0, 1), (1, 2)}
    # both words have links already
    assert grown([0, 1], [0, 1]) == {(0, 0), (1, 1)}
    assert grown([], []) == set()
    assert grown([-1, -1], [-1]) == set()


def test_planted_lexicon_with_swapped_words_is_recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    lexicon = dict(zip(range(4, VOCAB), rng.permutation(np.arange(4, VOCAB)).tolist(), strict=True))
    pairs, truth = [], []
    for _ in range(400):
        source = rng.choice(np.arange(4, VOCAB), size=rng.integers(2, 7), replace=False).tolist()
        order = list(range(len(source)))
        if len(order) > 2:
            order[0], order[1] = order[1], order[0]
        pairs.append((source, [lexicon[source[place]] for place in order]))
        truth.append({(place, number) for number, place in enumerate(order)})
    data = write_pairs(tmp_path, [*pairs, ([], [4, 5]), ([4], [])], vocab_size=VOCAB)
    found = [{tuple(link) for link in links.tolist()} for links in TokenAligner(data, (VOCAB, VOCAB)).align(data)]
    assert len(found) == 402
    assert found[400:] == [set(), set()]
    right = sum(len(own & true) for own, true in zip(found, truth, strict=False))
    assert right >= 0.97 * sum(map(len, truth))
    assert right >= 0.97 * sum(map(len, found))

    monkeypatch.setattr(token_alignment, "_CHUNK_PAIRS", 7)
    again = [{tuple(link) for link in links.tolist()} for links in TokenAligner(data, (VOCAB, VOCAB)).align(data)]
    assert again == found


def test_pairs_outside_the_training_sample_are_aligned(tmp_path: Path) -> None:
    data = write_pairs(tmp_path, [([4, 5], [6, 7]), ([8], [9]), ([5, 4], [7, 6]), ([8, 4], [9, 6])], vocab_size=VOCAB)
    found = list(TokenAligner(data, (VOCAB, VOCAB), max_pairs=2).align(data))
    assert len(found) == 4
    assert found[1].tolist() == [[0, 0]]  # words that were never seen are linked by their places


def test_tags_have_no_link_and_only_the_given_pairs_are_aligned(tmp_path: Path) -> None:
    plain = [([4, 5], [6, 7]), ([5, 4], [7, 6]), ([8, 4], [9, 6])]
    (tmp_path / "plain").mkdir()
    without = write_pairs(tmp_path / "plain", plain, vocab_size=VOCAB)
    expected = [links.tolist() for links in TokenAligner(without, (VOCAB, VOCAB)).align(without)]
    (tmp_path / "tagged").mkdir()
    tagged = [([20, 21, *source], [22, *target]) for source, target in plain]
    data = write_pairs(tmp_path / "tagged", [([30], [31]), *tagged], vocab_size=VOCAB)
    tag_ids = (frozenset({20, 21}), frozenset({22}))
    aligner = TokenAligner(data, (VOCAB, VOCAB), pairs=np.array([1, 2, 3]), tag_ids=tag_ids)
    found = [(links - [2, 1]).tolist() for links in aligner.align(data)]
    assert found == expected
