"""Settings of the distill stage."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated

import regex
from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from kdmt.choices import (
    AnswerFailure,
    CheckpointName,
    ComputeType,
    DistillEngine,
    DiverseQuality,
    ExecutorName,
    FeatureName,
    MbrUtility,
    MbrWeights,
    OnFailure,
    SimilarityName,
    StageComputeType,
    TuningMetric,
    names,
)
from kdmt.config.augment import DistillAugmentOrRecipe
from kdmt.config.language_models import (
    DISTINCTIVE,
    NO_EFFECT,
    PROMPTED_TEACHERS,
    TEXT_TEACHERS,
    EndpointTeacher,
    TextTeacher,
)
from kdmt.config.search import Decode, NATDecode, Pool, Sample
from kdmt.config.section import LanguageCode, Ratio, RepetitionTimes, Section, changed, execution
from kdmt.config.teacher_entries import (
    DirectionTeacher,
    ForeignTeacher,
    OppositeModels,
    PivotTeacher,
    TeacherName,
    Teachers,
)


@cache
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


ScriptName = Annotated[str, AfterValidator(_script)]
SCRIPTS_BRANCH, LANGUAGES_BRANCH = "<scripts>", "<scripts of languages>"
# scripts of the target language, or of each target language
ScriptsOfTarget = Annotated[
    Annotated[list[ScriptName], Tag(SCRIPTS_BRANCH)]
    | Annotated[
        dict[LanguageCode, Annotated[list[ScriptName], Field(min_length=1)]],
        Field(min_length=1),
        Tag(LANGUAGES_BRANCH),
    ],
    Discriminator(lambda value: LANGUAGES_BRANCH if isinstance(value, dict) else SCRIPTS_BRANCH),
]


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
    no_answer: OnFailure = Field(
        "reference", description="Action for a sentence that a language model's server did not answer"
    )
    refusal: OnFailure = Field("reference", description="Action for an answer that refuses to translate")
    truncated: OnFailure = Field("reference", description="Action for an answer that reached the limit of its tokens")
    chatter: OnFailure = Field(
        "reference", description="Action for an answer with text about the translation that cannot be removed"
    )
    several_lines: OnFailure = Field("reference", description="Action for an answer with several lines")
    quotes: OnFailure = Field(
        "reference", description="Action for an answer with an unpaired quotation mark that the source does not have"
    )
    echoed: OnFailure = Field("reference", description="Action for an answer that contains the source and more text")
    wrong_language: OnFailure = Field(
        "reference", description="Action for an answer that is not in the target language"
    )
    repetition_times: RepetitionTimes = Field(
        4, ge=0, description="Number of occurrences in a row from which 'repetition' applies; 0 for no limit"
    )
    max_ratio: Ratio = Field(
        3.0, ge=0.0, description="Maximum length ratio, as in 'prepare.clean.max_ratio'; 0 for no limit"
    )
    scripts: ScriptsOfTarget = Field(
        default_factory=list,
        description="Scripts of the target language by their Unicode names, for example [Latin] or [Han, Hiragana, "
        "Katakana]; with several directions those of all target languages, or a mapping from target languages to their "
        "scripts; empty for no check, which also holds for languages that a mapping does not have",
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

    checkpoint: OppositeModels = Field(
        description="Checkpoint of a teacher from the target to the source language; with several directions one that "
        "has all opposite directions, or a mapping from directions to checkpoints"
    )
    drop_percent: float = Field(
        5.0,
        gt=0.0,
        lt=100.0,
        description="Percentage of the pairs of each direction that are dropped, by cross entropy per token",
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


class Mbr(Section):
    """Minimum Bayes risk: choice of the candidates with the highest expected utility, for `data: mbr`."""

    utility: str = Field(
        "chrf",
        description="Similarity of two candidates: 'chrf' (chrF2), 'bleu' (smoothed sentence BLEU), or the name of a "
        "scorer in 'scorers' with 'reference: true'",
    )
    weights: MbrWeights = Field(
        "equal",
        description="Weights of the candidates as references: equal, the number of times that a text was drawn, or the "
        "teacher's probability",
    )
    top: int = Field(1, ge=1, description="Number of targets of a sentence: the candidates with the highest utility")
    aggregate: bool = Field(
        False,
        description="Whether candidates are compared with the mean n-gram counts of all candidates, in linear time",
    )
    prune: int = Field(
        0,
        ge=0,
        description="Number of candidates with the highest utility by 'aggregate' that are compared with every "
        "candidate; 0 for all",
    )

    @property
    def scorer(self) -> str | None:
        """Return the name of the scorer that is the utility, None if kdmt computes it."""
        return None if self.utility in names(MbrUtility) else self.utility

    @model_validator(mode="after")
    def _prunes(self) -> Mbr:
        if self.aggregate and self.scorer is not None:
            raise ValueError(f"'aggregate: true' needs n-gram counts: {self.utility!r} is not 'chrf' or 'bleu'")
        if self.prune and self.aggregate:
            raise ValueError("'prune' has no effect with 'aggregate: true', which compares no pair of candidates")
        if 0 < self.prune < self.top:
            raise ValueError(f"'prune' ({self.prune}) leaves fewer candidates than 'top' ({self.top})")
        return self


FeatureFileName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]


class ScoreFiles(Section):
    """Scores of candidates by another model: text files with one number per line, in the order of the candidates."""

    train: str = Field(description="Path of the scores of the candidates of the training set")
    valid: str | None = Field(
        None,
        description="Path of the scores of the candidates in 'reranked/valid/nbest', on which the weights are tuned",
    )


class Rerank(Section):
    """Choice of the candidate with the highest value of a linear model over features, for `data: reranked`."""

    features: list[str] = Field(
        ["score", "length", "mbr"],
        description="Features that are computed: 'score' and 'log_prob' of the teacher with and without normalisation "
        "by length, 'length' in tokens, 'ratio' (difference from the typical length, in logarithms), 'count' of draws "
        "(in logarithms), 'mbr' (the expected utility of 'distill.mbr'), 'backward', 'language_model', or the name of "
        "a scorer in 'scorers'",
    )
    files: dict[FeatureFileName, ScoreFiles] = Field(
        default_factory=dict, description="Further features by name, such as scores of a reverse model"
    )
    backward: str | None = Field(
        None,
        description="Checkpoint of a teacher from the target to the source language, for the feature 'backward': the "
        "mean log-probability of the source's tokens given the candidate; with several directions one that has all "
        "opposite directions",
    )
    language_model: str | None = Field(
        None, description="Path of a KenLM n-gram model of target subwords, for the feature 'language_model'"
    )
    weights: dict[str, float] | None = Field(
        None, description="Weights of the features by name; null to tune them on the validation set"
    )
    metric: TuningMetric = Field("bleu", description="Metric of the tuning, by sentence")
    seed: int = Field(1, ge=0, description="Seed of the pairs that are drawn for the tuning")

    @property
    def all_features(self) -> list[str]:
        """Return the names of all features."""
        return [*self.features, *self.files]

    @property
    def scorers(self) -> list[str]:
        """Return the features that external scorers compute."""
        return [name for name in self.features if name not in names(FeatureName)]

    @model_validator(mode="after")
    def _features(self) -> Rerank:
        if not self.all_features:
            raise ValueError("there is no feature: set 'features' or 'files'")
        for name in self.features:
            if self.features.count(name) > 1:
                raise ValueError(f"'features' has {name!r} twice")
        for given in self.files:
            if given in names(FeatureName):
                raise ValueError(f"'files.{given}': this is the name of a feature that is computed")
            if given in self.features:
                raise ValueError(f"'features' and 'files' both have {given!r}")
        models: dict[FeatureName, str | None] = {"backward": self.backward, "language_model": self.language_model}
        for name, path in models.items():
            if name in self.features and path is None:
                raise ValueError(f"the feature {name!r} needs the setting {name!r}")
            if path is not None and name not in self.features:
                raise ValueError(f"{name!r} has no effect unless 'features' has it")
        return self

    @model_validator(mode="after")
    def _weights(self) -> Rerank:
        if self.weights is None:
            return self
        for name in self.weights:
            if name not in self.all_features:
                raise ValueError(f"'weights.{name}': there is no such feature")
        for name in self.all_features:
            if name not in self.weights:
                raise ValueError(f"'weights' has none for the feature {name!r}")
        for name in changed(self):
            if name in ("metric", "seed"):
                raise ValueError(f"'{name}' has no effect with 'weights', which are not tuned")
        for name, files in self.files.items():
            if files.valid is not None:
                raise ValueError(f"'files.{name}.valid' has no effect with 'weights', which are not tuned")
        return self


class ScorerScores(Section):
    """Scores of all candidates by an external scorer, for `data: scored`: the best one is chosen."""

    scorer: str = Field(description="Name of the scorer in 'scorers'")


PATH_BRANCH, SCORER_BRANCH = "<a path>", "<a scorer>"


def _scores_branch(value: object) -> str:
    """Return the tag of the type that `scores` has."""
    return SCORER_BRANCH if isinstance(value, (dict, ScorerScores)) else PATH_BRANCH


Scores = Annotated[
    Annotated[str, Tag(PATH_BRANCH)] | Annotated[ScorerScores, Tag(SCORER_BRANCH)], Discriminator(_scores_branch)
]


class DiverseTargets(Section):
    """Choice of several good targets of a sentence that differ from each other, for `data: diverse`."""

    targets: int = Field(4, ge=2, description="Maximum number of targets of a sentence")
    balance: float = Field(
        0.5, ge=0.0, le=1.0, description="Weight of the quality; the rest is that of the similarity to earlier targets"
    )
    quality: DiverseQuality = Field(
        "utility", description="Quality: expected utility of 'distill.mbr', or the teacher's probability per token"
    )


class Distill(Section):
    """Settings of the distill stage: teachers, decoding, checks of hypotheses, workers."""

    checkpoint: CheckpointName = Field(
        "auto", description="Checkpoint of the pipeline's teacher; 'auto' is the one that its run chose by validation"
    )
    teachers: Teachers = Field(
        default_factory=list,
        description="Checkpoints that translate as an ensemble, one Hugging Face model or one large language model; "
        "empty for the pipeline's teacher. With several directions, a mapping from directions to their teachers, null "
        "for the original targets; the pipeline's teacher translates the directions that it does not name",
    )
    engine: DistillEngine = Field(
        "auto",
        description="Decoding engine; 'auto' is CTranslate2 for models that it supports; 'ctranslate2_exact' searches "
        "sentences that reach their maximum length again, as fairseq would, and is slower",
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
    augment: DistillAugmentOrRecipe | None = Field(
        None,
        description="Changes of the text that the teacher translates, which is then the source of the students: shares "
        "of the lines, or the recipe 'default'; null for none",
    )
    failures: Failures = Field(Failures(), description="Checks of hypotheses")
    reverse: Reverse | None = Field(None, description="Filter by a model of the opposite direction; null for none")
    quality: ScorerFilter | None = Field(None, description="Filter by an external scorer; null for none")
    interpolate: SimilarityName = Field(
        "sentence_bleu", description="Similarity to the reference by which 'data: interpolated' chooses a hypothesis"
    )
    mbr: Mbr = Field(Mbr(), description="Minimum Bayes risk, for 'data: mbr'")
    rerank: Rerank = Field(Rerank(), description="Linear model over features of candidates, for 'data: reranked'")
    diverse: DiverseTargets = Field(
        DiverseTargets(), description="Several different targets of a sentence, for 'data: diverse'"
    )
    scores: Scores | None = Field(
        None,
        description="Scores of the candidates for 'data: scored', of which the best is chosen: path of a file with a "
        "number for each candidate, or an external scorer",
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
    pool: Pool | None = Field(
        None,
        description="Pool of candidates that the sets interpolated, mbr, reranked, diverse, scored and nbest choose "
        "from; null for the n-best lists of beam search",
    )
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
        sizes = [len(self.shared), *(len(each) for each in self.by_direction.values() if isinstance(each, list))]
        if self.engine.startswith("ctranslate2") and max(sizes) > 1:
            raise ValueError(f"'engine: {self.engine}' has one model: several 'teachers' translate in torch")
        return self

    @model_validator(mode="after")
    def _draws_with_an_engine(self) -> Distill:
        if self.pool is None or self.pool.engine == "auto":
            return self
        if self.engine == "torch" or self.by_direction or not all(isinstance(each, str) for each in self.shared):
            raise ValueError("'pool.engine' is for checkpoints of kdmt that CTranslate2 translates with")
        return self

    @model_validator(mode="after")
    def _diverse_in_torch(self) -> Distill:
        if self.pool is not None and self.pool.diverse is not None and self.engine != "torch":
            raise ValueError("'pool.diverse': CTranslate2 has no diverse beam search: set 'engine: torch'")
        return self

    @model_validator(mode="after")
    def _systems_translate_the_corpus(self) -> Distill:
        if self.augment is not None and self.pool is not None and self.pool.systems:
            raise ValueError(
                "'pool.systems' cannot be combined with 'augment': the files have translations of the lines of the "
                "corpus, and the candidates are those of the changed lines"
            )
        return self

    @model_validator(mode="after")
    def _counts_draws(self) -> Distill:
        if self.pool is None and self.mbr.weights == "count":
            raise ValueError("'mbr.weights: count' has no effect unless 'pool' is set")
        if self.pool is None and "count" in self.rerank.features:
            raise ValueError("'rerank.features': 'count' has no effect unless 'pool' is set")
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
        if len(self.shared) > 1:
            raise ValueError("'teachers': a 'huggingface' model has a vocabulary of its own and translates alone")
        if self.shortlist is not None:
            raise ValueError("'shortlist' is learnt in the vocabulary of the data, and the teacher has another")
        return self

    @model_validator(mode="after")
    def _of_directions(self) -> Distill:
        if self.by_direction and self.shortlist is not None:
            raise ValueError(
                "'shortlist' is learnt in the vocabulary of the data: 'teachers' of directions have others"
            )
        for direction, teacher in self.by_direction.items():
            if isinstance(teacher, (*TEXT_TEACHERS, PivotTeacher)) and self.pool is not None:
                raise ValueError(f"'pool': the teacher of {direction} in 'teachers' draws no samples")
            if isinstance(teacher, PivotTeacher) and teacher.nbest > self.decode.beam:
                raise ValueError(
                    f"'teachers.{direction}.nbest' ({teacher.nbest}) is more than 'decode.beam' ({self.decode.beam})"
                )
        return self

    @model_validator(mode="after")
    def _text_alone(self) -> Distill:
        teacher = self.of_text
        if teacher is None:
            legs = [
                leg for each in self.by_direction.values() if isinstance(each, PivotTeacher) for leg in each.teachers
            ]
            if any(isinstance(each, TEXT_TEACHERS) for each in (*self.by_direction.values(), *legs)):
                return self
            for name in names(AnswerFailure):
                if name in changed(self.failures):
                    raise ValueError(f"'failures.{name}' has no effect on the answers of this teacher")
            return self
        kind = next(name for name, section in DISTINCTIVE.items() if isinstance(teacher, section))
        if len(self.shared) > 1:
            raise ValueError(f"'teachers': a model with '{kind}' translates alone")
        for name in NO_EFFECT[type(teacher)]:
            if name in changed(self):
                raise ValueError(f"'{name}' has no effect on a model with '{kind}' in 'teachers'")
        return self

    @property
    def shared(self) -> list[TeacherName]:
        """Return the teachers of all text; none if the pipeline's teacher translates it, or directions have theirs."""
        return [] if isinstance(self.teachers, dict) else self.teachers

    @property
    def by_direction(self) -> dict[str, DirectionTeacher]:
        """Return the teacher of each direction that is named, None for original targets; empty without directions."""
        return self.teachers if isinstance(self.teachers, dict) else {}

    @property
    def of_text(self) -> TextTeacher | None:
        """Return the teacher of all text that answers with text, None if there is none."""
        return next((teacher for teacher in self.shared if isinstance(teacher, TEXT_TEACHERS)), None)

    @property
    def num_candidates(self) -> tuple[int, str]:
        """Return the number of candidates of a sentence, and the path of the setting that gives it.

        If teachers of directions have different numbers, this is the largest one.
        """
        if isinstance(self.of_text, PROMPTED_TEACHERS):
            return self.of_text.n, "distill.teachers.0.n"
        found = [(self.decode.nbest, "distill.decode.nbest")]
        found += [
            (teacher.n, f"distill.teachers.{direction}.n")
            for direction, teacher in self.by_direction.items()
            if isinstance(teacher, PROMPTED_TEACHERS)
        ]
        return max(found, key=lambda each: each[0])

    @property
    def prompted(self) -> tuple[TextTeacher | None, str]:
        """Return a large language model among the teachers, None if there is none, and its name in messages."""
        if isinstance(self.of_text, PROMPTED_TEACHERS):
            return self.of_text, "the teacher in 'distill.teachers'"
        for direction, teacher in self.by_direction.items():
            if isinstance(teacher, PROMPTED_TEACHERS):
                return teacher, f"the teacher of {direction} in 'distill.teachers'"
        return None, ""

    @property
    def has_endpoint(self) -> bool:
        """Return whether one of the teachers is behind an endpoint."""
        return any(isinstance(teacher, EndpointTeacher) for teacher in (self.of_text, *self.by_direction.values()))

    @property
    def foreign(self) -> ForeignTeacher | None:
        """Return the Hugging Face model among the teachers of all text, None if there is none."""
        return next((teacher for teacher in self.shared if isinstance(teacher, ForeignTeacher)), None)

    @property
    def checkpoints(self) -> list[str]:
        """Return the checkpoints among the teachers of all text."""
        return [teacher for teacher in self.shared if isinstance(teacher, str)]
