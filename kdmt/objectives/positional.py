"""Views and terms of non-autoregressive students with the positions of the target: `nat`, `cmlm`, `inat`, `nat_crf`.

The decoder sees the target with words hidden and predicts words at the same positions, so that everything that compares
tokens (word-level distillation, a knowledge cache, weights of pairs) is the same as for autoregressive students. In
evaluation mode all words are hidden and predicted, in every family.

Shapes: B batch, T target length, M target tokens where the loss is taken, K candidates, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kdmt.choices import Precision
from kdmt.config import NAT
from kdmt.corpus.batching import Batch
from kdmt.losses.crf import candidate_transitions, crf_log_partition, crf_score
from kdmt.losses.cross_entropy import weighted_sum
from kdmt.losses.edit_scripts import levenshtein_distance
from kdmt.losses.gathered import best_tokens, candidates, gathered_log_probs
from kdmt.models.nonautoregressive import NATransformer, Revise
from kdmt.models.transformer import Trace, Transformer
from kdmt.objectives.glancing import Glance, drawn, repeated
from kdmt.objectives.mixing import drawn_replacements, mixed_with
from kdmt.objectives.objective import (
    Pass,
    Prepared,
    Term,
    TokenPass,
    TracePoint,
    View,
    autocast,
    read_target,
)
from kdmt.objectives.transfer import copied
from kdmt.types import EOS, PAD, UNK

# (pass of a student, features of a layer [M, D]) -> (summed loss, summed negative log-likelihood)
TokenLoss = Callable[[TokenPass, Tensor], tuple[Tensor, Tensor]]

_ORDER_SEED = 24  # of the orders in which the words of validation sentences are hidden

# ------------------------------------------------------------------------------------------------------------- views


class AllHidden(View[TokenPass]):
    """View in which the decoder sees only the </s> of the target and predicts all words.

    Args:
        mixing: probability that the prediction of a lower layer is replaced by the token of the target in training, for
            models with layer-wise predictions (`kdmt.objectives.mixing`).
    """

    def __init__(self, *, mixing: float = 0.0) -> None:
        super().__init__()
        self.mixing = mixing

    def prepare(self, model: Transformer, prepared: Prepared) -> Prepared:  # noqa: ARG002
        """See `View.prepare`."""
        return hide_all(prepared)

    def show(self, model: NATransformer, prepared: Prepared, precision: Precision) -> Prepared:  # noqa: ARG002
        """Return the batch as the student sees it in training, if this depends on its own predictions."""
        return prepared

    def passes(
        self, model: Transformer, prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> Iterator[TokenPass]:
        """See `View.passes`."""
        assert isinstance(model, NATransformer)
        revise = self.revision(model, prepared)
        shown = self.show(model, prepared, precision) if self.training else prepared
        yield fill(model, shown, trace_points, precision, revise=revise)

    def revision(self, model: NATransformer, prepared: Prepared) -> Revise | None:
        """Draw the predictions of the lower layers that are replaced by tokens of the target, None for none."""
        if not (self.training and self.mixing):
            return None
        tokens_BT = prepared.tgt_tokens_BT
        batch, width = tokens_BT.shape
        return mixed_with(drawn_replacements(model, (batch, width), self.mixing, tokens_BT.device), lambda _: tokens_BT)

    def read(
        self, teacher: Transformer, prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> TokenPass:
        """See `View.read`."""
        return read_target(teacher, prepared, trace_points, precision)


class Glancing(AllHidden):
    """View in which the decoder sees some words, as many as its errors times a ratio (Qian et al. 2021).

    The student first predicts all words; the number of errors of this pass, times the ratio, is the number of words
    that are shown. Then it predicts the others. The sum over these is divided by the number of all words, or by their
    own number. The latter has to be known before the forward pass, so that the first pass is part of `prepare`.

    Args:
        glance: rules of glancing; errors of the first pass are counted by position or by edits.
        mixing: see `AllHidden`; the first pass reads its own predictions.
    """

    def __init__(self, glance: Glance, *, mixing: float = 0.0) -> None:
        super().__init__(mixing=mixing)
        self.glance, self.ratio = glance, glance.ratio(0)

    def before_update(self, update: int) -> None:
        """See `View.before_update`."""
        self.ratio = self.glance.ratio(update)

    def passes(
        self, model: Transformer, prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> Iterator[TokenPass]:
        """See `View.passes`."""
        assert isinstance(model, NATransformer)
        device, shown, revise = prepared.src_tokens_BS.device, prepared, self.revision(model, prepared)
        if self.training and self.glance.divisor == "words":
            state = self.glance.dropout_state(device)
            shown = replace(self.show(model, prepared, precision), dropout_state=state)
        with repeated(shown.dropout_state, device):
            student = fill(model, shown, trace_points, precision, revise=revise)
        yield student

    def prepare(self, model: Transformer, prepared: Prepared) -> Prepared:
        """See `View.prepare`."""
        prepared = super().prepare(model, prepared)
        if not self.training or self.glance.divisor == "words":
            return prepared
        assert isinstance(model, NATransformer)
        state = self.glance.dropout_state(prepared.src_tokens_BS.device)
        hidden_BT = self._hidden(model, prepared, self.precision)
        numbers_B, weight_B = hidden_BT.sum(1).cpu(), prepared.batch.on_host.extras.weight_B
        count = float((numbers_B if weight_B is None else numbers_B * weight_B).sum())
        shown = _hide(prepared, hidden_BT, hidden_BT, int(numbers_B.sum()))
        return replace(shown, count=count, dropout_state=state)

    def show(self, model: NATransformer, prepared: Prepared, precision: Precision) -> Prepared:
        """See `AllHidden.show`."""
        hidden_BT = self._hidden(model, prepared, precision)
        return _hide(prepared, hidden_BT, hidden_BT, int(hidden_BT.sum()))

    def _hidden(self, model: NATransformer, prepared: Prepared, precision: Precision) -> Tensor:
        """Return the words that are not shown after a first pass, bool [B, T]."""
        words_BT = prepared.keep_BT
        written_BT = write(model, prepared, precision)
        distance_B = self._distance(written_BT, prepared.tgt_tokens_BT)
        shown_BT = self.glance.shown(distance_B, words_BT, ratio=self.ratio)
        return words_BT & ~shown_BT

    def _distance(self, written_BT: Tensor, tgt_tokens_BT: Tensor) -> Tensor:
        if self.glance.distance == "hamming":
            return written_BT.ne(tgt_tokens_BT).sum(1)
        lengths_B = tgt_tokens_BT.ne(PAD).sum(1)
        return levenshtein_distance(written_BT, tgt_tokens_BT, hyp_lengths_B=lengths_B, ref_lengths_B=lengths_B)


class SomeHidden(AllHidden):
    """View in which some words of each target are hidden and predicted (Ghazvininejad et al. 2019, section 2.2).

    Their number is drawn evenly between 1 and the number of all words.

    Args:
        correction: share of the other words that are replaced by the predictions of the student with all words hidden,
            and are predicted as well: the student learns to correct its input (Huang et al. 2022, CMLMC, section 3.2;
            here their second pass is the same pass).
        mixing: see `AllHidden`.
    """

    def __init__(self, correction: float = 0.0, *, mixing: float = 0.0) -> None:
        super().__init__(mixing=mixing)
        self.correction = correction

    def prepare(self, model: Transformer, prepared: Prepared) -> Prepared:
        """See `View.prepare`."""
        if not self.training:
            return super().prepare(model, prepared)
        return hide_some(prepared, correction=self.correction)

    def show(self, model: NATransformer, prepared: Prepared, precision: Precision) -> Prepared:
        """See `AllHidden.show`."""
        if not self.correction:
            return prepared
        assert prepared.seen_BT is not None
        revised_BT = prepared.keep_BT & prepared.seen_BT.ne(UNK)
        own_BT = write(model, hide_all(prepared), precision)
        return replace(prepared, seen_BT=torch.where(revised_BT, own_BT, prepared.seen_BT))


class Refinement(AllHidden):
    """View of several passes, each of which predicts all words (Lee et al. 2018).

    The first pass sees only the source, a later one the prediction of the pass before it, or a corrupted reference.
    Terms are means over the passes.

    Args:
        passes: number of passes in training.
        denoising: probability that a later pass sees a corrupted reference of a sentence.
    """

    def __init__(self, *, passes: int, denoising: float) -> None:
        super().__init__()
        self.num_passes, self.denoising = passes, denoising

    def passes(
        self, model: Transformer, prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> Iterator[TokenPass]:
        """See `View.passes`."""
        assert isinstance(model, NATransformer)
        student = fill(model, prepared, trace_points, precision)
        yield student
        for _ in range(self.num_passes - 1 if self.training else 0):
            shown = self.corrupt(written(student), prepared, vocab_size=model.tgt_vocab_size)
            student = fill(model, shown, trace_points, precision, before=student)
            yield student

    def corrupt(self, written_BT: Tensor, prepared: Prepared, *, vocab_size: int) -> Prepared:
        """Return the batch with the input of the next pass."""
        corrupted_BT = corrupt(prepared.tgt_tokens_BT, vocab_size=vocab_size)
        denoises_B = copied(torch.rand(len(written_BT)), written_BT.device) < self.denoising
        return replace(prepared, seen_BT=torch.where(denoises_B[:, None], corrupted_BT, written_BT))


def fill(
    model: NATransformer,
    shown: Prepared,
    trace_points: frozenset[TracePoint],
    precision: Precision,
    *,
    before: Pass | None = None,
    revise: Revise | None = None,
) -> TokenPass:
    """Run a student over the visible tokens of the target.

    Args:
        before: an earlier pass over the same sources, whose encoder does not run again.
        revise: function that replaces predictions of lower layers (`NATransformer.decode_all`).
    """
    assert shown.seen_BT is not None
    trace, encoded = Trace(trace_points), None
    if before is not None:
        trace.found.update(before.trace.found)
        encoded = before.encoded
    with autocast(shown.src_tokens_BS.device, precision):
        encoded = encoded or model.encode(shown.src_tokens_BS, trace if trace_points else None)
        features_BTD = model.fill(shown.src_tokens_BS, shown.seen_BT, encoded, trace if trace_points else None, revise)
    return TokenPass(model, precision, shown, trace, encoded, shown.pick(features_BTD))


@torch.no_grad()
def write(model: NATransformer, prepared: Prepared, precision: Precision) -> Tensor:
    """Return the target with the student's predictions where the loss is taken, [B, T]."""
    return written(fill(model, prepared, frozenset(), precision))


@torch.no_grad()
def written(student: TokenPass) -> Tensor:
    """Return the result of `write` from a pass, [B, T]."""
    best_M = best_tokens(
        student.features_MD.detach(), student.model.output_weight_VD, without=PAD, product_type=student.product_type
    )
    return student.shown.tgt_tokens_BT.masked_scatter(student.shown.keep_BT, best_M)


def hide_all(prepared: Prepared) -> Prepared:
    """Hide all words of the targets."""
    return _hide_known(prepared, _words(prepared.batch.on_host))


def hide_some(prepared: Prepared, *, correction: float = 0.0) -> Prepared:
    """Hide a number of words of each target that is drawn evenly from 1 to all of them.

    Random numbers come from PyTorch's own generator on the CPU, which a checkpoint keeps.

    Args:
        correction: share of the other words that are predicted as well.
    """
    words_BT = _words(prepared.batch.on_host)
    numbers_B = words_BT.sum(1)
    counts_B = (torch.rand(len(numbers_B)) * numbers_B).long() + 1
    counts_B = counts_B.minimum(numbers_B)
    hidden_BT = drawn(counts_B, words_BT)
    if not correction:
        return _hide_known(prepared, hidden_BT)
    revised_BT = drawn(((numbers_B - counts_B) * correction).long(), words_BT & ~hidden_BT)
    return _hide_known(prepared, hidden_BT, loss_mask_BT=hidden_BT | revised_BT)


def hide_last(prepared: Prepared, ranks_BT: Tensor, *, visible: float) -> Prepared:
    """Show a share of the words of each target, those of the lowest ranks, and hide the others, at least one.

    Of n words min(floor(visible * n + 1/2), n - 1) are shown.

    Args:
        ranks_BT: int64 on the host, rank of each word in a random order of the words of its sentence, from 0.
        visible: share of the words that are shown.
    """
    words_BT = _words(prepared.batch.on_host)
    numbers_B = words_BT.sum(1)
    shown_B = (visible * numbers_B + 0.5).long().minimum(numbers_B - 1)
    return _hide_known(prepared, words_BT & (ranks_BT >= shown_B[:, None]))


def draw_ranks(batch: Batch, sentences: Sequence[int]) -> Tensor:
    """Return the rank of each word in a random order of the words of its sentence, int64 [B, T] on the host.

    The order depends on the number of the sentence and its length only. No state of random numbers changes.

    Args:
        sentences: number of each sentence in its data.
    """
    words_BT = _words(batch.on_host)
    ranks_BT = torch.zeros(words_BT.shape, dtype=torch.int64)
    for sentence, words_T, ranks_T in zip(sentences, words_BT, ranks_BT, strict=True):
        order = np.random.default_rng([_ORDER_SEED, int(sentence)]).permutation(int(words_T.sum()))
        ranks_T[words_T] = torch.from_numpy(order)
    return ranks_BT


def _hide_known(prepared: Prepared, hidden_BT: Tensor, *, loss_mask_BT: Tensor | None = None) -> Prepared:
    """Hide words by masks of the host; see `_hide`. The divisor of the sums is that of the tokens in the loss."""
    mask_BT, weight_B = hidden_BT if loss_mask_BT is None else loss_mask_BT, prepared.batch.on_host.extras.weight_B
    num_loss_tokens, device = int(mask_BT.sum()), prepared.tgt_tokens_BT.device
    count = num_loss_tokens if weight_B is None else float((mask_BT.sum(1) * weight_B).sum())
    hidden = copied(hidden_BT, device)
    in_loss = hidden if loss_mask_BT is None else copied(loss_mask_BT, device)
    return replace(_hide(prepared, hidden, in_loss, num_loss_tokens), count=count)


def _hide(prepared: Prepared, hidden_BT: Tensor, loss_mask_BT: Tensor, num_loss_tokens: int) -> Prepared:
    """Replace words by <unk> in the decoder's input; take the loss where `loss_mask_BT` is True."""
    return replace(
        prepared,
        seen_BT=prepared.tgt_tokens_BT.masked_fill(hidden_BT, UNK),
        loss_mask_BT=loss_mask_BT,
        num_loss_tokens=num_loss_tokens,
    )


def _words(batch: Batch) -> Tensor:
    """Return where the target has words, bool [B, T]."""
    _, tgt_tokens_BT = batch.targets
    return tgt_tokens_BT.ne(PAD) & tgt_tokens_BT.ne(EOS)


def corrupt(tokens_BT: Tensor, *, vocab_size: int, rate: float = 0.33) -> Tensor:
    """Return corrupted sentences, [B, T] (Lee et al. 2018, section 3.3).

    A word, with probability `rate`, is replaced by a random word or by the next word, or swapped with the next word.

    Random numbers come from PyTorch's own generator on the CPU.
    """
    device = tokens_BT.device
    is_word_BT = tokens_BT.ne(PAD) & tokens_BT.ne(EOS)
    next_BT = tokens_BT.roll(-1, dims=1)
    has_next_BT = is_word_BT & is_word_BT.roll(-1, dims=1)
    has_next_BT[:, -1] = False
    chance_BT = copied(torch.rand(tokens_BT.shape), device)
    any_BT = copied(torch.randint(UNK + 1, vocab_size, tokens_BT.shape), device)
    replaced_BT = torch.where(is_word_BT & (chance_BT < rate / 3), any_BT, tokens_BT)
    repeated_BT = has_next_BT & (rate / 3 <= chance_BT) & (chance_BT < 2 * rate / 3)
    swapped_BT = has_next_BT & (2 * rate / 3 <= chance_BT) & (chance_BT < rate)
    swapped_BT[:, 1:] &= ~swapped_BT[:, :-1]  # a word is swapped only once
    changed_BT = torch.where(repeated_BT | swapped_BT, next_BT, replaced_BT)
    return torch.where(swapped_BT.roll(1, dims=1), tokens_BT.roll(1, dims=1), changed_BT)


# ------------------------------------------------------------------------------------------------------------- terms


class Length(Term[Pass]):
    """Cross entropy of the target's length, predicted from the source."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weights = {"length": weight}

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: sentence pairs."""
        return {"length": prepared.num_sentences}

    def forward(self, student: Pass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        assert isinstance(student.model, NATransformer)
        lengths_B = prepared.batch.targets[0].ne(PAD).sum(1)
        nll_B = student.model.lengths.nll(student.encoded, lengths_B)
        return {"length": weighted_sum(nll_B, prepared.batch.extras.weight_B)}


class DeepSupervision(Term[TokenPass]):
    """Loss of the words, averaged over the lower layers of the decoder (Huang et al. 2022, DSLP).

    Args:
        loss: function of the student's pass and the features of a layer that returns the summed loss of the words and
            their negative log-likelihood.
    """

    def __init__(self, model: NATransformer, loss: TokenLoss, *, weight: float) -> None:
        super().__init__()
        self.weights, self.loss = {"deep": weight}, loss
        self.trace_points = model.deep_trace().wanted

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`."""
        return {"deep": prepared.count}

    def forward(self, student: TokenPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        assert isinstance(student.model, NATransformer)
        sums = [
            self.loss(student, student.shown.pick(layer_BTD))[0]
            for layer_BTD in student.model.lower_layers(student.trace)
        ]
        return {"deep": torch.stack(sums).mean()}


class CRF(Term[TokenPass]):
    """Negative log-likelihood of the target under a conditional random field over neighbouring tokens.

    The candidates of a position are its most probable tokens and the target token (Sun et al. 2019, section 4;
    `kdmt.losses.crf`).

    Args:
        num_candidates: number of candidates, K.
        weight: weight of the loss; 2.0 corresponds to the sum of both losses in the paper, where the loss of the words
            has a factor of 0.5.
    """

    def __init__(self, *, num_candidates: int, weight: float) -> None:
        super().__init__()
        self.num_candidates, self.weights = num_candidates, {"crf": weight}

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`."""
        return {"crf": prepared.count}

    def forward(self, student: TokenPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        nll_B, weight_B = self._nll(student), prepared.batch.extras.weight_B
        return {"crf": (nll_B if weight_B is None else nll_B * weight_B).sum()}

    def _nll(self, student: TokenPass) -> Tensor:
        """Return the negative log-likelihood of each sentence, [B]."""
        assert isinstance(student.model, NATransformer)
        words_BT, tgt_tokens_BT = student.shown.keep_BT, student.shown.tgt_tokens_BT
        targets_M1 = student.shown.pick(tgt_tokens_BT)[:, None]
        features_MD, weight_VD = student.features_MD, student.model.output_weight_VD
        count = min(self.num_candidates, len(weight_VD))
        ids_MK = candidates(features_MD, weight_VD, count, product_type=student.product_type)
        missing_M = ids_MK.ne(targets_M1).all(1)
        ids_MK[:, -1] = torch.where(missing_M, targets_M1[:, 0], ids_MK[:, -1])
        log_probs_MK = gathered_log_probs(features_MD, weight_VD, ids_MK, product_type=student.product_type)
        shape = (*words_BT.shape, count)
        ids_BTK = ids_MK.new_zeros(shape).masked_scatter(words_BT[:, :, None], ids_MK)
        log_probs_BTK = log_probs_MK.new_zeros(shape).masked_scatter(words_BT[:, :, None], log_probs_MK)
        choices_BT = (ids_BTK.eq(tgt_tokens_BT[:, :, None]) & words_BT[:, :, None]).long().argmax(2)
        moves_BTKK = candidate_transitions(*student.model.transitions(ids_BTK))
        lengths_B = words_BT.sum(1)
        score_B = crf_score(log_probs_BTK, moves_BTKK, choices_BT, lengths_B)
        return torch.where(lengths_B > 0, crf_log_partition(log_probs_BTK, moves_BTKK, lengths_B) - score_B, 0.0)


# ---------------------------------------------------------------------------------------------------------- families

Parts = tuple[View[TokenPass], list[Term[TokenPass]]]  # view, and terms in addition to those of all families


def _nat(nat: NAT) -> Parts:
    glance = Glance.of(nat)
    view = AllHidden(mixing=nat.dslp_mixing) if glance is None else Glancing(glance, mixing=nat.dslp_mixing)
    return view, []


def _cmlm(nat: NAT) -> Parts:
    return SomeHidden(nat.correction, mixing=nat.dslp_mixing), []


def _inat(nat: NAT) -> Parts:
    return Refinement(passes=nat.passes, denoising=nat.denoising), []


def _nat_crf(nat: NAT) -> Parts:
    return AllHidden(), [CRF(num_candidates=nat.crf_candidates, weight=nat.crf_weight)]


FAMILIES: Mapping[str, Callable[[NAT], Parts]] = {"nat": _nat, "cmlm": _cmlm, "inat": _inat, "nat_crf": _nat_crf}


def positional_parts(nat: NAT, model: NATransformer, loss: TokenLoss) -> Parts:
    """Return the view of a family, and its terms without the loss of the words at the last layer.

    Args:
        loss: loss of the words at the lower layers, see `DeepSupervision`.
    """
    view, terms = FAMILIES[nat.family](nat)
    deep = [DeepSupervision(model, loss, weight=nat.deep_supervision)] if nat.deep_supervision else []
    return view, [*deep, Length(nat.length_weight), *terms]
