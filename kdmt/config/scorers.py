"""Settings of external scorers: metrics and quality estimation models that run in processes of their own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from kdmt.choices import AgreementMetric
from kdmt.config.section import Section, execution

Bounds = Annotated[tuple[float | None, float | None], Strict(False)]


class Scorer(Section):
    """External scorer: a command that reads segments and writes their scores, in a process of its own.

    It reads JSON lines with `id`, `source`, `hypothesis` and perhaps `reference`, and writes JSON lines with `id` and
    `score`, after a first line with its name, signature and versions. Scores are kept in a cache.
    """

    command: list[str] = Field(
        min_length=1, description="Program and arguments; {model} in an argument is replaced by 'model'"
    )
    model: str | None = Field(
        None, description="File or folder of the model, whose sha256 is part of the cache's keys; null for none"
    )
    direction: Literal["higher", "lower"] = Field("higher", description="Whether higher or lower scores are better")
    range: Bounds = Field(
        (None, None),
        description="Lowest and highest possible score, null for no bound; a score outside of the range is an error",
    )
    reference: bool = Field(False, description="Whether the command is given the reference")
    batch_size: int = execution(64, ge=1, description="Number of segments that are sent before an empty line")
    timeout: float = execution(
        600.0, gt=0.0, description="Number of seconds without output after which the process is started again"
    )
    restarts: int = execution(3, ge=0, description="Maximum number of restarts after the process ended or was silent")
    human_agreement: AgreementMetric | None = execution(
        None, description="Metric whose figures of agreement with people are shown for differences; null for none"
    )
    environment: str | None = execution(
        None, description="Folder of the virtual environment whose programs are used; null for that of kdmt"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Scorer:
        low, high = self.range
        if low is not None and high is not None and low >= high:
            raise ValueError(f"'range': {low:g} is not less than {high:g}")
        return self

    @model_validator(mode="after")
    def _placeholder(self) -> Scorer:
        if self.model is None and any("{model}" in part for part in self.command):
            raise ValueError("'command' has {model}, and 'model' is null")
        return self
