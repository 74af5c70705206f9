"""Tests of the links between vertices of a directed acyclic decoder against loops over a mixture of softmaxes."""

from __future__ import annotations

import math

import torch

from kdmt.models.links import LinkHead

DIM, HEADS, LENGTH = 8, 2, 5


def test_links_are_a_mixture_of_attention_over_later_vertices() -> None:
    torch.manual_seed(1)
    head = LinkHead(DIM, HEADS).double()
    features = torch.randn(1, LENGTH, DIM, dtype=torch.float64)
    positions = torch.randn(LENGTH, DIM, dtype=torch.float64)
    links = head(features, positions, torch.ones(1, LENGTH, dtype=torch.bool))[0].detach()
    placed = torch.cat([features[0], positions], dim=1)
    query, key, gate = (project(placed).detach() for project in (head.query, head.key, head.gate))
    size = DIM // HEADS
    for vertex in range(LENGTH - 1):
        expected = torch.zeros(LENGTH, dtype=torch.float64)
        for number, share in enumerate(gate[vertex].softmax(0)):
            part = slice(number * size, (number + 1) * size)
            scores = key[vertex + 1 :, part] @ query[vertex, part] / math.sqrt(size)
            expected[vertex + 1 :] += share * scores.softmax(0)
        torch.testing.assert_close(links[vertex].exp(), expected, rtol=1e-10, atol=1e-14)
    assert (links[-1] == -math.inf).all()


def test_no_links_to_earlier_vertices_or_padding() -> None:
    torch.manual_seed(1)
    head = LinkHead(DIM, HEADS)
    keep = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    links = head(torch.randn(2, 5, DIM), torch.randn(5, DIM), keep).exp()
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    assert not links[:, ~later].any()
    assert not links[1, :, 3:].any()
    torch.testing.assert_close(links[0, :4].sum(1), torch.ones(4))
    torch.testing.assert_close(links[1, :2].sum(1), torch.ones(2))
