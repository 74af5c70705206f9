"""Text in the target language of a prepared corpus, which a model of the opposite direction translates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from kdmt.corpus.binarize import data_prefix
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.prepared import PreparedCorpus
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import Tokenizers, count_lines
from kdmt.distill.inputs import Inputs
from kdmt.distill.merge import TrainingText


@dataclass(frozen=True)
class ReversedCorpus(PreparedCorpus):
    """A prepared corpus read in the opposite direction, which `direction` is: its source is the corpus's target."""

    @classmethod
    def of(cls, corpus: PreparedCorpus) -> ReversedCorpus:
        """Return a corpus in the opposite direction."""
        source, target = corpus.spaced
        return cls(corpus.folder, corpus.direction.reversed(), (target, source))

    def prefix(self, split: str, lang: str) -> Path:
        """See `PreparedCorpus.prefix`; the names of the files have the direction of the corpus."""
        return data_prefix(self.data_bin, split, self.direction.reversed(), lang)

    def codec(self) -> TextCodec:
        """See `PreparedCorpus.codec`."""
        codec = super().codec()
        return TextCodec(
            text=_reversed(codec.text),
            tokenizers=Tokenizers(codec.tokenizers.target, codec.tokenizers.source),
            src_dictionary=codec.tgt_dictionary,
            tgt_dictionary=codec.src_dictionary,
        )

    def text_processor(self) -> TextProcessor:
        """See `PreparedCorpus.text_processor`."""
        return _reversed(super().text_processor())

    def recorded_ratio(self) -> float | None:
        """See `PreparedCorpus.recorded_ratio`."""
        ratio = super().recorded_ratio()
        return None if ratio is None else 1.0 / ratio


def _reversed(text: TextProcessor) -> TextProcessor:
    return replace(text, source_lang=text.target_lang, target_lang=text.source_lang)


@dataclass(frozen=True)
class TargetText(Inputs):
    """Text in the target language, without translations.

    Attributes:
        corpus: prepared corpus in the opposite direction.
        file: file with the text in the form of the corpus; None for the corpus's monolingual text.
    """

    file: Path | None = None

    @property
    def path(self) -> Path:
        """Return the file of the text."""
        return self.corpus.text("monolingual", self.corpus.direction.source) if self.file is None else self.file

    def source_prefixes(self) -> tuple[Path, ...]:
        """See `Inputs.source_prefixes`; none, since the model has a vocabulary of its own."""
        return ()

    def texts(self) -> list[TrainingText]:
        """See `Inputs.texts`."""
        return [TrainingText(self.path)]

    def num_lines(self) -> int:
        """See `Inputs.num_lines`."""
        return count_lines(self.path)

    def num_references(self) -> int:
        """See `Inputs.num_references`."""
        return 0
