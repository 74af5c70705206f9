"""Texts that are named in the `prepare` section of a pipeline."""

from __future__ import annotations

from kdmt.config import HeldOut, Monolingual, ParallelText, Prepare, Source


def texts_by_path(settings: Prepare) -> dict[str, ParallelText | Monolingual]:
    """Return every text that the settings name, by its YAML path."""
    held_out = {"valid": settings.valid, **{f"test.{name}": text for name, text in settings.test.items()}}
    by_path = {
        path: text for name, texts in held_out.items() if texts is not None for path, text in _listed(name, texts)
    }
    return {
        **{f"prepare.train.{index}": text for index, text in enumerate(settings.train)},
        **{f"prepare.{path}": text for path, text in by_path.items()},
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


def _listed(path: str, texts: HeldOut | list[HeldOut]) -> list[tuple[str, HeldOut]]:
    if isinstance(texts, HeldOut):
        return [(path, texts)]
    return [(f"{path}.{index}", text) for index, text in enumerate(texts)]


def held_out_texts(settings: Prepare) -> dict[str, HeldOut]:
    """Return the validation and test texts of a pipeline with one direction by the name of their split."""
    given = ({} if settings.valid is None else {"valid": settings.valid}) | settings.test
    return {name: text for name, text in given.items() if isinstance(text, HeldOut)}


def sources_of(text: ParallelText | Monolingual) -> list[Source]:
    """Return the files or URLs of a text."""
    if isinstance(text, Monolingual):
        return [text]
    documents = [] if text.documents is None else [text.documents]
    if not isinstance(text, HeldOut):
        return [*text.files, *documents]
    return [*text.files, *([] if text.raw_target is None else [text.raw_target]), *text.references, *documents]
