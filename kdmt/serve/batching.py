"""Dynamic batching: sentences of requests that arrive at about the same time are translated together.

Each model has one queue and one thread, also for all directions of a multilingual model. Clients take turns: a batch
takes one sentence of each client that waits, then a second of each, and so on, and the requests of a client take turns
in the same way. A long document does not delay a short one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from kdmt.errors import describe_error
from kdmt.log import get_logger
from kdmt.serve.limits import Limits

_logger = get_logger(__name__)
Translate = Callable[[list[str]], list[str]]


class QueueFull(Exception):
    """The queue has no place for the sentences of a request."""


class ModelStopped(Exception):
    """The thread of a model has ended because of an error."""


class ClientLimit(Exception):
    """A client has more sentences in the queue than it may have."""


@dataclass(eq=False)
class _Job:
    """The sentences of a request; those before `started` are translated or in the batch that is being translated."""

    client: str
    sentences: Sequence[str]
    translate: Translate
    future: Future[list[str]]
    translations: list[str | None]
    started: int = 0
    finished: int = 0


@dataclass
class _Client:
    """The jobs of a client in the order of their turns, and the number of sentences that are not translated yet."""

    jobs: deque[_Job] = field(default_factory=deque)
    sentences: int = 0

    def next_job(self) -> _Job | None:
        """Take out the first job with sentences that are not in a batch yet; None if there is none."""
        while self.jobs:
            job = self.jobs.popleft()
            if job.started < len(job.sentences):
                return job
        return None


class TranslationQueue:
    """A bounded queue of sentences in front of a model, with the thread that translates them.

    Args:
        translate: function that returns the translation of each sentence, unless a request has its own; these functions
            are called in one thread only.
        limits: `queued_sentences`, `client_sentences` and those of a batch are used.
        observe: function that is called after each batch with its number of sentences.
        name: name of the thread.
    """

    def __init__(
        self,
        translate: Translate,
        limits: Limits,
        *,
        observe: Callable[[int], None] | None = None,
        name: str = "translation",
    ) -> None:
        self._translate = translate
        self._limits = limits
        self._observe = observe
        self._changed = threading.Condition()
        self._clients: dict[str, _Client] = {}  # in the order of their turns
        self._waiting = 0  # sentences that are not in a batch yet
        self._is_closed = False
        self._has_stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def length(self) -> int:
        """Number of sentences that wait."""
        return self._waiting

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(
        self, sentences: Sequence[str], *, client: str = "", translate: Translate | None = None
    ) -> Future[list[str]]:
        """Add the sentences of a request and return the future of their translations.

        A future that is cancelled gives its place to others.

        Args:
            sentences: sentences of the request.
            client: name of the client.
            translate: function for these sentences, such as that of one direction of a model (default: that of the
                queue).

        Raises:
            QueueFull: if the queue has too little space, or is closed.
            ClientLimit: if the client has too many sentences in it.
            ModelStopped: if the thread has ended because of an error.
        """
        future: Future[list[str]] = Future()
        if not sentences:
            future.set_result([])
            return future
        with self._changed:
            if self._has_stopped:
                raise ModelStopped
            owner = self._clients.get(client)
            if (owner.sentences if owner else 0) + len(sentences) > self._limits.client_sentences:
                raise ClientLimit
            if self._is_closed or self._waiting + len(sentences) > self._limits.queued_sentences:
                raise QueueFull
            owner = self._clients.setdefault(client, _Client())
            job = _Job(client, sentences, translate or self._translate, future, [None] * len(sentences))
            owner.jobs.append(job)
            owner.sentences += len(sentences)
            self._waiting += len(sentences)
            self._changed.notify()
        future.add_done_callback(lambda done: self._drop(job) if done.cancelled() else None)
        return future

    def close(self) -> None:
        """Translate what is in the queue, accept nothing more, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _drop(self, job: _Job) -> None:
        """Take the sentences of a cancelled job, as far as they are not in a batch, out of the queue."""
        with self._changed:
            count = len(job.sentences) - job.started
            job.started = len(job.sentences)
            self._waiting -= count
            if count:
                self._forget(job, count)

    def _forget(self, job: _Job, count: int) -> None:
        """Count sentences of a client as done; the last one removes the client."""
        owner = self._clients[job.client]
        owner.sentences -= count
        if not owner.sentences:
            del self._clients[job.client]

    def _run(self) -> None:
        batch: list[tuple[_Job, int]] = []
        try:
            while batch := self._next_batch():
                if self._observe is not None:
                    self._observe(len(batch))
                for translate, own in _by_function(batch).items():
                    sentences = [job.sentences[index] for job, index in own]
                    for (job, index), translation in zip(own, self._translated(translate, sentences), strict=True):
                        self._deliver(job, index, translation)
        except BaseException:
            self._fail_all([job for job, _ in batch])
            raise

    def _fail_all(self, jobs: list[_Job]) -> None:
        """Fail these jobs and those that wait, and accept no others."""
        with self._changed:
            self._has_stopped = True
            jobs += [job for owner in self._clients.values() for job in owner.jobs]
        for job in jobs:
            with suppress(InvalidStateError):  # it is done, or twice in the list
                job.future.set_exception(ModelStopped())

    def _translated(self, translate: Translate, sentences: list[str]) -> list[str | Exception]:
        """Return the translations; if the batch fails, each sentence alone, with the error of those that fail."""
        try:
            translations: list[str | Exception] = [*translate(sentences)]
            if len(translations) != len(sentences):
                raise RuntimeError(f"the model returned {len(translations):,} translations")
            return translations
        except BaseException as error:  # whatever an engine raises, such as a panic of Rust, must not end the thread
            _logger.warning(f"a batch of {len(sentences):,} sentences failed: {describe_error(error)}")
            if len(sentences) == 1:
                return [error if isinstance(error, Exception) else RuntimeError(describe_error(error))]
            return [self._translated(translate, [sentence])[0] for sentence in sentences]

    def _next_batch(self) -> list[tuple[_Job, int]]:
        """Wait for sentences and return those of the next batch; an empty list after `close`."""
        most = self._limits.batch_sentences
        with self._changed:
            while not self._waiting:  # again, if all sentences are cancelled while the batch waits for others
                if self._is_closed:
                    return []
                self._changed.wait()
                until = time.monotonic() + self._limits.batch_seconds
                while 0 < self._waiting < most and not self._is_closed and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
            return self._take(min(most, self._waiting))

    def _take(self, count: int) -> list[tuple[_Job, int]]:
        """Take sentences out of the queue, one of each client in turn, and one of each of its requests in turn.

        The batch ends early with the sentence that brings it to `batch_characters`.
        """
        batch: list[tuple[_Job, int]] = []
        characters = 0
        while len(batch) < count and characters < self._limits.batch_characters:
            for name, owner in list(self._clients.items()):
                job = owner.next_job()
                if job is None:
                    continue
                batch.append((job, job.started))
                characters += len(job.sentences[job.started])
                job.started += 1
                owner.jobs.append(job)
                self._clients[name] = self._clients.pop(name)  # the client goes to the end
                if len(batch) == count or characters >= self._limits.batch_characters:
                    break
        self._waiting -= len(batch)
        return batch

    def _deliver(self, job: _Job, index: int, translation: str | Exception) -> None:
        """Store a translation, and set the result of the future with the last one."""
        with self._changed:
            self._forget(job, 1)
        with suppress(InvalidStateError):  # cancelled in the meantime, or another sentence of the request failed
            if isinstance(translation, Exception):
                self._drop(job)
                job.future.set_exception(translation)
                return
            job.translations[index] = translation
            job.finished += 1
            if job.finished == len(job.sentences):
                job.future.set_result([text or "" for text in job.translations])


def _by_function(batch: list[tuple[_Job, int]]) -> dict[Translate, list[tuple[_Job, int]]]:
    """Return the sentences of a batch by the function that translates them."""
    found: dict[Translate, list[tuple[_Job, int]]] = {}
    for job, index in batch:
        found.setdefault(job.translate, []).append((job, index))
    return found
