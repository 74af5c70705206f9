"""FLORES-200: 997 (dev) and 1012 (devtest) sentences of Wikimedia projects in 204 language varieties.

The archive has a file `flores200_dataset/SPLIT/CODE.SPLIT` for each variety, for example `deu_Latn.dev`. Its successor
FLORES+ (https://huggingface.co/datasets/openlanguagedata/flores_plus) can be downloaded only by users who have accepted
its terms, so that a pipeline names a local copy of it as files.
"""

from __future__ import annotations

from kdmt.corpus.datasets.codes import find_code
from kdmt.corpus.datasets.messages import unknown_name
from kdmt.corpus.datasets.recorded_index import DatasetIndex
from kdmt.corpus.datasets.records import Dataset, in_archive, two_files
from kdmt.errors import UserError
from kdmt.languages import Direction

_URL = "https://dl.fbaipublicfiles.com/nllb/flores200_dataset.tar.gz"
_SHORT_URL = "https://tinyurl.com/flores200dataset"  # redirects to it; mtdata's URL
_SIZE_BYTES = 25_585_843
NUM_LINES = {"dev": 997, "devtest": 1012}
_CITE = ("nllb-2022", "goyal2021", "guzman2019")


def resolve_flores(split: str, direction: Direction, index: DatasetIndex) -> Dataset:
    """Return a split of FLORES-200.

    Raises:
        UserError: if there is no such split, or it does not have both languages.
    """
    if split not in NUM_LINES:
        raise unknown_name(f"flores: {split}", NUM_LINES, what="a split of FLORES-200")
    codes = [_code(split, side, index) for side in direction.sides]
    return Dataset(
        name=f"flores: {split}",
        entry=two_files(*(in_archive(_URL, f"flores200_dataset/{split}/{code}.{split}") for code in codes)),
        licence="CC-BY-SA-4.0",
        citation="\n\n".join(index.citations[key] for key in _CITE),
        homepage="https://github.com/facebookresearch/flores/blob/main/flores200/README.md",
        alternatives={_URL: (_SHORT_URL,)},
        overlaps=("FLORES-101: its sentences are those of FLORES-200; 'dev' and 'devtest' have no sentence in common",),
        size_bytes=_SIZE_BYTES,
        num_pairs=NUM_LINES[split],
    )


def flores_codes(index: DatasetIndex) -> list[str]:
    """Return the codes of FLORES-200, such as `deu_Latn`."""
    members = index.mtdata_records["Flores-flores200_dev-1"]["languages"].values()
    return [member.rpartition("/")[2].removesuffix(".dev") for member in members]


def _code(split: str, language: str, index: DatasetIndex) -> str:
    codes = flores_codes(index)
    code = find_code(language, codes)
    if code is None:
        same = [each for each in codes if each.startswith(language.partition("_")[0].partition("-")[0])]
        advice = f"; there is {', '.join(same)}" if same else ""
        raise UserError(
            f"flores: {split}: FLORES-200 has no {language}{advice}. If FLORES+ has it, accept its terms at "
            "https://huggingface.co/datasets/openlanguagedata/flores_plus and give its files as 'source' and 'target'"
        )
    return code
