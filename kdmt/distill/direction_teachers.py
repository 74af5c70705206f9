"""Teachers of several directions: each direction has its own, which may have another vocabulary and text processing.

`DirectionTeachers` is the teacher of all directions: it hands each source to the teacher of its direction
(`kdmt.distill.direction_text`). A direction without a teacher keeps its original targets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from kdmt.config import (
    Distill,
    EndpointTeacher,
    ForeignTeacher,
    LocalGenerator,
    LocalTranslator,
    PivotTeacher,
    Sample,
)
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.corpus.text import TextProcessor
from kdmt.distill.answer_log import ANSWERS
from kdmt.distill.blocks import BLOCKS, Block, Decoded, read_columns
from kdmt.distill.candidates import CountTokens, FindFailures, ToWords
from kdmt.distill.chosen_teacher import ENGINE_FOLDER, ChosenTeacher, SearchingTeacher
from kdmt.distill.decoding import BlockTask, SourceIds, Teacher, Translate, length_limits
from kdmt.distill.direction_checkpoint import choose_direction_checkpoint
from kdmt.distill.direction_counts import PIVOTS
from kdmt.distill.direction_text import (
    CountTokensOfDirections,
    DirectionsToWords,
    FindFailuresOfDirections,
    Marks,
    OpenDirections,
)
from kdmt.distill.endpoint_teacher import EndpointModel, RequestingTeacher
from kdmt.distill.inputs import Inputs
from kdmt.distill.local_text_teachers import LocalTextModel
from kdmt.distill.merge import TrainingText
from kdmt.distill.pivot import GivenLines, PivotModels, PivotWorker
from kdmt.distill.sources import Encode, Text
from kdmt.distill.teacher_engines import CTranslate2Teacher, TorchTeacher
from kdmt.distill.teachers import OwnTeacher, choose_own_teacher
from kdmt.distill.text_ids import count_marks
from kdmt.distill.text_teachers import TextTeacherModel
from kdmt.distill.token_teachers import TokenTeacherModel
from kdmt.files import atomic_file
from kdmt.languages import Direction
from kdmt.types import Hypothesis
from kdmt.workers.tasks import WorkerSpec

SETTING = "distill.teachers."
_ONE_TEACHER = "distill.teachers.0"  # where the teachers of a direction expect their settings in a plan
_NO_LIMIT = 1 << 30  # the teacher of a direction has its own limit of lengths
# entries of `distill.teachers`: a model, or an ensemble
_Model = str | list[str] | ForeignTeacher | LocalGenerator | LocalTranslator
_Entry = _Model | EndpointTeacher | PivotTeacher
_T = TypeVar("_T")


# ------------------------------------------------------------------------------------------- the text of one direction


@dataclass(frozen=True)
class DirectionCorpus(PreparedCorpus):
    """A prepared corpus of several directions, read as the text of one of them, which `direction` is."""

    def text_processor(self) -> TextProcessor:
        """See `PreparedCorpus.text_processor`."""
        return super().text_processor().for_direction(self.direction)


@dataclass(frozen=True, kw_only=True)
class DirectionInputs(Inputs):
    """All lines of the text of several directions, for a teacher that reads those of one direction.

    Attributes:
        pooled: text of all directions.
    """

    pooled: Inputs

    @classmethod
    def of(cls, pooled: Inputs, direction: Direction) -> DirectionInputs:
        """Return the text for the teacher of a direction."""
        corpus = DirectionCorpus(pooled.corpus.folder, direction, pooled.corpus.spaced)
        return cls(corpus, pooled.monolingual, pooled.split, pooled.noised, pooled=pooled)

    def source_prefixes(self) -> tuple[Path, ...]:
        """See `Inputs.source_prefixes`."""
        return self.pooled.source_prefixes()

    def texts(self) -> list[TrainingText]:
        """See `Inputs.texts`."""
        return self.pooled.texts()


@dataclass(frozen=True, kw_only=True)
class GivenInputs(DirectionInputs):
    """Lines of a direction that are given while a worker translates: those of a pivot language."""

    def opens_lines(self, encode: Encode) -> Callable[[], Text]:
        """See `Inputs.opens_lines`."""
        return GivenLines(encode)


def choose_direction_teachers(
    settings: Distill, inputs: Inputs, run: Path, directions: Sequence[Direction]
) -> DirectionTeachers:
    """Return the teachers that the settings select for several directions.

    Args:
        inputs: text of all directions.
        run: folder of the pipeline's own teacher, which translates the directions that the settings do not name.
        directions: all directions of the text.

    Raises:
        UserError: if there is no such teacher, it does not have the direction, or the engine cannot run it; the message
            has the YAML path.
    """
    names = tuple(map(str, directions))
    members: dict[int, ChosenTeacher] = {}
    own: OwnTeacher | None = None  # one for all directions that are not named
    for number, direction in enumerate(directions):
        if names[number] not in settings.by_direction:
            own = own or choose_own_teacher(settings.model_copy(update={"teachers": []}), inputs, run)
            members[number] = own
        elif (teacher := settings.by_direction[names[number]]) is not None:
            members[number] = _choose_member(settings, DirectionInputs.of(inputs, direction), teacher)
    return DirectionTeachers(settings, inputs, names, members)


def _choose_member(settings: Distill, text: DirectionInputs, teacher: _Entry) -> ChosenTeacher:
    """Return the teacher that is named for the direction of a text."""
    setting = f"{SETTING}{text.corpus.direction}"
    if isinstance(teacher, PivotTeacher):
        return _choose_pivot(settings, text, teacher, setting)
    if isinstance(teacher, EndpointTeacher):
        own = settings.model_copy(update={"teachers": [teacher]})
        return EndpointModel.choose(own, text, setting=f"{setting}.", answers=f"{ANSWERS}/{text.corpus.direction}")
    return _choose_model(settings, text, teacher, setting)


def _choose_model(settings: Distill, text: DirectionInputs, teacher: _Model, setting: str) -> ChosenTeacher:
    """Return a model, or checkpoints that translate together.

    Args:
        text: text of one direction.
        setting: YAML path of the teacher.
    """
    own = settings.model_copy(update={"teachers": teacher if isinstance(teacher, list) else [teacher]})
    if isinstance(teacher, ForeignTeacher):
        from kdmt.distill.huggingface_teacher import HuggingFaceTeacher  # loads torch

        return HuggingFaceTeacher.choose(own, text, setting=f"{setting}.")
    if isinstance(teacher, (LocalGenerator, LocalTranslator)):
        return LocalTextModel.choose(own, text, setting=f"{setting}.")
    return choose_direction_checkpoint(own, text, setting=setting)


def _choose_pivot(settings: Distill, text: DirectionInputs, teacher: PivotTeacher, setting: str) -> PivotModels:
    """Return two models that translate through a pivot language."""
    source, target = text.corpus.direction.sides
    to_pivot = DirectionInputs.of(text.pooled, Direction(source, teacher.pivot))
    from_pivot = GivenInputs.of(text.pooled, Direction(teacher.pivot, target))
    wide = settings.decode.model_copy(update={"nbest": teacher.nbest})
    first, second = (
        _choose_model(own, inputs, each, f"{setting}.teachers.{number}")
        for number, (own, inputs, each) in enumerate(
            zip(
                (settings.model_copy(update={"decode": wide}), settings),
                (to_pivot, from_pivot),
                teacher.teachers,
                strict=True,
            )
        )
    )
    return PivotModels(settings, teacher, first, second)


# --------------------------------------------------------------------------------------- the teachers of all directions


@dataclass(frozen=True)
class DirectionTeachers:
    """The teachers of several directions. See `ChosenTeacher`.

    Attributes:
        settings: settings that name the teachers.
        text: text of all directions.
        names: names of the directions, in the order of their numbers.
        members: number of a direction -> its teacher; none for original targets.
    """

    settings: Distill
    text: Inputs
    names: tuple[str, ...]
    members: Mapping[int, ChosenTeacher]

    @property
    def is_reproducible(self) -> bool:
        return not self.endpoints

    @property
    def endpoints(self) -> dict[int, EndpointModel]:
        """Number of a direction -> its teacher, if it is behind an endpoint."""
        return {number: each for number, each in self.members.items() if isinstance(each, EndpointModel)}

    @property
    def decodes(self) -> bool:
        """Return whether a model of any direction translates on this machine."""
        return len(self.endpoints) < len(self.members)

    @property
    def answers(self) -> tuple[str, ...]:
        """Paths of the folders of answers inside the stage's folder."""
        return tuple(each.answers for each in self.endpoints.values())

    @property
    def language_checks(self) -> dict[str, str]:
        """Direction -> how the language of answers is checked, for teachers that answer with text."""
        found = {self.names[number]: ", ".join(_language_checks(each)) for number, each in self.members.items()}
        return {name: methods for name, methods in found.items() if methods}

    def counting(self, others: Callable[[], Sequence[Path]]) -> DirectionTeachers:
        """Return these teachers with other folders whose requests count in the budgets; see `EndpointModel`."""
        endpoints = {number: replace(each, others=others) for number, each in self.endpoints.items()}
        return replace(self, members={**self.members, **endpoints})

    def reading(self, text: Inputs) -> DirectionTeachers:
        """Return the same models for another text, such as text with noise."""
        return replace(self, text=text, members=self._of_members(lambda member: _reading(member, text)))

    @property
    def engine(self) -> str:
        """Return "ctranslate2" if CTranslate2 searches for the translations of a direction. See `SearchingTeacher`."""
        engines = {each.engine for each in self.members.values() if isinstance(each, SearchingTeacher)}
        return "ctranslate2" if "ctranslate2" in engines else "torch"

    @cached_property
    def marks(self) -> Marks:
        """Marks before hypotheses."""
        return Marks(max((each.vocab_size for each in self.members.values()), default=4), len(self.names))

    @property
    def vocab_size(self) -> int:
        return self.marks.vocab_size

    def inputs(self) -> dict[str, str]:
        return {name: sha for each in self.members.values() for name, sha in each.inputs().items()}

    def check(self, sample: Sample | None) -> None:
        for member in self.members.values():
            member.check(sample)

    def made_from(self, settings: Mapping[str, object], inputs: Mapping[str, str]) -> dict[str, object]:
        return {"directions": list(self.names)} | {
            f"teacher of {self.names[number]}": member.made_from(self._settings_of(number, settings), inputs)
            for number, member in self.members.items()
        }

    def _settings_of(self, number: int, settings: Mapping[str, object]) -> dict[str, object]:
        """Return the settings of a plan with those of one teacher where it expects them."""
        own, prefix = f"{SETTING}{self.names[number]}", f"{SETTING}"
        kept = {key: value for key, value in settings.items() if not key.startswith(prefix)}
        return kept | {
            f"{_ONE_TEACHER}{key.removeprefix(own)}": value
            for key, value in settings.items()
            if f"{key}.".startswith(f"{own}.")
        }

    def open(
        self, folder: Path, sample: Sample | None, *, earlier: Sequence[Path] = (), verifying: bool = False
    ) -> DirectionsTeacher:
        opened: dict[int, Teacher] = {}
        for number, member in self.members.items():
            own = folder
            if not isinstance(member, EndpointModel):  # its answers are not inside a folder of its own
                own = folder / ENGINE_FOLDER / self.names[self._first_with_model_of(number)]
                own.mkdir(parents=True, exist_ok=True)
            opened[number] = member.open(own, sample, earlier=earlier, verifying=verifying)
        return DirectionsTeacher(opened, self.settings, self.marks, self.names)

    def _first_with_model_of(self, number: int) -> int:
        """Return the number of the first direction with the same entry in the settings, or with none as this one."""
        entries = {each: self.settings.by_direction.get(self.names[each]) for each in self.members}
        return next(each for each, entry in entries.items() if entry == entries[number])

    def opens_text(self) -> Callable[[], Text]:
        return OpenDirections(self.text, self.names, self._of_members(lambda member: member.opens_text()))

    def to_words(self) -> ToWords:
        return DirectionsToWords(self.marks, self._of_members(lambda member: member.to_words()))

    def find_failures(self) -> FindFailures:
        return FindFailuresOfDirections(self.marks, self._of_members(lambda member: member.find_failures()))

    def count_tokens(self) -> CountTokens:
        return CountTokensOfDirections(self.marks, self._of_members(lambda member: member.count_tokens()))

    def _of_members(self, make: Callable[[ChosenTeacher], _T]) -> dict[int, _T]:
        """Return number of a direction -> what is made from its teacher, once for directions with one teacher."""
        made = {id(member): make(member) for member in self.members.values()}
        return {number: made[id(member)] for number, member in self.members.items()}

    def facts(self, folder: Path, tasks: Sequence[BlockTask]) -> dict[str, object]:
        """Return the number of distinct sentences that the teacher of each direction has translated.

        For large language models these are also the counts of their answers, see `EndpointModel.facts`. If there are
        pivot languages, `pivots.tsv` is written, which has the intermediate text of each candidate.
        """
        counts: Counter[int] = Counter()
        answers = self._count_answers(folder, tasks)
        pivots = {number: each for number, each in self.members.items() if isinstance(each, PivotModels)}
        with atomic_file(folder / PIVOTS) if pivots else nullcontext() as path, ExitStack() as files:
            out = None if path is None else files.enter_context(path.open("w", encoding="utf-8", newline="\n"))
            for task in tasks:
                decoded = read_columns(task.block.path(folder / BLOCKS))
                first_H = np.cumsum(decoded.sizes_H, dtype=np.int64) - decoded.sizes_H
                best_N = (np.cumsum(decoded.counts_N, dtype=np.int64) - decoded.counts_N)[decoded.counts_N > 0]
                numbers = (decoded.tokens_T[first_H[best_N]].astype(np.int64) - self.marks.first) // 2
                counts.update(numbers.tolist())
                if out is not None:
                    out.writelines(self._pivot_lines(task, decoded, pivots))
                for marked in self.marks.split(decoded.tokens_T, decoded.sizes_H) if answers else ():
                    if marked.number in answers:
                        answers[marked.number].update(count_marks(marked.tokens))
        facts: dict[str, object] = {
            "translated_sentences": {self.names[number]: counts[number] for number in self.members}
        }
        if answers:
            facts["answers"] = {self.names[number]: dict(own) for number, own in answers.items()}
        return facts

    def _count_answers(self, folder: Path, tasks: Sequence[BlockTask]) -> dict[int, Counter[str]]:
        """Return the counts of the requests of each direction whose teacher is a large language model."""
        counts: dict[int, Counter[str]] = {}
        for number, member in self.members.items():
            if isinstance(member, EndpointModel):
                counts[number] = member.count_replies(folder, tasks)
            elif isinstance(member, LocalTextModel) and member.prompt is not None:
                counts[number] = Counter()
        return counts

    def estimate(self, folder: Path, earlier: Sequence[Path], tasks: Sequence[BlockTask], workdir: Path) -> list[str]:
        """Return the requests that a training set still needs, as lines for the user. See `EndpointModel.estimate`."""
        owners_L = OpenDirections(self.text, self.names, {})().owners_L
        lines = []
        for number, member in self.endpoints.items():
            own = workdir / self.names[number]
            own.mkdir()
            is_own = [owners_L[task.lines_N] == number for task in tasks]
            selected = [
                replace(task, lines_N=task.lines_N[keep_N], hashes_N=task.hashes_N[keep_N])
                for task, keep_N in zip(tasks, is_own, strict=True)
            ]
            found = member.estimate(folder, earlier, selected, own)
            lines += [f"{self.names[number]}: {line}" for line in found]
        return lines

    def _pivot_lines(self, task: BlockTask, decoded: Decoded, pivots: Mapping[int, PivotModels]) -> Iterator[str]:
        """Yield the lines of `pivots.tsv` for one block: index of the sentence, rank of the candidate, text."""
        numbers_H = np.repeat(np.arange(task.block.first, task.block.first + task.count), decoded.counts_N)
        starts_H = np.repeat(np.cumsum(decoded.counts_N) - decoded.counts_N, decoded.counts_N)
        ranks_H = np.arange(len(starts_H)) - starts_H + 1
        texts: dict[int, str] = {}
        for own in self.marks.split(decoded.tokens_T, decoded.sizes_H):
            if own.number in pivots:
                found = pivots[own.number].ids.texts(own.tokens, own.sizes)
                texts |= dict(zip(own.places.tolist(), found, strict=True))
        for place in sorted(texts):
            yield f"{numbers_H[place]}\t{ranks_H[place]}\t{' '.join(texts[place].split())}\n"


@dataclass(frozen=True)
class DirectionsTeacher:
    """The teachers of several directions in a worker. See `Teacher`.

    Attributes:
        members: number of a direction -> its teacher.
        settings: settings of the search.
        marks: marks before hypotheses.
        names: names of the directions, in the order of their numbers.
    """

    members: Mapping[int, Teacher]
    settings: Distill
    marks: Marks
    names: tuple[str, ...]
    max_source_tokens: ClassVar[int] = _NO_LIMIT
    max_target_tokens: ClassVar[int] = _NO_LIMIT
    limits_lengths: ClassVar[bool] = False

    @property
    def vocab_size(self) -> int:
        return self.marks.vocab_size

    def searching(self, *, exact: bool) -> DirectionsTeacher:
        """Return these teachers with another search of CTranslate2; see `CTranslate2Teacher.exact`."""
        return replace(self, members={number: _searching(each, exact) for number, each in self.members.items()})

    def open(self, spec: WorkerSpec, made_with: dict[str, object]) -> Translate:
        """See `Teacher.open`. The model of a direction is loaded when its first sentence is translated.

        Directions with the same model share it. `made_with` gets what the servers of a block call their models, with
        the direction of each.
        """
        opened: dict[int, Translate] = {}
        servers: dict[int, dict[str, object]] = {
            number: {} for number, each in self.members.items() if isinstance(each, RequestingTeacher)
        }
        named: dict[str, object] = {}

        def model_of(number: int) -> Translate:
            if number not in opened:
                same = (each for each in opened if _is_same_model(self.members[each], self.members[number]))
                first = next(same, None)
                own = servers.get(number, made_with)
                opened[number] = self.members[number].open(spec, own) if first is None else opened[first]
            return opened[number]

        def translate(
            sources: SourceIds, numbers: list[int], block: Block, progress: Callable[[int], None]
        ) -> list[list[Hypothesis]]:
            found: list[list[Hypothesis]] = [[] for _ in sources]
            for key in named:  # of the block before
                del made_with[key]
            named.clear()
            for number in self.members:
                own = [place for place, source in enumerate(sources) if source[0] == number]
                if not own:
                    continue
                nbest = self._translate(
                    number, model_of(number), [sources[place][1:] for place in own], _at(numbers, own), block, progress
                )
                for place, hypotheses in zip(own, nbest, strict=True):
                    found[place] = hypotheses
                of_server = servers.get(number, {})
                named.update({f"{key} ({self.names[number]})": value for key, value in of_server.items()})
            made_with.update(named)
            return found

        return translate

    def _translate(
        self,
        number: int,
        translate: Translate,
        sources: SourceIds,
        numbers: list[int],
        block: Block,
        progress: Callable[[int], None],
    ) -> list[list[Hypothesis]]:
        """Return the hypotheses for sources of one direction, each with its mark."""
        teacher = self.members[number]
        fitting = [place for place, source in enumerate(sources) if 1 < len(source) <= teacher.max_source_tokens]
        progress(len(sources) - len(fitting))
        kept = [sources[place] for place in fitting]
        found: list[list[Hypothesis]] = [[] for _ in sources]
        limits = length_limits(teacher, self.settings.decode, kept)
        nbest = translate(kept, _at(numbers, fitting), block, progress)
        for place, limit, hypotheses in zip(fitting, limits, nbest, strict=True):
            found[place] = [self._marked(number, each, limit) for each in hypotheses]
        return found

    def _marked(self, number: int, hypothesis: Hypothesis, limit: int) -> Hypothesis:
        mark = self.marks.mark(number, at_limit=len(hypothesis.tokens) >= limit)
        return replace(hypothesis, tokens=(mark, *hypothesis.tokens), log_probs=())

    def made_with(self, spec: WorkerSpec) -> dict[str, object]:
        """See `Teacher.made_with`."""
        return {name: value for each in self.members.values() for name, value in each.made_with(spec).items()}


def _is_same_model(one: Teacher, other: Teacher) -> bool:
    """Return whether two teachers load the same model of which nothing depends on the direction."""
    return isinstance(one, (CTranslate2Teacher, TorchTeacher)) and one == other


def _language_checks(member: ChosenTeacher) -> Iterator[str]:
    """Yield how the language of the answers of each model is checked that answers with text."""
    if isinstance(member, PivotModels):
        yield from _language_checks(member.first)
        yield from _language_checks(member.second)
    elif isinstance(member, TextTeacherModel):
        yield member.check_of_language.method


def _reading(member: ChosenTeacher, pooled: Inputs) -> ChosenTeacher:
    """Return the teacher of a direction for another text of all directions."""
    if isinstance(member, PivotModels):
        return replace(member, first=_reading(member.first, pooled))
    assert isinstance(member, (TokenTeacherModel, TextTeacherModel))
    is_own = isinstance(member.text, DirectionInputs)
    return replace(member, text=DirectionInputs.of(pooled, member.text.corpus.direction) if is_own else pooled)


def _searching(teacher: Teacher, exact: bool) -> Teacher:
    if isinstance(teacher, CTranslate2Teacher):
        return replace(teacher, exact=exact)
    return teacher.searching(exact=exact) if isinstance(teacher, PivotWorker) else teacher


def _at(values: Sequence[int], places: Sequence[int]) -> list[int]:
    return [values[place] for place in places]
