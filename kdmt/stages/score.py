"""The score stage: its plan and its output on the terminal. `kdmt.stages.score_work` does the work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kdmt.checksum import known_sha256
from kdmt.config import Pipeline
from kdmt.errors import UserError, naming
from kdmt.flow.manifest import Plan, make_plan, recorded_outputs
from kdmt.flow.stage import Stage
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint, resolve_name
from kdmt.score.averages import AVERAGES, averages_text, read_averages
from kdmt.score.contrastive import CONTRASTIVE, read_pairs, read_rows, rows_text
from kdmt.score.diagnostics_report import diagnostics_text
from kdmt.score.metrics import DEFAULT_METRICS
from kdmt.score.off_target import check_languages
from kdmt.score.report import render_table
from kdmt.score.report_notes import report_notes
from kdmt.score.score_files import Missing, ReportFiles, read_comparisons, read_scores
from kdmt.score.scorers.segment_scores import model_inputs
from kdmt.score.system_diagnostics import read_diagnostics
from kdmt.score.systems import System
from kdmt.stages.exported_engines import check_engines
from kdmt.stages.measures import bleu_tokenizers
from kdmt.stages.workspace import Workspace
from kdmt.streams import shows_unicode
from kdmt.terminal import printable


def check_score(config: Pipeline) -> None:
    """Check that files and programs of the score stage exist, before anything is trained.

    Raises:
        UserError: if one does not exist; the message has the YAML path.
    """
    score = config.score
    model = None if score.off_target is None else score.off_target.model
    files = (("nat.ctc_lm", score.nat.ctc_lm), ("spbleu_model", score.spbleu_model), ("off_target.model", model))
    for setting, path in files:
        if path is not None and not Path(path).is_file():
            raise UserError(f"score.{setting}: {path}: no such file")
    for name, path in score.contrastive.items():
        with naming(f"score.contrastive.{name}"):
            read_pairs(Path(path))
    if score.off_target is not None:
        codes = [code for each in config.all_directions for code in each.sides]
        check_languages(score.off_target, codes)
    check_engines(config)


def score_stage(
    workspace: Workspace, *, prepare: Stage, teacher: Stage, students: Mapping[str, Mapping[int, Stage]]
) -> Stage:
    """Return the stage that scores the teacher and the students; systems that were not trained count as missing."""
    trained = {
        (name, seed): stage
        for name, seeds in students.items()
        for seed, stage in seeds.items()
        if stage.folder.exists()
    }
    systems = [
        System("teacher", workspace.config.teacher.seed, teacher.folder),
        *(System(name, seed, stage.folder) for (name, seed), stage in trained.items()),
    ]
    missing = [Missing(name, seed) for name, seeds in students.items() for seed in seeds if (name, seed) not in trained]

    def plan() -> Plan:
        return _plan(workspace, systems, missing)

    def make(plan: Plan) -> None:
        from kdmt.stages.score_work import score_systems  # loads torch

        baseline, reports = _baseline(workspace.config, systems), ReportFiles.below(workspace.root)
        score_systems(workspace, systems, missing, baseline=baseline, reports=reports, plan=plan)
        _show(workspace)  # last, so that a closed standard output does not stop the work

    upstream = (prepare, teacher, *trained.values())
    return Stage("score", "kdmt score", workspace.score, upstream, plan, make=make, show=lambda: _show(workspace))


def _plan(workspace: Workspace, systems: Sequence[System], missing: Sequence[Missing]) -> Plan:
    settings, outputs = workspace.config.score, recorded_outputs(workspace.prepare)
    splits = list(workspace.config.tests_by_split)
    text = [f"{place}{split}." for split in splits for place in ("", "data-bin/")]
    wanted = ("tokenizer/", "text.json", "dict.", *text)
    inputs = {f"prepare/{name}": sha for name, sha in outputs.items() if name.startswith(wanted)}
    names = [resolve_name(system.run, settings.checkpoint) for system in systems]
    for system, name in zip(systems, names, strict=True):
        checkpoint = resolve_checkpoint(system.run / name)
        inputs[f"{system.name}/seed_{system.seed}"] = checkpoint_sha256(checkpoint)
    if settings.nat.ctc_lm is not None:
        inputs["score.nat.ctc_lm"] = known_sha256(Path(settings.nat.ctc_lm))
    if settings.off_target is not None and settings.off_target.model is not None:
        inputs["score.off_target.model"] = known_sha256(Path(settings.off_target.model))
    for test, path in settings.contrastive.items():
        inputs[f"score.contrastive.{test}"] = known_sha256(Path(path))
    if settings.spbleu_model is not None:
        inputs["score.spbleu_model"] = known_sha256(Path(settings.spbleu_model))
    extra: dict[str, object] = {"baseline": _baseline(workspace.config, systems)}
    extra["never trained"] = [f"{each.system} seed {each.seed}" for each in missing]
    scorers = workspace.config.scorers_of_score
    sections = {f"scorers.{name}": scorer for name, scorer in scorers.items()}
    inputs |= model_inputs(scorers)
    made = make_plan({"score": settings, **sections}, extra, inputs)
    result = dict(made.settings)
    result["metrics"] = result.pop("score.metrics")  # its name in records of versions that had no such setting
    # resolved, so that a record of 13a is up to date if `auto` resolves to 13a
    resolved = {"score.tokenize": bleu_tokenizers(workspace), "score.lowercase": workspace.config.scores_lowercased}
    if len(set(names)) == 1:  # so that scores of older runs, for which `auto` is `average`, are up to date
        resolved["score.checkpoint"] = names[0]
    # records of earlier versions do not have these: there they were as follows
    defaults = {**made.defaults, "never trained": [], "metrics": list(DEFAULT_METRICS), "score.checkpoint": "average"}
    return replace(made, settings=result | resolved, defaults=defaults)


def _baseline(config: Pipeline, systems: Sequence[System]) -> str:
    """Return the baseline of the significance tests: as set, else the first student on raw data, else the teacher."""
    names = list(dict.fromkeys(system.name for system in systems))
    if config.score.baseline is not None:
        if config.score.baseline not in names:
            raise UserError(f"score.baseline: {config.score.baseline!r} is none of the trained {', '.join(names)}")
        return config.score.baseline
    raw = [
        name
        for name in names
        if name in config.students and all(stage.data_names == ("raw",) for _, stage in config.trainings_of(name))
    ]
    return raw[0] if raw else "teacher"


def _show(workspace: Workspace) -> None:
    """Print the table and the paths of the reports."""
    reports = ReportFiles.below(workspace.root)
    rows, missing = read_scores(reports.scores)
    comparisons = read_comparisons(reports.significance)
    width = shutil.get_terminal_size(fallback=(110, 24)).columns
    config = workspace.config
    extra = report_notes(config.distill, config.scorers, config.trainings())
    table = render_table(rows, comparisons, missing=missing, extra=extra, width=width, ascii_only=not shows_unicode())
    workspace.show(printable(table, keep="\n"))
    if config.is_multilingual:
        averages = read_averages(workspace.score / AVERAGES)
        text = averages_text(averages, width=width, ascii_only=not shows_unicode())
        workspace.show(printable(text, keep="\n"))
    if config.score.contrastive:
        workspace.show(printable(rows_text(read_rows(workspace.score / CONTRASTIVE)), keep="\n"))
    paths = {"scores": reports.scores, "report": reports.page, "translations": f"{workspace.score}/"}
    if has_diagnostics(workspace):
        paths["diagnostics"] = reports.diagnostics
    workspace.show(printable("   ".join(f"{name}: {path}" for name, path in paths.items())))


def has_diagnostics(workspace: Workspace) -> bool:
    """Return whether the score stage is complete and has written diagnostics."""
    path = ReportFiles.below(workspace.root).diagnostics
    return os.path.relpath(path, workspace.score) in recorded_outputs(workspace.score)


def show_diagnostics(workspace: Workspace) -> None:
    """Print the diagnostics of the score stage.

    Raises:
        UserError: if there are none, or the file is damaged.
    """
    path = ReportFiles.below(workspace.root).diagnostics
    if not has_diagnostics(workspace):
        raise UserError(f"{path}: not written yet: run 'kdmt score' with score.diagnostics, which is not null")
    width = shutil.get_terminal_size(fallback=(110, 24)).columns
    text = diagnostics_text(read_diagnostics(path), width=width, ascii_only=not shows_unicode())
    workspace.show(printable(text, keep="\n"))
