"""Claims of the literature, as files written before their experiments are run (`benchmarks/science/claims/*.yaml`).

A claim names its source, its set-up, the pipelines to run, and measures. A measure is a weighted sum of scores, a
contrast, for example "BLEU with beam 5 minus BLEU greedily, of raw minus distilled". `expect` and `size` say which
values support the claim:

    above   the contrast is positive, with its whole interval, and at least `size`
    below   the contrast is negative, with its whole interval, and at most `size`
    within  the whole interval is at most `size` ("not more than `size` behind")
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from science.bootstrap import Interval
from science.measurements import METRICS

CLAIMS = Path(__file__).resolve().parent / "claims"

Verdict = Literal[
    "holds",
    "right sign, smaller than expected",
    "missed: no difference shown",
    "missed: opposite sign",
    "missed: not shown",
    "missed",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Experiment(_Strict):
    """A pipeline to run, once, or once for each of `seeds` of the teacher."""

    pipeline: str = Field(description="Path of the pipeline file, relative to the repository")
    set: dict[str, object] = Field(default={}, description="Settings to override")
    teacher_seeds: list[int] = Field(default=[], description="Seeds of the teacher; one run of the pipeline for each")
    copy_from: str | None = Field(
        default=None,
        description="Run whose folders 'copy_folders' are copied before the first run, if they are complete",
    )
    copy_folders: list[str] = Field(default=[], description="Folders of stages with the same settings in both runs")

    @model_validator(mode="after")
    def _copies(self) -> Experiment:
        if (self.copy_from is None) != (not self.copy_folders):
            raise ValueError("'copy_from' and 'copy_folders' need each other")
        return self


class Measure(_Strict):
    """A contrast of scores and its expected value."""

    what: str = Field(description="What is measured, as text for the page")
    metric: str = Field(description="Name of a metric")
    contrast: dict[str, float] = Field(
        min_length=1, description="Weights of EXPERIMENT:SYSTEM[/WAY][@TEST_SET], for example toy:raw/beam5"
    )
    expect: Literal["above", "below", "within"]
    size: float = Field(description="Smallest interesting size; for 'within' the largest acceptable value")

    @model_validator(mode="after")
    def _has_a_metric(self) -> Measure:
        if self.metric not in METRICS:
            raise ValueError(f"no such metric: '{self.metric}'; there are {', '.join(METRICS)}")
        if (self.expect == "below" and self.size > 0) or (self.expect == "above" and self.size < 0):
            raise ValueError(f"'expect: {self.expect}' with 'size: {self.size}'")
        return self

    def verdict(self, found: Interval) -> Verdict:
        """Return how an estimate with its interval compares with what was expected."""
        if self.expect == "within":
            if found.high <= self.size:
                return "holds"
            return "missed" if found.low > self.size else "missed: not shown"
        sign = 1 if self.expect == "above" else -1
        low, high = sorted((sign * found.low, sign * found.high))
        if low <= 0 <= high:
            return "missed: no difference shown"
        if high < 0:
            return "missed: opposite sign"
        return "holds" if sign * found.estimate >= abs(self.size) else "right sign, smaller than expected"


class Claim(_Strict):
    """A claim and its experiment."""

    id: str
    title: str
    claim: str
    source: str
    set_up: str
    experiments: dict[str, Experiment] = Field(min_length=1)
    measures: dict[str, Measure] = Field(min_length=1)
    note: str = Field(default="", description="Explanation of the result, written after the measurement")

    @model_validator(mode="after")
    def _knows_its_experiments(self) -> Claim:
        for name, measure in self.measures.items():
            for term in measure.contrast:
                if term.partition(":")[0] not in self.experiments:
                    raise ValueError(f"measures.{name}: '{term}' is of none of {', '.join(self.experiments)}")
        return self


def load_claims(folder: Path = CLAIMS) -> dict[str, Claim]:
    """Return all claims by their identifier, in the order of their file names.

    Raises:
        ValueError: if a file does not have the form of a claim, or its name is not its identifier.
    """
    claims = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            claim = Claim.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
        if claim.id.lower() != path.stem.partition("-")[0]:
            raise ValueError(f"{path.name}: its 'id' is {claim.id}")
        claims[claim.id] = claim
    return claims
