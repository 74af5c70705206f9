"""Settings of decoding: beam search, sampling and non-autoregressive decoding."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kdmt.config.section import Section, changed


class Decode(Section):
    """Beam search. Maximum length is max_len_a * S + max_len_b, S the sentence's own tokens with </s>."""

    beam: int = Field(5, ge=1)
    nbest: int = Field(1, ge=1)
    lenpen: float = 1.0
    max_len_a: float = Field(1.2, ge=0.0)
    max_len_b: int = Field(10, ge=1)
    max_tokens: int = Field(8000, ge=1)  # source tokens in a batch, padded
    batch_size: int = Field(128, ge=1)

    @model_validator(mode="after")
    def _nbest(self) -> Decode:
        if self.nbest > self.beam:
            raise ValueError(f"'nbest' ({self.nbest}) is larger than 'beam' ({self.beam})")
        return self


class Sample(Section):
    """How the targets of `data: sampled` are drawn from the teacher."""

    seed: int = Field(1, ge=0)
    temperature: float = Field(1.0, gt=0.0)
    top_k: int = Field(0, ge=0)  # 0 for all
    top_p: float = Field(1.0, gt=0.0, le=1.0)


class NATDecode(Section):
    """How non-autoregressive models decode; what a family does not have is of no account to it."""

    length_beam: int = Field(1, ge=1, le=256)  # lengths that are tried, of families that tell the length
    rescore: bool = False  # the pipeline's teacher chooses among them (noisy parallel decoding)
    ctc_beam: int = Field(1, ge=1)  # outputs kept by prefix beam search; 1 for the best path
    ctc_lm: str | None = None  # an n-gram model of target pieces that KenLM reads, for prefix beam search
    ctc_lm_weight: float = Field(0.3, ge=0.0)
    ctc_length_bonus: float = 0.0  # for each piece, beside the language model
    eos_penalty: float = Field(0.0, ge=0.0)  # of levenshtein and insertion: against slots that nothing is put into
    dag: Literal["greedy", "lookahead", "viterbi"] = "lookahead"
    dag_lenpen: float = 1.0  # of viterbi: a path's log-probability over its length ** dag_lenpen

    @model_validator(mode="after")
    def _searches(self) -> NATDecode:
        if self.ctc_lm is not None and self.ctc_beam == 1:
            raise ValueError("'ctc_lm' needs prefix beam search: set 'ctc_beam' to more than 1")
        if self.rescore and self.length_beam == 1:
            raise ValueError("'rescore' chooses among lengths: set 'length_beam' to more than 1")
        for name in changed(self):
            if name in ("ctc_lm_weight", "ctc_length_bonus") and self.ctc_lm is None:
                raise ValueError(f"'{name}' is that of 'ctc_lm', which is not given")
        if "dag_lenpen" in changed(self) and self.dag != "viterbi":
            raise ValueError("'dag_lenpen' is that of 'dag: viterbi'")
        return self
