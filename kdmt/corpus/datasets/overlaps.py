"""Known overlaps between corpora: pairs that one contains of the other, and test sets inside training corpora.

Shares are those of the tables `overlaps/*.tsv` in github.com/Helsinki-NLP/OPUS, which compare all corpora of a language
pair; a comment names the table. The other facts are from the descriptions of the corpora there.
"""

from __future__ import annotations

# corpus of OPUS -> overlaps
_OVERLAPS = {
    # NLLB/v1/overlaps/en-is.tsv: 8,677,777 of 8,678,395 pairs
    "NLLB": ("CCMatrix: NLLB contains it (en-is: 99.99% of its pairs)", "WikiMatrix: both are mined from Wikipedia"),
    "CCMatrix": ("NLLB: contains CCMatrix (en-is: 99.99% of its pairs)", "ParaCrawl: both are mined from the web"),
    # ParaCrawl/v9/overlaps/de-en.tsv: 17,916,112 and 2,229,680 of 278,310,902 pairs
    "ParaCrawl": ("CCMatrix: 6.4% of ParaCrawl v9 (de-en)", "CCAligned: 0.8% of ParaCrawl v9 (de-en)"),
    "MultiParaCrawl": ("ParaCrawl: pairs without English are pivoted from it, pairs with English are its pairs",),
    "MultiHPLT": ("HPLT: pairs without English are pivoted from it, pairs with English are its pairs",),
    "HPLT": ("MultiHPLT: repeats its pairs with English",),
    "MultiMaCoCu": ("MaCoCu: pairs without English are pivoted from it, pairs with English are its pairs",),
    "MaCoCu": ("MultiMaCoCu: repeats its pairs with English",),
    "MultiCCAligned": ("CCAligned: pairs without English are pivoted from it, pairs with English are its pairs",),
    "CCAligned": ("MultiCCAligned: repeats its pairs with English", "XLEnt: names mined from CCAligned"),
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


def overlaps_of(corpus: str) -> tuple[str, ...]:
    """Return the known overlaps of a corpus of OPUS: the other data set, a colon and the reason."""
    return _OVERLAPS.get(corpus, ())
