"""The prepare stage: raw text to clean text, tokenizer, dictionaries and data-bin.

    prepare/
        train.<lang>, valid.<lang>, <test set>.<lang>   words: clean text as the tokenizer sees it
        valid.raw.<lang>, <test set>.raw.<lang>     held-out text before processing; translations are held against it
        tokenizer/, text.json, dict.<lang>.txt      what every checkpoint carries
        monolingual.<source>                        clean text without a translation, where there is any
        data-bin/                                   fairseq's files
        report.json                                 counts of the cleaning pass, of held-out lines that it would
                                                    change, of lines that do not survive processing and back, and what
                                                    looks wrong about the corpora

The stage works in `prepare.partial` and renames it, so that a failure leaves an earlier `prepare` as it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from kdmt.checksum import known_sha256
from kdmt.config import Corpus, HeldOut, ParallelText, Prepare, Source
from kdmt.corpus.binarize import (
    TextPair,
    binarize_files,
    binarize_text,
    build_data_bin,
    data_prefix,
    dictionary_path,
)
from kdmt.corpus.characters import find_foreign_forms
from kdmt.corpus.checks import check_held_out, check_malformed, check_sides, check_specials, report_findings
from kdmt.corpus.clean import CleaningReport, TrainingCorpus, clean_corpora
from kdmt.corpus.codec import TEXT_FILE, TextCodec
from kdmt.corpus.decontaminate import Forbidden, collect_forbidden
from kdmt.corpus.dropped import describe_dropped
from kdmt.corpus.fetch import fetch, fetch_corpus, monolingual_lines, read_pairs, source_lines, token_companions
from kdmt.corpus.lines import iterate_lines, spread_lines, write_lines
from kdmt.corpus.pool import mapping_in_order
from kdmt.corpus.round_trip import SAMPLED_LINES, measure_round_trip
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.text_files import Malformed
from kdmt.corpus.tokenizer import Tokenizers, TooLittleText, load_tokenizer, read_chunks, train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.files import atomic_file, write_json
from kdmt.flow.folders import move_aside, real_folder
from kdmt.flow.manifest import Plan, begin, finish, make_plan, recorded_plan
from kdmt.flow.progress import count_pairs, download_progress
from kdmt.flow.stage import Stage
from kdmt.languages import Direction
from kdmt.runtime import cores
from kdmt.stages.measures import REPORT, spaced_sides
from kdmt.stages.prepare_data_bin import data_bin_hashes, take_data_bin
from kdmt.stages.workspace import Workspace

UNFINISHED = ".partial"  # ends the name of the folder that the stage works in


def prepare_stage(workspace: Workspace) -> Stage:
    settings = workspace.config.prepare
    languages = {"source_lang": workspace.direction.source, "target_lang": workspace.direction.target}

    def plan() -> Plan:
        made_from = make_plan({"prepare": settings}, languages, _input_hashes(workspace))
        if settings.data_bin is not None or settings.clean == "none" or all(spaced_sides(workspace)):
            return made_from
        # earlier versions counted words between spaces in every language, which dropped most of such text
        return made_from.depending_on("lengths", "characters", default="words")

    return Stage("prepare", "kdmt prepare", workspace.prepare, (), plan, lambda made: _prepare(workspace, made))


def _input_hashes(workspace: Workspace) -> dict[str, str]:
    """Every file that the settings name; a URL stands for the content that its sha256 fixes.

    A local file that is gone counts as unchanged where the stage was made from it: only making it again needs the file.
    """
    settings, made = workspace.config.prepare, workspace.prepare
    sources = text_sources(settings)
    given = (settings.tokenizer, settings.vocabulary)
    paths = [path for part in given for path in (part.source_path, part.target_path) if path is not None]
    paths += [str(path) for source in sources if source.is_tokens for path in token_companions(Path(source.path or ""))]
    recorded = recorded_plan(made)
    known = {} if recorded is None else recorded.inputs
    hashes = {source.name: source.sha256 or _hash_local(source.path, known.get(source.name)) for source in sources}
    hashes |= {path: _hash_local(path, known.get(path)) for path in paths}
    return hashes if settings.data_bin is None else hashes | data_bin_hashes(workspace, known)


def text_sources(settings: Prepare) -> list[Source]:
    """Every text that the settings name."""
    texts: list[ParallelText] = [*settings.train, *_held_out(settings).values()]
    return [*chain(*map(_sources, texts)), *settings.monolingual]


def _held_out(settings: Prepare) -> dict[str, HeldOut]:
    """Validation and test text by the name of the split."""
    return ({} if settings.valid is None else {"valid": settings.valid}) | settings.test


def _sources(text: ParallelText) -> list[Source]:
    raw_target = text.raw_target if isinstance(text, HeldOut) else None
    return [source for source in (text.source, text.target, text.tsv, raw_target) if source is not None]


def _hash_local(path: str | None, known: str | None) -> str:
    if path is not None and Path(path).is_file():
        return known_sha256(Path(path))
    if known is None:
        raise UserError(f"{path}: there is no such file")
    return known


def _prepare(workspace: Workspace, plan: Plan) -> None:
    final = real_folder(workspace.prepare)  # where it is a symbolic link, all of this happens on the link's disk
    folder = final.with_name(f"{final.name}{UNFINISHED}")
    if folder.exists():
        workspace.say(f"prepare: begins again; what a stopped run left in {folder} is removed")
        shutil.rmtree(folder)
    begin(folder, plan, workspace.resolved_config())
    facts = _fill(workspace, folder)
    outputs = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("plan.json", "config.json")]
    finish(folder, plan, outputs=outputs, facts=facts)
    move_aside(final)
    folder.rename(final)


def _fill(workspace: Workspace, folder: Path) -> dict[str, object]:
    settings, direction = workspace.config.prepare, workspace.direction
    if settings.data_bin is not None:
        return take_data_bin(workspace, folder)
    workers = settings.workers or cores()
    unicode_form = None if settings.clean == "none" else settings.clean.unicode_form
    processor = TextProcessor(settings.text, *direction.sides, unicode_form)
    held_out = _held_out(settings)
    for split, corpus in held_out.items():
        _write_held_out(workspace, folder, split, corpus, processor)
    foreign_forms = _foreign_forms(workspace, folder, held_out, processor)
    forbidden = _forbidden(workspace, folder, held_out) if settings.decontaminate else None
    malformed: dict[str, Malformed] = {}
    report = clean_corpora(
        (_training_corpus(workspace, index, corpus, malformed) for index, corpus in enumerate(settings.train)),
        clean=settings.clean,
        forbidden=forbidden,
        out_source=folder / f"train.{direction.source}",
        out_target=folder / f"train.{direction.target}",
        out_tags=folder / "train.tags",
        workdir=folder / "cleaning",
        workers=workers,
        spaced=spaced_sides(workspace),
    )
    pairs_of = {split: list(_held_out_pairs(workspace, folder, split)) for split in held_out}
    train_text = (folder / f"train.{direction.source}", folder / f"train.{direction.target}")
    parts = {corpus.name: corpus.pairs_out for corpus in report.corpora}
    checks = {"held_out": check_held_out(pairs_of), "sides": check_sides(train_text, parts, pairs_of)}
    workspace.say(
        f"prepare: {report.pairs_in:,} pairs read, {report.pairs_out:,} for training; {_dropped(report.dropped)}"
    )
    _warn(workspace, report)
    monolingual = _write_monolingual(workspace, folder, forbidden, malformed, workers) if settings.monolingual else {}
    samples = [spread_lines(path, SAMPLED_LINES) for path in train_text]
    if not (settings.text.changes_nothing or settings.text.already_applied):
        _process_in_place(train_text[0], processor.preprocess_source, workers)
        if settings.monolingual:
            _process_in_place(folder / f"monolingual.{direction.source}", processor.preprocess_source, workers)
        _process_in_place(train_text[1], processor.preprocess_target, workers)
    write_json(folder / TEXT_FILE, processor.to_dict())
    tokenizers = _train_tokenizer(settings, train_text, folder, direction, report)
    round_trips = _round_trips(workspace, samples, processor, folder / "tokenizer")
    counts, specials = _binarize(workspace, folder, tokenizers, list(held_out), workers)
    checks |= {"malformed": check_malformed(malformed), "literal_specials": check_specials(specials)}
    findings = report_findings(checks, workspace.say)
    measured = {"held_out_characters": foreign_forms, "round_trip": round_trips}
    write_json(folder / REPORT, report.as_dict() | measured | findings)
    pairs = {"pairs_in": report.pairs_in, "pairs_out": report.pairs_out, "dropped": report.dropped}
    return pairs | monolingual | counts


def _foreign_forms(
    workspace: Workspace, folder: Path, held_out: Iterable[str], processor: TextProcessor
) -> dict[str, dict[str, Any]]:
    """Count held-out lines with characters that clean training text cannot contain: split -> language -> counts."""
    if processor.unicode_form is None:
        return {}
    counts: dict[str, dict[str, Any]] = {}
    for split in held_out:
        counts[split] = {}
        for lang in workspace.direction.sides:
            path = folder / f"{split}.raw.{lang}"
            found = find_foreign_forms(iterate_lines(path), processor.unicode_form)
            counts[split][lang] = found.as_dict()
            if not found.changed:
                continue
            fate = "sources are translated as cleaning leaves them"
            if lang == processor.target_lang:
                fate = "references are scored as published, so no translation matches them in full"
            workspace.say(
                f"prepare: warning: {split}, {lang}: {found.explain()} have characters that clean training text "
                f"cannot contain; {fate}"
            )
    return counts


def _round_trips(
    workspace: Workspace, samples: Sequence[list[str]], processor: TextProcessor, tokenizer: Path
) -> dict[str, Any]:
    """Count the training lines that do not survive processing and back, of a sample of each side."""
    counts = {}
    tokenizers = load_tokenizer(tokenizer)  # of its own: a model numbers its symbols as it meets them
    models = (tokenizers.source, tokenizers.target)
    for lang, lines, model in zip(workspace.direction.sides, samples, models, strict=True):
        found = measure_round_trip(lines, processor=processor, lang=lang, model=model)
        counts[lang] = found.as_dict()
        if (warning := found.warning()) is not None:
            workspace.say(f"prepare: warning: {lang}: {warning}")
    return counts


def _dropped(dropped: dict[str, int]) -> str:
    found = [f"{rule} {count:,}" for rule, count in dropped.items() if count]
    return f"dropped: {', '.join(found)}" if found else "none dropped"


def _warn(workspace: Workspace, report: CleaningReport, *, unit: str = "pairs") -> None:
    for line in report.warnings(unit):
        workspace.say(f"prepare: {line}")


def _train_tokenizer(
    settings: Prepare,
    train_text: tuple[Path, Path],
    folder: Path,
    direction: Direction,
    report: CleaningReport,
) -> Tokenizers:
    """Learn the tokenizer; where cleaning has left too little text, that is the reason and not the vocabulary.

    Raises:
        UserError: as `train_tokenizer`.
    """
    try:
        return train_tokenizer(settings.tokenizer, train_text, folder / "tokenizer", direction)
    except TooLittleText as error:
        if not report.loses_much:
            raise
        raise UserError(
            f"cleaning leaves {report.pairs_out:,} of {report.pairs_in:,} training pairs, too few to learn the "
            f"tokenizer from; dropped: {describe_dropped(report.pairs_in, report.dropped)}{report.example()}"
        ) from error


def _training_corpus(
    workspace: Workspace, index: int, corpus: Corpus, malformed: dict[str, Malformed]
) -> TrainingCorpus:
    paths, name = fetch_corpus(corpus, **_places(workspace)), f"train.{index} {_sources(corpus)[0].name}"
    malformed[name] = Malformed()
    pairs = count_pairs(f"prepare: train.{index}", read_pairs(corpus, paths, malformed[name]))
    return TrainingCorpus(name, pairs, weight=corpus.weight, tag=corpus.tag)


def _write_monolingual(
    workspace: Workspace, folder: Path, forbidden: Forbidden | None, malformed: dict[str, Malformed], workers: int
) -> dict[str, object]:
    """Clean text of the source language, which passes through the rules of pairs as its own translation; its counts."""
    settings, place = workspace.config.prepare, folder / f"monolingual.{workspace.direction.source}"
    clean = settings.clean if settings.clean == "none" else settings.clean.model_copy(update={"drop_copies": False})
    report = clean_corpora(
        (_monolingual_corpus(workspace, index, source, malformed) for index, source in enumerate(settings.monolingual)),
        clean=clean,
        forbidden=forbidden,
        out_source=place,
        out_target=folder / "monolingual.copy",
        out_tags=folder / "monolingual.tags",
        workdir=folder / "cleaning",
        workers=workers,
        spaced=spaced_sides(workspace)[:1] * 2,
    )
    (folder / "monolingual.copy").unlink()
    workspace.say(
        f"prepare: {report.pairs_in:,} monolingual lines read, {report.pairs_out:,} kept; {_dropped(report.dropped)}"
    )
    _warn(workspace, report, unit="lines")
    counts = {"lines_in": report.pairs_in, "lines_out": report.pairs_out, "dropped": report.dropped}
    return {"monolingual": counts}


def _monolingual_corpus(
    workspace: Workspace, index: int, source: Source, malformed: dict[str, Malformed]
) -> TrainingCorpus:
    path, name = fetch(source, **_places(workspace)), f"monolingual.{index} {source.name}"
    malformed[name] = Malformed()
    lines = ((line, line) for line in monolingual_lines(source, path, malformed[name]))
    return TrainingCorpus(name, count_pairs(f"prepare: monolingual.{index}", lines))


def _write_held_out(workspace: Workspace, folder: Path, split: str, text: HeldOut, processor: TextProcessor) -> None:
    """Validation or test text as it is (`raw`), and as the tokenizer sees it."""
    paths = fetch_corpus(text, **_places(workspace))
    pairs = list(read_pairs(text, paths))
    if processor.text.already_applied:
        processes = [processor.tidy, processor.tidy]
    else:
        processes = [processor.preprocess_source, processor.preprocess_target]
    for lang, process, lines in zip(workspace.direction.sides, processes, zip(*pairs, strict=True), strict=True):
        write_lines(folder / f"{split}.raw.{lang}", lines)
        write_lines(folder / f"{split}.{lang}", (process(line) for line in lines))
    if text.raw_target is not None:
        path = fetch(text.raw_target, **_places(workspace))
        lines = tuple(source_lines(text.raw_target, path))
        if len(lines) != len(pairs):
            raise UserError(f"{text.raw_target.name} has {len(lines)} lines, {split} has {len(pairs)}")
        write_lines(folder / f"{split}.raw.{workspace.direction.target}", lines)


def _places(workspace: Workspace) -> dict[str, Any]:
    """Where files come from, and who is told of downloads."""
    progress = download_progress(workspace.say)
    return {"downloads": workspace.downloads, "mirror": workspace.mirror, "base": Path(), "progress": progress}


def _forbidden(workspace: Workspace, folder: Path, held_out: dict[str, HeldOut]) -> Forbidden:
    return collect_forbidden((split, _held_out_pairs(workspace, folder, split)) for split in held_out)


def _held_out_pairs(workspace: Workspace, folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """In the form that the training text has when it is compared: Moses' entities are letters to a comparison."""
    form = "" if workspace.config.prepare.text.already_applied else "raw."
    return zip(*(iterate_lines(folder / f"{split}.{form}{lang}") for lang in workspace.direction.sides), strict=True)


def _process_in_place(path: Path, process: Callable[[str], str], workers: int) -> None:
    """Apply text processing line by line, in bounded memory."""
    with (
        atomic_file(path) as aside,
        aside.open("w", encoding="utf-8", newline="\n") as file,
        mapping_in_order(partial(_process_lines, process), workers) as map_in_order,
    ):
        for lines in map_in_order(read_chunks(path)):
            file.write(lines)


def _process_lines(process: Callable[[str], str], lines: list[str]) -> str:
    return "".join(f"{process(line)}\n" for line in lines)


def _binarize(
    workspace: Workspace, folder: Path, tokenizers: Tokenizers, held_out: list[str], workers: int
) -> tuple[dict[str, object], dict[str, dict[str, int]]]:
    """Write the data-bin; returns facts, and for each language its words that are spelled like special symbols."""
    direction, data_bin = workspace.direction, folder / "data-bin"
    tags = folder / "train.tags"
    text = TextPair(
        folder / f"train.{direction.source}", folder / f"train.{direction.target}", tags if tags.exists() else None
    )
    common: dict[str, Any] = {"direction": direction, "tokenizers": tokenizers, "threads": workers}
    vocabulary = workspace.config.prepare.vocabulary
    if vocabulary.source_path is None:
        made = build_data_bin(data_bin, text, vocabulary=vocabulary, **common)
    else:
        given = Dictionary.load(Path(vocabulary.source_path))
        target = given if vocabulary.target_path is None else Dictionary.load(Path(vocabulary.target_path))
        made = binarize_files(data_bin, "train", text, dictionaries=(given, target), **common)
        for lang, dictionary in zip(direction.sides, (given, target), strict=True):
            dictionary.save(dictionary_path(data_bin, lang))
    for lang in direction.sides:
        shutil.copy2(dictionary_path(data_bin, lang), folder)
    for split in held_out:
        binarize_files(
            data_bin,
            split,
            TextPair(folder / f"{split}.{direction.source}", folder / f"{split}.{direction.target}"),
            dictionaries=(made.source_dictionary, made.target_dictionary),
            **common,
        )
    if workspace.config.prepare.monolingual:
        binarize_text(
            folder / f"monolingual.{direction.source}",
            data_prefix(data_bin, "monolingual", direction, direction.source),
            model=tokenizers.source,
            dictionary=made.source_dictionary,
            threads=workers,
        )
    sides = zip(
        direction.sides, (made.source, made.target), (made.source_dictionary, made.target_dictionary), strict=True
    )
    facts: dict[str, object] = {}
    for lang, counts, dictionary in sides:
        facts[lang] = {"symbols": len(dictionary), "tokens": counts.num_tokens, "unk": counts.num_unk}
    return facts, dict(zip(direction.sides, (made.source.literal_specials, made.target.literal_specials), strict=True))


def binarize_distilled(workspace: Workspace, folder: Path) -> None:
    """Bring distilled text in by the same door: `clean: none`, the teacher's tokenizer and dictionaries.

    Args:
        folder: holds `distilled.<source>` and `distilled.<target>` (and `distilled.tags`); gets `data-bin/`.
    """
    codec = TextCodec.load(workspace.prepare)
    (src, tgt), tags = workspace.direction.sides, folder / "distilled.tags"
    binarize_files(
        folder / "data-bin",
        "train",
        TextPair(folder / f"distilled.{src}", folder / f"distilled.{tgt}", tags if tags.exists() else None),
        direction=workspace.direction,
        tokenizers=codec.tokenizers,
        dictionaries=(codec.src_dictionary, codec.tgt_dictionary),
    )
    for lang in workspace.direction.sides:
        shutil.copy2(workspace.data_bin / f"dict.{lang}.txt", folder / "data-bin")
