"""Count of the lines that change on a round trip: preprocessing, cutting into tokens, joining and postprocessing.

The output of a model goes through the second half of this round trip, so it can never match a text that a step
changes irreversibly. Intended changes of a setting are not counted: lines are compared after `normalize`, with
whitespace as single spaces, with `lowercase` without regard to case, and after the normalisation rule with which a
SentencePiece model was learnt. Lowercasing counts as a change if a letter has
another length in lower case, or if the upper-case rules of the language do not restore it, as for Turkish `İ` and `I`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from sentencepiece import SentencePieceNormalizer

from kdmt.choices import NormalizationRule
from kdmt.corpus.subword_model import SubwordModel
from kdmt.corpus.text import TextProcessor

Step = Literal["moses", "lowercase", "tokenizer"]
STEPS: tuple[Step, ...] = get_args(Step)

SAMPLED_LINES = 5000  # per side; Moses, the slowest step, takes about two seconds for them
WARNING_SHARE = 0.01
_MOST_EXAMPLES = 3
_SHOWN_CHARACTERS = 40


@dataclass
class RoundTrip:
    """Number of changed lines of one side, by the first step that changes them."""

    lines: int
    changed: dict[Step, int] = field(default_factory=lambda: dict.fromkeys(STEPS, 0))
    examples: dict[Step, list[tuple[str, str]]] = field(default_factory=lambda: {step: [] for step in STEPS})

    @property
    def num_changed(self) -> int:
        return sum(self.changed.values())

    def as_dict(self) -> dict[str, object]:
        """Return the counts and examples as JSON values."""
        examples = {step: pairs for step, pairs in self.examples.items() if pairs}
        counts = {str(step): count for step, count in self.changed.items()}
        return {"lines": self.lines, "changed": self.num_changed, **counts, "examples": examples}

    def warning(self) -> str | None:
        """Return a warning for the user if more than 1% of the lines change, else None."""
        if self.num_changed <= WARNING_SHARE * self.lines:
            return None
        steps = ", ".join(f"'prepare.{_SETTINGS[step]}' {count:,}" for step, count in self.changed.items() if count)
        examples = "; ".join(
            f"{before!r} comes back as {after!r}" for pairs in self.examples.values() for before, after in pairs
        )
        return f"{self.num_changed:,} of {self.lines:,} lines do not survive processing and back ({steps}): {examples}"


_SETTINGS: dict[Step, str] = {"moses": "text.moses", "lowercase": "text.lowercase", "tokenizer": "tokenizer"}


def measure_round_trip(
    lines: Sequence[str],
    *,
    processor: TextProcessor,
    lang: str,
    model: SubwordModel,
    normalization_rule: NormalizationRule = "identity",
) -> RoundTrip:
    """Count the lines that are changed by the conversion to tokens and back.

    Args:
        lines: clean text of the language `lang`, before processing with `processor`, or already processed if the
            setting `already_applied` is true.
        model: subword model that cuts words into tokens.
        normalization_rule: rule that the model applies to words on purpose.
    """
    found = RoundTrip(len(lines))
    is_words = processor.text.already_applied
    words = lines if is_words else [processor.preprocess(line, lang) for line in lines]
    words = _normalize(words, normalization_rule)
    joined = [model.decode(tokens) for tokens in model.encode_lines(words)]
    for line, processed, back in zip(lines, words, joined, strict=True):
        step, before, after = _first_change(line, processed, back, processor, lang)
        if step is not None:
            found.changed[step] += 1
            if len(found.examples[step]) < _MOST_EXAMPLES:
                found.examples[step].append(_around_difference(before, after))
    return found


def _first_change(
    line: str, processed: str, back: str, processor: TextProcessor, lang: str
) -> tuple[Step | None, str, str]:
    """Return the first step that changes a line irreversibly (None if there is none), and the text before and after."""
    text = processor.text
    if not text.already_applied:
        if text.lowercase and not survives_lowercasing(line, lang):
            return "lowercase", line, line.lower()
        if text.moses:
            wanted = processor.normalize(line, lang)
            wanted = _single_spaces(wanted.lower() if text.lowercase else wanted)
            finished = _single_spaces(processor.postprocess(processed, lang))
            if finished != wanted:
                return "moses", wanted, finished
    before = _single_spaces(processed)
    return (None, "", "") if back == before else ("tokenizer", before, back)


def _normalize(words: Sequence[str], rule: NormalizationRule) -> Sequence[str]:
    if rule == "identity":
        return words
    normalizer = SentencePieceNormalizer(rule_name=rule, escape_whitespaces=False)
    return [normalizer.normalize(line) for line in words]


def survives_lowercasing(line: str, lang: str) -> bool:
    """Return whether a line and its lower case have the same length and, in the language, the same upper case."""
    lower = line.lower()
    return len(lower) == len(line) and _upper(lower, lang) == _upper(line, lang)


def _upper(line: str, lang: str) -> str:
    return (line.replace("i", "İ") if lang in _DOTTED else line).upper()


_DOTTED = ("tr", "tur", "az", "aze")  # languages in which the upper case of `i` has a dot


def _single_spaces(line: str) -> str:
    return " ".join(line.split())


def _around_difference(before: str, after: str) -> tuple[str, str]:
    """Return an excerpt of both texts that begins shortly before the first difference."""
    first = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    start = max(0, first - _SHOWN_CHARACTERS // 2)
    return before[start : start + _SHOWN_CHARACTERS], after[start : start + _SHOWN_CHARACTERS]
