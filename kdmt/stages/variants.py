"""Test sets of the score stage: those of the pipeline, and variants in which every sentence is changed.

A variant has the name `<test set>.<variant>`. Its sources are changed in the form that the tokenizer reads. Its
references follow as the targets of training data do: they are in the case of the source, lose the punctuation at the
end, are joined with the next one, and have the same markup; they have no typing errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdmt.choices import VariantModifier
from kdmt.config import Augment
from kdmt.corpus.augmentation import MODIFIERS, TextAugmenter, Texts
from kdmt.corpus.codec import TEXT_FILE, load_text_processor
from kdmt.corpus.lines import read_lines
from kdmt.corpus.prepared import spaced_sides
from kdmt.languages import Direction
from kdmt.stages.workspace import Workspace

_SEED, _EPOCH = 1, 0


@dataclass(frozen=True)
class ScoredText:
    """A test set that systems translate.

    Attributes:
        split: test set of the prepare stage.
        modifiers: changes of its sentences.
        direction: its direction, if the pipeline has several.
    """

    __test__ = False  # prevents pytest from collecting this class as tests

    split: str
    modifiers: Sequence[VariantModifier] = ()
    direction: Direction | None = None

    def sources(self, workspace: Workspace) -> list[str]:
        """Return the sources, in the form that the tokenizer reads."""
        lines = self._source(workspace)
        return [source for source, _ in self._changed(workspace, lines, lines, as_words=True)]

    def raw_texts(self, workspace: Workspace) -> tuple[list[str], list[str]]:
        """Return the sources and the references as published, changed.

        A variant with 'typos' may have other errors here than in `sources`, if text processing divides words.
        """
        sources, targets = (
            read_lines(workspace.prepare / f"{self.split}.raw.{lang}") for lang in workspace.direction.sides
        )
        pairs = self._changed(workspace, sources, targets, as_words=False)
        return [source for source, _ in pairs], [target for _, target in pairs]

    def references(self, workspace: Workspace, lines: Sequence[str], *, as_words: bool) -> list[str]:
        """Return changed references.

        Args:
            lines: references of the test set.
            as_words: whether they are in the form that the tokenizer reads.
        """
        pairs = self._changed(workspace, self._source(workspace), lines, as_words=as_words)
        return [target for _, target in pairs]

    def _source(self, workspace: Workspace) -> list[str]:
        return read_lines(workspace.prepare / f"{self.split}.{workspace.direction.source}")

    def _changed(
        self, workspace: Workspace, sources: Sequence[str], targets: Sequence[str], *, as_words: bool
    ) -> list[Texts]:
        pairs = list(zip(sources, targets, strict=True))
        if not self.modifiers:
            return pairs
        processor = load_text_processor(workspace.prepare / TEXT_FILE)
        direction = self.direction or workspace.direction
        if self.direction is not None:
            processor = processor.for_direction(self.direction)
        text = TextAugmenter(
            Augment(**dict.fromkeys(self.modifiers, 1.0)),
            direction,
            _SEED,
            spaced_sides(workspace.config.prepare, direction),
            markup=processor.preprocess_source if as_words else str,
            is_tokenized=as_words and processor.text.moses,
        )
        chosen = [name for name in MODIFIERS if name in self.modifiers]
        following = [*pairs[1:], None]
        return [
            text.change(pair, after, chosen, (_EPOCH, index)) if all(map(str.strip, pair)) else pair
            for index, (pair, after) in enumerate(zip(pairs, following, strict=True))
        ]


def scored_texts(workspace: Workspace) -> dict[str, ScoredText]:
    """Return the test sets by name, each followed by its variants."""
    found: dict[str, ScoredText] = {}
    for split, (_, direction) in workspace.config.tests_by_split.items():
        own = direction if workspace.config.is_multilingual else None
        found[split] = ScoredText(split, direction=own)
        for name, modifiers in workspace.config.score.variants.items():
            found[f"{split}.{name}"] = ScoredText(split, modifiers, own)
    return found
