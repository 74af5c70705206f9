"""Tests of beam search, compared with a reference search, enumeration and a greedy loop, on random tables as models."""

from __future__ import annotations

import math

import beam_oracle as oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from table_steppers import Table, TableStepper, sentences

from kdmt.decode.search import beam as beam_module
from kdmt.decode.search.beam import beam_search
from kdmt.decode.search.lengths import max_lengths, normalized_score
from kdmt.decode.search.transfers import to_host
from kdmt.types import EOS, PAD, Hypothesis

BOS_TOKEN, UNK_TOKEN = 0, 3


def run(tables: list[Table], max_len_B: list[int], *, beam: int, **options: float) -> list[list[Hypothesis]]:
    return beam_search(TableStepper(tables, beam), max_len_B=max_len_B, beam=beam, **options)  # type: ignore[arg-type]


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [hypothesis.tokens for hypothesis in found] == [hypothesis.tokens for hypothesis in expected]
    for mine, reference in zip(found, expected, strict=True):
        assert mine.score == pytest.approx(reference.score, abs=1e-12)
        assert mine.log_probs == pytest.approx(reference.log_probs, abs=1e-12)


lenpens = st.sampled_from([-0.5, 0.0, 0.6, 1.0, 1.7])


@settings(max_examples=40, deadline=None)
@given(batch=sentences, beam=st.integers(1, 6), lenpen=lenpens, min_len=st.integers(0, 1), narrow=st.booleans())
def test_nbest_equals_the_reference_search(
    batch: list[tuple[Table, int]], beam: int, lenpen: float, min_len: int, narrow: bool
) -> None:
    found = run(
        [table for table, _ in batch],
        [max_len for _, max_len in batch],
        beam=beam,
        nbest=beam,
        lenpen=lenpen,
        min_len=min_len,
        narrow=narrow,
    )
    for hypotheses, (table, max_len) in zip(found, batch, strict=True):
        expected = oracle.search(
            table.log_probs, max_len=max_len, beam=beam, lenpen=lenpen, min_len=min_len, narrow=narrow
        )
        assert len(hypotheses) == len(expected)
        assert len(hypotheses) == beam or narrow
        assert_same(hypotheses, expected)


@pytest.mark.parametrize("seed", range(4))
def test_an_empty_hypothesis_takes_a_place_of_a_narrowing_beam_and_is_the_last_one(seed: int) -> None:
    """If </s> is the best first token, a beam of 3 goes on like a beam of 2 that has no </s> there."""
    tables = Table(seed, eos_bias=1.0), Table(seed, eos_bias=1.0)
    for table, logit in zip(tables, (20.0, -20.0), strict=True):
        table.rows[table.place(()), EOS] = logit
    ((*others, last),) = run([tables[0]], [6], beam=3, nbest=3, lenpen=0.0, narrow=True)
    (expected,) = run([tables[1]], [6], beam=2, nbest=2, lenpen=0.0, narrow=True)
    assert last.tokens == ()
    assert last.score == pytest.approx(0.0, abs=1e-6)
    assert [each.tokens for each in others] == [each.tokens for each in expected]
    assert all(each.tokens for each in others)


def ordered_topk_or_sort(values_RV: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose as on a GPU."""
    *best, is_exact = beam_module._ordered_topk(values_RV, count, count // 2 + 1)
    top_RC, index_RC = best if is_exact else beam_module._first_columns(values_RV, count)
    return top_RC, index_RC


@settings(max_examples=30, deadline=None)
@given(batch=sentences, beam=st.integers(1, 6), min_len=st.integers(0, 1))
def test_the_choice_of_a_gpu_finds_the_oracles_nbest(batch: list[tuple[Table, int]], beam: int, min_len: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(beam_module, "stable_topk", ordered_topk_or_sort)
        limits = [max_len for _, max_len in batch]
        found = run([table for table, _ in batch], limits, beam=beam, nbest=beam, min_len=min_len)
    for hypotheses, (table, max_len) in zip(found, batch, strict=True):
        expected = oracle.search(table.log_probs, max_len=max_len, beam=beam, lenpen=1.0, min_len=min_len)
        assert_same(hypotheses, expected)


@pytest.mark.parametrize("count", [2, 6, 10])
@pytest.mark.parametrize("distinct", [2, 5, 40])
def test_topk_without_a_branch_is_exact_or_says_so(distinct: int, count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    needed, exact = count // 2 + 1, 0
    for _ in range(100):
        values_1V = torch.randint(distinct, (1, 30), generator=generator).double()
        top_1C, index_1C, is_exact = beam_module._ordered_topk(values_1V, count, needed)
        expected, columns = values_1V.sort(dim=1, descending=True, stable=True)
        assert torch.equal(top_1C, expected[:, :count])
        is_tie = bool(expected[0, needed - 1] == expected[0, count])
        assert bool(is_exact) == (not is_tie)
        if is_exact:
            exact += 1
            assert torch.equal(index_1C[:, :needed], columns[:, :needed])
    assert exact or distinct < 40


@pytest.mark.parametrize("beam", [2, 5])
def test_the_host_reads_the_device_once_a_step(beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(beam_module, "to_host", lambda *tensors: reads.append(1) or to_host(*tensors))
    stepper = TableStepper([Table(seed) for seed in range(4)], beam)
    beam_search(stepper, max_len_B=[8, 3, 5, 8], beam=beam)
    assert len(reads) == len(stepper.batch_sizes) > 1


@pytest.mark.parametrize("vocab_size", [4, 5])
@pytest.mark.parametrize("beam", [2, 3, 7])
def test_a_beam_wider_than_the_vocabulary_equals_the_reference_search(vocab_size: int, beam: int) -> None:
    for seed in range(20):
        table = Table(seed, vocab_size=vocab_size)
        expected = oracle.search(table.log_probs, max_len=3, beam=beam, lenpen=1.0)
        assert_same(run([table], [3], beam=beam, nbest=beam)[0], expected)


@pytest.mark.parametrize("lenpen", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_all_hypotheses(seed: int, lenpen: float) -> None:
    table = Table(seed, vocab_size=5)  # three words and at most three positions: 39 hypotheses
    expected = oracle.enumerate_all(table.log_probs, vocab_size=5, max_len=3, lenpen=lenpen)
    found = run([table], [3], beam=40, nbest=40, lenpen=lenpen)[0]
    assert len(found) == 39
    assert_same(found, expected)


@settings(max_examples=40, deadline=None)
@given(batch=sentences)
def test_beam_1_equals_greedy_search(batch: list[tuple[Table, int]]) -> None:
    found = run([table for table, _ in batch], [max_len for _, max_len in batch], beam=1)
    expected = [oracle.greedy(table.log_probs, max_len=max_len) for table, max_len in batch]
    assert [hypotheses[0].tokens for hypotheses in found] == expected


@settings(max_examples=40, deadline=None)
@given(batch=sentences, beam=st.integers(1, 5), data=st.data())
def test_hypotheses_do_not_depend_on_the_batch(batch: list[tuple[Table, int]], beam: int, data: st.DataObject) -> None:
    alone = [run([table], [max_len], beam=beam, nbest=beam)[0] for table, max_len in batch]
    order = data.draw(st.permutations(range(len(batch))))
    together = run([batch[i][0] for i in order], [batch[i][1] for i in order], beam=beam, nbest=beam)
    assert together == [alone[i] for i in order]


@settings(max_examples=40, deadline=None)
@given(batch=sentences, beam=st.integers(1, 5), lenpen=lenpens, data=st.data())
def test_score_is_the_normalised_sum_of_log_probs(
    batch: list[tuple[Table, int]], beam: int, lenpen: float, data: st.DataObject
) -> None:
    nbest = data.draw(st.integers(1, beam))
    found = run([t for t, _ in batch], [max_len for _, max_len in batch], beam=beam, nbest=nbest, lenpen=lenpen)
    for hypotheses, (table, max_len) in zip(found, batch, strict=True):
        assert len(hypotheses) == nbest
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for hypothesis in hypotheses:
            target = (*hypothesis.tokens, EOS)
            forced = [table.log_probs(target[:position])[token] for position, token in enumerate(target)]
            assert 1 <= len(hypothesis.tokens) <= max_len
            assert hypothesis.log_probs == pytest.approx(forced, abs=1e-12)
            assert hypothesis.score == pytest.approx(sum(forced) / len(target) ** lenpen, abs=1e-12)


def test_each_sentence_has_its_own_maximum_length() -> None:
    limits = [7, 1, 4, 2]
    never_ending = [Table(seed, eos_bias=-50.0) for seed in range(4)]
    found = run(never_ending, limits, beam=3, nbest=3)
    assert [[len(h.tokens) for h in hypotheses] for hypotheses in found] == [[limit] * 3 for limit in limits]
    assert all(len(h.log_probs) == len(h.tokens) + 1 for hypotheses in found for h in hypotheses)


def test_finished_sentences_are_removed_from_the_batch() -> None:
    limits = [7, 1, 4, 2]
    stepper = TableStepper([Table(seed, eos_bias=-50.0) for seed in range(4)], beam=2)
    beam_search(stepper, max_len_B=limits, beam=2)
    assert stepper.batch_sizes == [4, 4, 3, 2, 2, 1, 1, 1]  # a limit of n takes n + 1 steps


class ConstantStepper:
    """Stepper that returns the same logits at every step, for one sentence."""

    def __init__(self, logits: dict[int, float], *, vocab_size: int = 6, beam: int, rest: float = -100.0) -> None:
        row = torch.full((vocab_size,), rest)
        for token, value in logits.items():
            row[token] = value
        self.logits_NV = row.repeat(beam, 1)

    def step(self, last_tokens_N: torch.Tensor) -> torch.Tensor:
        assert len(last_tokens_N) == len(self.logits_NV)
        return self.logits_NV

    def reorder(self, order_N: torch.Tensor) -> None: ...

    def select_sentences(self, index_B: torch.Tensor) -> None: ...


def test_padding_is_never_generated_and_keeps_its_probability() -> None:
    best = beam_search(ConstantStepper({PAD: 2.0, 4: 1.0}, beam=2), max_len_B=[3], beam=2, nbest=2)[0][0]
    assert best.tokens == (4, 4, 4)
    assert best.log_probs[0] == pytest.approx(1.0 - math.log(math.exp(2.0) + math.exp(1.0)), abs=1e-6)


def test_bos_and_unk_are_generated_as_in_fairseq() -> None:
    for token in (BOS_TOKEN, UNK_TOKEN):
        assert beam_search(ConstantStepper({token: 5.0}, beam=1), max_len_B=[2], beam=1)[0][0].tokens == (token,) * 2


def test_empty_hypotheses_are_found_only_with_min_len_0() -> None:
    for min_len, expected in ((0, ()), (1, (4,)), (2, (4, 4))):
        stepper = ConstantStepper({EOS: 3.0, 4: 0.0}, beam=1)
        assert beam_search(stepper, max_len_B=[5], beam=1, min_len=min_len)[0][0].tokens == expected


def test_ties_are_ordered_by_beam_and_then_by_token() -> None:
    found = beam_search(ConstantStepper({}, beam=3), max_len_B=[2], beam=3, nbest=3)[0]
    # at the first step <s>, <unk> and 4 are the lowest ids; at the second, <s> and </s> of the first beam come first
    assert [h.tokens for h in found] == [(0,), (0, 0), (0, 3)]


def test_length_penalty_changes_the_best_length() -> None:
    # the only relevant prefix has n words; with </s>, its n + 1 tokens have the decreasing sum n log 0.6 + log 0.4
    def best(lenpen: float) -> int:
        stepper = ConstantStepper({EOS: math.log(0.4), 4: math.log(0.6)}, beam=4)
        return len(beam_search(stepper, max_len_B=[6], beam=4, lenpen=lenpen)[0][0].tokens)

    assert best(0.0) == 1
    assert best(1.0) == 4  # the longest of the four finished hypotheses


def test_output_does_not_depend_on_the_chunks_of_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, limits = [Table(seed, rounded=seed % 2 == 0) for seed in range(4)], [5, 2, 7, 3]
    whole = run(batch, limits, beam=3, nbest=3)
    monkeypatch.setattr(beam_module, "_ROWS_AT_ONCE", 2)
    assert run(batch, limits, beam=3, nbest=3) == whole


def test_half_precision_logits_are_normalised_in_float32() -> None:
    stepper = ConstantStepper({4: 1.0, 5: 0.5}, beam=1)
    stepper.logits_NV = stepper.logits_NV.bfloat16()
    log_prob = beam_search(stepper, max_len_B=[1], beam=1)[0][0].log_probs[0]
    assert log_prob == pytest.approx(-math.log(1 + math.exp(-0.5)), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from([-math.inf, -2.0, -1.0, 0.0]), min_size=width, max_size=width),
            min_size=1,
            max_size=4,
        )
    ),
    count=st.integers(1, 10),
)
def teststable_topk_equals_a_stable_sort(rows: list[list[float]], count: int) -> None:
    values, indices = beam_module.stable_topk(torch.tensor(rows), count)
    for row, row_values, row_indices in zip(rows, values.tolist(), indices.tolist(), strict=True):
        expected = sorted(range(len(row)), key=lambda place: (-row[place], place))[:count]
        assert row_values == [row[place] for place in expected]
        finite = [place for place in expected if row[place] > -math.inf]
        assert row_indices[: len(finite)] == finite  # the order of impossible tokens does not matter


def test_maximum_lengths_follow_their_formula() -> None:
    assert max_lengths([1, 5, 11], 1.2, 10) == [11, 16, 23]
    assert max_lengths([1, 5, 11], 0.0, 200, limit=99) == [99, 99, 99]
    assert max_lengths([], 1.0, 1) == []


def test_normalized_score_follows_its_formula() -> None:
    assert normalized_score(-6.0, 4, 0.0) == -6.0
    assert normalized_score(-6.0, 4, 1.0) == -1.5
    assert normalized_score(-6.0, 4, 0.5) == -3.0


def test_no_sentences() -> None:
    assert run([], [], beam=3) == []


@pytest.mark.parametrize(("beam", "nbest"), [(2, 3), (2, 0)])
def test_nbest_beyond_the_beam_is_refused(beam: int, nbest: int) -> None:
    with pytest.raises(ValueError, match="nbest"):
        run([Table(0)], [3], beam=beam, nbest=nbest)


def test_a_maximum_length_below_the_minimum_is_refused() -> None:
    with pytest.raises(ValueError, match="maximum length of 0"):
        run([Table(0), Table(1)], [3, 0], beam=2)


def test_nan_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match=r"sentence 0 .* NaN"):
        beam_search(ConstantStepper({4: math.nan}, beam=2), max_len_B=[3], beam=2)


def test_no_possible_continuation_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match="no hypothesis"):
        beam_search(ConstantStepper({PAD: 0.0}, beam=2, rest=-math.inf), max_len_B=[3], beam=2)
