"""Run commands in forked children of a process that has already loaded kdmt and torch.

This is fast, and has real exit codes, real standard streams and limits enforced by the operating system.
"""

from __future__ import annotations

import faulthandler
import io
import os
import resource
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MEMORY_BYTES = 4 << 30  # of address space, in addition to what the parent has mapped
FILE_BYTES = 1 << 30  # for each file that is written

Entry = Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """The result of a command.

    Attributes:
        code: exit code, negative for a signal.
        hung: whether it was killed because it exceeded the time limit.
        where: Python stack at the time limit.
    """

    code: int
    out: bytes
    err: bytes
    hung: bool = False
    where: str = ""


def preload() -> None:
    """Load what most commands load, without starting a thread, because a forked child has none of them."""
    import ctranslate2  # noqa: F401
    import sacrebleu  # noqa: F401
    import sentencepiece  # noqa: F401
    import torch

    import kdmt.cli
    import kdmt.commands.generate
    import kdmt.commands.import_fairseq
    import kdmt.decode.engines.translator
    import kdmt.interop.ctranslate2_export
    import kdmt.interop.fairseq.checkpoints
    import kdmt.stages.pipeline  # noqa: F401

    torch.set_num_threads(1)


def run_command(
    arguments: Sequence[str],
    folder: Path,
    *,
    stdin: bytes = b"",
    limit_seconds: float = 60.0,
    entry: Entry | None = None,
) -> Ended:
    """Run `kdmt ARGUMENTS` in a folder.

    Args:
        limit_seconds: time after which it is killed, with all processes that it started.
        entry: program to run (default: kdmt).
    """
    with tempfile.TemporaryDirectory(prefix="kdmt-fuzz-") as name:
        streams = [Path(name) / stream for stream in ("in", "out", "err", "stack")]
        streams[0].write_bytes(stdin)
        pid = os.fork()
        if pid == 0:
            _be_the_command(arguments, folder, streams, limit_seconds, entry)
        try:
            hung = not _ends_within(pid, limit_seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # also the processes that it left running
        _, status = os.waitpid(pid, 0)
        out, err, stack = (stream.read_bytes() if stream.exists() else b"" for stream in streams[1:])
        return Ended(os.waitstatus_to_exitcode(status), out, err, hung, stack.decode(errors="replace") if hung else "")


def _ends_within(pid: int, seconds: float) -> bool:
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _be_the_command(
    arguments: Sequence[str], folder: Path, streams: Sequence[Path], limit_seconds: float, entry: Entry | None
) -> None:
    """Run the command in the child process; never return."""
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stack = streams[3].open("w")
        _redirect(streams)
        os.chdir(folder)
        _set_environment()
        faulthandler.dump_traceback_later(0.9 * limit_seconds, file=stack)
        _limit(resource.RLIMIT_AS, _mapped_bytes() + MEMORY_BYTES)
        _limit(resource.RLIMIT_FSIZE, FILE_BYTES)
        _limit(resource.RLIMIT_CORE, 0)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that an OSError is raised instead
        sys.argv = ["kdmt", *arguments]
        code = _call(entry)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _call(entry: Entry | None) -> int:
    """Run the program and return its exit code as the interpreter would."""
    try:
        if entry is None:
            from kdmt.cli import main as entry
        entry()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return int(end.code or 0)
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _redirect(streams: Sequence[Path]) -> None:
    descriptors = (
        os.open(streams[0], os.O_RDONLY),
        *(os.open(s, os.O_WRONLY | os.O_CREAT, 0o600) for s in streams[1:3]),
    )
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "rb", closefd=False)), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "wb", closefd=False)), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(
        io.FileIO(2, "wb", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
    )


def _set_environment() -> None:
    for name in [name for name in os.environ if name.startswith("KDMT_")]:
        del os.environ[name]
    os.environ.update(HF_HUB_OFFLINE="1", no_proxy="*", OMP_NUM_THREADS="1")


def _mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
