"""Simultaneous translation of raw text: words of the source go in as they arrive, words of the target come out.

A target word is complete when the first piece of the next word appears, or the sentence ends. Words that were returned
are never changed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec, cut_source
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.precision import products
from kdmt.decode.engines.pytorch import TorchEngine, check_wait_k, inference
from kdmt.decode.engines.translator import Translator
from kdmt.decode.search.incremental import ChunkSession, Session, WaitKSession
from kdmt.errors import UserError
from kdmt.languages import Direction, writes_spaces
from kdmt.log import get_logger

_logger = get_logger(__name__)


def check_spaces(direction: Direction) -> None:
    """Check that both languages have words between spaces, by which translation proceeds and latency is counted.

    Raises:
        UserError: if one has none.
    """
    for lang in direction.sides:
        if not writes_spaces(lang):
            raise UserError(f"simultaneous translation proceeds word by word, and {lang!r} is written without spaces")


@dataclass
class WordWriter:
    """Words of a translation whose tokens arrive one after the other.

    Attributes:
        text: function of all tokens so far that returns their text.
    """

    text: Callable[[Sequence[int]], str]
    _tokens: list[int] = field(default_factory=list)
    _num_words: int = 0

    def write(self, tokens: Sequence[int]) -> list[str]:
        """Return the words that are complete now and were not before."""
        if not tokens:
            return []
        self._tokens += tokens
        return self._new(self.text(self._tokens).split()[:-1])

    def end(self) -> list[str]:
        """Return the words that are complete because the sentence ends."""
        return self._new(self.text(self._tokens).split() if self._tokens else [])

    def _new(self, words: list[str]) -> list[str]:
        new = words[self._num_words :]
        self._num_words += len(new)
        return new


class SimultaneousTranslator:
    """A model that translates words while they arrive.

    Args:
        translator: translator of a checkpoint with a unidirectional encoder, or of a streaming CTC student.
        settings: settings of the search, of which the maximum lengths are used.
        wait_k: number of source tokens before the first target token; None for a streaming CTC student.

    Raises:
        UserError: if the model cannot translate simultaneously, or `wait_k` is missing or has no effect.
    """

    def __init__(self, translator: Translator, settings: Decode, *, wait_k: int | None = None) -> None:
        engine = translator.engine
        if translator.codec.text.directions:
            raise UserError("simultaneous translation does not support models of several directions")
        check_spaces(translator.codec.text.direction)
        if isinstance(engine, NATEngine) and engine.model.nat.streaming is not None:
            if wait_k is not None:
                raise UserError("wait-k has no effect: the model translates in chunks ('nat.streaming')")
        elif isinstance(engine, TorchEngine):
            if wait_k is None:
                raise UserError("simultaneous translation needs a k (--wait-k)")
            check_wait_k([engine.model], wait_k)
        else:
            raise UserError(
                "simultaneous translation needs a checkpoint with 'model.unidirectional_encoder: true', or of a 'ctc' "
                "student with 'nat.streaming'; exported models do not have it"
            )
        self.translator, self.settings, self.wait_k = translator, settings, wait_k
        self.engine: NATEngine | TorchEngine = engine

    def begin(self) -> Sentence:
        """Return a new sentence."""
        return Sentence(self, self._session(), WordWriter(finished_text(self.translator.codec)))

    def _session(self) -> Session:
        engine = self.engine
        if isinstance(engine, NATEngine):
            return ChunkSession(engine.model, device=engine.device)
        assert self.wait_k is not None, "checked before"
        return WaitKSession(
            engine.model,
            self.wait_k,
            max_len_a=self.settings.max_len_a,
            max_len_b=self.settings.max_len_b,
            device=engine.device,
        )

    def advance(self, session: Session, source: np.ndarray, *, is_whole: bool) -> list[int]:
        """Return the tokens that a session decides on now. See `Session.read`."""
        with inference([self.engine.model]), products(self.engine.device, self.engine.precision):
            return session.read(source, is_whole=is_whole)


@dataclass
class Sentence:
    """A sentence whose source words arrive one after the other."""

    owner: SimultaneousTranslator
    session: Session
    writer: WordWriter
    _words: list[str] = field(default_factory=list)
    _is_full: bool = False

    def read(self, word: str) -> list[str]:
        """Return the target words that are complete after one more source word."""
        if self._is_full:
            return []
        self._words.append(word)
        source = self._encoded()[:-1]  # </s> has not arrived
        limit = self.owner.translator.max_source_tokens
        if len(source) >= limit:
            _logger.warning(f"a sentence has more than the model's {limit} tokens: its other words are not translated")
            self._is_full, source = True, source[: limit - 1]
        return self.writer.write(self.owner.advance(self.session, source, is_whole=False))

    def end(self) -> list[str]:
        """Return the remaining target words."""
        source = self._encoded() if self._words else np.zeros(0)
        if len(source) <= 1:  # no words
            return []
        source = cut_source(source, self.owner.translator.max_source_tokens)
        return self.writer.write(self.owner.advance(self.session, source, is_whole=True)) + self.writer.end()

    def _encoded(self) -> np.ndarray:
        return self.owner.translator.encode_prefix(" ".join(self._words))


def finished_text(codec: TextCodec) -> Callable[[Sequence[int]], str]:
    """Return the function that converts target tokens to finished text."""
    return lambda tokens: codec.finish_target(codec.decode_target(tokens))


@dataclass(frozen=True)
class SourceWords:
    """Words of a source, and the number of tokens that each prefix of them has.

    Attributes:
        counts: number of tokens of the first 1, 2, ... words, without </s>, in ascending order.
    """

    counts: Sequence[int]

    @classmethod
    def of(cls, line: str, encode: Callable[[Sequence[str]], list[np.ndarray]]) -> SourceWords:
        """Return the words of a line.

        Args:
            encode: function that returns the ids of lines, each ending in </s>.
        """
        words = line.split()
        prefixes = [" ".join(words[: count + 1]) for count in range(len(words))]
        counts = [len(source) - 1 for source in encode(prefixes)]
        return cls(np.maximum.accumulate(counts).tolist() if counts else [])

    def containing(self, num_tokens: int) -> int:
        """Return the number of words that must have been read for the first tokens; </s> needs all words."""
        return min(bisect_left(self.counts, num_tokens) + 1, len(self.counts))


def word_delays(
    tokens: Sequence[int], reads: Sequence[int], source: SourceWords, text: Callable[[Sequence[int]], str]
) -> list[int]:
    """Return the delay of each target word: the number of source words that were read when it was complete.

    Args:
        tokens: target tokens without </s>.
        reads: number of source tokens that each of them needed, and then that of </s>.
        source: words of the source.
        text: function that converts target tokens to text.
    """
    writer, delays = WordWriter(text), []
    for token, read in zip(tokens, reads, strict=False):
        delays += [source.containing(read)] * len(writer.write([token]))
    return delays + [source.containing(reads[-1])] * len(writer.end())
