"""The work of the knowledge stage: run the teacher over a training set and fill the cache."""

from __future__ import annotations

from functools import partial

import numpy as np

from kdmt.corpus.batching import open_split
from kdmt.corpus.codec import TextCodec, check_vocabulary
from kdmt.corpus.knowledge_cache import HEADER, KnowledgeCache, KnowledgeWriter, Shape
from kdmt.distill.teacher_forcing import CacheFiller, fill_cache, missing_blocks
from kdmt.errors import UserError
from kdmt.flow.manifest import Plan, begin, check_status, finish, recorded_outputs
from kdmt.flow.progress import sentence_progress
from kdmt.runtime import cores, devices_of, use_threads
from kdmt.stages.direction_knowledge import check_cache_teachers, pair_teachers, pivot_files, write_pivots
from kdmt.stages.training_inputs import cache_made_from, teacher_checkpoint
from kdmt.stages.workspace import Workspace
from kdmt.workers.open import open_processes
from kdmt.workers.progress import block_progress


def fill(workspace: Workspace, data: str, plan: Plan) -> None:
    """Fill the cache of a training set."""
    settings, folder = workspace.config.knowledge, workspace.knowledge(data)
    use_threads(settings.threads)
    devices = devices_of(settings.device)
    models = check_cache_teachers(workspace, data)
    if workspace.config.teacher_fills_caches:
        check_vocabulary(teacher_checkpoint(workspace), workspace.prepare, workspace.direction)
    vocab_size = len(TextCodec.load(workspace.prepare).tgt_dictionary)
    if settings.k >= vocab_size:
        raise UserError(f"knowledge.k ({settings.k}) is not less than the vocabulary's {vocab_size} tokens")
    shape = Shape(
        k=settings.k,
        vocab_size=vocab_size,
        temperatures=tuple(settings.temperatures),
        value_type=settings.value_type,
        block_size=settings.block_size,
    )
    pairs = open_split(workspace.training_set(data) / "data-bin", "train", workspace.direction)
    assert pairs.tgt_sizes is not None
    if recorded_outputs(folder) and check_status(folder, plan).state == "unfinished":
        (folder / HEADER).unlink(missing_ok=True)  # damaged after it was complete: then no block can be trusted
    teachers = pair_teachers(workspace, data, models, folder)
    for each in teachers:
        each.load()  # a damaged checkpoint is found before the folder changes
    begin(folder, plan, workspace.resolved_config())
    write_pivots(workspace, data, folder)
    writer = KnowledgeWriter(folder, shape, sizes=pairs.tgt_sizes, made_from=cache_made_from(workspace, data))
    if len(devices) == 1:
        with sentence_progress(f"knowledge of {data}", len(pairs)) as progress:
            fill_cache(writer, teachers, pairs, device=devices[0], max_tokens=settings.max_tokens, progress=progress)
    else:
        data_bin = workspace.training_set(data) / "data-bin"
        filler = CacheFiller(
            writer,
            teachers=teachers,
            open_data=partial(open_split, data_bin, "train", workspace.direction),
            max_tokens=settings.max_tokens,
        )
        fill_on_workers(filler, f"knowledge of {data}", device=settings.device, threads=settings.threads)
    cache = KnowledgeCache(folder)
    facts = _facts(cache)
    workspace.say(
        f"knowledge of {data}: {facts['num_tokens']:,} tokens, {facts['bytes_a_token']} bytes each, "
        f"{100 * facts['mass_of_best']:.1f}% of the teacher's mass on its {settings.k} best"
    )
    outputs = [folder / HEADER, folder / "sizes.npy", folder / "marginal.npy", *cache.files, *pivot_files(folder)]
    finish(folder, plan, outputs=outputs, facts=facts)


def fill_on_workers(filler: CacheFiller, name: str, *, device: str, threads: int) -> None:
    """Fill a cache with one worker process per GPU.

    Args:
        name: name of the stage in messages.
        device: value of `knowledge.device`.
        threads: number of CPU threads of each worker; 0 to share the cores among the workers.

    Raises:
        UserError: if a block failed in all attempts.
    """
    writer, tasks = filler.writer, missing_blocks(filler.writer)
    threads = threads or max(1, cores() // len(devices_of(device)))
    executor = open_processes(writer.folder, device=device, workers=0, threads=threads)
    with block_progress(name, before=len(writer.sizes) - sum(task.count for task in tasks)) as progress:
        failed = executor.run(filler, tasks, progress)
    if failed:
        first = failed[0]
        raise UserError(f"{name}: {len(failed)} blocks failed; block {first.task.number}: {first.error}")
    writer.finish()


def _facts(cache: KnowledgeCache) -> dict[str, float]:
    rest = sum(
        float(np.exp(np.load(path, mmap_mode="r")["log_probs"][:, 0, -1].astype(np.float64)).sum())
        for path in cache.files
    )
    num_tokens = int(cache.sizes.sum(dtype=np.int64))
    return {
        "num_tokens": num_tokens,
        "bytes_a_token": cache.shape.bytes_a_token,
        "mass_of_best": 1.0 - rest / num_tokens,
    }
