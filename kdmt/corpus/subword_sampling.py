"""Subword regularisation: random segmentations of binarised sentences for training.

Text is cut again from the tokens of the data-bin: the pieces of a word are joined and the word is cut in another way.
The text of a sentence does not change. A piece that is not in the dictionary is never drawn, and tokens that a model
cannot cut (`<unk>`, `</s>`, corpus tags, bytes) are kept.

The draws of a sentence depend on (seed, epoch, place of the sentence, side) alone, so that a run that is resumed, or
that has another number of ranks, reads the same tokens. The place is the index of the sentence, or another number where
an epoch repeats it. The libraries draw from one generator for the whole process,
which does not allow this; therefore their algorithms are implemented here:

* unigram models of SentencePiece (Kudo 2018): forward filtering, backward sampling over the lattice of pieces, or a
  draw among the n best segmentations;
* BPE-dropout (Provilkov et al. 2020) as in subword-nmt, which draws again for each pair in each step, and as in
  SentencePiece, where a merge that is skipped comes back only with a new neighbour.

Shape legend: B sentences, M tokens of all sentences.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdmt.config import SubwordRegularization
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.huggingface_tokenizer import HuggingFaceModel
from kdmt.corpus.subword_model import SubwordModel
from kdmt.corpus.tokenizer import SentencePieceModel, SubwordNmtModel
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.types import SPECIALS

MAX_GROWTH = 1.5  # a sentence has at most this number of times its tokens in the data-bin
MAX_CACHED_WORDS = 50_000  # lattices, about 100 MB
MAX_CACHED_NODES = 200_000  # states of words whose merges are drawn, about 100 MB
SPACE = "▁"  # space in the pieces of SentencePiece

Word = tuple[int, ...]  # ids of the tokens of a word
Draw = Callable[[], float]  # uniform in [0, 1)
IntArray = NDArray[np.integer[Any]]


class WordSampler(Protocol):
    """Draws new tokens for the words of a sentence. A word that cannot be cut in another way is returned as it is."""

    def sample(self, words: Sequence[Word], draw: Draw) -> list[Word]: ...


# ------------------------------------------------------------------------------------------------------ unigram models


@dataclass(frozen=True)
class Pieces:
    """Pieces of a unigram model that are in the dictionary.

    Attributes:
        texts: text of each piece by its id in the dictionary.
        scores: (id, log-probability) of each piece by its text.
    """

    texts: Mapping[int, str]
    scores: Mapping[str, tuple[int, float]]

    @property
    def longest(self) -> int:
        """Return the number of characters of the longest piece."""
        return max(map(len, self.scores), default=0)


class Lattices:
    """The pieces that end at each position of a word."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces, self.longest = pieces, pieces.longest

    def of(self, word: Word) -> list[list[tuple[int, int, float]]] | None:
        """Return for each end 1, ..., n the pieces as (start, id, log-probability); None if the word cannot be cut."""
        texts = [self.pieces.texts.get(token) for token in word]
        if None in texts:
            return None
        text = "".join(filter(None, texts))
        lattice = []
        for end in range(1, len(text) + 1):
            found = []
            for start in range(max(0, end - self.longest), end):
                if (piece := self.pieces.scores.get(text[start:end])) is not None:
                    found.append((start, *piece))
            lattice.append(found)
        return lattice


class UnigramSampler:
    """Draws from all segmentations s of a word, P(s) ∝ Π p(piece)^alpha (Kudo 2018; `sample_encode`, nbest_size -1)."""

    def __init__(self, pieces: Pieces, alpha: float) -> None:
        self.lattices, self.alpha = Lattices(pieces), alpha
        self._steps: dict[Word, list[tuple[list[float], list[int], list[int]]]] = {}

    def sample(self, words: Sequence[Word], draw: Draw) -> list[Word]:
        return [self._sample_word(word, draw) for word in words]

    def _sample_word(self, word: Word, draw: Draw) -> Word:
        steps = self._steps.get(word)
        if steps is None:
            steps = self._keep(word)
        if not steps:
            return word
        end, drawn = len(steps), []
        while end:
            limits, starts, ids = steps[end - 1]
            choice = bisect_right(limits, draw()) if limits else 0
            drawn.append(ids[choice])
            end = starts[choice]
        return tuple(drawn[::-1])

    def _keep(self, word: Word) -> list[tuple[list[float], list[int], list[int]]]:
        if len(self._steps) >= MAX_CACHED_WORDS:
            self._steps.clear()
        lattice = self.lattices.of(word)
        steps = self._steps[word] = [] if lattice is None else self._backward_steps(lattice)
        return steps

    def _backward_steps(
        self, lattice: Sequence[Sequence[tuple[int, int, float]]]
    ) -> list[tuple[list[float], list[int], list[int]]]:
        """Return for each end the cumulative probabilities of the pieces before it, their starts and their ids.

        The probabilities are those of the last piece of a segmentation of the text up to the end; the last one, 1, is
        left out.
        """
        totals = [0.0]  # logarithm of the sum over all segmentations up to each position
        steps = []
        for arcs in lattice:
            reached = [arc for arc in arcs if totals[arc[0]] > -math.inf]
            logs = [totals[start] + self.alpha * score for start, _, score in reached]
            most = max(logs, default=-math.inf)
            weights = [math.exp(log - most) for log in logs]
            mass = math.fsum(weights)
            totals.append(most + math.log(mass) if mass else -math.inf)
            limits = [total / mass for total in itertools.accumulate(weights[:-1])]
            steps.append((limits, [arc[0] for arc in reached], [arc[1] for arc in reached]))
        return steps


class NBestSampler:
    """Draws among the n best segmentations of a sentence, P(s) ∝ Π p(piece)^alpha (`sample_encode`, nbest_size n).

    No piece covers text of two words, so the n best of a sentence are combinations of the n best of its words.
    """

    def __init__(self, pieces: Pieces, alpha: float, nbest_size: int) -> None:
        self.lattices, self.alpha, self.nbest_size = Lattices(pieces), alpha, nbest_size
        self._best: dict[Word, tuple[NDArray[np.float64], list[Word]]] = {}
        self._pairs: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def sample(self, words: Sequence[Word], draw: Draw) -> list[Word]:
        best = [self._best.get(word) or self._keep(word) for word in words]
        losses = {place: float(scores[0] - scores[1]) for place, (scores, _) in enumerate(best) if len(scores) > 1}
        sums, back = np.zeros(1), []
        # words that lose least by their second best come first, so that the list is full soon and others are left out
        for place in sorted(losses, key=losses.__getitem__):
            full = len(sums) == self.nbest_size
            if full and losses[place] >= sums[0] - sums[-1]:
                break
            sums, first, second = self._best_sums(sums, best[place][0])
            back.append((place, first, second))
        limits = np.cumsum(np.exp(self.alpha * (sums - sums[0])))
        choice = min(int(np.searchsorted(limits, draw() * limits[-1], side="right")), len(sums) - 1)
        drawn = [segmentations[0] for _, segmentations in best]
        for place, first, second in reversed(back):
            drawn[place] = best[place][1][second[choice]]
            choice = int(first[choice])
        return drawn

    def _best_sums(
        self, left: NDArray[np.float64], right: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the n best sums of two descending lists, descending, and the index of both parts of each."""
        if len(left) == self.nbest_size:  # what loses more than the last of the best is not among the sums
            right = right[: int(np.searchsorted(-right, left[0] - left[-1] - right[0]))]
        first, second = self._pairs_of(len(left), len(right))
        sums = left[first] + right[second]
        order = np.argsort(-sums, kind="stable")[: self.nbest_size]
        return sums[order], first[order], second[order]

    def _pairs_of(self, num_left: int, num_right: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the indices (i, j) of sorted lists that can be among the n best sums: (i + 1)(j + 1) <= n."""
        found = self._pairs.get((num_left, num_right))
        if found is None:
            most = [min(num_right, self.nbest_size // (i + 1)) for i in range(num_left)]
            pairs = np.array([(i, j) for i in range(num_left) for j in range(most[i])], dtype=np.int64)
            found = self._pairs[num_left, num_right] = (pairs[:, 0].copy(), pairs[:, 1].copy())
        return found

    def _keep(self, word: Word) -> tuple[NDArray[np.float64], list[Word]]:
        if len(self._best) >= MAX_CACHED_WORDS:
            self._best.clear()
        lattice = self.lattices.of(word)
        found = [(0.0, word)] if lattice is None else self._nbest(lattice)
        kept = np.array([score for score, _ in found]), [ids for _, ids in found]
        self._best[word] = kept
        return kept

    def _nbest(self, lattice: Sequence[Sequence[tuple[int, int, float]]]) -> list[tuple[float, Word]]:
        best: list[list[tuple[float, Word]]] = [[(0.0, ())]]
        for arcs in lattice:
            longer = ((total + score, (*ids, own)) for start, own, score in arcs for total, ids in best[start])
            best.append(heapq.nlargest(self.nbest_size, longer))
        return best[-1]


# --------------------------------------------------------------------------------------------------------- BPE-dropout


class Merges(Protocol):
    """Merge operations of a BPE model, and the tokens that its symbols become."""

    redraws: bool  # whether each pair is drawn again after each merge
    merges_all: bool  # whether a step merges all kept occurrences of a pair

    def symbols(self, word: Word) -> tuple[str, ...] | None:
        """Return the symbols of a word before any merge; None if it is not one whole word of the model."""

    def rank(self, left: str, right: str) -> float | None:
        """Return the priority of a merge, the lowest first; None if there is no such merge."""

    def tokens(self, symbols: Sequence[str]) -> Word | None:
        """Return the ids of merged symbols; None if one has no id, nor the parts that it was merged from."""


@dataclass
class _Node:
    """A state of a word: its symbols, and the pairs that can be merged, in the order of their priority."""

    symbols: tuple[str, ...]
    pairs: tuple[int, ...]  # index of the left symbol of each
    following: list[_Node | None] = field(default_factory=list)  # after the merge of each pair, once it was needed
    tokens: Word | None = None  # once they were needed; those of the data-bin if a symbol has none


class MergeDropout:
    """BPE in which each merge is skipped with the probability p (Provilkov et al. 2020, algorithm 1).

    In a step, the pairs are tried by priority until one is not skipped: the k-th with the probability p^(k-1) (1 - p).
    One uniform number decides this. A word whose tokens are not those that the model itself makes, such as a corpus
    tag, is kept.
    """

    def __init__(self, merges: Merges, dropout: float) -> None:
        self.merges, self.dropout = merges, dropout
        self._limits: list[float] = []  # 1 - p^k for k = 1, 2, ...
        self._nodes: dict[tuple[tuple[str, ...], tuple[int, ...]], _Node] = {}
        self._starts: dict[Word, _Node | None] = {}

    def sample(self, words: Sequence[Word], draw: Draw) -> list[Word]:
        if len(self._nodes) + len(self._starts) >= MAX_CACHED_NODES:  # known words get new states too
            self._nodes.clear()
            self._starts.clear()
        return [self._sample_word(word, draw) for word in words]

    def _sample_word(self, word: Word, draw: Draw) -> Word:
        node = self._starts[word] if word in self._starts else self._keep(word)
        if node is None:
            return word
        limits = self._limits
        while num_pairs := len(node.pairs):
            choice = bisect_right(limits, draw(), 0, num_pairs)
            if choice == num_pairs:
                break
            node = node.following[choice] or self._merged(node, choice, draw)
        if node.tokens is None:
            node.tokens = self.merges.tokens(node.symbols) or ()
        return node.tokens or word

    def _keep(self, word: Word) -> _Node | None:
        symbols = self.merges.symbols(word)
        start = None if symbols is None or len(symbols) == 1 else self._node(symbols, self._pairs(symbols))
        if start is not None:
            self._limits += [1.0 - self.dropout**k for k in range(len(self._limits) + 1, len(start.symbols) + 1)]
            node = start
            while node.pairs:
                node = node.following[0] or self._merged(node, 0, lambda: 0.0)
            if self.merges.tokens(node.symbols) != word:
                start = None
        self._starts[word] = start
        return start

    def _node(self, symbols: tuple[str, ...], pairs: Sequence[tuple[float, int]]) -> _Node:
        places = tuple(place for _, place in sorted(pairs))
        node = self._nodes.get((symbols, places))
        if node is None:
            node = self._nodes[symbols, places] = _Node(symbols, places, [None] * len(places))
        return node

    def _pairs(self, symbols: Sequence[str]) -> list[tuple[float, int]]:
        """Return the rank and the place of each pair that can be merged."""
        ranks = (self.merges.rank(left, right) for left, right in itertools.pairwise(symbols))
        return [(rank, place) for place, rank in enumerate(ranks) if rank is not None]

    def _merged(self, node: _Node, choice: int, draw: Draw) -> _Node:
        """Return the state after the merge of a pair, and keep it if the pair alone determines it."""
        others = self._equal_pairs(node, choice) if self.merges.merges_all else []
        if others:  # more than one bit is to be drawn, and the state is not kept with this one
            places = [node.pairs[choice], *(place for place in others if draw() < 1.0 - self.dropout)]
            symbols = _merge(node.symbols, places)
            return self._node(symbols, self._pairs(symbols))
        following = node.following[choice] = self._merge_one(node, choice)
        return following

    def _merge_one(self, node: _Node, choice: int) -> _Node:
        place = node.pairs[choice]
        symbols = _merge(node.symbols, [place])
        pairs = self._pairs(symbols)
        if not self.merges.redraws:
            later = {old - (old > place) for old in node.pairs[choice + 1 :] if abs(old - place) != 1}
            pairs = [pair for pair in pairs if pair[1] in later or pair[1] in (place - 1, place)]
        return self._node(symbols, pairs)

    def _equal_pairs(self, node: _Node, choice: int) -> list[int]:
        """Return the places of the same pair of symbols after that of the choice."""
        place = node.pairs[choice]
        same = node.symbols[place : place + 2]
        return [other for other in node.pairs[choice + 1 :] if node.symbols[other : other + 2] == same]


def _merge(symbols: Sequence[str], places: Sequence[int]) -> tuple[str, ...]:
    """Return the symbols with the pairs at ascending places merged; a pair that overlaps with the last one is left."""
    merged: list[str] = []
    done = 0
    for place in places:
        if place >= done:
            merged += [*symbols[done:place], symbols[place] + symbols[place + 1]]
            done = place + 2
    return (*merged, *symbols[done:])


class SubwordNmtMerges:
    """Merges of subword-nmt; a symbol that is not in the dictionary is split again, as by its vocabulary filter."""

    redraws, merges_all = True, True

    def __init__(
        self,
        ranks: Mapping[tuple[str, str], int],
        parts: Mapping[str, tuple[str, str]],
        version: tuple[int, ...],
        dictionary: Dictionary,
    ) -> None:
        self.ranks, self.parts, self.ends_alone, self.dictionary = ranks, parts, version == (0, 1), dictionary

    def symbols(self, word: Word) -> tuple[str, ...] | None:
        tokens = [self.dictionary.symbols[token] for token in word]
        if tokens[-1].endswith("@@") or word[-1] < len(SPECIALS):
            return None
        text = "".join(token.removesuffix("@@") for token in tokens)
        if len(text) < 2:  # subword-nmt does not cut it
            return None
        return (*text, "</w>") if self.ends_alone else (*text[:-1], f"{text[-1]}</w>")

    def rank(self, left: str, right: str) -> float | None:
        return self.ranks.get((left, right))

    def tokens(self, symbols: Sequence[str]) -> Word | None:
        if symbols[-1] == "</w>":
            symbols = symbols[:-1]
            symbols = (*symbols[:-1], f"{symbols[-1]}</w>")
        return _ids_of(symbols, self._split)

    def _split(self, symbol: str) -> list[int] | None:
        token = symbol.removesuffix("</w>") if symbol.endswith("</w>") else f"{symbol}@@"
        if token in self.dictionary and token not in SPECIALS:
            return [self.dictionary.index(token)]
        left, right = self.parts.get(symbol, ("", ""))
        if not left or right == "</w>":
            return None
        return _both(self._split(left), self._split(right))


class SentencePieceMerges:
    """Merges of a BPE model of SentencePiece, where each piece of the model is a merge, the best score first.

    A piece that is not in the dictionary is split again into two pieces, of which the one with the lower score has
    the best score.
    """

    redraws, merges_all = False, False

    def __init__(self, scores: Mapping[str, float], dictionary: Dictionary) -> None:
        self.scores, self.dictionary = scores, dictionary

    def symbols(self, word: Word) -> tuple[str, ...] | None:
        pieces = [self.dictionary.symbols[token] for token in word]
        return tuple("".join(pieces)) if all(piece in self.scores for piece in pieces) else None

    def rank(self, left: str, right: str) -> float | None:
        score = self.scores.get(left + right)
        return None if score is None else -score

    def tokens(self, symbols: Sequence[str]) -> Word | None:
        return _ids_of(symbols, self._split)

    def _split(self, piece: str) -> list[int] | None:
        if piece in self.dictionary and piece in self.scores:
            return [self.dictionary.index(piece)]
        cuts = [(piece[:place], piece[place:]) for place in range(1, len(piece))]
        cuts = [cut for cut in cuts if all(len(part) == 1 or part in self.scores for part in cut)]
        if not cuts:
            return None
        left, right = max(cuts, key=lambda cut: min(self.scores.get(part, 0.0) for part in cut))
        return _both(self._split(left), self._split(right))


def _ids_of(symbols: Sequence[str], split: Callable[[str], list[int] | None]) -> Word | None:
    """Return the ids of all symbols; None if `split` finds none for one of them."""
    ids: list[int] = []
    for symbol in symbols:
        found = split(symbol)
        if found is None:
            return None
        ids += found
    return tuple(ids)


def _both(left: list[int] | None, right: list[int] | None) -> list[int] | None:
    return None if left is None or right is None else left + right


# ------------------------------------------------------------------------------------------------------------ sentences


@dataclass(frozen=True)
class WordLimits:
    """Tokens of a dictionary at which words begin and end. A token that is never cut is a word of its own."""

    begins: NDArray[np.bool_]  # [V]
    ends: NDArray[np.bool_]  # [V]

    def words(self, tokens: IntArray) -> tuple[list[Word], NDArray[np.int64]]:
        """Return the words of many sentences, and the index of the first token of each."""
        first = self.begins[tokens]
        first[1:] |= self.ends[tokens[:-1]]
        first[:1] = True
        starts = np.flatnonzero(first)
        ids = tokens.tolist()
        return [tuple(ids[start:end]) for start, end in itertools.pairwise([*starts.tolist(), len(ids)])], starts


@dataclass(frozen=True)
class SentenceSampler:
    """Draws new tokens for the sentences of one side.

    Attributes:
        max_tokens: maximum number of tokens of a sentence, including `</s>`; 0 for no limit.
    """

    words: WordSampler
    limits: WordLimits
    seed: int
    side: int
    max_tokens: int = 0

    def sample(
        self, tokens: IntArray, sizes: IntArray, places: IntArray, *, epoch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return other tokens for sentences, and the number of tokens of each.

        Args:
            tokens: concatenated ids [M], `</s>` at the end of each sentence.
            sizes: number of tokens of each sentence [B].
            places: place of each sentence in the epoch [B]: its index in the training set, and other numbers where it
                is repeated.
        """
        words, starts = self.limits.words(tokens)
        ends = np.searchsorted(starts, np.cumsum(sizes)).tolist()
        drawn: list[int] = []
        drawn_sizes = []
        begin = 0
        for size, place, end in zip(sizes.tolist(), places.tolist(), ends, strict=True):
            before = len(drawn)
            for word in self._sample_sentence(words[begin:end], size, self._generator(epoch, place)):
                drawn += word
            drawn_sizes.append(len(drawn) - before)
            begin = end
        return np.array(drawn, dtype=np.int64), np.array(drawn_sizes, dtype=np.int64)

    def _sample_sentence(self, words: Sequence[Word], size: int, generator: Random) -> list[Word]:
        new = self.words.sample(words, generator.random)
        limit = int(min(MAX_GROWTH * size, self.max_tokens or math.inf))
        room = max(limit - size, 0)
        if sum(map(len, new)) - size <= room:
            return new
        # words are taken in random order, so that no part of the sentence is cut as in the data-bin more often
        for place in sorted(range(len(words)), key=lambda _: generator.random()):
            growth = len(new[place]) - len(words[place])
            if growth > room:
                new[place] = words[place]
            else:
                room -= growth
        return new

    def _generator(self, epoch: int, place: int) -> Random:
        return Random(((self.seed << 32 | epoch) << 64 | place) << 1 | self.side)  # its numbers never change


@dataclass(frozen=True)
class SubwordSampling:
    """Samplers of both sides; None for a side whose tokens are kept."""

    source: SentenceSampler | None
    target: SentenceSampler | None

    @classmethod
    def of(
        cls, codec: TextCodec, settings: SubwordRegularization, *, seed: int, max_tokens: tuple[int, int]
    ) -> SubwordSampling:
        """Return the samplers for a tokenizer and its dictionaries.

        Args:
            max_tokens: maximum number of tokens of a source and of a target; 0 for no limit.

        Raises:
            UserError: if the settings are not those of the tokenizer's kind of model.
        """
        models = (codec.tokenizers.source, codec.tokenizers.target)
        dictionaries = (codec.src_dictionary, codec.tgt_dictionary)
        samplers = [
            SentenceSampler(*_sampler(model, dictionary, settings), seed, side, most)
            if settings.side in ("both", ("source", "target")[side])
            else None
            for side, (model, dictionary, most) in enumerate(zip(models, dictionaries, max_tokens, strict=True))
        ]
        return cls(*samplers)

    def sample(
        self, tokens: IntArray, sizes: IntArray, places: IntArray, side: int, *, epoch: int
    ) -> tuple[IntArray, IntArray]:
        """Return other tokens for the sources (side 0) or the targets (side 1), as `SentenceSampler.sample`."""
        sampler = (self.source, self.target)[side]
        return (tokens, sizes) if sampler is None else sampler.sample(tokens, sizes, places, epoch=epoch)


def _sampler(
    model: SubwordModel, dictionary: Dictionary, settings: SubwordRegularization
) -> tuple[WordSampler, WordLimits]:
    if isinstance(model, SubwordNmtModel):
        _check(settings, "subword-nmt", "bpe")
        return _merge_dropout(SubwordNmtMerges(*model.merges(), dictionary), settings), _joined_limits(dictionary)
    if isinstance(model, HuggingFaceModel):
        _check(settings, "huggingface", "given")
    if not isinstance(model, SentencePieceModel):
        raise UserError("text of 'prepare.tokenizer.type: words' cannot be cut in another way")
    algorithm, scores = model.scores()
    if algorithm not in ("unigram", "bpe"):
        raise UserError(f"a SentencePiece model of the type {algorithm!r} cuts text in one way only")
    _check(settings, "sentencepiece", algorithm)
    limits = _piece_limits(dictionary, scores)
    if settings.alpha is None:
        return _merge_dropout(SentencePieceMerges(scores, dictionary), settings), limits
    known = {text: (dictionary.index(text), score) for text, score in scores.items() if text in dictionary}
    pieces = Pieces({number: text for text, (number, _) in known.items()}, known)
    if settings.nbest_size == -1:
        return UnigramSampler(pieces, settings.alpha), limits
    return NBestSampler(pieces, settings.alpha, settings.nbest_size), limits


def _check(settings: SubwordRegularization, kind: str, model: str) -> None:
    """Check the settings against the model that was loaded; a given one may be other than 'tokenizer.model'."""
    try:
        settings.check_tokenizer(kind, model)
    except ValueError as error:
        raise UserError(str(error)) from None


def _merge_dropout(merges: Merges, settings: SubwordRegularization) -> MergeDropout:
    assert settings.dropout is not None
    return MergeDropout(merges, settings.dropout)


def _joined_limits(dictionary: Dictionary) -> WordLimits:
    """Return the limits of words whose tokens end in `@@` if the word goes on."""
    ends = np.array([not symbol.endswith("@@") for symbol in dictionary.symbols])
    begins = np.zeros(len(ends), dtype=bool)
    begins[: len(SPECIALS)] = True
    return WordLimits(begins, ends)


def word_limits(model: SubwordModel, dictionary: Dictionary) -> WordLimits | None:
    """Return the tokens at which words begin and end; None if the tokens do not show it.

    Words are found by the marks of SentencePiece (`▁`) and of subword-nmt (`@@`); without marks each token is a word.
    """
    if isinstance(model, HuggingFaceModel):
        return None
    if not isinstance(model, SentencePieceModel):
        return _joined_limits(dictionary)
    _, scores = model.scores()
    limits = _piece_limits(dictionary, scores)
    is_piece = np.array([symbol in scores for symbol in dictionary.symbols])
    return limits if (limits.begins | limits.ends)[is_piece].any() else None


def _piece_limits(dictionary: Dictionary, scores: Mapping[str, float]) -> WordLimits:
    """Return the limits of words where `▁` is the beginning, or the end, of all pieces that contain it.

    Otherwise pieces cover text of several words, and all text between two tokens that are never cut is one word.
    """
    kept = np.array([symbol not in scores for symbol in dictionary.symbols])
    begins, ends = kept.copy(), kept.copy()
    with_space = [piece for piece in scores if SPACE in piece]
    if all(piece.rfind(SPACE) == 0 for piece in with_space):
        begins |= [symbol.startswith(SPACE) for symbol in dictionary.symbols]
    elif all(piece.find(SPACE) == len(piece) - 1 for piece in with_space):
        ends |= [symbol.endswith(SPACE) for symbol in dictionary.symbols]
    return WordLimits(begins, ends)
