"""Decoding of non-autoregressive students: greedy CTC by hand, and whatever the batch is."""

from __future__ import annotations

import nat_oracles as oracle
import numpy as np
import pytest
import torch

from kdmt.config import Decode
from kdmt.decode.ctc import collapse
from kdmt.decode.nonautoregressive import NATEngine
from kdmt.models.architecture import Family, NATConfig, architecture
from kdmt.models.build import build_nonautoregressive
from kdmt.models.nonautoregressive import NATransformer
from kdmt.types import EOS

V = 20


def small(family: Family = "ctc") -> NATransformer:
    torch.manual_seed(2)
    config = architecture("transformer_tiny", {"dropout": 0.3})
    model = build_nonautoregressive(config, NATConfig(family=family, upsample=2), src_vocab_size=V, tgt_vocab_size=V)
    return model.double()


def sources() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [np.array([*rng.integers(4, V, length), EOS]) for length in (3, 7, 1, 5, 5, 2)]


def test_greedy_is_the_best_symbol_of_each_position() -> None:
    model = small().eval()
    for source, (found,) in zip(sources(), NATEngine(model).decode(sources(), Decode()), strict=True):
        tokens = torch.from_numpy(source)[None]
        x_BLD, keep_BL = model.upsample(tokens)
        log_probs = (model.decode_all(x_BLD, keep_BL, model.encode(tokens)) @ model.output_weight_VD.t()).log_softmax(
            -1
        )
        best = log_probs[0].max(-1)
        assert len(best.indices) == 2 * len(source)
        assert found.tokens == collapse(best.indices.tolist(), V)
        assert found.score == pytest.approx(float(best.values.detach().sum()), rel=1e-10)


@pytest.mark.parametrize("limits", [{"batch_size": 1}, {"batch_size": 2}, {"max_tokens": 9}])
@pytest.mark.parametrize("family", ["ctc", "dag", "nat", "cmlm", "inat", "nat_crf", "levenshtein", "insertion"])
def test_the_batch_changes_nothing(family: Family, limits: dict[str, int]) -> None:
    engine = NATEngine(small(family), iterations=2)
    whole = engine.decode(sources(), Decode())
    apart = engine.decode(sources(), Decode(**limits))
    assert [each[0].tokens for each in apart] == [each[0].tokens for each in whole]
    assert [each[0].score for each in apart] == pytest.approx([each[0].score for each in whole], rel=1e-6)


def test_a_dag_decodes_the_path_that_looks_ahead() -> None:
    model = small("dag").eval()
    for source, (found,) in zip(sources(), NATEngine(model).decode(sources(), Decode()), strict=True):
        tokens = torch.from_numpy(source)[None]
        x_BLD, keep_BL = model.vertices(tokens)
        features = model.decode_all(x_BLD, keep_BL, model.encode(tokens))
        log_probs = (features @ model.output_weight_VD.t()).log_softmax(-1)[0].detach()
        links = model.link(features, keep_BL)[0].detach().double()
        _, expected, score = oracle.dag_lookahead(log_probs.numpy(), links.numpy())
        assert found.tokens == expected[1:-1]
        assert found.score == pytest.approx(score, rel=1e-6)
