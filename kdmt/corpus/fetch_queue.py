"""Several downloads at once, of which few are from the same host."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from kdmt.config import Source
from kdmt.corpus.download import Progress, Stopped
from kdmt.corpus.fetch import Fetched, Places, fetch
from kdmt.errors import naming

_MOST_PER_HOST = 2  # downloads at once; servers of corpora refuse clients with many connections

_Key = tuple[str | None, str | None]  # path or URL, and SHA-256


@dataclass
class _Queue:
    """Sources that are not fetched yet, and the results of the others.

    Attributes:
        left: sources that wait, in order.
        busy: host -> number of sources that are being fetched from it.
        changed: condition that guards all attributes.
        stop: signal after which no source is begun, and downloads end.
        fetched: results.
        errors: position of a source -> error.
    """

    left: list[tuple[int, Source]]
    busy: Counter[str] = field(default_factory=Counter)
    changed: threading.Condition = field(default_factory=threading.Condition)
    stop: threading.Event = field(default_factory=threading.Event)
    fetched: dict[_Key, Fetched] = field(default_factory=dict)
    errors: dict[int, BaseException] = field(default_factory=dict)

    def take(self) -> tuple[int, Source] | None:
        """Remove the first source whose host may have another download; None if there is nothing left to do."""
        with self.changed:
            while self.left and not self.stop.is_set():
                for item in self.left:
                    if not (host := _host(item[1])) or self.busy[host] < _MOST_PER_HOST:
                        self.left.remove(item)
                        self.busy[host] += 1
                        return item
                self.changed.wait()
            return None

    def finish(self, position: int, source: Source, result: Fetched | BaseException) -> None:
        """Store the result of a source; after an error, the other downloads are stopped."""
        with self.changed:
            self.busy[_host(source)] -= 1
            if isinstance(result, Fetched):
                self.fetched[_key(source)] = result
            elif not isinstance(result, Stopped):
                self.errors[position] = result
                self.stop.set()
            self.changed.notify_all()

    def cancel(self) -> None:
        """Stop all downloads."""
        with self.changed:
            self.stop.set()
            self.changed.notify_all()


def fetch_all(
    named_sources: Sequence[tuple[str, Source]], places: Places, *, at_once: int, progress: Progress | None = None
) -> list[Fetched]:
    """Fetch sources (see `fetch`), several at once and at most two from the same host.

    If one fails, the others are stopped; what they have downloaded is kept, and a later call resumes it.

    Args:
        named_sources: sources, each with the place where it is given, which is put before the message of an error.
        at_once: maximum number of downloads at once.
        progress: callback during downloads, which several threads call.

    Returns:
        The local file of each source.

    Raises:
        UserError: the error of `fetch` of the first source that failed.
    """
    sources = {_key(source): source for _, source in named_sources}
    queue = _Queue(list(enumerate(sources.values())))
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for work in [pool.submit(_work, queue, places, progress) for _ in range(min(at_once, len(sources)))]:
                work.result()
        finally:
            queue.cancel()
    if queue.errors:
        first = min(queue.errors)
        failed = list(sources)[first]
        with naming(next(name for name, source in named_sources if _key(source) == failed)):
            raise queue.errors[first]
    return [queue.fetched[_key(source)] for _, source in named_sources]


def _work(queue: _Queue, places: Places, progress: Progress | None) -> None:
    while (item := queue.take()) is not None:
        position, source = item
        try:
            queue.finish(position, source, fetch(source, places, progress=progress, stop=queue.stop))
        except BaseException as error:
            queue.finish(position, source, error)


def _key(source: Source) -> _Key:
    return source.path or source.url, source.sha256


def _host(source: Source) -> str:
    return "" if source.url is None else urlsplit(source.url).hostname or ""


def describe_fetched(fetched: Sequence[Fetched]) -> str:
    """Return a line with the number of bytes that were received, and how many files came from where."""
    files = list({each.path: each for each in fetched}.values())
    received = {each.origin: 0 for each in files if each.num_received}
    for each in files:
        if each.num_received:
            received[each.origin] += each.num_received
    origins = Counter(each.origin for each in files)
    from_hosts = [f"{received[host]:,} bytes ({_files(origins[host])}) from {host}" for host in received]
    from_folders = [
        f"{_files(count)} in the mirror {origin}"
        for origin, count in origins.items()
        if origin is not None and origin not in received
    ]
    present = [f"{_files(origins[None])} present"] if origins[None] else []
    total = f"{sum(received.values()):,} bytes downloaded"
    return f"{total}: {', '.join([*from_hosts, *from_folders, *present])}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
