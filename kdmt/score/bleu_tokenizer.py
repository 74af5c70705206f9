"""Choice of sacreBLEU's tokenizer, for finished text and for text in the form that kdmt's tokenizer reads."""

from __future__ import annotations

from pathlib import Path

from kdmt import languages
from kdmt.config import Score, Text
from kdmt.errors import UserError


def bleu_tokenizer(settings: Score, lang: str) -> str:
    """Return sacreBLEU's tokenizer for finished text: `score.tokenize`, with `auto` resolved for the language."""
    return languages.bleu_tokenizer(lang) if settings.tokenize == "auto" else settings.tokenize


def words_tokenizer(settings: Score, text: Text, lang: str) -> str:
    """Return sacreBLEU's tokenizer for text in the form that kdmt's tokenizer reads.

    Text that Moses has tokenised is not tokenised again.
    """
    if text.moses and languages.writes_spaces(lang):
        return "none"
    return bleu_tokenizer(settings, lang)


def legacy_words_tokenizer(text: Text) -> str:
    """Return the tokenizer that was used for every language before plans recorded the tokenizer."""
    return "none" if text.moses else "13a"


def tokenizer_note(settings: Score, lang: str) -> str | None:
    """Return a note for the user if `auto` is not the usual tokenizer of the language, else None."""
    tokenizer = languages.usual_bleu_tokenizer(lang)
    extra = languages.missing_extra(tokenizer)
    if settings.tokenize != "auto" or extra is None:
        return None
    return (
        f"BLEU of {lang} is tokenised by {bleu_tokenizer(settings, lang)}: sacreBLEU's {tokenizer} needs "
        f"pip install 'kdmt[{extra}]'"
    )


def require_packages(tokenizer: str, where: Path) -> None:
    """Check that the packages of a tokenizer are installed.

    Raises:
        UserError: if packages are missing. The message names the extra to install.
    """
    extra = languages.missing_extra(tokenizer)
    if extra is not None:
        raise UserError(
            f"{where}: begun with sacreBLEU's tokenizer {tokenizer}, whose packages are missing: "
            f"pip install 'kdmt[{extra}]'"
        )
