"""Validation and test text of the prepare stage, and the sentences that training text must not have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kdmt.config import HeldOut, Source
from kdmt.config.prepare import Decontaminate
from kdmt.corpus.characters import find_foreign_forms
from kdmt.corpus.context import without_context
from kdmt.corpus.decontaminate import Forbidden, collect_forbidden
from kdmt.corpus.lines import iterate_lines, write_lines
from kdmt.corpus.ngram_overlap import Forms, NgramOverlaps, index_side
from kdmt.corpus.prepared import reference_paths
from kdmt.corpus.reading import read_pairs, source_lines
from kdmt.corpus.rules.table import line_forms
from kdmt.corpus.text import TextProcessor
from kdmt.errors import UserError
from kdmt.languages import characters_per_word
from kdmt.stages.preparation import Preparation


def write_held_out(work: Preparation, folder: Path, split: str, text: HeldOut, processor: TextProcessor) -> None:
    """Write validation or test text unchanged (`raw`), and in the form that the tokenizer reads."""
    paths = work.locations.fetch_corpus(text)
    setting = work.path("prepare.valid" if text is work.settings.valid else f"prepare.test.{split}")
    documents = work.locations.documents(text, work.settings.context)
    pairs = list(work.naming_text(setting, read_pairs(text, paths, work.direction, documents=documents)))
    if processor.text.already_applied:
        processes = [processor.tidy, processor.tidy]
    else:
        processes = [processor.preprocess_source, processor.preprocess_target]
    for lang, process, lines in zip(work.direction.sides, processes, zip(*pairs, strict=True), strict=True):
        context = work.settings.context if lang == work.direction.source else None
        write_lines(folder / f"{split}.raw.{lang}", (without_context(line, context) for line in lines))
        write_lines(folder / f"{split}.{lang}", (process(line) for line in lines))
    raw = folder / f"{split}.raw.{work.direction.target}"
    if text.raw_target is not None:
        _write_reference(work, text.raw_target, f"{setting}.raw_target", raw, split, len(pairs))
    for number, source in enumerate(text.references, start=1):
        path = raw.with_name(f"{split}.raw{number}.{work.direction.target}")
        _write_reference(work, source, f"{setting}.references.{number - 1}", path, split, len(pairs))


def _write_reference(work: Preparation, source: Source, setting: str, path: Path, split: str, num_pairs: int) -> None:
    """Write an untokenised reference of a held-out set.

    Args:
        setting: YAML path of the reference.
    """
    lines = tuple(work.naming_text(setting, source_lines(source, work.locations.fetch(source))))
    if work.settings.context is not None and len(lines) != num_pairs:  # between documents
        lines = tuple(line for line in lines if line.split())
    if len(lines) != num_pairs:
        raise UserError(f"{source.name} has {len(lines)} lines, {split} has {num_pairs}")
    write_lines(path, lines)


def count_foreign_forms(
    work: Preparation, folder: Path, held_out: Iterable[str], processor: TextProcessor
) -> dict[str, dict[str, object]]:
    """Count held-out lines with characters that clean training text cannot contain: split -> language -> counts."""
    if processor.unicode_form is None:
        return {}
    counts: dict[str, dict[str, object]] = {}
    for split in held_out:
        counts[split] = {}
        for lang in work.direction.sides:
            path = folder / f"{split}.raw.{lang}"
            found = find_foreign_forms(iterate_lines(path), processor.unicode_form)
            counts[split][lang] = found.as_dict()
            if not found.changed:
                continue
            fate = "sources are translated as cleaning leaves them"
            if lang == processor.target_lang:
                fate = "references are scored as published, so no translation matches them in full"
            work.say(
                f"prepare: warning: {split}, {lang}: {found.explain()} have characters that clean training text "
                f"cannot contain; {fate}"
            )
    return counts


def held_out_pairs(work: Preparation, folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """Yield pairs in the form that training text has when it is compared with them.

    The comparison treats the entities of Moses as letters, so both must have them or neither.
    """
    form = "" if work.settings.text.already_applied else "raw."
    sources, targets = (iterate_lines(folder / f"{split}.{form}{lang}") for lang in work.direction.sides)
    return zip((without_context(line, work.settings.context) for line in sources), targets, strict=True)


def further_references(work: Preparation, folder: Path, split: str) -> Iterator[list[str]]:
    """Yield the further references of a held-out set in the form of `held_out_pairs`."""
    text = work.settings.text
    process = TextProcessor(text, *work.direction.sides).preprocess_target if text.already_applied else str
    for path in reference_paths(folder, split, work.direction.target):
        yield [process(line) for line in iterate_lines(path)]


def forbidden_sentences(work: Preparation, folder: Path, held_out: dict[str, HeldOut]) -> Forbidden:
    """Return the sentences of the held-out sets, which training text must not have."""
    texts = ((split, _with_references(work, folder, split)) for split in held_out)
    forbidden = collect_forbidden(texts, held_out_forms(work))
    settings = work.settings.decontaminate
    if isinstance(settings, bool):
        return forbidden
    source, target = (
        [(f"{split}.{name}", [pair[number] for pair in held_out_pairs(work, folder, split)]) for split in held_out]
        for number, name in enumerate(("source", "target"))
    )
    target += [
        (f"{split}.target", reference) for split in held_out for reference in further_references(work, folder, split)
    ]
    return replace(forbidden, overlaps=index_overlaps(work, settings, source, target))


def _with_references(work: Preparation, folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a held-out set, then its sources with each further reference."""
    pairs = list(held_out_pairs(work, folder, split))
    yield from pairs
    for reference in further_references(work, folder, split):
        yield from zip((source for source, _ in pairs), reference, strict=True)


def held_out_forms(work: Preparation) -> tuple[Forms, Forms]:
    """Return functions that give the forms of a held-out source and target with which training text is compared.

    These are the line as it is, and as the rules of each corpus change it: a training line was changed by them too.
    """
    settings = work.settings
    cleans = [settings.clean, *map(settings.clean_of, settings.train)]
    rules = [clean for clean in cleans if clean != "none"]
    source, target = (line_forms(rules, lang) for lang in work.direction.sides)
    return source, target


def index_overlaps(
    work: Preparation,
    settings: Decontaminate,
    source: Sequence[tuple[str, Sequence[str]]],
    target: Sequence[tuple[str, Sequence[str]]],
) -> NgramOverlaps:
    """Return the n-grams of held-out sets in the languages of a direction.

    Args:
        settings: size and share of the n-grams.
        source, target: name and lines of each held-out set on one side.
    """
    sides = [
        index_side(
            lines,
            ngram=settings.ngram,
            overlap=settings.overlap,
            characters_per_word=0 if is_spaced else characters_per_word(code),
            forms=forms,
        )
        for lines, is_spaced, code, forms in zip(
            (source, target), work.spaced, work.direction.sides, held_out_forms(work), strict=True
        )
    ]
    return NgramOverlaps(*sides)
