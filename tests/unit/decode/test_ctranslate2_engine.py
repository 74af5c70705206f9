"""CTranslate2's search beside ours, on random models of every shape.

What CTranslate2 does otherwise (see the module) is derived here from PyTorch: it renormalises where it forbids </s>,
so that every hypothesis of a sentence is likelier by one factor, but for those that the maximum length ends; and it
keeps the best of all that finish in the last step. <pad>, which it forbids too, has no probability in these models.
Where the maximum length ends a search with a beam, the two may differ: those sentences are left out.
"""

from __future__ import annotations

import math
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from small_transformers import (
    CONFIGS,
    POSITIONS,
    make_model,
    make_sources,
    symbols,
    vocabulary_sizes,
)

from kdmt.config import Decode
from kdmt.decode.ctranslate2 import CTranslate2Engine
from kdmt.decode.transformer import TorchEngine
from kdmt.errors import UserError
from kdmt.interop.ctranslate2 import export_model
from kdmt.models.architecture import TransformerConfig
from kdmt.models.transformer import Transformer
from kdmt.types import EOS, PAD, Hypothesis

SOURCES = make_sources([5, 1, 9, 1, 3, 7, 3, 12])
LONG = {"max_len_a": 0.0, "max_len_b": POSITIONS}
SETTINGS = [(1, 1.0), (5, 0.6), (5, 0.0), (3, 1.7)]
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def load(model: Transformer, folder: Path) -> CTranslate2Engine:
    src_size, tgt_size = vocabulary_sizes(model.config)
    src, tgt = symbols(src_size, "s"), symbols(tgt_size, "s" if model.config.share_all_embeddings else "t")
    export_model(model, folder, src_symbols=src, tgt_symbols=tgt)
    return CTranslate2Engine(folder, compute_type="float32")


@pytest.fixture
def engine(tmp_path: Path) -> CTranslate2Engine:
    """Of `make_model()`."""
    return load(make_model(), tmp_path / "model")


def settings(**values: float) -> Decode:
    return Decode.model_validate({**LONG, **values})


def first_factor(model: Transformer, source: np.ndarray) -> float:
    """-log(1 - p), p the probability of </s> as the first token."""
    (log_probs,) = TorchEngine(model).score_pairs([source], [np.array([EOS])])
    return -math.log1p(-math.exp(log_probs[0]))


def cut_off(hypothesis: Hypothesis) -> bool:
    return len(hypothesis.tokens) == POSITIONS - 1


def rescored(model: Transformer, source: np.ndarray, nbest: list[Hypothesis], lenpen: float) -> list[Hypothesis]:
    """With CTranslate2's scores, and in their order."""
    extra = first_factor(model, source)
    found = [h if cut_off(h) else Hypothesis(h.tokens, h.score + extra / (len(h.tokens) + 1) ** lenpen) for h in nbest]
    return sorted(found, key=lambda hypothesis: -hypothesis.score)


def assert_same(found: list[list[Hypothesis]], expected: list[list[Hypothesis]], tolerance: float = TOLERANCE) -> None:
    assert [[h.tokens for h in nbest] for nbest in found] == [[h.tokens for h in nbest] for nbest in expected]
    for mine, reference in zip(chain(*found), chain(*expected), strict=True):
        assert mine.score == pytest.approx(reference.score, abs=tolerance)


def next_log_probs(model: Transformer, source: np.ndarray) -> oracle.NextLogProbs:
    @torch.no_grad()
    def of_prefix(prefix: tuple[int, ...]) -> list[float]:
        logits = model(torch.from_numpy(source).long()[None], torch.tensor([[EOS, *prefix]]))
        return logits[0, -1].log_softmax(dim=-1).tolist()

    return of_prefix


# ------------------------------------------------------------------------------------------------ what the search finds


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_the_best_is_that_of_pytorch_and_no_other_is_worse(tmp_path: Path, config: TransformerConfig) -> None:
    model = make_model(config)
    engine = load(model, tmp_path / "model")
    compared = 0
    for beam, lenpen in SETTINGS:
        wanted = settings(beam=beam, nbest=beam, lenpen=lenpen)
        peer = TorchEngine(model).decode(SOURCES, wanted)
        for source, mine, reference in zip(SOURCES, engine.decode(SOURCES, wanted), peer, strict=True):
            if beam > 1 and any(map(cut_off, [*mine, *reference])):
                continue
            expected = rescored(model, source, reference, lenpen)
            assert_same([mine[:1]], [expected[:1]])
            assert all(a.score > b.score - TOLERANCE for a, b in zip(mine, expected, strict=True))
            compared += 1
    least = 1 if config == CONFIGS["all embeddings shared"] else 2  # that model goes in circles
    assert compared >= least * len(SOURCES)  # the greedy ones, and as many others


@pytest.mark.parametrize("name", ["other depths", "post-norm"])
@pytest.mark.parametrize(("beam", "lenpen"), SETTINGS)
def test_nbest_is_the_oracles(tmp_path: Path, name: str, beam: int, lenpen: float) -> None:
    model = make_model(CONFIGS[name])
    found = load(model, tmp_path / "model").decode(SOURCES, settings(beam=beam, nbest=beam, lenpen=lenpen))
    compared = 0
    for source, mine in zip(SOURCES, found, strict=True):
        if any(map(cut_off, mine)) or compared == 3:
            continue
        step = next_log_probs(model, source)
        expected = oracle.search(step, max_len=POSITIONS - 1, beam=beam, lenpen=lenpen, keep_more=True)
        assert_same([mine], [rescored(model, source, expected, lenpen)[:beam]])
        compared += 1
    assert compared


def test_where_eos_cannot_come_first_scores_are_the_teacher_forced_ones(tmp_path: Path) -> None:
    model = make_model(eos_logit=-12.0)  # so rare that hypotheses end at the maximum length, where </s> is forced
    engine = load(model, tmp_path / "model")
    for lenpen in (0.0, 0.6, 1.0):
        found = engine.decode(SOURCES, Decode(beam=4, nbest=4, lenpen=lenpen, max_len_a=0.5, max_len_b=2))
        pairs = [(source, hypothesis) for source, nbest in zip(SOURCES, found, strict=True) for hypothesis in nbest]
        forced = TorchEngine(model).score_pairs(
            [source for source, _ in pairs], [np.array([*hypothesis.tokens, EOS]) for _, hypothesis in pairs]
        )
        for (_, hypothesis), log_probs in zip(pairs, forced, strict=True):
            assert hypothesis.score == pytest.approx(log_probs.sum() / len(log_probs) ** lenpen, abs=TOLERANCE)
        assert all(nbest == sorted(nbest, key=lambda h: -h.score) for nbest in found)


def test_maximum_length_is_each_sentences_own(tmp_path: Path) -> None:
    model = make_model(eos_logit=-40.0)
    engine = load(model, tmp_path / "model")
    wanted = Decode(beam=1, max_len_a=1.5, max_len_b=2)
    found = engine.decode(SOURCES, wanted)
    assert [len(nbest[0].tokens) for nbest in found] == [int(1.5 * len(source) + 2) for source in SOURCES]
    assert_same(found, TorchEngine(model).decode(SOURCES, wanted))  # with one beam nothing is left to choose
    longest = engine.decode(SOURCES[:2], Decode(beam=2, max_len_a=0.0, max_len_b=500))
    assert [len(nbest[0].tokens) for nbest in longest] == [POSITIONS - 1] * 2


def test_pad_is_never_written(tmp_path: Path) -> None:
    model = make_model(pad_logit=20.0, eos_logit=18.0)  # <pad> is the likeliest of all
    found = load(model, tmp_path / "model").decode(SOURCES, settings(beam=5, nbest=5))
    assert all(h.tokens and PAD not in h.tokens for nbest in found for h in nbest)


@pytest.mark.parametrize("nbest", [1, 2])
def test_nbest_is_the_beginning_of_a_longer_one(engine: CTranslate2Engine, nbest: int) -> None:
    whole = engine.decode(SOURCES, settings(beam=4, nbest=4))
    assert engine.decode(SOURCES, settings(beam=4, nbest=nbest)) == [hypotheses[:nbest] for hypotheses in whole]


# ------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("limits", [{"batch_size": 1}, {"batch_size": 3}, {"max_tokens": 1}, {"max_tokens": 30}])
@pytest.mark.parametrize("lengths", [LONG, {"max_len_a": 1.2, "max_len_b": 3}])
def test_batches_change_nothing(engine: CTranslate2Engine, limits: dict[str, int], lengths: dict[str, float]) -> None:
    whole = engine.decode(SOURCES, Decode.model_validate({"beam": 4, "nbest": 4, **lengths}))
    done: list[int] = []
    found = engine.decode(
        SOURCES, Decode.model_validate({"beam": 4, "nbest": 4, **lengths, **limits}), progress=done.append
    )
    assert_same(found, whole)
    assert sum(done) == len(SOURCES)
    assert max(done) <= limits.get("batch_size", len(SOURCES))


def test_order_changes_nothing(engine: CTranslate2Engine) -> None:
    wanted = Decode(beam=4, nbest=4, max_len_b=3)
    whole = engine.decode(SOURCES, wanted)
    order = np.random.default_rng(1).permutation(len(SOURCES)).tolist()
    assert_same(engine.decode([SOURCES[i] for i in order], wanted), [whole[i] for i in order])


def test_what_shares_a_maximum_length_shares_a_batch(engine: CTranslate2Engine) -> None:
    done: list[int] = []
    engine.decode(SOURCES, settings(beam=1, batch_size=5), progress=done.append)
    assert done == [5, 3]
    done.clear()
    engine.decode(SOURCES, Decode(beam=1, max_len_a=1.2, max_len_b=1), progress=done.append)
    assert done == [1, 1, 1, 1, 2, 2]  # 12, 9, 7, 5, 3 and 1 tokens


def test_no_sources(engine: CTranslate2Engine) -> None:
    assert engine.decode([], Decode()) == []


def test_a_source_of_eos_alone_gets_the_empty_hypothesis(engine: CTranslate2Engine) -> None:
    found = engine.decode([np.array([EOS]), SOURCES[0]], settings(beam=3, nbest=3))
    assert found[0] == [Hypothesis((), 0.0)]
    assert_same(found[1:], engine.decode(SOURCES[:1], settings(beam=3, nbest=3)))


# ---------------------------------------------------------------------------------------------------- what is refused


def test_source_too_long_is_named(engine: CTranslate2Engine) -> None:
    assert engine.decode(make_sources([POSITIONS - 1]), Decode(beam=1))[0]
    with pytest.raises(UserError, match="source 1 has 25 tokens with </s>; the model's limit is 24"):
        engine.decode(make_sources([3, 24]), Decode())


def test_source_without_eos(engine: CTranslate2Engine) -> None:
    with pytest.raises(ValueError, match="source 0 does not end"):
        engine.decode([np.array([5, 6])], Decode())


@pytest.mark.usefixtures("engine")
def test_a_folder_that_is_none_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a model that 'kdmt export"):
        CTranslate2Engine(tmp_path)
    (tmp_path / "model" / "model.bin").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"model\.bin: damaged"):
        CTranslate2Engine(tmp_path / "model")


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("arguments", [{"compute_type": "int3"}, {"device": "abacus"}])
def test_what_ctranslate2_does_not_have(tmp_path: Path, arguments: dict[str, str]) -> None:
    with pytest.raises(UserError, match="CTranslate2 cannot load it on"):
        CTranslate2Engine(tmp_path / "model", **arguments)  # type: ignore[arg-type]


@pytest.mark.usefixtures("engine")
def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(UserError, match=r"pip install 'kdmt\[ctranslate2\]'"):
        CTranslate2Engine(tmp_path / "model")


def test_int8_by_request(tmp_path: Path) -> None:
    load(make_model(), tmp_path / "model")
    found = CTranslate2Engine(tmp_path / "model", compute_type="int8", threads=2).decode(SOURCES, settings(beam=2))
    assert all(len(nbest) == 1 for nbest in found)
