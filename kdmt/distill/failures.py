"""Checks that find failed hypotheses.

A hypothesis has the first failure that applies, in the order of `FAILURES`: `empty`, no tokens or no words; `too_long`,
the maximum length reached; `repetition`, a loop; `unk`, an unknown token; `ratio`, much longer or shorter than the
source; `copied`, a copy of the source; `script`, letters of a script that the target language does not use. The first
four are found in the tokens, the others in the words. In arrays, a failure is a code: its index in `FAILURES` plus 1,
or 0 for no failure. Shapes: N hypotheses, M tokens of all hypotheses, C characters of all hypotheses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from kdmt.choices import Failure
from kdmt.config import Failures
from kdmt.corpus.sentence_lengths import count_characters, length_ratios
from kdmt.types import UNK

FAILURES: tuple[Failure, ...] = get_args(Failure)
CODES: dict[Failure, int] = {failure: code for code, failure in enumerate(FAILURES, start=1)}
MAX_NGRAM = 4

Codes = NDArray[np.uint8]
Flags = NDArray[np.bool_]


# ---------------------------------------------------------------------------------------------------------- by tokens


def find_token_failures(
    tokens: NDArray[np.integer], sizes: NDArray[np.integer], at_limit: Flags, *, repetition_times: int
) -> Codes:
    """Return the failures that the tokens of hypotheses show: codes, uint8 [N], of the first four of `FAILURES`.

    A loop is an n-gram of 1 to `MAX_NGRAM` tokens that occurs `repetition_times` times in a row, which is a run of
    n * (repetition_times - 1) positions with tokens[i] == tokens[i + n]. If `repetition_times` is 0, loops are not
    searched for.

    Args:
        tokens: concatenated target ids without </s> [M = sum(sizes)].
        sizes: number of tokens of each hypothesis [N].
        at_limit: flags of hypotheses in which </s> was forced at the maximum length [N].

    Raises:
        ValueError: if the lengths of the arrays are inconsistent.
    """
    ends_N = np.cumsum(sizes, dtype=np.int64)
    if len(sizes) != len(at_limit) or len(tokens) != (ends_N[-1] if len(ends_N) else 0):
        raise ValueError(f"{len(tokens)} tokens, {len(sizes)} sizes and {len(at_limit)} flags do not belong together")
    codes_N = np.zeros(len(sizes), dtype=np.uint8)
    # in reverse order, so that the first failure that applies overwrites the others
    codes_N[_owners(np.flatnonzero(tokens == UNK), ends_N)] = CODES["unk"]
    for n in range(1, MAX_NGRAM + 1) if repetition_times else ():
        codes_N[_owners(_loops(tokens, ends_N, n, repetition_times), ends_N)] = CODES["repetition"]
    codes_N[np.asarray(at_limit, dtype=bool)] = CODES["too_long"]
    codes_N[sizes == 0] = CODES["empty"]
    return codes_N


def _owners(indices: NDArray[np.int64], ends_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of the hypothesis that contains each index of the flat array."""
    return np.searchsorted(ends_N, indices, side="right")


def _loops(tokens: NDArray[np.integer], ends_N: NDArray[np.int64], n: int, times: int) -> NDArray[np.int64]:
    """Return the indices at which a run of n * (times - 1) positions with tokens[i] == tokens[i + n] begins."""
    same = tokens[:-n] == tokens[n:]
    for back in range(1, n + 1):  # pairs whose right token is in the next hypothesis
        crossing = ends_N - back
        same[crossing[(crossing >= 0) & (crossing < len(same))]] = False
    indices = np.flatnonzero(same)  # indices of equal pairs are few; a run has first and last index run - 1 apart
    run = n * (times - 1)
    first, last = indices[: max(len(indices) - run + 1, 0)], indices[run - 1 :]
    return first[last - first == run - 1]


# ----------------------------------------------------------------------------------------------------------- by words


def find_text_failures(
    words: Sequence[str],
    sources: Sequence[str],
    settings: Failures,
    *,
    typical_ratio: float | NDArray[np.float64],
    languages: Sequence[str] | None = None,
) -> Codes:
    """Return the failures that the words of hypotheses show: codes, uint8 [N], of `empty` and the last three.

    `ratio` is the rule of corpus cleaning (`kdmt.corpus.sentence_lengths.length_ratios`). `copied` ignores case and
    whitespace, and requires a letter, since a line of digits may be its own translation. `script` applies if a share
    of more than `max_foreign` of the letters is in scripts other than `scripts`; letters that belong to no single
    script, such as ー, are never foreign.

    Args:
        words: text of each hypothesis in the form that the tokenizer reads [N].
        sources: source line of each hypothesis in the same form [N].
        typical_ratio: typical number of target characters per source character, or that of each hypothesis [N].
        languages: language of each hypothesis [N], for scripts by language.

    Raises:
        ValueError: if the numbers of hypotheses and sources differ, or `languages` is missing.
    """
    if len(words) != len(sources):
        raise ValueError(f"{len(words)} hypotheses of {len(sources)} sources")
    codes_N = np.zeros(len(words), dtype=np.uint8)
    num_words_N, num_source_N = _count_words(words), _count_words(sources)
    for scripts, places_M in _by_scripts(settings.scripts, languages, len(words)):
        own = [words[place] for place in places_M.tolist()]
        codes_N[places_M[_foreign(own, scripts, settings.max_foreign)]] = CODES["script"]
    for i in np.flatnonzero(num_words_N == num_source_N).tolist():
        if _is_copy(words[i], sources[i]):
            codes_N[i] = CODES["copied"]
    if settings.max_ratio:
        ratios_N = length_ratios(count_characters(sources), count_characters(words), typical_ratio)
        codes_N[ratios_N > settings.max_ratio] = CODES["ratio"]
    codes_N[num_words_N == 0] = CODES["empty"]
    return codes_N


def _by_scripts(
    scripts: Sequence[str] | Mapping[str, Sequence[str]], languages: Sequence[str] | None, count: int
) -> Iterator[tuple[tuple[str, ...], NDArray[np.int64]]]:
    """Yield the scripts of hypotheses with the places of those that are written in them."""
    if not isinstance(scripts, Mapping):
        if scripts:
            yield tuple(scripts), np.arange(count)
        return
    if languages is None:
        raise ValueError("scripts by language, for hypotheses without a language")
    of_each = np.array(languages)
    for language, own in scripts.items():
        yield tuple(own), np.flatnonzero(of_each == language)


def _count_words(lines: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter(map(len, map(str.split, lines)), dtype=np.int64, count=len(lines))


def _is_copy(words: str, source: str) -> bool:
    return words.casefold().split() == source.casefold().split() and any(map(str.isalpha, words))


def _foreign(words: Sequence[str], scripts: tuple[str, ...], max_foreign: float) -> NDArray[np.int64]:
    """Return the indices of hypotheses with a share of more than `max_foreign` of their letters in other scripts."""
    letters, foreign = _letter_table(scripts)
    if foreign[:128].any():
        suspects = [i for i, line in enumerate(words) if line]
    else:
        suspects = [i for i, line in enumerate(words) if not line.isascii()]
    if not suspects:
        return np.zeros(0, dtype=np.int64)
    texts = [words[i] for i in suspects]
    characters_C = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    starts = np.cumsum([0, *map(len, texts[:-1])])
    num_letters = np.add.reduceat(letters[characters_C], starts, dtype=np.int32)
    num_foreign = np.add.reduceat(foreign[characters_C], starts, dtype=np.int32)
    return np.array(suspects)[num_foreign > num_letters * max_foreign]


@lru_cache(maxsize=8)
def _letter_table(scripts: tuple[str, ...]) -> tuple[Codes, Codes]:
    """Return for each code point whether it is a letter, and whether it is one of another script: 0 or 1 [0x110000]."""
    import regex

    ours = "".join(rf"\p{{Script={name}}}" for name in (*scripts, "Common", "Inherited"))
    every = "".join(map(chr, range(0x110000)))
    tables = []
    for letters in (r"\p{L}+", rf"(?V1)[\p{{L}}--[{ours}]]+"):
        table = np.zeros(len(every), dtype=np.uint8)
        for match in regex.finditer(letters, every):
            table[slice(*match.span())] = 1
        tables.append(table)
    return tables[0], tables[1]
