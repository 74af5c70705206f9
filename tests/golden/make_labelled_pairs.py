"""Make tests/golden/cleaning/labelled_pairs.tsv: pairs of clean text, and pairs with one planted fault each.

    python tests/golden/make_labelled_pairs.py ../shared/data/udhr

The text is that of the Universal Declaration of Human Rights, which may be copied freely: files `udhr.<language>` with
one paragraph per line, line i the same paragraph in every language. Pairs are English with one of eight languages, five
of them in scripts other than Latin, and three without spaces between words.

Columns: both languages, fault, source, target, clean source, clean target. The fault is the name of the rule that is to
find it, `none` for clean UDHR text, and `like_NAME` for clean text that resembles a fault. The last two columns
are what a rule that changes lines is to make of the pair.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

OUT = Path(__file__).resolve().parent / "cleaning" / "labelled_pairs.tsv"
LANGUAGES = ("de", "fr", "cs", "ru", "ar", "zh", "ja", "th")
UNSPACED = ("zh", "ja", "th")
LONGEST = 320  # characters of a paragraph
NUM_CLEAN = 14  # pairs of each language without a change
Pair = tuple[str, str]

# Text that Windows-1251 or Windows-1252 can hold by its bytes in UTF-8; other bytes become control characters.
BYTES_AS = {"ru": "cp1251"}
SCRIPTS = {"de": "ru", "fr": "ar", "cs": "el", "ru": "en", "ar": "he", "zh": "ko", "ja": "th", "th": "hi", "en": "ka"}
MARKUP = (
    *("{{cite web|title=%s}}", "[[File:%s.jpg|thumb]]", "<!-- %s -->", "{%% if user %%} %s", "${name} %s"),
    *("%s </nav2>", "{{%s|date=May}}", "[[%s]]", "<?php echo %s ?>", "<%%= %s %%>"),
)
URLS = ("https://www.un.org/en/about", "http://example.org/a?b=1&c=2", "www.ohchr.org", "unesco.org/culture")
ADDRESSES = ("info@un.org", "first.last+news@mail.example.com", "contact@ohchr.org")
LOST = ("\ufffd", "\uf0b7", "\ue004")
TABLE = ("| 12 | 33.5 | 44 | 7,1 | 100 % |", "*** === --- *** ===", "1. 2. 3. 4. 5. 6.", "+41 22 917 9220 / 9221")


def main() -> None:
    texts = {
        path.suffix[1:]: path.read_text(encoding="utf-8").splitlines() for path in Path(sys.argv[1]).glob("udhr.*")
    }
    rows = ["\t".join(("source_lang", "target_lang", "fault", "source", "target", "clean_source", "clean_target"))]
    for language in LANGUAGES:
        maker = Maker(random.Random(f"labelled {language}"), texts, language)
        rows += ["\t".join(("en", language, fault, *pair, *clean)) for fault, pair, clean in maker.rows()]
    OUT.write_text("\n".join([*rows, ""]), encoding="utf-8")
    print(f"{OUT}: {len(rows) - 1} pairs")


class Maker:
    """Pairs of English with one language."""

    def __init__(self, draw: random.Random, texts: dict[str, list[str]], language: str) -> None:
        self.draw = draw
        self.texts = texts
        self.language = language
        pairs = list(zip(texts["en"], texts[language], strict=True))
        self.pairs = [pair for pair in pairs if max(map(len, pair)) <= LONGEST]
        draw.shuffle(self.pairs)
        self.next = 0

    def rows(self) -> Iterator[tuple[str, Pair, Pair]]:
        """Yield fault, pair and clean pair."""
        for _ in range(NUM_CLEAN):
            pair = self.pair()
            yield "none", pair, pair
        for fault, pair in self.resembling():
            yield f"like_{fault}", pair, pair
        for fault, make in self.changes().items():
            for side in (1, 1, 1) if fault == "mojibake" else (0, 1):  # it changes few characters of English
                clean = self.pair()
                pair = self.on_side(clean, side, make)
                if pair != clean:
                    yield fault, pair, clean
        for fault, makers in self.faults().items():
            for number, make in enumerate(makers):
                clean = self.pair()
                yield fault, self.on_side(clean, number % 2, make), clean
        for fault, pair in self.faults_of_pairs():
            yield fault, pair, pair

    def pair(self) -> Pair:
        """Return the next clean pair."""
        self.next += 1
        return self.pairs[self.next % len(self.pairs)]

    def on_side(self, pair: Pair, side: int, make: Callable[[str, str], str]) -> Pair:
        """Return a pair with one side changed."""
        language = ("en", self.language)[side]
        return (make(pair[0], language), pair[1]) if side == 0 else (pair[0], make(pair[1], language))

    def inserted(self, text: str, what: str, language: str) -> str:
        """Return a text with something between two of its words, or characters of a text without spaces."""
        if language in UNSPACED:
            place = self.draw.randrange(len(text) // 4, 3 * len(text) // 4)
            return f"{text[:place]}{what}{text[place:]}"
        words = text.split(" ")
        place = self.draw.randrange(1, len(words)) if len(words) > 1 else 1
        return " ".join([*words[:place], what, *words[place:]])

    # ---------------------------------------------------------------------------------------------- rules that change

    def changes(self) -> dict[str, Callable[[str, str], str]]:
        """Return the faults that are to be repaired."""
        return {"mojibake": self.mojibake, "entities": self.entities, "tags": self.tags}

    def mojibake(self, text: str, language: str) -> str:
        """Return a text in UTF-8 as a program reads it that takes it for another encoding."""
        encoding = BYTES_AS.get(language, "cp1252")
        return "".join(_decoded(bytes((byte,)), encoding) for byte in text.encode())

    def entities(self, text: str, _: str) -> str:
        """Return a text with character references."""
        escaped = text.replace("'", "&#39;").replace("é", "&eacute;").replace("ü", "&#xFC;").replace(",", "&#44;")
        if escaped == text:
            escaped = f"{text[:3]}&#{ord(text[3])};{text[4:]}"
        return escaped.replace("&", "&amp;") if self.draw.random() < 0.3 else escaped

    def tags(self, text: str, _: str) -> str:
        """Return a text with HTML tags."""
        first = self.draw.choice(("<b>%s</b>", "<p>%s</p>", '<a href="/x?y=1">%s</a>', "<br/>%s", "<LI>%s", "%s<br>"))
        return first % text

    # -------------------------------------------------------------------------------------------- faults of one side

    def faults(self) -> dict[str, list[Callable[[str, str], str]]]:
        """Return the faults that are planted in one side, English and the other language in turn."""
        draw = self.draw
        faults: dict[str, list[Callable[[str, str], str]]] = {
            "broken_characters": [
                lambda text, _: text.replace(text[5], "\ufffd"),
                lambda text, _: f"{text[:9]}{draw.choice(LOST)}{text[9:]}",
            ],
            "markup": [
                lambda text, language: self.inserted(text, draw.choice(MARKUP) % "x", language),
                lambda text, _: f"{text} {draw.choice(MARKUP) % text[:6]}",
            ],
            "letters": [lambda *_: draw.choice(TABLE), lambda text, _: f"{text[:5]} {draw.choice(TABLE)}"],
            "script": [
                lambda _, language: draw.choice(self.texts[SCRIPTS[language]]),
                lambda _, language: draw.choice(self.texts[SCRIPTS[language]]),
            ],
            "repeated_characters": [
                lambda text, language: self.inserted(text, draw.choice("._-=!*") * draw.randrange(12, 40), language),
                lambda text, language: self.inserted(text, text.replace(" ", "")[2] * draw.randrange(12, 30), language),
            ],
            "repeated_phrases": [self.repeated, self.repeated],
            "numbers": [
                lambda text, language: self.inserted(text, f"{draw.randrange(10, 10_000)}", language),
                lambda text, language: self.inserted(text, f"{draw.randrange(10, 10_000):,}", language),
            ],
            "links": [
                lambda text, language: self.inserted(text, f" {draw.choice(URLS)} ", language).replace("  ", " "),
                lambda text, _: f"{text} {draw.choice(ADDRESSES)}",
            ],
        }
        if self.language not in UNSPACED:
            faults["longest_word"] = [
                lambda text, language: self.inserted(text, _base64(draw, 200), language),
                lambda text, language: self.inserted(text, _base64(draw, 160), language),
            ]
            faults["mean_word"] = [lambda text, _: " ".join(text.replace(" ", ""))] * 2
        return faults

    def repeated(self, text: str, language: str) -> str:
        """Return a text with a phrase several times in a row, as broken translation systems write it."""
        times = self.draw.randrange(3, 7)
        if language in UNSPACED:
            start = self.draw.randrange(len(text) - 13)
            length = self.draw.randrange(5, 12)
            return text[:start] + text[start : start + length] * times + text[start + length :]
        words = text.split(" ")
        start = self.draw.randrange(max(1, len(words) - 6))
        phrase = words[start : start + self.draw.randrange(2, 6)]
        return " ".join([*words[:start], *phrase * times, *words[start + len(phrase) :]])

    # ------------------------------------------------------------------------------------------------ faults of pairs

    def faults_of_pairs(self) -> Iterator[tuple[str, Pair]]:
        """Yield faults that concern both sides."""
        for change in (1, 2):
            number, other = self.draw.sample(range(1900, 2030), 2)
            source, target = self.pair()
            if change == 1:
                yield "numbers", (f"{source} ({number})", f"{target} ({other})")
            url, wrong = self.draw.sample(URLS, 2)
            yield "links", (f"{source} {url}", f"{target} {wrong}")
            copy = list(source)
            for place in self.draw.sample(range(len(copy)), max(1, len(copy) // 30) * change):
                copy[place] = self.draw.choice("xqjz")
            yield "near_copy", (source, "".join(copy))
        for _ in range(2):
            source, target = self.pair()
            yield "length_ratio", (source, target[: max(3, len(target) // 6)])
        if self.language != "th":
            for side in (0, 1):
                several = [pair for pair in self.pairs if pair[0].endswith(".")][side : 5 + side]
                joined = tuple(("" if lang in UNSPACED else " ").join(texts) for lang, texts in zip(
                    ("en", self.language), zip(*several, strict=True), strict=True))  # fmt: skip
                yield "sentences", (joined[0], several[0][1]) if side else (several[0][0], joined[1])

    # ------------------------------------------------------------------------------------ clean text, like a fault

    def resembling(self) -> Iterator[tuple[str, Pair]]:
        """Yield clean pairs that resemble a fault."""
        draw, digits = self.draw, {"ar": "٠١٢٣٤٥٦٧٨٩", "ja": "０１２３４５６７８９"}.get(self.language)
        year, large = draw.randrange(1900, 2030), draw.randrange(1_000, 99_000_000)
        separator = {"en": ",", "de": ".", "fr": "\u202f", "cs": "\u00a0", "ru": " ", "ar": "٬"}.get(self.language, ",")
        grouped = f"{large:,}".replace(",", separator)
        if digits:
            grouped = grouped.translate(str.maketrans("0123456789", digits))
        yield "numbers", self.both(f"({year})", f"({year})")
        yield "numbers", self.both(f"({large:,})", f"({grouped})")
        yield "numbers", self.both("10:30", "10.30")
        url, address = draw.choice(URLS), draw.choice(ADDRESSES)
        yield "links", self.both(f"({url})", f"({url})")
        yield "links", self.both(f"{address},", f"{address}")
        yield "mojibake", self.both("“CAFÉ”", "«CAFÉ»")
        yield "entities", self.both("AT&T & R&D;", "AT&T & R&D;")
        yield "tags", self.both("a < b > c <3", "a < b > c <3")
        yield "repeated_characters", self.both("... no, no!!!", "... !!!")
        yield "script", self.both("Windows 11", "Windows 11")
        yield "markup", self.both("[1] {a}", "[1] {a}")

    def both(self, of_source: str, of_target: str) -> Pair:
        """Return a clean pair with something at the end of both sides."""
        source, target = self.pair()
        return f"{source} {of_source}", f"{target} {of_target}"


def _decoded(byte: bytes, encoding: str) -> str:
    try:
        return byte.decode(encoding)
    except UnicodeDecodeError:
        return byte.decode("latin-1")


def _base64(draw: random.Random, length: int) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(draw.choices(letters, k=length))


if __name__ == "__main__":
    main()
