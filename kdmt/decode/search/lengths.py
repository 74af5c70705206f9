"""Maximum lengths of translations, and scores normalised by length."""

from __future__ import annotations

import math
from collections.abc import Sequence


def max_lengths(src_lengths_B: Sequence[int], a: float, b: float, *, limit: int | None = None) -> list[int]:
    """Return the maximum number of tokens before </s> for each sentence: int(a * S + b), at most `limit`.

    S is the length of the sentence itself with </s>; fairseq uses the length of the padded batch.
    """
    lengths = [int(a * length + b) for length in src_lengths_B]
    return lengths if limit is None else [min(length, limit) for length in lengths]


def normalized_score(log_prob_sum: float, length: int, lenpen: float) -> float:
    """Return sum(log p) / length ** lenpen, where `length` counts </s>. Hypotheses are ranked by this score.

    The score is 0 or -inf if the power is outside the range of floating-point numbers, such as 1000 ** 200.
    """
    try:
        return log_prob_sum / float(length) ** lenpen
    except OverflowError:
        return 0.0
    except ZeroDivisionError:
        return -math.inf if log_prob_sum else 0.0
