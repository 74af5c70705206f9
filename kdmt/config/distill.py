"""Settings of the distill stage."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from kdmt.config.search import Decode, NATDecode, Sample
from kdmt.config.section import LanguageCode, Ratio, RepetitionTimes, Section, execution

OnFailure = Literal["keep", "reference", "drop"]


def _script(name: str) -> str:
    """The name if it is that of a script that letters are written in, as the Unicode Character Database calls it."""
    import regex

    if not re.fullmatch(r"[A-Za-z_]+", name):
        raise ValueError("not the name of a Unicode script, as Latin or Cyrillic is")
    try:
        script = regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        raise ValueError("not the name of a Unicode script, as Latin or Cyrillic is") from None
    # that of a space is what scripts share, that of an accent what takes its neighbour's, U+FFFF is no character; and
    # Katakana_Or_Hiragana has none
    if any(map(script.match, " \u0301\uffff")) or not script.search("".join(map(chr, range(0x32000)))):
        raise ValueError("not a script of its own")
    return name


class Failures(Section):
    """What becomes of a hypothesis that fails: kept, replaced by the reference, or dropped with its index recorded.

    It fails by the first that applies, in the order in which they stand here.
    """

    empty: OnFailure = "reference"
    too_long: OnFailure = "reference"  # reached the maximum length
    repetition: OnFailure = "reference"  # an n-gram (1 to 4 tokens) repeated `repetition_times` in a row
    unk: OnFailure = "keep"
    ratio: OnFailure = "reference"  # far longer or shorter than the source, see `max_ratio`
    copied: OnFailure = "reference"  # the source again, but for case and spaces, with a letter in it
    script: OnFailure = "reference"  # in another script than `scripts`
    repetition_times: RepetitionTimes = Field(4, ge=0)  # 0: no repetition fails
    max_ratio: Ratio = Field(3.0, ge=0.0)  # as `prepare.clean.max_ratio`, with the same typical ratio; 0: no limit
    # Unicode's names for the target's, as [Latin] or [Han, Hiragana, Katakana]; empty: not checked
    scripts: list[Annotated[str, AfterValidator(_script)]] = Field(default_factory=list)
    max_foreign: float = Field(0.5, ge=0.0, lt=1.0)  # share of the letters that may be of other scripts


class Shortlist(Section):
    """Target words that a batch may have, learnt from the training set by IBM model 1: quicker, and other scores."""

    per_token: int = Field(100, ge=1)  # most probable target tokens of each source token
    frequent: int = Field(200, ge=0)  # and the most frequent ones of all
    pairs: int = Field(200_000, ge=0)  # of the training set that are learnt from, evenly drawn; 0 for all


class Reverse(Section):
    """Pairs that a model of the other direction finds improbable are dropped."""

    checkpoint: str  # of a teacher from the target to the source language
    drop_percent: float = Field(5.0, gt=0.0, lt=100.0)  # those with the highest cross entropy a token
    compute_type: Literal["float32", "int8", "float16"] = "float32"


class ForeignTeacher(Section):
    """A Marian, mBART-50, M2M-100 or NLLB model in the form of Hugging Face's Transformers, with its own tokenizer."""

    huggingface: str = Field(min_length=1)  # a folder, or a model's name on the hub
    revision: str | None = None  # of the hub: a branch, a tag or a commit
    # languages by the tokenizer's codes, as en_XX (mBART-50), en (M2M-100), eng_Latn (NLLB), deu (Marian's >>deu<<)
    source_code: LanguageCode | None = None
    target_code: LanguageCode | None = None
    other_languages: bool = execution(False)  # the codes, or Marian's own, need not be the pipeline's languages


CHECKPOINT_BRANCH, FOREIGN_BRANCH = "<a checkpoint>", "<a foreign model>"
TeacherName = Annotated[
    Annotated[str, Tag(CHECKPOINT_BRANCH)] | Annotated[ForeignTeacher, Tag(FOREIGN_BRANCH)],
    Discriminator(lambda value: FOREIGN_BRANCH if isinstance(value, (dict, ForeignTeacher)) else CHECKPOINT_BRANCH),
]


class Distill(Section):
    checkpoint: Literal["best", "last", "average"] = "average"
    # checkpoints that translate together, or one foreign model; the pipeline's teacher
    teachers: list[TeacherName] = Field(default_factory=list)
    engine: Literal["auto", "ctranslate2", "torch"] = "auto"  # auto: CTranslate2 for what it has
    compute_type: Literal["float32", "int8", "float16"] = "float32"  # of CTranslate2
    decode: Decode = Decode()
    nat: NATDecode = NATDecode()  # of a non-autoregressive teacher
    iterations: int = Field(10, ge=1)  # of one, at most
    shortlist: Shortlist | None = None
    monolingual: bool = False  # translate `prepare.monolingual` too
    failures: Failures = Failures()
    reverse: Reverse | None = None
    interpolate: Literal["sentence_bleu", "chrf"] = (
        "sentence_bleu"  # nearness to the reference, of `data: interpolated`
    )
    scores: str | None = None  # a file with a score for each line of `nbest`, of `data: scored`
    imported: str | None = None  # a file of another system's translations, of `data: imported`
    imported_sources: bool = False  # its second column is the source, which is compared with the training set's
    sample: Sample = Sample()
    block_size: int = Field(1000, ge=1)  # sentences
    # -- execution
    executor: Literal["processes", "inline", "ray"] = execution("processes")
    workers: int = execution(0, ge=0)  # 0 for as many as there are cores for, or GPUs
    threads: int = execution(1, ge=1)  # of a worker; the last digits of scores may depend on it
    # a worker of which nothing is heard for so long is replaced; 0: none is
    silence_minutes: float = execution(30.0, ge=0.0)
    device: str = execution("auto")

    @model_validator(mode="after")
    def _has_the_engine(self) -> Distill:
        if self.engine == "torch" and self.compute_type != "float32":
            raise ValueError(f"'compute_type: {self.compute_type}' is CTranslate2's, and 'engine' is torch")
        if self.engine == "torch" and self.shortlist is not None:
            raise ValueError("'shortlist' is CTranslate2's, and 'engine' is torch")
        if self.engine == "ctranslate2" and len(self.teachers) > 1:
            raise ValueError("'engine: ctranslate2' has one model: several 'teachers' translate in torch")
        return self

    @model_validator(mode="after")
    def _sources_of_a_file(self) -> Distill:
        if self.imported_sources and self.imported is None:
            raise ValueError("'imported_sources' is about the file 'imported', which is not given")
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
        """The teacher that is none of kdmt's, where there is one."""
        return next((teacher for teacher in self.teachers if isinstance(teacher, ForeignTeacher)), None)

    @property
    def checkpoints(self) -> list[str]:
        """The teachers that are."""
        return [teacher for teacher in self.teachers if isinstance(teacher, str)]
