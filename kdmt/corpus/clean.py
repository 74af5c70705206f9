"""Cleaning of raw training pairs, with a count for each rule.

The rules apply in this order. Some change a line: they remove invisible characters, normalise Unicode and collapse
whitespace, and do more if `prepare.clean.rules` has rules for it. The others drop a pair: an empty side, too few or too
many words, too many characters, a copy, the rules of `prepare.clean.rules`, a sentence of a validation or test set or
n-grams of one, a mismatch of the lengths of both sides, a duplicate or near-duplicate of an earlier pair of any corpus
(of a pair in a tagged and an untagged corpus, the untagged one is kept, whichever comes first), or a low score. The
rules for single pairs are in `rules/`, those by scores in `filters/`.

The pairs are streamed in two passes: the first (`first_pass.py`), which may run in several worker processes, applies
the rules that look at one pair at a time, the second (`second_pass.py`) those that need the pairs of all corpora.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import functools
import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdmt.config import Clean, Context, Mixing
from kdmt.corpus.chunk_shards import ChunkShards
from kdmt.corpus.combining import limit_marks
from kdmt.corpus.context import join_context, split_context, without_context
from kdmt.corpus.data_report.patterns import ListedPatterns, PatternCounts, list_patterns, pattern_of, prune_chunk
from kdmt.corpus.decontaminate import Forbidden, comparison_key
from kdmt.corpus.dropped import (
    NUM_EXAMPLES,
    Examples,
    cut_texts,
    describe_dropped,
    lost_much,
    show_texts,
    warning_lines,
)
from kdmt.corpus.filters.table import FilterContext, FilteredCorpus, run_filters
from kdmt.corpus.fingerprints import Finders, Fingerprints, compute_fingerprints
from kdmt.corpus.first_pass import (
    CleanedChunk,
    Overlaps,
    Pair,
    PassedCorpus,
    RawChunk,
    TrainingCorpus,
    remove_all_but_chunks,
    run_first_pass,
    run_shard,
)
from kdmt.corpus.ngram_overlap import NgramOverlaps, Overlap
from kdmt.corpus.overlaps import count_overlaps
from kdmt.corpus.process_pool import OpenMap, mapping_in_order
from kdmt.corpus.rules.language import LanguageRule
from kdmt.corpus.rules.pair_text import LanguagePair, PairText
from kdmt.corpus.rules.rule import ChangingRule, DroppingRule
from kdmt.corpus.rules.screening import plain_lines, suspected_rules
from kdmt.corpus.rules.table import RuleSet, build_rules, changing_names, dropping_names
from kdmt.corpus.second_pass import (
    RULES,
    Losses,
    Sizes,
    choose_output,
    choose_sizes,
    find_losses,
    texts_at,
    write_output,
)
from kdmt.corpus.sentence_lengths import RatioMedian, count_characters
from kdmt.errors import UserError
from kdmt.files import naming

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class CorpusCounts:
    """Counts of one corpus: numbers of pairs, except `lines_changed`, which counts lines of either side."""

    name: str
    weight: int
    tag: str | None
    pairs_in: int
    lines_changed: dict[str, int]  # rule -> number of lines that it changed
    # rule -> number of pairs that it dropped; a pair counts for the first rule that it breaks. The reasons why the
    # reader left out pairs, such as a low score in the file, count as rules
    dropped: dict[str, int]
    held_out_matches: dict[str, int]  # "test_2016.source" -> number of pairs with a source line of this set
    # "test_2016.source" -> line of this set, from 1 -> number of pairs that overlap with it; None without n-grams
    held_out_overlaps: dict[str, dict[str, int]] | None
    pairs_kept: int
    pairs_used: int | None  # part of pairs_kept by share or maximum number; None for all
    pairs_out: int  # used or kept pairs, times weight or in the proportions of a mixture
    examples: Examples  # beginnings of the first pairs that each rule dropped
    patterns: ListedPatterns = field(default_factory=dict)  # frequent beginnings of pairs dropped in the first pass

    @property
    def used(self) -> int:
        """Number of pairs that are used, each counted once."""
        return self.pairs_kept if self.pairs_used is None else self.pairs_used


@dataclass(frozen=True)
class CleaningReport:
    """Counts of each corpus, in the order of the output."""

    corpora: tuple[CorpusCounts, ...]
    typical_ratio: float  # target over source characters: median of the pairs that pass the other rules
    # "pair", "source" or "target" -> number of pairs of corpus i of which corpus j has this text first; the texts are
    # those by which duplicates are searched for. Empty for one corpus
    shared: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)

    @property
    def pairs_in(self) -> int:
        return sum(corpus.pairs_in for corpus in self.corpora)

    @property
    def pairs_out(self) -> int:
        return sum(corpus.pairs_out for corpus in self.corpora)

    @property
    def pairs_without_copies(self) -> int:
        """Number of pairs of the output, each counted once."""
        return sum(min(corpus.used, corpus.pairs_out) for corpus in self.corpora)

    @property
    def dropped(self) -> dict[str, int]:
        """Mapping from each rule to the number of pairs that it dropped in all corpora."""
        total: collections.Counter[str] = collections.Counter()
        for corpus in self.corpora:
            total.update(corpus.dropped)  # which keeps rules with a count of 0
        return dict(total)

    def as_dict(self) -> dict[str, object]:
        """Return the report as plain JSON values."""
        corpora = [dataclasses.asdict(dataclasses.replace(corpus, examples={}, patterns={})) for corpus in self.corpora]
        for corpus in corpora:
            del corpus["examples"], corpus["patterns"]  # report.json contains no text
            for name in ("held_out_overlaps", "pairs_used"):
                if corpus[name] is None:
                    del corpus[name]
        return {
            "pairs_in": self.pairs_in,
            "pairs_out": self.pairs_out,
            "typical_ratio": self.typical_ratio,
            "dropped": self.dropped,
            "corpora": corpora,
            **({"shared": self.shared} if self.shared else {}),
        }

    def dropped_examples(self) -> dict[str, Examples]:
        """Return the beginnings of the first pairs that each rule dropped, by corpus, as plain JSON values."""
        return {corpus.name: dict(corpus.examples) for corpus in self.corpora}

    def as_record(self) -> dict[str, Any]:
        """Return all values as JSON values, for `from_record`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> CleaningReport:
        """Return the report with the values of `as_record`."""
        corpora = []
        for values in record["corpora"]:
            examples = {rule: list(map(tuple, texts)) for rule, texts in values["examples"].items()}
            patterns = {rule: list(map(tuple, listed)) for rule, listed in values["patterns"].items()}
            corpora.append(CorpusCounts(**{**values, "examples": examples, "patterns": patterns}))
        values = dict(record)
        if "shared_pairs" in values:  # of an earlier version, which counted shared pairs only
            pairs = values.pop("shared_pairs")
            values["shared"] = {} if pairs is None else {"pair": pairs}
        shared = {kind: tuple(map(tuple, counts)) for kind, counts in values["shared"].items()}
        return cls(**{**values, "corpora": tuple(corpora), "shared": shared})

    @property
    def loses_much(self) -> bool:
        """Whether the number of dropped pairs of all corpora is large enough for a warning."""
        return lost_much(self.pairs_in, self.dropped)

    def sampling(self, *, mixed: bool) -> Iterator[str]:
        """Yield a line for each corpus of which the output has another number of pairs than `weight` alone gives."""
        for corpus in self.corpora:
            used = corpus.used
            if corpus.pairs_used is not None:
                yield f"{corpus.name}: {used:,} of {corpus.pairs_kept:,} pairs are used"
            if mixed and used:
                yield f"{corpus.name}: {used:,} pairs become {corpus.pairs_out:,} ({corpus.pairs_out / used:.2f} times)"

    def example(self) -> str:
        """Return the first pair dropped by the rule that drops the most, as the end of a message; empty if none."""
        rule = max(self.dropped, key=self.dropped.__getitem__)
        pairs = [pair for corpus in self.corpora for pair in corpus.examples.get(rule, ())]
        return f"; {rule} dropped {show_texts(cut_texts(*pairs[0]))}, for example" if pairs else ""

    def warnings(self, unit: str = "pairs") -> Iterator[str]:
        """Yield the lines of warnings about many dropped pairs: for each corpus, with examples, and for all."""
        what = f"{unit} dropped"
        for corpus in self.corpora:
            yield from warning_lines(corpus.name, what, corpus.pairs_in, corpus.dropped, corpus.examples)
        if len(self.corpora) > 1:
            yield from warning_lines("all corpora", what, self.pairs_in, self.dropped, {})


# ------------------------------------------------------------------------------------------------------- first pass


def clean_chunk(
    chunk: RawChunk, *, languages: LanguagePair, forbidden: Forbidden | None, context: Context | None = None
) -> CleanedChunk:
    """Apply the rules for single pairs to each pair of a chunk; with "none" keep every line unchanged.

    Of a source with context, the rules judge the sentence itself. The rules that change lines apply to each sentence of
    the context too. For duplicates the context belongs to the source.

    Args:
        context: how sources have their context (`kdmt.corpus.context`); None if they have none.
    """
    if chunk.clean == "none":
        return _keep_chunk(chunk.pairs, context)
    clean = chunk.clean
    rules = build_rules(clean, languages)
    dropped = _Dropped()
    pairs, contexts = _without_contexts(chunk.pairs, context)
    read: list[Pair] = []  # the kept pairs as they were read, without context
    unchanged: list[Pair] = []  # the same with swapped sides, where the rule for languages swaps them
    sides = [
        _clean_side([pair[side] for pair in pairs], rules.changing[side], rules, dropped.counts) for side in (0, 1)
    ]
    lines = list(zip(*sides, strict=True))
    foreign, swapped = _judge_languages(lines, rules.language)
    for index in swapped:
        lines[index] = _swap_sides(pairs[index], lines[index], rules, dropped.counts)
        contexts[index] = []  # in the language of the target
    suspected = suspected_rules(rules.dropping, [source for source, _ in lines], [target for _, target in lines])
    has_keys = forbidden is not None or clean.near_duplicates > 0
    kept = _Kept()
    for index, (source, target) in enumerate(lines):
        raw = (pairs[index][1], pairs[index][0]) if index in swapped else pairs[index]
        rule = broken_rule(PairText(source, target), suspected[index]) if suspected[index] else None
        if rule is None and index in foreign:
            rule = LanguageRule.name
        keys = (comparison_key(source), comparison_key(target)) if rule is None and has_keys else _NO_KEYS
        if rule is None and forbidden is not None:
            matches = _match_held_out(forbidden, keys, (source, target), raw)
            if matches:
                rule = "held_out"
                dropped.counts.update(matches)
        if rule is not None:
            dropped.add(rule, pairs[index])
            continue
        if index in swapped:
            dropped.counts[LanguageRule.swapped] += 1
        read.append(pairs[index])
        unchanged.append(raw)
        kept.add((source, target), keys, contexts[index])
    overlaps: Overlaps = collections.Counter()
    if forbidden is not None and forbidden.overlaps is not None:
        found = _find_overlaps(forbidden.overlaps, kept, unchanged)
        overlaps.update((each.side, each.line) for each in found)
        indices = sorted({each.index for each in found})
        for index in indices:
            dropped.add("held_out_overlap", read[index])
        kept = kept.without(indices)
    written = kept.sources if context is None else _with_contexts(kept, context, rules)
    fingerprints = compute_fingerprints(written, kept.targets, clean, keys=(kept.source_keys, kept.target_keys))
    made = _make_chunk(kept.sources, kept.targets, fingerprints, len(chunk.pairs), dropped, overlaps)
    return made if context is None else dataclasses.replace(made, source=_join(written))


def _match_held_out(forbidden: Forbidden, keys: tuple[bytes, bytes], cleaned: Pair, raw: Pair) -> tuple[str, ...]:
    """Return the held-out sides that contain a side of a pair, as the rules leave it or as it was before."""
    matches = forbidden.matches(*keys)
    if raw == cleaned:
        return matches
    return tuple(dict.fromkeys(matches + forbidden.matches(*map(comparison_key, raw))))


def _find_overlaps(overlaps: NgramOverlaps, kept: _Kept, raw: Sequence[Pair]) -> list[Overlap]:
    """Return the overlaps of pairs as the rules leave them, and of those that a rule changed as they were before."""
    found = overlaps.find((kept.sources, kept.targets))
    changed = [
        index for index, cleaned in enumerate(zip(kept.sources, kept.targets, strict=True)) if raw[index] != cleaned
    ]
    if changed:
        before = [[limit_marks(raw[index][side].replace("\n", " ")) for index in changed] for side in (0, 1)]
        again = overlaps.find((before[0], before[1]))
        found += [dataclasses.replace(each, index=changed[each.index]) for each in again]
    return list(dict.fromkeys(found))


def _without_contexts(pairs: Sequence[Pair], context: Context | None) -> tuple[Sequence[Pair], list[list[str]]]:
    """Return pairs without the contexts of their sources, and the sentences of each context."""
    if context is None:
        return pairs, [[] for _ in pairs]
    split = [split_context(source, context) for source, _ in pairs]
    without = [(sentence, target) for (_, sentence), (_, target) in zip(split, pairs, strict=True)]
    return without, [previous for previous, _ in split]


def _with_contexts(kept: _Kept, context: Context, rules: RuleSet) -> list[str]:
    """Return the kept sources with their contexts, each sentence of which is changed as sources are."""
    uncounted: collections.Counter[str] = collections.Counter()  # these sentences are counted as sources
    flat = [sentence for previous in kept.contexts for sentence in previous]
    sentences = iter(_clean_side(flat, rules.changing[0], rules, uncounted) if flat else ())
    return [
        join_context(list(itertools.islice(sentences, len(previous))), source, context)
        for previous, source in zip(kept.contexts, kept.sources, strict=True)
    ]


@dataclass(frozen=True)
class _Kept:
    """Lines of the pairs of a chunk that are kept, with their comparison keys if these are needed.

    The sentences of the contexts are as they were read.
    """

    sources: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    source_keys: list[bytes] = field(default_factory=list)
    target_keys: list[bytes] = field(default_factory=list)
    contexts: list[list[str]] = field(default_factory=list)

    def add(self, pair: Pair, keys: tuple[bytes, bytes], context: list[str]) -> None:
        """Append a pair with the sentences of its context."""
        self.sources.append(pair[0])
        self.targets.append(pair[1])
        self.source_keys.append(keys[0])
        self.target_keys.append(keys[1])
        self.contexts.append(context)

    def without(self, indices: Sequence[int]) -> _Kept:
        """Return all pairs except those at these indices."""
        if not indices:
            return self
        dropped = set(indices)
        is_kept = [index not in dropped for index in range(len(self.sources))]
        sources, targets = (list(itertools.compress(lines, is_kept)) for lines in (self.sources, self.targets))
        source_keys, target_keys = (
            list(itertools.compress(keys, is_kept)) for keys in (self.source_keys, self.target_keys)
        )
        contexts = list(itertools.compress(self.contexts, is_kept))
        return _Kept(sources, targets, source_keys, target_keys, contexts)


@dataclass(frozen=True)
class _Dropped:
    """Counts of a chunk, and the first pairs and the patterns of pairs that each rule drops."""

    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    examples: Examples = field(default_factory=dict)
    patterns: PatternCounts = field(default_factory=dict)

    def add(self, rule: str, pair: Pair) -> None:
        """Count a dropped pair, given as it was read."""
        self.counts[rule] += 1
        self.patterns.setdefault(rule, collections.Counter())[pattern_of(*pair)] += 1
        if self.counts[rule] <= NUM_EXAMPLES:
            self.examples.setdefault(rule, []).append(cut_texts(*pair))


_NO_KEYS = (b"", b"")


def _clean_side(
    lines: list[str], changing: Iterable[ChangingRule], rules: RuleSet, counts: collections.Counter[str]
) -> list[str]:
    """Return the lines of a side after the rules that change lines."""
    others_N = ~plain_lines(lines) if rules.keeps_plain else np.ones(len(lines), dtype=bool)
    for index in np.flatnonzero(others_N).tolist():
        lines[index] = clean_line(lines[index], changing, counts)
    return lines


def _swap_sides(raw: Pair, cleaned: Pair, rules: RuleSet, counts: collections.Counter[str]) -> Pair:
    """Return a pair with its sides swapped, each after the rules of its new side, and correct the counts."""
    if rules.changing[0] == rules.changing[1]:
        return cleaned[1], cleaned[0]
    before: collections.Counter[str] = collections.Counter()
    for line, changing in zip(raw, rules.changing, strict=True):
        clean_line(line, changing, before)
    counts.subtract(before)
    return clean_line(raw[1], rules.changing[0], counts), clean_line(raw[0], rules.changing[1], counts)


def _judge_languages(pairs: Sequence[Pair], rule: LanguageRule | None) -> tuple[set[int], set[int]]:
    """Return the indices of the pairs that the rule for languages drops, and of those whose sides it swaps."""
    if rule is None:
        return set(), set()
    verdicts = rule.judge([source for source, _ in pairs], [target for _, target in pairs])
    foreign, swapped = (np.flatnonzero(mask_N).tolist() for mask_N in (verdicts.dropped_N, verdicts.swapped_N))
    return set(foreign), set(swapped)


def _keep_chunk(pairs: Sequence[Pair], context: Context | None) -> CleanedChunk:
    """Return a chunk with every line unchanged."""
    sources, targets = [without_context(pair[0], context) for pair in pairs], [pair[1] for pair in pairs]
    made = _make_chunk(sources, targets, Fingerprints(), len(pairs), _Dropped(), collections.Counter())
    return made if context is None else dataclasses.replace(made, source=_join([pair[0] for pair in pairs]))


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
    fingerprints: Fingerprints,
    pairs_in: int,
    dropped: _Dropped,
    overlaps: Overlaps,
) -> CleanedChunk:
    return CleanedChunk(
        source=_join(sources),
        target=_join(targets),
        fingerprints=fingerprints,
        pairs_in=pairs_in,
        num_pairs=len(sources),
        counts=dropped.counts,
        characters=(count_characters(sources), count_characters(targets)),
        examples=dropped.examples,
        overlaps=overlaps,
        patterns=prune_chunk(dropped.patterns),
    )


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
    resume: bool = False,
    workers: int = 1,
    open_map: OpenMap | None = None,
    spaced: tuple[bool, bool] = (True, True),
    languages: tuple[str, str] | None = None,
    filters: FilterContext | None = None,
    mixing: Mixing | None = None,
    seed: int = 1,
    shards: ChunkShards | None = None,
    context: Context | None = None,
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
            error; it needs the size of the text and 60 bytes per pair, or 110 if duplicates are found by one side.
        resume: whether the chunks in `workdir` of an interrupted call with the same arguments are used. The caller
            removes the folder then; after an error this function does.
        workers: number of processes for the first pass; 1 for this process only.
        open_map: where the rules of the first pass are applied, instead of `workers` processes.
        spaced: whether each side is written with spaces between words; limits on words apply only to such sides.
        languages: codes of both languages, for the rules that need them.
        filters: what the filters by scores need; None to leave them out.
        mixing: numbers of pairs of the corpora by temperature, instead of their weights.
        seed: seed of the choice of pairs, where a corpus is not used as a whole.
        shards: shards whose finished chunks are used (see `clean_shard`); the caller removes their folder.
        context: how sources have their context; None if they have none.

    Raises:
        UserError: if no pair is left or the disk is full. Errors of reading the pairs are raised too. After an error,
            the files at the final paths are unchanged.
    """
    finals = [out_source, out_target, out_tags]
    asides = [path.with_name(path.name + ".part") for path in finals]
    open_map = open_map or functools.partial(mapping_in_order, workers=workers)
    apply_rules = functools.partial(
        clean_chunk, languages=LanguagePair(spaced, languages), forbidden=forbidden, context=context
    )
    with _clearing_up(workdir, asides, resume=resume):
        rules = None if clean == "none" else clean
        finders = Finders(workdir, rules)
        median = RatioMedian()
        passed = run_first_pass(workdir, corpora, clean, apply_rules, finders, median, open_map, shards)
        typical = median.value()
        losses = find_losses(passed, finders, rules, typical=typical, workdir=workdir)
        if filters is not None:
            losses = _add_filters(passed, losses, filters)
        checked = forbidden if clean != "none" else None
        sizes = choose_sizes(passed, losses, mixing)
        counted = [_count(*each, checked) for each in zip(passed, losses, sizes, strict=True)]
        report = CleaningReport(tuple(counted), typical, _count_shared(passed, finders))
        _require_pairs(report)
        output = choose_output(passed, losses, sizes, seed=seed)
        write_output(output, *asides)
        _publish(asides, finals)
    return report


def _publish(asides: Sequence[Path], finals: Sequence[Path]) -> None:
    """Rename finished files; remove the final file of a part that was not written, because no corpus has a tag."""
    for aside, final in zip(asides, finals, strict=True):
        if aside.exists():
            aside.replace(final)
        else:
            final.unlink(missing_ok=True)


def clean_shard(
    corpora: Iterable[TrainingCorpus],
    shards: ChunkShards,
    shard: int,
    *,
    clean: Clean | Literal["none"],
    forbidden: Forbidden | None,
    open_map: OpenMap,
    spaced: tuple[bool, bool] = (True, True),
    languages: tuple[str, str] | None = None,
    context: Context | None = None,
) -> int:
    """Apply the rules for single pairs to the chunks of one shard, for a later call of `clean_corpora`.

    Chunks that an interrupted call has finished are kept. The arguments are those of `clean_corpora`.

    Args:
        shards: shards of the first pass.
        shard: number of the shard, from 0.

    Returns:
        The number of finished chunks of the shard.

    Raises:
        UserError: if the disk is full; the finished chunks are kept.
    """
    apply_rules = functools.partial(
        clean_chunk, languages=LanguagePair(spaced, languages), forbidden=forbidden, context=context
    )
    try:
        with naming(shards.folder):
            return run_shard(shards, shard, corpora, clean, apply_rules, open_map)
    except OSError as error:
        if error.errno not in _DISK_IS_FULL:
            raise
        raise UserError(f"{shards.folder}: the disk is full; finished chunks are kept") from error


def _count_shared(passed: Sequence[PassedCorpus], finders: Finders) -> dict[str, tuple[tuple[int, ...], ...]]:
    if len(passed) < 2:
        return {}
    num_pairs = [one.num_pairs for one in passed]
    return {
        kind: tuple(map(tuple, count_overlaps(finder.find_first(), num_pairs).tolist()))
        for kind, finder in finders.exact.items()
    }


def _add_filters(passed: Sequence[PassedCorpus], losses: Sequence[Losses], filters: FilterContext) -> list[Losses]:
    """Return the losses of each corpus with those of the filters by scores."""
    corpora = [
        FilteredCorpus(
            None if one.clean == "none" else one.clean.rules, one.source, one.target, own.dropped_N, one.num_pairs
        )
        for one, own in zip(passed, losses, strict=True)
    ]
    masks = run_filters(corpora, filters)
    return [Losses(own.masks | added) for own, added in zip(losses, masks, strict=True)]


@contextmanager
def _clearing_up(workdir: Path, asides: Sequence[Path], *, resume: bool) -> Iterator[None]:
    """Create an empty `workdir`, and remove it and `asides` after the body; a full disk becomes a `UserError`.

    With `resume`, the results of the first pass are kept, except after an error.
    """
    if not resume:
        shutil.rmtree(workdir, ignore_errors=True)
    is_kept = resume
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        remove_all_but_chunks(workdir)
        with naming(workdir):
            yield
    except Exception as error:
        is_kept = False
        if not isinstance(error, OSError) or error.errno not in _DISK_IS_FULL:
            raise
        raise UserError(f"{error.filename or workdir}: the disk is full; nothing was written") from error
    finally:
        if not is_kept:
            shutil.rmtree(workdir, ignore_errors=True)
        for aside in asides:
            aside.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------ counts


def _count(one: PassedCorpus, losses: Losses, sizes: Sizes, forbidden: Forbidden | None) -> CorpusCounts:
    positions = {rule: np.flatnonzero(mask_N) for rule, mask_N in losses.masks.items()}
    seen_late = {rule: len(found) for rule, found in positions.items()}
    examples = dict(one.examples)
    for rule, found in positions.items():
        if len(found):
            examples[rule] = texts_at(one, found[:NUM_EXAMPLES].tolist())
    first_rules = [*dropping_names(one.clean), "held_out"]
    held_out_sides = () if forbidden is None else forbidden.sides
    overlaps: dict[str, dict[str, int]] | None = None
    if forbidden is not None and forbidden.overlaps is not None:
        first_rules.append("held_out_overlap")
        overlaps = {}
        for (side, line), count in sorted(one.overlaps.items()):
            overlaps.setdefault(side, {})[str(line)] = count
    return CorpusCounts(
        name=one.corpus.name,
        weight=one.corpus.weight,
        tag=one.corpus.tag,
        pairs_in=one.pairs_in + sum(one.corpus.left_out.values()),
        lines_changed={rule: one.counts[rule] for rule in changing_names(one.clean)},
        dropped={**one.corpus.left_out, **{rule: one.counts[rule] for rule in first_rules}}
        | dict.fromkeys(RULES, 0)
        | seen_late,
        held_out_matches={side: one.counts[side] for side in held_out_sides},
        held_out_overlaps=overlaps,
        pairs_kept=sizes.kept,
        pairs_used=sizes.used if one.corpus.share < 1.0 or one.corpus.max_pairs else None,
        pairs_out=sizes.output,
        examples=examples,
        patterns=list_patterns(one.patterns),
    )


def _require_pairs(report: CleaningReport) -> None:
    if report.pairs_out == 0:
        raise UserError(
            f"cleaning leaves none of {report.pairs_in} training pairs; dropped: "
            f"{describe_dropped(report.pairs_in, report.dropped)}{report.example()}"
        )
