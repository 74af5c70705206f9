"""Settings of selective distillation: references instead of distilled targets for lines that suit the student."""

from __future__ import annotations

from pydantic import Field, model_validator

from kdmt.config.section import SchedulePoint, Section, check_increasing


class Selective(Section):
    """Selective distillation of non-autoregressive students (Liu et al. 2023), with 'data: distilled'.

    An evaluator, a non-autoregressive model that was trained on distilled data, translates the training set. Where its
    translation is close to the reference, the student learns from the reference. The paper's distance is the share of
    positions with another token, and its schedule sets a threshold of it instead of a share of the lines.
    """

    evaluator: str | None = Field(
        None,
        description="Checkpoint of the non-autoregressive model that translates the training set; null for the one "
        "that the training begins from, the student itself in an earlier stage or run",
    )
    distilled: list[SchedulePoint] = Field(
        min_length=1,
        description="Points [update, share] of a piecewise linear schedule: share of the lines with distilled targets; "
        "references are used for the other lines, those with the smallest distances",
    )
    max_distance: float = Field(
        1.0,
        ge=0.0,
        description="Maximum distance for the use of a reference: number of insertions, deletions and substitutions of "
        "tokens between it and the evaluator's translation, divided by its number of tokens",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Selective:
        check_increasing("distilled", self.distilled)
        if all(share == 1.0 for _, share in self.distilled):
            raise ValueError("'distilled' is always 1: no reference is ever used")
        return self
