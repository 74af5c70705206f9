"""Settings of non-autoregressive students."""

from __future__ import annotations

from pydantic import Field, model_validator

from kdmt.choices import (
    AlignedLoss,
    DecoderInput,
    GlancingDistance,
    GlancingDivisor,
    GlancingDraw,
    GlancingReveal,
    GlancingRounding,
    LossAverage,
    NATLayout,
    OnTooLong,
    SourceCopy,
)
from kdmt.config.section import SchedulePoint, Section, changed, check_increasing, later, recorded_if_set
from kdmt.families import FamilyName, families_with


class Streaming(Section):
    """Translation of the source in chunks while it arrives: the output of a chunk does not depend on later text."""

    chunk: int = Field(ge=1, description="Number of source tokens of a chunk")
    right_context: int = Field(
        0, ge=0, description="Number of source tokens after a chunk that its output depends on; 0 for none"
    )


class NAT(Section):
    """Non-autoregressive decoder. Most settings apply to the families that their descriptions name."""

    family: FamilyName = Field(description="Family of non-autoregressive models")
    layout: NATLayout = Field(
        "own", description="Layout of the sentences: 'fairseq' computes what fairseq's model of the family does"
    )
    deep_supervision: float = Field(0.0, ge=0.0, description="Weight of the loss at the lower decoder layers")
    dslp: bool = later(
        False,
        description="Whether each decoder layer but the first reads the prediction of the layer below (nat, cmlm, "
        "ctc), as in DSLP; needs 'deep_supervision'",
    )
    dslp_mixing: float = later(
        0.0,
        ge=0.0,
        le=1.0,
        description="Probability that the prediction of a lower layer is replaced by the target's token in training "
        "(nat, cmlm, ctc; in ctc by the most probable alignment); 0 for no replacement",
    )
    upsample: int = Field(3, ge=1, description="Number of decoder positions per source token (ctc, dag)")
    too_long: OnTooLong = Field(
        "skip",
        description="Action for a target that has no alignment to the decoder positions (ctc, dag): 'skip' leaves it "
        "out of the loss, 'upsample' gives it more positions in training",
    )
    loss_average: LossAverage = later(
        "token",
        description="Average of the loss (ctc, dag): 'token' divides the sum by the number of target words, 'sentence' "
        "divides the loss of each sentence by its number of words and takes the mean over sentences",
    )
    length_weight: float = Field(0.1, gt=0.0, description="Weight of the cross entropy of the predicted length")
    decoder_input: DecoderInput = later(
        "source",
        description="Decoder input at unknown positions: 'source' embeddings, or 'unk', the embedding of <unk>, from "
        "which revealed words differ more (nat, inat, nat_crf, ctc)",
    )
    source_copy: SourceCopy = Field(
        "uniform", description="Copy of source embeddings to the decoder input (nat, inat, nat_crf)"
    )
    loss: AlignedLoss = later(
        "likelihood",
        description="Loss: 'likelihood' of the target over all alignments (ctc, dag); to fine-tune a student that was "
        "trained by it, the similarity of expected n-grams: 'nmla', their F-measure (ctc), or 'fuzzy_alignment', their "
        "clipped precision with a brevity penalty (dag)",
    )
    ngram: int = later(
        2, ge=1, le=4, description="Number of tokens of the n-grams of 'nmla' (1 or 2) and 'fuzzy_alignment'"
    )
    link_heads: int = Field(4, ge=1, description="Number of heads that predict links between positions (dag)")
    glancing: list[SchedulePoint] | None = Field(
        None,
        min_length=1,
        description="Points [update, ratio] of a piecewise linear schedule: number of reference tokens that the "
        "decoder input reveals per error of the student's first pass (nat, ctc, dag); null for no glancing",
    )
    distance: GlancingDistance = Field("hamming", description="Distance that counts errors for 'glancing' (nat, ctc)")
    glancing_draw: GlancingDraw = later(
        "exact",
        description="Draw of the positions that 'glancing' reveals (nat, ctc, dag): 'exact' draws a number of them, "
        "'bernoulli' each position with the same probability",
    )
    glancing_rounding: GlancingRounding = later(
        "truncate", description="Rounding of the number of positions that an 'exact' draw reveals (nat, ctc, dag)"
    )
    glancing_reveal: GlancingReveal = later(
        "state",
        description="Symbol that 'glancing' reveals at a position whose most probable state is a blank (ctc): 'state' "
        "is the blank, 'word' the next word of the target",
    )
    glancing_divisor: GlancingDivisor = later(
        "words",
        description="Divisor of the loss with 'glancing' (nat): all words of the target, or the words that are "
        "'predicted', because they are not revealed",
    )
    glancing_keep_path: bool = later(
        False,
        description="Whether the loss sums only over paths through the tokens that 'glancing' reveals, which are then "
        "not predicted (dag)",
    )
    glancing_same_dropout: bool = later(
        False, description="Whether both passes of 'glancing' have the same dropout masks (nat, ctc, dag)"
    )
    correction: float = Field(
        0.0, ge=0.0, le=1.0, description="Share of the visible tokens that are replaced by the student's own (cmlm)"
    )
    passes: int = Field(4, ge=1, description="Number of decoder passes in training (inat)")
    denoising: float = Field(
        0.5, ge=0.0, le=1.0, description="Probability that the input of a later pass is a corrupted reference (inat)"
    )
    crf_rank: int = Field(32, ge=1, description="Rank of the CRF's transition matrix (nat_crf)")
    crf_candidates: int = Field(64, ge=2, description="Number of candidate tokens per position of the CRF (nat_crf)")
    crf_weight: float = Field(2.0, gt=0.0, description="Weight of the CRF loss, added to the cross entropy (nat_crf)")
    insertion_temperature: float = Field(
        1.0,
        gt=0.0,
        description="Temperature of the target distribution over a missing span; lower values favour its middle "
        "(insertion)",
    )

    streaming: Streaming | None = recorded_if_set(
        None,
        description="Chunks of a student that translates the source while it arrives (ctc); null for attention to the "
        "whole source",
    )

    @model_validator(mode="after")
    def _streams(self) -> NAT:
        if self.streaming is not None and self.too_long == "upsample":
            raise ValueError("'streaming' cannot have 'too_long: upsample', which changes the positions of a chunk")
        return self

    @model_validator(mode="after")
    def _of_its_family(self) -> NAT:
        for name in changed(self):
            families = families_with(name)
            if families and self.family not in families:
                raise ValueError(f"'{name}' is a setting of {', '.join(families)}, not of '{self.family}'")
        if self.dslp and not self.deep_supervision:
            raise ValueError("'dslp' needs 'deep_supervision': the lower layers do not learn to predict without a loss")
        if self.dslp_mixing and not self.dslp:
            raise ValueError("'dslp_mixing' has no effect unless 'dslp' is true")
        if self.source_copy != "uniform" and self.decoder_input == "unk":
            raise ValueError("'source_copy' has no effect with 'decoder_input: unk', which copies no source embeddings")
        check_increasing("glancing", self.glancing)
        if self.distance != "hamming" and self.glancing is None:
            raise ValueError("'distance' has no effect unless 'glancing' is set")
        for name in changed(self):
            if name.startswith("glancing_") and self.glancing is None:
                raise ValueError(f"'{name}' has no effect unless 'glancing' is set")
        if self.glancing_rounding != "truncate" and self.glancing_draw != "exact":
            raise ValueError("'glancing_rounding' has no effect unless 'glancing_draw' is 'exact'")
        return self

    @model_validator(mode="after")
    def _of_its_loss(self) -> NAT:
        family = {"nmla": "ctc", "fuzzy_alignment": "dag"}.get(self.loss, self.family)
        if family != self.family:
            raise ValueError(f"'loss: {self.loss}' is a loss of {family}, not of '{self.family}'")
        if self.loss == "likelihood" and "ngram" in changed(self):
            raise ValueError("'ngram' has no effect with 'loss: likelihood'")
        if self.loss != "likelihood" and self.loss_average != "token":
            raise ValueError(f"'loss_average' has no effect with 'loss: {self.loss}', the mean over sentences")
        if self.loss != "likelihood" and self.glancing_keep_path:
            raise ValueError(
                f"'glancing_keep_path' has no effect with 'loss: {self.loss}', which is not a sum over paths"
            )
        if self.loss == "nmla" and self.ngram > 2:
            raise ValueError(f"'ngram' must be 1 or 2 with 'loss: nmla', not {self.ngram}")
        return self
