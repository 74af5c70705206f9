"""Comparison of distilled text with the references: similarity and complexity.

A teacher that has memorised its training set produces near-copies of the references; distillation then gains little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import compress, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.context import without_context
from kdmt.corpus.lines import iterate_lines
from kdmt.corpus.sentence_lengths import split_words
from kdmt.corpus.subwords import join_subwords
from kdmt.distill.inputs import Inputs
from kdmt.distill.merge import MergeReport
from kdmt.score.diagnostics import MAX_SENTENCES, Diagnostics, LinkCounts, count_links, diagnose
from kdmt.score.metrics import MetricScore, bleu

Result = TypeVar("Result")


@dataclass(frozen=True)
class ComparisonFacts:
    """The figures of a comparison."""

    num_compared: int
    against_reference: MetricScore
    diagnostics: Diagnostics

    def as_dict(self) -> dict[str, object]:
        """Return the figures for a manifest."""
        return {
            "num_compared": self.num_compared,
            "bleu_against_reference": self.against_reference.value,
            "bleu_signature": self.against_reference.signature,
            "diagnostics": asdict(self.diagnostics),
        }

    def explain(self) -> str:
        """Return the figures as a line of text."""
        bleu_score, found = self.against_reference, self.diagnostics
        return (
            f"what the teacher wrote against the references: BLEU {bleu_score.value:.2f} ({bleu_score.signature}), "
            f"conditional entropy {found.complexity_distilled:.3f} nats (references {found.complexity_real:.3f})"
        )


@dataclass(frozen=True)
class Comparison:
    """A comparison that may run in another process.

    Attributes:
        sources, references, distilled: lines with spaces between words.
        links: function that returns the word alignments of the references.
        bleu: function that returns BLEU of the distilled lines against the references.
    """

    sources: list[str]
    references: list[str]
    distilled: list[str]
    links: Callable[[], LinkCounts]
    bleu: Callable[[], MetricScore]

    @classmethod
    def begin(
        cls,
        report: MergeReport,
        *,
        sources: Path,
        distilled: Path,
        inputs: Inputs,
        tokenize: str,
        remove_bpe: str | None,
        helper: Executor | None,
    ) -> Comparison | None:
        """Sample lines and begin to measure them; return None if no line can be compared.

        Args:
            sources, distilled: files of the two sides of the training set.
            tokenize: name of sacreBLEU's tokenizer.
            remove_bpe: type of subwords in the text, which are joined for BLEU.
            helper: process that does half of the work; if None, `facts` does all of it.
        """
        source_lines, references, lines = _sample(report, sources, distilled, inputs)
        if not any(line.strip() for line in lines):
            return None
        joined = [[join_subwords(line, remove_bpe) for line in side] for side in (lines, references)]
        measured = _later(helper, partial(bleu, *joined, tokenize=tokenize))
        source_spaced, target_spaced = inputs.corpus.spaced
        source_lines = _with_spaces(source_lines, spaced=source_spaced)
        references, lines = (_with_spaces(side, spaced=target_spaced) for side in (references, lines))
        links = _later(helper, partial(count_links, source_lines, references))
        return cls(source_lines, references, lines, links, measured)

    def facts(self) -> ComparisonFacts:
        """Return the figures, after the rest of the work and after that of the other process."""
        found = diagnose(self.sources, self.references, self.distilled, count_real=self.links)
        return ComparisonFacts(len(self.distilled), self.bleu(), found)


def _later(helper: Executor | None, work: Callable[[], Result]) -> Callable[[], Result]:
    """Return a function that returns the result of the work; with a helper, the work begins there immediately."""
    return work if helper is None else helper.submit(work).result


def _with_spaces(lines: list[str], *, spaced: bool) -> list[str]:
    """Return lines in the form that the diagnostics expect: with spaces between words."""
    return lines if spaced else [" ".join(split_words(line, spaced=False)) for line in lines]


def _sample(
    report: MergeReport, sources: Path, distilled: Path, inputs: Inputs
) -> tuple[list[str], list[str], list[str]]:
    """Return the source, reference and distilled line of teacher translations: all of a small corpus, else a sample.

    Of several targets of a line, only the first one is compared.
    """
    indices = np.frombuffer(report.indices, dtype=np.int64) if report.indices else np.empty(0, dtype=np.int64)
    text = inputs.texts()[0]
    references = text.target
    assert references is not None
    is_compared = np.frombuffer(bytes(report.of_teacher), dtype=np.uint8) > 0
    is_compared &= indices < inputs.num_references()
    is_compared &= np.diff(indices, prepend=-1) != 0
    chosen = np.flatnonzero(is_compared)
    chosen = chosen[:: max(1, -(-len(chosen) // MAX_SENTENCES))]
    return (
        [without_context(line, text.context) for line in _lines_at(sources, chosen)],
        list(_lines_at(references, indices[chosen])),
        list(_lines_at(distilled, chosen)),
    )


def _lines_at(path: Path, indices: NDArray[np.int64]) -> Iterator[str]:
    """Yield the lines with the given ascending indices."""
    wanted = np.zeros(int(indices[-1]) + 1 if len(indices) else 0, dtype=bool)
    wanted[indices] = True
    return compress(islice(iterate_lines(path), len(wanted)), wanted.tolist())
