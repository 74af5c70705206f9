"""Resolve names of data sets to files, without a network: from the recorded index and the installed sacreBLEU."""

from __future__ import annotations

from collections.abc import Callable

from kdmt.corpus.datasets.flores import resolve_flores
from kdmt.corpus.datasets.hugging_face import resolve_hugging_face
from kdmt.corpus.datasets.iwslt import resolve_iwslt
from kdmt.corpus.datasets.mtdata_ids import resolve_mtdata, resolve_mtdata_monolingual
from kdmt.corpus.datasets.ntrex import resolve_ntrex
from kdmt.corpus.datasets.opus import resolve_opus, resolve_opus_monolingual
from kdmt.corpus.datasets.recorded_index import DatasetIndex, recorded_index
from kdmt.corpus.datasets.records import Dataset
from kdmt.corpus.datasets.sacrebleu_sets import resolve_sacrebleu
from kdmt.corpus.datasets.tatoeba import resolve_tatoeba
from kdmt.errors import UserError
from kdmt.languages import Direction

_Resolver = Callable[[str, Direction, DatasetIndex], Dataset]

_RESOLVERS: dict[str, _Resolver] = {
    "mtdata": resolve_mtdata,
    "opus": resolve_opus,
    "sacrebleu": lambda name, direction, _: resolve_sacrebleu(name, direction),
    "flores": resolve_flores,
    "ntrex": lambda _, direction, index: resolve_ntrex(direction, index),
    "tatoeba": resolve_tatoeba,
    "hf": lambda name, direction, _: resolve_hugging_face(name, direction),
    "iwslt": lambda name, direction, _: resolve_iwslt(name, direction),
}
KINDS = tuple(_RESOLVERS)


def resolve(kind: str, value: object, direction: Direction, index: DatasetIndex | None = None) -> Dataset:
    """Return the data set that a name in a pipeline means.

    Args:
        kind: kind of name, one of `KINDS`.
        value: value of the setting, for example `ParaCrawl/v9`; true for kinds with one data set.
        direction: languages of the pipeline; the entry of the result has them in this order.
        index: index of data sets (default: the one that comes with the package).

    Raises:
        UserError: if there is no such data set, or not in these languages; the message has the nearest names.
    """
    index = index or recorded_index()
    text = "" if isinstance(value, bool) else str(value)
    if kind not in _RESOLVERS:
        raise UserError(f"{kind}: no such kind of data set; there is {', '.join(KINDS)}")
    return _RESOLVERS[kind](text, direction, index)


def resolve_monolingual(kind: str, value: object, language: str, index: DatasetIndex | None = None) -> Dataset:
    """Return the monolingual text that a name means; its entry has the settings of `Source`.

    Raises:
        UserError: if there is no such data set, or not in this language.
    """
    index = index or recorded_index()
    if kind == "opus":
        return resolve_opus_monolingual(str(value), language, index)
    if kind == "mtdata":
        return resolve_mtdata_monolingual(str(value), language, index)
    raise UserError(f"{kind}: {value}: there is no monolingual text under names of this kind; use 'opus' or 'mtdata'")
