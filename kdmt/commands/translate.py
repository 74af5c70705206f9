"""`kdmt translate`: translate raw text from standard input to standard output."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import torch

from kdmt.choices import InputFormat
from kdmt.commands.arrivals import arriving_lines
from kdmt.config import Decode, NATDecode, checked
from kdmt.corpus.formats import HEAD_BYTES, refuse_other_formats
from kdmt.corpus.jsonl import text_problem
from kdmt.corpus.unreadable import MAX_LINE_BYTES, NOT_UTF8, TOO_LONG
from kdmt.decode.engines.translator import Translator
from kdmt.documents.document import text_document
from kdmt.documents.markup import html_document
from kdmt.documents.sentences import check_splitter
from kdmt.errors import UserError
from kdmt.interop.ctranslate2_folder import proposed_search
from kdmt.log import get_logger
from kdmt.runtime import pick_device, use_threads
from kdmt.streams import input_bytes, output_bytes
from kdmt.terminal import printable

_logger = get_logger(__name__)
TEXT_FIELD, TRANSLATION_FIELD = "text", "translation"  # of JSONL
MAX_PAGE_BYTES = 64 << 20
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
        tag: corpus tag that is put before each source sentence.
    """

    beam: int | None = None
    lenpen: float | None = None
    max_len_a: float = 1.2
    max_len_b: int = 10
    iterations: int = 10
    length_beam: int = 1
    threads: int = 0
    device: str = "auto"
    tag: str | None = None


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
    if options.tag is not None:
        translator = translator.with_tag(options.tag)
    return translator, Decode(**lengths | proposed_search(path) | given)


def translate(
    checkpoint: Path, options: SearchOptions, *, buffer_size: int, input_format: InputFormat, is_document: bool
) -> None:
    """Translate standard input to standard output.

    Args:
        checkpoint: checkpoint folder, pointer file, run or exported model.
        options: settings of the search.
        buffer_size: maximum number of lines, or of sentences of an HTML page, that are translated together.
        input_format: format of standard input.
        is_document: whether lines, or the texts in JSONL, are split into sentences.

    Raises:
        UserError: if an option is out of range or there is no model; see also `translate_stream`.
    """
    if is_document or input_format == "html":
        check_splitter()
    source, target = input_bytes(), output_bytes()
    translator, settings = open_translator(checkpoint, options)
    if input_format == "html":
        translate_page(translator, settings, source, target, buffer_size=buffer_size)
        return
    translate_stream(
        translator,
        settings,
        source,
        target,
        buffer_size=buffer_size,
        is_jsonl=input_format == "jsonl",
        is_document=is_document,
    )


def translate_stream(
    translator: Translator,
    settings: Decode,
    source: BinaryIO,
    target: BinaryIO,
    *,
    buffer_size: int,
    is_jsonl: bool = False,
    is_document: bool = False,
) -> None:
    """Translate the UTF-8 lines of a stream as they arrive, in bounded memory. Each line gives one output line.

    A line that is not UTF-8 or is longer than `MAX_LINE_BYTES` gets an empty translation and a message on standard
    error; the other lines are translated. On a terminal, control characters are escaped.

    Args:
        buffer_size: maximum number of lines that are translated together.
        is_jsonl: whether lines are JSON objects, in which `text` is translated, and `translation` is added.
        is_document: whether lines, or the texts in JSONL, are split into sentences.

    Raises:
        UserError: at the end, if some lines cannot be read; immediately, if the stream is not text or memory is full.
    """
    done, refused = 0, list[int]()
    is_terminal = target.isatty()
    for lines in arriving_lines(source, buffer_size):
        texts = []
        for number, line in enumerate(lines, start=done + 1):
            text = _read_line(line, number)
            if is_jsonl and text and (problem := _json_problem(text)):
                _logger.warning(f"line {number}: {problem}, its translation is empty")
                text = None
            refused += [number] if text is None else []
            texts.append(text or "")
        try:
            if is_jsonl:
                translations = _translated_objects(translator, settings, texts, is_document=is_document)
            elif is_document:
                translations = translate_texts(translator, settings, texts)
            else:
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


def translate_page(
    translator: Translator, settings: Decode, source: BinaryIO, target: BinaryIO, *, buffer_size: int
) -> None:
    """Translate an HTML page.

    Args:
        buffer_size: maximum number of sentences that are translated together.

    Raises:
        UserError: if the stream is not UTF-8 text or is larger than `MAX_PAGE_BYTES`.
    """
    data = source.read(MAX_PAGE_BYTES + 1)
    refuse_other_formats(data[:HEAD_BYTES], "standard input", sentences=False)
    if len(data) > MAX_PAGE_BYTES:
        raise UserError(f"standard input: larger than {MAX_PAGE_BYTES:,} bytes")
    try:
        page = html_document(data.decode(), translator.codec.text.direction)
    except UnicodeDecodeError:
        raise UserError("standard input: not UTF-8") from None
    sentences = page.sentences
    translations = []
    for start in range(0, len(sentences), buffer_size):
        translations += translator.translate_sentences(sentences[start : start + buffer_size], settings)
    target.write(page.join(translations).encode())
    target.flush()


def translate_texts(translator: Translator, settings: Decode, texts: Sequence[str]) -> list[str]:
    """Return the translations of texts that are split into sentences."""
    documents = [text_document(text, translator.codec.text.direction) for text in texts]
    sentences = [sentence for document in documents for sentence in document.sentences]
    translations = iter(translator.translate_sentences(sentences, settings))
    return [document.join(list(islice(translations, len(document.sentences)))) for document in documents]


def _json_problem(line: str) -> str | None:
    """Return why a line is not a JSON object with a text that can be written again, None if it is."""
    try:
        found = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return "not JSON"
    if not isinstance(found, dict):
        return "not a JSON object"
    if problem := text_problem(found.get(TEXT_FIELD), TEXT_FIELD):
        return problem
    try:
        _json_line([found]).encode()  # in a list, as there are more calls on the stack when it is written
    except UnicodeEncodeError:
        return "a name or a value is not Unicode text"
    except (ValueError, RecursionError):
        return "a number is too large, or there are too many levels"
    return None


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(name)


def _json_line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _translated_objects(
    translator: Translator, settings: Decode, lines: Sequence[str], *, is_document: bool
) -> list[str]:
    """Return JSON objects with their translations; an empty line stays empty."""
    found = [json.loads(line) if line.strip() else None for line in lines]
    texts = [each[TEXT_FIELD] if each else "" for each in found]
    if is_document:
        translations = translate_texts(translator, settings, texts)
    else:
        translations = translator.translate_sentences(texts, settings)
    return [
        "" if each is None else _json_line(each | {TRANSLATION_FIELD: translation})
        for each, translation in zip(found, translations, strict=True)
    ]


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
