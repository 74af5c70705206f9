"""Random tables instead of models, for tests of searches."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from kdmt.types import EOS, Sampling


class Table:
    """Random logits for each prefix of one sentence, drawn from a fixed set. Rounded logits have many exact ties."""

    def __init__(self, seed: int, *, vocab_size: int = 9, eos_bias: float = 0.0, rounded: bool = False) -> None:
        self.name = f"Table({seed}, vocab_size={vocab_size}, eos_bias={eos_bias}, rounded={rounded})"
        logits = np.random.default_rng(seed).normal(scale=1.5, size=(101, vocab_size))
        logits[:, EOS] += eos_bias
        self.rows = torch.from_numpy(logits.round() if rounded else logits)
        self.log_prob_rows: list[list[float]] = self.rows.log_softmax(dim=-1).tolist()

    def __repr__(self) -> str:
        return self.name

    def place(self, prefix: tuple[int, ...]) -> int:
        return hash(prefix) % len(self.rows)  # unlike strings, numbers have the same hash in every process

    def logits(self, prefix: tuple[int, ...]) -> torch.Tensor:
        return self.rows[self.place(prefix)]

    def log_probs(self, prefix: tuple[int, ...]) -> list[float]:
        return self.log_prob_rows[self.place(prefix)]


class TableStepper:
    """Follows the prefix of each row and records the number of sentences in the batch at each step."""

    def __init__(self, tables: list[Table], beam: int) -> None:
        self.tables, self.beam = list(tables), beam
        self.prefixes: list[tuple[int, ...]] = [()] * (len(tables) * beam)
        self.started = False
        self.batch_sizes: list[int] = []

    def step(self, last_tokens_N: torch.Tensor) -> torch.Tensor:
        last = last_tokens_N.tolist()
        if self.started:
            self.prefixes = [(*prefix, token) for prefix, token in zip(self.prefixes, last, strict=True)]
        else:
            assert last == [EOS] * len(self.prefixes)
        self.started = True
        self.batch_sizes.append(len(self.tables))
        return torch.stack([self.tables[row // self.beam].logits(prefix) for row, prefix in enumerate(self.prefixes)])

    def reorder(self, order_N: torch.Tensor) -> None:
        order = order_N.tolist()
        assert [row // self.beam for row in order] == [row // self.beam for row in range(len(self.prefixes))]
        self.prefixes = [self.prefixes[row] for row in order]

    def select_sentences(self, index_B: torch.Tensor) -> None:
        kept = index_B.tolist()
        self.tables = [self.tables[place] for place in kept]
        self.prefixes = [self.prefixes[place * self.beam + k] for place in kept for k in range(self.beam)]


tables = st.builds(
    Table,
    st.integers(0, 10_000),
    vocab_size=st.just(8),
    eos_bias=st.sampled_from([-1.0, 0.0, 1.5]),
    rounded=st.booleans(),
)
sentences = st.lists(st.tuples(tables, st.integers(1, 8)), min_size=1, max_size=4)
samplings = st.builds(
    Sampling,
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([0, 1, 3, 20]),
    st.sampled_from([0.3, 0.8, 1.0]),
    st.sampled_from([0.0, 0.05, 0.2, 0.99]),
    st.sampled_from([0.0, 0.1, 0.6, 1.0]),
)
