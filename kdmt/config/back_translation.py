"""Settings of back-translation: a model of the opposite direction translates text in the target language."""

from __future__ import annotations

from pydantic import Field, model_validator

from kdmt.config.search import Decode, Sample
from kdmt.config.section import Section, changed, execution


class BackTranslation(Section):
    """Back-translation of text in the target language, for the set 'back_translated' (Sennrich et al. 2016)."""

    checkpoint: str = Field(
        description="Checkpoint, run or exported CTranslate2 model of kdmt from the target to the source language"
    )
    text: list[str] = Field(
        min_length=1, description="Paths of text in the target language, a sentence on each line, without cleaning"
    )
    tag: str | None = Field(
        None,
        pattern=r"^\S+$",
        description="Token before each source (tagged back-translation, Caswell et al. 2019), for example <bt>; one of "
        "'prepare.tokenizer.user_defined_symbols'; null for none",
    )
    decode: Decode = Field(Decode(), description="Beam search of the model, and the limits of its samples")
    sample: Sample | None = Field(
        None,
        description="Sampling of one translation (Edunov et al. 2018) instead of beam search; null for beam search",
    )
    block_lines: int = Field(2000, ge=1, description="Number of lines of a block, the unit in which work is kept")
    device: str = execution("auto", description="Device: auto, cpu, cuda or cuda:N; 'auto' is a GPU if there is one")
    threads: int = execution(0, ge=0, description="Number of CPU threads; 0 for one per core")

    @model_validator(mode="after")
    def _consistent(self) -> BackTranslation:
        if self.decode.nbest != 1:
            raise ValueError("'decode.nbest' has no effect: the training set has one translation of each line")
        if self.sample is not None and "beam" in changed(self.decode):
            raise ValueError("'decode.beam' has no effect with 'sample'")
        return self
