"""Sentences and pairs of corpora, streamed from local files in all formats that corpora may have."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from kdmt.config import Context, Corpus, ParallelText, Source
from kdmt.corpus.archives import Content, Position, naming_damage, open_content, seekable
from kdmt.corpus.context import Document
from kdmt.corpus.formats import PARQUET, recognize, recognize_markup
from kdmt.corpus.indexed import IndexedDataset, checked_chunks, idx_path
from kdmt.corpus.jsonl import read_objects
from kdmt.corpus.parquet import read_table
from kdmt.corpus.rows import LeftOut, MalformedRow, Row, ScoredPair, limit_quality
from kdmt.corpus.segments import Place
from kdmt.corpus.subwords import join_subwords
from kdmt.corpus.text_files import Malformed, bounded_text_lines, open_bounded_lines
from kdmt.corpus.tmx import read_units
from kdmt.corpus.tsv import find_columns, read_rows, unreadable_header
from kdmt.corpus.unreadable import Unreadable
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.types import PAD


@dataclass
class Skipped:
    """Rows of a corpus that are not among its pairs.

    Attributes:
        malformed: rows that cannot be read.
        left_out: number of rows that are not wanted, by reason.
    """

    malformed: Malformed = field(default_factory=Malformed)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Documents:
    """The documents of a parallel text, from which each sentence has its context.

    Attributes:
        context: how many previous sentences are the context of a sentence, and their separator.
        names: local file of the setting `documents` of the text; None if it has none.
    """

    context: Context
    names: Path | None = None


# -------------------------------------------------------------------------------------------------------------- lines


def source_lines(source: Source, path: Path) -> Iterator[str]:
    """Yield the lines of a source's local file: its text, or the text of the tokens of a data-bin.

    Raises:
        UserError: see `open_lines`; also if an index or a dictionary is missing or damaged, or an id is not in it.
    """
    place = Place()
    for number, line in enumerate(bounded_source_lines(source, path, place), start=1):
        if isinstance(line, Unreadable):
            unit, number_in_file = place.locate(number)
            raise UserError(f"{source.name} {unit} {number_in_file}: {line.reason}")
        yield line


def bounded_source_lines(source: Source, path: Path, place: Place | None = None) -> Iterator[str | Unreadable]:
    """Yield lines as `source_lines` does, with an `Unreadable` for each line that is too long or not UTF-8.

    Args:
        place: receives the place of each sentence of SGM, XML or tagged text.
    """
    if not source.is_tokens:
        return open_bounded_lines(path, member=source.member, name=source.name, part=source.part, place=place)
    return _spelled(path, source.remove_bpe)


def monolingual_lines(source: Source, path: Path, malformed: Malformed) -> Iterator[str]:
    """Yield the lines of monolingual text; lines that are too long or not UTF-8 are skipped and counted.

    Raises:
        UserError: see `source_lines`.
    """
    place = Place()
    for number, line in enumerate(bounded_source_lines(source, path, place), start=1):
        if isinstance(line, Unreadable):
            unit, number_in_file = place.locate(number)
            malformed.add(line.reason, source.name, number_in_file, unit)
        else:
            yield line


def token_companions(path: Path) -> list[Path]:
    """Return the files that are needed to read the tokens of a `.bin`: its index and the dictionary of its language."""
    prefix = path.with_suffix("")
    return [idx_path(prefix), path.with_name(f"dict{prefix.suffix}.txt")]


def _spelled(path: Path, joiner: str | None) -> Iterator[str]:
    dictionary = Dictionary.load(token_companions(path)[1])
    for tokens, sizes in checked_chunks(IndexedDataset(path.with_suffix("")), len(dictionary)):
        ends = np.cumsum(sizes, dtype=np.int64)
        for end, size in zip(ends.tolist(), sizes.tolist(), strict=True):
            kept = [token for token in tokens[end - size : end].tolist() if token != PAD]
            yield join_subwords(dictionary.string(kept), joiner)


# -------------------------------------------------------------------------------------------------------------- pairs


def read_pairs(
    corpus: ParallelText,
    paths: Sequence[Path],
    direction: Direction,
    skipped: Skipped | None = None,
    *,
    documents: Documents | None = None,
) -> Iterator[tuple[str, str]]:
    """Yield the (source, target) lines of a corpus.

    With documents, each source has its context (`kdmt.corpus.context`). A document ends where its name changes, or, if
    documents have no names, where both lines are empty; such lines are no pair. A line that cannot be read is no
    context, nor are the lines before it.

    Malformed rows are dropped or raise an error, depending on `corpus.malformed`: TSV rows whose number of columns
    differs from that of the first row, rows without text in both languages, and lines that are too long or not UTF-8.

    Args:
        corpus: two files, or one file with both sides.
        paths: result of `fetch_corpus`.
        direction: languages of the pairs, for files with several languages.
        skipped: receives the counts of rows that are dropped.
        documents: documents of the text, for two files or markup; None for sentences without context.

    Raises:
        UserError: see `open_lines`; also if two files differ in length, a TSV file has too few columns, a malformed row
            is an error, more rows are malformed than not, there are no pairs, the names of the documents are not as
            many as the lines, or a source contains the separator of contexts.
    """
    names = " and ".join(source.name for source in corpus.files)
    skipped = Skipped() if skipped is None else skipped
    malformed = skipped.malformed
    num_pairs = 0
    rows = _rows(corpus, paths, direction) if documents is None else _rows_of_documents(corpus, paths, documents)
    for row in _selected(rows, corpus):
        if isinstance(row, tuple):
            num_pairs += 1
            yield row
        elif isinstance(row, LeftOut):
            skipped.left_out[row.reason] += 1
        elif corpus.malformed == "error":
            raise UserError(f"{row.name} {row.unit} {row.line}: {row.reason}")
        else:
            malformed.add(row.kind, row.name, row.line, row.unit)
    num_good = num_pairs + skipped.left_out.total()
    if malformed.total > num_good:
        kind, first = next(iter(malformed.first_lines.items()))
        raise UserError(
            f"{names}: {malformed.total:,} of {malformed.total + num_good:,} rows are malformed: {kind} ({first[0]})"
        )
    if not num_pairs:
        lost = ", ".join(f"{reason} {count:,}" for reason, count in skipped.left_out.items())
        raise UserError(f"{names}: the corpus is empty" + (f"; rows left out: {lost}" if lost else ""))


def check_first_row(corpus: ParallelText, paths: Sequence[Path], direction: Direction) -> None:
    """Read the first row of a corpus, to find early that its files have another format or other columns.

    Raises:
        UserError: as `read_pairs`, except for what only later rows show.
    """
    next(_rows(corpus, paths, direction), None)


def _selected(rows: Iterator[Row], corpus: ParallelText) -> Iterator[Row]:
    """Return the rows that `only_every` or `except_every` selects."""
    if corpus.only_every is not None:
        return itertools.islice(rows, corpus.only_every - 1, None, corpus.only_every)
    if corpus.except_every is not None:
        every = corpus.except_every
        return (row for number, row in enumerate(rows, start=1) if number % every)
    return rows


def _rows(corpus: ParallelText, paths: Sequence[Path], direction: Direction) -> Iterator[Row]:
    if corpus.form in (None, "wmt_xml"):
        return _read_two_files(*_sides(corpus, paths), (Place(), Place()))
    return _read_one_file(corpus, paths[0], direction)


def _sides(corpus: ParallelText, paths: Sequence[Path]) -> tuple[Sequence[Source], Sequence[Path]]:
    """Return the source and the target of a corpus that has a file for each, or both in WMT XML, with their paths."""
    if corpus.wmt_xml is None:
        return corpus.files, paths
    wanted = corpus.wmt_xml.part or "ref"
    return [corpus.wmt_xml.model_copy(update={"part": part}) for part in ("src", wanted)], [paths[0], paths[0]]


def _rows_of_documents(corpus: ParallelText, paths: Sequence[Path], documents: Documents) -> Iterator[Row]:
    """Yield the rows of a corpus, each source with its context."""
    separator, document = documents.context.separator, Document(documents.context)
    sides, files = _sides(corpus, paths)
    places = (Place(), Place())
    names = _names_of_documents(corpus, documents, places[0])
    current, num_rows = "", 0
    for num_rows, row in enumerate(_read_two_files(sides, files, places), start=1):
        name = next(names, None)
        if name is None:
            raise UserError(f"{_name(corpus.documents)} has {num_rows - 1} lines, {sides[0].name} has more")
        if name != current:
            document.begin()
            current = name
        if not isinstance(row, tuple):
            document.begin()
            yield row
            continue
        source, target = row
        if corpus.documents is None and not source.split() and not target.split():
            document.begin()
            continue
        if separator in source:
            unit, number = places[0].locate(num_rows)
            raise UserError(
                f"{sides[0].name} {unit} {number}: the text has the separator {separator!r} of contexts: choose "
                "another one as 'prepare.context.separator'"
            )
        yield document.add(source), target
    if corpus.documents is not None and next(names, None) is not None:
        raise UserError(f"{_name(corpus.documents)} has more lines than the {num_rows} of {sides[0].name}")


def _name(source: Source | None) -> str:
    return "" if source is None else source.name


def _names_of_documents(corpus: ParallelText, documents: Documents, place: Place) -> Iterator[str]:
    """Yield the name of the document of each row, which is read before: without end, if they are not in a file.

    Args:
        place: place in the markup of the row that was read last; its document is empty for lines of text.
    """
    if corpus.documents is None:
        while True:
            yield place.document
    assert documents.names is not None, "it is fetched with the text"
    yield from source_lines(corpus.documents, documents.names)


def _read_two_files(sources: Sequence[Source], paths: Sequence[Path], places: tuple[Place, Place]) -> Iterator[Row]:
    """Yield the rows of two files.

    Args:
        places: receive the places of the sentences of markup that were read last.
    """
    names = [source.name for source in sources]
    lines = [bounded_source_lines(*each) for each in zip(sources, paths, places, strict=True)]
    for num_pairs, (source_line, target_line) in enumerate(itertools.zip_longest(*lines)):
        if source_line is None or target_line is None:
            longer = num_pairs + 1 + sum(1 for _ in lines[source_line is None])
            num_source, num_target = (num_pairs, longer) if source_line is None else (longer, num_pairs)
            raise UserError(f"{names[0]} has {num_source} lines, {names[1]} has {num_target}: they are no pairs")
        if places[0].segment and places[0] != places[1]:
            _compare_places(places, names, num_pairs + 1)
        if isinstance(source_line, str) and isinstance(target_line, str):
            yield source_line, target_line
        else:
            side, line = (0, source_line) if isinstance(source_line, Unreadable) else (1, target_line)
            unit, number = places[side].locate(num_pairs + 1)
            yield MalformedRow(names[side], number, cast(Unreadable, line).reason, unit=unit)


def _compare_places(places: tuple[Place, Place], names: Sequence[str], number: int) -> None:
    """Raise an error if two sentences of markup differ in document or number; lines of text have neither."""
    if places[1].segment:
        shown = [f"sentence {place.segment!r} of document {place.document!r}" for place in places]
        raise UserError(f"{names[0]} has {shown[0]} as sentence {number}, {names[1]} has {shown[1]}: they are no pairs")


def _read_one_file(corpus: ParallelText, path: Path, direction: Direction) -> Iterator[Row]:
    source = cast(Source, corpus.one_file)
    position = Position()
    with naming_damage(source.name, position), ExitStack() as opened:
        content = open_content(path, source.member, source.name, opened)
        file = _File(content, source.name, position, opened)
        if corpus.tmx is not None:
            rows = _read_tmx(corpus, file, direction)
        else:
            rows = _TABLES[cast(str, corpus.form)](corpus, file)
        quality = corpus.quality if isinstance(corpus, Corpus) else None
        for row in rows:
            if not isinstance(row, tuple):
                yield row
                continue
            line, pair = row
            if quality is None:
                yield pair.source, pair.target
            else:
                yield limit_quality(pair, quality.min, source.name, line, position.unit)


@dataclass(frozen=True)
class _File:
    """An open file of a corpus."""

    content: Content
    name: str
    position: Position
    opened: ExitStack


_Scored = Iterator[tuple[int, ScoredPair] | MalformedRow | LeftOut]


def _read_tsv(corpus: ParallelText, file: _File) -> _Scored:
    quality = corpus.quality if isinstance(corpus, Corpus) else None
    columns = [corpus.source_column, corpus.target_column]
    by_name = corpus.source_field is not None or (quality is not None and quality.field is not None)
    if quality is not None and quality.column is not None:
        columns.append(quality.column)
    lines = bounded_text_lines(file.content, file.name, file.position)
    needed = 1 if corpus.source_field is not None else max(columns) + 1
    rows = read_rows(lines, name=file.name, needed=needed, header=corpus.header and not by_name, quoted=corpus.quoted)
    for row in rows:
        if isinstance(row, MalformedRow):
            if by_name:
                raise unreadable_header(row.name, row.line, row.reason)
            yield row
        elif by_name:
            columns, by_name = _columns_by_name(corpus, row[1], columns, file.name), False
        else:
            line, cells = row
            score = cells[columns[2]] if len(columns) > 2 else None
            yield line, ScoredPair(cells[columns[0]], cells[columns[1]], score)


def _columns_by_name(corpus: ParallelText, names: list[str], columns: list[int], name: str) -> list[int]:
    """Return the indices of the columns of source, target and score, given the names in the first row."""
    quality = corpus.quality if isinstance(corpus, Corpus) else None
    fields = [corpus.source_field, corpus.target_field, None if quality is None else quality.field]
    found = [
        index if field is None else find_columns(names, [field], name)[0]
        for field, index in itertools.zip_longest(fields, columns)
    ]
    if quality is not None and quality.column is not None and quality.column >= len(names):
        raise UserError(f"{name} line 1: {len(names)} columns, at least {quality.column + 1} expected")
    return [index for index in found if index is not None]


def _read_jsonl(corpus: ParallelText, file: _File) -> _Scored:
    found = recognize(file.content.head) or recognize_markup(file.content.head)
    if found is not None and found[0] != "JSON":
        raise UserError(f"{file.name}: {found[0]}, not JSONL: {found[1]}")
    texts, others = _fields(corpus)
    lines = bounded_text_lines(file.content, file.name, file.position, checked=False)
    return _scored(read_objects(lines, name=file.name, texts=texts, others=others))


def _read_parquet(corpus: ParallelText, file: _File) -> _Scored:
    if not file.content.head.startswith(PARQUET):
        kind = (recognize(file.content.head) or recognize_markup(file.content.head) or ("plain text",))[0]
        raise UserError(f"{file.name}: {kind}, not a Parquet table")
    texts, others = _fields(corpus)
    table = seekable(file.content, file.opened)
    return _scored(read_table(table, name=file.name, texts=texts, others=others, position=file.position))


_TABLES = {"tsv": _read_tsv, "jsonl": _read_jsonl, "parquet": _read_parquet}


def _read_tmx(corpus: ParallelText, file: _File, direction: Direction) -> _Scored:
    prop = corpus.quality.field if isinstance(corpus, Corpus) and corpus.quality is not None else None
    return read_units(file.content.file, name=file.name, direction=direction, prop=prop, position=file.position)


def _fields(corpus: ParallelText) -> tuple[list[str], list[str]]:
    """Return the names of the fields with text, and those of other fields that are needed."""
    assert corpus.source_field is not None, "the settings of the form are checked"
    assert corpus.target_field is not None, "the settings of the form are checked"
    quality = corpus.quality if isinstance(corpus, Corpus) else None
    return [corpus.source_field, corpus.target_field], [] if quality is None else [cast(str, quality.field)]


def _scored(rows: Iterator[tuple[int, list[object]] | MalformedRow]) -> _Scored:
    for row in rows:
        if isinstance(row, MalformedRow):
            yield row
        else:
            number, (source, target, *others) = row
            yield number, ScoredPair(str(source), str(target), others[0] if others else None)
