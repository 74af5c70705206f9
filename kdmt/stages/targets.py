"""What the stages that make training sets share: choosing targets, filtering, binarising, telling how it went."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import compress, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from kdmt.config import Distill, Section
from kdmt.corpus.binarize import data_prefix
from kdmt.corpus.dropped import warning_lines
from kdmt.corpus.lines import iterate_lines
from kdmt.corpus.pool import process_beside
from kdmt.corpus.sentence_lengths import split_words
from kdmt.distill.failures import FAILURES
from kdmt.distill.reverse import SCORES, drop_improbable
from kdmt.errors import UserError
from kdmt.files import PARTIAL, naming
from kdmt.runtime import cores
from kdmt.stages.measures import spaced_sides, typical_ratio
from kdmt.stages.training import WEIGHTS
from kdmt.stages.workspace import Workspace
from kdmt.workers.open import helpers

if TYPE_CHECKING:
    from kdmt.distill.merge import MergeReport, TrainingText
    from kdmt.distill.selection import Selector
    from kdmt.score.diagnostics import LinkCounts
    from kdmt.score.metrics import MetricScore

_WORTH_A_PROCESS = 5000  # lines to compare: half a second
NBEST, OFFSETS, SENTENCES, REJECTED = "nbest", "nbest.npy", "sentences.npy", "rejected"
CANDIDATES = (NBEST, OFFSETS, SENTENCES)


@dataclass(frozen=True)
class TrainingSet:
    """What a training set is made of.

    Attributes:
        candidates: the folder with `nbest`, its offsets and the sentence of each line.
        select: chooses among them.
        scores: a file with a score for each line of `nbest`, where `select` goes by it.
    """

    candidates: Path
    select: Selector
    scores: Path | None = None


def choice_settings(settings: Distill) -> dict[str, Section]:
    """The sections that the choice among candidates depends on, for a plan."""
    sections: dict[str, Section] = {"distill.failures": settings.failures}
    if settings.reverse is not None:
        sections["distill.reverse"] = settings.reverse
    return sections


def source_prefixes(workspace: Workspace) -> list[Path]:
    """The data-bins of the sources that are distilled."""
    splits = ["train", *(["monolingual"] if workspace.config.distill.monolingual else [])]
    return [data_prefix(workspace.data_bin, split, workspace.direction, workspace.direction.source) for split in splits]


def training_texts(workspace: Workspace) -> list[TrainingText]:
    """The text of these sources."""
    from kdmt.distill.merge import TrainingText

    (src, tgt), folder = workspace.direction.sides, workspace.prepare
    tags = folder / "train.tags"
    texts = [TrainingText(folder / f"train.{src}", folder / f"train.{tgt}", tags if tags.exists() else None)]
    if workspace.config.distill.monolingual:
        texts.append(TrainingText(folder / f"monolingual.{src}"))
    return texts


def text_names(workspace: Workspace) -> tuple[str, ...]:
    """The files that a training set's text consists of; there are tags where the training text has them."""
    src, tgt = workspace.direction.sides
    return f"distilled.{src}", f"distilled.{tgt}", "distilled.tags", REJECTED


def write_training_set(workspace: Workspace, folder: Path, made_of: TrainingSet) -> dict[str, Any]:
    """Text, data-bin and, where targets are weighted, weights of a training set; the facts of its manifest."""
    from kdmt.stages.prepare import binarize_distilled

    sweep(folder)
    with _another_process(0 if made_of.select.weighs else source_lines(workspace)) as beside:
        report = _write_text(workspace, folder, made_of)
        facts = _counts(report)
        compared = None if made_of.select.weighs else _Comparison.begin(workspace, report, folder, beside)
        binarize_distilled(workspace, folder)
        if made_of.select.weighs:
            with naming(folder / WEIGHTS):
                np.save(folder / WEIGHTS, np.frombuffer(report.weights, dtype="<f4"))
        if compared is not None:
            facts |= compared.facts()
    workspace.say(f"{folder.name}: {_summary(facts)}")
    for line in _warning(report):
        workspace.say(f"{folder.name}: {line}")
    return facts


def _write_text(workspace: Workspace, folder: Path, made_of: TrainingSet) -> MergeReport:
    with TemporaryDirectory(dir=folder, prefix=PARTIAL) as scratch:
        report = merge_text(workspace, folder, made_of, Path(scratch))
        for name in (*text_names(workspace), SCORES):
            if (Path(scratch) / name).exists():
                (Path(scratch) / name).replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)  # of an earlier run
    _require_words(workspace, report, folder.name)
    return report


def _another_process(lines: int) -> AbstractContextManager[Executor | None]:
    """For what can be done beside this one; None where so few lines are done sooner than it has started."""
    return nullcontext() if lines < _WORTH_A_PROCESS or cores() == 1 else process_beside("kdmt.score.diagnostics")


def sweep(*folders: Path) -> None:
    """Take away what runs left that were killed. For who is alone at work there."""
    for folder in folders:
        for path in folder.glob(f"{PARTIAL}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def merge_text(workspace: Workspace, folder: Path, made_of: TrainingSet, out: Path) -> MergeReport:
    """Write the text of a training set.

    Args:
        folder: of its stage, which keeps what the reverse model has said.
        out: takes the files.
    """
    from kdmt.distill.candidates import read_scores
    from kdmt.distill.merge import Outputs, merge_candidates

    candidates, files = made_of.candidates, Outputs(*(out / name for name in text_names(workspace)))
    offsets = candidates / OFFSETS
    given = None if made_of.scores is None else read_scores(made_of.scores, candidates / NBEST, offsets, out)
    numbers_L = np.load(candidates / SENTENCES, mmap_mode="r")
    report = merge_candidates(
        training_texts(workspace),
        numbers_L,
        nbest=candidates / NBEST,
        offsets=offsets,
        settings=workspace.config.distill.failures,
        select=made_of.select,
        typical_ratio=typical_ratio(workspace),
        given=given,
        out=files,
        workers=helpers(len(numbers_L), compared=made_of.select.depth > 1),
    )
    drop_improbable(workspace.config.distill, folder, files, report)
    return report


def outputs(folder: Path) -> list[Path]:
    """What a manifest lists of a training set."""
    names = (*CANDIDATES, REJECTED, WEIGHTS, SCORES)
    return [
        *folder.glob("distilled.*"),
        *(folder / name for name in names if (folder / name).exists()),
        *(folder / "data-bin").iterdir(),
    ]


def _require_words(workspace: Workspace, report: MergeReport, name: str) -> None:
    kept_empty = report.failures["empty"] if workspace.config.distill.failures.empty == "keep" else 0
    if report.num_lines <= kept_empty:  # less where the reverse model dropped some of them
        failures = ", ".join(f"{name} {count:,}" for name, count in report.failures.items())
        raise UserError(
            f"{name}: none of {report.num_sentences:,} sentences has a translation to train on; failures: {failures}"
        )


def _warning(report: MergeReport) -> Iterator[str]:
    """Yield the lines of the warning that much is no translation of the teacher's, by the rules that found it so.

    What the reverse model drops does not count: its share is a setting.
    """
    lost: dict[str, int] = {failure: report.replaced[failure] + report.dropped[failure] for failure in FAILURES}
    what = "sentences replaced by references or dropped"
    return warning_lines("translations", what, report.num_sentences, lost, report.examples)


def _counts(report: MergeReport) -> dict[str, Any]:
    return {
        "num_sentences": report.num_sentences,
        "num_lines": report.num_lines,
        "failures": dict(report.failures),
        "replaced_by_reference": dict(report.replaced),
        "dropped": dict(report.dropped),
    }


@dataclass(frozen=True)
class _Comparison:
    """How near the distilled text is to the references, and how much simpler it is than they are.

    A teacher that memorised its training set gives near-copies of the references: then distillation has little to give.
    """

    sources: list[str]
    references: list[str]
    distilled: list[str]
    links: Callable[[], LinkCounts]  # of the references
    bleu: Callable[[], MetricScore]

    @classmethod
    def begin(
        cls, workspace: Workspace, report: MergeReport, folder: Path, beside: Executor | None
    ) -> _Comparison | None:
        """Have another process do the half of it; None where there is nothing to be compared.

        Args:
            beside: the other process; without it, all is done when it is asked for.
        """
        from kdmt.score.diagnostics import count_links
        from kdmt.stages.references import score_words

        sources, references, distilled = _sample_lines(workspace, report, folder)
        if not any(line.strip() for line in distilled):
            return None

        def later(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
            return partial(function, *arguments) if beside is None else beside.submit(function, *arguments).result

        bleu = later(score_words, workspace, "bleu", distilled, references)
        of_source, of_target = spaced_sides(workspace)
        sources = _with_spaces(sources, spaced=of_source)
        references, distilled = (_with_spaces(lines, spaced=of_target) for lines in (references, distilled))
        links = later(count_links, sources, references)
        return cls(sources, references, distilled, links, bleu)

    def facts(self) -> dict[str, Any]:
        from kdmt.score.diagnostics import diagnose

        found = diagnose(self.sources, self.references, self.distilled, count_real=self.links)
        against_reference = self.bleu()
        return {
            "num_compared": len(self.distilled),
            "bleu_against_reference": against_reference.value,
            "bleu_signature": against_reference.signature,
            "diagnostics": asdict(found),
        }


def _with_spaces(lines: list[str], *, spaced: bool) -> list[str]:
    """Lines as the diagnostics take them: with a space between what counts as a word."""
    return lines if spaced else [" ".join(split_words(line, spaced=False)) for line in lines]


def _sample_lines(workspace: Workspace, report: MergeReport, folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Source, reference and distilled lines that the teacher wrote: all of a small corpus, else so many evenly."""
    from kdmt.score.diagnostics import MAX_SENTENCES

    src, tgt = workspace.direction.sides
    indices = np.frombuffer(report.indices, dtype=np.int64) if report.indices else np.empty(0, dtype=np.int64)
    references = workspace.prepare / f"train.{tgt}"
    is_compared = np.frombuffer(bytes(report.of_teacher), dtype=np.uint8) > 0
    is_compared &= indices < recorded_lines(workspace)
    chosen = np.flatnonzero(is_compared)
    chosen = chosen[:: max(1, -(-len(chosen) // MAX_SENTENCES))]
    return (
        list(_lines_at(folder / f"distilled.{src}", chosen)),
        list(_lines_at(references, indices[chosen])),
        list(_lines_at(folder / f"distilled.{tgt}", chosen)),
    )


def recorded_lines(workspace: Workspace) -> int:
    """Lines of the training set that have references."""
    from kdmt.corpus.indexed import IndexedDataset

    return len(IndexedDataset(source_prefixes(workspace)[0]))


def source_lines(workspace: Workspace) -> int:
    """Lines of all the text that is distilled."""
    from kdmt.distill.sources import SourceText

    return len(SourceText(source_prefixes(workspace)))


def _lines_at(path: Path, places: np.ndarray) -> Iterator[str]:
    """The lines at these places, which ascend."""
    wanted = np.zeros(int(places[-1]) + 1 if len(places) else 0, dtype=bool)
    wanted[places] = True
    return compress(islice(iterate_lines(path), len(wanted)), wanted.tolist())


def _summary(facts: dict[str, Any]) -> str:
    failures = ", ".join(f"{name} {count:,}" for name, count in facts["failures"].items()) or "none"
    text = f"{facts['num_lines']:,} lines for {facts['num_sentences']:,} sentences; failures: {failures}"
    if "diagnostics" in facts:
        diagnostics = facts["diagnostics"]
        text += (
            f"; what the teacher wrote against the references: BLEU {facts['bleu_against_reference']:.2f} "
            f"({facts['bleu_signature']}), conditional entropy {diagnostics['complexity_distilled']:.3f} nats "
            f"(references {diagnostics['complexity_real']:.3f})"
        )
    return text
