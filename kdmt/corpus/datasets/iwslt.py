"""TED talks of the IWSLT evaluations: `iwslt: 2014` is the training text, `2014/tst2012` a test set.

The archive of a pair (`de-en.tgz`) has tagged text for training (`train.tags.de-en.de`) and XML files for development
and test sets (`IWSLT14.TED.tst2012.de-en.de.xml`). In both, the sentences of the two sides correspond line by line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdmt.corpus.datasets.codes import find_code
from kdmt.corpus.datasets.messages import unknown_name
from kdmt.corpus.datasets.records import Dataset, in_archive, two_files
from kdmt.errors import UserError
from kdmt.languages import Direction

_WIT3 = "https://raw.githubusercontent.com/hlt-mt/WIT3/master/archive"
_CITATIONS = {
    2014: """@inproceedings{cettolo-etal-2014-report,
  author = {Cettolo, Mauro and Niehues, Jan and St{\\"u}ker, Sebastian and Bentivogli, Luisa and Federico, Marcello},
  title = {Report on the 11th {IWSLT} evaluation campaign},
  booktitle = {Proceedings of the 11th International Workshop on Spoken Language Translation: Evaluation Campaign},
  year = {2014},
  pages = {2--17},
  url = {https://aclanthology.org/2014.iwslt-evaluation.1},
}""",
    2017: """@inproceedings{cettolo-etal-2017-overview,
  author = {Cettolo, Mauro and Federico, Marcello and Bentivogli, Luisa and Niehues, Jan and St{\\"u}ker, Sebastian and
    Sudoh, Katsuhito and Yoshino, Koichiro and Federmann, Christian},
  title = {Overview of the {IWSLT} 2017 Evaluation Campaign},
  booktitle = {Proceedings of the 14th International Conference on Spoken Language Translation},
  year = {2017},
  pages = {2--14},
  url = {https://aclanthology.org/2017.iwslt-1.1},
}""",
}


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of IWSLT.

    Attributes:
        url: URL of the archive of a pair, with the fields `source` and `target`.
        pairs: pairs of languages by the codes of the archive.
        sets: development and test sets, each with its name in the names of the files.
        alternatives: other URLs of the archive.
    """

    url: str
    pairs: tuple[tuple[str, str], ...]
    sets: Mapping[str, str]
    alternatives: tuple[str, ...] = ()


_WITH_ENGLISH_2017 = ("ar", "de", "fr", "ja", "ko", "zh")
_EVALUATIONS = {
    # the archive of 2014 is no longer at wit3.fbk.eu; fairseq's copy of German and English is the usual origin
    2014: Evaluation(
        "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz",
        (("de", "en"),),
        {
            **{name: f"IWSLT14.TED.{name}" for name in ("dev2010", "tst2010", "tst2011", "tst2012")},
            "dev2012": "IWSLT14.TEDX.dev2012",
        },
        ("https://wit3.fbk.eu/archive/2014-01/texts/de/en/de-en.tgz",),
    ),
    2017: Evaluation(
        f"{_WIT3}/2017-01-trnted/texts/{{source}}/{{target}}/{{source}}-{{target}}.tgz",
        tuple(pair for code in _WITH_ENGLISH_2017 for pair in (("en", code), (code, "en"))),
        {name: f"IWSLT17.TED.{name}" for name in ("dev2010", *(f"tst{year}" for year in range(2010, 2016)))},
    ),
}


def resolve_iwslt(value: str, direction: Direction) -> Dataset:
    """Return the training text, or a development or test set, of an evaluation.

    Raises:
        UserError: if there is no such evaluation or set, or not in these languages.
    """
    year, _, name = value.partition("/")
    if value not in iwslt_names():
        raise unknown_name(f"iwslt: {value}", iwslt_names(), what="a set of IWSLT")
    evaluation = _EVALUATIONS[int(year)]
    pair, codes = _find_pair(value, evaluation, direction)
    url = evaluation.url.format(source=pair[0], target=pair[1])
    stem = "-".join(pair)
    members = [f"{stem}/train.tags.{stem}.{code}" for code in codes]
    if name:
        members = [f"{stem}/{evaluation.sets[name]}.{stem}.{code}.xml" for code in codes]
    return Dataset(
        name=f"iwslt: {value}",
        entry=two_files(*(in_archive(url, member) for member in members)),
        licence="CC-BY-NC-ND (TED talks)",
        citation=_CITATIONS[int(year)],
        homepage="https://wit3.fbk.eu",
        alternatives={url: evaluation.alternatives} if evaluation.alternatives else {},
        overlaps=("TED2020, TED2013, NeuLab-TedTalks: the same talks, also those of the test sets",),
    )


def iwslt_names() -> list[str]:
    """Return all names: the evaluations, and their development and test sets."""
    return [
        name
        for year, evaluation in _EVALUATIONS.items()
        for name in (str(year), *(f"{year}/{each}" for each in evaluation.sets))
    ]


def _find_pair(value: str, evaluation: Evaluation, direction: Direction) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the pair of an archive, and the codes of the source and the target; the archive of the direction first."""
    for swapped in (False, True):
        for pair in evaluation.pairs:
            codes = (pair[1], pair[0]) if swapped else pair
            if all(find_code(side, [code]) for side, code in zip(direction.sides, codes, strict=True)):
                return pair, codes
    listed = ", ".join("-".join(pair) for pair in evaluation.pairs)
    raise UserError(f"iwslt: {value}: no {direction}; there is {listed}")
