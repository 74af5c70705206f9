"""Settings of the knowledge stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from kdmt.choices import CacheNumberType, CacheTeachers
from kdmt.config.section import Section, execution, recorded_if_set


class Knowledge(Section):
    """Knowledge cache: the teacher's most probable tokens at each target token of a training set."""

    teachers: CacheTeachers = recorded_if_set(
        "pipeline",
        description="Teachers: the pipeline's teacher ('pipeline'), or with several directions those of "
        "'distill.teachers', each for its direction ('directions')",
    )
    k: int = Field(8, ge=1, description="Number of tokens that are stored per target token, the most probable ones")
    temperatures: list[Annotated[float, Field(gt=0.0)]] = Field(
        [1.0], min_length=1, description="Temperatures at which log-probabilities are stored"
    )
    value_type: CacheNumberType = Field("float16", description="Number type of the stored log-probabilities")
    block_size: int = Field(10_000, ge=1, description="Number of sentences in a file of the cache")
    max_tokens: int = Field(4096, ge=1, description="Maximum number of padded tokens in a batch, on its longer side")
    threads: int = execution(0, ge=0, description="Number of CPU threads; 0 for one per core")
    device: str = execution("auto", description="Device: auto, cpu, cuda or cuda:N; 'auto' is all GPUs, or the CPU")

    @model_validator(mode="after")
    def _distinct(self) -> Knowledge:
        if len(set(self.temperatures)) != len(self.temperatures):
            raise ValueError("'temperatures' holds a number twice")
        return self
