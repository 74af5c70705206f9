"""Teachers that change while their student learns: one that follows it, and ones that are trained together with it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from kdmt.choices import Precision
from kdmt.models.moving_average import follow
from kdmt.models.transformer import Transformer
from kdmt.objectives.objective import Pass, Prepared, Teachers, Term, TokenPass, TracePoint, View


class EmaTeacher(Teachers):
    """Teacher whose weights are the moving average of the student's weights (Tarvainen & Valpola 2017, equation 2):

        teacher = decay * teacher + (1 - decay) * student      after each update

    Args:
        decay: factor of the old average, at least 0 and less than 1.
    """

    def __init__(self, student: Transformer, *, decay: float) -> None:
        super().__init__([copy.deepcopy(student)])
        self.decay = decay

    def after_update(self, student: Transformer) -> None:
        """See `Teachers.after_update`."""
        follow(self.models[0].parameters(), student.parameters(), decay=self.decay)

    def moving(self) -> dict[str, Tensor]:
        """See `Teachers.moving`."""
        return {f"teacher.{name}": tensor for name, tensor in self.models[0].named_parameters()}


class Peers(Teachers):
    """Untrained models that are trained together with the student and are not kept."""

    def __init__(self, models: Sequence[Transformer]) -> None:
        super().__init__(models)
        self.models.requires_grad_(True)

    def train(self, mode: bool = True) -> Peers:
        """Set the mode of the student."""
        nn.Module.train(self, mode)
        return self

    def read(
        self, view: View[Pass], prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> list[Pass]:
        """See `Teachers.read`; gradients flow through these passes."""
        return [view.read(model, prepared, trace_points, precision) for model in self.trained()]

    def trained(self) -> list[Transformer]:
        """See `Teachers.trained`."""
        return list(self._transformers())


class PeerLoss(Term[TokenPass]):
    """Loss of a model that is trained together with the student. Its gradient does not reach any other model.

    Args:
        number: index of the model among the teachers.
        name: name of the sum.
        term: the student's own `WordDivergence`, with which the model learns from all other models, their distributions
            averaged (deep mutual learning with the ensemble of the peers, Zhang et al. 2018); or cross entropy (joint
            training of a teacher and its student).
    """

    def __init__(self, number: int, name: str, term: Term[TokenPass]) -> None:
        super().__init__()
        self.number, self.name, self.term, self.weights = number, name, term, {name: 1.0}

    @property
    def needs_teachers(self) -> bool:
        """See `Term.needs_teachers`."""
        return True

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`."""
        return {self.name: prepared.count}

    def forward(self, student: TokenPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:
        """See `Term.forward`."""
        others = [student, *teachers[: self.number], *teachers[self.number + 1 :]]
        return {self.name: self.term(teachers[self.number], others, prepared)["loss"]}
