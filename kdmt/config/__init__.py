"""The pipeline's configuration: one frozen, strictly validated model per stage.

A pipeline is one YAML file. `load_pipeline` reads it, applies `--set a.b=c` overrides and validates it: an unknown
key, a wrong type or two settings that contradict each other raise `UserError` with the YAML path. Names of data sets
are replaced by what the lock file of the pipeline has for them.

Every setting has one of three kinds, which `flatten_settings` reads:

* result (the default): a change runs the stage again;
* extend: after a change, the stage continues from its output (`max_updates`, more seeds);
* execution: a change does not affect the output (workers, logging, device).
"""

from __future__ import annotations

from kdmt.config.augment import Augment, DistillAugment, TextNoise
from kdmt.config.back_translation import BackTranslation, BackTranslationFailures
from kdmt.config.bounds import check_bounds, largest
from kdmt.config.context import Context
from kdmt.config.corpora import SCHEMES, Corpus, HeldOut, Monolingual, ParallelText, Quality, Source, split_login
from kdmt.config.distill import (
    Distill,
    DiverseTargets,
    Failures,
    ForeignTeacher,
    Mbr,
    OnFailure,
    Rerank,
    Reverse,
    ScoreFiles,
    ScorerFilter,
    ScorerScores,
    Shortlist,
)
from kdmt.config.filters import AlignmentScore, CrossEntropyDifference, ExternalFilter, ReverseScore, ScoreLimit
from kdmt.config.flattening import REQUIRED, Setting, flatten_settings, resolved
from kdmt.config.knowledge import Knowledge
from kdmt.config.language_models import EndpointTeacher, LocalGenerator, LocalTranslator, Prompted, TextTeacher
from kdmt.config.loading import (
    NO_LOCK_FILE,
    LockedPipeline,
    Provenance,
    load_locked_pipeline,
    load_pipeline,
    load_unlocked_pipeline,
)
from kdmt.config.messages import describe_problems
from kdmt.config.nat import NAT
from kdmt.config.pipeline import Pipeline
from kdmt.config.prepare import MONOLINGUAL_SIDES, Clean, FairseqData, Mixing, Prepare, Text, Tokenizer, Vocabulary
from kdmt.config.records import checked, read_record
from kdmt.config.rules import Language, Rules
from kdmt.config.score import Diagnostics, OffTarget, Score
from kdmt.config.scorers import Scorer
from kdmt.config.search import Decode, Diverse, NATDecode, Pool, Sample
from kdmt.config.section import KINDS, Section
from kdmt.config.selective import Selective
from kdmt.config.self_supervised import Denoising, SelfSupervised
from kdmt.config.student import (
    AttentionKD,
    Convex,
    HiddenKD,
    LayerMap,
    Online,
    OnPolicy,
    Student,
    WordKD,
    setting_path,
)
from kdmt.config.teacher_entries import PivotTeacher
from kdmt.config.training import (
    Consolidation,
    DirectionSampling,
    GuidedAlignment,
    Model,
    SubwordRegularization,
    Teacher,
    Train,
)

__all__ = [
    "KINDS",
    "MONOLINGUAL_SIDES",
    "NAT",
    "NO_LOCK_FILE",
    "REQUIRED",
    "SCHEMES",
    "AlignmentScore",
    "AttentionKD",
    "Augment",
    "BackTranslation",
    "BackTranslationFailures",
    "Clean",
    "Consolidation",
    "Context",
    "Convex",
    "Corpus",
    "CrossEntropyDifference",
    "Decode",
    "Denoising",
    "Diagnostics",
    "DirectionSampling",
    "Distill",
    "DistillAugment",
    "Diverse",
    "DiverseTargets",
    "EndpointTeacher",
    "ExternalFilter",
    "Failures",
    "FairseqData",
    "ForeignTeacher",
    "GuidedAlignment",
    "HeldOut",
    "HiddenKD",
    "Knowledge",
    "Language",
    "LayerMap",
    "LocalGenerator",
    "LocalTranslator",
    "LockedPipeline",
    "Mbr",
    "Mixing",
    "Model",
    "Monolingual",
    "NATDecode",
    "OffTarget",
    "OnFailure",
    "OnPolicy",
    "Online",
    "ParallelText",
    "Pipeline",
    "PivotTeacher",
    "Pool",
    "Prepare",
    "Prompted",
    "Provenance",
    "Quality",
    "Rerank",
    "Reverse",
    "ReverseScore",
    "Rules",
    "Sample",
    "Score",
    "ScoreFiles",
    "ScoreLimit",
    "Scorer",
    "ScorerFilter",
    "ScorerScores",
    "Section",
    "Selective",
    "SelfSupervised",
    "Setting",
    "Shortlist",
    "Source",
    "Student",
    "SubwordRegularization",
    "Teacher",
    "Text",
    "TextNoise",
    "TextTeacher",
    "Tokenizer",
    "Train",
    "Vocabulary",
    "WordKD",
    "check_bounds",
    "checked",
    "describe_problems",
    "flatten_settings",
    "largest",
    "load_locked_pipeline",
    "load_pipeline",
    "load_unlocked_pipeline",
    "read_record",
    "resolved",
    "setting_path",
    "split_login",
]
