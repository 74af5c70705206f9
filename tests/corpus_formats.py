"""Writers of parallel text in every format that corpora may have, for tests."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pyarrow
import pyarrow.parquet
from backports import zstd

from kdmt.config import Corpus

Pairs = Sequence[tuple[str, str]]

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstd.compress,
}


def text(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def zip_file(members: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return archive.getvalue()


def tar_file(members: Mapping[str, bytes], style: int = tarfile.PAX_FORMAT) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=style) as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return archive.getvalue()


ARCHIVE: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {"zip": zip_file, "tar": tar_file}


def sgm(lines: Sequence[str], kind: str = "src", document: str = "d1") -> bytes:
    """Return the SGM of one side, with two sentences a document."""
    parts = [f'<{kind}set setid="test" srclang="any">\n']
    for start in range(0, len(lines), 2):
        parts.append(f'<doc sysid="{kind}" docid={quoteattr(f"{document}-{start}")} genre="news">\n<p>\n')
        for number, line in enumerate(lines[start : start + 2], start=1):
            parts.append(f'<seg id="{number}">{escape(line)}</seg>\n')
        parts.append("</p>\n</doc>\n")
    return "".join([*parts, f"</{kind}set>\n"]).encode()


def wmt_xml(sources: Sequence[str], parts: Mapping[str, Sequence[str]]) -> bytes:
    """Return the XML of one document; keys of `parts` are the attributes of its references and systems."""
    found = ['<?xml version=\'1.0\' encoding=\'utf-8\'?>\n<dataset id="test">\n<doc origlang="en" id="d1">\n']
    for tag, lines in {"src lang='en'": sources, **parts}.items():
        found.append(f"<{tag}>\n<p>\n")
        found += [f'<seg id="{number}">{escape(line)}</seg>\n' for number, line in enumerate(lines, start=1)]
        found.append(f"</p>\n</{tag.split()[0]}>\n")
    return "".join([*found, "</doc>\n</dataset>\n"]).encode()


def tmx(pairs: Pairs, *, encoding: str = "utf-8", languages: tuple[str, str] = ("en", "de")) -> bytes:
    units = [
        f'<tu><prop type="score">{number}</prop>'
        f'<tuv xml:lang="{languages[0]}"><seg>{escape(source)}</seg></tuv>'
        f'<tuv xml:lang="{languages[1]}"><seg>{escape(target)}</seg></tuv></tu>\n'
        for number, (source, target) in enumerate(pairs)
    ]
    head = f'<?xml version="1.0" encoding="{encoding}"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4">\n'
    return f"{head}<header srclang='en'/>\n<body>\n{''.join(units)}</body>\n</tmx>\n".encode(encoding)


def jsonl(pairs: Pairs) -> bytes:
    rows = [
        {"translation": {"en": source, "de": target}, "score": number} for number, (source, target) in enumerate(pairs)
    ]
    return text([json.dumps(row, ensure_ascii=number % 2 == 0) for number, row in enumerate(rows)])


def tsv(pairs: Pairs) -> bytes:
    rows = ["score\ten\tde", *(f"{number}\t{source}\t{target}" for number, (source, target) in enumerate(pairs))]
    return text(rows)


def parquet(pairs: Pairs, row_group_size: int = 2) -> bytes:
    table = pyarrow.table(
        {
            "score": pyarrow.array(range(len(pairs)), pyarrow.int64()),
            "translation": pyarrow.array([{"en": source, "de": target} for source, target in pairs]),
        }
    )
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, row_group_size=row_group_size)
    return file.getvalue()


FIELDS = {"source_field": "translation.en", "target_field": "translation.de"}
NAMED = {"source_field": "en", "target_field": "de", "header": True}
# form -> writer of a file with both sides, settings of the corpus
ONE_FILE: dict[str, tuple[Callable[[Pairs], bytes], dict[str, object]]] = {
    "tsv": (tsv, NAMED),
    "tmx": (tmx, {}),
    "jsonl": (jsonl, FIELDS),
    "parquet": (parquet, FIELDS),
    "wmt_xml": (lambda pairs: wmt_xml([s for s, _ in pairs], {"ref lang='de'": [t for _, t in pairs]}), {}),
}


def write_corpus(folder: Path, form: str, pairs: Pairs, **settings: object) -> tuple[Corpus, Path]:
    """Write a corpus in one file; return its entry of a pipeline and the file."""
    write, own = ONE_FILE[form]
    path = folder / f"corpus.{form}"
    path.write_bytes(write(pairs))
    return Corpus.model_validate({form: {"path": str(path)}, **own, **settings}), path
