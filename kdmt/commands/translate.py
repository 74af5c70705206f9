"""`kdmt translate`: raw text from standard input to standard output."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import BinaryIO

import torch

from kdmt.commands.arrivals import arriving_lines
from kdmt.config import Decode, NATDecode, checked
from kdmt.corpus.formats import HEAD_BYTES, refuse_other_formats
from kdmt.corpus.text_files import MAX_LINE_BYTES, NOT_UTF8, TOO_LONG
from kdmt.decode.engines.translator import Translator
from kdmt.errors import UserError
from kdmt.interop.ctranslate2_folder import proposed_search
from kdmt.log import get_logger
from kdmt.runtime import pick_device, use_threads
from kdmt.streams import input_bytes, output_bytes
from kdmt.terminal import printable

_logger = get_logger(__name__)
_SHORT_LINE = 16  # bytes: too few to recognise another format by


def translate(
    checkpoint: Path,
    *,
    beam: int | None,
    lenpen: float | None,
    max_len_a: float,
    max_len_b: int,
    iterations: int,
    length_beam: int,
    buffer_size: int,
    threads: int,
    device: str,
) -> None:
    """Translate standard input to standard output.

    Args:
        checkpoint: a checkpoint folder, a pointer file, a run or an exported model.
        beam, lenpen: of the search (default: those that an exported model proposes, else those of `Decode`).
        iterations: decoder passes of a non-autoregressive model, at most.
        length_beam: lengths that a non-autoregressive model tries.
        threads: CPU threads, 0 for one for each core.

    Raises:
        UserError: an option is out of range, there is no model, or see `translate_stream`.
    """
    source, target = input_bytes(), output_bytes()
    given = {name: value for name, value in (("beam", beam), ("lenpen", lenpen)) if value is not None}
    checked(Decode, "translate", max_len_a=max_len_a, max_len_b=max_len_b, **given)
    used_threads = use_threads(threads)
    translator = Translator.load(
        checkpoint,
        device=pick_device(device),
        threads=used_threads,
        search=NATDecode(length_beam=length_beam),
        iterations=iterations,
    )
    settings = Decode(**{"max_len_a": max_len_a, "max_len_b": max_len_b} | proposed_search(checkpoint) | given)
    translate_stream(translator, settings, source, target, buffer_size=buffer_size)


def translate_stream(
    translator: Translator, settings: Decode, source: BinaryIO, target: BinaryIO, *, buffer_size: int
) -> None:
    """Translate a stream of UTF-8 lines in bounded memory, one line for one line, as they arrive.

    A line that is not UTF-8 or longer than `MAX_LINE_BYTES` has an empty translation and a message on standard error;
    the other lines are translated. On a terminal, control characters are escaped.

    Args:
        buffer_size: most lines that are translated together.

    Raises:
        UserError: at the end, if some lines could not be read; at once, if the stream is not text.
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
    """Return whether PyTorch or CTranslate2 ran out of memory, for which neither has an exception on a CPU."""
    is_out = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return is_out or re.search(r"can't allocate memory|out of memory|bad_alloc", str(error)) is not None


def _read_line(line: bytes, number: int) -> str | None:
    """Return the text of a line of standard input; None, with a message, if it cannot be read."""
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
