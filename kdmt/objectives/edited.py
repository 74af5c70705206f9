"""View and terms of students that edit a draft: `levenshtein` and `insertion`.

In training a draft is the reference with words deleted: of three sentences in ten all of them, since decoding starts
with an empty draft; otherwise a number drawn evenly from none to all, at random. The labels are the edits that turn the
draft into the reference (`kdmt.losses.edit_scripts`). In evaluation mode all drafts are empty.

Shapes: B batch, N tokens of a draft, T target tokens with <s> and </s>, M tokens where the loss is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from kdmt.choices import Precision
from kdmt.config import NAT
from kdmt.losses.cross_entropy import projected_cross_entropy
from kdmt.losses.edit_scripts import common_subsequence, compact, missing_between, opened, rightmost_match, spread
from kdmt.losses.gathered import best_tokens, gathered_log_probs
from kdmt.losses.insertion import missing_spans
from kdmt.models.attention import at_least_float32
from kdmt.models.edit_heads import MOST_INSERTED
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Trace, Transformer
from kdmt.objectives.aligned import Words
from kdmt.objectives.glancing import drawn
from kdmt.objectives.objective import Pass, Prepared, Term, TracePoint, View, autocast
from kdmt.objectives.transfer import copied, indices_of, picked, put_back
from kdmt.types import BOS, EOS, PAD, UNK

_EMPTY_RATE = 0.3  # probability that a draft has no words
_POLICY_SMOOTHING = 0.01  # label smoothing of deletions and of numbers of placeholders; fairseq uses it for the latter


@dataclass(frozen=True)
class Draft:
    """Drafts of a batch, and the tokens that are missing in them.

    Indices are those of flattened tensors.
    """

    reference_BT: Tensor  # <s>, words, </s>
    reference_lengths_B: Tensor
    tokens_BN: Tensor
    lengths_B: Tensor  # lengths of the drafts
    partner_BN: Tensor  # index of the reference token that matches each token of the draft
    counts_BN: Tensor  # number of tokens missing after each token except the last
    most_missing: int  # largest of these numbers
    opened_BT: Tensor  # the drafts with a placeholder, <unk>, for each missing token
    placeholders_M: Tensor  # indices of the placeholders, [B, T]
    words_M: Tensor  # indices of the words of the references, [B, T]
    slots_M: Tensor  # indices of the slots between real neighbours, [B, N - 1]

    @classmethod
    def of(cls, tokens_BN: Tensor, words: Words, device: torch.device) -> Draft:
        """Compare drafts with their references, on the host, and return the result on a device."""
        reference_lengths_B, lengths_B = words.lengths_B + 2, tokens_BN.ne(PAD).sum(1)
        reference_BT = words.framed()[:, : int(reference_lengths_B.max())]  # as wide as the completed drafts
        partner_BN = rightmost_match(
            tokens_BN, reference_BT, hyp_lengths_B=lengths_B, ref_lengths_B=reference_lengths_B
        )
        counts_BN = missing_between(partner_BN, hyp_lengths_B=lengths_B)
        columns_T = torch.arange(reference_BT.size(1))
        return cls(
            reference_BT=copied(reference_BT, device),
            reference_lengths_B=copied(reference_lengths_B, device),
            tokens_BN=copied(tokens_BN, device),
            lengths_B=copied(lengths_B, device),
            partner_BN=copied(partner_BN, device),
            counts_BN=copied(counts_BN, device),
            most_missing=int(counts_BN.max()),
            opened_BT=copied(spread(tokens_BN, counts_BN, lengths_B=lengths_B, fill=UNK, pad=PAD), device),
            placeholders_M=indices_of(opened(counts_BN, lengths_B=lengths_B), device),
            words_M=indices_of((columns_T > 0) & (columns_T < reference_lengths_B[:, None] - 1), device),
            slots_M=indices_of(tokens_BN[:, 1:].ne(PAD), device),
        )

    @property
    def shares_M(self) -> Tensor:
        """Weight of each slot, [M]; the weights of the slots of a sentence sum to 1."""
        return (1.0 / (self.lengths_B - 1)).index_select(0, self.slots_M // (self.tokens_BN.size(1) - 1))


@dataclass(frozen=True, kw_only=True)
class DraftPrepared(Prepared):
    """Batch with drafts.

    Attributes:
        draft: drafts, which are `seen_BT`.
        num_words: number of words of the targets.
    """

    draft: Draft
    num_words: int

    @classmethod
    def with_drafts(cls, prepared: Prepared, tokens_BN: Tensor) -> DraftPrepared:
        """Return a batch with drafts of the host: <s>, a subsequence of the words of the target, </s>."""
        words = Words.of(prepared.batch.on_host)
        draft = Draft.of(tokens_BN, words, prepared.src_tokens_BS.device)
        given = {each.name: getattr(prepared, each.name) for each in fields(prepared) if each.name != "seen_BT"}
        return cls(**given, seen_BT=draft.tokens_BN, draft=draft, num_words=int(words.lengths_B.sum()))


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
        reference_BT = Words.of(prepared.batch.on_host).framed()
        empty_BN = torch.tensor([[BOS, EOS]]).expand(len(reference_BT), -1)
        return DraftPrepared.with_drafts(prepared, _leave_out(reference_BT) if self.training else empty_BN)

    def passes(
        self, model: Transformer, prepared: Prepared, trace_points: frozenset[TracePoint], precision: Precision
    ) -> Iterator[DraftPass]:
        """See `View.passes`."""
        assert isinstance(model, NATransformer)
        assert isinstance(prepared, DraftPrepared)
        device, trace = prepared.src_tokens_BS.device, Trace(trace_points)
        with autocast(device, precision):
            encoded = model.encode(prepared.src_tokens_BS, trace if trace_points else None)
        draft = prepared.draft
        tokens_BN = draft.opened_BT if self.opens else draft.tokens_BN
        deep = model.deep_trace() if self.deep and self.training else None
        with autocast(device, precision):
            features_BND = model.read_draft(tokens_BN, encoded, deep)
            lower = [] if deep is None else model.lower_layers(deep)
        yield DraftPass(model, precision, prepared, trace, encoded, draft, tokens_BN, (*lower, features_BND))


def _leave_out(reference_BT: Tensor) -> Tensor:
    """Draw drafts of references on the host, [B, N].

    Random numbers come from PyTorch's own generator on the CPU, which a checkpoint keeps.
    """
    words_BT = reference_BT.ne(PAD) & reference_BT.ne(BOS) & reference_BT.ne(EOS)
    numbers_B = words_BT.sum(1)
    is_empty_B = torch.rand(len(numbers_B)) < _EMPTY_RATE
    some_B = (torch.rand(len(numbers_B)) * (numbers_B + 1)).long()
    left_out_B = torch.where(is_empty_B, numbers_B, some_B)
    return compact(reference_BT, reference_BT.ne(PAD) & ~drawn(left_out_B, words_BT), pad=PAD)


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
        """See `Term.counts`: words that are missing in the drafts."""
        assert isinstance(prepared, DraftPrepared)
        return dict.fromkeys(self.weights, float(len(prepared.draft.placeholders_M)))

    def forward(self, student: DraftPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        index_M = student.draft.placeholders_M
        targets_M = picked(student.draft.reference_BT, index_M)
        return _token_sums(
            [
                projected_cross_entropy(
                    picked(features_BTD, index_M),
                    student.model.output_weight_VD,
                    targets_M,
                    epsilon=self.label_smoothing,
                    product_type=student.product_type,
                )
                for features_BTD in student.layers
            ]
        )


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
        losses_M = _policy_losses(logits_BNK, draft.counts_BN.clamp_max(MOST_INSERTED), draft.slots_M)
        return {"placeholders": (losses_M * draft.shares_M).sum()}


class Deletions(Term[DraftPass]):
    """Cross entropy of the deletion of wrong tokens in drafts whose placeholders the student has filled.

    The numbers of placeholders come from the reference, so that no draft with a wrong length is used.
    """

    weights: Mapping[str, float] = {"deletion": 1.0}

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: words."""
        assert isinstance(prepared, DraftPrepared)
        return {"deletion": float(prepared.num_words)}

    def forward(self, student: DraftPass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        filled_BT = self.filled(student)
        draft, lengths_B = student.draft, student.draft.reference_lengths_B
        partner_BT = common_subsequence(filled_BT, draft.reference_BT, hyp_lengths_B=lengths_B, ref_lengths_B=lengths_B)
        features_BTD = student.read(filled_BT)
        with student.autocast():
            logits_BT2 = student.nat_model.edits.deleted(features_BTD)
        return {"deletion": _policy_losses(logits_BT2, partner_BT.eq(-1).long(), draft.words_M).sum()}

    def filled(self, student: DraftPass) -> Tensor:
        """Return the drafts with the student's own tokens in the placeholders, [B, T]."""
        index_M = student.draft.placeholders_M
        if not len(index_M):
            return student.tokens_BN
        written_M = best_tokens(
            picked(student.layers[-1], index_M),
            student.model.output_weight_VD,
            without=PAD,
            product_type=student.product_type,
        )
        return put_back(student.tokens_BN, index_M, written_M)


def _policy_losses(logits_BNK: Tensor, labels_BN: Tensor, index_M: Tensor) -> Tensor:
    """Return the label-smoothed cross entropy at the given flattened indices, [M]."""
    logits_MK, labels_M = (picked(each, index_M) for each in (logits_BNK, labels_BN))
    return F.cross_entropy(at_least_float32(logits_MK), labels_M, reduction="none", label_smoothing=_POLICY_SMOOTHING)


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
            width=max(draft.most_missing, 1),
        )
        tokens_MK = picked(tokens_BNK, draft.slots_M)
        weights_MK = picked(weights_BNK, draft.slots_M) * draft.shares_M[:, None]
        sums = []
        for features_BND in student.layers:
            with student.autocast():
                slots_MD = picked(model.slots(features_BND), draft.slots_M)
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
