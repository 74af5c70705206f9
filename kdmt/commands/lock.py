"""`kdmt lock`: write the files behind the names and URLs of a pipeline, with their SHA-256, to its lock file.

The format of the lock file is described in `kdmt.config.lock`. It is written when everything is downloaded and read;
a command that fails or is stopped before leaves the earlier lock file as it was.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from kdmt.config import Monolingual, ParallelText, Pipeline, Provenance, Source, load_locked_pipeline, split_login
from kdmt.config.datasets import DatasetKind, DatasetValue
from kdmt.config.document import read_document
from kdmt.config.loading import lock_command, validate
from kdmt.config.lock import (
    DatasetKey,
    Lock,
    LockedDataset,
    LockedFile,
    dataset_key,
    dataset_name,
    languages_of,
    lock_path,
    lock_text,
    read_lock,
    substitute,
)
from kdmt.corpus.datasets.records import Dataset, urls_of
from kdmt.corpus.datasets.resolve import resolve, resolve_monolingual
from kdmt.corpus.fetch import Fetched, Places
from kdmt.corpus.fetch_queue import describe_fetched, fetch_all
from kdmt.corpus.given_text import sources_of, texts_by_path
from kdmt.corpus.licences import bibtex
from kdmt.corpus.reading import Skipped, bounded_source_lines, read_pairs
from kdmt.errors import UserError, naming
from kdmt.files import write_text
from kdmt.flow.layout import Layout
from kdmt.flow.progress import count_pairs, download_progress
from kdmt.languages import Direction
from kdmt.log import get_logger
from kdmt.outputs import writing

_logger = get_logger(__name__)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_PACKAGE = Path(__file__).resolve().parents[1]
_Text = ParallelText | Monolingual


@dataclass(frozen=True)
class _Request:
    """A pipeline whose names and URLs are locked.

    Attributes:
        pipeline: pipeline file.
        document: its content with overrides.
        config: its settings, in which names are not resolved.
        places: places of files.
        command: command that locks the pipeline, for messages.
    """

    pipeline: Path
    document: Mapping[str, Any]
    config: Pipeline
    places: Places
    command: str

    @property
    def sides(self) -> tuple[str, str]:
        return self.config.direction.sides


def lock_pipeline(
    pipeline: Path,
    overrides: Sequence[str] = (),
    *,
    runs: Path,
    mirrors: Sequence[str] = (),
    update: bool = False,
    names: Sequence[str] = (),
    show: Callable[[str], None] = lambda _: None,
) -> Path:
    """Lock the names and URLs of a pipeline that are not locked yet, and print what changed.

    Args:
        pipeline: pipeline file.
        overrides: settings as `a.b=c`.
        runs: folder of all pipelines and of downloads.
        mirrors: folders and bases of URLs in which files are searched first.
        update: whether to lock again what is locked already.
        names: names, URLs or YAML paths to which `update` is restricted; empty for all.
        show: function that prints a line of the result.

    Returns:
        The path of the lock file.

    Raises:
        UserError: if the pipeline or its lock file is not valid, a name is unknown, a file cannot be downloaded or
            read or differs from what is locked, or the folder of the pipeline is read-only.
    """
    if names and not update:
        raise UserError(f"{names[0]}: names have no effect without --update")
    document = read_document(pipeline, overrides)
    config = validate(pipeline, document)
    places = Places(Layout(runs, config.name).downloads, tuple(mirrors))
    request = _Request(pipeline, document, config, places, lock_command(pipeline, overrides))
    path = lock_path(pipeline)
    if not update and not substitute(document, read_lock(path), request.sides).missing:
        needs_none = not substitute(document, Lock(), request.sides).missing
        show(f"{pipeline}: has no names, and all its URLs have a sha256" if needs_none else f"{path}: up to date")
        return path
    with _writable(path):
        old = read_lock(path)  # now that no other process writes it
        kept = _without(old, request, names) if update else old
        new = _lock(request, kept)
        text = lock_text(new)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    changes = _changes(old, new)
    for line in changes or ["nothing changed"]:
        show(line)
    show(f"{path}: {len(new.datasets)} data sets, {len(new.files)} files")
    return path


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Hold the lock of a lock file, and wait for another process that has it.

    Raises:
        UserError: if the folder of the lock file is read-only or part of the installed package.
    """
    advice = "copy the pipeline file to a folder of your own, and lock the copy"
    if path.resolve().is_relative_to(_PACKAGE):
        raise UserError(f"{path}: would be written into the installed package: {advice}")
    try:
        with writing(path, wait=lambda: _logger.warning("%s: another process writes it, waiting", path)):
            yield
    except OSError as error:
        if error.errno not in _READ_ONLY or Path(str(error.filename)).parent != path.parent:
            raise
        raise UserError(f"{path}: cannot be written ({error.strerror}): {advice}") from None


def print_citations(pipeline: Path, overrides: Sequence[str] = (), *, show: Callable[[str], None]) -> None:
    """Print the citations of the data sets of a pipeline as BibTeX, from its lock file.

    Raises:
        UserError: if the pipeline or its lock file is not valid, or the lock file lacks a name or a URL.
    """
    provenance = load_locked_pipeline(pipeline, overrides).provenance
    if not provenance.datasets:
        raise UserError(f"{pipeline}: names no data sets, so that no citations are known")
    show(bibtex(provenance).removesuffix("\n"))


# ----------------------------------------------------------------------------------------------------- what to keep


def _without(lock: Lock, request: _Request, names: Sequence[str]) -> Lock:
    """Return a lock without what is to be locked again: everything, or the data sets and files with these names.

    Raises:
        UserError: if no data set and no file of the pipeline has one of the names.
    """
    if not names:
        return Lock()
    datasets, urls = set(), set()
    for name in names:
        found = [key for key, aliases in _aliases(request, lock).items() if name in aliases]
        if not found:
            raise UserError(f"{name}: no data set, URL or YAML path of {request.pipeline} that a lock file has")
        datasets |= {key for key in found if isinstance(key, tuple)}
        urls |= {key for key in found if isinstance(key, str)}
    left = [each for each in lock.datasets if each.key not in datasets]
    urls |= {url for each in lock.datasets if each.key in datasets for url in urls_of(each.entry)}
    return Lock(tuple(left), tuple(each for each in lock.files if each.url not in urls))


_Key = DatasetKey | str  # of a data set, or the URL of a file


def _aliases(request: _Request, lock: Lock) -> dict[_Key, set[str]]:
    """Return the names by which the data sets and URLs of a pipeline can be selected."""
    aliases: dict[_Key, set[str]] = {}
    for path, text in texts_by_path(request.config.prepare).items():
        places = {path, path.removeprefix("prepare.")}
        if text.dataset is not None:
            name = dataset_name(*text.dataset)
            key = dataset_key(*text.dataset, languages_of(path, request.sides))
            aliases.setdefault(key, set()).update(places, {name, name.replace(": ", ":"), str(text.dataset[1])})
        for source in sources_of(text):
            if source.url is not None and source.sha256 is None:
                aliases.setdefault(source.url, set()).update(places, {source.url})
    for dataset in lock.datasets:
        for url in urls_of(dataset.entry) if dataset.key in aliases else ():
            aliases.setdefault(url, {url})
    return aliases


# ---------------------------------------------------------------------------------------------------------- locking


def _lock(request: _Request, kept: Lock) -> Lock:
    """Return the lock of a pipeline: what is kept, and all else that the pipeline needs."""
    datasets, found = _lock_datasets(request, kept)
    named = substitute(request.document, Lock(tuple(datasets)), request.sides)
    texts = texts_by_path(validate(request.pipeline, named.document).prepare)
    files = _lock_files(request, texts, kept, found)
    return Lock(tuple(datasets), files)


def _lock_datasets(request: _Request, kept: Lock) -> tuple[list[LockedDataset], list[Dataset]]:
    """Return all data sets, with the YAML paths of those that the pipeline names, and those that are resolved now."""
    locked = {each.key: each for each in kept.datasets}
    paths: dict[DatasetKey, list[str]] = {}
    resolved = []
    for path, text in texts_by_path(request.config.prepare).items():
        if text.dataset is None:
            continue
        key = dataset_key(*text.dataset, languages_of(path, request.sides))
        if key not in locked:
            resolved.append(_resolve(request, path, *text.dataset))
            locked[key] = _locked_dataset(*text.dataset, key[2], resolved[-1])
        paths.setdefault(key, []).append(path)
    named = [replace(each, settings=tuple(paths.get(key, each.settings))) for key, each in locked.items()]
    return named, resolved


def _resolve(request: _Request, path: str, kind: DatasetKind, value: DatasetValue) -> Dataset:
    """Return the data set that a text of the pipeline names.

    Raises:
        UserError: if there is no such data set; the message has the YAML path.
    """
    try:
        languages = languages_of(path, request.sides)
        if len(languages) == 1:
            return resolve_monolingual(kind, value, languages[0])
        return resolve(kind, value, request.config.direction)
    except UserError as error:
        raise UserError(f"{request.pipeline}: {path}: {error}") from None


def _locked_dataset(
    kind: DatasetKind, value: DatasetValue, languages: tuple[str, ...], found: Dataset
) -> LockedDataset:
    return LockedDataset(
        kind,
        value,
        languages,
        _without_logins(json.loads(json.dumps(found.entry))),
        licence=found.licence,
        homepage=found.homepage,
        overlaps=found.overlaps,
        citation=found.citation,
    )


def _without_logins(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_logins(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {key: split_login(each)[0] if key == "url" else _without_logins(each) for key, each in value.items()}


def _lock_files(
    request: _Request, texts: Mapping[str, _Text], kept: Lock, resolved: Sequence[Dataset]
) -> tuple[LockedFile, ...]:
    """Return all files: those that are kept, and those of texts with a file that is not among them.

    Args:
        resolved: data sets that are resolved now, with alternatives and MD5 checksums of their URLs.
    """
    alternatives = {
        url: tuple(split_login(other)[0] for other in others)
        for dataset in resolved
        for url, others in dataset.alternatives.items()
    }
    files = {each.key: each for each in kept.files}
    wanted = {path: [source for source in sources_of(text) if _is_to_lock(source)] for path, text in texts.items()}
    new = {path: texts[path] for path, sources in wanted.items() if any(_key(each) not in files for each in sources)}
    fetched = _fetch(request, new, kept, alternatives)
    _check_md5(fetched, resolved)
    for path, text in new.items():
        with naming(_describe_text(request, path)):
            counts = _count_lines(path, text, fetched, request.config.direction)
        for source, num_lines in counts.items():
            if _is_to_lock(source):
                url, file = source.url or "", fetched[source.url or ""]
                others = alternatives.get(url, ())
                made = LockedFile(url, file.sha256, file.num_bytes, num_lines, source.member, others)
                files.setdefault(made.key, made)
    where: dict[tuple[str, str], list[str]] = {}
    for path, sources in wanted.items():
        for key in dict.fromkeys(map(_key, sources)):
            where.setdefault(key, []).append(path)
    return tuple(replace(file, settings=tuple(where.get(key, file.settings))) for key, file in files.items())


def _is_to_lock(source: Source) -> bool:
    return source.url is not None and source.sha256 is None


def _key(source: Source) -> tuple[str, str]:
    return source.url or "", source.member or ""


def _fetch(
    request: _Request, texts: Mapping[str, _Text], kept: Lock, alternatives: Mapping[str, tuple[str, ...]]
) -> dict[str, Fetched]:
    """Return the local file of each URL and path of texts.

    Raises:
        UserError: if a download fails, or a URL that is locked already, for another text, has another file.
    """
    sources = [
        (
            _describe_text(request, path),
            source.model_copy(update={"sha256": kept.sha256(source.url or "")}) if _is_to_lock(source) else source,
        )
        for path, text in texts.items()
        for source in sources_of(text)
    ]
    places = replace(
        request.places, alternatives={**{each.url: each.alternatives for each in kept.files}, **alternatives}
    )
    try:
        with download_progress(_logger.info) as progress:
            found = fetch_all(sources, places, at_once=request.config.prepare.downloads, progress=progress)
    except UserError as error:
        locked = Provenance(request.command, checksums={each.sha256: each.url for each in kept.files})
        raise UserError(locked.explain(str(error))) from None
    if found:
        _logger.info(f"lock: {describe_fetched(found)}")
    return {source.url or source.path or "": file for (_, source), file in zip(sources, found, strict=True)}


def _describe_text(request: _Request, path: str) -> str:
    """Return the YAML path of a text with the name of its data set, if it has one."""
    name = texts_by_path(request.config.prepare)[path].dataset
    return path if name is None else f"{path} ({dataset_name(*name)})"


def _check_md5(fetched: Mapping[str, Fetched], resolved: Sequence[Dataset]) -> None:
    """Warn of files with another MD5 checksum than their publisher lists."""
    for url, expected in {url: md5 for dataset in resolved for url, md5 in dataset.md5.items()}.items():
        if url in fetched:
            with fetched[url].path.open("rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
            if found != expected:
                _logger.warning("%s: the MD5 is %s, published is %s: it may be another version", url, found, expected)


def _count_lines(path: str, text: _Text, fetched: Mapping[str, Fetched], direction: Direction) -> dict[Source, int]:
    """Read a text as `prepare` reads it, and return the number of lines or pairs in each of its files.

    All lines count, also those that `only_every` and `except_every` leave out.
    """
    counts: dict[Source, int] = {}
    if isinstance(text, ParallelText) and text.parallel is None:
        direction = direction if text.direction is None else Direction.parse(text.direction)
        skipped, whole = Skipped(), text.model_copy(update={"only_every": None, "except_every": None})
        paths = [fetched[source.url or source.path or ""].path for source in text.files]
        num_pairs = sum(1 for _ in count_pairs(f"lock: {path}", read_pairs(whole, paths, direction, skipped)))
        num_left_out = skipped.malformed.total + skipped.left_out.total()
        counts = dict.fromkeys(text.files, num_pairs + num_left_out)
    others = [source for source in sources_of(text) if source not in counts]
    for source in others:
        counts[source] = sum(1 for _ in bounded_source_lines(source, fetched[source.url or source.path or ""].path))
    return counts


# ---------------------------------------------------------------------------------------------------------- changes


def _changes(old: Lock, new: Lock) -> list[str]:
    """Return a line for each data set and each file that is new, changed or gone, and for overlaps of new data sets."""
    datasets = _compared(old.datasets, new.datasets, _describe_dataset)
    known = {each.key for each in old.datasets}
    overlaps = [
        f"overlap: {each.name}: {overlap}"
        for each in new.datasets
        if each.key not in known
        for overlap in each.overlaps
    ]
    return [*datasets, *overlaps, *_compared(_urls(old.files), _urls(new.files), _describe_url)]


@dataclass(frozen=True)
class _LockedUrl:
    """What is locked of one URL: the file, or several members of an archive."""

    files: tuple[LockedFile, ...]
    settings: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.files[0].url


def _urls(files: Sequence[LockedFile]) -> list[_LockedUrl]:
    ordered = sorted((replace(file, settings=()) for file in files), key=lambda file: file.key)
    return [_LockedUrl(tuple(group)) for _, group in itertools.groupby(ordered, key=lambda file: file.url)]


_Locked = TypeVar("_Locked", LockedDataset, _LockedUrl)


def _compared(
    old: Sequence[_Locked], new: Sequence[_Locked], describe: Callable[[_Locked], tuple[str, str]]
) -> Iterator[str]:
    before, after = ({each.key: replace(each, settings=()) for each in part} for part in (old, new))
    for key in sorted({**before, **after}):
        if key not in before:
            yield f"new: {': '.join(describe(after[key]))}"
        elif key not in after:
            yield f"removed: {describe(before[key])[0]}"
        elif before[key] != after[key]:
            name, value = describe(after[key])
            yield f"changed: {name}: {describe(before[key])[1]} -> {value}"


def _describe_dataset(dataset: LockedDataset) -> tuple[str, str]:
    """Return the name of a data set, and its licence and URLs."""
    urls = ", ".join(dict.fromkeys(urls_of(dataset.entry)))
    licence = "no licence known" if dataset.licence is None else f"licence {dataset.licence}"
    return dataset.name, f"{licence}; {urls}"


def _describe_url(locked: _LockedUrl) -> tuple[str, str]:
    """Return a URL, and the size and checksum of its file with the number of lines of each member."""
    file = locked.files[0]
    lines = ", ".join(
        f"{each.num_lines:,} lines" + (f" in {each.member}" if each.member else "") for each in locked.files
    )
    return file.url, f"{lines}, {file.size_bytes:,} bytes, sha256 {file.sha256}"
