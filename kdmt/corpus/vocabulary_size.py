"""A size of the subword vocabulary that suits the size of a corpus.

The sizes follow Gowda and May (2020, "Finding the Optimal Vocabulary Size for Neural Machine Translation"): about 1,000
pieces for 30,000 pairs, 4,000 to 16,000 for 500,000, 8,000 for 1 million and 32,000 to 64,000 for 4.5 million. In their
experiments, the best vocabularies were the largest ones in which at least 95% of the pieces occur at least 100 times:
a model cannot learn a piece from a few examples.
"""

from __future__ import annotations

# number of training pairs below which a size is suggested, and the size
_SIZES = ((50_000, 1_000), (120_000, 2_000), (300_000, 4_000), (1_500_000, 8_000), (3_000_000, 16_000))
_LARGEST = 32_000
FREQUENT = 100  # occurrences of a piece that can be learnt well
_FAR = 3  # ratio of a chosen and the suggested size from which a message is useful


def suggest_size(num_pairs: int) -> int:
    """Return the number of pieces that suits a number of training pairs."""
    return next((size for limit, size in _SIZES if num_pairs < limit), _LARGEST)


def explain_suggestion(num_pairs: int) -> str:
    """Return the suggested size for a number of training pairs, with the reason."""
    return (
        f"{suggest_size(num_pairs):,} pieces suit {num_pairs:,} pairs: with more, many pieces occur fewer than "
        f"{FREQUENT} times and are learnt badly; with fewer, sentences have more tokens than necessary"
    )


def is_far_off(size: int, num_pairs: int) -> bool:
    """Return whether a size is at least three times the suggested one, or at most a third of it."""
    suggested = suggest_size(num_pairs)
    return size >= _FAR * suggested or suggested >= _FAR * size
