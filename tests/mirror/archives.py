"""Cut-down copies of the archives that the pipelines of the field download, with the real addresses and layouts.

The addresses and the names inside the archives are those of the original archives, taken from mtdata 0.5.1, from
sacreBLEU 2.6 and from fairseq's prepare-iwslt14.sh. The text is that of `tests.mirror.phrases`. The bytes never change.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from mirror.phrases import pairs, sentence

TRAIN_LINES = 400
HELD_OUT_LINES = 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip archive

Members = Mapping[str, str]  # name inside an archive -> text


# --------------------------------------------------------------------------------------------------------- containers


def tar_gz(members: Members) -> bytes:
    """Return a gzipped tar archive."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in members.items():
            content = text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


def zip_file(members: Members) -> bytes:
    """Return a zip archive."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text.encode(), zipfile.ZIP_DEFLATED)
    return written.getvalue()


def gzipped(text: str) -> bytes:
    """Return gzipped text."""
    return gzip.compress(text.encode(), mtime=0)


# --------------------------------------------------------------------------------------------------------------- text


def lines(start: int, count: int, language: str) -> str:
    """Return sentences, one per line."""
    return "".join(f"{sentence(number, language)}\n" for number in range(start, start + count))


def bitext(prefix: str, start: int, count: int, languages: Sequence[str]) -> Members:
    """Return a file for each language, `<prefix>.<language>`."""
    return {f"{prefix}.{language}": lines(start, count, language) for language in languages}


def tsv(start: int, count: int, source: str, target: str) -> str:
    """Return sentence pairs in two columns."""
    return "".join(f"{first}\t{second}\n" for first, second in pairs(start, count, source, target))


def sgm(kind: str, set_id: str, start: int, count: int, source: str, target: str) -> str:
    """Return a side of a test set of WMT: `srcset` with the source language, or `refset` with the target language."""
    language = source if kind == "srcset" else target
    system = "" if kind == "srcset" else ' sysid="ref"'
    out = [f'<{kind} setid="{set_id}" srclang="{source}" trglang="{target}">']
    for document, first in enumerate(range(start, start + count, 10)):
        out.append(f'<doc{system} docid="news.{document}" genre="news" origlang="{source}">')
        numbers = range(first, min(first + 10, start + count))
        out += [
            f'<seg id="{index}">{escape(sentence(number, language))}</seg>' for index, number in enumerate(numbers, 1)
        ]
        out.append("</doc>")
    return "\n".join([*out, f"</{kind}>", ""])


def newstest(folder: str, name: str, pair: str, start: int, source: str, target: str) -> Members:
    """Return both sides of a test set of WMT in its archive."""
    stem = f"{folder}/{name}-{pair}"
    return {
        f"{stem}-src.{source}.sgm": sgm("srcset", name, start, HELD_OUT_LINES, source, target),
        f"{stem}-ref.{target}.sgm": sgm("refset", name, start, HELD_OUT_LINES, source, target),
    }


def iwslt_xml(set_id: str, start: int, language: str) -> str:
    """Return a side of a test set of IWSLT."""
    segments = "\n".join(
        f'<seg id="{index}"> {escape(sentence(number, language))} </seg>'
        for index, number in enumerate(range(start, start + HELD_OUT_LINES), 1)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<mteval>\n'
        f'<srcset setid="{set_id}" srclang="{language}">\n<doc docid="1" genre="lectures">\n'
        f"<url>http://www.ted.com/talks/1</url>\n<keywords>talks, test</keywords>\n<title>A talk</title>\n"
        f"{segments}\n</doc>\n</srcset>\n</mteval>\n"
    )


def iwslt_tags(start: int, count: int, language: str) -> str:
    """Return a side of the training text of IWSLT, whose lines with markup describe the talks."""
    head = (
        "<url>http://www.ted.com/talks/2</url>\n<keywords>talks</keywords>\n<speaker>A Speaker</speaker>\n"
        "<talkid>2</talkid>\n<title>Another talk</title>\n<description>A transcript</description>\n"
    )
    return head + lines(start, count, language) + "<reviewer></reviewer>\n<translator></translator>\n"


# ----------------------------------------------------------------------------------------------------------- archives

_TRAIN, _VALID, _TEST = 0, 5000, 5500  # numbers of the first sentences


def _iwslt14() -> bytes:
    members: dict[str, str] = {"de-en/README": "IWSLT 2014\n"}
    for language in ("de", "en"):
        members[f"de-en/train.tags.de-en.{language}"] = iwslt_tags(_TRAIN, TRAIN_LINES, language)
        for number, name in enumerate(("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")):
            text = iwslt_xml(name, _TEST + number * HELD_OUT_LINES, language)
            members[f"de-en/IWSLT14.{name}.de-en.{language}.xml"] = text
    return tar_gz(members)


def _newstest2013() -> bytes:
    sides = {
        language: sgm("srcset", "newstest2013", _VALID, HELD_OUT_LINES, language, "any") for language in ("de", "en")
    }
    return tar_gz({f"test/newstest2013-src.{language}.sgm": text for language, text in sides.items()})


def _newstest2014_full() -> bytes:
    stem = "test-full/newstest2014-deen"  # both directions have the same text
    members = {}
    for language, other in (("de", "en"), ("en", "de")):
        members[f"{stem}-src.{language}.sgm"] = sgm("srcset", "newstest2014", _TEST, HELD_OUT_LINES, language, other)
        members[f"{stem}-ref.{language}.sgm"] = sgm("refset", "newstest2014", _TEST, HELD_OUT_LINES, other, language)
    return tar_gz(members)


def _opus(corpus: str, start: int, source: str, target: str) -> bytes:
    """Return an archive of OPUS in Moses format; its languages are in alphabetical order."""
    first, second = sorted((source, target))
    members = {"README": f"{corpus}\n", "LICENSE": "see the page of the corpus\n"}
    return zip_file(members | bitext(f"{corpus}.{first}-{second}", start, TRAIN_LINES, (first, second)))


def _flores200() -> bytes:
    codes = {"en": "eng_Latn", "de": "deu_Latn", "ro": "ron_Latn", "is": "isl_Latn", "zh": "zho_Hans", "ja": "jpn_Jpan"}
    starts = {"dev": _VALID + 100, "devtest": _TEST + 200}
    return tar_gz(
        {
            f"flores200_dataset/{split}/{code}.{split}": lines(start, HELD_OUT_LINES, language)
            for split, start in starts.items()
            for language, code in codes.items()
        }
    )


def _kftt() -> bytes:
    parts = {"train": (_TRAIN, TRAIN_LINES), "dev": (_VALID, HELD_OUT_LINES), "test": (_TEST, HELD_OUT_LINES)}
    members: dict[str, str] = {}
    for part, (start, count) in parts.items():
        members |= bitext(f"kftt-data-1.0/data/orig/kyoto-{part}", start, count, ("en", "ja"))
    return tar_gz(members)


ARCHIVES: Mapping[str, Callable[[], bytes]] = {
    "https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz": _iwslt14,
    "http://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz": lambda: tar_gz(
        bitext("training/europarl-v7.de-en", 0, TRAIN_LINES, ("de", "en"))
    ),
    "http://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz": lambda: tar_gz(
        bitext("commoncrawl.de-en", 400, TRAIN_LINES, ("de", "en"))
    ),
    "http://data.statmt.org/wmt18/translation-task/training-parallel-nc-v13.tgz": lambda: tar_gz(
        bitext("training-parallel-nc-v13/news-commentary-v13.de-en", 800, TRAIN_LINES, ("de", "en"))
        | bitext("training-parallel-nc-v13/news-commentary-v13.zh-en", 800, TRAIN_LINES, ("zh", "en"))
    ),
    "https://statmt.org/wmt13/test.tgz": _newstest2013,
    "https://statmt.org/wmt14/test-full.tgz": _newstest2014_full,
    "https://data.statmt.org/wmt16/translation-task/dev.tgz": lambda: tar_gz(
        newstest("dev", "newsdev2016", "enro", _VALID, "en", "ro")
    ),
    "https://data.statmt.org/wmt16/translation-task/test.tgz": lambda: tar_gz(
        newstest("test", "newstest2016", "enro", _TEST, "en", "ro")
    ),
    "https://data.statmt.org/wmt17/translation-task/dev.tgz": lambda: tar_gz(
        newstest("dev", "newsdev2017", "zhen", _VALID, "zh", "en")
    ),
    "https://data.statmt.org/wmt17/translation-task/test.tgz": lambda: tar_gz(
        newstest("test", "newstest2017", "zhen", _TEST, "zh", "en")
    ),
    "https://object.pouta.csc.fi/OPUS-Europarl/v8/moses/en-ro.txt.zip": lambda: _opus("Europarl", 0, "en", "ro"),
    "https://object.pouta.csc.fi/OPUS-SETIMES/v2/moses/en-ro.txt.zip": lambda: _opus("SETIMES", 400, "en", "ro"),
    "https://object.pouta.csc.fi/OPUS-TED2020/v1/moses/de-en.txt.zip": lambda: _opus("TED2020", 0, "de", "en"),
    "https://object.pouta.csc.fi/OPUS-ParaCrawl/v9/moses/en-is.txt.zip": lambda: _opus("ParaCrawl", 0, "en", "is"),
    "https://object.pouta.csc.fi/OPUS-ParIce/v1/moses/en-is.txt.zip": lambda: _opus("ParIce", 400, "en", "is"),
    "https://object.pouta.csc.fi/OPUS-TED2020/v1/moses/en-is.txt.zip": lambda: _opus("TED2020", 800, "en", "is"),
    "https://object.pouta.csc.fi/OPUS-ELRC-EMEA/v1/moses/en-is.txt.zip": lambda: _opus("ELRC-EMEA", 1200, "en", "is"),
    "https://object.pouta.csc.fi/OPUS-MultiUN/v1/moses/en-zh.txt.zip": lambda: _opus("MultiUN", 1200, "en", "zh"),
    "https://dl.fbaipublicfiles.com/nllb/flores200_dataset.tar.gz": _flores200,
    "http://www.phontron.com/kftt/download/kftt-data-1.0.tar.gz": _kftt,
}


def write_mirror(folder: Path) -> None:
    """Write every archive to `folder/host/path`, where a mirror is searched for it."""
    for url, make in ARCHIVES.items():
        parts = urlsplit(url)
        path = folder / (parts.hostname or "") / parts.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make())
