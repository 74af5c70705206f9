"""Texts that are named in the `prepare` section of a pipeline."""

from __future__ import annotations

from kdmt.config import HeldOut, Monolingual, ParallelText, Prepare, Source


def texts_by_path(settings: Prepare) -> dict[str, ParallelText | Monolingual]:
    """Return every text that the settings name, by its YAML path."""
    held_out = {"valid": settings.valid, **{f"test.{name}": text for name, text in settings.test.items()}}
    return {
        **{f"prepare.train.{index}": text for index, text in enumerate(settings.train)},
        **{f"prepare.{name}": text for name, text in held_out.items() if text is not None},
        **{
            f"prepare.{name}.{index}": text
            for name, texts in settings.monolingual_texts.items()
            for index, text in enumerate(texts)
        },
    }


def text_sources(settings: Prepare) -> list[Source]:
    """Return every file or URL of the settings."""
    return [source for _, source in sources_by_path(settings)]


def sources_by_path(settings: Prepare) -> list[tuple[str, Source]]:
    """Return every file or URL of the settings, with the YAML path of its text."""
    return [(path, source) for path, text in texts_by_path(settings).items() for source in sources_of(text)]


def held_out_texts(settings: Prepare) -> dict[str, HeldOut]:
    """Return the validation and test texts by the name of their split."""
    return ({} if settings.valid is None else {"valid": settings.valid}) | settings.test


def sources_of(text: ParallelText | Monolingual) -> list[Source]:
    """Return the files or URLs of a text."""
    if isinstance(text, Monolingual):
        return [text]
    if not isinstance(text, HeldOut):
        return text.files
    return [*text.files, *([] if text.raw_target is None else [text.raw_target]), *text.references]
