"""Output of fairseq-generate: lines and BLEU (fairseq_cli/generate.py, 0.12.2).

    S-<id>\\t<source>                T-<id>\\t<reference>
    H-<id>\\t<score>\\t<hypothesis>   D-<id>\\t<score>\\t<the same, detokenised>   P-<id>\\t<score of each token>

Scores are base-2 logarithms. `</s>` has a token score but is not part of the text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kdmt.corpus.vocabulary import Dictionary
from kdmt.types import EOS, PAD, SPECIALS, UNK, Hypothesis

_ORDERS = 4  # n-gram orders, 1 to 4


def spell(dictionary: Dictionary, tokens: Iterable[int], *, unk: str = SPECIALS[UNK]) -> str:
    """Return the tokens separated by spaces, without `<s>`, `<pad>` and `</s>`."""
    kept = [token for token in map(int, tokens) if token != PAD]
    if unk == SPECIALS[UNK] or UNK not in kept:
        return dictionary.string(kept)
    return " ".join(unk if token == UNK else dictionary.string([token]) for token in kept if token > EOS)


def spell_reference(dictionary: Dictionary, tokens: Iterable[int]) -> str:
    """Return the tokens as `spell` does, with `<<unk>>` for `<unk>`, so that no hypothesis matches it."""
    return spell(dictionary, tokens, unk=f"<{SPECIALS[UNK]}>")


def base_2(log_prob: float) -> float:
    """Convert a natural logarithm to base 2, with a division in float32 as in fairseq."""
    return float(np.float32(log_prob) / np.float32(math.log(2)))


def hypothesis_lines(index: int, hypothesis: Hypothesis, text: str, finished: str) -> list[str]:
    """Return the H-, D- and P- lines. There is no P- line if the model gives no log-probabilities of tokens.

    Args:
        index: index of the sentence in the data-bin, from 0.
        text, finished: hypothesis before and after detokenisation.
    """
    score = base_2(hypothesis.score)
    lines = [f"H-{index}\t{score}\t{text}", f"D-{index}\t{score}\t{finished}"]
    if hypothesis.log_probs:
        scores = " ".join(f"{base_2(log_prob):.4f}" for log_prob in hypothesis.log_probs)
        lines.append(f"P-{index}\t{scores}")
    return lines


@dataclass
class TokenBleu:
    """BLEU as fairseq computes it, on words separated by spaces, without smoothing.

    `<unk>` in a reference matches nothing, and an empty line counts as one word, `</s>`.
    """

    matches: list[int]
    counts: list[int]
    hypothesis_words: int = 0
    reference_words: int = 0

    @classmethod
    def of(cls, hypotheses: Sequence[str], references: Sequence[str]) -> TokenBleu:
        bleu = cls([0] * _ORDERS, [0] * _ORDERS)
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            bleu.add(hypothesis.split() or [SPECIALS[EOS]], reference.split() or [SPECIALS[EOS]])
        return bleu

    def add(self, hypothesis: list[str], reference: list[str]) -> None:
        self.hypothesis_words += len(hypothesis)
        self.reference_words += len(reference)
        for order in range(1, _ORDERS + 1):
            produced, wanted = (_ngrams(words, order) for words in (hypothesis, reference))
            known = {ngram: count for ngram, count in wanted.items() if SPECIALS[UNK] not in ngram}
            self.matches[order - 1] += sum(min(count, known.get(ngram, 0)) for ngram, count in produced.items())
            self.counts[order - 1] += sum(produced.values())

    def __str__(self) -> str:
        """Return text like `BLEU4 = 34.64, 68.1/42.7/28.3/19.2 (BP=0.964, ratio=0.965, syslen=127, reflen=131)`."""
        precisions = [
            100 * match / count if count else 0.0 for match, count in zip(self.matches, self.counts, strict=True)
        ]
        ratio = self.hypothesis_words / self.reference_words if self.reference_words else 0.0
        penalty = min(1.0, math.exp(1 - 1 / ratio)) if ratio else 0.0
        score = penalty * math.exp(sum(map(math.log, precisions)) / _ORDERS) if min(precisions) > 0 else 0.0
        shown = "/".join(f"{precision:.1f}" for precision in precisions)
        return (
            f"BLEU4 = {score:.2f}, {shown} (BP={penalty:.3f}, ratio={ratio:.3f}, "
            f"syslen={self.hypothesis_words}, reflen={self.reference_words})"
        )


def _ngrams(words: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))
