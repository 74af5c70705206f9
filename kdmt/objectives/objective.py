"""Training objectives, composed of a view of the batch and a list of terms.

An `Objective` is one module that contains the model and computes the losses inside its `forward`: DDP and FSDP2 wrap
this module. For each micro-batch of an update the training loop calls

    prepared = objective.prepare(batch)    # the view and the terms make their random choices
    counts = objective.counts(prepared)    # known before the forward pass, summed over micro-batches and ranks
    terms = objective(prepared)            # the view runs the student, the terms compute their sums

and divides the sum of each term once, by its total count. The view decides what the decoder sees and where the loss is
taken; each term computes one or more named sums from the passes of the student and its teachers. In evaluation mode
only the first term is computed, without teachers, so that validation losses contain no term of a teacher.

Shapes: B batch, S source length, T target length, M target tokens where the loss is taken, D model width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from kdmt.choices import Precision
from kdmt.corpus.batching import Batch, Knowledge
from kdmt.losses.cross_entropy import projected_cross_entropy
from kdmt.models.transformer import EncoderOutput, Trace, Transformer
from kdmt.types import PAD

TracePoint = tuple[str, int]  # a kind of tensor inside the network, and a layer (`Trace`)
EVALUATED = ("loss", "nll")  # terms of every objective in evaluation mode


@dataclass(frozen=True)
class LossTerm:
    """Term of an objective: its sum over a micro-batch, the count that divides it, and its weight.

    The sums and the counts of all micro-batches and ranks are added before the division.
    """

    sum: Tensor  # scalar; carries the gradient unless the weight is 0
    count: float  # known before the forward pass
    weight: float = 1.0


LossTerms = dict[str, LossTerm]


@dataclass(frozen=True)
class MaskedText:
    """Sentences with M hidden tokens, which are to be predicted."""

    tokens_BS: Tensor  # int64, input
    index_M: Tensor  # int64, indices of the chosen tokens in the flattened text
    targets_M: Tensor  # int64, the chosen tokens


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Batch with all random choices made, so that the counts of all terms are known.

    Attributes:
        batch: sources and targets. With `of_student` the targets are samples of the student, not references.
        num_loss_tokens: number of target tokens where the loss is taken, M.
        count: sum of the weights of these tokens, which is the divisor of sums over them.
        loss_mask_BT: bool, True where the loss is taken; None for all target tokens.
        seen_BT: int64, decoder input of non-autoregressive students: the target with hidden words, or a draft.
        masked: texts of the masked language model.
        dropout_state: state from which dropout draws its masks in the student's pass; None for the present one.
        wait_k: number of source tokens that the first target token of the student is predicted from (`WaitK`); None for
            the whole source.
    """

    batch: Batch
    num_loss_tokens: int
    count: float
    loss_mask_BT: Tensor | None = None
    seen_BT: Tensor | None = None
    of_student: bool = False
    masked: tuple[MaskedText, ...] = ()
    dropout_state: Tensor | None = None
    wait_k: int | None = None

    @classmethod
    def of(cls, batch: Batch, *, of_student: bool = False) -> Prepared:
        """Return a batch with the loss taken at all target tokens."""
        tokens = batch.num_tgt_tokens if batch.extras.weighted_tokens is None else batch.extras.weighted_tokens
        return cls(batch=batch, num_loss_tokens=batch.num_tgt_tokens, count=tokens, of_student=of_student)

    @property
    def src_tokens_BS(self) -> Tensor:
        return self.batch.src_tokens_BS

    @property
    def tgt_tokens_BT(self) -> Tensor:
        return self.batch.targets[1]

    @cached_property
    def keep_BT(self) -> Tensor:
        """Mask of the target tokens where the loss is taken, bool [B, T]."""
        return self.tgt_tokens_BT.ne(PAD) if self.loss_mask_BT is None else self.loss_mask_BT

    @cached_property
    def _indices_M(self) -> Tensor:
        """Indices, in the flattened target, of the tokens where the loss is taken.

        Their number is known, so that the host does not wait for a GPU.
        """
        return self.keep_BT.flatten().nonzero_static(size=self.num_loss_tokens)[:, 0]

    def pick(self, values_BTx: Tensor) -> Tensor:
        """Return the values at the tokens where the loss is taken, [M, ...]."""
        return values_BTx.flatten(0, 1).index_select(0, self._indices_M)

    def put_back(self, values_M: Tensor) -> Tensor:
        """Return values at the tokens where the loss is taken in the shape of the target, 0 elsewhere: [B, T]."""
        flat = values_M.new_zeros(self.tgt_tokens_BT.numel())
        return flat.index_copy(0, self._indices_M, values_M).view_as(self.tgt_tokens_BT)

    @cached_property
    def _src_indices_N(self) -> Tensor:
        """Indices, in the flattened source, of the real tokens, without a wait for a GPU."""
        return self.src_tokens_BS.ne(PAD).flatten().nonzero_static(size=self.batch.num_src_tokens)[:, 0]

    def pick_src(self, values_BSx: Tensor) -> Tensor:
        """Return the values at the real tokens of the source, [N, ...]."""
        return values_BSx.flatten(0, 1).index_select(0, self._src_indices_N)

    def weights_M(self, dtype: torch.dtype) -> Tensor | None:
        """Return the weight of each token where the loss is taken, [M]; None for 1."""
        if self.batch.extras.weight_B is None:
            return None
        return self.pick(self.batch.extras.weight_B.to(dtype)[:, None].expand_as(self.tgt_tokens_BT))

    @property
    def num_sentences(self) -> float:
        """Number of sentence pairs, or the sum of their weights if they have weights."""
        weight_B = self.batch.on_host.extras.weight_B
        return len(self.src_tokens_BS) if weight_B is None else float(weight_B.sum())

    def knowledge(self) -> Knowledge:
        """Return the content of a knowledge cache for the tokens where the loss is taken."""
        found = self.batch.extras.knowledge
        if found is None:
            raise ValueError("a student that learns from a cache needs batches with its knowledge")
        if self.loss_mask_BT is None:
            return found
        row_BT = self.tgt_tokens_BT.ne(PAD).flatten().cumsum(0).view_as(self.tgt_tokens_BT) - 1
        row_M = self.pick(row_BT)  # rows of the cache where the loss is taken
        return Knowledge(found.ids_MK.index_select(0, row_M), found.log_probs_MG.index_select(0, row_M))


def product_type(precision: Precision) -> torch.dtype | None:
    """Return the number type of the output projection; None for the type of the parameters."""
    return None if precision == "float32" else torch.bfloat16


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the autocast context for a pass of a model in a precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@dataclass(frozen=True)
class Pass:
    """Pass of a model over a batch.

    Attributes:
        model: student or teacher.
        precision: precision of the pass.
        shown: input of the model, and where the loss is taken. A view may show more than was prepared (glancing).
        trace: hidden states and attention maps that terms compare.
        encoded: output of the encoder.
    """

    model: Transformer
    precision: Precision
    shown: Prepared
    trace: Trace
    encoded: EncoderOutput

    @property
    def product_type(self) -> torch.dtype | None:
        return product_type(self.precision)

    def autocast(self) -> torch.autocast:
        """Return the autocast context for further passes over the same batch."""
        return autocast(self.encoded.states_BSD.device, self.precision)


@dataclass(frozen=True)
class TokenPass(Pass):
    """Pass of a model whose decoder has a position for each target token.

    Attributes:
        features_MD: decoder features at the tokens where the loss is taken.
    """

    features_MD: Tensor


SomePass = TypeVar("SomePass", bound=Pass)
SomePass_co = TypeVar("SomePass_co", bound=Pass, covariant=True)
SomePass_contra = TypeVar("SomePass_contra", bound=Pass, contravariant=True)


class View(nn.Module, ABC, Generic[SomePass_co]):
    """View of a batch: the input of the student's decoder, and where the loss is taken.

    Attributes:
        num_passes: number of decoder passes over a batch in training; every term is summed over them.
        precision: precision of passes in `prepare`.
    """

    num_passes = 1
    precision: Precision = "float32"

    def prepare(self, model: Transformer, prepared: Prepared) -> Prepared:  # noqa: ARG002
        """Make the random choices in training; in evaluation mode the result depends on the batch only."""
        return prepared

    @abstractmethod
    def passes(
        self, model: Transformer, prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> Iterator[SomePass_co]:
        """Run the student, `num_passes` times in training and once in evaluation mode.

        The terms of a pass are computed before the next one is run.

        Args:
            trace_points: hidden states and attention maps to keep.
        """

    def read(
        self, teacher: Transformer, prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> Pass:
        """Run a teacher. The default runs only its encoder, for students whose decoder positions no teacher has."""
        return encode(teacher, prepared, trace_points, precision)

    def before_update(self, update: int) -> None:
        """Follow a schedule; `update` is the number of updates done."""


def encode(model: Transformer, prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision) -> Pass:
    """Run the encoder of a model."""
    trace = Trace(trace_points)
    with autocast(prepared.src_tokens_BS.device, precision):
        encoded = model.encode(prepared.src_tokens_BS, trace if trace_points else None)
    return Pass(model, precision, prepared, trace, encoded)


class LeftToRight(View[TokenPass]):
    """View in which the decoder sees the target up to each token and predicts the next one (autoregressive)."""

    def passes(
        self, model: Transformer, prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> Iterator[TokenPass]:
        """See `View.passes`."""
        yield read_target(model, prepared, trace_points, precision)

    def read(
        self, teacher: Transformer, prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> TokenPass:
        """See `View.read`."""
        return read_target(teacher, prepared, trace_points, precision)


class WaitK(LeftToRight):
    """View in which the token t of the target is predicted from the first k + t tokens of the source (`Transformer`).

    For several k, one is drawn for each batch (multipath training, Elbayad et al. 2020), and validations have the
    middle one. Teachers read the whole source.

    Args:
        choices: values of k.
    """

    def __init__(self, choices: Sequence[int]) -> None:
        super().__init__()
        self.choices = tuple(sorted(choices))

    def prepare(self, model: Transformer, prepared: Prepared) -> Prepared:  # noqa: ARG002
        """See `View.prepare`: draw k."""
        if not self.training or len(self.choices) == 1:
            return replace(prepared, wait_k=middle_k(self.choices))
        return replace(prepared, wait_k=self.choices[int(torch.randint(len(self.choices), ()))])

    def passes(
        self, model: Transformer, prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> Iterator[TokenPass]:
        """See `View.passes`."""
        yield read_target(model, prepared, trace_points, precision, wait_k=prepared.wait_k)


def middle_k(choices: Sequence[int]) -> int:
    """Return the k of validations: the middle one, and the smaller one of two."""
    return sorted(choices)[(len(choices) - 1) // 2]


def read_target(
    model: Transformer,
    prepared: Prepared,
    trace_points: frozenset[TracePoint],
    precision: Precision,
    *,
    wait_k: int | None = None,
) -> TokenPass:
    """Run an autoregressive model over sources and targets (teacher forcing).

    Args:
        wait_k: k of the wait-k policy; None for attention to the whole source.
    """
    trace = Trace(trace_points)
    prev_tokens_BT, _ = prepared.batch.targets
    source, target = prepared.batch.src_packing, prepared.batch.tgt_packing
    with autocast(prepared.src_tokens_BS.device, precision):
        encoded = model.encode(prepared.src_tokens_BS, trace if trace_points else None, source)
        encoded = encoded if wait_k is None else model.waiting(encoded, wait_k)
        features_BTD = model.decode(prev_tokens_BT, encoded, trace if trace_points else None, target)
    return TokenPass(model, precision, prepared, trace, encoded, prepared.pick(features_BTD))


class Term(nn.Module, ABC, Generic[SomePass_contra]):
    """One or more named sums of an objective.

    Attributes:
        weights: name -> weight in the total loss; 0 for a sum that is reported only.
        share: factor for the weights of all terms before this one.
        pairs: pairs of a place in the student and a place in the teacher, which are compared.
        trace_points: further trace points of the student that the term needs.
        key: name of its parameters in training states, after `objective.`.
    """

    weights: Mapping[str, float]
    share: float = 1.0
    pairs: tuple[tuple[TracePoint, TracePoint], ...] = ()
    trace_points: frozenset[TracePoint] = frozenset()
    key: str = ""

    @property
    def needs_teachers(self) -> bool:
        """Whether the term needs passes of the teachers at this update."""
        return bool(self.pairs)

    @abstractmethod
    def counts(self, prepared: Prepared) -> dict[str, float]:
        """Return the divisor of each sum."""

    @abstractmethod
    def forward(self, student: SomePass_contra, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:
        """Return the sums of a batch; some may be missing at an update that does not compute them.

        Args:
            student: the student's pass.
            teachers: passes of the teachers. Hidden states and attention maps are compared with those of the first one.
            prepared: the batch for which the counts were computed.
        """

    def prepare(self, model: Transformer, prepared: Prepared) -> Prepared:  # noqa: ARG002
        """Make the random choices of the term; called in training, before the view hides words."""
        return prepared

    def before_update(self, update: int) -> None:
        """Follow a schedule; `update` is the number of updates done."""

    def after_validation(self, figures: Mapping[str, float]) -> dict[str, float]:  # noqa: ARG002
        """Follow the figures of a scheduled validation; return figures for the log."""
        return {}

    def memory(self) -> dict[str, Tensor]:
        """Return the values that are kept from earlier batches, tensors of any shape."""
        return {}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Restore the values that `memory` returned."""


class CrossEntropy(Term[TokenPass]):
    """Label-smoothed cross entropy with the target tokens, `loss`; `nll` is reported without smoothing."""

    weights: Mapping[str, float] = {"loss": 1.0, "nll": 0.0}

    def __init__(self, label_smoothing: float) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`."""
        return dict.fromkeys(self.weights, prepared.count)

    def forward(self, student: TokenPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        loss_sum, nll_sum = cross_entropy_of(student, student.features_MD, self.label_smoothing)
        return {"loss": loss_sum, "nll": nll_sum}


def cross_entropy_of(student: TokenPass, features_MD: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Return the summed loss and negative log-likelihood of the target tokens, from features of the student."""
    weight_VD = student.model.output_weight_VD
    return projected_cross_entropy(
        features_MD,
        weight_VD,
        student.shown.pick(student.shown.tgt_tokens_BT),
        epsilon=label_smoothing,
        weights_M=student.shown.weights_M(weight_VD.dtype),
        product_type=student.product_type,
    )


class Teachers(nn.Module):
    """Frozen, trained models that run with the student. Terms inside the network compare with the first one.

    Args:
        models: autoregressive models.
        precision: precision of their passes; None for the precision of the student.
    """

    def __init__(self, models: Sequence[Transformer] = (), *, precision: Precision | None = None) -> None:
        super().__init__()
        self.models, self.precision = nn.ModuleList(models).requires_grad_(False), precision

    def train(self, mode: bool = True) -> Teachers:  # noqa: ARG002
        """Stay in evaluation mode."""
        return super().train(False)

    def read(
        self, view: View[Pass], prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> list[Pass]:
        """Run all teachers over a batch."""
        with torch.no_grad():
            return [
                view.read(model, prepared, trace_points, self.precision or precision) for model in self._transformers()
            ]

    @property
    def first(self) -> Transformer:
        """The teacher whose hidden states and attention maps are compared."""
        return next(self._transformers())

    def after_update(self, student: Transformer) -> None:
        """Follow the student after a step of the optimiser."""

    def trained(self) -> list[Transformer]:
        """Return the models that learn together with the student."""
        return []

    def moving(self) -> dict[str, Tensor]:
        """Return tensors that change without being trained, by their names in training states."""
        return {}

    def _transformers(self) -> Iterator[Transformer]:
        for model in self.models:
            assert isinstance(model, Transformer)
            yield model


class Objective(nn.Module):
    """Training objective: a model, a view of the batch and a list of terms.

    Args:
        model: the student, which is the model that is kept.
        view: view of the batch, which decides the input of the decoder.
        terms: list of terms; the first one is computed in evaluation mode too. A term with a `share` scales the terms
            before it.
        teachers: models that run with the student.

    Attributes:
        weights: name -> weight of every sum. The names are known before the first batch.
        precision: precision of the student's passes.
    """

    def __init__(
        self,
        model: Transformer,
        view: View[SomePass],
        terms: Sequence[Term[SomePass]],
        teachers: Teachers | None = None,
    ) -> None:
        super().__init__()
        self.model, self.view, self.teachers = model, view, teachers or Teachers()
        self.terms = nn.ModuleList(terms)
        self.precision: Precision = "float32"
        self.weights: dict[str, float] = {}
        for term in terms:
            self.weights = {name: term.share * weight for name, weight in self.weights.items()} | dict(term.weights)
        pairs = [pair for term in terms for pair in term.pairs]
        self.trace_points = frozenset(own for own, _ in pairs).union(*(term.trace_points for term in terms))
        self.teacher_trace_points = frozenset(other for _, other in pairs)
        if pairs and not len(self.teachers.models):
            raise ValueError("terms inside the network need a teacher that runs with the student")

    # ----------------------------------------------------------------------------------------------- for a micro-batch

    def prepare(self, batch: Batch) -> Prepared:
        """Make the random choices for a batch; called before its counts are read."""
        prepared = Prepared.of(batch)
        if self.training:
            for term in self._terms():
                prepared = term.prepare(self.model, prepared)
        return self.view.prepare(self.model, prepared)

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """Return the divisor of each term of this batch."""
        times = self.view.num_passes if self.training else 1
        terms = self._terms() if self.training else self._terms()[:1]
        counts = {name: count for term in terms for name, count in term.counts(prepared).items()}
        return counts if times == 1 else {name: times * count for name, count in counts.items()}

    def forward(self, prepared: Prepared) -> LossTerms:
        """Return the terms of a batch."""
        terms = self._terms() if self.training else self._terms()[:1]
        trace_points = self.trace_points if self.training else frozenset()
        sums: dict[str, Tensor] = {}
        teachers: list[Pass] | None = None
        for student in self.view.passes(self.model, prepared, trace_points, self.precision):
            if teachers is None:
                teachers = self.read_teachers(student.shown)
            for term in terms:
                for name, value in term(student, teachers, prepared).items():
                    sums[name] = sums[name] + value if name in sums else value
        counts = self.counts(prepared)
        return {name: LossTerm(value, counts[name], self.weights[name]) for name, value in sums.items()}

    def read_teachers(self, shown: Prepared) -> list[Pass]:
        """Return the passes of the teachers; an empty list if no term needs them at this update."""
        if not (self.training and any(term.needs_teachers for term in self._terms())):
            return []
        return self.teachers.read(self.view, shown, self.teacher_trace_points, self.precision)

    def _terms(self) -> list[Term[Pass]]:
        return list(self.terms)  # type: ignore[arg-type]  # ModuleList forgets the type of its modules

    # -------------------------------------------------------------------------------------------------- for an update

    def use(self, precision: Precision) -> None:
        """Set the precision of the following passes of the student."""
        self.precision = self.view.precision = precision

    def before_update(self, update: int) -> None:
        """Let the view and the terms follow their schedules; `update` is the number of updates done."""
        self.view.before_update(update)
        for term in self._terms():
            term.before_update(update)

    def after_update(self) -> None:
        """Update teachers that follow the student, after a step of the optimiser."""
        self.teachers.after_update(self.model)

    def after_validation(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Let the terms follow the figures of a scheduled validation; return figures for the log."""
        return {name: value for term in self._terms() for name, value in term.after_validation(figures).items()}

    # --------------------------------------------------------------------------------------------- parameters and state

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the tensors that the optimiser changes, by their names in training states: parameters of the model,
        then others under `objective.`."""
        return {**dict(self.model.named_parameters()), **self._trained_others()}

    def _trained_others(self) -> dict[str, nn.Parameter]:
        # the order of earlier versions, since the rounding of the gradient norm depends on it
        parts: list[tuple[str, nn.Module]] = [(term.key, term) for term in reversed(self._terms())]
        parts += [(f"beside.{number}", model) for number, model in enumerate(self.teachers.trained())]
        return {
            f"objective.{key}.{name}": parameter
            for key, module in parts
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def clipped_together(self) -> list[list[nn.Parameter]]:
        """Return the parameters in groups. Each group is clipped by its own gradient norm, so that the step of a model
        does not depend on the gradient of another."""
        of_others = [list(other.parameters()) for other in self.teachers.trained()]
        others = {parameter for group in of_others for parameter in group}
        return [[each for each in self.trained().values() if each not in others], *of_others]

    def moving(self) -> dict[str, Tensor]:
        """Return tensors outside the model, equal on all ranks, that change during training, for a checkpoint."""
        return {**self._trained_others(), **self.teachers.moving()}

    def memory(self) -> dict[str, Tensor]:
        """Return the values that this rank keeps from its batches, for a checkpoint; tensors of any shape."""
        return {name: value for term in self._terms() for name, value in term.memory().items()}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Restore the values that `memory` returned."""
        for term in self._terms():
            term.remember(memory)
