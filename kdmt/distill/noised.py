"""Noise in the text that a teacher translates: the text of the prepare stage, with some lines changed.

<stage>/noised/
    train.<lang>, monolingual.<lang>    changed text: the lines of the prepare stage in their order
    data-bin/                           the changed source, binarised with the vocabulary of the data

The draws of a line depend on the seed and on the index of the line alone. A line whose changed source has a token
without an entry in the dictionary stays as it was, if it had none before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from kdmt.config import DistillAugment
from kdmt.corpus.augmentation import MODIFIERS, TextAugmenter, Texts
from kdmt.corpus.binarize import Tags, binarize_text
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.tokenizer import read_chunks
from kdmt.distill.inputs import Inputs
from kdmt.distill.merge import TrainingText
from kdmt.files import PARTIAL, naming
from kdmt.types import UNK

NOISED = "noised"  # folder inside that of a stage
_CHUNK_LINES = 20_000


def write_noised_text(inputs: Inputs, settings: DistillAugment) -> None:
    """Write the changed text of `inputs` to its folder, whole or not at all; nothing if it is there."""
    folder = inputs.noised
    assert folder is not None
    if folder.exists():
        return
    corpus, original, codec = inputs.corpus, replace(inputs, noised=None), inputs.corpus.codec()
    text = TextAugmenter(settings, corpus.direction, settings.seed, corpus.spaced, is_tokenized=codec.text.text.moses)
    with TemporaryDirectory(dir=folder.parent, prefix=PARTIAL) as scratch:
        out = replace(inputs, noised=Path(scratch) / NOISED)
        assert out.noised is not None
        (out.noised / "data-bin").mkdir(parents=True)
        first = 0
        for given, made, prefix in zip(original.texts(), out.texts(), out.source_prefixes(), strict=True):
            first += _write_text(given, made, text, codec, first=first)
            binarize_text(
                made.source,
                prefix,
                model=codec.tokenizers.source,
                dictionary=codec.src_dictionary,
                tags=None if made.tags is None else Tags(made.tags),
            )
        out.noised.rename(folder)


def _write_text(given: TrainingText, made: TrainingText, text: TextAugmenter, codec: TextCodec, *, first: int) -> int:
    """Write the changed lines of one text, and return their number.

    Args:
        first: index of the first line.
    """
    total = 0
    with naming(made.source), made.source.open("w", encoding="utf-8", newline="\n") as sources:
        targets = None if made.target is None else made.target.open("w", encoding="utf-8", newline="\n")
        try:
            for pairs, following in pairwise(chain(_chunks(given), [[]])):
                changed = _change_chunk(pairs, following[:1], text, codec, first=first + total)
                sources.writelines(f"{source}\n" for source, _ in changed)
                if targets is not None:
                    targets.writelines(f"{target}\n" for _, target in changed)
                total += len(pairs)
        finally:
            if targets is not None:
                targets.close()
    return total


def _chunks(text: TrainingText) -> Iterator[list[Texts]]:
    """Yield the pairs of a text in chunks; without targets, the source takes their place."""
    sources = read_chunks(text.source, _CHUNK_LINES)
    if text.target is None:
        yield from ([(line, line) for line in lines] for lines in sources)
    else:
        for both in zip(sources, read_chunks(text.target, _CHUNK_LINES), strict=True):
            yield list(zip(*both, strict=True))


def _change_chunk(
    pairs: Sequence[Texts], following: Sequence[Texts], text: TextAugmenter, codec: TextCodec, *, first: int
) -> list[Texts]:
    """Return the pairs of a chunk, some of them changed.

    Args:
        following: first pair of the next chunk, empty if there is none.
        first: index of the first pair.
    """
    drawn = text.draw(np.arange(first, first + len(pairs)), epoch=0)
    everything = [*pairs, *following]
    changed = list(pairs)
    for place in np.flatnonzero(np.logical_or.reduce(list(drawn.values()))).tolist():
        if not all(map(str.strip, pairs[place])):
            continue
        chosen = [name for name in MODIFIERS if name in drawn and drawn[name][place]]
        after = everything[place + 1] if place + 1 < len(everything) else None
        changed[place] = text.change(pairs[place], after, chosen, (0, first + place))
    differ = [place for place, pair in enumerate(pairs) if changed[place] != pair]
    old, new = (codec.encode_source([texts[place][0] for place in differ]) for texts in (pairs, changed))
    for place, before, now in zip(differ, old, new, strict=True):
        if UNK in now and UNK not in before:
            changed[place] = pairs[place]
    return changed
