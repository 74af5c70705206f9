"""The teachers of knowledge caches by direction: which checkpoints give the distributions, and what caches depend on.

`kdmt.stages.direction_knowledge` opens them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdmt.checksum import path_sha256
from kdmt.config import Pipeline, PivotTeacher
from kdmt.corpus.codec import TEXT_FILE, companion_names, load_text_processor
from kdmt.errors import UserError, naming
from kdmt.interop.ctranslate2_folder import is_model_folder
from kdmt.languages import Direction
from kdmt.models.checkpoint_folder import checkpoint_sha256, resolve_checkpoint


@dataclass(frozen=True)
class CacheTeacher:
    """The teacher of one of several directions for caches.

    Attributes:
        direction: direction of the pairs.
        setting: YAML path of the teacher.
        checkpoints: paths of the models whose probabilities are averaged; none for pairs without a teacher.
        source: language that the models read: that of the direction, or a pivot language.
    """

    direction: Direction
    setting: str
    checkpoints: tuple[str, ...]
    source: str

    @property
    def has_pivot(self) -> bool:
        """Return whether the models read translations to a pivot language."""
        return self.source != self.direction.source

    @property
    def reads(self) -> Direction:
        """Direction that the models translate."""
        return Direction(self.source, self.direction.target)


def cache_teachers(config: Pipeline) -> list[CacheTeacher]:
    """Return the teachers of caches by direction, as `distill.teachers` names them; none for the pipeline's teacher."""
    return [] if config.knowledge.teachers == "pipeline" else list(_by_direction(config))


def _by_direction(config: Pipeline) -> Iterator[CacheTeacher]:
    for name, given in config.distill.by_direction.items():
        direction, setting = Direction.parse(name), f"distill.teachers.{name}"
        source = direction.source
        if isinstance(given, PivotTeacher):
            source, setting, given = given.pivot, f"{setting}.teachers.1", given.teachers[1]
        paths = [given] if isinstance(given, str) else given
        assert paths is None or isinstance(paths, list), "see kdmt.config.direction_checks"
        yield CacheTeacher(direction, setting, tuple(paths or ()), source)


def needs_pivots(config: Pipeline) -> bool:
    """Return whether caches depend on the translations to a pivot language by the distill stage."""
    return any(each.has_pivot for each in cache_teachers(config))


def checkpoint_inputs(config: Pipeline) -> dict[str, str]:
    """Return the SHA-256 of the weights and of the text processing of the teachers of directions, by name in a plan.

    Raises:
        UserError: if there is no such checkpoint; the message has the YAML path.
    """
    found: dict[str, str] = {}
    for teacher in cache_teachers(config):
        for path in teacher.checkpoints:
            if is_model_folder(Path(path)):
                raise UserError(
                    f"{teacher.setting}: {path} is a model for CTranslate2, which gives no distributions for a cache: "
                    "name the checkpoint that it was exported from"
                )
            name = f"teacher of {teacher.direction} {path}"
            with naming(teacher.setting):
                folder = resolve_checkpoint(Path(path))
                found[name] = checkpoint_sha256(folder)
                companions = companion_names(load_text_processor(folder / TEXT_FILE).direction)
                found |= {f"{name} {companion}": path_sha256(folder / companion) for companion in companions}
    return found
