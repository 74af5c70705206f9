"""Text processing in the prepare stage, and the check that its inverse restores the text."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kdmt.config import MONOLINGUAL_SIDES
from kdmt.corpus.chunk_log import ChunkLog
from kdmt.corpus.context import without_context
from kdmt.corpus.lines import spread_lines
from kdmt.corpus.process_pool import OpenMap
from kdmt.corpus.round_trip import SAMPLED_LINES, measure_round_trip
from kdmt.corpus.steps import Steps
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import load_tokenizer, read_chunks
from kdmt.stages.preparation import Preparation
from kdmt.stages.prepare_partial import WORK

CHUNK_LINES = 20_000  # per task


def process_text(work: Preparation, folder: Path, steps: Steps, processor: TextProcessor) -> None:
    """Apply text processing to training and monolingual text, unless it changes nothing or was applied before."""
    if not work.processes_text:
        return
    src, tgt = work.direction.sides
    texts = {f"train.{src}": processor.preprocess_source}
    processes = (processor.preprocess_source, processor.preprocess_target)
    for name in work.settings.monolingual_texts:
        side = MONOLINGUAL_SIDES[name]
        texts[f"monolingual.{work.direction.sides[side]}"] = processes[side]
    texts[f"train.{tgt}"] = processor.preprocess_target
    chunks = folder / WORK / "text"
    chunks.mkdir(exist_ok=True)
    for name, process in texts.items():
        if steps.values(f"text.{name}") is None:
            _process_file(work.clean_folder(folder) / name, folder / name, process, chunks, work.open_map())
            steps.finish(f"text.{name}", {}, [folder / name])


def _process_file(clean: Path, out: Path, process: Callable[[str], str], folder: Path, open_map: OpenMap) -> None:
    """Apply text processing line by line, in bounded memory.

    Args:
        folder: folder of finished chunks, from which an interrupted call goes on.
    """
    aside = folder / out.name
    with (
        ChunkLog(folder / f"{out.name}.log", [aside]) as log,
        open_map(partial(_process_lines, process)) as map_in_order,
    ):
        num_done = sum(1 for _ in log.finished())
        for lines in map_in_order(itertools.islice(read_chunks(clean, CHUNK_LINES), num_done, None)):
            log.add(None, [lines.encode()])
    aside.replace(out)


def _process_lines(process: Callable[[str], str], lines: list[str]) -> str:
    return "".join(f"{process(line)}\n" for line in lines)


def count_round_trips(
    work: Preparation, folder: Path, processor: TextProcessor, tokenizer: Path | None = None
) -> dict[str, object]:
    """Count the lines in a training sample of each side that are not restored after processing and its inverse.

    Args:
        tokenizer: folder of the tokenizer (default: that in `folder`).
    """
    counts: dict[str, object] = {}
    samples = [spread_lines(path, SAMPLED_LINES) for path in work.clean_training_paths(folder)]
    samples[0] = [without_context(line, work.settings.context) for line in samples[0]]
    # a copy: a model numbers its symbols as they occur
    tokenizers = load_tokenizer(tokenizer or folder / "tokenizer")
    models = (tokenizers.source, tokenizers.target)
    for lang, lines, model in zip(work.direction.sides, samples, models, strict=True):
        found = measure_round_trip(
            lines,
            processor=processor,
            lang=lang,
            model=model,
            normalization_rule=work.settings.tokenizer.normalization_rule,
        )
        counts[lang] = found.as_dict()
        if (warning := found.warning()) is not None:
            work.say(f"prepare: warning: {lang}: {warning}")
    return counts
