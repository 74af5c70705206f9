"""Records that travel between the packages. Shape legend: B batch, S source length, T target length.

Nothing here imports torch when the module is loaded: `import kdmt.types` is cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kdmt.choices import Precision as Precision

if TYPE_CHECKING:
    import torch

# fairseq's special symbols, in its order (fairseq/data/dictionary.py).
BOS, PAD, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")

# Families of non-autoregressive models by what their decoder's positions are.
POSITIONAL = ("nat", "cmlm", "inat", "nat_crf")  # the target's
ALIGNED = ("ctc", "dag")  # more than the target has
EDITING = ("levenshtein", "insertion")  # those of a draft of it


@dataclass(frozen=True)
class Knowledge:
    """What a teacher said of the real target tokens of a batch, in their order; M tokens, K best ones of each."""

    ids_MK: torch.Tensor  # int64, different ones in a row, the best first
    log_probs_MG: torch.Tensor  # float32 [M, K + 1], natural logarithms at one temperature; last all other tokens


@dataclass(frozen=True)
class MaskedText:
    """Sentences some of whose tokens are hidden and are to be guessed; M of them."""

    tokens_BS: torch.Tensor  # int64, what is shown
    places_M: torch.Tensor  # int64, of the chosen tokens in the flattened text
    targets_M: torch.Tensor  # int64, what stood there


@dataclass(frozen=True)
class Batch:
    """A batch of sentence pairs, padded on the right with `PAD`.

    Sentences end with `</s>`; the decoder's input is the target moved one to the right, with `</s>` first.
    """

    index_B: torch.Tensor  # int64 [B], position in the data-bin
    src_tokens_BS: torch.Tensor  # int64 [B, S]
    prev_tokens_BT: torch.Tensor | None = None  # int64 [B, T], decoder input
    tgt_tokens_BT: torch.Tensor | None = None  # int64 [B, T]
    num_tgt_tokens: int = 0  # real target tokens, </s> counted
    num_src_tokens: int = 0  # real source tokens, </s> counted
    knowledge: Knowledge | None = None
    of_student: bool = False  # targets are the student's own samples, not references
    monolingual_BS: torch.Tensor | None = None  # int64, sources without targets, as many as they are
    weight_B: torch.Tensor | None = None  # float32, how much each pair counts; None for 1
    weighted_tokens: float | None = None  # real target tokens, each times its pair's weight
    seen_BT: torch.Tensor | None = None  # int64, what a decoder that fills in tokens sees of the target
    masked: tuple[MaskedText, ...] = ()  # sources to be guessed at, of a masked language model

    @property
    def target_count(self) -> float:
        """What a sum over the target tokens is divided by."""
        return self.num_tgt_tokens if self.weighted_tokens is None else self.weighted_tokens

    def to(self, device: torch.device | str) -> Batch:
        """With the tokens on a device; a copy from pinned memory does not make the host wait."""
        return self._with_tokens(lambda tokens: tokens.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        return self._with_tokens(lambda tokens: tokens.pin_memory())

    def _with_tokens(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        knowledge = self.knowledge
        return replace(
            self,
            src_tokens_BS=change(self.src_tokens_BS),
            prev_tokens_BT=None if self.prev_tokens_BT is None else change(self.prev_tokens_BT),
            tgt_tokens_BT=None if self.tgt_tokens_BT is None else change(self.tgt_tokens_BT),
            weight_B=None if self.weight_B is None else change(self.weight_B),
            monolingual_BS=None if self.monolingual_BS is None else change(self.monolingual_BS),
            knowledge=knowledge and Knowledge(change(knowledge.ids_MK), change(knowledge.log_probs_MG)),
        )


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


@dataclass(frozen=True)
class LossTerm:
    """A term of an objective: its sum over a micro-batch, the count it is divided by, and its weight.

    Sums of all micro-batches and ranks are added before the one division by the added counts.
    """

    sum: torch.Tensor  # scalar; carries the gradient unless the weight is 0
    count: float  # known before the forward pass
    weight: float = 1.0


LossTerms = dict[str, LossTerm]
