"""Settings of the student stage: training data, loss terms, initialisation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Strict, Tag, model_validator

from kdmt.choices import (
    AttentionDistance,
    AttentionMapping,
    CheckpointName,
    DivergenceName,
    HiddenDistance,
    KnowledgeSource,
    OnlineTeacher,
    Precision,
    RecipeName,
    TeacherWeights,
    TokenSelection,
)
from kdmt.config.augment import AUGMENT, AugmentOrRecipe
from kdmt.config.mixture import Data, names_of, shares_of
from kdmt.config.nat import NAT
from kdmt.config.section import (
    SchedulePoint,
    Section,
    changed,
    check_increasing,
    execution,
    extend,
    later,
    recorded_if_set,
)
from kdmt.config.selective import Selective
from kdmt.config.self_supervised import SelfSupervised
from kdmt.config.simultaneous import WaitK
from kdmt.config.training import (
    Model,
    StageSettings,
    Train,
    check_augmented,
    check_initial_weights,
    check_model_of_stages,
    check_packed_model,
    check_self_supervised,
    from_recipe,
    settings_of_stage,
)
from kdmt.families import FAMILIES
from kdmt.training_sets import TRAINING_SETS


class DirectionSelection(Section):
    """Selective distillation by direction (Tan et al. 2019): a direction is distilled while the teacher is better.

    After each validation, it is while the student's negative log-likelihood of the validation targets of the direction
    is more than that of the teacher minus 'margin'.
    """

    margin: float = Field(
        0.0,
        description="Number of nats per token by which the student must be better than the teacher for its direction "
        "not to be distilled; with a negative number, it may be worse by this",
    )


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
    teacher_weights: TeacherWeights = recorded_if_set(
        "equal",
        description="Weights of several 'teachers' in the average: equal ones, or for each sentence the softmax of "
        "minus the perplexities of its targets ('perplexity')",
    )
    divergence: DivergenceName = Field("kl", description="Divergence between the teacher and the student")
    beta: float = Field(0.5, gt=0.0, lt=1.0, description="Share of the teacher in the mixture of 'divergence: js'")
    skew: float = later(
        0.1,
        gt=0.0,
        lt=1.0,
        description="Share of the teacher in the mixture of 'divergence: skewed_kl', of the student in that of "
        "'skewed_reverse_kl'",
    )
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
    direction_selection: DirectionSelection | None = recorded_if_set(
        None,
        description="With several directions: selective distillation of the directions in which the teacher is better "
        "than the student on the validation set; null for all directions",
    )

    @model_validator(mode="after")
    def _consistent(self) -> WordKD:
        if self.source == "cache" and self.divergence == "squared_error":
            raise ValueError("'divergence: squared_error' needs the whole distribution, which a cache does not have")
        is_skewed = self.divergence in ("skewed_kl", "skewed_reverse_kl")
        if "skew" in changed(self) and not is_skewed:
            raise ValueError("'skew' has no effect unless 'divergence' is 'skewed_kl' or 'skewed_reverse_kl'")
        if "beta" in changed(self) and is_skewed:  # earlier versions accept it with the other divergences
            raise ValueError(f"'beta' has no effect with 'divergence: {self.divergence}', whose number is 'skew'")
        if self.source == "cache" and self.marginal_momentum:
            raise ValueError(
                "'marginal_momentum' has no effect with 'source: cache', which has the marginal of all tokens"
            )
        if self.source == "cache" and self.teachers:
            raise ValueError("'teachers' run during training: with 'source: cache' the knowledge stage ran one before")
        if self.teacher_weights != "equal" and len(self.teachers) < 2:
            raise ValueError(f"'teacher_weights: {self.teacher_weights}' has no effect without several 'teachers'")
        check_increasing("alpha_schedule", self.alpha_schedule)
        if self.top1_ranking and not self.ever_taught:
            setting = "alpha" if self.alpha_schedule is None else "alpha_schedule"
            raise ValueError(f"'top1_ranking' is part of the divergence, and '{setting}' is always 0")
        return self

    @property
    def ever_taught(self) -> bool:
        """Return whether the divergence has a weight above 0 at any update."""
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
    mapping: AttentionMapping = later(
        "given",
        description="Mapping of heads and layers: 'given' by the settings above, or 'learned', where each head of all "
        "layers of the teacher is compared with a learned mean of all heads of all layers of the student",
    )

    @model_validator(mode="after")
    def _learns_the_mapping(self) -> AttentionKD:
        if self.mapping == "given":
            return self
        if self.heads is not None:
            raise ValueError("'heads' has no effect with 'mapping: learned', which maps all heads")
        for name in ("encoder_self", "decoder_self", "cross"):
            if getattr(self, name) not in ("uniform", "none"):
                raise ValueError(
                    f"'{name}' names layers, and 'mapping: learned' maps all of them: leave it out, or set it to 'none'"
                )
        return self

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


class Convex(Section):
    """Convex function of the likelihood, 1 - exp(power * mean log-probability of the tokens), times the length.

    It replaces the negative log-likelihood to fine-tune a student that was trained by it (Shao et al. 2023).
    """

    power: float = Field(3.0, gt=0.0, description="Factor of the mean log-probability of a target's tokens")


# settings of a student that a stage does not have, with the reason
NOT_OF_A_STAGE: Mapping[str, str] = {
    "recipe": "the recipe is that of the student",
    "seeds": "every seed is trained in all stages",
    "stages": "a stage has no stages",
    "train": "a stage has the settings of 'train' directly, such as 'lr'",
}
_SAME_IN_ALL_STAGES = ("recipe", "right_to_left", "seed", "seeds")  # settings of a teacher or a student
# settings that give a student its first weights, in addition to those of `train`: they are of the first stage
_FIRST_WEIGHTS = ("encoder_layers_from_teacher", "decoder_layers_from_teacher", "embeddings_from_teacher")


class Student(Section):
    """A student: its training data, model, training and what it learns from."""

    recipe: RecipeName | None = execution(
        None, description="Recipe whose settings apply wherever the file has none; null for the defaults"
    )
    data: Data = Field(
        "distilled",
        description="Training set: 'raw' references; 'distilled', the teacher's best translations; of its n-best "
        "lists, 'interpolated' (the most similar to the reference), 'mbr' (the most similar to the others), 'reranked' "
        "(the best by several features), 'diverse' (several that differ), 'scored' (the best by 'distill.scores') or "
        "'nbest' (all, weighted); 'sampled'; 'imported' from another system; 'back_translated'; 'mixed', raw and "
        "distilled. Or a list of sets with shares of the pairs of an epoch, such as [{set: distilled, share: 0.7}, "
        "{set: raw, share: 0.3}]; an epoch uses each pair of the first set once",
    )
    model: Model = Field(Model(), description="Architecture of the student")
    selective: Selective | None = Field(
        None, description="References for some lines of a non-autoregressive student's training set; null for none"
    )
    nat: NAT | None = Field(None, description="Non-autoregressive decoder; null for an autoregressive one")
    train: Train = Field(Train(), description="Training of the student")
    augment: AugmentOrRecipe | None = Field(None, description=AUGMENT)
    wait_k: WaitK | None = recorded_if_set(
        None,
        description="Wait-k training for simultaneous translation: number k of source tokens that are read before the "
        "first target token, each further one before the next; of a list such as [1, 3, 5], or of {min: 1, max: 9}, "
        "each batch draws one. It needs 'model.unidirectional_encoder'; null for training on whole sources",
    )
    word_kd: WordKD | None = Field(None, description="Word-level distillation; null for none")
    hidden_kd: HiddenKD | None = Field(None, description="Distillation of hidden states; null for none")
    attention_kd: AttentionKD | None = Field(None, description="Distillation of attention; null for none")
    online: Online | None = Field(None, description="Teachers that change during training; null for none")
    on_policy: OnPolicy | None = Field(None, description="Training on the student's own samples; null for none")
    convex: Convex | None = Field(
        None,
        description="Convex function of the likelihood as the loss, for fine-tuning: autoregressive students and the "
        "families nat, cmlm, ctc and dag; null for the likelihood",
    )
    self_supervised: SelfSupervised | None = Field(
        None,
        description="Self-supervised loss on text alone: masked language modelling or denoising; null for none",
    )
    teacher_precision: Precision | None = Field(
        None, description="Precision of the teachers that run during training; null for the student's"
    )
    seeds: list[Annotated[int, Field(ge=0)]] = extend(
        [1], min_length=1, description="Seeds; one model is trained for each"
    )
    encoder_layers_from_teacher: list[int] | None = Field(
        None, description="Teacher layer from which each encoder layer is initialised, from 0; null for random weights"
    )
    decoder_layers_from_teacher: list[int] | None = Field(
        None, description="Teacher layer from which each decoder layer is initialised, from 0; null for random weights"
    )
    embeddings_from_teacher: bool = Field(
        False, description="Whether embeddings and output projection are initialised from the teacher's"
    )
    stages: list[StageSettings] | None = Field(
        None,
        min_length=1,
        description="Stages of training, each from the weights of the one before: for each stage, the settings of the "
        "student and of 'train' that are different in it; null for one training",
    )
    begin_from: CheckpointName = Field(
        "auto",
        description="Checkpoint of the stage before that a stage begins from, for 'stages'; 'auto' is the one that its "
        "run chose by validation",
    )

    @model_validator(mode="before")
    @classmethod
    def _use_recipe(cls, value: Any) -> Any:
        return from_recipe(value, is_student=True)

    @model_validator(mode="after")
    def _consistent(self) -> Student:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("'seeds' holds a number twice")
        check_initial_weights(self.model, self.train)
        return self

    @model_validator(mode="after")
    def _selects(self) -> Student:
        if self.selective is None:
            return self
        if self.nat is None:
            raise ValueError("'selective' is for non-autoregressive students: set 'nat'")
        if self.data != "distilled":
            raise ValueError("'selective' chooses between distilled targets and references: it needs 'data: distilled'")
        return self

    @model_validator(mode="after")
    def _has_the_loss(self) -> Student:
        if self.nat is None:
            return self
        family, elsewhere = self.nat.family, FAMILIES[self.nat.family].why_not_target_positions
        refused = dict.fromkeys(("online", "on_policy"), "its decoder is not its teacher's")
        if elsewhere is not None:
            refused["word_kd"] = elsewhere
            refused["self_supervised"] = "only families whose positions are the target's have it"
        for name, why in refused.items():
            if getattr(self, name) is not None:
                raise ValueError(f"'nat.family: {family}' cannot have '{name}': {why}")
        self._compares_no_framed_states()
        if elsewhere is not None:
            self._compares_encoders_alone(elsewhere)
        if elsewhere is not None and (weighted := self.weighted_data):
            raise ValueError(
                f"'nat.family: {family}' cannot have 'data: {weighted}': its loss has no weights of sentences"
            )
        return self

    def _compares_no_framed_states(self) -> None:
        assert self.nat is not None
        if self.nat.layout == "own":
            return
        for name in ("hidden_kd", "attention_kd", "self_supervised"):
            if getattr(self, name) is not None:
                raise ValueError(f"'nat.layout: fairseq' cannot have '{name}': its encoder sees an <s> more")
        if self.nat.deep_supervision:
            name = "dslp" if self.nat.dslp else "deep_supervision"
            raise ValueError(f"'nat.layout: fairseq' cannot have '{name}': its decoder sees an <s> more")

    def _compares_encoders_alone(self, why: str) -> None:
        assert self.nat is not None
        for name, decoders in (("hidden_kd", ("decoder",)), ("attention_kd", ("decoder_self", "cross"))):
            lesson = getattr(self, name)
            for part in decoders if lesson is not None else ():
                if getattr(lesson, part) != "none":
                    raise ValueError(
                        f"'nat.family: {self.nat.family}' cannot have '{name}.{part}': {why}; 'none' leaves the encoder"
                    )

    @model_validator(mode="after")
    def _is_self_supervised(self) -> Student:
        settings = self.self_supervised
        if settings is None or settings.denoising is None:
            return self
        if self.nat is not None:
            raise ValueError("'self_supervised.denoising' is for autoregressive students: leave out 'nat'")
        if self.wait_k is not None:
            raise ValueError("'wait_k' cannot be combined with 'self_supervised.denoising', which reads whole sources")
        check_self_supervised(settings, self.train, self.augment, self.shares)
        others = ("word_kd", "hidden_kd", "attention_kd", "online", "on_policy", "convex") if settings.is_alone else ()
        for name in others:
            if getattr(self, name) is not None:
                raise ValueError(
                    f"'{name}' has no effect with 'self_supervised.supervised: 0', which uses no sentence pairs"
                )
        return self

    @model_validator(mode="after")
    def _has_one_loss(self) -> Student:
        if self.convex is None:
            return self
        if self.word_kd is not None:
            raise ValueError("'convex' cannot be combined with 'word_kd': both replace the negative log-likelihood")
        if self.nat is None:
            return self
        if not FAMILIES[self.nat.family].has_convex:
            raise ValueError(f"'nat.family: {self.nat.family}' cannot have 'convex': its loss is not one likelihood")
        if self.nat.loss != "likelihood":
            raise ValueError(f"'convex' replaces the likelihood: it cannot have 'nat.loss: {self.nat.loss}'")
        return self

    @model_validator(mode="after")
    def _can_wait(self) -> Student:
        if self.nat is not None and self.model.unidirectional_encoder:
            raise ValueError("'model.unidirectional_encoder' is for autoregressive students: leave out 'nat'")
        streams = self.nat is not None and self.nat.streaming is not None
        if self.attention_kd is not None and (streams or self.model.unidirectional_encoder):
            setting = "nat.streaming" if streams else "model.unidirectional_encoder"
            raise ValueError(
                f"'{setting}' cannot be combined with 'attention_kd': the teacher attends to words that the student "
                "does not see"
            )
        if self.wait_k is None:
            return self
        if self.nat is not None:
            raise ValueError("'wait_k' is for autoregressive students: a 'ctc' student has 'nat.streaming'")
        if not self.model.unidirectional_encoder:
            raise ValueError(
                "'wait_k' needs 'model.unidirectional_encoder: true': the states of the encoder must not depend on "
                "words that have not been read"
            )
        for name in ("online", "on_policy"):
            if getattr(self, name) is not None:
                raise ValueError(f"'wait_k' cannot be combined with '{name}', which reads whole sources")
        if self.train.guided_alignment is not None:
            raise ValueError("'wait_k' cannot have 'train.guided_alignment', whose links lead to words not read yet")
        if self.train.packing:
            raise ValueError("'wait_k' cannot be combined with 'train.packing': it needs padded sentences")
        if self.train.validate_beam != 1:
            raise ValueError("'wait_k' needs 'train.validate_beam: 1': words that were written cannot be replaced")
        return self

    @model_validator(mode="after")
    def _can_be_packed(self) -> Student:
        if not self.train.packing:
            return self
        check_packed_model(self.model)
        for name in ("nat", "hidden_kd", "attention_kd", "self_supervised", "on_policy", "convex"):
            if getattr(self, name) is not None:
                raise ValueError(f"'train.packing' cannot be combined with '{name}', which needs padded sentences")
        if weighted := self.weighted_data:
            raise ValueError(f"'train.packing' cannot have 'data: {weighted}', whose sentences have weights")
        return self

    @model_validator(mode="after")
    def _can_be_quantized(self) -> Student:
        if self.train.quantization_aware is not None and self.nat is not None:
            raise ValueError("'train.quantization_aware' is for autoregressive students: leave out 'nat'")
        return self

    @model_validator(mode="after")
    def _can_be_consolidated(self) -> Student:
        if self.train.ewc is not None and self.nat is not None:
            raise ValueError("'train.ewc' is for autoregressive students: leave out 'nat'")
        return self

    @model_validator(mode="after")
    def _can_be_resampled(self) -> Student:
        if self.train.subword_regularization is None:
            return self
        if self.nat is not None:
            raise ValueError("'train.subword_regularization' is for autoregressive students: leave out 'nat'")
        if self.word_kd is not None and self.word_kd.source == "cache":
            raise ValueError(
                "'train.subword_regularization' cannot have 'word_kd.source: cache', which has the teacher's "
                "distributions at the tokens of one segmentation"
            )
        return self

    @model_validator(mode="after")
    def _can_be_augmented(self) -> Student:
        check_augmented(self.augment, self.train)
        if self.augment is not None and self.word_kd is not None and self.word_kd.source == "cache":
            raise ValueError(
                "'augment' cannot have 'word_kd.source: cache', which has the teacher's distributions at the tokens of "
                "the training set: 'word_kd.source: teacher' runs the teacher on the changed text"
            )
        return self

    @model_validator(mode="after")
    def _has_an_alignment(self) -> Student:
        if self.train.guided_alignment is None:
            return self
        if self.nat is not None:
            raise ValueError("'train.guided_alignment' is for autoregressive students: leave out 'nat'")
        if self.on_policy is not None:
            raise ValueError("'train.guided_alignment' cannot have 'on_policy': samples have no alignment")
        return self

    @model_validator(mode="after")
    def _own_samples(self) -> Student:
        if self.on_policy is None:
            return self
        if self.word_kd is None or self.word_kd.source == "cache":
            raise ValueError("'on_policy' needs 'word_kd' with a teacher that reads the samples: no cache has them")
        if not (self.word_kd.ever_taught or self.word_kd.mutual_information):
            raise ValueError("'on_policy' has no effect: the divergence at samples has the weight 0 ('word_kd.alpha')")
        if self.online is not None and self.online.kind != "ema":
            raise ValueError("'on_policy' samples from one student: 'online.kind' trains several models")
        if self.train.parallel == "fsdp":
            raise ValueError("'on_policy' needs the whole model on each rank: 'train.parallel: fsdp' shards it")
        return self

    @model_validator(mode="after")
    def _whole_first_pass(self) -> Student:
        if self.nat is not None and self.nat.glancing_divisor == "predicted" and self.train.parallel == "fsdp":
            raise ValueError(
                "'nat.glancing_divisor: predicted' needs the whole model on each rank before the forward pass: "
                "'train.parallel: fsdp' shards it"
            )
        return self

    @model_validator(mode="after")
    def _weights_teachers(self) -> Student:
        if self.word_kd is not None and self.word_kd.teacher_weights != "equal" and self.train.packing:
            raise ValueError("'train.packing' cannot be combined with 'word_kd.teacher_weights', of padded sentences")
        return self

    @model_validator(mode="after")
    def _selects_directions(self) -> Student:
        if self.word_kd is None or self.word_kd.direction_selection is None:
            return self
        name = "word_kd.direction_selection"
        if self.nat is not None:
            raise ValueError(f"'{name}' compares likelihoods: 'nat' students cannot have it")
        for other in ("online", "on_policy"):
            if getattr(self, other) is not None:
                raise ValueError(f"'{name}' cannot be combined with '{other}'")
        if self.train.packing:
            raise ValueError(f"'train.packing' cannot be combined with '{name}', which needs padded sentences")
        if not self.word_kd.ever_taught:
            raise ValueError(f"'{name}' has no effect: 'word_kd.alpha' is 0")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Student:
        if self.online is None:
            return self
        if self.word_kd is None:
            raise ValueError("'online' needs 'word_kd', the settings of its divergence")
        if not (self.word_kd.ever_taught or self.word_kd.mutual_information or self.hidden_kd or self.attention_kd):
            raise ValueError("'online' has no effect: 'word_kd.alpha' is 0, and no other term has a teacher")
        if self.teacher_precision is not None:
            raise ValueError("'teacher_precision' has no effect with 'online': its teachers have the student's")
        if self.word_kd.source == "cache" or self.word_kd.teachers:
            raise ValueError("'online' has its own teachers: leave out 'word_kd.teachers' and 'word_kd.source: cache'")
        if self.online.kind == "mutual" and self.word_kd.select == "global":
            raise ValueError("'word_kd.select: global' keeps one queue, and 'online.kind: mutual' has several students")
        if self.word_kd.marginal_momentum and self.online.kind == "mutual":
            raise ValueError(
                "'word_kd.marginal_momentum' keeps one average, and 'online.kind: mutual' has several students"
            )
        return self

    @model_validator(mode="after")
    def _has_valid_stages(self) -> Student:
        check_model_of_stages(self.model, [stage.model for stage in self.in_stages()])
        return self

    @property
    def data_names(self) -> tuple[str, ...]:
        """Return the training sets with folders of their own that the student reads, in the order of their pairs."""
        return names_of(self.data) if self.selective is None else ("distilled", "raw")

    @property
    def shares(self) -> tuple[float, ...] | None:
        """Return the share of each of these training sets; None if all pairs are used in each epoch."""
        return shares_of(self.data)

    @property
    def weighted_data(self) -> str | None:
        """Return the name of a training set of the student whose pairs have weights, None if there is none."""
        return next((name for name in self.data_names if TRAINING_SETS[name].has_weights), None)

    @property
    def compares_decoders(self) -> str | None:
        """Return a setting that compares the decoder of the student with that of a teacher, None if there is none."""
        parts = {
            "word_kd": self.word_kd is not None,
            "hidden_kd.decoder": self.hidden_kd is not None and self.hidden_kd.decoder != "none",
            "attention_kd.decoder_self": self.attention_kd is not None and self.attention_kd.decoder_self != "none",
            "attention_kd.cross": self.attention_kd is not None and self.attention_kd.cross != "none",
        }
        return next((name for name, compares in parts.items() if compares), None)

    def in_stages(self) -> list[Student]:
        """Return the settings of each stage of the training; those of the student itself if it has no stages."""
        if self.stages is None:
            return [self]
        own = self.model_dump(exclude={"stages"}, exclude_unset=True)
        stages = [
            settings_of_stage(own, given, number, refused=NOT_OF_A_STAGE, first_weights=_FIRST_WEIGHTS)
            for number, given in enumerate(self.stages)
        ]
        return _Stages.model_validate({"stages": stages}).stages


def setting_path(training: str, setting: str) -> str:
    """Return the YAML path of a setting of a training.

    A stage has the settings of `train` directly, and the model, seeds and target order of its teacher or student.

    Args:
        training: YAML path of the teacher, a student or a stage of either.
        setting: path of the setting below that.
    """
    owner = re.fullmatch(r"(teacher|students\..+)\.stages\.[0-9]+", training)
    if owner is not None and (setting.startswith("model") or setting in _SAME_IN_ALL_STAGES):
        return f"{owner[1]}.{setting}"
    return f"{training}.{setting if owner is None else setting.removeprefix('train.')}"


class _Stages(Section):
    """Settings of all stages, which are checked as a list so that messages have the number of the stage."""

    stages: list[Student]
