"""Terms that learn from a teacher: its output distribution, its hidden states and its attention maps.

All of them compare the same pass of the student with the same passes of the teachers. The formulas are in
`kdmt.losses`.

Shapes: B batch, S source length, T target length, M target tokens where the loss is taken, N real tokens of a side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from kdmt.choices import TeacherWeights
from kdmt.config import AttentionKD, HiddenKD, LayerMap, WordKD
from kdmt.corpus.batching import Batch, Extras, pad_sentences
from kdmt.losses.cross_entropy import chunk_size, projected_loss, token_nll
from kdmt.losses.divergences import divergence
from kdmt.losses.intermediate import attention_distance, hidden_distance, match_heads, mix_heads
from kdmt.losses.token_selection import harder_than_most, hardest, push
from kdmt.losses.word_kd import BestTokens, TeacherTokens, WholeDistribution, WordKDLoss
from kdmt.models.transformer import Transformer
from kdmt.objectives.annealing import piecewise_linear
from kdmt.objectives.direction_selection import DirectionSelection
from kdmt.objectives.layer_maps import layer_pairs
from kdmt.objectives.objective import CrossEntropy, Pass, Prepared, Term, TokenPass
from kdmt.types import EOS, PAD


@dataclass(frozen=True)
class OnPolicy:
    """Samples of the student in place of targets, against exposure bias.

    Attributes:
        rate: probability that the targets of a micro-batch are replaced.
        generate: (model, source tokens [B, S]) -> for each source the ids of a sample of the model, without </s>. Its
            random numbers come from PyTorch's own generator, which a checkpoint keeps.
    """

    rate: float
    generate: Callable[[Transformer, Tensor], list[tuple[int, ...]]]

    def __call__(self, model: Transformer, batch: Batch) -> Batch | None:
        """Return the sources with samples of the model; None to keep the batch."""
        if float(torch.rand(())) >= self.rate:
            return None
        targets = [np.array([*tokens, EOS]) for tokens in self.generate(model, batch.src_tokens_BS)]
        device, on_host = batch.src_tokens_BS.device, batch.on_host
        sampled = replace(
            on_host,
            prev_tokens_BT=pad_sentences([np.concatenate(([EOS], target[:-1])) for target in targets]),
            tgt_tokens_BT=pad_sentences(targets),
            num_tgt_tokens=sum(map(len, targets)),
            extras=Extras(monolingual_BS=on_host.extras.monolingual_BS, denoising=on_host.extras.denoising),
        )
        return sampled if device.type == "cpu" else sampled.pin_memory().to(device)


_LARGEST_NLL = 50.0  # of a sentence, in nats per token: a larger perplexity might not be finite


class WordDivergence(Term[TokenPass]):
    """Cross entropy mixed with a divergence from the teacher's output distribution.

    `loss` is trained on. The other sums are reported only: `nll`, `word_kd` (the divergence), `taught` (the share of
    tokens for which the divergence is computed) and, if the settings use it, `mutual_information`. In evaluation mode
    the term is cross entropy. At an update at which the teacher has no share it is cross entropy too, bit for bit.

    Args:
        marginal_V: mean distribution of the teacher over the training set, as stored in a knowledge cache.
        on_policy: generator of samples of the student in place of targets; None to always train on references.
        directions: directions for which the divergence is computed; None for all.
    """

    given_V: Tensor | None

    def __init__(
        self,
        settings: WordKD,
        *,
        label_smoothing: float,
        marginal_V: Tensor | None = None,
        on_policy: OnPolicy | None = None,
        directions: DirectionSelection | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("given_V", marginal_V, persistent=False)
        self.settings, self.on_policy, self.directions = settings, on_policy, directions
        self.cross_entropy = CrossEntropy(label_smoothing)
        self.divergence = divergence(settings.divergence, beta=settings.beta, skew=settings.skew)
        self.alphas = settings.alpha_schedule or [(0, settings.alpha)]
        self.alpha = self.alphas[0][1]
        self.queue_N = torch.empty(0)  # negative log-likelihoods of the latest tokens
        self.marginal_V: Tensor | None = None  # running average of the teacher's distribution
        self.weights = dict(self.cross_entropy.weights)
        if settings.mutual_information or any(alpha for _, alpha in self.alphas):
            self.weights |= {"word_kd": 0.0, "taught": 0.0}
        if settings.mutual_information:
            self.weights["mutual_information"] = 0.0

    @property
    def is_silent(self) -> bool:
        """Whether the term uses no teacher at this update."""
        is_taught = self.directions is None or self.directions.is_any_taught
        return not ((self.alpha and is_taught) or self.settings.mutual_information)

    @property
    def needs_teachers(self) -> bool:
        """See `Term.needs_teachers`."""
        return not self.is_silent

    def before_update(self, update: int) -> None:
        """See `Term.before_update`."""
        self.alpha = piecewise_linear(update, self.alphas)

    def prepare(self, model: Transformer, prepared: Prepared) -> Prepared:
        """See `Term.prepare`."""
        if self.on_policy is None or self.is_silent:
            return prepared
        sampled = self.on_policy(model, prepared.batch)
        return prepared if sampled is None else Prepared.of(sampled, of_student=True)

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`."""
        return dict.fromkeys(self.weights if self.training else self.cross_entropy.weights, prepared.count)

    def forward(self, student: TokenPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:
        """See `Term.forward`. For samples of the student it is only the divergence (Agarwal et al. 2024, algorithm 1).

        Args:
            teachers: empty for a student that learns from a cache.
        """
        if self.is_silent or not self.training:
            return self.cross_entropy(student, teachers, prepared)
        shown, settings = student.shown, self.settings
        weight_VD = student.model.output_weight_VD
        teacher, log_marginal_V = self._read_teacher(teachers, shown)
        targets_M = shown.pick(shown.tgt_tokens_BT)
        loss = WordKDLoss(
            targets_M=targets_M,
            epsilon=self.cross_entropy.label_smoothing,
            alpha=1.0 if shown.of_student else self.alpha,
            has_references=not shown.of_student,
            divergence=self.divergence,
            teacher=teacher,
            temperature=settings.temperature,
            taught_M=self._in_directions(shown, self._select(student, targets_M)),
            min_confidence=settings.min_confidence,
            max_entropy=settings.max_entropy or math.inf,
            ranking=settings.top1_ranking,
            log_marginal_V=log_marginal_V,
            mutual_information=settings.mutual_information,
            weights_M=shown.weights_M(weight_VD.dtype),
        )
        total, (nll, value, information, taught) = projected_loss(
            student.features_MD, weight_VD, loss, product_type=student.product_type
        )
        sums = {"loss": total, "nll": nll, "word_kd": value, "taught": taught, "mutual_information": information}
        return {name: sums[name] for name in self.weights}

    @torch.no_grad()
    def _read_teacher(self, teachers: Sequence[Pass], shown: Prepared) -> tuple[TeacherTokens, Tensor | None]:
        """Return the teacher's distributions for the target tokens, and its log-marginal if the settings need it."""
        informed = bool(self.settings.mutual_information)
        if self.settings.source == "cache":
            knowledge = shown.knowledge()
            cached = BestTokens(knowledge.ids_MK, knowledge.log_probs_MG)
            if not informed:
                return cached, None
            if self.given_V is None:
                raise ValueError("mutual information from a cache needs the cache's marginal")
            return cached, _log(self.given_V)
        passes = [each for each in teachers if isinstance(each, TokenPass)]
        distribution = mean_distribution(
            passes, shown, weights=self.settings.teacher_weights, temperature=self.settings.temperature
        )
        if not informed:
            return distribution, None
        chunk = chunk_size(shown.src_tokens_BS.device)
        return distribution, _log(self._marginal(distribution.marginal(shown.num_loss_tokens, chunk)))

    def _marginal(self, of_batch_V: Tensor) -> Tensor:
        """Return the marginal of the batch, or the running average updated with the batch."""
        momentum = self.settings.marginal_momentum
        if not momentum:
            return of_batch_V
        self.marginal_V = of_batch_V if self.marginal_V is None else self.marginal_V.lerp(of_batch_V, 1.0 - momentum)
        return self.marginal_V

    def _select(self, student: TokenPass, targets_M: Tensor) -> Tensor | None:
        """Return the tokens for which the divergence is computed, bool [M]; None for all."""
        if self.settings.select == "all":
            return None
        weight_VD = student.model.output_weight_VD
        nll_M = token_nll(student.features_MD, weight_VD, targets_M, product_type=student.product_type)
        if self.settings.select == "batch":
            return hardest(nll_M, self.settings.rate)
        self.queue_N = push(self.queue_N.to(nll_M), nll_M, self.settings.queue)
        return harder_than_most(nll_M, self.queue_N, self.settings.rate)

    def _in_directions(self, shown: Prepared, taught_M: Tensor | None) -> Tensor | None:
        """Return those of some tokens whose directions are distilled, bool [M]; None for all tokens."""
        of_directions_M = None if self.directions is None else self.directions.taught_M(shown)
        if taught_M is None or of_directions_M is None:
            return of_directions_M if taught_M is None else taught_M
        return taught_M & of_directions_M

    def after_validation(self, figures: Mapping[str, float]) -> dict[str, float]:
        """See `Term.after_validation`."""
        return {} if self.directions is None else self.directions.after_validation(figures)

    def memory(self) -> dict[str, Tensor]:
        """See `Term.memory`."""
        memory = {"queue": self.queue_N} if self.settings.select == "global" else {}
        if self.directions is not None:
            memory["taught_directions"] = self.directions.memory()
        return memory if self.marginal_V is None else {**memory, "marginal": self.marginal_V}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """See `Term.remember`."""
        self.queue_N = memory.get("queue", self.queue_N)
        self.marginal_V = memory.get("marginal")
        if self.directions is not None and "taught_directions" in memory:
            self.directions.remember(memory["taught_directions"])


def mean_distribution(
    teachers: Sequence[TokenPass], shown: Prepared, *, weights: TeacherWeights, temperature: float = 1.0
) -> WholeDistribution:
    """Return the mean distribution of the teachers at the target tokens.

    Args:
        weights: value of `word_kd.teacher_weights`.
    """
    return WholeDistribution(
        tuple(each.features_MD for each in teachers),
        tuple(each.model.output_weight_VD for each in teachers),
        temperature,
        teachers[0].product_type,
        None if weights == "equal" else log_weights_by_perplexity(teachers, shown),
    )


def log_weights_by_perplexity(teachers: Sequence[TokenPass], shown: Prepared) -> Tensor:
    """Return the logarithm of the weight of each teacher at each target token, [N, M], for N teachers.

    The weights of a sentence are the softmax over the teachers of minus the perplexity of its targets, after Saleh et
    al. (2020), who weight the teachers of a mini-batch.
    """
    targets_M = shown.pick(shown.tgt_tokens_BT)
    rows_B1 = torch.arange(len(shown.tgt_tokens_BT), device=targets_M.device)[:, None]
    row_M = shown.pick(rows_B1.expand_as(shown.tgt_tokens_BT))
    nll_NM = torch.stack(
        [
            token_nll(each.features_MD, each.model.output_weight_VD, targets_M, product_type=each.product_type)
            for each in teachers
        ]
    )
    sums_NB = nll_NM.new_zeros(len(teachers), len(rows_B1)).index_add_(1, row_M, nll_NM)
    counts_B = nll_NM.new_zeros(len(rows_B1)).index_add_(0, row_M, torch.ones_like(nll_NM[0]))
    mean_NB = (sums_NB / counts_B.clamp_min(1.0)).clamp_max(_LARGEST_NLL)
    return (-mean_NB.exp()).log_softmax(0)[:, row_M]


def _log(marginal_V: Tensor) -> Tensor:
    """Return the logarithm; probability 0 is replaced by the smallest normal number."""
    return marginal_V.clamp_min(torch.finfo(marginal_V.dtype).tiny).log()


class HiddenStates(Term[Pass]):
    """Distance between hidden states of selected layers, through a learned projection if the widths differ."""

    key = "lessons.0"

    def __init__(self, settings: HiddenKD, *, student: Transformer, teacher: Transformer) -> None:
        super().__init__()
        self.settings = settings
        self.weights = {"hidden": settings.weight}
        self.pairs = tuple(
            ((side, own), (side, other))
            for side, layers in (("encoder", settings.encoder), ("decoder", settings.decoder))
            for own, other in layer_pairs(layers, *(_num_layers(model, side) for model in (student, teacher)))
        )
        self.projections = nn.ModuleList(_projection(student, teacher, side) for (side, _), _ in self.pairs)

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: real tokens, once for each pair of layers."""
        return {"hidden": sum(_num_tokens(prepared, side) for (side, _), _ in self.pairs)}

    def forward(self, student: Pass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:
        """See `Term.forward`."""
        total = student.encoded.states_BSD.new_zeros(())
        for ((side, own), place), projection in zip(self.pairs, self.projections, strict=True):
            pick = prepared.pick_src if side == "encoder" else prepared.pick
            own_ND, other_ND = pick(student.trace.found[side, own]), pick(teachers[0].trace.found[place])
            total = total + hidden_distance(projection(own_ND), other_ND.detach(), self.settings.distance)
        return {"hidden": total}


class AttentionMaps(Term[Pass]):
    """Distance between attention maps of selected layers."""

    def __init__(self, settings: AttentionKD, *, student: Transformer, teacher: Transformer) -> None:
        super().__init__()
        self.settings = settings
        self.weights = {"attention": settings.weight}
        self.pairs = tuple(
            ((kind, own), (kind, other))
            for kind, layers in _maps_of(settings).items()
            for own, other in layer_pairs(layers, *(_num_layers(model, _side_of(kind)) for model in (student, teacher)))
        )

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: real queries, once for each pair of layers."""
        return {"attention": sum(_num_tokens(prepared, _side_of(kind)) for (kind, _), _ in self.pairs)}

    def forward(self, student: Pass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:
        """See `Term.forward`."""
        total = student.encoded.states_BSD.new_zeros(())
        for (kind, own), place in self.pairs:
            own_BHTS, other_BHTS = student.trace.found[kind, own], teachers[0].trace.found[place].detach()
            maps = match_heads(own_BHTS, other_BHTS, self.settings.heads)
            total = total + attention_distance(*maps, _keep(prepared, _side_of(kind)), self.settings.distance)
        return {"attention": total}


class LearnedAttentionMaps(Term[Pass]):
    """Distance between the attention maps of all teacher heads and learned means of all student heads.

    The heads of all layers of a kind are mapped together (`mix_heads`). The means are those of equal weights at first.
    """

    key = "attention_mapping"

    def __init__(self, settings: AttentionKD, *, student: Transformer, teacher: Transformer) -> None:
        super().__init__()
        self.settings = settings
        self.weights = {"attention": settings.weight}
        self.layers = {
            kind: (_num_layers(student, _side_of(kind)), _num_layers(teacher, _side_of(kind)))
            for kind, layers in _maps_of(settings).items()
            if layers != "none"
        }
        self.pairs = tuple(
            ((kind, own), (kind, other))
            for kind, (num_own, num_others) in self.layers.items()
            for own in range(num_own)
            for other in range(num_others)
        )
        self.mappings = nn.ParameterDict(
            {
                kind: nn.Parameter(
                    torch.zeros(
                        num_others * _num_heads(teacher, _side_of(kind)), num_own * _num_heads(student, _side_of(kind))
                    )
                )
                for kind, (num_own, num_others) in self.layers.items()
            }
        )

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: real queries, once for each kind of attention."""
        return {"attention": sum(_num_tokens(prepared, _side_of(kind)) for kind in self.layers)}

    def forward(self, student: Pass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:
        """See `Term.forward`."""
        total = student.encoded.states_BSD.new_zeros(())
        for kind, layers in self.layers.items():
            own_BHTS, other_BGTS = (
                torch.cat([each.trace.found[kind, layer] for layer in range(count)], dim=1)
                for each, count in zip((student, teachers[0]), layers, strict=True)
            )
            mixed_BGTS = mix_heads(own_BHTS, self.mappings[kind])
            keep_BT = _keep(prepared, _side_of(kind))
            total = total + attention_distance(mixed_BGTS, other_BGTS.detach(), keep_BT, self.settings.distance)
        return {"attention": total}


def _maps_of(settings: AttentionKD) -> dict[str, LayerMap]:
    """Return the layers that are compared, by the kind of the attention maps."""
    return {"encoder_self": settings.encoder_self, "decoder_self": settings.decoder_self, "cross": settings.cross}


def _projection(student: Transformer, teacher: Transformer, side: str) -> nn.Module:
    own, other = (int(getattr(model.config, f"{side}_embed_dim")) for model in (student, teacher))
    return nn.Identity() if own == other else nn.Linear(own, other, bias=False)


def _num_layers(model: Transformer, side: str) -> int:
    return int(getattr(model.config, f"{side}_layers"))


def _num_heads(model: Transformer, side: str) -> int:
    return int(getattr(model.config, f"{side}_attention_heads"))


def _side_of(kind: str) -> str:
    """Return the side whose tokens are the queries of an attention map."""
    return "encoder" if kind == "encoder_self" else "decoder"


def _num_tokens(prepared: Prepared, side: str) -> int:
    return prepared.batch.num_src_tokens if side == "encoder" else prepared.num_loss_tokens


def _keep(prepared: Prepared, side: str) -> Tensor:
    """Return the mask of the tokens of a side that are compared, bool [B, L].

    These are the real tokens of the source, or the target tokens where the loss is taken.
    """
    return prepared.src_tokens_BS.ne(PAD) if side == "encoder" else prepared.keep_BT
