"""Objectives that learn from a teacher: models run, losses called. The losses' formulas are in `kdmt.losses`.

An objective is put together from lessons: one on the output distribution, others inside the network. All look at the
same pass of the student and the same pass of the teacher.

Shapes: B batch, S source length, T target length, M real target tokens, N real tokens of a side, D model width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from kdmt.config import AttentionKD, HiddenKD, WordKD
from kdmt.corpus.batching import pad_sentences
from kdmt.losses.cross_entropy import chunk_size, projected_loss, token_nll
from kdmt.losses.divergences import divergence
from kdmt.losses.intermediate import attention_distance, hidden_distance, match_heads
from kdmt.losses.token_selection import harder_than_most, hardest, push
from kdmt.losses.word_kd import BestTokens, TeacherTokens, WholeDistribution, WordKDLoss
from kdmt.models.transformer import EncoderOutput, Trace, Transformer
from kdmt.objectives.annealing import piecewise_linear
from kdmt.objectives.layer_maps import layer_pairs
from kdmt.objectives.masked_language import MaskedLanguageLesson
from kdmt.objectives.objective import CrossEntropyObjective, product_type
from kdmt.types import EOS, Batch, LossTerm, LossTerms, Precision

Place = tuple[str, int]  # a kind of tensor inside the network, and a layer (`Trace`)


@dataclass(frozen=True)
class Pass:
    """A model's pass over a batch.

    Attributes:
        model: whose it is.
        features_MD: the decoder's, of the real target tokens.
        trace: what it left behind.
        product_type: of its products with the vocabulary, the parameters' by default.
        encoded: what its encoder made of the source.
    """

    model: Transformer
    features_MD: Tensor
    trace: Trace
    product_type: torch.dtype | None = None
    encoded: EncoderOutput | None = None


class Lesson(nn.Module, ABC):
    """Terms of a loss that compare a student's pass with its teachers'.

    Attributes:
        terms: their names.
        pairs: places inside the student and inside the teacher that are compared.
    """

    terms: tuple[str, ...]
    pairs: tuple[tuple[Place, Place], ...] = ()

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, float]:
        """What each term is to be divided by."""


class WordLesson(Lesson):
    """The output distribution: cross entropy mixed with a divergence from the teacher's.

    `loss` is what is trained on; reported beside it are `nll`, `word_kd` (the divergence alone), the share of tokens
    that were `taught`, and with it in the settings `mutual_information`.
    """

    given_V: Tensor | None

    def __init__(self, settings: WordKD, *, label_smoothing: float, marginal_V: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("given_V", marginal_V, persistent=False)  # that of a cache
        self.settings, self.label_smoothing = settings, label_smoothing
        self.divergence = divergence(settings.divergence, beta=settings.beta)
        self.alphas = settings.alpha_schedule or [(0, settings.alpha)]
        self.alpha = self.alphas[0][1]
        self.queue_N = torch.empty(0)  # negative log-likelihoods of the tokens that came last
        self.marginal_V: Tensor | None = None  # the teacher's, as a running average
        informed = ("mutual_information",) if settings.mutual_information else ()
        ever = settings.mutual_information or any(alpha for _, alpha in self.alphas)
        self.terms = ("loss", "nll", "word_kd", "taught", *informed) if ever else ("loss", "nll")

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Lesson.counts`."""
        return dict.fromkeys(self.terms, batch.target_count)

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing to learn from a teacher at this update: then it is plain training, bit for bit."""
        return not (self.alpha or self.settings.mutual_information)

    def forward(
        self,
        student: Pass,
        teachers: Sequence[Pass],
        batch: Batch,
        *,
        targets_M: Tensor,
        weights_M: Tensor | None,
    ) -> LossTerms:
        """The terms of a batch; without teachers it brings the knowledge of a cache.

        On the student's own samples they are the divergence alone (Agarwal et al. 2024, algorithm 1).
        """
        teacher, log_marginal_V = self._ask(teachers, batch)
        settings = self.settings
        loss = WordKDLoss(
            targets_M=targets_M,
            epsilon=self.label_smoothing,
            alpha=1.0 if batch.of_student else self.alpha,
            has_references=not batch.of_student,
            divergence=self.divergence,
            teacher=teacher,
            temperature=settings.temperature,
            taught_M=self._select(student, targets_M),
            min_confidence=settings.min_confidence,
            max_entropy=settings.max_entropy or math.inf,
            ranking=settings.top1_ranking,
            log_marginal_V=log_marginal_V,
            mutual_information=settings.mutual_information,
            weights_M=weights_M,
        )
        total, (nll, value, information, taught) = projected_loss(
            student.features_MD, student.model.output_weight_VD, loss, product_type=student.product_type
        )
        sums = {"nll": nll, "word_kd": value, "taught": taught, "mutual_information": information}
        reported = {name: LossTerm(sums[name], batch.target_count, weight=0.0) for name in self.terms[1:]}
        return {"loss": LossTerm(total, batch.target_count), **reported}

    @torch.no_grad()
    def _ask(self, teachers: Sequence[Pass], batch: Batch) -> tuple[TeacherTokens, Tensor | None]:
        """What the teacher says of the target tokens; and log r, where it is asked for."""
        informed = bool(self.settings.mutual_information)
        if self.settings.source == "cache":
            if batch.knowledge is None:
                raise ValueError("a student that learns from a cache needs batches with its knowledge")
            said = BestTokens(batch.knowledge.ids_MK, batch.knowledge.log_probs_MG)
            if not informed:
                return said, None
            if self.given_V is None:
                raise ValueError("mutual information from a cache needs the cache's marginal")
            return said, _log(self.given_V)
        distribution = WholeDistribution(
            tuple(teacher.features_MD for teacher in teachers),
            tuple(teacher.model.output_weight_VD for teacher in teachers),
            self.settings.temperature,
            teachers[0].product_type,
        )
        if not informed:
            return distribution, None
        chunk = chunk_size(batch.src_tokens_BS.device)
        return distribution, _log(self._marginal(distribution.marginal(batch.num_tgt_tokens, chunk)))

    def _marginal(self, of_batch_V: Tensor) -> Tensor:
        """The batch's marginal, or the running average with the batch in it."""
        momentum = self.settings.marginal_momentum
        if not momentum:
            return of_batch_V
        self.marginal_V = of_batch_V if self.marginal_V is None else self.marginal_V.lerp(of_batch_V, 1.0 - momentum)
        return self.marginal_V

    def _select(self, student: Pass, targets_M: Tensor) -> Tensor | None:
        """The tokens that are taught, None for all."""
        if self.settings.select == "all":
            return None
        weight_VD = student.model.output_weight_VD
        nll_M = token_nll(student.features_MD, weight_VD, targets_M, product_type=student.product_type)
        if self.settings.select == "batch":
            return hardest(nll_M, self.settings.rate)
        self.queue_N = push(self.queue_N.to(nll_M), nll_M, self.settings.queue)
        return harder_than_most(nll_M, self.queue_N, self.settings.rate)

    def memory(self) -> dict[str, Tensor]:
        """See `Objective.memory`."""
        memory = {"queue": self.queue_N} if self.settings.select == "global" else {}
        return memory if self.marginal_V is None else {**memory, "marginal": self.marginal_V}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """See `Objective.remember`."""
        self.queue_N = memory.get("queue", self.queue_N)
        self.marginal_V = memory.get("marginal")


def _log(marginal_V: Tensor) -> Tensor:
    """Of a token that was never expected, the least logarithm there is."""
    return marginal_V.clamp_min(torch.finfo(marginal_V.dtype).tiny).log()


def places_of(lessons: Iterable[Lesson]) -> tuple[frozenset[Place], frozenset[Place]]:
    """What lessons look at inside the student and inside the teacher."""
    pairs = [pair for lesson in lessons for pair in lesson.pairs]
    return frozenset(own for own, _ in pairs), frozenset(other for _, other in pairs)


def counts_of(lessons: nn.ModuleList, batch: Batch) -> dict[str, float]:
    """What the terms of lessons are to be divided by."""
    counts: dict[str, float] = {}
    for lesson in lessons:
        assert isinstance(lesson, Lesson)
        counts |= lesson.counts(batch)
    return counts


class HiddenLesson(Lesson):
    """Hidden states of chosen layers, through a learned projection where the widths differ."""

    terms = ("hidden",)

    def __init__(self, settings: HiddenKD, *, student: Transformer, teacher: Transformer) -> None:
        super().__init__()
        self.settings = settings
        self.pairs = tuple(
            ((side, own), (side, other))
            for side, layers in (("encoder", settings.encoder), ("decoder", settings.decoder))
            for own, other in layer_pairs(layers, *(_num_layers(model, side) for model in (student, teacher)))
        )
        self.projections = nn.ModuleList(_projection(student, teacher, side) for (side, _), _ in self.pairs)

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Lesson.counts`: real tokens, once for each pair of layers."""
        return {"hidden": sum(_num_tokens(batch, side) for (side, _), _ in self.pairs)}

    def forward(self, student: Pass, teacher: Pass, batch: Batch) -> LossTerms:
        """The terms of a batch."""
        total = student.features_MD.new_zeros(())
        for ((side, own), place), projection in zip(self.pairs, self.projections, strict=True):
            keep_BL = _keep(batch, side, pad=student.model.pad)
            own_ND, other_ND = (student.trace.found[side, own][keep_BL], teacher.trace.found[place][keep_BL])
            total = total + hidden_distance(projection(own_ND), other_ND, self.settings.distance)
        return {"hidden": LossTerm(total, self.counts(batch)["hidden"], self.settings.weight)}


class AttentionLesson(Lesson):
    """Attention maps of chosen layers."""

    terms = ("attention",)

    def __init__(self, settings: AttentionKD, *, student: Transformer, teacher: Transformer) -> None:
        super().__init__()
        self.settings = settings
        kinds = {
            "encoder_self": (settings.encoder_self, "encoder"),
            "decoder_self": (settings.decoder_self, "decoder"),
            "cross": (settings.cross, "decoder"),
        }
        self.pairs = tuple(
            ((kind, own), (kind, other))
            for kind, (layers, side) in kinds.items()
            for own, other in layer_pairs(layers, *(_num_layers(model, side) for model in (student, teacher)))
        )

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Lesson.counts`: real queries, once for each pair of layers."""
        return {"attention": sum(_num_tokens(batch, _side_of(kind)) for (kind, _), _ in self.pairs)}

    def forward(self, student: Pass, teacher: Pass, batch: Batch) -> LossTerms:
        """The terms of a batch."""
        total = student.features_MD.new_zeros(())
        for (kind, own), place in self.pairs:
            maps = match_heads(student.trace.found[kind, own], teacher.trace.found[place], self.settings.heads)
            keep_BT = _keep(batch, _side_of(kind), pad=student.model.pad)
            total = total + attention_distance(*maps, keep_BT, self.settings.distance)
        return {"attention": LossTerm(total, self.counts(batch)["attention"], self.settings.weight)}


def _projection(student: Transformer, teacher: Transformer, side: str) -> nn.Module:
    own, other = (int(getattr(model.config, f"{side}_embed_dim")) for model in (student, teacher))
    return nn.Identity() if own == other else nn.Linear(own, other, bias=False)


def _num_layers(model: Transformer, side: str) -> int:
    return int(getattr(model.config, f"{side}_layers"))


def _side_of(kind: str) -> str:
    """Whose tokens ask in an attention map."""
    return "encoder" if kind == "encoder_self" else "decoder"


def _num_tokens(batch: Batch, side: str) -> int:
    return batch.num_src_tokens if side == "encoder" else batch.num_tgt_tokens


def _keep(batch: Batch, side: str, *, pad: int) -> Tensor:
    """True on the real tokens of a side: [B, L]."""
    tokens_BL = batch.src_tokens_BS if side == "encoder" else batch.tgt_tokens_BT
    assert tokens_BL is not None
    return tokens_BL.ne(pad)


@dataclass(frozen=True)
class OnPolicy:
    """The remedy for exposure bias: now and then a student is taught on what it would say itself.

    Attributes:
        rate: probability that a micro-batch's targets are replaced.
        generate: (model, source tokens [B, S]) -> for each source the ids of a sample of the model's, without </s>.
            Whatever is random about it comes from PyTorch's own generator, which a checkpoint keeps.
    """

    rate: float
    generate: Callable[[Transformer, Tensor], list[tuple[int, ...]]]

    def __call__(self, model: Transformer, batch: Batch) -> Batch:
        """The batch, or the same sources with the student's samples."""
        if float(torch.rand(())) >= self.rate:
            return batch
        targets = [np.array([*tokens, EOS]) for tokens in self.generate(model, batch.src_tokens_BS)]
        device = batch.src_tokens_BS.device
        return replace(
            batch,
            prev_tokens_BT=pad_sentences([np.concatenate(([EOS], target[:-1])) for target in targets]).to(device),
            tgt_tokens_BT=pad_sentences(targets).to(device),
            num_tgt_tokens=sum(map(len, targets)),
            weight_B=None,
            weighted_tokens=None,
            of_student=True,
        )


class DistillationObjective(CrossEntropyObjective):
    """A student that learns from teachers besides its targets. In evaluation mode it is cross entropy.

    Args:
        model: the student.
        teachers: that run beside it, frozen. The first one is looked into.
        word: the lesson on the output distribution; without it, cross entropy.
        lessons: those inside the network.
        on_policy: gives the student's own samples in a batch's place, or the batch; None for references always.
        self_supervised: the student guesses hidden source tokens besides.
        teacher_precision: of the teachers' passes; the student's by default.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        label_smoothing: float,
        teachers: Sequence[Transformer] = (),
        word: WordLesson | None = None,
        lessons: Sequence[HiddenLesson | AttentionLesson] = (),
        on_policy: OnPolicy | None = None,
        self_supervised: MaskedLanguageLesson | None = None,
        teacher_precision: Precision | None = None,
    ) -> None:
        super().__init__(model, label_smoothing=label_smoothing)
        self.on_policy, self.self_supervised, self.teacher_precision = on_policy, self_supervised, teacher_precision
        if lessons and not teachers:
            raise ValueError("what is inside a teacher can be learnt from one that runs beside the student alone")
        self.teachers = tuple(teachers)
        self.beside = nn.ModuleList(teachers).requires_grad_(False)  # the same, so that they move to a device
        self.word, self.lessons = word, nn.ModuleList(lessons)
        self.terms = (*(self.terms if word is None else word.terms), *(name for each in lessons for name in each.terms))
        if self_supervised is not None:
            self.terms = (*self.terms, self_supervised.name)
        self.own_places, self.teacher_places = places_of(lessons)

    def train(self, mode: bool = True) -> DistillationObjective:
        """The student alone is ever in training mode."""
        super().train(mode)
        self.beside.eval()
        return self

    def prepare(self, batch: Batch) -> Batch:
        """See `Objective.prepare`."""
        if self.on_policy is not None and self.word is not None and not self.word.is_silent:
            batch = self.on_policy(self.model, batch)
        if self.self_supervised is not None:
            batch = self.self_supervised.prepare(batch, vocab_size=self.model.src_vocab_size)
        return batch

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Objective.counts`."""
        counts = super().counts(batch)
        counts |= counts_of(self.lessons, batch)
        if self.self_supervised is not None:
            counts[self.self_supervised.name] = sum(len(text.targets_M) for text in batch.masked)
        return counts

    def before_update(self, update: int) -> None:
        """See `Objective.before_update`."""
        if self.word is not None:
            self.word.alpha = piecewise_linear(update, self.word.alphas)

    def memory(self) -> dict[str, Tensor]:
        """See `Objective.memory`."""
        return {} if self.word is None else self.word.memory()

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """See `Objective.remember`."""
        if self.word is not None:
            self.word.remember(memory)

    def forward(self, batch: Batch) -> LossTerms:
        """See `Objective`."""
        student = self.run(self.model, batch, self.own_places if self.training else frozenset())
        if not self.training:
            return self.cross_entropy(batch, student.features_MD)
        return self.learn(student, self.ask(batch), batch)

    @torch.no_grad()
    def ask(self, batch: Batch) -> list[Pass]:
        """The teachers' passes; none at an update at which nothing is learnt from them."""
        if self.is_silent:
            return []
        return [self.run(teacher, batch, self.teacher_places, self.teacher_precision) for teacher in self.teachers]

    @property
    def is_silent(self) -> bool:
        return (self.word is None or self.word.is_silent) and not self.lessons

    def learn(self, student: Pass, teachers: Sequence[Pass], batch: Batch) -> LossTerms:
        """The student's terms."""
        if self.word is None or self.word.is_silent:
            terms = self.cross_entropy(batch, student.features_MD)
        else:
            terms = self.teach(self.word, student, teachers, batch)
        compared = self.compared(batch) if len(self.lessons) else batch
        for lesson in self.lessons:
            terms |= lesson(student, teachers[0], compared)
        if self.self_supervised is not None and batch.masked:
            with self.autocast(batch):
                terms = self.self_supervised(student.model, batch, terms, self.product_type)
        return terms

    def compared(self, batch: Batch) -> Batch:
        """The batch whose tokens the lessons inside the network are of."""
        return batch

    def teach(self, word: WordLesson, student: Pass, teachers: Sequence[Pass], batch: Batch) -> LossTerms:
        """The terms of the lesson on the output distribution."""
        return word(student, teachers, batch, targets_M=self.targets(batch), weights_M=self.weights(batch))

    def run(
        self,
        model: Transformer,
        batch: Batch,
        wanted: frozenset[Place],
        precision: Precision | None = None,
        *,
        before: Pass | None = None,
    ) -> Pass:
        """A model's pass, by default in the objective's precision.

        Args:
            before: an earlier pass over the same sources, whose encoder need not run again.
        """
        trace, encoded = Trace(wanted), None
        if before is not None:
            trace.found.update(before.trace.found)
            encoded = before.encoded
        features_MD, encoded = self.read(model, batch, trace if wanted else None, precision, encoded)
        return Pass(model, features_MD, trace, product_type(precision or self.precision), encoded)
