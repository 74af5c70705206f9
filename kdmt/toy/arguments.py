"""Arguments of the command lines that generate corpora: the number of pairs of each split, and a seed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping


def add_counts_and_seed(parser: argparse.ArgumentParser, counts: Mapping[str, int]) -> None:
    """Add `--train`, `--valid`, `--test` and `--seed`.

    Args:
        parser: parser that gets the arguments.
        counts: default number of pairs of each split.
    """
    for split in ("train", "valid", "test"):
        parser.add_argument(
            f"--{split}",
            type=_count,
            default=counts[split],
            metavar="PAIRS",
            help=f"Number of sentence pairs in {split} (default: %(default)s).",
        )
    parser.add_argument("--seed", type=_count, default=1, metavar="N", help="Seed (default: %(default)s).")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
