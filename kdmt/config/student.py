"""Settings of the student stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from kdmt.choices import Precision
from kdmt.config.nat import NAT
from kdmt.config.objectives import AttentionKD, HiddenKD, Online, OnPolicy, SelfSupervised, WordKD
from kdmt.config.section import Section, extend
from kdmt.config.training import Model, Train
from kdmt.families import FAMILIES
from kdmt.training_sets import TRAINING_SETS, TrainingSetName


class Student(Section):
    """A student: its training data, model, training and what it learns from."""

    data: TrainingSetName = Field(
        "distilled",
        description="Training set: 'raw' references; 'distilled', the teacher's best translations; of its n-best "
        "lists, 'interpolated' (the most similar to the reference), 'mbr' (the most similar to the others), 'scored' "
        "(the best by 'distill.scores') or 'nbest' (all, weighted); 'sampled'; 'imported' from another system; "
        "'mixed', raw and distilled",
    )
    model: Model = Field(Model(), description="Architecture of the student")
    nat: NAT | None = Field(None, description="Non-autoregressive decoder; null for an autoregressive one")
    train: Train = Field(Train(), description="Training of the student")
    word_kd: WordKD | None = Field(None, description="Word-level distillation; null for none")
    hidden_kd: HiddenKD | None = Field(None, description="Distillation of hidden states; null for none")
    attention_kd: AttentionKD | None = Field(None, description="Distillation of attention; null for none")
    online: Online | None = Field(None, description="Teachers that change during training; null for none")
    on_policy: OnPolicy | None = Field(None, description="Training on the student's own samples; null for none")
    self_supervised: SelfSupervised | None = Field(
        None, description="Masked language modelling of the source; null for none"
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

    @model_validator(mode="after")
    def _distinct(self) -> Student:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("'seeds' holds a number twice")
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
        if elsewhere is not None and TRAINING_SETS[self.data].has_weights:
            raise ValueError(
                f"'nat.family: {family}' cannot have 'data: {self.data}': its loss has no weights of sentences"
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
            raise ValueError("'nat.layout: fairseq' cannot have 'deep_supervision': its decoder sees an <s> more")

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
    def _own_samples(self) -> Student:
        if self.on_policy is None:
            return self
        if self.word_kd is None or self.word_kd.source == "cache":
            raise ValueError("'on_policy' needs 'word_kd' with a teacher that reads the samples: no cache has them")
        if not (self.word_kd.ever_taught or self.word_kd.mutual_information):
            raise ValueError("'on_policy' samples are taught by the divergence, whose 'word_kd.alpha' is 0 throughout")
        if self.online is not None and self.online.kind != "ema":
            raise ValueError("'on_policy' samples from one student: 'online.kind' trains several models")
        if self.train.parallel == "fsdp":
            raise ValueError("'on_policy' needs the whole model on each rank: 'train.parallel: fsdp' shards it")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Student:
        if self.online is None:
            return self
        if self.word_kd is None:
            raise ValueError("'online' needs 'word_kd', which says what is learnt")
        if not (self.word_kd.ever_taught or self.word_kd.mutual_information or self.hidden_kd or self.attention_kd):
            raise ValueError("'online' brings teachers of whom nothing is learnt: 'word_kd.alpha' is 0 throughout")
        if self.teacher_precision is not None:
            raise ValueError("'teacher_precision' is that of trained teachers: those of 'online' have the student's")
        if self.word_kd.source == "cache" or self.word_kd.teachers:
            raise ValueError("'online' brings its own teachers: 'word_kd' has others")
        if self.online.kind == "mutual" and self.word_kd.select == "global":
            raise ValueError("'word_kd.select: global' keeps one queue, and 'online.kind: mutual' has several students")
        if self.word_kd.marginal_momentum and self.online.kind == "mutual":
            raise ValueError(
                "'word_kd.marginal_momentum' keeps one average, and 'online.kind: mutual' has several students"
            )
        return self
