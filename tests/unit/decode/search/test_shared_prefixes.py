"""Tests of samples with shared prefixes, compared with samples of which each has a row of its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from table_steppers import Table, TableStepper, samplings, sentences

from kdmt.decode.search.sampling import sample
from kdmt.decode.search.shared_prefixes import sample_with_shared_prefixes
from kdmt.types import EOS, Hypothesis, Sampling

SAMPLES = 6


class RowTableStepper:
    """Follows the prefix of each row, of which a sentence may have any number."""

    def __init__(self, tables: list[Table]) -> None:
        self.tables = list(tables)  # of the sentences in the batch
        self.rows: list[tuple[Table, tuple[int, ...]]] = [(table, ()) for table in tables]
        self.num_rows: list[int] = []

    def step(self, last_tokens_U: torch.Tensor) -> torch.Tensor:
        last = last_tokens_U.tolist()
        if self.num_rows:
            self.rows = [(table, (*prefix, token)) for (table, prefix), token in zip(self.rows, last, strict=True)]
        else:
            assert last == [EOS] * len(self.rows)
        assert len({(id(table), prefix) for table, prefix in self.rows}) == len(self.rows)  # none is computed twice
        self.num_rows.append(len(self.rows))
        return torch.stack([table.logits(prefix) for table, prefix in self.rows])

    def take_rows(self, rows_U: torch.Tensor, sentences_U: torch.Tensor) -> None:
        assert sentences_U.tolist() == sorted(sentences_U.tolist())
        self.rows = [self.rows[row] for row in rows_U.tolist()]
        assert [self.tables[sentence] for sentence in sentences_U.tolist()] == [table for table, _ in self.rows]
        self.tables = [self.tables[sentence] for sentence in sentences_U.unique().tolist()]


def run(
    stepper: RowTableStepper, limits: list[int], uniforms: torch.Tensor, sampling: Sampling
) -> list[list[Hypothesis]]:
    return sample_with_shared_prefixes(
        stepper, max_len_B=limits, uniforms_NT=uniforms, sampling=sampling, lenpen=0.6, min_len=1
    )


@settings(max_examples=40, deadline=None)
@given(batch=sentences, sampling=samplings, seed=st.integers(0, 1000))
def test_samples_equal_those_with_a_row_each(batch: list[tuple[Table, int]], sampling: Sampling, seed: int) -> None:
    tables, limits = [table for table, _ in batch], [limit for _, limit in batch]
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(len(batch) * SAMPLES, 9, generator=generator, dtype=torch.float64)
    found = run(RowTableStepper(tables), limits, uniforms, sampling)
    expected = sample(
        TableStepper(tables, SAMPLES), max_len_B=limits, uniforms_NT=uniforms, sampling=sampling, lenpen=0.6
    )
    assert [[each.tokens for each in own] for own in found] == [[each.tokens for each in own] for own in expected]
    for own, others in zip(found, expected, strict=True):
        for each, other in zip(own, others, strict=True):
            assert each.score == pytest.approx(other.score, abs=1e-12)
            assert each.log_probs == pytest.approx(other.log_probs, abs=1e-12)


def test_a_prefix_of_several_samples_has_one_row() -> None:
    """With the most probable token alone, all samples of a sentence are the same."""
    stepper, uniforms = RowTableStepper([Table(1), Table(2)]), torch.rand(2 * SAMPLES, 9, dtype=torch.float64)
    found = run(stepper, [8, 8], uniforms, Sampling(epsilon=0.99))
    assert all(len({each.tokens for each in own}) == 1 for own in found)
    assert set(stepper.num_rows) <= {1, 2}
