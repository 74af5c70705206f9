"""The whole pipeline: sections, and rules that concern several sections."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from kdmt.choices import (
    BestMetric,
    FeatureName,
    LanguageScheme,
    LanguageTokens,
    MbrUtility,
    ModifierName,
    ScoreMetric,
    SelfSupervisedText,
    TrackerName,
    names,
)
from kdmt.config.augment import TextNoise, check_text, has_recipe, unusable_modifiers, with_usable_recipes
from kdmt.config.back_translation import BackTranslation
from kdmt.config.context import check_context, check_no_context
from kdmt.config.corpora import HeldOut
from kdmt.config.direction_checks import check_directions, check_one_direction
from kdmt.config.directions import (
    DirectionName,
    DirectionPart,
    decoder_reads_token,
    directions_of_scheme,
    part_of_direction,
    split_of,
)
from kdmt.config.distill import Distill, ScorerScores
from kdmt.config.knowledge import Knowledge
from kdmt.config.messages import describe_problems
from kdmt.config.prepare import MONOLINGUAL_SIDES, Clean, Prepare
from kdmt.config.score import Score
from kdmt.config.scorers import Scorer
from kdmt.config.section import LanguageCode, Section, changed, execution, later, recorded_if_set
from kdmt.config.self_supervised import SelfSupervised, side_of
from kdmt.config.student import Student, setting_path
from kdmt.config.training import Teacher
from kdmt.languages import POOLED, Direction, moses_language, parse_language, same_language, script_of, writes_spaces
from kdmt.training_sets import TRAINING_SETS

_OF_TOKENS = {"score", "log_prob", "length"}  # features that need log-probabilities of tokens and their number
_FIGURES = ("nll", "update", "epoch", "best_update", "kind")  # in the records of validations
# settings that name an external scorer or something that kdmt computes
_COMPUTED = {
    "distill.mbr.utility": " or ".join(map(repr, names(MbrUtility))),
    "distill.rerank.features": f"one of {', '.join(names(FeatureName))}",
}


class Pipeline(Section):
    """A pipeline: the whole YAML file."""

    name: str = Field(pattern=r"^\w[\w.-]*$", description="Name of the pipeline and of its folder below 'runs'")
    source_lang: LanguageCode | None = recorded_if_set(
        None,
        description="Source language as a BCP 47 tag or ISO 639 code (de, zh-Hans), used in file names as it is "
        "written; required, unless there are several directions",
    )
    target_lang: LanguageCode | None = recorded_if_set(
        None,
        description="Target language as a BCP 47 tag or ISO 639 code (de, zh-Hans), used in file names as it is "
        "written; required, unless there are several directions",
    )
    directions: list[DirectionName] | None = recorded_if_set(
        None,
        min_length=1,
        description="Directions of one multilingual model, as [en-de, en-fr, cs-en], instead of 'source_lang' and "
        "'target_lang'",
    )
    languages: list[LanguageCode] | None = recorded_if_set(
        None, min_length=2, description="Languages of one multilingual model, instead of 'directions'; see 'scheme'"
    )
    scheme: LanguageScheme | None = recorded_if_set(
        None,
        description="Directions among 'languages': all ('many_to_many'), those from and to English "
        "('english_centric'), from the first language ('one_to_many') or to the first one ('many_to_one')",
    )
    zero_shot: list[DirectionName] = recorded_if_set(
        [], description="Directions that are tested and not trained, as [de-fr]"
    )
    language_tokens: LanguageTokens = recorded_if_set(
        "target_in_source",
        description="Tokens by which a multilingual model knows the direction: <2de> before the source "
        "('target_in_source'), <en> <2de> there ('both_in_source'), <en> there and <de> as the first token of the "
        "decoder ('source_and_decoder'), <2de> in both places ('target_and_decoder'), or in the decoder ('decoder')",
    )
    prepare: Prepare = Field(description="Prepare stage: corpora, cleaning, tokenizer, vocabulary")
    back_translation: BackTranslation | None = later(
        None, description="Back-translation, for the training set 'back_translated'; null for none"
    )
    teacher: Teacher = Field(Teacher(), description="Teacher stage")
    distill: Distill = Field(Distill(), description="Distill stage: translation of the training set by the teacher")
    knowledge: Knowledge = Field(
        Knowledge(), description="Knowledge stage: the teacher's distributions, for 'word_kd.source: cache'"
    )
    students: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], Student] = Field(
        default_factory=dict, description="Students by name"
    )
    score: Score = Field(Score(), description="Score stage")
    scorers: dict[Annotated[str, Field(pattern=r"^[A-Za-z][\w.-]*$")], Scorer] = Field(
        default_factory=dict, description="External scorers by name: metrics and quality estimation models"
    )
    tracking: list[TrackerName] = execution(
        [],
        description="Experiment trackers that receive the metrics of all stages, each of which needs the extra of its "
        "name",
    )

    @field_validator("tracking")
    @classmethod
    def _distinct_trackers(cls, names: list[TrackerName]) -> list[TrackerName]:
        if len(set(names)) != len(names):
            raise ValueError("holds a name twice")
        return names

    @model_validator(mode="before")
    @classmethod
    def _recipes_of_augmentation(cls, value: Any) -> Any:
        """Leave out of the recipes of augmentation what the text of the pipeline cannot have."""
        if not has_recipe(value):
            return value
        try:
            prepare = Prepare.model_validate(value["prepare"])
        except (ValueError, TypeError, KeyError):  # which the validation of the field reports
            return value
        return with_usable_recipes(value, _unusable_modifiers(prepare))

    @model_validator(mode="after")
    def _languages(self) -> Pipeline:
        if self.is_multilingual:
            return self
        for key in ("source_lang", "target_lang"):
            if getattr(self, key) is None:
                raise ValueError(f"'{key}' is missing (or give several 'directions')")
            try:
                parse_language(getattr(self, key))
            except ValueError as error:
                raise ValueError(f"'{key}': {error}") from None
        source, target = self.direction.sides
        if source == target:
            raise ValueError(f"'source_lang' and 'target_lang' are both {source!r}")
        if same_language(source, target):
            raise ValueError(f"'source_lang' and 'target_lang' are the same language: {source!r} and {target!r}")
        return self

    @model_validator(mode="after")
    def _directions(self) -> Pipeline:
        if self.is_multilingual:
            check_directions(self)
        else:
            check_one_direction(self)
        return self

    @model_validator(mode="after")
    def _context(self) -> Pipeline:
        if self.prepare.context is None:
            check_no_context(self)
        else:
            check_context(self)
        return self

    @model_validator(mode="after")
    def _clean_of_corpora(self) -> Pipeline:
        for index, corpus in enumerate(self.prepare.train):
            path = f"prepare.train.{index}.clean"
            if corpus.clean and self.prepare.clean == "none":
                raise ValueError(f"'{path}' has no effect with 'prepare.clean: none'")
            try:
                self._check_domain(index, self.prepare.clean_of(corpus))
            except ValidationError as error:
                raise ValueError(f"'{path}': {describe_problems(error)}") from None
            except ValueError as error:
                raise ValueError(f"'{path}': {error}") from None
        return self

    def _check_domain(self, number: int, clean: Clean | Literal["none"]) -> None:
        """Check that a corpus can be compared with the corpus of the domain in each of its directions."""
        rules = None if clean == "none" else clean.rules
        index = None if rules is None or rules.cross_entropy is None else rules.cross_entropy.in_domain_corpus
        if index is None:
            return
        problem = f"'cross_entropy.in_domain_corpus' is {index}"
        if index >= len(self.prepare.train):
            raise ValueError(f"{problem}: there is no 'prepare.train.{index}'")
        for part in self.parts_of_prepare() if self.is_multilingual else ():
            paths = set(part.paths.values())
            if f"prepare.train.{number}" in paths and f"prepare.train.{index}" not in paths:
                raise ValueError(f"{problem}: 'prepare.train.{index}' has no text in the direction {part.direction}")

    @model_validator(mode="after")
    def _moses(self) -> Pipeline:
        for key, code in self._languages_by_setting():
            if self.prepare.text.moses:
                _check_moses(key, code, already_applied=self.prepare.text.already_applied)
        return self

    def _languages_by_setting(self) -> list[tuple[str, str]]:
        """Return each language with the setting that names it."""
        if not self.is_multilingual:
            return list(zip(("source_lang", "target_lang"), self.direction.sides, strict=True))
        setting = "languages" if self.languages is not None else "directions"
        return [(setting, code) for code in dict.fromkeys(code for each in self.all_directions for code in each.sides)]

    @model_validator(mode="after")
    def _scorers(self) -> Pipeline:
        known = f"'scorers' has {', '.join(self.scorers) or 'none'}"
        for name in self.score.scorers or []:
            if name not in self.scorers:
                raise ValueError(f"'score.scorers': {name!r}: {known}")
        for path, name in self._scorers_of_distill():
            scorer = self.scorers.get(name)
            if scorer is None:
                own = _COMPUTED.get(path)
                raise ValueError(f"'{path}': {name!r}{f' is not {own}, and' if own else ':'} {known}")
            if path == "distill.mbr.utility":
                if not scorer.reference:
                    raise ValueError(f"'{path}': {name!r} compares no two candidates: set 'reference: true' in it")
            elif scorer.reference and self.distill.monolingual:
                raise ValueError(f"'{path}': {name!r} needs references, and the text of 'distill.monolingual' has none")
        for name in self.scorers:
            if name in get_args(ScoreMetric):
                raise ValueError(f"'scorers': a scorer cannot be called {name!r}, as a metric is")
        return self

    def _scorers_of_distill(self) -> Iterator[tuple[str, str]]:
        """Yield the YAML path and the name of each external scorer of the distill stage."""
        settings = self.distill
        if settings.quality is not None:
            yield "distill.quality.scorer", settings.quality.scorer
        if isinstance(settings.scores, ScorerScores):
            yield "distill.scores.scorer", settings.scores.scorer
        if settings.mbr.scorer is not None:
            yield "distill.mbr.utility", settings.mbr.scorer
        for name in settings.rerank.scorers:
            yield "distill.rerank.features", name

    @model_validator(mode="after")
    def _best_metrics(self) -> Pipeline:
        trainings = [(path, each.train) for path, each in self.teacher_trainings()]
        trainings += [(path, each.train) for path, each in self.trainings()]
        for path, train in trainings:
            name, where = train.scorer, setting_path(path, "train.best_metric")
            if name is None:
                continue
            if name not in self.scorers:
                known = f"'scorers' has {', '.join(self.scorers) or 'none'}"
                raise ValueError(f"'{where}': {name!r} is not one of {', '.join(names(BestMetric))}, and {known}")
            if name in _FIGURES or name.startswith("nll_"):
                raise ValueError(f"'{where}': validations have a figure {name!r}: give this scorer another name")
        return self

    @property
    def scorers_of_score(self) -> dict[str, Scorer]:
        """Return the external scorers of the score stage by name, in the order of their columns."""
        names = self.score.scorers
        return self.scorers if names is None else {name: self.scorers[name] for name in names}

    @property
    def is_multilingual(self) -> bool:
        """Return whether one model translates in several directions."""
        return self.directions is not None or self.languages is not None

    @property
    def direction(self) -> Direction:
        """Return the direction of translation; of several directions, the names of the sides of their common files."""
        if self.is_multilingual:
            return POOLED
        assert self.source_lang is not None
        assert self.target_lang is not None
        return Direction(self.source_lang, self.target_lang)

    @property
    def decoder_reads_token(self) -> bool:
        """Return whether decoders begin with the token of the target language."""
        return self.is_multilingual and decoder_reads_token(self.language_tokens)

    @property
    def trained_directions(self) -> list[Direction]:
        """Return the directions with training text: one, unless the pipeline has several."""
        if self.directions is not None:
            return [Direction.parse(name) for name in self.directions]
        if self.languages is None:
            return [self.direction]
        untrained = {Direction.parse(name).identity for name in self.zero_shot}
        found = directions_of_scheme(self.languages, self.scheme or "many_to_many")
        return [each for each in found if each.identity not in untrained]

    @property
    def teacher_fills_caches(self) -> bool:
        """Return whether the pipeline's teacher fills knowledge caches, or a part of them."""
        named = {} if self.knowledge.teachers == "pipeline" else self.distill.by_direction
        return any(str(each) not in named for each in self.trained_directions)

    @property
    def all_directions(self) -> list[Direction]:
        """Return the directions that are trained, followed by those that are only tested."""
        return [*self.trained_directions, *(Direction.parse(name) for name in self.zero_shot)]

    def parts_of_prepare(self) -> list[DirectionPart]:
        """Return the settings of the prepare stage for each direction; one part for a pipeline with one direction."""
        if not self.is_multilingual:
            return [DirectionPart(self.direction, self.prepare)]
        return [
            *(part_of_direction(self.prepare, each) for each in self.trained_directions),
            *(part_of_direction(self.prepare, Direction.parse(name), is_trained=False) for name in self.zero_shot),
        ]

    @functools.cached_property
    def tests_by_split(self) -> dict[str, tuple[str, Direction]]:
        """Return the test set and the direction of each split that is scored, by the name of the split."""
        if not self.is_multilingual:
            return {name: (name, self.direction) for name in self.prepare.test_sets}
        parts = self.parts_of_prepare()
        return {
            split_of(name, part.direction): (name, part.direction)
            for name in self.prepare.test_sets
            for part in parts
            if name in part.settings.test
        }

    @property
    def scores_lowercased(self) -> bool:
        """Return whether scores ignore case, by their setting or because processing or the tokenizer removes it."""
        is_lowercased = self.prepare.text.lowercase and self.score.detokenized
        return self.score.lowercase or is_lowercased or self.prepare.tokenizer.folds_case

    @property
    def source_tags(self) -> list[str]:
        """Return the tokens that are put before the sources of a corpus or of back-translated text."""
        return [*self.tags_of("raw"), *self.tags_of("back_translated")]

    def tags_of(self, data: str) -> list[str]:
        """Return the tokens that are put before the sources of a training set."""
        if data == "back_translated":
            tags = [] if self.back_translation is None else [self.back_translation.tag]
        else:
            tags = [corpus.tag for corpus in self.prepare.train]
        return [tag for tag in tags if tag is not None]

    def teacher_trainings(self) -> list[tuple[str, Teacher]]:
        """Return the YAML path and the settings of each training of the teacher: one, or one for each of its stages."""
        if self.teacher.stages is None:
            return [("teacher", self.teacher)]
        return [(f"teacher.stages.{number}", stage) for number, stage in enumerate(self.teacher.in_stages())]

    def trainings(self) -> Iterator[tuple[str, Student]]:
        """Yield the YAML path and the settings of each training of each student."""
        for name in self.students:
            yield from self.trainings_of(name)

    def trainings_of(self, name: str) -> list[tuple[str, Student]]:
        """Return the YAML path and the settings of each training of a student: one, or one for each of its stages."""
        student, path = self.students[name], f"students.{name}"
        if student.stages is None:
            return [(path, student)]
        return [(f"{path}.stages.{number}", stage) for number, stage in enumerate(student.in_stages())]

    @model_validator(mode="after")
    def _stages(self) -> Pipeline:
        if self.teacher.stages is None and "begin_from" in changed(self.teacher):
            raise ValueError("'teacher.begin_from' has no effect without 'stages'")
        for name, student in self.students.items():
            if student.stages is None and "begin_from" in changed(student):
                raise ValueError(f"'students.{name}.begin_from' has no effect without 'stages'")
        return self

    @model_validator(mode="after")
    def _evaluators(self) -> Pipeline:
        for name in self.students:
            for number, (path, student) in enumerate(self.trainings_of(name)):
                chosen = student.selective
                if chosen is not None and self.distill.augment is not None:
                    raise ValueError(
                        f"'{path}.selective' cannot be combined with 'distill.augment': its references are those of "
                        "text without noise"
                    )
                if chosen is None or chosen.evaluator is not None:
                    continue
                if number == 0 and student.train.init_from is None:
                    raise ValueError(
                        f"'{path}.selective.evaluator': a model that was trained on distilled data is needed: name its "
                        f"checkpoint, or let the training begin from it ('stages' or 'train.init_from')"
                    )
        return self

    @model_validator(mode="after")
    def _consolidation(self) -> Pipeline:
        trainings = [(number, path, teacher.train) for number, (path, teacher) in enumerate(self.teacher_trainings())]
        for name in self.students:
            trainings += [(number, path, each.train) for number, (path, each) in enumerate(self.trainings_of(name))]
        for number, path, train in trainings:
            if train.ewc is not None and number == 0 and train.init_from is None:
                raise ValueError(
                    f"'{setting_path(path, 'train.ewc')}' has no effect without weights to stay near: "
                    "'train.init_from', or a stage before"
                )
        return self

    def self_supervised_trainings(self) -> Iterator[tuple[str, SelfSupervised]]:
        """Yield the YAML path and the settings of each self-supervised loss."""
        found = [(path, each.self_supervised) for path, each in self.teacher_trainings()]
        found += [(path, each.self_supervised) for path, each in self.trainings()]
        yield from ((f"{path}.self_supervised", each) for path, each in found if each is not None)

    def languages_of_text(self, name: SelfSupervisedText) -> list[str]:
        """Return the codes of the languages of a text of self-supervised losses, each once."""
        directions = self.trained_directions
        if name in MONOLINGUAL_SIDES and self.is_multilingual:
            named = [Direction.parse(text.direction or "") for text in getattr(self.prepare, name)]
            directions = [each for each in directions if any(map(each.matches, named))]
        return list(dict.fromkeys(each.sides[side_of(name)] for each in directions))

    @model_validator(mode="after")
    def _self_supervised(self) -> Pipeline:
        for path, settings in self.self_supervised_trainings():
            for name in settings.texts:
                if name in MONOLINGUAL_SIDES and not getattr(self.prepare, name):
                    where = "monolingual" if settings.text is None else "text"
                    raise ValueError(f"'{path}.{where}' needs 'prepare.{name}'")
            needs_joined = settings.denoising is not None or any(map(side_of, settings.texts))
            if needs_joined and not self.prepare.vocabulary.joined and self.prepare.data_bin is None:
                setting = "text" if settings.denoising is None else "denoising"
                raise ValueError(
                    f"'{path}.{setting}' needs one dictionary of both languages: 'vocabulary.joined: true'"
                )
        return self

    @model_validator(mode="after")
    def _back_translation(self) -> Pipeline:
        trainings = [(path, each.data_names) for path, each in self.teacher_trainings()]
        trainings += [(path, each.data_names) for path, each in self.trainings()]
        reading = [path for path, names in trainings if "back_translated" in names]
        if reading and self.back_translation is None:
            raise ValueError(f"'{reading[0]}.data: back_translated' needs 'back_translation'")
        if self.back_translation is None:
            return self
        if not reading:
            raise ValueError("'back_translation' has no effect: no teacher or student has 'data: back_translated'")
        if not self.back_translation.text and not self.prepare.monolingual_target:
            raise ValueError("'back_translation' needs 'prepare.monolingual_target' (or 'back_translation.text')")
        is_read = any("monolingual_target" in settings.texts for _, settings in self.self_supervised_trainings())
        if self.back_translation.text and self.prepare.monolingual_target and not is_read:
            raise ValueError("'prepare.monolingual_target' has no effect with 'back_translation.text'")
        return self

    @model_validator(mode="after")
    def _training_sets(self) -> Pipeline:
        for path, student in self.trainings():
            number, setting = self.distill.num_candidates
            for name in student.data_names:
                made = TRAINING_SETS[name]
                if made.origin == "choice" and number == 1 and self.distill.pool is None:
                    others = "" if self.distill.of_text is not None else " or 'distill.pool'"
                    raise ValueError(f"'{path}.data: {name}' is made of the n-best: set '{setting}'{others}")
                if made.origin == "sampling" and self.distill.of_text is not None:
                    raise ValueError(
                        f"'{path}.data: {name}' is not drawn from the teacher in 'distill.teachers': its samples are "
                        "the candidates from which 'mbr' and others choose"
                    )
                if name == "diverse" and self.distill.diverse.quality == "utility" and self.distill.mbr.scorer:
                    raise ValueError(
                        f"'{path}.data: {name}' adds utilities to chrF2, from 0 to 100: 'distill.mbr.utility' must be "
                        "'chrf' or 'bleu', or 'distill.diverse.quality' 'probability'"
                    )
                if made.file is not None and getattr(self.distill, made.file) is None:
                    raise ValueError(f"'{path}.data: {name}' needs the file 'distill.{made.file}'")
        return self

    @model_validator(mode="after")
    def _has_probabilities(self) -> Pipeline:
        teacher, name = self.distill.prompted
        if teacher is None:
            return self
        problem = f"{name} gives no log-probabilities of tokens with their number"
        if self.distill.mbr.weights == "probability":
            raise ValueError(f"'distill.mbr.weights: probability': {problem}")
        if self.distill.diverse.quality == "probability":
            raise ValueError(f"'distill.diverse.quality: probability': {problem}")
        for path, student in self.trainings():
            if "nbest" in student.data_names:
                raise ValueError(f"'{path}.data: nbest' is weighted by probability: {problem}")
            if "reranked" in student.data_names and (found := _OF_TOKENS.intersection(self.distill.rerank.features)):
                raise ValueError(f"'distill.rerank.features': {problem}: leave out {', '.join(sorted(found))}")
        return self

    @model_validator(mode="after")
    def _can_be_resampled(self) -> Pipeline:
        tokenizer = self.prepare.tokenizer
        trainings = [(path, each.train) for path, each in self.teacher_trainings()]
        trainings += [(path, each.train) for path, each in self.trainings()]
        for path, train in trainings:
            if train.subword_regularization is None:
                continue
            # the model of a given file is known when it is read
            model = tokenizer.model if tokenizer.source_path is None else "given"
            try:
                train.subword_regularization.check_tokenizer(tokenizer.type, model)
            except ValueError as error:
                raise ValueError(f"'{setting_path(path, 'train.subword_regularization')}': {error}") from None
        return self

    @model_validator(mode="after")
    def _has_words_to_link(self) -> Pipeline:
        trainings = [(path, each.train) for path, each in self.teacher_trainings()]
        trainings += [(path, each.train) for path, each in self.trainings()]
        for path, train in trainings:
            guided = train.guided_alignment
            if guided is None or guided.file is None or guided.unit != "words":
                continue
            if self.prepare.tokenizer.type == "huggingface":
                raise ValueError(
                    f"'{setting_path(path, 'train.guided_alignment.unit')}': the words of the tokens of "
                    "'prepare.tokenizer.type: huggingface' are not known: use 'tokens'"
                )
        return self

    @model_validator(mode="after")
    def _can_be_augmented(self) -> Pipeline:
        found: list[tuple[str, TextNoise | None]] = [
            ("distill.augment", self.distill.augment),
            *((f"{path}.augment", each.augment) for path, each in self.teacher_trainings()),
            *((f"{path}.augment", each.augment) for path, each in self.trainings()),
        ]
        for path, augment in found:
            if augment is not None:
                drawn = [name for name, share in augment.shares().items() if share]
                self._check_text(drawn, path)
        return self

    def _check_text(self, modifiers: Sequence[ModifierName], path: str) -> None:
        check_text(modifiers, path, tokenizer=self.prepare.tokenizer.type, unusable=self.unusable_modifiers)

    @property
    def unusable_modifiers(self) -> dict[ModifierName, str]:
        """Return the changes of augmentation that the training text cannot have, with the reason."""
        return _unusable_modifiers(self.prepare)

    @model_validator(mode="after")
    def _variants(self) -> Pipeline:
        taken = {name.casefold() for name in self.prepare.test_sets}
        for name, modifiers in self.score.variants.items():
            path = f"score.variants.{name}"
            if not taken:
                raise ValueError(f"'{path}' has no effect: there is no test set")
            self._check_text(modifiers, path)
            for test_set in self.prepare.test_sets:
                if (made := f"{test_set}.{name}").casefold() in taken:
                    raise ValueError(f"'{path}': {made!r} is the name of another test set, or of a variant")
                taken.add(made.casefold())
        return self

    @model_validator(mode="after")
    def _distills_monolingual(self) -> Pipeline:
        if self.distill.monolingual and not self.prepare.monolingual:
            raise ValueError("'distill.monolingual' needs 'prepare.monolingual'")
        return self

    @model_validator(mode="after")
    def _right_to_left(self) -> Pipeline:
        for path, student in self.trainings() if self.teacher.right_to_left else ():
            others = student.online is not None or (student.word_kd is not None and student.word_kd.teachers)
            if not others and (name := student.compares_decoders):
                raise ValueError(
                    f"'{path}.{name}': the teacher predicts targets in reversed order ('teacher.right_to_left')"
                )
        return self

    @model_validator(mode="after")
    def _engine_of_distill(self) -> Pipeline:
        engine = self.distill.engine
        if engine.startswith("ctranslate2") and not self.distill.teachers and self.teacher.model.unidirectional_encoder:
            raise ValueError(
                f"'distill.engine: {engine}' cannot run a teacher with 'teacher.model.unidirectional_encoder': leave "
                "out 'engine'"
            )
        return self

    @model_validator(mode="after")
    def _simultaneous(self) -> Pipeline:
        if self.score.simultaneous is None or self.is_multilingual:  # refused by `check_directions`
            return self
        models = [self.teacher.model, *(student.model for student in self.students.values())]
        streams = any(each.nat is not None and each.nat.streaming is not None for _, each in self.trainings())
        if not streams and not any(model.unidirectional_encoder for model in models):
            raise ValueError(
                "'score.simultaneous' has no effect: no system has 'model.unidirectional_encoder: true' (wait-k) or "
                "'nat.streaming'"
            )
        for lang in self.direction.sides:
            if not writes_spaces(lang):
                raise ValueError(f"'score.simultaneous': latency is counted in words, and {lang!r} has no spaces")
        if streams and self.score.nat.ctc_beam > 1:
            raise ValueError(
                "'score.simultaneous' cannot have 'score.nat.ctc_beam' above 1: chunks are decided by the best path"
            )
        return self

    @model_validator(mode="after")
    def _knowledge(self) -> Pipeline:
        for training, student in self.trainings():
            if student.word_kd is None or student.word_kd.source != "cache":
                continue
            path, cache = f"{training}.word_kd", self.knowledge
            if student.word_kd.temperature not in cache.temperatures:
                raise ValueError(
                    f"'{path}.temperature' ({student.word_kd.temperature:g}) is none of 'knowledge.temperatures': "
                    f"the cache has the mass of all other tokens at these temperatures alone"
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
                if isinstance(test_set, HeldOut) and test_set.raw_target is None:
                    raise ValueError(
                        f"'prepare.test.{name}' is processed text: 'score.detokenized: true' needs its 'raw_target'"
                    )
        return self


def _unusable_modifiers(prepare: Prepare) -> dict[ModifierName, str]:
    tokenizer, case = prepare.tokenizer, None
    if prepare.text.lowercase:
        case = "prepare.text.lowercase: true"
    elif tokenizer.type == "sentencepiece" and tokenizer.normalization_rule.endswith("_cf"):
        case = f"prepare.tokenizer.normalization_rule: {tokenizer.normalization_rule}"
    return unusable_modifiers(moses=prepare.text.moses, case=case)


def _check_moses(key: str, code: str, *, already_applied: bool) -> None:
    """Check that Moses has rules for a language or, for text that is tokenised already, can detokenise it."""

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
