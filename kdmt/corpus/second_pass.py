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

from kdmt.config import Clean, Mixing
from kdmt.corpus.decontaminate import comparison_key
from kdmt.corpus.dropped import Texts, cut_texts
from kdmt.corpus.duplicates import Flags, find_either
from kdmt.corpus.fingerprints import Finders
from kdmt.corpus.first_pass import CHUNK_PAIRS, PassedCorpus, TrainingCorpus
from kdmt.corpus.line_index import IndexedLines
from kdmt.corpus.lines import iterate_lines
from kdmt.corpus.near_duplicates import Keys, NearDuplicateFinder
from kdmt.corpus.sampling import choose_evenly, mixture_sizes
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
class Sizes:
    """Numbers of pairs of a corpus: that the rules keep, that are used of these, and of the output over all copies."""

    kept: int
    used: int
    output: int


def choose_sizes(passed: Sequence[PassedCorpus], losses: Sequence[Losses], mixing: Mixing | None) -> list[Sizes]:
    """Return the numbers of pairs of each corpus in the output."""
    kept = [one.num_pairs - int(np.count_nonzero(own.dropped_N)) for one, own in zip(passed, losses, strict=True)]
    used = [_num_used(one.corpus, count) for one, count in zip(passed, kept, strict=True)]
    if mixing is None:
        output = [count * one.corpus.weight for one, count in zip(passed, used, strict=True)]
    else:
        output = mixture_sizes(used, mixing.temperature, mixing.total_pairs or sum(used))
    return list(map(Sizes, kept, used, output))


def _num_used(corpus: TrainingCorpus, num_kept: int) -> int:
    count = min(num_kept, max(1, round(num_kept * corpus.share)))
    return min(count, corpus.max_pairs) if corpus.max_pairs else count


def choose_output(
    passed: Sequence[PassedCorpus], losses: Sequence[Losses], sizes: Sequence[Sizes], *, seed: int
) -> list[OutputCorpus]:
    """Return the pairs of each corpus that are written: whole copies, then a part of it.

    Args:
        seed: seed of the choice of pairs.
    """
    output = []
    for number, (one, own, size) in enumerate(zip(passed, losses, sizes, strict=True)):
        used_N = _keep_some(own.dropped_N, one.num_pairs, size.kept, size.used, seed=seed, stream=2 * number)
        copies, rest = divmod(size.output, max(size.used, 1))
        masks = [used_N] * copies
        if rest:
            masks.append(_keep_some(used_N, one.num_pairs, size.used, rest, seed=seed, stream=2 * number + 1))
        output.append(OutputCorpus(one, tuple(masks), size.output))
    return output


def _keep_some(dropped_N: Flags, num_pairs: int, num_kept: int, num_chosen: int, *, seed: int, stream: int) -> Flags:
    """Return the mask of dropped pairs after some of the kept ones are chosen."""
    if num_chosen == num_kept:
        return dropped_N
    mask_N = dropped_N.copy() if len(dropped_N) else np.zeros(num_pairs, dtype=bool)
    mask_N[~mask_N] = ~choose_evenly(num_kept, num_chosen, seed=seed, stream=stream)
    return mask_N


@dataclass(frozen=True)
class OutputCorpus:
    """A corpus in the output: which pairs of the text after the first pass it has, and how often.

    Attributes:
        masks: for each copy, the mask of the pairs that it does not have; empty if it has all.
        num_pairs: number of its pairs in the output, over all copies.
    """

    passed: PassedCorpus
    masks: tuple[Flags, ...]
    num_pairs: int


def write_output(corpora: Sequence[OutputCorpus], out_source: Path, out_target: Path, out_tags: Path) -> None:
    """Write the text of both sides, and the tag of each pair; write no file of tags if no corpus has a tag."""
    _write_side([(one.passed.source, one) for one in corpora], out_source)
    _write_side([(one.passed.target, one) for one in corpora], out_target)
    _write_tags(corpora, out_tags)


def _write_side(texts: Sequence[tuple[Path, OutputCorpus]], out_path: Path) -> None:
    with out_path.open("wb") as out:
        for text, one in texts:
            for dropped_N in one.masks:
                _copy_kept(text, dropped_N, out)


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
