"""A thread that writes checkpoints while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """Runs one job at a time in a thread.

    Writing, checksums and synchronisation with the disk release Python's lock, so that training goes on. An error of a
    job is never lost: `submit` and `wait` raise it, or `drain` returns it.
    """

    def __init__(self) -> None:
        self._job: Future[object] | None = None

    def submit(self, job: Callable[[], object]) -> None:
        """Wait for the job before, and start this one.

        Raises:
            BaseException: the error of the job before.
        """
        self.wait()
        pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._job = pool.submit(job)
        pool.shutdown(wait=False)  # the thread ends after the job

    def wait(self) -> None:
        """Wait until the job is done, if there is one.

        Raises:
            BaseException: the error of the job.
        """
        error = self.drain()
        if error is not None:
            raise error

    def drain(self) -> BaseException | None:
        """Wait until the job is done, if there is one, and return its error."""
        if self._job is None:
            return None
        error = self._job.exception()
        self._job = None  # after waiting, which a signal may interrupt
        return error
