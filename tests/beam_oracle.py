"""A slow beam search over lists, one sentence at a time, without tensors.

It follows the rules of fairseq's sequence_generator.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

from kdmt.types import EOS, PAD, Hypothesis

NextLogProbs = Callable[[tuple[int, ...]], Sequence[float]]  # tokens so far, without the opening </s> -> log p of each


def search(
    next_log_probs: NextLogProbs,
    *,
    max_len: int,
    beam: int,
    lenpen: float,
    min_len: int = 1,
    narrow: bool = False,
) -> list[Hypothesis]:
    """Return all finished hypotheses of the search, best first.

    With `narrow`, finished ones take places in the beam, as in Marian. If there are several places, those of less than
    `min_len` tokens do so too, and are the last ones.
    """
    shortest = 0 if narrow and beam > 1 else min_len
    live: list[tuple[int, ...]] = [()]
    history: dict[tuple[int, ...], tuple[float, ...]] = {(): ()}
    done: list[Hypothesis] = []
    for length in range(max_len + 1):
        options = []
        for rank, prefix in enumerate(live):
            total = _left_to_right(history[prefix])
            for token, log_prob in enumerate(next_log_probs(prefix)):
                if _allowed(token, length, shortest, max_len) and log_prob > -math.inf:
                    options.append((-(total + log_prob), rank, -log_prob, token))
        options.sort()
        survivors = []
        considered = beam - len(done) if narrow else 2 * beam
        for place, (_, rank, negative_log_prob, token) in enumerate(options[:considered]):
            log_probs = (*history[live[rank]], -negative_log_prob)
            if token != EOS:
                survivors.append((*live[rank], token))
                history[survivors[-1]] = log_probs
            elif place < beam and len(done) < beam:
                done.append(Hypothesis(live[rank], _left_to_right(log_probs) / (length + 1) ** lenpen, log_probs))
        if len(done) >= beam:
            break
        live = survivors[:beam]
    return sorted(done, key=lambda hypothesis: (len(hypothesis.tokens) < min_len, -hypothesis.score))


def _allowed(token: int, length: int, min_len: int, max_len: int) -> bool:
    if token == EOS:
        return length >= min_len
    return token != PAD and length < max_len


def _left_to_right(log_probs: Sequence[float]) -> float:
    total = 0.0
    for log_prob in log_probs:
        total += log_prob
    return total


def enumerate_all(
    next_log_probs: NextLogProbs, *, vocab_size: int, max_len: int, lenpen: float, min_len: int = 1
) -> list[Hypothesis]:
    """Return all possible hypotheses, best first; the time is exponential in `max_len`."""
    words = [token for token in range(vocab_size) if token not in (EOS, PAD)]
    found = []
    for length in range(min_len, max_len + 1):
        for tokens in product(words, repeat=length):
            log_probs = tuple(_along(next_log_probs, (*tokens, EOS)))
            found.append(Hypothesis(tokens, _left_to_right(log_probs) / (length + 1) ** lenpen, log_probs))
    return sorted(found, key=lambda hypothesis: hypothesis.score, reverse=True)


def _along(next_log_probs: NextLogProbs, tokens: Sequence[int]) -> Iterator[float]:
    for position, token in enumerate(tokens):
        yield next_log_probs(tuple(tokens[:position]))[token]


def greedy(next_log_probs: NextLogProbs, *, max_len: int, min_len: int = 1) -> tuple[int, ...]:
    """Return the tokens of greedy search: the most probable token at each step, until </s> or the maximum length."""
    tokens: tuple[int, ...] = ()
    while len(tokens) < max_len:
        log_probs = next_log_probs(tokens)
        choices = [token for token in range(len(log_probs)) if _allowed(token, len(tokens), min_len, max_len)]
        best = max(choices, key=lambda token: log_probs[token])
        if best == EOS:
            break
        tokens = (*tokens, best)
    return tokens
