"""Known overlaps between corpora: pairs that one contains of the other, and test sets inside training corpora.

Shares are those of the tables `overlaps/*.tsv` in github.com/Helsinki-NLP/OPUS, which compare all corpora of a language
pair; a comment names the table. The other facts are from the descriptions of the corpora there.
"""

from __future__ import annotations

import re

# corpus of OPUS -> overlaps
_OVERLAPS = {
    # NLLB/v1/overlaps/en-is.tsv: 8,677,777 of 8,678,395 pairs
    "NLLB": ("CCMatrix: NLLB contains it (en-is: 99.99% of its pairs)", "WikiMatrix: both are mined from Wikipedia"),
    "CCMatrix": ("NLLB: contains CCMatrix (en-is: 99.99% of its pairs)", "ParaCrawl: both are mined from the web"),
    # ParaCrawl/v9/overlaps/de-en.tsv: 17,916,112 and 2,229,680 of 278,310,902 pairs
    "ParaCrawl": ("CCMatrix: 6.4% of ParaCrawl v9 (de-en)", "CCAligned: 0.8% of ParaCrawl v9 (de-en)"),
    "MultiParaCrawl": ("ParaCrawl: the pairs are pivoted from its pairs with English",),
    # NLLB/v1/overlaps/en-is.tsv: HPLT, MaCoCu and CCAligned have the same counts as their multilingual forms
    "HPLT": ("MultiHPLT: repeats the pairs with English, and pivots others from them",),
    "MultiHPLT": ("HPLT: has the same pairs with English; others are pivoted from them",),
    "MaCoCu": ("MultiMaCoCu: repeats the pairs with English, and pivots others from them",),
    "MultiMaCoCu": ("MaCoCu: has the same pairs with English; others are pivoted from them",),
    "CCAligned": (
        "MultiCCAligned: repeats the pairs with English, and pivots others from them",
        "XLEnt: names in its pairs",
    ),
    "MultiCCAligned": ("CCAligned: has the same pairs with English; others are pivoted from them",),
    "XLEnt": ("CCAligned, CCMatrix, WikiMatrix: XLEnt is made of names in their pairs, without sentences",),
    "WMT-News": ("newstest: contains WMT test sets, as wmt14 and wmt19; not for training if they are test sets",),
    "News-Commentary": ("News-Commentary: each version contains the documents of the versions before",),
    "OpenSubtitles": ("OpenSubtitles: each version contains most of the version before",),
    "Tatoeba": ("Tatoeba: each version contains most of the version before; Tatoeba test sets",),
    "TED2020": ("TED2013, NeuLab-TedTalks, IWSLT: the same talks, also those of the IWSLT test sets",),
    "TED2013": ("TED2020, NeuLab-TedTalks, IWSLT: the same talks, also those of the IWSLT test sets",),
    "NeuLab-TedTalks": ("TED2020, TED2013, IWSLT: the same talks, also those of the IWSLT test sets",),
    "QED": ("TED2020: subtitles of talks",),
    "DGT": ("JRC-Acquis: legislation of the European Union",),
    "JRC-Acquis": ("DGT: legislation of the European Union",),
    "MultiUN": ("UNPC: documents of the United Nations",),
    "UNPC": ("MultiUN: documents of the United Nations",),
    "Wikipedia": ("WikiMatrix: both are from Wikipedia",),
    "WikiMatrix": ("NLLB, Wikipedia: mined from Wikipedia too",),
}


_ELRC_PART = re.compile(r"ELRC-\d+-(.+)")


def overlaps_of(corpus: str) -> tuple[str, ...]:
    """Return the known overlaps of a corpus of OPUS: the other data set, a colon and the reason."""
    if part := _ELRC_PART.fullmatch(corpus):  # such as ELRC-2718-EMEA of ELRC-EMEA
        return (f"ELRC-{part[1]}: contains it, if there is this corpus",)
    return _OVERLAPS.get(corpus, ())
