"""The rule that URLs, domain names and e-mail addresses of both sides agree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from kdmt.config import rules as settings
from kdmt.corpus.rules.pair_text import LanguagePair, LineText, PairText

# A URL with a scheme, an e-mail address or a domain name with the path of a URL. The last part of a domain name is in
# lower case, so that sentences without a space between them ("End.Begin") are none.
_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]*+://[^\s<>\"\u00ab\u00bb\u201c\u201d\u3001\u3002\uff0c]+"
    r"|(?<![\w.@-])(?:[\w.+-]+@)?(?:[A-Za-z0-9-]+\.)+[a-z]{2,24}(?![\w-])(?:[/?#][^\s<>\"\u3001\u3002\uff0c]*)?"
)
_ENDS = ".,;:!?'\u2019)]}/"


def find_links(line: LineText) -> frozenset[str]:
    """Return the URLs, domain names and e-mail addresses of a line in lower case, without scheme and `www.`."""
    if line.text.find(".", 0, -2) < 0 and "://" not in line.text:
        return frozenset()
    return frozenset(map(_plain, _ADDRESS.findall(line.text)))


def _plain(link: str) -> str:
    return link.rstrip(_ENDS).lower().rpartition("://")[2].removeprefix("www.")


@dataclass(frozen=True)
class Links:
    """Drop pairs whose sides have different URLs, domain names or e-mail addresses."""

    settings: settings.NoSettings
    languages: LanguagePair
    name: ClassVar[str] = "links"

    def breaks(self, pair: PairText) -> bool:
        """Return whether the sets of addresses differ."""
        source, target = pair.lines
        return find_links(source) != find_links(target)
