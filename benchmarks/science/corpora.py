"""Corpora of the scoreboard, generated from the toy language into `data/science/`.

    toy     20,000 pairs, and a test set of 4,000
    small   the first 5,000 pairs of `toy`; the sources of the other 15,000 as text in the source language alone
    noisy   the pairs of `toy`, of which 600 have the target of another pair and occur 1, 5 or 20 times; these pairs are
            test sets too: `wrong1`, `wrong5`, `wrong20` (all with the wrong targets as references)

Corpora that are up to date are not written again.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from kdmt.checksum import file_sha256
from kdmt.files import read_optional_json, write_json, write_text
from kdmt.toy.corpus_files import HERE, INGREDIENTS, LANGUAGES, make_corpus

ROOT = Path("data") / "science"
COUNTS = {"test": 4000, "valid": 1000, "train": 20_000}
NUM_SMALL = 5000
WRONG = {1: 300, 5: 200, 20: 100}  # number of repetitions -> number of pairs with a wrong target
SEED = 1

T = TypeVar("T")
Pair = tuple[str, str]


def write_corpora(root: Path = ROOT) -> None:
    """Write all corpora, unless they were written completely with the same settings and the same generator."""
    request = {
        "counts": COUNTS,
        "small": NUM_SMALL,
        "wrong": {str(times): count for times, count in WRONG.items()},
        "seed": SEED,
        "generator": {path.name: file_sha256(path) for path in (Path(__file__), *map(HERE.joinpath, INGREDIENTS))},
    }
    record = root / "complete.json"
    if read_optional_json(record) == request:
        return
    corpus = make_corpus(COUNTS, SEED)
    held_out = {split: corpus[split] for split in ("valid", "test")}
    _write(root / "toy", {"train": corpus["train"], **held_out})
    _write(root / "small", {"train": corpus["train"][:NUM_SMALL], **held_out})
    _write_lines(root / "small" / "more.en", [source for source, _ in corpus["train"][NUM_SMALL:]])
    train, wrong = add_wrong_pairs(corpus["train"], random.Random(SEED))
    _write(root / "noisy", {"train": train, **held_out, **wrong})
    write_json(record, request)


def add_wrong_pairs(pairs: list[Pair], rng: random.Random) -> tuple[list[Pair], dict[str, list[Pair]]]:
    """Give some pairs the target of another pair, and repeat them.

    Returns:
        The training set in random order, and the wrong pairs by the name of their test set, each pair once.
    """
    order = _shuffled(range(len(pairs)), rng)
    chosen = order[: sum(WRONG.values())]
    targets = [pairs[index][1] for index in chosen]
    targets = targets[1:] + targets[:1]  # every pair gets the target of the next one
    train = dict(enumerate(pairs))
    extra: list[Pair] = []
    test_sets: dict[str, list[Pair]] = {}
    start = 0
    for times, count in WRONG.items():
        test_sets[f"wrong{times}"] = []
        for position in range(start, start + count):
            pair = pairs[chosen[position]][0], targets[position]
            train[chosen[position]] = pair
            extra += [pair] * (times - 1)
            test_sets[f"wrong{times}"].append(pair)
        start += count
    return _shuffled([*train.values(), *extra], rng), test_sets


def _shuffled(items: Iterable[T], rng: random.Random) -> list[T]:
    """Return the items in random order, by `random.Random.random` alone, which every version of Python repeats."""
    return sorted(items, key=lambda _: rng.random())


def _write(folder: Path, splits: dict[str, list[Pair]]) -> None:
    for split, pairs in splits.items():
        for side, language in enumerate(LANGUAGES):
            _write_lines(folder / f"{split}.{language}", [pair[side] for pair in pairs])


def _write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{line}\n" for line in lines))
