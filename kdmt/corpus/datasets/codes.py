"""Language codes of data sets: which code of an index means the language of a code in a pipeline.

Indices use two letters (OPUS: `en`, `zh_CN`), three letters (mtdata: `eng`, `zho_Hans`) or language and script (FLORES:
`eng_Latn`). FLORES and others name the individual language (`pes`) where pipelines usually name the macrolanguage
(`fa`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace

from kdmt.languages import Language, parse_language

# Individual language -> macrolanguage of ISO 639-3 that usually means this language in corpora. Norwegian has two
# written standards and is not in the table: `no` is not `nb`.
_MACROLANGUAGES = {
    **{"als": "sq", "arb": "ar", "ayr": "ay", "azj": "az", "cmn": "zh", "ekk": "et", "gaz": "om", "gug": "gn"},
    **{"khk": "mn", "kmr": "ku", "lvs": "lv", "npi": "ne", "ory": "or", "pbt": "ps", "pes": "fa", "plt": "mg"},
    **{"quy": "qu", "swh": "sw", "tl": "fil", "uzn": "uz", "ydd": "yi", "zsm": "ms", "fuv": "ff", "knc": "kr"},
    **{"dik": "din", "gom": "kok", "twi": "ak", "tw": "ak"},
}


_SAME_SCRIPT = {"Hang": "Kore"}  # `kor_Hang` is ordinary Korean


@functools.lru_cache(maxsize=4096)
def known_language(code: str) -> Language | None:
    """Return the language of a code with its script, None for codes of other standards."""
    try:
        language = parse_language(code.replace("@", "-"))
    except ValueError:
        return None
    script = _SAME_SCRIPT.get(language.written_in, language.written_in)
    return replace(language, language=_MACROLANGUAGES.get(language.language, language.language), script=script)


@functools.lru_cache(maxsize=65536)
def same_code(wanted: str, code: str) -> bool:
    """Return whether a code of an index means the language, script and region of a code in a pipeline."""
    first, second = known_language(wanted), known_language(code)
    return wanted == code or (first is not None and first == second)


@functools.lru_cache(maxsize=65536)
def covers_code(wanted: str, code: str) -> bool:
    """Return whether a code means the same variety or the language in general: for `en_GB`, `en_GB` and `en` do."""
    second = known_language(code)
    return includes_code(wanted, code) and (same_code(wanted, code) or (second is not None and not second.region))


@functools.lru_cache(maxsize=65536)
def includes_code(wanted: str, code: str) -> bool:
    """Return whether a code means the same language and script, and no other region: `en` includes `en_GB`."""
    first, second = known_language(wanted), known_language(code)
    if first is None or second is None:
        return wanted == code
    if first.region and second.region:
        return first == second
    return replace(first, region=None) == replace(second, region=None)


def find_code(wanted: str, codes: Iterable[str]) -> str | None:
    """Return the code in an index that means a language.

    It is the same code if the index has it, else an equivalent one, else that of the language in general, else that of
    the only regional variety.
    """
    codes = list(codes)
    if wanted in codes:
        return wanted
    known = [code for code in codes if includes_code(wanted, code)]
    for matches in (same_code, covers_code):
        found = [code for code in known if matches(wanted, code)]
        if found:
            return found[0]
    return known[0] if len(known) == 1 else None
