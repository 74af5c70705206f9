"""The stage of back-translation: text in the target language, with sources by a model of the opposite direction.

back_translated/
    blocks/             translations of each block of lines, with their checksum; they are kept when the stage resumes
    distilled.<lang>    words; sources and targets of the training set
    distilled.tags      the tag of each pair, if there is one
    data-bin/           the training set, binarised with the vocabulary of the prepared corpus

`kdmt.stages.back_translation_work` does the work.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from kdmt.checksum import known_sha256
from kdmt.flow.manifest import Plan, file_input, make_plan, recorded_outputs
from kdmt.flow.stage import Stage
from kdmt.interop.ctranslate2_folder import MODEL_FILE, is_model_folder
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint
from kdmt.stages.workspace import Workspace

BACK_TRANSLATED = "back_translated"  # of the training set
_PREPARED = ("tokenizer/", "text.json", "dict.")


def back_translation_stage(workspace: Workspace, prepare: Stage) -> Stage:
    """Return the stage that back-translates; the pipeline has its settings."""
    return Stage(
        name=BACK_TRANSLATED,
        command="kdmt prepare",
        folder=workspace.training_set(BACK_TRANSLATED),
        upstream=(prepare,),
        plan=partial(_plan, workspace),
        make=partial(_make, workspace),
    )


def _plan(workspace: Workspace) -> Plan:
    settings = workspace.config.back_translation
    assert settings is not None
    prepared = recorded_outputs(workspace.prepare)
    inputs = {f"prepare/{name}": sha for name, sha in prepared.items() if name.startswith(_PREPARED)}
    inputs |= {path: file_input(Path(path)) for path in settings.text}
    inputs[f"teacher {settings.checkpoint}"] = _model_sha256(Path(settings.checkpoint))
    return make_plan({"back_translation": settings}, {}, inputs)


def _model_sha256(path: Path) -> str:
    if is_model_folder(path):
        return known_sha256(path / MODEL_FILE)
    return checkpoint_sha256(resolve_checkpoint(path))


def _make(workspace: Workspace, plan: Plan) -> None:
    from kdmt.stages.back_translation_work import make_back_translation  # loads PyTorch

    make_back_translation(workspace, plan)
