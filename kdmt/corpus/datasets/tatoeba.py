"""Sentences of Tatoeba (https://tatoeba.org) as OPUS publishes them.

`tatoeba: 2023-04-12` is `opus: Tatoeba/v2023-04-12`. `challenge-v2021-08-07/SPLIT` names the Tatoeba Translation
Challenge: `test` and `dev` are sentences of Tatoeba, `train` is the rest of OPUS in the pair.
"""

from __future__ import annotations

from dataclasses import replace

import pycountry

from kdmt.corpus.datasets.messages import unknown_name
from kdmt.corpus.datasets.opus import OBJECTS, resolve_opus
from kdmt.corpus.datasets.recorded_index import DatasetIndex
from kdmt.corpus.datasets.records import Dataset, in_archive, two_files
from kdmt.languages import Direction, parse_language

_CHALLENGE = "challenge-"
# releases of the challenge, and the endings of the files of each split
_RELEASES = ("v2021-08-07", "v2023-09-26")
_ENDINGS = {"train": ".gz", "dev": "", "test": ""}
_CITATION = """@inproceedings{tiedemann-2020-tatoeba,
  author = {Tiedemann, J{\\"o}rg},
  title = {The {T}atoeba {T}ranslation {C}hallenge -- Realistic Data Sets for Low Resource and Multilingual {MT}},
  booktitle = {Proceedings of the Fifth Conference on Machine Translation},
  year = {2020},
  pages = {1174--1182},
  publisher = {Association for Computational Linguistics},
  url = {https://aclanthology.org/2020.wmt-1.139},
}"""


def resolve_tatoeba(version: str, direction: Direction, index: DatasetIndex) -> Dataset:
    """Return the sentences of Tatoeba of a version, or a split of the Tatoeba Translation Challenge.

    Raises:
        UserError: if there is no such version or split, or not in these languages.
    """
    if version.startswith(_CHALLENGE):
        return _challenge(version, direction)
    known = [release.version for release in index.opus_releases() if release.corpus == "Tatoeba"]
    if f"v{version}" not in known:
        raise unknown_name(f"tatoeba: {version}", (each.removeprefix("v") for each in known), what="a version")
    return replace(resolve_opus(f"Tatoeba/v{version}", direction, index), name=f"tatoeba: {version}")


def _challenge(value: str, direction: Direction) -> Dataset:
    release, _, split = value.removeprefix(_CHALLENGE).partition("/")
    if release not in _RELEASES or split not in _ENDINGS:
        known = (f"{_CHALLENGE}{release}/{split}" for release in _RELEASES for split in _ENDINGS)
        raise unknown_name(f"tatoeba: {value}", known, what="a split of the Tatoeba Translation Challenge")
    codes = [_three_letters(side) for side in direction.sides]
    pair = "-".join(sorted(codes))
    url = f"{OBJECTS}/Tatoeba-Challenge-{release}/{pair}.tar"
    sides = ("src", "trg") if codes == sorted(codes) else ("trg", "src")
    ending = _ENDINGS[split]
    members = [f"data/release/{release}/{pair}/{split}.{side}{ending}" for side in sides]
    return Dataset(
        name=f"tatoeba: {value}",
        entry=two_files(*(in_archive(url, member) for member in members)),
        licence="CC-BY-2.0-FR" if split != "train" else None,
        citation=_CITATION,
        homepage="https://github.com/Helsinki-NLP/Tatoeba-Challenge",
        overlaps=("Tatoeba: the test and dev sentences are in OPUS's Tatoeba; train is all other corpora of OPUS",),
    )


def _three_letters(code: str) -> str:
    """Return the code of ISO 639-3 of a language."""
    language = parse_language(code).language
    found = pycountry.languages.get(alpha_2=language) if len(language) == 2 else None
    return language if found is None else str(found.alpha_3)
