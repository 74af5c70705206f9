"""Masked language model of sources and other text, on the student's encoder (Devlin et al. 2019, section 3.1).

Shapes: B batch, S source length, M masked tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdmt.config import SelfSupervised
from kdmt.losses.cross_entropy import projected_cross_entropy
from kdmt.models.transformer import Transformer
from kdmt.objectives.objective import MaskedText, Pass, Prepared, Term
from kdmt.objectives.transfer import copied
from kdmt.types import EOS, PAD, SPECIALS, UNK

_MASKED, _RANDOM = 0.8, 0.1  # shares of the chosen tokens; the others are not changed


def mask_tokens(
    tokens_BS: Tensor, *, rate: float, vocab_size: int, device: torch.device, never: Collection[int] = ()
) -> MaskedText:
    """Choose tokens to predict, and hide most of them.

    Of N words round(rate * N) are chosen, at least one; </s> only if there are no words. Each of them becomes <unk>,
    the mask of fairseq's masked models, with probability 0.8, and a random word with probability 0.1. Random numbers
    come from PyTorch's own generator on the CPU, which a checkpoint keeps.

    Args:
        tokens_BS: int64 ids on the host, padded, at least one of them real.
        device: device of the result.
        never: ids that are no words: the tokens for the languages.
    """
    flat_N = tokens_BS.flatten()
    is_word_N = flat_N.ne(PAD) & flat_N.ne(EOS)
    if never:
        is_word_N &= ~torch.isin(flat_N, torch.tensor(sorted(never)))
    words = is_word_N.nonzero()[:, 0]
    if not len(words):
        words = flat_N.ne(PAD).nonzero()[:, 0]
    count = max(1, round(rate * len(words)))
    index_M = words[torch.randperm(len(words))[:count]].sort().values
    targets_M = flat_N[index_M]
    fate_M = torch.rand(count)
    others_M = torch.randint(len(SPECIALS), max(vocab_size, len(SPECIALS) + 1), (count,))
    shown_M = torch.where(fate_M < _MASKED, UNK, torch.where(fate_M < _MASKED + _RANDOM, others_M, targets_M))
    hidden_N = flat_N.clone()
    hidden_N[index_M] = shown_M
    return MaskedText(*(copied(each, device) for each in (hidden_N.view_as(tokens_BS), index_M, targets_M)))


class MaskedLanguage(Term[Pass]):
    """Cross entropy of tokens that are hidden from the encoder:

        lambda * (the terms before this one) + (1 - lambda) * this term

    The states of hidden tokens go through a layer of this term (linear, GELU, normalisation) and are compared with the
    source embeddings. The layer is trained with the student but does not belong to it.

    Args:
        never: ids that are not hidden (`mask_tokens`).
    """

    name = "self_supervised"
    key = "self_supervised"

    def __init__(self, settings: SelfSupervised, *, student: Transformer, never: Collection[int] = ()) -> None:
        super().__init__()
        self.settings, self.share, self.never = settings, settings.supervised, never
        self.weights = {self.name: 1.0 - settings.supervised}
        dim = student.config.encoder_embed_dim
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))

    def prepare(self, model: Transformer, prepared: Prepared) -> Prepared:
        """See `Term.prepare`: mask the sources if the settings have them, and the text without targets."""
        batch, device, rate = prepared.batch.on_host, prepared.src_tokens_BS.device, self.settings.mask_rate
        texts = [batch.src_tokens_BS] if self.settings.masks_sources else []
        if batch.extras.monolingual_BS is not None:
            texts.append(batch.extras.monolingual_BS)
        masked = tuple(
            mask_tokens(text, rate=rate, vocab_size=model.src_vocab_size, device=device, never=self.never)
            for text in texts
        )
        return replace(prepared, masked=masked)

    def counts(self, prepared: Prepared) -> dict[str, float]:
        """See `Term.counts`: hidden tokens."""
        return {self.name: sum(len(text.targets_M) for text in prepared.masked)}

    def forward(self, student: Pass, teachers: Sequence[Pass], prepared: Prepared) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Term.forward`."""
        with student.autocast():
            features_MD = torch.cat([self._features(student.model, text) for text in prepared.masked])
            nll_sum, _ = projected_cross_entropy(
                features_MD,
                student.model.src_embed.tokens.weight,
                torch.cat([text.targets_M for text in prepared.masked]),
                epsilon=0.0,
                product_type=student.product_type,
            )
        return {self.name: nll_sum}

    def _features(self, student: Transformer, text: MaskedText) -> Tensor:
        states_BSD = student.encode(text.tokens_BS).states_BSD
        return self.head(states_BSD.flatten(0, 1).index_select(0, text.index_M))
