"""The knowledge stage: the teacher reads a training set, and what it expected of every target token is kept.

knowledge/<data>/       a cache for each training set (`raw`, `distilled`) whose students learn from one
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from kdmt.corpus.knowledge_cache import HEADER, KnowledgeCache, KnowledgeWriter, Shape
from kdmt.errors import UserError
from kdmt.flow.manifest import Plan, begin, check_status, finish, make_plan, recorded_outputs
from kdmt.flow.progress import sentence_progress
from kdmt.flow.stage import Stage
from kdmt.objectives.model_checks import learns_from_cache
from kdmt.runtime import pick_device, use_threads
from kdmt.stages.training import cache_made_from, data_names, open_data
from kdmt.stages.workspace import Workspace


def knowledge_stages(
    workspace: Workspace, *, prepare: Stage, teacher: Stage, text: Mapping[str, Stage]
) -> dict[str, Stage]:
    """A stage for each training set that a student learns from with a cache."""
    wanted = {
        data
        for student in workspace.config.students.values()
        if learns_from_cache(student)
        for data in data_names(student)
    }
    return {data: _stage(workspace, data, prepare, teacher, text) for data in sorted(wanted, reverse=True)}


def _stage(workspace: Workspace, data: str, prepare: Stage, teacher: Stage, text: Mapping[str, Stage]) -> Stage:
    def plan() -> Plan:
        return make_plan({"knowledge": workspace.config.knowledge}, {"data": data}, cache_made_from(workspace, data))

    return Stage(
        name=f"knowledge of {data}",
        command="kdmt knowledge",
        folder=workspace.knowledge(data),
        upstream=(prepare, teacher) if data == "raw" else (prepare, teacher, text[data]),
        plan=plan,
        make=partial(_fill, workspace, data),
    )


def _fill(workspace: Workspace, data: str, plan: Plan) -> None:
    from kdmt.corpus.codec import check_vocabulary
    from kdmt.distill.teacher_forcing import fill_cache
    from kdmt.models.checkpoint import load_model
    from kdmt.models.checkpoint_folder import resolve_checkpoint

    settings, folder = workspace.config.knowledge, workspace.knowledge(data)
    use_threads(settings.threads)
    device = pick_device(settings.device)
    checkpoint = resolve_checkpoint(workspace.teacher / workspace.config.distill.checkpoint)
    check_vocabulary(checkpoint, workspace.prepare, workspace.direction)
    teacher = load_model(checkpoint)
    if settings.k >= teacher.tgt_vocab_size:
        raise UserError(f"knowledge.k ({settings.k}) is not less than the vocabulary's {teacher.tgt_vocab_size} tokens")
    shape = Shape(
        k=settings.k,
        vocab_size=teacher.tgt_vocab_size,
        temperatures=tuple(settings.temperatures),
        value_type=settings.value_type,
        block_size=settings.block_size,
    )
    pairs = open_data(workspace, data, "train")
    assert pairs.tgt_sizes is not None
    if recorded_outputs(folder) and check_status(folder, plan).state == "unfinished":
        (folder / HEADER).unlink(missing_ok=True)  # damaged since it was complete: no block is taken on trust
    begin(folder, plan, workspace.resolved_config())
    writer = KnowledgeWriter(folder, shape, sizes=pairs.tgt_sizes, made_from=cache_made_from(workspace, data))
    with sentence_progress(f"knowledge of {data}", len(pairs)) as progress:
        fill_cache(writer, [teacher], pairs, device=device, max_tokens=settings.max_tokens, progress=progress)
    cache = KnowledgeCache(folder)
    facts = _facts(cache)
    workspace.say(
        f"knowledge of {data}: {facts['num_tokens']:,} tokens, {facts['bytes_a_token']} bytes each, "
        f"{100 * facts['mass_of_best']:.1f}% of the teacher's mass on its {settings.k} best"
    )
    outputs = [folder / HEADER, folder / "sizes.npy", folder / "marginal.npy", *cache.files]
    finish(folder, plan, outputs=outputs, facts=facts)


def _facts(cache: KnowledgeCache) -> dict[str, Any]:
    import numpy as np

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
