"""Translation while the source arrives: a session reads more source tokens and returns the tokens that are decided.

The result of a session is that of the same model for the whole sentence with the same mask
(`kdmt.models.prefix_masks`).

Shapes: B batch, S source length, L decoder positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kdmt.decode.search.beam import allowed_log_probs
from kdmt.decode.search.lengths import max_lengths
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import DecoderCache, DecoderLayer, Transformer
from kdmt.types import EOS


class Session(Protocol):
    """Translation of one sentence."""

    def read(self, source: np.ndarray, *, is_whole: bool) -> list[int]:
        """Return the target tokens that are decided now and were not before, without </s>.

        Args:
            source: int [S], all tokens that have arrived; the last one is </s> if the source is whole.
            is_whole: whether no further token will arrive.
        """
        ...


class WaitKSession:
    """Greedy search with the wait-k policy: the target token t, from 0, is chosen when k + t source tokens are there.

    Args:
        model: model in evaluation mode with a unidirectional encoder.
        k: number of source tokens before the first target token.
        max_len_a, max_len_b: maximum length of the translation; before the source is whole, of its tokens so far, which
            is at most as long.

    Raises:
        UserError: if the encoder is not unidirectional.
    """

    def __init__(
        self, model: Transformer, k: int, *, max_len_a: float, max_len_b: float, device: torch.device | str = "cpu"
    ) -> None:
        model.check_unidirectional()
        self.model, self.k, self.device = model, k, device
        self.max_len = (max_len_a, max_len_b)
        self.tokens: list[int] = []
        self.has_ended = False
        self._cache: DecoderCache | None = None

    def read(self, source: np.ndarray, *, is_whole: bool) -> list[int]:
        """See `Session.read`."""
        first = len(self.tokens)
        most = self.model.config.max_target_positions - 1  # </s> takes the last position
        limit = max_lengths([len(source)], *self.max_len, limit=most)[0]
        decided = math.inf if is_whole else min(len(source) - self.k + 1, limit)  # number of tokens
        if self.has_ended or len(self.tokens) >= decided:
            return []
        cache = self._with_source(source)
        while not self.has_ended and len(self.tokens) < decided:
            token = self._next(cache, limit)
            self.has_ended = token == EOS
            if not self.has_ended:
                self.tokens.append(token)
        return self.tokens[first:]

    def _with_source(self, source: np.ndarray) -> DecoderCache:
        """Return the cache with the keys and values of all source tokens that have arrived.

        Those of earlier tokens are computed again, but do not change, because the encoder is unidirectional.
        """
        model = self.model
        encoded = model.waiting(model.encode(_one_sentence(source, self.device)), self.k)
        if self._cache is None:
            self._cache = model.start_cache(encoded, beam=1, max_len=model.config.max_target_positions)
        else:
            layers = [layer for layer in model.decoder_layers if isinstance(layer, DecoderLayer)]
            self._cache.cross_2BHSC = [layer.cross_attn.keys_values(encoded.states_BSD) for layer in layers]
            self._cache.keep_B11S = encoded.keep_BS[:, None, None, :]
        return self._cache

    def _next(self, cache: DecoderCache, limit: int) -> int:
        """Return the most probable token, as `greedy_search` chooses it."""
        last_1 = torch.tensor([self.tokens[-1] if self.tokens else EOS], device=self.device)
        logits_1V = self.model.decode_step(last_1, cache)
        if len(self.tokens) >= limit:
            return EOS
        return int(allowed_log_probs(logits_1V, not self.tokens, None).argmax())


class ChunkSession:
    """Best path of a streaming CTC model, chunk by chunk.

    The positions of a chunk are decided when the chunk and its right context are there.

    Args:
        model: model in evaluation mode with `nat.streaming`.

    Raises:
        ValueError: if it has none.
    """

    def __init__(self, model: NATransformer, *, device: torch.device | str = "cpu") -> None:
        if model.nat.streaming is None:
            raise ValueError("the model does not translate in chunks")
        self.model, self.device = model, device
        self.chunk, self.right_context = model.nat.streaming
        self.num_chunks = 0  # chunks whose positions are decided
        self._last = model.blank  # symbol of the last position

    def read(self, source: np.ndarray, *, is_whole: bool) -> list[int]:
        """See `Session.read`."""
        ready = -(-len(source) // self.chunk) if is_whole else (len(source) - self.right_context) // self.chunk
        if ready <= self.num_chunks:
            return []
        found = []
        for symbol in self._symbols(_one_sentence(source, self.device), self.num_chunks, ready):
            if symbol not in (self._last, self.model.blank):
                found.append(symbol)
            self._last = symbol
        self.num_chunks = ready
        return found

    def _symbols(self, src_tokens_BS: Tensor, first: int, end: int) -> Sequence[int]:
        """Return the most probable symbols of the positions of the chunks from `first` to before `end`."""
        model = self.model
        x_BLD, keep_BL = model.upsample(src_tokens_BS)
        features_BLD = model.decode_all(x_BLD, keep_BL, model.encode(src_tokens_BS))
        own = self.chunk * model.nat.upsample
        symbols_BL, _ = model.best_symbols(features_BLD[:, first * own : end * own])
        symbols: list[int] = symbols_BL[0].tolist()
        return symbols


def _one_sentence(source: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(source.astype(np.int64))[None].to(device)


def wait_k_reads(num_tokens: int, k: int, source_length: int) -> list[int]:
    """Return the number of source tokens that each of the target tokens needs, and then that of </s>: min(k + t, S)."""
    return [min(k + token, source_length) for token in range(num_tokens + 1)]
