"""Translation units of TMX 1.4 files, streamed in constant memory.

Of the inline elements, the text within `<hi>` is kept. `<bpt>`, `<ept>`, `<it>`, `<ph>` and `<ut>` contain codes of the
original document, and `<sub>` within them text that is not part of the sentence: they are removed. Document types are
accepted but not read, and entities that a file declares are refused, since a few of them can expand to gigabytes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO
from xml.parsers import expat

from kdmt.corpus.archives import Position
from kdmt.corpus.rows import OTHER_LANGUAGES, LeftOut, MalformedRow, ScoredPair
from kdmt.corpus.unreadable import MAX_LINE_BYTES, TOO_LONG
from kdmt.errors import UserError
from kdmt.languages import Direction, Language, parse_language

_BLOCK_BYTES = 1 << 16
_MAX_TAG = 4 << 20  # bytes without the end of a tag
_MAX_CODES = 100  # languages for a message
_MAX_DEPTH = 1000  # open elements, which the parser holds in memory
_CODES = frozenset(("bpt", "ept", "it", "ph", "ut"))


@dataclass
class _Unit:
    """Translation unit that is being read.

    Attributes:
        line: line at which it begins.
        score: value of its first `<prop>` with the score, or of the first in its `<tuv>`; None if there is none.
        texts: for the source and the target side, how well the language matches (0: exactly) and the text.
        problem: reason why it is malformed, None if it is not.
    """

    line: int
    score: str | None = None
    texts: list[tuple[int, str] | None] = field(default_factory=lambda: [None, None])
    problem: str | None = None


def read_units(
    file: IO[bytes], *, name: str, direction: Direction, prop: str | None, position: Position
) -> Iterator[tuple[int, ScoredPair] | MalformedRow | LeftOut]:
    """Yield the line and the pair of each translation unit, or why it is not a pair.

    A language matches a tag of the same language, such as `en` and `en-GB`, unless both have a script or a region and
    these differ. Of several variants, the first one with exactly the tag of the pipeline counts, else the first one.

    Args:
        file: content of the file, UTF-8 or UTF-16 with a byte order mark, or as its XML declaration says.
        name: name of the file, for messages.
        direction: languages of the pair.
        prop: type of the `<prop>` that contains the score of a unit; None for no score.
        position: receives the number of the current line.

    Raises:
        UserError: if it is not TMX, not well-formed XML, declares entities, or no unit has both languages.
    """
    reader = _Reader(name, direction, prop)
    num_pairs = fed = 0
    block = b" "
    while block:
        block = file.read(_BLOCK_BYTES)
        fed += len(block)
        reader.parse(block)
        position.number = reader.parser.CurrentLineNumber
        if fed - reader.parser.CurrentByteIndex > _MAX_TAG:
            raise UserError(f"{name} line {position.number}: a tag of more than {_MAX_TAG >> 20} MiB")
        for row in reader.take():
            num_pairs += isinstance(row, tuple)
            yield row
    if not num_pairs and reader.codes:
        raise UserError(
            f"{name}: no translation unit has text in both {direction.source} and {direction.target}; its languages "
            f"are {', '.join(reader.codes)}"
        )


class _Reader:
    """Handlers of the XML parser, which collect the rows of each block of the file."""

    def __init__(self, name: str, direction: Direction, prop: str | None) -> None:
        self.codes: dict[str, None] = {}  # languages of the file
        self._name, self._prop = name, prop
        self._rows: list[tuple[int, ScoredPair] | MalformedRow | LeftOut] = []
        self._wanted = [parse_language(code) for code in direction.sides]
        self._has_root = False
        self._unit: _Unit | None = None
        self._code: str | None = None  # language of the variant that is open
        self._pieces: list[str] | None = None  # text of the `<seg>` or `<prop>` that is open
        self._size = 0
        self._depth = 0  # number of elements that are open
        self._in_segment = False
        self._is_score = False  # whether the `<prop>` that is open contains the score
        self._num_codes = 0  # number of elements with codes that are open
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.EntityDeclHandler = self._refuse_entity
        self.parser.SkippedEntityHandler = self._refuse_unknown_entity

    def parse(self, block: bytes) -> None:
        """Parse the next part of the file; an empty block is its end."""
        try:
            self.parser.Parse(block, not block)
        except expat.ExpatError as error:
            what = expat.ErrorString(error.code)
            if not self._has_root:
                raise UserError(f"{self._name}: not a TMX file: line {error.lineno}: {what}") from None
            raise UserError(f"{self._name}: truncated or damaged after line {error.lineno}: {what}") from None
        except (LookupError, ValueError):  # raised for the encoding in the XML declaration
            if self._has_root:
                raise
            raise UserError(f"{self._name}: its encoding cannot be read: convert it to UTF-8") from None

    def take(self) -> list[tuple[int, ScoredPair] | MalformedRow | LeftOut]:
        """Return the rows that are complete."""
        rows, self._rows = self._rows, []
        return rows

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._has_root and tag != "tmx":
            raise UserError(f"{self._name}: not a TMX file: its first element is <{tag[:60]}>, not <tmx>")
        self._has_root = True
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UserError(f"{self._name} line {self.parser.CurrentLineNumber}: more than {_MAX_DEPTH} open elements")
        if self._in_segment:
            self._num_codes += tag in _CODES
        elif tag == "tu":
            self._unit = _Unit(self.parser.CurrentLineNumber)
        elif self._unit is None:
            return
        elif tag == "tuv":
            self._code = attributes.get("xml:lang") or attributes.get("lang")
            if self._code is None:
                self._unit.problem = "a <tuv> without a language"
            elif len(self.codes) < _MAX_CODES:
                self.codes[self._code] = None
        elif tag in ("seg", "prop"):
            self._pieces, self._size = [], 0
            self._in_segment = tag == "seg"
            self._is_score = tag == "prop" and attributes.get("type", "") == self._prop

    def _end(self, tag: str) -> None:
        self._depth -= 1
        if self._in_segment:
            if tag == "seg":
                self._end_segment()
            else:
                self._num_codes -= tag in _CODES
        elif tag == "tu" and self._unit is not None:
            self._rows.append(self._row(self._unit))
            self._unit = None
        elif tag == "tuv":
            self._code = None
        elif tag == "prop" and self._unit is not None and self._pieces is not None:
            if self._is_score and self._unit.score is None:
                self._unit.score = "".join(self._pieces)
            self._pieces = None

    def _text(self, text: str) -> None:
        if self._pieces is None or self._num_codes:
            return
        self._size += len(text)
        if self._size <= MAX_LINE_BYTES:
            self._pieces.append(text)

    def _end_segment(self) -> None:
        unit, code = self._unit, self._code
        assert unit is not None, "a segment is opened inside a unit only"
        assert self._pieces is not None, "a segment is open"
        text = _join_lines("".join(self._pieces))
        is_long = self._size > MAX_LINE_BYTES or len(text.encode()) > MAX_LINE_BYTES
        self._pieces, self._in_segment = None, False
        if code is None:
            return
        for side, wanted in enumerate(self._wanted):
            distance = _distance(code, wanted)
            known = unit.texts[side]
            if distance is not None and (known is None or distance < known[0]):
                unit.texts[side] = (distance, text)
                unit.problem = TOO_LONG.reason if is_long else unit.problem

    def _row(self, unit: _Unit) -> tuple[int, ScoredPair] | MalformedRow | LeftOut:
        source, target = unit.texts
        if unit.problem is not None:
            return MalformedRow(self._name, unit.line, unit.problem)
        if source is None or target is None:
            return LeftOut(OTHER_LANGUAGES)
        return unit.line, ScoredPair(source[1], target[1], unit.score)

    def _refuse_entity(self, entity: str, *_: object) -> None:
        raise UserError(
            f"{self._name} line {self.parser.CurrentLineNumber}: it declares the entity {entity[:60]!r}; files that "
            "declare entities are refused"
        )

    def _refuse_unknown_entity(self, entity: str, *_: object) -> None:
        raise UserError(f"{self._name} line {self.parser.CurrentLineNumber}: the entity {entity[:60]!r} is not defined")


def _join_lines(text: str) -> str:
    """Return a text on one line, with a space for each line break and the blanks around it."""
    return " ".join(filter(None, (line.strip(" \t") for line in text.split("\n"))))


@functools.lru_cache(maxsize=1024)
def _distance(code: str, wanted: Language) -> int | None:
    """Return 0 if a code is the wanted language, 1 if only one of them has a script or region, None otherwise."""
    try:
        found = parse_language(code)
    except ValueError:
        return None
    if found.language != wanted.language or (found.region and wanted.region and found.region != wanted.region):
        return None
    if (found.script or wanted.script) and found.written_in != wanted.written_in:
        return None
    return 0 if found == wanted else 1
