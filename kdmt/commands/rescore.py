"""`kdmt rescore`: compute forced-decoding scores of sentence pairs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from kdmt.commands.models import context_of
from kdmt.config import Context
from kdmt.corpus.context import Document
from kdmt.corpus.lines import write_lines
from kdmt.corpus.text_files import open_lines
from kdmt.distill.pair_scores import open_scorer, pair_tasks, read_pair_scores
from kdmt.errors import UserError
from kdmt.log import get_logger
from kdmt.streams import output_text
from kdmt.workers.open import open_processes
from kdmt.workers.progress import block_progress

_logger = get_logger(__name__)


def rescore(
    checkpoint: Path,
    source: Path,
    target: Path,
    *,
    source_lang: str | None,
    target_lang: str | None,
    compute_type: str,
    workers: int,
    threads: int,
    device: str,
) -> None:
    """Write `log-probability <TAB> tokens` for each pair of raw lines to standard output.

    The log-probability is `nan` if a line is longer than the maximum length of the model. For a model with context, the
    lines are those of documents in their order, and an empty source line begins a new document.

    Args:
        checkpoint: checkpoint folder, pointer file, run, or output folder of `kdmt export --to ctranslate2`.
        source, target: text files in the languages of the model, which may be compressed.
        source_lang, target_lang: languages that choose a direction of a model with several; None matches any.
        compute_type: number type of CTranslate2.
        workers: number of worker processes; 0 for one per core or GPU.
        threads: number of CPU threads of each worker process.
        device: auto, cpu, cuda, ...

    Raises:
        UserError: if the model or a file does not exist, the files differ in length, or the model does not support
            these scores.
    """
    with output_text() as out, TemporaryDirectory(prefix="kdmt-rescore-") as scratch:
        folder = Path(scratch)
        context = context_of(checkpoint)
        counts = [_copy_lines(source, folder / "source", context), _copy_lines(target, folder / "target", None)]
        if counts[0] != counts[1]:
            raise UserError(
                f"{source} has {counts[0]:,} lines, {target} has {counts[1]:,}: give a translation for each line"
            )
        scorer = open_scorer(
            checkpoint,
            folder / "engine",
            compute_type=compute_type,
            raw=True,
            source_lang=source_lang,
            target_lang=target_lang,
        )
        tasks = pair_tasks(folder / "source", folder / "target", folder, key={})
        executor = open_processes(folder, device=device, workers=workers, threads=threads)
        with block_progress("rescore", before=0) as advance:
            failed = executor.run(scorer, tasks, advance)
        if failed:
            raise UserError(f"rescore: lines from {failed[0].task.number * tasks[0].count + 1} on: {failed[0].error}")
        scores = read_pair_scores(tasks)
        out.writelines(f"{log_prob:.6f}\t{int(count)}\n" for log_prob, count in scores.tolist())
        if unread := int(np.isnan(scores[:, 0]).sum()):
            _logger.warning(f"rescore: {unread:,} pairs are longer than the model reads and have no score")


def _copy_lines(path: Path, copy: Path, context: Context | None) -> int:
    """Copy the lines of a file, which may be compressed, to another file, and return their number.

    Args:
        context: how the lines get the previous lines as their context; None for lines without context.
    """
    lines = open_lines(path, name=str(path))
    if context is not None:
        document = Document(context)
        lines = (line for each in lines for line in document.add_lines([each]))
    write_lines(copy, lines)
    with copy.open("rb") as file:
        return sum(1 for _ in file)
