"""Resolve names of data sets to files, without a network: from the recorded index and the installed sacreBLEU."""

from __future__ import annotations

from kdmt.corpus.datasets.messages import nearest_names
from kdmt.corpus.datasets.opus import resolve_opus, resolve_opus_monolingual
from kdmt.corpus.datasets.recorded_index import DatasetIndex, recorded_index
from kdmt.corpus.datasets.records import Dataset
from kdmt.corpus.datasets.sacrebleu_sets import resolve_sacrebleu
from kdmt.errors import UserError
from kdmt.languages import Direction

KINDS = ("mtdata", "opus", "sacrebleu", "flores", "ntrex", "tatoeba", "hf", "iwslt")


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
    if kind == "opus":
        return resolve_opus(text, direction, index)
    if kind == "sacrebleu":
        return resolve_sacrebleu(text, direction)
    raise UserError(f"{kind}: no such kind of data set; there is {', '.join(nearest_names(kind, KINDS) or KINDS)}")


def resolve_monolingual(kind: str, value: object, language: str, index: DatasetIndex | None = None) -> Dataset:
    """Return the monolingual text that a name means; its entry has the settings of `Source`.

    Raises:
        UserError: if there is no such data set, or not in this language.
    """
    index = index or recorded_index()
    if kind == "opus":
        return resolve_opus_monolingual(str(value), language, index)
    raise UserError(f"{kind}: {value}: there is no monolingual text under names of this kind; use 'opus' or 'mtdata'")
