"""Settings of the score stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdmt.choices import BleuTokenizer, CheckpointName, EngineName, ScoreMetric, VariantModifier
from kdmt.config.search import Decode, NATDecode
from kdmt.config.section import Section, changed, execution, recorded_if_set
from kdmt.config.simultaneous import Simultaneous
from kdmt.languages import missing_extra


class Diagnostics(Section):
    """Settings of the diagnostics of systems in the score stage."""

    train_sentences: int = Field(
        0,
        ge=0,
        description="Number of training sentences that each system translates twice, whole and without their ends, to "
        "find replicated targets; 0 for none",
    )
    examples: int = Field(3, ge=0, description="Maximum number of examples of each problem of each system")


class OffTarget(Section):
    """Off-target rate: the share of the translations that are in another language of the pipeline than the target.

    The language of a translation is the most probable one among those of the pipeline.
    """

    identifier: Literal["built-in", "fasttext"] = Field(
        "built-in", description="Identifier of languages: the one of kdmt[language-id], or a model in fastText's format"
    )
    model: str | None = Field(None, description="Path of the model file of 'identifier: fasttext'")

    @model_validator(mode="after")
    def _consistent(self) -> OffTarget:
        if (self.identifier == "fasttext") != (self.model is not None):
            raise ValueError("'identifier: fasttext' needs 'model', the path of its file, and 'model' needs it")
        return self


class ResourceClasses(Section):
    """Limits of the classes of directions by their number of training pairs, for the averages over directions.

    The defaults are about those of Zhang et al. (2020, OPUS-100): below 100,000 pairs and from a million.
    """

    low_below: int = Field(100_000, ge=1, description="Number of pairs below which a direction is low-resource")
    high_from: int = Field(1_000_000, ge=1, description="Number of pairs from which a direction is high-resource")

    @model_validator(mode="after")
    def _ordered(self) -> ResourceClasses:
        if self.low_below > self.high_from:
            raise ValueError(f"'low_below' ({self.low_below}) is more than 'high_from' ({self.high_from})")
        return self


class Score(Section):
    """Settings of the score stage. Few are execution settings, because speeds are results too."""

    checkpoint: CheckpointName = Field(
        "auto", description="Checkpoint of each system; 'auto' is the one that its run chose by validation"
    )
    beams: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 5], min_length=1, description="Beam sizes for autoregressive models"
    )
    iterations: list[Annotated[int, Field(ge=1)]] = Field(
        [10],
        min_length=1,
        description="Maximum numbers of iterations for non-autoregressive models that refine their output",
    )
    nat: NATDecode = Field(NATDecode(), description="Decoding of non-autoregressive models")
    lenpen: float = Field(1.0, description="Exponent of the length by which the score of a hypothesis is divided")
    max_len_a: float = Field(1.2, ge=0.0, description="Maximum output length per source token")
    max_len_b: int = Field(10, ge=1, description="Constant part of the maximum output length, in tokens")
    max_tokens: int = Field(8000, ge=1, description="Maximum number of padded source tokens in a batch")
    batch_size: int = Field(128, ge=1, description="Maximum number of sentences in a batch")
    metrics: list[ScoreMetric] = Field(
        ["bleu", "chrf"],
        min_length=1,
        description="Metrics of the translations, in the order of the columns; 'ter' is a rate of errors between words "
        "separated by spaces, and lower is better",
    )
    variants: dict[
        Annotated[str, Field(pattern=r"^\w[\w+-]*$")], Annotated[list[VariantModifier], Field(min_length=1)]
    ] = Field(
        default_factory=dict,
        description="Changed test sets, which are scored in addition: name -> changes of every sentence; the "
        "references follow as the targets of training data do ('students.NAME.augment')",
    )
    spbleu_model: str | None = Field(
        None,
        description="SentencePiece model of the metric 'spbleu', such as that of FLORES-200; it is not downloaded",
    )
    scorers: list[str] | None = Field(
        None,
        description="External scorers of the translations, by their names in 'scorers', in the order of the columns; "
        "null for all of them",
    )
    tokenize: BleuTokenizer = Field(
        "auto",
        description="Tokenizer of sacreBLEU, for BLEU in all stages; 'auto' is its choice for the target language "
        "(zh, ja-mecab, ko-mecab), char for other scripts without spaces, else 13a",
    )
    lowercase: bool = Field(False, description="Whether scores ignore case")
    detokenized: bool = Field(
        True,
        description="Whether detokenised text is scored; false for the words between spaces, against the corpus's own "
        "target file",
    )
    engines: list[EngineName] = Field(
        [],
        description="Engines in which students are exported, scored and measured in addition, each in a process of its "
        "own; 'marian' and 'bergamot' need environments (`make deploy-envs`)",
    )
    engine_students: list[str] | None = Field(
        None,
        min_length=1,
        description="Students that are measured in 'engines'; null for all students that an engine has a model for",
    )
    engine_environments: str = execution(
        ".deploy-envs", description="Folder of the environments of 'marian' and 'bergamot', made by `make deploy-envs`"
    )
    baseline: str | None = Field(
        None,
        description="System that significance is tested against: a student or 'teacher'; null for the first student "
        "on raw data",
    )
    simultaneous: Simultaneous | None = recorded_if_set(
        None,
        description="Simultaneous translation with latency, for systems with a unidirectional encoder and streaming "
        "'ctc' students; null for none",
    )
    contrastive: dict[Annotated[str, Field(pattern=r"^\w[\w+-]*$")], str] = recorded_if_set(
        {},
        description="Contrastive tests by name: paths of JSONL files with sources, right and wrong targets, of which "
        "autoregressive systems have to prefer the right ones",
    )
    diagnostics: Diagnostics | None = Field(
        Diagnostics(),
        description="Diagnostics of the translations, such as hallucinations and omitted words; null for none",
    )
    off_target: OffTarget | None = recorded_if_set(
        None,
        description="Off-target rate of each direction of a pipeline with several directions, by language "
        "identification; null for none",
    )
    resource_classes: ResourceClasses = recorded_if_set(
        ResourceClasses(),
        description="Classes of directions by their number of training pairs, for averages of a pipeline with several "
        "directions",
    )
    bootstrap_samples: int = Field(1000, ge=1, description="Number of samples of the bootstrap test")
    speed_sentences: int = Field(100, ge=1, description="Number of sentences that are timed with a batch size of 1")
    threads: int = Field(0, ge=0, description="Number of CPU threads; 0 for one per core")
    device: str = Field("auto", description="Device: auto, cpu, cuda or cuda:N; 'auto' is a GPU if there is one")

    def decode(self, beam: int) -> Decode:
        """Return the settings for translating the test sets with a beam of this size."""
        return Decode(
            beam=beam,
            lenpen=self.lenpen,
            max_len_a=self.max_len_a,
            max_len_b=self.max_len_b,
            max_tokens=self.max_tokens,
            batch_size=self.batch_size,
        )

    @model_validator(mode="after")
    def _has_the_tokenizer(self) -> Score:
        extra = missing_extra(self.tokenize)
        if extra is not None:
            raise ValueError(
                f"'tokenize: {self.tokenize}' needs packages that are not installed: pip install 'kdmt[{extra}]'"
            )
        return self

    @model_validator(mode="after")
    def _distinct(self) -> Score:
        for name in ("beams", "iterations"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"'{name}' holds a number twice")
        if ("spbleu" in self.metrics) != (self.spbleu_model is not None):
            raise ValueError("'spbleu' in 'metrics' needs 'spbleu_model', which has no effect without it")
        for name in ("metrics", "scorers", "engines", "engine_students"):
            names = getattr(self, name) or []
            if len(set(names)) != len(names):
                raise ValueError(f"'{name}' holds a name twice")
        if self.engine_students is not None and not self.engines:
            raise ValueError("'engine_students' has no effect without 'engines'")
        if "engine_environments" in changed(self) and not {"marian", "bergamot"} & set(self.engines):
            raise ValueError("'engine_environments' has no effect without 'marian' or 'bergamot' in 'engines'")
        for name, modifiers in self.variants.items():
            if len(set(modifiers)) != len(modifiers):
                raise ValueError(f"'variants.{name}' holds a name twice")
            if {"upper_case", "title_case"} <= set(modifiers):
                raise ValueError(f"'variants.{name}': 'upper_case' and 'title_case' exclude each other")
        return self
