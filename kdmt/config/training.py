"""Settings of models and their training, which the teacher and every student have."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from kdmt.config.section import Section, TokenLimit, execution, extend


class Model(Section):
    """A named architecture (fairseq's names) and any field of it changed."""

    arch: str = "transformer"
    encoder_layers: int | None = Field(None, ge=1)
    decoder_layers: int | None = Field(None, ge=1)
    encoder_embed_dim: int | None = Field(None, ge=1)
    decoder_embed_dim: int | None = Field(None, ge=1)
    encoder_ffn_embed_dim: int | None = Field(None, ge=1)
    decoder_ffn_embed_dim: int | None = Field(None, ge=1)
    encoder_attention_heads: int | None = Field(None, ge=1)
    decoder_attention_heads: int | None = Field(None, ge=1)
    encoder_normalize_before: bool | None = None
    decoder_normalize_before: bool | None = None
    encoder_learned_pos: bool | None = None
    decoder_learned_pos: bool | None = None
    share_decoder_input_output_embed: bool | None = None
    share_all_embeddings: bool | None = None
    layernorm_embedding: bool | None = None
    no_scale_embedding: bool | None = None
    activation_fn: Literal["relu", "gelu"] | None = None
    dropout: float | None = Field(None, ge=0.0, lt=1.0)
    attention_dropout: float | None = Field(None, ge=0.0, lt=1.0)
    activation_dropout: float | None = Field(None, ge=0.0, lt=1.0)
    max_source_positions: int | None = Field(None, ge=1)
    max_target_positions: int | None = Field(None, ge=1)

    def overrides(self) -> dict[str, Any]:
        """The fields that were set, without the name."""
        return {key: value for key, value in self.model_dump().items() if key != "arch" and value is not None}


class Train(Section):
    """Optimisation. Names and meanings are fairseq-train's where it has them."""

    max_updates: int = extend(100_000, ge=1)
    max_tokens: int = Field(4096, ge=1)  # padded tokens of the longer side in a micro-batch
    update_freq: int = Field(1, ge=1)
    lr: float = Field(5e-4, gt=0.0)
    warmup_updates: int = Field(4000, ge=1)
    warmup_init_lr: float = Field(1e-7, ge=0.0)
    adam_betas: tuple[float, float] = Field((0.9, 0.98), strict=False)
    adam_eps: float = Field(1e-8, gt=0.0)
    weight_decay: float = Field(0.0, ge=0.0)
    clip_norm: float = Field(0.0, ge=0.0)  # 0: no clipping
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)
    validate_interval_updates: int = Field(500, ge=1)
    validate_bleu: bool = True  # translate the validation set, for BLEU and, where it is the best metric, chrF
    validate_beam: int = Field(1, ge=1)
    validate_sentences: int = Field(0, ge=0)  # decode only the first n validation sentences; 0 for all
    best_metric: Literal["loss", "bleu", "chrf"] = "bleu"
    # validations without a better score, or an equal one with a lower loss; 0: never stop early. None is counted before
    # the end of the warmup or while the score is 0
    patience: int = Field(0, ge=0)
    average_checkpoints: int = Field(5, ge=1)  # checkpoints that `average` is made of
    max_source_tokens: TokenLimit = Field(1024, ge=0)  # longer pairs are left out and counted; 0: none is
    max_target_tokens: TokenLimit = Field(1024, ge=0)
    precision: Literal["auto", "float32", "bf16", "bf16_output"] = "auto"  # auto: by device and model shape
    compile: bool = False  # with torch.compile; sentences are padded to few different lengths
    on_divergence: Literal["stop", "skip"] = extend("stop")  # a loss or gradient that is not finite, or explodes
    explosion_norm: float = extend(0.0, ge=0.0)  # a gradient norm above it has exploded; 0: none does
    init_from: str | None = None  # a checkpoint folder to fine-tune from
    init_optimizer: bool = False  # keep its optimiser state and schedule too
    # -- execution
    save_interval_updates: int = execution(500, ge=1)
    save_interval_minutes: float = execution(0.0, ge=0.0)  # 0: by updates alone
    log_interval_updates: int = execution(50, ge=1)
    tensorboard: bool = execution(False)
    device: str = execution("auto")
    threads: int = execution(0, ge=0)  # 0 for as many as the run began with, at first as there are cores
    parallel: Literal["ddp", "fsdp"] = execution("ddp")  # of several ranks: replicas, or shards of what does not fit
    activation_checkpointing: bool = execution(False)  # layers are computed again backwards: less memory, more time

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        if self.best_metric != "loss" and not self.validate_bleu:
            raise ValueError(f"'best_metric: {self.best_metric}' needs 'validate_bleu: true'")
        if self.init_optimizer and self.init_from is None:
            raise ValueError("'init_optimizer' is given without 'init_from'")
        if not all(0.0 <= beta < 1.0 for beta in self.adam_betas):
            raise ValueError(f"'adam_betas' {list(self.adam_betas)} are not both at least 0 and less than 1")
        return self


class Teacher(Section):
    model: Model = Model()
    train: Train = Train()
    seed: int = Field(1, ge=0)
