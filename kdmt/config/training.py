"""Settings of models and their training, shared by the teacher and all students."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from kdmt.choices import Activation, AutoCheckpoint, BestMetric, OnDivergence, Parallelism, Precision
from kdmt.config.bounds import largest
from kdmt.config.section import Section, TokenLimit, execution, extend


class Model(Section):
    """Model architecture: a name that fairseq knows too, and changes to its fields; null keeps the architecture's."""

    arch: str = Field("transformer", description="Name of the architecture, as in fairseq")
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
        description="Number of checkpoints in each average: another name of 'average_checkpoints', and recorded as "
        "that; null for the value there",
    )


def _average_from_name(value: object) -> object:
    return {"of": value} if isinstance(value, str) else value


class Train(Section):
    """Optimisation. Names and meanings are those of fairseq-train where it has the setting."""

    max_updates: int = extend(100_000, ge=1, description="Number of updates after which training ends")
    max_tokens: int = Field(
        4096, ge=1, description="Maximum number of padded tokens in a micro-batch, on its longer side"
    )
    update_freq: int = Field(1, ge=1, description="Number of micro-batches per update on each rank")
    lr: float = Field(5e-4, gt=0.0, description="Learning rate at the end of the warmup")
    warmup_updates: int = Field(4000, ge=1, description="Number of updates over which the learning rate rises")
    warmup_init_lr: float = Field(1e-7, ge=0.0, description="Learning rate of the first update")
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
    validate_bleu: bool = Field(
        True, description="Whether validation translates, for BLEU and, with 'best_metric: chrf', chrF"
    )
    validate_beam: int = Field(1, ge=1, description="Beam size of validation")
    validate_sentences: int = Field(
        0, ge=0, description="Number of validation sentences that are translated, from the first on; 0 for all"
    )
    best_metric: BestMetric = Field("bleu", description="Validation metric by which the best checkpoint is chosen")
    # no validation is counted before the end of the warmup or while the score is 0
    patience: int = Field(
        0,
        ge=0,
        description="Number of validations without a better score, or an equal one with a lower loss, after which "
        "training ends early; 0 for no early end",
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
    packing: bool = Field(
        False,
        description="Packing of sentences one after another, without padding; 'max_tokens' then counts real tokens on "
        "each side. Autoregressive models only",
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
    init_from: str | None = Field(None, description="Checkpoint folder whose weights are fine-tuned")
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

    @model_validator(mode="before")
    @classmethod
    def _number_of_checkpoints(cls, values: object) -> object:
        """Copy 'average.n' to 'average_checkpoints'."""
        average = values.get("average") if isinstance(values, dict) else None
        n = average.get("n") if isinstance(average, dict) else getattr(average, "n", None)
        if not isinstance(values, dict) or type(n) is not int or not 1 <= n <= largest("n"):
            return values  # a wrong number is reported as that of 'average.n'
        if values.get("average_checkpoints", n) != n:
            raise ValueError(f"'average.n' ({n}) and 'average_checkpoints' ({values['average_checkpoints']}) differ")
        return {**values, "average_checkpoints": n}

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        if self.best_metric != "loss" and not self.validate_bleu:
            raise ValueError(f"'best_metric: {self.best_metric}' needs 'validate_bleu: true'")
        if self.init_optimizer and self.init_from is None:
            raise ValueError("'init_optimizer' is given without 'init_from'")
        if not all(0.0 <= beta < 1.0 for beta in self.adam_betas):
            raise ValueError(f"'adam_betas' {list(self.adam_betas)} are not both at least 0 and less than 1")
        return self


def check_packed_model(model: Model) -> None:
    """Check that a model can read packed sentences.

    Raises:
        ValueError: if it has dropout of attention weights, which attention over packed sentences does not compute.
    """
    if model.attention_dropout:
        raise ValueError("'train.packing' needs 'model.attention_dropout: 0'")


class Teacher(Section):
    """Settings of the teacher stage."""

    model: Model = Field(Model(), description="Architecture of the teacher")
    train: Train = Field(Train(), description="Training of the teacher")
    seed: int = Field(1, ge=0, description="Seed of the initial weights, of dropout and of the order of batches")

    @model_validator(mode="after")
    def _can_be_packed(self) -> Teacher:
        if self.train.packing:
            check_packed_model(self.model)
        return self
