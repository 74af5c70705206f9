"""Tests of the refinement of fairseq on small random models.

`tests/unit/interop/fairseq/test_parity.py` compares the output of this engine with that of fairseq.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_transformers import POST_NORM, make_model, make_sources, vocabulary_sizes

from kdmt.config import Decode
from kdmt.decode.engines.fairseq_refinement import RefinementEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.decode.search.lengths import normalized_score
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.nonautoregressive import NATransformer
from kdmt.types import EOS

SOURCES = make_sources([4, 7, 2, 9])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_student(family: str, layout: str = "fairseq") -> NATransformer:
    torch.manual_seed(3)
    src_size, tgt_size = vocabulary_sizes(POST_NORM)
    nat = NATConfig(family=family, layout=layout, crf_candidates=8)
    model = build_nonautoregressive(POST_NORM, nat, src_vocab_size=src_size, tgt_vocab_size=tgt_size)
    with torch.no_grad():  # sharper distributions than those of initial weights, so that tokens differ
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model.double().eval()


@pytest.mark.parametrize("family", ["nat", "cmlm", "inat", "nat_crf", "levenshtein", "insertion"])
def test_a_translation_does_not_depend_on_its_batch(family: str) -> None:
    engine = RefinementEngine(make_student(family), max_iter=3)
    together = engine.decode(SOURCES, Decode())
    alone = [engine.decode([source], Decode())[0] for source in SOURCES]
    for (one,), (other,) in zip(together, alone, strict=True):
        assert one.tokens == other.tokens
        assert one.score == pytest.approx(other.score)


@pytest.mark.parametrize("family", ["cmlm", "inat"])
def test_the_number_of_passes_is_limited(family: str) -> None:
    for max_iter in (0, 2):
        adaptive = RefinementEngine(make_student(family), max_iter=max_iter).decode(SOURCES, Decode())
        assert all(1 <= best.steps <= max_iter + 1 for (best,) in adaptive)
        forced = RefinementEngine(make_student(family), max_iter=max_iter, adaptive=False).decode(SOURCES, Decode())
        assert all(best.steps == max_iter + 1 for (best,) in forced)


def test_a_score_is_the_mean_of_its_log_probabilities() -> None:
    for (best,) in RefinementEngine(make_student("nat"), max_iter=2).decode(SOURCES, Decode()):
        assert best.score == pytest.approx(sum(best.log_probs) / len(best.log_probs))


def test_a_reranker_chooses_among_lengths_by_its_own_score() -> None:
    model, teacher = make_student("nat"), TorchEngine(make_model())
    lengths = RefinementEngine(model, max_iter=1, length_beam=3, reranker=teacher).decode(SOURCES, Decode())
    for source, (best,) in zip(SOURCES, lengths, strict=True):
        (log_probs,) = teacher.score_pairs([source], [np.array([*best.tokens, EOS])])
        assert best.score == pytest.approx(normalized_score(float(log_probs.sum()), len(log_probs), 1.0), rel=1e-5)


def test_models_and_options_that_fairseq_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="no model of fairseq's"):
        RefinementEngine(make_student("cmlm", layout="own"))
    with pytest.raises(ValueError, match="levenshtein models have no lengths to try"):
        RefinementEngine(make_student("levenshtein"), length_beam=2)
