"""The folder of the prepare stage: the names of its files, and measurements of its text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdmt.config import Prepare
from kdmt.corpus.binarize import data_prefix, dictionary_path
from kdmt.corpus.codec import TEXT_FILE, TextCodec, load_text_processor
from kdmt.corpus.sentence_lengths import typical_ratio
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import read_chunks
from kdmt.files import read_optional_json
from kdmt.languages import Direction, writes_spaces

REPORT = "report.json"
REPORT_EXAMPLES = "report-examples.json"  # of dropped pairs
MONOLINGUAL_TAGS = "monolingual.tags"  # directions of the monolingual lines, if there are several
TAGS_OF_MONOLINGUAL = {"monolingual": MONOLINGUAL_TAGS, "monolingual_target": "monolingual_target.tags"}
PARTIAL_SUFFIX = ".partial"  # suffix of the folder's name until it is complete


@dataclass(frozen=True)
class PreparedCorpus:
    """A clean corpus with its data-bin, tokenizer and dictionaries.

    Attributes:
        folder: folder of the prepare stage.
        direction: translation direction.
        spaced: whether the source and the target have spaces between words.
    """

    folder: Path
    direction: Direction
    spaced: tuple[bool, bool]

    @property
    def data_bin(self) -> Path:
        """Return the folder of binarised text."""
        return self.folder / "data-bin"

    @property
    def text_file(self) -> Path:
        """Return the file with the settings of text processing."""
        return self.folder / TEXT_FILE

    @property
    def tags(self) -> Path | None:
        """Return the file with the tags of the training text, or None if there is none."""
        path = self.folder / "train.tags"
        return path if path.exists() else None

    @property
    def monolingual_tags(self) -> Path | None:
        """Return the file with the direction of each monolingual source; None if there is none (one direction)."""
        path = self.folder / MONOLINGUAL_TAGS
        return path if path.exists() else None

    def text(self, split: str, lang: str) -> Path:
        """Return the file with the clean text of a split in one language."""
        return self.folder / f"{split}.{lang}"

    def prefix(self, split: str, lang: str) -> Path:
        """Return the prefix of the `.bin` and `.idx` files of a split in one language."""
        return data_prefix(self.data_bin, split, self.direction, lang)

    def dictionary(self, lang: str) -> Path:
        """Return the dictionary file of one language."""
        return dictionary_path(self.folder, lang)

    def codec(self) -> TextCodec:
        """Load the tokenizer, the dictionaries and the text processing."""
        return TextCodec.load(self.folder)

    def text_processor(self) -> TextProcessor:
        """Load only the text processing."""
        return load_text_processor(self.text_file)

    def recorded_ratio(self) -> float | None:
        """Return the typical ratio of target to source characters in the report, or None if it has none."""
        report = read_optional_json(self.folder / REPORT) or {}
        return report.get("typical_ratio")

    def typical_ratio(self) -> float:
        """Return the recorded typical ratio of target to source characters, or compute it from the training text."""
        recorded = self.recorded_ratio()
        return typical_ratio(training_chunks(self.folder, self.direction)) if recorded is None else recorded

    def ratios_of_directions(self) -> dict[str, float]:
        """Return the recorded typical ratio of each direction, by the tag of its pairs; none for one direction."""
        report = read_optional_json(self.folder / REPORT) or {}
        return {name: found["typical_ratio"] for name, found in report.get("directions", {}).items()}

    def typical_ratios(self) -> float | Mapping[str, float]:
        """Return the typical ratio of each direction, by the tag of its pairs; of one direction its ratio alone."""
        return self.ratios_of_directions() or self.typical_ratio()


def spaced_sides(settings: Prepare, direction: Direction) -> tuple[bool, bool]:
    """Return whether source and target have spaces between words.

    Text that is already tokenised has them in any language.
    """
    if settings.text.already_applied or settings.tokenizer.type == "words":
        return True, True
    return writes_spaces(direction.source), writes_spaces(direction.target)


def training_chunks(folder: Path, direction: Direction) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the training text in the folder of a prepare stage, in chunks of lines of both sides."""
    sources, targets = (read_chunks(folder / f"train.{lang}") for lang in direction.sides)
    return zip(sources, targets, strict=True)


def reference_paths(folder: Path, split: str, lang: str) -> list[Path]:
    """Return the files of the further references of a held-out set, in their order; none if it has one reference."""
    paths = (folder / f"{split}.raw{number}.{lang}" for number in itertools.count(1))
    return list(itertools.takewhile(Path.is_file, paths))
