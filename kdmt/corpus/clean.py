"""The cleaning pass: raw training pairs in, clean text out, with a count for each rule.

Rules, in their order. Three change a line: characters that cannot be seen are removed, Unicode is normalised,
whitespace is collapsed. The others drop a pair: an empty side, too few or too many words, a length ratio, a copy, a
sentence of a validation or test set, an exact duplicate of an earlier pair of any corpus (of a pair in a tagged and an
untagged corpus the untagged one is kept, whichever comes first).

The pairs are streamed twice: the first pass, which worker processes may share, writes what passes all rules but the
last to a work folder; duplicates are then known (`duplicates.py`), and the second pass copies what is left.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import functools
import hashlib
import itertools
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from kdmt.config import Clean
from kdmt.corpus.combining import limit_marks
from kdmt.corpus.decontaminate import Forbidden
from kdmt.corpus.duplicates import DIGEST_BYTES, DuplicateFinder
from kdmt.corpus.parallel import mapping_in_order
from kdmt.errors import UserError

Pair = tuple[str, str]  # (source line, target line)
Flags = npt.NDArray[np.bool_]

CHANGING_RULES = ("invisible", "unicode", "whitespace")
# The rules that drop a pair, in the order in which they are asked.
DROPPING_RULES = ("empty", "min_words", "max_words", "max_ratio", "copy", "held_out", "duplicate")

UnicodeForm = Literal["NFC", "NFKC", "none"]

_CHUNK_PAIRS = 10_000

# Control characters and those format characters that only steer how text is laid out: soft hyphen, zero-width space,
# direction marks, word joiner, byte order mark, annotation marks. Whitespace among the controls (tab, U+0085, ...) is
# left to become a space. Zero-width joiner and non-joiner stay, since Persian, the scripts of India and emoji
# spell with them; so do Arabic and Syriac number signs, which are visible, and the tags that make up flags.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
)


@dataclass(frozen=True)
class TrainingCorpus:
    """Pairs of lines and what becomes of them."""

    name: str
    pairs: Iterable[Pair]
    weight: int = 1  # times that the corpus stands in the output
    tag: str | None = None


@dataclass(frozen=True)
class CorpusCounts:
    """What the pass did to one corpus. Pairs, but for `lines_changed`, which counts lines of either side."""

    name: str
    weight: int
    tag: str | None
    pairs_in: int
    lines_changed: dict[str, int]  # rule -> lines that it changed
    dropped: dict[str, int]  # rule -> pairs that it dropped, each pair under the first rule that it breaks
    held_out_matches: dict[str, int]  # "test_2016.source" -> pairs with a source line of this set
    pairs_kept: int
    pairs_out: int  # weight times pairs_kept


@dataclass(frozen=True)
class CleaningReport:
    """Counts for each corpus, in the order of the output."""

    corpora: tuple[CorpusCounts, ...]

    @property
    def pairs_in(self) -> int:
        return sum(corpus.pairs_in for corpus in self.corpora)

    @property
    def pairs_out(self) -> int:
        return sum(corpus.pairs_out for corpus in self.corpora)

    @property
    def dropped(self) -> dict[str, int]:
        """Rule -> pairs that it dropped, over all corpora."""
        return {rule: sum(corpus.dropped[rule] for corpus in self.corpora) for rule in DROPPING_RULES}

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        corpora = [dataclasses.asdict(corpus) for corpus in self.corpora]
        return {"pairs_in": self.pairs_in, "pairs_out": self.pairs_out, "dropped": self.dropped, "corpora": corpora}


# ------------------------------------------------------------------------------------------------------------- rules


def remove_invisible(line: str) -> str:
    """Without control characters (but for whitespace) and invisible format characters; joiners stay."""
    return line if line.isprintable() else _INVISIBLE.sub("", line)


def normalize_unicode(line: str, form: UnicodeForm) -> str:
    """In the given normalisation form (Unicode Standard Annex #15), no more than 30 combining marks in a row."""
    line = limit_marks(line)
    if form == "none" or line.isascii() or unicodedata.is_normalized(form, line):
        return line
    return unicodedata.normalize(form, line)


def collapse_whitespace(line: str) -> str:
    """With one space for each run of whitespace, no-break spaces among them, and none at the ends."""
    # A printable line has no whitespace but the space.
    if line.isprintable() and "  " not in line and not line.startswith(" ") and not line.endswith(" "):
        return line
    return " ".join(line.split())


def broken_rule(source: str, target: str, clean: Clean) -> str | None:
    """The first rule on a single pair that drops this one; lines are as `collapse_whitespace` gives them."""
    if not source or not target:
        return "empty"
    num_source, num_target = source.count(" ") + 1, target.count(" ") + 1
    shorter, longer = (num_source, num_target) if num_source < num_target else (num_target, num_source)
    if shorter < clean.min_words:
        return "min_words"
    if longer > clean.max_words:
        return "max_words"
    if longer > shorter * clean.max_ratio:
        return "max_ratio"
    if clean.drop_copies and source == target:
        return "copy"
    return None


@dataclass(frozen=True)
class CleanedChunk:
    """What is left of a chunk of pairs: text with a newline after each line, and 16 bytes a pair."""

    source: bytes
    target: bytes
    digests: bytes  # empty if duplicates are of no interest
    pairs_in: int
    num_pairs: int
    counts: collections.Counter[str]  # rule, or held-out set and side -> lines or pairs


def clean_chunk(pairs: Sequence[Pair], clean: Clean, forbidden: Forbidden | None) -> CleanedChunk:
    """Every rule but that on duplicates, applied to each pair by itself."""
    counts: collections.Counter[str] = collections.Counter()
    sources, targets, digests = [], [], []
    for raw_source, raw_target in pairs:
        source = _clean_line(raw_source, clean, counts)
        target = _clean_line(raw_target, clean, counts)
        rule = broken_rule(source, target, clean)
        if rule is None and forbidden is not None:
            matches = forbidden.matches(source, target)
            if matches:
                rule = "held_out"
                counts.update(matches)
        if rule is not None:
            counts[rule] += 1
            continue
        sources.append(source)
        targets.append(target)
        if clean.drop_duplicates:
            digests.append(_digest(source, target))
    return CleanedChunk(_join(sources), _join(targets), b"".join(digests), len(pairs), len(sources), counts)


def keep_chunk(pairs: Sequence[Pair]) -> CleanedChunk:
    """Every line as it is."""
    source, target = _join([pair[0] for pair in pairs]), _join([pair[1] for pair in pairs])
    return CleanedChunk(source, target, b"", len(pairs), len(pairs), collections.Counter())


def _clean_line(line: str, clean: Clean, counts: collections.Counter[str]) -> str:
    visible = remove_invisible(line)
    if visible is not line and visible != line:
        counts["invisible"] += 1
    normal = normalize_unicode(visible, clean.unicode_form)
    if normal is not visible:
        counts["unicode"] += 1
    collapsed = collapse_whitespace(normal)
    if collapsed is not normal and collapsed != normal:
        counts["whitespace"] += 1
    return collapsed


def _digest(source: str, target: str) -> bytes:
    # A newline occurs in no line, so that no two pairs make the same text.
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
) -> CleaningReport:
    """Clean training corpora into one text file a side.

    The corpora follow one another in their order. One of weight n stands there as n whole passes, so that no batch
    or shard of neighbouring lines is full of copies of a sentence. The output does not depend on `workers`.

    Args:
        corpora: read once, one after the other.
        clean: the rules, or "none": then every line stays as it is, `forbidden` is not asked, and only weights apply.
        forbidden: the sentences of validation and test sets, to be dropped.
        out_source, out_target: written beside their names and renamed when all is done; one line a pair, `\\n` ends it.
        out_tags: if any corpus has a tag, the tag of each pair on a line of its own, an empty line for none; with no
            tag at all there is no such file afterwards.
        workdir: a folder for this pass alone: emptied at the start, removed at the end, even after an error. It takes
            the size of the text and 25 bytes a pair.
        workers: processes that share the first pass; 1 for none but this one.

    Raises:
        UserError: no pair is left, or the disk is full; or whatever reading the pairs raises. The files under the
            final names are then what they were before.
    """
    finals = [out_source, out_target, out_tags]
    asides = [path.with_name(path.name + ".part") for path in finals]
    apply_rules: Callable[[list[Pair]], CleanedChunk] = keep_chunk
    if clean != "none":
        apply_rules = functools.partial(clean_chunk, clean=clean, forbidden=forbidden)
    with _clearing_up(workdir, asides), DuplicateFinder(workdir) as finder:
        passed = _clean_all(workdir, corpora, apply_rules, finder, workers)
        repeats = _split(finder.find(), [one.num_digests for one in passed])
        held_out_sides = forbidden.sides if forbidden is not None and clean != "none" else ()
        report = CleaningReport(
            tuple(_count(one, repeats_N, held_out_sides) for one, repeats_N in zip(passed, repeats, strict=True))
        )
        _require_pairs(report)
        _write_side([one.source for one in passed], report, repeats, asides[0])
        _write_side([one.target for one in passed], report, repeats, asides[1])
        _write_tags(report, asides[2])
        for aside, final in zip(asides, finals, strict=True):
            if aside.exists():
                aside.replace(final)
            else:  # no corpus has a tag
                final.unlink(missing_ok=True)
    return report


@contextmanager
def _clearing_up(workdir: Path, asides: Sequence[Path]) -> Iterator[None]:
    """An empty `workdir` inside, neither it nor `asides` afterwards; a full disk becomes a `UserError`."""
    shutil.rmtree(workdir, ignore_errors=True)
    try:
        workdir.mkdir(parents=True)
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
    """A corpus after the first pass: text of `num_pairs` lines a side in the work folder, duplicates still in it."""

    corpus: TrainingCorpus
    source: Path
    target: Path
    pairs_in: int
    num_pairs: int
    num_digests: int  # num_pairs, or 0 if no duplicates are looked for
    counts: collections.Counter[str]


def _clean_all(
    workdir: Path,
    corpora: Iterable[TrainingCorpus],
    apply_rules: Callable[[list[Pair]], CleanedChunk],
    finder: DuplicateFinder,
    workers: int,
) -> list[_FirstPass]:
    """The first pass over all corpora."""
    passed = []
    with mapping_in_order(apply_rules, workers) as map_in_order:
        for number, corpus in enumerate(corpora):
            chunks = map_in_order(_chunks(corpus.pairs))
            passed.append(
                _clean_one(corpus, chunks, finder, workdir / f"{number}.source", workdir / f"{number}.target")
            )
    return passed


def _clean_one(
    corpus: TrainingCorpus, chunks: Iterable[CleanedChunk], finder: DuplicateFinder, source: Path, target: Path
) -> _FirstPass:
    pairs_in = num_pairs = num_digests = 0
    counts: collections.Counter[str] = collections.Counter()
    with source.open("wb") as source_file, target.open("wb") as target_file:
        for chunk in chunks:
            source_file.write(chunk.source)
            target_file.write(chunk.target)
            finder.add(chunk.digests, second=corpus.tag is not None)
            pairs_in += chunk.pairs_in
            num_pairs += chunk.num_pairs
            num_digests += len(chunk.digests) // DIGEST_BYTES
            counts += chunk.counts
    return _FirstPass(corpus, source, target, pairs_in, num_pairs, num_digests, counts)


def _chunks(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    iterator = iter(pairs)
    while chunk := list(itertools.islice(iterator, _CHUNK_PAIRS)):
        yield chunk


def _split(repeats_N: Flags, lengths: Sequence[int]) -> list[Flags]:
    return np.split(repeats_N, np.cumsum(lengths)[:-1])


def _write_side(texts: Sequence[Path], report: CleaningReport, repeats: Sequence[Flags], out_path: Path) -> None:
    """The second pass: each corpus as often as its weight says, without the pairs that repeat earlier ones."""
    with out_path.open("wb") as out:
        for text, counts, repeats_N in zip(texts, report.corpora, repeats, strict=True):
            for _ in range(counts.weight):
                _copy_kept(text, repeats_N, out)


def _copy_kept(text: Path, repeats_N: Flags, out: BinaryIO) -> None:
    with text.open("rb") as lines:
        for start in range(0, len(repeats_N), _CHUNK_PAIRS):
            kept_N = ~repeats_N[start : start + _CHUNK_PAIRS]
            out.writelines(itertools.compress(itertools.islice(lines, len(kept_N)), kept_N.tobytes()))
        shutil.copyfileobj(lines, out)  # all of it where no duplicates were looked for


def _write_tags(report: CleaningReport, out_path: Path) -> None:
    """The tag of each pair of the output; no file if no corpus has one."""
    if all(corpus.tag is None for corpus in report.corpora):
        return
    with out_path.open("wb") as out:
        for corpus in report.corpora:
            out.writelines(itertools.repeat(f"{corpus.tag or ''}\n".encode(), corpus.pairs_out))


# ------------------------------------------------------------------------------------------------------------ counts


def _count(one: _FirstPass, repeats_N: Flags, held_out_sides: Sequence[str]) -> CorpusCounts:
    num_repeats = int(np.count_nonzero(repeats_N))
    kept = one.num_pairs - num_repeats
    return CorpusCounts(
        name=one.corpus.name,
        weight=one.corpus.weight,
        tag=one.corpus.tag,
        pairs_in=one.pairs_in,
        lines_changed={rule: one.counts[rule] for rule in CHANGING_RULES},
        dropped={rule: one.counts[rule] for rule in DROPPING_RULES} | {"duplicate": num_repeats},
        held_out_matches={side: one.counts[side] for side in held_out_sides},
        pairs_kept=kept,
        pairs_out=kept * one.corpus.weight,
    )


def _require_pairs(report: CleaningReport) -> None:
    if report.pairs_out == 0:
        dropped = ", ".join(f"{rule} {count}" for rule, count in report.dropped.items() if count)
        raise UserError(f"cleaning leaves none of {report.pairs_in} training pairs; dropped: {dropped or 'none'}")
