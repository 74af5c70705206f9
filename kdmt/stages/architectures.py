"""Whether the models of a pipeline can be built, told before the first stage runs."""

from __future__ import annotations

from kdmt.config import Model, Pipeline
from kdmt.errors import UserError
from kdmt.models.architecture import TransformerConfig, architecture


def check_architectures(config: Pipeline) -> None:
    """Refuse models that contradict themselves, the vocabulary, or the teacher that they take layers from.

    Raises:
        UserError: with the YAML path.
    """
    teacher = _architecture(config, "teacher", config.teacher.model)
    for name, student in config.students.items():
        own = _architecture(config, f"students.{name}", student.model)
        for side in ("encoder", "decoder"):
            chosen = getattr(student, f"{side}_layers_from_teacher")
            if chosen is not None:
                setting = f"students.{name}.{side}_layers_from_teacher"
                _check_layers(setting, chosen, getattr(own, f"{side}_layers"), getattr(teacher, f"{side}_layers"))


def _architecture(config: Pipeline, path: str, model: Model) -> TransformerConfig:
    try:
        found = architecture(model.arch, model.overrides())
    except UserError as error:
        raise UserError(f"{path}.{error}") from None
    if found.share_all_embeddings and not config.prepare.vocabulary.joined:
        raise UserError(f"{path}.model.share_all_embeddings needs 'prepare.vocabulary.joined: true'")
    return found


def _check_layers(setting: str, chosen: list[int], num_own: int, num_teacher: int) -> None:
    if len(chosen) != num_own:
        raise UserError(f"{setting}: {len(chosen)} layers are chosen, the student has {num_own}")
    for layer in chosen:
        if not 0 <= layer < num_teacher:
            raise UserError(f"{setting}: the teacher has no layer {layer}, only 0 to {num_teacher - 1}")
