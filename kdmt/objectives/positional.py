"""Objectives of students that fill in the target's own positions: `nat`, `cmlm`, `inat` and `nat_crf`.

Positions are those of the target with its </s>, so that whatever compares tokens (word-level distillation, a knowledge
cache, weights of pairs) is the autoregressive students' own.

Shapes: B batch, T target length, M tokens that are asked for, K candidates, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdmt.losses.crf import candidate_transitions, crf_log_partition, crf_score
from kdmt.losses.cross_entropy import weighted_sum
from kdmt.losses.edit_scripts import levenshtein_distance
from kdmt.losses.gathered import best_tokens, candidates, gathered_log_probs
from kdmt.models.nonautoregressive import NATransformer
from kdmt.objectives.annealing import piecewise_linear
from kdmt.objectives.distillation import DistillationObjective, Pass
from kdmt.objectives.glancing import Distance, drawn, glanced
from kdmt.types import EOS, PAD, UNK, Batch, Knowledge, LossTerm, LossTerms


class PositionsObjective(DistillationObjective):
    """Each word by the lessons of `DistillationObjective`, and the length.

    The decoder sees nothing of the target but its </s> and is asked for all words. `length` is the cross entropy of the
    length; `deep` the cross entropy of the words at the decoder's lower layers, their mean (Huang et al. 2022, DSLP).
    With glancing (Qian et al. 2021) the student writes once, is then shown as many words as it got wrong times a ratio,
    and is asked for the others; the sum over these is divided by the number of all words. In evaluation mode all words
    are asked for, of all families.

    Args:
        length_weight: of `length`.
        glancing: (update, ratio) points, linear in between; None for one pass.
        distance: how wrong the first pass is, by position or by edits.
        deep_supervision: weight of `deep`; 0 for none.
        others: arguments of `DistillationObjective`.
    """

    model: NATransformer

    def __init__(
        self,
        model: NATransformer,
        *,
        label_smoothing: float,
        length_weight: float,
        glancing: Sequence[tuple[int, float]] | None = None,
        distance: Distance = "hamming",
        deep_supervision: float = 0.0,
        **others: Any,
    ) -> None:
        super().__init__(model, label_smoothing=label_smoothing, **others)
        self.length_weight, self.glancing, self.distance = length_weight, glancing, distance
        self.deep_supervision = deep_supervision
        self.ratio = 0.0 if glancing is None else glancing[0][1]
        self.terms = (*self.terms, "length")
        if deep_supervision:
            self.terms = (*self.terms, "deep")
            self.own_places |= model.deep_trace().wanted

    def before_update(self, update: int) -> None:
        """See `Objective.before_update`."""
        super().before_update(update)
        if self.glancing is not None:
            self.ratio = piecewise_linear(update, self.glancing)

    def prepare(self, batch: Batch) -> Batch:
        """See `Objective.prepare`."""
        return hide_all(super().prepare(batch))

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Objective.counts`."""
        counts = {**super().counts(batch), "length": _num_sentences(batch)}
        return {**counts, "deep": batch.target_count} if self.deep_supervision else counts

    def forward(self, batch: Batch) -> LossTerms:
        """See `Objective`."""
        return super().forward(self.see(batch) if self.training else hide_all(batch))

    def see(self, batch: Batch) -> Batch:
        """What the student sees of a prepared batch, in training."""
        return batch if self.glancing is None else self._glance(batch)

    def learn(self, student: Pass, teachers: Sequence[Pass], batch: Batch) -> LossTerms:
        """See `DistillationObjective.learn`."""
        assert student.encoded is not None
        assert batch.prev_tokens_BT is not None
        lengths_B = batch.prev_tokens_BT.ne(PAD).sum(1)
        nll_B = self.model.lengths.nll(student.encoded, lengths_B)
        nll_sum = weighted_sum(nll_B, batch.weight_B)
        terms = super().learn(student, teachers, batch)
        if self.deep_supervision:
            lower = [
                self.cross_entropy(batch, self.real(each, batch)) for each in self.model.lower_layers(student.trace)
            ]
            deep_sum = torch.stack([each["loss"].sum for each in lower]).mean()
            terms["deep"] = LossTerm(deep_sum, batch.target_count, self.deep_supervision)
        return {**terms, "length": LossTerm(nll_sum, _num_sentences(batch), self.length_weight)}

    def compared(self, batch: Batch) -> Batch:
        """See `DistillationObjective.compared`: words that are shown too."""
        return batch if self.glancing is None else hide_all(batch)

    @torch.no_grad()
    def write(self, batch: Batch) -> Tensor:
        """The target with what the student would write where it is asked: [B, T]."""
        return self.written(self.features(self.model, batch), batch)

    def written(self, features_MD: Tensor, batch: Batch) -> Tensor:
        """The same, from the features of the words that are asked for."""
        assert batch.tgt_tokens_BT is not None
        weight_VD = self.model.output_weight_VD
        best_M = best_tokens(features_MD, weight_VD, without=PAD, product_type=self.product_type)
        return _whole(batch).masked_scatter(batch.tgt_tokens_BT.ne(PAD), best_M)

    def _glance(self, batch: Batch) -> Batch:
        """The batch with some of its words shown, where the first pass got others wrong."""
        words_BT, whole_BT, count = _words(batch), _whole(batch), batch.target_count
        shown_BT = glanced(self._distance(self.write(batch), whole_BT), words_BT, ratio=self.ratio)
        return replace(_hide(batch, words_BT & ~shown_BT), weighted_tokens=count)

    def _distance(self, written_BT: Tensor, words_BT: Tensor) -> Tensor:
        if self.distance == "hamming":
            return written_BT.ne(words_BT).sum(1)
        lengths_B = words_BT.ne(PAD).sum(1)
        return levenshtein_distance(written_BT, words_BT, hyp_lengths_B=lengths_B, ref_lengths_B=lengths_B)


class MaskedObjective(PositionsObjective):
    """`cmlm`: of each target a number of words between 1 and all, drawn evenly, is hidden, and those alone are asked
    for (Ghazvininejad et al. 2019, section 2.2).

    Args:
        correction: the share of the shown words that are replaced by what the student writes where all is hidden, and
            are asked for as well: it learns to correct what it sees (Huang et al. 2022, CMLMC, section 3.2, whose
            second pass is one with the first here).
        others: arguments of `PositionsObjective`.
    """

    def __init__(self, model: NATransformer, *, correction: float = 0.0, **others: Any) -> None:
        super().__init__(model, **others)
        self.correction = correction

    def prepare(self, batch: Batch) -> Batch:
        """See `Objective.prepare`."""
        return hide_some(super().prepare(batch), correction=self.correction)

    def see(self, batch: Batch) -> Batch:
        """See `PositionsObjective.see`."""
        if not self.correction:
            return batch
        assert batch.tgt_tokens_BT is not None
        assert batch.seen_BT is not None
        revised_BT = batch.tgt_tokens_BT.ne(PAD) & batch.seen_BT.ne(UNK)
        return replace(batch, seen_BT=torch.where(revised_BT, self.write(hide_all(batch)), batch.seen_BT))


class RefinedObjective(PositionsObjective):
    """`inat`: several passes, each asked for all words (Lee et al. 2018).

    The first one sees the source alone, a later one what the one before it wrote, or a corrupted reference. The terms
    are means over the passes.

    Args:
        passes: how many.
        denoising: probability that a sentence's later pass sees a corrupted reference.
        others: arguments of `PositionsObjective`.
    """

    def __init__(self, model: NATransformer, *, passes: int, denoising: float, **others: Any) -> None:
        super().__init__(model, **others)
        self.passes, self.denoising = passes, denoising

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Objective.counts`."""
        times = self.passes if self.training else 1
        return {name: times * count for name, count in super().counts(batch).items()}

    def forward(self, batch: Batch) -> LossTerms:
        """See `Objective`."""
        if not self.training:
            return super().forward(batch)
        student, teachers = self.run(self.model, batch, self.own_places), self.ask(batch)
        terms = self.learn(student, teachers, batch)
        for _ in range(self.passes - 1):
            batch = self._go_over(self.written(student.features_MD.detach(), batch), batch)
            student = self.run(self.model, batch, self.own_places, before=student)
            more = self.learn(student, teachers, batch)
            terms = {
                name: LossTerm(term.sum + more[name].sum, term.count + more[name].count, term.weight)
                for name, term in terms.items()
            }
        return terms

    def _go_over(self, written_BT: Tensor, batch: Batch) -> Batch:
        """The batch with a draft of its words in sight."""
        corrupted_BT = corrupt(_whole(batch), vocab_size=self.model.tgt_vocab_size)
        denoises_B = torch.rand(len(written_BT)).to(written_BT.device) < self.denoising
        return replace(batch, seen_BT=torch.where(denoises_B[:, None], corrupted_BT, written_BT))


class CRFObjective(PositionsObjective):
    """`nat_crf`: `crf` is the negative log-likelihood of the target under a chain of neighbouring tokens, over the most
    probable tokens of each position and the target's (Sun et al. 2019, section 4; `kdmt.losses.crf`).

    Args:
        num_candidates: K.
        crf_weight: of `crf`. 2.0 is the paper's sum of both losses with a factor of 0.5 for that of the words.
        others: arguments of `PositionsObjective`.
    """

    def __init__(self, model: NATransformer, *, num_candidates: int, crf_weight: float, **others: Any) -> None:
        super().__init__(model, **others)
        self.num_candidates, self.crf_weight = num_candidates, crf_weight
        self.terms = (*self.terms, "crf")

    def counts(self, batch: Batch) -> dict[str, float]:
        """See `Objective.counts`."""
        return {**super().counts(batch), "crf": batch.target_count}

    def learn(self, student: Pass, teachers: Sequence[Pass], batch: Batch) -> LossTerms:
        """See `DistillationObjective.learn`."""
        nll_B = self._nll(student.features_MD, batch)
        weighted_B = nll_B if batch.weight_B is None else nll_B * batch.weight_B
        crf = LossTerm(weighted_B.sum(), batch.target_count, self.crf_weight)
        return {**super().learn(student, teachers, batch), "crf": crf}

    def _nll(self, features_MD: Tensor, batch: Batch) -> Tensor:
        """[B]"""
        assert batch.tgt_tokens_BT is not None
        words_BT, targets_M1 = batch.tgt_tokens_BT.ne(PAD), self.targets(batch)[:, None]
        weight_VD = self.model.output_weight_VD
        count = min(self.num_candidates, len(weight_VD))
        ids_MK = candidates(features_MD, weight_VD, count, product_type=self.product_type)
        missing_M = ids_MK.ne(targets_M1).all(1)
        ids_MK[:, -1] = torch.where(missing_M, targets_M1[:, 0], ids_MK[:, -1])
        said_MK = gathered_log_probs(features_MD, weight_VD, ids_MK, product_type=self.product_type)
        shape = (*words_BT.shape, count)
        ids_BTK = ids_MK.new_zeros(shape).masked_scatter(words_BT[:, :, None], ids_MK)
        said_BTK = said_MK.new_zeros(shape).masked_scatter(words_BT[:, :, None], said_MK)
        places_BT = ids_BTK.eq(batch.tgt_tokens_BT[:, :, None]).long().argmax(2)
        moves_BTKK = candidate_transitions(*self.model.transitions(ids_BTK))
        lengths_B = words_BT.sum(1)
        score_B = crf_score(said_BTK, moves_BTKK, places_BT, lengths_B)
        return torch.where(lengths_B > 0, crf_log_partition(said_BTK, moves_BTKK, lengths_B) - score_B, 0.0)


def hide_some(batch: Batch, *, correction: float = 0.0) -> Batch:
    """The batch with a number of each target's words hidden that is drawn evenly from 1 to all of them.

    Random numbers come from PyTorch's own generator on the CPU, which a checkpoint keeps.

    Args:
        correction: the share of the other words that are asked for as well.
    """
    words_BT = _words(batch)
    numbers_B = words_BT.sum(1)
    counts_B = (torch.rand(len(numbers_B)).to(numbers_B.device) * numbers_B).long() + 1
    counts_B = counts_B.minimum(numbers_B)
    hidden_BT = drawn(counts_B, words_BT)
    if not correction:
        return _hide(batch, hidden_BT)
    revised_BT = drawn(((numbers_B - counts_B) * correction).long(), words_BT & ~hidden_BT)
    return _hide(batch, hidden_BT, asked_BT=hidden_BT | revised_BT)


def corrupt(tokens_BT: Tensor, *, vocab_size: int, rate: float = 0.33) -> Tensor:
    """Sentences in which a word, with probability `rate`, is a random one, or the next one's repetition, or has changed
    places with the next one (Lee et al. 2018, section 3.3): [B, T].

    Random numbers come from PyTorch's own generator on the CPU.
    """
    device = tokens_BT.device
    is_word_BT = tokens_BT.ne(PAD) & tokens_BT.ne(EOS)
    next_BT = tokens_BT.roll(-1, dims=1)
    has_next_BT = is_word_BT & is_word_BT.roll(-1, dims=1)
    has_next_BT[:, -1] = False
    chance_BT = torch.rand(tokens_BT.shape).to(device)
    any_BT = torch.randint(UNK + 1, vocab_size, tokens_BT.shape).to(device)
    replaced_BT = torch.where(is_word_BT & (chance_BT < rate / 3), any_BT, tokens_BT)
    repeated_BT = has_next_BT & (rate / 3 <= chance_BT) & (chance_BT < 2 * rate / 3)
    swapped_BT = has_next_BT & (2 * rate / 3 <= chance_BT) & (chance_BT < rate)
    swapped_BT[:, 1:] &= ~swapped_BT[:, :-1]  # a word changes places once
    changed_BT = torch.where(repeated_BT | swapped_BT, next_BT, replaced_BT)
    return torch.where(swapped_BT.roll(1, dims=1), tokens_BT.roll(1, dims=1), changed_BT)


def hide_all(batch: Batch) -> Batch:
    """The batch with all words of its targets hidden."""
    return _hide(batch, _words(batch))


def _num_sentences(batch: Batch) -> float:
    """Each times its pair's weight."""
    return len(batch.src_tokens_BS) if batch.weight_B is None else float(batch.weight_B.sum())


def _words(batch: Batch) -> Tensor:
    """Where the target has words: bool [B, T]."""
    tokens_BT = _whole(batch)
    return tokens_BT.ne(PAD) & tokens_BT.ne(EOS)


def _whole(batch: Batch) -> Tensor:
    """The target, whatever is hidden of it."""
    assert batch.tgt_tokens_BT is not None
    if batch.seen_BT is None:
        return batch.tgt_tokens_BT
    return torch.where(batch.tgt_tokens_BT.ne(PAD), batch.tgt_tokens_BT, batch.seen_BT)


def _hide(batch: Batch, hidden_BT: Tensor, *, asked_BT: Tensor | None = None) -> Batch:
    """What is hidden is <unk> to the decoder; it is all that the loss is taken of, unless more is asked for."""
    asked_BT = hidden_BT if asked_BT is None else asked_BT
    assert batch.tgt_tokens_BT is not None
    whole_BT, knowledge, weighted_tokens = _whole(batch), batch.knowledge, batch.weighted_tokens
    if knowledge is not None:
        asked_M = asked_BT[batch.tgt_tokens_BT.ne(PAD)]
        knowledge = Knowledge(knowledge.ids_MK[asked_M], knowledge.log_probs_MG[asked_M])
    if batch.weight_B is not None:
        weighted_tokens = float((asked_BT.sum(1) * batch.weight_B).sum())
    return replace(
        batch,
        seen_BT=whole_BT.masked_fill(hidden_BT, UNK),
        tgt_tokens_BT=whole_BT.masked_fill(~asked_BT, PAD),
        num_tgt_tokens=int(asked_BT.sum()),
        weighted_tokens=weighted_tokens,
        knowledge=knowledge,
    )
