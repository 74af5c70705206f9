"""The cleaning passes of the prepare stage over training and monolingual text, whole or in shards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypedDict

from kdmt.config import MONOLINGUAL_SIDES, Clean, Context, Corpus, Mixing, Source
from kdmt.corpus.chunk_shards import ChunkShards
from kdmt.corpus.clean import CleaningReport, clean_corpora, clean_shard
from kdmt.corpus.decontaminate import Forbidden
from kdmt.corpus.filters.table import FilterContext
from kdmt.corpus.first_pass import TrainingCorpus
from kdmt.corpus.given_text import sources_of
from kdmt.corpus.prepared import REPORT_EXAMPLES
from kdmt.corpus.process_pool import OpenMap
from kdmt.corpus.reading import Skipped, monolingual_lines, read_pairs
from kdmt.corpus.steps import Steps
from kdmt.corpus.text_files import Malformed
from kdmt.files import write_json
from kdmt.flow.progress import count_pairs
from kdmt.stages.cleaning import filter_context
from kdmt.stages.preparation import Preparation
from kdmt.stages.prepare_held_out import held_out_pairs
from kdmt.stages.prepare_partial import SHARDS, WORK, shards_of


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


def unfinished_passes(work: Preparation, place: Path) -> list[str]:
    """Return the steps of the cleaning pass that are not finished."""
    steps = Steps(place, place / WORK / "steps")
    return [name for name in ("train", *work.settings.monolingual_texts) if steps.values(name) is None]


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
    outputs = (*work.clean_training_paths(folder), folder / "train.tags")
    outputs[0].parent.mkdir(exist_ok=True)
    cleaning = _training_pass(work, forbidden, malformed)

    def clean(chunks: Path) -> CleaningReport:
        filters = filter_context(
            settings,
            spaced=work.spaced,
            valid=held_out_pairs(work, folder, "valid"),
            folder=folder,
            cache=work.filter_scores,
            open_map=work.open_map(),
            workers=work.num_processes,
            say=work.say,
            places=work.corpus_places(),
        )
        shards = shards_of(folder, "train")
        return cleaning.run(
            outputs, chunks, shards, filters=filters, mixing=settings.mixing, seed=settings.sampling_seed
        )

    return _clean_once(steps, "train", outputs, malformed, clean)


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
    place = work.clean_folder(folder) / f"monolingual.{lang}"
    cleaning = _monolingual_pass(work, name, forbidden, malformed)

    def clean(chunks: Path) -> CleaningReport:
        return cleaning.run((place, chunks / "copy", chunks / "tags"), chunks, shards_of(folder, name))

    report = _clean_once(steps, name, [place], malformed, clean)
    what = "monolingual lines" if name == "monolingual" else f"monolingual lines in {lang}"
    work.say(f"prepare: {report.pairs_in:,} {what} read, {report.pairs_out:,} kept; {_dropped(report.dropped)}")
    _warn(work, report, unit="lines")
    return report


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
        open_map=work.open_map(),
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
        open_map=work.open_map(),
        spaced=(work.spaced[side],) * 2,
        languages=(work.direction.sides[side],) * 2,
        context=None,
    )
    return _CleaningPass(corpora, arguments)


def _training_corpus(work: Preparation, index: int, corpus: Corpus, malformed: dict[str, Malformed]) -> TrainingCorpus:
    paths = work.locations.fetch_corpus(corpus)
    name = f"{work.path(f'prepare.train.{index}').removeprefix('prepare.')} {sources_of(corpus)[0].name}"
    skipped = Skipped()
    malformed[name] = skipped.malformed
    path = work.path(f"prepare.train.{index}")
    documents = work.locations.documents(corpus, work.settings.context)
    read = work.naming_text(path, read_pairs(corpus, paths, work.direction, skipped, documents=documents))
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


def _monolingual_corpus(
    work: Preparation, setting: str, source: Source, malformed: dict[str, Malformed]
) -> TrainingCorpus:
    """Return a text of the setting `monolingual.<index>` or `monolingual_target.<index>`."""
    setting = work.path(f"prepare.{setting}").removeprefix("prepare.")
    path, name = work.locations.fetch(source), f"{setting} {source.name}"
    malformed[name] = Malformed()
    read = work.naming_text(f"prepare.{setting}", monolingual_lines(source, path, malformed[name]))
    lines = ((line, line) for line in read)
    return TrainingCorpus(name, count_pairs(f"prepare: {setting}", lines))


def _say_cleaned(work: Preparation, report: CleaningReport) -> None:
    """Print what cleaning did to the training text."""
    work.say(f"prepare: {report.pairs_in:,} pairs read, {report.pairs_out:,} for training; {_dropped(report.dropped)}")
    for line in report.sampling(mixed=work.settings.mixing is not None):
        work.say(f"prepare: {line}")
    _warn(work, report)


def _dropped(dropped: dict[str, int]) -> str:
    found = [f"{rule} {count:,}" for rule, count in dropped.items() if count]
    return f"dropped: {', '.join(found)}" if found else "none dropped"


def _warn(work: Preparation, report: CleaningReport, *, unit: str = "pairs") -> None:
    for line in report.warnings(unit):
        work.say(f"prepare: {line}")
