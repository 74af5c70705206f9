"""Summaries of the stages of a pipeline for the report page: curves, training sets, data, and how to make it again.

The records of other stages are read without trust: what a record does not have, or has in another form, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard, get_args

import numpy as np
import yaml

from kdmt.choices import BestMetric
from kdmt.corpus.alignment import spread
from kdmt.corpus.prepared import REPORT
from kdmt.distill.candidates import Candidates
from kdmt.files import read_optional_json
from kdmt.score.report_page.content import Curves, Histogram, Reproduction, TrainingSetSummary
from kdmt.score.report_page.curves import read_curves
from kdmt.score.report_page.facts import Facts
from kdmt.score.score_files import ScoreRow
from kdmt.stages.workspace import Workspace
from kdmt.training_sets import stage_folders

_LOG = "metrics.jsonl"
_MAX_HYPOTHESES = 20_000  # whose scores are in the histogram
_NUM_BINS = 30
# facts of a training set in the order of the table
_SIZES = {
    "num_sentences": "source sentences",
    "num_lines": "training pairs",
    "num_candidates": "candidates",
    "num_compared": "pairs compared with references",
}
_COMPARED = {"bleu_against_reference": "BLEU of the targets against the references"}
_DIAGNOSTICS = {
    "complexity_real": "complexity of the references",
    "complexity_distilled": "complexity of the targets",
    "faithfulness": "faithfulness of the targets (0 is that of the references)",
    "length_ratio": "length of the targets relative to the references",
    "identical_fraction": "share of targets that equal the reference",
}


# -------------------------------------------------------------------------------------------------------------- curves


def find_curves(workspace: Workspace) -> Curves:
    """Return the curves of the teacher and of all students."""
    runs = dict(_logs(workspace))
    scores = {name: read_curves(runs, "valid", name) for name in get_args(BestMetric) if name != "loss"}
    return Curves(
        validation=read_curves(runs, "valid", "nll"),
        training=read_curves(runs, "train", "nll"),
        scores={name: curves for name, curves in scores.items() if curves},
    )


def _logs(workspace: Workspace) -> Iterator[tuple[str, list[Path]]]:
    """Yield the name of each training with the logs of its seeds."""
    config = workspace.config
    for number in _stage_numbers(config.teacher.stages):
        name = "teacher" if number is None else f"teacher stage {number}"
        folder = workspace.teacher if number is None else workspace.teacher / f"stage_{number}"
        yield name, [folder / _LOG]
    for student, settings in config.students.items():
        for number in _stage_numbers(settings.stages):
            name = student if number is None else f"{student} stage {number}"
            yield name, [workspace.student(student, seed, number) / _LOG for seed in settings.seeds]


def _stage_numbers(stages: Sequence[object] | None) -> list[int | None]:
    return [None] if stages is None else list(range(1, len(stages) + 1))


# ------------------------------------------------------------------------------------------------------- training sets


def find_training_sets(workspace: Workspace) -> list[TrainingSetSummary]:
    """Return the training sets that the distill stage has made."""
    found = []
    for name, folder in stage_folders().items():
        facts = _facts(workspace.layout.folder(folder))
        if name != "raw" and facts:
            found.append(_training_set(name, workspace.layout.folder(folder), facts))
    return found


def _training_set(name: str, folder: Path, facts: Mapping[str, Any]) -> TrainingSetSummary:
    sizes = [(label, f"{facts[key]:,}") for key, label in _SIZES.items() if _is_count(facts.get(key))]
    sizes += [(label, f"{facts[key]:.2f}") for key, label in _COMPARED.items() if _is_number(facts.get(key))]
    measured = _mapping(facts.get("diagnostics"))
    sizes += [
        (label, f"{value:.3f}") for key, label in _DIAGNOSTICS.items() if (value := measured.get(key)) is not None
    ]
    failures, replaced, dropped = (_mapping(facts.get(key)) for key in ("failures", "replaced_by_reference", "dropped"))
    counts = {
        str(kind): (count, _count(replaced.get(kind)), _count(dropped.get(kind)))
        for kind, count in failures.items()
        if _is_count(count) and count
    }
    histograms = [*_teacher_scores(folder), *_quality(_mapping(facts.get("quality")))]
    return TrainingSetSummary(name, sizes, counts, histograms)


def _teacher_scores(folder: Path) -> Iterator[Histogram]:
    """Yield the histogram of the teacher's scores of its best hypotheses, of at most `_MAX_HYPOTHESES` sentences."""
    nbest, offsets = folder / "nbest", folder / "nbest.npy"
    if not (nbest.is_file() and offsets.is_file()):
        return
    offsets_U = np.load(offsets, mmap_mode="r")
    chosen = np.array(spread(len(offsets_U) - 1, _MAX_HYPOTHESES), dtype=np.int64)
    reader = Candidates(nbest)
    try:
        found = reader.read(offsets_U[chosen], offsets_U[chosen + 1], depth=1)
    finally:
        reader.close()
    scores = np.array([each[0][0].score for each in found if each])
    scores = scores[np.isfinite(scores)]
    if len(scores):
        counts, edges = np.histogram(scores, bins=_NUM_BINS)
        label = "score of the teacher's best hypothesis (log-probability, normalised by length)"
        yield Histogram(label, edges.tolist(), counts.tolist())


def _quality(facts: Mapping[str, Any]) -> Iterator[Histogram]:
    """Yield the histogram of the scores of the filter `distill.quality`."""
    histogram = _mapping(facts.get("histogram"))
    edges, counts = histogram.get("edges"), histogram.get("counts")
    if isinstance(edges, list) and isinstance(counts, list) and counts and len(edges) == len(counts) + 1:
        yield Histogram(f"quality by {facts.get('scorer')}, before the filter", edges, counts)


# ---------------------------------------------------------------------------------------------------------------- data


def find_data(workspace: Workspace) -> list[Facts]:
    """Return tables of the corpora, the rules that dropped pairs, and the sizes of all sets."""
    report = read_optional_json(workspace.prepare / REPORT) or {}
    return [
        facts
        for facts in (
            _corpora(workspace, report),
            _dropped(report),
            _held_out(report),
            _vocabulary(workspace),
        )
        if facts.lines
    ]


def _corpora(workspace: Workspace, report: Mapping[str, Any]) -> Facts:
    lines = []
    for number, corpus in enumerate(_items(report.get("corpora"))):
        dataset = workspace.provenance.datasets.get(f"prepare.train.{number}")
        counts = [_number(corpus.get(key)) for key in ("pairs_in", "pairs_kept", "pairs_out")]
        lines.append([str(corpus.get("name", "")), *counts, (dataset and dataset.licence) or ""])
    header = ["corpus", "pairs read", "pairs kept", "pairs for training", "licence"]
    return Facts("training corpora", header, lines, [False, True, True, True, False])


def _dropped(report: Mapping[str, Any]) -> Facts:
    counts = {str(rule): count for rule, count in _mapping(report.get("dropped")).items() if count}
    lines = [[rule, _number(count)] for rule, count in counts.items()]
    return Facts("pairs dropped by each rule", ["rule", "pairs"], lines, [False, True])


def _held_out(report: Mapping[str, Any]) -> Facts:
    lines = [
        [str(name), _number(_mapping(counts).get("lines"))] for name, counts in _mapping(report.get("held_out")).items()
    ]
    return Facts("validation and test sets", ["set", "sentences"], lines, [False, True])


def _vocabulary(workspace: Workspace) -> Facts:
    facts = _facts(workspace.prepare)
    counts = {lang: _mapping(facts.get(lang)) for lang in workspace.direction.sides}
    lines = [
        [lang, *(_number(own.get(key)) for key in ("symbols", "tokens", "unk"))] for lang, own in counts.items() if own
    ]
    header = ["language", "symbols of the vocabulary", "tokens of the training text", "<unk>"]
    return Facts("vocabulary", header, lines, [False, True, True, True])


# ------------------------------------------------------------------------------------------------------- how to repeat


def find_reproduction(workspace: Workspace, rows: Sequence[ScoreRow], versions: Mapping[str, str]) -> Reproduction:
    """Return the settings, commands, versions and checksums from which the run can be made again.

    Args:
        rows: scores, which have the checksums of checkpoints.
        versions: software versions of the score stage.
    """
    name = f"{workspace.config.name}.yaml"
    version = versions.get("kdmt", "")
    return Reproduction(
        file_name=name,
        commands=[f"pip install 'kdmt[report]=={version}'", f"kdmt run {name}"],
        pipeline=yaml.safe_dump(workspace.resolved_config(), sort_keys=False, allow_unicode=True, width=100),
        versions=_versions(workspace, versions),
        inputs=_inputs(workspace, rows),
    )


def _versions(workspace: Workspace, of_score: Mapping[str, str]) -> Facts:
    folders = {
        "prepare": workspace.prepare,
        **{name: logs[0].parent for name, logs in _logs(workspace)},
        **{name: workspace.layout.folder(folder) for name, folder in stage_folders().items() if name != "raw"},
    }
    found = {name: _mapping(_manifest(folder).get("versions")) for name, folder in folders.items()}
    found = {name: versions for name, versions in found.items() if versions} | {"score": dict(of_score)}
    libraries = list(dict.fromkeys(library for versions in found.values() for library in versions))
    lines = [[name, *(str(versions.get(library, "")) for library in libraries)] for name, versions in found.items()]
    return Facts("versions", ["stage", *libraries], lines, [False] * (len(libraries) + 1))


def _inputs(workspace: Workspace, rows: Sequence[ScoreRow]) -> Facts:
    lines = [
        [name, str(sha256)] for name, sha256 in sorted(_mapping(_manifest(workspace.prepare).get("inputs")).items())
    ]
    checkpoints = {f"checkpoint of {row.system}, seed {row.seed}": row.checkpoint_sha256 for row in rows}
    lines += [[name, sha256] for name, sha256 in checkpoints.items()]
    return Facts("", ["file", "SHA-256"], lines, [False, False])


# --------------------------------------------------------------------------------------------------------------- parts


def _manifest(folder: Path) -> Mapping[str, Any]:
    return read_optional_json(folder / "manifest.json") or {}


def _facts(folder: Path) -> Mapping[str, Any]:
    return _mapping(_manifest(folder).get("facts"))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float)


def _count(value: object) -> int:
    return value if _is_count(value) else 0


def _number(value: object) -> str:
    return f"{value:,}" if _is_count(value) else ""
