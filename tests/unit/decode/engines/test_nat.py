"""Tests of decoding non-autoregressive students, compared with plain implementations, for all batch sizes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import nat_oracles as oracle
import numpy as np
import pytest
import torch
from slow_parameters import some_of

from kdmt.config import Decode, NATDecode
from kdmt.decode.engines.nat import NATEngine, _fill
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.decode.search.ctc_paths import collapse, prefix_beam_search
from kdmt.errors import UserError
from kdmt.families import ALIGNED, EDITING, POSITIONAL, FamilyName
from kdmt.models.architecture import NATConfig, architecture
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.nonautoregressive import NATransformer
from kdmt.types import BOS, EOS, PAD, UNK

V = 20


def small(family: FamilyName = "ctc", **others: Any) -> NATransformer:
    torch.manual_seed(2)
    config = architecture("transformer_tiny", {"dropout": 0.3})
    nat = NATConfig(family=family, upsample=2, **others)
    return build_nonautoregressive(config, nat, src_vocab_size=V, tgt_vocab_size=V).double()


def sources() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [np.array([*rng.integers(4, V, length), EOS]) for length in (3, 7, 1, 5, 5, 2)]


@pytest.mark.parametrize("dslp", [False, True])
def test_greedy_ctc_chooses_the_best_symbol_of_each_position(dslp: bool) -> None:
    model = small(dslp=dslp).eval()
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


WAYS = [
    *((family, NATDecode(), {}) for family in (*POSITIONAL, *ALIGNED, *EDITING)),
    *((family, NATDecode(length_beam=4), {}) for family in POSITIONAL),
    ("nat", NATDecode(), {"source_copy": "soft"}),
    *((family, NATDecode(), {"source_copy": "none"}) for family in ("nat", "inat", "nat_crf", "ctc")),
    *((family, NATDecode(), {"dslp": True}) for family in ("nat", "cmlm", "ctc")),
    ("cmlm", NATDecode(), {"corrects": True}),
    ("ctc", NATDecode(ctc_beam=3), {}),
    ("dag", NATDecode(dag="viterbi", dag_lenpen=0.5), {}),
    ("insertion", NATDecode(eos_penalty=2.0), {}),
]


@pytest.mark.parametrize("limits", some_of([{"max_tokens": 9}, {"batch_size": 1}, {"batch_size": 2}], 1))
@pytest.mark.parametrize(("family", "search", "nat"), WAYS)
def test_output_does_not_depend_on_the_batch_size(
    family: FamilyName, search: NATDecode, nat: dict[str, Any], limits: dict[str, int]
) -> None:
    engine = NATEngine(small(family, **nat), search=search, iterations=3)
    whole = engine.decode(sources(), Decode())
    apart = engine.decode(sources(), Decode(**limits))
    assert [each[0].tokens for each in apart] == [each[0].tokens for each in whole]
    assert [each[0].steps for each in apart] == [each[0].steps for each in whole]
    assert [each[0].score for each in apart] == pytest.approx([each[0].score for each in whole], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("family", "search", "nat"), [*WAYS, ("dag", NATDecode(dag="greedy"), {})])
def test_scores_in_half_precision_equal_those_in_double_precision(
    family: FamilyName, search: NATDecode, nat: dict[str, Any], dtype: torch.dtype
) -> None:
    """Compare only scores, because tokens with nearly equal scores may be exchanged."""
    half, double = (
        NATEngine(model, search=search, iterations=1).decode(sources(), Decode())
        for model in (small(family, **nat).to(dtype), small(family, **nat).to(dtype).double())
    )
    for (found,), (expected,) in zip(half, double, strict=True):
        assert found.score == pytest.approx(expected.score, rel=20 * torch.finfo(dtype).eps, abs=0.05)


def test_log_probs_of_a_large_uniform_distribution_are_finite_in_float16() -> None:
    config = architecture("transformer_tiny", {})
    nat = NATConfig(family="nat")
    model = build_nonautoregressive(config, nat, src_vocab_size=V, tgt_vocab_size=70_000).half().eval()
    torch.nn.init.zeros_(model.output_proj.weight)
    _, log_probs_BL = model.best_symbols(torch.ones(1, 1, config.decoder_embed_dim, dtype=torch.float16))
    assert float(log_probs_BL.detach()) == pytest.approx(-math.log(70_000 - 1), rel=1e-4)  # <pad> is never generated


@pytest.mark.parametrize("family", [*POSITIONAL, *ALIGNED, *EDITING])
def test_scores_in_float32_do_not_depend_on_the_batch_size(family: FamilyName) -> None:
    engine = NATEngine(small(family).float(), iterations=2)
    whole = engine.decode(sources(), Decode())
    alone = engine.decode(sources(), Decode(batch_size=1))
    for (one,), (other,) in zip(whole, alone, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-5)  # tokens may differ only if their scores are equal


def test_a_dag_is_decoded_with_lookahead() -> None:
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


def log_probs_and_links(model: NATransformer, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tokens = torch.from_numpy(source)[None]
    x_BLD, keep_BL = model.vertices(tokens)
    features = model.decode_all(x_BLD, keep_BL, model.encode(tokens))
    log_probs = (features @ model.output_weight_VD.t()).log_softmax(-1)[0].detach()
    return log_probs.numpy(), model.link(features, keep_BL)[0].detach().double().numpy()


@pytest.mark.parametrize("way", ["greedy", "viterbi"])
def test_greedy_and_viterbi_decoding_of_a_dag(way: Literal["greedy", "viterbi"]) -> None:
    model = small("dag").eval()
    search = NATDecode(dag=way, dag_lenpen=0.7) if way == "viterbi" else NATDecode(dag=way)
    engine = NATEngine(model, search=search)
    few = [source for source in sources() if len(source) < 5]
    for source, (found,) in zip(few, engine.decode(few, Decode()), strict=True):
        tables = log_probs_and_links(model, source)
        expected = oracle.dag_greedy(*tables) if way == "greedy" else oracle.dag_viterbi(*tables, beta=0.7)
        assert found.tokens == expected[1][1:-1]
        assert found.score == pytest.approx(expected[2], rel=1e-6)


def test_prefix_beam_search_of_a_ctc_model() -> None:
    model = small().eval()
    engine = NATEngine(model, search=NATDecode(ctc_beam=4))
    for source, (found,) in zip(sources(), engine.decode(sources(), Decode()), strict=True):
        tokens = torch.from_numpy(source)[None]
        x_BLD, keep_BL = model.upsample(tokens)
        logits = model.decode_all(x_BLD, keep_BL, model.encode(tokens)) @ model.output_weight_VD.t()
        log_probs = logits.log_softmax(-1)[0].detach().numpy()
        expected = prefix_beam_search(log_probs, blank=model.blank, beam=4, candidates=20)
        assert (found.tokens, found.score) == (expected[0], pytest.approx(expected[1], rel=1e-9))


def test_a_crf_finds_the_best_sequence() -> None:
    model = small("nat_crf").eval()
    engine = NATEngine(model, search=NATDecode(length_beam=1))
    moves = (model.transitions.first.weight @ model.transitions.second.weight.t()).detach().numpy()
    for source, (found,) in zip(sources(), engine.decode(sources(), Decode()), strict=True):
        tokens = torch.from_numpy(source)[None]
        length = int(model.lengths.best(model.encode(tokens), 1, limit=1024)) - 1
        seen = torch.tensor([[*[UNK] * length, EOS]])
        logits = model.fill(tokens, seen, model.encode(tokens)) @ model.output_weight_VD.t()
        emissions = logits.log_softmax(-1)[0, :length].detach().numpy()
        best, came_from = emissions[0], []
        for row in emissions[1:]:  # the whole vocabulary, which is smaller than 64 candidates
            table = best[:, None] + moves
            came_from.append(table.argmax(0))
            best = table.max(0) + row
        words = [int(best.argmax())]
        for back in reversed(came_from):
            words.append(int(back[words[-1]]))
        words = words[::-1]
        assert found.tokens == tuple(words[: words.index(EOS)] if EOS in words else words)


@pytest.mark.parametrize("limit", [8, 1024])
def test_the_most_probable_lengths_are_tried(limit: int) -> None:
    model = small("nat").eval()
    source = torch.tensor([[5, EOS]])
    encoded = model.encode(source)
    found = model.lengths.best(encoded, 5, limit=limit)[0].tolist()
    log_probs = model.lengths(encoded)[0].tolist()
    expected = sorted(range(2, min(limit, 129) + 1), key=lambda length: -log_probs[length - 2 + 128])
    assert found == expected[:5]
    assert model.lengths.best(encoded, 5, limit=3)[0, :2].sort().values.tolist() == [2, 3]


def test_a_length_beam_beyond_the_lengths_of_the_model_is_refused() -> None:
    model = small("nat")
    model.config = replace(model.config, max_target_positions=24)
    with pytest.raises(UserError, match="a length beam of 40 is more than the lengths that the model's 24 target"):
        NATEngine(model, search=NATDecode(length_beam=40))


def written_with_length(model: NATransformer, source: np.ndarray, length: int, passes: int) -> tuple[list[int], float]:
    """Return the words and their mean log-probability that Mask-Predict finds for a length, one sentence at a time."""
    tokens, log_probs, src_tokens = [UNK] * length, [-math.inf] * length, torch.from_numpy(source)[None]
    for done in range(passes):
        count = length * (passes - done) // passes
        hidden = sorted(range(length), key=lambda place: (log_probs[place], place))[:count]
        seen = [UNK if place in hidden else token for place, token in enumerate(tokens)]
        with torch.no_grad():
            features = model.fill(src_tokens, torch.tensor([[*seen, EOS]]), model.encode(src_tokens))
            logits = features @ model.output_weight_VD.t()
        logits[..., PAD] = -math.inf  # never predicted
        best = logits.log_softmax(-1)[0].max(-1)
        for place in hidden:
            tokens[place], log_probs[place] = int(best.indices[place]), float(best.values[place])
    return tokens, sum(log_probs) / length


@pytest.mark.parametrize("batch_size", some_of([4, 1, 64], 1))
@pytest.mark.parametrize("passes", [1, 4, 10])
def test_length_beam_of_mask_predict_chooses_the_best_mean_log_probability(passes: int, batch_size: int) -> None:
    """Try the five most probable lengths one after the other, and compare (Ghazvininejad et al. 2019, section 3.3)."""
    model = small("cmlm").eval()
    engine = NATEngine(model, search=NATDecode(length_beam=5), iterations=passes)
    first, found = 0, engine.decode(sources(), Decode(batch_size=batch_size))
    for source, (best,) in zip(sources(), found, strict=True):
        encoded = model.encode(torch.from_numpy(source)[None])
        log_probs = model.lengths(encoded)[0].tolist()  # of the differences from -128 on
        lengths = {len(source) + place - 128: value for place, value in enumerate(log_probs)}
        likely = sorted((each for each in lengths if each >= 2), key=lambda each: -lengths[each])[:5]
        candidates = [written_with_length(model, source, length - 1, passes) for length in likely]
        words, score = max(candidates, key=lambda candidate: candidate[1])
        assert best.tokens == tuple(words[: words.index(EOS)] if EOS in words else words)
        assert best.score == pytest.approx(score, rel=1e-6)  # kept in float32
        first += words == candidates[0][0]
    assert first < len(sources())  # another length than the most probable one is chosen at least once


@pytest.mark.parametrize("family", POSITIONAL)
def test_length_beam_of_cmlm_is_of_this_family_only(family: FamilyName) -> None:
    found, like_one, like_five = (
        NATEngine(small(family), search=search, iterations=2).decode(sources(), Decode())
        for search in (
            NATDecode(length_beam=1, cmlm_length_beam=5),
            NATDecode(length_beam=1),
            NATDecode(length_beam=5),
        )
    )
    assert like_one != like_five
    assert found == (like_five if family == "cmlm" else like_one)


@pytest.mark.parametrize("family", ["nat", "cmlm"])
def test_a_teacher_chooses_among_lengths(family: FamilyName) -> None:
    model = small(family).eval()
    config = architecture("transformer_tiny", {})
    torch.manual_seed(7)
    teacher = TorchEngine(build_transformer(config, src_vocab_size=V, tgt_vocab_size=V).double())
    search = NATDecode(length_beam=4, rescore=True)
    found = NATEngine(model, search=search, teacher=teacher, iterations=3).decode(sources(), Decode(lenpen=0.6))
    chosen_otherwise = 0
    for source, (best,) in zip(sources(), found, strict=True):
        tokens = torch.from_numpy(source)[None]
        with torch.no_grad():
            (candidates,) = _fill(model, tokens, model.encode(tokens), search, 3)
        targets = [np.array([*each.tokens, EOS]) for each in candidates]
        teacher_log_probs = teacher.score_pairs([source] * 4, targets)
        scores = [float(each.sum()) / len(each) ** 0.6 for each in teacher_log_probs]
        assert best.tokens == candidates[int(np.argmax(scores))].tokens
        assert best.score == pytest.approx(max(scores), rel=1e-6)
        chosen_otherwise += best.tokens != candidates[0].tokens
    assert chosen_otherwise > 0
    with pytest.raises(ValueError, match="there is none"):
        NATEngine(model, search=search)
    alone, with_teacher = NATEngine(small()), NATEngine(small(), search=search, teacher=teacher)
    assert with_teacher.decode(sources(), Decode()) == alone.decode(sources(), Decode())  # only one candidate


@pytest.mark.parametrize("family", ["cmlm", "inat", *EDITING])
def test_padding_is_never_generated_in_a_draft(family: FamilyName) -> None:
    model = small(family)
    with torch.no_grad():
        model.output_proj.weight[PAD] = 10.0 * model.output_proj.weight[4:].mean(0)
        if family == "insertion":
            model.slot_proj.bias.copy_(model.output_proj.weight[PAD])  # <pad> would be chosen everywhere
        else:
            model.decoder_layers[-1].ffn_residual.norm.bias.copy_(10.0 * model.output_proj.weight[PAD])
    found = NATEngine(model, iterations=3).decode(sources(), Decode())
    assert any(best.tokens for (best,) in found)
    assert not any(PAD in best.tokens for (best,) in found)


def test_hypotheses_have_their_number_of_decoder_passes() -> None:
    for family, most in (
        ("ctc", 1),
        ("dag", 1),
        ("nat", 1),
        ("nat_crf", 1),
        ("cmlm", 4),
        ("inat", 4),
        ("insertion", 4),
    ):
        found = NATEngine(small(family), iterations=4).decode(sources(), Decode())  # type: ignore[arg-type]
        assert all(1 <= each.steps <= most for (each,) in found)
        assert max(each.steps for (each,) in found) == most


@pytest.mark.parametrize("penalty", [0.0, 0.7, 50.0])
def test_the_eos_penalty_of_an_insertion_model(penalty: float) -> None:
    model = small("insertion").eval()
    with torch.no_grad():  # </s> is slightly more likely than all words together
        model.output_proj.weight[EOS] *= 3.0
    draft = torch.tensor([[BOS, EOS]])
    engine = NATEngine(model, search=NATDecode(eos_penalty=penalty), iterations=1)
    for source, (found,) in zip(sources(), engine.decode(sources(), Decode()), strict=True):
        features = model.slots(model.read_draft(draft, model.encode(torch.from_numpy(source)[None])))
        logits = (features @ model.output_weight_VD.t())[0, 0].detach()
        logits[EOS] -= penalty
        logits[PAD] = -torch.inf
        word = int(logits.argmax())
        assert found.tokens == (() if word == EOS else (word,))
        assert found.score == pytest.approx(0.0 if word == EOS else float(logits.log_softmax(0)[word]), rel=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 0.7, 50.0])
def test_the_eos_penalty_of_a_levenshtein_model(penalty: float) -> None:
    model = small("levenshtein").eval()
    with torch.no_grad():
        model.edits.placeholders.bias[0] += 6.0
    engine = NATEngine(model, search=NATDecode(eos_penalty=penalty), iterations=1)
    draft = torch.tensor([[BOS, EOS]])
    for source, (found,) in zip(sources(), engine.decode(sources(), Decode(max_len_b=300)), strict=True):
        features = model.read_draft(draft, model.encode(torch.from_numpy(source)[None]))
        logits = model.edits.missing(features)[0, 0].detach()
        logits[0] -= penalty
        assert len(found.tokens) == max(int(logits.argmax()), 1)
