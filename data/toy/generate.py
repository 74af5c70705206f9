"""Write the toy corpus: parallel text in which the probability of every translation is known.

    python data/toy/generate.py --out DIR [--train 20000 --valid 500 --test 500 --seed 1] [--no-spaces] [--statistics]

The files {train,valid,test}.{en,de} and manifest.json are written to DIR. With --no-spaces they are
{train,valid,test}.{en,th}: the same sentences, with the German ones in Thai letters without spaces. A folder that is up
to date is not written again. `--statistics` prints a description of the corpus. The generator is the package
`kdmt.toy`.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the generator needs no installed package

from kdmt.toy.arguments import add_counts_and_seed
from kdmt.toy.corpus_files import (
    COUNTS,
    LANGUAGES,
    SPLITS,
    UNSPACED_LANGUAGES,
    Pair,
    is_up_to_date,
    write_corpus,
)
from kdmt.toy.grammar import entropy, target_distribution
from kdmt.toy.thai_letters import restore_spaces


def main() -> None:
    """Parse the command line and write the corpus, unless it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="Folder of the corpus.")
    add_counts_and_seed(parser, COUNTS)
    parser.add_argument(
        "--no-spaces",
        action="store_true",
        help="Whether to write the German side in Thai letters without spaces (default: no).",
    )
    parser.add_argument(
        "--statistics", action="store_true", help="Whether to print a description of the corpus (default: no)."
    )
    args = parser.parse_args()
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out: {args.out} is not a folder")
    if args.statistics and args.test < 2:
        parser.error("--statistics needs a --test of 2 or more")
    counts = {split: getattr(args, split) for split in SPLITS}
    languages = UNSPACED_LANGUAGES if args.no_spaces else LANGUAGES
    if is_up_to_date(args.out, counts, args.seed, languages):
        print(f"{args.out}: up to date")
    else:
        write_corpus(args.out, counts, args.seed, languages)
        print(f"{args.out}: {', '.join(f'{counts[split]} {split}' for split in reversed(SPLITS))} pairs")
    if args.statistics:
        print_statistics(args.out, languages)


def print_statistics(out: Path, languages: Pair = LANGUAGES) -> None:
    """Print vocabulary sizes, lengths, the number of distinct sources and, for the test set, translations per source.

    Also print the entropy of the translations of a source and the probability of the most probable one.
    """
    for language in languages:
        lines = [line for split in SPLITS for line in (out / f"{split}.{language}").read_text("utf-8").splitlines()]
        if language == "th":
            lines = [restore_spaces(line) for line in lines]
        words = [re.findall(r"[\w'-]+", line) for line in lines]
        lengths = [len(line) for line in words]
        types = {word.lower() for line in words for word in line}
        parts = {part for word in types for part in word.split("-")}
        print(f"{language}: {len(types)} words ({len(parts)} with hyphenated numbers split), length {_spread(lengths)}")
    training = (out / "train.en").read_text("utf-8").splitlines()
    print(f"train: {len(set(training))} distinct sources of {len(training)}")
    sources = (out / "test.en").read_text("utf-8").splitlines()
    distributions = [target_distribution(source) for source in sources]
    print(f"test: valid translations a source: {_spread([len(distribution) for distribution in distributions])}")
    print(f"test: entropy a source: mean {statistics.mean(map(entropy, distributions)):.2f} nats")
    print(f"test: probability of the best target: mean {statistics.mean(max(d.values()) for d in distributions):.3f}")


def _spread(values: list[int]) -> str:
    tenths = statistics.quantiles(values, n=10)
    middle = f"mean {statistics.mean(values):.1f}, median {statistics.median(values):g}"
    return f"{middle}, 10% to 90% {tenths[0]:g} to {tenths[-1]:g}, most {max(values)}"


if __name__ == "__main__":
    main()
