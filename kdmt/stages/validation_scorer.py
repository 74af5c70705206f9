"""Scores of validation translations by an external scorer, for `train.best_metric`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from kdmt.config import Scorer
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.direction_codecs import DirectionCodecs
from kdmt.corpus.lines import read_lines
from kdmt.errors import UserError
from kdmt.score.scorers.process import Segment
from kdmt.score.scorers.segment_scores import OpenScorer, open_scorer, score_segments
from kdmt.stages.training_inputs import Job
from kdmt.stages.workspace import Workspace
from kdmt.train.choice import Scale

Value = TypeVar("Value")


@dataclass(frozen=True)
class ValidationScorer:
    """External scorer of the translations of the validation set.

    Its process runs on the first rank during a validation, and not while the model is trained.

    Attributes:
        name: name in the section `scorers`.
        settings: its settings.
        workspace: pipeline whose cache of scores is used.
        pairs: finished text of source and reference of each sentence that is translated.
        codecs: codec of each sentence, which finishes its translation.
    """

    name: str
    settings: Scorer
    workspace: Workspace
    pairs: list[tuple[str, str]]
    codecs: list[TextCodec]

    @classmethod
    def of(cls, workspace: Workspace, job: Job, codec: TextCodec) -> ValidationScorer | None:
        """Return the scorer that is `best_metric` of a run, None if kdmt computes it."""
        if job.train.scorer is None:
            return None
        limit = job.train.validate_sentences or None
        sources, references = (read_lines(workspace.prepare / f"valid.{lang}") for lang in workspace.direction.sides)
        by_direction = DirectionCodecs(codec)
        several = by_direction.are_several
        tags = read_lines(workspace.prepare / "valid.tags") if several else [""] * len(sources)
        codecs = [by_direction.of(tag) for tag in tags[:limit]]
        pairs = [
            (own.finish_source(source), own.finish_target(reference))
            for own, source, reference in zip(codecs, sources[:limit], references[:limit], strict=True)
        ]
        return cls(job.train.scorer, workspace.config.scorers[job.train.scorer], workspace, pairs, codecs)

    @property
    def scale(self) -> Scale:
        """Scale of the scores."""
        higher = self.settings.direction == "higher"
        return Scale(higher, self.settings.range[0 if higher else 1])

    def score(self, hypotheses: list[str]) -> float:
        """Return the mean score of translations in words. All ranks call this together.

        Raises:
            UserError: on all ranks, if the scorer fails.
        """
        texts = [codec.finish_target(words) for codec, words in zip(self.codecs, hypotheses, strict=True)]
        segments = [
            Segment(source, text, reference) for (source, reference), text in zip(self.pairs, texts, strict=True)
        ]
        return self._on_first_rank(lambda scorer: float(score_segments(scorer, segments).mean()))

    def signature(self) -> str:
        """Return the signature of the scores. All ranks call this together."""
        return self._on_first_rank(lambda scorer: scorer.signature)

    def _on_first_rank(self, compute: Callable[[OpenScorer], Value]) -> Value:
        """Return what the first rank computes with the open scorer; its error is raised on all ranks."""
        value: Value | None = None
        problem: str | None = None
        if self.workspace.ranks.is_first:
            try:
                with open_scorer(
                    self.name, self.settings, folder=self.workspace.scorers, say=self.workspace.say
                ) as scorer:
                    value = compute(scorer)
            except UserError as error:
                problem = str(error)
        value, problem = self.workspace.ranks.share((value, problem))
        if problem is not None:
            raise UserError(problem)
        assert value is not None
        return value
