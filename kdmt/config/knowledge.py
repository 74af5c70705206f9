"""Settings of the knowledge stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdmt.config.section import Section, execution


class Knowledge(Section):
    """The knowledge cache: the teacher's best tokens at every target token of a training set."""

    k: int = Field(8, ge=1)
    temperatures: list[Annotated[float, Field(gt=0.0)]] = Field([1.0], min_length=1)
    value_type: Literal["float16", "float32"] = "float16"
    block_size: int = Field(10_000, ge=1)  # sentences
    max_tokens: int = Field(4096, ge=1)  # padded tokens of the longer side in a batch
    threads: int = execution(0, ge=0)
    device: str = execution("auto")

    @model_validator(mode="after")
    def _distinct(self) -> Knowledge:
        if len(set(self.temperatures)) != len(self.temperatures):
            raise ValueError("'temperatures' holds a number twice")
        return self
