"""The cleaning pass: raw training pairs in, clean text out, with a count for each rule.

Rules, in their order. Three change a line: characters that cannot be seen are removed, Unicode is normalised,
whitespace is collapsed. The others drop a pair: an empty side, too few or too many words, too many characters, a copy,
a sentence of a validation or test set, sides whose lengths do not fit each other, an exact duplicate of an earlier pair
of any corpus (of a pair in a tagged and an untagged corpus the untagged one is kept, whichever comes first).

The pairs are streamed twice: the first pass, which worker processes may share, writes what passes all rules but the
last two to a work folder; the typical ratio of lengths (`lengths.py`) and the duplicates (`duplicates.py`) are then
known, and the second pass copies what is left.
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
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from kdmt.choices import UnicodeForm
from kdmt.config import Clean
from kdmt.corpus.combining import limit_marks
from kdmt.corpus.decontaminate import Forbidden
from kdmt.corpus.dropped import (
    NUM_EXAMPLES,
    Examples,
    add_examples,
    cut_texts,
    describe_dropped,
    lost_much,
    show_texts,
    warning_lines,
)
from kdmt.corpus.duplicates import DIGEST_BYTES, DuplicateFinder
from kdmt.corpus.lines import iterate_lines
from kdmt.corpus.pool import mapping_in_order
from kdmt.corpus.sentence_lengths import Lengths, RatioMedian, count_characters, length_ratios
from kdmt.errors import UserError
from kdmt.files import naming

Pair = tuple[str, str]  # (source line, target line)
Flags = npt.NDArray[np.bool_]

CHANGING_RULES = ("invisible", "unicode", "whitespace")
# The rules that drop a pair, in the order in which they are asked.
DROPPING_RULES = (
    *("empty", "min_words", "max_words", "max_characters", "copy", "held_out"),
    *("max_ratio", "duplicate"),  # these are asked when all pairs have been seen
)


_CHUNK_PAIRS = 10_000

# Runs of control characters and of those format characters that only steer how text is laid out: soft hyphen,
# zero-width space, direction marks, word joiner, byte order mark, annotation marks. Whitespace among the controls (tab,
# U+0085, ...) is left to become a space. Zero-width joiner and non-joiner stay, since Persian, the scripts of India and
# emoji spell with them; so do Arabic and Syriac number signs, which are visible, and the tags that make up flags.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]+"
)
# Those that separate what is on both sides of them: the dashes of Windows-1252 read as Latin-1, and the mark between a
# word and its annotation.
_SEPARATORS = "\x96\x97\ufffa"
_ZERO_WIDTH_SPACE = "\u200b"
# Blocks of scripts of South-East Asia and Tibet, which write no space between words: there a zero-width space is the
# boundary of two words. Elsewhere, in Chinese and Japanese too, it only permits a line break.
_UNSPACED_BLOCKS = (
    *((0x0E00, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19FF), (0x1A20, 0x1AAF), (0x1B00, 0x1B7F), (0xA980, 0xA9FF)),
    *((0xAA60, 0xAADF), (0x11700, 0x1174F)),
)


def _is_of_word(character: str) -> bool:
    """Whether it is a letter, a combining mark or a digit."""
    return unicodedata.category(character)[0] in "LMN"


_UNSPACED = "".join(filter(_is_of_word, (chr(code) for a, b in _UNSPACED_BLOCKS for code in range(a, b + 1))))
_BOUNDARY = re.compile(f"(?<=[{_UNSPACED}])\u200b(?=[{_UNSPACED}])")  # most of them by far


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
    examples: Examples  # of the pairs that each rule dropped: their beginnings


@dataclass(frozen=True)
class CleaningReport:
    """Counts for each corpus, in the order of the output."""

    corpora: tuple[CorpusCounts, ...]
    typical_ratio: float  # target over source characters: the median of the pairs that pass the other rules

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

    def as_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        corpora = [dataclasses.asdict(corpus) for corpus in self.corpora]
        for corpus in corpora:
            del corpus["examples"]  # text is in no report
        return {
            "pairs_in": self.pairs_in,
            "pairs_out": self.pairs_out,
            "typical_ratio": self.typical_ratio,
            "dropped": self.dropped,
            "corpora": corpora,
        }

    @property
    def loses_much(self) -> bool:
        """Whether all corpora together lose so much that it is a warning."""
        return lost_much(self.pairs_in, self.dropped)

    def example(self) -> str:
        """Return the first pair that fell to the rule that drops the most, as the end of a message; empty if none."""
        rule = max(self.dropped, key=self.dropped.__getitem__)
        pairs = [pair for corpus in self.corpora for pair in corpus.examples.get(rule, ())]
        return f"; {rule} dropped {show_texts(pairs[0])}, for example" if pairs else ""

    def warnings(self, unit: str = "pairs") -> Iterator[str]:
        """Yield the lines of warnings: of each corpus that loses much, with examples, and of all together."""
        what = f"{unit} dropped"
        for corpus in self.corpora:
            yield from warning_lines(corpus.name, what, corpus.pairs_in, corpus.dropped, corpus.examples)
        if len(self.corpora) > 1:
            yield from warning_lines("all corpora", what, self.pairs_in, self.dropped, {})


# ------------------------------------------------------------------------------------------------------------- rules


def remove_invisible(line: str) -> str:
    """Remove control characters (but for whitespace) and invisible format characters; joiners stay.

    Where they separate two words, as a zero-width space does in Thai or Khmer, a space takes their place.
    """
    if line.isprintable():
        return line
    if _ZERO_WIDTH_SPACE in line:
        line = _BOUNDARY.sub(" ", line)
    return _INVISIBLE.sub(_space_or_nothing, line)


def find_invisible(line: str) -> set[str]:
    """Return the characters that `remove_invisible` takes out."""
    return set().union(*_INVISIBLE.findall(line))


def _space_or_nothing(match: re.Match[str]) -> str:
    line, run = match.string, match[0]
    around = line[match.start() - 1 : match.start()] + line[match.end() : match.end() + 1]
    if len(around) < 2 or not all(map(_is_of_word, around)):
        return ""
    if _ZERO_WIDTH_SPACE in run and any(character in _UNSPACED for character in around):
        return " "
    return " " if any(character in _SEPARATORS for character in run) else ""


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


def broken_rule(source: str, target: str, clean: Clean, *, spaced: tuple[bool, bool] = (True, True)) -> str | None:
    """The first rule on a single pair that drops this one; lines are as `collapse_whitespace` gives them.

    Args:
        spaced: whether the text of each side has words between spaces, which are counted then.
    """
    if not source or not target:
        return "empty"
    of_source, of_target = spaced
    least, most = clean.min_words, clean.max_words
    if least > 1 and ((of_source and source.count(" ") + 1 < least) or (of_target and target.count(" ") + 1 < least)):
        return "min_words"
    # n words have at least 2n - 1 characters: most lines need not be counted
    if most and (
        (of_source and len(source) > 2 * most and source.count(" ") >= most)
        or (of_target and len(target) > 2 * most and target.count(" ") >= most)
    ):
        return "max_words"
    if clean.max_characters and (len(source) > clean.max_characters or len(target) > clean.max_characters):
        return "max_characters"
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
    characters: tuple[Lengths, Lengths]  # of each line of what is left
    examples: Examples


def clean_chunk(
    pairs: Sequence[Pair], clean: Clean, forbidden: Forbidden | None, *, spaced: tuple[bool, bool] = (True, True)
) -> CleanedChunk:
    """Every rule on a single pair, applied to each by itself."""
    counts: collections.Counter[str] = collections.Counter()
    examples: Examples = {}
    sources, targets, digests = [], [], []
    for raw_source, raw_target in pairs:
        source = clean_line(raw_source, clean.unicode_form, counts)
        target = clean_line(raw_target, clean.unicode_form, counts)
        rule = broken_rule(source, target, clean, spaced=spaced)
        if rule is None and forbidden is not None:
            matches = forbidden.matches(source, target)
            if matches:
                rule = "held_out"
                counts.update(matches)
        if rule is not None:
            counts[rule] += 1
            if counts[rule] <= NUM_EXAMPLES:
                examples.setdefault(rule, []).append(cut_texts(raw_source, raw_target))
            continue
        sources.append(source)
        targets.append(target)
        if clean.drop_duplicates:
            digests.append(_digest(source, target))
    return _make_chunk(sources, targets, digests, len(pairs), counts, examples)


def keep_chunk(pairs: Sequence[Pair]) -> CleanedChunk:
    """Every line as it is."""
    sources, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return _make_chunk(sources, targets, [], len(pairs), collections.Counter(), {})


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


def clean_line(line: str, form: UnicodeForm, counts: collections.Counter[str]) -> str:
    """Apply the rules that change a line, and count it under each that does."""
    visible = remove_invisible(line)
    if visible is not line and visible != line:
        counts["invisible"] += 1
    normal = normalize_unicode(visible, form)
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
    spaced: tuple[bool, bool] = (True, True),
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
            the size of the text and 33 bytes a pair.
        workers: processes that share the first pass; 1 for none but this one.
        spaced: whether the text of each side has words between spaces: limits on words hold for such sides alone.

    Raises:
        UserError: no pair is left, or the disk is full; or whatever reading the pairs raises. The files under the
            final names are then what they were before.
    """
    finals = [out_source, out_target, out_tags]
    asides = [path.with_name(path.name + ".part") for path in finals]
    apply_rules: Callable[[list[Pair]], CleanedChunk] = keep_chunk
    if clean != "none":
        apply_rules = functools.partial(clean_chunk, clean=clean, forbidden=forbidden, spaced=spaced)
    with _clearing_up(workdir, asides), DuplicateFinder(workdir) as finder:
        median = RatioMedian()
        passed = _clean_all(workdir, corpora, apply_rules, finder, median, workers)
        repeats = _split(finder.find(), [one.num_digests for one in passed])
        typical = median.value()
        max_ratio = 0.0 if clean == "none" else clean.max_ratio
        losses = [_Losses(_unfit(one, typical, max_ratio), own) for one, own in zip(passed, repeats, strict=True)]
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
    """An empty `workdir` inside, neither it nor `asides` afterwards; a full disk becomes a `UserError`."""
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
    """A corpus after the first pass: text of `num_pairs` lines a side in the work folder, duplicates still in it."""

    corpus: TrainingCorpus
    source: Path
    target: Path
    pairs_in: int
    num_pairs: int
    num_digests: int  # num_pairs, or 0 if no duplicates are looked for
    counts: collections.Counter[str]
    characters: Path  # of the two sides of each pair, uint32
    examples: Examples


@dataclass(frozen=True)
class _Losses:
    """What a corpus loses when all pairs have been seen, by their places in the text of the first pass.

    Attributes:
        unfit_N: pairs whose sides do not fit each other; empty if that is not asked.
        repeats_N: pairs that repeat earlier ones; empty if that is not asked.
    """

    unfit_N: Flags
    repeats_N: Flags

    @property
    def dropped_N(self) -> Flags:
        """Empty if nothing is asked."""
        if len(self.unfit_N) and len(self.repeats_N):
            return self.unfit_N | self.repeats_N
        return self.unfit_N if len(self.unfit_N) else self.repeats_N

    def places(self) -> dict[str, npt.NDArray[np.int64]]:
        """Rule -> the pairs that it drops. What is unfit repeats nothing: its equals are unfit too."""
        repeats_N = self.repeats_N & ~self.unfit_N if len(self.unfit_N) and len(self.repeats_N) else self.repeats_N
        return {"max_ratio": np.flatnonzero(self.unfit_N), "duplicate": np.flatnonzero(repeats_N)}


def _clean_all(
    workdir: Path,
    corpora: Iterable[TrainingCorpus],
    apply_rules: Callable[[list[Pair]], CleanedChunk],
    finder: DuplicateFinder,
    median: RatioMedian,
    workers: int,
) -> list[_FirstPass]:
    """The first pass over all corpora."""
    passed = []
    with mapping_in_order(apply_rules, workers) as map_in_order:
        for number, corpus in enumerate(corpora):
            chunks = map_in_order(_chunks(corpus.pairs))
            passed.append(_clean_one(corpus, chunks, finder, median, workdir, number))
    return passed


def _clean_one(
    corpus: TrainingCorpus,
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
            add_examples(examples, chunk.examples)
    return _FirstPass(corpus, paths[0], paths[1], pairs_in, num_pairs, num_digests, counts, paths[2], examples)


def _unfit(one: _FirstPass, typical: float, max_ratio: float) -> Flags:
    """Which pairs have sides whose lengths do not fit each other; empty if there is no limit."""
    if not max_ratio:
        return np.zeros(0, dtype=bool)
    unfit_N = np.zeros(one.num_pairs, dtype=bool)
    with one.characters.open("rb") as file:
        for start in range(0, one.num_pairs, _CHUNK_PAIRS):
            stop = min(start + _CHUNK_PAIRS, one.num_pairs)
            lengths_N2 = np.fromfile(file, dtype=np.uint32, count=2 * (stop - start)).reshape(-1, 2)
            unfit_N[start:stop] = length_ratios(lengths_N2[:, 0], lengths_N2[:, 1], typical) > max_ratio
    return unfit_N


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


def _count(one: _FirstPass, losses: _Losses, held_out_sides: Sequence[str]) -> CorpusCounts:
    places = losses.places()
    seen_late = {rule: len(found) for rule, found in places.items()}
    kept = one.num_pairs - sum(seen_late.values())
    examples = dict(one.examples)
    for rule, found in places.items():
        if len(found):
            examples[rule] = _texts_at(one, found[:NUM_EXAMPLES].tolist())
    return CorpusCounts(
        name=one.corpus.name,
        weight=one.corpus.weight,
        tag=one.corpus.tag,
        pairs_in=one.pairs_in,
        lines_changed={rule: one.counts[rule] for rule in CHANGING_RULES},
        dropped={rule: one.counts[rule] for rule in DROPPING_RULES} | seen_late,
        held_out_matches={side: one.counts[side] for side in held_out_sides},
        pairs_kept=kept,
        pairs_out=kept * one.corpus.weight,
        examples=examples,
    )


def _texts_at(one: _FirstPass, places: list[int]) -> list[tuple[str, ...]]:
    """The beginnings of the pairs at these places, which ascend."""
    pairs = zip(iterate_lines(one.source), iterate_lines(one.target), strict=True)
    numbered = itertools.islice(enumerate(pairs), places[-1] + 1)
    return [cut_texts(*pair) for place, pair in numbered if place in places]


def _require_pairs(report: CleaningReport) -> None:
    if report.pairs_out == 0:
        raise UserError(
            f"cleaning leaves none of {report.pairs_in} training pairs; dropped: "
            f"{describe_dropped(report.pairs_in, report.dropped)}{report.example()}"
        )
