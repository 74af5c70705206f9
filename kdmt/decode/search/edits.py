"""Editing a draft until nothing changes: Levenshtein Transformer and Insertion Transformer.

A draft consists of <s>, words and </s>; the initial draft has no words. Finished sentences are removed from the batch.

Shapes: B batch, A active sentences, N tokens of a draft.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdmt.decode.search.transfers import to_device, to_host
from kdmt.losses.edit_scripts import compact, opened, spread
from kdmt.types import BOS, EOS, PAD, UNK, Hypothesis


class Editor(Protocol):
    """The three policies of a Levenshtein Transformer; `rows_A` has the index of each draft's sentence in the batch."""

    def deleted(self, tokens_AN: Tensor, rows_A: Tensor) -> Tensor:
        """Return a mask of the tokens to delete: bool [A, N]."""
        ...

    def missing(self, tokens_AN: Tensor, rows_A: Tensor) -> Tensor:
        """Return the number of tokens that are missing after each token but the last: int64 [A, N - 1]."""
        ...

    def fill(self, tokens_AN: Tensor, rows_A: Tensor) -> tuple[Tensor, Tensor]:
        """Return the most probable token at each position and its log-probability: [A, N] each."""
        ...


class Inserter(Protocol):
    """An Insertion Transformer."""

    def insert(self, tokens_AN: Tensor, rows_A: Tensor) -> tuple[Tensor, Tensor]:
        """Return the most probable token of the slot after each token but the last, and its log-probability.

        One token of the vocabulary means that nothing is inserted. Both results are [A, N - 1].
        """
        ...


@dataclass
class _Drafts:
    """Drafts of the active sentences."""

    tokens_AN: Tensor
    log_probs_AN: Tensor  # of each word when it was predicted, 0 for <s> and </s>

    @property
    def lengths_A(self) -> Tensor:
        return self.tokens_AN.ne(PAD).sum(1)

    @property
    def words_AN(self) -> Tensor:
        """Mask of the words: all tokens but the first and the last, whatever their ids."""
        columns_N = torch.arange(self.tokens_AN.size(1), device=self.tokens_AN.device)
        return (columns_N > 0) & (columns_N < self.lengths_A[:, None] - 1)

    def keep(self, keep_AN: Tensor) -> _Drafts:
        """Return drafts with only the tokens of a mask."""
        width = int(keep_AN.sum(1).max())
        return _Drafts(
            compact(self.tokens_AN, keep_AN, pad=PAD, width=width),
            compact(self.log_probs_AN, keep_AN, pad=0.0, width=width),
        )

    def open(self, counts_AN: Tensor, limits_A: Tensor) -> tuple[_Drafts, Tensor, NDArray[np.bool_]]:
        """Insert placeholders into the drafts.

        Args:
            counts_AN: number of placeholders after each token but the last: [A, N - 1].
            limits_A: maximum length of each draft; within it, the leftmost placeholders are inserted.

        Returns:
            The longer drafts, a mask of their placeholders, bool [A, N'], and a mask of the drafts with placeholders on
            the host, bool [A].
        """
        lengths_A = self.lengths_A
        counts_AN = counts_AN.masked_fill(self.tokens_AN[:, 1:].eq(PAD), 0)
        so_far_AN = counts_AN.cumsum(1).minimum((limits_A - lengths_A).clamp_min(0)[:, None])
        counts_AN = so_far_AN.diff(dim=1, prepend=torch.zeros_like(so_far_AN[:, :1]))
        added_A, after_A = to_host(counts_AN.sum(1), lengths_A + counts_AN.sum(1))
        width = int(after_A.max())
        apart = (
            spread(values, counts_AN, lengths_B=lengths_A, fill=fill, pad=pad, width=width)
            for values, fill, pad in ((self.tokens_AN, UNK, PAD), (self.log_probs_AN, 0, 0))
        )
        return _Drafts(*apart), opened(counts_AN, lengths_B=lengths_A, width=width), added_A > 0

    def select(self, which_A: Tensor) -> _Drafts:
        """Return the drafts of some of the sentences."""
        return _Drafts(self.tokens_AN[which_A], self.log_probs_AN[which_A])

    def equals(self, other: _Drafts) -> Tensor:
        """Return a mask of the drafts that have the same tokens in both: bool [A]."""
        width = max(self.tokens_AN.size(1), other.tokens_AN.size(1))
        mine, theirs = (
            torch.nn.functional.pad(each.tokens_AN, (0, width - each.tokens_AN.size(1)), value=PAD)
            for each in (self, other)
        )
        return mine.eq(theirs).all(1)


# (drafts, their rows, whether it is the first iteration) -> edited drafts, and the number of decoder passes over each
_Edit = Callable[[_Drafts, Tensor, bool], tuple[_Drafts, Tensor]]


def levenshtein(editor: Editor, limits_B: Tensor, *, iterations: int) -> list[Hypothesis]:
    """Delete tokens, insert placeholders and fill them, until nothing changes (Gu et al. 2019, section 3.1).

    The first iteration deletes nothing and inserts at least one word. The score is the mean log-probability of the
    words.

    Args:
        limits_B: maximum number of tokens of each draft, <s> and </s> included.
        iterations: maximum number of iterations.
    """

    def edit(drafts: _Drafts, rows_A: Tensor, first: bool) -> tuple[_Drafts, Tensor]:
        if not first:
            drafts = drafts.keep(
                drafts.tokens_AN.ne(PAD) & ~(drafts.words_AN & editor.deleted(drafts.tokens_AN, rows_A))
            )
        counts_AN = editor.missing(drafts.tokens_AN, rows_A)
        drafts, open_AN, has_open_A = drafts.open(counts_AN.clamp_min(1) if first else counts_AN, limits_B[rows_A])
        passes_A = torch.full_like(rows_A, 1 if first else 2) + open_AN.any(1)
        if not has_open_A.any():
            return drafts, passes_A
        open_A = to_device(torch.from_numpy(np.flatnonzero(has_open_A)), rows_A.device)
        before = drafts.select(open_A)
        tokens_AN, log_probs_AN = editor.fill(before.tokens_AN, rows_A[open_A])
        written_AN, log_probs_AN = open_AN[open_A], log_probs_AN.to(drafts.log_probs_AN.dtype)
        drafts.tokens_AN[open_A] = torch.where(written_AN, tokens_AN, before.tokens_AN)
        drafts.log_probs_AN[open_A] = torch.where(written_AN, log_probs_AN, before.log_probs_AN)
        return drafts, passes_A

    return _until_nothing_changes(edit, limits_B, iterations)


def insertion(inserter: Inserter, limits_B: Tensor, *, iterations: int, nothing: int = EOS) -> list[Hypothesis]:
    """Insert a word into each open slot until no slot is open (Stern et al. 2019, section 5, parallel decoding).

    The score is the mean log-probability of the words.

    Args:
        limits_B, iterations: see `levenshtein`.
        nothing: token that the inserter returns for a slot into which no word is inserted.
    """

    def edit(drafts: _Drafts, rows_A: Tensor, _: bool) -> tuple[_Drafts, Tensor]:
        tokens_AN, log_probs_AN = inserter.insert(drafts.tokens_AN, rows_A)
        counts_AN = tokens_AN.ne(nothing).long().masked_fill(drafts.tokens_AN[:, 1:].eq(PAD), 0)
        longer, open_AN, _has_open_A = drafts.open(counts_AN, limits_B[rows_A])
        # within the length limit, the leftmost insertions of each row are kept: placeholder i is for insertion i
        slots_AN = counts_AN.argsort(dim=1, descending=True, stable=True)
        slot_of_AN = slots_AN.gather(1, (open_AN.cumsum(1) - 1).clamp(0, slots_AN.size(1) - 1))
        log_probs_AN = log_probs_AN.to(longer.log_probs_AN.dtype)
        return (
            _Drafts(
                torch.where(open_AN, tokens_AN.gather(1, slot_of_AN), longer.tokens_AN),
                torch.where(open_AN, log_probs_AN.gather(1, slot_of_AN), longer.log_probs_AN),
            ),
            torch.ones_like(rows_A),
        )

    return _until_nothing_changes(edit, limits_B, iterations)


def _until_nothing_changes(edit: _Edit, limits_B: Tensor, iterations: int) -> list[Hypothesis]:
    size, device = len(limits_B), limits_B.device
    start_12 = to_device(torch.tensor([[BOS, EOS]]), device)
    drafts = _Drafts(start_12.repeat(size, 1), torch.zeros(size, 2, device=device))
    rows = np.arange(size)  # the same as rows_A, on the host
    rows_A = torch.arange(size, device=device)
    found: list[Hypothesis] = [Hypothesis((), 0.0)] * size
    steps_A = torch.zeros_like(rows_A)
    for iteration in range(iterations):
        edited, passes_A = edit(drafts, rows_A, iteration == 0)
        steps_A = steps_A + passes_A
        goes_on: NDArray[np.bool_] = np.zeros(len(rows), dtype=np.bool_)
        if iteration < iterations - 1:
            goes_on = ~to_host(edited.equals(drafts))[0]
        if not goes_on.all():
            done_A = to_device(torch.from_numpy(np.flatnonzero(~goes_on)), device)
            done = _hypotheses(edited.select(done_A), steps_A[done_A])
            for row, hypothesis in zip(rows[~goes_on].tolist(), done, strict=True):
                found[row] = hypothesis
            if not goes_on.any():
                break
            going_A = to_device(torch.from_numpy(np.flatnonzero(goes_on)), device)
            edited, rows, rows_A, steps_A = edited.select(going_A), rows[goes_on], rows_A[going_A], steps_A[going_A]
        drafts = edited
    return found


def _hypotheses(drafts: _Drafts, steps_A: Tensor) -> list[Hypothesis]:
    columns = (drafts.tokens_AN, drafts.log_probs_AN, drafts.lengths_A, steps_A)
    found = []
    for tokens, log_probs, length, steps in zip(*(column.tolist() for column in to_host(*columns)), strict=True):
        words, word_log_probs = tuple(tokens[1 : length - 1]), tuple(log_probs[1 : length - 1])
        found.append(
            Hypothesis(words, sum(word_log_probs) / max(len(word_log_probs), 1), log_probs=word_log_probs, steps=steps)
        )
    return found
