"""Settings of the context of a sentence: the previous sentences of its document, put before the source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from kdmt.config.corpora import HeldOut, ParallelText
from kdmt.config.section import Section
from kdmt.types import SPECIALS

if TYPE_CHECKING:
    from kdmt.config.pipeline import Pipeline

# forms of parallel text whose lines may be in the order of documents; None for two files
_ORDERED_FORMS = (None, "wmt_xml")
_SCORING_RULES = ("alignment", "cross_entropy", "reverse", "filter")  # which read the source with its context


class Context(Section):
    """The previous sentences of a document, which are put before each source sentence (Tiedemann & Scherrer 2017).

    With one sentence this is their model "2+1": two source sentences, of which the second one is translated.
    """

    sentences: int = Field(1, ge=1, le=16, description="Number of previous sentences")
    separator: str = Field(
        "<sep>",
        pattern=r"^\S+$",
        description="Token after each previous sentence, also before a sentence without any; no text has it",
    )

    @model_validator(mode="after")
    def _is_token(self) -> Context:
        if self.separator in SPECIALS or "▁" in self.separator:
            raise ValueError(
                f"'separator': {self.separator!r} is a special symbol, or contains '▁': choose another token"
            )
        return self


def check_no_context(config: Pipeline) -> None:
    """Check that a pipeline without context has no setting of one.

    Raises:
        ValueError: if it has one; the message has the YAML path.
    """
    for path, text in _texts(config):
        if text.documents is not None:
            raise ValueError(f"'{path}.documents' has no effect without 'prepare.context'")


def check_context(config: Pipeline) -> None:
    """Check a pipeline with context.

    Raises:
        ValueError: if a text has no documents, or another setting cannot be combined with context; the message has the
            YAML path.
    """
    if config.is_multilingual:
        raise ValueError("'prepare.context' cannot be combined with several directions")
    for path in _refused(config):
        raise ValueError(f"'{path}' cannot be combined with 'prepare.context'")
    assert config.prepare.context is not None, "only called with context"
    separator = config.prepare.context.separator
    if separator in config.source_tags:
        raise ValueError(f"'prepare.context.separator': {separator!r} is the tag of a corpus: choose another token")
    for path, text in _texts(config):
        check_form(text, path)


def check_form(text: ParallelText, name: str) -> None:
    """Check that the lines of a text can be in the order of documents.

    Args:
        name: name of the text for the message, such as its YAML path.

    Raises:
        ValueError: if they cannot.
    """
    if text.dataset is None and text.form not in _ORDERED_FORMS:
        raise ValueError(
            f"'{name}.{text.form}' cannot be combined with 'prepare.context': give files whose lines are in the order "
            "of their documents, as 'source' and 'target'"
        )


def _texts(config: Pipeline) -> Iterator[tuple[str, ParallelText]]:
    """Yield each parallel text with its YAML path."""
    prepare = config.prepare
    for index, corpus in enumerate(prepare.train):
        yield f"prepare.train.{index}", corpus
    for path, texts in (("valid", prepare.valid), *((f"test.{name}", each) for name, each in prepare.test.items())):
        listed = [texts] if isinstance(texts, HeldOut) else texts or []
        yield from ((f"prepare.{path}", text) for text in listed)


# ----------------------------------------------------------------------------------------------------- not yet possible


def _refused(config: Pipeline) -> Iterator[str]:
    """Yield the YAML path of each setting that context cannot be combined with."""
    yield from _refused_of_prepare(config)
    yield from _refused_of_distill(config)
    yield from _refused_of_training(config)
    if config.back_translation is not None:
        yield "back_translation"
    for name in ("variants", "simultaneous"):
        if getattr(config.score, name):
            yield f"score.{name}"


def _refused_of_prepare(config: Pipeline) -> Iterator[str]:
    prepare = config.prepare
    for name in ("data_bin", "monolingual", "monolingual_target"):
        if getattr(prepare, name):
            yield f"prepare.{name}"
    # their subwords would cut the separator
    if prepare.tokenizer.type in ("subword-nmt", "huggingface"):
        yield f"prepare.tokenizer.type: {prepare.tokenizer.type}"
    if prepare.clean == "none":
        return
    if prepare.clean.near_duplicates:
        yield "prepare.clean.near_duplicates"
    for index, corpus in enumerate(prepare.train):
        clean = prepare.clean_of(corpus)
        for name in _SCORING_RULES:
            if clean != "none" and getattr(clean.rules, name, None) is not None:
                where = f"prepare.train.{index}.clean" if corpus.clean else "prepare.clean.rules"
                yield f"{where}.{name}"


def _refused_of_distill(config: Pipeline) -> Iterator[str]:
    distill = config.distill
    for name in ("teachers", "augment", "reverse", "quality", "scores", "imported"):
        if getattr(distill, name):
            yield f"distill.{name}"
    if distill.mbr.scorer is not None:
        yield "distill.mbr.utility"
    for path, student in config.trainings():
        if "reranked" in student.data_names:
            yield f"{path}.data: reranked"


def _refused_of_training(config: Pipeline) -> Iterator[str]:
    trainings = [(path, each.augment, each.train) for path, each in config.teacher_trainings()]
    trainings += [(path, each.augment, each.train) for path, each in config.trainings()]
    for path, augment, train in trainings:
        if augment is not None:
            yield f"{path}.augment"
        for name in ("guided_alignment", "subword_regularization"):
            if getattr(train, name) is not None:
                yield f"{path}.train.{name}"
    for path, student in config.trainings():
        if student.wait_k is not None:
            yield f"{path}.wait_k"
        if student.nat is not None and student.nat.streaming is not None:
            yield f"{path}.nat.streaming"
