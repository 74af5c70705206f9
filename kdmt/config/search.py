"""Settings for decoding: beam search, sampling and non-autoregressive decoding."""

from __future__ import annotations

from pydantic import Field, model_validator

from kdmt.choices import DagSearch, TranslationEngine
from kdmt.config.section import Section, changed
from kdmt.families import FamilyName


class Decode(Section):
    """Beam search. The maximum output length is max_len_a * S + max_len_b for S source tokens, </s> included."""

    beam: int = Field(5, ge=1, description="Beam size")
    nbest: int = Field(1, ge=1, description="Number of hypotheses per sentence, at most 'beam'")
    lenpen: float = Field(1.0, description="Exponent of the length by which the score of a hypothesis is divided")
    max_len_a: float = Field(1.2, ge=0.0, description="Maximum output length per source token")
    max_len_b: int = Field(10, ge=1, description="Constant part of the maximum output length, in tokens")
    max_tokens: int = Field(8000, ge=1, description="Maximum number of padded source tokens in a batch")
    batch_size: int = Field(128, ge=1, description="Maximum number of sentences in a batch")

    @model_validator(mode="after")
    def _nbest(self) -> Decode:
        if self.nbest > self.beam:
            raise ValueError(f"'nbest' ({self.nbest}) is larger than 'beam' ({self.beam})")
        return self


class Sample(Section):
    """Sampling of targets from the teacher, for `data: sampled`."""

    seed: int = Field(1, ge=0, description="Seed of the samples")
    temperature: float = Field(1.0, gt=0.0, description="Divisor of the logits")
    top_k: int = Field(0, ge=0, description="Number of most probable tokens that are sampled from; 0 for all")
    top_p: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="Probability mass of the smallest set of tokens that is sampled from; 1 for all tokens",
    )
    epsilon: float = Field(
        0.0, ge=0.0, lt=1.0, description="Probability below which a token is not sampled (epsilon sampling); 0 for none"
    )
    min_p: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Share of the largest probability below which a token is not sampled (min-p sampling); 0 for none",
    )


class Diverse(Section):
    """Diverse beam search: groups of beams that avoid the tokens of earlier groups."""

    groups: int = Field(2, ge=2, description="Number of groups that the beam is divided into")
    penalty: float = Field(
        0.5, gt=0.0, description="Penalty on a token for each beam of an earlier group that has it at the same position"
    )


class Pool(Sample):
    """Pool of candidates of each source, for the training sets that choose: beam hypotheses, then distinct samples."""

    beam: int = Field(4, ge=0, description="Beam size and number of hypotheses of beam search; 0 for none")
    samples: int = Field(32, ge=0, description="Number of samples of each source; 0 for none")
    epsilon: float = Field(
        0.02,
        ge=0.0,
        lt=1.0,
        description="Probability below which a token is not sampled (epsilon sampling); 0 for none",
    )
    engine: TranslationEngine = Field(
        "auto",
        description="Engine that draws the samples; 'auto' is PyTorch, which computes the tokens that samples have in "
        "common once, unless 'distill.engine', 'compute_type' or 'shortlist' ask for CTranslate2",
    )
    diverse: Diverse | None = Field(None, description="Diverse beam search with 'engine: torch'; null for beam search")
    systems: dict[str, str] = Field(
        default_factory=dict, description="Paths of files with candidates of other systems, by the name of the system"
    )

    @model_validator(mode="after")
    def _has_candidates(self) -> Pool:
        if not self.beam and not self.samples:
            raise ValueError("'beam' and 'samples' are both 0: the teacher makes no candidates")
        if not self.samples:
            for name in changed(self):
                if name in {*Sample.model_fields, "engine"}:
                    raise ValueError(f"'{name}' has no effect unless 'samples' is more than 0")
        if self.diverse is not None and (not self.beam or self.beam % self.diverse.groups):
            raise ValueError(f"'beam' ({self.beam}) is no multiple of 'diverse.groups' ({self.diverse.groups})")
        return self


class NATDecode(Section):
    """Decoding of non-autoregressive models; settings of other families than the model's have no effect."""

    length_beam: int = Field(
        1, ge=1, le=256, description="Number of candidate lengths, for families that predict the length"
    )
    cmlm_length_beam: int | None = Field(
        None, ge=1, le=256, description="Number of candidate lengths for cmlm; null for the value of 'length_beam'"
    )
    rescore: bool = Field(
        False, description="Whether the teacher chooses among the candidate lengths (noisy parallel decoding)"
    )
    ctc_beam: int = Field(1, ge=1, description="Beam size of CTC prefix beam search; 1 for the best path")
    ctc_lm: str | None = Field(
        None, description="Path of a KenLM n-gram model of target subwords, for CTC prefix beam search"
    )
    ctc_lm_weight: float = Field(0.3, ge=0.0, description="Weight of the language model 'ctc_lm'")
    ctc_length_bonus: float = Field(0.0, description="Score added per subword if 'ctc_lm' is set")
    eos_penalty: float = Field(
        0.0,
        ge=0.0,
        description="Penalty on inserting nothing into a gap, in log-probability, for levenshtein and insertion",
    )
    dag: DagSearch = Field("lookahead", description="Search for the path of a DAG model")
    dag_lenpen: float = Field(
        1.0, description="Exponent of the length by which 'dag: viterbi' divides the log-probability of a path"
    )

    @model_validator(mode="after")
    def _searches(self) -> NATDecode:
        if self.ctc_lm is not None and self.ctc_beam == 1:
            raise ValueError("'ctc_lm' needs prefix beam search: set 'ctc_beam' to more than 1")
        if self.rescore and max(self.length_beam, self.cmlm_length_beam or 1) == 1:
            raise ValueError("'rescore' chooses among lengths: set 'length_beam' to more than 1")
        for name in changed(self):
            if name in ("ctc_lm_weight", "ctc_length_bonus") and self.ctc_lm is None:
                raise ValueError(f"'{name}' has no effect unless 'ctc_lm' is set")
        if "dag_lenpen" in changed(self) and self.dag != "viterbi":
            raise ValueError("'dag_lenpen' has no effect unless 'dag' is 'viterbi'")
        return self

    def num_lengths(self, family: FamilyName) -> int:
        """Return the number of candidate lengths of a model of a family."""
        if family == "cmlm" and self.cmlm_length_beam is not None:
            return self.cmlm_length_beam
        return self.length_beam
