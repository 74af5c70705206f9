"""Settings of augmentation: shares of the sentence pairs that are changed at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def check_text(modifiers: Sequence[ModifierName], path: str, *, tokenizer: str, moses: bool, case: str | None) -> None:
    """Check that text can be changed, and that changes of case have an effect on it.

    Args:
        modifiers: changes of the text.
        path: YAML path of their setting.
        tokenizer: type of the tokenizer.
        moses: whether the text is tokenised by the rules of Moses.
        case: setting that removes the case of letters, such as `prepare.text.lowercase: true`; None for none.

    Raises:
        ValueError: if a change is not possible or has no effect.
    """
    if tokenizer == "words":
        raise ValueError(f"'{path}': text of 'prepare.tokenizer.type: words' cannot be tokenised again")
    for name in ("placeholders", "tags"):
        if moses and name in modifiers:
            raise ValueError(
                f"'{path}': '{name}' cannot be combined with 'prepare.text.moses: true', which divides each of them "
                "into several tokens"
            )
    for name in ("upper_case", "title_case"):
        if case is not None and name in modifiers:
            raise ValueError(f"'{path}': '{name}' has no effect with '{case}'")
