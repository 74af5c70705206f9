"""Cleaning of raw training pairs, with a count for each rule.

The rules apply in this order. Some change a line: they remove invisible characters, normalise Unicode and collapse
whitespace, and do more if `prepare.clean.rules` has rules for it. The others drop a pair: an empty side, too few or too
many words, too many characters, a copy, the rules of `prepare.clean.rules`, a sentence of a validation or test set, a
mismatch of the lengths of both sides, or an exact duplicate of an earlier pair of any corpus (of a pair in a tagged and
an untagged corpus, the untagged one is kept, whichever comes first). The rules for single pairs are in `rules/`.

The pairs are streamed in two passes. The first pass, which may run in several worker processes, writes the pairs that
pass all rules except the last two to a temporary folder. Then the typical ratio of lengths (`sentence_lengths.py`) and
the duplicates (`duplicates.py`) are known, and the second pass copies the pairs that pass the last two rules.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import functools
import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from kdmt.config import Clean
from kdmt.corpus.decontaminate import Forbidden
from kdmt.corpus.dropped import (
    NUM_REPORTED,
    REPORTED_CHARACTERS,
    Examples,
    add_examples,
    cut_texts,
    describe_dropped,
    for_message,
    lost_much,
    show_texts,
    warning_lines,
)
from kdmt.corpus.duplicates import DIGEST_BYTES, DuplicateFinder
from kdmt.corpus.lines import iterate_lines
from kdmt.corpus.pool import mapping_in_order
from kdmt.corpus.rules.pair_text import LanguagePair, PairText
from kdmt.corpus.rules.rule import ChangingRule, DroppingRule
from kdmt.corpus.rules.table import build_rules, changing_names, dropping_names
from kdmt.corpus.rules.tidying import is_plain
from kdmt.corpus.sentence_lengths import Lengths, RatioMedian, count_characters, length_ratios
from kdmt.errors import UserError
from kdmt.files import naming

Pair = tuple[str, str]  # (source line, target line)
Flags = npt.NDArray[np.bool_]

_CHUNK_PAIRS = 10_000


@dataclass(frozen=True)
class TrainingCorpus:
    """Pairs of lines, and their weight and tag in the training text."""

    name: str
    pairs: Iterable[Pair]
    weight: int = 1  # number of times that the corpus is in the output
    tag: str | None = None
    clean: Clean | None = None  # settings of the rules for this corpus, instead of those for all


@dataclass(frozen=True)
class CorpusCounts:
    """Counts of one corpus: numbers of pairs, except `lines_changed`, which counts lines of either side."""

    name: str
    weight: int
    tag: str | None
    pairs_in: int
    lines_changed: dict[str, int]  # rule -> number of lines that it changed
    dropped: dict[str, int]  # rule -> number of pairs that it dropped; a pair counts for the first rule that it breaks
    held_out_matches: dict[str, int]  # "test_2016.source" -> number of pairs with a source line of this set
    pairs_kept: int
    pairs_out: int  # weight times pairs_kept
    examples: Examples  # beginnings of the first pairs that each rule dropped


@dataclass(frozen=True)
class CleaningReport:
    """Counts of each corpus, in the order of the output."""

    corpora: tuple[CorpusCounts, ...]
    typical_ratio: float  # target over source characters: median of the pairs that pass the other rules

    @property
    def pairs_in(self) -> int:
        return sum(corpus.pairs_in for corpus in self.corpora)

    @property
    def pairs_out(self) -> int:
        return sum(corpus.pairs_out for corpus in self.corpora)

    @property
    def dropped(self) -> dict[str, int]:
        """Mapping from each rule to the number of pairs that it dropped in all corpora."""
        total: collections.Counter[str] = collections.Counter()
        for corpus in self.corpora:
            total.update(corpus.dropped)  # which keeps rules with a count of 0
        return dict(total)

    def as_dict(self) -> dict[str, object]:
        """Return the report as plain JSON values."""
        corpora = [dataclasses.asdict(corpus) for corpus in self.corpora]
        for corpus in corpora:
            del corpus["examples"]  # this report contains no text
        return {
            "pairs_in": self.pairs_in,
            "pairs_out": self.pairs_out,
            "typical_ratio": self.typical_ratio,
            "dropped": self.dropped,
            "corpora": corpora,
        }

    def dropped_examples(self) -> dict[str, Examples]:
        """Return the beginnings of the first pairs that each rule dropped, by corpus, as plain JSON values."""
        return {corpus.name: dict(corpus.examples) for corpus in self.corpora}

    @property
    def loses_much(self) -> bool:
        """Whether the number of dropped pairs of all corpora is large enough for a warning."""
        return lost_much(self.pairs_in, self.dropped)

    def example(self) -> str:
        """Return the first pair dropped by the rule that drops the most, as the end of a message; empty if none."""
        rule = max(self.dropped, key=self.dropped.__getitem__)
        pairs = [pair for corpus in self.corpora for pair in corpus.examples.get(rule, ())]
        return f"; {rule} dropped {show_texts(cut_texts(*pairs[0]))}, for example" if pairs else ""

    def warnings(self, unit: str = "pairs") -> Iterator[str]:
        """Yield the lines of warnings about many dropped pairs: for each corpus, with examples, and for all."""
        what = f"{unit} dropped"
        for corpus in self.corpora:
            yield from warning_lines(corpus.name, what, corpus.pairs_in, corpus.dropped, for_message(corpus.examples))
        if len(self.corpora) > 1:
            yield from warning_lines("all corpora", what, self.pairs_in, self.dropped, {})


# ------------------------------------------------------------------------------------------------------- first pass


@dataclass(frozen=True)
class CleanedChunk:
    """The remaining pairs of a chunk: text with a newline after each line, and a digest of 16 bytes for each pair."""

    source: bytes
    target: bytes
    digests: bytes  # empty if duplicates are kept
    pairs_in: int
    num_pairs: int
    counts: collections.Counter[str]  # rule, or held-out set and side -> number of lines or pairs
    characters: tuple[Lengths, Lengths]  # number of characters of each remaining line
    examples: Examples


@dataclass(frozen=True)
class RawChunk:
    """Pairs of one corpus, with the settings of the rules for it."""

    pairs: Sequence[Pair]
    clean: Clean | Literal["none"]


def clean_chunk(chunk: RawChunk, *, languages: LanguagePair, forbidden: Forbidden | None) -> CleanedChunk:
    """Apply the rules for single pairs to each pair of a chunk; with "none" keep every line unchanged."""
    if chunk.clean == "none":
        return _keep_chunk(chunk.pairs)
    rules = build_rules(chunk.clean, languages)
    of_source, of_target = rules.changing
    keeps_plain = rules.keeps_plain
    counts: collections.Counter[str] = collections.Counter()
    examples: Examples = {}
    sources, targets, digests = [], [], []
    for raw_source, raw_target in chunk.pairs:
        source, target = raw_source, raw_target
        if not (keeps_plain and is_plain(source)):
            source = clean_line(source, of_source, counts)
        if not (keeps_plain and is_plain(target)):
            target = clean_line(target, of_target, counts)
        rule = broken_rule(PairText(source, target), rules.dropping)
        if rule is None and forbidden is not None:
            matches = forbidden.matches(source, target)
            if matches:
                rule = "held_out"
                counts.update(matches)
        if rule is not None:
            counts[rule] += 1
            if counts[rule] <= NUM_REPORTED:
                shown = cut_texts(raw_source, raw_target, length=REPORTED_CHARACTERS)
                examples.setdefault(rule, []).append(shown)
            continue
        sources.append(source)
        targets.append(target)
        if chunk.clean.drop_duplicates:
            digests.append(_digest(source, target))
    return _make_chunk(sources, targets, digests, len(chunk.pairs), counts, examples)


def _keep_chunk(pairs: Sequence[Pair]) -> CleanedChunk:
    """Return a chunk with every line unchanged."""
    sources, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return _make_chunk(sources, targets, [], len(pairs), collections.Counter(), {})


def broken_rule(pair: PairText, rules: Iterable[DroppingRule]) -> str | None:
    """Return the name of the first rule that drops a pair, or None."""
    for rule in rules:
        if rule.breaks(pair):
            return rule.name
    return None


def clean_line(line: str, rules: Iterable[ChangingRule], counts: collections.Counter[str]) -> str:
    """Apply the rules that change a line, and count the line for each rule that changes it."""
    for rule in rules:
        edited = rule.edit(line)
        if edited is not line and edited != line:
            counts[rule.name] += 1
            line = edited
    return line


def _make_chunk(
    sources: list[str],
    targets: list[str],
    digests: list[bytes],
    pairs_in: int,
    counts: collections.Counter[str],
    examples: Examples,
) -> CleanedChunk:
    return CleanedChunk(
        source=_join(sources),
        target=_join(targets),
        digests=b"".join(digests),
        pairs_in=pairs_in,
        num_pairs=len(sources),
        counts=counts,
        characters=(count_characters(sources), count_characters(targets)),
        examples=examples,
    )


def _digest(source: str, target: str) -> bytes:
    # No line contains a newline, so different pairs give different text.
    return hashlib.blake2b(f"{source}\n{target}".encode(), digest_size=DIGEST_BYTES).digest()


def _join(lines: list[str]) -> bytes:
    return "\n".join([*lines, ""]).encode()


# -------------------------------------------------------------------------------------------------------- whole pass


def clean_corpora(
    corpora: Iterable[TrainingCorpus],
    *,
    clean: Clean | Literal["none"],
    forbidden: Forbidden | None,
    out_source: Path,
    out_target: Path,
    out_tags: Path,
    workdir: Path,
    workers: int = 1,
    spaced: tuple[bool, bool] = (True, True),
    languages: tuple[str, str] | None = None,
) -> CleaningReport:
    """Clean training corpora and write them to one text file per side.

    The output contains the corpora in the given order. A corpus of weight n is written n times as a whole, so that no
    batch or shard of neighbouring lines is full of copies of one sentence. The output does not depend on `workers`.

    Args:
        corpora: training corpora; each is read once, in order.
        clean: settings of the rules for corpora without settings of their own, or "none" to keep every line unchanged,
            ignore `forbidden` and apply only weights.
        forbidden: sentences of validation and test sets, which are dropped.
        out_source, out_target: output files with one line per pair, each ending in `\\n`; they are written to temporary
            files in the same folders, which are renamed when everything is complete.
        out_tags: output file with the tag of each pair, or an empty line without tag; if no corpus has a tag, there is
            no such file, and an existing one is removed.
        workdir: temporary folder for this function alone, emptied at the start and removed at the end, even after an
            error; it needs the size of the text and 33 bytes per pair.
        workers: number of processes for the first pass; 1 for this process only.
        spaced: whether each side is written with spaces between words; limits on words apply only to such sides.
        languages: codes of both languages, for the rules that need them.

    Raises:
        UserError: if no pair is left or the disk is full. Errors of reading the pairs are raised too. After an error,
            the files at the final paths are unchanged.
    """
    finals = [out_source, out_target, out_tags]
    asides = [path.with_name(path.name + ".part") for path in finals]
    apply_rules = functools.partial(clean_chunk, languages=LanguagePair(spaced, languages), forbidden=forbidden)
    with _clearing_up(workdir, asides), DuplicateFinder(workdir) as finder:
        median = RatioMedian()
        passed = _clean_all(workdir, corpora, clean, apply_rules, finder, median, workers)
        repeats = _split(finder.find(), [one.num_digests for one in passed])
        typical = median.value()
        losses = [_Losses(_unfit(one, typical), own) for one, own in zip(passed, repeats, strict=True)]
        held_out_sides = forbidden.sides if forbidden is not None and clean != "none" else ()
        counted = [_count(one, own, held_out_sides) for one, own in zip(passed, losses, strict=True)]
        report = CleaningReport(tuple(counted), typical)
        _require_pairs(report)
        dropped = [own.dropped_N for own in losses]
        _write_side([one.source for one in passed], report, dropped, asides[0])
        _write_side([one.target for one in passed], report, dropped, asides[1])
        _write_tags(report, asides[2])
        for aside, final in zip(asides, finals, strict=True):
            if aside.exists():
                aside.replace(final)
            else:  # no corpus has a tag
                final.unlink(missing_ok=True)
    return report


@contextmanager
def _clearing_up(workdir: Path, asides: Sequence[Path]) -> Iterator[None]:
    """Create an empty `workdir`, and remove it and `asides` after the body; a full disk becomes a `UserError`."""
    shutil.rmtree(workdir, ignore_errors=True)
    try:
        workdir.mkdir(parents=True)
        with naming(workdir):
            yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{error.filename or workdir}: the disk is full; nothing was written") from error
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
        for aside in asides:
            aside.unlink(missing_ok=True)


@dataclass(frozen=True)
class _FirstPass:
    """A corpus after the first pass: text with `num_pairs` lines per side in `workdir`, including duplicates."""

    corpus: TrainingCorpus
    clean: Clean | Literal["none"]
    source: Path
    target: Path
    pairs_in: int
    num_pairs: int
    num_digests: int  # num_pairs, or 0 if duplicates are kept
    counts: collections.Counter[str]
    characters: Path  # file of the numbers of characters of both sides of each pair, uint32
    examples: Examples


@dataclass(frozen=True)
class _Losses:
    """Pairs of a corpus that the last two rules drop, as masks over the text of the first pass.

    Attributes:
        unfit_N: mask of pairs with a mismatch of lengths; empty if there is no limit.
        repeats_N: mask of pairs that are duplicates of earlier ones; empty if duplicates are kept.
    """

    unfit_N: Flags
    repeats_N: Flags

    @property
    def dropped_N(self) -> Flags:
        """Mask of all pairs that are dropped; empty if neither rule applies."""
        if len(self.unfit_N) and len(self.repeats_N):
            return self.unfit_N | self.repeats_N
        return self.unfit_N if len(self.unfit_N) else self.repeats_N

    def positions(self) -> dict[str, npt.NDArray[np.int64]]:
        """Return the indices of the pairs that each rule drops.

        A pair with a mismatch of lengths counts for that rule alone: its duplicates have the same mismatch.
        """
        repeats_N = self.repeats_N & ~self.unfit_N if len(self.unfit_N) and len(self.repeats_N) else self.repeats_N
        return {"max_ratio": np.flatnonzero(self.unfit_N), "duplicate": np.flatnonzero(repeats_N)}


def _clean_all(
    workdir: Path,
    corpora: Iterable[TrainingCorpus],
    clean: Clean | Literal["none"],
    apply_rules: Callable[[RawChunk], CleanedChunk],
    finder: DuplicateFinder,
    median: RatioMedian,
    workers: int,
) -> list[_FirstPass]:
    """Run the first pass over all corpora."""
    passed = []
    with mapping_in_order(apply_rules, workers) as map_in_order:
        for number, corpus in enumerate(corpora):
            own = corpus.clean or clean
            chunks = map_in_order(_chunks(corpus.pairs, own))
            passed.append(_clean_one(corpus, own, chunks, finder, median, workdir, number))
    return passed


def _clean_one(
    corpus: TrainingCorpus,
    clean: Clean | Literal["none"],
    chunks: Iterable[CleanedChunk],
    finder: DuplicateFinder,
    median: RatioMedian,
    workdir: Path,
    number: int,
) -> _FirstPass:
    paths = [workdir / f"{number}.{what}" for what in ("source", "target", "characters")]
    pairs_in = num_pairs = num_digests = 0
    counts: collections.Counter[str] = collections.Counter()
    examples: Examples = {}
    with paths[0].open("wb") as source, paths[1].open("wb") as target, paths[2].open("wb") as characters:
        for chunk in chunks:
            source.write(chunk.source)
            target.write(chunk.target)
            characters.write(np.stack(chunk.characters, axis=1).tobytes())
            median.add(*chunk.characters)
            finder.add(chunk.digests, second=corpus.tag is not None)
            pairs_in += chunk.pairs_in
            num_pairs += chunk.num_pairs
            num_digests += len(chunk.digests) // DIGEST_BYTES
            counts += chunk.counts
            add_examples(examples, chunk.examples, NUM_REPORTED)
    return _FirstPass(corpus, clean, paths[0], paths[1], pairs_in, num_pairs, num_digests, counts, paths[2], examples)


def _unfit(one: _FirstPass, typical: float) -> Flags:
    """Return the mask of the pairs with a mismatch of lengths; empty if there is no limit."""
    max_ratio = 0.0 if one.clean == "none" else one.clean.max_ratio
    if not max_ratio:
        return np.zeros(0, dtype=bool)
    unfit_N = np.zeros(one.num_pairs, dtype=bool)
    with one.characters.open("rb") as file:
        for start in range(0, one.num_pairs, _CHUNK_PAIRS):
            stop = min(start + _CHUNK_PAIRS, one.num_pairs)
            lengths_N2 = np.fromfile(file, dtype=np.uint32, count=2 * (stop - start)).reshape(-1, 2)
            unfit_N[start:stop] = length_ratios(lengths_N2[:, 0], lengths_N2[:, 1], typical) > max_ratio
    return unfit_N


def _chunks(pairs: Iterable[Pair], clean: Clean | Literal["none"]) -> Iterator[RawChunk]:
    iterator = iter(pairs)
    while chunk := list(itertools.islice(iterator, _CHUNK_PAIRS)):
        yield RawChunk(chunk, clean)


def _split(repeats_N: Flags, lengths: Sequence[int]) -> list[Flags]:
    return np.split(repeats_N, np.cumsum(lengths)[:-1])


def _write_side(texts: Sequence[Path], report: CleaningReport, repeats: Sequence[Flags], out_path: Path) -> None:
    """Run the second pass for one side: write each corpus `weight` times, without the dropped pairs.

    Args:
        repeats: mask of the dropped pairs of each corpus; empty if none can be dropped.
    """
    with out_path.open("wb") as out:
        for text, counts, repeats_N in zip(texts, report.corpora, repeats, strict=True):
            for _ in range(counts.weight):
                _copy_kept(text, repeats_N, out)


def _copy_kept(text: Path, repeats_N: Flags, out: BinaryIO) -> None:
    with text.open("rb") as lines:
        for start in range(0, len(repeats_N), _CHUNK_PAIRS):
            kept_N = ~repeats_N[start : start + _CHUNK_PAIRS]
            out.writelines(itertools.compress(itertools.islice(lines, len(kept_N)), kept_N.tobytes()))
        shutil.copyfileobj(lines, out)  # all lines if `repeats_N` is empty


def _write_tags(report: CleaningReport, out_path: Path) -> None:
    """Write the tag of each pair of the output; write no file if no corpus has a tag."""
    if all(corpus.tag is None for corpus in report.corpora):
        return
    with out_path.open("wb") as out:
        for corpus in report.corpora:
            out.writelines(itertools.repeat(f"{corpus.tag or ''}\n".encode(), corpus.pairs_out))


# ------------------------------------------------------------------------------------------------------------ counts


def _count(one: _FirstPass, losses: _Losses, held_out_sides: Sequence[str]) -> CorpusCounts:
    positions = losses.positions()
    seen_late = {rule: len(found) for rule, found in positions.items()}
    kept = one.num_pairs - sum(seen_late.values())
    examples = dict(one.examples)
    for rule, found in positions.items():
        if len(found):
            examples[rule] = _texts_at(one, found[:NUM_REPORTED].tolist())
    return CorpusCounts(
        name=one.corpus.name,
        weight=one.corpus.weight,
        tag=one.corpus.tag,
        pairs_in=one.pairs_in,
        lines_changed={rule: one.counts[rule] for rule in changing_names(one.clean)},
        dropped={rule: one.counts[rule] for rule in (*dropping_names(one.clean), "held_out")} | seen_late,
        held_out_matches={side: one.counts[side] for side in held_out_sides},
        pairs_kept=kept,
        pairs_out=kept * one.corpus.weight,
        examples=examples,
    )


def _texts_at(one: _FirstPass, positions: list[int]) -> list[tuple[str, ...]]:
    """Return the beginnings of the pairs at these indices, which must be ascending."""
    pairs = zip(iterate_lines(one.source), iterate_lines(one.target), strict=True)
    numbered = itertools.islice(enumerate(pairs), positions[-1] + 1)
    return [cut_texts(*pair, length=REPORTED_CHARACTERS) for position, pair in numbered if position in positions]


def _require_pairs(report: CleaningReport) -> None:
    if report.pairs_out == 0:
        raise UserError(
            f"cleaning leaves none of {report.pairs_in} training pairs; dropped: "
            f"{describe_dropped(report.pairs_in, report.dropped)}{report.example()}"
        )
