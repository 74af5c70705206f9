"""What students have in common whose decoder has positions of its own, which are neither the target's nor a teacher's.

Such a decoder is compared with no teacher's; its encoder reads what the teacher's reads, and may learn from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import EncoderOutput, Trace, Transformer
from kdmt.objectives.distillation import AttentionLesson, HiddenLesson, Pass, counts_of, places_of
from kdmt.objectives.objective import Objective
from kdmt.types import Batch, LossTerms, Precision


class SourceLessons(nn.Module):
    """Lessons inside the encoder, from a teacher that runs beside the student, frozen.

    Args:
        lessons: of layers of the encoder alone.
        precision: of the teacher's pass; the student's by default.

    Raises:
        ValueError: a lesson compares decoders.
    """

    def __init__(
        self,
        teacher: Transformer,
        lessons: Sequence[HiddenLesson | AttentionLesson],
        *,
        precision: Precision | None = None,
    ) -> None:
        super().__init__()
        self.teacher, self.lessons, self.precision = teacher.requires_grad_(False), nn.ModuleList(lessons), precision
        self.terms = tuple(name for each in lessons for name in each.terms)
        self.own_places, self.teacher_places = places_of(lessons)
        if any(not kind.startswith("encoder") for kind, _ in self.own_places):
            raise ValueError("a decoder with positions of its own is compared with no teacher's")

    def train(self, mode: bool = True) -> SourceLessons:
        """The teacher is never in training mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def counts(self, batch: Batch) -> dict[str, float]:
        """What each of its terms is to be divided by."""
        return counts_of(self.lessons, batch)

    def forward(self, student: Pass, batch: Batch, autocast: torch.autocast) -> LossTerms:
        """The terms of a batch.

        Args:
            student: with the trace of its encoder.
            autocast: of the teacher's pass.
        """
        trace = Trace(self.teacher_places)
        with torch.no_grad(), autocast:
            states_BSD = self.teacher.encode(batch.src_tokens_BS, trace).states_BSD
        terms: LossTerms = {}
        for lesson in self.lessons:
            terms |= lesson(student, Pass(self.teacher, states_BSD, trace), batch)
        return terms


class OwnPositionsObjective(Objective):
    """Runs the student's encoder; what its decoder is asked for is the families' affair.

    `deep` is the family's loss at the decoder's lower layers, their mean (Huang et al. 2022, DSLP).

    Args:
        deep_supervision: weight of `deep`; 0 for none.
        source_lessons: what the encoder learns from a teacher's.
    """

    terms: tuple[str, ...] = ("loss", "nll")

    def __init__(
        self,
        model: NATransformer,
        *,
        deep_supervision: float = 0.0,
        source_lessons: SourceLessons | None = None,
    ) -> None:
        super().__init__()
        self.model: NATransformer = model
        self.deep_supervision, self.source_lessons = deep_supervision, source_lessons
        if deep_supervision:
            self.terms = (*self.terms, "deep")
        if source_lessons is not None:
            self.terms = (*self.terms, *source_lessons.terms)

    def source_counts(self, batch: Batch) -> dict[str, float]:
        """What the terms of the encoder's lessons are to be divided by."""
        return {} if self.source_lessons is None else self.source_lessons.counts(batch)

    def encode(self, batch: Batch) -> tuple[EncoderOutput, LossTerms]:
        """What the encoder makes of the sources, and in training the terms of its lessons."""
        if self.source_lessons is None or not self.training:
            with self.autocast(batch):
                return self.model.encode(batch.src_tokens_BS), {}
        trace = Trace(self.source_lessons.own_places)
        with self.autocast(batch):
            encoded = self.model.encode(batch.src_tokens_BS, trace)
        student = Pass(self.model, encoded.states_BSD, trace, encoded=encoded)
        return encoded, self.source_lessons(student, batch, self.autocast(batch, self.source_lessons.precision))
