"""Directions of translation of a pipeline, and the parts of its settings that belong to one of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

from kdmt.choices import LanguageScheme, LanguageTokens
from kdmt.config.corpora import Corpus, HeldOut, ParallelText, Source
from kdmt.config.prepare import MONOLINGUAL_SIDES, Prepare
from kdmt.languages import Direction, parse_language, same_language

_Text = TypeVar("_Text", bound=ParallelText)


def _direction(text: str) -> str:
    Direction.parse(text)
    return text


DirectionName = Annotated[str, AfterValidator(_direction)]


def language_prefix(direction: Direction, tokens: LanguageTokens) -> tuple[str, ...]:
    """Return the tokens before the source that name the direction.

    If the decoder reads a token (`decoder_reads_token`), this is the first of them, which the encoder does not read.

    Examples:
        >>> language_prefix(Direction("en", "de"), "both_in_source")
        ('<en>', '<2de>')
        >>> language_prefix(Direction("en", "de"), "source_and_decoder")
        ('<de>', '<en>')
    """
    source, target = f"<{direction.source}>", f"<2{direction.target}>"
    return {
        "target_in_source": (target,),
        "both_in_source": (source, target),
        # one token of a language on both sides, as in M2M-100 and NLLB
        "source_and_decoder": (f"<{direction.target}>", source),
        "target_and_decoder": (target, target),
        "decoder": (target,),
    }[tokens]


def own_language_prefix(code: str, tokens: LanguageTokens) -> tuple[str, ...]:
    """Return the tokens before a source that the model writes in the same language.

    Examples:
        >>> own_language_prefix("de", "both_in_source")
        ('<de>', '<2de>')
    """
    return language_prefix(Direction(code, code), tokens)


def decoder_reads_token(tokens: LanguageTokens) -> bool:
    """Return whether the decoder begins with the token of the target language."""
    return tokens in ("source_and_decoder", "target_and_decoder", "decoder")


def split_of(test_set: str, direction: Direction) -> str:
    """Return the name of the split with the text of a test set in one of several directions."""
    return f"{test_set}.{direction}"


def directions_of_scheme(languages: Sequence[str], scheme: LanguageScheme) -> list[Direction]:
    """Return the directions among languages.

    Args:
        languages: codes of different languages. `one_to_many` is from the first one, `many_to_one` to the first one.

    Raises:
        ValueError: if `english_centric` has no English.
    """
    pairs = [Direction(*pair) for pair in itertools.permutations(languages, 2)]
    first = languages[0]
    if scheme == "one_to_many":
        return [each for each in pairs if each.source == first]
    if scheme == "many_to_one":
        return [each for each in pairs if each.target == first]
    if scheme == "english_centric":
        if not any(map(_is_english, languages)):
            raise ValueError("'scheme: english_centric' needs English in 'languages'")
        return [each for each in pairs if any(map(_is_english, each.sides))]
    return pairs


def _is_english(code: str) -> bool:
    return parse_language(code).language == "en"


def to_english(direction: Direction) -> bool:
    """Return whether the target language is English."""
    return _is_english(direction.target)


def from_english(direction: Direction) -> bool:
    """Return whether the source language is English."""
    return _is_english(direction.source)


# ------------------------------------------------------------------------------------------------ texts of a direction


@dataclass(frozen=True)
class DirectionPart:
    """The settings of the prepare stage for one direction, as those of a pipeline with this direction alone.

    Attributes:
        direction: the direction.
        settings: settings with the texts of the direction alone.
        paths: YAML path of a text in `settings` -> its YAML path in the pipeline.
    """

    direction: Direction
    settings: Prepare
    paths: Mapping[str, str] = field(default_factory=dict)


def part_of_direction(settings: Prepare, direction: Direction, *, is_trained: bool = True) -> DirectionPart:
    """Return the settings of the prepare stage for one direction.

    Args:
        settings: settings with the texts of all directions.
        is_trained: whether the direction has training and validation text; if not, it has test sets alone.

    Raises:
        ValueError: if it has no text for training or validation, or several texts for validation or a test set; the
            message has the YAML path.
    """
    paths: dict[str, str] = {}
    train: list[Corpus] = []
    for index, corpus in enumerate(settings.train if is_trained else ()):
        for found in _in_direction(corpus, direction):
            paths[f"prepare.train.{len(train)}"] = f"prepare.train.{index}"
            train.append(found.model_copy(update={"tag": str(direction)}))
    held_out: dict[str, HeldOut] = {}
    for path, texts in [("valid", settings.valid), *((f"test.{name}", text) for name, text in settings.test.items())]:
        if path == "valid" and not is_trained:
            continue
        chosen = list(_held_out(texts, f"prepare.{path}", direction))
        if len(chosen) > 1:
            raise ValueError(f"'{chosen[1][0]}': a second text for {direction}, after '{chosen[0][0]}'")
        for where, text in chosen:
            paths[f"prepare.{path}"], held_out[path] = where, text
    if is_trained and not train:
        raise ValueError(f"'prepare.train': no corpus has the direction {direction}")
    if is_trained and "valid" not in held_out:
        raise ValueError(f"'prepare.valid': no text has the direction {direction}")
    tests = {path.removeprefix("test."): text for path, text in held_out.items() if path != "valid"}
    own: dict[str, Any] = {"train": train, "valid": held_out.get("valid"), "test": tests}
    for name in MONOLINGUAL_SIDES:
        own[name] = []
        for index, source in enumerate(getattr(settings, name) if is_trained else ()):
            if source.direction is not None and Direction.parse(source.direction).matches(direction):
                paths[f"prepare.{name}.{len(own[name])}"] = f"prepare.{name}.{index}"
                own[name].append(source)
    return DirectionPart(direction, settings.model_copy(update=own), paths)


def _held_out(texts: HeldOut | list[HeldOut] | None, path: str, direction: Direction) -> Iterator[tuple[str, HeldOut]]:
    """Yield the texts of a direction with their YAML paths."""
    if texts is None:
        return
    listed = [(path, texts)] if isinstance(texts, HeldOut) else [(f"{path}.{i}", each) for i, each in enumerate(texts)]
    for where, text in listed:
        for found in _in_direction(text, direction):
            yield where, found


def _in_direction(text: _Text, direction: Direction) -> Iterator[_Text]:
    """Yield a text as one of the direction, if it is; text in several languages has all directions among them."""
    if text.parallel is not None:
        sides = [_file_in(text.parallel, code) for code in direction.sides]
        if None not in sides:
            yield text.model_copy(update={"source": sides[0], "target": sides[1], "parallel": None})
        return
    own = Direction.parse(text.direction or "")
    if own.matches(direction):
        yield text
    elif text.reverse and own.reversed().matches(direction):
        yield text.model_copy(update=_reversed_sides(text))


def _file_in(files: Mapping[str, Source], code: str) -> Source | None:
    return next((source for language, source in files.items() if same_language(language, code)), None)


def _reversed_sides(text: ParallelText) -> dict[str, Any]:
    """Return the settings that name the sides of a text, exchanged."""
    pairs = [("source", "target"), ("source_column", "target_column"), ("source_field", "target_field")]
    return {name: getattr(text, other) for pair in pairs for name, other in (pair, pair[::-1])}
