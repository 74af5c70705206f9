"""Which teacher translates for `kdmt distill`, by which engine, and on which workers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdmt.checksum import known_sha256
from kdmt.config import Distill, Sample
from kdmt.corpus.binarize import data_prefix
from kdmt.corpus.codec import check_vocabulary
from kdmt.errors import UserError
from kdmt.stages.manifest import Plan
from kdmt.stages.workspace import Workspace

if TYPE_CHECKING:
    from kdmt.distill.decoding import Teacher

ENGINE_FOLDER = "engine"  # below the stage's folder: the model as CTranslate2 reads it
_OF_PARALLEL_MODELS = ("nat.", "iterations")


@dataclass(frozen=True)
class ChosenTeacher:
    """Checkpoints of one shape of vocabulary, and the engine that they run in."""

    checkpoints: tuple[Path, ...]
    names: tuple[str, ...]  # for messages and plans
    engine: str  # ctranslate2 or torch
    models: tuple[dict[str, Any], ...]  # their descriptions

    @property
    def is_parallel(self) -> bool:
        """Whether it writes all positions at once."""
        return self.models[0]["family"] == "nonautoregressive"

    def limit(self, side: str) -> int:
        """The longest sentence that all of them have positions for."""
        return min(model["config"][f"max_{side}_positions"] for model in self.models)


def choose_teacher(workspace: Workspace) -> ChosenTeacher:
    """The pipeline's teacher, or those that `distill.teachers` names.

    Raises:
        UserError: there is none, its vocabulary is not that of the data, or the engine does not have it.
    """
    from kdmt.models.checkpoint_folder import resolve_checkpoint

    settings = workspace.config.distill
    names = tuple(settings.teachers) or (f"teacher/{settings.checkpoint}",)
    wanted = [Path(name) for name in settings.teachers] or [workspace.teacher / settings.checkpoint]
    checkpoints = tuple(resolve_checkpoint(path) for path in wanted)
    for checkpoint in checkpoints:
        check_vocabulary(checkpoint, workspace.prepare, langs=workspace.langs)
    models = tuple(json.loads((folder / "model.json").read_text(encoding="utf-8")) for folder in checkpoints)
    return ChosenTeacher(checkpoints, names, _engine(settings, names, models), models)


def check_teacher(workspace: Workspace, sample: Sample | None) -> None:
    """Refuse a teacher that does not do what is asked of it.

    Raises:
        UserError: as `choose_teacher`, or it is to draw samples and cannot.
    """
    chosen = choose_teacher(workspace)
    if chosen.is_parallel and sample is not None:
        raise UserError(f"{chosen.names[0]} writes all positions at once and draws no samples")


def _engine(settings: Distill, names: tuple[str, ...], models: tuple[dict[str, Any], ...]) -> str:
    parallel = [name for name, model in zip(names, models, strict=True) if model["family"] == "nonautoregressive"]
    if parallel and len(names) > 1:
        raise UserError(f"distill.teachers: {parallel[0]} writes all positions at once and translates alone")
    multilingual = [name for name, model in zip(names, models, strict=True) if _is_multilingual(model)]
    has_it = len(names) == 1 and not parallel and not multilingual
    if settings.engine == "ctranslate2" and not has_it:
        why = "is multilingual" if multilingual else "writes all positions at once"
        raise UserError(f"distill.engine: CTranslate2 has no decoder for {names[0]}, which {why}")
    engine = "ctranslate2" if has_it and settings.engine != "torch" else "torch"
    if engine == "torch" and settings.shortlist is not None:
        raise UserError("distill.shortlist: it is CTranslate2's, which does not have this teacher")
    if engine == "torch" and settings.compute_type != "float32":
        raise UserError("distill.compute_type: it is CTranslate2's, which does not have this teacher")
    return engine


def _is_multilingual(model: dict[str, Any]) -> bool:
    return any(model["config"].get(f"{side}_token") is not None for side in ("source", "target"))


def teacher_inputs(workspace: Workspace) -> dict[str, str]:
    """The weights of the teacher or teachers, for a plan."""
    from kdmt.models.checkpoint_folder import checkpoint_sha256

    chosen = choose_teacher(workspace)
    return {name: checkpoint_sha256(path) for name, path in zip(chosen.names, chosen.checkpoints, strict=True)}


def blocks_made_from(workspace: Workspace, plan: Plan, chosen: ChosenTeacher) -> dict[str, Any]:
    """What a block's content depends on besides its sources: what becomes of failures, say, is not part of it."""
    ours = ["distill.decode.", "distill.sample."]
    if chosen.engine == "ctranslate2":
        ours += ["distill.compute_type", "distill.shortlist"]
    if chosen.is_parallel:
        ours += [f"distill.{name}" for name in _OF_PARALLEL_MODELS]
    made_from: dict[str, Any] = {key: value for key, value in plan.settings.items() if key.startswith(tuple(ours))}
    made_from["teacher"] = " ".join(plan.inputs[name] for name in chosen.names)
    made_from["engine"] = chosen.engine
    for lang in dict.fromkeys(workspace.langs):
        made_from[f"dictionary of {lang}"] = known_sha256(workspace.prepare / f"dict.{lang}.txt")
    if workspace.config.distill.shortlist is not None:
        made_from |= {key: sha for key, sha in plan.inputs.items() if "/data-bin/train." in key}  # it is learnt there
    return made_from


def open_teacher(workspace: Workspace, folder: Path, chosen: ChosenTeacher, sample: Sample | None) -> Teacher:
    """The teacher as workers need it; for CTranslate2 its model is written below the stage's folder."""
    from kdmt.distill.teachers import CTranslate2Teacher, TorchTeacher

    settings = workspace.config.distill
    common: dict[str, Any] = {
        "settings": settings.decode,
        "max_source_tokens": chosen.limit("source"),
        "max_target_tokens": chosen.limit("target"),
        "vocab_size": chosen.models[0]["tgt_vocab_size"],
        "sample": sample,
    }
    if chosen.engine == "torch":
        return TorchTeacher(chosen.checkpoints, search=settings.nat, iterations=settings.iterations, **common)
    return CTranslate2Teacher(
        _exported(workspace, folder, chosen.checkpoints[0]),
        compute_type=settings.compute_type,
        shortlist=settings.shortlist is not None,
        **common,
    )


def _exported(workspace: Workspace, folder: Path, checkpoint: Path) -> Path:
    """The model in CTranslate2's form, written once: the folder belongs to one teacher."""
    from kdmt.decode.ctranslate2 import SHORTLIST_FILE

    exported = folder / ENGINE_FOLDER
    if not exported.exists():
        from kdmt.interop.ctranslate2 import export_checkpoint  # loads torch

        export_checkpoint(checkpoint, exported)
    if workspace.config.distill.shortlist is not None and not (exported / SHORTLIST_FILE).exists():
        _write_shortlist(workspace, exported)
    return exported


def _write_shortlist(workspace: Workspace, exported: Path) -> None:
    """Learnt from the training set as it is: the teacher's own words are not known yet."""
    from kdmt.corpus.indexed import IndexedDataset
    from kdmt.distill.shortlist import build_shortlist
    from kdmt.interop.ctranslate2 import add_shortlist

    settings = workspace.config.distill.shortlist
    assert settings is not None
    sources, targets = (
        IndexedDataset(data_prefix(workspace.data_bin, "train", workspace.langs, lang)) for lang in workspace.langs
    )
    made = build_shortlist(
        sources,  # type: ignore[arg-type]  # a sequence in all that is asked of it
        targets,  # type: ignore[arg-type]
        per_token=settings.per_token,
        frequent=settings.frequent,
        max_pairs=settings.pairs,
    )
    add_shortlist(exported, made.frequent.tolist(), {token: ids.tolist() for token, ids in made.of_token.items()})
