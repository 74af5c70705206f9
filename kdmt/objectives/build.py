"""Put an objective together from the settings of a student.

plain                LeftToRight, [CrossEntropy]
wait_k               WaitK in place of LeftToRight
word_kd              LeftToRight, [WordDivergence]
hidden_kd, ...       the same with further terms
guided_alignment     the same with a further term
ewc                  the same with a further term
self_supervised      the same with a further term: MaskedLanguage or DenoisingLoss
nat                  the view and the terms of its family: `positional`, `aligned`, `edited`
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from kdmt.config import NAT, Consolidation, SelfSupervised, Student
from kdmt.config import GuidedAlignment as GuidedAlignmentSettings
from kdmt.config import OnPolicy as OnPolicySettings
from kdmt.config.simultaneous import values_of
from kdmt.decode.engines.pytorch import sample_batch
from kdmt.errors import UserError
from kdmt.families import FAMILIES
from kdmt.models.architecture import architecture
from kdmt.models.build import build_transformer
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.objectives.aligned import aligned_parts
from kdmt.objectives.consolidation import ElasticConsolidation
from kdmt.objectives.denoising import DenoisingLoss
from kdmt.objectives.direction_selection import DirectionSelection
from kdmt.objectives.distillation import AttentionMaps, HiddenStates, LearnedAttentionMaps, OnPolicy, WordDivergence
from kdmt.objectives.edited import edited_parts
from kdmt.objectives.fine_tuning import ConvexCrossEntropy, convex_loss_of, fine_tuning_term
from kdmt.objectives.guided_alignment import GuidedAlignment
from kdmt.objectives.masked_language import MaskedLanguage
from kdmt.objectives.objective import (
    CrossEntropy,
    LeftToRight,
    Objective,
    Pass,
    Teachers,
    Term,
    TokenPass,
    WaitK,
    cross_entropy_of,
)
from kdmt.objectives.online import EmaTeacher, PeerLoss, Peers
from kdmt.objectives.positional import TokenLoss, positional_parts
from kdmt.types import Sampling


def build_objective(
    model: Transformer,
    student: Student | None = None,
    *,
    label_smoothing: float,
    teachers: Sequence[Transformer] = (),
    marginal_V: Tensor | None = None,
    guided_alignment: GuidedAlignmentSettings | None = None,
    consolidation: Consolidation | None = None,
    self_supervised: SelfSupervised | None = None,
    seed: int = 1,
    path: str = "student",
    directions: DirectionSelection | None = None,
    language_ids: Collection[int] = (),
) -> Objective:
    """Return the objective for the settings of a student; without settings, cross entropy.

    Args:
        model: the student's model, or the teacher that is trained.
        teachers: trained models that run with the student; needed if `learns_from_running` returns True.
        marginal_V: mean distribution of the teacher over the training set, for a student that learns from a cache.
        guided_alignment: settings of guided alignment, for which batches have the alignment of their pairs.
        consolidation: settings of elastic weight consolidation, whose term has no anchor yet.
        self_supervised: settings of the self-supervised loss of a teacher; a student has its own.
        seed: seed of models that are trained together with the student.
        path: YAML path of the settings, for messages.
        directions: directions that word-level distillation is limited to; None for all.
        language_ids: ids of the tokens for the languages in the source, which a masked language model does not hide.

    Raises:
        UserError: if the settings do not fit the model.
    """
    further: list[Term[TokenPass]] = []
    if guided_alignment is not None:
        further.append(GuidedAlignment(guided_alignment, model=model))
    if consolidation is not None:
        further.append(ElasticConsolidation(weight=consolidation.weight))
    if student is None:
        text = _self_supervised(self_supervised, model, label_smoothing, language_ids)
        return Objective(model, LeftToRight(), [CrossEntropy(label_smoothing), *further, *text])
    if student.nat is not None:
        assert isinstance(model, NATransformer)
        return _nonautoregressive(
            model, student, student.nat, label_smoothing, teachers, marginal_V, path, language_ids
        )
    group = _teachers(student, model, teachers, seed)
    main = _main_term(student, model, label_smoothing, marginal_V, path, directions)
    peers = _peer_terms(student, main, group, label_smoothing)
    inner = _inner_terms(student, model, group)
    text = _self_supervised(student.self_supervised, model, label_smoothing, language_ids)
    terms: list[Term[TokenPass]] = [main, *inner, *further, *text, *peers]
    view = LeftToRight() if student.wait_k is None else WaitK(values_of(student.wait_k))
    return Objective(model, view, terms, group)


def _nonautoregressive(
    model: NATransformer,
    student: Student,
    nat: NAT,
    label_smoothing: float,
    teachers: Sequence[Transformer],
    marginal_V: Tensor | None,
    path: str,
    language_ids: Collection[int],
) -> Objective:
    group = Teachers(teachers, precision=student.teacher_precision)
    positions = FAMILIES[nat.family].positions
    if positions == "aligned":
        aligned, likelihood = aligned_parts(nat)
        power = None if student.convex is None else student.convex.power
        loss = fine_tuning_term(nat, likelihood, convex_power=power)
        return Objective(model, aligned, [loss, *_encoder_terms(student, model, group)], group)
    if positions == "draft":
        drafts, edits = edited_parts(nat, label_smoothing)
        return Objective(model, drafts, [*edits, *_encoder_terms(student, model, group)], group)
    view, more = positional_parts(nat, model, _token_loss(student, label_smoothing))
    main = _main_term(student, model, label_smoothing, marginal_V, path)
    inner = _inner_terms(student, model, group)
    masked = _self_supervised(student.self_supervised, model, label_smoothing, language_ids)
    terms: list[Term[TokenPass]] = [main, *inner, *masked, *more]
    return Objective(model, view, terms, group)


def _token_loss(student: Student, label_smoothing: float) -> TokenLoss:
    """Return the loss of the words at the lower layers of a decoder: that of the last layer, without distillation."""
    if student.convex is not None:
        return partial(convex_loss_of, power=student.convex.power, label_smoothing=label_smoothing)
    return partial(cross_entropy_of, label_smoothing=label_smoothing)


def _main_term(
    student: Student,
    model: Transformer,
    label_smoothing: float,
    marginal_V: Tensor | None,
    path: str,
    directions: DirectionSelection | None = None,
) -> Term[TokenPass]:
    """Return the loss of the target tokens."""
    if student.convex is not None:
        return ConvexCrossEntropy(power=student.convex.power, label_smoothing=label_smoothing)
    kd = student.word_kd
    if kd is None:
        return CrossEntropy(label_smoothing)
    if kd.top1_ranking > model.tgt_vocab_size:
        raise UserError(
            f"{path}.word_kd.top1_ranking ({kd.top1_ranking}) is more than "
            f"the vocabulary's {model.tgt_vocab_size} tokens"
        )
    on_policy = None if student.on_policy is None else _on_policy(student.on_policy)
    return WordDivergence(
        kd, label_smoothing=label_smoothing, marginal_V=marginal_V, on_policy=on_policy, directions=directions
    )


def _on_policy(settings: OnPolicySettings) -> OnPolicy:
    sampling = Sampling(temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p)

    def generate(model: Transformer, src_tokens_BS: Tensor) -> list[tuple[int, ...]]:
        found = sample_batch(
            [model], src_tokens_BS, sampling=sampling, max_len_a=settings.max_len_a, max_len_b=settings.max_len_b
        )
        return [hypothesis.tokens for hypothesis in found]

    return OnPolicy(settings.rate, generate)


def _inner_terms(student: Student, model: Transformer, teachers: Teachers) -> list[Term[Pass]]:
    """Return the terms that compare hidden states and attention maps with those of the first teacher."""
    terms: list[Term[Pass]] = []
    if student.hidden_kd is not None:
        terms.append(HiddenStates(student.hidden_kd, student=model, teacher=teachers.first))
    if student.attention_kd is not None:
        maps = AttentionMaps if student.attention_kd.mapping == "given" else LearnedAttentionMaps
        terms.append(maps(student.attention_kd, student=model, teacher=teachers.first))
    return terms


def _encoder_terms(student: Student, model: Transformer, teachers: Teachers) -> list[Term[Pass]]:
    """Return the terms inside the encoder, for a student whose decoder positions no teacher has.

    Raises:
        ValueError: if decoders are to be compared.
    """
    terms = _inner_terms(student, model, teachers)
    if any(not kind.startswith("encoder") for term in terms for (kind, _), _ in term.pairs):
        raise ValueError("a decoder with positions of its own cannot be compared with that of a teacher")
    for term in terms:
        term.key = f"source_lessons.{term.key}"  # the name in training states of earlier versions
    return terms


def _self_supervised(
    settings: SelfSupervised | None, model: Transformer, label_smoothing: float, language_ids: Collection[int]
) -> list[Term[Pass]]:
    """Return the loss on text alone, if the settings have one in addition to that of the pairs."""
    if settings is None or settings.is_alone:
        return []
    if settings.denoising is not None:
        return [DenoisingLoss(settings, label_smoothing)]
    return [MaskedLanguage(settings, student=model, never=language_ids)]


def _teachers(student: Student, model: Transformer, teachers: Sequence[Transformer], seed: int) -> Teachers:
    """Return the models that run with the student: trained ones, its moving average, or untrained ones."""
    online = student.online
    if online is None:
        return Teachers(teachers, precision=student.teacher_precision)
    if online.kind == "ema":
        return EmaTeacher(model, decay=online.decay)
    chosen, others = online.model or student.model, []
    for number in range(1, 1 + (online.peers if online.kind == "mutual" else 1)):
        torch.manual_seed(seed + 1000 * number)
        config = replace(
            architecture(chosen.arch, chosen.overrides()), target_from_source=model.config.target_from_source
        )
        others.append(
            build_transformer(config, src_vocab_size=model.src_vocab_size, tgt_vocab_size=model.tgt_vocab_size)
        )
    return Peers(others)


def _peer_terms(
    student: Student, main: Term[TokenPass], teachers: Teachers, label_smoothing: float
) -> list[Term[TokenPass]]:
    """Return the losses of the models that are trained together with the student."""
    is_mutual = student.online is not None and student.online.kind == "mutual"
    name, term = ("peer", main) if is_mutual else ("teacher", CrossEntropy(label_smoothing))
    return [PeerLoss(number, f"{name}_{number + 1}", term) for number in range(len(teachers.trained()))]
