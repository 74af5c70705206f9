"""The answers of a server to the requests of a block, so that no sentence is requested twice.

answers/
    000012.jsonl    answers of a block in progress: a line is appended as soon as an answer arrives
    000012.gz       answers of a finished block: the same lines in the order of the sentences, then a checksum
    tokens          number of tokens that were used or reserved (`kdmt.distill.token_budget`)

Each line has the first 16 digits of the SHA-256 of its JSON, a space, and the JSON of a `Reply`. A line that a kill cut
off is ignored. Replies have their sources and a hash of the request's settings, so that they can be used for the
same sentences in other blocks.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from kdmt.choices import AnswerBatch
from kdmt.distill.blocks import Block
from kdmt.distill.llm_answers import Answer
from kdmt.errors import UserError
from kdmt.files import atomic_file, naming, parse_json

ANSWERS = "answers"  # folder of the answers, inside the stage's folder
_SEALED = ".gz"
_DIGITS = 16
_DIGEST_BYTES = 32
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "sources": list,
    "batch": (str, type(None)),
    "settings": str,
    "answers": list,
    "prompt_tokens": int,
    "output_tokens": int,
    "model": (str, type(None)),
    "fingerprint": (str, type(None)),
    "error": (str, type(None)),
    "before": int,
}
_DEFAULTS = {"before": 0}  # values of fields that earlier versions did not write


@dataclass(frozen=True)
class Reply:
    """The answer to one request.

    Attributes:
        sources: source sentences of the request.
        batch: how they were joined; None for one sentence.
        settings: hash of the prompt, model and settings of the request.
        answers: candidates, each for all sentences.
        prompt_tokens, output_tokens: what the server counted, or an estimate.
        model, fingerprint: what the server calls its model and configuration, if it says.
        error: why the sentence has no answer after all attempts; None if it has.
        before: number of candidates that the sentence had before, so that only copies of one reply are equal.
    """

    sources: tuple[str, ...]
    batch: AnswerBatch | None
    settings: str
    answers: tuple[Answer, ...] = ()
    prompt_tokens: int = 0
    output_tokens: int = 0
    model: str | None = None
    fingerprint: str | None = None
    error: str | None = None
    before: int = 0

    def line(self) -> bytes:
        """Return the reply as a line of a file."""
        values = asdict(self) | {"answers": [[answer.text, answer.finish] for answer in self.answers]}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))  # ASCII, so that no answer has a line end
        return f"{_checksum(text.encode())} {text}\n".encode()

    @classmethod
    def parse(cls, line: bytes) -> Reply | None:
        """Return the reply of a line, None if the line is damaged."""
        checksum, _, data = line.rstrip(b"\n").partition(b" ")
        if _checksum(data).encode() != checksum:
            return None
        with suppress(ValueError, TypeError):
            values: dict[str, Any] = _DEFAULTS | parse_json(data)
            if values.keys() == _FIELDS.keys() and all(
                isinstance(values[name], kinds) for name, kinds in _FIELDS.items()
            ):
                if values["batch"] not in (None, *get_args(AnswerBatch)):
                    return None
                answers = tuple(Answer(str(text), finish) for text, finish in values["answers"])
                return cls(**values | {"sources": tuple(values["sources"]), "answers": answers})
        return None


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


class AnswerLog:
    """The replies of one block: those on the disk, and a file to which new ones are appended.

    Args:
        folder: existing folder of all answers.

    Raises:
        UserError: if the file of a finished block is damaged.
    """

    def __init__(self, folder: Path, block: Block) -> None:
        self._open_path, self._path = open_path(folder, block), sealed_path(folder, block)
        # a kill may have left both files
        self.replies = list(dict.fromkeys([*read_replies(self._path), *read_replies(self._open_path)]))
        self._file: int | None = None
        self._lock = threading.Lock()

    def append(self, reply: Reply) -> None:
        """Add a reply; when this returns, a kill of the process does not lose it. Several threads may call this."""
        data = reply.line()
        with self._lock, naming(self._open_path):
            if self._file is None:
                self._file = _open_for_append(self._open_path)
            while data:
                data = data[os.write(self._file, data) :]
            self.replies.append(reply)

    def seal(self, replies: Sequence[Reply]) -> None:
        """Write the file of the finished block, and remove the one of the block in progress."""
        self.close()
        data = b"".join(reply.line() for reply in replies)
        packed = gzip.compress(data + hashlib.sha256(data).digest(), mtime=0)
        if not self._path.exists() or self._path.read_bytes() != packed:
            with atomic_file(self._path) as aside:
                aside.write_bytes(packed)
        self._open_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.fsync(self._file)
            os.close(self._file)
            self._file = None


def open_path(folder: Path, block: Block) -> Path:
    """Return the path of the answers of a block in progress."""
    return folder / f"{block.number:06d}.jsonl"


def sealed_path(folder: Path, block: Block) -> Path:
    """Return the path of the answers of a finished block."""
    return folder / f"{block.number:06d}{_SEALED}"


def read_replies(path: Path) -> list[Reply]:
    """Return the replies in a file of either kind; an empty list if there is no file.

    Raises:
        UserError: if the file of a finished block is damaged.
    """
    return _read_sealed(path) if path.suffix == _SEALED else list(_read_open(path))


def _read_sealed(path: Path) -> list[Reply]:
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged or cut short: {error}; {_ADVICE}") from None
    data = content[:-_DIGEST_BYTES]
    if hashlib.sha256(data).digest() != content[-_DIGEST_BYTES:]:
        raise UserError(f"{path}: damaged: its checksum does not match; {_ADVICE}")
    replies = [Reply.parse(line) for line in data.splitlines()]
    found = [reply for reply in replies if reply is not None]
    if len(found) < len(replies):
        raise UserError(f"{path}: not in the form that this version writes; {_ADVICE}")
    return found


_ADVICE = "remove it to request its sentences again"


def _read_open(path: Path) -> Iterator[Reply]:
    """Yield the replies of a block in progress; lines that are cut off or damaged are ignored."""
    try:
        with path.open("rb") as file:
            for line in file:
                if (reply := Reply.parse(line)) is not None:
                    yield reply
    except FileNotFoundError:
        return


def _open_for_append(path: Path) -> int:
    """Open a file for lines; a line that a kill cut off is ended."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        os.write(file, b"\n")
    return file
