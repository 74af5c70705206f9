"""Settings of the filters by scores, which are the last rules of `prepare.clean.rules`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from kdmt.choices import ComputeType
from kdmt.config.section import Section, execution


class ScoreLimit(Section):
    """Limits of the filters by scores, which are higher for better pairs; both may be given."""

    min: float | None = Field(None, description="Minimum score; null for no minimum")
    drop_percent: float | None = Field(
        None, gt=0.0, lt=100.0, description="Percentage of the pairs of a corpus, the lowest by score, that are dropped"
    )

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.min is None and self.drop_percent is None:
            raise ValueError("give 'min' or 'drop_percent'")
        return self


class AlignmentScore(ScoreLimit):
    """Drop pairs whose words are improbable translations of each other under IBM model 1.

    The model is trained on the corpora themselves. The score is the mean log-probability of a word, of both directions.
    """

    train_pairs: int = Field(100_000, ge=1, description="Number of pairs, evenly sampled, that the model is trained on")


class CrossEntropyDifference(ScoreLimit):
    """Drop pairs that are less like the text of a domain than like the corpora (Moore and Lewis 2010).

    The score is the cross entropy under a language model of the corpora minus that under one of the domain, in nats
    per word, summed over both sides.
    """

    in_domain_corpus: int | None = Field(
        None, ge=0, description="Index in 'prepare.train' of the corpus of the domain; null for the validation set"
    )
    sides: Literal["both", "source", "target"] = Field("both", description="Sides that are judged")
    train_pairs: int = Field(
        100_000, ge=1, description="Maximum number of pairs, evenly sampled, of which the language models are trained"
    )


class ReverseScore(ScoreLimit):
    """Drop pairs whose source is improbable given the target under a model of the opposite direction.

    The score is the mean log-probability of a source token, as `kdmt rescore` prints the sum.
    """

    checkpoint: str = Field(description="Checkpoint of a model from the target to the source language")
    compute_type: ComputeType = Field("float32", description="Number type of CTranslate2's computation")


class ExternalFilter(ScoreLimit):
    """Drop pairs by the scores of an external command.

    The command reads one pair per line from standard input, with a tab between the columns, and writes one line per
    pair to standard output, the last column of which is the score.
    """

    command: list[str] = Field(min_length=1, description="Program and arguments")
    columns: list[Literal["source", "target"]] = Field(
        ["source", "target"], min_length=1, description="Columns that the command reads, in order"
    )
    batch_pairs: int = execution(
        100_000, ge=1, description="Number of pairs for one run of the command, whose scores are kept for later runs"
    )
    retries: int = execution(2, ge=0, description="Number of times that a run of the command that failed is repeated")
