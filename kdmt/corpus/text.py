"""Processing from raw text to the tokenizer and back: Moses punctuation normalisation, tokenisation, lowercasing.

The rules are those of the Perl scripts of Moses, as ported in sacremoses (https://github.com/hplt-project/sacremoses).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from kdmt.choices import LanguageTokens, UnicodeForm
from kdmt.config import Context, Text
from kdmt.config.directions import language_prefix
from kdmt.corpus.context import map_sentences, without_context
from kdmt.corpus.rules.tidying import collapse_whitespace, normalize_unicode, remove_invisible
from kdmt.errors import UserError
from kdmt.languages import Direction, matching_directions, moses_language, parse_language

if TYPE_CHECKING:
    from sacremoses import MosesDetokenizer, MosesPunctNormalizer, MosesTokenizer


@dataclass(frozen=True)
class TextProcessor:
    """Text processing of one language pair, as stored in a checkpoint. It can be pickled, for use in other processes.

    With `text.already_applied`, the corpora are already processed, so the prepare stage does not change them; the
    methods of this class still process text, because the text to translate later is raw. By default, Moses writes
    XML entities such as `&apos;` for `'`, and published processed corpora have these entities. Therefore raw text gets
    XML entities, and they are removed from the output, only if `text.already_applied` is true.
    """

    text: Text
    source_lang: str
    target_lang: str
    unicode_form: UnicodeForm | None = None  # raw lines are cleaned as the training text was; None: not cleaned
    # of a model with several directions, whose languages above are the names of the sides; see `for_direction`
    directions: tuple[Direction, ...] = ()
    language_tokens: LanguageTokens = "target_in_source"
    context: Context | None = None  # previous sentences that source lines have before the sentence; None for none

    @property
    def all_directions(self) -> tuple[Direction, ...]:
        """Return the directions of a model that has several, else its only one."""
        return self.directions or (self.direction,)

    @property
    def prefixes(self) -> dict[str, tuple[str, ...]]:
        """Return the tokens before the source for each of several directions, by the name of the direction."""
        return {str(each): language_prefix(each, self.language_tokens) for each in self.directions}

    @property
    def language_symbols(self) -> list[str]:
        """Return the language tokens of all directions, each once; none for a model with one direction."""
        return list(dict.fromkeys(token for tokens in self.prefixes.values() for token in tokens))

    def for_direction(self, direction: Direction) -> TextProcessor:
        """Return the processing of one of several directions."""
        return TextProcessor(self.text, *direction.sides, self.unicode_form)

    @property
    def depends_on_source(self) -> bool:
        """Return whether the processing of a source, or its tokens for the direction, depend on its language."""
        return (
            self.text.moses
            or self.text.normalize
            or self.language_tokens
            in (
                "both_in_source",
                "source_and_decoder",
            )
        )

    def are_alike(self, directions: Sequence[Direction]) -> bool:
        """Return whether a model translates sentences in the same way in all of several directions.

        It does if they have the same target language, and the source language has no effect.
        """
        return len({each.target for each in directions}) == 1 and not (len(directions) > 1 and self.depends_on_source)

    def find_direction(self, source: str | None, target: str | None) -> Direction:
        """Return the direction of the model with a source and a target language; None matches any.

        Raises:
            UserError: if the model has no such direction, or several that are not alike.
        """
        found = matching_directions(self.all_directions, source, target)
        wanted = "".join(f" {word} {code}" for word, code in (("from", source), ("to", target)) if code is not None)
        known = ", ".join(map(str, found or self.all_directions))
        if not found:
            raise UserError(f"the model does not translate{wanted}; it translates {known}")
        if not self.are_alike(found):
            raise UserError(f"the model translates{wanted} in several directions: choose one of {known}")
        return found[0]

    def require_one_direction(self) -> None:
        """Check that the text processing is that of one direction.

        Raises:
            UserError: if the model has several directions, and none is chosen.
        """
        if self.directions:
            known = ", ".join(map(str, self.directions))
            raise UserError(f"the model translates in several directions: choose one of {known}")

    def check_direction(self, wanted: Direction, name: str) -> None:
        """Check that a model translates in one direction, between two languages.

        Args:
            name: name of the model, for the message.

        Raises:
            UserError: if it has several directions or other languages.
        """
        if self.directions:
            known = ", ".join(map(str, self.directions))
            raise UserError(f"{name} begins sources with language tokens ({known}): give a model without them")
        if not self.direction.matches(wanted):
            raise UserError(
                f"{name} translates {self.source_lang} to {self.target_lang}, not {wanted.source} to {wanted.target}"
            )

    @property
    def direction(self) -> Direction:
        """Return the direction of translation."""
        return Direction(self.source_lang, self.target_lang)

    def preprocess_source(self, line: str) -> str:
        """Return a raw source line as input for the tokenizer. It contains no newline unless the raw line does.

        For a model with context, the line may have previous sentences (`kdmt.corpus.context`).
        """
        if self.context is not None:
            return map_sentences(lambda sentence: self.preprocess(sentence, self.source_lang), line, self.context)
        return self.preprocess(line, self.source_lang)

    def preprocess_target(self, line: str) -> str:
        """Return a raw target line as input for the tokenizer."""
        return self.preprocess(line, self.target_lang)

    def target_words(self, line: str) -> str:
        """Return a raw target line as input for the tokenizer, with one space between words and none at the ends."""
        return " ".join(self.preprocess_target(line).split())

    def postprocess_source(self, line: str) -> str:
        """Return the text of a source line that `preprocess_source` has processed, without context.

        Case is not restored.
        """
        return self.postprocess(without_context(line, self.context), self.source_lang)

    def postprocess_target(self, line: str) -> str:
        """Return the text of a target line that `preprocess_target` has processed. Case is not restored."""
        return self.postprocess(line, self.target_lang)

    def tidy(self, line: str) -> str:
        """Return a line with invisible characters, Unicode form and whitespace cleaned, if `unicode_form` is set."""
        if self.unicode_form is None:
            return line
        return collapse_whitespace(normalize_unicode(remove_invisible(line), self.unicode_form))

    def normalize(self, line: str, lang: str) -> str:
        """Normalise the punctuation of a line by the rules of Moses, if `text.normalize` is true."""
        return normalize_punctuation(line, lang) if self.text.normalize else line

    def preprocess(self, line: str, lang: str) -> str:
        """Return a raw line of a language as input for the tokenizer."""
        line = self.normalize(self.tidy(line), lang)
        if self.text.moses:
            line = _tokenizer(lang).tokenize(line, return_str=True, escape=self.text.already_applied)
        return line.lower() if self.text.lowercase else line

    def postprocess(self, line: str, lang: str) -> str:
        """Return the text of a line that `preprocess` has processed. Case is not restored."""
        if not self.text.moses:
            return line
        return _detokenizer(lang).detokenize(line.split(), unescape=self.text.already_applied)

    def to_dict(self) -> dict[str, object]:
        """Return the settings as JSON values, from which `from_dict` makes the same processor."""
        values: dict[str, object] = {
            "text": self.text.model_dump(),
            "source_lang": self.source_lang,
            "target_lang": self.target_lang,
            "unicode_form": self.unicode_form,
        }
        if self.directions:
            values |= {
                "directions": [list(each.sides) for each in self.directions],
                "language_tokens": self.language_tokens,
            }
        if self.context is not None:
            values["context"] = self.context.model_dump()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextProcessor:
        """Return the processor with the values that `to_dict` returned.

        Raises:
            UserError: if a key is missing or unknown, or a value has the wrong type.
        """
        expected = {"text", "source_lang", "target_lang", "unicode_form"}
        several = {"directions", "language_tokens"}
        if set(values) not in (expected, expected | several, expected | {"context"}):
            raise UserError(f"text processing: expected {sorted(expected)}, found {str(sorted(values))[:200]}")
        try:
            text = Text.model_validate(values["text"])
            context = Context.model_validate(values["context"]) if "context" in values else None
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise UserError(f"text processing: {str(problem['loc'])[:200]}: {problem['msg']}") from None
        for side in ("source_lang", "target_lang"):  # the languages become parts of file names
            if not (isinstance(values[side], str) and re.fullmatch(r"\w[\w@.-]{0,63}", values[side])):
                raise UserError(f"text processing: {side}: {str(values[side])[:80]!r} is no name of a language")
        form = values["unicode_form"]
        if form not in ("NFC", "NFKC", "none", None):
            raise UserError(f"text processing: unicode_form: {str(form)[:80]!r} is no normalisation form")
        processor = cls(text, str(values["source_lang"]), str(values["target_lang"]), form, context=context)
        if "directions" not in values:
            return processor
        tokens = values["language_tokens"]
        if tokens not in get_args(LanguageTokens):
            raise UserError(f"text processing: language_tokens: {str(tokens)[:80]!r} is unknown")
        return replace(processor, directions=_read_directions(values["directions"]), language_tokens=tokens)


def _read_directions(values: object) -> tuple[Direction, ...]:
    """Return the directions in a `text.json`.

    Raises:
        UserError: if they are no pairs of language codes, or there are none.
    """
    pairs = values if isinstance(values, list) else []
    found = []
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(code, str) for code in pair)):
            raise UserError(f"text processing: directions: {str(pair)[:80]!r} is no pair of languages")
        try:
            for code in pair:
                parse_language(code)
        except ValueError as error:
            raise UserError(f"text processing: directions: {error}") from None
        found.append(Direction(*pair))
    if not found:
        raise UserError("text processing: directions: expected a list of pairs of languages")
    return tuple(found)


def normalize_punctuation(line: str, lang: str) -> str:
    """Normalise the punctuation of a line by the rules of Moses for a language."""
    return _normalizer(lang).normalize(line)


@functools.cache
def _moses_language(code: str) -> str:
    """Return the code of the language in sacremoses, or "en" as in Moses if sacremoses has no rules for the language.

    A pipeline does not process text of such a language, but corpora and checkpoints from elsewhere may use Moses.
    """
    try:
        language = parse_language(code).language
    except ValueError:  # the checkpoint is from elsewhere
        return "en"
    if language in ("ja", "ko"):  # sacremoses has rules for their script, but no abbreviations
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
        # sacremoses 0.2.0 raises TypeError in the one Czech rule that reads this pattern ("e' - mail"), so it must
        # never match.
        detokenizer.IS_FRENCH_CONRTACTION = re.compile(r"(?!)")
    return detokenizer
