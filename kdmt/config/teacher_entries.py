"""Entries of `distill.teachers`: the models that translate, for all text or for each direction."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag

from kdmt.config.directions import DirectionName
from kdmt.config.language_models import DISTINCTIVE, EndpointTeacher, LocalGenerator, LocalTranslator
from kdmt.config.section import LanguageCode, Section, execution


class ForeignTeacher(Section):
    """A Marian, mBART-50, M2M-100 or NLLB model of Hugging Face Transformers, with its own tokenizer."""

    huggingface: str = Field(min_length=1, description="Folder of the model, or its name on the Hugging Face Hub")
    revision: str | None = Field(None, description="Branch, tag or commit on the Hub; null for the default branch")
    source_code: LanguageCode | None = Field(
        None,
        description="Source language in the tokenizer's codes: en_XX (mBART-50), en (M2M-100), eng_Latn (NLLB); null "
        "for a model of one language",
    )
    target_code: LanguageCode | None = Field(
        None,
        description="Target language in the tokenizer's codes, deu for Marian's >>deu<<; null for a model of one "
        "language",
    )
    other_languages: bool = execution(
        False, description="Whether the model may translate between other languages than the pipeline's"
    )


CHECKPOINT_BRANCH, FOREIGN_BRANCH = "<a checkpoint>", "<a foreign model>"
ENDPOINT_BRANCH, GENERATOR_BRANCH, TRANSLATOR_BRANCH = "<an endpoint>", "<a generator>", "<a translator>"
_BRANCHES: dict[type[Section], str] = {
    ForeignTeacher: FOREIGN_BRANCH,
    EndpointTeacher: ENDPOINT_BRANCH,
    LocalGenerator: GENERATOR_BRANCH,
    LocalTranslator: TRANSLATOR_BRANCH,
}
TEACHER_BRANCHES = (CHECKPOINT_BRANCH, *_BRANCHES.values())


def _teacher_branch(value: object) -> str:
    """Return the tag of the type that an item of `teachers` has."""
    if isinstance(value, Section):
        return _BRANCHES[type(value)]
    if not isinstance(value, dict):
        return CHECKPOINT_BRANCH
    return next((_BRANCHES[section] for name, section in DISTINCTIVE.items() if name in value), FOREIGN_BRANCH)


TeacherName = Annotated[
    Annotated[str, Tag(CHECKPOINT_BRANCH)]
    | Annotated[ForeignTeacher, Tag(FOREIGN_BRANCH)]
    | Annotated[EndpointTeacher, Tag(ENDPOINT_BRANCH)]
    | Annotated[LocalGenerator, Tag(GENERATOR_BRANCH)]
    | Annotated[LocalTranslator, Tag(TRANSLATOR_BRANCH)],
    Discriminator(_teacher_branch),
]


# --------------------------------------------------------------------------------------------- teachers of directions


def _of_a_pivot(value: Any) -> Any:
    """Refuse the models that cannot translate to or from a pivot language."""
    for name in ("endpoint", "ctranslate2_generator"):
        if isinstance(value, dict) and name in value:
            raise ValueError(f"a model with '{name}' cannot be one of the two models of a pivot language")
    return value


PivotLeg = Annotated[
    Annotated[str, Tag(CHECKPOINT_BRANCH)]
    | Annotated[ForeignTeacher, Tag(FOREIGN_BRANCH)]
    | Annotated[LocalTranslator, Tag(TRANSLATOR_BRANCH)],
    Discriminator(_teacher_branch),
    BeforeValidator(_of_a_pivot),
]


class PivotTeacher(Section):
    """Two models that translate through a pivot language."""

    pivot: LanguageCode = Field(description="Pivot language, such as en for de to en to fr")
    teachers: list[PivotLeg] = Field(
        min_length=2, max_length=2, description="The model to the pivot language and the one from it"
    )
    nbest: int = Field(
        1, ge=1, description="Number of hypotheses in the pivot language that are translated, at most 'decode.beam'"
    )


ONE_MODEL_BRANCH, MODELS_BRANCH = "<one model>", "<models of directions>"
# a checkpoint of the opposite direction: of all directions, or by the direction of the pairs
OppositeModels = Annotated[
    Annotated[str, Tag(ONE_MODEL_BRANCH)]
    | Annotated[dict[DirectionName, str], Field(min_length=1), Tag(MODELS_BRANCH)],
    Discriminator(lambda value: MODELS_BRANCH if isinstance(value, dict) else ONE_MODEL_BRANCH),
]
ENSEMBLE_BRANCH, ORIGINAL_BRANCH, PIVOT_BRANCH = "<an ensemble>", "<no teacher>", "<a pivot>"
SHARED_BRANCH, DIRECTIONS_BRANCH = "<teachers of all text>", "<teachers of directions>"


def _direction_branch(value: object) -> str:
    """Return the tag of the type that the teacher of a direction has."""
    if value is None:
        return ORIGINAL_BRANCH
    if isinstance(value, PivotTeacher) or (isinstance(value, dict) and "pivot" in value):
        return PIVOT_BRANCH
    return ENSEMBLE_BRANCH if isinstance(value, list) else _teacher_branch(value)


DirectionTeacher = Annotated[
    Annotated[str, Tag(CHECKPOINT_BRANCH)]
    | Annotated[list[str], Field(min_length=1), Tag(ENSEMBLE_BRANCH)]
    | Annotated[ForeignTeacher, Tag(FOREIGN_BRANCH)]
    | Annotated[EndpointTeacher, Tag(ENDPOINT_BRANCH)]
    | Annotated[LocalGenerator, Tag(GENERATOR_BRANCH)]
    | Annotated[LocalTranslator, Tag(TRANSLATOR_BRANCH)]
    | Annotated[PivotTeacher, Tag(PIVOT_BRANCH)]
    | Annotated[None, Tag(ORIGINAL_BRANCH)],
    Discriminator(_direction_branch),
]
Teachers = Annotated[
    Annotated[list[TeacherName], Tag(SHARED_BRANCH)]
    | Annotated[dict[DirectionName, DirectionTeacher], Field(min_length=1), Tag(DIRECTIONS_BRANCH)],
    Discriminator(lambda value: DIRECTIONS_BRANCH if isinstance(value, dict) else SHARED_BRANCH),
]
DIRECTION_BRANCHES = (
    *(ENSEMBLE_BRANCH, ORIGINAL_BRANCH, PIVOT_BRANCH, SHARED_BRANCH, DIRECTIONS_BRANCH),
    *(ONE_MODEL_BRANCH, MODELS_BRANCH),
)
