"""Tests of the ids of hypotheses through a pivot language, and of the order of candidates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from kdmt.config import Decode, Distill
from kdmt.distill.blocks import Block
from kdmt.distill.candidates import find_failures_of_tokens
from kdmt.distill.decoding import SourceIds, Translate
from kdmt.distill.pivot import PivotIds, PivotWorker
from kdmt.types import EOS, Hypothesis
from kdmt.workers.tasks import WorkerSpec

IDS = PivotIds(first=50)


def test_hypotheses_are_split_from_their_intermediate_text() -> None:
    made = [((7, 8, EOS), "grün", False), ((), "", False), ((9,), "a b", True)]
    flat = [IDS.encode(tokens, text, at_limit=limit) for tokens, text, limit in made]
    tokens, sizes = np.array([token for each in flat for token in each]), np.array([*map(len, flat)])
    assert tokens.max() < IDS.vocab_size
    found = IDS.split(tokens, sizes)
    assert found.tokens.tolist() == [7, 8, 9]
    assert found.sizes.tolist() == [2, 0, 1]
    assert found.at_limit.tolist() == [False, False, True]
    assert IDS.texts(tokens, sizes) == ["grün", "", "a b"]


@dataclass(frozen=True)
class Table:
    """A teacher that looks its hypotheses up by the first id of the source."""

    found: dict[int, list[tuple[tuple[int, ...], float]]]
    max_source_tokens: ClassVar[int] = 4
    max_target_tokens: ClassVar[int] = 100
    vocab_size: ClassVar[int] = 50
    limits_lengths: ClassVar[bool] = True

    def open(self, spec: WorkerSpec, made_with: dict[str, object]) -> Translate:
        del spec, made_with

        def translate(
            sources: SourceIds, numbers: list[int], block: Block, progress: Callable[[int], None]
        ) -> list[list[Hypothesis]]:
            del block
            assert len(sources) == len(numbers)
            progress(len(sources))
            return [[Hypothesis(tokens, score) for tokens, score in self.found[int(each[0])]] for each in sources]

        return translate

    def made_with(self, spec: WorkerSpec) -> dict[str, object]:
        del spec
        return {}


def letters(tokens: NDArray[np.integer], sizes: NDArray[np.int32]) -> list[str]:
    """Return the letters whose numbers from a = 10 are the ids of each hypothesis."""
    parts = np.split(tokens, np.cumsum(sizes)[:-1])
    return ["".join(chr(ord("a") + token - 10) for token in part.tolist()) for part in parts]


def ids_of(lines: list[str]) -> list[NDArray[np.integer]]:
    return [np.array([*(ord(letter) - ord("a") + 10 for letter in line), EOS]) for line in lines]


def candidates(nbest: int) -> list[list[tuple[str, list[int], float]]]:
    """Return the intermediate text, the ids and the score of the candidates of two sources."""
    first = Table({1: [((10,), -1.0), ((11,), -1.5)], 2: [((), -0.1), ((12, 12, 12, 12), -2.0)]})
    second = Table({10: [((30,), -2.0), ((31,), -3.0)], 11: [((32,), -0.5), ((30,), -1.0)], 12: [((34,), -1.0)]})
    decode = Decode(beam=3, nbest=3, max_len_a=1.0, max_len_b=5)
    worker = PivotWorker(
        first=first,
        second=second,
        to_words=letters,
        find_failures=find_failures_of_tokens,
        encode=ids_of,  # type: ignore[arg-type]
        settings=Distill(decode=decode),
        nbest=nbest,
        ids=IDS,
    )
    done: list[int] = []
    sources: SourceIds = [np.array([1, EOS]), np.array([2, EOS])]
    found = worker.open(WorkerSpec(0, 1, "cpu", Path("log")), {})(sources, [0, 1], Block(0, 0, 2), done.append)
    assert sum(done) == 2
    made = []
    for own in found:
        made.append([])
        for each in own:
            tokens, sizes = np.array(each.tokens), np.array([len(each.tokens)])
            (text,) = IDS.texts(tokens, sizes)
            made[-1].append((text, IDS.split(tokens, sizes).tokens.tolist(), each.score))
    return made


@pytest.mark.parametrize(
    ("nbest", "expected"),
    [
        (1, [[("a", [30], -3.0), ("a", [31], -4.0)], []]),
        (2, [[("b", [32], -2.0), ("b", [30], -2.5), ("a", [31], -4.0)], []]),
    ],
)
def test_candidates_are_those_with_the_largest_sums_of_scores(
    nbest: int, expected: list[list[tuple[str, list[int], float]]]
) -> None:
    """A hypothesis for both intermediate texts is one candidate.

    The second source has an empty intermediate text, and one that is too long for the second model.
    """
    assert candidates(nbest) == expected
