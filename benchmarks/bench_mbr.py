"""Speed of minimum Bayes risk over pools of 32 and of 256 candidates of a sentence, on one core.

    make bench-mbr     (or: python benchmarks/bench_mbr.py [--sentences 200])

The candidates of a sentence are copies of a generated sentence of 20 words in which each word is replaced with a
probability of 0.2 by one of three other words of its place, as samples of a teacher mostly differ in a few words. The
rules are those of `distill.mbr`: every pair of candidates (`full`), the comparison with mean n-gram counts
(`aggregate`), and every pair of the 16 candidates that are best by aggregation with all (`prune`).

    mbr_sentences_per_second_32, _256       every pair of candidates
    mbr_sentences_per_second_32_<rule>      the other rules, also with 256 candidates

`bench-pool` measures the choice among samples of a teacher: `pool_mbr_sentences_per_second_32`, `_256`.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Mapping

from figures import Figure, report_figures

from kdmt.distill.mbr import ExpectedUtility, bleu_utility, by_expected_utility
from kdmt.distill.selection import Candidate, Line, Selector

SIZES = (32, 256)
WORDS = 20
REPLACED = 0.2
ALTERNATIVES = 3
PRUNE = 16
RULES: Mapping[str, Selector] = {
    "full": by_expected_utility(),
    "aggregate": by_expected_utility(ExpectedUtility(aggregate=True)),
    "prune": by_expected_utility(ExpectedUtility(prune=PRUNE)),
    "bleu": by_expected_utility(ExpectedUtility(bleu_utility("13a"))),
    "bleu_aggregate": by_expected_utility(ExpectedUtility(bleu_utility("13a"), aggregate=True)),
}
MAIN = "full"  # its figures have no suffix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sentences", type=int, default=200, help="Number of sentences with pools of 32 (default: %(default)s)."
    )
    options = parser.parse_args()
    figures = mbr_figures(options.sentences)
    settings = {"words": WORDS, "replaced": REPLACED, "prune": PRUNE, "sentences": options.sentences}
    report_figures("mbr", figures, settings=settings)


def mbr_figures(sentences: int) -> list[Figure]:
    """Return the sentences per second of each rule and size of the pool.

    Args:
        sentences: number of sentences with the smaller pools; with the larger ones, an eighth of it.
    """
    figures = []
    for size in SIZES:
        pools = [make_pool(size, seed) for seed in range(max(1, sentences * SIZES[0] // size))]
        for name, rule in RULES.items():
            suffix = "" if name == MAIN else f"_{name}"
            speed = sentences_per_second(rule, pools)
            figures.append(Figure(f"mbr_sentences_per_second_{size}{suffix}", speed, "sentences/s"))
    return figures


def make_pool(size: int, seed: int) -> list[Candidate]:
    """Return the candidates of a generated sentence."""
    rng = random.Random(seed)
    choices = [[_word(rng) for _ in range(1 + ALTERNATIVES)] for _ in range(WORDS)]

    def draw() -> str:
        return " ".join(rng.choice(own[1:]) if rng.random() < REPLACED else own[0] for own in choices)

    return [Candidate(draw(), -1.0, WORDS + 1) for _ in range(size)]


def _word(rng: random.Random) -> str:
    return "".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9)))


def sentences_per_second(rule: Selector, pools: list[list[Candidate]]) -> float:
    """Return the speed of a rule, after one sentence that is not measured."""
    rule.choose(pools[0], Line())
    started = time.perf_counter()
    for pool in pools:
        rule.choose(pool, Line())
    return len(pools) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
