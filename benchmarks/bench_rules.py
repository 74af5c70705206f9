"""Speed of each cleaning rule, and its precision and recall on labelled pairs.

    make bench-rules        (or: python benchmarks/bench_rules.py [--pairs 20000])

`rules_us_per_pair_NAME` is the time of the rule NAME for one pair of generated lines of 11 words, on one core and in
microseconds, `rules_us_per_pair` that of all rules for single pairs with `prepare.clean.rules: default`, and
`rules_us_per_pair_without` the same without `rules`. Both include the digest for duplicates.

The labelled pairs are those of tests/golden/make_labelled_pairs.py: clean text, and clean text with one planted fault.
A rule that drops pairs is right if the pair has any fault, and finds one if it drops a pair with its own fault. A
rule that changes lines is right if the line becomes the clean one. Each rule is measured alone, with its settings in
the list `default`, or in `crawled` if it is in that list only. `rules_kept_default` is the share of clean labelled
pairs that all rules of the list keep.
"""

from __future__ import annotations

import argparse
import collections
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from figures import Figure, report_figures

from kdmt.config import Clean
from kdmt.config.rules import LISTS
from kdmt.corpus.clean import RawChunk, broken_rule, clean_chunk, clean_line
from kdmt.corpus.rules.pair_text import LanguagePair, PairText
from kdmt.corpus.rules.rule import ChangingRule, DroppingRule
from kdmt.corpus.rules.table import CHANGING_FIRST, DROPPING, RuleSet, build_rules
from kdmt.languages import writes_spaces

LABELLED = Path(__file__).resolve().parent.parent / "tests" / "golden" / "cleaning" / "labelled_pairs.tsv"
REPEATS = 5
Pair = tuple[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000, help="Number of generated pairs (default: %(default)s).")
    options = parser.parse_args()
    pairs = generate(options.pairs)
    figures = [*speed(pairs), *quality_figures(read_labelled(LABELLED))]
    report_figures("rules", figures, settings={"pairs": options.pairs, "repeats": REPEATS})


# ------------------------------------------------------------------------------------------------------------- speed


def generate(number: int) -> list[Pair]:
    """Return pairs of lines like those of English and German captions: letters, some umlauts, few digits."""
    draw = random.Random(1)
    sides = []
    for letters in ("etaoinshrdlucm", "enisratdhulcgmobäöüß"):
        words = ["".join(draw.choices(letters, k=draw.randrange(2, 10))) for _ in range(5000)] + ["2", "19", "well-off"]
        sides.append([f"{' '.join(draw.choices(words, k=11)).capitalize()}." for _ in range(number)])
    return list(zip(*sides, strict=True))


def speed(pairs: Sequence[Pair]) -> list[Figure]:
    """Measure the time of each rule, and of all."""
    languages = LanguagePair((True, True), ("en", "de"))
    rules = build_rules(Clean.model_validate({"rules": "crawled"}), languages)
    figures = []
    for name, seconds in [*changing_seconds(rules, pairs), *dropping_seconds(rules, pairs)]:
        figures.append(Figure(f"rules_us_per_pair_{name}", 1e6 * seconds / len(pairs), "us"))
    for name, value in (("rules_us_per_pair", "default"), ("rules_us_per_pair_without", None)):
        chunk = RawChunk(pairs, Clean.model_validate({"rules": value}))
        seconds = fastest(partial(clean_chunk, chunk, languages=languages, forbidden=None))
        figures.append(Figure(name, 1e6 * seconds / len(pairs), "us"))
    return figures


def changing_seconds(rules: RuleSet, pairs: Sequence[Pair]) -> Iterable[tuple[str, float]]:
    """Yield the name and the time of each rule that changes lines."""
    for own in zip(*rules.changing, strict=True):
        yield own[0].name, fastest(partial(edit_all, own, pairs))


def edit_all(rules: Sequence[ChangingRule], pairs: Iterable[Pair]) -> None:
    """Apply a rule for each side to all pairs."""
    of_source, of_target = rules
    for source, target in pairs:
        of_source.edit(source)
        of_target.edit(target)


def dropping_seconds(rules: RuleSet, pairs: Sequence[Pair]) -> Iterable[tuple[str, float]]:
    """Yield the name and the time of each rule that drops pairs; values that rules share are computed before."""
    texts = [PairText(*pair) for pair in pairs]
    for text in texts:
        for line in text.lines:
            assert line.words
    for rule in rules.dropping:
        yield rule.name, fastest(partial(apply_to_all, rule, texts))


def apply_to_all(rule: DroppingRule, texts: Iterable[PairText]) -> None:
    """Apply a rule to all pairs."""
    for text in texts:
        rule.breaks(text)


def fastest(work: Callable[[], object]) -> float:
    """Return the least processor time of several runs, in seconds."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


# ----------------------------------------------------------------------------------------------------------- quality


@dataclass(frozen=True)
class LabelledPair:
    """A pair with the fault that was planted in it.

    Attributes:
        fault: name of the rule that is to find the fault; `none` or `like_NAME` for clean text.
        clean: pair that a rule that changes lines is to make of it.
    """

    languages: LanguagePair
    fault: str
    pair: Pair
    clean: Pair

    @property
    def is_clean(self) -> bool:
        """Whether the pair has no fault."""
        return self.fault == "none" or self.fault.startswith("like_")


@dataclass(frozen=True)
class Quality:
    """Precision and recall of a rule, with the numbers of pairs that they are of."""

    name: str
    num_found: int
    num_right: int  # of those found
    num_faults: int
    num_faults_found: int

    @property
    def precision(self) -> float:
        return self.num_right / self.num_found if self.num_found else 0.0

    @property
    def recall(self) -> float:
        return self.num_faults_found / self.num_faults


def read_labelled(path: Path) -> list[LabelledPair]:
    """Return the labelled pairs of a file."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        source_lang, target_lang, fault, source, target, clean_source, clean_target = line.split("\t")
        spaced = writes_spaces(source_lang), writes_spaces(target_lang)
        languages = LanguagePair(spaced, (source_lang, target_lang))
        found.append(LabelledPair(languages, fault, (source, target), (clean_source, clean_target)))
    return found


def measure(name: str, labelled: Sequence[LabelledPair]) -> Quality:
    """Return the quality of one rule alone."""
    settings = LISTS["default"].get(name, LISTS["crawled"].get(name, {}))
    clean = Clean.model_validate({"rules": [{name: settings}], "max_characters": 0, "max_words": 0})
    right, found, faults, faults_found = 0, 0, 0, 0
    for each in labelled:
        rules = build_rules(clean, each.languages)
        before = changed(each.pair, build_rules(Clean(), each.languages))
        after = changed(each.pair, rules)
        if name in DROPPING:
            is_found = broken_rule(PairText(*after), rules.dropping) == name
            is_right = not each.is_clean
        else:
            is_found = after != before
            is_right = after == changed(each.clean, build_rules(Clean(), each.languages))
        found += is_found
        right += is_found and is_right
        faults += each.fault == name
        faults_found += each.fault == name and is_found and is_right
    return Quality(name, found, right, faults, faults_found)


def changed(pair: Pair, rules: RuleSet) -> Pair:
    """Return a pair as the rules that change lines leave it."""
    counts: collections.Counter[str] = collections.Counter()
    source, target = (clean_line(line, own, counts) for line, own in zip(pair, rules.changing, strict=True))
    return source, target


def kept_share(labelled: Iterable[LabelledPair], name: str) -> float:
    """Return the share of clean pairs that the rules of a list keep."""
    clean = Clean.model_validate({"rules": name})
    kept = []
    for each in labelled:
        if each.is_clean:
            rules = build_rules(clean, each.languages)
            kept.append(broken_rule(PairText(*changed(each.pair, rules)), rules.dropping) is None)
    return sum(kept) / len(kept)


def quality_figures(labelled: Sequence[LabelledPair]) -> list[Figure]:
    """Return precision and recall of each rule, in percent, and the shares of clean pairs that are kept."""
    figures = []
    for name in (*CHANGING_FIRST, *DROPPING):
        quality = measure(name, labelled)
        figures.append(Figure(f"rules_precision_{name}", 100 * quality.precision, "%"))
        figures.append(Figure(f"rules_recall_{name}", 100 * quality.recall, "%"))
    figures += [Figure(f"rules_kept_{name}", 100 * kept_share(labelled, name), "%") for name in LISTS]
    return figures


if __name__ == "__main__":
    main()
