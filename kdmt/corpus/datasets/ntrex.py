"""NTREX-128: newstest2019, 1,997 English sentences, and its translations into 128 language varieties.

Each variety is a text file in the repository, for example `NTREX-128/newstest2019-ref.deu.txt`; the English source is
`newstest2019-src.eng.txt`.
"""

from __future__ import annotations

from kdmt.corpus.datasets.codes import find_code
from kdmt.corpus.datasets.recorded_index import DatasetIndex
from kdmt.corpus.datasets.records import Dataset, two_files
from kdmt.errors import UserError
from kdmt.languages import Direction

_COMMIT = "c9f006f2c132c932b83ccd7aaa6a35930dd9c370"
_FOLDER = f"https://raw.githubusercontent.com/MicrosoftTranslator/NTREX/{_COMMIT}/NTREX-128"
NUM_LINES = 1997
_CITATION = """@inproceedings{federmann-etal-2022-ntrex,
  author = {Federmann, Christian and Kocmi, Tom and Xin, Ying},
  title = {{NTREX}-128 -- News Test References for {MT} Evaluation of 128 Languages},
  booktitle = {Proceedings of the First Workshop on Scaling Up Multilingual Evaluation},
  year = {2022},
  pages = {21--24},
  publisher = {Association for Computational Linguistics},
  url = {https://aclanthology.org/2022.sumeval-1.4},
}"""


def resolve_ntrex(direction: Direction, index: DatasetIndex) -> Dataset:
    """Return NTREX-128 in a direction.

    Raises:
        UserError: if it does not have both languages.
    """
    names = ntrex_names(index)
    codes = [find_code(side, names) for side in direction.sides]
    for side, code in zip(direction.sides, codes, strict=True):
        if code is None:
            same = [each for each in names if each.startswith(side.partition("-")[0].partition("_")[0])]
            raise UserError(f"ntrex: no {side}; there is {', '.join(same or names)}")
    return Dataset(
        name="ntrex: true",
        entry=two_files(*({"url": f"{_FOLDER}/{names[code]}"} for code in codes if code is not None)),
        licence="CC-BY-SA-4.0",
        citation=_CITATION,
        homepage="https://github.com/MicrosoftTranslator/NTREX",
        overlaps=("sacrebleu: wmt19 has the same English sentences as source of its pairs from English",),
        num_pairs=NUM_LINES,
    )


def ntrex_names(index: DatasetIndex) -> dict[str, str]:
    """Return the file name of each variety, by the code in it: `deu`, `eng-GB`, `srp-Cyrl`."""
    members = index.mtdata_records["Microsoft-ntrex-128"]["languages"].values()
    names = [member.rpartition("/")[2] for member in members]
    return {name.split(".")[1]: name for name in names}
