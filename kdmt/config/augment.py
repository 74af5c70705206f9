"""Settings of augmentation: shares of the sentence pairs that are changed at random."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from kdmt.choices import AugmentRecipe, ModifierName, names
from kdmt.config.section import Section, changed

# shares of Mozilla's production students, as in the OpusTrainer configurations of mozilla/translations
DEFAULT_SHARES: Mapping[ModifierName, float] = {
    "upper_case": 0.07,
    "title_case": 0.05,
    "no_end_punctuation": 0.2,
    "typos": 0.05,
    "noise": 0.0005,
    "tags": 0.005,
}
_TYPO_SETTINGS = ("typo_rate",)  # that have no effect without 'typos'
_MARKUP: tuple[ModifierName, ...] = ("placeholders", "tags")
_CASES: tuple[ModifierName, ...] = ("upper_case", "title_case")

AUGMENT = "Changes of the training text in each epoch: shares of the pairs, or the recipe 'default'; null for none"
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class TextNoise(Section):
    """Shares of the sentence pairs whose text is changed, in another draw for each pair."""

    upper_case: Share = Field(0.0, description="Share of the pairs in upper case, in scripts that have case")
    title_case: Share = Field(
        0.0, description="Share of the pairs in which each word begins with a capital letter, in scripts that have case"
    )
    no_end_punctuation: Share = Field(
        0.0, description="Share of the pairs that lose the punctuation at the end of both sides, if both have some"
    )
    typos: Share = Field(
        0.0, description="Share of the pairs with typing errors in the source, except in logographic scripts"
    )
    typo_rate: float = Field(
        0.1, gt=0.0, le=1.0, description="Share of the words that have an error in a source with 'typos'; at least one"
    )
    merged: Share = Field(0.0, description="Share of the pairs that are joined with the next pair")

    @model_validator(mode="after")
    def _has_an_effect(self) -> TextNoise:
        if self.upper_case + self.title_case > 1.0:
            raise ValueError("'upper_case' and 'title_case' exclude each other, and their sum is more than 1")
        if not self.typos and any(name in _TYPO_SETTINGS for name in changed(self)):
            raise ValueError("'typo_rate' has no effect without 'typos'")
        if not any(self.shares().values()):
            raise ValueError("all shares are 0: set one, or null for no augmentation")
        return self

    def shares(self) -> dict[ModifierName, float]:
        """Return the share of each modifier that the section has."""
        return {name: getattr(self, name) for name in names(ModifierName) if name in type(self).model_fields}  # type: ignore[misc]


class Augment(TextNoise):
    """Augmentation of training pairs in each epoch, as shares of the pairs or as the name of a recipe."""

    noise: Share = Field(
        0.0, description="Share of the pairs that are replaced by random characters, the same on both sides"
    )
    placeholders: Share = Field(
        0.0, description="Share of the pairs in which a word and its translation become a placeholder such as __PH0__"
    )
    tags: Share = Field(
        0.0, description="Share of the pairs in which tags such as <b> are put around a word and around its translation"
    )


class DistillAugment(TextNoise):
    """Noise in the text that the teacher translates, as shares of the lines or as the name of a recipe."""

    seed: int = Field(1, ge=0, description="Seed of the draws")


def _from_recipe(section: type[TextNoise], value: Any) -> Any:
    """Return the shares of a recipe, without those that the section does not have; another value unchanged.

    Raises:
        ValueError: if there is no such recipe.
    """
    if not isinstance(value, str):
        return value
    if value not in names(AugmentRecipe):
        raise ValueError(f"there is no recipe {value[:80]!r}: give shares, or the recipe 'default'")
    return {name: share for name, share in DEFAULT_SHARES.items() if name in section.model_fields}


AugmentOrRecipe = Annotated[
    Augment,
    BeforeValidator(lambda value: _from_recipe(Augment, value), json_schema_input_type=Augment | AugmentRecipe),
]
DistillAugmentOrRecipe = Annotated[
    DistillAugment,
    BeforeValidator(
        lambda value: _from_recipe(DistillAugment, value), json_schema_input_type=DistillAugment | AugmentRecipe
    ),
]


def unusable_modifiers(*, moses: bool, case: str | None) -> dict[ModifierName, str]:
    """Return the changes that a text cannot have, with the reason.

    Args:
        moses: whether the text is tokenised by the rules of Moses.
        case: setting that removes the case of letters, such as `prepare.text.lowercase: true`; None for none.
    """
    found: dict[ModifierName, str] = {}
    for name in _MARKUP if moses else ():
        found[name] = (
            "cannot be combined with 'prepare.text.moses: true', which divides each of them into several tokens"
        )
    for name in _CASES if case is not None else ():
        found[name] = f"has no effect with '{case}'"
    return found


def check_text(
    modifiers: Sequence[ModifierName], path: str, *, tokenizer: str, unusable: Mapping[ModifierName, str]
) -> None:
    """Check that text can be changed, and that changes of case have an effect on it.

    Args:
        modifiers: changes of the text.
        path: YAML path of their setting.
        tokenizer: type of the tokenizer.
        unusable: changes that the text cannot have, see `unusable_modifiers`.

    Raises:
        ValueError: if a change is not possible or has no effect.
    """
    if tokenizer == "words":
        raise ValueError(f"'{path}': text of 'prepare.tokenizer.type: words' cannot be tokenised again")
    for name, reason in unusable.items():
        if name in modifiers:
            raise ValueError(f"'{path}': '{name}' {reason}")


def is_recipe(augment: TextNoise, unusable: Container[str]) -> bool:
    """Return whether a section has the shares of the recipe, without those of unusable changes."""
    recipe = _from_recipe(type(augment), "default")
    usable = {name: share for name, share in recipe.items() if name not in unusable}
    return usable == {name: share for name, share in augment.shares().items() if share}


def recipe_notes(augment: TextNoise, unusable: Mapping[ModifierName, str]) -> list[str]:
    """Return messages about changes of the recipe that are left out; an empty list if a section has other shares.

    Args:
        unusable: changes that are left out, with the reason.
    """
    if not is_recipe(augment, unusable):
        return []
    left_out = [name for name in _from_recipe(type(augment), "default") if name in unusable]
    return [f"'augment: default' is used without '{name}', which {unusable[name]}" for name in left_out]


def has_recipe(settings: Any) -> bool:
    """Return whether settings that are not validated have a recipe of augmentation, in them or below them."""
    if isinstance(settings, Mapping):
        return any(has_recipe(value) or (key == "augment" and _is_recipe(value)) for key, value in settings.items())
    return isinstance(settings, list) and any(map(has_recipe, settings))


def _is_recipe(value: Any) -> bool:
    return isinstance(value, str) and value in names(AugmentRecipe)


def with_usable_recipes(pipeline: Any, unusable: Iterable[str]) -> Any:
    """Return the settings of a pipeline with recipes that leave out what its text cannot have.

    Args:
        pipeline: mapping of the YAML file, not validated.
        unusable: changes that the text cannot have, see `unusable_modifiers`.
    """
    left_out = frozenset(unusable)
    if not left_out or not isinstance(pipeline, Mapping):
        return pipeline
    adapted = {
        key: _with_usable_recipe(pipeline[key], section, left_out)
        for key, section in (("teacher", Augment), ("distill", DistillAugment))
        if key in pipeline
    }
    students = pipeline.get("students")
    if isinstance(students, Mapping):
        adapted["students"] = {
            name: _with_usable_recipe(student, Augment, left_out) for name, student in students.items()
        }
    return {**pipeline, **adapted}


def _with_usable_recipe(settings: Any, section: type[TextNoise], left_out: frozenset[str]) -> Any:
    if not isinstance(settings, Mapping):
        return settings
    new = dict(settings)
    if _is_recipe(new.get("augment")):
        shares = {name: share for name, share in _from_recipe(section, new["augment"]).items() if name not in left_out}
        new["augment"] = section(**shares).model_dump()  # all settings, since a stage keeps those that it does not have
    if isinstance(new.get("stages"), list):
        new["stages"] = [_with_usable_recipe(stage, section, left_out) for stage in new["stages"]]
    return new
