"""Changes of text that make training data noisier: case, end punctuation, typing errors, markup.

Each function changes text only where its script allows it: there is no case in Han, Thai or Arabic, and no typing error
by exchanged letters in logographic scripts. None returns an empty text for a text that is not empty.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from random import Random

import regex

from kdmt.languages import parse_language, script_of

# punctuation that ends a sentence; of several marks in a row all are removed
_END = regex.compile(r"[\s]*[.!?…。．｡！？؟۔।॥።։။។‼⁇⁈⁉‽]+\s*$")
# scripts in which str.upper or str.lower changes letters and text is written in both cases; Georgian is not, since its
# capital letters do not begin words or sentences
_CASED = regex.compile(
    r"[\p{Latin}\p{Greek}\p{Cyrillic}\p{Armenian}\p{Adlam}\p{Cherokee}\p{Coptic}\p{Deseret}\p{Glagolitic}\p{Osage}]"
)
_LETTER = regex.compile(r"\p{L}")
_WORD = regex.compile(r"(?:\p{L}\p{M}*)+")
_CLUSTER = regex.compile(r"\p{L}\p{M}*")
_LOGOGRAPHIC = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Yi}\p{Tangut}\p{Nushu}\p{Egyptian_Hieroglyphs}\p{Cuneiform}]"
)
_QUOTE = "(?:[\"']|&quot;|&apos;)"
# tags, placeholders, addresses, and characters that are escaped as in XML: never changed
_MARKUP = regex.compile(
    "|".join(
        (
            r"</?\w[^<>]*>",
            r"__\w+__",
            r"\w+://\S+",
            r"\S+@\S+\.\S+",
            # the same divided by Moses: a tag with its attributes, an address with its path and query
            rf"(?:<|&lt;) (?:/ )?[\w:.-]+(?: [\w:.-]+ = {_QUOTE} [^<>]*?{_QUOTE})*(?: /)? (?:>|&gt;)",
            r"_ _ \w+ _ _",
            r"\w+ : / / \S+(?: (?:[/?=:#%+~_&]|&amp;)(?: \w[\w.-]*)?)*",
            r"\S+ @ \S+\.\S+",
            r"&(?:[a-z]+|#[0-9]+|#x[0-9A-Fa-f]+);",
        )
    )
)
_FIRST_LETTERS = regex.compile(rf"{_MARKUP.pattern}|(?<![\p{{L}}\p{{M}}\p{{N}}'’]|&apos;|&#39;)(\p{{L}})")
_CASED_SCRIPTS = frozenset(("Latn", "Latf", "Grek", "Cyrl", "Armn", "Adlm", "Cher", "Copt", "Dsrt", "Glag", "Osge"))
_DOTTED = frozenset(("tr", "az", "crh", "gag"))  # languages in which the capital of i is İ, and that of ı is I
_NEIGHBOURS = {  # of each letter on a QWERTY keyboard
    letter: "".join(
        other
        for other_row, letters in enumerate(("qwertyuiop", "asdfghjkl", "zxcvbnm"))
        for other_place, other in enumerate(letters)
        if other != letter and abs(other_row - row) <= 1 and abs(other_place - place) <= 1
    )
    for row, keys in enumerate(("qwertyuiop", "asdfghjkl", "zxcvbnm"))
    for place, letter in enumerate(keys)
}
_SHORTEST_WITH_TYPO = 4  # letters of a word
_NOISE_WORDS, _NOISE_LETTERS = 8, 12  # maximum numbers in a line, and in a word
_TAGS = ("a", "b", "em", "i", "s", "span", "strong", "u", "x1", "g1")
NUM_PLACEHOLDERS = 10

PLACEHOLDERS = tuple(f"__PH{number}__" for number in range(NUM_PLACEHOLDERS))
TAG_PAIRS = tuple((f"<{name}>", f"</{name}>") for name in _TAGS)


# ---------------------------------------------------------------------------------------------------------------- case


def has_case(text: str, language: str) -> bool:
    """Return whether a language, and most letters of a text in it, are in a script with upper and lower case."""
    try:
        script = script_of(language)
    except ValueError:  # the name of a side of a data-bin from elsewhere
        script = "Latn"
    if script not in _CASED_SCRIPTS:
        return False
    return 2 * len(_CASED.findall(text)) > len(_LETTER.findall(text))


def to_upper_case(text: str, language: str) -> str:
    """Return a text in upper case by the rules of its language: İ for Turkish i, no accents in Greek."""

    def upper(part: str) -> str:
        if _language(language) in _DOTTED:
            part = part.replace("i", "İ")
        if _language(language) == "el":
            part = _without_greek_accents(part)
        return part.upper()

    return _outside_markup(text, upper)


def to_title_case(text: str, language: str) -> str:
    """Return a text in which each word begins with a capital letter; the other letters stay as they are."""
    dotted = _language(language) in _DOTTED

    def capital(match: regex.Match[str]) -> str:
        letter = match[1]
        if letter is None:
            return match[0]
        return "İ" if dotted and letter == "i" else letter.title() if _CASED.match(letter) else letter

    return _FIRST_LETTERS.sub(capital, text)


def _language(code: str) -> str:
    try:
        return parse_language(code).language
    except ValueError:
        return code


def _outside_markup(text: str, change: Callable[[str], str]) -> str:
    parts, done = [], 0
    for markup in _MARKUP.finditer(text):
        parts += [change(text[done : markup.start()]), markup[0]]
        done = markup.end()
    return "".join((*parts, change(text[done:])))


def _without_greek_accents(text: str) -> str:
    clusters = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", regex.sub(r"(?<=\p{Greek}\p{M}*)\u0301", "", clusters))


# --------------------------------------------------------------------------------------------------------- punctuation


def without_end_punctuation(text: str) -> str:
    """Return a text without the punctuation that ends it; unchanged if there is none, or nothing else."""
    shorter = _END.sub("", text)
    return shorter if shorter else text


# ------------------------------------------------------------------------------------------------------- typing errors


def with_typos(text: str, rate: float, generator: Random) -> str:
    """Return a text with typing errors: letters that are exchanged, left out, repeated, or inserted.

    Words of fewer than four letters and words with logographic characters have none. A letter is one with its combining
    marks. The inserted letter is a neighbour on the keyboard (Latin letters), else another letter of the text.

    Args:
        rate: share of the words that have an error; at least one word has.
    """
    plain = _MARKUP.sub(lambda markup: " " * len(markup[0]), text)
    words = [match for match in _WORD.finditer(plain) if _takes_typo(match[0])]
    if not words:
        return text
    chosen = [word for word in words if generator.random() < rate] or [generator.choice(words)]
    parts, done = [], 0
    for word in chosen:
        parts += [text[done : word.start()], _with_typo(word[0], text, generator)]
        done = word.end()
    return "".join((*parts, text[done:]))


def _takes_typo(word: str) -> bool:
    return len(_CLUSTER.findall(word)) >= _SHORTEST_WITH_TYPO and not _LOGOGRAPHIC.search(word)


def _with_typo(word: str, text: str, generator: Random) -> str:
    letters = _CLUSTER.findall(word)
    return "".join(generator.choice(_TYPOS)(letters, text, generator))


def _swap(letters: list[str], text: str, generator: Random) -> list[str]:  # noqa: ARG001
    places = [place for place in range(1, len(letters) - 1) if letters[place] != letters[place + 1]]
    if not places:
        return letters
    place = generator.choice(places)
    return [*letters[:place], letters[place + 1], letters[place], *letters[place + 2 :]]


def _drop(letters: list[str], text: str, generator: Random) -> list[str]:  # noqa: ARG001
    place = generator.randrange(1, len(letters))
    return letters[:place] + letters[place + 1 :]


def _repeat(letters: list[str], text: str, generator: Random) -> list[str]:  # noqa: ARG001
    place = generator.randrange(len(letters))
    return letters[: place + 1] + letters[place:]


def _insert(letters: list[str], text: str, generator: Random) -> list[str]:
    place = generator.randrange(1, len(letters))
    near = _NEIGHBOURS.get(letters[place].lower())
    new = generator.choice(near) if near else generator.choice(_CLUSTER.findall(text))
    if _LOGOGRAPHIC.match(new):
        new = letters[place]
    return [*letters[:place], new.upper() if letters[place].isupper() else new, *letters[place:]]


# errors of equal probability; the first letter of a word is not exchanged or left out
_TYPOS: tuple[Callable[[list[str], str, Random], list[str]], ...] = (_swap, _drop, _repeat, _insert)


# --------------------------------------------------------------------------------------------------------------- lines


def noise_line(alphabet: Sequence[str], generator: Random) -> str:
    """Return one to eight words of one to twelve random characters."""
    sizes = [generator.randint(1, _NOISE_LETTERS) for _ in range(generator.randint(1, _NOISE_WORDS))]
    return " ".join("".join(generator.choices(alphabet, k=size)) for size in sizes)


def join_texts(first: str, second: str, *, spaced: bool) -> str:
    """Return two texts as one line."""
    return f"{first} {second}" if spaced else f"{first}{second}"
