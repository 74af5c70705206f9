"""Settings of the distill stage."""

from __future__ import annotations

import re
from typing import Annotated

import regex
from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from kdmt.choices import (
    CheckpointName,
    ComputeType,
    DistillEngine,
    ExecutorName,
    OnFailure,
    SimilarityName,
    StageComputeType,
)
from kdmt.config.search import Decode, NATDecode, Sample
from kdmt.config.section import LanguageCode, Ratio, RepetitionTimes, Section, execution


def _script(name: str) -> str:
    """Check that a name is that of a script of letters in the Unicode Character Database."""
    if not re.fullmatch(r"[A-Za-z_]+", name):
        raise ValueError("not the name of a Unicode script, as Latin or Cyrillic is")
    try:
        script = regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        raise ValueError("not the name of a Unicode script, as Latin or Cyrillic is") from None
    # a space has the script Common, an accent Inherited, U+FFFF Unknown; no character has Katakana_Or_Hiragana
    if any(map(script.match, " \u0301\uffff")) or not script.search("".join(map(chr, range(0x32000)))):
        raise ValueError("not a script of its own")
    return name


class Failures(Section):
    """Actions for hypotheses that fail a check; the first check that fails counts, in the order of the settings.

    'keep' keeps the hypothesis, 'reference' replaces it by the reference, 'drop' leaves the pair out and records its
    index.
    """

    empty: OnFailure = Field("reference", description="Action for an empty hypothesis")
    too_long: OnFailure = Field("reference", description="Action for a hypothesis that reached the maximum length")
    repetition: OnFailure = Field(
        "reference",
        description="Action for a hypothesis in which an n-gram of 1 to 4 tokens occurs 'repetition_times' in a row",
    )
    unk: OnFailure = Field("keep", description="Action for a hypothesis that contains <unk>")
    ratio: OnFailure = Field(
        "reference",
        description="Action for a hypothesis whose length differs from the source's by more than 'max_ratio'",
    )
    copied: OnFailure = Field(
        "reference",
        description="Action for a hypothesis that has a letter and equals the source, except for case and spaces",
    )
    script: OnFailure = Field("reference", description="Action for a hypothesis in another script than 'scripts'")
    repetition_times: RepetitionTimes = Field(
        4, ge=0, description="Number of occurrences in a row from which 'repetition' applies; 0 for no limit"
    )
    max_ratio: Ratio = Field(
        3.0, ge=0.0, description="Maximum length ratio, as in 'prepare.clean.max_ratio'; 0 for no limit"
    )
    scripts: list[Annotated[str, AfterValidator(_script)]] = Field(
        default_factory=list,
        description="Scripts of the target language by their Unicode names, for example [Latin] or [Han, Hiragana, "
        "Katakana]; empty for no check",
    )
    max_foreign: float = Field(
        0.5, ge=0.0, lt=1.0, description="Maximum share of the letters that are in other scripts than 'scripts'"
    )


class Shortlist(Section):
    """Lexical shortlist: IBM model 1 restricts the target tokens of a batch, which is faster and changes scores."""

    per_token: int = Field(100, ge=1, description="Number of most probable target tokens per source token")
    frequent: int = Field(200, ge=0, description="Number of most frequent target tokens that are always included")
    pairs: int = Field(
        200_000, ge=0, description="Number of training pairs, evenly sampled, that IBM model 1 is trained on; 0 for all"
    )


class Reverse(Section):
    """Filter by a model of the opposite direction: the least probable pairs are dropped."""

    checkpoint: str = Field(description="Checkpoint of a teacher from the target to the source language")
    drop_percent: float = Field(
        5.0, gt=0.0, lt=100.0, description="Percentage of the pairs that are dropped, by cross entropy per token"
    )
    compute_type: ComputeType = Field("float32", description="Number type of CTranslate2's computation")


class ScorerFilter(Section):
    """Filter by an external scorer: the pairs of a training set with the worst scores are dropped.

    It comes after the checks of hypotheses and after 'reverse'.
    """

    scorer: str = Field(description="Name of the scorer in 'scorers'")
    min_quality: float | None = Field(
        None, description="Worst score of a kept pair: the lowest, or the highest if the scorer's 'direction' is lower"
    )
    drop_percent: float | None = Field(
        None, gt=0.0, lt=100.0, description="Percentage of the pairs, those with the worst scores, that are dropped"
    )

    @model_validator(mode="after")
    def _one_limit(self) -> ScorerFilter:
        if self.min_quality is None and self.drop_percent is None:
            raise ValueError("give 'min_quality' or 'drop_percent'")
        return self


class ForeignTeacher(Section):
    """A Marian, mBART-50, M2M-100 or NLLB model of Hugging Face Transformers, with its own tokenizer."""

    huggingface: str = Field(min_length=1, description="Folder of the model, or its name on the Hugging Face Hub")
    revision: str | None = Field(None, description="Branch, tag or commit on the Hub; null for the default branch")
    source_code: LanguageCode | None = Field(
        None,
        description="Source language in the tokenizer's codes: en_XX (mBART-50), en (M2M-100), eng_Latn (NLLB); null "
        "for a model of one language",
    )
    target_code: LanguageCode | None = Field(
        None,
        description="Target language in the tokenizer's codes, deu for Marian's >>deu<<; null for a model of one "
        "language",
    )
    other_languages: bool = execution(
        False, description="Whether the model may translate between other languages than the pipeline's"
    )


CHECKPOINT_BRANCH, FOREIGN_BRANCH = TEACHER_BRANCHES = "<a checkpoint>", "<a foreign model>"
TeacherName = Annotated[
    Annotated[str, Tag(CHECKPOINT_BRANCH)] | Annotated[ForeignTeacher, Tag(FOREIGN_BRANCH)],
    Discriminator(lambda value: FOREIGN_BRANCH if isinstance(value, (dict, ForeignTeacher)) else CHECKPOINT_BRANCH),
]


class Distill(Section):
    """Settings of the distill stage: teachers, decoding, checks of hypotheses, workers."""

    checkpoint: CheckpointName = Field(
        "auto", description="Checkpoint of the pipeline's teacher; 'auto' is the one that its run chose by validation"
    )
    teachers: list[TeacherName] = Field(
        default_factory=list,
        description="Checkpoints that translate as an ensemble, or one Hugging Face model; empty for the pipeline's "
        "teacher",
    )
    engine: DistillEngine = Field(
        "auto", description="Decoding engine; 'auto' is CTranslate2 for models that it supports"
    )
    compute_type: StageComputeType = Field(
        "auto",
        description="Number type of CTranslate2's computation; 'auto' is float32 on a CPU, half precision on a GPU",
    )
    decode: Decode = Field(Decode(), description="Beam search")
    nat: NATDecode = Field(NATDecode(), description="Decoding of a non-autoregressive teacher")
    iterations: int = Field(
        10, ge=1, description="Maximum number of iterations of a non-autoregressive teacher that refines its output"
    )
    shortlist: Shortlist | None = Field(None, description="Lexical shortlist of CTranslate2; null for none")
    monolingual: bool = Field(False, description="Whether the text of 'prepare.monolingual' is translated too")
    failures: Failures = Field(Failures(), description="Checks of hypotheses")
    reverse: Reverse | None = Field(None, description="Filter by a model of the opposite direction; null for none")
    quality: ScorerFilter | None = Field(None, description="Filter by an external scorer; null for none")
    interpolate: SimilarityName = Field(
        "sentence_bleu", description="Similarity to the reference by which 'data: interpolated' chooses a hypothesis"
    )
    scores: str | None = Field(
        None, description="Path of a file with a score for each hypothesis of the n-best lists, for 'data: scored'"
    )
    imported: str | None = Field(
        None, description="Path of a file with translations of another system, for 'data: imported'"
    )
    imported_sources: bool = Field(
        False,
        description="Whether the second column of 'imported' holds the sources, which are compared with the training "
        "set's",
    )
    sample: Sample = Field(Sample(), description="Sampling, for 'data: sampled'")
    block_size: int | None = Field(
        None,
        ge=1,
        description="Number of sentences in a block, the unit of work; null for 1000, or 10000 if decoding begins on a "
        "GPU",
    )
    # -- execution
    executor: ExecutorName = execution(
        "processes", description="Execution of workers: 'processes' on this machine, 'inline' in the command, 'ray'"
    )
    workers: int = execution(
        0, ge=0, description="Number of worker processes; 0 for one per GPU, or as many as the cores allow"
    )
    threads: int = execution(
        1, ge=1, description="Number of CPU threads of a worker; the last digits of scores may depend on it"
    )
    silence_minutes: float = execution(
        30.0, ge=0.0, description="Timeout in minutes after which a silent worker is replaced; 0 for no timeout"
    )
    device: str = execution("auto", description="Device: auto, cpu, cuda or cuda:N; 'auto' is all GPUs, or the CPU")

    @model_validator(mode="after")
    def _has_the_engine(self) -> Distill:
        if self.engine == "torch" and self.compute_type not in ("auto", "float32"):
            raise ValueError(f"'compute_type: {self.compute_type}' needs CTranslate2, and 'engine' is torch")
        if self.engine == "torch" and self.shortlist is not None:
            raise ValueError("'shortlist' needs CTranslate2, and 'engine' is torch")
        if self.engine == "ctranslate2" and len(self.teachers) > 1:
            raise ValueError("'engine: ctranslate2' has one model: several 'teachers' translate in torch")
        return self

    @model_validator(mode="after")
    def _sources_of_a_file(self) -> Distill:
        if self.imported_sources and self.imported is None:
            raise ValueError("'imported_sources' has no effect unless 'imported' is set")
        return self

    @model_validator(mode="after")
    def _foreign_alone(self) -> Distill:
        if self.foreign is None:
            return self
        if len(self.teachers) > 1:
            raise ValueError("'teachers': a 'huggingface' model has a vocabulary of its own and translates alone")
        if self.shortlist is not None:
            raise ValueError("'shortlist' is learnt in the vocabulary of the data, and the teacher has another")
        return self

    @property
    def foreign(self) -> ForeignTeacher | None:
        """Return the Hugging Face model among the teachers, None if there is none."""
        return next((teacher for teacher in self.teachers if isinstance(teacher, ForeignTeacher)), None)

    @property
    def checkpoints(self) -> list[str]:
        """Return the checkpoints among the teachers."""
        return [teacher for teacher in self.teachers if isinstance(teacher, str)]
