"""Table of the filters by scores, and the masks of the pairs that they drop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from kdmt.config import AlignmentScore, Clean, CrossEntropyDifference, ExternalFilter, ReverseScore, Rules, ScoreLimit
from kdmt.corpus.filters.alignment_score import AlignmentFilter
from kdmt.corpus.filters.command import CommandFilter
from kdmt.corpus.filters.cross_entropy import CrossEntropyFilter
from kdmt.corpus.filters.scored_filter import Flags, KeptText, Pair, ScoredFilter, Scores, choose_dropped
from kdmt.corpus.process_pool import OpenMap

ScoreFiles = Callable[[ReverseScore, Path, Path], Scores]  # settings, file of each side -> score of each line


@dataclass(frozen=True)
class FilterContext:
    """What filters by scores need besides their settings.

    Attributes:
        spaced: whether each side is written with spaces between words.
        valid: pairs of the validation set.
        cache: folder for scores that later runs use again.
        workdir: existing folder for temporary files.
        open_map: context in which batches of pairs are scored.
        say: function that prints a line for the user.
        score_files: function that computes the scores of a reverse model; None if there is none.
        places: index of a corpus in `prepare.train` -> its place among the filtered corpora; empty if equal.
    """

    spaced: tuple[bool, bool]
    valid: Sequence[Pair]
    cache: Path
    workdir: Path
    open_map: OpenMap
    say: Callable[[str], None]
    score_files: ScoreFiles | None = None
    places: Mapping[int, int] = field(default_factory=dict)


class ReverseFilter:
    """Filter by the probability of the source given the target under a model of the opposite direction."""

    def __init__(self, settings: ReverseScore, context: FilterContext) -> None:
        self._settings, self._context = settings, context

    def fit(self, texts: Sequence[KeptText]) -> None:
        """Do nothing: the model is trained."""

    def score(self, text: KeptText) -> Scores:
        """Return the mean log-probability of the source tokens of each kept pair [K]."""
        if self._context.score_files is None:
            raise ValueError("the filter 'reverse' needs a function that scores files")
        with TemporaryDirectory(dir=self._context.workdir) as folder:
            paths = Path(folder, "source"), Path(folder, "target")
            with paths[0].open("w", encoding="utf-8") as source, paths[1].open("w", encoding="utf-8") as target:
                for pair in text.pairs():
                    source.write(f"{pair[0]}\n")
                    target.write(f"{pair[1]}\n")
            return self._context.score_files(self._settings, *paths)


def _open_alignment(settings: AlignmentScore, context: FilterContext) -> ScoredFilter:
    return AlignmentFilter(settings, spaced=context.spaced, open_map=context.open_map)


def _open_cross_entropy(settings: CrossEntropyDifference, context: FilterContext) -> ScoredFilter:
    domain = settings.in_domain_corpus
    if domain is not None:
        settings = settings.model_copy(update={"in_domain_corpus": context.places.get(domain, domain)})
    return CrossEntropyFilter(settings, valid=context.valid, spaced=context.spaced, open_map=context.open_map)


def _open_command(settings: ExternalFilter, context: FilterContext) -> ScoredFilter:
    return CommandFilter(settings, cache=context.cache, say=context.say)


# name in `prepare.clean.rules` -> filter, from its settings; in the order in which they are applied
FILTERS: Mapping[str, Callable[[Any, FilterContext], ScoredFilter]] = {
    "alignment": _open_alignment,
    "cross_entropy": _open_cross_entropy,
    "reverse": ReverseFilter,
    "filter": _open_command,
}


@dataclass(frozen=True)
class FilteredCorpus:
    """A corpus that filters look at.

    Attributes:
        rules: rules of the corpus; None for none.
        source, target: files with the text of each side, one line per pair.
        dropped_N: mask of the pairs that other rules drop; empty for none.
        num_pairs: number of lines of each file.
    """

    rules: Rules | None
    source: Path
    target: Path
    dropped_N: Flags
    num_pairs: int

    def kept(self, masks: Mapping[str, Flags]) -> KeptText:
        """Return the text that neither the other rules nor earlier filters drop, given the masks of these."""
        kept_N = ~self.dropped_N if len(self.dropped_N) else np.ones(self.num_pairs, dtype=bool)
        for mask_N in masks.values():
            kept_N = kept_N & ~mask_N
        return KeptText(self.source, self.target, kept_N)


def filter_names(clean: Clean | str) -> tuple[str, ...]:
    """Return the names of the filters by scores that settings have."""
    rules = clean.rules if isinstance(clean, Clean) else None
    return tuple(name for name in FILTERS if getattr(rules, name, None) is not None)


def run_filters(corpora: Sequence[FilteredCorpus], context: FilterContext) -> list[dict[str, Flags]]:
    """Return for each corpus: filter -> mask [N] of the pairs that it drops. No pair is in two masks.

    A filter learns from all corpora, and is applied to those whose rules have it.
    """
    masks: list[dict[str, Flags]] = [{} for _ in corpora]
    for name, open_filter in FILTERS.items():
        texts = [corpus.kept(own) for corpus, own in zip(corpora, masks, strict=True)]
        for settings, members in _groups([getattr(corpus.rules, name, None) for corpus in corpora]):
            scored = open_filter(settings, context)
            scored.fit(texts)
            for number in members:
                masks[number][name] = _dropped(scored.score(texts[number]), texts[number], settings)
    return masks


def _groups(settings: Sequence[ScoreLimit | None]) -> Iterator[tuple[ScoreLimit, list[int]]]:
    """Yield each distinct setting with the numbers of the corpora that have it."""
    distinct = [one for number, one in enumerate(settings) if one is not None and one not in settings[:number]]
    for one in distinct:
        yield one, [number for number, other in enumerate(settings) if other == one]


def _dropped(scores_K: Scores, text: KeptText, limit: ScoreLimit) -> Flags:
    dropped_N = np.zeros(len(text.kept_N), dtype=bool)
    dropped_N[text.kept_N] = choose_dropped(scores_K, limit)
    return dropped_N
