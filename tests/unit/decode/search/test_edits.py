"""Tests of decoding with Levenshtein and Insertion Transformers in batches, compared with one sentence at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence

import nat_oracles as oracle
import pytest
import torch
from torch import Tensor

from kdmt.decode.search.edits import insertion, levenshtein
from kdmt.types import EOS, PAD, UNK

SENTENCES = 6
LIMIT = 12  # including <s> and </s>


def _rng(*what: object) -> random.Random:
    return random.Random(str(what))


class Scripted:
    """Policies with random answers that depend only on the sentence and the draft, which stops changing eventually."""

    def __init__(self) -> None:
        self.calls = 0

    def deletes(self, row: int, words: Sequence[int]) -> list[bool]:
        return [_rng("delete", row, words, place).random() < 0.3 for place in range(len(words))]

    def placeholders(self, row: int, words: Sequence[int]) -> list[int]:
        return [_rng("open", row, words, gap).choice([0, 0, 0, 1, 2]) for gap in range(len(words) + 1)]

    def fills(self, row: int, words: Sequence[int], place: int) -> int:
        return _rng("fill", row, words, place).randint(4, 6)

    def slot(self, row: int, words: Sequence[int], gap: int) -> int:
        return _rng("slot", row, words, gap).choice([EOS, EOS, 4, 5])

    def _table(self, tokens: Tensor, rows: Tensor, ask: str, width: int) -> Tensor:
        self.calls += 1
        found = torch.full((len(tokens), width), 7)  # values at padding must have no effect
        for place, (row, draft) in enumerate(zip(rows.tolist(), tokens.tolist(), strict=True)):
            words = tuple(draft[1 : draft.index(EOS)])
            if ask == "deletes":
                answers: list[int] = [1, *map(int, self.deletes(row, words)), 1]
            elif ask == "placeholders":
                answers = self.placeholders(row, words)
            elif ask == "slot":
                answers = [self.slot(row, words, gap) for gap in range(len(words) + 1)]
            else:
                answers = [9, *(self.fills(row, words, each) for each in range(len(words))), 9]
            found[place, : len(answers)] = torch.tensor(answers)
        return found

    def deleted(self, tokens: Tensor, rows: Tensor) -> Tensor:
        return self._table(tokens, rows, "deletes", tokens.size(1)).bool()

    def missing(self, tokens: Tensor, rows: Tensor) -> Tensor:
        return self._table(tokens, rows, "placeholders", tokens.size(1) - 1)

    def fill(self, tokens: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        found = self._table(tokens, rows, "fills", tokens.size(1))
        return found, -found.float()

    def insert(self, tokens: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        found = self._table(tokens, rows, "slot", tokens.size(1) - 1)
        return found, -found.float()


def levenshtein_alone(script: Scripted, row: int, iterations: int) -> tuple[int, ...]:
    words: tuple[int, ...] = ()
    for iteration in range(iterations):
        before = words
        if iteration:
            words = oracle.apply_deletions(words, [not wrong for wrong in script.deletes(row, words)])
        room, insertions = LIMIT - 2 - len(words), []
        for count in script.placeholders(row, words):
            insertions.append(min(max(count, 0 if iteration else 1), room))
            room -= insertions[-1]
        opened = oracle.apply_insertions(words, insertions, [UNK] * sum(insertions))
        kept = oracle.apply_insertions([1] * len(words), insertions, [0] * sum(insertions))
        words = tuple(
            word if is_kept else script.fills(row, opened, place)
            for place, (word, is_kept) in enumerate(zip(opened, kept, strict=True))
        )
        if words == before:
            break
    return words


def insertion_alone(script: Scripted, row: int, iterations: int) -> tuple[int, ...]:
    words: tuple[int, ...] = ()
    for _ in range(iterations):
        room, insertions, fillers = LIMIT - 2 - len(words), [], []
        for gap in range(len(words) + 1):
            token = script.slot(row, words, gap)
            insertions.append(int(token != EOS and room > 0))
            room -= insertions[-1]
            fillers += [token] * insertions[-1]
        if not fillers:
            break
        words = oracle.apply_insertions(words, insertions, fillers)
    return words


@pytest.mark.parametrize("iterations", [1, 2, 5, 20])
def test_levenshtein_in_a_batch_equals_single_sentences(iterations: int) -> None:
    script = Scripted()
    found = levenshtein(script, torch.full((SENTENCES,), LIMIT), iterations=iterations)
    assert [each.tokens for each in found] == [levenshtein_alone(script, row, iterations) for row in range(SENTENCES)]
    for each in found:
        assert each.score == pytest.approx(-sum(each.tokens) / max(len(each.tokens), 1))


@pytest.mark.parametrize("iterations", [1, 2, 5, 20])
def test_insertion_in_a_batch_equals_single_sentences(iterations: int) -> None:
    script = Scripted()
    found = insertion(script, torch.full((SENTENCES,), LIMIT), iterations=iterations)
    assert [each.tokens for each in found] == [insertion_alone(script, row, iterations) for row in range(SENTENCES)]
    assert {len(each.tokens) for each in found} != {0}


class Expert:
    """Policies that produce the references."""

    references = ([4, 5, 6], [7], [4, 4, 4, 4, 4])

    def deleted(self, tokens: Tensor, rows: Tensor) -> Tensor:
        assert len(tokens) == len(rows)
        return torch.zeros_like(tokens, dtype=torch.bool)

    def missing(self, tokens: Tensor, rows: Tensor) -> Tensor:
        counts = torch.zeros(len(tokens), tokens.size(1) - 1, dtype=torch.int64)
        for place, row in enumerate(rows.tolist()):
            counts[place, 0] = len(self.references[row]) + 2 - int(tokens[place].ne(PAD).sum())
        return counts

    def fill(self, tokens: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        found = tokens.clone()
        for place, row in enumerate(rows.tolist()):
            found[place, 1 : 1 + len(self.references[row])] = torch.tensor(self.references[row])
        return found, torch.zeros(found.shape)


def test_decoding_ends_when_a_draft_does_not_change() -> None:
    found = levenshtein(Expert(), torch.full((3,), LIMIT), iterations=10)
    assert [list(each.tokens) for each in found] == list(Expert.references)
    # passes: placeholders, words, then deletions and placeholders without changes
    assert [each.steps for each in found] == [4, 4, 4]
