"""The text that is distilled: the training text of a prepared corpus and, if selected, its monolingual text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.distill.merge import TrainingText
from kdmt.distill.sources import SourceText


@dataclass(frozen=True)
class Inputs:
    """The text that a teacher translates.

    Attributes:
        corpus: prepared corpus.
        monolingual: True if its monolingual text is translated too, after the training text.
        split: name of the parallel text: train, or valid to tune a choice of targets.
    """

    corpus: PreparedCorpus
    monolingual: bool = False
    split: str = "train"

    def source_prefixes(self) -> tuple[Path, ...]:
        """Return the data-bin prefixes of the source text, in order."""
        splits = (self.split, "monolingual") if self.monolingual else (self.split,)
        return tuple(self.corpus.prefix(split, self.corpus.direction.source) for split in splits)

    def texts(self) -> list[TrainingText]:
        """Return the files of the training text and, if selected, of the monolingual text."""
        corpus, (src, tgt) = self.corpus, self.corpus.direction.sides
        tags = corpus.tags if self.split == "train" else None
        texts = [TrainingText(corpus.text(self.split, src), corpus.text(self.split, tgt), tags)]
        if self.monolingual:
            texts.append(TrainingText(corpus.text("monolingual", src)))
        return texts

    def num_lines(self) -> int:
        """Return the number of lines of all text."""
        return len(SourceText(self.source_prefixes()))

    def num_references(self) -> int:
        """Return the number of lines that have references; they come first."""
        return len(IndexedDataset(self.source_prefixes()[0]))
