"""The process of an external scorer: JSON lines in both directions, with at most two batches on their way.

    -> {"id": 7, "source": "...", "hypothesis": "...", "reference": "..."}      an empty line ends each batch
    <- {"scorer": "comet", "signature": "...", "versions": {...}, "licence": "..."}      the first line
    <- {"id": 7, "score": 0.83}                                                 in any order

After an empty line, the process must answer everything that it has read. Its error output goes to a log file.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kdmt.errors import UserError
from kdmt.files import check_keys, naming, parse_json

_READ_BYTES = 1 << 16
_LONGEST_LINE = 1 << 24  # bytes
_SHOWN_CHARACTERS = 200  # of an output line or of the log, in messages
_SECONDS_TO_END = 10.0  # after the end of its input


class Segment(NamedTuple):
    """A source with its translation, and the reference for scorers that need one."""

    source: str
    hypothesis: str
    reference: str | None = None


@dataclass(frozen=True)
class Greeting:
    """The first line of a scorer.

    Attributes:
        scorer: name of the metric or the model.
        signature: text with everything that scores depend on, except the model's file.
        versions: package -> version.
        licence: licence of the model; empty if the scorer does not name one.
    """

    scorer: str
    signature: str
    versions: Mapping[str, str]
    licence: str = ""

    @classmethod
    def from_record(cls, values: Mapping[str, object]) -> Greeting:
        """Return the greeting in a JSON object.

        Raises:
            UserError: if a key is missing or has another type.
        """
        check_keys(values, {"scorer": str, "signature": str}, "its first line")
        versions, licence = values.get("versions", {}), values.get("licence", "")
        if not isinstance(versions, dict) or not isinstance(licence, str):
            raise UserError("its first line: 'versions' is an object and 'licence' a string")
        return cls(str(values["scorer"]), str(values["signature"]), {k: str(v) for k, v in versions.items()}, licence)


class Ended(Exception):
    """The process ended or was silent; it may be started again."""


class WrongAnswer(Exception):
    """The process does not follow the protocol, so that starting it again does not help.

    Attributes:
        index: index of the segment that the message is about, None if it is about no single one.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class ScorerProcess:
    """A running scorer.

    Args:
        command: program and arguments.
        environment: environment variables.
        log: file to which the error output is appended.
        timeout: number of seconds without output, while an answer is due, after which `Ended` is raised.
        batch_size: number of segments of a batch.

    Raises:
        UserError: if the command cannot be run.
        Ended: if the process ends or is silent before its first line.
        WrongAnswer: if its first line is no greeting.
    """

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], log: Path, timeout: float, batch_size: int
    ) -> None:
        self._timeout, self._batch_size, self._log = timeout, batch_size, log
        self._to_write, self._unread, self._next_id, self._is_at_end = b"", b"", 0, False
        with naming(log), log.open("ab") as errors:
            self._log_start = errors.tell()
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=environment,
                    start_new_session=True,  # so that all its processes can be ended, and an interrupt is ours alone
                )
            except OSError as error:
                raise UserError(f"cannot run {command[0]!r}: {error.strerror}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        try:
            self.greeting = self._read_greeting()
        except BaseException:
            self.kill()
            raise

    def scores(self, segments: Sequence[Segment]) -> Iterator[tuple[int, float]]:
        """Yield the index and the score of each segment, as they arrive.

        Raises:
            Ended: if the process ends with an error, or is silent.
            WrongAnswer: if an answer is not valid, or the process ends without an error before the last one.
        """
        first, sent = self._next_id, 0
        self._next_id += len(segments)
        due: set[int] = set()
        answered = 0
        while answered < len(segments):
            while sent < len(segments) and len(due) <= self._batch_size:
                batch = range(sent, min(sent + self._batch_size, len(segments)))
                self._to_write += b"".join(_request(first + index, segments[index]) for index in batch) + b"\n"
                due.update(first + index for index in batch)
                sent = batch.stop
            for line in self._wait():
                number, score = _answer(line, due, first, first + len(segments))
                due.remove(number)
                answered += 1
                yield number - first, score
            if self._is_at_end and answered < len(segments):
                self._explain_end(min(due) - first, answered, len(segments))

    def finish(self) -> None:
        """End the process by the end of its input.

        Raises:
            WrongAnswer: if it writes further lines.
        """
        self._to_write = b""
        self._close_input()
        further = self._unread
        try:
            with suppress(Ended):
                while not self._is_at_end and not further.strip():
                    further = b"\n".join(self._wait(_SECONDS_TO_END)) or self._unread
            if not further.strip():
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_SECONDS_TO_END)
        finally:
            self.kill()
        if further.strip():
            raise WrongAnswer(f"wrote a line that answers no segment: {_shown(further)}")

    def kill(self) -> None:
        """End the process and the processes that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._close_input()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def _read_greeting(self) -> Greeting:
        lines: list[bytes] = []
        while not lines:
            lines = self._wait()
            if self._is_at_end and not lines:
                raise Ended(self._describe_end())
        if len(lines) > 1:
            raise WrongAnswer(f"wrote a line before it was given a segment: {_shown(lines[1])}")
        try:
            values = parse_json(lines[0])
            if not isinstance(values, dict):
                raise ValueError
            return Greeting.from_record(values)
        except ValueError:
            raise WrongAnswer(f"its first line is no JSON object: {_shown(lines[0])}") from None
        except UserError as error:
            raise WrongAnswer(str(error)) from None

    def _wait(self, timeout: float | None = None) -> list[bytes]:
        """Write and read what is possible, and return the lines that are complete.

        Raises:
            Ended: if nothing can be written or read for the time of the timeout.
        """
        with selectors.DefaultSelector() as selector:
            if not self._is_at_end:
                selector.register(self._stdout, selectors.EVENT_READ)
            if self._to_write:
                selector.register(self._stdin, selectors.EVENT_WRITE)
            ready = [key.fd for key, _ in selector.select(self._timeout if timeout is None else timeout)]
        if not ready:
            raise Ended(f"was silent for {self._timeout:g} seconds{self._last_words()}")
        if self._stdin in ready:
            self._write()
        return self._read() if self._stdout in ready else []

    def _write(self) -> None:
        try:
            written = os.write(self._stdin, self._to_write[:_READ_BYTES])
        except BrokenPipeError:  # the process ended, which the end of its output will show
            self._to_write = b""
        else:
            self._to_write = self._to_write[written:]

    def _read(self) -> list[bytes]:
        data = os.read(self._stdout, _READ_BYTES)
        self._is_at_end = not data
        *lines, self._unread = (self._unread + data).split(b"\n")
        if self._is_at_end and self._unread:
            lines, self._unread = [*lines, self._unread], b""
        if len(self._unread) > _LONGEST_LINE:
            raise WrongAnswer(f"wrote a line of more than {_LONGEST_LINE >> 20} MB")
        return [line for line in lines if line.strip()]

    def _explain_end(self, index: int, answered: int, wanted: int) -> None:
        if self._exit_status() == 0:
            raise WrongAnswer(f"ended with {answered:,} scores for {wanted:,} segments{self._last_words()}", index)
        raise Ended(self._describe_end())

    def _describe_end(self) -> str:
        status = self._exit_status()
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        return f"ended {how}{self._last_words()}"

    def _exit_status(self) -> int:
        """Return the exit status of the process, whose output has ended.

        Raises:
            Ended: if it closed its output and still runs.
        """
        try:
            return self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            message = f"closed its output and did not end within {_SECONDS_TO_END:g} seconds{self._last_words()}"
            raise Ended(message) from None

    def _last_words(self) -> str:
        """Return the last line of the error output for a message, and the path of the log."""
        with self._log.open("rb") as file:
            file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - _READ_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][-_SHOWN_CHARACTERS:]} (log: {self._log})" if lines else ""


def _request(number: int, segment: Segment) -> bytes:
    values: dict[str, object] = {"id": number, "source": segment.source, "hypothesis": segment.hypothesis}
    if segment.reference is not None:
        values["reference"] = segment.reference
    return f"{json.dumps(values)}\n".encode()


def _answer(line: bytes, due: set[int], first: int, stop: int) -> tuple[int, float]:
    """Return the id and the score in a line."""
    try:
        values = parse_json(line)
    except ValueError as error:
        raise WrongAnswer(f"wrote a line that is not valid JSON ({error}): {_shown(line)}", min(due) - first) from None
    number = values.get("id") if isinstance(values, dict) else None
    score = values.get("score") if isinstance(values, dict) else None
    if type(number) is not int:
        raise WrongAnswer(f"wrote a line without an id: {_shown(line)}", min(due) - first)
    if number not in due:
        kind = "answered twice" if first <= number < stop else "unknown"
        raise WrongAnswer(f"wrote the id {number}, which is {kind}", number - first if first <= number < stop else None)
    if type(score) not in (int, float):
        raise WrongAnswer(f"wrote no number as the score: {_shown(line)}", number - first)
    assert isinstance(score, (int, float))
    try:
        return number, float(score)
    except OverflowError:
        raise WrongAnswer(f"wrote too large a number as the score: {_shown(line)}", number - first) from None


def _shown(line: bytes) -> str:
    return repr(line.decode(errors="replace")[:_SHOWN_CHARACTERS])
