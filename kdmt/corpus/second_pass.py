"""Second pass of cleaning: the rules that compare a pair with all others, and the output text.

After the first pass over all corpora (`first_pass.py`), the typical ratio of lengths (`sentence_lengths.py`) and the
duplicates (`duplicates.py`) are known. The pairs that pass these rules are copied to the output.
"""

from __future__ import annotations

import functools
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from kdmt.corpus.dropped import Texts, cut_texts
from kdmt.corpus.duplicates import DuplicateFinder
from kdmt.corpus.first_pass import CHUNK_PAIRS, PassedCorpus
from kdmt.corpus.lines import iterate_lines
from kdmt.corpus.sentence_lengths import length_ratios

Flags = npt.NDArray[np.bool_]

RULES = ("max_ratio", "duplicate")  # rules of this pass that every corpus has a count for


@dataclass(frozen=True)
class Losses:
    """Pairs of a corpus that the rules of the second pass drop.

    Attributes:
        masks: rule -> mask [pairs after the first pass] of the pairs that it drops; no pair is in two masks.
    """

    masks: dict[str, Flags]

    @property
    def dropped_N(self) -> Flags:
        """Mask of all pairs that are dropped; empty if no rule applies."""
        return functools.reduce(np.logical_or, self.masks.values()) if self.masks else np.zeros(0, dtype=bool)


def find_losses(passed: Sequence[PassedCorpus], finder: DuplicateFinder, *, typical: float) -> list[Losses]:
    """Return the pairs of each corpus that the rules of the second pass drop.

    Args:
        finder: finder to which the pairs of all corpora were added, or none if duplicates are kept.
        typical: typical ratio of target to source characters.
    """
    masks: dict[str, Flags] = {}
    num_pairs = [one.num_pairs for one in passed]
    if any(_max_ratio(one) for one in passed):
        masks["max_ratio"] = np.concatenate([_unfit(one, typical) for one in passed])
    if len(finder):
        # a pair with a mismatch of lengths counts for that rule alone: its duplicates have the same mismatch
        repeats_N = finder.find()
        masks["duplicate"] = repeats_N & ~masks["max_ratio"] if "max_ratio" in masks else repeats_N
    split = {rule: np.split(mask_N, np.cumsum(num_pairs)[:-1]) for rule, mask_N in masks.items()}
    return [Losses({rule: masks[number] for rule, masks in split.items()}) for number in range(len(passed))]


def _max_ratio(one: PassedCorpus) -> float:
    """Return the maximum ratio of the lengths of a corpus; 0 for no limit."""
    return 0.0 if one.clean == "none" else one.clean.max_ratio


def _unfit(one: PassedCorpus, typical: float) -> Flags:
    """Return the mask of the pairs with a mismatch of lengths."""
    unfit_N = np.zeros(one.num_pairs, dtype=bool)
    max_ratio = _max_ratio(one)
    if not max_ratio:
        return unfit_N
    with one.characters.open("rb") as file:
        for start in range(0, one.num_pairs, CHUNK_PAIRS):
            stop = min(start + CHUNK_PAIRS, one.num_pairs)
            lengths_N2 = np.fromfile(file, dtype=np.uint32, count=2 * (stop - start)).reshape(-1, 2)
            unfit_N[start:stop] = length_ratios(lengths_N2[:, 0], lengths_N2[:, 1], typical) > max_ratio
    return unfit_N


@dataclass(frozen=True)
class OutputCorpus:
    """A corpus in the output: which pairs of the text after the first pass it has, and how often.

    Attributes:
        dropped_N: mask of the dropped pairs; empty if none is dropped.
        copies: number of times that the corpus is in the output.
        num_pairs: number of its pairs in the output, over all copies.
    """

    passed: PassedCorpus
    dropped_N: Flags
    copies: int
    num_pairs: int


def write_output(corpora: Sequence[OutputCorpus], out_source: Path, out_target: Path, out_tags: Path) -> None:
    """Write the text of both sides, and the tag of each pair; write no file of tags if no corpus has a tag."""
    _write_side([(one.passed.source, one) for one in corpora], out_source)
    _write_side([(one.passed.target, one) for one in corpora], out_target)
    _write_tags(corpora, out_tags)


def _write_side(texts: Sequence[tuple[Path, OutputCorpus]], out_path: Path) -> None:
    with out_path.open("wb") as out:
        for text, one in texts:
            for _ in range(one.copies):
                _copy_kept(text, one.dropped_N, out)


def _copy_kept(text: Path, dropped_N: Flags, out: BinaryIO) -> None:
    with text.open("rb") as lines:
        for start in range(0, len(dropped_N), CHUNK_PAIRS):
            kept_N = ~dropped_N[start : start + CHUNK_PAIRS]
            out.writelines(itertools.compress(itertools.islice(lines, len(kept_N)), kept_N.tobytes()))
        shutil.copyfileobj(lines, out)  # all lines if `dropped_N` is empty


def _write_tags(corpora: Sequence[OutputCorpus], out_path: Path) -> None:
    if all(one.passed.corpus.tag is None for one in corpora):
        return
    with out_path.open("wb") as out:
        for one in corpora:
            out.writelines(itertools.repeat(f"{one.passed.corpus.tag or ''}\n".encode(), one.num_pairs))


def texts_at(one: PassedCorpus, positions: list[int]) -> list[Texts]:
    """Return the beginnings of the pairs at these indices, which must be ascending."""
    pairs = zip(iterate_lines(one.source), iterate_lines(one.target), strict=True)
    numbered = itertools.islice(enumerate(pairs), positions[-1] + 1)
    return [cut_texts(*pair) for position, pair in numbered if position in positions]
