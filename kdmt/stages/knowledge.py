"""The knowledge stage: the teacher's most probable tokens at every target token of a training set, stored in a cache.

knowledge/<data>/       a cache for each training set (`raw`, `distilled`) whose students learn from one; see also
                        `kdmt.stages.direction_knowledge`

`kdmt.stages.knowledge_work` does the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from kdmt.errors import UserError
from kdmt.flow.manifest import Plan, make_plan
from kdmt.flow.stage import Stage
from kdmt.objectives.model_checks import learns_from_cache
from kdmt.stages.cache_teachers import needs_pivots
from kdmt.stages.training_inputs import cache_made_from
from kdmt.stages.workspace import Workspace


def knowledge_stages(
    workspace: Workspace, *, prepare: Stage, teacher: Stage, text: Mapping[str, Stage]
) -> dict[str, Stage]:
    """Return a stage for each training set that a student learns from with a cache."""
    wanted = {
        data for _, student in workspace.config.trainings() if learns_from_cache(student) for data in student.data_names
    }
    return {data: _stage(workspace, data, prepare, teacher, text) for data in sorted(wanted, reverse=True)}


def _stage(workspace: Workspace, data: str, prepare: Stage, teacher: Stage, text: Mapping[str, Stage]) -> Stage:
    def plan() -> Plan:
        return make_plan({"knowledge": workspace.config.knowledge}, {"data": data}, cache_made_from(workspace, data))

    config = workspace.config
    texts = [name for name in (data, *(["distilled"] if needs_pivots(config) else [])) if name != "raw"]
    if needs_pivots(config) and "distilled" not in text:
        raise UserError(
            "knowledge.teachers: directions with a pivot language need the translations of the distill stage, which "
            "the training sets of the students do not need: leave out 'distill.imported' or 'distill.pool'"
        )
    upstream = [prepare, *([teacher] if config.teacher_fills_caches else [])]
    return Stage(
        name=f"knowledge of {data}",
        command="kdmt knowledge",
        folder=workspace.knowledge(data),
        upstream=(*upstream, *(text[name] for name in dict.fromkeys(texts))),
        plan=plan,
        make=partial(_fill, workspace, data),
    )


def _fill(workspace: Workspace, data: str, plan: Plan) -> None:
    from kdmt.stages.knowledge_work import fill  # loads PyTorch

    fill(workspace, data, plan)
