"""Texts that are named in the `prepare` section of a pipeline."""

from __future__ import annotations

from itertools import chain

from kdmt.config import HeldOut, ParallelText, Prepare, Source


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
