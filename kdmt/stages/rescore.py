"""Scores of given pairs: `kdmt rescore`, and the filter of pairs that a reverse model finds improbable."""

from __future__ import annotations

import heapq
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.codec import TextCodec
from kdmt.corpus.lines import write_lines
from kdmt.corpus.text_files import open_lines
from kdmt.errors import UserError
from kdmt.files import naming
from kdmt.languages import same_language
from kdmt.stages.progress import block_progress
from kdmt.stages.workers import open_executor, open_processes
from kdmt.stages.workspace import Workspace

if TYPE_CHECKING:
    from kdmt.config import Reverse
    from kdmt.distill.merge import MergeReport, Outputs
    from kdmt.distill.rescore import PairScorer

REVERSE, SCORES = "reverse", "reverse.npy"


def rescore(
    checkpoint: Path,
    source: Path,
    target: Path,
    out: IO[str],
    *,
    compute_type: str,
    workers: int,
    threads: int,
    device: str,
) -> None:
    """Write `log-probability <TAB> tokens` for each pair of raw lines.

    Args:
        checkpoint: a checkpoint folder, a pointer file, a run or what `kdmt export --to ctranslate2` wrote.
        source, target: text files, which may be compressed, of the model's languages.
        out: takes a line a pair; `nan` stands for the log-probability where a line is longer than the model reads.
        compute_type: of CTranslate2.
        workers: processes; 0 for one a core, or one a GPU.
        threads: of each.
        device: auto, cpu, cuda, ...

    Raises:
        UserError: there is no such model or file, the files differ in length, or the model has no such scores.
    """
    from kdmt.distill.rescore import pair_tasks, read_pair_scores

    with TemporaryDirectory(prefix="kdmt-rescore-") as scratch:
        folder = Path(scratch)
        counts = [_copy_lines(path, folder / side) for side, path in (("source", source), ("target", target))]
        if counts[0] != counts[1]:
            raise UserError(
                f"{source} has {counts[0]:,} lines, {target} has {counts[1]:,}: give a translation for each line"
            )
        scorer = open_scorer(checkpoint, folder / "engine", compute_type=compute_type, raw=True)
        tasks = pair_tasks(folder / "source", folder / "target", folder, key={})
        executor = open_processes(folder, device=device, workers=workers, threads=threads)
        with block_progress("rescore", before=0) as tell:
            failed = executor.run(scorer, tasks, tell)
        if failed:
            raise UserError(f"rescore: lines from {failed[0].task.number * tasks[0].count + 1} on: {failed[0].error}")
        scores = read_pair_scores(tasks)
        out.writelines(f"{log_prob:.6f}\t{int(count)}\n" for log_prob, count in scores.tolist())
        if unread := int(np.isnan(scores[:, 0]).sum()):
            print(f"rescore: {unread:,} pairs are longer than the model reads and have no score", file=sys.stderr)


def _copy_lines(path: Path, copy: Path) -> int:
    """Write the lines of a file that may be compressed to another one; return their number."""
    write_lines(copy, open_lines(path, name=str(path)))
    with copy.open("rb") as file:
        return sum(1 for _ in file)


def open_scorer(checkpoint: Path, engine: Path, *, compute_type: str, raw: bool) -> PairScorer:
    """What becomes a worker that scores pairs; a model that is not CTranslate2's yet is written to the folder `engine`.

    Raises:
        UserError: there is no such model, or it writes all positions at once.
    """
    from kdmt.distill.rescore import PairScorer
    from kdmt.interop.ctranslate2 import export_checkpoint
    from kdmt.models.checkpoint_folder import resolve_checkpoint
    from kdmt.models.description import read_description

    if (checkpoint / "model.bin").is_file():
        return PairScorer(checkpoint, compute_type, raw)
    folder = resolve_checkpoint(checkpoint)
    if read_description(folder)["family"] == "nonautoregressive":
        raise UserError(f"{checkpoint}: writes all positions at once and has no probability for a given target")
    if not engine.exists():
        export_checkpoint(folder, engine)
    return PairScorer(engine, compute_type, raw)


# ------------------------------------------------------------------------------------------------- the reverse model


def reverse_inputs(workspace: Workspace) -> dict[str, str]:
    """The weights of the reverse model, for a plan."""
    from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint

    reverse = workspace.config.distill.reverse
    if reverse is None:
        return {}
    return {reverse.checkpoint: checkpoint_sha256(resolve_checkpoint(Path(reverse.checkpoint)))}


def check_reverse(workspace: Workspace) -> None:
    """Refuse a reverse model that does not read what is distilled.

    Raises:
        UserError: there is none, or it is of other languages or text.
    """
    from kdmt.models.checkpoint_folder import resolve_checkpoint

    reverse = workspace.config.distill.reverse
    if reverse is None:
        return
    text = TextCodec.load(resolve_checkpoint(Path(reverse.checkpoint))).text
    src, tgt = workspace.langs
    if not (same_language(text.source_lang, tgt) and same_language(text.target_lang, src)):
        raise UserError(
            f"distill.reverse.checkpoint: {reverse.checkpoint} translates {text.source_lang} to {text.target_lang}, "
            f"not {tgt} to {src}"
        )
    own = workspace.config.prepare.text
    if (text.text.moses, text.text.lowercase) != (own.moses, own.lowercase):
        raise UserError(
            f"distill.reverse.checkpoint: {reverse.checkpoint} was trained on other text: moses {text.text.moses}, "
            f"lowercase {text.text.lowercase}; here moses {own.moses}, lowercase {own.lowercase}"
        )


def drop_improbable(workspace: Workspace, folder: Path, files: Outputs, report: MergeReport) -> None:
    """Take those pairs out of the files again that the reverse model finds the least probable.

    Args:
        folder: of the stage; keeps what the reverse model has said, for the next time.
        files: of the training set as it was merged; beside them `SCORES` is written.
        report: gets the dropped ones as the failure `reverse`.
    """
    settings = workspace.config.distill.reverse
    if settings is None:
        return
    entropies = _cross_entropies(workspace, folder, files, settings)
    with naming(folder / SCORES):
        np.save(files.source.with_name(SCORES), entropies.astype("<f4"))
    is_kept = _best(entropies, settings.drop_percent)
    for path in (files.source, files.target, files.tags):
        if path.exists():
            _keep_lines(path, is_kept)
    _note_dropped(files.rejected, report, is_kept)


def _cross_entropies(workspace: Workspace, folder: Path, files: Outputs, settings: Reverse) -> NDArray[np.float64]:
    """Of each source given its target, in nats a token; infinite where a line is longer than the model reads."""
    from kdmt.distill.rescore import pair_tasks, read_pair_scores

    scratch = folder / REVERSE
    scratch.mkdir(exist_ok=True)
    engine = scratch / f"engine-{next(iter(reverse_inputs(workspace).values()))[:16]}"
    scorer = open_scorer(Path(settings.checkpoint), engine, compute_type=settings.compute_type, raw=False)
    key: dict[str, Any] = reverse_inputs(workspace) | {"compute_type": settings.compute_type}
    tasks = pair_tasks(files.target, files.source, scratch, key=key)
    missing = [task for task in tasks if not task.out.exists()]
    done = sum(task.count for task in tasks) - sum(task.count for task in missing)
    with block_progress(f"{folder.name}: reverse model", before=done) as tell:
        failed = open_executor(workspace, folder).run(scorer, missing, tell)
    if failed:
        raise UserError(f"{folder.name}: the reverse model: {failed[0].error}")
    scores = read_pair_scores(tasks)
    return np.where(np.isnan(scores[:, 0]), np.inf, -scores[:, 0] / scores[:, 1])


def _best(entropies: NDArray[np.float64], drop_percent: float) -> NDArray[np.bool_]:
    """All but the worst `drop_percent`; of equal ones the later lines go."""
    dropped = int(len(entropies) * drop_percent / 100)
    is_kept = np.ones(len(entropies), dtype=bool)
    order = np.argsort(entropies, kind="stable")
    is_kept[order[len(order) - dropped :]] = False
    return is_kept


def _keep_lines(path: Path, is_kept: NDArray[np.bool_]) -> None:
    aside = path.with_name(f"{path.name}.kept")
    with naming(aside), path.open("rb") as source, aside.open("wb") as target:
        target.writelines(line for line, kept in zip(source, is_kept.tolist(), strict=True) if kept)
    aside.replace(path)


def _note_dropped(rejected: Path, report: MergeReport, is_kept: NDArray[np.bool_]) -> None:
    """In the file of rejections, which is in the order of lines, and in the report."""
    dropped = np.frombuffer(report.indices, dtype=np.int64)[~is_kept].tolist()
    aside = rejected.with_name(f"{rejected.name}.merged")
    with naming(aside), rejected.open(encoding="utf-8") as before, aside.open("w", encoding="utf-8") as after:
        earlier = ((int(line.partition("\t")[0]), line) for line in before)
        ours = ((index, f"{index}\t{REVERSE}\tdropped\n") for index in dropped)
        after.writelines(line for _, line in heapq.merge(earlier, ours))
    aside.replace(rejected)
    report.keep(is_kept, failure=REVERSE)
