"""Invalid and unusual text: wrong encodings, archives, markup, control characters, lines without an end."""

from __future__ import annotations

import gzip
import io
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from corpus_formats import ARCHIVE, COMPRESS, ONE_FILE

from fuzz.case import Case, stage
from fuzz.damage import ESCAPES, PWNED, damage_bytes, replace_path

MARK = "\u0301"


def damage(rng: random.Random, folder: Path) -> Case:
    """Damage one file or one corpus of the pipeline; in half of the cases the earlier runs are kept."""
    if rng.random() < 0.5:
        shutil.rmtree(folder / "runs")
    what = rng.choice([_text, _text, _text, _text, _bytes, _path, _gzip, _zip, _tsv, _tokens, _form, _form])(
        rng, folder
    )
    sets = rng.choice(_SETS)
    later = [stage("teacher", *sets, *_SHORT), stage("score", *sets, *_SHORT, "students={}")]
    return Case(f"{what}; {', '.join(sets)}", (stage("prepare", *sets), *later), again=stage("prepare", *sets))


_SHORT = ("teacher.train.max_updates=2", "teacher.train.validate_interval_updates=2")
_SETS: list[tuple[str, ...]] = [
    *((),) * 4,
    ("prepare.tokenizer={type: words}",),
    ("prepare.tokenizer={type: subword-nmt, model: bpe, vocab_size: 20}",),
    ("prepare.text={moses: true, normalize: true}",),
    ("prepare.text.lowercase=true", "score.lowercase=true"),
    ("prepare.clean=none", "prepare.decontaminate=false"),
    ("prepare.clean={unicode_form: NFKC, drop_duplicates: false}",),
]


def _file(rng: random.Random, folder: Path) -> Path:
    return folder / "text" / f"{rng.choice(['train', 'train', 'valid', 'test'])}.{rng.choice(['en', 'de'])}"


# -------------------------------------------------------------------------------------------------------- text files


def _text(rng: random.Random, folder: Path) -> str:
    path = _file(rng, folder)
    lines = path.read_bytes().splitlines()
    name = rng.choice(list(_LINES | _WHOLE))
    if name in _WHOLE:
        data = _WHOLE[name](lines)
    else:
        for _ in range(rng.choice([1, 1, 5])):
            number = rng.randrange(len(lines))
            lines[number] = _LINES[name](lines[number])
        data = b"\n".join(lines) + b"\n"
    path.write_bytes(data)
    return f"{path.name}: {name}"


_LINES: dict[str, Callable[[bytes], bytes]] = {
    "Latin-1": lambda line: line + b" caf\xe9",
    "NUL": lambda line: line + b"\0" + line,
    "escape sequences": lambda line: ESCAPES.encode() + line,
    "a surrogate": lambda line: line + b"\xed\xa0\x80",
    "an overlong form": lambda line: line + b"\xc0\xaf",
    "four million bytes": lambda _: b"ba " * 1_400_000,
    "a word of four million bytes": lambda _: b"a" * 4_000_000,
    "400 kB of combining marks": lambda _: b"a" + MARK.encode() * 200_000,
    "a carriage return inside": lambda line: line[:3] + b"\r" + line[3:],
    "other line separators": lambda line: line + "\u2028x\u0085y\x0bz".encode(),
    "special symbols": lambda line: line + b" <pad> <s> </s> <unk> <mask>",
    "only special symbols": lambda _: b"<pad> </s>",
    "subword marks": lambda line: "▁ ▁ba @@ b@@ ".encode() + line,
    "spaces of other kinds": lambda line: "\u00a0\u2003\u200b\ufeff".encode() + line,
    "text from right to left": lambda line: "\u202e\u200fשלום ".encode() + line,
    "empty": lambda _: b"",
    "spaces alone": lambda _: b"   \t ",
    "Moses escapes": lambda line: b"&#91; &quot; &amp;amp; @-@ " + line,
    "emoji": lambda line: "👩‍👩‍👧 🇩🇪 ".encode() * 20 + line,
    "fairseq's fillers": lambda line: b"madeupword0000 #fairseq:overwrite " + line,
    "characters that are none": lambda line: "\uffff\ufffe\U0010ffff ".encode() + line,
    "one character a million times": lambda _: b"x " * 500_000,
    "a tab": lambda line: line + b"\tmore",
}
_WHOLE: dict[str, Callable[[list[bytes]], bytes]] = {
    "carriage returns alone end its lines": lambda lines: b"\r".join(lines) + b"\r",
    "CRLF": lambda lines: b"\r\n".join(lines) + b"\r\n",
    "a byte order mark": lambda lines: b"\xef\xbb\xbf" + b"\n".join(lines) + b"\n",
    "UTF-16 without a mark": lambda lines: b"\n".join(lines).decode().encode("utf-16-le"),
    "UTF-32": lambda lines: b"\n".join(lines).decode().encode("utf-32"),
    "EBCDIC": lambda lines: b"\n".join(lines).decode().encode("cp037"),
    "a line missing": lambda lines: b"\n".join(lines[1:]) + b"\n",
    "a line more": lambda lines: b"\n".join([*lines, b"ba"]) + b"\n",
    "empty lines alone": lambda lines: b"\n" * len(lines),
    "one line only": lambda lines: lines[0] + b"\n",
    "no end of line at the end": lambda lines: b"\n".join(lines),
    "one sentence throughout": lambda lines: (lines[0] + b"\n") * len(lines),
    "symbols alone": lambda lines: b"!!! ???\n" * len(lines),
    "a character each": lambda lines: b"".join(bytes([97 + n % 26]) + b"\n" for n in range(len(lines))),
    "as many characters as lines": lambda lines: "".join(f"{chr(0x4E00 + n)}\n" for n in range(len(lines))).encode(),
}


def _bytes(rng: random.Random, folder: Path) -> str:
    path = _file(rng, folder)
    data, what = damage_bytes(rng, path.read_bytes())
    path.write_bytes(data)
    return f"{path.name}: {what}"


def _path(rng: random.Random, folder: Path) -> str:
    path = _file(rng, folder)
    return f"{path.name} is {replace_path(rng, path)}"


# -------------------------------------------------------------------------------------------- archives and other forms


def _edit(folder: Path, **corpus: Any) -> None:
    """Set another training corpus in the YAML."""
    path = folder / "tiny.yaml"
    document = yaml.safe_load(path.read_text())
    document["prepare"]["train"] = [corpus]
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def _gzip(rng: random.Random, folder: Path) -> str:
    """Write text to gzip files, one of which is damaged or unpacks to much more data."""
    for lang in ("en", "de"):
        data = (folder / f"text/train.{lang}").read_bytes()
        (folder / f"text/train.{lang}.gz").write_bytes(gzip.compress(data, mtime=0))
    _edit(folder, source={"path": "text/train.en.gz"}, target={"path": "text/train.de.gz"})
    path = folder / f"text/train.{rng.choice(['en', 'de'])}.gz"
    if rng.random() < 0.3:
        size = rng.choice([2_000_000, 300_000_000])
        path.write_bytes(
            gzip.compress(rng.choice([b"\0", b"a", b"\n", b"a "]) * size, 1, mtime=0)[: rng.choice([None, -8])]
        )
        return f"{path.name} is a bomb of {size} characters"
    data, what = damage_bytes(rng, path.read_bytes())
    path.write_bytes(data)
    return f"{path.name}: {what}"


def _zip(rng: random.Random, folder: Path) -> str:
    """Write a TSV in a zip archive, with members that no archiver would write."""
    rows = b"".join(b"%b\t%b\n" % pair for pair in _rows(folder))
    member, name = "corpus.tsv", rng.choice(list(_ZIPS))
    path = folder / "text/train.zip"
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        _ZIPS[name](archive, member, rows)
    if name == "damaged" or rng.random() < 0.2:
        data, what = damage_bytes(rng, path.read_bytes())
        path.write_bytes(data)
        name = f"{name}, {what}"
    if name == "encrypted":
        data = path.read_bytes()
        for magic, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
            place = data.index(magic) + offset
            data = data[:place] + struct.pack("<H", 1) + data[place + 2 :]
        path.write_bytes(data)
    members = {"a member outside": f"../../{PWNED}", "a member of control characters": ESCAPES}
    _edit(folder, tsv={"path": "text/train.zip", "member": members.get(name, member)})
    return f"train.zip: {name}"


def _form(rng: random.Random, folder: Path) -> str:
    """Write the pairs in a format with both sides, perhaps compressed or in an archive, and damage the file."""
    pairs = [(source.decode(), target.decode()) for source, target in _rows(folder)]
    form, path = rng.choice(list(ONE_FILE)), folder / "text/train.any"
    write, settings = ONE_FILE[form]
    content, what = write(pairs), form
    if rng.random() < 0.6:
        content, how = damage_bytes(rng, content)
        what = f"{what}, {how}"
    source: dict[str, Any] = {"path": "text/train.any"}
    if rng.random() < 0.4:
        archive = rng.choice(list(ARCHIVE))
        content, source["member"] = ARCHIVE[archive]({"other": b"", "a/b": content}), "a/b"
        what = f"{what}, in {archive}"
    if rng.random() < 0.5:
        compression = rng.choice(list(COMPRESS))
        content, how = damage_bytes(rng, COMPRESS[compression](content))
        what = f"{what}, {compression}, {how}"
    path.write_bytes(content)
    quality = {"quality": {"field": "score", "min": rng.choice([-1, 3])}} if form != "wmt_xml" else {}
    _edit(folder, **{form: source}, **settings, **(quality if rng.random() < 0.3 else {}))
    return f"train.any: {what}"


def _rows(folder: Path) -> list[tuple[bytes, bytes]]:
    source, target = ((folder / f"text/train.{lang}").read_bytes().splitlines() for lang in ("en", "de"))
    return list(zip(source, target, strict=True))


def _nested(archive: zipfile.ZipFile, name: str, rows: bytes) -> None:
    with zipfile.ZipFile(inner := io.BytesIO(), "w") as file:
        file.writestr(name, rows)
    archive.writestr(name, inner.getvalue())


_ZIPS: dict[str, Callable[[zipfile.ZipFile, str, bytes], Any]] = {
    "damaged": lambda archive, name, rows: archive.writestr(name, rows),
    "encrypted": lambda archive, name, rows: archive.writestr(name, rows),
    "a member outside": lambda archive, _, rows: archive.writestr(f"../../{PWNED}", rows),
    "a member of control characters": lambda archive, _, rows: archive.writestr(ESCAPES, rows),
    "other members of control characters": lambda archive, _, rows: archive.writestr(f"{ESCAPES}.tsv", rows),
    "many other members": lambda archive, *_: [archive.writestr(f"{n:0200}", b"") for n in range(200)],
    "no members": lambda *_: None,
    "a folder": lambda archive, name, _: archive.writestr(f"{name}/", b""),
    "an archive in it": _nested,
    "zeros": lambda archive, name, _: archive.writestr(name, bytes(100_000_000)),
}


def _tsv(rng: random.Random, folder: Path) -> str:
    """Write rows with other numbers of columns than two."""
    rows = [b"\t".join(row) for row in _rows(folder)]
    name = rng.choice(list(_ROWS))
    for _ in range(rng.choice([1, 5, 60])):
        number = rng.randrange(len(rows))
        rows[number] = _ROWS[name](rows[number])
    (folder / "text/train.tsv").write_bytes(b"\n".join(rows) + b"\n")
    columns = rng.choice([{}, {"source_column": 1, "target_column": 0}, {"source_column": 3}, {"target_column": 10**9}])
    _edit(folder, tsv={"path": "text/train.tsv"}, **columns)
    return f"train.tsv: {name}, {columns}"


_ROWS: dict[str, Callable[[bytes], bytes]] = {
    "one column": lambda row: row.replace(b"\t", b" "),
    "a column more": lambda row: b"0.5\t" + row,
    "quoted": lambda row: b'"' + row.replace(b"\t", b'"\t"') + b'"',
    "an open quote": lambda row: b'"' + row,
    "a header": lambda _: b"source\ttarget\tscore",
    "a thousand columns": lambda row: row + b"\t" * 1_000,
    "four megabytes": lambda row: row + b"ba " * 1_400_000,
    "empty": lambda _: b"",
    "Latin-1": lambda row: row + b"\xe9",
    "commas": lambda row: row.replace(b"\t", b","),
}


def _tokens(rng: random.Random, folder: Path) -> str:
    """Use a token file of a data-bin as a corpus that is read as text, or has no index or dictionary."""
    runs = folder / "runs/tiny/prepare/data-bin"
    if not runs.is_dir():
        _edit(folder, source={"path": "text/train.bin"}, target={"path": "text/train.de"})
        shutil.copy(folder / "text/train.en", folder / "text/train.bin")
        return "text under the name of a token file"
    shutil.copytree(runs, folder / "tokens")
    prefix = "tokens/train.en-de"
    _edit(
        folder, source={"path": f"{prefix}.en.bin", "remove_bpe": "sentencepiece"}, target={"path": f"{prefix}.de.bin"}
    )
    path = rng.choice(sorted((folder / "tokens").glob("train*")) + sorted((folder / "tokens").glob("dict*")))
    data, what = damage_bytes(rng, path.read_bytes())
    path.write_bytes(data)
    return f"{path.name}: {what}"
