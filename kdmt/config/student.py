"""Settings of the student stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdmt.config.nat import NAT, WITHOUT_TARGET_POSITIONS
from kdmt.config.objectives import AttentionKD, HiddenKD, Online, OnPolicy, SelfSupervised, WordKD
from kdmt.config.section import Section, extend
from kdmt.config.training import Model, Train


class Student(Section):
    # of the n-best: interpolated: the nearest to the reference; mbr: the nearest to the others; scored: the best by
    # `distill.scores`; nbest: all of them, weighted. imported: another system's. mixed: raw and distilled
    data: Literal["raw", "distilled", "interpolated", "mbr", "scored", "nbest", "sampled", "imported", "mixed"] = (
        "distilled"
    )
    model: Model = Model()
    nat: NAT | None = None
    train: Train = Train()
    word_kd: WordKD | None = None
    hidden_kd: HiddenKD | None = None
    attention_kd: AttentionKD | None = None
    online: Online | None = None
    on_policy: OnPolicy | None = None
    self_supervised: SelfSupervised | None = None
    teacher_precision: Literal["float32", "bf16", "bf16_output"] | None = None  # of those beside; the student's
    seeds: list[Annotated[int, Field(ge=0)]] = extend([1], min_length=1)
    encoder_layers_from_teacher: list[int] | None = None  # teacher layer for each student layer, from 0
    decoder_layers_from_teacher: list[int] | None = None
    embeddings_from_teacher: bool = False

    @model_validator(mode="after")
    def _distinct(self) -> Student:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("'seeds' holds a number twice")
        return self

    @model_validator(mode="after")
    def _has_the_loss(self) -> Student:
        if self.nat is None:
            return self
        family, elsewhere = self.nat.family, WITHOUT_TARGET_POSITIONS.get(self.nat.family)
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
        if elsewhere is not None and self.data == "nbest":
            raise ValueError(f"'nat.family: {family}' cannot have 'data: nbest': its loss has no weights of sentences")
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
