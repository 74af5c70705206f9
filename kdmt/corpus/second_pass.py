"""Second pass of cleaning: the rules that compare a pair with all others, and the output text.

After the first pass over all corpora (`first_pass.py`), the typical ratio of lengths (`sentence_lengths.py`), the
duplicates (`duplicates.py`) and the near-duplicates (`near_duplicates.py`) can be determined. The pairs that pass these
rules are copied to the output.
"""

from __future__ import annotations

import functools
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from kdmt.config import Clean
from kdmt.corpus.decontaminate import comparison_key
from kdmt.corpus.dropped import Texts, cut_texts
from kdmt.corpus.duplicates import Flags, find_either
from kdmt.corpus.fingerprints import Finders
from kdmt.corpus.first_pass import CHUNK_PAIRS, PassedCorpus
from kdmt.corpus.line_index import IndexedLines
from kdmt.corpus.lines import iterate_lines
from kdmt.corpus.near_duplicates import Keys, NearDuplicateFinder
from kdmt.corpus.sentence_lengths import length_ratios

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


def find_losses(
    passed: Sequence[PassedCorpus], finders: Finders, clean: Clean | None, *, typical: float, workdir: Path
) -> list[Losses]:
    """Return the pairs of each corpus that the rules of the second pass drop.

    Each rule looks at the pairs that the ones before it keep, as if there were no others.

    Args:
        finders: finders to which the pairs of all corpora were added.
        clean: settings of the rules; None for no rules.
        typical: typical ratio of target to source characters.
        workdir: existing folder for temporary files.
    """
    masks: dict[str, Flags] = {}
    if clean is not None:
        dropped_N = np.zeros(sum(one.num_pairs for one in passed), dtype=bool)
        for rule, find in _rules(passed, finders, clean, typical, workdir):
            masks[rule] = find(dropped_N) & ~dropped_N
            dropped_N |= masks[rule]
    ends = np.cumsum([one.num_pairs for one in passed])
    split = {rule: np.split(mask_N, ends[:-1]) for rule, mask_N in masks.items()}
    return [Losses({rule: parts[number] for rule, parts in split.items()}) for number in range(len(passed))]


def _rules(
    passed: Sequence[PassedCorpus], finders: Finders, clean: Clean, typical: float, workdir: Path
) -> Iterator[tuple[str, Callable[[Flags], Flags]]]:
    """Yield the name of each rule and the function that returns the mask of the pairs that it drops.

    The argument of the functions is the mask of the pairs that are dropped already.
    """
    if any(_max_ratio(one) for one in passed):
        yield "max_ratio", lambda _: np.concatenate([_unfit(one, typical) for one in passed])
    exact, limit = finders.exact, clean.max_duplicates
    if "pair" in exact:
        pair_limit = limit if clean.duplicates == "pair" else 1
        yield "duplicate", lambda dropped_N: exact["pair"].find(limit=pair_limit, excluded_N=dropped_N)
    if clean.duplicates in ("source", "target"):
        of_side = exact[clean.duplicates]
        yield f"duplicate_{clean.duplicates}", lambda dropped_N: of_side.find(limit=limit, excluded_N=dropped_N)
    if clean.duplicates == "either":
        sides = exact["source"], exact["target"]
        yield "duplicate_either", lambda dropped_N: find_either(*sides, limit=limit, excluded_N=dropped_N)
    if finders.near is not None:
        near = finders.near
        yield "near_duplicate", lambda dropped_N: _find_near(passed, near, dropped_N, workdir)


def _find_near(passed: Sequence[PassedCorpus], finder: NearDuplicateFinder, dropped_N: Flags, workdir: Path) -> Flags:
    with (
        IndexedLines([one.source for one in passed], workdir / "source.offsets") as sources,
        IndexedLines([one.target for one in passed], workdir / "target.offsets") as targets,
    ):

        def read_keys(indices: npt.NDArray[np.int64]) -> Keys:
            source_keys, target_keys = (
                [comparison_key(line.decode()) for line in side.read(indices)] for side in (sources, targets)
            )
            return source_keys, target_keys

        return finder.find(read_keys, excluded_N=dropped_N)


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
