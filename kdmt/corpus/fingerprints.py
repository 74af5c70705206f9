"""Fingerprints of pairs, by which the second pass of cleaning compares each pair with all others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdmt.config import Clean
from kdmt.corpus.decontaminate import comparison_key
from kdmt.corpus.duplicates import DIGEST_BYTES, DuplicateFinder
from kdmt.corpus.near_duplicates import Keys, NearDuplicateFinder, NearHashes, hash_pairs


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of the pairs of a chunk.

    Attributes:
        digests: digests of 16 bytes by what they are of: "pair", "source", "target".
        near: hashes for the search for near-duplicates, None if there is no search.
    """

    digests: Mapping[str, bytes] = field(default_factory=dict)
    near: NearHashes | None = None


def digest_kinds(clean: Clean) -> tuple[str, ...]:
    """Return which digests the search for duplicates needs."""
    if not clean.drop_duplicates:
        return ()
    sides = {"pair": (), "source": ("source",), "target": ("target",), "either": ("source", "target")}[clean.duplicates]
    # with several pairs of one source, their targets must differ; with one pair, duplicates of it are found anyway
    return sides if sides and clean.max_duplicates == 1 else ("pair", *sides)


def compute_fingerprints(
    sources: Sequence[str], targets: Sequence[str], clean: Clean, *, keys: Keys | None = None
) -> Fingerprints:
    """Return the fingerprints of pairs that the settings need.

    Args:
        keys: comparison keys of both sides if they are known.
    """
    # no line contains a newline, so different pairs give different text
    texts = {"pair": map("\n".join, zip(sources, targets, strict=True)), "source": sources, "target": targets}
    digests = {kind: b"".join(map(_digest, texts[kind])) for kind in digest_kinds(clean)}
    near = None
    if clean.near_duplicates:
        if keys is None:
            keys = [comparison_key(line) for line in sources], [comparison_key(line) for line in targets]
        near = hash_pairs(keys, clean.near_duplicates)
    return Fingerprints(digests, near)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


class Finders:
    """The searches for duplicates and near-duplicates that the settings need.

    Args:
        workdir: existing folder for temporary files; the caller removes it.
        clean: settings of the rules; None for no search.
    """

    def __init__(self, workdir: Path, clean: Clean | None) -> None:
        kinds = () if clean is None else digest_kinds(clean)
        self.exact = {kind: DuplicateFinder(workdir, f"digests-{kind}") for kind in kinds}
        self.near: NearDuplicateFinder | None = None
        if clean is not None and clean.near_duplicates:
            self.near = NearDuplicateFinder(workdir, clean.near_duplicates)

    def add(self, fingerprints: Fingerprints, *, second: bool) -> None:
        """Append pairs, which count as later than all others if `second` is true."""
        for kind, finder in self.exact.items():
            finder.add(fingerprints.digests[kind], second=second)
        if self.near is not None:
            assert fingerprints.near is not None
            self.near.add(fingerprints.near, second=second)
