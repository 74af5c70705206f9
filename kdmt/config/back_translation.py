"""Settings of back-translation: a model of the opposite direction translates text in the target language."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, Tag, model_validator

from kdmt.choices import ExecutorName, KeepOrDrop, StageComputeType, TranslationEngine
from kdmt.config.distill import Distill, Failures, ScriptName
from kdmt.config.language_models import LocalTranslator
from kdmt.config.search import Decode, Sample
from kdmt.config.section import Ratio, RepetitionTimes, Section, changed, execution, later
from kdmt.config.teacher_entries import CHECKPOINT_BRANCH, FOREIGN_BRANCH, TRANSLATOR_BRANCH, ForeignTeacher


def _model_branch(value: object) -> str:
    """Return the tag of the type that `checkpoint` has."""
    if isinstance(value, LocalTranslator) or (isinstance(value, dict) and "ctranslate2" in value):
        return TRANSLATOR_BRANCH
    return FOREIGN_BRANCH if isinstance(value, (dict, ForeignTeacher)) else CHECKPOINT_BRANCH


ReverseModel = Annotated[
    Annotated[str, Tag(CHECKPOINT_BRANCH)]
    | Annotated[ForeignTeacher, Tag(FOREIGN_BRANCH)]
    | Annotated[LocalTranslator, Tag(TRANSLATOR_BRANCH)],
    Discriminator(_model_branch),
]
# check of a translation -> settings that have an effect on this check alone
_CHECKS: dict[str, tuple[str, ...]] = {
    "too_long": (),
    "repetition": ("repetition_times",),
    "unk": (),
    "ratio": ("max_ratio",),
    "copied": (),
    "script": ("scripts", "max_foreign"),
}


class BackTranslationFailures(Section):
    """Actions for translations that fail a check, as in 'distill.failures': 'keep' or 'drop'.

    An empty translation is always dropped, and so is an answer of a model that reads text, if it is no translation.
    """

    too_long: KeepOrDrop = Field("keep", description="Action for a translation that reached the maximum length")
    repetition: KeepOrDrop = Field(
        "keep",
        description="Action for a translation in which an n-gram of 1 to 4 tokens occurs 'repetition_times' in a row",
    )
    unk: KeepOrDrop = Field("keep", description="Action for a translation that contains <unk>")
    ratio: KeepOrDrop = Field(
        "keep",
        description="Action for a translation whose length differs from that of its line by more than 'max_ratio'",
    )
    copied: KeepOrDrop = Field(
        "keep", description="Action for a translation that has a letter and equals its line, except for case and spaces"
    )
    script: KeepOrDrop = Field("keep", description="Action for a translation in another script than 'scripts'")
    repetition_times: RepetitionTimes = Field(
        4, ge=2, description="Number of occurrences in a row from which 'repetition' applies"
    )
    max_ratio: Ratio = Field(3.0, gt=1.0, description="Maximum length ratio, as in 'prepare.clean.max_ratio'")
    scripts: list[ScriptName] = Field(
        [], description="Scripts of the source language by their Unicode names, for example [Latin]"
    )
    max_foreign: float = Field(
        0.5, ge=0.0, lt=1.0, description="Maximum share of the letters that are in other scripts than 'scripts'"
    )

    @model_validator(mode="after")
    def _have_effect(self) -> BackTranslationFailures:
        for check, settings in _CHECKS.items():
            for name in settings:
                if getattr(self, check) == "keep" and name in changed(self):
                    raise ValueError(f"'{name}' has no effect unless '{check}' is drop")
        if self.script == "drop" and not self.scripts:
            raise ValueError("'script: drop' needs 'scripts'")
        if self.script == "drop" and self.copied == "keep":
            raise ValueError("'script: drop' needs 'copied: drop': a copy may be in another script")
        return self

    def as_failures(self) -> Failures:
        """Return the settings of the checks; those of translations that are kept are off."""
        return Failures(
            empty="drop",
            too_long=self.too_long,
            repetition=self.repetition,
            unk=self.unk,
            ratio=self.ratio,
            copied=self.copied,
            script=self.script,
            repetition_times=self.repetition_times if self.repetition == "drop" else 0,
            max_ratio=self.max_ratio if self.ratio == "drop" else 0.0,
            scripts=self.scripts,
            max_foreign=self.max_foreign,
        )


class BackTranslation(Section):
    """Back-translation of text in the target language, for the set 'back_translated' (Sennrich et al. 2016)."""

    checkpoint: ReverseModel = Field(
        description="Model from the target to the source language: a checkpoint, a run or an exported CTranslate2 "
        "model of kdmt, or another model as in 'distill.teachers'"
    )
    text: list[str] = Field(
        default_factory=list,
        description="Paths of text in the target language, a sentence on each line, without cleaning; empty for the "
        "text of 'prepare.monolingual_target'",
    )
    tag: str | None = Field(
        None,
        pattern=r"^\S+$",
        description="Token before each source (tagged back-translation, Caswell et al. 2019), for example <bt>; one of "
        "'prepare.tokenizer.user_defined_symbols'; null for none",
    )
    decode: Decode = Field(Decode(), description="Beam search of the model, and the limits of its samples")
    sample: Sample | None = Field(
        None,
        description="Sampling of one translation (Edunov et al. 2018) instead of beam search; null for beam search",
    )
    engine: TranslationEngine = later(
        "auto", description="Decoding engine; 'auto' is CTranslate2 for models that it supports"
    )
    compute_type: StageComputeType = later(
        "auto",
        description="Number type of CTranslate2's computation; 'auto' is float32 on a CPU, half precision on a GPU",
    )
    failures: BackTranslationFailures = Field(BackTranslationFailures(), description="Checks of translations")
    block_lines: int = Field(2000, ge=1, description="Number of lines of a block, the unit in which work is kept")
    executor: ExecutorName = execution(
        "processes", description="Execution of workers: 'processes' on this machine, 'inline' in the command, 'ray'"
    )
    workers: int = execution(
        0, ge=0, description="Number of worker processes; 0 for one per GPU, or as many as the cores allow"
    )
    threads: int = execution(1, ge=0, description="Number of CPU threads of a worker; 0 for one")
    silence_minutes: float = execution(
        30.0, ge=0.0, description="Timeout in minutes after which a silent worker is replaced; 0 for no timeout"
    )
    device: str = execution("auto", description="Device: auto, cpu, cuda or cuda:N; 'auto' is all GPUs, or the CPU")

    @model_validator(mode="after")
    def _consistent(self) -> BackTranslation:
        if self.decode.nbest != 1:
            raise ValueError("'decode.nbest' has no effect: the training set has one translation of each line")
        if self.sample is not None and "beam" in changed(self.decode):
            raise ValueError("'decode.beam' has no effect with 'sample'")
        if self.engine == "torch" and self.compute_type not in ("auto", "float32"):
            raise ValueError(f"'compute_type: {self.compute_type}' needs CTranslate2, and 'engine' is torch")
        if isinstance(self.checkpoint, LocalTranslator):
            for name in ("engine", "sample"):
                if name in changed(self):
                    raise ValueError(f"'{name}' has no effect on a model with 'ctranslate2' in 'checkpoint'")
        return self

    def as_distill(self) -> Distill:
        """Return the settings of a distill stage in which the model translates."""
        return Distill(
            teachers=[self.checkpoint],
            engine=self.engine,
            compute_type=self.compute_type,
            decode=self.decode,
            sample=self.sample or Sample(),
            failures=self.failures.as_failures(),
            block_size=self.block_lines,
            executor=self.executor,
            workers=self.workers,
            threads=max(self.threads, 1),
            silence_minutes=self.silence_minutes,
            device=self.device,
        )
