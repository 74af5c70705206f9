"""Failures of one hypothesis at a time, as they are defined; `kdmt.distill.failures` checks many at once."""

from __future__ import annotations

from collections.abc import Sequence

from kdmt.config import Failures
from kdmt.distill.failures import MAX_NGRAM, Failure
from kdmt.types import UNK


def find_failure(tokens: Sequence[int], *, hit_limit: bool, settings: Failures) -> Failure | None:
    """Return the first failure that applies: no tokens; the maximum length reached; a repetition loop; `<unk>` inside.

    Args:
        tokens: target ids without </s>.
        hit_limit: whether </s> was forced at the maximum length.
    """
    if not tokens:
        return "empty"
    if hit_limit:
        return "too_long"
    if has_loop(tokens, times=settings.repetition_times):
        return "repetition"
    if UNK in tokens:
        return "unk"
    return None


def has_loop(tokens: Sequence[int], *, times: int) -> bool:
    """Return whether an n-gram of 1 to `MAX_NGRAM` tokens is repeated `times` times in a row.

    Such a loop is a run of n * (times - 1) positions with tokens[i] == tokens[i + n].
    """
    for n in range(1, MAX_NGRAM + 1):
        run = 0
        for left, right in zip(tokens, tokens[n:], strict=False):
            run = run + 1 if left == right else 0
            if run >= n * (times - 1):
                return True
    return False
