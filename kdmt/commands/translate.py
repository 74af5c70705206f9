"""`kdmt translate`: translate raw text from standard input to standard output."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch

from kdmt.choices import InputFormat
from kdmt.commands.arrivals import arriving_lines
from kdmt.commands.models import (
    ModelTable,
    SearchOptions,
    directions_of,
    open_translator,
    paths_by_direction,
)
from kdmt.config import Decode
from kdmt.corpus.formats import HEAD_BYTES, refuse_other_formats
from kdmt.corpus.jsonl import text_problem
from kdmt.corpus.unreadable import MAX_LINE_BYTES, NOT_UTF8, TOO_LONG
from kdmt.decode.engines.translator import Translator
from kdmt.documents.document import text_document
from kdmt.documents.markup import html_document
from kdmt.documents.sentences import check_splitter
from kdmt.errors import UserError
from kdmt.files import parse_json
from kdmt.languages import Direction, matching_directions
from kdmt.log import get_logger
from kdmt.streams import input_bytes, output_bytes
from kdmt.terminal import printable

_logger = get_logger(__name__)
TEXT_FIELD, TRANSLATION_FIELD = "text", "translation"  # of JSONL
SOURCE_FIELD, TARGET_FIELD = "source", "target"  # language codes in JSONL, if there are several models
MAX_PAGE_BYTES = 64 << 20
_Model = TypeVar("_Model")
_SHORT_LINE = 16  # bytes; too short for recognising another format


def translate(
    models: Sequence[Path],
    options: SearchOptions,
    *,
    buffer_size: int,
    input_format: InputFormat,
    is_document: bool,
    source_lang: str | None = None,
    target_lang: str | None = None,
) -> None:
    """Translate standard input to standard output.

    Args:
        models: checkpoint folders, pointer files, runs or exported models with different languages.
        options: settings of the search.
        buffer_size: maximum number of lines, or of sentences of an HTML page, that are translated together.
        input_format: format of standard input.
        is_document: whether lines, or the texts in JSONL, are split into sentences.
        source_lang, target_lang: languages that choose a model; if several have them, each object of JSONL chooses.

    Raises:
        UserError: if an option is out of range, there is no model, or there are several; see also `translate_stream`.
    """
    if is_document or input_format == "html":
        check_splitter()
    source, target = input_bytes(), output_bytes()
    is_chosen = source_lang is not None or target_lang is not None
    if len(models) == 1 and not is_chosen and len(directions_of(models[0])) == 1:
        translator, settings = open_translator(models[0], options)
        translator = translator.for_direction(directions_of(models[0])[0])
    else:
        paths = paths_by_direction(models)
        found = matching_directions(list(paths), source_lang, target_lang)
        if len(found) > 1 and input_format == "jsonl":
            table = ModelTable({direction: paths[direction] for direction in found}, options)
            translate_objects(table, source, target, buffer_size=buffer_size, is_document=is_document)
            return
        table = ModelTable(paths, options)
        splits = is_document or input_format == "html"
        translator, settings = table.open(table.find(source_lang, target_lang, splits_sentences=splits))
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

    For a model with context, the previous lines are the context of a line; a line without words begins a new document,
    and so does each text that is split into sentences.

    Args:
        buffer_size: maximum number of lines that are translated together.
        is_jsonl: whether lines are JSON objects, in which `text` is translated, and `translation` is added.
        is_document: whether lines, or the texts in JSONL, are split into sentences.

    Raises:
        UserError: at the end, if some lines cannot be read; immediately, if the stream is not text or memory is full.
    """
    document = None if is_jsonl or is_document else translator.begin_documents()

    def translated(lines: Sequence[str], first: int) -> list[str]:
        if is_jsonl:
            return _translated_objects(lines, lambda _: None, lambda _: (translator, settings), is_document=is_document)
        with _naming_beam(settings):
            if is_document:
                return translate_texts(translator, settings, lines)
            sentences = lines if document is None else document.add_lines(lines)
            return translator.translate(sentences, settings, first_line=first)

    _translate_lines(source, target, translated, _json_problem if is_jsonl else None, buffer_size=buffer_size)


def translate_objects(
    models: ModelTable, source: BinaryIO, target: BinaryIO, *, buffer_size: int, is_document: bool
) -> None:
    """Translate JSONL with several models: the fields `source` and `target` of an object are its languages.

    An object for which there is no model, or for which there are several, is reported like a line that cannot be read.
    See `translate_stream` for the arguments and errors.
    """

    def choose(values: Mapping[str, object]) -> Direction:
        codes = []
        for name in (SOURCE_FIELD, TARGET_FIELD):
            code = values.get(name)
            if code is not None and not isinstance(code, str):
                raise UserError(f"field {name!r} is not text")
            codes.append(code)
        return models.find(*codes, splits_sentences=is_document)

    def problem(line: str) -> str | None:
        if found := _json_problem(line):
            return found
        try:
            choose(json.loads(line))
        except UserError as error:
            return str(error)
        return None

    def translated(lines: Sequence[str], _: int) -> list[str]:
        return _translated_objects(lines, choose, models.open, is_document=is_document)

    _translate_lines(source, target, translated, problem, buffer_size=buffer_size)


def _translate_lines(
    source: BinaryIO,
    target: BinaryIO,
    translated: Callable[[Sequence[str], int], list[str]],
    find_problem: Callable[[str], str | None] | None,
    *,
    buffer_size: int,
) -> None:
    """Write the output line of each line of a stream.

    Args:
        translated: function of lines and the number of the first that returns their output lines.
        find_problem: function that returns why a line cannot be translated, or None.
    """
    done, refused = 0, list[int]()
    is_terminal = target.isatty()
    for lines in arriving_lines(source, buffer_size):
        texts = []
        for number, line in enumerate(lines, start=done + 1):
            text = _read_line(line, number)
            if find_problem is not None and text and (problem := find_problem(text)):
                _logger.warning(f"line {number}: {problem}, its translation is empty")
                text = None
            refused += [number] if text is None else []
            texts.append(text or "")
        translations = translated(texts, done + 1)
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
        UserError: if the stream is not UTF-8 text, it is larger than `MAX_PAGE_BYTES`, or memory is full.
    """
    data = source.read(MAX_PAGE_BYTES + 1)
    refuse_other_formats(data[:HEAD_BYTES], "standard input", sentences=False)
    if len(data) > MAX_PAGE_BYTES:
        raise UserError(f"standard input: larger than {MAX_PAGE_BYTES:,} bytes")
    try:
        page = html_document(data.decode(), translator.codec.text.direction)
    except UnicodeDecodeError:
        raise UserError("standard input: not UTF-8") from None
    sentences = translator.add_context(page.sentences)
    translations = []
    for start in range(0, len(sentences), buffer_size):
        with _naming_beam(settings):
            translations += translator.translate_sentences(sentences[start : start + buffer_size], settings)
    target.write(page.join(translations).encode())
    target.flush()


def translate_texts(translator: Translator, settings: Decode, texts: Sequence[str]) -> list[str]:
    """Return the translations of texts that are split into sentences."""
    documents = [text_document(text, translator.codec.text.direction) for text in texts]
    sentences = [sentence for document in documents for sentence in translator.add_context(document.sentences)]
    translations = iter(translator.translate_sentences(sentences, settings))
    return [document.join(list(islice(translations, len(document.sentences)))) for document in documents]


def _json_problem(line: str) -> str | None:
    """Return why a line is not a JSON object with a text that can be written again, None if it is."""
    try:
        found = parse_json(line)
    except ValueError:
        return "not JSON"
    if not isinstance(found, dict):
        return "not a JSON object"
    if problem := text_problem(found.get(TEXT_FIELD), TEXT_FIELD):
        return problem
    try:
        _json_line([found]).encode()  # in a list, as there are more calls on the stack when it is written
    except UnicodeEncodeError:
        return "a name or a value is not Unicode text"
    except RecursionError:
        return "too many levels"
    return None


def _json_line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _translated_objects(
    lines: Sequence[str],
    choose: Callable[[Mapping[str, object]], _Model],
    open_model: Callable[[_Model], tuple[Translator, Decode]],
    *,
    is_document: bool,
) -> list[str]:
    """Return JSON objects with their translations; an empty line stays empty.

    Args:
        choose: function that returns the model of an object.
        open_model: function that returns the translator and the settings of a model.
    """
    output = [""] * len(lines)
    by_model: dict[_Model, list[tuple[int, dict[str, Any]]]] = {}
    for index, line in enumerate(lines):
        if line.strip():
            found = json.loads(line)
            by_model.setdefault(choose(found), []).append((index, found))
    for model, objects in by_model.items():
        translator, settings = open_model(model)
        texts = [found[TEXT_FIELD] for _, found in objects]
        with _naming_beam(settings):
            if is_document:
                translations = translate_texts(translator, settings, texts)
            else:
                alone = [line for text in texts for line in translator.add_context([text])]
                translations = translator.translate_sentences(alone, settings)
        for (index, found), translation in zip(objects, translations, strict=True):
            output[index] = _json_line(found | {TRANSLATION_FIELD: translation})
    return output


@contextmanager
def _naming_beam(settings: Decode) -> Iterator[None]:
    """Raise a `UserError` if memory is full."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise UserError(f"out of memory: a beam smaller than {settings.beam:,} needs less memory") from None


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
