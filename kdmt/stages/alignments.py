"""The stages that align training sets: the links between the tokens of each pair, for guided alignment.

alignments/<data>/               by IBM model 1, for each training set of a model with `train.guided_alignment`
alignments/<data>-<hash>/        from a file of links; the hash is that of its path and its unit

    links, links.npy             a line of links `i-j` for each pair, tokens counted from 0; offsets of the lines

`kdmt.stages.alignments_work` does the work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from kdmt.config import setting_path
from kdmt.errors import UserError
from kdmt.flow.manifest import Plan, file_input, make_plan, recorded_outputs
from kdmt.flow.stage import Stage
from kdmt.stages.training_inputs import LearnedAlignment, alignments_of, tags_file
from kdmt.stages.workspace import Workspace

_TAGS = "tags"  # name in the settings of a plan: tokens before the sources, which have no links


def alignment_stages(workspace: Workspace, *, owners: Mapping[str, Stage]) -> dict[str, Stage]:
    """Return the stages that align training sets, by the names of their folders.

    Args:
        owners: stages that make the training sets, by name; other sets are left out.

    Raises:
        UserError: if a file of links is given for several training sets.
    """
    wanted = {each.folder_name: each for each in _wanted(workspace) if each.data in owners}
    return {name: _stage(workspace, each, owners[each.data]) for name, each in sorted(wanted.items())}


def _wanted(workspace: Workspace) -> Iterator[LearnedAlignment]:
    trainings = [(path, each.train, each.data_names) for path, each in workspace.config.teacher_trainings()]
    trainings += [(path, each.train, each.data_names) for path, each in workspace.config.trainings()]
    for path, train, data in trainings:
        if train.guided_alignment is not None and train.guided_alignment.file is not None and len(data) > 1:
            raise UserError(
                f"'{setting_path(path, 'train.guided_alignment.file')}' has the links of one training set, and "
                f"'{path}.data' names {len(data)}: {', '.join(data)}"
            )
        yield from alignments_of(train, data)


def _stage(workspace: Workspace, wanted: LearnedAlignment, owner: Stage) -> Stage:
    def plan() -> Plan:
        made = recorded_outputs(owner.folder)
        inputs = {name: sha for name, sha in made.items() if name.startswith("data-bin/train.")}
        if workspace.config.is_multilingual:  # each direction is aligned on its own
            inputs["directions"] = made[tags_file(workspace, wanted.data).name]
        settings: dict[str, object] = {"data": wanted.data}
        if wanted.file is not None:
            inputs["file of links"] = file_input(Path(wanted.file))
            settings |= {"file": wanted.file, "unit": wanted.unit}
        made_from = make_plan({}, settings, inputs)
        tags = workspace.config.tags_of(wanted.data)
        if wanted.file is not None or not tags:
            return made_from
        made_from = made_from.depending_on(_TAGS, tags, default=[])
        return replace(made_from, reasons={_TAGS: "an earlier version linked them as words"})

    return Stage(
        name=f"alignment of {wanted.data}",
        command=owner.command,
        folder=wanted.folder(workspace),
        upstream=(owner,),
        plan=plan,
        make=partial(_make, workspace, wanted),
    )


def _make(workspace: Workspace, wanted: LearnedAlignment, plan: Plan) -> None:
    from kdmt.stages.alignments_work import make_alignment  # loads NumPy and the data-bin

    make_alignment(workspace, wanted, plan)
