"""Examples of translations side by side: the worst ones and random ones, with differences from the reference marked."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from kdmt.score.metrics import chrf_metric

MAX_CHARACTERS = 1_000  # characters of a text on the page
_MAX_PIECES = 400  # words of a text in which differences are marked: the time grows with the square
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_SEED = 1


@dataclass(frozen=True)
class Piece:
    """A part of a text; `differs` is true for words that the text compared with does not have here."""

    text: str
    differs: bool = False


@dataclass(frozen=True)
class Shown:
    """A text of an example: its label, such as the name of the system, and its pieces."""

    label: str
    pieces: list[Piece]


@dataclass(frozen=True)
class ShownExample:
    """A sentence with its translations; `score` is the chrF of the system that the examples are chosen for."""

    line: int
    score: float
    texts: list[Shown]


@dataclass(frozen=True)
class ShownExamples:
    """Examples of one test set: the worst translations of a system, and random ones."""

    test_set: str
    system: str
    worst: list[ShownExample]
    drawn: list[ShownExample]


def choose_examples(
    test_set: str,
    among: Sequence[int],
    sources: Sequence[str],
    references: Sequence[str],
    outputs: Mapping[str, Sequence[str]],
    *,
    system: str,
    most: int,
    spaced: bool,
) -> ShownExamples:
    """Return the translations of a system with the lowest sentence-level chrF, and as many random ones.

    Args:
        among: indices of the sentences to choose from.
        sources, references: texts of the test set [N].
        outputs: label of a system -> translations [N], in the order in which they are shown.
        system: label of the system that the examples are chosen for.
        most: maximum number of examples of each kind.
        spaced: whether the target language has spaces between words.
    """
    metric = chrf_metric(lowercase=False)
    own = outputs[system]
    scores = {index: metric.sentence_score(own[index], [references[index]]).score for index in among}
    worst = sorted(among, key=lambda index: (scores[index], index))[:most]
    drawn = sorted(random.Random(_SEED).sample(list(among), min(most, len(among))))

    def example(index: int) -> ShownExample:
        reference = references[index]
        texts = [
            Shown("source", [Piece(_cut(sources[index]))]),
            Shown("reference", mark_differences(reference, own[index], spaced=spaced)),
        ]
        texts += [
            Shown(label, mark_differences(lines[index], reference, spaced=spaced)) for label, lines in outputs.items()
        ]
        return ShownExample(index + 1, scores[index], texts)

    return ShownExamples(test_set, system, list(map(example, worst)), list(map(example, drawn)))


def mark_differences(text: str, other: str, *, spaced: bool) -> list[Piece]:
    """Return the pieces of a text; those that an alignment of words does not find in the other text differ.

    Args:
        spaced: whether the text is compared by words, or by characters for languages without spaces.
    """
    own, others = (_split(_cut(each), spaced) for each in (text, other))
    if max(len(own), len(others)) > _MAX_PIECES:
        return [Piece("".join(own))]
    pieces: list[Piece] = []
    for change, start, stop, _, _ in SequenceMatcher(None, own, others, autojunk=False).get_opcodes():
        if start < stop:
            pieces.append(Piece("".join(own[start:stop]), differs=change != "equal"))
    return pieces


def _split(text: str, spaced: bool) -> list[str]:
    return _WORDS.findall(text) if spaced else list(text)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"
