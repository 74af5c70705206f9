"""Answers of large language models: the translation in an answer, and the failures of their own kind.

What can be removed safely is removed and counted: a reasoning section before the answer, a prefix such as
"Translation:", and quotation marks around the whole answer. An answer that is not only a translation after that has the
first failure that applies:

    no_answer       the server gave none
    refusal         the model refuses to translate
    truncated       the answer reached the limit of its tokens
    chatter         text about the translation
    several_lines   more than one line
    quotes          an unpaired quotation mark that the source does not have
    echoed          the source within a longer answer
    wrong_language  another language than the target language

The rules compare an answer with its source: a prefix, quotation mark or phrase that the source has too is part of the
translation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import regex

from kdmt.choices import AnswerBatch, AnswerFailure, Cleaning
from kdmt.corpus.language_id import BUILT_IN_LANGUAGES, Identifier, open_built_in, share_of
from kdmt.corpus.rules.character_class import native_characters
from kdmt.corpus.rules.letters import script_share
from kdmt.corpus.rules.pair_text import LineText
from kdmt.distill.llm_prompt import language_name
from kdmt.distill.text_ids import CLEANINGS
from kdmt.languages import Direction, is_installed, parse_language, script_of

FINISHED_BY_LENGTH = "length"  # values of the field finish_reason
FILTERED = "content_filter"

_REASONING = regex.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>\s*", regex.DOTALL)
_OPEN_REASONING = regex.compile(r"\A\s*<think(?:ing)?>")
_LABEL = regex.compile(r"\A\s*\w+\s*:")  # of a source, which its translation has too
_AGREEMENT = r"(?:(?:sure|certainly|of course|okay|ok|absolutely)(?:\s+thing)?\s*[!,.:]*\s*)"
_LEAD = r"(?:here(?:'s|’s|\s+is|\s+are|\s+you\s+go)|below\s+is|this\s+is)"
_PREFIX = regex.compile(
    rf"\A\s*\**(?:{_AGREEMENT}?{_LEAD}[^:\n]{{0,80}}\btranslat[^:\n]{{0,80}}"
    rf"|{_AGREEMENT}?(?:the\s+)?(?:\w+\s+)?translat(?:ion|ed\s+text)(?:\s+(?:in|into|to)\s+\w+)?)\s*\**\s*:\s*\**\s*",
    regex.IGNORECASE,
)
_CHATTER = regex.compile(
    rf"\A\s*{_AGREEMENT}?{_LEAD}[^.\n]{{0,60}}\btranslat"
    r"|\blet me know if\b|\bi hope this helps\b|\bplease (?:note|let me know)\b|\bas requested\b"
    r"|\A\s*(?:sure|certainly|of course|absolutely)\s*!",
    regex.IGNORECASE,
)
# a note after the translation: its text, up to a closing bracket
_NOTE = regex.compile(
    r"[\n(*\[]\s*\**(?:(?:translator['’]?s?\s+)?note|explanation)\s*\**\s*:([^)\]]*)", regex.IGNORECASE
)
_REMARK = regex.compile(r"[\n(*\[（]\s*[^\s:：()][^:：()\n]{0,40}[:：]")  # a label and a colon in brackets
_REFUSAL = regex.compile(
    r"\A\s*(?:i['’]?m (?:very |so |really )?sorry|i am (?:very |so )?sorry|sorry\b|i apologi[sz]e|unfortunately\b|"
    r"as an ai\b|i (?:can(?:not|['’]t| not)|am (?:not able|unable)|won['’]t|will not)|i['’]m (?:not able|unable))",
    regex.IGNORECASE,
)
_ABOUT_THE_TASK = regex.compile(
    r"\btranslat|\bas an ai\b|\blanguage model\b|\bai (?:assistant|model)\b|\bthis request\b|\bcomply\b|"
    r"\b(?:assist|help)(?: you)? with (?:that|this)\b|\bcontent polic|\bguidelines\b|"
    r"\bprovided? (?:a|the|any) (?:text|sentence)",
    regex.IGNORECASE,
)
_PAIRS = {'"': '"', "“": "”", "„": "“", "«": "»", "»": "«", "‘": "’", "'": "'", "`": "`", "「": "」", "『": "』"}
_CLOSING = {"„": "“”", "“": "”", "«": "»", "»": "«"}  # further closing marks of an opening one
_MARKS = '"“”„«»「」『』'  # quotation marks that are not apostrophes too
_NUMBERED = regex.compile(r"\s*(\d+)\s*[.):]\s+(.*)")
_MIN_ECHO_WORDS, _MIN_ECHO_CHARACTERS = 3, 15  # a shorter source, such as a name, may be part of its translation
_MIN_LETTERS = 40  # identification of shorter text is not reliable
_MIN_SHARE = 0.05  # of the target language against the most probable other one
_MIN_SCRIPT = 0.5  # of the letters that belong to the script of the target language


@dataclass(frozen=True)
class Answer:
    """A candidate as the server gave it.

    Attributes:
        text: the answer, unchanged.
        finish: why it ended (`finish_reason`), None if unknown.
    """

    text: str
    finish: str | None = None


@dataclass(frozen=True)
class Translation:
    """The translation in an answer.

    Attributes:
        text: one line.
        failure: first failure that applies, None if there is none.
        cleanings: what was removed.
    """

    text: str
    failure: AnswerFailure | None = None
    cleanings: tuple[Cleaning, ...] = ()

    @property
    def marks(self) -> tuple[AnswerFailure | Cleaning, ...]:
        """Failure and cleanings."""
        return (*(() if self.failure is None else (self.failure,)), *self.cleanings)


@dataclass(frozen=True)
class LanguageCheck:
    """Check that a text is in the target language.

    It uses the built-in identifier (`kdmt.corpus.language_id`) if its package is installed and it knows the language,
    otherwise the script. The value can be sent to another process.
    """

    direction: Direction

    @property
    def method(self) -> str:
        """Name of the method, on which failures depend; the identifier is not loaded."""
        known = all(parse_language(code).language in BUILT_IN_LANGUAGES for code in self.direction.sides)
        return "py3langid" if known and is_installed("py3langid") else "script"

    def find_others(self, texts: Sequence[str]) -> list[bool]:
        """Return for each text whether it is in another language than the target language."""
        target, others = self.direction.target, [False] * len(texts)
        letters = native_characters(script_of(target))
        long = [place for place, text in enumerate(texts) if sum(map(str.isalpha, text)) >= _MIN_LETTERS]
        if letters is not None:
            for place in long:
                others[place] = script_share(LineText(texts[place]), letters) < _MIN_SCRIPT
        left = [place for place in long if not others[place]]
        if self._identifier is not None and left:
            probabilities_NL = self._identifier.probabilities([texts[place] for place in left])
            shares_N = share_of(self._identifier, probabilities_NL, parse_language(target).language)
            for place, share in zip(left, shares_N.tolist(), strict=True):
                others[place] = share < _MIN_SHARE
        return others

    @cached_property
    def label(self) -> regex.Pattern[str]:
        """Pattern of the name of the target language before a translation: `German:`."""
        name = regex.escape(language_name(self.direction.target))
        return regex.compile(rf"\A\s*\**{name}\**\s*:\s*\**\s*", regex.IGNORECASE)

    @property
    def is_english(self) -> bool:
        """Whether the target language is English, so that a translation can be like what a model says itself."""
        return parse_language(self.direction.target).language == "en"

    @cached_property
    def _identifier(self) -> Identifier | None:
        return open_built_in() if self.method == "py3langid" else None

    def __getstate__(self) -> dict[str, object]:
        return {"direction": self.direction}  # without the identifier


def find_translations(answers: Sequence[Answer], sources: Sequence[str], check: LanguageCheck) -> list[Translation]:
    """Return the translation in each answer, whose source sentence is given for each."""
    found: list[Translation] = []
    for answer, source in zip(answers, sources, strict=True):
        text, cleanings = _clean(answer.text, source, check.label)
        failure = _find_failure(text, answer.finish, source, is_english=check.is_english)
        found.append(Translation(" ".join(text.split()), failure, cleanings))
    whole = [place for place, each in enumerate(found) if each.failure is None]
    for place, is_other in zip(whole, check.find_others([found[place].text for place in whole]), strict=True):
        if is_other:
            found[place] = replace(found[place], failure="wrong_language")
    return found


def _clean(text: str, source: str, label: regex.Pattern[str]) -> tuple[str, tuple[Cleaning, ...]]:
    """Return the text without what can be removed safely, and the names of what was removed."""
    done: set[Cleaning] = set()
    if match := _REASONING.match(text):
        text = text[match.end() :]
        done.add("removed_reasoning")
    for pattern in (_PREFIX, label):
        match = pattern.match(text)
        if match and match.end() < len(text.rstrip()) and not pattern.match(source) and not _LABEL.match(source):
            text = text[match.end() :]
            done.add("removed_prefix")
    text = text.strip()
    if _is_quoted(text) and source.strip()[:1] not in _PAIRS:
        text = text[1:-1].strip()
        done.add("removed_quotes")
    return text, tuple(name for name in CLEANINGS if name in done)


def _is_quoted(text: str) -> bool:
    """Return whether one pair of quotation marks encloses the whole text."""
    if len(text) < 3 or text[0] not in _PAIRS:
        return False
    closing = _CLOSING.get(text[0], _PAIRS[text[0]])
    inside = text[1:-1]
    return text[-1] in closing and not any(mark in inside for mark in (text[0], text[-1]))


def _find_failure(text: str, finish: str | None, source: str, *, is_english: bool) -> AnswerFailure | None:
    """Return the first failure of a text, except for its language."""
    if finish == FILTERED:
        return "refusal"
    # "Please let me know." may be a translation into English, unless its length is not that of the source
    is_likely = not (is_english and _agree_in_length(text, source))
    if is_likely and _REFUSAL.match(text) and _ABOUT_THE_TASK.search(text) and not _ABOUT_THE_TASK.search(source):
        return "refusal"
    if finish == FINISHED_BY_LENGTH or _OPEN_REASONING.match(text):
        return "truncated"
    if is_likely and (_has_note(text, source) or (_CHATTER.search(text) and not _CHATTER.search(source))):
        return "chatter"
    if "\n" in text or "\r" in text:
        return "several_lines"
    if _has_unpaired_quote(text) and not any(mark in source for mark in _MARKS):
        return "quotes"
    return "echoed" if _is_echoed(text, source) else None


def _agree_in_length(text: str, source: str) -> bool:
    return 0.6 * len(source) <= len(text) <= 1.5 * len(source) + 10


def _has_note(text: str, source: str) -> bool:
    """Return whether a text has a note about the translation.

    "(note : 15/20)" is no such note: it has no words, or the source has a remark in brackets too.
    """
    notes = [match[1] for match in _NOTE.finditer(text)]
    has_words = any(any(map(str.isalpha, note)) for note in notes)
    return has_words and len(_REMARK.findall(text)) > len(_REMARK.findall(source))


def _has_unpaired_quote(text: str) -> bool:
    return sum(map(text.count, _MARKS)) % 2 == 1


def _is_echoed(text: str, source: str) -> bool:
    """Return whether an answer has the whole source and more; an answer that equals the source is a copy instead."""
    source, text = (" ".join(each.casefold().split()) for each in (source, text))
    is_long = len(source) >= _MIN_ECHO_CHARACTERS and len(source.split()) >= _MIN_ECHO_WORDS
    return is_long and source in text and len(text) > len(source) + 1


# ---------------------------------------------------------------------------------------- requests of several sentences


def join_sources(sources: Sequence[str], batch: AnswerBatch) -> str:
    """Return the text of a request with several sentences."""
    if batch == "paragraph":
        return "\n".join(sources)
    return "\n".join(f"{number}. {source}" for number, source in enumerate(sources, start=1))


def split_answer(answer: Answer, count: int, batch: AnswerBatch) -> list[Answer | None]:
    """Return the answer of each of `count` sentences in the answer to all of them.

    If lines are missing, or numbers are not 1 to `count` in this order, it is not known which line belongs to which
    sentence, and all are None. Only if the limit of tokens cut the answer off, the numbered lines that are whole are
    used.
    """
    text = _REASONING.sub("", answer.text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    is_cut = answer.finish == FINISHED_BY_LENGTH
    if lines and (match := _PREFIX.match(lines[0])) and match.end() == len(lines[0]):
        del lines[0]
    nothing: list[Answer | None] = [None] * count
    if batch == "sentences":
        matches = [_NUMBERED.fullmatch(line) for line in lines]
        if is_cut and matches and matches[-1] is None:  # the last line ends before its number does
            del matches[-1], lines[-1]
            text += "\n"
        if [match and int(match[1]) for match in matches] != list(range(1, len(lines) + 1)):
            return nothing
        lines = [match[2].strip() for match in matches if match]
        if is_cut and len(lines) <= count:
            whole = lines if text.endswith("\n") else lines[:-1]
            return [*map(Answer, whole), *nothing[len(whole) :]]
    if is_cut or answer.finish == FILTERED or len(lines) != count:
        return nothing
    return [Answer(line) for line in lines]
