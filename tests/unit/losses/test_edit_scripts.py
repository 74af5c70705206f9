"""Tests of edit scripts against enumeration."""

from __future__ import annotations

from itertools import pairwise

import nat_oracles as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdmt.losses.edit_scripts import (
    common_subsequence,
    compact,
    levenshtein_distance,
    missing_between,
    opened,
    rightmost_match,
    spread,
)

BOS, EOS, PAD, UNK = 0, 2, 1, 3
SENTENCES = st.lists(st.integers(4, 7), max_size=5)
PAIRS = st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6)


def batch(sentences: list[list[int]], *, framed: bool) -> tuple[Tensor, Tensor]:
    rows = [[BOS, *sentence, EOS] if framed else sentence for sentence in sentences]
    width = max(1, *map(len, rows))
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows]), torch.tensor(list(map(len, rows)))


@given(PAIRS)
@settings(max_examples=40, deadline=None)
def test_common_subsequence_gives_an_optimal_edit_script(
    pairs: list[tuple[list[int], list[int]]],
) -> None:
    (hyp, hyp_lengths), (ref, ref_lengths) = (batch([pair[side] for pair in pairs], framed=True) for side in (0, 1))
    partners = common_subsequence(hyp, ref, hyp_lengths_B=hyp_lengths, ref_lengths_B=ref_lengths)
    for (hypothesis, reference), partner in zip(pairs, partners.tolist(), strict=True):
        assert partner[0] == 0
        assert partner[len(hypothesis) + 1] == len(reference) + 1
        assert set(partner[len(hypothesis) + 2 :]) <= {-1}
        keep = [position >= 0 for position in partner[1 : len(hypothesis) + 1]]
        kept = [position for position in partner if position >= 0]
        placeholders = [after - before - 1 for before, after in pairwise(kept)]
        fillers = [token for position, token in enumerate(reference, start=1) if position not in kept]
        assert oracle.is_optimal_edit(hypothesis, reference, keep, placeholders, fillers)


@given(PAIRS)
@settings(max_examples=40, deadline=None)
def test_the_last_of_several_longest_common_subsequences_is_kept(pairs: list[tuple[list[int], list[int]]]) -> None:
    """Read from the end of the table: a match before a deletion, a deletion before an insertion."""
    (hyp, hyp_lengths), (ref, ref_lengths) = (batch([pair[side] for pair in pairs], framed=True) for side in (0, 1))
    partners = common_subsequence(hyp, ref, hyp_lengths_B=hyp_lengths, ref_lengths_B=ref_lengths)
    for row, (hypothesis, reference) in enumerate(pairs):
        i, j, expected = len(hypothesis), len(reference), [-1] * len(hypothesis)
        while i and j:
            if hypothesis[i - 1] == reference[j - 1]:
                i, j = i - 1, j - 1
                expected[i] = j + 1  # after <s>
            elif longest(hypothesis[: i - 1], reference[:j]) == longest(hypothesis[:i], reference[:j]):
                i -= 1
            else:
                j -= 1
        assert partners[row, 1 : len(hypothesis) + 1].tolist() == expected


def longest(hypothesis: list[int], reference: list[int]) -> int:
    return oracle.longest_common_subsequence(hypothesis, reference)


@given(st.lists(st.lists(st.tuples(st.integers(4, 6), st.booleans()), max_size=8), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_subsequence_of_its_reference_is_matched_as_by_the_table(words: list[list[tuple[int, bool]]]) -> None:
    """Tokens may be repeated, so that there are several ways to match them."""
    ref, ref_lengths = batch([[word for word, _ in row] for row in words], framed=True)
    hyp, hyp_lengths = batch([[word for word, kept in row if kept] for row in words], framed=True)
    lengths = {"hyp_lengths_B": hyp_lengths, "ref_lengths_B": ref_lengths}
    assert torch.equal(rightmost_match(hyp, ref, **lengths), common_subsequence(hyp, ref, **lengths))


@given(PAIRS)
@settings(max_examples=40, deadline=None)
def test_levenshtein_distance(pairs: list[tuple[list[int], list[int]]]) -> None:
    (hyp, hyp_lengths), (ref, ref_lengths) = (batch([pair[side] for pair in pairs], framed=False) for side in (0, 1))
    found = levenshtein_distance(hyp, ref, hyp_lengths_B=hyp_lengths, ref_lengths_B=ref_lengths)
    assert found.tolist() == [oracle.levenshtein_distance(*pair) for pair in pairs]


@given(PAIRS)
@settings(max_examples=40, deadline=None)
def test_edit_script_turns_hypothesis_into_reference(pairs: list[tuple[list[int], list[int]]]) -> None:
    """Tokens are deleted, and placeholders inserted and filled, in batches as in a Levenshtein Transformer."""
    (hyp, hyp_lengths), (ref, ref_lengths) = (batch([pair[side] for pair in pairs], framed=True) for side in (0, 1))
    partners = common_subsequence(hyp, ref, hyp_lengths_B=hyp_lengths, ref_lengths_B=ref_lengths)
    kept, partners = compact(hyp, partners >= 0, pad=PAD), compact(partners, partners >= 0, pad=-1)
    lengths = kept.ne(PAD).sum(1)
    counts = missing_between(partners, hyp_lengths_B=lengths)
    drafts = spread(kept, counts, lengths_B=lengths, fill=UNK, pad=PAD)
    assert torch.equal(opened(counts, lengths_B=lengths), drafts.eq(UNK))
    assert torch.equal(torch.where(drafts.eq(UNK), ref[:, : drafts.size(1)], drafts), ref)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_spread_and_compact_against_lists(counts: list[list[int]]) -> None:
    sentences = [[BOS, *range(10, 10 + len(row) - 1), EOS] for row in counts]
    tokens, lengths = batch([sentence[1:-1] for sentence in sentences], framed=True)
    table = torch.zeros(len(counts), tokens.size(1) - 1, dtype=torch.int64)
    for row, values in enumerate(counts):
        table[row, : len(values)] = torch.tensor(values)
    found = spread(tokens, table, lengths_B=lengths, fill=UNK, pad=PAD)
    for row, (sentence, values) in enumerate(zip(sentences, counts, strict=True)):
        expected = [token for pair in zip(sentence, [*values, 0], strict=True) for token in [pair[0], *[UNK] * pair[1]]]
        assert found[row].tolist() == expected + [PAD] * (found.size(1) - len(expected))
    assert torch.equal(compact(found, found.ne(UNK) & found.ne(PAD), pad=PAD), tokens)
    wide = compact(found, found.ne(UNK) & found.ne(PAD), pad=PAD, width=found.size(1))
    assert torch.equal(wide[:, : tokens.size(1)], tokens)
    assert bool(wide[:, tokens.size(1) :].eq(PAD).all())
