"""Blocks to one distilled text: line i belongs to line i of the training source."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from kdmt.config import Failures
from kdmt.corpus.lines import iterate_lines
from kdmt.distill.blocks import Block, Decoded, read_block
from kdmt.distill.decoding import source_sha
from kdmt.distill.failures import FAILURES, Failure, find_failure, find_text_failures
from kdmt.distill.selection import BEST, Candidate, Selector
from kdmt.errors import UserError


@dataclass
class MergeReport:
    """Nothing disappears silently: every failure is counted, every dropped line has its index here."""

    num_sentences: int = 0
    num_lines: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    replaced: dict[int, str] = field(default_factory=dict)  # index -> failure for which the reference stands there
    dropped: dict[int, str] = field(default_factory=dict)  # index in the training source -> failure
    weights: array[float] = field(default_factory=lambda: array("f"))  # of each line, where the selection weighs them


@dataclass(frozen=True)
class TrainingText:
    """The files of the training set that distilled text is aligned with, line by line."""

    source: Path
    target: Path
    tags: Path | None


def merge_blocks(
    blocks: Sequence[Block],
    folder: Path,
    key: str,
    *,
    sources: Sequence[np.ndarray],
    text: TrainingText,
    to_words: Callable[[tuple[int, ...]], str],
    settings: Failures,
    select: Selector = BEST,
    out_source: Path,
    out_target: Path,
    out_tags: Path,
    out_nbest: Path | None,
) -> MergeReport:
    """Write the distilled corpus, in bounded memory.

    Raises:
        UserError: a block is missing or damaged, or holds another sentence than the training source has there.
    """
    report = MergeReport()
    sentences = _checked(blocks, folder, key, sources)
    with (
        out_source.open("w", encoding="utf-8", newline="\n") as source_file,
        out_target.open("w", encoding="utf-8", newline="\n") as target_file,
        out_tags.open("w", encoding="utf-8", newline="\n") as tags_file,
        (out_nbest or Path("/dev/null")).open("w", encoding="utf-8", newline="\n") as nbest_file,
    ):
        for sentence, source, reference, tag in zip(sentences, *_lines(text, len(sources)), strict=True):
            report.num_sentences += 1
            for words, weight in _choose(sentence, source, reference, to_words, settings, select, report):
                report.num_lines += 1
                if select.weighs:
                    report.weights.append(weight)
                source_file.write(f"{source}\n")
                target_file.write(f"{words}\n")
                tags_file.write(f"{tag}\n")
            _write_nbest(nbest_file, sentence, to_words)
    if text.tags is None:
        out_tags.unlink()
    return report


def _checked(blocks: Iterable[Block], folder: Path, key: str, sources: Sequence[np.ndarray]) -> Iterator[Decoded]:
    for block in blocks:
        for sentence in read_block(folder, block, key):
            if sentence.source_sha != source_sha(sources[sentence.index]):
                raise UserError(
                    f"{block.path(folder)}: sentence {sentence.index} is not the one of the training source"
                )
            yield sentence


def _lines(text: TrainingText, count: int) -> tuple[Iterable[str], Iterable[str], Iterable[str]]:
    tags = iterate_lines(text.tags) if text.tags is not None else iter([""] * count)
    return iterate_lines(text.source), iterate_lines(text.target), tags


def _choose(
    sentence: Decoded,
    source: str,
    reference: str,
    to_words: Callable[[tuple[int, ...]], str],
    settings: Failures,
    select: Selector,
    report: MergeReport,
) -> list[tuple[str, float]]:
    """The lines for this sentence with their weights; none if it is dropped.

    Hypotheses that fail are not selected from. Where all that the selection looks at fail, the first one's failure says
    what becomes of the sentence.
    """
    looked_at = min(len(sentence.tokens), select.depth)
    candidates = [_candidate(sentence, place, to_words) for place in range(looked_at)]
    failures = _failures(sentence, candidates, source, settings)
    usable = [each for each, failure in zip(candidates, failures, strict=True) if failure is None]
    if usable:
        return [(candidate.words, weight) for candidate, weight in select.choose(usable, reference)]
    first: Failure = next((failure for failure in failures if failure is not None), "empty")
    report.failures[first] += 1
    action = getattr(settings, first)
    if action == "reference":
        report.replaced[sentence.index] = first
        return [(reference, 1.0)]
    if action == "drop":
        report.dropped[sentence.index] = first
        return []
    return [(candidates[0].words if candidates else "", 1.0)]


def _candidate(sentence: Decoded, place: int, to_words: Callable[[tuple[int, ...]], str]) -> Candidate:
    tokens = sentence.tokens[place]
    return Candidate(to_words(tokens), sentence.scores[place], len(tokens) + 1)


def _failures(
    sentence: Decoded, candidates: Sequence[Candidate], source: str, settings: Failures
) -> list[Failure | None]:
    of_tokens = [
        find_failure(tokens, hit_limit=hit_limit, settings=settings)
        for _, tokens, hit_limit in zip(candidates, sentence.tokens, sentence.at_limit, strict=False)
    ]
    of_words = find_text_failures([candidate.words for candidate in candidates], [source] * len(candidates), settings)
    return [
        failure or (FAILURES[code - 1] if code else None)
        for failure, code in zip(of_tokens, of_words.tolist(), strict=True)
    ]


def _write_nbest(file: TextIO, sentence: Decoded, to_words: Callable[[tuple[int, ...]], str]) -> None:
    """`index<TAB>score<TAB>words`, a line a hypothesis."""
    for tokens, score in zip(sentence.tokens, sentence.scores, strict=True):
        file.write(f"{sentence.index}\t{score:.6f}\t{to_words(tokens)}\n")
