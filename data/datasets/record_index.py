"""Record the index of data sets that `kdmt lock` and `kdmt find` read, without downloading any data set.

    python3 -m venv /tmp/index-venv
    /tmp/index-venv/bin/pip install mtdata==0.5.1 opustools==1.9.0
    MTDATA=/tmp/mtdata-cache /tmp/index-venv/bin/python data/datasets/record_index.py

mtdata 0.5.1 requires another version of rich than kdmt, so that the script runs in an environment of its own. It writes
to kdmt/corpus/datasets/recorded/:

    opus.txt.xz       parallel corpora of OPUS: those that mtdata lists, and sizes from the database of opustools
    mtdata.jsonl.xz   entries of mtdata's index that do not come from OPUS's list
    mtdata-codes.json codes of OPUS whose code in mtdata's identifiers is not the one of ISO 639-3
    citations.json.xz bibliography of mtdata by key, as BibTeX

The output depends on the versions of the two packages alone. README.md describes the formats.
"""

from __future__ import annotations

import gzip
import json
import lzma
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parents[2] / "kdmt" / "corpus" / "datasets" / "recorded"
_OBJECTS = "https://object.pouta.csc.fi/"
_FIELDS = {  # fields of a BibTeX entry that identify a publication
    *("title", "booktitle", "journal", "year", "month", "pages", "volume", "number", "publisher", "school"),
    *("institution", "organization", "address", "url", "doi", "eprint", "archiveprefix", "howpublished"),
}

_MATRICES = (
    "Flores-flores200_",
    "Microsoft-ntrex-",
)  # sets with one file for each language, in which all pairs are listed

Pair = tuple[str, str, str, str]  # corpus, version, source, target


def main() -> None:
    """Write all files of the index."""
    OUT.mkdir(exist_ok=True)
    _write("opus.txt.xz", "".join(f"{line}\n" for line in opus_lines(opus_pairs(), *opus_sizes())))
    _write("mtdata.jsonl.xz", "".join(f"{line}\n" for line in mtdata_lines()))
    _write("citations.json.xz", json.dumps(citations(), ensure_ascii=False, sort_keys=True, indent=0) + "\n")
    codes = json.dumps(mtdata_codes(), sort_keys=True, indent=0)
    (OUT / "mtdata-codes.json").write_text(codes + "\n", encoding="utf-8")


def _write(name: str, text: str) -> None:
    data = lzma.compress(text.encode(), preset=9)
    (OUT / name).write_bytes(data)
    print(f"{name}: {len(text):,} characters, {len(data):,} bytes")


# --------------------------------------------------------------------------------------------------------------- OPUS


def opus_pairs() -> list[Pair]:
    """Return the language pairs of OPUS in the order of mtdata's list."""
    text = (resources.files("mtdata") / "resource" / "opus_index.tsv").read_text(encoding="utf-8")
    return [tuple(line.split("\t")) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def opus_sizes() -> tuple[dict[Pair, tuple[str, str]], dict[tuple[str, str], str], set[tuple[str, str]]]:
    """Return (pairs, kilobytes) of Moses archives, folders that are not named after the corpus, and TMX releases."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "opusdata.db"
        path.write_bytes(gzip.decompress((resources.files("opustools") / "opusdata.db.gz").read_bytes()))
        database = sqlite3.connect(path)
        rows = database.execute(
            "SELECT corpus, version, source, target, alignment_pairs, size, url FROM opusfile "
            "WHERE preprocessing = 'moses'"
        ).fetchall()
        tmx = database.execute("SELECT DISTINCT corpus, version FROM opusfile WHERE preprocessing = 'tmx'").fetchall()
        database.close()
    sizes, folders = {}, {}
    for corpus, version, source, target, pairs, size, url in rows:
        sizes[corpus, version, source, target] = (str(pairs), str(size))  # an empty text is an unknown number
        folder = url.removeprefix(_OBJECTS).partition("/")[0].removeprefix("OPUS-")
        if folder != corpus:
            folders[corpus, version] = folder
    return sizes, folders, {tuple(row) for row in tmx}


def opus_lines(
    listed: list[Pair],
    sizes: Mapping[Pair, tuple[str, str]],
    folders: Mapping[tuple[str, str], str],
    tmx: set[tuple[str, str]],
) -> Iterator[str]:
    """Yield a line `#corpus, version, folder, tmx` for each release, followed by `source, target, pairs, kilobytes`."""
    release = None
    for pair in sorted(dict.fromkeys([*listed, *sizes])):
        if pair[:2] != release:
            release = pair[:2]
            yield "\t".join(("#" + pair[0], pair[1], folders.get(release, ""), "tmx" if release in tmx else ""))
        yield "\t".join((*pair[2:], *sizes.get(pair, ("", "")))).rstrip("\t")


# -------------------------------------------------------------------------------------------------------------- mtdata


def mtdata_lines() -> Iterator[str]:
    """Yield the entries of mtdata's index that cannot be derived from OPUS's list, as JSON objects.

    An entry of a test set in many languages is one object for all pairs, with `languages`: code -> member. The entries
    of FLORES-101 are left out: in mtdata 0.5.1 both members of all of them are the file of the same language.
    """
    from mtdata.index import INDEX

    matrices: dict[str, dict[str, Any]] = {}
    for entry in INDEX.get_entries():
        did = str(entry.did)
        if did.startswith(("OPUS-", "Flores-flores101")) and not did.startswith("OPUS-opus100"):
            continue
        record: dict[str, Any] = {"id": did, "url": entry.url, "format": entry.in_ext or entry.ext}
        record |= {"members": entry.in_paths} if entry.in_paths else {}
        record |= {"columns": entry.cols} if entry.cols else {}
        record |= {"cite": entry.cite} if entry.cite else {}
        record |= {"is_archive": True} if entry.is_archive else {}
        record |= {"hf": entry.meta} if entry.ext == "hfds" else {}
        if did.startswith(_MATRICES):
            name = did.removesuffix(f"-{entry.did.lang_str}")
            members = dict(zip((str(tag) for tag in entry.did.langs), record.pop("members"), strict=True))
            languages = matrices.setdefault(name, record | {"id": name, "languages": {}})["languages"]
            if any(languages.setdefault(code, member) != member for code, member in members.items()):
                raise ValueError(f"{did}: the member of a language depends on the other language")
        else:
            yield json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    for record in matrices.values():
        yield json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def mtdata_codes() -> dict[str, str]:
    """Return mtdata's form of each code of OPUS; codes that mtdata does not parse are left out."""
    from mtdata.iso.bcp47 import bcp47

    codes = sorted({code for pair in opus_pairs() for code in pair[2:]})
    parsed = {code: bcp47.try_parse(code, default=None) for code in codes}
    return {code: str(tag) for code, tag in parsed.items() if tag}


def citations() -> dict[str, str]:
    """Return the bibliography of mtdata by key: authors, editors and the fields that identify a publication."""
    from mtdata.index import ReferenceDb

    return {key: _bibtex(key, entry) for key, entry in ReferenceDb().db.entries.items()}


def _bibtex(key: str, entry: Any) -> str:
    people = {role: " and ".join(str(person) for person in persons) for role, persons in entry.persons.items()}
    fields = people | {name: value for name, value in entry.fields.items() if name.lower() in _FIELDS}
    lines = [f"  {name.lower()} = {{{' '.join(value.split())}}}," for name, value in fields.items()]
    return "\n".join([f"@{entry.type}{{{key},", *lines, "}"])


if __name__ == "__main__":
    main()
