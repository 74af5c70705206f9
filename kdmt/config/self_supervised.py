"""Settings of self-supervised losses, on text without translations or on one side of the training pairs."""

from __future__ import annotations

from pydantic import Field, model_validator

from kdmt.choices import SelfSupervisedText
from kdmt.config.section import Section, changed, recorded_if_set


def side_of(text: SelfSupervisedText) -> int:
    """Return the side of a direction whose language a text has: 0 for the source, 1 for the target."""
    return 0 if text in ("source", "monolingual") else 1


class Denoising(Section):
    """Denoising by text infilling: spans of words are hidden, and the decoder writes the whole text."""

    mask_rate: float = Field(0.35, gt=0.0, lt=1.0, description="Share of the words of a sentence that are hidden")
    span_length: float = Field(
        3.5,
        ge=1.0,
        le=100.0,
        description="Mean number of words of a span, which one mask token replaces: lambda of a Poisson distribution",
    )


class SelfSupervised(Section):
    """A loss on text alone: supervised * other terms + (1 - supervised) * masked tokens, or reconstructed tokens."""

    supervised: float = Field(
        0.5,
        ge=0.0,
        lt=1.0,
        description="Weight of all terms that have targets; 0, for 'denoising', trains on the text alone",
    )
    mask_rate: float = Field(
        0.15, gt=0.0, lt=1.0, description="Share of the tokens that are masked, for masked language modelling"
    )
    monolingual: bool = Field(
        False,
        description="Whether the text of 'prepare.monolingual' is used too, about as many tokens as of the sources",
    )
    text: list[SelfSupervisedText] | None = recorded_if_set(
        None,
        min_length=1,
        description="Texts, of any languages: the sides 'source' and 'target' of the training set, 'monolingual' and "
        "'monolingual_target' of 'prepare'; null for the sources, with 'denoising' for the targets",
    )
    denoising: Denoising | None = recorded_if_set(
        None,
        description="Denoising as in BART and mBART instead of masked language modelling; autoregressive models only",
    )

    @model_validator(mode="after")
    def _consistent(self) -> SelfSupervised:
        if self.text is not None and len(set(self.text)) != len(self.text):
            raise ValueError("'text' has a name twice")
        if self.text is not None and self.monolingual:
            raise ValueError("'monolingual' has no effect with 'text': add 'monolingual' to it")
        if self.denoising is None:
            if not self.supervised:
                raise ValueError("'supervised: 0' needs 'denoising': a masked language model trains the encoder alone")
            return self
        for name in ("mask_rate", "monolingual"):
            if name in changed(self):
                instead = "'denoising.mask_rate'" if name == "mask_rate" else "'monolingual' in 'text'"
                raise ValueError(f"'{name}' has no effect with 'denoising': use {instead}")
        return self

    @property
    def texts(self) -> tuple[SelfSupervisedText, ...]:
        """Return the names of the texts."""
        if self.text is not None:
            return tuple(self.text)
        if self.denoising is not None:
            return ("target",)
        return ("source", "monolingual") if self.monolingual else ("source",)

    @property
    def masks_sources(self) -> bool:
        """Return whether the sources of each batch are masked."""
        return self.denoising is None and "source" in self.texts

    @property
    def drawn_texts(self) -> tuple[SelfSupervisedText, ...]:
        """Return the names of the texts of which each batch of pairs gets a batch, or which are trained on alone."""
        return tuple(name for name in self.texts if not (self.masks_sources and name == "source"))

    @property
    def tagged_texts(self) -> tuple[SelfSupervisedText, ...]:
        """Return the names of the texts that get the tokens of their own language, if the model has such tokens.

        Masked sources keep the tokens of their direction.
        """
        if self.denoising is not None:
            return self.texts
        return tuple(name for name in self.texts if side_of(name) == 1)

    @property
    def is_alone(self) -> bool:
        """Return whether the text is trained on alone, without the training pairs."""
        return not self.supervised
