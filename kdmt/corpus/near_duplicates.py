"""Search for near-duplicates in bounded memory, by min-wise hashing (MinHash) and locality-sensitive hashing (LSH).

The similarity of two pairs is the Jaccard index of their sets of character 5-grams: the number of n-grams that both
have, divided by the number that either has. The n-grams are those of both sides, where one of the source differs from
the same one of the target, after case, punctuation and whitespace are removed (`comparison_key`). Four pad characters
stand before each side, so that a line of m characters has m n-grams, whichever its length.

The search has three steps:

1. Signature: each n-gram has one 64-bit hash. Its upper 6 bits choose one of 64 bins, its lower 32 bits are its value,
   and the signature has the smallest value of each bin (one permutation hashing, Li, Owen & Zhang 2012). An empty bin
   takes the value of the next one that is not empty, plus a constant for each step (densification by rotation,
   Shrivastava & Li 2014). Two signatures have equal values in a bin with a probability of the similarity.
2. Candidates: r bins form a band, and pairs with an equal band form a bucket, in which each pair is compared with the
   first pair and with the one before it. For a threshold t, r is the largest number of bins with which two pairs of
   similarity t have an equal band with a probability of at least 0.95: 1 - (1 - t^r)^b with b = 64 // r bands. (0.8:
   10 bands of 6.) If one bit of each bin (b-bit MinHash, Li & König 2010) gives an estimate far below the threshold,
   the candidates are not compared.
3. Comparison: the similarity of the remaining candidates is computed from their text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdmt.corpus.duplicates import Flags, Places, item_indices, number_items
from kdmt.corpus.hashing import MULTIPLIER, Hashes, hash_windows, mix
from kdmt.corpus.partitions import Partitions

NGRAM = 5
NUM_BINS = 64
_MIN_RECALL = 0.95  # least probability that two pairs of the threshold's similarity become candidates
_MARGIN = 0.3  # three standard deviations of the estimate of a similarity of 0.8
_HASHED_AT_ONCE = 500  # pairs whose arrays fit into the cache of a processor: twice as fast as 10,000
_COMPARED_AT_ONCE = 5_000  # candidates whose text is in memory at the same time
_PAD = "\n" * (NGRAM - 1)
_EMPTY = np.uint32(0xFFFFFFFF)
_STEP = np.uint32(0x9E3779B1)  # added for each step of the densification
_TARGET = np.uint64(0xD1B54A32D192ED03)  # makes the hash of an n-gram of the target differ from one of the source
_RECORD = np.dtype([("key", "<u8"), ("place", "<u8")])

Indices = npt.NDArray[np.int64]
Keys = tuple[Sequence[bytes], Sequence[bytes]]  # comparison keys of the sources and of the targets of pairs


@dataclass(frozen=True)
class NearHashes:
    """The values by which near-duplicates of pairs are searched for.

    Attributes:
        bands_KN: hash of each band, uint64 [bands, pairs].
        sketches_N: one bit of each bin, as 64-bit numbers; 0 for pairs without an n-gram, which have no near-duplicate.
    """

    bands_KN: Hashes
    sketches_N: Hashes


def choose_bands(threshold: float) -> tuple[int, int]:
    """Return the number of bands and of bins of each for a threshold of the similarity."""
    shapes = [(NUM_BINS // rows, rows) for rows in range(1, NUM_BINS // 4 + 1)]
    return [(bands, rows) for bands, rows in shapes if 1 - (1 - threshold**rows) ** bands >= _MIN_RECALL][-1]


def hash_pairs(keys: Keys, threshold: float) -> NearHashes:
    """Return the hashes of pairs for a search with a threshold of the similarity."""
    bands, rows = choose_bands(threshold)
    num_pairs = len(keys[0])
    bands_KN, sketches_N = np.empty((bands, num_pairs), dtype=np.uint64), np.empty(num_pairs, dtype=np.uint64)
    for start in range(0, num_pairs, _HASHED_AT_ONCE):
        part = slice(start, start + _HASHED_AT_ONCE)
        signatures_BN, is_empty_N = compute_signatures((keys[0][part], keys[1][part]))
        bands_KN[:, part] = _hash_bands(signatures_BN, bands, rows)
        sketches_N[part] = np.where(is_empty_N, np.uint64(0), _pack_bits(signatures_BN) | np.uint64(1))
    return NearHashes(bands_KN, sketches_N)


def compute_signatures(keys: Keys) -> tuple[npt.NDArray[np.uint32], Flags]:
    """Return the signature of each pair [bins, pairs], and whether it has no n-gram."""
    num_pairs = len(keys[0])
    hashes_M, pairs_M = _hash_ngrams(keys)
    bins_M = (hashes_M >> np.uint64(65 - NUM_BINS.bit_length())).astype(np.intp)
    smallest = np.full(NUM_BINS * num_pairs, _EMPTY)
    np.minimum.at(smallest, bins_M * num_pairs + pairs_M, hashes_M.astype(np.uint32))
    signatures_BN = smallest.reshape(NUM_BINS, num_pairs)
    for number in reversed(range(2 * NUM_BINS)):  # twice around, because the last bins take values of the first ones
        own_N = signatures_BN[number % NUM_BINS]
        np.copyto(own_N, signatures_BN[(number + 1) % NUM_BINS] + _STEP, where=own_N == _EMPTY)
    return signatures_BN, np.bincount(pairs_M, minlength=num_pairs) == 0


def _hash_ngrams(keys: Keys) -> tuple[Hashes, npt.NDArray[np.intp]]:
    """Return the hash of each n-gram and the index of its pair."""
    lines = [line.decode() for side in keys for line in side]
    num_pairs = len(keys[0])
    codes_C = np.frombuffer((_PAD + _PAD.join(lines)).encode("utf-32-le"), dtype="<u4")
    hashes_M = hash_windows(codes_C, NGRAM)[codes_C[NGRAM - 1 :] != ord("\n")]  # n-grams that end within a line
    lengths = np.fromiter(map(len, lines), np.intp, len(lines))
    hashes_M[lengths[:num_pairs].sum() :] ^= _TARGET
    return hashes_M, np.repeat(np.tile(np.arange(num_pairs), 2), lengths)


def _hash_bands(signatures_BN: npt.NDArray[np.uint32], bands: int, rows: int) -> Hashes:
    keys_KN = np.repeat(np.arange(bands, dtype=np.uint64)[:, None], signatures_BN.shape[1], axis=1)
    for row in range(rows):
        keys_KN = mix(keys_KN * MULTIPLIER + signatures_BN[row : bands * rows : rows])
    return keys_KN


def _pack_bits(signatures_BN: npt.NDArray[np.uint32]) -> Hashes:
    bits_NB = np.ascontiguousarray((signatures_BN & np.uint32(1)).astype(np.uint8).T)
    return np.packbits(bits_NB, axis=1, bitorder="little").view("<u8").reshape(-1)


def estimate_similarity(one_N: Hashes, other_N: Hashes) -> npt.NDArray[np.float64]:
    """Return the estimated similarity of pairs: with a share p of equal bits of their sketches, it is 2p - 1."""
    return 1.0 - 2.0 * np.bitwise_count(one_N ^ other_N) / NUM_BINS


def compute_similarity(one: Keys, other: Keys) -> npt.NDArray[np.float64]:
    """Return the similarity of each pair in `one` to the pair in `other` with the same index."""
    num_pairs = len(one[0])
    # the index of the pair takes the place of the lowest bits of each hash
    index_bits = np.uint64(max(num_pairs - 1, 1).bit_length())
    found = []
    for keys in (one, other):
        hashes_M, pairs_M = _hash_ngrams(keys)
        found.append(np.unique((pairs_M.astype(np.uint64) << (np.uint64(64) - index_bits)) | (hashes_M >> index_bits)))
    all_M = np.sort(np.concatenate(found))
    common = all_M[1:][all_M[1:] == all_M[:-1]]
    num_common, num_all = (
        np.bincount((values >> (np.uint64(64) - index_bits)).astype(np.intp), minlength=num_pairs)
        for values in (common, all_M)
    )
    return num_common / np.maximum(num_all - num_common, 1)


class NearDuplicateFinder:
    """Finds pairs that are near-duplicates of earlier ones.

    A pair is a near-duplicate if its similarity to an earlier pair is at least the threshold. Earlier pairs that are
    near-duplicates themselves count too. The result does not depend on the sizes of the chunks that are added.

    Args:
        workdir: existing folder for temporary files (16 bytes per band and 8 bytes per pair); the caller removes it.
        threshold: least similarity of near-duplicates, from 0.5 to 1.

    Raises:
        OSError: from all methods, if the disk is full.
    """

    def __init__(self, workdir: Path, threshold: float) -> None:
        self.threshold = threshold
        self._partitions = Partitions(workdir, "bands", _RECORD)
        self._sketches = workdir / "sketches"
        self._sketches.write_bytes(b"")
        self._num_pairs = 0

    def add(self, hashes: NearHashes, *, second: bool = False) -> None:
        """Append pairs.

        Args:
            second: whether these pairs count as later than all pairs without this flag.
        """
        places_N = number_items(self._num_pairs, len(hashes.sketches_N), second=second)
        self._num_pairs += len(places_N)
        has_text_N = hashes.sketches_N != 0
        records_KN = np.empty((len(hashes.bands_KN), int(has_text_N.sum())), dtype=_RECORD)
        records_KN["key"] = hashes.bands_KN[:, has_text_N]
        records_KN["place"] = places_N[has_text_N]
        self._partitions.add(records_KN.reshape(-1), records_KN["key"].reshape(-1))
        with self._sketches.open("ab") as file:
            hashes.sketches_N.tofile(file)

    def find(self, read_keys: Callable[[Indices], Keys], *, excluded_N: Flags) -> Flags:
        """Return whether each pair is a near-duplicate of an earlier one, bool [pairs].

        Args:
            read_keys: function that returns the comparison keys of the pairs with these indices, which ascend.
            excluded_N: mask of pairs that are ignored, as if they had not been added.
        """
        dropped_N = np.zeros(self._num_pairs, dtype=bool)
        if not self._num_pairs:
            return dropped_N
        sketches_N = np.memmap(self._sketches, dtype="<u8", mode="r")
        for records_M in self._partitions.read():
            records_M = records_M[~excluded_N[item_indices(records_M["place"])]]
            later, earlier = _candidates(records_M)
            is_open = ~dropped_N[later]
            later, earlier = later[is_open], earlier[is_open]
            is_close = estimate_similarity(sketches_N[later], sketches_N[earlier]) >= self.threshold - _MARGIN
            later, earlier = later[is_close], earlier[is_close]
            for start in range(0, len(later), _COMPARED_AT_ONCE):
                pairs = (later[start : start + _COMPARED_AT_ONCE], earlier[start : start + _COMPARED_AT_ONCE])
                similar = _compare(*pairs, read_keys) >= self.threshold
                dropped_N[pairs[0][similar]] = True
        return dropped_N


def _candidates(records_M: npt.NDArray[np.void]) -> tuple[Indices, Indices]:
    """Return distinct candidates as the index of the later and of the earlier pair, in the order of the later ones."""
    records_M = records_M[np.lexsort((records_M["place"], records_M["key"]))]
    is_new_M = np.ones(len(records_M), dtype=bool)
    is_new_M[1:] = records_M["key"][1:] != records_M["key"][:-1]
    places_M: Places = records_M["place"]
    first_M = places_M[np.flatnonzero(is_new_M)[np.cumsum(is_new_M) - 1]]
    later = np.flatnonzero(~is_new_M)
    edges = np.concatenate(
        [np.stack([places_M[later], other], axis=1) for other in (first_M[later], places_M[later - 1])]
    )
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    is_distinct = np.ones(len(edges), dtype=bool)
    is_distinct[1:] = (edges[1:] != edges[:-1]).any(axis=1)
    edges = edges[is_distinct]
    return item_indices(edges[:, 0]), item_indices(edges[:, 1])


def _compare(later: Indices, earlier: Indices, read_keys: Callable[[Indices], Keys]) -> npt.NDArray[np.float64]:
    indices, positions = np.unique(np.concatenate([later, earlier]), return_inverse=True)
    sources, targets = read_keys(indices)
    sides = [([sources[n] for n in part], [targets[n] for n in part]) for part in np.split(positions, 2)]
    return compute_similarity(sides[0], sides[1])
