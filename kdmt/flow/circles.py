"""Check that no path in the settings causes a stage to be made from its own result.

Such a stage would be out of date as soon as it is complete, since its result is one of its inputs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdmt.errors import UserError
from kdmt.files import read_optional_json
from kdmt.flow.stage import Stage

Given = Mapping[str, Iterable[tuple[str, str]]]  # name of a stage -> (setting that contains a path, path)


def check_circles(given: Given, stages: Iterable[Stage], *, path_inputs: Sequence[str] = ()) -> None:
    """Check that no stage would be made from itself.

    Args:
        given: for each stage by name, the settings that contain paths of results, with their values.
        stages: all stages of the pipeline.
        path_inputs: prefixes of plan inputs that are paths of results of this or other pipelines.

    Raises:
        UserError: if one would; the message has the setting, the path, and the chain of results back to the stage.
    """
    search = _Search(given, list(stages), tuple(path_inputs))
    for stage in search.stages:
        for setting, path in given.get(stage.name, ()):
            chain = search.chain_to(stage, Path(path), set())
            if chain is not None:
                chain = list(dict.fromkeys(chain))
                through = f" ({' <- '.join(chain)})" if len(chain) > 1 else ""
                what = "lies in its own folder" if len(chain) == 1 else "is made from it"
                raise UserError(f"{setting}: {stage.name} would be made from itself: {path} {what}{through}")


@dataclass(frozen=True)
class _Search:
    given: Given
    stages: list[Stage]
    path_inputs: tuple[str, ...]

    def chain_to(self, wanted: Stage, path: Path, seen: set[str]) -> list[str] | None:
        """Return the chain of stages and paths from a result back to a stage, None if there is no such chain."""
        real = os.path.realpath(path)
        if real in seen:
            return None
        seen.add(real)
        owner = next(
            (stage for stage in self.stages if Path(real).is_relative_to(os.path.realpath(stage.folder))), None
        )
        if owner is wanted:
            return [owner.name]
        if owner is None:
            name, before = str(path), [Path(each) for each in self._recorded_paths(Path(real))]
        else:
            name = owner.name
            before = [stage.folder for stage in owner.upstream]
            before += [Path(each) for _, each in self.given.get(owner.name, ())]
        chains = (self.chain_to(wanted, each, seen) for each in before)
        return next(([name, *chain] for chain in chains if chain is not None), None)

    def _recorded_paths(self, path: Path) -> list[str]:
        """Return the paths that a result was made from, read from the record in its folder or the parent folder."""
        for folder in (path, path.parent):
            for name in ("manifest.json", "plan.json"):
                recorded = read_optional_json(folder / name)
                if recorded is not None:
                    inputs = recorded.get("inputs") or {}
                    prefixes = self.path_inputs
                    return [key.removeprefix(start) for key in inputs for start in prefixes if key.startswith(start)]
        return []
