"""Sampling from a restricted distribution with an engine that draws from a larger one, token by token.

The engine draws whole translations and returns the logits of each position. A translation is kept up to the first token
that the restricted distribution excludes. That token is drawn again from the restricted distribution, and the engine
continues the translation from there. A token that the engine drew and that is not excluded has the probabilities of the
restricted distribution, because they are proportional to the engine's: the result is exact, provided that the engine's
distribution contains all tokens of the restricted one. Rejecting whole translations instead would draw from another
distribution, which favours translations whose prefixes have few excluded continuations.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kdmt.types import Sampling


@dataclass
class Row:
    """A translation that is being drawn.

    Attributes:
        source: index of its source.
        max_len: maximum number of tokens, </s> not counted.
        tokens: tokens that are kept so far, with </s> if it has ended.
        log_probs: log-probability of each of them in the model's own distribution.
        has_ended: whether the translation is complete.
    """

    source: int
    max_len: int
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    has_ended: bool = False


@dataclass(frozen=True)
class Rejection:
    """Rules by which drawn tokens are kept or drawn again. They are those of `kdmt.decode.search.sampling`.

    Attributes:
        sampling: the restricted distribution.
        eos: token that ends a translation; it is not drawn as the first token.
        pad: token that is never drawn; None if the vocabulary has none.
        generator: random numbers for the tokens that are drawn again.
    """

    sampling: Sampling
    eos: int
    pad: int | None
    generator: np.random.Generator

    @property
    def engine_top_k(self) -> int:
        """Number of most probable tokens that contain all tokens of the restricted distribution, 0 for all."""
        sampling = self.sampling
        bounds = [sampling.top_k] if sampling.top_k else []
        bounds += [math.floor(1 / sampling.epsilon)] if sampling.epsilon else []
        return max(min(bounds), 1) + 2 if bounds else 0  # <pad> and </s> may be more probable than all of them

    def extend(self, row: Row, drawn: list[int], logits_TV: NDArray[np.float32]) -> None:
        """Add the drawn tokens to a row up to the first one that is excluded, which is drawn again.

        Args:
            drawn: tokens after those of the row, with </s> if the engine ended there.
            logits_TV: the model's logits for each of them; the array is changed.
        """
        free = min(len(drawn), row.max_len - len(row.tokens))  # at the maximum length, </s> is forced
        if free and not self._extend(row, drawn[:free], logits_TV[:free]):
            return
        if len(drawn) > free:
            self._append(row, self.eos, _log_softmax(logits_TV[free]))

    def _extend(self, row: Row, drawn: list[int], logits_TV: NDArray[np.float32]) -> bool:
        """Add freely drawn tokens, and return whether all of them are kept."""
        places_T, total_T = np.arange(len(drawn)), _log_sum_exp(logits_TV)
        log_probs_T = logits_TV[places_T, drawn] - total_T
        is_kept_T = self._keeps(logits_TV, total_T, drawn, len(row.tokens))
        count = len(drawn) if is_kept_T.all() else int(np.argmin(is_kept_T))
        row.tokens += drawn[:count]
        row.log_probs += log_probs_T[:count].tolist()
        row.has_ended = bool(row.tokens) and row.tokens[-1] == self.eos
        if count < len(drawn):
            log_probs_V = logits_TV[count].astype(np.float64) - float(total_T[count])
            token = self._draw(self._allowed(log_probs_V[None], len(row.tokens))[0])
            self._append(row, token, log_probs_V)
        return count == len(drawn)

    def _append(self, row: Row, token: int, log_probs_V: NDArray[np.floating]) -> None:
        row.tokens.append(token)
        row.log_probs.append(float(log_probs_V[token]))
        row.has_ended = token == self.eos

    def _allowed(self, logits_TV: NDArray[np.floating], first: int) -> NDArray[np.floating]:
        """Return logits divided by the temperature, -inf for tokens that are not allowed.

        Args:
            first: number of tokens before the first position.
        """
        temperature = self.sampling.temperature
        allowed_TV = logits_TV.copy() if temperature == 1.0 else logits_TV / logits_TV.dtype.type(temperature)
        if self.pad is not None:
            allowed_TV[:, self.pad] = -np.inf
        if first == 0:
            allowed_TV[0, self.eos] = -np.inf
        return allowed_TV

    def _keeps(
        self, logits_TV: NDArray[np.float32], total_T: NDArray[np.floating], drawn: list[int], first: int
    ) -> NDArray[np.bool_]:
        """Return whether the restricted distribution has each drawn token: bool [T].

        Args:
            total_T: logarithm of the sum of the exponentials of the logits.
            first: number of tokens before the first position.
        """
        allowed_TV = self._allowed(logits_TV, first)
        chosen_T, largest_T = allowed_TV[np.arange(len(drawn)), drawn], allowed_TV.max(1)
        if self.sampling.temperature == 1.0:
            total_T = self._total_of_allowed(logits_TV, total_T, first)
        else:
            total_T = _log_sum_exp(allowed_TV)
        least_T = np.maximum(_log(self.sampling.min_p) + largest_T, _log(self.sampling.epsilon) + total_T)
        is_kept_T = (chosen_T >= np.minimum(least_T, largest_T)) & (chosen_T > -np.inf)
        if self.sampling.top_k or self.sampling.top_p < 1.0:
            for place in np.flatnonzero(is_kept_T).tolist():
                is_kept_T[place] = truncated(allowed_TV[place], self.sampling)[drawn[place]] > 0
        return is_kept_T

    def _total_of_allowed(
        self, logits_TV: NDArray[np.float32], total_T: NDArray[np.floating], first: int
    ) -> NDArray[np.floating]:
        """Return the logarithm of the sum over the allowed tokens, from that over all tokens."""
        forbidden_T = np.zeros_like(total_T)
        if self.pad is not None:
            forbidden_T += np.exp(logits_TV[:, self.pad] - total_T)
        if first == 0:
            forbidden_T[0] += np.exp(logits_TV[0, self.eos] - total_T[0])
        return total_T + np.log1p(-np.minimum(forbidden_T, 1 - 1e-6))

    def _draw(self, allowed_V: NDArray[np.floating]) -> int:
        cumulative_V = truncated(allowed_V, self.sampling).cumsum()
        wanted = self.generator.random() * cumulative_V[-1]
        return min(int(np.searchsorted(cumulative_V, wanted, side="right")), len(allowed_V) - 1)


def truncated(allowed_V: NDArray[np.floating], sampling: Sampling) -> NDArray[np.float64]:
    """Return the probabilities that tokens are drawn from: [V]. See `kdmt.decode.search.sampling.truncated`.

    Args:
        allowed_V: logits divided by the temperature, -inf for tokens that are not allowed.
    """
    weights_V = np.exp(allowed_V.astype(np.float64) - float(allowed_V.max()))
    probs_V = weights_V / weights_V.sum()
    largest = probs_V.max()
    is_excluded_V = probs_V < min(max(sampling.epsilon, sampling.min_p * largest), largest)
    if sampling.top_k or sampling.top_p < 1.0:
        order_V = np.argsort(-probs_V, kind="stable")
        ordered_V = probs_V[order_V]
        if sampling.top_k:
            ordered_V[sampling.top_k :] = 0.0
            ordered_V /= ordered_V.sum()
        is_excluded_V[order_V[ordered_V.cumsum() - ordered_V >= sampling.top_p]] = True
        is_excluded_V[order_V[ordered_V == 0.0]] = True
    probs_V[is_excluded_V] = 0.0
    return probs_V / probs_V.sum()


def _log(value: float) -> float:
    return math.log(value) if value else -math.inf


def _log_sum_exp(logits_TV: NDArray[np.floating]) -> NDArray[np.floating]:
    largest_T1 = logits_TV.max(1, keepdims=True)
    shares_TV = logits_TV - largest_T1
    np.exp(shares_TV, out=shares_TV)
    total_T: NDArray[np.floating] = largest_T1[:, 0] + np.log(shares_TV.sum(1))
    return total_T


def _log_softmax(logits_V: NDArray[np.floating]) -> NDArray[np.floating]:
    return logits_V - _log_sum_exp(logits_V[None])[0]
