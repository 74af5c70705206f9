"""Work of selective distillation: references of the distilled lines, and distances of an evaluator's translations.

selective/<number>.npy      in the folder of a run: distances of the lines of a block, which a resumed run reads
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kdmt.config import Decode, NATDecode, Selective
from kdmt.corpus.batching import ParallelData
from kdmt.corpus.codec import check_vocabulary, cut_source
from kdmt.corpus.edit_distance import edit_distances
from kdmt.corpus.lines import iterate_lines
from kdmt.decode.engines.nat import NATEngine
from kdmt.distill.training_text import REJECTED, SENTENCES
from kdmt.errors import UserError
from kdmt.files import atomic_file
from kdmt.models.checkpoint import load_model
from kdmt.models.nonautoregressive import NATransformer
from kdmt.ranks import Ranks
from kdmt.stages.training_inputs import Job, evaluator_checkpoint
from kdmt.stages.workspace import Workspace
from kdmt.train.run_log import Progress
from kdmt.train.target_selection import TargetSelection

_FOLDER = "selective"
_LINES_IN_A_BLOCK = 20_000
_LINES_AT_ONCE = 1_000  # whose distances are computed together


def open_selection(
    workspace: Workspace,
    settings: Selective,
    distilled: ParallelData,
    raw: ParallelData,
    *,
    max_target_tokens: int,
) -> TargetSelection:
    """Return the selection between the distilled targets and the references, without distances.

    Args:
        distilled, raw: training sets, whose pairs are concatenated in this order.
        max_target_tokens: maximum number of tokens of a reference that is used; 0 for no limit.

    Raises:
        UserError: if the lines of the training sets do not match.
    """
    folder = workspace.training_set("distilled")
    of_line = _lines(folder, len(distilled))
    has_reference = of_line < len(raw)  # not the lines of monolingual text
    if not np.array_equal(distilled.src_sizes[has_reference], raw.src_sizes[of_line[has_reference]]):
        raise UserError(f"{folder}: its sources are not those of the training set: run `kdmt distill` again")
    if max_target_tokens:
        assert raw.tgt_sizes is not None
        has_reference[has_reference] = raw.tgt_sizes[of_line[has_reference]] <= max_target_tokens
    second = np.where(has_reference, len(distilled) + of_line, -1)
    return TargetSelection(second, settings.distilled, settings.max_distance)


def _lines(folder: Path, num_pairs: int) -> NDArray[np.int64]:
    """Return the index, in the text that was distilled, of each line of the training set, int64 [pairs]."""
    is_kept = np.ones(len(np.load(folder / SENTENCES, mmap_mode="r")), dtype=bool)
    for line in iterate_lines(folder / REJECTED):
        index, *_, action = line.split("\t")
        if action == "dropped":
            is_kept[int(index)] = False
    lines = np.flatnonzero(is_kept)
    if len(lines) != num_pairs:
        raise UserError(
            f"{folder}: its {REJECTED} leaves {len(lines):,} lines, and its data-bin has {num_pairs:,} pairs"
        )
    return lines


def load_evaluator(workspace: Workspace, job: Job, settings: Selective) -> NATransformer:
    """Return the model that translates the training set.

    Raises:
        UserError: if it is autoregressive, or of another vocabulary.
    """
    folder = evaluator_checkpoint(job, settings)
    check_vocabulary(folder, workspace.prepare, workspace.direction)
    model = load_model(folder)
    if not isinstance(model, NATransformer):
        raise UserError(f"{job.path}.selective.evaluator: {folder} is autoregressive")
    return model


def measure(
    run: Path,
    evaluator: NATransformer,
    selection: TargetSelection,
    data: ParallelData,
    *,
    device: torch.device,
    ranks: Ranks,
    progress: Progress,
) -> None:
    """Set the distances of a selection: of the references to the evaluator's translations.

    The translation is the first one, by one pass of the decoder. Blocks that are there are not computed again.

    Args:
        run: folder of the run, visible to all ranks, whose plan names the evaluator and the data.
        data: the training sets.
    """
    folder = run / _FOLDER
    folder.mkdir(exist_ok=True)
    starts = range(0, len(selection.second), _LINES_IN_A_BLOCK)
    paths = [folder / f"{number:06d}.npy" for number in range(len(starts))]
    engine = NATEngine(evaluator, device=device, search=NATDecode(), iterations=1)
    for path, start in list(zip(paths, starts, strict=True))[ranks.rank :: ranks.world]:
        if not path.exists():
            block = np.arange(start, min(start + _LINES_IN_A_BLOCK, len(selection.second)))
            with atomic_file(path) as aside, aside.open("wb") as file:
                np.save(file, _distances(engine, selection, data, block))
            progress.note(f"selective: {block[-1] + 1:,} of {len(selection.second):,} lines translated")
    ranks.wait()
    distances = np.concatenate([np.load(path) for path in paths])
    selection.use(distances)
    with_reference = distances[selection.second >= 0]
    progress.note(
        f"selective: {len(with_reference):,} of {len(distances):,} lines have references, at a mean distance of "
        f"{float(with_reference.mean()) if len(with_reference) else 0.0:.3f}; {selection.num_allowed:,} can be used"
    )


def _distances(
    engine: NATEngine, selection: TargetSelection, data: ParallelData, block: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the distances of the lines of a block, float32 [lines]; infinity for a line without a reference."""
    found = np.full(len(block), np.inf, dtype=np.float32)
    places = np.flatnonzero(selection.second[block] >= 0)
    for start in range(0, len(places), _LINES_AT_ONCE):
        some = places[start : start + _LINES_AT_ONCE]
        sources = [cut_source(data[index][0], engine.max_source_positions) for index in block[some].tolist()]
        references = [data[index][1] for index in selection.second[block[some]].tolist()]
        found[some] = relative_distances(engine, sources, references)
    return found


def relative_distances(
    engine: NATEngine, sources: list[NDArray[np.integer]], references: list[NDArray[np.integer] | None]
) -> NDArray[np.float32]:
    """Return the distance of each reference to the engine's translation, divided by its length without </s>."""
    has_words = [index for index, source in enumerate(sources) if len(source) > 1]
    hypotheses: list[tuple[int, ...]] = [()] * len(sources)
    decoded = engine.decode([sources[index] for index in has_words], Decode())
    for index, nbest in zip(has_words, decoded, strict=True):
        hypotheses[index] = nbest[0].tokens
    words = [reference[:-1].tolist() for reference in references if reference is not None]
    lengths = np.array([max(len(each), 1) for each in words])
    return (edit_distances(hypotheses, words) / lengths).astype(np.float32)
