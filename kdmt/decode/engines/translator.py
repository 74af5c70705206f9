"""Translation of raw text with a checkpoint or an exported model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from kdmt.config import Decode, NATDecode
from kdmt.corpus.codec import TextCodec, cut_source, insert_prefix
from kdmt.corpus.context import Document, join_context, without_context
from kdmt.decode.engines.engine import Engine, EngineOptions, ScoringEngine
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.precision import DecodingPrecision
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.decode.engines.table import find_engine
from kdmt.documents.sentences import split_long
from kdmt.errors import UserError
from kdmt.languages import Direction, writes_spaces
from kdmt.log import get_logger
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.runtime import cores_of_rank
from kdmt.types import Hypothesis

_logger = get_logger(__name__)
_MOST_TOKENS_PER_CHARACTER = 8  # a character that the vocabulary lacks may become its bytes, or an XML entity


@dataclass(frozen=True)
class Translator:
    """A decoding engine with the text processing of its model.

    Attributes:
        engine: the engine.
        codec: the text processing.
        tag: id of the corpus tag that is put before each source sentence; None for no tag.
        prefix: ids of the tokens before each source sentence by which a model with several directions knows the
            direction.
    """

    engine: Engine
    codec: TextCodec
    tag: int | None = None
    prefix: tuple[int, ...] = ()

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: torch.device | str = "cpu",
        threads: int | None = None,
        search: NATDecode | None = None,
        iterations: int = 10,
        precision: DecodingPrecision = "float32",
    ) -> Translator:
        """Return the translator of a checkpoint folder, a pointer file, a training run or an exported model.

        Args:
            threads: number of CPU threads of exported models (default: one for each core). Checkpoints use PyTorch's.
            search, iterations, precision: see `EngineOptions`.

        Raises:
            UserError: if there is no model, it is damaged, or a library that it needs is not installed.
        """
        kind, folder = find_engine(path)
        options = EngineOptions(
            str(device), threads or cores_of_rank(), search or NATDecode(), iterations, precision=precision
        )
        return cls(kind.open(folder, options), TextCodec.load(folder))

    @classmethod
    def of_model(
        cls, model: Transformer, codec: TextCodec, *, device: torch.device | str = "cpu", wait_k: int | None = None
    ) -> Translator:
        """Return the translator of a model in memory, such as one in training.

        Args:
            wait_k: see `TorchEngine`.
        """
        if isinstance(model, NATransformer):
            return cls(NATEngine(model, device=device), codec)
        return cls(TorchEngine(model, device=device, wait_k=wait_k), codec)

    def with_tag(self, token: str) -> Translator:
        """Return a translator that puts a corpus tag, such as `<bt>`, before each source sentence.

        Raises:
            UserError: if the vocabulary of the source language does not have the tag, or it is the token of a language.
        """
        if token not in self.codec.src_dictionary:
            raise UserError(f"tag {token!r}: the vocabulary does not have it; it has the tags of the training corpora")
        tag = self.codec.src_dictionary.index(token)
        if tag in self.codec.language_ids[0]:
            meaning = "of a language, which the direction of translation chooses"
            if self.codec.text.context is not None:
                meaning = "that separates a sentence from its context"
            raise UserError(f"tag {token!r} is the token {meaning}")
        return replace(self, tag=tag)

    def for_direction(self, direction: Direction) -> Translator:
        """Return the translator of one direction: the same one if this is the only direction of the model.

        Raises:
            UserError: if the model does not have the direction.
        """
        if not self.codec.text.directions and self.codec.text.direction.matches(direction):
            return self
        codec = self.codec.for_direction(direction)
        return replace(self, codec=codec, prefix=self.codec.prefix_ids(direction))

    @property
    def max_source_tokens(self) -> int:
        """Maximum number of source tokens, </s> included; longer sources are truncated."""
        return self.engine.max_source_positions

    def begin_documents(self) -> Document | None:
        """Return an empty document for raw lines in their order; None for a model that translates without context."""
        context = self.codec.text.context
        return None if context is None else Document(context)

    def add_context(self, sentences: Sequence[str]) -> list[str]:
        """Return the sentences of a document as the model reads them: with their context, if it translates with one."""
        document = self.begin_documents()
        return list(sentences) if document is None else document.add_lines(sentences)

    def with_context(self, sentence: str, previous: Sequence[str]) -> str:
        """Return a sentence as the model reads it: after previous sentences of its document, if it reads context.

        Args:
            previous: previous sentences, in their order; those without words do not count.
        """
        return self.add_context([*(line for line in previous if line.split()), sentence])[-1]

    def translate(self, lines: Sequence[str], settings: Decode, *, first_line: int = 1) -> list[str]:
        """Return the translations of raw lines as finished text.

        A line without words has an empty translation; a line that is too long is truncated, with a message. For a model
        with context, lines have the context that `begin_documents` adds; a line without one has an empty context.

        Args:
            first_line: number of the first line in messages.
        """
        sources = self.encode(lines, first=first_line)
        return [self.codec.finish_target(words) for words in self.translate_ids(sources, settings)]

    def translate_sentences(self, sentences: Sequence[str], settings: Decode) -> list[str]:
        """Return the translations of sentences of any length: one that is too long is translated in parts.

        For a model with context, sentences have theirs as in `translate`; parts of a sentence have an empty context.
        """
        parts = [self._split_long(sentence.strip()) for sentence in sentences]
        sources = self._encode([part for found in parts for part in found])
        words = iter(self.translate_ids(sources, settings))
        space = " " if writes_spaces(self.codec.text.target_lang) else ""
        return [space.join(self.codec.finish_target(next(words)) for _ in found) for found in parts]

    def _split_long(self, sentence: str) -> list[str]:
        """Return the parts of a sentence that is too long, without its context, else the sentence with it."""
        parts = split_long(without_context(sentence, self.codec.text.context), self._accepts)
        return parts if len(parts) != 1 else [sentence]

    def _accepts(self, line: str) -> bool:
        """Return whether a line is short enough not to be truncated."""
        if len(line) < self.max_source_tokens // _MOST_TOKENS_PER_CHARACTER:
            return True
        return len(self._encode([line])[0]) <= self.max_source_tokens

    def _encode(self, lines: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of raw lines with the tag; a line without words has none.

        Raises:
            UserError: if the model has several directions, and none is chosen.
        """
        self.codec.text.require_one_direction()
        return self.encode_words([self.codec.text.preprocess_source(line) for line in lines])

    def encode_words(self, words: Sequence[str]) -> list[np.ndarray]:
        """Return the ids of processed source lines with the tag; a line without words has none.

        A line that is too long with its context has an empty one.
        """
        sources, context = self._with_prefix(self.codec.encode_source(words)), self.codec.text.context
        if context is None:
            return sources
        long = [index for index, source in enumerate(sources) if len(source) > self.max_source_tokens]
        alone = [join_context([], without_context(words[index], context), context) for index in long]
        for index, source in zip(long, self._with_prefix(self.codec.encode_source(alone)), strict=True):
            sources[index] = source
        return sources

    def _with_prefix(self, sources: list[np.ndarray]) -> list[np.ndarray]:
        prefix = [*self.prefix, *([] if self.tag is None else [self.tag])]
        return insert_prefix(sources, prefix)

    def encode(self, lines: Sequence[str], *, noun: str = "line", first: int = 1) -> list[np.ndarray]:
        """Return the ids of raw lines, int [S] each, with a message for a line that is too long.

        Args:
            noun: what messages call a line.
            first: number of the first line in messages.
        """
        sources, limit = self._encode(lines), self.max_source_tokens
        for number, source in enumerate(sources, start=first):
            if len(source) > limit:
                _logger.warning(f"{noun} {number}: {len(source)} tokens, cut to the model's {limit}")
        return sources

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[list[float]]:
        """Return the log-probability of each token of raw targets, given raw lines as in `translate`.

        Returns:
            The natural-log probabilities of the tokens of each target, `</s>` last; an empty list for a pair that is
            too long for the model, with a message.

        Raises:
            TypeError: if the engine does not score given targets.
            UserError: if the model has several directions, and none is chosen.
        """
        engine, codec = self.engine, self.codec
        if not isinstance(engine, ScoringEngine):
            raise TypeError(f"{type(engine).__name__} gives no probabilities of given targets")
        src = self._encode(sources)
        tgt = codec.encode_target([codec.text.preprocess_target(line) for line in targets])
        limits = (engine.max_source_positions, engine.max_target_positions)
        fitting = [index for index in range(len(src)) if len(src[index]) <= limits[0] and len(tgt[index]) <= limits[1]]
        found = engine.score_pairs([src[index] for index in fitting], [tgt[index] for index in fitting])
        scored: list[list[float]] = [[] for _ in src]
        for index, log_probs in zip(fitting, found, strict=True):
            scored[index] = log_probs.tolist()
        if unread := len(src) - len(fitting):
            _logger.warning(f"{unread:,} pairs are longer than the model reads and have no score")
        return scored

    def translate_ids(self, sources: Sequence[np.ndarray], settings: Decode) -> list[str]:
        """Return target words for source ids, "" for a source without words; a source that is too long is truncated."""
        return [
            self.codec.decode_target(best.tokens) if best is not None else ""
            for best in self.best_hypotheses(sources, settings)
        ]

    def best_hypotheses(self, sources: Sequence[np.ndarray], settings: Decode) -> list[Hypothesis | None]:
        """Return the best hypothesis of each source; None for a source without words."""
        return [nbest[0] if nbest else None for nbest in self.hypotheses(sources, settings)]

    def hypotheses(
        self, sources: Sequence[np.ndarray], settings: Decode, *, progress: Callable[[int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """Return the hypotheses of each source, best first; an empty list for a source without words.

        Args:
            sources: int [S] each; a source that is too long is truncated.
            progress: function called after each batch with the number of sentences in it.
        """
        kept = [index for index, source in enumerate(sources) if len(source) > 1]
        cut = [cut_source(sources[index], self.max_source_tokens) for index in kept]
        found: list[list[Hypothesis]] = [[] for _ in sources]
        for index, nbest in zip(kept, self.engine.decode(cut, settings, progress=progress), strict=True):
            found[index] = nbest
        return found

    def encode_prefix(self, words: str) -> np.ndarray:
        """Return the ids of the first words of a line with the tag and </s>, int [S], without a message."""
        return self._encode([words])[0]
