"""Speed and recall of searches for near-duplicates: kdmt, datasketch and rensa, compared with all Jaccard indices.

    python -m pip install datasketch==2.0.0 rensa==0.5.0
    make bench-near-duplicates        (or: python benchmarks/bench_near_duplicates.py [--pairs 20000])

A part of the generated pairs are copies of earlier ones with up to three changed words. All methods have the same sets
of n-grams (those of `kdmt.corpus.near_duplicates`) and the threshold 0.8: a pair is found if its similarity to an
earlier pair is at least 0.8. datasketch and rensa estimate the similarity of the candidates from 128 hashes; kdmt
computes it from the text. Times are CPU times of all threads per pair, from the text to the result.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from figures import RESULTS, Figure, report_figures
from generated_text import generate

from kdmt.corpus.decontaminate import comparison_key
from kdmt.corpus.near_duplicates import NGRAM, NearDuplicateFinder, hash_pairs

THRESHOLD = 0.8
NUM_HASHES = 128
CHANGED = 0.25  # share of the pairs that are changed copies
CHUNK_PAIRS = 10_000

Pairs = Sequence[tuple[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20_000, help="Number of pairs (default: %(default)s).")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="Folder of the results (default: benchmarks/results)."
    )
    options = parser.parse_args()
    pairs = make_pairs(options.pairs)
    expected_N = find_by_brute_force(pairs)
    figures = [Figure("near_duplicates_true", int(expected_N.sum()), "pairs")]
    for name, find in METHODS.items():
        if name != "kdmt" and find_spec(name) is None:
            print(f"{name} is not installed")
            continue
        started = time.process_time()
        found_N = find(pairs)
        seconds = time.process_time() - started
        right = int((found_N & expected_N).sum())
        figures += [
            Figure(f"near_duplicates_{name}_us_per_pair", 1e6 * seconds / len(pairs), "us"),
            Figure(f"near_duplicates_{name}_recall", right / int(expected_N.sum()), "ratio"),
            Figure(f"near_duplicates_{name}_precision", right / max(int(found_N.sum()), 1), "ratio"),
        ]
    settings = {"pairs": len(pairs), "threshold": THRESHOLD, "ngram": NGRAM, "hashes_of_peers": NUM_HASHES}
    report_figures("near-duplicates", figures, settings=settings, results_dir=options.results)


def make_pairs(count: int) -> list[tuple[str, str]]:
    """Return generated pairs, a share of which are changed copies of others, in random order."""
    draw = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), round(count * (1 - CHANGED)))
        sides = [(Path(folder) / f"train.{lang}").read_text(encoding="utf-8").splitlines() for lang in ("en", "de")]
    pairs = list(zip(*sides, strict=True))
    words = [line.split() for line in sides[0][:1000]]
    for source, target in draw.choices(pairs, k=count - len(pairs)):
        copies = source.split(), target.split()
        for _ in range(draw.randint(0, 3)):
            side = draw.choice(copies)
            side[draw.randrange(len(side))] = draw.choice(draw.choice(words))
        pairs.append((" ".join(copies[0]), " ".join(copies[1])))
    draw.shuffle(pairs)
    return pairs


def ngrams(source: str, target: str) -> set[str]:
    """Return the n-grams of a pair, those of the target with a mark."""
    found = set()
    for mark, line in (("", source), ("\t", target)):
        text = "\n" * (NGRAM - 1) + comparison_key(line).decode()
        found |= {mark + text[start : start + NGRAM] for start in range(len(text) - NGRAM + 1)}
    return found


def find_by_brute_force(pairs: Pairs) -> np.ndarray:
    """Return the mask of the pairs that have a similarity of the threshold or more to an earlier one."""
    number_of: dict[str, int] = {}
    sets = [
        np.array(sorted(number_of.setdefault(each, len(number_of)) for each in ngrams(*pair)), dtype=np.int64)
        for pair in pairs
    ]
    sizes_N = np.array([len(own) for own in sets])
    flat = np.concatenate(sets)
    order = np.argsort(flat, kind="stable")
    owners = np.repeat(np.arange(len(pairs)), sizes_N)[order]
    starts = np.searchsorted(flat[order], np.arange(len(number_of) + 1))
    found_N = np.zeros(len(pairs), dtype=bool)
    for number, own in enumerate(sets):
        if number and len(own):
            others = np.concatenate([owners[starts[each] : starts[each + 1]] for each in own.tolist()])
            common = np.bincount(others, minlength=len(pairs))[:number]
            found_N[number] = (common >= THRESHOLD * (len(own) + sizes_N[:number] - common) - 1e-9).any()
    return found_N


def find_with_kdmt(pairs: Pairs) -> np.ndarray:
    keys = [comparison_key(source) for source, _ in pairs], [comparison_key(target) for _, target in pairs]
    with tempfile.TemporaryDirectory() as folder:
        finder = NearDuplicateFinder(Path(folder), THRESHOLD)
        for start in range(0, len(pairs), CHUNK_PAIRS):
            part = slice(start, start + CHUNK_PAIRS)
            finder.add(hash_pairs((keys[0][part], keys[1][part]), THRESHOLD))
        return finder.find(
            lambda indices: ([keys[0][n] for n in indices], [keys[1][n] for n in indices]),
            excluded_N=np.zeros(len(pairs), dtype=bool),
        )


def find_with_datasketch(pairs: Pairs) -> np.ndarray:
    from datasketch import MinHash, MinHashLSH

    hashes = []
    for pair in pairs:
        hashes.append(MinHash(num_perm=NUM_HASHES))
        hashes[-1].update_batch([each.encode() for each in ngrams(*pair)])
    index = MinHashLSH(threshold=THRESHOLD, num_perm=NUM_HASHES)
    found_N = np.zeros(len(pairs), dtype=bool)
    for number, own in enumerate(hashes):
        found_N[number] = any(own.jaccard(hashes[other]) >= THRESHOLD for other in index.query(own))
        index.insert(number, own)
    return found_N


def find_with_rensa(pairs: Pairs) -> np.ndarray:
    from rensa import RMinHash, RMinHashLSH

    hashes = []
    for pair in pairs:
        hashes.append(RMinHash(num_perm=NUM_HASHES, seed=1))
        hashes[-1].update(list(ngrams(*pair)))
    index = RMinHashLSH(threshold=THRESHOLD, num_perm=NUM_HASHES, num_bands=16)
    found_N = np.zeros(len(pairs), dtype=bool)
    for number, own in enumerate(hashes):
        found_N[number] = any(own.jaccard(hashes[other]) >= THRESHOLD for other in index.query(own))
        index.insert(number, own)
    return found_N


METHODS: dict[str, Callable[[Pairs], np.ndarray]] = {
    "kdmt": find_with_kdmt,
    "datasketch": find_with_datasketch,
    "rensa": find_with_rensa,
}


if __name__ == "__main__":
    main()
