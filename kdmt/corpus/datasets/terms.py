"""Licences of corpora, and the keys of publications to cite for them in the recorded bibliography.

A licence is here only if its publisher or OPUS states it; each entry says where. A licence that covers the packaging
alone does not cover the text, which belongs to its authors.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """Terms of a corpus.

    Attributes:
        licence: licence or terms of use, None if the publisher states none.
        cite: keys of publications in the recorded bibliography.
    """

    licence: str | None = None
    cite: tuple[str, ...] = ()


PACKAGING_LICENCE = "CC0-1.0 (packaging; the text belongs to its authors)"
WMT_LICENCE = "free for research purposes (terms of the WMT shared tasks)"
_PARACRAWL = Terms(PACKAGING_LICENCE, ("espla-etal-2019-paracrawl", "banon-etal-2020-paracrawl"))
_TED = "TED Talks Usage Policy (CC-BY-NC-ND-4.0)"

# corpus of OPUS -> terms; from corpus/CORPUS/info.yaml in github.com/Helsinki-NLP/OPUS unless a comment names a page
OPUS_LICENCES = {
    "NLLB": Terms("ODC-By-1.0", ("schwenk-etal-2021-ccmatrix", "heffernan2022bitext", "nllb-2022")),
    "CCMatrix": Terms(None, ("schwenk-etal-2021-ccmatrix",)),
    "ParaCrawl": _PARACRAWL,  # paracrawl.eu
    "ParaCrawl-Bonus": _PARACRAWL,  # paracrawl.eu
    "MultiParaCrawl": _PARACRAWL,  # paracrawl.eu
    "HPLT": Terms(PACKAGING_LICENCE),  # hplt-project.org
    "MultiHPLT": Terms(PACKAGING_LICENCE),  # hplt-project.org
    "MaCoCu": Terms(PACKAGING_LICENCE),  # macocu.eu
    "MultiMaCoCu": Terms(PACKAGING_LICENCE),  # macocu.eu
    "WikiMatrix": Terms("CC-BY-SA-4.0", ("wikimatrix1",)),
    "Tatoeba": Terms("CC-BY-2.0-FR"),
    "TED2020": Terms(_TED),
    "TED2013": Terms(_TED),
    "NeuLab-TedTalks": Terms(_TED, ("Ye2018WordEmbeddings",)),
    "Europarl": Terms("no known copyright restrictions", ("koehn2005europarl",)),  # statmt.org/europarl
    "News-Commentary": Terms(WMT_LICENCE),  # statmt.org/wmt19
    "WMT-News": Terms(WMT_LICENCE),  # statmt.org/wmt19
    "TildeMODEL": Terms("CC-BY-4.0", ("rozis-skadins-2017-tilde",)),
    "UNPC": Terms(
        "free, with acknowledgement of the United Nations", ("ziemski-etal-2016-united",)
    ),  # conferences.unite.un.org
    "EuroPat": Terms("CC0-1.0"),
    "bible-uedin": Terms("CC0-1.0"),
    "wikimedia": Terms("CC-BY-SA-4.0"),
    "QED": Terms("research only"),
    "ELRC-EMEA": Terms("CC-BY-4.0"),
    "KFTT": Terms("CC-BY-SA-3.0", ("neubig11kftt",)),
    "JESC": Terms("CC-BY-SA-4.0", ("pryzant_jesc_2018",)),
    "ParIce": Terms("CC-BY-4.0", ("Barkarson-et-al-2020",)),
}


def licence_of_opus(corpus: str) -> str | None:
    """Return the licence of a corpus of OPUS, None if unknown."""
    return OPUS_LICENCES[corpus].licence if corpus in OPUS_LICENCES else None
