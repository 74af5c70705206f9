"""A masked language model of the source, on the student's encoder (Devlin et al. 2019, section 3.1).

Shapes: B batch, S source length, M masked tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from kdmt.config import SelfSupervised
from kdmt.losses.cross_entropy import projected_cross_entropy
from kdmt.models.transformer import Transformer
from kdmt.types import EOS, PAD, SPECIALS, UNK, Batch, LossTerm, LossTerms, MaskedText

_MASKED, _RANDOM = 0.8, 0.1  # of the chosen tokens; the others stay as they are


def mask_tokens(tokens_BS: Tensor, *, rate: float, vocab_size: int) -> MaskedText:
    """Choose tokens that are to be guessed, and hide most of them.

    Of N words round(rate * N) are chosen, at least one; </s> is not, unless there is nothing else. Each of them becomes
    <unk>, which fairseq's masked models take for a mask, with probability 0.8, and any word with probability 0.1.
    Random numbers come from PyTorch's own generator on the CPU, which a checkpoint keeps.

    Args:
        tokens_BS: int64 ids, padded, at least one of them real.
    """
    flat_N = tokens_BS.flatten().cpu()
    words = (flat_N.ne(PAD) & flat_N.ne(EOS)).nonzero()[:, 0]
    if not len(words):
        words = flat_N.ne(PAD).nonzero()[:, 0]
    count = max(1, round(rate * len(words)))
    places_M = words[torch.randperm(len(words))[:count]].sort().values
    targets_M = flat_N[places_M]
    fate_M = torch.rand(count)
    others_M = torch.randint(len(SPECIALS), max(vocab_size, len(SPECIALS) + 1), (count,))
    shown_M = torch.where(fate_M < _MASKED, UNK, torch.where(fate_M < _MASKED + _RANDOM, others_M, targets_M))
    hidden_N = flat_N.clone()
    hidden_N[places_M] = shown_M
    device = tokens_BS.device
    return MaskedText(hidden_N.view_as(tokens_BS).to(device), places_M.to(device), targets_M.to(device))


class MaskedLanguageLesson(nn.Module):
    """lambda * (the student's other terms) + (1 - lambda) * cross entropy of the tokens hidden from the encoder.

    Their states go through a layer of their own (linear, GELU, normalisation) and are held against the source
    embeddings. The layer is trained with the student and is no part of it.
    """

    name = "self_supervised"

    def __init__(self, settings: SelfSupervised, *, student: Transformer) -> None:
        super().__init__()
        self.settings = settings
        dim = student.config.encoder_embed_dim
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))

    def prepare(self, batch: Batch, *, vocab_size: int) -> Batch:
        """The batch with its sources, and its text without targets, masked."""
        texts = [batch.src_tokens_BS] if batch.monolingual_BS is None else [batch.src_tokens_BS, batch.monolingual_BS]
        masked = tuple(mask_tokens(text, rate=self.settings.mask_rate, vocab_size=vocab_size) for text in texts)
        return replace(batch, masked=masked)

    def forward(
        self, student: Transformer, batch: Batch, terms: LossTerms, product_type: torch.dtype | None
    ) -> LossTerms:
        """The terms with their share, and the lesson's own."""
        share = self.settings.supervised
        weight_VD = student.src_embed.tokens.weight
        features_MD = torch.cat([self._features(student, text) for text in batch.masked])
        targets_M = torch.cat([text.targets_M for text in batch.masked])
        nll_sum, _ = projected_cross_entropy(features_MD, weight_VD, targets_M, epsilon=0.0, product_type=product_type)
        scaled = {name: replace(term, weight=share * term.weight) for name, term in terms.items()}
        return {**scaled, self.name: LossTerm(nll_sum, len(targets_M), 1.0 - share)}

    def _features(self, student: Transformer, text: MaskedText) -> Tensor:
        states_BSD = student.encode(text.tokens_BS).states_BSD
        return self.head(states_BSD.flatten(0, 1).index_select(0, text.places_M))
