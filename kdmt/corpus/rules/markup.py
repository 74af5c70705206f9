"""Rules about HTML and the markup of templates and code."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import ClassVar

from kdmt.config import rules as settings
from kdmt.corpus.rules.pair_text import LanguagePair, LineText, PairText

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_TIMES_ESCAPED = 2  # `&amp;quot;` is a quotation mark that was escaped twice
_INLINE = (
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|del|dfn|em|font|i|ins|kbd|label|mark|nobr|q|s|samp|small|span|strike|"
    "strong|sub|sup|tt|u|var|wbr"
)
_BLOCK = (
    "address|article|aside|blockquote|body|br|button|caption|center|col|dd|div|dl|dt|embed|fieldset|figure|footer|form|"
    "frame|h[1-6]|head|header|hr|html|iframe|img|input|legend|li|link|main|map|meta|nav|object|ol|optgroup|option|p|"
    "param|pre|script|section|select|source|style|summary|table|tbody|td|textarea|tfoot|th|thead|title|tr|ul|video"
)
_TAG = re.compile(rf"</?(?:(?P<inline>{_INLINE})|{_BLOCK})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_OF_MARKUP = ("{{", "}}", "[[", "]]", "{%", "%}", "<!--", "-->", "</", "/>", "<?", "?>", "<%", "%>", "${")
_MARKS = re.compile(rb"[{}\[\]<>]")  # every one of these has one of them


@dataclass(frozen=True)
class Entities:
    """Replace character references of HTML and XML (`&amp;`, `&#8217;`) by their characters."""

    name: ClassVar[str] = "entities"

    def edit(self, line: str) -> str:
        """Return the line without character references, also without those that were escaped twice."""
        if "&" not in line:
            return line
        for _ in range(_TIMES_ESCAPED):
            line = _ENTITY.sub(lambda match: html.unescape(match[0]), line)
        return line


@dataclass(frozen=True)
class Tags:
    """Remove HTML tags. A tag of a block, such as `<br>`, becomes a space."""

    name: ClassVar[str] = "tags"

    def edit(self, line: str) -> str:
        """Return the line without tags."""
        if "<" not in line:
            return line
        return _TAG.sub(lambda match: "" if match["inline"] else " ", line)


@dataclass(frozen=True)
class Markup:
    """Drop pairs with markup of templates, wikis and code (`{{`, `[[`, `<!--`), also tags that `Tags` does not know."""

    settings: settings.NoSettings
    languages: LanguagePair
    name: ClassVar[str] = "markup"

    def breaks(self, pair: PairText) -> bool:
        """Return whether a side has such markup."""
        source, target = pair.lines
        return _has_markup(source) or _has_markup(target)


def _has_markup(line: LineText) -> bool:
    return _MARKS.search(line.signs) is not None and any(mark in line.text for mark in _OF_MARKUP)
