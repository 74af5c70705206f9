"""Sentences of test sets in markup: SGM (WMT up to 2020), IWSLT's XML, WMT XML (from 2021), and IWSLT's tagged text.

SGM and IWSLT's XML have the sentences of one side, as `<seg>` inside `<doc>` inside `<srcset>`, `<refset>` or
`<tstset>`. They are often not well-formed (`R&D` instead of `R&amp;D`), so only their tags are searched for. WMT XML
has documents with `<src>`, one or more `<ref translator="A">` and `<hyp system="X">`. In tagged text, the lines between
the sentences are metadata. All are UTF-8.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from kdmt.corpus.unreadable import MAX_LINE_BYTES, NOT_UTF8, TOO_LONG, Unreadable
from kdmt.errors import UserError

_BLOCK_BYTES = 1 << 16
_MAX_TAG = 100_000  # bytes of a tag or comment
_MAX_DOCUMENT_BYTES = 256 << 20  # of a document of WMT XML, which is held in memory
_SENTENCE_BYTES = 200  # memory of a sentence or part in addition to its text
_MAX_OPEN = 100  # sets that are open at once

# before the first tag: XML declaration, document type, comments
_PROLOG = rb"(?:<\?[^>]*>|<!--(?:(?!-->).)*-->|<!(?!--)[^>]*>|\s)*"
_SETS = re.compile(_PROLOG + rb"<(srcset|refset|tstset|mteval|dataset)[\s>]", re.IGNORECASE | re.DOTALL)
_TAGGED = re.compile(rb"(<doc\s[^<>\n]*>\s*)?<(url|talkid|keywords|speaker)>[^<>\n]*</\2>", re.IGNORECASE)
_METADATA = re.compile(r"</?(url|talkid|keywords|speaker|reviewer|translator|doc|transcript)\b", re.IGNORECASE)
_TITLE = re.compile(r"</?(title|description)>", re.IGNORECASE)

_TAG = re.compile(
    rb"<!--|<(/?)(mteval|srcset|refset|tstset|dataset|collection|doc|src|ref|hyp|seg)((?:\s[^<>]*)?)>",
    re.IGNORECASE | re.DOTALL,
)
_COMMENT_END = b"-->"
# a name is looked for at the beginnings of words alone, since a search within long words takes quadratic time
_ATTRIBUTE = re.compile(r"""(?<![\w:])([\w:]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"']+))""")
_ENTITY = re.compile(r"&(amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9a-f]{1,6});", re.IGNORECASE)
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_KINDS = {"srcset": "src", "refset": "ref", "tstset": "hyp", "src": "src", "ref": "ref", "hyp": "hyp"}
_ROOTS = ("mteval", "srcset", "refset", "tstset", "dataset")


def has_segments(head: bytes) -> bool:
    """Return whether a file is SGM, IWSLT's XML or WMT XML by its first bytes."""
    return _SETS.match(head.removeprefix(codecs.BOM_UTF8)) is not None


def is_tagged(head: bytes) -> bool:
    """Return whether a file is tagged text of IWSLT by its first bytes."""
    return _TAGGED.match(head.removeprefix(codecs.BOM_UTF8).lstrip()) is not None


@dataclass
class Place:
    """Document and number of the sentence that was read last, for comparison with the other side of a pair.

    Attributes:
        line: for tagged text, the number of its line in the file.
    """

    document: str = ""
    segment: str = ""
    line: int = field(default=0, compare=False)

    def locate(self, number: int) -> tuple[str, int]:
        """Return a unit and a number for messages: the line of the file, or in markup the sentence.

        Args:
            number: number of the sentence or line that was read last, from 1.
        """
        return ("sentence", number) if self.segment else ("line", self.line or number)


def untagged(lines: Iterator[str | Unreadable], place: Place) -> Iterator[str | Unreadable]:
    """Yield the sentences of tagged text: no metadata, and titles and descriptions without their tags.

    These are the lines that the script of fairseq for IWSLT14 keeps, in its order.

    Args:
        place: receives the line of each sentence before it is yielded.
    """
    for number, line in enumerate(lines, start=1):
        place.line = number
        if isinstance(line, Unreadable):
            yield line
        elif not _METADATA.match(line.lstrip()):
            yield _TITLE.sub("", line).strip()


def read_segments(file: IO[bytes], name: str, part: str | None, place: Place) -> Iterator[str | Unreadable]:
    """Yield the sentences of one part of a file, with single spaces for whitespace, in the order of the file.

    Sentences of WMT XML are those that sacreBLEU reads: without documents of test suites and without sentences that
    have no reference, ordered by their number in each document; a sentence that one reference does not have is empty.

    Args:
        part: `src`, `ref` (the first reference), `ref:B` (by translator or identifier) or `hyp:X` (by system); None if
            the file has one part.
        place: receives the place of each sentence before it is yielded.

    Raises:
        UserError: if the file has no such part or has several and `part` is None; the message lists them.
        EOFError: if the file ends early.
    """
    choice = _Choice(name, part)
    for found in _parse(file):
        if isinstance(found, _Segment):
            if choice.accepts(found):
                place.document, place.segment = found.document, found.number
                yield found.text
        else:
            for number, text in choice.rows(found):
                place.document, place.segment = found.name, number
                yield text
    choice.require_found()


# ---------------------------------------------------------------------------------------------------------- selection

Text = str | Unreadable


@dataclass(frozen=True)
class _Segment:
    """Sentence of a set: the whole file, or all documents of one side."""

    part: str
    document: str
    number: str
    text: Text


@dataclass
class _Document:
    """Document of WMT XML, with the sentences of each part by their numbers."""

    name: str
    is_testsuite: bool
    parts: dict[str, dict[str, Text]] = field(default_factory=dict)


class _Choice:
    """The part of a file that is read, and the parts that were found."""

    def __init__(self, name: str, part: str | None) -> None:
        self._name, self._part = name, part
        self._found: dict[str, None] = {}  # in the order of first appearance
        self._part_of: dict[str, str] = {}  # document -> part
        self._has_references: bool | None = None  # of the first document of WMT XML

    def accepts(self, segment: _Segment) -> bool:
        """Return whether a sentence of a set belongs to the part.

        Without `part`, all sentences do. It is an error if a file has sources and references, or a document twice.
        """
        self._found[segment.part] = None
        if self._part is not None:
            return segment.part == self._resolved()
        one = self._part_of.setdefault(segment.document, segment.part) == segment.part
        if not one or len({_kind(part) for part in self._found}) > 1:
            raise self._ambiguous()
        return True

    def rows(self, document: _Document) -> Iterator[tuple[str, Text]]:
        """Yield the number and the text of the sentences of a document that belong to the part."""
        self._found |= dict.fromkeys(document.parts)
        if self._part is None and document.parts:
            raise self._ambiguous()
        references = [part for name, part in document.parts.items() if _kind(name) == "ref"]
        if self._has_references is None:
            self._has_references = bool(references)
        if document.is_testsuite:
            return
        texts = document.parts.get(self._resolved() or "", {})
        for number in sorted(document.parts.get("src", {}), key=_numerically):
            if not self._has_references or any(part.get(number) for part in references):
                yield number, texts.get(number, "")

    def _resolved(self) -> str | None:
        """Return the name of the part as found: `ref` may stand for the first `ref:A`."""
        if self._part in ("ref", "hyp"):
            return next((part for part in self._found if _kind(part) == self._part), self._part)
        return self._part

    def _ambiguous(self) -> UserError:
        return UserError(f"{self._name}: it has the parts {', '.join(self._found)}: give one of them as 'part'")

    def require_found(self) -> None:
        """Check that the file has the part, unless it has no sentence at all."""
        if self._part is not None and self._found and self._resolved() not in self._found:
            raise UserError(f"{self._name}: it has no part {self._part!r}, but {', '.join(self._found)}")


def _kind(part: str) -> str:
    return part.partition(":")[0]


def _numerically(number: str) -> tuple[int, str]:
    return (int(number) if number.isdecimal() else 0, number)


# ------------------------------------------------------------------------------------------------------------ parsing


def _parse(file: IO[bytes]) -> Iterator[_Segment | _Document]:
    """Yield each sentence of a set, and each document of WMT XML.

    Raises:
        EOFError: if the file ends inside a sentence or set.
    """
    parser = _Parser()
    for text, tag in _tags(file):
        parser.add_text(text)
        if tag is None:
            continue
        name, attributes = tag[2].decode().lower(), tag[3].decode(errors="replace")
        found = None
        if not tag[1]:
            parser.start(name, {key.lower(): a or b or c for key, a, b, c in _ATTRIBUTE.findall(attributes)})
        if tag[1] or attributes.endswith("/"):
            found = parser.end(name)
        if found is not None:
            yield found
    parser.close()


def _tags(file: IO[bytes]) -> Iterator[tuple[bytes, re.Match[bytes] | None]]:
    """Yield pieces of text without comments, each with the tag that follows it; None if the text goes on."""
    rest = b""
    while block := file.read(_BLOCK_BYTES):
        data = rest + block
        last_end = data.rfind(_COMMENT_END)
        start = position = 0
        while (tag := _TAG.search(data, position)) is not None:
            if tag[2] is not None:
                yield data[start : tag.start()], tag
                start = position = tag.end()
            elif tag.end() <= last_end:
                yield data[start : tag.start()], None
                start = position = data.index(_COMMENT_END, tag.end()) + len(_COMMENT_END)
            elif len(data) - tag.start() <= _MAX_TAG:  # the comment goes on
                break
            else:  # no comment
                position = tag.end()
        stop = _start_of_incomplete(data, start) if tag is None else tag.start()
        yield data[start:stop], None
        rest = data[stop:]
    yield rest, None


def _start_of_incomplete(data: bytes, start: int) -> int:
    """Return the position of a tag that is not complete; the length of the data if there is none."""
    last = data.rfind(b"<", start)
    is_complete = last < 0 or b">" in data[last:] or len(data) - last > _MAX_TAG
    return len(data) if is_complete else last


class _Parser:
    """State between the tags of a file."""

    def __init__(self) -> None:
        self._roots: list[str] = []  # tags of sets and of the whole file that are open
        self._set = ("", "")  # kind and label of the set that is open
        self._document: _Document | None = None
        self._system = ""  # of a document of a set
        self._part = ""  # part of WMT XML that is open
        self._number: str | None = None  # of the sentence that is open
        self._pieces: list[bytes] = []
        self._size = self._num_segments = 0
        self._document_bytes = 0  # of the sentences and parts of the document of WMT XML

    def add_text(self, text: bytes) -> None:
        """Add text to the sentence that is open; of a sentence that is too long, only the size is kept."""
        if self._number is None:
            return
        self._size += len(text)
        if self._size <= MAX_LINE_BYTES:
            self._pieces.append(text)

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Process the start of an element."""
        if tag in _ROOTS:
            self._roots.append(tag)
            if len(self._roots) > _MAX_OPEN:
                raise EOFError(f"more than {_MAX_OPEN} sets are open")
        if tag in ("srcset", "refset", "tstset"):
            self._set = (_KINDS[tag], attributes.get("refid") or attributes.get("sysid") or "")
        elif tag == "doc":
            name = attributes.get("docid") or attributes.get("id") or ""
            self._document = _Document(name, "testsuite" in attributes)
            self._system, self._num_segments, self._document_bytes = attributes.get("sysid", ""), 0, 0
        elif tag in ("src", "ref", "hyp") and self._document is not None:
            self._part = _part_name(tag, attributes.get("translator") or attributes.get("system") or "")
            self._document.parts.setdefault(self._part, {})
            self._add_to_document(self._document, len(self._part))
            self._num_segments = 0
        elif tag == "seg":
            if self._number is not None:
                raise EOFError(f"sentence {self._number} has no </seg>")
            self._num_segments += 1
            self._number = attributes.get("id") or str(self._num_segments)
            self._pieces, self._size = [], 0

    def end(self, tag: str) -> _Segment | _Document | None:
        """Process the end of an element; return a sentence of a set or a document of WMT XML if it is complete."""
        if self._roots and tag == self._roots[-1]:
            self._roots.pop()
        if tag == "seg" and self._number is not None:
            return self._end_sentence(self._number)
        if tag in ("src", "ref", "hyp"):
            self._part = ""
        elif tag == "doc" and self._document is not None:
            document, self._document = self._document, None
            return document if document.parts else None
        return None

    def _end_sentence(self, number: str) -> _Segment | None:
        self._number = None
        text = _clean(b"".join(self._pieces)) if self._size <= MAX_LINE_BYTES else TOO_LONG
        if not self._part:
            kind, label = self._set
            document = "" if self._document is None else self._document.name
            return _Segment(_part_name(kind or "src", label or self._system), document, number, text)
        assert self._document is not None, "a part is opened inside a document only"
        self._document.parts[self._part][number] = text
        self._add_to_document(self._document, self._size)
        return None

    def _add_to_document(self, document: _Document, num_bytes: int) -> None:
        """Count the memory of a sentence or part, and check the limit."""
        self._document_bytes += num_bytes + _SENTENCE_BYTES
        if self._document_bytes > _MAX_DOCUMENT_BYTES:
            raise EOFError(f"document {document.name[:60]} needs more than {_MAX_DOCUMENT_BYTES >> 20} MiB")

    def close(self) -> None:
        """Check that the file is complete."""
        if self._number is not None:
            raise EOFError(f"sentence {self._number} has no </seg>")
        if self._roots:
            raise EOFError(f"</{self._roots[-1]}> is missing")


def _part_name(kind: str, label: str) -> str:
    return f"{kind}:{label}" if label and kind != "src" else kind


def _clean(text: bytes) -> Text:
    """Return the text of a sentence with its entities replaced and whitespace collapsed."""
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return NOT_UTF8
    return " ".join(_ENTITY.sub(_character, decoded).split())


def _character(entity: re.Match[str]) -> str:
    name = entity[1].lower()
    if not name.startswith("#"):
        return _ENTITIES[name]
    code = int(name[2:], 16) if name[1] == "x" else int(name[1:])
    is_character = 0 < code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF
    return chr(code) if is_character else entity[0]
