"""Text of the training set in the form that language models read, and their answers in the form of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.text import TextProcessor
from kdmt.distill.llm_answers import Answer, LanguageCheck, find_translations
from kdmt.distill.text_ids import decode_text, encode_answer, encode_source, split_hypotheses
from kdmt.types import Hypothesis


@dataclass(frozen=True)
class TextEncoder:
    """Function that converts words of the training text to ids of its text as a language model reads it."""

    text: TextProcessor

    def __call__(self, lines: Sequence[str]) -> list[NDArray[np.int64]]:
        return [encode_source(self.text.postprocess_source(line)) for line in lines]


@dataclass(frozen=True)
class TextDecoder:
    """Function that converts ids of text to words in the form of a corpus. See `ToWords`."""

    text: TextProcessor

    def __call__(self, tokens: NDArray[np.integer], sizes: NDArray[np.int32]) -> list[str]:
        return [self.text.target_words(decode_text(each)) for each in split_hypotheses(tokens, sizes)]


def text_hypotheses(
    answers: Sequence[Sequence[Answer]], sources: Sequence[str], check: LanguageCheck
) -> list[list[Hypothesis]]:
    """Return the hypotheses in the answers to each source, in their order.

    Their scores are 0, since language models are used without the probabilities of their answers.
    """
    flat = [(answer, source) for own, source in zip(answers, sources, strict=True) for answer in own]
    found = iter(find_translations([answer for answer, _ in flat], [source for _, source in flat], check))
    return [
        [Hypothesis(encode_answer(each.text, each.marks), 0.0) for each in islice(found, len(own))] for own in answers
    ]
