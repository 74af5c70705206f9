"""Data sets of the Hugging Face hub, in the Parquet files that the hub makes of every public data set.

A name is `OWNER/NAME[@REVISION][/CONFIG[/SPLIT[/FILE]]]`. Without a revision the files are those of the hub's branch
`refs/convert/parquet`: `CONFIG/SPLIT/0000.parquet`, with further files `0001.parquet` and so on for large splits, each
of which is an entry of its own. Without CONFIG it is `default`, without SPLIT `train`.

The sentences are in the fields `translation.CODE`, as in the translation data sets of the hub (`wmt/wmt14`,
`Helsinki-NLP/opus-100`).
"""

from __future__ import annotations

import re
from urllib.parse import quote

from kdmt.corpus.datasets.records import Dataset
from kdmt.errors import UserError
from kdmt.languages import Direction

_HUB = "https://huggingface.co/datasets"
_CONVERTED = "refs/convert/parquet"
_PART = r"[\w.\-+]+"
_NAME = re.compile(rf"(?P<name>{_PART}/{_PART})(@(?P<revision>{_PART}))?(?P<path>(/{_PART})*)")
_DEFAULTS = ("default", "train", "0000")


def resolve_hugging_face(value: str, direction: Direction) -> Dataset:
    """Return a data set of the hub; without a network it is not checked whether it exists.

    Raises:
        UserError: if the value has another form.
    """
    match = _NAME.fullmatch(value)
    path: list[str] = match["path"].split("/")[1:] if match else []
    if match is None or len(path) > len(_DEFAULTS):
        raise UserError(f"hf: {value}: expected OWNER/NAME, or OWNER/NAME/CONFIG/SPLIT, as wmt/wmt14/de-en/validation")
    config, split, file = [*path, *_DEFAULTS[len(path) :]]
    return Dataset(
        name=f"hf: {value}",
        entry={
            "parquet": {"url": parquet_url(match["name"], config, split, file, match["revision"] or _CONVERTED)},
            "source_field": f"translation.{direction.source}",
            "target_field": f"translation.{direction.target}",
        },
        homepage=f"{_HUB}/{match['name']}",
    )


def parquet_url(name: str, config: str, split: str, file: str = "0000", revision: str = _CONVERTED) -> str:
    """Return the URL of a Parquet file of a data set of the hub."""
    return f"{_HUB}/{name}/resolve/{quote(revision, safe='')}/{config}/{split}/{file.removesuffix('.parquet')}.parquet"


def file_url(name: str, path: str) -> str:
    """Return the URL of a file in the repository of a data set of the hub."""
    return f"{_HUB}/{name}/resolve/main/{path}"
