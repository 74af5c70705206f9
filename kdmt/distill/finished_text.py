"""Text of a corpus for a model of kdmt with a vocabulary and text processing of its own.

The model reads finished text (detokenised, in its normal case) with its own text processing. Its finished output is
processed as the corpus is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.checksum import known_sha256
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.text import TextProcessor


@dataclass(frozen=True)
class FinishedTextEncoder:
    """Function that converts lines of a corpus to ids of the model's vocabulary.

    Attributes:
        codec: codec of the model.
        text: text processing of the corpus.
        prefix: ids before each source, by which a multilingual model knows the direction; an empty line has none.
    """

    codec: TextCodec
    text: TextProcessor
    prefix: tuple[int, ...] = ()

    def __call__(self, lines: Sequence[str]) -> list[NDArray[np.integer]]:
        found = self.codec.encode_raw_source([self.text.postprocess_source(line) for line in lines])
        return [np.insert(ids, 0, self.prefix) if self.prefix and len(ids) > 1 else ids for ids in found]


@dataclass(frozen=True)
class FinishedTextDecoder:
    """Function that converts ids of the model's vocabulary to words in the form of a corpus. See `ToWords`.

    Attributes:
        codec: codec of the model.
        text: text processing of the corpus.
    """

    codec: TextCodec
    text: TextProcessor

    def __call__(self, tokens: NDArray[np.integer], sizes: NDArray[np.int32]) -> list[str]:
        lines = map(self.codec.finish_target, self.codec.decode_targets(tokens, sizes))
        return [self.text.target_words(line) for line in lines]


def hashes_of_text(codec: TextCodec, folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a model's codec, by its name in a plan.

    Args:
        codec: codec of the model.
        folder: folder of the model.
    """
    found: dict[str, str] = {}
    for path in codec.companions(folder):
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        found |= {f"teacher's {file.relative_to(folder)}": known_sha256(file) for file in files}
    return found
