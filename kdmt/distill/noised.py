"""Noise in the text that a teacher translates: the text of the prepare stage, with some lines changed.

<stage>/noised/
    train.<lang>, monolingual.<lang>    changed text: the lines of the prepare stage in their order
    data-bin/                           the changed source, binarised with the vocabulary of the data
    checksums.json                      SHA-256 of each file, by which damage is found

The draws of a line depend on the seed and on the index of the line alone. A line whose changed source has a token
without an entry in the dictionary stays as it was, if it had none before.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise, repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from kdmt.checksum import CHECKSUMS, file_sha256, known_sha256
from kdmt.config import DistillAugment
from kdmt.corpus.augmentation import MODIFIERS, TextAugmenter, Texts
from kdmt.corpus.binarize import Tags, binarize_text
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.tokenizer import WordsModel, read_chunks
from kdmt.distill.inputs import Inputs
from kdmt.distill.merge import TrainingText
from kdmt.files import PARTIAL, naming, read_optional_json, write_json
from kdmt.languages import Direction, writes_spaces
from kdmt.types import UNK

NOISED = "noised"  # folder inside that of a stage
_CHUNK_LINES = 20_000
_Line = tuple[Texts, str]  # a pair and its tag, which is its direction if there are several


def write_noised_text(inputs: Inputs, settings: DistillAugment, say: Callable[[str], None] = lambda _: None) -> None:
    """Write the changed text of `inputs` to its folder, whole or not at all; nothing if it is there and undamaged.

    Args:
        say: function that prints a line for the user.
    """
    folder = inputs.noised
    assert folder is not None
    if folder.exists():
        if (damage := find_damage(folder)) is None:
            return
        say(f"{damage}; {folder} is made again")
    original, codec = replace(inputs, noised=None), inputs.corpus.codec()
    of_lines = _OfLines.of(inputs, settings, codec)
    with TemporaryDirectory(dir=folder.parent, prefix=PARTIAL) as scratch:
        out = replace(inputs, noised=Path(scratch) / NOISED)
        assert out.noised is not None
        (out.noised / "data-bin").mkdir(parents=True)
        first = 0
        for given, made, prefix in zip(original.texts(), out.texts(), out.source_prefixes(), strict=True):
            first += _write_text(given, made, of_lines, codec, first=first)
            binarize_text(
                made.source,
                prefix,
                model=codec.tokenizers.source,
                dictionary=codec.src_dictionary,
                tags=None if made.tags is None else Tags(made.tags, codec.text.prefixes),
            )
        write_json(
            out.noised / CHECKSUMS,
            {str(path.relative_to(out.noised)): file_sha256(path) for path in files_of(out.noised)},
        )
        if folder.exists():
            shutil.rmtree(folder)
        out.noised.rename(folder)


def files_of(folder: Path) -> list[Path]:
    """Return the files of changed text and of its data-bin, without the record of their checksums."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / CHECKSUMS]


def is_whole(folder: Path) -> bool:
    """Return whether a folder of changed text has the files that were written."""
    return find_damage(folder) is None


def find_damage(folder: Path) -> str | None:
    """Return what is wrong with the files of a folder of changed text; None if they are those that were written."""
    checksums = read_optional_json(folder / CHECKSUMS)
    if checksums is None:
        return f"{folder}: has no {CHECKSUMS}"
    for name, sha256 in checksums.items():
        path = folder / name
        if not path.is_file():
            return f"{path}: missing"
        if known_sha256(path) != sha256:
            return f"{path}: damaged: its sha256 is not the one in {CHECKSUMS}"
    return None


@dataclass(frozen=True)
class _OfLines:
    """Changes of the text of each line.

    Attributes:
        text: changes of the text, and what is drawn; with several directions those of the first one.
        by_direction: changes of the text of each of several directions, by its name; empty for one direction.
    """

    text: TextAugmenter
    by_direction: Mapping[str, TextAugmenter]

    @classmethod
    def of(cls, inputs: Inputs, settings: DistillAugment, codec: TextCodec) -> _OfLines:
        """Return the changes of the text that a teacher translates."""

        def augmenter(direction: Direction, spaced: tuple[bool, bool]) -> TextAugmenter:
            return TextAugmenter(settings, direction, settings.seed, spaced, is_tokenized=codec.text.text.moses)

        is_split = isinstance(codec.tokenizers.source, WordsModel)
        several = {
            str(each): augmenter(each, (is_split or writes_spaces(each.source), is_split or writes_spaces(each.target)))
            for each in codec.text.directions
        }
        text = next(iter(several.values()), augmenter(inputs.corpus.direction, inputs.corpus.spaced))
        return cls(text, several)

    def of_line(self, tag: str) -> TextAugmenter:
        """Return the changes of a line with a tag."""
        return self.by_direction[tag] if self.by_direction else self.text

    def following(self, line: _Line, after: _Line | None) -> Texts | None:
        """Return the next pair, which must be of the same direction; None if it is not."""
        if after is None or (self.by_direction and after[1] != line[1]):
            return None
        return after[0]


def _write_text(given: TrainingText, made: TrainingText, text: _OfLines, codec: TextCodec, *, first: int) -> int:
    """Write the changed lines of one text, and return their number.

    Args:
        first: index of the first line.
    """
    total = 0
    with naming(made.source), made.source.open("w", encoding="utf-8", newline="\n") as sources:
        targets = None if made.target is None else made.target.open("w", encoding="utf-8", newline="\n")
        try:
            for lines, following in pairwise(chain(_chunks(given), [[]])):
                changed = _change_chunk(lines, following[:1], text, codec, first=first + total)
                sources.writelines(f"{source}\n" for source, _ in changed)
                if targets is not None:
                    targets.writelines(f"{target}\n" for _, target in changed)
                total += len(lines)
        finally:
            if targets is not None:
                targets.close()
    return total


def _chunks(text: TrainingText) -> Iterator[list[_Line]]:
    """Yield the lines of a text in chunks; without targets, the source takes their place."""
    sources = read_chunks(text.source, _CHUNK_LINES)
    targets = read_chunks(text.source if text.target is None else text.target, _CHUNK_LINES)
    tags: Iterator[list[str] | None] = repeat(None)
    if text.tags is not None:
        tags = iter(read_chunks(text.tags, _CHUNK_LINES))
    for both in zip(sources, targets, strict=True):
        own = next(tags)
        pairs = list(zip(*both, strict=True))
        yield list(zip(pairs, [""] * len(pairs) if own is None else own, strict=True))


def _change_chunk(
    lines: Sequence[_Line], following: Sequence[_Line], text: _OfLines, codec: TextCodec, *, first: int
) -> list[Texts]:
    """Return the pairs of a chunk, some of them changed.

    Args:
        following: first line of the next chunk, empty if there is none.
        first: index of the first line.
    """
    pairs = [pair for pair, _ in lines]
    drawn = text.text.draw(np.arange(first, first + len(pairs)), epoch=0)
    everything = [*lines, *following]
    changed = list(pairs)
    for place in np.flatnonzero(np.logical_or.reduce(list(drawn.values()))).tolist():
        if not all(map(str.strip, pairs[place])):
            continue
        chosen = [name for name in MODIFIERS if name in drawn and drawn[name][place]]
        after = text.following(lines[place], everything[place + 1] if place + 1 < len(everything) else None)
        own = text.of_line(lines[place][1])
        changed[place] = own.change(pairs[place], after, chosen, (0, first + place))
    differ = [place for place, pair in enumerate(pairs) if changed[place] != pair]
    old, new = (codec.encode_source([texts[place][0] for place in differ]) for texts in (pairs, changed))
    for place, before, now in zip(differ, old, new, strict=True):
        if UNK in now and UNK not in before:
            changed[place] = pairs[place]
    return changed
