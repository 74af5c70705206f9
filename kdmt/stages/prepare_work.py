"""The work of the prepare stage. `kdmt.stages.prepare` plans it and describes the folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kdmt.config import Corpus, HeldOut, ParallelText, Prepare, Source
from kdmt.corpus.binarize import (
    BinarizedPair,
    TextPair,
    binarize_files,
    binarize_text,
    build_data_bin,
    dictionary_path,
)
from kdmt.corpus.characters import find_foreign_forms
from kdmt.corpus.checks import check_held_out, check_malformed, check_sides, check_specials, report_findings
from kdmt.corpus.clean import CleaningReport, TrainingCorpus, clean_corpora
from kdmt.corpus.codec import TEXT_FILE
from kdmt.corpus.decontaminate import Forbidden, collect_forbidden
from kdmt.corpus.dropped import describe_dropped
from kdmt.corpus.fetch import fetch, fetch_corpus, monolingual_lines, read_pairs, source_lines
from kdmt.corpus.given_text import held_out_texts, sources_of
from kdmt.corpus.lines import iterate_lines, spread_lines, write_lines
from kdmt.corpus.pool import mapping_in_order
from kdmt.corpus.prepared import PARTIAL_SUFFIX, REPORT, REPORT_EXAMPLES, PreparedCorpus
from kdmt.corpus.round_trip import SAMPLED_LINES, measure_round_trip
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.text_files import Malformed
from kdmt.corpus.tokenizer import Tokenizers, TooLittleText, load_tokenizer, read_chunks, train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.files import atomic_file, write_json
from kdmt.flow.folders import move_aside, real_folder
from kdmt.flow.manifest import Plan, begin, finish
from kdmt.flow.progress import count_pairs, download_progress
from kdmt.languages import Direction
from kdmt.runtime import cores
from kdmt.stages.prepare_data_bin import take_data_bin


@dataclass(frozen=True)
class Locations:
    """The locations from which files are read.

    Attributes:
        downloads: folder of files from the network.
        mirror: folder with the content of URLs, used in place of the network; None for the network.
    """

    downloads: Path
    mirror: Path | None

    def fetch(self, source: Source, say: Callable[[str], None]) -> Path:
        """Return the path of a local file with the content of a source."""
        progress = download_progress(say)
        return fetch(source, downloads=self.downloads, mirror=self.mirror, base=Path(), progress=progress)

    def fetch_corpus(self, corpus: ParallelText, say: Callable[[str], None]) -> tuple[Path, ...]:
        """Return the paths of the local files of a parallel text, for `read_pairs`."""
        progress = download_progress(say)
        return fetch_corpus(corpus, downloads=self.downloads, mirror=self.mirror, base=Path(), progress=progress)


@dataclass(frozen=True)
class Preparation:
    """The values that the work on a corpus needs.

    Attributes:
        settings: section `prepare`.
        direction: direction of translation.
        spaced: flags for source and target, True if words are separated by spaces.
        locations: locations from which files are read.
        say: function that prints a line for the user.
    """

    settings: Prepare
    direction: Direction
    spaced: tuple[bool, bool]
    locations: Locations
    say: Callable[[str], None]


def make(work: Preparation, folder: Path, plan: Plan, config: Mapping[str, object]) -> None:
    """Write all files to a new folder, and rename it to the stage's folder.

    Args:
        folder: folder of the stage.
        config: all settings of the pipeline, for the folder's `config.json`.
    """
    final = real_folder(folder)  # if it is a symbolic link, all files are written to the disk of its target
    partial = final.with_name(f"{final.name}{PARTIAL_SUFFIX}")
    if partial.exists():
        work.say(f"prepare: begins again; what a stopped run left in {partial} is removed")
        shutil.rmtree(partial)
    begin(partial, plan, config)
    facts = _fill(work, partial)
    outputs = [path for path in partial.rglob("*") if path.is_file() and path.name not in ("plan.json", "config.json")]
    finish(partial, plan, outputs=outputs, facts=facts)
    move_aside(final)
    partial.rename(final)


def _fill(work: Preparation, folder: Path) -> dict[str, object]:
    """Write all files of the stage; return the facts of its manifest."""
    settings, direction = work.settings, work.direction
    if settings.data_bin is not None:
        return take_data_bin(settings, direction, folder, work.say)
    workers = settings.workers or cores()
    unicode_form = None if settings.clean == "none" else settings.clean.unicode_form
    processor = TextProcessor(settings.text, *direction.sides, unicode_form)
    held_out = held_out_texts(settings)
    for split, corpus in held_out.items():
        _write_held_out(work, folder, split, corpus, processor)
    foreign_forms = _foreign_forms(work, folder, held_out, processor)
    forbidden = _forbidden(work, folder, held_out) if settings.decontaminate else None
    malformed: dict[str, Malformed] = {}
    report = _clean_training_text(work, folder, forbidden, malformed, workers)
    train_text = (folder / f"train.{direction.source}", folder / f"train.{direction.target}")
    pairs_of = {split: list(_held_out_pairs(work, folder, split)) for split in held_out}
    parts = {corpus.name: corpus.pairs_out for corpus in report.corpora}
    checks = {"held_out": check_held_out(pairs_of), "sides": check_sides(train_text, parts, pairs_of)}
    work.say(f"prepare: {report.pairs_in:,} pairs read, {report.pairs_out:,} for training; {_dropped(report.dropped)}")
    _warn(work, report)
    examples = report.dropped_examples()
    monolingual: dict[str, object] = {}
    if settings.monolingual:
        of_lines = _write_monolingual(work, folder, forbidden, malformed, workers)
        monolingual["monolingual"] = {
            "lines_in": of_lines.pairs_in,
            "lines_out": of_lines.pairs_out,
            "dropped": of_lines.dropped,
        }
        examples |= of_lines.dropped_examples()
    write_json(folder / REPORT_EXAMPLES, examples)
    samples = [spread_lines(path, SAMPLED_LINES) for path in train_text]
    _process_text(work, folder, processor, workers)
    write_json(folder / TEXT_FILE, processor.to_dict())
    tokenizers = _train_tokenizer(settings, train_text, folder, direction, report)
    round_trips = _round_trips(work, samples, processor, folder / "tokenizer")
    counts, specials = _binarize(work, folder, tokenizers, list(held_out), workers)
    checks |= {"malformed": check_malformed(malformed), "literal_specials": check_specials(specials)}
    findings = report_findings(checks, work.say)
    measured = {"held_out_characters": foreign_forms, "round_trip": round_trips}
    write_json(folder / REPORT, report.as_dict() | measured | findings)
    pairs = {"pairs_in": report.pairs_in, "pairs_out": report.pairs_out, "dropped": report.dropped}
    return pairs | monolingual | counts


def _clean_training_text(
    work: Preparation, folder: Path, forbidden: Forbidden | None, malformed: dict[str, Malformed], workers: int
) -> CleaningReport:
    """Write the clean training text.

    Args:
        forbidden: held-out sentences that must not be in it.
        malformed: mapping to which the malformed rows of each corpus are added.
    """
    settings, (src, tgt) = work.settings, work.direction.sides
    return clean_corpora(
        (_training_corpus(work, index, corpus, malformed) for index, corpus in enumerate(settings.train)),
        clean=settings.clean,
        forbidden=forbidden,
        out_source=folder / f"train.{src}",
        out_target=folder / f"train.{tgt}",
        out_tags=folder / "train.tags",
        workdir=folder / "cleaning",
        workers=workers,
        spaced=work.spaced,
        languages=work.direction.sides,
    )


def _process_text(work: Preparation, folder: Path, processor: TextProcessor, workers: int) -> None:
    """Apply text processing to training and monolingual text, unless it changes nothing or was applied before."""
    settings, (src, tgt) = work.settings, work.direction.sides
    if settings.text.changes_nothing or settings.text.already_applied:
        return
    _process_in_place(folder / f"train.{src}", processor.preprocess_source, workers)
    if settings.monolingual:
        _process_in_place(folder / f"monolingual.{src}", processor.preprocess_source, workers)
    _process_in_place(folder / f"train.{tgt}", processor.preprocess_target, workers)


def _foreign_forms(
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


def _round_trips(
    work: Preparation, samples: Sequence[list[str]], processor: TextProcessor, tokenizer: Path
) -> dict[str, object]:
    """Count the lines in a training sample of each side that are not restored after processing and its inverse."""
    counts: dict[str, object] = {}
    tokenizers = load_tokenizer(tokenizer)  # a copy: a model numbers its symbols as they occur
    models = (tokenizers.source, tokenizers.target)
    for lang, lines, model in zip(work.direction.sides, samples, models, strict=True):
        found = measure_round_trip(lines, processor=processor, lang=lang, model=model)
        counts[lang] = found.as_dict()
        if (warning := found.warning()) is not None:
            work.say(f"prepare: warning: {lang}: {warning}")
    return counts


def _dropped(dropped: dict[str, int]) -> str:
    found = [f"{rule} {count:,}" for rule, count in dropped.items() if count]
    return f"dropped: {', '.join(found)}" if found else "none dropped"


def _warn(work: Preparation, report: CleaningReport, *, unit: str = "pairs") -> None:
    for line in report.warnings(unit):
        work.say(f"prepare: {line}")


def _train_tokenizer(
    settings: Prepare,
    train_text: tuple[Path, Path],
    folder: Path,
    direction: Direction,
    report: CleaningReport,
) -> Tokenizers:
    """Learn the tokenizer; if cleaning has left too little text, raise an error that says so.

    Raises:
        UserError: if too little text is left; see also `train_tokenizer`.
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


def _training_corpus(work: Preparation, index: int, corpus: Corpus, malformed: dict[str, Malformed]) -> TrainingCorpus:
    paths, name = work.locations.fetch_corpus(corpus, work.say), f"train.{index} {sources_of(corpus)[0].name}"
    malformed[name] = Malformed()
    pairs = count_pairs(f"prepare: train.{index}", read_pairs(corpus, paths, malformed[name]))
    clean = work.settings.clean_of(corpus)
    own = None if clean == "none" else clean
    return TrainingCorpus(name, pairs, weight=corpus.weight, tag=corpus.tag, clean=own)


def _write_monolingual(
    work: Preparation, folder: Path, forbidden: Forbidden | None, malformed: dict[str, Malformed], workers: int
) -> CleaningReport:
    """Write clean text of the source language.

    The cleaning rules are those for pairs, with each line as its own translation.
    """
    settings, place = work.settings, folder / f"monolingual.{work.direction.source}"
    clean = settings.clean if settings.clean == "none" else settings.clean.for_lines()
    report = clean_corpora(
        (_monolingual_corpus(work, index, source, malformed) for index, source in enumerate(settings.monolingual)),
        clean=clean,
        forbidden=forbidden,
        out_source=place,
        out_target=folder / "monolingual.copy",
        out_tags=folder / "monolingual.tags",
        workdir=folder / "cleaning",
        workers=workers,
        spaced=work.spaced[:1] * 2,
        languages=(work.direction.source, work.direction.source),
    )
    (folder / "monolingual.copy").unlink()
    work.say(
        f"prepare: {report.pairs_in:,} monolingual lines read, {report.pairs_out:,} kept; {_dropped(report.dropped)}"
    )
    _warn(work, report, unit="lines")
    return report


def _monolingual_corpus(
    work: Preparation, index: int, source: Source, malformed: dict[str, Malformed]
) -> TrainingCorpus:
    path, name = work.locations.fetch(source, work.say), f"monolingual.{index} {source.name}"
    malformed[name] = Malformed()
    lines = ((line, line) for line in monolingual_lines(source, path, malformed[name]))
    return TrainingCorpus(name, count_pairs(f"prepare: monolingual.{index}", lines))


def _write_held_out(work: Preparation, folder: Path, split: str, text: HeldOut, processor: TextProcessor) -> None:
    """Write validation or test text unchanged (`raw`), and in the form that the tokenizer reads."""
    paths = work.locations.fetch_corpus(text, work.say)
    pairs = list(read_pairs(text, paths))
    if processor.text.already_applied:
        processes = [processor.tidy, processor.tidy]
    else:
        processes = [processor.preprocess_source, processor.preprocess_target]
    for lang, process, lines in zip(work.direction.sides, processes, zip(*pairs, strict=True), strict=True):
        write_lines(folder / f"{split}.raw.{lang}", lines)
        write_lines(folder / f"{split}.{lang}", (process(line) for line in lines))
    if text.raw_target is not None:
        path = work.locations.fetch(text.raw_target, work.say)
        lines = tuple(source_lines(text.raw_target, path))
        if len(lines) != len(pairs):
            raise UserError(f"{text.raw_target.name} has {len(lines)} lines, {split} has {len(pairs)}")
        write_lines(folder / f"{split}.raw.{work.direction.target}", lines)


def _forbidden(work: Preparation, folder: Path, held_out: dict[str, HeldOut]) -> Forbidden:
    return collect_forbidden((split, _held_out_pairs(work, folder, split)) for split in held_out)


def _held_out_pairs(work: Preparation, folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """Yield pairs in the form that training text has when it is compared with them.

    The comparison treats the entities of Moses as letters, so both must have them or neither.
    """
    form = "" if work.settings.text.already_applied else "raw."
    return zip(*(iterate_lines(folder / f"{split}.{form}{lang}") for lang in work.direction.sides), strict=True)


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
    work: Preparation, folder: Path, tokenizers: Tokenizers, held_out: list[str], workers: int
) -> tuple[dict[str, object], dict[str, dict[str, int]]]:
    """Write the data-bin; return facts, and counts for each language of words that are spelled like special symbols."""
    corpus = PreparedCorpus(folder, work.direction, work.spaced)
    src, tgt = work.direction.sides
    made = _binarize_training_text(work, corpus, tokenizers, workers)
    dictionaries = (made.source_dictionary, made.target_dictionary)
    for lang in (src, tgt):
        shutil.copy2(dictionary_path(corpus.data_bin, lang), folder)
    for split in held_out:
        binarize_files(
            corpus.data_bin,
            split,
            TextPair(corpus.text(split, src), corpus.text(split, tgt)),
            direction=work.direction,
            tokenizers=tokenizers,
            dictionaries=dictionaries,
            threads=workers,
        )
    if work.settings.monolingual:
        binarize_text(
            corpus.text("monolingual", src),
            corpus.prefix("monolingual", src),
            model=tokenizers.source,
            dictionary=made.source_dictionary,
            threads=workers,
        )
    counted = dict(zip((src, tgt), (made.source, made.target), strict=True))
    facts: dict[str, object] = {
        lang: {"symbols": len(dictionary), "tokens": counts.num_tokens, "unk": counts.num_unk}
        for (lang, counts), dictionary in zip(counted.items(), dictionaries, strict=True)
    }
    return facts, {lang: counts.literal_specials for lang, counts in counted.items()}


def _binarize_training_text(
    work: Preparation, corpus: PreparedCorpus, tokenizers: Tokenizers, workers: int
) -> BinarizedPair:
    """Binarise the training text with dictionaries that are given or learnt from it."""
    src, tgt = work.direction.sides
    text = TextPair(corpus.text("train", src), corpus.text("train", tgt), corpus.tags)
    vocabulary = work.settings.vocabulary
    if vocabulary.source_path is None:
        return build_data_bin(
            corpus.data_bin,
            text,
            direction=work.direction,
            tokenizers=tokenizers,
            vocabulary=vocabulary,
            threads=workers,
        )
    source = Dictionary.load(Path(vocabulary.source_path))
    target = source if vocabulary.target_path is None else Dictionary.load(Path(vocabulary.target_path))
    made = binarize_files(
        corpus.data_bin,
        "train",
        text,
        direction=work.direction,
        tokenizers=tokenizers,
        dictionaries=(source, target),
        threads=workers,
    )
    for lang, dictionary in ((src, source), (tgt, target)):
        dictionary.save(dictionary_path(corpus.data_bin, lang))
    return made
