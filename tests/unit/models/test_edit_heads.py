"""Tests of the heads of a Levenshtein Transformer against products with their matrices."""

from __future__ import annotations

import torch

from kdmt.models.edit_heads import MOST_INSERTED, EditHeads, neighbours


def test_neighbours_concatenates_adjacent_tokens() -> None:
    features = torch.arange(12.0).view(1, 3, 4)
    assert neighbours(features).tolist() == [[[0, 1, 2, 3, 4, 5, 6, 7], [4, 5, 6, 7, 8, 9, 10, 11]]]


def test_deletion_uses_one_token_and_placeholders_use_two() -> None:
    torch.manual_seed(1)
    heads, features = EditHeads(4), torch.randn(2, 3, 4)
    deleted, missing = heads.deleted(features), heads.missing(features)
    assert (deleted.shape, missing.shape) == ((2, 3, 2), (2, 2, MOST_INSERTED + 1))
    torch.testing.assert_close(deleted[1, 2], heads.deletion.weight @ features[1, 2] + heads.deletion.bias)
    pair = torch.cat([features[0, 1], features[0, 2]])
    torch.testing.assert_close(missing[0, 1], heads.placeholders.weight @ pair + heads.placeholders.bias)


def test_heads_of_fairseqs_layout_have_no_bias() -> None:
    assert set(dict(EditHeads(4, bias=False).named_parameters())) == {"deletion.weight", "placeholders.weight"}
