"""What a search does with lengths: how long a translation may be, and what its score is divided by."""

from __future__ import annotations

import math
from collections.abc import Sequence


def max_lengths(src_lengths_B: Sequence[int], a: float, b: float, *, limit: int | None = None) -> list[int]:
    """Each sentence's maximum number of tokens before </s>, int(a * S + b), at most `limit`.

    S is the sentence's own length with </s>; fairseq takes that of the padded batch.
    """
    lengths = [int(a * length + b) for length in src_lengths_B]
    return lengths if limit is None else [min(length, limit) for length in lengths]


def normalized_score(log_prob_sum: float, length: int, lenpen: float) -> float:
    """sum(log p) / length ** lenpen, where `length` counts </s>. Every hypothesis is ranked by it.

    It is -inf or 0 where the power is beyond the numbers that there are, as 1000 ** 200.
    """
    try:
        return log_prob_sum / float(length) ** lenpen
    except OverflowError:
        return 0.0
    except ZeroDivisionError:
        return -math.inf if log_prob_sum else 0.0
