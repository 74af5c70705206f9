"""The greedy search against beam search with one beam, whenever the host reads the tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from table_steppers import Table, TableStepper, sentences

from kdmt.config import Decode
from kdmt.decode.search import unbranched
from kdmt.decode.search.beam import beam_search
from kdmt.decode.search.sampling import sample
from kdmt.decode.search.transfers import to_host
from kdmt.decode.search.unbranched import greedy_search, search_with_beam
from kdmt.types import EOS


class Endless(TableStepper):
    """Goes on with the rows that have ended, whose tokens then mean nothing."""

    def step(self, last_tokens_N: torch.Tensor) -> torch.Tensor:
        return super().step(torch.where(last_tokens_N.eq(EOS) & self.started, 4, last_tokens_N))


@settings(max_examples=30, deadline=None)
@given(
    batch=sentences,
    read_steps=st.sampled_from([None, 1, 2, 3, 8]),
    lenpen=st.sampled_from([0.0, 0.6, 1.0]),
    min_len=st.integers(0, 1),
)
def test_equals_beam_search_with_one_beam(
    batch: list[tuple[Table, int]], read_steps: int | None, lenpen: float, min_len: int
) -> None:
    tables, limits = [table for table, _ in batch], [max_len for _, max_len in batch]
    found = greedy_search(Endless(tables, 1), max_len_B=limits, lenpen=lenpen, min_len=min_len, read_steps=read_steps)
    stepper = TableStepper(tables, 1)
    assert found == beam_search(stepper, max_len_B=limits, beam=1, lenpen=lenpen, min_len=min_len)


@pytest.mark.parametrize(("read_steps", "reads"), [(1, 21), (8, 3), (100, 1)])
def test_the_host_reads_only_every_few_steps(read_steps: int, reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(unbranched, "to_host", lambda *tensors: made.append(1) or to_host(*tensors))
    never_ending = [Table(1, eos_bias=-50.0)]
    (found,) = greedy_search(Endless(never_ending, 1), max_len_B=[20], read_steps=read_steps)
    assert len(found[0].tokens) == 20
    assert len(made) == reads


@pytest.mark.parametrize("read_steps", [2, 8])
def test_samples_do_not_depend_on_when_they_are_read(read_steps: int) -> None:
    tables, limits = [Table(seed, eos_bias=1.0) for seed in range(5)], [9, 3, 9, 6, 1]
    uniforms_NT = torch.rand(10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def draw(steps: int) -> object:
        return sample(Endless(tables, 2), max_len_B=limits, uniforms_NT=uniforms_NT, read_steps=steps)

    assert draw(read_steps) == draw(1)


def test_sentences_that_have_ended_leave_the_batch() -> None:
    stepper = Endless([Table(seed, eos_bias=-50.0) for seed in range(3)], 1)
    greedy_search(stepper, max_len_B=[2, 9, 5], read_steps=3)
    assert stepper.batch_sizes == [3] * 3 + [2] * 3 + [1] * 4


@pytest.mark.parametrize(("value", "message"), [(torch.nan, "are NaN"), (-torch.inf, "probability above 0")])
def test_broken_models(value: float, message: str) -> None:
    table = Table(1)
    if message == "are NaN":
        table.rows = torch.full_like(table.rows, value)
    else:  # only <pad>, which is not allowed, has a probability
        table.rows = torch.full_like(table.rows, value)
        table.rows[:, 1] = 0.0
    with pytest.raises(FloatingPointError, match=f"sentence 0 of the batch.*{message}"):
        greedy_search(Endless([table], 1), max_len_B=[4], read_steps=2)


def test_no_room_for_the_least_length() -> None:
    with pytest.raises(ValueError, match="below the minimum of 2"):
        greedy_search(Endless([Table(1)], 1), max_len_B=[1], min_len=2)


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("narrow", [False, True])
def test_settings_choose_between_greedy_and_beam_search(beam: int, narrow: bool) -> None:
    tables, limits = [Table(seed, eos_bias=1.0) for seed in range(4)], [5, 9, 2, 7]
    decode = Decode(beam=beam, nbest=beam, lenpen=0.5)
    found = search_with_beam(TableStepper(tables, beam), decode, max_len_B=limits, narrow=narrow)
    assert found == beam_search(
        TableStepper(tables, beam), max_len_B=limits, beam=beam, nbest=beam, lenpen=0.5, narrow=narrow
    )
