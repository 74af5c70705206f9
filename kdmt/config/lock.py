"""Lock files: the files behind the names and URLs of a pipeline, with their SHA-256.

    # Written by 'kdmt lock'. Commit this file together with the pipeline file.
    version: 1
    datasets:
    - mtdata: Statmt-europarl-10-deu-eng
      languages: [de, en]
      settings: [prepare.train.0]
      licence: null
      entry: {tsv: {url: https://...}}
    files:
    - url: https://...
      sha256: 6fe2...
      size_bytes: 196491520
      num_lines: 1828521
      settings: [prepare.train.0]

The lock file of `x.yaml`, or of `x.yml`, is `x.lock.yaml` in the same folder; if there are both files, neither has a
lock file. A data set is found by its name and the languages of the
pipeline, a file by its URL: the order of the corpora in the pipeline does not matter. `settings` are the YAML paths
that had the name or URL when the lock file was written; they are for the reader alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import Field

from kdmt.config.corpora import Corpus, HeldOut, split_login
from kdmt.config.datasets import DATASET_KINDS, DatasetKind, DatasetValue
from kdmt.config.messages import LONGEST_QUOTE, quote, shorten
from kdmt.config.prepare import MONOLINGUAL_SIDES
from kdmt.config.records import read_record
from kdmt.config.yaml_text import read_yaml, write_yaml
from kdmt.errors import UserError
from kdmt.files import check_file

_VERSION = 1
_HEADER = "# Written by 'kdmt lock'. Commit this file together with the pipeline file.\n"
_LARGEST_FILE = 16 << 20  # bytes
_SUFFIXES = (".yaml", ".yml")
_ONLY_HELD_OUT = HeldOut.model_fields.keys() - Corpus.model_fields.keys()


@dataclass(frozen=True)
class LockedFile:
    """One file of the network, or one member of an archive.

    Attributes:
        url: URL without a login.
        sha256: SHA-256 of the whole file.
        size_bytes: size of the whole file.
        num_lines: number of lines, or of pairs in a file of pairs.
        member: path within an archive.
        alternatives: other URLs of the same content.
        settings: YAML paths with this URL.
    """

    url: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]
    num_lines: Annotated[int, Field(ge=0)]
    member: str | None = None
    alternatives: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """Return the URL and the member, which identify the file."""
        return self.url, self.member or ""


@dataclass(frozen=True)
class LockedDataset:
    """The entry of a pipeline that a name means.

    Attributes:
        kind: setting with the name, as `mtdata`.
        value: value of this setting.
        languages: source and target language of the pipeline; the language alone for monolingual text.
        entry: settings of the corpus as one would write them by hand.
        licence: licence, None if it is not known.
        homepage: URL of a page about the data set.
        overlaps: data sets with which it is known to overlap.
        citation: BibTeX entry.
        settings: YAML paths with this name.
    """

    kind: DatasetKind
    value: DatasetValue
    languages: tuple[str, ...]
    entry: dict[str, Any]
    licence: str | None = None
    homepage: str | None = None
    overlaps: tuple[str, ...] = ()
    citation: str | None = None
    settings: tuple[str, ...] = ()

    @property
    def key(self) -> DatasetKey:
        """Return the name and the languages, which identify the data set."""
        return dataset_key(self.kind, self.value, self.languages)

    @property
    def name(self) -> str:
        """Return the name as in the pipeline file."""
        return dataset_name(self.kind, self.value)


DatasetKey = tuple[str, str, tuple[str, ...]]


def dataset_key(kind: str, value: DatasetValue, languages: tuple[str, ...]) -> DatasetKey:
    """Return what identifies a data set: its name and languages."""
    return kind, str(value), languages


def dataset_name(kind: str, value: DatasetValue) -> str:
    """Return the name of a data set as a pipeline file has it, for messages."""
    return f"{kind}: {str(value).lower() if isinstance(value, bool) else value}"


@dataclass(frozen=True)
class Lock:
    """The content of a lock file."""

    datasets: tuple[LockedDataset, ...] = ()
    files: tuple[LockedFile, ...] = ()

    def dataset(self, key: DatasetKey) -> LockedDataset | None:
        """Return a data set, None if it is not locked."""
        return next((each for each in self.datasets if each.key == key), None)

    def file(self, url: str, member: str | None) -> LockedFile | None:
        """Return a file or a member of an archive, None if it is not locked."""
        return next((each for each in self.files if each.key == (url, member or "")), None)

    def sha256(self, url: str) -> str | None:
        """Return the SHA-256 of the file at a URL, None if it is not locked."""
        return next((each.sha256 for each in self.files if each.url == url), None)


def lock_path(pipeline: Path) -> Path:
    """Return the path of the lock file of a pipeline file.

    Raises:
        UserError: if another file in the folder, such as `x.yml` next to `x.yaml`, would have the same lock file.
    """
    stem = pipeline.stem if pipeline.suffix in _SUFFIXES else pipeline.name
    path = pipeline.with_name(f"{stem}.lock.yaml")
    for suffix in _SUFFIXES:
        other = pipeline.with_name(f"{stem}{suffix}")
        if other.is_file() and pipeline.is_file() and not other.samefile(pipeline):
            raise UserError(f"{pipeline}: {other.name} would have the same lock file {path.name}: rename one of them")
    return path


# ---------------------------------------------------------------------------------------------------------------- text


def read_lock(path: Path) -> Lock:
    """Return the content of a lock file, an empty one if there is no such file.

    Raises:
        UserError: if the file is not a lock file of this version, or holds two different things about one name or URL.
    """
    if not path.exists():
        return Lock()
    check_file(path)
    if path.stat().st_size > _LARGEST_FILE:
        raise UserError(f"{path}: larger than {_LARGEST_FILE >> 20} MB, not a lock file")
    try:
        content = read_yaml(path.read_bytes().decode("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a lock file: {' '.join(str(error).split())[:200]}") from None
    if not (isinstance(content, dict) and content.keys() == {"version", "datasets", "files"}):
        raise UserError(f"{path}: not a lock file: expected the keys version, datasets and files")
    if content["version"] != _VERSION:
        raise UserError(f"{path}: a lock file of version {quote(content['version'])}, which this kdmt cannot read")
    return _checked_lock(path, content)


def _checked_lock(path: Path, content: Mapping[str, Any]) -> Lock:
    for part in ("datasets", "files"):
        if not (isinstance(content[part], list) and all(map(_is_mapping, content[part]))):
            raise UserError(f"{path}: {part}: expected a list of mappings")
    lock = Lock(
        tuple(_read_dataset(f"{path}: datasets.{index}", each) for index, each in enumerate(content["datasets"])),
        tuple(read_record(LockedFile, each, f"{path}: files.{index}") for index, each in enumerate(content["files"])),
    )
    if twice := _first_repeated([each.key for each in lock.datasets]):
        raise UserError(f"{path}: {twice[0]}: {twice[1]} is given twice for {' and '.join(twice[2])}")
    if twice_file := _first_repeated([each.key for each in lock.files]):
        raise UserError(f"{path}: {' '.join(twice_file).strip()} is given twice")
    sha256_of = dict(reversed([(each.url, each.sha256) for each in lock.files]))
    for index, each in enumerate(lock.files):
        for url in (each.url, *each.alternatives):
            _check_urls({"url": url}, f"{path}: files.{index}")
        if each.sha256 != sha256_of[each.url]:
            raise UserError(f"{path}: {each.url} has two different sha256")
    return lock


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


_Key = TypeVar("_Key", bound=Hashable)


def _first_repeated(keys: Sequence[_Key]) -> _Key | None:
    counts = Counter(keys)
    return next((key for key in keys if counts[key] > 1), None)


def _read_dataset(where: str, values: Mapping[str, Any]) -> LockedDataset:
    kinds = [kind for kind in DATASET_KINDS if kind in values]
    if len(kinds) != 1:
        raise UserError(f"{where}: expected one of {', '.join(DATASET_KINDS)}")
    others = {key: value for key, value in values.items() if key != kinds[0]}
    dataset = read_record(LockedDataset, {"kind": kinds[0], "value": values[kinds[0]]} | others, where)
    _check_urls(dataset.entry, f"{where}: entry")
    return dataset


def _check_urls(value: object, where: str) -> None:
    """Check the URLs in an entry, and the members of archives; the other settings are checked with the pipeline.

    Raises:
        UserError: if one is not valid.
    """
    if isinstance(value, list):
        for each in value:
            _check_urls(each, where)
    if not isinstance(value, dict):
        return
    for key in ("url", "member"):
        if not isinstance(value.get(key, ""), str):
            raise UserError(f"{where}: {key}: should be text (it is {quote(value[key])})")
    try:
        split_login(value.get("url", ""))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    for each in value.values():
        _check_urls(each, where)


def lock_text(lock: Lock) -> str:
    """Return the text of a lock file, which depends on nothing but its content."""
    datasets = []
    for dataset in sorted(lock.datasets, key=lambda each: each.key):
        values = asdict(dataset)
        kind, value = values.pop("kind"), values.pop("value")
        entry, licence = values.pop("entry"), values.pop("licence")
        languages, settings = values.pop("languages"), values.pop("settings")
        first = {kind: value, "languages": languages, "settings": settings, "licence": licence}
        datasets.append({**first, **_without_empty(values), "entry": entry})
    files = [_without_empty(asdict(file)) for file in sorted(lock.files, key=lambda each: each.key)]
    return _HEADER + write_yaml({"version": _VERSION, "datasets": datasets, "files": files})


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None and value != ()}


# -------------------------------------------------------------------------------------------------------- substitution


@dataclass(frozen=True)
class Substitution:
    """A pipeline's document in which names and URLs are replaced by what is locked.

    Attributes:
        document: the document, without the names of data sets that are locked.
        datasets: YAML path of a text -> its data set.
        checksums: SHA-256 from the lock file -> YAML path of a text with this file.
        missing: YAML path and name or URL of everything that is not locked.
    """

    document: dict[str, Any]
    datasets: dict[str, LockedDataset] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def substitute(document: Mapping[str, Any], lock: Lock, languages: tuple[str, str]) -> Substitution:
    """Replace the names of data sets by their entries, and add the SHA-256 of URLs that have none.

    Args:
        document: document of a valid pipeline. It is not changed.
        languages: source and target language of the pipeline.
    """
    prepare = dict(document["prepare"])
    made = Substitution({**document, "prepare": prepare})
    for part in ("train", *MONOLINGUAL_SIDES):
        texts = prepare.get(part) or []
        prepare[part] = [
            _substitute_text(text, f"prepare.{part}.{index}", lock, languages, made) for index, text in enumerate(texts)
        ]
    if prepare.get("valid") is not None:
        prepare["valid"] = _substitute_texts(prepare["valid"], "prepare.valid", lock, languages, made)
    test = prepare.get("test") or {}
    prepare["test"] = {
        name: _substitute_texts(text, f"prepare.test.{name}", lock, languages, made) for name, text in test.items()
    }
    return made


def _substitute_texts(
    texts: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    path: str,
    lock: Lock,
    languages: tuple[str, str],
    made: Substitution,
) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the settings of a held-out text, or of a list of them, as `_substitute_text`."""
    if isinstance(texts, Mapping):
        return _substitute_text(texts, path, lock, languages, made)
    return [_substitute_text(text, f"{path}.{index}", lock, languages, made) for index, text in enumerate(texts)]


def _substitute_text(
    text: Mapping[str, Any], path: str, lock: Lock, languages: tuple[str, str], made: Substitution
) -> dict[str, Any]:
    """Return the settings of a text with what is locked; note in `made` what was used and what is missing."""
    kind = next((kind for kind in DATASET_KINDS if text.get(kind) not in (None, False)), None)
    found = dict(text)
    if kind is not None:
        dataset = lock.dataset(dataset_key(kind, text[kind], languages_of(path, languages)))
        if dataset is None:
            made.missing.append(f"{path} ({dataset_name(kind, text[kind])})")
            return found
        made.datasets[path] = dataset
        own = {key: value for key, value in text.items() if key not in DATASET_KINDS}
        found = _entry_for(path, dataset) | own
    return _with_sha256(found, path, lock, made)


def languages_of(path: str, languages: tuple[str, str]) -> tuple[str, ...]:
    """Return the languages of a text by its YAML path."""
    side = MONOLINGUAL_SIDES.get(path.split(".")[1])
    return languages if side is None else (languages[side],)


def _entry_for(path: str, dataset: LockedDataset) -> dict[str, Any]:
    """Return the entry of a data set; without further references if the text is for training."""
    is_training = path.startswith("prepare.train.")
    return {key: value for key, value in dataset.entry.items() if not (is_training and key in _ONLY_HELD_OUT)}


def _with_sha256(value: Any, path: str, lock: Lock, made: Substitution) -> Any:
    """Return a value of a document in which each mapping with a URL has a SHA-256, if it is locked."""
    if isinstance(value, list):
        return [_with_sha256(each, path, lock, made) for each in value]
    if not isinstance(value, dict):
        return value
    if value.get("url") is None or value.get("sha256") is not None:
        return {key: _with_sha256(each, path, lock, made) for key, each in value.items()}
    url, _ = split_login(value["url"])
    file = lock.file(url, value.get("member"))
    if file is None:
        name = ":".join(part for part in (url, value.get("member")) if part)
        made.missing.append(f"{path} ({shorten(name, LONGEST_QUOTE)})")
        return value
    made.checksums.setdefault(file.sha256, path)
    return {**value, "sha256": file.sha256}
