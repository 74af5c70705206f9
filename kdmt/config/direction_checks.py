"""Rules for pipelines with several directions: what their settings must have, and what they cannot have yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kdmt.config.corpora import HeldOut, Monolingual, ParallelText
from kdmt.config.directions import language_prefix, own_language_prefix
from kdmt.config.language_models import TEXT_TEACHERS
from kdmt.config.section import changed
from kdmt.config.teacher_entries import PivotTeacher
from kdmt.languages import Direction, parse_language, same_language

if TYPE_CHECKING:
    from kdmt.config.pipeline import Pipeline
    from kdmt.config.training import Train

_OF_SEVERAL = ("directions", "languages", "scheme", "zero_shot", "language_tokens")


def check_one_direction(config: Pipeline) -> None:
    """Check that a pipeline with one direction has no setting of several.

    Raises:
        ValueError: if it has one; the message has the YAML path.
    """
    needed = "has no effect without several 'directions'"
    for name in changed(config):
        if name in _OF_SEVERAL:
            raise ValueError(f"'{name}' {needed}")
    for path, text in _texts(config):
        for name in ("direction", "parallel"):
            if getattr(text, name) is not None:
                raise ValueError(f"'{path}.{name}' {needed}")
    for name, lines in config.prepare.monolingual_texts.items():
        for index, source in enumerate(lines):
            if source.direction is not None:
                raise ValueError(f"'prepare.{name}.{index}.direction' {needed}")
    for path, texts in (("prepare.valid", config.prepare.valid), *_test_sets(config)):
        if isinstance(texts, list):
            raise ValueError(f"'{path}': a list of texts {needed}")
    if config.distill.by_direction:
        raise ValueError(f"'distill.teachers': a mapping {needed}")
    if config.distill.reverse is not None and not isinstance(config.distill.reverse.checkpoint, str):
        raise ValueError(f"'distill.reverse.checkpoint': a mapping {needed}")
    if isinstance(config.distill.failures.scripts, dict):
        raise ValueError(f"'distill.failures.scripts': a mapping {needed}")
    if config.knowledge.teachers != "pipeline":
        raise ValueError(f"'knowledge.teachers: {config.knowledge.teachers}' {needed}")
    if config.score.off_target is not None:
        raise ValueError(f"'score.off_target' {needed}")
    if "resource_classes" in changed(config.score):
        raise ValueError(f"'score.resource_classes' {needed}")
    if config.prepare.tokenizer.temperature is not None:
        raise ValueError(f"'prepare.tokenizer.temperature' {needed}")
    for path, train in _trainings(config):
        if train.sampling is not None:
            raise ValueError(f"'{path}.train.sampling' {needed}")
    for path, student in config.trainings():
        if student.word_kd is not None and student.word_kd.direction_selection is not None:
            raise ValueError(f"'{path}.word_kd.direction_selection' {needed}")


def check_directions(config: Pipeline) -> None:
    """Check a pipeline with several directions.

    Raises:
        ValueError: if the directions are not valid, one of them has no text, or another setting cannot be combined with
            several directions; the message has the YAML path.
    """
    _check_names(config)
    for path in _refused(config):
        raise ValueError(f"'{path}' cannot be combined with several directions")
    for path in _refused_with_decoder_tokens(config) if config.decoder_reads_token else ():
        raise ValueError(
            f"'{path}' cannot be combined with 'language_tokens: {config.language_tokens}', with which the decoder "
            "begins with a language token: use 'target_in_source' or 'both_in_source'"
        )
    for path, text in _texts(config):
        is_test = path.startswith("prepare.test.")
        _check_text(path, text, config.all_directions if is_test else config.trained_directions, config.zero_shot)
    for name, texts in config.prepare.monolingual_texts.items():
        for index, source in enumerate(texts):
            _check_monolingual(f"prepare.{name}.{index}", source, config.trained_directions)
    parts = config.parts_of_prepare()
    for name in config.prepare.test:
        if not any(name in part.settings.test for part in parts):
            raise ValueError(f"'prepare.test.{name}': no text has a direction of the pipeline")
    for engine in config.score.engines:
        if engine in ("marian", "bergamot"):
            raise ValueError(f"'score.engines': models of {engine!r} have one direction, and the pipeline has several")
    _check_teachers(config)
    if config.knowledge.teachers == "directions":
        _check_cache_teachers(config)
    reverse = config.distill.reverse
    for name in reverse.checkpoint if reverse is not None and not isinstance(reverse.checkpoint, str) else ():
        if name not in map(str, config.trained_directions):
            raise ValueError(
                f"'distill.reverse.checkpoint.{name}': none of the trained directions "
                f"{', '.join(map(str, config.trained_directions))}"
            )
    scripts, targets = config.distill.failures.scripts, {each.target for each in config.trained_directions}
    for language in scripts if isinstance(scripts, dict) else ():
        if language not in targets:
            raise ValueError(
                f"'distill.failures.scripts.{language}': none of the target languages {', '.join(sorted(targets))}"
            )
    _check_self_supervised(config)
    for part in parts if config.directions is not None else ():  # with 'scheme', 'zero_shot' leaves directions out
        if not part.settings.train and not part.settings.test:
            raise ValueError(f"'zero_shot': {part.direction} has no effect, because no text of 'prepare.test' has it")
    known = {str(each) for each in config.trained_directions}
    for path, train in _trainings(config):
        for setting in ("weights", "max_pairs"):
            for name in getattr(train.sampling, setting, None) or ():
                if name not in known:
                    raise ValueError(
                        f"'{path}.train.sampling.{setting}': {name!r} is none of the trained directions "
                        f"{', '.join(known)}"
                    )


def _check_names(config: Pipeline) -> None:
    for name in ("source_lang", "target_lang"):
        if getattr(config, name) is not None:
            raise ValueError(f"give either '{name}' or several directions, not both")
    if config.directions is not None and config.languages is not None:
        raise ValueError("give either 'directions' or 'languages' with 'scheme', not both")
    if config.directions is not None and config.scheme is not None:
        raise ValueError("'scheme' has no effect with 'directions'")
    if config.languages is not None:
        _check_languages(config.languages)
        if config.scheme is None:
            raise ValueError("'scheme' is missing: the directions among 'languages'")
    trained = config.trained_directions
    if not trained:
        raise ValueError("'zero_shot' leaves no direction to train")
    _check_distinct("directions", trained)
    untrained = [Direction.parse(name) for name in config.zero_shot]
    _check_distinct("zero_shot", untrained)
    for each in untrained:
        if any(map(each.matches, trained)):
            raise ValueError(f"'zero_shot': {each} is trained too: leave it out of 'directions'")
        if not any(same_language(each.target, other.target) for other in trained):
            raise ValueError(f"'zero_shot': no trained direction translates to {each.target!r} as {each} does")
        if not any(same_language(each.source, code) for other in trained for code in other.sides):
            raise ValueError(f"'zero_shot': no trained direction has the language {each.source!r} of {each}")
        is_source = any(same_language(each.source, other.source) for other in trained)
        if config.language_tokens in ("both_in_source", "source_and_decoder") and not is_source:
            raise ValueError(
                f"'zero_shot': no trained direction translates from {each.source!r}, so that the model does not learn "
                f"its token <{each.source}> ('language_tokens: {config.language_tokens}')"
            )
    _check_spelling(config.all_directions)


def _check_languages(codes: Sequence[str]) -> None:
    for number, code in enumerate(codes):
        try:
            parse_language(code)
        except ValueError as error:
            raise ValueError(f"'languages': {error}") from None
        for other in codes[:number]:
            if same_language(code, other):
                raise ValueError(f"'languages': {other!r} and {code!r} are the same language")


def _check_distinct(setting: str, directions: Sequence[Direction]) -> None:
    seen: set[object] = set()
    for each in directions:
        if each.identity in seen:
            raise ValueError(f"'{setting}': {each} is named twice")
        seen.add(each.identity)


def _check_spelling(directions: Sequence[Direction]) -> None:
    """Check that each language has one code, since the code is part of its token."""
    codes: list[str] = []
    for code in dict.fromkeys(code for each in directions for code in each.sides):
        twin = next((other for other in codes if same_language(code, other)), None)
        if twin is not None:
            raise ValueError(f"'directions': {twin!r} and {code!r} are the same language: write one of them")
        codes.append(code)


def _check_text(path: str, text: ParallelText, directions: Sequence[Direction], zero_shot: Sequence[str]) -> None:
    """Check that a text has one of the directions that have such text; `parallel` may have further languages."""
    if text.dataset is not None:
        raise ValueError(f"'{path}.{text.dataset[0]}': with several directions, texts are given as files, not by name")
    if text.parallel is not None:
        used = [each for each in directions if all(any(same_language(c, k) for k in text.parallel) for c in each.sides)]
        if not used:
            raise ValueError(f"'{path}.parallel': no direction of the pipeline is among {', '.join(text.parallel)}")
        return
    if text.direction is None:
        raise ValueError(f"'{path}.direction' is missing: the direction of the text, as {directions[0]}")
    own = Direction.parse(text.direction)
    for each, is_used in ((own, True), (own.reversed(), text.reverse)):
        if is_used and not any(map(each.matches, directions)):
            setting = "direction" if each is own else "reverse"
            if any(each.matches(Direction.parse(name)) for name in zero_shot):
                raise ValueError(f"'{path}.{setting}': {each} is in 'zero_shot', so it has test sets alone")
            raise ValueError(
                f"'{path}.{setting}': {each} is none of the directions of the pipeline: "
                f"{', '.join(map(str, directions))}"
            )


def _check_teachers(config: Pipeline) -> None:
    """Check the teachers of the distill stage."""
    distill, trained = config.distill, [str(each) for each in config.trained_directions]
    if distill.shared:
        raise ValueError(
            f"'distill.teachers': several directions need a mapping from directions to their teachers, as "
            f"{{{trained[0]}: PATH}}, instead of a list"
        )
    for name in distill.by_direction:
        if name not in trained:
            raise ValueError(f"'distill.teachers.{name}': none of the trained directions {', '.join(trained)}")
    if all(distill.by_direction.get(name, "") is None for name in trained):
        raise ValueError("'distill.teachers': no direction has a teacher")
    for index, text in enumerate(config.prepare.monolingual if distill.monolingual else ()):
        own = Direction.parse(text.direction or "")
        if any(own.matches(Direction.parse(name)) for name, teacher in distill.by_direction.items() if teacher is None):
            raise ValueError(
                f"'prepare.monolingual.{index}': 'distill.teachers' has no teacher for {text.direction}, and text "
                "without translations has no original targets"
            )
    drawn = [path for path, student in config.trainings() if "sampled" in student.data_names]
    for name, teacher in distill.by_direction.items():
        if isinstance(teacher, PivotTeacher):
            _check_pivot(f"distill.teachers.{name}.pivot", Direction.parse(name), teacher.pivot)
        if drawn and isinstance(teacher, (*TEXT_TEACHERS, PivotTeacher)):
            raise ValueError(
                f"'{drawn[0]}.data: sampled': the teacher of {name} in 'distill.teachers' draws no samples"
            )


def _check_self_supervised(config: Pipeline) -> None:
    """Check that models have language tokens for the text of their self-supervised losses."""
    known = {token for each in config.all_directions for token in language_prefix(each, config.language_tokens)}
    for path, settings in config.self_supervised_trainings():
        for name in settings.tagged_texts:
            for code in config.languages_of_text(name):
                for token in own_language_prefix(code, config.language_tokens):
                    if token not in known:
                        raise ValueError(
                            f"'{path}.text': {name!r} has text in {code!r}, for which the model has no token {token}: "
                            f"no direction has the language on that side ('language_tokens: {config.language_tokens}')"
                        )


def _check_cache_teachers(config: Pipeline) -> None:
    """Check the teachers of directions that fill knowledge caches."""
    teachers, setting = config.distill.by_direction, "'knowledge.teachers: directions'"
    if not teachers:
        raise ValueError(f"{setting} has no effect unless 'distill.teachers' has the teachers of directions")
    for name, given in teachers.items():
        path, model = f"distill.teachers.{name}", given
        if isinstance(given, PivotTeacher):
            path, model = f"{path}.teachers.1", given.teachers[1]
        if not isinstance(model, (str, list)) and model is not None:
            raise ValueError(
                f"'{path}': {setting} needs distributions over the vocabulary of the pipeline, which only checkpoints "
                "of kdmt can have"
            )
    certain = [name for name, given in teachers.items() if given is None or isinstance(given, PivotTeacher)]
    for path, student in config.trainings():
        if student.word_kd is None or student.word_kd.source != "cache":
            continue
        if student.word_kd.direction_selection is not None:
            raise ValueError(
                f"'{path}.word_kd.direction_selection' compares with the pipeline's teacher; the cache has those of "
                f"{setting}"
            )
        for name, is_set in (
            ("top1_ranking", student.word_kd.top1_ranking > 0),
            ("divergence: reverse_kl", student.word_kd.divergence == "reverse_kl"),
        ):
            if certain and is_set:
                raise ValueError(
                    f"'{path}.word_kd.{name}' cannot be combined with {setting}: pairs of {certain[0]} can have no "
                    "distribution of a teacher"
                )


def _check_monolingual(path: str, source: Monolingual, trained: Sequence[Direction]) -> None:
    if source.dataset is not None:
        raise ValueError(
            f"'{path}.{source.dataset[0]}': with several directions, texts are given as files, not by name"
        )
    if source.direction is None:
        purpose = "is translated in" if path.startswith("prepare.monolingual.") else "is in the target language of"
        raise ValueError(f"'{path}.direction' is missing: the direction that the text {purpose}, as {trained[0]}")
    if not any(map(Direction.parse(source.direction).matches, trained)):
        raise ValueError(
            f"'{path}.direction': {source.direction} is none of the trained directions {', '.join(map(str, trained))}"
        )


def _check_pivot(path: str, direction: Direction, pivot: str) -> None:
    """Check the pivot language of a direction."""
    try:
        parse_language(pivot)
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from None
    if any(same_language(pivot, code) for code in direction.sides):
        raise ValueError(f"'{path}': {pivot!r} is a language of {direction} itself")


def _texts(config: Pipeline) -> Iterator[tuple[str, ParallelText]]:
    """Yield each parallel text with its YAML path."""
    for index, corpus in enumerate(config.prepare.train):
        yield f"prepare.train.{index}", corpus
    for path, texts in (("prepare.valid", config.prepare.valid), *_test_sets(config)):
        if isinstance(texts, HeldOut):
            yield path, texts
        else:
            yield from ((f"{path}.{index}", text) for index, text in enumerate(texts or ()))


def _test_sets(config: Pipeline) -> list[tuple[str, HeldOut | list[HeldOut]]]:
    return [(f"prepare.test.{name}", texts) for name, texts in config.prepare.test.items()]


def _trainings(config: Pipeline) -> list[tuple[str, Train]]:
    return [
        *((path, each.train) for path, each in config.teacher_trainings()),
        *((path, each.train) for path, each in config.trainings()),
    ]


# ----------------------------------------------------------------------------------------------------- not yet possible


def _refused(config: Pipeline) -> Iterator[str]:
    """Yield the YAML path of each setting that several directions cannot be combined with."""
    yield from _refused_of_prepare(config)
    yield from _refused_of_simultaneous(config)
    if config.back_translation is not None:
        yield "back_translation"
    for name in ("simultaneous", "contrastive"):
        if getattr(config.score, name):
            yield f"score.{name}"


def _refused_of_prepare(config: Pipeline) -> Iterator[str]:
    prepare = config.prepare
    if prepare.data_bin is not None:
        yield "prepare.data_bin"
    for index, corpus in enumerate(prepare.train):
        if corpus.tag is not None:
            yield f"prepare.train.{index}.tag"
    if prepare.text.already_applied:
        yield "prepare.text.already_applied"
    if not prepare.tokenizer.joint:
        yield "prepare.tokenizer.joint: false"
    if not prepare.vocabulary.joined:
        yield "prepare.vocabulary.joined: false"


def _refused_of_simultaneous(config: Pipeline) -> Iterator[str]:
    for path, student in config.trainings():
        if student.wait_k is not None:
            yield f"{path}.wait_k"
        if student.nat is not None and student.nat.streaming is not None:
            yield f"{path}.nat.streaming"


def _refused_with_decoder_tokens(config: Pipeline) -> Iterator[str]:
    """Yield the YAML path of each setting that decoders which begin with a language token cannot be combined with."""
    for path, train in _trainings(config):
        if train.packing:
            yield f"{path}.train.packing"
        guided = train.guided_alignment
        if guided is not None and guided.file is not None and guided.unit == "tokens":  # the first one is not encoded
            yield f"{path}.train.guided_alignment.unit: tokens"
    for path, student in config.trainings():
        if student.nat is not None:
            yield f"{path}.nat"
        for name in ("hidden_kd", "attention_kd"):  # positions of the source have to be its tokens
            if getattr(student, name) is not None:
                yield f"{path}.{name}"
    for path, settings in config.self_supervised_trainings():
        if settings.denoising is None:
            yield path
