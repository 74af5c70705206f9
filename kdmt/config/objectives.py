"""Settings of what a student learns besides the cross entropy of its targets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Strict, Tag, model_validator

from kdmt.config.section import SchedulePoint, Section
from kdmt.config.training import Model


class WordKD(Section):
    """Word-level distillation: (1 - alpha) cross entropy + alpha divergence(teacher, student) at each target token."""

    source: Literal["teacher", "cache"] = "teacher"  # one that runs beside the student, or what it said before
    teachers: list[str] = Field(default_factory=list)  # checkpoints, averaged; by default the pipeline's teacher
    divergence: Literal["kl", "reverse_kl", "js", "tvd", "cross_entropy", "squared_error"] = "kl"
    beta: float = Field(0.5, gt=0.0, lt=1.0)  # of js: the teacher's share in the mixture
    temperature: float = Field(1.0, gt=0.0)
    alpha: float = Field(0.5, ge=0.0, le=1.0)
    select: Literal["all", "batch", "global"] = "all"  # teach the tokens that the student finds hardest
    rate: float = Field(0.5, gt=0.0, le=1.0)  # share of them, in the micro-batch or among the last `queue` tokens
    queue: int = Field(30_000, ge=1)
    min_confidence: float = Field(0.0, ge=0.0, lt=1.0)  # teach where the teacher's best token has at least so much
    # largest entropy of the teacher, in nats, at tokens that are taught; null or 0: no limit
    max_entropy: float | None = Field(None, ge=0.0)
    top1_ranking: int = Field(0, ge=0)  # K of TIE-KD's ranking loss, 0 for none
    mutual_information: float = 0.0  # weight of KL(student || teacher's marginal)
    marginal_momentum: float = Field(0.0, ge=0.0, lt=1.0)  # of its running average; 0: the batch's own
    # [update, alpha] points instead of a constant alpha, linear in between
    alpha_schedule: list[SchedulePoint] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> WordKD:
        if self.source == "cache" and self.divergence == "squared_error":
            raise ValueError("'divergence: squared_error' needs the whole distribution, which a cache does not have")
        if self.source == "cache" and self.marginal_momentum:
            raise ValueError("'marginal_momentum' is of batches: a cache has the marginal of its whole training set")
        if self.source == "cache" and self.teachers:
            raise ValueError("'teachers' run beside the student: 'source: cache' has what one teacher said before")
        updates = [update for update, _ in self.alpha_schedule or ()]
        if updates != sorted(set(updates)):
            raise ValueError("'alpha_schedule': its updates do not ascend")
        if self.top1_ranking and not self.ever_taught:
            setting = "alpha" if self.alpha_schedule is None else "alpha_schedule"
            raise ValueError(f"'top1_ranking' is part of the divergence, and '{setting}' is 0 throughout")
        return self

    @property
    def ever_taught(self) -> bool:
        """Whether the divergence ever has a share in the loss."""
        return any(alpha for _, alpha in self.alpha_schedule or [(0, self.alpha)])


# which of the teacher's layers teaches which of the student's: evenly, the last n, or [student, teacher] pairs
RULE_BRANCH, PAIRS_BRANCH = "<layers by rule>", "<pairs of layers>"
_LayerPair = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], Strict(False)]
LayerMap = Annotated[
    Annotated[str, Field(pattern=r"^(none|uniform|last:[1-9][0-9]*)$"), Tag(RULE_BRANCH)]
    | Annotated[list[_LayerPair], Field(min_length=1), Tag(PAIRS_BRANCH)],
    Discriminator(lambda value: PAIRS_BRANCH if isinstance(value, list) else RULE_BRANCH),
]


class HiddenKD(Section):
    """Hidden states of layers drawn to the teacher's, through a learned projection where the widths differ."""

    encoder: LayerMap = "uniform"
    decoder: LayerMap = "uniform"
    distance: Literal["mse", "cosine", "pkd"] = "mse"
    weight: float = Field(1.0, gt=0.0)

    @model_validator(mode="after")
    def _compares(self) -> HiddenKD:
        if self.encoder == self.decoder == "none":
            raise ValueError("'encoder' and 'decoder' are both 'none': nothing is compared")
        return self


class AttentionKD(Section):
    """Attention maps drawn to the teacher's."""

    encoder_self: LayerMap = "uniform"
    decoder_self: LayerMap = "uniform"
    cross: LayerMap = "uniform"
    distance: Literal["kl", "squared_error"] = "kl"
    heads: list[Annotated[int, Field(ge=0)]] | None = None  # the teacher's head for each of the student's
    weight: float = Field(1.0, gt=0.0)

    @model_validator(mode="after")
    def _compares(self) -> AttentionKD:
        if self.encoder_self == self.decoder_self == self.cross == "none":
            raise ValueError("'encoder_self', 'decoder_self' and 'cross' are all 'none': nothing is compared")
        return self


class Online(Section):
    """Teachers that move while the student learns, instead of the pipeline's."""

    kind: Literal["ema", "joint", "mutual"]  # the student's average; a teacher trained beside it; peers
    decay: float = Field(0.999, ge=0.0, lt=1.0)  # of `ema`
    peers: int = Field(1, ge=1)  # of `mutual`, besides the student
    model: Model | None = None  # of `joint`'s teacher; peers have the student's

    @model_validator(mode="after")
    def _consistent(self) -> Online:
        if (self.kind == "joint") != (self.model is not None):
            raise ValueError("'kind: joint' needs the teacher's 'model', and no other kind has one")
        return self


class OnPolicy(Section):
    """With probability `rate` a micro-batch's targets are the student's own samples (Agarwal et al. 2024)."""

    rate: float = Field(0.5, gt=0.0, le=1.0)
    temperature: float = Field(1.0, gt=0.0)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    max_len_a: float = Field(1.2, ge=0.0)
    max_len_b: int = Field(10, ge=1)


class SelfSupervised(Section):
    """A masked language model of the source on the encoder: supervised * everything else + (1 - supervised) * it."""

    supervised: float = Field(0.5, gt=0.0, lt=1.0)  # the share lambda of all that has targets
    mask_rate: float = Field(0.15, gt=0.0, lt=1.0)
    monolingual: bool = False  # also of `prepare.monolingual`, about as much of it as of the sources
