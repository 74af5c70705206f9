"""The stage of back-translation: text in the target language, with sources by a model of the opposite direction.

back_translated/
    blocks/                         one checksummed file for each block
    engine/, logs/                  the model in CTranslate2's format; a log for each worker
    block-size.json                 number of lines of a block
    text.<target>                   the lines of 'back_translation.text', if it is set, as the tokenizer reads them
    nbest, nbest.npy                the translations as text (`kdmt.distill.candidates`)
    sentences.npy                   index of the distinct sentence on each line: int64
    distilled.<lang>                words; sources and targets of the training set
    distilled.tags                  the tag of each pair, if there is one
    rejected                        index of a line, failure, action taken
    data-bin/                       the training set, binarised with the vocabulary of the prepared corpus

This module plans; `kdmt.stages.back_translation_work` does the work.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kdmt.config import BackTranslation
from kdmt.distill.chosen_teacher import ChosenTeacher
from kdmt.distill.reverse_teachers import ReverseCheckpoint, choose_reverse_teacher
from kdmt.distill.target_text import ReversedCorpus, TargetText
from kdmt.flow.manifest import Plan, check_status, file_input, make_plan, recorded_outputs, recorded_plan
from kdmt.flow.shards import Shards
from kdmt.flow.stage import Stage
from kdmt.stages.distill import TextStage
from kdmt.stages.measures import prepared_corpus, with_ratio
from kdmt.stages.workspace import Workspace

if TYPE_CHECKING:
    from kdmt.stages.back_translation_work import BackTranslating

BACK_TRANSLATED = "back_translated"  # of the training set
_SECTION = "back_translation"
_PREPARED = ("tokenizer/", "text.json", "dict.")
_OF_SEARCH = tuple(f"{_SECTION}.decode.{name}" for name in ("beam", "nbest", "lenpen"))  # without effect on samples
_BLOCK_LINES = f"{_SECTION}.block_lines"
# setting -> (value, value with the same effect that a plan has)
_SAME = {f"{_SECTION}.compute_type": ("auto", "float32"), f"{_SECTION}.engine": ("ctranslate2", "auto")}


def back_translation_stage(workspace: Workspace, prepare: Stage) -> TextStage:
    """Return the stage that back-translates; the pipeline has its settings."""
    folder = workspace.training_set(BACK_TRANSLATED)
    stage = Stage(
        name=BACK_TRANSLATED,
        command="kdmt back-translate",
        folder=folder,
        upstream=(prepare,),
        plan=partial(_plan, workspace),
        make=lambda plan: _work(workspace).make(plan),
    )
    shards = Shards(
        begin=lambda plan: _work(workspace).begin(plan),
        make=lambda plan, shard, num_shards: _work(workspace).make_shard(plan, shard, num_shards),
    )
    return TextStage(stage, lambda blocks, seed: _work(workspace).verify(_plan(workspace), blocks, seed), shards)


def _settings(workspace: Workspace) -> BackTranslation:
    settings = workspace.config.back_translation
    assert settings is not None
    return settings


def _target_text(workspace: Workspace) -> TargetText:
    corpus = ReversedCorpus.of(prepared_corpus(workspace))
    folder = workspace.training_set(BACK_TRANSLATED)
    file = folder / f"text.{workspace.direction.target}" if _settings(workspace).text else None
    return TargetText(corpus, file=file)


def _teacher(workspace: Workspace) -> ChosenTeacher:
    return choose_reverse_teacher(_settings(workspace).as_distill(), _target_text(workspace))


def _work(workspace: Workspace) -> BackTranslating:
    from kdmt.stages import back_translation_work  # loads decoding, its workers and sacreBLEU

    settings = _settings(workspace)
    return back_translation_work.back_translating(
        settings,
        folder=workspace.training_set(BACK_TRANSLATED),
        prepared=prepared_corpus(workspace),
        text=_target_text(workspace),
        teacher=_teacher(workspace),
        config=workspace.resolved_config(),
        processing=workspace.config.prepare.text,
        say=workspace.say,
    )


def _plan(workspace: Workspace) -> Plan:
    settings, teacher = _settings(workspace), _teacher(workspace)
    prepared = recorded_outputs(workspace.prepare)
    wanted = _PREPARED if settings.text else (*_PREPARED, f"monolingual.{workspace.direction.target}")
    inputs = {f"prepare/{name}": sha for name, sha in prepared.items() if name.startswith(wanted)}
    inputs |= {path: file_input(Path(path)) for path in settings.text}
    inputs |= teacher.inputs()
    plan = _normalized(make_plan({_SECTION: settings}, {}, inputs))
    plan = _without(plan, _without_effect(settings, teacher), workspace.training_set(BACK_TRANSLATED))
    return with_ratio(plan, settings.as_distill(), _target_text(workspace).corpus)


def _normalized(plan: Plan) -> Plan:
    """Return a plan in which values with the same effect are equal.

    The number type is that of CPUs if it is chosen automatically, since a plan does not depend on the machine.
    """
    settings, defaults = ({**each} for each in (plan.settings, plan.defaults))
    for values in (settings, defaults):
        for key, (value, same) in _SAME.items():
            if values[key] == value:
                values[key] = same
    return replace(plan, settings=settings, defaults=defaults)


def _without_effect(settings: BackTranslation, teacher: ChosenTeacher) -> set[str]:
    """Return the settings in a plan that have no effect on the translations."""
    found = set() if settings.sample is None else {*_OF_SEARCH}
    in_torch = isinstance(teacher, ReverseCheckpoint) and teacher.engine == "torch"
    if settings.sample is None or in_torch:  # CTranslate2 draws the samples of a block together
        found.add(_BLOCK_LINES)
    return found


def _without(plan: Plan, names: Collection[str], folder: Path) -> Plan:
    """Return a plan without some settings.

    Records of earlier versions have them. If such a record matches otherwise, the plan has its values, so that a folder
    remains up to date.
    """
    settings, defaults = (
        {key: value for key, value in values.items() if key not in names} for values in (plan.settings, plan.defaults)
    )
    own, recorded = replace(plan, settings=settings, defaults=defaults), recorded_plan(folder)
    if recorded is None:
        return own
    kept = {key: recorded.settings[key] for key in names if key in recorded.settings}
    as_recorded = replace(own, settings=settings | kept)
    return own if check_status(folder, as_recorded).state == "stale" else as_recorded
