"""The prepare stage for a data-bin of fairseq in place of corpora.

Token files and dictionaries are copied unchanged (several training splits become one); the text is decoded from the
ids.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdmt.config import Prepare
from kdmt.corpus.binarize import data_prefix, dictionary_path
from kdmt.corpus.checks import Finding, check_held_out, check_sides, check_specials, report_findings
from kdmt.corpus.codec import TEXT_FILE, TextCodec
from kdmt.corpus.detokenizer import Detokenizer
from kdmt.corpus.indexed import IndexedDataset, IndexedWriter, bin_path, checked_chunks
from kdmt.corpus.lines import iterate_lines, read_lines, write_lines
from kdmt.corpus.prepared import REPORT, training_chunks
from kdmt.corpus.sentence_lengths import typical_ratio
from kdmt.corpus.subword_model import SubwordModel
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.files import naming, write_json
from kdmt.interop.fairseq.data_bin import DataBin, Split
from kdmt.languages import Direction
from kdmt.types import BOS, EOS, PAD, SPECIALS, UNK

_MOST_OTHERS = 0.5  # maximum share of sentences that a given tokenizer tokenises differently


@dataclass
class _Side:
    """One language of the data-bin, with counts made while it is copied to the stage's folder."""

    lang: str
    model: SubwordModel
    dictionary: Dictionary
    spell: Detokenizer
    tokens: int = 0  # number in the training set, including </s>
    unk: int = 0
    specials: Counter[str] = field(default_factory=Counter)  # special ids inside sentences of the training set
    tried: int = 0  # number of sentences without <unk> whose text was tokenised again
    others: list[str] = field(default_factory=list)  # descriptions of those that became other tokens

    @classmethod
    def both(cls, codec: TextCodec) -> list[_Side]:
        """Return source and target of a codec."""
        models = (codec.tokenizers.source, codec.tokenizers.target)
        dictionaries = (codec.src_dictionary, codec.tgt_dictionary)
        return [
            cls(lang, model, dictionary, Detokenizer(model, dictionary.symbols))
            for lang, model, dictionary in zip(codec.text.direction.sides, models, dictionaries, strict=True)
        ]


def take_data_bin(
    settings: Prepare, direction: Direction, folder: Path, say: Callable[[str], None]
) -> dict[str, object]:
    """Write the files of the stage's folder; return the facts of its manifest.

    Args:
        say: function that prints a line for the user.

    Raises:
        UserError: if the data-bin is incomplete, its dictionaries do not match the setting `joined`, or the given
            tokenizer is not the one that it was made with.
    """
    assert settings.data_bin is not None
    data = DataBin.open(Path(settings.data_bin.path), *direction.sides)
    _check_joined(data, joined=settings.vocabulary.joined)
    codec = _make_codec(settings, data, folder)
    sides = _Side.both(codec)
    training = [data.split(name, parallel=True) for name in data.names("train")]
    if not training:
        data.split("train")  # raises an error that lists the existing splits
    pairs = sum(map(len, training))
    _take(training, "train", sides, folder, data.direction)
    for name in ["valid", *settings.data_bin.test]:
        _take([data.split(name, parallel=True)], name, sides, folder, data.direction)
        _write_raw(codec, name, folder)
    _check_tokenizer(sides)
    others = {side.lang: len(side.others) for side in sides}
    ratio = typical_ratio(training_chunks(folder, data.direction))
    report = {"data_bin": settings.data_bin.path, "pairs": pairs, "typical_ratio": ratio, "cut_otherwise": others}
    findings = _check_text(folder, sides, ["valid", *settings.data_bin.test], pairs)
    write_json(folder / REPORT, report | report_findings(findings, say))
    say(f"prepare: {pairs:,} pairs for training, taken from {data.folder}")
    facts: dict[str, object] = {"pairs_in": pairs, "pairs_out": pairs, "dropped": {}, "cut_otherwise": others}
    return facts | {
        side.lang: {"symbols": len(side.dictionary), "tokens": side.tokens, "unk": side.unk} for side in sides
    }


def _check_text(folder: Path, sides: list[_Side], held_out: list[str], num_pairs: int) -> dict[str, Finding]:
    """Return findings about problems of the text that is decoded from the ids."""
    paths = {name: [folder / f"{name}.{side.lang}" for side in sides] for name in ("train", *held_out)}
    pairs_of = {name: list(zip(*map(iterate_lines, paths[name]), strict=True)) for name in held_out}
    source, target = paths["train"]
    return {
        "held_out": check_held_out(pairs_of),
        "sides": check_sides((source, target), {"train": num_pairs}, pairs_of),
        "special_ids": check_specials({side.lang: +side.specials for side in sides}, ids=True),
    }


def _check_joined(data: DataBin, *, joined: bool) -> None:
    source, target = data.dictionaries
    if joined != (source == target):
        raise UserError(
            f"prepare.vocabulary.joined: {joined}, but the dictionaries of {data.folder} are "
            f"{'the same' if source == target else 'different'}"
        )


def _make_codec(settings: Prepare, data: DataBin, folder: Path) -> TextCodec:
    train_tokenizer(
        settings.tokenizer, (folder, folder), folder / "tokenizer", data.direction
    )  # the tokenizer is given: no text is read
    write_json(folder / TEXT_FILE, TextProcessor(settings.text, *data.direction.sides, None).to_dict())
    (folder / "data-bin").mkdir()
    for lang in data.direction.sides:
        shutil.copyfile(data.folder / f"dict.{lang}.txt", folder / f"dict.{lang}.txt")
        shutil.copyfile(data.folder / f"dict.{lang}.txt", dictionary_path(folder / "data-bin", lang))
    return TextCodec.load(folder)


def _take(splits: list[Split], name: str, sides: list[_Side], folder: Path, direction: Direction) -> None:
    """Write the tokens and the text of splits, which become one split."""
    for number, side in enumerate(sides):
        datasets = [(split.source, split.target)[number] for split in splits]
        prefix = data_prefix(folder / "data-bin", name, direction, side.lang)
        with (
            naming(folder / f"{name}.{side.lang}"),
            IndexedWriter(prefix, len(side.dictionary)) as writer,
            (folder / f"{name}.{side.lang}").open("w", encoding="utf-8", newline="\n") as text,
        ):
            for dataset in datasets:
                assert dataset is not None
                for line in _taken(dataset, side, writer, counted=name == "train"):
                    text.write(f"{line}\n")


def _taken(dataset: IndexedDataset, side: _Side, writer: IndexedWriter, *, counted: bool) -> Iterator[str]:
    """Yield the text of each sentence, and pass its tokens to the writer.

    Args:
        counted: True to count tokens, <unk> and special ids of the side.
    """
    done = 0
    for tokens, sizes in checked_chunks(dataset, len(side.dictionary)):
        writer.add_flat(tokens, sizes)
        if counted:
            side.tokens += len(tokens)
            side.unk += int(np.count_nonzero(tokens == UNK))
            for special, ends in ((BOS, 0), (PAD, 0), (EOS, len(sizes))):
                side.specials[SPECIALS[special]] += int(np.count_nonzero(tokens == special)) - ends
        lines = side.spell.decode(tokens, sizes)
        if not done:
            _try_tokenizer(dataset, lines, side)
        yield from lines
        done += len(lines)


def _try_tokenizer(dataset: IndexedDataset, lines: list[str], side: _Side) -> None:
    """Tokenise the text of a data set's first sentences again, as will be done with distilled text."""
    for index, tokenised in enumerate(side.model.encode_lines(lines)):
        given = dataset[index]
        if UNK in given:
            continue
        side.tried += 1
        if not np.array_equal(side.dictionary.encode_line(tokenised), given):
            side.others.append(
                f"{bin_path(dataset.prefix)}: sentence {index} (from 0) is {side.dictionary.string(given)!r} "
                f"and would become {tokenised!r}"
            )


def _check_tokenizer(sides: list[_Side]) -> None:
    for side in sides:
        if len(side.others) > _MOST_OTHERS * side.tried:
            raise UserError(
                f"the given tokenizer is not that of the data-bin: it cuts {len(side.others)} of {side.tried} "
                f"sentences otherwise; {side.others[0]}"
            )


def _write_raw(codec: TextCodec, name: str, folder: Path) -> None:
    """Write held-out text in detokenised form, with which translations are compared."""
    text = codec.text
    sides = ((text.source_lang, codec.tokenizers.source.join), (text.target_lang, codec.finish_target))
    for lang, finish in sides:
        lines = read_lines(folder / f"{name}.{lang}")
        write_lines(folder / f"{name}.raw.{lang}", map(finish, lines))
