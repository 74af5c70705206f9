"""Settings of models and their training, shared by the teacher and all students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, WithJsonSchema, model_validator

from kdmt.choices import (
    Activation,
    AlignmentUnit,
    AutoCheckpoint,
    BestMetric,
    CheckpointName,
    DecoderKind,
    DirectionBatches,
    Initialisation,
    Int8Scales,
    Layout,
    LRSchedule,
    OnDivergence,
    Parallelism,
    Precision,
    RecipeName,
    SubwordSide,
    names,
)
from kdmt.config.augment import AUGMENT, Augment, AugmentOrRecipe
from kdmt.config.bounds import largest
from kdmt.config.mixture import Data, names_of, shares_of
from kdmt.config.recipes import merge_settings, with_recipe
from kdmt.config.section import Section, TokenLimit, changed, execution, extend, later, recorded_if_set
from kdmt.config.self_supervised import SelfSupervised
from kdmt.training_sets import OF_TEACHERS


class Model(Section):
    """Model architecture: the name of one, and changes to its fields; null keeps the architecture's."""

    arch: str = Field(
        "transformer",
        description="Name of the architecture: fairseq's 'transformer', 'transformer_tiny', 'transformer_iwslt_de_en' "
        "and 'transformer_big'; 'transformer_multi30k', 'student_tiny', 'student_base_memory' and 'student_base'; "
        "one of these students with '_attention' has a decoder with self-attention",
    )
    encoder_layers: int | None = Field(None, ge=1, description="Number of encoder layers")
    decoder_layers: int | None = Field(None, ge=1, description="Number of decoder layers")
    encoder_embed_dim: int | None = Field(None, ge=1, description="Width of the encoder")
    decoder_embed_dim: int | None = Field(None, ge=1, description="Width of the decoder")
    encoder_ffn_embed_dim: int | None = Field(None, ge=1, description="Width of the encoder's feed-forward layers")
    decoder_ffn_embed_dim: int | None = Field(None, ge=1, description="Width of the decoder's feed-forward layers")
    encoder_attention_heads: int | None = Field(None, ge=1, description="Number of attention heads of the encoder")
    decoder_attention_heads: int | None = Field(None, ge=1, description="Number of attention heads of the decoder")
    encoder_normalize_before: bool | None = Field(
        None, description="Layer normalisation before each encoder block (pre-norm) instead of after it"
    )
    decoder_normalize_before: bool | None = Field(
        None, description="Layer normalisation before each decoder block (pre-norm) instead of after it"
    )
    encoder_learned_pos: bool | None = Field(
        None, description="Learned instead of sinusoidal positional embeddings in the encoder"
    )
    decoder_learned_pos: bool | None = Field(
        None, description="Learned instead of sinusoidal positional embeddings in the decoder"
    )
    share_decoder_input_output_embed: bool | None = Field(
        None, description="Sharing of the decoder's embeddings with the output projection"
    )
    share_all_embeddings: bool | None = Field(
        None, description="Sharing of encoder embeddings, decoder embeddings and output projection"
    )
    layernorm_embedding: bool | None = Field(None, description="Layer normalisation of the embeddings")
    no_scale_embedding: bool | None = Field(
        None, description="Embeddings without multiplication by the square root of the width"
    )
    activation_fn: Activation | None = Field(None, description="Activation function of the feed-forward layers")
    init: Initialisation | None = later(
        None,
        description="Random initial weights: 'fairseq' (also if null) draws them as fairseq's Transformer does, 'bert' "
        "from a normal distribution with a standard deviation of 0.02",
    )
    layout: Layout | None = later(
        None,
        description="Numerics: 'fairseq' (also if null, unless the architecture is one of Marian) or 'marian', which "
        "Marian and Firefox's engine compute exactly: positions from 0, a zero vector as the first decoder input, a "
        "bias of the output projection, 1e-6 in layer norms. Autoregressive models only",
    )
    decoder: DecoderKind | None = later(
        None,
        description="Part of a decoder layer that reads earlier positions: 'self_attention' (also if null, unless the "
        "architecture has another one), or 'ssru', a recurrent unit whose state is one vector (Kim et al. 2019). "
        "Autoregressive models only; CTranslate2 and fairseq do not have it",
    )
    tied_decoder_layers: bool | None = later(
        None, description="Sharing of the parameters of all decoder layers; null for the architecture's, mostly false"
    )
    unidirectional_encoder: bool | None = recorded_if_set(
        None,
        description="Causal self-attention in the encoder, so that the source can be encoded while it arrives: needed "
        "for wait-k students. Autoregressive models only; other programs do not have it",
    )
    dropout: float | None = Field(None, ge=0.0, lt=1.0, description="Dropout probability")
    attention_dropout: float | None = Field(
        None, ge=0.0, lt=1.0, description="Dropout probability of the attention weights"
    )
    activation_dropout: float | None = Field(
        None, ge=0.0, lt=1.0, description="Dropout probability after the activation function"
    )
    max_source_positions: int | None = Field(None, ge=1, description="Maximum number of source tokens of a sentence")
    max_target_positions: int | None = Field(None, ge=1, description="Maximum number of target tokens of a sentence")

    def overrides(self) -> dict[str, object]:
        """Return the fields that are set, without the name of the architecture."""
        return {key: value for key, value in self.model_dump().items() if key != "arch" and value is not None}


# settings of single schedules of the learning rate
_SCHEDULE_SETTINGS: dict[str, tuple[LRSchedule, ...]] = {
    "min_lr": ("linear", "cosine", "polynomial_decay", "wsd"),
    "power": ("polynomial_decay",),
    "decay_share": ("wsd",),
}


class Average(Section):
    """Averages of checkpoints: every run writes the mean of its best and of its last checkpoints."""

    of: AutoCheckpoint = extend(
        "auto",
        description="Checkpoint that the name 'auto' is: 'best' for 'average_best', 'last' for 'average', 'auto' for "
        "the best of 'best', 'average_best' and 'average' by 'best_metric', compared when training ends",
    )
    n: int | None = execution(
        None,
        ge=1,
        description="Number of checkpoints in each average: another name of 'average_checkpoints', as which it is "
        "stored; null for the value there",
    )


class SubwordRegularization(Section):
    """Subword regularisation: training text is cut into other subwords in each epoch.

    `alpha` is for unigram models of SentencePiece (Kudo 2018), `dropout` for BPE models of SentencePiece and
    subword-nmt (Provilkov et al. 2020).
    """

    alpha: float | None = Field(
        None,
        ge=0.0,
        description="Exponent of the probabilities of segmentations, SentencePiece's 'alpha'; unigram models only",
    )
    nbest_size: int = Field(
        -1,
        ge=-1,
        le=512,
        description="Number of best segmentations of a sentence that one is drawn from, SentencePiece's 'nbest_size'; "
        "-1 for all",
    )
    dropout: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="Probability that a merge is skipped, subword-nmt's '--dropout' and the 'alpha' of SentencePiece's "
        "BPE models; BPE models only",
    )
    side: SubwordSide = Field("both", description="Side whose sentences are cut in other ways: both, source or target")

    @model_validator(mode="after")
    def _consistent(self) -> SubwordRegularization:
        if (self.alpha is None) == (self.dropout is None):
            raise ValueError("give either 'alpha' (unigram models) or 'dropout' (BPE models)")
        if self.nbest_size in (0, 1):
            raise ValueError("'nbest_size' should be at least 2, or -1 for all segmentations")
        if self.alpha is None and self.nbest_size != -1:
            raise ValueError("'nbest_size' has no effect with 'dropout': BPE models have no n-best segmentations")
        return self

    def check_tokenizer(self, kind: str, model: str) -> None:
        """Check that a tokenizer can be sampled with these settings.

        Args:
            kind: type of the tokenizer.
            model: its subword model, `unigram` or `bpe`.

        Raises:
            ValueError: if it cannot.
        """
        if kind == "words":
            raise ValueError("text of 'prepare.tokenizer.type: words' cannot be cut in another way")
        if kind == "huggingface":
            raise ValueError("a tokenizer of 'prepare.tokenizer.type: huggingface' cuts text in one way only")
        if model == "bpe" and self.dropout is None:
            raise ValueError("'alpha' is a setting of unigram models: the tokenizer is a BPE model, set 'dropout'")
        if model == "unigram" and self.alpha is None:
            raise ValueError("'dropout' is a setting of BPE models: the tokenizer is a unigram model, set 'alpha'")


class Consolidation(Section):
    """Elastic weight consolidation (Kirkpatrick et al. 2017): fine-tuning that stays near the first weights.

    The loss has the term weight / 2 * sum of F_i (w_i - a_i)^2: a are the weights at the beginning, and F_i is the mean
    squared derivative of the log-probability of a target by the weight i, on text that the model must not forget.
    """

    weight: float = Field(gt=0.0, description="Weight of the sum in the loss")
    prepared: str = Field(
        description="Folder of the prepare stage whose training text the model must not forget, as "
        "runs/NAME/prepare; with the same dictionaries"
    )
    pairs: int = Field(1000, ge=1, description="Number of sentence pairs of this text from which F is computed")


class GuidedAlignment(Section):
    """Guided alignment (Chen et al. 2016): cross entropy of one head of the attention to the source with an alignment.

    The alignment is that of the tokens of the training set by IBM model 1 in both directions, or that of a file.
    """

    weight: float = Field(0.1, gt=0.0, description="Weight of the cross entropy in the loss")
    layer: int | None = Field(None, ge=0, description="Decoder layer of the head, from 0; null for the last layer")
    head: int = Field(0, ge=0, description="Index of the head, from 0")
    file: str | None = Field(
        None,
        description="Path of a file with the links of each pair of the training set, 'i-j' from source i to target j, "
        "as fast_align and eflomal write; null for the alignment by IBM model 1",
    )
    unit: AlignmentUnit = Field(
        "words",
        description="Unit that 'file' counts: 'words' of the text of the training set, or 'tokens' of its data-bin",
    )

    @model_validator(mode="after")
    def _consistent(self) -> GuidedAlignment:
        if self.file is None and self.unit != "words":
            raise ValueError("'unit' has no effect without 'file': IBM model 1 aligns tokens")
        return self


def _average_from_name(value: object) -> object:
    return {"of": value} if isinstance(value, str) else value


def with_number_of_checkpoints(train: object) -> object:
    """Return the settings of a training with 'average.n' under its other name, 'average_checkpoints'.

    Raises:
        ValueError: if both names are given and differ.
    """
    average = train.get("average") if isinstance(train, dict) else None
    if not isinstance(train, dict) or not isinstance(average, dict):
        return train
    n = average.get("n")
    if type(n) is not int or not 1 <= n <= largest("n"):
        return train  # a wrong number is reported as that of 'average.n'
    if train.get("average_checkpoints", n) != n:
        raise ValueError(f"'average.n' ({n}) and 'average_checkpoints' ({train['average_checkpoints']}) differ")
    others = {name: value for name, value in average.items() if name != "n"}
    return {**train, "average": others, "average_checkpoints": n}


def from_recipe(section: Any, *, is_student: bool) -> Any:
    """Return the mapping of a teacher or a student with the settings of its recipe wherever it has none.

    A number of checkpoints as 'average.n' takes precedence over the recipe's 'average_checkpoints', its other name.
    """
    train = section.get("train") if isinstance(section, dict) else None
    if isinstance(train, dict) and "average_checkpoints" not in train:
        section = {**section, "train": with_number_of_checkpoints(train)}
    return with_recipe(section, is_student=is_student)


_TemperaturePoint = Annotated[tuple[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=1.0)]], Strict(False)]


class DirectionSampling(Section):
    """Sampling of the training pairs of a pipeline with several directions.

    An epoch has as many pairs as the training set. A direction of n pairs has a share of them in proportion to
    weight * n^(1/temperature); the pairs of a small direction are repeated, and those of a large one are distributed
    over several epochs.
    """

    temperature: float = Field(
        1.0, ge=1.0, description="Temperature T: 1 for the proportions of the directions, larger for more equal shares"
    )
    temperature_schedule: list[_TemperaturePoint] | None = recorded_if_set(
        None,
        min_length=1,
        description="Replaces 'temperature': points [epoch, T], linear between them and constant beyond, as "
        "[[1, 1.0], [10, 5.0]]; epochs are counted from 1",
    )
    weights: dict[str, Annotated[float, Field(gt=0.0)]] = Field(
        default_factory=dict, description="Weights of directions, as en-de: 2 (default: 1)"
    )
    batches: DirectionBatches = recorded_if_set(
        "mixed", description="Pairs of a batch: 'mixed', of all directions, or 'one_direction'"
    )
    max_pairs: dict[str, Annotated[int, Field(ge=1)]] | None = recorded_if_set(
        None,
        min_length=1,
        description="Maximum number of pairs of directions in each training set, as en-de: 10000, chosen at random, "
        "the same in all epochs and for all seeds (default: all)",
    )

    @model_validator(mode="after")
    def _one_temperature(self) -> DirectionSampling:
        if self.temperature_schedule is None:
            return self
        if "temperature" in changed(self):
            raise ValueError("'temperature' has no effect with 'temperature_schedule'")
        epochs = [epoch for epoch, _ in self.temperature_schedule]
        if epochs != sorted(set(epochs)):
            raise ValueError("'temperature_schedule': the epochs must increase")
        return self


class Train(Section):
    """Optimisation. Names and meanings are those of fairseq-train where it has the setting."""

    max_updates: int = extend(
        100_000,
        ge=1,
        description="Number of updates after which training ends; a result setting unless 'lr_schedule' is "
        "'inverse_sqrt', since the other schedules end with it",
    )
    max_tokens: int = Field(
        4096, ge=1, description="Maximum number of padded tokens in a micro-batch, on its longer side"
    )
    update_freq: int = Field(1, ge=1, description="Number of micro-batches per update on each rank")
    lr: float = Field(5e-4, gt=0.0, description="Learning rate at the end of the warmup")
    warmup_updates: int = Field(4000, ge=1, description="Number of updates over which the learning rate rises")
    warmup_init_lr: float = Field(1e-7, ge=0.0, description="Learning rate of the first update")
    lr_schedule: LRSchedule = Field(
        "inverse_sqrt",
        description="Schedule of the learning rate after the warmup: 'inverse_sqrt', or a decay to 'min_lr' at "
        "'max_updates': 'linear', 'cosine', 'polynomial_decay', or 'wsd' (constant, then linear)",
    )
    min_lr: float = Field(
        0.0,
        ge=0.0,
        description="Learning rate at 'max_updates' (linear, cosine, wsd; fairseq's 'end_learning_rate' in "
        "polynomial_decay)",
    )
    power: float = Field(1.0, gt=0.0, description="Exponent of the decay (polynomial_decay)")
    decay_share: float = Field(
        0.2, gt=0.0, le=1.0, description="Share of all updates, at the end, in which the learning rate decays (wsd)"
    )
    adam_betas: tuple[float, float] = Field(
        (0.9, 0.98), strict=False, description="Adam's decay rates of the first and the second moment"
    )
    adam_eps: float = Field(1e-8, gt=0.0, description="Adam's term for numerical stability")
    weight_decay: float = Field(0.0, ge=0.0, description="Coefficient of the decoupled weight decay")
    clip_norm: float = Field(0.0, ge=0.0, description="Maximum norm of the gradient; 0 for no clipping")
    label_smoothing: float = Field(
        0.1, ge=0.0, lt=1.0, description="Probability mass that label smoothing spreads over the vocabulary"
    )
    validate_interval_updates: int = Field(500, ge=1, description="Number of updates between validations")
    validate_bleu: bool = Field(True, description="Whether validation translates, for BLEU and another 'best_metric'")
    validate_beam: int = Field(1, ge=1, description="Beam size of validation")
    validate_sentences: int = Field(
        0, ge=0, description="Number of validation sentences that are translated, from the first on; 0 for all"
    )
    best_metric: str = Field(
        "bleu",
        description="Validation metric by which the best checkpoint is chosen: 'loss', 'bleu', 'chrf', or the name of "
        "a scorer in 'scorers'",
    )
    # no validation is counted before the end of the warmup or while the score is 0
    patience: int = Field(
        0,
        ge=0,
        description="Number of validations without a better score, or an equal one with a lower loss, after which "
        "training ends early; 0 for no early end",
    )
    ema: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Decay, at every update, of an exponential moving average of the weights, which is validated and "
        "saved as the model; at most (1 + t) / (10 + t) after t updates, as in Marian; 0 for no average",
    )
    average_checkpoints: int = Field(
        5, ge=1, description="Number of checkpoints that 'average' and 'average_best' are the mean of"
    )
    average: Annotated[
        Average, BeforeValidator(_average_from_name, json_schema_input_type=Average | AutoCheckpoint)
    ] = Field(Average(), description="Averages of checkpoints; a string sets 'average.of'")
    max_source_tokens: TokenLimit = Field(
        1024, ge=0, description="Maximum number of source tokens; longer pairs are left out and counted; 0 for no limit"
    )
    max_target_tokens: TokenLimit = Field(
        1024, ge=0, description="Maximum number of target tokens; longer pairs are left out and counted; 0 for no limit"
    )
    precision: Literal["auto", Precision] = Field(
        "auto", description="Precision of matrix products; 'auto' chooses by the device and the shape of the model"
    )
    sampling: DirectionSampling | None = recorded_if_set(
        None,
        description="Sampling of the directions of a pipeline with several directions; null to use all pairs in each "
        "epoch",
    )
    packing: bool = Field(
        False,
        description="Packing of sentences one after another, without padding; 'max_tokens' then counts real tokens on "
        "each side. Autoregressive models only",
    )
    subword_regularization: SubwordRegularization | None = Field(
        None,
        description="Random segmentations of the training text into subwords; 'max_tokens' counts the tokens of the "
        "data-bin. Autoregressive models only; null for none",
    )
    quantization_aware: Int8Scales | None = Field(
        None,
        description="Quantisation-aware training: in training and validation, weights and inputs of matrix products "
        "are rounded to int8, with one scale for each row of a weight as in CTranslate2 ('int8'), or for each matrix "
        "as in Marian and Firefox's engine ('int8_matrix'). Autoregressive models only; null for none",
    )
    ewc: Consolidation | None = recorded_if_set(
        None,
        description="Elastic weight consolidation: fine-tuning that forgets less of other text. Autoregressive models "
        "only; null for none",
    )
    guided_alignment: GuidedAlignment | None = Field(
        None,
        description="Guided alignment: one head of the attention to the source learns the word alignment. "
        "Autoregressive models only; null for none",
    )
    compile: bool = Field(
        False, description="Compilation with torch.compile; sentences are padded to a small number of lengths"
    )
    on_divergence: OnDivergence = extend(
        "stop",
        description="Action if a loss or gradient is not finite, or the gradient norm is above 'explosion_norm': "
        "'stop' ends training, 'skip' leaves out the update",
    )
    explosion_norm: float = extend(
        0.0, ge=0.0, description="Gradient norm above which 'on_divergence' applies; 0 for no limit"
    )
    init_from: str | None = Field(
        None, description="Checkpoint folder, or run with a chosen checkpoint, whose weights are fine-tuned"
    )
    init_optimizer: bool = Field(
        False, description="Whether fine-tuning continues the optimizer state and the schedule of 'init_from' too"
    )
    # -- execution
    save_interval_updates: int = execution(500, ge=1, description="Number of updates between checkpoints")
    save_interval_minutes: float = execution(
        0.0, ge=0.0, description="Minutes after which a checkpoint is written in between; 0 to save by updates only"
    )
    log_interval_updates: int = execution(50, ge=1, description="Number of updates between lines of the log")
    tensorboard: bool = execution(False, description="Logging for TensorBoard, which needs the extra 'tensorboard'")
    device: str = execution("auto", description="Device: auto, cpu, cuda or cuda:N; 'auto' is a GPU if there is one")
    threads: int = execution(
        0, ge=0, description="Number of CPU threads; 0 for the number that the run started with, at first one per core"
    )
    parallel: Parallelism = execution(
        "ddp", description="Parallelism of several ranks: 'ddp' replicates the model, 'fsdp' shards it to save memory"
    )
    activation_checkpointing: bool = execution(
        False, description="Recomputation of layers in the backward pass, which needs less memory and more time"
    )

    @property
    def scorer(self) -> str | None:
        """Return the name of the scorer that is 'best_metric', None if kdmt computes it."""
        return None if self.best_metric in names(BestMetric) else self.best_metric

    @model_validator(mode="before")
    @classmethod
    def _number_of_checkpoints(cls, values: object) -> object:
        return with_number_of_checkpoints(values)

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        if self.best_metric != "loss" and not self.validate_bleu:
            raise ValueError(f"'best_metric: {self.best_metric}' needs 'validate_bleu: true'")
        if self.init_optimizer and self.init_from is None:
            raise ValueError("'init_optimizer' is given without 'init_from'")
        if not all(0.0 <= beta < 1.0 for beta in self.adam_betas):
            raise ValueError(f"'adam_betas' {list(self.adam_betas)} are not both at least 0 and less than 1")
        if self.packing and self.subword_regularization is not None:
            raise ValueError(
                "'packing' cannot be combined with 'subword_regularization', whose sentences may not fit into a row"
            )
        if self.quantization_aware is not None and self.compile:
            raise ValueError("'quantization_aware' cannot be combined with 'compile'")
        if self.quantization_aware is not None and self.parallel == "fsdp":
            raise ValueError("'quantization_aware' needs whole weights, which 'parallel: fsdp' shards")
        if self.ewc is not None and self.parallel == "fsdp":
            raise ValueError("'ewc' needs whole weights, which 'parallel: fsdp' shards")
        if self.ewc is not None and self.quantization_aware is not None:
            raise ValueError("'ewc' cannot be combined with 'quantization_aware', which rounds the weights")
        if self.guided_alignment is not None:
            if self.packing:
                raise ValueError("'packing' cannot be combined with 'guided_alignment', which needs padded sentences")
            if self.subword_regularization is not None:
                raise ValueError(
                    "'subword_regularization' cannot be combined with 'guided_alignment', whose alignment is that of "
                    "one segmentation"
                )
        return self

    @model_validator(mode="after")
    def _schedule_settings(self) -> Train:
        for name in changed(self):
            schedules = _SCHEDULE_SETTINGS.get(name)
            if schedules is not None and self.lr_schedule not in schedules:
                raise ValueError(f"'{name}' is a setting of {', '.join(schedules)}, not of '{self.lr_schedule}'")
        if self.min_lr > self.lr:
            raise ValueError(f"'min_lr' ({self.min_lr:g}) is greater than 'lr' ({self.lr:g})")
        ends = self.lr_schedule != "inverse_sqrt" and not self.init_optimizer  # which adds the updates before
        if ends and self.warmup_updates >= self.max_updates:
            raise ValueError(
                f"'lr_schedule: {self.lr_schedule}' has no effect: 'warmup_updates' ({self.warmup_updates}) is not "
                f"less than 'max_updates' ({self.max_updates})"
            )
        return self

    def fixed(self) -> dict[str, str]:
        """Return `max_updates` if the learning rate of every update depends on it."""
        if self.lr_schedule == "inverse_sqrt":
            return {}
        name = f"'lr_schedule: {self.lr_schedule}'"
        return {"max_updates": f"with {name} every learning rate depends on it, so the run cannot be extended"}


def check_packed_model(model: Model) -> None:
    """Check that a model can read packed sentences.

    Raises:
        ValueError: if it has dropout of attention weights, which attention over packed sentences does not compute.
    """
    if model.attention_dropout:
        raise ValueError("'train.packing' needs 'model.attention_dropout: 0'")


def check_augmented(augment: Augment | None, train: Train) -> None:
    """Check that a training can have its augmentation.

    Raises:
        ValueError: if sentences are packed, or aligned.
    """
    if augment is None:
        return
    if train.packing:
        raise ValueError("'augment' cannot be combined with 'train.packing': its sentences may not fit into a row")
    if train.guided_alignment is not None:
        raise ValueError(
            "'augment' cannot be combined with 'train.guided_alignment', whose links are those of the training set"
        )


def check_self_supervised(
    settings: SelfSupervised | None, train: Train, augment: Augment | None, shares: Sequence[float] | None
) -> None:
    """Check that a training can have its self-supervised loss.

    Args:
        shares: shares of several training sets, None for none.

    Raises:
        ValueError: if sentences are packed; or if it trains on text alone, and has settings of sentence pairs.
    """
    if settings is None:
        return
    if train.packing:
        raise ValueError("'train.packing' cannot be combined with 'self_supervised', which needs padded sentences")
    if not settings.is_alone:
        return
    if train.best_metric != "loss":
        raise ValueError("'self_supervised.supervised: 0' trains no translation: set 'train.best_metric: loss'")
    refused = {
        "augment": augment is not None,
        "data": shares is not None,
        "train.subword_regularization": train.subword_regularization is not None,
        "train.guided_alignment": train.guided_alignment is not None,
        "train.sampling.weights": train.sampling is not None and bool(train.sampling.weights),
        "train.sampling.max_pairs": train.sampling is not None and train.sampling.max_pairs is not None,
    }
    for name, is_set in refused.items():
        if is_set:
            what = "a list of sets in 'data'" if name == "data" else f"'{name}'"
            raise ValueError(f"{what} has no effect with 'self_supervised.supervised: 0', which uses no sentence pairs")


def check_initial_weights(model: Model, train: Train) -> None:
    """Check that random initial weights are kept.

    Raises:
        ValueError: if a distribution is set for them, and all of them are replaced.
    """
    if model.init not in (None, "fairseq") and train.init_from is not None:
        raise ValueError(
            "'model.init' has no effect with 'train.init_from', whose weights replace the random ones: leave it out, "
            "or set it to null if a recipe has it"
        )


# settings of a stage: those of the model and of its `train` section, which are checked with the model's own
StageSettings = Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]
# settings of a teacher that a stage does not have, with the reason
TEACHER_NOT_OF_A_STAGE: Mapping[str, str] = {
    "recipe": "the recipe is that of the teacher",
    "seed": "all stages have the same seed",
    "right_to_left": "all stages predict targets in the same order",
    "stages": "a stage has no stages",
    "train": "a stage has the settings of 'train' directly, such as 'lr'",
}
_FIRST_WEIGHTS = ("init_from", "init_optimizer")  # settings of `train` that give a model its first weights
_DROPOUTS = {"dropout", "attention_dropout", "activation_dropout"}


def check_model_of_stages(model: Model, stages: Sequence[Model]) -> None:
    """Check that all stages of a training have the same model, except for dropout.

    Raises:
        ValueError: if one has not.
    """
    for number, stage in enumerate(stages):
        changed_model = {key for key, value in stage if getattr(model, key) != value} - _DROPOUTS
        if changed_model:
            raise ValueError(
                f"'stages.{number}.model.{min(changed_model)}': all stages have the same model; a stage can change "
                f"{', '.join(sorted(_DROPOUTS))}"
            )


def settings_of_stage(
    own: Mapping[str, Any],
    given: Mapping[str, Any],
    number: int,
    *,
    refused: Mapping[str, str],
    first_weights: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the settings of one stage, as in a pipeline file.

    Args:
        own: settings of the teacher or student.
        given: settings of the stage.
        number: index of the stage, from 0.
        refused: settings that a stage does not have, with the reason.
        first_weights: further settings that give a model its first weights, which are of the first stage.

    Raises:
        ValueError: if a setting has no effect in this stage, or cannot be different in a stage.
    """
    refused = dict(refused)
    if number == 0:
        refused["begin_from"] = "no stage comes before the first"
    else:
        names = [*first_weights, *_FIRST_WEIGHTS]
        refused |= dict.fromkeys(names, "a stage begins from the weights of the stage before")
    for name in given:
        if name in refused:
            raise ValueError(f"'stages.{number}.{name}': {refused[name]}")
    not_taken_over = {*refused} - {"recipe", "seed", "seeds", "train", "right_to_left"}
    before = {key: value for key, value in own.items() if key not in not_taken_over}
    before["train"] = _train_before(own.get("train", {}), given, number)
    train = {key: value for key, value in given.items() if key in Train.model_fields}
    others = {key: value for key, value in given.items() if key not in Train.model_fields}
    return merge_settings(before, {**others, "train": train} if train else others)


def _train_before(own: Mapping[str, Any], given: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the settings of training of a model without those that a stage does not take over."""
    left_out = set(_FIRST_WEIGHTS if number else ())
    average = given.get("average")
    if isinstance(average, Mapping) and average.get("n") is not None:
        left_out.add("average_checkpoints")  # another name of the same number
    return {key: value for key, value in own.items() if key not in left_out}


class Teacher(Section):
    """Settings of the teacher stage."""

    recipe: RecipeName | None = execution(
        None, description="Recipe whose settings apply wherever the file has none; null for the defaults"
    )
    data: Data = Field(
        "raw",
        description="Training set: 'raw' references or 'back_translated' text, or a list of both with shares, as "
        "'data' of a student",
    )
    model: Model = Field(Model(), description="Architecture of the teacher")
    train: Train = Field(Train(), description="Training of the teacher")
    augment: AugmentOrRecipe | None = Field(None, description=AUGMENT)
    self_supervised: SelfSupervised | None = recorded_if_set(
        None,
        description="Self-supervised loss on text alone: masked language modelling or denoising; null for none",
    )
    seed: int = Field(1, ge=0, description="Seed of the initial weights, of dropout and of the order of batches")
    right_to_left: bool = Field(
        False,
        description="Whether the teacher predicts the last word of a target first, as a second model for reranking; "
        "its translations and scores are those of sentences in their normal order",
    )
    stages: list[StageSettings] | None = Field(
        None,
        min_length=1,
        description="Stages of training, each from the weights of the one before: for each stage, the settings of the "
        "teacher and of 'train' that are different in it; null for one training",
    )
    begin_from: CheckpointName = Field(
        "auto",
        description="Checkpoint of the stage before that a stage begins from, for 'stages'; 'auto' is the one that its "
        "run chose by validation",
    )

    @model_validator(mode="before")
    @classmethod
    def _use_recipe(cls, value: Any) -> Any:
        return from_recipe(value, is_student=False)

    @model_validator(mode="after")
    def _consistent(self) -> Teacher:
        if self.train.packing:
            check_packed_model(self.model)
        check_initial_weights(self.model, self.train)
        check_augmented(self.augment, self.train)
        check_self_supervised(self.self_supervised, self.train, self.augment, self.shares)
        if self.right_to_left and self.train.guided_alignment is not None:
            raise ValueError(
                "'right_to_left' cannot have 'train.guided_alignment', whose links are of the normal order"
            )
        for name in self.data_names:
            if name not in OF_TEACHERS:
                raise ValueError(f"'data': {name} is not made without the teacher: give {' or '.join(OF_TEACHERS)}")
        return self

    @property
    def data_names(self) -> tuple[str, ...]:
        """Return the training sets with folders of their own that the teacher reads, in the order of their pairs."""
        return names_of(self.data)

    @property
    def shares(self) -> tuple[float, ...] | None:
        """Return the share of each training set; None if all pairs of the sets are used in each epoch."""
        return shares_of(self.data)

    @model_validator(mode="after")
    def _has_valid_stages(self) -> Teacher:
        check_model_of_stages(self.model, [stage.model for stage in self.in_stages()])
        return self

    def in_stages(self) -> list[Teacher]:
        """Return the settings of each stage of the training; those of the teacher itself if it has no stages."""
        if self.stages is None:
            return [self]
        own = self.model_dump(exclude={"stages"}, exclude_unset=True)
        stages = [
            settings_of_stage(own, given, number, refused=TEACHER_NOT_OF_A_STAGE)
            for number, given in enumerate(self.stages)
        ]
        return _TeacherStages.model_validate({"stages": stages}).stages


class _TeacherStages(Section):
    """Settings of all stages, which are checked as a list so that messages have the number of the stage."""

    stages: list[Teacher]
