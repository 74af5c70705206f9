"""The work of the stages that align training sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from kdmt.corpus.batching import ParallelData, open_split
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.direction_codecs import read_directions
from kdmt.corpus.token_alignment import TokenAligner
from kdmt.corpus.word_links import (
    Links,
    LinksWriter,
    links_of_tokens,
    offsets_path,
    parse_links,
    words_of_tokens,
)
from kdmt.errors import UserError
from kdmt.flow.manifest import Plan, begin, finish
from kdmt.flow.progress import sentence_progress
from kdmt.stages.training_inputs import LINKS, LearnedAlignment, tags_file
from kdmt.stages.workspace import Workspace


def make_alignment(workspace: Workspace, wanted: LearnedAlignment, plan: Plan) -> None:
    """Write the links of each pair of a training set.

    Raises:
        UserError: if a file of links does not fit the training set; the message names the line.
    """
    folder = wanted.folder(workspace)
    data = open_split(workspace.training_set(wanted.data) / "data-bin", "train", workspace.direction)
    codec = TextCodec.load(workspace.prepare)
    begin(folder, plan, workspace.resolved_config())
    path, num_links = folder / LINKS, 0
    name = f"alignment of {wanted.data}"
    with LinksWriter(path) as writer, sentence_progress(name, len(data)) as progress:
        for links in _links(workspace, wanted, data, codec):
            writer.add(links)
            num_links += len(links)
            progress(1)
    facts = {"num_pairs": len(data), "num_links": num_links}
    workspace.say(f"{name}: {num_links:,} links in {len(data):,} pairs")
    finish(folder, plan, outputs=[path, offsets_path(path)], facts=facts)


def _links(workspace: Workspace, wanted: LearnedAlignment, data: ParallelData, codec: TextCodec) -> Iterator[Links]:
    if wanted.file is not None:
        tags = ([*workspace.config.source_tags, *codec.language_tokens], codec.language_tokens)
        return given_links(
            Path(wanted.file),
            data,
            None if wanted.unit == "tokens" else codec,
            tags,
            takes_first_token=workspace.config.decoder_reads_token,
        )
    if workspace.config.is_multilingual:
        return _links_of_directions(workspace, wanted.data, data, codec)
    return _learnt_links(workspace, wanted.data, data, codec)


def _learnt_links(
    workspace: Workspace, name: str, data: ParallelData, codec: TextCodec, pairs: NDArray[np.int64] | None = None
) -> Iterator[Links]:
    """Return the links of some pairs, from a model that is learnt from them.

    Args:
        name: name of the training set.
        pairs: their indices (default: all).
    """
    sizes = (len(codec.src_dictionary), len(codec.tgt_dictionary))
    of_languages, of_targets = codec.language_ids
    tags = [tag for tag in workspace.config.tags_of(name) if tag in codec.src_dictionary]
    tag_ids = (of_languages.union(map(codec.src_dictionary.index, tags)), of_targets)
    try:
        aligner = TokenAligner(data, sizes, pairs=pairs, tag_ids=tag_ids)
    except ValueError as error:
        raise UserError(f"alignment of {name}: {error}") from None
    return aligner.align(data)


def _links_of_directions(workspace: Workspace, name: str, data: ParallelData, codec: TextCodec) -> Iterator[Links]:
    """Yield the links of all pairs in their order, from a model of each direction."""
    names = [str(each) for each in workspace.config.trained_directions]
    direction_P = read_directions([tags_file(workspace, name)], names)
    found: dict[int, Iterator[Links]] = {}
    for number in map(int, direction_P):
        if number not in found:
            found[number] = _learnt_links(workspace, name, data, codec, np.flatnonzero(direction_P == number))
        yield next(found[number])


def given_links(
    path: Path,
    data: ParallelData,
    codec: TextCodec | None,
    tags: tuple[Sequence[str], Sequence[str]] = ((), ()),
    *,
    takes_first_token: bool = False,
) -> Iterator[Links]:
    """Yield the links of a file between the tokens of each pair.

    Args:
        codec: tokenizer and dictionaries, if the file counts words; None if it counts tokens.
        tags: tokens before the sources and before the targets in the data-bin, which are not words of the text.
        takes_first_token: whether the decoder takes the first token of the source, which the encoder does not read.

    Raises:
        UserError: if a line is no line of links, or does not fit its pair; the message names the line.
    """
    with path.open("rb") as file:
        for number in range(len(data)):
            where = f"{path}:{number + 1}"
            links = _links_of_pair(file, where, data, number, codec, tags)
            if takes_first_token and len(links) and not links[:, 0].all():
                raise UserError(
                    f"{where}: a link from source token 0, the language token of the decoder, which the encoder does "
                    "not read"
                )
            yield links
        if file.readline():
            raise UserError(f"{path}: more lines than the {len(data):,} pairs of the training set")


def _links_of_pair(
    file: BinaryIO,
    where: str,
    data: ParallelData,
    number: int,
    codec: TextCodec | None,
    tags: tuple[Sequence[str], Sequence[str]],
) -> Links:
    line = file.readline()
    if not line:
        raise UserError(f"{where}: there is no such line: the training set has {len(data):,} pairs")
    source, target = data[number]
    assert target is not None
    if codec is None:
        words = [np.arange(len(side) - 1) for side in (source, target)]
    else:
        sides = ((codec.src_dictionary, source), (codec.tgt_dictionary, target))
        src_symbols, tgt_symbols = ([own.symbols[token] for token in side[:-1]] for own, side in sides)
        words = [words_of_tokens(src_symbols, tags[0]), words_of_tokens(tgt_symbols, tags[1])]
    try:
        return links_of_tokens(parse_links(line, where), *words)
    except IndexError as error:
        raise UserError(f"{where}: {error}") from None
