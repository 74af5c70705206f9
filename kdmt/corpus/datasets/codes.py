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


@functools.lru_cache(maxsize=4096)
def known_language(code: str) -> Language | None:
    """Return the language of a code with its script, None for codes of other standards."""
    try:
        language = parse_language(code.replace("@", "-"))
    except ValueError:
        return None
    script = language.written_in
    return replace(language, language=_MACROLANGUAGES.get(language.language, language.language), script=script)


@functools.lru_cache(maxsize=65536)
def same_code(wanted: str, code: str) -> bool:
    """Return whether a code of an index means the language, script and region of a code in a pipeline."""
    first, second = known_language(wanted), known_language(code)
    return wanted == code or (first is not None and first == second)


@functools.lru_cache(maxsize=65536)
def includes_code(wanted: str, code: str) -> bool:
    """Return whether a code means the same language, or a regional variety of it: `en` includes `en_GB`."""
    first, second = known_language(wanted), known_language(code)
    if first is None or second is None:
        return wanted == code
    return first == (second if first.region else replace(second, region=None, rest=first.rest))


def find_code(wanted: str, codes: Iterable[str]) -> str | None:
    """Return the code in an index that means a language.

    It is the same code if the index has it, else an equivalent one, else that of the only regional variety.
    """
    codes = list(codes)
    if wanted in codes:
        return wanted
    regional = [code for code in codes if includes_code(wanted, code)]
    same = [code for code in regional if same_code(wanted, code)]
    return same[0] if same else regional[0] if len(regional) == 1 else None
