"""All data sets of a language pair that the index lists, for training and for testing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from kdmt.corpus.datasets.iwslt import iwslt_names
from kdmt.corpus.datasets.mtdata_ids import mtdata_pairs, mtdata_texts
from kdmt.corpus.datasets.opus import best_pair, opus_dataset, pairs_of_release
from kdmt.corpus.datasets.recorded_index import DatasetIndex, OpusRelease
from kdmt.corpus.datasets.records import Dataset
from kdmt.corpus.datasets.resolve import resolve
from kdmt.corpus.datasets.sacrebleu_sets import sacrebleu_pairs
from kdmt.errors import UserError
from kdmt.languages import Direction

Use = Literal["train", "test", "monolingual"]

_HELD_OUT = re.compile(r"test|dev|valid|tst|wmt24pp")  # in names of mtdata, sacreBLEU and IWSLT
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Found:
    """A data set and what it is for.

    Attributes:
        dataset: the data set; its name can be pasted into a pipeline.
        use: `train`, `test` (also development sets), or `monolingual`.
    """

    dataset: Dataset
    use: Use


def find_datasets(direction: Direction, index: DatasetIndex, *, all_versions: bool = False) -> list[Found]:
    """Return the data sets in a direction: training text by size, the largest first, then test sets.

    Args:
        direction: languages; regional varieties of them count as well.
        index: index of data sets.
        all_versions: whether to include releases of OPUS of which there is a newer version in this pair.
    """
    found = [Found(dataset, "train") for dataset in _of_opus(direction, index, all_versions)]
    found += [Found(dataset, _use(dataset)) for dataset in mtdata_pairs(direction, index)]
    found += [Found(dataset, _use(dataset)) for dataset in _test_sets(direction, index)]
    return sorted(found, key=lambda each: (each.use != "train", -(each.dataset.num_pairs or 0)))


def find_monolingual(language: str, index: DatasetIndex) -> list[Found]:
    """Return the monolingual text in a language in files that a pipeline can read."""
    return [Found(dataset, "monolingual") for dataset in mtdata_texts(language, index)]


def _of_opus(direction: Direction, index: DatasetIndex, all_versions: bool) -> Iterator[Dataset]:
    """Yield the data sets of OPUS, of each corpus the newest version that has the pair unless all are wanted."""
    newest: dict[str, list[Dataset]] = {}
    for release in sorted(index.opus_releases(), key=_age):
        found = list(pairs_of_release(release, direction, index))
        best = best_pair(found, direction)
        names = [release.name if each == best else f"{release.name}/{'-'.join(each[0].codes)}" for each in found]
        if found:
            newest[release.name if all_versions else release.corpus] = [
                opus_dataset(pair, codes, value=name, index=index)
                for name, (pair, codes) in zip(names, found, strict=True)
            ]
    for datasets in newest.values():
        yield from datasets


def _age(release: OpusRelease) -> tuple[str, list[int], str]:
    """Return a key that sorts the versions of a corpus: v7.1 before v9, v20190709 before v2020-05-31."""
    numbers = [int(number) for number in _NUMBER.findall(release.version.replace("-", ""))]
    return release.corpus, numbers, release.version


def _use(dataset: Dataset) -> Use:
    name = dataset.name
    return "test" if name.startswith(("flores", "ntrex")) or _is_held_out(name) else "train"


def _is_held_out(name: str) -> bool:
    """Return whether a data set is a test or development set by its name."""
    kind, _, value = name.partition(": ")
    return (kind == "sacrebleu" and not value.endswith("/train")) or bool(_HELD_OUT.search(value))


def _test_sets(direction: Direction, index: DatasetIndex) -> Iterator[Dataset]:
    """Yield the test sets of sacreBLEU, FLORES, NTREX and IWSLT, and IWSLT's training text."""
    yield from sacrebleu_pairs(direction)
    for name in ("flores: dev", "flores: devtest", "ntrex: true", *(f"iwslt: {each}" for each in iwslt_names())):
        kind, _, value = name.partition(": ")
        with suppress(UserError):  # the set does not have these languages
            yield resolve(kind, value, direction, index)
