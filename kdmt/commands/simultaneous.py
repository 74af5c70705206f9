"""`kdmt translate --simultaneous`: translate words from standard input while they arrive."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import BinaryIO

from kdmt.commands.arrivals import arriving_words
from kdmt.commands.models import SearchOptions, open_translator
from kdmt.decode.engines.simultaneous import Sentence, SimultaneousTranslator
from kdmt.errors import UserError
from kdmt.streams import input_bytes, output_bytes
from kdmt.terminal import printable


def translate_simultaneously(model: Path, options: SearchOptions, *, wait_k: int | None) -> None:
    """Translate standard input to standard output, word by word.

    Args:
        model: a checkpoint folder, a pointer file or a run.
        options: settings of the search, of which the beam is 1.
        wait_k: number of source tokens that are read before the first target token; None for a model that translates
            in chunks.

    Raises:
        UserError: if an option is out of range or has no effect, the beam is not 1, or the model cannot translate
            simultaneously; see also `translate_words`.
    """
    if options.beam not in (None, 1):
        raise UserError(
            f"--beam {options.beam}: words that were written cannot be replaced, so that simultaneous translation is "
            "greedy: leave out --beam, or --simultaneous"
        )
    for option in ("lenpen", "iterations", "length_beam"):
        if getattr(options, option) != getattr(SearchOptions, option):
            raise UserError(f"--{option.replace('_', '-')} has no effect with --simultaneous")
    translator, settings = open_translator(model, options)
    if translator.codec.text.context is not None:
        raise UserError(f"{model}: --simultaneous cannot translate with a model that reads context ('prepare.context')")
    translate_words(SimultaneousTranslator(translator, settings, wait_k=wait_k), input_bytes(), output_bytes())


def translate_words(translator: SimultaneousTranslator, source: BinaryIO, target: BinaryIO) -> None:
    """Translate the UTF-8 words of a stream as they arrive; each target word is written as soon as it is complete.

    A line of the source is a sentence and gives one line of the target. On a terminal, control characters are escaped.
    A byte order mark at the beginning is left out.

    Raises:
        UserError: if a word is not UTF-8; what was written before stays as it is.
    """
    is_terminal = target.isatty()
    sentence: Sentence | None = None
    number, written = 1, 0

    def write(words: list[str]) -> None:
        nonlocal written
        for word in words:
            text = printable(word) if is_terminal else word
            target.write((b" " if written else b"") + text.encode())
            target.flush()
            written += 1

    for index, arrived in enumerate(arriving_words(source)):
        word = arrived.removeprefix(codecs.BOM_UTF8) if index == 0 and arrived is not None else arrived
        sentence = sentence or translator.begin()
        if word == b"":  # a space after the byte order mark
            continue
        if word is not None:
            try:
                write(sentence.read(word.decode()))
            except UnicodeDecodeError:
                raise UserError(f"standard input: line {number}: {word[:40]!r} is not UTF-8") from None
            continue
        write(sentence.end())
        target.write(b"\n")
        target.flush()
        sentence, number, written = None, number + 1, 0
