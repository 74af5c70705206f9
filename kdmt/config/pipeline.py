"""The whole pipeline: its sections, and rules between them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from kdmt.config.distill import Distill
from kdmt.config.knowledge import Knowledge
from kdmt.config.prepare import Prepare
from kdmt.config.score import Score
from kdmt.config.section import LanguageCode, Section
from kdmt.config.student import Student
from kdmt.config.training import Teacher
from kdmt.languages import Direction, moses_language, parse_language, same_language, script_of, writes_spaces


class Pipeline(Section):
    """The whole YAML file."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
    # BCP 47 tags or ISO 639 codes, see `kdmt.languages`; they stand in names of files as they are written here
    source_lang: LanguageCode
    target_lang: LanguageCode
    prepare: Prepare
    teacher: Teacher = Teacher()
    distill: Distill = Distill()
    knowledge: Knowledge = Knowledge()
    students: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], Student] = Field(default_factory=dict)
    score: Score = Score()

    @model_validator(mode="after")
    def _languages(self) -> Pipeline:
        for key in ("source_lang", "target_lang"):
            try:
                parse_language(getattr(self, key))
            except ValueError as error:
                raise ValueError(f"'{key}': {error}") from None
        source, target = self.source_lang, self.target_lang
        if source == target:
            raise ValueError(f"'source_lang' and 'target_lang' are both {source!r}")
        if same_language(source, target):
            raise ValueError(f"'source_lang' and 'target_lang' are the same language: {source!r} and {target!r}")
        return self

    @model_validator(mode="after")
    def _moses(self) -> Pipeline:
        for key in ("source_lang", "target_lang"):
            if self.prepare.text.moses:
                _check_moses(key, getattr(self, key), already_applied=self.prepare.text.already_applied)
        return self

    @property
    def direction(self) -> Direction:
        """Return the direction of translation."""
        return Direction(self.source_lang, self.target_lang)

    @property
    def scores_lowercased(self) -> bool:
        """Whether systems are scored without regard to case: text that was lowercased comes out without any."""
        return self.score.lowercase or (self.prepare.text.lowercase and self.score.detokenized)

    @model_validator(mode="after")
    def _monolingual(self) -> Pipeline:
        for name, student in self.students.items():
            wanted = student.self_supervised is not None and student.self_supervised.monolingual
            if wanted and not self.prepare.monolingual:
                raise ValueError(f"'students.{name}.self_supervised.monolingual' needs 'prepare.monolingual'")
        return self

    @model_validator(mode="after")
    def _interpolation(self) -> Pipeline:
        for name, student in self.students.items():
            if student.data in ("interpolated", "mbr", "scored", "nbest") and self.distill.decode.nbest == 1:
                raise ValueError(
                    f"'students.{name}.data: {student.data}' is made of the n-best: set 'distill.decode.nbest'"
                )
            for data, setting in (("scored", "scores"), ("imported", "imported")):
                if student.data == data and getattr(self.distill, setting) is None:
                    raise ValueError(f"'students.{name}.data: {data}' needs the file 'distill.{setting}'")
        return self

    @model_validator(mode="after")
    def _distills_monolingual(self) -> Pipeline:
        if self.distill.monolingual and not self.prepare.monolingual:
            raise ValueError("'distill.monolingual' needs 'prepare.monolingual'")
        return self

    @model_validator(mode="after")
    def _knowledge(self) -> Pipeline:
        for name, student in self.students.items():
            if student.word_kd is None or student.word_kd.source != "cache":
                continue
            path, cache = f"students.{name}.word_kd", self.knowledge
            if student.word_kd.temperature not in cache.temperatures:
                raise ValueError(
                    f"'{path}.temperature' ({student.word_kd.temperature:g}) is none of 'knowledge.temperatures': "
                    f"what lies beyond the k best tokens is not known at another one"
                )
            if student.word_kd.top1_ranking > cache.k:
                raise ValueError(f"'{path}.top1_ranking' ({student.word_kd.top1_ranking}) is more than 'knowledge.k'")
        return self

    @model_validator(mode="after")
    def _systems(self) -> Pipeline:
        if "teacher" in self.students:
            raise ValueError("'students': a student cannot be called 'teacher'")
        baseline = self.score.baseline
        if baseline is not None and baseline not in ("teacher", *self.students):
            raise ValueError(f"'score.baseline': {baseline!r} is none of {', '.join(['teacher', *self.students])}")
        if self.prepare.text.already_applied and self.score.detokenized:
            for name, test_set in self.prepare.test.items():
                if test_set.raw_target is None:
                    raise ValueError(
                        f"'prepare.test.{name}' is processed text: 'score.detokenized: true' needs its 'raw_target'"
                    )
        return self


def _check_moses(key: str, code: str, *, already_applied: bool) -> None:
    """Refuse Moses' tokenisation of a language without rules; of others' text, what cannot be joined again."""

    if moses_language(code) is not None:
        return
    if not already_applied:
        raise ValueError(
            f"'prepare.text.moses': Moses has no rules for {code!r} ('{key}'): leave out 'moses' and let SentencePiece "
            f"('prepare.tokenizer') cut the raw text"
        )
    if not writes_spaces(code) and script_of(code) not in ("Jpan", "Hans", "Hant"):
        raise ValueError(
            f"'prepare.text.moses': Moses cannot join the words of {code!r} ('{key}') again: leave out 'moses' and set "
            f"'score.detokenized: false'"
        )
