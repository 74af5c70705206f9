"""Tests of the PyTorch engine on small random Transformers, compared with uncached, unbatched forward passes."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import beam_oracle as oracle
import numpy as np
import pytest
import torch

from kdmt.config import Decode, Diverse
from kdmt.corpus.batching import pad_sentences
from kdmt.decode.engines.pytorch import TorchEngine, sample_batch
from kdmt.errors import UserError
from kdmt.models.architecture import TransformerConfig
from kdmt.models.build import build_transformer
from kdmt.models.transformer import Transformer
from kdmt.types import EOS, PAD, Hypothesis, Sampling

VOCAB = 14

TINY = TransformerConfig(
    encoder_layers=2,
    decoder_layers=2,
    encoder_embed_dim=16,
    decoder_embed_dim=16,
    encoder_ffn_embed_dim=24,
    decoder_ffn_embed_dim=24,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    dropout=0.3,
    max_source_positions=24,
    max_target_positions=24,
)
CONFIGS = {
    "post-norm": TINY,
    "pre-norm": replace(TINY, encoder_normalize_before=True, decoder_normalize_before=True),
    "learned positions, one decoder layer": replace(
        TINY, encoder_learned_pos=True, decoder_learned_pos=True, decoder_layers=1
    ),
    "shared embeddings": replace(TINY, share_all_embeddings=True),
    "Marian's layout, SSRUs": replace(TINY, share_all_embeddings=True, layout="marian", decoder="ssru"),
}


def make_model(config: TransformerConfig = TINY, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Transformer:
    torch.manual_seed(seed)
    model = build_transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB).to(dtype)
    with torch.no_grad():  # sharper distributions than those of initial weights, so that hypotheses differ
        model.output_proj.weight.mul_(2.0)
    return model.eval()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_sources(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.append(rng.integers(3, VOCAB, size=length), EOS).astype(np.int32) for length in lengths]


SOURCES = make_sources([5, 0, 9, 1, 3, 7, 3, 12])


def decode(model: Transformer, sources: list[np.ndarray], **settings: float) -> list[list[Hypothesis]]:
    return TorchEngine(model).decode(sources, Decode.model_validate({"max_len_b": 3, **settings}))


def next_log_probs(model: Transformer, source: np.ndarray) -> oracle.NextLogProbs:
    """Return the model as a function of the prefix: one sentence, no padding, no cache."""

    @torch.no_grad()
    def of_prefix(prefix: tuple[int, ...]) -> list[float]:
        prev = torch.tensor([[EOS, *prefix]])
        return model(torch.from_numpy(source).long()[None], prev)[0, -1].log_softmax(dim=-1).tolist()

    return of_prefix


def max_len_of(source: np.ndarray) -> int:
    return min(int(1.2 * len(source) + 3), TINY.max_target_positions - 1)


def assert_same(found: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    assert [[h.tokens for h in nbest] for nbest in found] == [[h.tokens for h in nbest] for nbest in expected]
    for mine, reference in zip(chain(*found), chain(*expected), strict=True):
        assert mine.score == pytest.approx(reference.score, abs=1e-12)
        assert mine.log_probs == pytest.approx(reference.log_probs, abs=1e-12)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize(("beam", "lenpen"), [(1, 1.0), (3, 0.6), (5, 1.0), (4, 0.0)])
def test_nbest_equals_the_reference_search(config: TransformerConfig, beam: int, lenpen: float) -> None:
    model = make_model(config)
    sources = SOURCES[:5]
    expected = [
        oracle.search(next_log_probs(model, source), max_len=max_len_of(source), beam=beam, lenpen=lenpen)
        for source in sources
    ]
    assert_same(decode(model, sources, beam=beam, nbest=beam, lenpen=lenpen), expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("lenpen", "config"), [(0.6, TINY), (1.0, TINY), (0.6, CONFIGS["Marian's layout, SSRUs"])])
def test_scores_equal_teacher_forced_scores(
    dtype: torch.dtype, tolerance: float, lenpen: float, config: TransformerConfig
) -> None:
    engine = TorchEngine(make_model(config, dtype=dtype))
    found = engine.decode(SOURCES, Decode(beam=4, nbest=4, lenpen=lenpen))
    pairs = [(source, hypothesis) for source, nbest in zip(SOURCES, found, strict=True) for hypothesis in nbest]
    forced = engine.score_pairs([source for source, _ in pairs], [np.array([*h.tokens, EOS]) for _, h in pairs])
    assert len(pairs) == 4 * len(SOURCES)
    for (_, hypothesis), log_probs in zip(pairs, forced, strict=True):
        score = log_probs.astype(np.float64).sum() / len(log_probs) ** lenpen
        assert hypothesis.score == pytest.approx(score, abs=tolerance)
        assert hypothesis.log_probs == pytest.approx(log_probs.tolist(), abs=tolerance)


def test_beam_1_equals_greedy_search() -> None:
    model = make_model(seed=3)
    expected = [oracle.greedy(next_log_probs(model, source), max_len=max_len_of(source)) for source in SOURCES]
    assert [nbest[0].tokens for nbest in decode(model, SOURCES, beam=1)] == expected


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 3}, {"max_tokens": 1}, {"max_tokens": 30}])
def test_output_does_not_depend_on_the_batch_size(settings: dict[str, int]) -> None:
    model = make_model()
    whole = decode(model, SOURCES, beam=4, nbest=4)
    assert_same(decode(model, SOURCES, beam=4, nbest=4, **settings), whole)


def test_scores_in_float32_depend_on_the_batch_size_only_by_rounding() -> None:
    model = make_model(dtype=torch.float32)
    whole = decode(model, SOURCES, beam=4, nbest=4)
    single = decode(model, SOURCES, beam=4, nbest=4, batch_size=1)
    for one, other in zip(chain(*whole), chain(*single), strict=True):  # tokens may differ if tied
        assert one.score == pytest.approx(other.score, abs=1e-5)


def test_output_does_not_depend_on_the_order_of_sources() -> None:
    model = make_model()
    whole = decode(model, SOURCES, beam=4, nbest=4)
    order = np.random.default_rng(1).permutation(len(SOURCES)).tolist()
    shuffled = decode(model, [SOURCES[i] for i in order], beam=4, nbest=4, batch_size=3)
    assert_same(shuffled, [whole[i] for i in order])


def test_equal_sources_get_equal_results() -> None:
    found = decode(make_model(), [SOURCES[2], SOURCES[7], SOURCES[2]], beam=3, nbest=3)
    assert_same([found[0]], [found[2]])


def never_ending(config: TransformerConfig = TINY) -> Transformer:
    """Return a model that gives </s> the lowest logit at every position."""
    model = make_model(config)
    decode_step = model.decode_step

    def without_eos(last_tokens_N: torch.Tensor, cache: object) -> torch.Tensor:
        logits_NV = decode_step(last_tokens_N, cache)  # type: ignore[arg-type]
        logits_NV[:, EOS] = -100.0
        return logits_NV

    model.decode_step = without_eos  # type: ignore[method-assign]
    return model


def test_each_sentence_has_its_own_maximum_length() -> None:
    found = decode(never_ending(), SOURCES, beam=2, max_len_a=1.5, max_len_b=2)
    assert [len(nbest[0].tokens) for nbest in found] == [int(1.5 * len(source) + 2) for source in SOURCES]


def test_maximum_length_leaves_room_for_eos_in_the_positions() -> None:
    found = decode(never_ending(), SOURCES[:2], beam=2, max_len_a=0.0, max_len_b=500)
    assert [len(nbest[0].tokens) for nbest in found] == [TINY.max_target_positions - 1] * 2


def test_empty_source_is_translated() -> None:
    model = make_model()
    source = np.array([EOS], dtype=np.int32)
    expected = oracle.search(next_log_probs(model, source), max_len=max_len_of(source), beam=3, lenpen=1.0)
    assert_same(decode(model, [source], beam=3, nbest=3), [expected])


def test_no_sources() -> None:
    assert TorchEngine(make_model()).decode([], Decode()) == []
    assert TorchEngine(make_model()).score_pairs([], []) == []


def test_the_longest_possible_source_is_translated() -> None:
    assert decode(make_model(), make_sources([23]), beam=1)[0]


def test_a_source_that_is_too_long_is_refused() -> None:
    with pytest.raises(UserError, match="source 1 has 25 tokens with </s>; the model's limit is 24"):
        decode(make_model(), make_sources([3, 24]))


@pytest.mark.parametrize("source", [[], [5, 6]])
def test_a_source_without_eos_is_refused(source: list[int]) -> None:
    with pytest.raises(ValueError, match="source 0 does not end"):
        decode(make_model(), [np.array(source)])


def test_progress_counts_every_sentence() -> None:
    done: list[int] = []
    TorchEngine(make_model()).decode(SOURCES, Decode(beam=1, batch_size=3), progress=done.append)
    assert done == [3, 3, 2]


def test_a_model_in_training_mode_decodes_without_dropout_and_stays_trainable() -> None:
    model = make_model()
    expected = decode(model, SOURCES, beam=2)
    model.train()
    assert_same(decode(model, SOURCES, beam=2), expected)
    assert model.training
    assert model.encoder_layers[0].training
    source = torch.from_numpy(SOURCES[0]).long()[None]
    model(source, source).sum().backward()


def test_pair_scores_equal_single_unpadded_passes() -> None:
    model = make_model()
    targets = make_sources([4, 2, 0, 11, 3, 1, 8, 5], seed=1)
    found = TorchEngine(model).score_pairs(SOURCES, targets, max_tokens=40, batch_size=3)
    for source, target, log_probs in zip(SOURCES, targets, found, strict=True):
        of_prefix = next_log_probs(model, source)
        prefix = tuple(target.tolist())
        expected = [of_prefix(prefix[:position])[token] for position, token in enumerate(prefix)]
        assert log_probs == pytest.approx(expected, abs=1e-12)


def test_invalid_pairs_are_refused() -> None:
    engine = TorchEngine(make_model())
    with pytest.raises(ValueError, match="2 sources and 1 targets"):
        engine.score_pairs(SOURCES[:2], SOURCES[:1])
    with pytest.raises(UserError, match="target 0 has 31 tokens"):
        engine.score_pairs(SOURCES[:1], make_sources([30]))


def test_sampling_with_top_k_1_equals_greedy_search() -> None:
    model, sources = make_model(), [np.array([5, 6, 7, EOS]), np.array([8, EOS]), np.array([9, 10, 11, 12, 4, EOS])]
    found = sample_batch([model], pad_sentences(sources), sampling=Sampling(top_k=1), max_len_a=1.2, max_len_b=3)
    greedy = TorchEngine(model).decode(sources, Decode(beam=1, max_len_a=1.2, max_len_b=3, lenpen=1.0))
    assert [each.tokens for each in found] == [nbest[0].tokens for nbest in greedy]
    assert [each.score for each in found] == pytest.approx([nbest[0].score for nbest in greedy])


# ------------------------------------------------------------------------------------- samples of numbered sentences

INDICES = [11, 3, 200, 0, 7, 1, 90_000, 4]


def draw(
    model: Transformer, indices: list[int], sources: list[np.ndarray] = SOURCES, *, seed: int = 1, **settings: int
) -> list[Hypothesis]:
    decode = Decode.model_validate({"max_len_b": 3, **settings})
    found = TorchEngine(model).sample(sources, indices, decode, Sampling(), seed=seed)
    return [hypothesis for (hypothesis,) in found]


def draw_alone(model: Transformer, source: np.ndarray, index: int, seed: int) -> tuple[int, ...]:
    """Return a sample drawn token by token by inversion, with one random number for each."""
    log_probs, rng = next_log_probs(model, source), np.random.default_rng([seed, index])
    tokens: tuple[int, ...] = ()
    while len(tokens) < max_len_of(source):
        probs = np.exp(log_probs(tokens))
        probs[[PAD] if tokens else [PAD, EOS]] = 0.0
        token = int((probs.cumsum() <= rng.random() * probs.sum()).sum())
        if token == EOS:
            break
        tokens = (*tokens, token)
    return tokens


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("config", [TINY, CONFIGS["Marian's layout, SSRUs"]], ids=["self-attention", "SSRUs"])
def test_a_sample_depends_on_its_seed_and_index(seed: int, config: TransformerConfig) -> None:
    model = make_model(config)
    expected = [draw_alone(model, source, index, seed) for source, index in zip(SOURCES, INDICES, strict=True)]
    assert [hypothesis.tokens for hypothesis in draw(model, INDICES, seed=seed)] == expected


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 3}, {"max_tokens": 30}])
def test_a_sample_does_not_depend_on_other_sentences(settings: dict[str, int]) -> None:
    model = make_model()
    whole = draw(model, INDICES)
    order = np.random.default_rng(1).permutation(len(SOURCES))[:-2].tolist()
    some = draw(model, [INDICES[i] for i in order], [SOURCES[i] for i in order], **settings)
    assert_same([some], [[whole[i] for i in order]])


def test_another_seed_or_index_gives_another_sample() -> None:
    model = make_model()
    samples = draw(model, INDICES), draw(model, INDICES, seed=2), draw(model, list(range(50, 58)))
    longer = [i for i, each in enumerate(samples[0]) if len(each.tokens) > 2]
    assert longer
    for i in longer:
        assert len({each[i].tokens for each in samples}) == 3
    one, other, again = (hypothesis.tokens for hypothesis in draw(model, [5, 6, 5], [SOURCES[7]] * 3))
    assert one == again != other


def test_several_samples_of_a_sentence_depend_on_nothing_else() -> None:
    """The first sample is the one that a call for one sample draws, and more samples continue fewer."""
    engine, decode, done = TorchEngine(make_model()), Decode(max_len_b=3, batch_size=6), list[int]()
    whole = engine.sample(SOURCES, INDICES, decode, Sampling(), seed=1, samples=9, lenpen=0.4, progress=done.append)
    assert [each[0].tokens for each in whole] == [each.tokens for each in draw(engine.model, INDICES)]
    assert done == [3, 3, 2]  # the limit of a batch counts a quarter of the samples
    order = [6, 2, 3]
    some = engine.sample(
        [SOURCES[i] for i in order], [INDICES[i] for i in order], Decode(max_len_b=3), Sampling(), seed=1, samples=3
    )
    assert [[each.tokens for each in own] for own in some] == [[each.tokens for each in whole[i][:3]] for i in order]
    assert len({each.tokens for each in whole[-1]}) == 9
    for own in whole:
        for each in own:
            assert each.score == pytest.approx(sum(each.log_probs) / len(each.log_probs) ** 0.4)


def test_diverse_hypotheses_of_a_model_with_ssrus_have_their_teacher_forced_scores() -> None:
    engine = TorchEngine(make_model(CONFIGS["Marian's layout, SSRUs"]))
    settings, diverse = Decode(beam=4, nbest=4, max_len_b=3), Diverse(groups=2, penalty=0.5)
    found = engine.decode_diverse(SOURCES, settings, diverse)
    for source, hypotheses in zip(SOURCES, found, strict=True):
        assert len(hypotheses) > 1
        targets = [np.array([*each.tokens, EOS]) for each in hypotheses]
        for each, expected in zip(hypotheses, engine.score_pairs([source] * len(targets), targets), strict=True):
            assert each.log_probs == pytest.approx(expected.tolist(), abs=1e-12)


def test_samples_have_no_token_below_epsilon() -> None:
    model, settings = make_model(), Decode(max_len_b=3)
    (found,) = TorchEngine(model).sample(SOURCES[2:3], [7], settings, Sampling(epsilon=0.05), seed=1, samples=10)
    log_probs, drawn = next_log_probs(model, SOURCES[2]), []
    for hypothesis in found:
        for place, token in enumerate(hypothesis.tokens):
            probs = np.exp(log_probs(hypothesis.tokens[:place]))
            probs[[PAD] if place else [PAD, EOS]] = 0.0
            drawn.append(probs[token] / probs.sum())
    assert 0.05 <= min(drawn) < 0.1


@pytest.mark.parametrize("sampling", [Sampling(top_k=1), Sampling(temperature=1e-4), Sampling(top_p=1e-9)])
def test_a_deterministic_sample_equals_greedy_search(sampling: Sampling) -> None:
    model, settings, done = make_model(seed=3), Decode(beam=1, batch_size=3, max_len_b=3), []
    engine = TorchEngine(model)
    found = engine.sample(SOURCES, INDICES, settings, sampling, seed=1, progress=done.append)
    assert_same(found, engine.decode(SOURCES, settings))
    assert done == [3, 3, 2]


def test_sampling_for_no_sources_and_too_long_sources() -> None:
    engine = TorchEngine(make_model())
    assert engine.sample([], [], Decode(), Sampling(), seed=1) == []
    with pytest.raises(UserError, match="source 1 has 25 tokens with </s>; the model's limit is 24"):
        engine.sample(make_sources([3, 24]), [8, 9], Decode(), Sampling(), seed=1)


# ------------------------------------------------------------------------------------------ right-to-left models


def reversed_log_prob(model: Transformer, source: np.ndarray, words: tuple[int, ...]) -> list[float]:
    """Return the log-probability of each word and of </s>, predicted from the last word to the first."""
    following = next_log_probs(model, source)
    backwards = words[::-1]
    steps = [following(backwards[:place])[token] for place, token in enumerate((*backwards, EOS))]
    return [*steps[-2::-1], steps[-1]] if words else steps


def test_a_right_to_left_model_scores_reversed_tokens() -> None:
    model = make_model(replace(TINY, right_to_left=True))
    targets = make_sources([4, 0, 1, 6], seed=3)
    found = TorchEngine(model).score_pairs(SOURCES[:4], targets)
    for source, target, log_probs in zip(SOURCES, targets, found, strict=False):
        expected = reversed_log_prob(model, source, tuple(target[:-1].tolist()))
        np.testing.assert_allclose(log_probs, expected, atol=1e-9)


def test_a_right_to_left_model_finds_the_best_of_all_sentences() -> None:
    model = make_model(replace(TINY, right_to_left=True))
    words = [token for token in range(VOCAB) if token not in (EOS, PAD)]
    every = [*((first,) for first in words), *((first, second) for first in words for second in words)]
    source = SOURCES[2]
    ((*found,),) = decode(model, [source], beam=200, nbest=5, max_len_a=0.0, max_len_b=2, lenpen=0.0)
    scores = {each: sum(reversed_log_prob(model, source, each)) for each in every}
    best = sorted(every, key=lambda each: -scores[each])[:5]
    assert [hypothesis.tokens for hypothesis in found] == best
    assert any(len(each) == 2 and each[0] != each[1] for each in best)  # the order of the words is visible
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(scores[hypothesis.tokens], abs=1e-9)
        assert hypothesis.log_probs == pytest.approx(reversed_log_prob(model, source, hypothesis.tokens), abs=1e-9)


def test_samples_of_a_right_to_left_model_have_the_scores_of_their_tokens() -> None:
    model = make_model(replace(TINY, right_to_left=True))
    settings = Decode.model_validate({"max_len_a": 0.0, "max_len_b": 6})
    drawn = TorchEngine(model).sample(SOURCES, range(len(SOURCES)), settings, Sampling(), seed=2)
    for source, (sample,) in zip(SOURCES, drawn, strict=True):
        assert sample.log_probs == pytest.approx(reversed_log_prob(model, source, sample.tokens), abs=1e-9)


def test_models_of_both_directions_have_no_common_steps() -> None:
    with pytest.raises(UserError, match="from left to right and from right to left"):
        TorchEngine(make_model(), others=[make_model(replace(TINY, right_to_left=True))])
