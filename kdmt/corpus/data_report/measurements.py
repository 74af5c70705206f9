"""Measurements of prepared text for the data report.

Tokens are counted in all sentences of a split. Characters and words are counted in a sample: blocks of consecutive
pairs, evenly spaced over the training text. Languages are searched for in fewer lines of it.

Shape legend: N sentences, V symbols of a dictionary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.language_id import identify_batch
from kdmt.corpus.lines import cut_lines
from kdmt.corpus.rules.language import LanguageRule, has_letters
from kdmt.corpus.vocabulary import Dictionary
from kdmt.corpus.vocabulary_size import FREQUENT
from kdmt.types import SPECIALS, UNK

SAMPLED_PAIRS = 50_000
_BLOCK_PAIRS = 100
_CHUNK_SENTENCES = 20_000
_IDENTIFIED_LINES = 2_000  # per side
_LONGEST = 10_000  # tokens; longer sentences count as this long


@dataclass(frozen=True)
class TokenStatistics:
    """Tokens of one side of a split, without `</s>`.

    Attributes:
        sentences: number of sentences.
        tokens: number of tokens.
        unknown: number of `<unk>`.
        size_counts: number of sentences with 0, 1, 2, ... tokens.
        symbol_counts_V: number of occurrences of each symbol.
    """

    sentences: int
    tokens: int
    unknown: int
    size_counts: NDArray[np.int64]
    symbol_counts_V: NDArray[np.int64]

    @property
    def mean_size(self) -> float:
        """Mean number of tokens of a sentence."""
        return self.tokens / max(self.sentences, 1)


def count_tokens(prefix: Path, vocab_size: int) -> TokenStatistics:
    """Count the tokens of a split of a data-bin in one language.

    Args:
        prefix: prefix of its `.bin` and `.idx` files.
        vocab_size: number of symbols of the dictionary.
    """
    data = IndexedDataset(prefix)
    symbol_counts_V = np.zeros(vocab_size, dtype=np.int64)
    size_counts = np.zeros(_LONGEST + 1, dtype=np.int64)
    for start in range(0, len(data), _CHUNK_SENTENCES):
        tokens, sizes = data.read(start, min(start + _CHUNK_SENTENCES, len(data)))
        symbol_counts_V += np.bincount(tokens, minlength=vocab_size)
        size_counts += np.bincount(np.minimum(sizes - 1, _LONGEST), minlength=_LONGEST + 1)
    return TokenStatistics(
        sentences=len(data),
        tokens=int(symbol_counts_V.sum()) - len(data),
        unknown=int(symbol_counts_V[UNK]),
        size_counts=size_counts,
        symbol_counts_V=symbol_counts_V,
    )


@dataclass(frozen=True)
class VocabularyUse:
    """Use of the symbols of a dictionary in the training text, special and padding symbols left out.

    Attributes:
        symbols: number of symbols.
        used: number of symbols that occur.
        frequent: number of symbols that occur at least `FREQUENT` times.
    """

    symbols: int
    used: int
    frequent: int


def vocabulary_use(dictionary: Dictionary, counts_V: NDArray[np.int64]) -> VocabularyUse:
    """Return the use of the symbols of a dictionary, given the number of occurrences of each."""
    is_own_V = np.array([not symbol.startswith("madeupword") for symbol in dictionary.symbols])
    is_own_V[: len(SPECIALS)] = False
    own = counts_V[is_own_V]
    return VocabularyUse(len(own), int(np.count_nonzero(own)), int(np.count_nonzero(own >= FREQUENT)))


@dataclass(frozen=True)
class PairSample:
    """Lengths of a sample of training pairs.

    Attributes:
        characters_N2: number of characters of source and target.
        words_N2: number of parts between spaces.
        tokens_N2: number of tokens.
    """

    characters_N2: NDArray[np.int64]
    words_N2: NDArray[np.int64]
    tokens_N2: NDArray[np.int64]

    def tokens_per_word(self, side: int) -> float:
        """Return the mean number of tokens of a word of the source (0) or the target (1)."""
        return float(self.tokens_N2[:, side].sum() / max(self.words_N2[:, side].sum(), 1))

    def characters_per_token(self, side: int) -> float:
        """Return the mean number of characters of a token of the source (0) or the target (1)."""
        return float(self.characters_N2[:, side].sum() / max(self.tokens_N2[:, side].sum(), 1))

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Ratio of target to source characters of each pair with text on both sides."""
        both = self.characters_N2[(self.characters_N2 > 0).all(axis=1)]
        return both[:, 1] / both[:, 0]


@dataclass(frozen=True)
class SampledText:
    """A sample of training pairs, with the index of each in the training text."""

    indices: list[int]
    source: list[str]
    target: list[str]


def sample_pairs(source: Path, target: Path, num_pairs: int) -> SampledText:
    """Return at most `SAMPLED_PAIRS` pairs of a training text, in evenly spaced blocks.

    Args:
        source, target: files of both sides.
        num_pairs: number of their lines.
    """
    step = max(1, -(-num_pairs // SAMPLED_PAIRS))
    found = SampledText([], [], [])
    for number, (of_source, of_target) in enumerate(cut_lines([source, target], _BLOCK_PAIRS)):
        if number % step == 0:
            found.indices.extend(range(number * _BLOCK_PAIRS, number * _BLOCK_PAIRS + of_source.count))
            found.source.extend(of_source.read())
            found.target.extend(of_target.read())
    return found


def measure_sample(sample: SampledText, prefixes: tuple[Path, Path]) -> PairSample:
    """Return the lengths of sampled pairs.

    Args:
        prefixes: prefixes of the binarised training text, source and target.
    """
    indices = np.array(sample.indices, dtype=np.int64)
    sides = (sample.source, sample.target)
    tokens = [IndexedDataset(prefix).sizes[indices].astype(np.int64) - 1 for prefix in prefixes]
    return PairSample(
        np.array([list(map(len, lines)) for lines in sides], dtype=np.int64).T,
        np.array([[len(line.split()) for line in lines] for lines in sides], dtype=np.int64).T,
        np.stack(tokens, axis=1),
    )


def find_languages(lines: Sequence[str], rule: LanguageRule) -> dict[str, int]:
    """Return the languages in a sample of lines, the most frequent first, with the number of lines of each.

    Args:
        rule: rule that has an identifier; lines that it does not judge are left out.
    """
    assert rule.identifier is not None
    judged = [line for line in lines if has_letters(line, rule.settings.min_letters)]
    count = min(_IDENTIFIED_LINES, len(judged))
    chosen = [judged[number * len(judged) // count] for number in range(count)]
    found = Counter(language for language, _ in identify_batch(rule.identifier, chosen))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
