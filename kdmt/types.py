"""Records and constants that several packages share. Loading this module does not load PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# fairseq's special symbols, in its order (fairseq/data/dictionary.py).
BOS, PAD, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")


@dataclass(frozen=True)
class Hypothesis:
    """A translation of a sentence.

    Attributes:
        tokens: target ids without the final </s>.
        score: natural-log score. In beam search, it is the sum of log p divided by length ** lenpen, where the length
            counts </s>; other searches document their own.
        log_probs: natural logarithm of the probability of each token, </s> last.
        steps: number of passes of a non-autoregressive decoder.
        draws: number of times that it was drawn, in a list of distinct samples.
    """

    tokens: tuple[int, ...]
    score: float
    log_probs: tuple[float, ...] = ()
    steps: int = 0
    draws: int = 1


@dataclass(frozen=True)
class Sampling:
    """The distribution that samples are drawn from.

    Attributes:
        temperature: divides the logits.
        top_k: number of most probable tokens to draw from, 0 for all (Fan et al. 2018).
        top_p: draw from the smallest set of most probable tokens with at least this mass (Holtzman et al. 2020, section
            3.1), 1 for all.
        epsilon: tokens with a smaller probability are not drawn, 0 for all (Hewitt et al. 2022, section 3.1).
        min_p: tokens with a smaller probability than this share of the largest one are not drawn, 0 for all (Nguyen et
            al. 2024, section 3).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    epsilon: float = 0.0
    min_p: float = 0.0


@dataclass(frozen=True)
class Packing:
    """Limits of the sentences in a packed row (`kdmt.corpus.packing`): Q sequences, N positions.

    Attributes:
        starts: int32 [Q + 1], index of the first token of each sequence, then the number of positions.
        position_N: int64, position of each token in its sentence, from 0; 0 for padding.
        num_sentences: number of sentences, B.
        num_tokens: number of real tokens; they come first.
        longest: number of tokens of the longest sentence of the batch.
        max_length: length of the longest sentence of the data set.
    """

    starts: torch.Tensor
    position_N: torch.Tensor
    num_sentences: int
    num_tokens: int
    longest: int
    max_length: int

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Packing:
        """Return a copy with `change` applied to both tensors."""
        return replace(self, starts=change(self.starts), position_N=change(self.position_N))
