"""Settings of non-autoregressive students."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kdmt.config.section import SchedulePoint, Section, changed
from kdmt.types import ALIGNED, EDITING, POSITIONAL


class NAT(Section):
    """A decoder that writes all positions at once. Most settings are those of some families: see `_OF`."""

    family: Literal["nat", "cmlm", "inat", "nat_crf", "ctc", "dag", "levenshtein", "insertion"]
    layout: Literal["own", "fairseq"] = "own"  # fairseq: computes what its model of the family does, and goes there
    deep_supervision: float = Field(0.0, ge=0.0)  # weight of the loss at the lower layers of the decoder
    upsample: int = Field(3, ge=1)  # decoder positions for each source token
    too_long: Literal["skip", "upsample"] = "skip"  # a target that has no alignment with them
    length_weight: float = Field(0.1, gt=0.0)  # of the cross entropy of the length
    source_copy: Literal["uniform", "soft"] = "uniform"  # of the source's embeddings into the decoder
    link_heads: int = Field(4, ge=1)
    # [update, ratio] points, how much of what the student gets wrong it is shown; linear in between
    glancing: list[SchedulePoint] | None = Field(None, min_length=1)
    distance: Literal["hamming", "levenshtein"] = "hamming"  # of glancing
    correction: float = Field(0.0, ge=0.0, le=1.0)  # share of the shown words replaced by the student's own
    passes: int = Field(4, ge=1)  # of the decoder in training
    denoising: float = Field(0.5, ge=0.0, le=1.0)  # probability that a later pass sees a corrupted reference
    crf_rank: int = Field(32, ge=1)
    crf_candidates: int = Field(64, ge=2)  # of each position
    crf_weight: float = Field(2.0, gt=0.0)
    insertion_temperature: float = Field(1.0, gt=0.0)  # the lower, the more the middle of a missing span counts

    @model_validator(mode="after")
    def _of_its_family(self) -> NAT:
        for name in changed(self):
            if self.family not in _OF.get(name, (self.family,)):
                raise ValueError(f"'{name}' is a setting of {', '.join(_OF[name])}, not of '{self.family}'")
        if self.distance != "hamming" and self.glancing is None:
            raise ValueError("'distance' is that of 'glancing', which is not given")
        return self


_OF = {
    "layout": ("cmlm", *EDITING),  # the others would have to learn that <s> and </s> stay what they are
    "upsample": ALIGNED,
    "too_long": ALIGNED,
    "length_weight": POSITIONAL,
    "source_copy": ("nat", "inat", "nat_crf"),
    "link_heads": ("dag",),
    "glancing": ("nat", *ALIGNED),
    "distance": ("nat", "ctc"),
    "correction": ("cmlm",),
    "passes": ("inat",),
    "denoising": ("inat",),
    "crf_rank": ("nat_crf",),
    "crf_candidates": ("nat_crf",),
    "crf_weight": ("nat_crf",),
    "insertion_temperature": ("insertion",),
}
WITHOUT_TARGET_POSITIONS = {
    **dict.fromkeys(ALIGNED, "its positions are not the target's"),
    **dict.fromkeys(EDITING, "its positions are a draft's, not the target's"),
}
