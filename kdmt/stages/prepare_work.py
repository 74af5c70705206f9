"""The work of the prepare stage. `kdmt.stages.prepare` plans it and describes the folder."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, TypedDict, TypeVar

from kdmt.config import (
    MONOLINGUAL_SIDES,
    NO_LOCK_FILE,
    Clean,
    Context,
    Corpus,
    HeldOut,
    Mixing,
    ParallelText,
    Prepare,
    Provenance,
    Source,
    Tokenizer,
)
from kdmt.config.prepare import Decontaminate
from kdmt.corpus.binarize import (
    BinarizedPair,
    Tags,
    TextPair,
    binarize_files,
    binarize_text,
    build_data_bin,
    dictionary_path,
)
from kdmt.corpus.characters import find_foreign_forms
from kdmt.corpus.checks import Finding, check_held_out, check_malformed, check_sides, check_specials, report_findings
from kdmt.corpus.chunk_log import ChunkLog
from kdmt.corpus.chunk_shards import ChunkShards
from kdmt.corpus.clean import CleaningReport, clean_corpora, clean_shard
from kdmt.corpus.codec import TEXT_FILE, check_language_tokens
from kdmt.corpus.context import without_context
from kdmt.corpus.decontaminate import Forbidden, collect_forbidden
from kdmt.corpus.dropped import describe_dropped
from kdmt.corpus.fetch import Places, fetch, fetch_corpus
from kdmt.corpus.fetch_queue import describe_fetched, fetch_all
from kdmt.corpus.filters.table import FilterContext
from kdmt.corpus.first_pass import TrainingCorpus
from kdmt.corpus.given_text import held_out_texts, sources_by_path, sources_of
from kdmt.corpus.licences import describe_licences, licences_of
from kdmt.corpus.lines import iterate_lines, spread_lines, write_lines
from kdmt.corpus.ngram_overlap import Forms, NgramOverlaps, index_side
from kdmt.corpus.prepared import REPORT, REPORT_EXAMPLES, PreparedCorpus, reference_paths
from kdmt.corpus.process_pool import OpenMap, mapping_in_order
from kdmt.corpus.reading import Documents, Skipped, monolingual_lines, read_pairs, source_lines
from kdmt.corpus.round_trip import SAMPLED_LINES, measure_round_trip
from kdmt.corpus.rules.table import line_forms
from kdmt.corpus.steps import Steps
from kdmt.corpus.subword_model import SubwordModel
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.text_files import Malformed
from kdmt.corpus.tokenizer import (
    Tokenizers,
    TooLittleText,
    learnt_size,
    load_tokenizer,
    read_chunks,
    required_symbols,
    train_tokenizer,
)
from kdmt.corpus.vocabulary import Dictionary
from kdmt.corpus.vocabulary_size import explain_suggestion, is_far_off, suggest_size
from kdmt.errors import UserError, naming
from kdmt.files import write_json
from kdmt.flow.folders import move_aside, real_folder
from kdmt.flow.manifest import Plan, finish
from kdmt.flow.progress import count_pairs, download_progress
from kdmt.flow.stage import setting_up
from kdmt.languages import Direction, characters_per_word
from kdmt.outputs import open_lock, take
from kdmt.runtime import cores
from kdmt.stages.cleaning import filter_context
from kdmt.stages.prepare_data_bin import take_data_bin
from kdmt.stages.prepare_partial import (
    SHARDS,
    WORK,
    is_complete,
    open_partial,
    partial_of,
    require_num_shards,
    shards_of,
)
from kdmt.stages.prepare_report import Collected, write_report
from kdmt.workers.ray_map import mapping_on_ray

CHUNK_LINES = 20_000  # per task of text processing
_WARNING = "prepare: warning: "


@dataclass(frozen=True)
class Locations:
    """The locations from which files are read.

    Attributes:
        places: folder of files from the network, mirrors and alternatives.
    """

    places: Places

    def fetch_all(self, sources: Sequence[tuple[str, Source]], *, at_once: int, say: Callable[[str], None]) -> None:
        """Download the files of named sources that are not there yet."""
        if all(source.url is None for _, source in sources):
            return
        with download_progress(say) as progress:
            fetched = fetch_all(sources, self.places, at_once=at_once, progress=progress)
        say(f"prepare: {describe_fetched(fetched)}")

    def fetch(self, source: Source) -> Path:
        """Return the path of a local file with the content of a source."""
        return fetch(source, self.places).path

    def fetch_corpus(self, corpus: ParallelText) -> tuple[Path, ...]:
        """Return the paths of the local files of a parallel text, for `read_pairs`."""
        return fetch_corpus(corpus, self.places)

    def documents(self, corpus: ParallelText, context: Context | None) -> Documents | None:
        """Return the documents of a parallel text, for `read_pairs`; None if its sentences have no context."""
        if context is None:
            return None
        return Documents(context, None if corpus.documents is None else self.fetch(corpus.documents))


@dataclass(frozen=True)
class Preparation:
    """The values that the work on a corpus needs.

    Attributes:
        settings: section `prepare`.
        direction: direction of translation.
        spaced: flags for source and target, True if words are separated by spaces.
        locations: locations from which files are read.
        say: function that prints a line for the user.
        filter_scores: folder of scores of the filters, which later runs use again.
        provenance: what the lock file says about the corpora.
        paths: YAML path of a text in `settings` -> its YAML path in the pipeline, where they differ.
        prefixes: tag of a sentence -> tokens before its source, for tags that are not tokens themselves.
    """

    settings: Prepare
    direction: Direction
    spaced: tuple[bool, bool]
    locations: Locations
    say: Callable[[str], None]
    filter_scores: Path
    provenance: Provenance = NO_LOCK_FILE
    paths: Mapping[str, str] = field(default_factory=dict)
    prefixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def path(self, path: str) -> str:
        """Return the YAML path in the pipeline of a text of the settings."""
        return self.paths.get(path, path)

    def corpus_places(self) -> dict[int, int]:
        """Return the index of each corpus in the settings, by its index in `prepare.train` of the pipeline."""
        paths = (self.path(f"prepare.train.{place}") for place in range(len(self.settings.train)))
        return {int(path.rpartition(".")[2]): place for place, path in enumerate(paths)}


class Fill(Protocol):
    """A function that writes all files of the stage to a folder and returns the facts of its manifest; see `_fill`."""

    def __call__(
        self, work: Preparation, folder: Path, steps: Steps, title: str, hashes: Mapping[str, str]
    ) -> dict[str, object]: ...


def make(
    work: Preparation, folder: Path, plan: Plan, config: Mapping[str, object], *, fill: Fill | None = None
) -> None:
    """Write all files to a new folder, and rename it to the stage's folder.

    Args:
        folder: folder of the stage.
        config: all settings of the pipeline, for the folder's `config.json`.
        fill: function that writes the files (default: those of one direction).
    """
    place = partial_of(folder)
    if not is_complete(place, plan):
        _complete(work, place, plan, config, fill or _fill)
    move_aside(real_folder(folder))
    place.rename(real_folder(folder))


def _complete(work: Preparation, partial: Path, plan: Plan, config: Mapping[str, object], fill: Fill) -> None:
    """Write all files to the folder, except those that a stopped run has finished, and the manifest."""
    steps = open_partial(partial, plan, config, resume=work.settings.data_bin is None, say=work.say)
    title = f"Data report: {config['name']} ({work.direction})"
    facts = fill(work, partial, steps, title, plan.inputs)
    shutil.rmtree(partial / WORK)
    outputs = [path for path in partial.rglob("*") if path.is_file() and path.name not in ("plan.json", "config.json")]
    finish(partial, plan, outputs=outputs, facts=facts)


# -------------------------------------------------------------------------------------------------------------- shards


def begin_shards(work: Preparation, folder: Path, plan: Plan, config: Mapping[str, object]) -> None:
    """Open the folder for the shards of the cleaning pass.

    Args:
        folder: folder of the stage.
        config: all settings of the pipeline, for the folder's `config.json`.

    Raises:
        UserError: if the settings leave nothing to clean.
    """
    if work.settings.data_bin is not None:
        raise UserError("--shard has no effect with prepare.data_bin: its text is not cleaned")
    open_partial(partial_of(folder), plan, config, resume=True, say=work.say)


def make_shard(work: Preparation, folder: Path, plan: Plan, shard: int, num_shards: int) -> None:
    """Clean every `num_shards`-th chunk of training and monolingual text, beginning with chunk `shard`.

    Args:
        folder: folder of the stage.

    Raises:
        UserError: if the folder is divided into another number of shards, or another process makes this one.
    """
    clean = partial(_clean_shard, work, partial_of(folder))
    make_shard_of(work, folder, plan, shard, num_shards, places=[(work, partial_of(folder))], clean=clean)


def make_shard_of(
    work: Preparation,
    folder: Path,
    plan: Plan,
    shard: int,
    num_shards: int,
    *,
    places: Sequence[tuple[Preparation, Path]],
    clean: Callable[[Path, int], int],
) -> None:
    """Clean the chunks of a shard in all cleaning passes; see `make_shard`.

    Args:
        places: texts that are cleaned on their own, each with the folder in which it is.
        clean: function of a folder for held-out text and the shard, which returns the number of chunks.
    """
    place = partial_of(folder)
    if is_complete(place, plan) or not any(unfinished_passes(*each) for each in places):
        work.say("prepare: everything is cleaned; without --shard the same command completes the stage")
        return
    scratch = place / WORK / SHARDS / f"held-out-{shard}"
    with setting_up(folder):
        for _, own in places:
            (own / WORK).mkdir(parents=True, exist_ok=True)
            require_num_shards(own, num_shards)
        scratch.mkdir(parents=True, exist_ok=True)
    with open_lock(scratch) as lock:
        if not take(lock):
            raise UserError(f"--shard {shard}/{num_shards}: another process makes this shard")
        num_chunks = clean(scratch, shard)
        shutil.rmtree(scratch)
    work.say(
        f"prepare: the {num_chunks:,} chunks of shard {shard} of {num_shards} are there; "
        "without --shard the same command puts the shards together"
    )


def unfinished_passes(work: Preparation, place: Path) -> list[str]:
    """Return the steps of the cleaning pass that are not finished."""
    steps = Steps(place, place / WORK / "steps")
    return [name for name in ("train", *work.settings.monolingual_texts) if steps.values(name) is None]


def _clean_shard(work: Preparation, place: Path, scratch: Path, shard: int) -> int:
    """Clean the chunks of a shard, and return their number.

    Args:
        place: folder in which the stage is written.
        scratch: folder for the held-out text.
    """
    fetch_texts(work)
    forbidden = None
    if work.settings.decontaminate:
        processor = _text_processor(work)
        held_out = held_out_texts(work.settings)
        for split, corpus in held_out.items():
            write_held_out(work, scratch, split, corpus, processor)
        forbidden = _forbidden(work, scratch, held_out)
    return clean_passes(work, place, forbidden, shard)


def clean_passes(work: Preparation, place: Path, forbidden: Forbidden | None, shard: int) -> int:
    """Clean the chunks of a shard in all passes that are not finished, and return their number.

    Args:
        place: folder whose number of shards is recorded, and in which the chunks are written.
        forbidden: held-out sentences that must not be in the text.
    """
    num_chunks = 0
    for name in unfinished_passes(work, place):
        shards = shards_of(place, name)
        assert shards is not None
        if name == "train":
            cleaning = _training_pass(work, forbidden, {})
        else:
            cleaning = _monolingual_pass(work, name, forbidden, {})
        num_chunks += cleaning.run_shard(shards, shard)
    return num_chunks


# -------------------------------------------------------------------------------------------------------- whole stage


def _fill(work: Preparation, folder: Path, steps: Steps, title: str, hashes: Mapping[str, str]) -> dict[str, object]:
    """Write all files of the stage; return the facts of its manifest.

    Args:
        steps: finished steps of a stopped run, which are not repeated.
        title: title of the data report.
        hashes: name of each input -> its SHA-256.
    """
    warnings: list[str] = []
    work = replace(work, say=recording(warnings, work.say))
    settings = work.settings
    if settings.data_bin is not None:
        return take_data_bin(settings, work.direction, folder, work.say)
    processor = _text_processor(work)
    held_out = held_out_texts(settings)
    fetch_texts(work)
    for split, corpus in held_out.items():
        write_held_out(work, folder, split, corpus, processor)
    measured: dict[str, object] = {"held_out_characters": count_foreign_forms(work, folder, held_out, processor)}
    forbidden = _forbidden(work, folder, held_out) if settings.decontaminate else None
    cleaned = clean_all_text(work, folder, steps, forbidden)
    process_text(work, folder, steps, processor)
    write_json(folder / TEXT_FILE, processor.to_dict())
    tokenizer = make_tokenizer(work, folder, steps, cleaned.training)
    measured["round_trip"] = count_round_trips(work, folder, processor)
    counts, specials = binarize(work, folder, list(held_out))
    checks = check_texts(work, folder, held_out, cleaned) | {"literal_specials": check_specials(specials)}
    findings = report_findings(checks, work.say)
    write_json(folder / REPORT, cleaned.training.as_dict() | measured | findings | describe_all_licences(work))
    collected = Collected(
        title, hashes, cleaned.training, cleaned.monolingual, findings["held_out"], warnings, work.provenance
    )
    write_report(PreparedCorpus(folder, work.direction, work.spaced), settings, collected)
    size = {"vocab_size": tokenizer.vocab_size} if settings.tokenizer.vocab_size == "auto" else {}
    return cleaned.facts() | counts | size


def _text_processor(work: Preparation) -> TextProcessor:
    settings = work.settings
    unicode_form = None if settings.clean == "none" else settings.clean.unicode_form
    return TextProcessor(settings.text, *work.direction.sides, unicode_form, context=settings.context)


@dataclass(frozen=True)
class Cleaned:
    """The results of cleaning.

    Attributes:
        training: report on the training text.
        monolingual: reports on the monolingual text by its setting.
        malformed: malformed rows of each corpus.
    """

    training: CleaningReport
    monolingual: Mapping[str, CleaningReport]
    malformed: Mapping[str, Malformed]

    def facts(self) -> dict[str, object]:
        """Return the numbers of pairs and lines for the manifest."""
        report = self.training
        facts: dict[str, object] = {
            "pairs_in": report.pairs_in,
            "pairs_out": report.pairs_out,
            "dropped": report.dropped,
        }
        for name, lines in self.monolingual.items():
            facts[name] = {"lines_in": lines.pairs_in, "lines_out": lines.pairs_out, "dropped": lines.dropped}
        return facts


def clean_all_text(work: Preparation, folder: Path, steps: Steps, forbidden: Forbidden | None) -> Cleaned:
    """Write clean training and monolingual text, and examples of what was dropped.

    Args:
        forbidden: held-out sentences that must not be in it.
    """
    malformed: dict[str, Malformed] = {}
    training = _clean_training_text(work, folder, steps, forbidden, malformed)
    _say_cleaned(work, training)
    examples = training.dropped_examples()
    monolingual = {}
    for name in work.settings.monolingual_texts:
        monolingual[name] = _write_monolingual(work, name, folder, steps, forbidden, malformed)
        examples |= monolingual[name].dropped_examples()
    write_json(folder / REPORT_EXAMPLES, examples)
    return Cleaned(training, monolingual, malformed)


def check_texts(work: Preparation, folder: Path, held_out: Iterable[str], cleaned: Cleaned) -> dict[str, Finding]:
    """Return the checks of held-out, clean and malformed text."""
    pairs_of = {split: list(held_out_pairs(work, folder, split)) for split in held_out}
    parts = {corpus.name: corpus.pairs_out for corpus in cleaned.training.corpora}
    return {
        "held_out": check_held_out(pairs_of),
        "sides": check_sides(_clean_training_paths(work, folder), parts, pairs_of, context=work.settings.context),
        "malformed": check_malformed(cleaned.malformed),
    }


def _say_cleaned(work: Preparation, report: CleaningReport) -> None:
    """Print what cleaning did to the training text."""
    work.say(f"prepare: {report.pairs_in:,} pairs read, {report.pairs_out:,} for training; {_dropped(report.dropped)}")
    for line in report.sampling(mixed=work.settings.mixing is not None):
        work.say(f"prepare: {line}")
    _warn(work, report)


def recording(warnings: list[str], say: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that prints a line for the user and appends it to `warnings` if it is a warning."""

    def say_and_record(line: str) -> None:
        if line.startswith(_WARNING):
            warnings.append(line.removeprefix(_WARNING))
        say(line)

    return say_and_record


def fetch_texts(work: Preparation) -> None:
    """Download the files of all texts.

    Raises:
        UserError: if a download fails; if its file is not the one in the lock file, the message names the data set.
    """
    settings, describe = work.settings, work.provenance.describe
    sources = [(describe(path), source) for path, source in sources_by_path(settings)]
    try:
        work.locations.fetch_all(sources, at_once=settings.downloads, say=work.say)
    except UserError as error:
        raise UserError(work.provenance.explain(str(error))) from None


def describe_all_licences(work: Preparation) -> dict[str, object]:
    """Print the licences of the corpora; return them for `report.json`. Without a lock file, there are none."""
    if not work.provenance.checksums:
        return {}
    licences = licences_of(work.settings, work.provenance)
    for line in describe_licences(licences):
        work.say(f"prepare: {line}")
    without = licences.pop(None, [])
    return {"licences": {"known": licences, "unknown": without}}


def _open_map(work: Preparation) -> OpenMap:
    """Return where chunks of text are cleaned and processed."""
    settings = work.settings
    if settings.executor == "ray":
        return partial(mapping_on_ray, workers=settings.workers)
    return partial(mapping_in_order, workers=_num_processes(settings))


def _num_processes(settings: Prepare) -> int:
    """Return the number of processes of this machine that clean text."""
    return 1 if settings.executor == "inline" else settings.workers or cores()


def _clean_folder(work: Preparation, folder: Path) -> Path:
    """Return the folder of clean text before text processing, if that changes it; otherwise that of the stage."""
    return folder / WORK / "clean" if _processes_text(work) else folder


def _clean_training_paths(work: Preparation, folder: Path) -> tuple[Path, Path]:
    """Return the files of clean training text before text processing, source and target."""
    place = _clean_folder(work, folder)
    return place / f"train.{work.direction.source}", place / f"train.{work.direction.target}"


def _processes_text(work: Preparation) -> bool:
    return not (work.settings.text.changes_nothing or work.settings.text.already_applied)


def _clean_once(
    steps: Steps,
    name: str,
    files: Sequence[Path],
    malformed: dict[str, Malformed],
    clean: Callable[[Path], CleaningReport],
) -> CleaningReport:
    """Clean corpora unless a stopped run has finished that; return the report of the cleaning pass.

    Args:
        name: name of the step, and of its folder for chunks.
        files: files that it writes.
        malformed: mapping to which the malformed rows of each corpus are added.
        clean: function that cleans the corpora, given the folder for chunks.
    """
    chunks = steps.folder / WORK / name
    done = steps.values(name)
    if done is None:
        before = set(malformed)
        report = clean(chunks)
        rows = {corpus: asdict(found) for corpus, found in malformed.items() if corpus not in before}
        steps.finish(name, {"report": report.as_record(), "malformed": rows}, files)
    else:
        report = CleaningReport.from_record(done["report"])
        malformed |= {corpus: Malformed(**values) for corpus, values in done["malformed"].items()}
    shutil.rmtree(chunks, ignore_errors=True)
    shutil.rmtree(steps.folder / WORK / SHARDS / name, ignore_errors=True)
    return report


class _CleaningArguments(TypedDict):
    """Arguments that `clean_corpora` and `clean_shard` share."""

    clean: Clean | Literal["none"]
    forbidden: Forbidden | None
    open_map: OpenMap
    spaced: tuple[bool, bool]
    languages: tuple[str, str]
    context: Context | None


@dataclass(frozen=True)
class _CleaningPass:
    """A cleaning pass, of a whole run and of shards."""

    corpora: Iterable[TrainingCorpus]
    arguments: _CleaningArguments

    def run(
        self,
        outputs: tuple[Path, Path, Path],
        chunks: Path,
        shards: ChunkShards | None,
        *,
        filters: FilterContext | None = None,
        mixing: Mixing | None = None,
        seed: int = 1,
    ) -> CleaningReport:
        """Clean the corpora.

        Args:
            outputs: files of the source, the target and the tags.
            chunks: folder for chunks.
            shards: shards of the pass; None if there are none.
            filters, mixing, seed: as for `clean_corpora`.
        """
        source, target, tags = outputs
        return clean_corpora(
            self.corpora,
            **self.arguments,
            out_source=source,
            out_target=target,
            out_tags=tags,
            workdir=chunks,
            resume=True,
            filters=filters,
            mixing=mixing,
            seed=seed,
            shards=shards,
        )

    def run_shard(self, shards: ChunkShards, shard: int) -> int:
        """Clean the chunks of one shard, and return their number."""
        return clean_shard(self.corpora, shards, shard, **self.arguments)


def _training_pass(work: Preparation, forbidden: Forbidden | None, malformed: dict[str, Malformed]) -> _CleaningPass:
    settings = work.settings
    corpora = (_training_corpus(work, index, corpus, malformed) for index, corpus in enumerate(settings.train))
    arguments = _CleaningArguments(
        clean=settings.clean,
        forbidden=forbidden,
        open_map=_open_map(work),
        spaced=work.spaced,
        languages=work.direction.sides,
        context=settings.context,
    )
    return _CleaningPass(corpora, arguments)


def _monolingual_pass(
    work: Preparation, name: str, forbidden: Forbidden | None, malformed: dict[str, Malformed]
) -> _CleaningPass:
    """Return the pass over the monolingual text of a setting, with each line as its own translation."""
    settings, side = work.settings, MONOLINGUAL_SIDES[name]
    texts = enumerate(settings.monolingual_texts[name])
    corpora = (_monolingual_corpus(work, f"{name}.{index}", source, malformed) for index, source in texts)
    arguments = _CleaningArguments(
        clean=settings.clean if settings.clean == "none" else settings.clean.for_lines(side),
        forbidden=None if forbidden is None else forbidden.of_copies(side),
        open_map=_open_map(work),
        spaced=(work.spaced[side],) * 2,
        languages=(work.direction.sides[side],) * 2,
        context=None,
    )
    return _CleaningPass(corpora, arguments)


def _clean_training_text(
    work: Preparation,
    folder: Path,
    steps: Steps,
    forbidden: Forbidden | None,
    malformed: dict[str, Malformed],
) -> CleaningReport:
    """Write the clean training text.

    Args:
        steps: finished steps of a stopped run.
        forbidden: held-out sentences that must not be in it.
        malformed: mapping to which the malformed rows of each corpus are added.
    """
    settings = work.settings
    outputs = (*_clean_training_paths(work, folder), folder / "train.tags")
    outputs[0].parent.mkdir(exist_ok=True)
    cleaning = _training_pass(work, forbidden, malformed)

    def clean(chunks: Path) -> CleaningReport:
        filters = filter_context(
            settings,
            spaced=work.spaced,
            valid=held_out_pairs(work, folder, "valid"),
            folder=folder,
            cache=work.filter_scores,
            open_map=_open_map(work),
            workers=_num_processes(settings),
            say=work.say,
            places=work.corpus_places(),
        )
        shards = shards_of(folder, "train")
        return cleaning.run(
            outputs, chunks, shards, filters=filters, mixing=settings.mixing, seed=settings.sampling_seed
        )

    return _clean_once(steps, "train", outputs, malformed, clean)


def process_text(work: Preparation, folder: Path, steps: Steps, processor: TextProcessor) -> None:
    """Apply text processing to training and monolingual text, unless it changes nothing or was applied before."""
    if not _processes_text(work):
        return
    src, tgt = work.direction.sides
    texts = {f"train.{src}": processor.preprocess_source}
    processes = (processor.preprocess_source, processor.preprocess_target)
    for name in work.settings.monolingual_texts:
        side = MONOLINGUAL_SIDES[name]
        texts[f"monolingual.{work.direction.sides[side]}"] = processes[side]
    texts[f"train.{tgt}"] = processor.preprocess_target
    chunks = folder / WORK / "text"
    chunks.mkdir(exist_ok=True)
    for name, process in texts.items():
        if steps.values(f"text.{name}") is None:
            _process_file(_clean_folder(work, folder) / name, folder / name, process, chunks, _open_map(work))
            steps.finish(f"text.{name}", {}, [folder / name])


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


def count_round_trips(
    work: Preparation, folder: Path, processor: TextProcessor, tokenizer: Path | None = None
) -> dict[str, object]:
    """Count the lines in a training sample of each side that are not restored after processing and its inverse.

    Args:
        tokenizer: folder of the tokenizer (default: that in `folder`).
    """
    counts: dict[str, object] = {}
    samples = [spread_lines(path, SAMPLED_LINES) for path in _clean_training_paths(work, folder)]
    samples[0] = [without_context(line, work.settings.context) for line in samples[0]]
    # a copy: a model numbers its symbols as they occur
    tokenizers = load_tokenizer(tokenizer or folder / "tokenizer")
    models = (tokenizers.source, tokenizers.target)
    for lang, lines, model in zip(work.direction.sides, samples, models, strict=True):
        found = measure_round_trip(
            lines,
            processor=processor,
            lang=lang,
            model=model,
            normalization_rule=work.settings.tokenizer.normalization_rule,
        )
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


def _with_vocabulary_size(work: Preparation, report: CleaningReport) -> Tokenizer:
    """Return the settings of the tokenizer with a number in place of `vocab_size: auto`.

    The size depends on the number of training pairs alone, without copies by `weight` or `mixing`. Where the text
    allows fewer pieces, a model of SentencePiece gets as many as possible.
    """
    settings = _with_separator(work.settings.tokenizer, work.settings.context)
    if not settings.is_learnt:
        return settings
    num_pairs = report.pairs_without_copies  # copies have no further words
    if settings.vocab_size == "auto":
        return settings.model_copy(update={"vocab_size": suggest_size(num_pairs), "hard_vocab_limit": False})
    if is_far_off(settings.vocab_size, num_pairs):
        explained = explain_suggestion(num_pairs)
        work.say(f"prepare: tokenizer.vocab_size is {settings.vocab_size:,}; {explained} ('auto' chooses this size)")
    return settings


def _with_separator(settings: Tokenizer, context: Context | None) -> Tokenizer:
    """Return the settings of the tokenizer with the separator of contexts as a piece, if it is learnt."""
    if context is None or not settings.is_learnt or context.separator in settings.user_defined_symbols:
        return settings
    return settings.model_copy(update={"user_defined_symbols": [*settings.user_defined_symbols, context.separator]})


def _check_separator(model: SubwordModel, context: Context) -> None:
    """Check that a tokenizer cuts the separator of contexts from the text as one token.

    Raises:
        UserError: if a given tokenizer does not.
    """
    (tokens,) = model.encode_lines([f"a {context.separator} a"])
    if context.separator not in tokens.split():
        raise UserError(
            f"prepare.context.separator: the given tokenizer has no piece {context.separator!r}: choose one of its "
            "user-defined symbols, or let a tokenizer be learnt"
        )


def _say_vocabulary_size(work: Preparation, settings: Tokenizer, learnt: Tokenizers, report: CleaningReport) -> None:
    """Print the size of the vocabulary that `vocab_size: auto` has led to, which may be smaller than the suggested one.

    Args:
        settings: settings with the suggested size.
    """
    if work.settings.tokenizer.vocab_size != "auto":
        return
    assert settings.vocab_size != "auto", "the size is chosen by the number of pairs"
    sizes = dict.fromkeys(learnt_size(model) for model in (learnt.source, learnt.target))
    allowed = ", as many as the text allows" if min(sizes) < settings.vocab_size else ""
    work.say(
        f"prepare: tokenizer.vocab_size: auto is {' and '.join(f'{size:,}' for size in sizes)}{allowed}: "
        f"{explain_suggestion(report.pairs_without_copies)}"
    )


def make_tokenizer(
    work: Preparation, folder: Path, steps: Steps, report: CleaningReport, texts: tuple[Path, Path] | None = None
) -> Tokenizer:
    """Learn the tokenizer unless a stopped run has finished that; return its settings, with a number for `vocab_size`.

    If cleaning has left too little text, an error says so.

    Args:
        texts: text of both sides that it is learnt from (default: the training text).

    Raises:
        UserError: if too little text is left; see also `train_tokenizer`.
    """
    settings = _with_vocabulary_size(work, report)
    if steps.values("tokenizer") is None:
        src, tgt = work.direction.sides
        texts = texts or (folder / f"train.{src}", folder / f"train.{tgt}")
        try:
            train_tokenizer(settings, texts, folder / "tokenizer", work.direction)
        except TooLittleText as error:
            if not report.loses_much:
                raise
            raise UserError(
                f"cleaning leaves {report.pairs_out:,} of {report.pairs_in:,} training pairs, too few to learn the "
                f"tokenizer from; dropped: {describe_dropped(report.pairs_in, report.dropped)}{report.example()}"
            ) from error
        steps.finish("tokenizer", {}, [folder / "tokenizer"])
    if work.settings.context is not None:
        _check_separator(load_tokenizer(folder / "tokenizer").source, work.settings.context)
    _say_vocabulary_size(work, settings, load_tokenizer(folder / "tokenizer"), report)
    return settings


_Read = TypeVar("_Read")


def _naming_text(work: Preparation, path: str, read: Iterator[_Read]) -> Iterator[_Read]:
    """Yield what is read, and put the YAML path of the text and the name of its data set before an error's message."""
    with naming(work.provenance.describe(path)):
        yield from read


def _training_corpus(work: Preparation, index: int, corpus: Corpus, malformed: dict[str, Malformed]) -> TrainingCorpus:
    paths = work.locations.fetch_corpus(corpus)
    name = f"{work.path(f'prepare.train.{index}').removeprefix('prepare.')} {sources_of(corpus)[0].name}"
    skipped = Skipped()
    malformed[name] = skipped.malformed
    path = work.path(f"prepare.train.{index}")
    documents = work.locations.documents(corpus, work.settings.context)
    read = _naming_text(work, path, read_pairs(corpus, paths, work.direction, skipped, documents=documents))
    pairs = count_pairs(f"prepare: {path.removeprefix('prepare.')}", read)
    clean = work.settings.clean_of(corpus)
    return TrainingCorpus(
        name,
        pairs,
        weight=corpus.weight,
        tag=corpus.tag,
        share=corpus.share,
        max_pairs=corpus.max_pairs,
        clean=None if clean == "none" else clean,
        left_out=skipped.left_out,
    )


def _write_monolingual(
    work: Preparation,
    name: str,
    folder: Path,
    steps: Steps,
    forbidden: Forbidden | None,
    malformed: dict[str, Malformed],
) -> CleaningReport:
    """Write the clean monolingual text of a setting."""
    lang = work.direction.sides[MONOLINGUAL_SIDES[name]]
    place = _clean_folder(work, folder) / f"monolingual.{lang}"
    cleaning = _monolingual_pass(work, name, forbidden, malformed)

    def clean(chunks: Path) -> CleaningReport:
        return cleaning.run((place, chunks / "copy", chunks / "tags"), chunks, shards_of(folder, name))

    report = _clean_once(steps, name, [place], malformed, clean)
    what = "monolingual lines" if name == "monolingual" else f"monolingual lines in {lang}"
    work.say(f"prepare: {report.pairs_in:,} {what} read, {report.pairs_out:,} kept; {_dropped(report.dropped)}")
    _warn(work, report, unit="lines")
    return report


def _monolingual_corpus(
    work: Preparation, setting: str, source: Source, malformed: dict[str, Malformed]
) -> TrainingCorpus:
    """Return a text of the setting `monolingual.<index>` or `monolingual_target.<index>`."""
    setting = work.path(f"prepare.{setting}").removeprefix("prepare.")
    path, name = work.locations.fetch(source), f"{setting} {source.name}"
    malformed[name] = Malformed()
    read = _naming_text(work, f"prepare.{setting}", monolingual_lines(source, path, malformed[name]))
    lines = ((line, line) for line in read)
    return TrainingCorpus(name, count_pairs(f"prepare: {setting}", lines))


def write_held_out(work: Preparation, folder: Path, split: str, text: HeldOut, processor: TextProcessor) -> None:
    """Write validation or test text unchanged (`raw`), and in the form that the tokenizer reads."""
    paths = work.locations.fetch_corpus(text)
    setting = work.path("prepare.valid" if text is work.settings.valid else f"prepare.test.{split}")
    documents = work.locations.documents(text, work.settings.context)
    pairs = list(_naming_text(work, setting, read_pairs(text, paths, work.direction, documents=documents)))
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
    lines = tuple(_naming_text(work, setting, source_lines(source, work.locations.fetch(source))))
    if work.settings.context is not None and len(lines) != num_pairs:  # between documents
        lines = tuple(line for line in lines if line.split())
    if len(lines) != num_pairs:
        raise UserError(f"{source.name} has {len(lines)} lines, {split} has {num_pairs}")
    write_lines(path, lines)


def _forbidden(work: Preparation, folder: Path, held_out: dict[str, HeldOut]) -> Forbidden:
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


def _with_references(work: Preparation, folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a held-out set, then its sources with each further reference."""
    pairs = list(held_out_pairs(work, folder, split))
    yield from pairs
    for reference in further_references(work, folder, split):
        yield from zip((source for source, _ in pairs), reference, strict=True)


def further_references(work: Preparation, folder: Path, split: str) -> Iterator[list[str]]:
    """Yield the further references of a held-out set in the form of `held_out_pairs`."""
    text = work.settings.text
    process = TextProcessor(text, *work.direction.sides).preprocess_target if text.already_applied else str
    for path in reference_paths(folder, split, work.direction.target):
        yield [process(line) for line in iterate_lines(path)]


def held_out_pairs(work: Preparation, folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """Yield pairs in the form that training text has when it is compared with them.

    The comparison treats the entities of Moses as letters, so both must have them or neither.
    """
    form = "" if work.settings.text.already_applied else "raw."
    sources, targets = (iterate_lines(folder / f"{split}.{form}{lang}") for lang in work.direction.sides)
    return zip((without_context(line, work.settings.context) for line in sources), targets, strict=True)


def _process_file(clean: Path, out: Path, process: Callable[[str], str], folder: Path, open_map: OpenMap) -> None:
    """Apply text processing line by line, in bounded memory.

    Args:
        folder: folder of finished chunks, from which an interrupted call goes on.
    """
    aside = folder / out.name
    with (
        ChunkLog(folder / f"{out.name}.log", [aside]) as log,
        open_map(partial(_process_lines, process)) as map_in_order,
    ):
        num_done = sum(1 for _ in log.finished())
        for lines in map_in_order(itertools.islice(read_chunks(clean, CHUNK_LINES), num_done, None)):
            log.add(None, [lines.encode()])
    aside.replace(out)


def _process_lines(process: Callable[[str], str], lines: list[str]) -> str:
    return "".join(f"{process(line)}\n" for line in lines)


def binarize(
    work: Preparation, folder: Path, held_out: list[str]
) -> tuple[dict[str, object], dict[str, dict[str, int]]]:
    """Write the data-bin; return facts, and counts for each language of words that are spelled like special symbols."""
    tokenizers, workers = load_tokenizer(folder / "tokenizer"), work.settings.workers or cores()
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
            _text_pair(work, corpus, split),
            direction=work.direction,
            tokenizers=tokenizers,
            dictionaries=dictionaries,
            threads=workers,
        )
    for name in work.settings.monolingual_texts:
        side = MONOLINGUAL_SIDES[name]
        lang = work.direction.sides[side]
        tags = None if side else corpus.monolingual_tags  # the targets of a data-bin have no tokens for languages
        binarize_text(
            corpus.text("monolingual", lang),
            corpus.prefix("monolingual", lang),
            model=(tokenizers.source, tokenizers.target)[side],
            dictionary=dictionaries[side],
            threads=workers,
            tags=None if tags is None else Tags(tags, work.prefixes),
        )
    counted = dict(zip((src, tgt), (made.source, made.target), strict=True))
    facts: dict[str, object] = {
        lang: {"symbols": len(dictionary), "tokens": counts.num_tokens, "unk": counts.num_unk}
        for (lang, counts), dictionary in zip(counted.items(), dictionaries, strict=True)
    }
    return facts, {lang: counts.literal_specials for lang, counts in counted.items()}


def _text_pair(work: Preparation, corpus: PreparedCorpus, split: str) -> TextPair:
    """Return the text of a split, with its tags if it has any."""
    source, target = (corpus.text(split, lang) for lang in work.direction.sides)
    tags = corpus.folder / f"{split}.tags"
    return TextPair(source, target, tags if tags.exists() else None, work.prefixes)


def _binarize_training_text(
    work: Preparation, corpus: PreparedCorpus, tokenizers: Tokenizers, workers: int
) -> BinarizedPair:
    """Binarise the training text with dictionaries that are given or learnt from it."""
    src, tgt = work.direction.sides
    text = _text_pair(work, corpus, "train")
    vocabulary = work.settings.vocabulary
    of_languages = list(dict.fromkeys(token for tokens in work.prefixes.values() for token in tokens))
    if vocabulary.source_path is None:
        tokenizer = _with_separator(work.settings.tokenizer, work.settings.context)
        source_symbols, target_symbols = required_symbols(tokenizer, tokenizers)
        if work.settings.context is not None and work.settings.context.separator not in source_symbols:
            source_symbols = [*source_symbols, work.settings.context.separator]
        return build_data_bin(
            corpus.data_bin,
            text,
            direction=work.direction,
            tokenizers=tokenizers,
            vocabulary=vocabulary,
            required=(source_symbols + of_languages, target_symbols),
            threads=workers,
        )
    source = Dictionary.load(Path(vocabulary.source_path))
    check_language_tokens(source, of_languages, f"prepare.vocabulary.source_path: {vocabulary.source_path}")
    if work.settings.context is not None and work.settings.context.separator not in source:
        raise UserError(
            f"prepare.vocabulary.source_path: {vocabulary.source_path} does not have the separator of contexts "
            f"{work.settings.context.separator!r}"
        )
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
