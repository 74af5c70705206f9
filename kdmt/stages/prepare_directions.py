"""The work of the prepare stage for several directions: each is cleaned on its own, and all become one parallel corpus.

    prepare/
        train.src, train.tgt, train.tags            all training pairs, one direction after the other, in the form that
                                                    the tokenizer reads; the tag of a pair is its direction
        monolingual.src, monolingual.tags           text without translations, and the direction of each line
        monolingual.tgt, monolingual_target.tags    text in target languages alone, and the direction of each line
        valid.*, valid.raw.*                        the validation pairs of the directions in turn
        <test set>.<direction>.*                    a test set in one direction
        tokenizer/, text.json, dict.{src,tgt}.txt, data-bin/, report.json, report.html, report-examples.json
                                                    as for one direction

In the data-bin, the tokens for the direction (`kdmt.config.directions.language_prefix`) are before the source.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdmt.choices import LanguageTokens
from kdmt.config import MONOLINGUAL_SIDES, HeldOut
from kdmt.config.directions import DirectionPart, language_prefix, split_of
from kdmt.corpus import prepared
from kdmt.corpus.checks import Finding, check_specials, report_findings
from kdmt.corpus.clean import CleaningReport
from kdmt.corpus.codec import TEXT_FILE
from kdmt.corpus.decontaminate import Forbidden, collect_forbidden
from kdmt.corpus.given_text import held_out_texts
from kdmt.corpus.lines import iterate_lines, write_lines
from kdmt.corpus.prepared import (
    REPORT,
    REPORT_EXAMPLES,
    TAGS_OF_MONOLINGUAL,
    PreparedCorpus,
    reference_paths,
    training_chunks,
)
from kdmt.corpus.sentence_lengths import typical_ratio
from kdmt.corpus.steps import Steps
from kdmt.corpus.temperature import temperature_counts
from kdmt.corpus.text import TextProcessor
from kdmt.errors import UserError
from kdmt.files import write_json
from kdmt.flow.manifest import Plan
from kdmt.languages import POOLED, Direction, same_language
from kdmt.stages.preparation import Preparation
from kdmt.stages.prepare_cleaning import Cleaned, clean_all_text, clean_passes
from kdmt.stages.prepare_directions_report import CollectedDirection, write_directions_report
from kdmt.stages.prepare_held_out import (
    count_foreign_forms,
    further_references,
    held_out_forms,
    held_out_pairs,
    index_overlaps,
    write_held_out,
)
from kdmt.stages.prepare_partial import WORK, partial_of
from kdmt.stages.prepare_report import Collected
from kdmt.stages.prepare_text import count_round_trips, process_text
from kdmt.stages.prepare_tokenizer import binarize, make_tokenizer
from kdmt.stages.prepare_work import check_texts, describe_all_licences, fetch_texts, make_shard_of, recording

_DIRECTIONS = "directions"  # folder of the text of each direction, while the stage is made


@dataclass(frozen=True)
class _Part:
    """One direction and its folder.

    Attributes:
        work: values for the work on this direction alone.
        folder: folder of its text.
        is_trained: whether it has training and validation text.
        processor: text processing.
    """

    work: Preparation
    folder: Path
    is_trained: bool
    processor: TextProcessor

    @property
    def direction(self) -> Direction:
        return self.work.direction

    @property
    def held_out(self) -> dict[str, HeldOut]:
        """Return the validation and test texts by the name of their split."""
        return held_out_texts(self.work.settings)

    def path(self, split: str, lang: str, form: str = "") -> Path:
        """Return the file of a split in one language; `form` is `raw.` for text before processing."""
        return self.folder / f"{split}.{form}{lang}"


@dataclass(frozen=True)
class DirectionsFill:
    """The function that writes all files of the stage for several directions (`kdmt.stages.prepare_work.Fill`).

    Attributes:
        parts: settings of each direction, those that are not trained last.
        language_tokens: tokens by which a model knows the direction.
    """

    parts: Sequence[DirectionPart]
    language_tokens: LanguageTokens

    def __call__(
        self, work: Preparation, folder: Path, steps: Steps, title: str, hashes: Mapping[str, str]
    ) -> dict[str, object]:
        """Write all files of the stage; return the facts of its manifest."""
        warnings: list[str] = []
        work = replace(work, say=recording(warnings, work.say))
        fetch_texts(work)
        parts = [self._part(work, folder, each) for each in self.parts]
        for part in parts:
            _open_part(part)
        trained = [part for part in parts if part.is_trained]
        cleaned = [_clean_part(part, parts) for part in trained]
        _pool_training_text(folder, trained)
        _pool_monolingual_text(folder, trained)
        _pool_held_out(folder, parts)
        pooled = self._pooled(work)
        write_json(folder / TEXT_FILE, self._text_processor(work).to_dict())
        report = _joined_report(folder, trained, cleaned)
        texts = _text_of_tokenizer(work, folder, trained)
        tokenizer = make_tokenizer(pooled, folder, steps, report, texts)
        splits = ["valid", *(split_of(test, part.direction) for part in parts for test in part.work.settings.test)]
        counts, specials = binarize(pooled, folder, splits)
        findings = _write_reports(work, folder, parts, cleaned, report, check_specials(specials))
        title = f"{title.removesuffix(f' ({work.direction})')} ({len(parts)} directions)"
        collected = Collected(title, hashes, report, {}, findings["held_out"], warnings, work.provenance)
        counted = [_collected(part, each) for part, each in itertools.zip_longest(parts, cleaned)]
        corpus = PreparedCorpus(folder, POOLED, (False, False))
        write_directions_report(corpus, work.settings, collected, splits, counted)
        size = {"vocab_size": tokenizer.vocab_size} if work.settings.tokenizer.vocab_size == "auto" else {}
        pairs = {str(part.direction): each.facts() for part, each in zip(trained, cleaned, strict=True)}
        sums = {"pairs_in": report.pairs_in, "pairs_out": report.pairs_out, "dropped": report.dropped}
        return sums | {"directions": pairs} | counts | size

    def make_shard(self, work: Preparation, folder: Path, plan: Plan, shard: int, num_shards: int) -> None:
        """Clean every `num_shards`-th chunk of the text of each direction; see `kdmt.stages.prepare_work.make_shard`.

        Args:
            folder: folder of the stage.
        """
        parts = [self._part(work, partial_of(folder), each) for each in self.parts]
        places = [(part.work, part.folder) for part in parts if part.is_trained]

        def clean(scratch: Path, number: int) -> int:
            fetch_texts(work)
            copies = [replace(part, folder=scratch / str(part.direction)) for part in parts]
            for copy in copies:
                _write_held_out(copy)
            num_chunks = 0
            for part, copy in zip(parts, copies, strict=True):
                if part.is_trained:
                    forbidden = _forbidden(copy, copies) if copy.work.settings.decontaminate else None
                    num_chunks += clean_passes(part.work, part.folder, forbidden, number)
            return num_chunks

        make_shard_of(work, folder, plan, shard, num_shards, places=places, clean=clean)

    def _part(self, work: Preparation, folder: Path, part: DirectionPart) -> _Part:
        direction = part.direction
        own = replace(
            work,
            settings=part.settings,
            direction=direction,
            spaced=prepared.spaced_sides(part.settings, direction),
            paths=part.paths,
            say=_naming_direction(work.say, direction),
        )
        form = None if part.settings.clean == "none" else part.settings.clean.unicode_form
        processor = TextProcessor(part.settings.text, *direction.sides, form)
        place = folder / WORK / _DIRECTIONS / str(direction)
        return _Part(own, place, bool(part.settings.train), processor)

    def _pooled(self, work: Preparation) -> Preparation:
        """Return the values for the work on the text of all directions."""
        prefixes = {str(each.direction): language_prefix(each.direction, self.language_tokens) for each in self.parts}
        return replace(work, direction=POOLED, prefixes=prefixes)

    def _text_processor(self, work: Preparation) -> TextProcessor:
        form = None if work.settings.clean == "none" else work.settings.clean.unicode_form
        directions = tuple(part.direction for part in self.parts)
        return TextProcessor(
            work.settings.text, *POOLED.sides, form, directions=directions, language_tokens=self.language_tokens
        )


def _naming_direction(say: Callable[[str], None], direction: Direction) -> Callable[[str], None]:
    """Return a function that prints a line of the stage with the name of a direction."""

    def say_of_direction(line: str) -> None:
        beginning = next((each for each in ("prepare: warning: ", "prepare: ") if line.startswith(each)), "")
        say(f"{beginning}{direction}: {line.removeprefix(beginning)}")

    return say_of_direction


# -------------------------------------------------------------------------------------------------------- one direction


def _open_part(part: _Part) -> None:
    """Write the held-out text of a direction."""
    (part.folder / WORK / "steps").mkdir(parents=True, exist_ok=True)
    _write_held_out(part)
    count_foreign_forms(part.work, part.folder, part.held_out, part.processor)  # for its warnings


def _write_held_out(part: _Part) -> None:
    part.folder.mkdir(parents=True, exist_ok=True)
    for split, text in part.held_out.items():
        write_held_out(part.work, part.folder, split, text, part.processor)


def _clean_part(part: _Part, parts: Sequence[_Part]) -> Cleaned:
    """Write the clean training text of a direction."""
    steps = Steps(part.folder, part.folder / WORK / "steps")
    forbidden = _forbidden(part, parts) if part.work.settings.decontaminate else None
    try:
        cleaned = clean_all_text(part.work, part.folder, steps, forbidden)
    except UserError as error:
        raise UserError(f"{part.direction}: {error}") from error
    process_text(part.work, part.folder, steps, part.processor)
    return cleaned


def _forbidden(part: _Part, parts: Sequence[_Part]) -> Forbidden:
    """Return the held-out sentences of all directions in the languages of one of them.

    A sentence must not be in the training text of any direction, since the model learns from all of them.
    """
    texts = (
        (split_of(split, other.direction), _in_languages(part.direction, other, split))
        for other in parts
        for split in other.held_out
    )
    found = collect_forbidden(texts, held_out_forms(part.work))
    settings = part.work.settings.decontaminate
    if isinstance(settings, bool):
        return found
    source, target = (
        [
            (f"{split_of(split, other.direction)}.{name}", [pair[number] for pair in pairs])
            for other in parts
            for split in other.held_out
            for pairs in [list(_in_languages(part.direction, other, split))]
        ]
        for number, name in enumerate(("source", "target"))
    )
    return replace(found, overlaps=index_overlaps(part.work, settings, source, target))


def _in_languages(direction: Direction, other: _Part, split: str) -> Iterator[tuple[str, str]]:
    """Yield the held-out lines of another direction by the side of `direction` with their language, else empty."""
    pairs = list(held_out_pairs(other.work, other.folder, split))
    sides = [[source for source, _ in pairs], [target for _, target in pairs]]
    sides[1] += [line for lines in further_references(other.work, other.folder, split) for line in lines]
    for lang, lines in zip(other.direction.sides, sides, strict=True):
        for line in lines if same_language(lang, direction.source) else ():
            yield line, ""
        for line in lines if same_language(lang, direction.target) else ():
            yield "", line


# ------------------------------------------------------------------------------------------------------- all directions


def _pool_training_text(folder: Path, trained: Sequence[_Part]) -> None:
    """Write the training text of all directions, one after the other."""
    for number, side in enumerate(POOLED.sides):
        _concatenate((part.path("train", part.direction.sides[number]) for part in trained), folder / f"train.{side}")
    _concatenate((part.path("train", "tags") for part in trained), folder / "train.tags")


def _pool_monolingual_text(folder: Path, trained: Sequence[_Part]) -> None:
    """Write the monolingual text of all directions, one after the other, and the direction of each line."""
    for setting, side in MONOLINGUAL_SIDES.items():
        parts = [part for part in trained if getattr(part.work.settings, setting)]
        if not parts:
            continue
        files = [part.path("monolingual", part.direction.sides[side]) for part in parts]
        _concatenate(files, folder / f"monolingual.{POOLED.sides[side]}")
        names = (
            itertools.repeat(str(part.direction), sum(1 for _ in iterate_lines(path)))
            for part, path in zip(parts, files, strict=True)
        )
        write_lines(folder / TAGS_OF_MONOLINGUAL[setting], itertools.chain.from_iterable(names))


def _concatenate(files: Iterable[Path], out: Path) -> None:
    with out.open("wb") as written:
        for path in files:
            with path.open("rb") as file:
                shutil.copyfileobj(file, written)


def _pool_held_out(folder: Path, parts: Sequence[_Part]) -> None:
    """Write the validation text of all directions, and the test sets of each."""
    trained = [part for part in parts if part.is_trained]
    for number, side in enumerate(POOLED.sides):
        for form in ("", "raw."):
            texts = [iterate_lines(part.path("valid", part.direction.sides[number], form)) for part in trained]
            write_lines(folder / f"valid.{form}{side}", _in_turn(texts))
    names = [itertools.repeat(str(part.direction), _num_lines(part, "valid")) for part in trained]
    write_lines(folder / "valid.tags", _in_turn(names))
    for part in parts:
        for test in part.work.settings.test:
            _pool_test_set(folder, part, test)


def _num_lines(part: _Part, split: str) -> int:
    return sum(1 for _ in iterate_lines(part.path(split, part.direction.source)))


def _in_turn(texts: Sequence[Iterable[str]]) -> Iterator[str]:
    """Yield the first line of each text, then the second, and so on: the beginning of the result has all of them."""
    for lines in itertools.zip_longest(*texts):
        yield from (line for line in lines if line is not None)


def _pool_test_set(folder: Path, part: _Part, test: str) -> None:
    split, (source, target) = split_of(test, part.direction), part.direction.sides
    for lang, side in zip((source, target), POOLED.sides, strict=True):
        for form in ("", "raw."):
            shutil.copyfile(part.path(test, lang, form), folder / f"{split}.{form}{side}")
    for number, path in enumerate(reference_paths(part.folder, test, target), start=1):
        shutil.copyfile(path, folder / f"{split}.raw{number}.{POOLED.target}")
    write_lines(folder / f"{split}.tags", itertools.repeat(str(part.direction), _num_lines(part, test)))


def _text_of_tokenizer(work: Preparation, folder: Path, trained: Sequence[_Part]) -> tuple[Path, Path] | None:
    """Return the text that the tokenizer is learnt from, sampled from the languages; None for the training text."""
    temperature = work.settings.tokenizer.temperature
    if temperature is None:
        return None
    files: dict[str, list[Path]] = {}
    for part in trained:
        for lang in part.direction.sides:
            files.setdefault(lang, []).append(part.path("train", lang))
    sizes = {lang: sum(1 for path in paths for _ in iterate_lines(path)) for lang, paths in files.items()}
    total = min(sum(sizes.values()), work.settings.tokenizer.train_sentences or sum(sizes.values()))
    counts = temperature_counts(sizes, temperature, total)
    sampled, nothing = folder / WORK / "tokenizer.txt", folder / WORK / "tokenizer.none"
    write_lines(sampled, (line for lang in files for line in _spread(files[lang], sizes[lang], counts[lang])))
    write_lines(nothing, ())
    shares = ", ".join(f"{lang} {counts[lang]:,} of {sizes[lang]:,}" for lang in files)
    work.say(f"prepare: lines for the tokenizer by language: {shares}")
    return sampled, nothing


def _spread(files: Sequence[Path], size: int, count: int) -> Iterator[str]:
    """Yield `count` lines that are spread evenly over files with `size` lines; each is repeated if there are fewer."""
    done = 0
    lines = itertools.chain.from_iterable(map(iterate_lines, files))
    for number, line in enumerate(lines, start=1):
        upto = number * count // size
        yield from itertools.repeat(line, upto - done)
        done = upto


def _joined_report(folder: Path, trained: Sequence[_Part], cleaned: Sequence[Cleaned]) -> CleaningReport:
    """Return the counts of the corpora of all directions, with the direction in their names."""
    corpora = tuple(
        replace(corpus, name=f"{corpus.name} ({part.direction})")
        for part, each in zip(trained, cleaned, strict=True)
        for corpus in each.training.corpora
    )
    return CleaningReport(corpora, typical_ratio(training_chunks(folder, POOLED)))


def _write_reports(
    work: Preparation,
    folder: Path,
    parts: Sequence[_Part],
    cleaned: Sequence[Cleaned],
    report: CleaningReport,
    specials: Finding,
) -> dict[str, Any]:
    """Write `report.json` with the counts of all directions and of each, and the examples of dropped pairs.

    Returns:
        The content of `report.json`, without the counts of each direction.
    """
    trained = [part for part in parts if part.is_trained]
    of_directions: dict[str, dict[str, Any]] = {}
    held_out: dict[str, Any] = {}
    examples: dict[str, Any] = {}
    for part, each in zip(trained, cleaned, strict=True):
        name = str(part.direction)
        findings = report_findings(check_texts(part.work, part.folder, part.held_out, each), part.work.say)
        held_out |= {split_of(split, part.direction): found for split, found in findings["held_out"].items()}
        own = {"round_trip": count_round_trips(part.work, part.folder, part.processor, folder / "tokenizer")}
        of_directions[name] = each.training.as_dict() | own | findings
        examples[name] = each.training.dropped_examples()
        for monolingual in each.monolingual.values():
            examples[name] |= monolingual.dropped_examples()
    findings = report_findings({"literal_specials": specials}, work.say)
    whole = report.as_dict() | {"held_out": held_out} | findings | describe_all_licences(work)
    write_json(folder / REPORT, whole | {"directions": of_directions})
    write_json(folder / REPORT_EXAMPLES, examples)
    return whole


def _collected(part: _Part, cleaned: Cleaned | None) -> CollectedDirection:
    """Return the counts of a direction for the page; those that are not trained are last and have no `cleaned`."""
    training = None if cleaned is None else cleaned.training
    monolingual = {} if cleaned is None else cleaned.monolingual
    held_out = {split: _num_lines(part, split) for split in part.held_out}
    return CollectedDirection(part.direction, part.work.settings, part.work.paths, training, held_out, monolingual)
