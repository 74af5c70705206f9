"""Teachers that translate through a pivot language: the first model to it, the second one from it.

The candidates of a source x are the hypotheses y of the second model for the n best hypotheses z of the first one, in
the order of score(z | x) + score(y | z), where both are scores of a beam search. If several z have the same hypothesis,
the one with the largest sum is kept.

A hypothesis is the target ids of the second model, a mark, and the bytes of the intermediate text in the form of the
corpus. Marks are numbered from the size of the second model's vocabulary on: the first one for a hypothesis that ended
in both models, the second one for a hypothesis that reached the maximum length in one of them. The bytes follow them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kdmt.config import Distill, Failures, PivotTeacher, Sample
from kdmt.distill.blocks import Block
from kdmt.distill.candidates import CountTokens, FindFailures, ToWords
from kdmt.distill.chosen_teacher import ENGINE_FOLDER, ChosenTeacher, SearchingTeacher
from kdmt.distill.decoding import BlockTask, SourceIds, Teacher, Translate, length_limits
from kdmt.distill.failures import CODES, Codes, Flags
from kdmt.distill.sources import Encode, Text
from kdmt.distill.teacher_engines import CTranslate2Teacher
from kdmt.types import EOS, Hypothesis
from kdmt.workers.tasks import WorkerSpec

_NUM_MARKS = 2
_LEGS = ("first", "second")  # folders of the models in CTranslate2's format, and names in the headers of blocks
_TEACHERS = "distill.teachers.0"  # where a teacher expects its settings in a plan


@dataclass(frozen=True)
class GivenLines:
    """Function that encodes lines that are given later, in place of a text. It can be sent to another process."""

    encode: Encode

    def __call__(self) -> Text:
        """Do not open a text: the second model of a pivot has none of its own."""
        raise AssertionError("the second model of a pivot reads the translations of the first one")


# --------------------------------------------------------------------------------------------------------- hypotheses


@dataclass(frozen=True)
class PivotIds:
    """The ids of hypotheses with their intermediate text.

    Attributes:
        first: first mark: the size of the second model's vocabulary.
    """

    first: int

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self.first + _NUM_MARKS + 256

    def encode(self, tokens: Sequence[int], text: str, *, at_limit: bool) -> tuple[int, ...]:
        """Return the ids of a hypothesis from the ids of the second model and the intermediate text."""
        own = tokens[:-1] if tokens and tokens[-1] == EOS else tokens
        first_byte = self.first + _NUM_MARKS
        return (*own, self.first + int(at_limit), *(first_byte + byte for byte in text.encode()))

    def target(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the ids of the second model in those of a hypothesis."""
        return tuple(itertools.takewhile(lambda token: token < self.first, tokens))

    def split(self, tokens: NDArray[np.integer[Any]], sizes: NDArray[np.integer[Any]]) -> SplitHypotheses:
        """Return the parts of concatenated hypotheses."""
        is_mark_T = (tokens >= self.first) & (tokens < self.first + _NUM_MARKS)
        ends_N = np.cumsum(sizes, dtype=np.int64)
        places_N = np.flatnonzero(is_mark_T)
        return SplitHypotheses(
            tokens=tokens[tokens < self.first],
            sizes=(places_N - (ends_N - sizes)).astype(np.int32),
            at_limit=tokens[places_N] > self.first,
        )

    def texts(self, tokens: NDArray[np.integer[Any]], sizes: NDArray[np.integer[Any]]) -> list[str]:
        """Return the intermediate text of each hypothesis."""
        first_byte = self.first + _NUM_MARKS
        parts = np.split(tokens.astype(np.int64), np.cumsum(sizes, dtype=np.int64)[:-1]) if len(sizes) else []
        return [(part[part >= first_byte] - first_byte).astype(np.uint8).tobytes().decode() for part in parts]


@dataclass(frozen=True)
class SplitHypotheses:
    """N hypotheses without their intermediate text."""

    tokens: NDArray[np.integer[Any]]  # ids of the second model, concatenated
    sizes: NDArray[np.int32]  # number of ids of each hypothesis [N]
    at_limit: NDArray[np.bool_]  # whether each reached the maximum length in one of the models [N]


@dataclass(frozen=True)
class PivotToWords:
    """Function that converts hypotheses to words. See `ToWords`."""

    ids: PivotIds
    second: ToWords

    def __call__(self, tokens: NDArray[np.integer], sizes: NDArray[np.int32]) -> list[str]:
        found = self.ids.split(tokens, sizes)
        return self.second(found.tokens, found.sizes)


@dataclass(frozen=True)
class FindPivotFailures:
    """Function that finds the failures that ids show. See `FindFailures`."""

    ids: PivotIds
    second: FindFailures

    def __call__(
        self, tokens: NDArray[np.integer], sizes: NDArray[np.integer], at_limit: Flags, settings: Failures
    ) -> Codes:
        del at_limit  # the marks have it
        found = self.ids.split(tokens, sizes)
        return self.second(found.tokens, found.sizes, found.at_limit, settings)


@dataclass(frozen=True)
class CountPivotTokens:
    """Function that counts the tokens of hypotheses. See `CountTokens`."""

    ids: PivotIds
    second: CountTokens

    def __call__(self, tokens: NDArray[np.integer], sizes: NDArray[np.integer]) -> NDArray[np.int32]:
        found = self.ids.split(tokens, sizes)
        return self.second(found.tokens, found.sizes)


# ----------------------------------------------------------------------------------------------------------- teachers


@dataclass(frozen=True)
class PivotModels:
    """Two models that translate through a pivot language. See `ChosenTeacher`.

    Attributes:
        settings: settings of the search of the second model.
        pivot: entry of `distill.teachers`.
        first: model to the pivot language.
        second: model from the pivot language, whose `opens_text` returns `GivenLines`.
    """

    settings: Distill
    pivot: PivotTeacher
    first: ChosenTeacher
    second: ChosenTeacher
    is_reproducible: ClassVar[bool] = True

    @property
    def ids(self) -> PivotIds:
        """Ids of hypotheses."""
        return PivotIds(self.second.vocab_size)

    @property
    def vocab_size(self) -> int:
        return self.ids.vocab_size

    @property
    def engine(self) -> str:
        """Return "ctranslate2" if it searches for one of the models. See `SearchingTeacher`."""
        legs = (self.first, self.second)
        engines = {each.engine for each in legs if isinstance(each, SearchingTeacher)}
        return "ctranslate2" if "ctranslate2" in engines else "torch"

    def inputs(self) -> dict[str, str]:
        return self.first.inputs() | self.second.inputs()

    def check(self, sample: Sample | None) -> None:
        assert sample is None, "see kdmt.config.direction_checks"
        for leg in (self.first, self.second):
            leg.check(None)

    def made_from(self, settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
        made_from: dict[str, object] = {"pivot": self.pivot.pivot, "nbest": self.pivot.nbest}
        for number, (name, leg) in enumerate(zip(_LEGS, (self.first, self.second), strict=True)):
            made_from[name] = leg.made_from(_settings_of_leg(number, settings), inputs)
        return made_from

    def open(
        self, folder: Path, sample: Sample | None, *, earlier: Sequence[Path] = (), verifying: bool = False
    ) -> PivotWorker:
        opened = []
        for name, leg in zip(_LEGS, (self.first, self.second), strict=True):
            own = folder / ENGINE_FOLDER / name
            own.mkdir(parents=True, exist_ok=True)
            opened.append(leg.open(own, sample, earlier=earlier, verifying=verifying))
        given = self.second.opens_text()
        assert isinstance(given, GivenLines)
        first, second = opened
        return PivotWorker(
            first=first,
            second=second,
            to_words=self.first.to_words(),
            find_failures=self.first.find_failures(),
            encode=given.encode,
            settings=self.settings,
            nbest=self.pivot.nbest,
            ids=self.ids,
        )

    def opens_text(self) -> Callable[[], Text]:
        return self.first.opens_text()

    def to_words(self) -> ToWords:
        return PivotToWords(self.ids, self.second.to_words())

    def find_failures(self) -> FindFailures:
        return FindPivotFailures(self.ids, self.second.find_failures())

    def count_tokens(self) -> CountTokens:
        return CountPivotTokens(self.ids, self.second.count_tokens())

    def facts(self, folder: Path, tasks: Sequence[BlockTask]) -> dict[str, object]:
        del folder, tasks
        return {}


def _settings_of_leg(number: int, settings: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of a plan with those of one model where it expects them."""
    own = f"{_TEACHERS}.teachers.{number}"
    kept = {key: value for key, value in settings.items() if not key.startswith(f"{_TEACHERS}.")}
    return kept | {
        f"{_TEACHERS}{key.removeprefix(own)}": value
        for key, value in settings.items()
        if f"{key}.".startswith(f"{own}.")
    }


@dataclass(frozen=True)
class PivotWorker:
    """Two models in a worker. See `Teacher`.

    Attributes:
        first, second: the models.
        to_words: function that converts hypotheses of the first model to words.
        find_failures: function that finds the failures of hypotheses of the first model.
        encode: function that converts words to ids of the second model.
        settings: settings of the search and of the failures.
        nbest: number of hypotheses of the first model that are translated.
        ids: ids of hypotheses.
    """

    first: Teacher
    second: Teacher
    to_words: ToWords
    find_failures: FindFailures
    encode: Encode
    settings: Distill
    nbest: int
    ids: PivotIds
    max_target_tokens: ClassVar[int] = 1 << 30  # both models have their own limit
    limits_lengths: ClassVar[bool] = False

    @property
    def max_source_tokens(self) -> int:
        return self.first.max_source_tokens

    @property
    def vocab_size(self) -> int:
        return self.ids.vocab_size

    def searching(self, *, exact: bool) -> PivotWorker:
        """Return these models with another search of CTranslate2; see `CTranslate2Teacher.exact`."""
        first, second = (
            replace(leg, exact=exact) if isinstance(leg, CTranslate2Teacher) else leg
            for leg in (self.first, self.second)
        )
        return replace(self, first=first, second=second)

    def made_with(self, spec: WorkerSpec) -> dict[str, object]:
        """See `Teacher.made_with`."""
        return {**self.first.made_with(spec), **self.second.made_with(spec)}

    def open(self, spec: WorkerSpec, made_with: dict[str, object]) -> Translate:
        """See `Teacher.open`."""
        first, second = self.first.open(spec, made_with), self.second.open(spec, made_with)

        def translate(
            sources: SourceIds, numbers: list[int], block: Block, progress: Callable[[int], None]
        ) -> list[list[Hypothesis]]:
            def alive(_: int) -> None:
                progress(0)  # a sentence counts when both models have translated it

            pivots = list(self._pivots(sources, first(sources, numbers, block, alive)))
            found = self._translate(second, pivots, [numbers[each.owner] for each in pivots], block, alive)
            progress(len(sources))
            return self._merged(pivots, found, len(sources))

        return translate

    def _pivots(self, sources: SourceIds, nbest: Sequence[Sequence[Hypothesis]]) -> Iterator[_Pivot]:
        """Yield the intermediate text of each source, the best one first."""
        limits = length_limits(self.first, self.settings.decode, sources)
        for owner, (hypotheses, limit) in enumerate(zip(nbest, limits, strict=True)):
            kept = hypotheses[: self.nbest]
            tokens = [_without_eos(each.tokens) for each in kept]
            sizes = np.array([*map(len, tokens)], dtype=np.int32)
            flat = np.array([token for each in tokens for token in each], dtype=np.int64)
            at_limit = np.array([len(each.tokens) >= limit for each in kept], dtype=bool)
            codes = self.find_failures(flat, sizes, at_limit, self.settings.failures)
            is_cut = np.isin(codes, (CODES["too_long"], CODES["truncated"])).tolist()
            words = self.to_words(flat, sizes) if kept else []
            for hypothesis, line, is_long in zip(kept, words, is_cut, strict=True):
                if line.strip():
                    yield _Pivot(owner, line, hypothesis.score, is_long)

    def _translate(
        self,
        translate: Translate,
        pivots: Sequence[_Pivot],
        numbers: list[int],
        block: Block,
        progress: Callable[[int], None],
    ) -> list[list[Hypothesis]]:
        """Return the hypotheses of the second model for each intermediate text."""
        encoded = list(self.encode([pivot.words for pivot in pivots]))
        fitting = [place for place, ids in enumerate(encoded) if 1 < len(ids) <= self.second.max_source_tokens]
        kept = [encoded[place] for place in fitting]
        limits = length_limits(self.second, self.settings.decode, kept)
        found: list[list[Hypothesis]] = [[] for _ in pivots]
        nbest = translate(kept, [numbers[place] for place in fitting], block, progress) if kept else []
        for place, limit, hypotheses in zip(fitting, limits, nbest, strict=True):
            pivot = pivots[place]
            for each in hypotheses:
                at_limit = pivot.at_limit or len(each.tokens) >= limit
                ids = self.ids.encode(each.tokens, pivot.words, at_limit=at_limit)
                found[place].append(Hypothesis(ids, pivot.score + each.score))
        return found

    def _merged(
        self, pivots: Sequence[_Pivot], found: Sequence[Sequence[Hypothesis]], num_sources: int
    ) -> list[list[Hypothesis]]:
        """Return the best hypotheses of each source, all with different ids of the second model."""
        merged: list[list[Hypothesis]] = [[] for _ in range(num_sources)]
        for pivot, hypotheses in zip(pivots, found, strict=True):
            merged[pivot.owner] += hypotheses
        return [self._best(own) for own in merged]

    def _best(self, hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
        best: dict[tuple[int, ...], Hypothesis] = {}
        for each in sorted(hypotheses, key=lambda each: -each.score):
            best.setdefault(self.ids.target(each.tokens), each)
        return list(best.values())[: self.settings.decode.nbest]


@dataclass(frozen=True)
class _Pivot:
    """An intermediate text."""

    owner: int  # index of its source
    words: str
    score: float
    at_limit: bool  # whether it reached the maximum length


def _without_eos(tokens: tuple[int, ...]) -> tuple[int, ...]:
    return tokens[:-1] if tokens and tokens[-1] == EOS else tokens
