"""What happens between raw text and the tokenizer, and back: Moses punctuation normalisation, tokenising, lowercasing.

The rules are those of Moses' perl scripts in sacremoses' port (https://github.com/hplt-project/sacremoses).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kdmt.choices import UnicodeForm
from kdmt.config import Text
from kdmt.corpus.clean import collapse_whitespace, normalize_unicode, remove_invisible
from kdmt.errors import UserError
from kdmt.languages import Direction, moses_language, parse_language

if TYPE_CHECKING:
    from sacremoses import MosesDetokenizer, MosesPunctNormalizer, MosesTokenizer


@dataclass(frozen=True)
class TextProcessor:
    """The processing of one language pair, as a checkpoint carries it. Pickles, so that processes can share it.

    `text.already_applied` says that the corpora come processed, so prepare leaves them as they are; the methods here
    still process, because what is translated later comes raw. Moses writes `'` as `&apos;` and so on unless told
    otherwise, and so did those who published processed corpora: then, and only then, raw text gets these XML entities
    and they are undone in the output.
    """

    text: Text
    source_lang: str
    target_lang: str
    unicode_form: UnicodeForm | None = None  # lines are made as clean as `clean` made the training text; None: not

    @property
    def direction(self) -> Direction:
        """Return the direction of translation."""
        return Direction(self.source_lang, self.target_lang)

    def preprocess_source(self, line: str) -> str:
        """A raw source line as the tokenizer sees it. Never holds a newline unless the line did."""
        return self.preprocess(line, self.source_lang)

    def preprocess_target(self, line: str) -> str:
        """A raw target line as the tokenizer sees it."""
        return self.preprocess(line, self.target_lang)

    def postprocess_source(self, line: str) -> str:
        """Finished text of a source line in the form that `preprocess_source` gives; case is not restored."""
        return self.postprocess(line, self.source_lang)

    def postprocess_target(self, line: str) -> str:
        """Finished text of a target line in the form that `preprocess_target` gives; case is not restored."""
        return self.postprocess(line, self.target_lang)

    def tidy(self, line: str) -> str:
        """A line with invisible characters, Unicode form and whitespace as cleaning leaves them."""
        if self.unicode_form is None:
            return line
        return collapse_whitespace(normalize_unicode(remove_invisible(line), self.unicode_form))

    def normalize(self, line: str, lang: str) -> str:
        """Normalise a line's punctuation by Moses' rules, if `text.normalize` asks for it."""
        return _normalizer(lang).normalize(line) if self.text.normalize else line

    def preprocess(self, line: str, lang: str) -> str:
        """Return a raw line of a language as the tokenizer sees it."""
        line = self.normalize(self.tidy(line), lang)
        if self.text.moses:
            line = _tokenizer(lang).tokenize(line, return_str=True, escape=self.text.already_applied)
        return line.lower() if self.text.lowercase else line

    def postprocess(self, line: str, lang: str) -> str:
        """Return finished text of a line that `preprocess` gave; case is not restored."""
        if not self.text.moses:
            return line
        return _detokenizer(lang).detokenize(line.split(), unescape=self.text.already_applied)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values that `from_dict` takes back."""
        return {
            "text": self.text.model_dump(),
            "source_lang": self.source_lang,
            "target_lang": self.target_lang,
            "unicode_form": self.unicode_form,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextProcessor:
        """The processor that `to_dict` described.

        Raises:
            UserError: a key is missing or unknown, or a value has the wrong type.
        """
        expected = {"text", "source_lang", "target_lang", "unicode_form"}
        if set(values) != expected:
            raise UserError(f"text processing: expected {sorted(expected)}, found {str(sorted(values))[:200]}")
        try:
            text = Text.model_validate(values["text"])
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise UserError(f"text processing: {str(problem['loc'])[:200]}: {problem['msg']}") from None
        for side in ("source_lang", "target_lang"):  # parts of the names of files
            if not (isinstance(values[side], str) and re.fullmatch(r"\w[\w@.-]{0,63}", values[side])):
                raise UserError(f"text processing: {side}: {str(values[side])[:80]!r} is no name of a language")
        form = values["unicode_form"]
        if form not in ("NFC", "NFKC", "none", None):
            raise UserError(f"text processing: unicode_form: {str(form)[:80]!r} is no normalisation form")
        return cls(text, str(values["source_lang"]), str(values["target_lang"]), form)


@functools.cache
def _moses_language(code: str) -> str:
    """The code by which sacremoses knows the language, "en" for those it has no rules for, as Moses itself does.

    A pipeline processes no text of such a language; corpora and checkpoints of others may come from Moses.
    """
    try:
        language = parse_language(code).language
    except ValueError:  # of a checkpoint from elsewhere
        return "en"
    if language in ("ja", "ko"):  # it knows how these are written, but no abbreviations
        return language
    return moses_language(code) or "en"


@functools.cache
def _normalizer(lang: str) -> MosesPunctNormalizer:
    from sacremoses import MosesPunctNormalizer

    return MosesPunctNormalizer(_moses_language(lang))


@functools.cache
def _tokenizer(lang: str) -> MosesTokenizer:
    from sacremoses import MosesTokenizer

    return MosesTokenizer(_moses_language(lang))


@functools.cache
def _detokenizer(lang: str) -> MosesDetokenizer:
    from sacremoses import MosesDetokenizer

    detokenizer = MosesDetokenizer(_moses_language(lang))
    if detokenizer.lang == "cs":
        # sacremoses 0.2.0 raises TypeError in the one Czech rule that reads this pattern ("e' - mail"): never match.
        detokenizer.IS_FRENCH_CONRTACTION = re.compile(r"(?!)")
    return detokenizer
