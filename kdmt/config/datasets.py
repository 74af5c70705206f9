"""Settings that name a published data set instead of its files; `kdmt lock` resolves the names."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, WithJsonSchema

from kdmt.config.section import Section, later

DatasetKind = Literal["mtdata", "opus", "sacrebleu", "flores", "ntrex", "tatoeba", "hf", "iwslt"]
DATASET_KINDS: tuple[DatasetKind, ...] = get_args(DatasetKind)

DatasetValue = str | bool  # value of one of these settings


def _text_of_year(value: object) -> object:
    return str(value) if type(value) is int else value


_Year = Annotated[str, BeforeValidator(_text_of_year), WithJsonSchema({"type": ["integer", "string"]})]


class NamedDataset(Section):
    """The names under which a data set can be given; at most one of them."""

    mtdata: str | None = later(
        None, pattern=r"^\S+$", description="Identifier of a data set of mtdata, as Statmt-europarl-10-deu-eng"
    )
    opus: str | None = later(
        None, pattern=r"^[^\s/]+/[^\s/]+(/[^\s/]+){0,2}$", description="Corpus and version of OPUS, as ParaCrawl/v9"
    )
    sacrebleu: str | None = later(
        None, pattern=r"^[^\s/]+(/[^\s/]+)*$", description="Test set of sacreBLEU, as wmt14/full or wmt19/en-de"
    )
    flores: Literal["dev", "devtest"] | None = later(None, description="Split of FLORES-200")
    ntrex: bool = later(False, description="Whether the text is NTREX-128, translations of newstest2019")
    tatoeba: str | None = later(None, pattern=r"^\S+$", description="Version of Tatoeba on OPUS, as 2023-04-12")
    hf: str | None = later(
        None,
        pattern=r"^[^\s/]+/\S+$",
        description="Parquet file of a data set of the Hugging Face hub, as wmt/wmt14/de-en/train",
    )
    iwslt: _Year | None = later(
        None,
        pattern=r"^20[0-9]{2}(/\S+)?$",
        description="Year of an IWSLT evaluation, as 2014 for its training text, or year and set, as 2014/tst2012",
    )

    @property
    def dataset(self) -> tuple[DatasetKind, DatasetValue] | None:
        """Return the kind and the value of the name, None if there is none."""
        names = given_names(self)
        return (names[0], getattr(self, names[0])) if names else None


def given_names(section: NamedDataset) -> list[DatasetKind]:
    """Return the kinds of the names that a section has, in the order of the table."""
    return [kind for kind in DATASET_KINDS if getattr(section, kind) not in (None, False)]


def check_one_origin(section: NamedDataset, others: tuple[str, ...]) -> None:
    """Check that a section with a name has no second one, and no setting that describes files.

    Args:
        others: names of settings that describe files, which have no effect with a name.

    Raises:
        ValueError: if there are two.
    """
    names = given_names(section)
    if len(names) > 1:
        raise ValueError(f"give either '{names[0]}' or '{names[1]}', not both")
    for other in others:
        if names and getattr(section, other) != type(section).model_fields[other].default:
            raise ValueError(f"'{other}' has no effect with '{names[0]}', which names the files: give one of them")
