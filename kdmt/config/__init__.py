"""The pipeline's configuration: one frozen, strictly validated model per stage.

A pipeline is one YAML file. `load_pipeline` reads it, applies `--set a.b=c` overrides and validates it: an unknown
key, a wrong type or two settings that contradict each other raise `UserError` with the YAML path.

Every setting has one of three kinds, which `flatten_settings` reads:

* result (the default): a change runs the stage again;
* extend: after a change, the stage continues from its output (`max_updates`, more seeds);
* execution: a change does not affect the output (workers, logging, device).
"""

from __future__ import annotations

from kdmt.config.bounds import check_bounds, largest
from kdmt.config.corpora import Corpus, HeldOut, ParallelText, Quality, Source, split_login
from kdmt.config.distill import Distill, Failures, ForeignTeacher, OnFailure, Reverse, Shortlist
from kdmt.config.flattening import REQUIRED, Setting, flatten_settings, resolved
from kdmt.config.knowledge import Knowledge
from kdmt.config.messages import describe_problems
from kdmt.config.nat import NAT
from kdmt.config.pipeline import Pipeline, load_pipeline
from kdmt.config.prepare import Clean, FairseqData, Prepare, Text, Tokenizer, Vocabulary
from kdmt.config.records import checked, read_record
from kdmt.config.score import Score
from kdmt.config.search import Decode, NATDecode, Sample
from kdmt.config.section import KINDS, Section
from kdmt.config.student import (
    AttentionKD,
    Convex,
    HiddenKD,
    LayerMap,
    Online,
    OnPolicy,
    SelfSupervised,
    Student,
    WordKD,
    setting_path,
)
from kdmt.config.training import Model, SubwordRegularization, Teacher, Train

__all__ = [
    "KINDS",
    "NAT",
    "REQUIRED",
    "AttentionKD",
    "Clean",
    "Convex",
    "Corpus",
    "Decode",
    "Distill",
    "Failures",
    "FairseqData",
    "ForeignTeacher",
    "HeldOut",
    "HiddenKD",
    "Knowledge",
    "LayerMap",
    "Model",
    "NATDecode",
    "OnFailure",
    "OnPolicy",
    "Online",
    "ParallelText",
    "Pipeline",
    "Prepare",
    "Quality",
    "Reverse",
    "Sample",
    "Score",
    "Section",
    "SelfSupervised",
    "Setting",
    "Shortlist",
    "Source",
    "Student",
    "SubwordRegularization",
    "Teacher",
    "Text",
    "Tokenizer",
    "Train",
    "Vocabulary",
    "WordKD",
    "check_bounds",
    "checked",
    "describe_problems",
    "flatten_settings",
    "largest",
    "load_pipeline",
    "read_record",
    "resolved",
    "setting_path",
    "split_login",
]
