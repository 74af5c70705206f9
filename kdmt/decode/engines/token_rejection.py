"""Sampling from a distribution that an engine does not have, by rejection of tokens that it draws from another one.

The engine draws whole translations from its own distribution q, which has the temperature and the most probable tokens
only, and returns the logits of each position. At each position, the wanted distribution r is known then. A token y is
kept with probability min(1, r(y) / q(y)). The first token that is not kept is replaced by one from max(r - q, 0),
renormalised, and the engine continues the translation from there. Each token thus has the distribution r, whatever q is
(Leviathan et al. 2023, section 2.3, and appendix A.1, where q is a smaller model); q only decides how often tokens are
replaced. Rejecting whole translations instead would draw from another distribution, which prefers translations whose
prefixes have few excluded continuations.

If q has all tokens of r, as at most positions, r(y) / q(y) is at least 1 for them, and 0 for the others.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kdmt.types import Sampling

# Number of most probable tokens that the engine draws from. With few, it seldom draws a token that epsilon or min-p
# sampling excludes; with more, it seldom misses one that they do not exclude.
ENGINE_TOP_K = 8


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
    """Rules by which drawn tokens are kept or replaced, so that the result follows `kdmt.decode.search.sampling`.

    Attributes:
        sampling: the wanted distribution.
        eos: token that ends a translation; it is not drawn as the first token.
        pad: token that is never drawn; None if the vocabulary has none.
        generator: random numbers for keeping and replacing tokens.
        engine_top_k: number of most probable tokens that the engine draws from, at the temperature of `sampling`.
    """

    sampling: Sampling
    eos: int
    pad: int | None
    generator: np.random.Generator
    engine_top_k: int = ENGINE_TOP_K

    def extend(self, row: Row, drawn: list[int], logits_TV: NDArray[np.float32]) -> None:
        """Add the drawn tokens to a row up to the first one that is not kept, which is replaced.

        Args:
            drawn: tokens after those of the row, with </s> if the engine ended there.
            logits_TV: the model's logits for each of them.
        """
        free = min(len(drawn), row.max_len - len(row.tokens))  # at the maximum length, </s> is forced
        if free and not self._extend(row, drawn[:free], logits_TV[:free]):
            return
        if len(drawn) > free:
            logits_V = logits_TV[free]
            self._append(row, self.eos, float(logits_V[self.eos] - _log_sum_exp(logits_V[None])[0]))

    def _extend(self, row: Row, drawn: list[int], logits_TV: NDArray[np.float32]) -> bool:
        """Add freely drawn tokens, and return whether all of them are kept."""
        total_T, first = _log_sum_exp(logits_TV), len(row.tokens)
        log_probs_T = logits_TV[np.arange(len(drawn)), drawn] - total_T
        count = self._num_kept(logits_TV, total_T, drawn, first)
        row.tokens += drawn[:count]
        row.log_probs += log_probs_T[:count].tolist()
        row.has_ended = bool(row.tokens) and row.tokens[-1] == self.eos
        if count == len(drawn):
            return True
        wanted_V, own_V = self._distributions(logits_TV[count], first + count)
        rest_V = np.maximum(wanted_V - own_V, 0.0)
        cumulative_V = (rest_V if rest_V.any() else wanted_V).cumsum()
        place = np.searchsorted(cumulative_V, self.generator.random() * cumulative_V[-1], side="right")
        token = min(int(place), len(wanted_V) - 1)
        self._append(row, token, float(logits_TV[count, token] - total_T[count]))
        return False

    def _append(self, row: Row, token: int, log_prob: float) -> None:
        row.tokens.append(token)
        row.log_probs.append(log_prob)
        row.has_ended = token == self.eos

    def _num_kept(
        self, logits_TV: NDArray[np.float32], total_T: NDArray[np.floating], drawn: list[int], first: int
    ) -> int:
        """Return the number of tokens before the first one that is not kept.

        Args:
            total_T: logarithm of the sum of the exponentials of the logits.
            first: number of tokens before the first position.
        """
        scaled_TV = self._scaled(logits_TV)
        allowed_TV = self._allowed(scaled_TV, first)
        chosen_T, largest_T = allowed_TV[np.arange(len(drawn)), drawn], allowed_TV.max(1)
        if self.sampling.temperature == 1.0:
            total_T = self._total_of_allowed(logits_TV, total_T, first)
        else:
            total_T = _log_sum_exp(allowed_TV)
        least_T = np.maximum(_log(self.sampling.min_p) + largest_T, _log(self.sampling.epsilon) + total_T)
        least_T = np.minimum(least_T, largest_T)
        is_wanted_T = (chosen_T >= least_T) & (chosen_T > -np.inf)
        if self.sampling.top_k or self.sampling.top_p < 1.0:
            is_certain_T = ~is_wanted_T
        else:  # the engine has all tokens that are wanted, of which the drawn one is one
            is_certain_T = ~is_wanted_T | ((scaled_TV >= least_T[:, None]).sum(1) <= self._engine_tokens(logits_TV))
        for place in range(len(drawn)):
            if not is_wanted_T[place]:
                return place
            if not is_certain_T[place]:
                wanted_V, own_V = self._distributions(logits_TV[place], first + place)
                if self.generator.random() * own_V[drawn[place]] >= wanted_V[drawn[place]]:
                    return place
        return len(drawn)

    def _distributions(
        self, logits_V: NDArray[np.float32], num_before: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the wanted distribution and that of the engine at a position: [V] each."""
        scaled_V = self._scaled(logits_V.astype(np.float64))
        wanted_V = truncated(self._allowed(scaled_V[None], num_before)[0], self.sampling)
        own_V = np.exp(scaled_V - scaled_V.max())
        count = self._engine_tokens(logits_V)
        if count < len(own_V):
            own_V[scaled_V < np.partition(scaled_V, -count)[-count]] = 0.0
        return wanted_V, own_V / own_V.sum()

    def _engine_tokens(self, logits: NDArray[np.floating]) -> int:
        return min(self.engine_top_k, logits.shape[-1])

    def _scaled(self, logits: NDArray[np.floating]) -> NDArray[np.floating]:
        temperature = self.sampling.temperature
        return logits if temperature == 1.0 else logits / logits.dtype.type(temperature)

    def _allowed(self, scaled_TV: NDArray[np.floating], first: int) -> NDArray[np.floating]:
        """Return logits with -inf for tokens that are not allowed.

        Args:
            first: number of tokens before the first position.
        """
        allowed_TV = scaled_TV.copy()
        if self.pad is not None:
            allowed_TV[:, self.pad] = -np.inf
        if first == 0:
            allowed_TV[0, self.eos] = -np.inf
        return allowed_TV

    def _total_of_allowed(
        self, logits_TV: NDArray[np.float32], total_T: NDArray[np.floating], first: int
    ) -> NDArray[np.floating]:
        """Return the logarithm of the sum over the allowed tokens, from that over all tokens."""
        forbidden_T = np.zeros_like(total_T)
        if self.pad is not None:
            forbidden_T += np.exp(logits_TV[:, self.pad] - total_T)
        if first == 0:
            forbidden_T[0] += np.exp(logits_TV[0, self.eos] - total_T[0])
        if (forbidden_T > 0.5).any():  # the difference would be imprecise
            return _log_sum_exp(self._allowed(logits_TV, first))
        return total_T + np.log1p(-forbidden_T)


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
