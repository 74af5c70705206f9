"""Decoding with the rules of fairseq's IterativeRefinementGenerator (0.12.2), for models in fairseq's layout.

`kdmt generate` uses this engine, so that its output equals that of `fairseq-generate --task translation_lev`. kdmt's
own decoders (`kdmt.decode.engines.nat`) follow the papers. They differ from these rules of fairseq:

- Passes are repeated until the sentence does not change, also for models that are trained for a single pass (`nat`). In
  later passes the decoder reads its whole output of the pass before, at the positions of <s> and </s> as well.
- `cmlm` stops if the words and the mask are the same as in the pass before, unless it is forced to run all passes;
  masked words may then remain <unk>.
- If several lengths are tried, they are those around the most probable one, and the best candidate is the one with the
  best mean over all positions.
- A score is this mean, with <s> and </s> counted. Models that predict these two contribute their log-probabilities; for
  other models they count as 0. The score of a CRF is a mean of unnormalised scores.

Shapes: B batch, N candidates of all sentences, A active rows, T target length with <s> and </s>, K candidates of a
position, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kdmt.config import Decode
from kdmt.corpus.batching import pad_sentences
from kdmt.decode.engines.nat import Edits, rescore
from kdmt.decode.engines.pytorch import TorchEngine, decode_in_batches
from kdmt.decode.search.edits import insertion, levenshtein
from kdmt.decode.search.transfers import to_device, to_host
from kdmt.families import EDITING
from kdmt.losses.crf import candidate_transitions, crf_best
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import EncoderOutput
from kdmt.types import BOS, EOS, PAD, UNK, Hypothesis

_LONGEST_DRAFT = 255  # tokens at which fairseq stops inserting into a draft

# (tokens [A, T], rows int64 [A], number of the pass) -> predicted token of each position and its score, [A, T] each
_Step = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


class RefinementEngine:
    """A non-autoregressive model in fairseq's layout; hypotheses have the `log_probs` of <s>, words and </s>.

    Args:
        max_iter: maximum number of passes after the first.
        adaptive: whether a sentence is finished once a pass changes nothing.
        length_beam: number of lengths to try, for families that predict a length.
        eos_penalty: penalty subtracted from the logit of "no token is missing", for families that edit.
        reranker: autoregressive model that chooses among the lengths.

    Raises:
        ValueError: if the model's layout is not fairseq's, or if `length_beam` is above 1 for a family without lengths.
    """

    def __init__(
        self,
        model: NATransformer,
        *,
        device: torch.device | str = "cpu",
        max_iter: int = 10,
        adaptive: bool = True,
        length_beam: int = 1,
        eos_penalty: float = 0.0,
        reranker: TorchEngine | None = None,
    ) -> None:
        if model.nat.layout != "fairseq":
            raise ValueError("a model in kdmt's own layout is no model of fairseq's")
        if model.nat.family in EDITING and length_beam > 1:
            raise ValueError(f"{model.nat.family} models have no lengths to try")
        self.model, self.device = model.to(device), torch.device(device)
        self.max_iter, self.adaptive = max_iter, adaptive
        self.length_beam, self.eos_penalty, self.reranker = length_beam, eos_penalty, reranker

    @property
    def max_source_positions(self) -> int:
        return self.model.config.max_source_positions

    def decode(
        self, sources: Sequence[np.ndarray], settings: Decode, *, progress: Callable[[int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """See `Engine.decode`; returns one hypothesis per source, and uses only the batch limits of `settings`."""

        def write(batch: list[int]) -> list[list[Hypothesis]]:
            chosen = [sources[place] for place in batch]
            found = self._write(to_device(pad_sentences(chosen), self.device))
            if self.reranker is not None:
                found = rescore(self.reranker, chosen, found, lenpen=1.0)
            return [[max(candidates, key=lambda each: each.score)] for candidates in found]

        return decode_in_batches([self.model], sources, settings, write, progress)

    def _write(self, src_tokens_BS: Tensor) -> list[list[Hypothesis]]:
        encoded = self.model.encode(src_tokens_BS)
        if self.model.nat.family in EDITING:
            return [[_framed(each)] for each in self._edit(encoded)]
        beam = self.length_beam
        around_K = torch.arange(beam, device=self.device) - beam // 2
        words_B = (self.model.lengths.most_probable(encoded) - 1).clamp_min(0)
        words_N = (words_B[:, None] + around_K).flatten().clamp(0, self.model.config.max_target_positions - 2)
        rows_N = torch.arange(len(src_tokens_BS), device=self.device).repeat_interleave(beam)
        found = self._refine(self._step(src_tokens_BS[rows_N], encoded.select(rows_N)), words_N)
        return [found[start : start + beam] for start in range(0, len(found), beam)]

    def _edit(self, encoded: EncoderOutput) -> list[Hypothesis]:
        edits = Edits(self.model, encoded, self.eos_penalty)
        longest = min(_LONGEST_DRAFT, self.model.config.max_target_positions)
        limits_B = torch.full((len(encoded.keep_BS),), longest, device=self.device)
        if self.model.nat.family == "levenshtein":
            return levenshtein(edits, limits_B, iterations=self.max_iter + 1)
        return insertion(edits, limits_B, iterations=self.max_iter + 1, nothing=self.model.nothing)

    def _refine(self, step: _Step, words_N: Tensor) -> list[Hypothesis]:
        """Run passes over the unfinished sentences until all are finished."""
        tokens_AT, scores_AT = _unknown(words_N, width=int(words_N.max()) + 2)
        rows_A = torch.arange(len(words_N), device=self.device)
        rows = np.arange(len(words_N))  # the same on the host
        found = [Hypothesis((), 0.0)] * len(words_N)
        for number in range(self.max_iter + 1):
            before_AT = tokens_AT
            said_AT, scores_said_AT = step(tokens_AT, rows_A, number)
            written_AT = tokens_AT.eq(UNK) if self.model.nat.family == "cmlm" else tokens_AT.ne(PAD)
            tokens_AT = torch.where(written_AT, said_AT, tokens_AT)
            scores_AT = torch.where(written_AT, scores_said_AT.to(scores_AT.dtype), scores_AT)
            if self.model.nat.family == "cmlm" and number < self.max_iter:
                hidden_AT = _least_sure(tokens_AT, scores_AT, 1 - (number + 1) / (self.max_iter + 1))
                tokens_AT, scores_AT = tokens_AT.masked_fill(hidden_AT, UNK), scores_AT.masked_fill(hidden_AT, 0.0)
            done = np.full(len(rows), number == self.max_iter)
            if self.adaptive and number < self.max_iter:
                (done,) = to_host(tokens_AT.eq(before_AT).all(1))
            if not done.any():
                continue
            done_A, going_A = (to_device(torch.from_numpy(np.flatnonzero(mask)), self.device) for mask in (done, ~done))
            finished = _hypotheses(tokens_AT[done_A], scores_AT[done_A], number + 1)
            for row, hypothesis in zip(rows[done].tolist(), finished, strict=True):
                found[row] = hypothesis
            if done.all():
                break
            tokens_AT, scores_AT, rows_A, rows = tokens_AT[going_A], scores_AT[going_A], rows_A[going_A], rows[~done]
        return found

    def _step(self, src_tokens_NS: Tensor, encoded: EncoderOutput) -> _Step:
        """Return a function that runs one decoder pass over sentences with <s> and </s>."""
        model = self.model
        is_chain = model.nat.family == "nat_crf"

        def step(tokens_AT: Tensor, rows_A: Tensor, number: int) -> tuple[Tensor, Tensor]:
            states = encoded.select(rows_A)
            if number == 0 or is_chain:  # a model with a CRF starts from the source in every pass
                unknown_AT = _unknown(tokens_AT.ne(PAD).sum(1) - 2, width=tokens_AT.size(1))[0]
                features_ATD = model.fill_framed(src_tokens_NS[rows_A], unknown_AT[:, 1:], states)
            else:
                features_ATD = model.decode_all(model.tgt_embed.look_up(tokens_AT), tokens_AT.ne(PAD), states)
            if is_chain:
                return _best_chain(model, features_ATD, tokens_AT.ne(PAD).sum(1))
            return model.best_symbols(features_ATD)

        return step


def _unknown(words_N: Tensor, *, width: int) -> tuple[Tensor, Tensor]:
    """Return sentences of <s>, `words_N` times <unk>, </s> and padding, with scores of 0: [N, width] each.

    In later passes the width stays that of all sentences, although the longest ones may be finished.
    """
    columns_T = torch.arange(width, device=words_N.device)
    tokens_NT = torch.where(columns_T <= words_N[:, None], UNK, PAD)
    tokens_NT[:, 0] = BOS
    tokens_NT.scatter_(1, words_N[:, None] + 1, EOS)
    return tokens_NT, torch.zeros(tokens_NT.shape, device=words_N.device)


def _least_sure(tokens_AT: Tensor, scores_AT: Tensor, share: float) -> Tensor:
    """Return a mask of the given share of each sentence's words, those with the lowest scores: bool [A, T]."""
    counts_A = ((tokens_AT.ne(PAD).sum(1).to(scores_AT.dtype) - 2) * share).long()
    first_AT = torch.arange(tokens_AT.size(1), device=tokens_AT.device) < counts_A[:, None]
    return torch.zeros_like(first_AT).scatter(1, scores_AT.argsort(dim=1, stable=True), first_AT)


def _best_chain(model: NATransformer, features_ATD: Tensor, lengths_A: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best token sequence of the CRF and the unnormalised score of each of its tokens: [A, T] each."""
    best = (features_ATD @ model.output_weight_VD.t()).topk(model.nat.crf_candidates)
    moves_ATKK = candidate_transitions(*model.transitions(best.indices))
    choices_AT, _ = crf_best(best.values, moves_ATKK, lengths_A)
    added_AT = best.values.gather(2, choices_AT[:, :, None])[:, :, 0]
    rows_A1 = torch.arange(len(choices_AT), device=choices_AT.device)[:, None]
    columns_T = torch.arange(choices_AT.size(1) - 1, device=choices_AT.device)
    added_AT[:, 1:] += moves_ATKK[rows_A1, columns_T, choices_AT[:, :-1], choices_AT[:, 1:]]
    return best.indices.gather(2, choices_AT[:, :, None])[:, :, 0], added_AT


def _hypotheses(tokens_AT: Tensor, scores_AT: Tensor, steps: int) -> list[Hypothesis]:
    found = []
    for tokens, scores in zip(*(column.tolist() for column in to_host(tokens_AT, scores_AT)), strict=True):
        length = len(tokens) - tokens.count(PAD)
        words = tuple(token for token in tokens[:length] if token > EOS)
        scores = tuple(scores[:length])
        found.append(Hypothesis(words, sum(scores) / length, log_probs=scores, steps=steps))
    return found


def _framed(hypothesis: Hypothesis) -> Hypothesis:
    """Return a hypothesis whose score is the mean with <s> and </s> included, both with probability 1."""
    log_probs = (0.0, *hypothesis.log_probs, 0.0)
    return replace(hypothesis, score=sum(log_probs) / len(log_probs), log_probs=log_probs)
