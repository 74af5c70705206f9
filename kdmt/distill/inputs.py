"""The text that is distilled: the training text of a prepared corpus and, if selected, its monolingual text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kdmt.config import Context
from kdmt.corpus.binarize import data_prefix
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.lines import iterate_lines
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.distill.merge import TrainingText
from kdmt.distill.sources import Encode, SourceLines, SourceText, Text
from kdmt.languages import POOLED, Direction


@dataclass(frozen=True)
class Inputs:
    """The text that a teacher translates.

    Attributes:
        corpus: prepared corpus.
        monolingual: True if its monolingual text is translated too, after the training text.
        split: name of the parallel text: train, or valid to tune a choice of targets.
        noised: folder with changed text (`kdmt.distill.noised`) instead of that of the corpus; None for none.
        originals: tags of the lines that keep their original targets.
        context: how sources have the previous sentences of their documents; None if they have none.
    """

    corpus: PreparedCorpus
    monolingual: bool = False
    split: str = "train"
    noised: Path | None = None
    originals: frozenset[str] = frozenset()
    context: Context | None = None

    def source_prefixes(self) -> tuple[Path, ...]:
        """Return the data-bin prefixes of the source text, in order."""
        splits = (self.split, "monolingual") if self.monolingual else (self.split,)
        data_bin, direction = (self.noised or self.corpus.folder) / "data-bin", self.corpus.direction
        return tuple(data_prefix(data_bin, split, direction, direction.source) for split in splits)

    def texts(self) -> list[TrainingText]:
        """Return the files of the training text and, if selected, of the monolingual text."""
        src, tgt = self.corpus.direction.sides
        tags = self.corpus.tags if self.split == "train" or self.has_several else None
        if tags is not None and self.split != "train":  # a held-out set has no tags of corpora
            tags = tags.with_name(f"{self.split}.tags")
        sides = self._text(self.split, src), self._text(self.split, tgt)
        texts = [TrainingText(*sides, tags, self.originals, self.context)]
        if self.monolingual:
            texts.append(TrainingText(self._text("monolingual", src), tags=self.corpus.monolingual_tags))
        return texts

    def tags(self) -> list[Path]:
        """Return the files with the tag of each line, in order; those of text without tags are left out."""
        return [text.tags for text in self.texts() if text.tags is not None]

    @property
    def has_several(self) -> bool:
        """Return whether the text has several directions, which are the tags of its lines."""
        return self.corpus.direction == POOLED

    def directions(self) -> list[Direction]:
        """Return the directions of the text, in the order in which they occur."""
        if not self.has_several:
            return [self.corpus.direction]
        return list(map(Direction.parse, dict.fromkeys(tag for path in self.tags() for tag in iterate_lines(path))))

    def typical_ratios(self) -> float | Mapping[str, float]:
        """Return the typical ratio of lengths, or that of each tag of the lines if these are directions."""
        has_tags = all(text.tags is not None for text in self.texts())
        return self.corpus.typical_ratios() if has_tags else self.corpus.typical_ratio()

    def _text(self, split: str, lang: str) -> Path:
        return (self.noised or self.corpus.folder) / f"{split}.{lang}"

    def opens_lines(self, encode: Encode) -> Callable[[], Text]:
        """Return a function that opens the source lines of all text; it can be sent to another process.

        Args:
            encode: function that converts lines to ids.
        """
        return partial(SourceLines, tuple(text.source for text in self.texts()), encode)

    def num_lines(self) -> int:
        """Return the number of lines of all text."""
        return len(SourceText(self.source_prefixes()))

    def num_references(self) -> int:
        """Return the number of lines that have references; they come first."""
        return len(IndexedDataset(self.source_prefixes()[0]))
