"""View and terms of students that edit a draft: `levenshtein` and `insertion`.

In training a draft is the reference with words deleted: of three sentences in ten all of them, since decoding starts
with an empty draft; otherwise a number drawn evenly from none to all, at random. The labels are the edits that turn the
draft into the reference (`kdmt.losses.edit_scripts`). In evaluation mode all drafts are empty.

Shapes: B batch, N tokens of a draft, T target tokens with <s> and </s>, M tokens where the loss is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from kdmt.choices import Precision
from kdmt.config import NAT
from kdmt.losses.cross_entropy import projected_cross_entropy
from kdmt.losses.edit_scripts import common_subsequence, compact, missing_between, opened, spread
from kdmt.losses.gathered import best_tokens, gathered_log_probs
from kdmt.losses.insertion import missing_spans
from kdmt.models.attention import at_least_float32
from kdmt.models.edit_heads import MOST_INSERTED
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Trace, Transformer
from kdmt.objectives.aligned import Words
from kdmt.objectives.glancing import drawn
from kdmt.objectives.objective import Pass, Prepared, Term, TracePoint, View, autocast
from kdmt.types import BOS, EOS, PAD, UNK

_EMPTY_RATE = 0.3  # probability that a draft has no words
_POLICY_SMOOTHING = 0.01  # label smoothing of deletions and of numbers of placeholders; fairseq uses it for the latter


@dataclass(frozen=True)
class Draft:
    """Drafts of a batch, and the numbers of tokens that are missing in them."""

    reference_BT: Tensor  # <s>, words, </s>
    tokens_BN: Tensor
    lengths_B: Tensor  # lengths of the drafts
    partner_BN: Tensor  # index of the reference token that matches each token of the draft
    counts_BN: Tensor  # number of tokens missing after each token except the last

    @classmethod
    def of(cls, prepared: Prepared) -> Draft:
        """Compare the drafts with the references."""
        assert prepared.seen_BT is not None
        tokens_BN = prepared.seen_BT
        reference_BT = Words.of(prepared.batch).framed()
        references_B = reference_BT.ne(PAD).sum(1)
        reference_BT = reference_BT[:, : int(references_B.max())]  # as wide as the completed drafts
        lengths_B = tokens_BN.ne(PAD).sum(1)
        partner_BN = common_subsequence(tokens_BN, reference_BT, hyp_lengths_B=lengths_B, ref_lengths_B=references_B)
        return cls(reference_BT, tokens_BN, lengths_B, partner_BN, missing_between(partner_BN, hyp_lengths_B=lengths_B))

    @property
    def slots_BN(self) -> Tensor:
        """Mask of the slots between real neighbours, bool [B, N - 1]."""
        return self.tokens_BN[:, 1:].ne(PAD)

    @property
    def shares_M(self) -> Tensor:
        """Weight of each slot, [M]; the weights of the slots of a sentence sum to 1."""
        return (1.0 / (self.lengths_B - 1))[:, None].expand_as(self.slots_BN)[self.slots_BN]


@dataclass(frozen=True)
class DraftPass(Pass):
    """Pass over drafts.

    Attributes:
        draft: drafts of the batch.
        tokens_BN: input of the decoder: the drafts, or the drafts with a placeholder for each missing token.
        layers: decoder features of the last layer, [B, N, D]; with deep supervision, preceded by those of the lower
            layers.
    """

    draft: Draft
    tokens_BN: Tensor
    layers: tuple[Tensor, ...]

    def read(self, tokens_BN: Tensor) -> Tensor:
        """Run the decoder over other tokens of the same sentences, [B, N, D]."""
        with self.autocast():
            return self.nat_model.read_draft(tokens_BN, self.encoded)

    @property
    def nat_model(self) -> NATransformer:
        assert isinstance(self.model, NATransformer)
        return self.model


class Drafts(View[DraftPass]):
    """View in which the decoder sees a draft of the target.

    Args:
        opens: whether the draft has a placeholder, <unk>, for each missing token.
        deep: whether to keep the output of the lower layers.
    """

    def __init__(self, *, opens: bool, deep: bool = False) -> None:
        super().__init__()
        self.opens, self.deep = opens, deep

    def prepare(self, model: Transformer, prepared: Prepared) -> Prepared:  # noqa: ARG002
        """See `View.prepare`: draw the drafts."""
        reference_BT = Words.of(prepared.batch).framed()
        if self.training:
            return replace(prepared, seen_BT=_leave_out(reference_BT))
        empty_BN = torch.tensor([[BOS, EOS]], device=reference_BT.device).expand(len(reference_BT), -1)
        return replace(prepared, seen_BT=empty_BN)

    def passes(
        self, model: Transformer, prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> Iterator[DraftPass]:
        """See `View.passes`."""
        assert isinstance(model, NATransformer)
        device, trace = prepared.src_tokens_BS.device, Trace(trace_points)
        with autocast(device, precision):
            encoded = model.encode(prepared.src_tokens_BS, trace if trace_points else None)
        draft = Draft.of(prepared)
        tokens_BN = draft.tokens_BN
        if self.opens:
            tokens_BN = spread(tokens_BN, draft.counts_BN, lengths_B=draft.lengths_B, fill=UNK, pad=PAD)
        deep = model.deep_trace() if self.deep and self.training else None
        with autocast(device, precision):
            features_BND = model.read_draft(tokens_BN, encoded, deep)
            lower = [] if deep is None else model.lower_layers(deep)
        yield DraftPass(model, precision, prepared, trace, encoded, draft, tokens_BN, (*lower, features_BND))


def _leave_out(reference_BT: Tensor) -> Tensor:
    """Draw drafts, [B, N]. Random numbers come from PyTorch's own generator on the CPU, which a checkpoint keeps."""
    words_BT = reference_BT.ne(PAD) & reference_BT.ne(BOS) & reference_BT.ne(EOS)
    numbers_B = words_BT.sum(1)
    is_empty_B = (torch.rand(len(numbers_B)) < _EMPTY_RATE).to(numbers_B.device)
    some_B = (torch.rand(len(numbers_B)).to(numbers_B.device) * (numbers_B + 1)).long()
    left_out_B = torch.where(is_empty_B, numbers_B, some_B)
    return compact(reference_BT, reference_BT.ne(PAD) & ~drawn(left_out_B, words_BT), pad=PAD)


def _num_words(prepared: Prepared) -> int:
    return int(Words.of(prepared.batch).lengths_B.sum())


def _weights(deep_supervision: float) -> dict[str, float]:
    weights = {"loss": 1.0, "nll": 0.0}
    return {**weights, "deep": deep_supervision} if deep_supervision else weights


def _token_sums(sums: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return the sums of the last layer, and the mean loss of the lower ones, if there are any."""
    loss_sum, nll_sum = sums[-1]
    terms = {"loss": loss_sum, "nll": nll_sum.detach()}
    return {**terms, "deep": torch.stack([each for each, _ in sums[:-1]]).mean()} if len(sums) > 1 else terms


class MissingTokens(Term[DraftPass]):
    """Cross entropy of the tokens in the placeholders of a draft (`levenshtein`).

    Together with `Placeholders` and `Deletions` it trains the three policies of Gu et al. 2019, section 3.3.

    Args:
        label_smoothing: label smoothing of the tokens.
        deep_supervision: weight of `deep`, the same loss at the lower layers of the decoder; 0 for none.
    """

    def __init__(self, *, label_smoothing: float, deep_supervision: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing, self.weights = label_smoothing, _weights(deep_supervision)

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: words that are missing in the drafts, which have <s> and </s>."""
        assert prepared.seen_BT is not None
        sentences, tokens = len(prepared.src_tokens_BS), int(prepared.seen_BT.ne(PAD).sum())
        return dict.fromkeys(self.weights, float(_num_words(prepared) + 2 * sentences - tokens))

    def forward(self, student: DraftPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        missing_BT = _placeholders_of(student)
        targets_M = student.draft.reference_BT[missing_BT]
        return _token_sums(
            [
                projected_cross_entropy(
                    features_BTD[missing_BT],
                    student.model.output_weight_VD,
                    targets_M,
                    epsilon=self.label_smoothing,
                    product_type=student.product_type,
                )
                for features_BTD in student.layers
            ]
        )


def _placeholders_of(student: DraftPass) -> Tensor:
    """Return the positions at which the decoder read placeholders, bool [B, T]."""
    return opened(student.draft.counts_BN, lengths_B=student.draft.lengths_B)


class Placeholders(Term[DraftPass]):
    """Cross entropy of the number of tokens missing between neighbours, averaged over the slots of a sentence."""

    weights: Mapping[str, float] = {"placeholders": 1.0}

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: sentences."""
        return {"placeholders": float(len(prepared.src_tokens_BS))}

    def forward(self, student: DraftPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        draft = student.draft
        features_BND = student.read(draft.tokens_BN)
        with student.autocast():
            logits_BNK = student.nat_model.edits.missing(features_BND)
        losses_M = _policy_losses(logits_BNK, draft.counts_BN.clamp_max(MOST_INSERTED), draft.slots_BN)
        return {"placeholders": (losses_M * draft.shares_M).sum()}


class Deletions(Term[DraftPass]):
    """Cross entropy of the deletion of wrong tokens in drafts whose placeholders the student has filled.

    The numbers of placeholders come from the reference, so that no draft with a wrong length is used.
    """

    weights: Mapping[str, float] = {"deletion": 1.0}

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: words."""
        return {"deletion": float(_num_words(prepared))}

    def forward(self, student: DraftPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        filled_BT = self.filled(student)
        reference_BT, lengths_B = student.draft.reference_BT, filled_BT.ne(PAD).sum(1)
        partner_BT = common_subsequence(filled_BT, reference_BT, hyp_lengths_B=lengths_B, ref_lengths_B=lengths_B)
        features_BTD = student.read(filled_BT)
        with student.autocast():
            logits_BT2 = student.nat_model.edits.deleted(features_BTD)
        columns_T = torch.arange(filled_BT.size(1), device=filled_BT.device)
        words_BT = (columns_T > 0) & (columns_T < lengths_B[:, None] - 1)
        return {"deletion": _policy_losses(logits_BT2, partner_BT.eq(-1).long(), words_BT).sum()}

    def filled(self, student: DraftPass) -> Tensor:
        """Return the drafts with the student's own tokens in the placeholders, [B, T]."""
        missing_BT = _placeholders_of(student)
        written_M = best_tokens(
            student.layers[-1][missing_BT],
            student.model.output_weight_VD,
            without=PAD,
            product_type=student.product_type,
        )
        return student.tokens_BN.masked_scatter(missing_BT, written_M)


def _policy_losses(logits_BNK: Tensor, labels_BN: Tensor, where_BN: Tensor) -> Tensor:
    """Return the label-smoothed cross entropy at the given positions, [M]."""
    return F.cross_entropy(
        at_least_float32(logits_BNK[where_BN]), labels_BN[where_BN], reduction="none", label_smoothing=_POLICY_SMOOTHING
    )


class MissingSpans(Term[DraftPass]):
    """Cross entropy of the tokens that are missing in each slot of a draft (`insertion`; `kdmt.losses.insertion`).

    It is a mean over the slots of a sentence, and over sentences (Stern et al. 2019, section 4.2).

    Args:
        temperature: temperature of the weights in a span; the lower it is, the larger is the weight of the middle.
        deep_supervision: weight of `deep`, the same loss at the lower layers of the decoder; 0 for none.
    """

    def __init__(self, *, temperature: float, deep_supervision: float = 0.0) -> None:
        super().__init__()
        self.temperature, self.weights = temperature, _weights(deep_supervision)

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: sentences."""
        return dict.fromkeys(self.weights, float(len(prepared.src_tokens_BS)))

    def forward(self, student: DraftPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        model, draft = student.nat_model, student.draft
        tokens_BNK, weights_BNK = missing_spans(
            draft.reference_BT,
            draft.partner_BN,
            draft.counts_BN,
            nothing=model.nothing,
            temperature=self.temperature,
        )
        tokens_MK = tokens_BNK[draft.slots_BN]
        weights_MK = weights_BNK[draft.slots_BN] * draft.shares_M[:, None]
        sums = []
        for features_BND in student.layers:
            with student.autocast():
                slots_MD = model.slots(features_BND)[draft.slots_BN]
            log_probs_MK = gathered_log_probs(
                slots_MD, model.output_weight_VD, tokens_MK, product_type=student.product_type
            )
            loss_sum = -(log_probs_MK * weights_MK).sum()
            sums.append((loss_sum, loss_sum))
        return _token_sums(sums)


# ---------------------------------------------------------------------------------------------------------- families

Parts = tuple[Drafts, list[Term[DraftPass]]]


def _levenshtein(nat: NAT, label_smoothing: float) -> Parts:
    tokens = MissingTokens(label_smoothing=label_smoothing, deep_supervision=nat.deep_supervision)
    return Drafts(opens=True, deep=nat.deep_supervision > 0.0), [tokens, Placeholders(), Deletions()]


def _insertion(nat: NAT, label_smoothing: float) -> Parts:  # noqa: ARG001
    spans = MissingSpans(temperature=nat.insertion_temperature, deep_supervision=nat.deep_supervision)
    return Drafts(opens=False, deep=nat.deep_supervision > 0.0), [spans]


FAMILIES: Mapping[str, Callable[[NAT, float], Parts]] = {"levenshtein": _levenshtein, "insertion": _insertion}


def edited_parts(nat: NAT, label_smoothing: float) -> Parts:
    """Return the view and the terms of a family."""
    return FAMILIES[nat.family](nat, label_smoothing)
