"""Settings of the loss terms that a student learns from besides the cross entropy of its targets."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, Strict, Tag, model_validator

from kdmt.choices import (
    AttentionDistance,
    DivergenceName,
    HiddenDistance,
    KnowledgeSource,
    OnlineTeacher,
    TokenSelection,
)
from kdmt.config.section import SchedulePoint, Section
from kdmt.config.training import Model


class WordKD(Section):
    """Word-level distillation: (1 - alpha) cross entropy + alpha divergence(teacher, student) at each target token."""

    source: KnowledgeSource = Field(
        "teacher",
        description="Source of the teacher's distributions: 'teacher' runs it during training, 'cache' reads the "
        "output of the knowledge stage",
    )
    teachers: list[str] = Field(
        default_factory=list,
        description="Checkpoints whose distributions are averaged; empty for the pipeline's teacher",
    )
    divergence: DivergenceName = Field("kl", description="Divergence between the teacher and the student")
    beta: float = Field(0.5, gt=0.0, lt=1.0, description="Share of the teacher in the mixture of 'divergence: js'")
    temperature: float = Field(1.0, gt=0.0, description="Divisor of the logits of the teacher and the student")
    alpha: float = Field(0.5, ge=0.0, le=1.0, description="Weight of the divergence")
    select: TokenSelection = Field(
        "all",
        description="Tokens that the divergence applies to: all, or those with the highest loss of the student in the "
        "micro-batch ('batch') or among the last 'queue' tokens ('global')",
    )
    rate: float = Field(0.5, gt=0.0, le=1.0, description="Share of the tokens that 'select' chooses")
    queue: int = Field(30_000, ge=1, description="Number of recent tokens that 'select: global' compares with")
    min_confidence: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Minimum probability of the teacher's best token for the divergence to apply; 0 for no limit",
    )
    max_entropy: float | None = Field(
        None,
        ge=0.0,
        description="Maximum entropy of the teacher, in nats, for the divergence to apply; null or 0 for no limit",
    )
    top1_ranking: int = Field(
        0, ge=0, description="Number K of top tokens in the ranking loss of TIE-KD; 0 for no ranking loss"
    )
    mutual_information: float = Field(0.0, description="Weight of KL(student || marginal distribution of the teacher)")
    marginal_momentum: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Momentum of the running average of the teacher's marginal distribution; 0 for the batch's own",
    )
    alpha_schedule: list[SchedulePoint] | None = Field(
        None,
        min_length=1,
        description="Points [update, alpha] of a piecewise linear schedule, instead of a constant 'alpha'",
    )

    @model_validator(mode="after")
    def _consistent(self) -> WordKD:
        if self.source == "cache" and self.divergence == "squared_error":
            raise ValueError("'divergence: squared_error' needs the whole distribution, which a cache does not have")
        if self.source == "cache" and self.marginal_momentum:
            raise ValueError("'marginal_momentum' is of batches: a cache has the marginal of its whole training set")
        if self.source == "cache" and self.teachers:
            raise ValueError("'teachers' run during training: with 'source: cache' the knowledge stage ran one before")
        updates = [update for update, _ in self.alpha_schedule or ()]
        if updates != sorted(set(updates)):
            raise ValueError("'alpha_schedule': its updates do not ascend")
        if self.top1_ranking and not self.ever_taught:
            setting = "alpha" if self.alpha_schedule is None else "alpha_schedule"
            raise ValueError(f"'top1_ranking' is part of the divergence, and '{setting}' is 0 throughout")
        return self

    @property
    def ever_taught(self) -> bool:
        """Whether the divergence has a weight above 0 at any update."""
        return any(alpha for _, alpha in self.alpha_schedule or [(0, self.alpha)])


# the map from layers of the teacher to layers of the student: evenly, the last n, or [student, teacher] pairs
RULE_BRANCH, PAIRS_BRANCH = "<layers by rule>", "<pairs of layers>"
_LayerPair = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], Strict(False)]
LayerMap = Annotated[
    Annotated[str, Field(pattern=r"^(none|uniform|last:[1-9][0-9]*)$"), Tag(RULE_BRANCH)]
    | Annotated[list[_LayerPair], Field(min_length=1), Tag(PAIRS_BRANCH)],
    Discriminator(lambda value: PAIRS_BRANCH if isinstance(value, list) else RULE_BRANCH),
]
_LAYER_MAP = "'uniform', 'last:N', 'none', or a list of [student layer, teacher layer], from 0"


class HiddenKD(Section):
    """Distance between hidden states of the student and the teacher, with a learned projection between widths."""

    encoder: LayerMap = Field("uniform", description=f"Encoder layers that are compared: {_LAYER_MAP}")
    decoder: LayerMap = Field("uniform", description=f"Decoder layers that are compared: {_LAYER_MAP}")
    distance: HiddenDistance = Field("mse", description="Distance between hidden states")
    weight: float = Field(1.0, gt=0.0, description="Weight of the distance in the loss")

    @model_validator(mode="after")
    def _compares(self) -> HiddenKD:
        if self.encoder == self.decoder == "none":
            raise ValueError("'encoder' and 'decoder' are both 'none': nothing is compared")
        return self


class AttentionKD(Section):
    """Distance between attention distributions of the student and the teacher."""

    encoder_self: LayerMap = Field("uniform", description=f"Layers of encoder self-attention: {_LAYER_MAP}")
    decoder_self: LayerMap = Field("uniform", description=f"Layers of decoder self-attention: {_LAYER_MAP}")
    cross: LayerMap = Field("uniform", description=f"Layers of attention from the decoder to the encoder: {_LAYER_MAP}")
    distance: AttentionDistance = Field("kl", description="Distance between attention distributions")
    heads: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        description="Teacher head for each head of the student, from 0; null for the same index if both have as many "
        "heads, else for the mean over the heads of each",
    )
    weight: float = Field(1.0, gt=0.0, description="Weight of the distance in the loss")

    @model_validator(mode="after")
    def _compares(self) -> AttentionKD:
        if self.encoder_self == self.decoder_self == self.cross == "none":
            raise ValueError("'encoder_self', 'decoder_self' and 'cross' are all 'none': nothing is compared")
        return self


class Online(Section):
    """Teachers that change during training, instead of the pipeline's teacher."""

    kind: OnlineTeacher = Field(
        description="Teacher: 'ema' is a moving average of the student, 'joint' is trained together with it, 'mutual' "
        "are peers that learn from each other"
    )
    decay: float = Field(0.999, ge=0.0, lt=1.0, description="Decay of the moving average of 'kind: ema'")
    peers: int = Field(1, ge=1, description="Number of peers of 'kind: mutual', without the student")
    model: Model | None = Field(None, description="Architecture of the teacher of 'kind: joint'")

    @model_validator(mode="after")
    def _consistent(self) -> Online:
        if (self.kind == "joint") != (self.model is not None):
            raise ValueError("'kind: joint' needs the teacher's 'model', and no other kind has one")
        return self


class OnPolicy(Section):
    """On-policy distillation (Agarwal et al. 2024): targets of some micro-batches are samples of the student."""

    rate: float = Field(0.5, gt=0.0, le=1.0, description="Probability that a micro-batch has samples as its targets")
    temperature: float = Field(1.0, gt=0.0, description="Divisor of the student's logits in sampling")
    top_k: int = Field(0, ge=0, description="Number of most probable tokens that are sampled from; 0 for all")
    top_p: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="Probability mass of the smallest set of tokens that is sampled from; 1 for all tokens",
    )
    max_len_a: float = Field(1.2, ge=0.0, description="Maximum length of a sample per source token")
    max_len_b: int = Field(10, ge=1, description="Constant part of the maximum length of a sample, in tokens")


class SelfSupervised(Section):
    """Masked language modelling of the source: supervised * other terms + (1 - supervised) * masked tokens."""

    supervised: float = Field(0.5, gt=0.0, lt=1.0, description="Weight of all terms that have targets")
    mask_rate: float = Field(0.15, gt=0.0, lt=1.0, description="Share of the source tokens that are masked")
    monolingual: bool = Field(
        False,
        description="Whether the text of 'prepare.monolingual' is used too, about as many tokens as of the sources",
    )
