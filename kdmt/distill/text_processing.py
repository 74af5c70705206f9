"""Text of the training set in the form that language models read, and their answers in the form of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.text import TextProcessor
from kdmt.distill.text_ids import decode_text, encode_source, split_hypotheses


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
        texts = map(decode_text, split_hypotheses(tokens, sizes))
        return [" ".join(self.text.preprocess_target(text).split()) for text in texts]
