"""Tests of the targets of an Insertion Transformer's slots, against a loop written from the paper."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmt.losses.insertion import missing_spans

BOS, PAD, EOS = 0, 1, 2


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=4), st.floats(0.2, 5.0))
@settings(max_examples=30, deadline=None)
def test_spans_and_weights(gaps: list[list[int]], temperature: float) -> None:
    """A sentence is described by the number of missing words in each of its slots."""
    references, partners = [], []
    for row in gaps:
        positions = [0]
        for gap in row:
            positions.append(positions[-1] + gap + 1)
        references.append([BOS, *range(10, 10 + positions[-1] - 1), EOS])
        partners.append(positions)
    slots, longest = max(map(len, gaps)), max(map(len, references))
    reference = torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in references])
    partner = torch.tensor([[*row, *[-1] * (slots + 1 - len(row))] for row in partners])
    counts = torch.tensor([[*row, *[0] * (slots - len(row))] for row in gaps])
    width = max(1, int(counts.max()))
    tokens, weights = missing_spans(reference, partner, counts, nothing=EOS, temperature=temperature, width=width)
    for sentence, row in enumerate(gaps):
        for slot, gap in enumerate(row):
            first, last = partners[sentence][slot] + 1, partners[sentence][slot + 1] - 1
            raw = [math.exp(-abs(i - (first + last) / 2) / temperature) for i in range(first, last + 1)]
            wanted = references[sentence][first : last + 1] or [EOS]
            shares = [value / sum(raw) for value in raw] or [1.0]
            assert tokens[sentence, slot, : max(gap, 1)].tolist() == wanted
            assert weights[sentence, slot, : max(gap, 1)].tolist() == pytest.approx(shares, rel=1e-5)
            assert float(weights[sentence, slot, max(gap, 1) :].sum()) == 0.0
