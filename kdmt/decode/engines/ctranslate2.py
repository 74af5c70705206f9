"""Beam search, sampling and scoring with CTranslate2, for a folder that `kdmt export --to ctranslate2` wrote.

Settings have the same meaning as in `kdmt.decode.search.beam` and `kdmt.decode.search.sampling`; hypotheses and scores
are the same except for the order of floating-point operations. The search of CTranslate2 ends differently, and this
module corrects for it:

* Once K hypotheses have finished, CTranslate2 keeps the K best of all finished ones, fairseq the first K. A length
  penalty far below zero ranks the hypotheses that finished first as the best; the penalty is then undone, and scores
  are normalised here.
* If </s> is forbidden as the first token, CTranslate2 renormalises the other probabilities. So </s> is allowed, and
  only a sentence for which the empty hypothesis is found is searched again with </s> forbidden, with the
  renormalisation undone. The second search finds the hypotheses of the first without the empty one, and one more: if
  many sentences of a block have the empty hypothesis, the first search looks for K + 1 hypotheses instead.
* A batch has one maximum length, at which CTranslate2 cuts off its best candidates. A batch is searched with the
  largest maximum length of its sentences. Only a sentence with a hypothesis longer than its own maximum length is
  searched again, for all hypotheses and prefixes at that length, and </s> is forced on the live prefixes.

With `exact=False` each batch is searched once, which is faster and differs as follows:

* A hypothesis may be longer than its sentence's own maximum length, up to the largest of its batch. It is returned as
  it was found: nothing is forced at the maximum length of the sentence.
* </s> is forbidden as the first token, and the renormalisation is not undone: the sum of log p of all hypotheses of a
  sentence is larger by -log(1 - p(</s> as the first token)).

Otherwise, a sentence whose K hypotheses all end within its own maximum length has the same hypotheses.

The remaining differences are:

* CTranslate2 forbids <pad> everywhere and renormalises for it: a score is larger than the teacher-forced one by the sum
  of -log(1 - p(<pad>)), divided by the same length. For a trained model this is below 1e-3, which may change the order
  of near ties.
* If more than K hypotheses have finished in total, one of those that finished first may be lost if its sum of log p is
  several times lower than that of a hypothesis that finished last: a length penalty separates neighbouring lengths by
  a limited factor only (3.8 between 19 and 20 of at most 20 tokens, 1.4 between 59 and 60 of at most 60).
* Ties, and near ties that depend on the order of floating-point operations; with float16 or int8 weights, the rounding
  of the model.
* With a shortlist, only its logits are computed, so that scores are those of the distribution over the shortlist. At
  the maximum length, </s> is forced on what CTranslate2 cut off, with its log-probability over the whole vocabulary.
* CTranslate2 does not translate a source that has only </s>; its one hypothesis is empty and has score 0.

A folder that `kdmt.interop.huggingface` wrote is searched in the same way. Its `model.json` has the tokens that
surround a sentence (`frame`). Tokens that begin every target, such as the token of the target language, are given to
CTranslate2 as a target prefix: they have probability 1 and are not counted in the maximum length or the length of the
score. CTranslate2 counts them in its lengths, which is undone with its length penalty, and it loses a hypothesis that
ends directly after them. So with such a prefix </s> is always forbidden as the first token, and a separate scoring pass
gives its log-probability, by which the renormalisation is undone. A Marian model has no <pad> in its vocabulary, so
that nothing is renormalised for it.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from kdmt.config import Decode
from kdmt.corpus.indexed import without_padding
from kdmt.corpus.right_to_left import reverse_hypotheses, reverse_targets
from kdmt.decode.engines.ctranslate2_devices import (
    MemoryLimit,
    batches_in_flight,
    device_indices,
    is_out_of_memory,
    library_hint,
)
from kdmt.decode.engines.engine import (
    WHY_NAN,
    EngineOptions,
    check_pairs,
    check_sentences,
    compute_in_batches,
    length_batches,
    limits_for_rows,
)
from kdmt.decode.engines.token_rejection import Rejection, Row
from kdmt.decode.search.lengths import max_lengths, normalized_score
from kdmt.errors import UserError, describe_error
from kdmt.interop.ctranslate2_folder import ModelFolder
from kdmt.log import get_logger
from kdmt.types import EOS, PAD, SPECIALS, Hypothesis, Sampling

if TYPE_CHECKING:
    from ctranslate2 import StorageView, TranslationResult, Translator

_logger = get_logger(__name__)

_SCORED_TOKENS = 4096  # padded tokens of a scoring batch, whose logits are all in memory at the same time
_LARGEST_FACTOR = 34  # base-10 logarithm; multiplied by a log-probability, the factor is still within float32
_OFTEN = 0.1  # share of the block's sentences so far with the empty hypothesis
_LIKELY = math.log(0.5)  # of </s> as the first token: above it, the remaining probability is imprecise
# sentences of a batch on a CPU: intermediate results stay in its caches, the more so with little computation for each,
# while the large matrices of a wide model are read once for each batch (`make bench-distill`)
_SMALL_BATCH, _MEDIUM_BATCH, _LARGE_BATCH = 16, 32, 64
_WIDE = 512  # width of the decoder
_OF_DEVICES = re.compile("CUDA|cuda|cuBLAS|cuDNN|NCCL|out of memory")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Parameters = ParamSpec("_Parameters")
_Drawn = tuple[list[str], tuple[float, ...]]  # a sample, and the log-probability of each token and of </s>
_LOGITS_AT_ONCE = 1 << 26  # 256 MiB of logits that CTranslate2 returns from one call
# options of every search that are the same; each is set, because some defaults differ from fairseq's
_SEARCH_OPTIONS: dict[str, Any] = {
    "max_batch_size": 0,
    "coverage_penalty": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "disable_unk": False,
    "end_token": SPECIALS[EOS],
    "return_end_token": True,
    "prefix_bias_beta": 0.0,
    "max_input_length": 0,
    "return_scores": True,
    "sampling_topk": 1,
    "replace_unknowns": False,
}
_NO_BEAM = -1e30  # a sum below it marks a beam for which there was no candidate


@dataclass(frozen=True)
class _Found:
    """A hypothesis or a prefix of one, as token strings of CTranslate2."""

    tokens: list[str]  # without </s>
    total: float  # sum of log p, with that of </s> if the hypothesis has ended
    ended: bool

    @property
    def steps(self) -> int:
        """Number of search steps until the hypothesis ended or was cut off."""
        return len(self.tokens) + self.ended


@dataclass(frozen=True)
class _Given:
    """Sources as token strings of CTranslate2, with the maximum target length of each."""

    sources: list[list[str]]
    max_lens: list[int]
    settings: Decode

    def batches(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """Yield batches of indices with sources of similar length, longest first."""
        lengths = [len(self.sources[index]) for index in indices]
        settings = self.settings
        for batch in length_batches(lengths, max_tokens=settings.max_tokens, batch_size=settings.batch_size):
            yield _of(indices, batch)

    def batches_alike(self, indices: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield maximum lengths, each with a batch of indices whose sources have that maximum length."""
        for max_len, group in groupby(sorted(indices, key=self._shortest_last), key=self.max_lens.__getitem__):
            for batch in self.batches(list(group)):
                yield max_len, batch

    def _shortest_last(self, index: int) -> int:
        return -self.max_lens[index]

    def all_end_within(self, index: int, found: list[_Found]) -> bool:
        """Return whether a search with the source's own maximum length would find the same hypotheses.

        Args:
            found: result of a search with a maximum length that may be larger.
        """
        return len(found) == self.settings.beam and all(
            each.ended and each.steps <= self.max_lens[index] for each in found
        )


def open_folder(folder: Path, options: EngineOptions) -> CTranslate2Engine:
    """Return the engine of an exported folder, with weights in the stored type. See `CTranslate2Engine`."""
    return CTranslate2Engine(folder, device=options.device, threads=options.threads)


class CTranslate2Engine:
    """A CTranslate2 model; the hypotheses of `decode` have no `log_probs`.

    Args:
        folder: folder written by `kdmt.interop.ctranslate2_export` or `kdmt.interop.huggingface`.
        device: cpu, cuda or cuda:<n>.
        compute_type: default (as stored), float32, int8, float16 or another type of CTranslate2 that the device
            supports.
        threads: number of CPU threads for one batch. On a CPU, searches in int8 or with a shortlist use batches of at
            most 16 sentences (64 if the decoder is at least 512 wide), which are the fastest.
        shortlist: whether `decode` restricts the vocabulary to the folder's lexical shortlist. The translation of a
            sentence then depends on the other sentences of its batch.
        exact: False to search each batch only once in `decode`; see the module's description. On a CPU, batches then
            have at most 32 sentences (64 if the decoder is at least 512 wide).

    Attributes:
        memory: size of the batches that fit in the memory of a GPU; larger ones are divided.

    Raises:
        UserError: if CTranslate2 is not installed or cannot load the model, if the folder is damaged or was not written
            by kdmt, or if it has no shortlist.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        compute_type: str = "default",
        threads: int = 1,
        shortlist: bool = False,
        exact: bool = True,
    ) -> None:
        model = ModelFolder.open(folder, shortlist=shortlist)
        self.max_source_positions, self.max_target_positions = model.max_source_positions, model.max_target_positions
        self._folder, self._shortlist, self._frame = folder, shortlist, model.frame
        self._exact = exact
        self._from_source = model.target_from_source
        # number of tokens that begin every target
        self._forced_tokens = 1 if model.target_from_source else len(model.frame.target_prefix)
        self.right_to_left = model.right_to_left
        self._src_symbols, self._tgt_symbols, self._columns = model.src_symbols, model.tgt_symbols, model.vocabulary
        self._tgt_ids = {symbol: index for index, symbol in enumerate(self._tgt_symbols)}
        self._column_of = {symbol: column for column, symbol in enumerate(self._columns)}
        self._pad_column = self._column_of.get(SPECIALS[PAD])
        self._eos_column = self._columns.index(SPECIALS[EOS])
        self._min_len = 1 if self._forced_tokens else 0  # least number of tokens before </s> in every search
        self._threads: ThreadPoolExecutor | None = None
        self._never = [[SPECIALS[PAD]]] if SPECIALS[PAD] in self._columns else None
        self._load = partial(_load, folder, device, compute_type, threads)
        self._translator, self._in_flight = self._load()
        self.memory = MemoryLimit()
        computes_little = shortlist or "int8" in self._translator.compute_type
        largest = _largest_batch(model.width, computes_little=computes_little, exact=exact)
        self._largest_batch = largest if device == "cpu" else None

    def decode(
        self, sources: Sequence[np.ndarray], settings: Decode, *, progress: Callable[[int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """See `Engine.decode`."""
        check_sentences(sources, self.max_source_positions, "source")
        if self._largest_batch is not None:
            settings = settings.model_copy(update={"batch_size": min(settings.batch_size, self._largest_batch)})
        given = _Given([self._spell(source) for source in sources], self._max_lens(sources, settings), settings)
        # CTranslate2 does not translate a source that has only </s>
        indices = [index for index, source in enumerate(sources) if len(source) > 1]
        progress = progress or _keep_silent
        search = self._search_exactly if self._exact else self._search_once
        found = search(given, indices, progress)
        if len(indices) < len(sources):
            progress(len(sources) - len(indices))
        ranked = [
            self._ranked(found[index], settings) if index in found else [Hypothesis((), 0.0)]
            for index in range(len(sources))
        ]
        return reverse_hypotheses(ranked) if self.right_to_left else ranked

    def _search_once(
        self, given: _Given, indices: list[int], progress: Callable[[int], None]
    ) -> dict[int, list[_Found]]:
        """Search all batches once, each with its largest maximum length and with </s> forbidden as the first token."""
        found: dict[int, list[_Found]] = {}

        def search(batch: list[int]) -> Callable[[], dict[int, list[_Found]]]:
            return self._start(partial(self._search_batch, given, batch, min_len=1))

        for results in _in_flight(map(search, given.batches(indices)), self._in_flight):
            found |= results
            progress(len(results))
        cut = [index for index, own in found.items() if not all(each.ended for each in own)]
        live = [[each for each in found[index] if not each.ended] for index in cut]
        for index, forced in zip(cut, self._forced(_of(given.sources, cut), live), strict=True):
            found[index] = [each for each in found[index] if each.ended] + forced
        return found

    def _search_exactly(
        self, given: _Given, indices: list[int], progress: Callable[[int], None]
    ) -> dict[int, list[_Found]]:
        """Search all batches once, and search again the sentences that the maximum length or an early </s> affects."""
        found: dict[int, list[_Found]] = {}
        early: dict[int, float] = {}  # log-probability of </s> as the first token, if the search found it there
        again: list[int] = []
        beam = given.settings.beam
        batches = list(given.batches(indices))
        # the last batch has the shortest sentences and goes first, to estimate how often the empty hypothesis is found:
        # if it is often found, searching for one more hypothesis is less work than a second search

        def search(batch: list[int]) -> Callable[[], tuple[list[int], int, dict[int, list[_Found]]]]:
            spare = int(not self._min_len and beam > 1 and len(early) >= _OFTEN * len(found))
            started = self._start(partial(self._search_batch, given, batch, min_len=self._min_len, spare=spare))
            return lambda: (batch, spare, started())

        for batch, spare, results in _in_flight(map(search, batches[-1:] + batches[:-1]), self._in_flight):
            for index, nbest in results.items():
                found[index] = [each for each in nbest if each.tokens][:beam]
                if empty := [each.total for each in nbest if not each.tokens]:
                    early[index] = empty[0]
                    again += [] if spare else [index]
            progress(len(batch))
        for batch in given.batches(again):
            found |= self._search_batch(given, batch, min_len=1)
        cut = [index for index in indices if not given.all_end_within(index, found[index])]
        if self._min_len:
            early = self._begin_with_eos(given, indices)
        else:
            forbidden = {*again, *cut}
            early = {index: log_prob for index, log_prob in early.items() if index in forbidden}
        found |= self._end(given, cut, early)
        return found | self._among_all(given, early, found)

    def sample(
        self,
        sources: Sequence[np.ndarray],
        settings: Decode,
        sampling: Sampling,
        *,
        seed: int,
        samples: int = 1,
        lenpen: float = 1.0,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """Draw translations of each source, with the distributions of `kdmt.decode.search.sampling`.

        The same call draws the same samples. The samples of a sentence depend on the other sources of the call, because
        all of them take their random numbers from one generator. CTranslate2 has neither epsilon nor min-p sampling:
        see `kdmt.decode.engines.token_rejection`.

        Args:
            sources: int [S] each, ending in </s>.
            settings: settings of which the maximum lengths and the batch limits are used.
            sampling: the distribution that samples are drawn from.
            seed: seed of CTranslate2's global generator.
            samples: number of translations of each source; the limits of a batch count all of them.
            lenpen: exponent of the length that divides the scores.
            progress: function called after each batch with the number of sentences in it.

        Returns:
            For each source, in order, its samples, with the log-probability of each token. The log-probabilities and
            the score are those of the model's own distribution, whatever `sampling` is.

        Raises:
            UserError: if a source is longer than the model can read; the message has its index.
        """
        import ctranslate2

        check_sentences(sources, self.max_source_positions, "source")
        ctranslate2.set_random_seed(seed)
        # a generator is seeded when its thread starts: a new seed needs a new thread
        translator, _ = self._load(one_at_a_time=True)
        given = _Given(
            [self._spell(source) for source in sources],
            self._max_lens(sources, settings),
            limits_for_rows(settings, samples),
        )
        # CTranslate2 does not translate a source that has only </s>
        indices = [index for index, source in enumerate(sources) if len(source) > 1]
        progress = progress or _keep_silent
        if sampling.epsilon or sampling.min_p:
            rule = Rejection(sampling, self._eos_column, self._pad_column, np.random.default_rng(seed))
            drawn = self._draw_restricted(translator, given, indices, rule, samples, progress)
        else:
            drawn = self._draw_and_score(translator, given, indices, sampling, samples, progress)
        if len(indices) < len(sources):
            progress(len(sources) - len(indices))
        nothing = [Hypothesis((), 0.0)] * samples
        found = [
            self._samples(drawn[index], lenpen) if index in drawn else nothing.copy() for index in range(len(sources))
        ]
        return reverse_hypotheses(found) if self.right_to_left else found

    def _samples(self, drawn: Iterable[_Drawn], lenpen: float) -> list[Hypothesis]:
        """Return the samples of a source as hypotheses."""
        return [
            Hypothesis(self._read(tokens), normalized_score(sum(log_probs), len(log_probs), lenpen), log_probs)
            for tokens, log_probs in drawn
        ]

    def _draw_and_score(
        self,
        translator: Translator,
        given: _Given,
        indices: list[int],
        sampling: Sampling,
        samples: int,
        progress: Callable[[int], None],
    ) -> dict[int, list[_Drawn]]:
        """Draw samples of each source, and compute the log-probabilities of the distinct ones."""
        found = {}
        for max_len, batch in given.batches_alike(indices):
            drawn = self._draw(translator, _of(given.sources, batch), max_len, sampling, samples)
            distinct = [list(dict.fromkeys(map(tuple, own))) for own in drawn]
            owners = [given.sources[index] for index, own in zip(batch, distinct, strict=True) for _ in own]
            scores = iter(self._score(owners, [list(tokens) for own in distinct for tokens in own]))
            for index, rows, own in zip(batch, drawn, distinct, strict=True):
                log_probs = {tokens: tuple(next(scores).tolist()) for tokens in own}
                found[index] = [(tokens, log_probs[tuple(tokens)]) for tokens in rows]
            progress(len(batch))
        return found

    def _draw_restricted(
        self,
        translator: Translator,
        given: _Given,
        indices: list[int],
        rule: Rejection,
        samples: int,
        progress: Callable[[int], None],
    ) -> dict[int, list[_Drawn]]:
        """Draw samples of each source from a distribution that CTranslate2 does not have, with log-probabilities."""
        rows = {index: [Row(index, given.max_lens[index]) for _ in range(samples)] for index in indices}
        for _, batch in given.batches_alike(indices):
            self._extend_rows(translator, given, [row for index in batch for row in rows[index]], rule)
            progress(len(batch))
        largest = given.settings.batch_size * samples
        while active := [row for index in indices for row in rows[index] if not row.has_ended]:
            active.sort(key=lambda row: (row.max_len, row.source, row.tokens))
            for start in range(0, len(active), largest):
                self._extend_rows(translator, given, active[start : start + largest], rule)
        return {
            index: [([self._columns[token] for token in row.tokens[:-1]], tuple(row.log_probs)) for row in own]
            for index, own in rows.items()
        }

    def _extend_rows(self, translator: Translator, given: _Given, rows: list[Row], rule: Rejection) -> None:
        """Continue rows. Those with the same source and tokens are drawn together."""
        steps = max(row.max_len for row in rows) + 1
        size = max(1, _LOGITS_AT_ONCE // (len(self._columns) * steps))
        alike: dict[tuple[int, ...], list[Row]] = {}
        for place, row in enumerate(rows):
            alike.setdefault((place // size, row.source, *row.tokens), []).append(row)
        for _, group in groupby(sorted(alike.values(), key=len), key=lambda own: len(own)):
            owners = list(group)
            per_call = max(1, size // len(owners[0]))
            for start in range(0, len(owners), per_call):
                self._continue(translator, given, owners[start : start + per_call], steps, rule)

    def _continue(
        self, translator: Translator, given: _Given, owners: list[list[Row]], steps: int, rule: Rejection
    ) -> None:
        """Draw continuations in one call of CTranslate2.

        Args:
            owners: lists of equal size, each of rows with the same source and tokens.
            steps: maximum number of tokens.
        """
        sources = [given.sources[rows[0].source] for rows in owners]
        prefixes = self._begin(sources, [[self._columns[token] for token in rows[0].tokens] for rows in owners])
        results = self._run(
            translator.translate_batch,
            self._read_by_encoder(sources),
            prefixes,
            max_batch_size=0,
            beam_size=1,
            num_hypotheses=len(owners[0]),
            end_token=SPECIALS[EOS],
            return_end_token=True,
            return_logits_vocab=True,
            max_input_length=0,
            max_decoding_length=self._forced_tokens + steps,
            min_decoding_length=0,
            sampling_topk=rule.engine_top_k if rule.engine_top_k < len(self._columns) else 0,
            sampling_topp=1.0,
            sampling_temperature=rule.sampling.temperature,
        )
        for rows, prefix, result in zip(owners, prefixes, results, strict=True):
            for row, tokens, logits in zip(rows, result.hypotheses, result.logits, strict=True):
                logits_TV = np.stack([_array(view) for view in logits[len(prefix) :]])
                rule.extend(row, [self._column_of[token] for token in tokens[len(prefix) :]], logits_TV)

    def _draw(
        self, translator: Translator, sources: list[list[str]], max_len: int, sampling: Sampling, samples: int
    ) -> list[list[list[str]]]:
        """Draw samples of each source and return them without </s>.

        CTranslate2 applies top-k, temperature and then the nucleus, which gives the same distribution as in kdmt.
        """
        if not sources:
            return []
        forced = self._forced_tokens
        results = self._run(
            translator.translate_batch,
            self._read_by_encoder(sources),
            self._prefixes(sources),
            max_batch_size=0,
            beam_size=1,
            num_hypotheses=samples,
            suppress_sequences=self._never,
            end_token=SPECIALS[EOS],
            max_input_length=0,
            max_decoding_length=forced + max_len,
            min_decoding_length=forced + 1,
            sampling_topk=sampling.top_k if sampling.top_k < len(self._columns) else 0,
            sampling_topp=sampling.top_p,
            sampling_temperature=sampling.temperature,
        )
        return [[tokens[forced:] for tokens in result.hypotheses] for result in results]

    def _max_lens(self, sources: Sequence[np.ndarray], settings: Decode) -> list[int]:
        limit = self.max_target_positions - 1  # </s> takes the last position
        lengths = [len(source) for source in sources]
        return max_lengths(lengths, settings.max_len_a, settings.max_len_b, limit=limit)

    def _begin_with_eos(self, given: _Given, indices: list[int]) -> dict[int, float]:
        """Return the log-probability of </s> as the first token."""
        sources = _of(given.sources, indices)
        scores = self._score(sources, [[] for _ in sources])
        return {index: float(own[-1]) for index, own in zip(indices, scores, strict=True)}

    def _search_batch(
        self, given: _Given, batch: list[int], *, min_len: int, spare: int = 0
    ) -> dict[int, list[_Found]]:
        """Search a batch with its largest maximum length, because a call of CTranslate2 takes a single one."""
        sources, max_len = _of(given.sources, batch), max(_of(given.max_lens, batch))
        found = self._search(sources, max_len, given.settings.beam, min_len=min_len, spare=spare)
        return dict(zip(batch, found, strict=True))

    def _search(
        self,
        sources: list[list[str]],
        max_len: int,
        beam: int,
        *,
        min_len: int = 0,
        spare: int = 0,
        everything: bool = False,
    ) -> list[list[_Found]]:
        """Return the hypotheses that CTranslate2 finds for each source, in the order of finishing.

        Args:
            max_len: number of steps; hypotheses that have not ended by then are cut off.
            min_len: least number of tokens before </s>. From 1 on, CTranslate2 renormalises the other probabilities.
            spare: number of hypotheses beyond the first `beam`.
            everything: whether to return all hypotheses that finished or were cut off, also beyond the first `beam`.
                The result is correct for sources that a search without it cuts off; for others the search goes on for
                longer.
        """
        if not sources:
            return []
        forced = self._forced_tokens
        penalty = _finishing_order(forced + max_len)
        count = 2 * beam if everything else beam + spare
        results = self._run_in_parts(
            self._translator.translate_batch,
            self._read_by_encoder(sources),
            self._prefixes(sources),
            beam_size=beam,
            patience=count / beam,  # CTranslate2 rounds the product of beam size and patience
            num_hypotheses=count,
            length_penalty=penalty,
            suppress_sequences=self._never,
            max_decoding_length=forced + max_len,
            min_decoding_length=forced + min_len if min_len else 0,
            use_vmap=self._shortlist,
            **_SEARCH_OPTIONS,
        )
        for result in results:
            self._check_finite(result.scores)
        return [_in_order(result, penalty, forced) for result in results]

    def _end(self, given: _Given, indices: list[int], early: dict[int, float]) -> dict[int, list[_Found]]:
        """Return the hypotheses of sources whose maximum length cuts the search off.

        These are the finished hypotheses and the most probable prefixes alive at that length with </s> appended, `beam`
        in total.
        """
        ends: dict[int, list[_Found]] = {}
        live: dict[int, list[_Found]] = {}
        for min_len in (0, 1):  # </s> is forbidden as the first token for sentences in which it was found there
            alike = [index for index in indices if (index in early) == (min_len == 1)]
            for max_len, batch in given.batches_alike(alike):
                parts = self._cut_off(_of(given.sources, batch), max_len, given.settings.beam, min_len=min_len)
                for index, (ended, prefixes) in zip(batch, parts, strict=True):
                    ends[index], live[index] = ended, prefixes
        forced = self._forced(_of(given.sources, [*live]), [*live.values()])
        beam = given.settings.beam
        return {
            index: ends[index] + prefixes[: beam - len(ends[index])]
            for index, prefixes in zip(live, forced, strict=True)
        }

    def _cut_off(
        self, sources: list[list[str]], max_len: int, beam: int, *, min_len: int
    ) -> list[tuple[list[_Found], list[_Found]]]:
        """Return for each source the hypotheses that end before the maximum length, and the prefixes alive at it."""
        # a beam of 1 has no other prefixes; with a shortlist, the search of another batch would have other scores
        everything = beam > 1 and not self._shortlist
        whole = self._search(sources, max_len, beam, min_len=min_len, everything=everything)
        parts = []
        for source, every in zip(sources, whole, strict=True):
            ended, live = [each for each in every if each.ended][:beam], [each for each in every if not each.ended]
            if len(ended) == beam:
                live = []
            elif everything and len(live) < beam and max_len > 1:  # other prefixes are alive but rank below ended ones
                ended, live = self._walk(source, ended, max_len, beam, min_len)
            parts.append((ended, live))
        return parts

    def _walk(
        self, source: list[str], ended: list[_Found], max_len: int, beam: int, min_len: int
    ) -> tuple[list[_Found], list[_Found]]:
        """Return the hypotheses that end before the maximum length, and the prefixes that are alive at it.

        CTranslate2 cuts off the best K candidates, including those that end in </s>, and for each of the latter one
        live prefix is missing from its result. At a step at which no hypothesis ends, all live prefixes are returned:
        from the last such step on, which is one of the last K steps, the search is done here.

        Args:
            ended: all hypotheses that end before the maximum length, fewer than K, none of them in the first step.
        """
        ends = {each.steps for each in ended}
        start = next(step for step in range(max_len - 1, 0, -1) if step not in ends)
        (every,) = self._search([source], start, beam, min_len=min_len, everything=True)
        live = [each for each in every if not each.ended]
        own = [each for each in ended if each.steps <= start]
        for _ in range(start, max_len):
            own, live = self._advance(source, own, live, beam)
        return own, live

    def _forced(self, sources: list[list[str]], live: list[list[_Found]]) -> list[list[_Found]]:
        """Return prefixes with </s> appended, the most probable first."""
        owners = [source for source, prefixes in zip(sources, live, strict=True) for _ in prefixes]
        scores = iter(self._score(owners, [prefix.tokens for prefixes in live for prefix in prefixes]))
        ended = [
            [_Found(prefix.tokens, prefix.total + float(next(scores)[-1]), True) for prefix in prefixes]
            for prefixes in live
        ]
        return [sorted(every, key=lambda each: -each.total) for every in ended]

    def _advance(
        self, source: list[str], ended: list[_Found], live: list[_Found], beam: int
    ) -> tuple[list[_Found], list[_Found]]:
        """Take one step of the search, other than the first. See `kdmt.decode.search.beam`."""
        totals_KV = np.array([prefix.total for prefix in live])[:, None] + self._next_log_probs(source, live)
        if self._never:
            totals_KV[:, self._columns.index(SPECIALS[PAD])] = -np.inf
        candidates = np.argsort(-totals_KV, axis=None, kind="stable")[: 2 * beam]
        ended, going_on = list(ended), []
        for rank, (row, token) in enumerate(zip(*np.unravel_index(candidates, totals_KV.shape), strict=True)):
            total = float(totals_KV[row, token])
            if token != self._eos_column:
                going_on.append(_Found([*live[row].tokens, self._columns[token]], total, False))
            elif rank < beam and len(ended) < beam:
                ended.append(_Found(live[row].tokens, total, True))
        return ended, going_on[:beam]

    def _next_log_probs(self, source: list[str], live: list[_Found]) -> np.ndarray:
        """Return the log-probability of each token after each prefix; prefixes have one length: float64 [K, V]."""
        sources = [source] * len(live)
        begun = self._begin(sources, [prefix.tokens for prefix in live])
        length = len(begun[0])
        results = self._run(
            self._translator.translate_batch,
            self._read_by_encoder(sources),
            begun,
            beam_size=1,
            max_input_length=0,
            max_decoding_length=length + 1,
            min_decoding_length=0,
            return_logits_vocab=True,
        )
        logits_KV = np.stack([_array(result.logits[0][length]) for result in results]).astype(np.float64)
        logits_KV -= logits_KV.max(axis=1, keepdims=True)
        return logits_KV - np.log(np.exp(logits_KV).sum(axis=1, keepdims=True))

    def _among_all(
        self, given: _Given, early: dict[int, float], found: dict[int, list[_Found]]
    ) -> dict[int, list[_Found]]:
        """Undo the renormalisation of hypotheses that were found with </s> forbidden as the first token.

        Args:
            early: log-probability of </s> as the first token, for the sources to return.
            found: hypotheses with probabilities among the translations that are not empty.

        Returns:
            For each source in `early`, its hypotheses with probabilities among all translations.
        """
        among_all: dict[int, list[_Found]] = {}
        likely = []
        for index, eos_log_prob in early.items():
            remainder = math.log(-math.expm1(min(eos_log_prob, -1e-7)))
            among_all[index] = [replace(each, total=each.total + remainder) for each in found[index]]
            if eos_log_prob > _LIKELY and not self._shortlist:
                likely.append(index)
        # forced decoding is more precise if </s> is probable
        owners = [given.sources[index] for index in likely for _ in found[index]]
        scores = iter(self._score(owners, [each.tokens for index in likely for each in found[index]]))
        for index in likely:
            among_all[index] = [replace(each, total=float(next(scores).sum())) for each in found[index]]
        return among_all

    def _ranked(self, found: list[_Found], settings: Decode) -> list[Hypothesis]:
        nbest = [
            Hypothesis(
                self._read(each.tokens),
                normalized_score(each.total, len(each.tokens) + 1, settings.lenpen),
            )
            for each in found
        ]
        return sorted(nbest, key=lambda hypothesis: -hypothesis.score)[: settings.nbest]

    def score_pairs(
        self,
        sources: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        *,
        max_tokens: int = 4096,
        batch_size: int = 256,
    ) -> list[np.ndarray]:
        """See `ScoringEngine.score_pairs`; float32."""
        check_pairs(sources, targets, self.max_source_positions, self.max_target_positions)
        if self.right_to_left:
            targets = reverse_targets(targets)
        scores = self._score(
            [self._spell(source) for source in sources],
            [[self._tgt_symbols[token] for token in target.tolist()[:-1]] for target in targets],
            max_tokens=max_tokens,
            batch_size=batch_size,
        )
        return reverse_targets(scores) if self.right_to_left else scores

    def _score(
        self,
        sources: list[list[str]],
        targets: list[list[str]],
        *,
        max_tokens: int = _SCORED_TOKENS,
        batch_size: int = 256,
    ) -> list[np.ndarray]:
        """Return for each pair the log-probabilities of the target's tokens and of </s> after them: float32 [T]."""
        forced = self._forced_tokens
        targets, sources = self._begin(sources, targets), self._read_by_encoder(sources)
        lengths = [max(len(source), len(target) + 1) for source, target in zip(sources, targets, strict=True)]

        def score(batch: list[int]) -> Iterator[np.ndarray]:
            results = self._run_in_parts(
                self._translator.score_batch,
                _of(sources, batch),
                _of(targets, batch),
                max_batch_size=0,
                max_input_length=0,
            )
            for result in results:
                self._check_finite(result.log_probs)
                yield np.array(result.log_probs, dtype=np.float32)[forced:]

        return compute_in_batches(lengths, score, max_tokens=max_tokens, batch_size=batch_size)

    def _start(self, call: Callable[[], _Result]) -> Callable[[], _Result]:
        """Return a function that waits for the result of a call. With one batch at a time, the call is made here."""
        if self._in_flight == 1:
            result = call()
            return lambda: result
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._in_flight)  # CTranslate2 computes without the GIL
        return self._threads.submit(call).result

    def _run_in_parts(
        self,
        call: Callable[..., list[_Result]],
        sources: list[list[str]],
        others: list[list[str]] | None,
        **options: object,
    ) -> list[_Result]:
        """Call a function of CTranslate2 for a batch, or for parts of it if the memory of the GPU is too small.

        With a shortlist the batch is not divided, since the translation of a sentence depends on the others then.
        """
        results: list[_Result] = []
        while len(results) < len(sources):
            rest = sources[len(results) :]
            longest = max(map(len, [*rest, *(others or [])])) + 1
            size = self.memory.sentences(len(rest), longest)
            own = slice(len(results), len(results) + size)
            try:
                with self.memory.turn():
                    results += self._run(call, sources[own], None if others is None else others[own], **options)
            except RuntimeError as error:
                if not is_out_of_memory(error) or size == 1 or self._shortlist:
                    raise
                self._in_flight = 1
                if self.memory.lower(size * longest):
                    _logger.warning(
                        f"a batch of {size:,} sentences needs more memory than the GPU has free ({error}): from now on "
                        f"one batch at a time, of at most {self.memory.max_tokens:,} tokens; the translations are the "
                        "same, and decoding is slower"
                    )
        return results

    def _run(
        self, call: Callable[_Parameters, _Result], *args: _Parameters.args, **kwargs: _Parameters.kwargs
    ) -> _Result:
        """Call a function of CTranslate2, and name the folder in an error about the model."""
        try:
            return call(*args, **kwargs)
        except (ValueError, RuntimeError) as error:
            hint = library_hint(str(error))
            if not hint and _OF_DEVICES.search(str(error)):  # may be temporary: the caller retries
                raise
            raise UserError(f"{self._folder}: CTranslate2 cannot run it: {describe_error(error)}{hint}") from None

    def _check_finite(self, scores: Sequence[float]) -> None:
        if any(map(math.isnan, scores)):
            raise UserError(f"{self._folder}: its scores are no numbers: {WHY_NAN}")

    def _read(self, tokens: list[str]) -> tuple[int, ...]:
        return tuple(self._tgt_ids[token] for token in tokens)

    def _spell(self, source: np.ndarray) -> list[str]:
        own = [self._src_symbols[token] for token in without_padding(source[:-1]).tolist()]
        return [*self._frame.source_prefix, *own, *self._frame.source_suffix]

    def _begin(self, sources: list[list[str]], targets: list[list[str]]) -> list[list[str]]:
        """Return the targets of sources after the tokens that begin them."""
        if self._from_source:
            return [[source[0], *target] for source, target in zip(sources, targets, strict=True)]
        return [[*self._frame.target_prefix, *target] for target in targets]

    def _read_by_encoder(self, sources: list[list[str]]) -> list[list[str]]:
        """Return sources without the token that begins the target; a source without words keeps its </s>."""
        return [source[1:] or source for source in sources] if self._from_source else sources

    def _prefixes(self, sources: list[list[str]]) -> list[list[str]] | None:
        """Return the target prefixes of sources, None if the model has no target prefix."""
        return self._begin(sources, [[]] * len(sources)) if self._forced_tokens else None


def _keep_silent(_: int) -> None: ...


def _of(items: Sequence[_Item], indices: Sequence[int]) -> list[_Item]:
    return [items[index] for index in indices]


def _finishing_order(max_len: int) -> float:
    """Return a length penalty that ranks hypotheses by their lengths, so that those that finished first are kept.

    The penalty is as far below zero as scores of `max_len` tokens allow without exceeding the range of float32.
    """
    # an integer is exact as a float32, so that the penalty can be undone
    return -float(math.floor(_LARGEST_FACTOR / math.log10(max(max_len, 10))))


def _in_order(result: TranslationResult, penalty: float, forced: int) -> list[_Found]:
    """Return the hypotheses of a search in the order of finishing, with the length penalty undone.

    Args:
        forced: number of tokens of the target prefix.
    """
    found = []
    for tokens, score in zip(result.hypotheses, result.scores, strict=True):
        total = score * max(len(tokens), 1) ** penalty
        if tokens and total > _NO_BEAM:
            ended = tokens[-1] == SPECIALS[EOS]
            found.append(_Found(tokens[forced : len(tokens) - ended], total, ended))
    return sorted(found, key=lambda each: (each.steps, -each.total))


def _array(view: StorageView) -> np.ndarray:
    """Return an array of CTranslate2, on any device and of any type, as float32."""
    from ctranslate2 import DataType, Device

    if view.device != "cpu" or view.dtype != DataType.float32:
        view = view.to_device(Device.cpu).to(DataType.float32)
    return np.asarray(view)


def _in_flight(starts: Iterator[Callable[[], _Item]], count: int) -> Iterator[_Item]:
    """Yield the results of calls in order, of which `count` are started before the first result is used."""
    waiting: deque[Callable[[], _Item]] = deque()
    for started in starts:
        waiting.append(started)
        if len(waiting) == count:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


def _largest_batch(width: int | None, *, computes_little: bool, exact: bool) -> int | None:
    """Return the maximum number of sentences of a batch on a CPU; None for no limit.

    Args:
        width: width of the decoder; None for a foreign model, which is taken for a wide one.
    """
    if exact and not computes_little:
        return None
    if width is None or width >= _WIDE:
        return _LARGE_BATCH
    return _SMALL_BATCH if computes_little else _MEDIUM_BATCH


def _load(
    folder: Path, device: str, compute_type: str, threads: int, *, one_at_a_time: bool = False
) -> tuple[Translator, int]:
    """Return the model and the number of batches to translate at the same time.

    Args:
        one_at_a_time: True for one batch on one device, so that random numbers do not depend on the order of batches.
    """
    try:
        import ctranslate2
    except ImportError:
        raise UserError("CTranslate2 is not installed: pip install ctranslate2") from None
    indices = device_indices(device, 0 if device == "cpu" else ctranslate2.get_cuda_device_count())
    indices = indices[:1] if one_at_a_time else indices
    in_flight = 1 if one_at_a_time else batches_in_flight(device, len(indices))
    try:
        translator = ctranslate2.Translator(
            str(folder),
            device=device.partition(":")[0],
            device_index=indices,
            compute_type=compute_type,
            inter_threads=max(in_flight // len(indices), 1),  # for each device
            intra_threads=threads,
        )
        return translator, in_flight
    except (
        ValueError,
        RuntimeError,
        IndexError,
        MemoryError,
    ) as error:  # an unknown type or device, or a damaged file
        reason = describe_error(error) + library_hint(str(error))
        raise UserError(f"{folder}: CTranslate2 cannot load it on {device} as {compute_type}: {reason}") from None
