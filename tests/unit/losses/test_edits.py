"""Edit scripts against enumeration."""

from __future__ import annotations

from itertools import pairwise

import nat_oracles as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdmt.losses.edits import common_subsequence, levenshtein_distance

BOS, EOS, PAD = 0, 2, 1
SENTENCES = st.lists(st.integers(4, 7), max_size=5)
PAIRS = st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6)


def batch(sentences: list[list[int]], *, framed: bool) -> tuple[Tensor, Tensor]:
    rows = [[BOS, *sentence, EOS] if framed else sentence for sentence in sentences]
    width = max(1, *map(len, rows))
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows]), torch.tensor(list(map(len, rows)))


@given(PAIRS)
@settings(max_examples=80, deadline=None)
def test_what_is_kept_and_inserted_makes_the_reference_with_the_fewest_edits(
    pairs: list[tuple[list[int], list[int]]],
) -> None:
    (hyp, hyp_lengths), (ref, ref_lengths) = (batch([pair[side] for pair in pairs], framed=True) for side in (0, 1))
    partners = common_subsequence(hyp, ref, hyp_lengths_B=hyp_lengths, ref_lengths_B=ref_lengths)
    for (hypothesis, reference), partner in zip(pairs, partners.tolist(), strict=True):
        assert partner[0] == 0
        assert partner[len(hypothesis) + 1] == len(reference) + 1
        assert set(partner[len(hypothesis) + 2 :]) <= {-1}
        keep = [place >= 0 for place in partner[1 : len(hypothesis) + 1]]
        kept = [place for place in partner if place >= 0]
        placeholders = [after - before - 1 for before, after in pairwise(kept)]
        fillers = [token for place, token in enumerate(reference, start=1) if place not in kept]
        assert oracle.is_optimal_edit(hypothesis, reference, keep, placeholders, fillers)


@given(PAIRS)
@settings(max_examples=80, deadline=None)
def test_levenshtein_distance(pairs: list[tuple[list[int], list[int]]]) -> None:
    (hyp, hyp_lengths), (ref, ref_lengths) = (batch([pair[side] for pair in pairs], framed=False) for side in (0, 1))
    found = levenshtein_distance(hyp, ref, hyp_lengths_B=hyp_lengths, ref_lengths_B=ref_lengths)
    assert found.tolist() == [oracle.levenshtein_distance(*pair) for pair in pairs]
