"""Records and names that several packages share. Loading this module does not load PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

# fairseq's special symbols, in its order (fairseq/data/dictionary.py).
BOS, PAD, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")


@dataclass(frozen=True)
class Hypothesis:
    """One translation of one sentence."""

    tokens: tuple[int, ...]  # target ids without the closing </s>
    # natural log; beam search: the sum of log p divided by length ** lenpen, </s> counted; others say what theirs is
    score: float
    log_probs: tuple[float, ...] = ()  # natural log of each token, </s> last
    steps: int = 0  # passes of a non-autoregressive decoder that wrote it


@dataclass(frozen=True)
class Sampling:
    """From which distribution is drawn.

    Attributes:
        temperature: the logits are divided by it.
        top_k: draw among so many most probable tokens, 0 for all (Fan et al. 2018).
        top_p: draw among the fewest most probable tokens that have at least this mass (Holtzman et al. 2020, section
            3.1), 1 for all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
