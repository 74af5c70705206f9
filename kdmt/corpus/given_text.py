"""Texts that are named in the `prepare` section of a pipeline."""

from __future__ import annotations

from itertools import chain

from kdmt.config import HeldOut, Monolingual, ParallelText, Prepare, Source


def texts_by_path(settings: Prepare) -> dict[str, ParallelText | Monolingual]:
    """Return every text that the settings name, by its YAML path."""
    held_out = {"valid": settings.valid, **{f"test.{name}": text for name, text in settings.test.items()}}
    return {
        **{f"prepare.train.{index}": text for index, text in enumerate(settings.train)},
        **{f"prepare.{name}": text for name, text in held_out.items() if text is not None},
        **{f"prepare.monolingual.{index}": text for index, text in enumerate(settings.monolingual)},
    }


def text_sources(settings: Prepare) -> list[Source]:
    """Return every text that the settings name."""
    texts: list[ParallelText] = [*settings.train, *held_out_texts(settings).values()]
    return [*chain(*map(sources_of, texts)), *settings.monolingual]


def held_out_texts(settings: Prepare) -> dict[str, HeldOut]:
    """Return the validation and test texts by the name of their split."""
    return ({} if settings.valid is None else {"valid": settings.valid}) | settings.test


def sources_of(text: ParallelText) -> list[Source]:
    """Return the files or URLs of a parallel text."""
    if not isinstance(text, HeldOut):
        return text.files
    return [*text.files, *([] if text.raw_target is None else [text.raw_target]), *text.references]
