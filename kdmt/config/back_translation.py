"""Settings of back-translation: a model of the opposite direction translates text in the target language."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, Tag, model_validator

from kdmt.choices import DistillEngine, ExecutorName, StageComputeType
from kdmt.config.distill import CHECKPOINT_BRANCH, FOREIGN_BRANCH, TRANSLATOR_BRANCH, Distill, Failures, ForeignTeacher
from kdmt.config.language_models import LocalTranslator
from kdmt.config.search import Decode, Sample
from kdmt.config.section import Section, changed, execution, later


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
# every translation is used except an empty one, and one that a model of text marks as no translation
_KEEP = Failures(
    empty="drop",
    too_long="keep",
    repetition="keep",
    ratio="keep",
    copied="keep",
    script="keep",
    repetition_times=0,
    max_ratio=0.0,
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
    engine: DistillEngine = later(
        "auto", description="Decoding engine; 'auto' is CTranslate2 for models that it supports"
    )
    compute_type: StageComputeType = later(
        "auto",
        description="Number type of CTranslate2's computation; 'auto' is float32 on a CPU, half precision on a GPU",
    )
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
            failures=_KEEP,
            block_size=self.block_lines,
            executor=self.executor,
            workers=self.workers,
            threads=max(self.threads, 1),
            silence_minutes=self.silence_minutes,
            device=self.device,
        )
