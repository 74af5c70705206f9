"""Contrastive tests: a right and wrong translations of a sentence, of which a model prefers one.

The wrong translations differ from the right one in what is tested, for example the gender of a pronoun whose noun is in
the previous sentence (Müller et al. 2018, "A Large-Scale Test Set for the Evaluation of Context-Aware Pronoun
Translation"). A file has a JSON object on each line:

    {"context": ["I held the cup ."], "source": "It fell .", "right": "Sie fiel .", "wrong": ["Er fiel ."]}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdmt.config import read_record
from kdmt.corpus.jsonl import text_problem
from kdmt.errors import UserError
from kdmt.files import check_file, parse_json, read_json, write_json

_NAMES = ("context", "source", "right", "wrong")
CONTRASTIVE = "contrastive.json"  # in the folder of the score stage
_LISTS = ("context", "wrong")


@dataclass(frozen=True)
class ContrastivePair:
    """A source with a right and one or several wrong targets, all raw text.

    Attributes:
        source: source sentence.
        right: its translation.
        wrong: translations with an error.
        context: previous sentences of the document, in their order.
    """

    source: str
    right: str
    wrong: tuple[str, ...]
    context: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the right target, followed by the wrong ones."""
        return (self.right, *self.wrong)


@dataclass(frozen=True)
class ContrastiveResult:
    """The pairs in which a model prefers the right target.

    Attributes:
        margins: for each pair, the log-probability of the right target minus the largest one of the wrong targets, in
            nats; NaN if a target has no score.
    """

    margins: tuple[float, ...]

    @property
    def correct(self) -> tuple[bool, ...]:
        """Return for each pair whether the right target has a larger log-probability than all wrong ones."""
        return tuple(margin > 0.0 for margin in self.margins)

    @property
    def num_correct(self) -> int:
        """Return the number of pairs in which the right target has the largest log-probability."""
        return sum(self.correct)

    @property
    def accuracy(self) -> float:
        """Return the percentage of such pairs, from 0 to 100."""
        return 100.0 * self.num_correct / len(self.margins)


def compare_scores(pairs: Sequence[ContrastivePair], scores: Sequence[float]) -> ContrastiveResult:
    """Return the result of scored targets.

    Args:
        pairs: contrastive pairs, at least one.
        scores: log-probabilities of the targets of each pair, the right one first, one pair after the other; NaN for a
            target without one.

    Raises:
        ValueError: if there is not one score for each target.
    """
    following = iter(scores)
    margins = []
    for pair in pairs:
        right, *wrong = [next(following, None) for _ in pair.targets]
        if right is None or None in wrong:
            raise ValueError(f"{len(scores)} scores are fewer than the targets")
        known = [score for score in (right, *wrong) if score is not None and not math.isnan(score)]
        is_complete = len(known) == len(pair.targets)
        margins.append(known[0] - max(known[1:]) if is_complete else math.nan)
    if next(following, None) is not None:
        raise ValueError(f"{len(scores)} scores are more than the targets")
    return ContrastiveResult(tuple(margins))


def read_pairs(path: Path) -> list[ContrastivePair]:
    """Return the contrastive pairs of a JSONL file.

    Raises:
        UserError: if there is no such file, or a line is not a contrastive pair; the message has its number.
    """
    pairs = list(_read(path))
    if not pairs:
        raise UserError(f"{path}: there is no contrastive pair")
    return pairs


def _read(path: Path) -> Iterator[ContrastivePair]:
    check_file(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield _pair(line)
                except UserError as error:
                    raise UserError(f"{path} line {number}: {error}") from None


def _pair(line: bytes) -> ContrastivePair:
    try:
        found = parse_json(line)
    except ValueError:
        raise UserError("not JSON") from None
    if not isinstance(found, dict):
        raise UserError("not a JSON object")
    if unknown := sorted(set(found) - set(_NAMES)):
        raise UserError(f"unknown field {unknown[0][:60]!r}; the fields are {', '.join(_NAMES)}")
    (source,), (right,) = (_texts(found.get(name), name) for name in ("source", "right"))
    wrong = _texts(found.get("wrong"), "wrong")
    if not wrong:
        raise UserError("field 'wrong' has no target")
    if right in wrong:
        raise UserError("field 'wrong' has the right target too")
    return ContrastivePair(source, right, wrong, _texts(found.get("context", []), "context"))


def _texts(value: object, name: str) -> tuple[str, ...]:
    """Return the texts of a field, which is one text or, for `context` and `wrong`, a list of them."""
    listed: list[Any] = value if isinstance(value, list) and name in _LISTS else [value]
    for each in listed:
        if problem := text_problem(each, name):
            raise UserError(problem)
        if "\n" in each:
            raise UserError(f"field {name!r} holds a line break")
    return tuple(listed)


# -------------------------------------------------------------------------------------------------------------- records


@dataclass(frozen=True)
class ContrastiveRow:
    """Entry of contrastive.json: the result of a system in a contrastive test.

    Attributes:
        system: name of the system.
        seed: its seed.
        test: name of the test.
        num_pairs: number of its pairs.
        num_correct: number of pairs in which the right target has the largest log-probability.
        accuracy: their percentage, from 0 to 100.
    """

    system: str
    seed: int
    test: str
    num_pairs: int
    num_correct: int
    accuracy: float

    @classmethod
    def of(cls, system: str, seed: int, test: str, result: ContrastiveResult) -> ContrastiveRow:
        """Return the entry of a result."""
        return cls(system, seed, test, len(result.margins), result.num_correct, result.accuracy)


def write_rows(path: Path, rows: Sequence[ContrastiveRow]) -> None:
    """Write contrastive.json: a list of objects, one for each row."""
    write_json(path, [asdict(row) for row in rows], indent=2)


def read_rows(path: Path) -> list[ContrastiveRow]:
    """Return the rows of contrastive.json.

    Raises:
        UserError: if the file is missing or damaged.
    """
    return read_record(list[ContrastiveRow], read_json(path), str(path))


def rows_text(rows: Sequence[ContrastiveRow]) -> str:
    """Return the rows as lines of text, one for each test and system."""
    return "\n".join(
        f"contrastive test {row.test}: {row.system} seed {row.seed}: accuracy {row.accuracy:.2f}, "
        f"{row.num_correct:,} of {row.num_pairs:,} pairs"
        for row in rows
    )
