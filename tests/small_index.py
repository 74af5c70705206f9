"""A small index of data sets, written by hand in the format of `data/datasets/record_index.py`."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

from kdmt.corpus.datasets.recorded_index import DatasetIndex

OPUS = """\
#Books\tv1\t\ttmx
de\ten\t51467\t7000
en\tzh_CN\t120\t30
#News\tv2018\t\t
de\ten\t100\t9
#News\tv2019\tWires\ttmx
de\ten
de\ten_GB\t50\t4
"""
MTDATA = [
    {
        "id": "Group-text-1-deu-eng",
        "url": "http://example.org/a.tgz",
        "format": "txt",
        "members": ["a.de", "a.en"],
        "cite": ["key"],
    },
    {"id": "Group-table-2-eng-deu", "url": "http://example.org/t.tsv.gz", "format": "tsv.gz", "columns": [4, 2]},
    {"id": "Group-memory-1-deu-eng", "url": "http://example.org/m.zip", "format": "tmx", "members": ["m.tmx"]},
    {"id": "Group-several-1-deu-eng", "url": "http://example.org/s.zip", "format": "tsv", "members": ["1", "2"]},
    {"id": "Group-text-1-deu", "url": "http://example.org/mono.gz", "format": "txt"},
    {"id": "Group-columns-1-deu", "url": "http://example.org/mono.tsv", "format": "tsv", "columns": [1]},
    {
        "id": "Group-all-1",
        "url": "http://example.org/all.tgz",
        "format": "txt",
        "languages": {"deu": "all.de", "eng": "all.en", "isl": "all.is"},
    },
    {
        "id": "Flores-flores200_dev-1",
        "url": "http://example.org/flores.tgz",
        "format": "txt",
        "languages": {"deu": "dev/deu_Latn.dev", "eng": "dev/eng_Latn.dev"},
    },
    {
        "id": "Microsoft-ntrex-128",
        "url": "http://example.org/ntrex.tgz",
        "format": "txt",
        "languages": {"eng": "*/newstest2019-src.eng.txt", "isl": "*/newstest2019-ref.isl.txt"},
    },
]
CODES = {"de": "deu", "en": "eng", "en_GB": "eng_GB", "zh_CN": "zho_CN"}


def small_index(folder: Path) -> DatasetIndex:
    """Write the index to a folder and return it."""
    folder.mkdir(exist_ok=True)
    (folder / "opus.txt.xz").write_bytes(lzma.compress(OPUS.encode()))
    (folder / "mtdata.jsonl.xz").write_bytes(lzma.compress("\n".join(map(json.dumps, MTDATA)).encode()))
    (folder / "mtdata-codes.json").write_text(json.dumps(CODES))
    keys = ("key", "tiedemann2012parallel", "nllb-2022", "goyal2021", "guzman2019")
    citations = {key: f"@misc{{{key}}}" for key in keys}
    (folder / "citations.json.xz").write_bytes(lzma.compress(json.dumps(citations).encode()))
    return DatasetIndex(folder)
