"""Settings of the score stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdmt.config.search import Decode, NATDecode
from kdmt.config.section import Section
from kdmt.languages import missing_extra


class Score(Section):
    checkpoint: Literal["best", "last", "average"] = "average"
    beams: list[Annotated[int, Field(ge=1)]] = Field([1, 5], min_length=1)  # of autoregressive models
    iterations: list[Annotated[int, Field(ge=1)]] = Field(
        [10], min_length=1
    )  # at most, of cmlm, inat and those that edit
    nat: NATDecode = NATDecode()
    lenpen: float = 1.0
    max_len_a: float = Field(1.2, ge=0.0)
    max_len_b: int = Field(10, ge=1)
    max_tokens: int = Field(8000, ge=1)
    batch_size: int = Field(128, ge=1)
    # sacreBLEU's, for BLEU; auto: what it chooses for the target language (zh, ja-mecab, ko-mecab), char for other
    # scripts without spaces, 13a else. Validation and distillation go by it too: what they began with stays with them
    tokenize: Literal["auto", "13a", "intl", "none", "zh", "ja-mecab", "ko-mecab", "char"] = "auto"
    lowercase: bool = False
    detokenized: bool = True  # False: the words between spaces as they are, against the corpus's own target file
    baseline: str | None = None  # what significance is measured against; the first student on raw data by default
    bootstrap_samples: int = Field(1000, ge=1)
    speed_sentences: int = Field(100, ge=1)  # sentences timed at batch 1
    threads: int = Field(0, ge=0)  # no execution settings here: speeds are results
    device: str = "auto"

    def decode(self, beam: int) -> Decode:
        """How the test sets are translated with a beam of this size."""
        return Decode(
            beam=beam,
            lenpen=self.lenpen,
            max_len_a=self.max_len_a,
            max_len_b=self.max_len_b,
            max_tokens=self.max_tokens,
            batch_size=self.batch_size,
        )

    @model_validator(mode="after")
    def _has_the_tokenizer(self) -> Score:
        extra = missing_extra(self.tokenize)
        if extra is not None:
            raise ValueError(
                f"'tokenize: {self.tokenize}' needs packages that are not installed: pip install 'kdmt[{extra}]'"
            )
        return self

    @model_validator(mode="after")
    def _distinct(self) -> Score:
        for name in ("beams", "iterations"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"'{name}' holds a number twice")
        return self
