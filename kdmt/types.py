"""Records and constants that several packages share. Loading this module does not load PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    tokens: tuple[int, ...]
    score: float
    log_probs: tuple[float, ...] = ()
    steps: int = 0


@dataclass(frozen=True)
class Sampling:
    """The distribution that samples are drawn from.

    Attributes:
        temperature: divides the logits.
        top_k: number of most probable tokens to draw from, 0 for all (Fan et al. 2018).
        top_p: draw from the smallest set of most probable tokens with at least this mass (Holtzman et al. 2020, section
            3.1), 1 for all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
