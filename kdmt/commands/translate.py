"""`kdmt translate`: translate raw text from standard input to standard output."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from kdmt.commands.arrivals import arriving_lines
from kdmt.config import Decode, NATDecode, checked
from kdmt.corpus.formats import HEAD_BYTES, refuse_other_formats
from kdmt.corpus.unreadable import MAX_LINE_BYTES, NOT_UTF8, TOO_LONG
from kdmt.decode.engines.translator import Translator
from kdmt.errors import UserError
from kdmt.interop.ctranslate2_folder import proposed_search
from kdmt.log import get_logger
from kdmt.runtime import pick_device, use_threads
from kdmt.streams import input_bytes, output_bytes
from kdmt.terminal import printable

_logger = get_logger(__name__)
_SHORT_LINE = 16  # bytes; too short for recognising another format


@dataclass(frozen=True)
class SearchOptions:
    """Options of the search of `kdmt translate` and `kdmt serve`.

    Attributes:
        beam, lenpen: settings of the search (default: those proposed by an exported model, else those of `Decode`).
        max_len_a, max_len_b: settings of the search.
        iterations: maximum number of decoder passes of a non-autoregressive model.
        length_beam: number of lengths that a non-autoregressive model tries.
        threads: number of CPU threads; 0 for one per core.
        device: auto, cpu, cuda or cuda:<n>.
    """

    beam: int | None = None
    lenpen: float | None = None
    max_len_a: float = 1.2
    max_len_b: int = 10
    iterations: int = 10
    length_beam: int = 1
    threads: int = 0
    device: str = "auto"


def open_translator(path: Path, options: SearchOptions) -> tuple[Translator, Decode]:
    """Return the translator of a model, and the settings of its search.

    Raises:
        UserError: if an option is out of range or there is no model.
    """
    given = {name: value for name in ("beam", "lenpen") if (value := getattr(options, name)) is not None}
    lengths = {"max_len_a": options.max_len_a, "max_len_b": options.max_len_b}
    checked(Decode, "translate", **lengths, **given)
    used_threads = use_threads(options.threads)
    translator = Translator.load(
        path,
        device=pick_device(options.device),
        threads=used_threads,
        search=NATDecode(length_beam=options.length_beam),
        iterations=options.iterations,
        precision="auto",
    )
    return translator, Decode(**lengths | proposed_search(path) | given)


def translate(checkpoint: Path, options: SearchOptions, *, buffer_size: int) -> None:
    """Translate standard input to standard output.

    Args:
        checkpoint: checkpoint folder, pointer file, run or exported model.
        options: settings of the search.

    Raises:
        UserError: if an option is out of range or there is no model; see also `translate_stream`.
    """
    source, target = input_bytes(), output_bytes()
    translator, settings = open_translator(checkpoint, options)
    translate_stream(translator, settings, source, target, buffer_size=buffer_size)


def translate_stream(
    translator: Translator, settings: Decode, source: BinaryIO, target: BinaryIO, *, buffer_size: int
) -> None:
    """Translate the UTF-8 lines of a stream as they arrive, in bounded memory. Each line gives one output line.

    A line that is not UTF-8 or is longer than `MAX_LINE_BYTES` gets an empty translation and a message on standard
    error; the other lines are translated. On a terminal, control characters are escaped.

    Args:
        buffer_size: maximum number of lines that are translated together.

    Raises:
        UserError: at the end, if some lines cannot be read; immediately, if the stream is not text or memory is full.
    """
    done, refused = 0, list[int]()
    is_terminal = target.isatty()
    for lines in arriving_lines(source, buffer_size):
        texts = []
        for number, line in enumerate(lines, start=done + 1):
            text = _read_line(line, number)
            refused += [number] if text is None else []
            texts.append(text or "")
        try:
            translations = translator.translate(texts, settings, first_line=done + 1)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise UserError(f"out of memory: a beam smaller than {settings.beam:,} needs less memory") from None
        if is_terminal:
            translations = [printable(line, keep="\t") for line in translations]
        target.writelines(line.encode() + b"\n" for line in translations)
        target.flush()
        done += len(lines)
    if refused:
        raise UserError(
            f"standard input: {len(refused):,} of {done:,} lines cannot be read, the first is line {refused[0]}; their "
            "translations are empty"
        )


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether PyTorch or CTranslate2 ran out of memory. On a CPU, neither has an exception class for this."""
    is_out = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return is_out or re.search(r"can't allocate memory|out of memory|bad_alloc", str(error)) is not None


def _read_line(line: bytes, number: int) -> str | None:
    """Return the text of a line of standard input, or log a message and return None if it cannot be read."""
    if number == 1:
        if len(line) > _SHORT_LINE:
            refuse_other_formats(line[:HEAD_BYTES], "standard input", sentences=False)
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        if len(line) <= MAX_LINE_BYTES:
            return line.decode().rstrip("\r")
        problem = TOO_LONG.reason
    except UnicodeDecodeError:
        problem = NOT_UTF8.reason
    _logger.warning(f"line {number}: {problem}, its translation is empty")
    return None
