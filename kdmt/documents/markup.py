"""HTML as a document: the text between block elements is split into sentences, and tags are copied as they are.

The scanner follows the rules of HTML for where tags, comments and elements with raw text end. Its time is linear in the
size of any input.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kdmt.documents.document import Document, Mark, Sentence, escape_html, paragraph_parts
from kdmt.documents.sentences import LINE_BREAK
from kdmt.languages import Direction

_TAG = re.compile(r"""</?([A-Za-z][^\s/>]*+)(?:[^>"']++|"[^"]*+"|'[^']*+')*+>""")
_TAG_START = re.compile(r"<(?=[A-Za-z!?/])")
_ATTRIBUTE = re.compile(r"""([^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>]++)))?+""")
_INLINE = frozenset(
    (
        *("a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i"),
        *("img", "ins", "kbd", "label", "mark", "math", "nobr", "q", "rp", "rt", "ruby", "s", "samp", "small", "span"),
        *("strike", "strong", "sub", "sup", "svg", "time", "tt", "u", "var", "wbr"),
    )
)
_VOID = frozenset(
    (
        *("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track"),
        "wbr",
    )
)
_RAW_TEXT = frozenset(("iframe", "noembed", "noframes", "script", "style", "textarea", "xmp"))  # text up to the end tag
_FOREIGN = frozenset(("math", "svg"))  # only in these, `/>` ends an element; HTML ignores the slash of others
_NOT_LANGUAGE = frozenset(("code", "kbd", "math", "samp", "svg", "template", "var"))  # elements that are copied

# Elements whose end tag may be omitted, and the start tags that end them, by the rules of HTML for optional tags; the
# end tag of a surrounding element ends them as well.
_BLOCKS_AFTER_P = frozenset(
    (
        *("address", "article", "aside", "blockquote", "center", "details", "dialog", "dir", "div", "dl", "fieldset"),
        *("figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr"),
        *("main", "menu", "nav", "ol", "p", "pre", "search", "section", "table", "ul"),
    )
)
_ROW_GROUPS = frozenset(("thead", "tbody", "tfoot"))
_ENDED_BY = {
    "p": _BLOCKS_AFTER_P,
    "li": frozenset(("li",)),
    **dict.fromkeys(("dt", "dd"), frozenset(("dt", "dd"))),
    **dict.fromkeys(("rt", "rp"), frozenset(("rt", "rp"))),
    "option": frozenset(("option", "optgroup", "hr")),
    "optgroup": frozenset(("optgroup", "hr")),
    **dict.fromkeys(_ROW_GROUPS, _ROW_GROUPS),
    "tr": _ROW_GROUPS | {"tr"},
    **dict.fromkeys(("td", "th"), _ROW_GROUPS | {"tr", "td", "th"}),
}
# elements within which such a start tag does not end an element around them; in tables, only another table is one
_TABLES = frozenset(("table", "template"))
_SCOPES = _TABLES | {"applet", "button", "caption", "dl", "marquee", "menu", "object", "ol", "ruby", "select", "ul"}


@dataclass(frozen=True)
class _Token:
    """A piece of HTML: text, or markup that is within a paragraph (open, close, single) or between paragraphs."""

    source: str
    kind: Literal["text", "open", "close", "single", "block", "pre"]


def html_document(source: str, direction: Direction) -> Document:
    """Return an HTML page or fragment as a document.

    Block elements are paragraphs. Inline tags keep their order; within a sentence they are placed in proportion to the
    number of words. Comments, scripts, styles, code, formulas, attributes, and elements with `translate="no"` or the
    class `notranslate` are copied. Lines of `pre` are paragraphs.
    """
    parts: list[Sentence | str] = []
    paragraph: list[_Token] = []
    for token in _tokens(source):
        if token.kind == "block":
            parts += [*_parts(paragraph, direction), token.source]
            paragraph = []
        elif token.kind == "pre":
            for index, piece in enumerate(LINE_BREAK.split(token.source)):
                if index % 2:
                    parts += [*_parts(paragraph, direction), piece]
                    paragraph = []
                else:
                    paragraph.append(_Token(piece, "text"))
        else:
            paragraph.append(token)
    parts += _parts(paragraph, direction)
    return Document(tuple(parts), direction, is_html=True)


def _parts(tokens: list[_Token], direction: Direction) -> Iterator[Sentence | str]:
    """Yield the parts of a paragraph."""
    texts: list[str] = []
    marks: list[Mark] = []
    length = 0
    for token in tokens:
        if token.kind == "text":
            texts.append(html.unescape(token.source))
            length += len(texts[-1])
        elif token.kind in ("open", "close", "single"):
            marks.append(Mark(token.source, token.kind, length))
    text = "".join(texts)
    if not any(character.isalpha() for character in text):
        yield "".join(token.source for token in tokens)
        return
    # a space for each line break, so that offsets stay the same
    line = LINE_BREAK.sub(lambda match: " " * len(match.group()), text)
    yield from paragraph_parts(line, direction, marks=marks, copied=text, escape=escape_html)


def _tokens(source: str) -> Iterator[_Token]:
    """Yield the pieces of HTML in their order; put together they are the source."""
    position, pre = 0, 0
    while position < len(source):
        start = _TAG_START.search(source, position)
        if start is None or start.start() > position:
            end = len(source) if start is None else start.start()
            yield _Token(source[position:end], "pre" if pre else "text")
            position = end
            continue
        tag = _TAG.match(source, position)
        if tag is None:
            end = _end_of_other(source, position)
            yield _Token(source[position:end], "single")
            position = end
            continue
        name, is_end = tag[1].lower(), tag[0].startswith("</")
        is_kept = not is_end and (name in _RAW_TEXT or name in _NOT_LANGUAGE or _has_no_translation(tag))
        if is_kept and name not in _VOID and not (name in _FOREIGN and tag[0].endswith("/>")):
            find_end = _end_of_optional if name in _ENDED_BY else _end_of_element
            end = find_end(source, tag.end(), name)
            yield _Token(source[position:end], "single" if name in _INLINE else "block")
            position = end
            continue
        if name == "pre":
            pre = 0 if is_end else 1
        position = tag.end()
        yield _Token(tag[0], _kind(name, is_end=is_end))


def _has_no_translation(tag: re.Match[str]) -> bool:
    """Return whether a start tag has `translate="no"` or the class `notranslate`."""
    if "translate" not in tag[0].lower():  # which is faster than to read all attributes
        return False
    values: dict[str, str] = {}
    for name, *written in _ATTRIBUTE.findall(tag[0], tag.end(1) - tag.start()):
        values.setdefault(name.lower(), html.unescape("".join(written)).lower())  # the first of a name counts
    return values.get("translate") == "no" or "notranslate" in values.get("class", "").split()


def _kind(name: str, *, is_end: bool) -> Literal["open", "close", "single", "block"]:
    if name not in _INLINE:
        return "block"
    if name in _VOID:
        return "single"
    return "close" if is_end else "open"


def _end_of_other(source: str, position: int) -> int:
    """Return the end of a comment, a declaration, or a tag that is not closed, which extends to the end of the text."""
    if source.startswith("<!--", position):
        end, closing = source.find("-->", position + 4), 3
    elif source.startswith(("<!", "<?"), position) or re.match(r"</[^A-Za-z]", source[position : position + 3]):
        end, closing = source.find(">", position), 1
    else:
        return len(source)
    return len(source) if end < 0 else end + closing


def _end_of_element(source: str, position: int, name: str) -> int:
    """Return the end of an element whose start tag ends at a position."""
    tags = re.compile(rf"<(/?){re.escape(name)}(?=[\s/>])[^>]*+(?:>|\Z)", re.IGNORECASE)
    depth = 1
    for tag in tags.finditer(source, position):
        if tag[1]:
            depth -= 1
        elif name not in _RAW_TEXT and not (name in _FOREIGN and tag[0].endswith("/>")):
            depth += 1
        if not depth:
            return tag.end()
    return len(source)


def _end_of_optional(source: str, position: int, name: str) -> int:
    """Return the end of an element whose end tag may be omitted and whose start tag ends at a position."""
    scopes = _TABLES if _ENDED_BY[name] >= _ROW_GROUPS else _SCOPES
    opened: list[str] = []
    counts: Counter[str] = Counter()  # of the names in `opened`
    while start := _TAG_START.search(source, position):
        tag = _TAG.match(source, start.start())
        if tag is None:
            position = _end_of_other(source, start.start())
            continue
        inner, position = tag[1].lower(), tag.end()
        if tag[0].startswith("</"):
            if counts[inner]:
                _close(inner, opened, counts)
            elif inner == name:
                return position
            elif inner not in _INLINE and inner not in _VOID and inner != "p":
                return start.start()  # of a surrounding element
        elif inner in _ENDED_BY[name] and not any(counts[scope] for scope in scopes):
            return start.start()
        elif inner in _RAW_TEXT:
            position = _end_of_element(source, position, inner)
        elif inner not in _VOID and not (inner in _FOREIGN and tag[0].endswith("/>")):
            opened.append(inner)
            counts[inner] += 1
    return len(source)


def _close(name: str, opened: list[str], counts: Counter[str]) -> None:
    """Remove the last element with a name, and those in it, from the open elements."""
    closed = ""
    while closed != name:
        closed = opened.pop()
        counts[closed] -= 1
