"""Teachers that move while their student learns: one that follows it, ones that learn beside it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdmt.models.transformer import Trace, Transformer
from kdmt.objectives.distillation import (
    AttentionLesson,
    DistillationObjective,
    HiddenLesson,
    OnPolicy,
    Pass,
    WordLesson,
)
from kdmt.objectives.masked_language import MaskedLanguageLesson
from kdmt.types import Batch, LossTerm, LossTerms

Lessons = Sequence[HiddenLesson | AttentionLesson]


class EmaTeacherObjective(DistillationObjective):
    """The teacher is the moving average of the student's weights (Tarvainen & Valpola 2017, equation 2):

        teacher = decay * teacher + (1 - decay) * student      after each update

    Args:
        decay: at least 0, less than 1.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        label_smoothing: float,
        decay: float,
        word: WordLesson | None = None,
        lessons: Lessons = (),
        on_policy: OnPolicy | None = None,
        self_supervised: MaskedLanguageLesson | None = None,
    ) -> None:
        super().__init__(
            model,
            label_smoothing=label_smoothing,
            teachers=[copy.deepcopy(model)],
            word=word,
            lessons=lessons,
            on_policy=on_policy,
            self_supervised=self_supervised,
        )
        self.decay = decay

    @torch.no_grad()
    def after_update(self) -> None:
        """See `Objective.after_update`."""
        (teacher,) = self.teachers
        for average, own in zip(teacher.parameters(), self.model.parameters(), strict=True):
            average.lerp_(own, 1.0 - self.decay)

    def moving(self) -> dict[str, Tensor]:
        """See `Objective.moving`."""
        (teacher,) = self.teachers
        return {**super().moving(), **{f"teacher.{name}": tensor for name, tensor in teacher.named_parameters()}}


class TogetherObjective(DistillationObjective):
    """Student and teachers begin from nothing and learn at the same time.

    Each of the others has a term of its own: with `mutual` that of a student whose teachers are all but itself, the
    distributions of several averaged (deep mutual learning with the peers' ensemble, Zhang et al. 2018), otherwise
    cross entropy alone (joint training of a teacher and its student). What one learns from another moves that other
    nowhere.

    Args:
        others: trained beside the model, and not kept.
        mutual: whether they learn from the model and each other.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        label_smoothing: float,
        others: Sequence[Transformer],
        mutual: bool,
        word: WordLesson,
        lessons: Lessons = (),
        self_supervised: MaskedLanguageLesson | None = None,
    ) -> None:
        super().__init__(
            model,
            label_smoothing=label_smoothing,
            teachers=others,
            word=word,
            lessons=lessons,
            self_supervised=self_supervised,
        )
        self.beside.requires_grad_(True)
        self.mutual = mutual
        self.names = [f"{'peer' if mutual else 'teacher'}_{number}" for number in range(1, len(others) + 1)]
        self.terms = (*self.terms, *self.names)

    def train(self, mode: bool = True) -> TogetherObjective:
        """All of them."""
        super().train(mode)
        self.beside.train(mode)
        return self

    def clipped_together(self) -> list[list[nn.Parameter]]:
        """See `Objective.clipped_together`: no model's step depends on another's gradient."""
        of_others = [list(other.parameters()) for other in self.teachers]
        others = {parameter for group in of_others for parameter in group}
        return [[each for each in self.trained().values() if each not in others], *of_others]

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Objective.counts`."""
        return {**super().counts(batch), **dict.fromkeys(self.names, batch.target_count)}

    def ask(self, batch: Batch) -> list[Pass]:
        """The others' passes, through which they learn."""
        return [self.run(other, batch, self.teacher_places) for other in self.teachers]

    def learn(self, student: Pass, teachers: Sequence[Pass], batch: Batch) -> LossTerms:
        """The terms of all."""
        everyone = [student, *teachers]
        seen = [_looked_at(each) for each in everyone]
        terms = super().learn(student, seen[1:], batch)
        for number, name in enumerate(self.names, start=1):
            own = everyone[number]
            if self.mutual and self.word is not None and not self.word.is_silent:
                rest = [each for place, each in enumerate(seen) if place != number]
                found = self.teach(self.word, own, rest, batch)["loss"]
            else:
                found = self.cross_entropy(batch, own.features_MD, own.model)["loss"]
            terms[name] = LossTerm(found.sum, found.count)
        return terms


def _looked_at(seen: Pass) -> Pass:
    """The same pass, through which nothing is learnt."""
    found = {place: tensor.detach() for place, tensor in seen.trace.found.items()}
    return Pass(seen.model, seen.features_MD.detach(), Trace(seen.trace.wanted, found), seen.product_type)
