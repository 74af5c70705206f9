"""Hostile clients of `kdmt serve` for its load test: an attack is one connection that behaves badly in its own way."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

_PAUSE_SECONDS = 10.0  # between the connections of an attacker
_BODY_BYTES = 262_144  # the limit of the server


Counter = Any  # a number that processes share


@dataclass(frozen=True)
class Target:
    """The address of the server, a language pair of it, and the API key of a client."""

    host: str
    port: int
    source: str
    target: str
    key: str

    def request(self, text: str, form: str = "text") -> bytes:
        fields = {"q": text, "source": self.source, "target": self.target, "format": form}
        return self.head(len(body := json.dumps(fields).encode())) + body

    def head(self, length: int | None) -> bytes:
        """Return the head of a request for a translation; without a length, its body has chunks."""
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        return (
            f"POST /translate HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.key}\r\n{size}\r\n\r\n"
        ).encode()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return the status and the body of an answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    body = await reader.readexactly(int(length[1]) if length else 0)
    return int(head.split(None, 2)[1]), body


Attack = Callable[[Target, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _sending(make: Callable[[Target], bytes]) -> Attack:
    """Return the attack that sends some bytes and waits until the connection is closed."""

    async def attack(target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(make(target))
        while await reader.read(65536):
            pass

    return attack


async def _trickle(target: Target, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(target.head(1000))
    while True:
        writer.write(b"[")
        await writer.drain()
        await asyncio.sleep(1)


async def _endless_chunks(target: Target, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(target.head(None))
    while True:
        writer.write(b"10000\r\n" + b"[" * 65536 + b"\r\n")
        await writer.drain()


async def _read_nothing(target: Target, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(target.request("1" * 9_900) * 20)  # copied, as it has no letters
    await asyncio.sleep(30)


def _body(body: bytes) -> Attack:
    return _sending(lambda target: target.head(len(body)) + body)


def _wrong_key(target: Target) -> bytes:
    return target.request("A dog.").replace(target.key.encode(), b"wrong")


ATTACKS: dict[str, Attack] = {
    "nothing is sent": _sending(lambda _: b""),
    "half a head": _sending(lambda _: b"POST /translate HTTP/1.1\r\nHost: x\r\n"),
    "a body byte by byte": _trickle,
    "a body that never ends": _sending(lambda target: target.head(_BODY_BYTES) + b"[" * (_BODY_BYTES - 1)),
    "a gigabyte": _sending(lambda target: target.head(1 << 30) + b"x" * 10_000),
    "chunks without end": _endless_chunks,
    "answers that are not read": _read_nothing,
    "no HTTP": _sending(lambda _: b"\x16\x03\x01\x02\x00\x01\x00" + b"\xff" * 10_000),
    "deep JSON": _body(b"[" * 100_000),
    "no UTF-8": _body(b'{"q": "\xff\xfe"}'),
    "50,000 texts": _body(b'{"source": "en", "target": "de", "q": [' + b'"",' * 50_000 + b'""]}'),
    "a wrong key": _sending(_wrong_key),
    "100,000 characters": _sending(lambda target: target.request("a" * 100_000)),
    "tags that are not closed": _sending(lambda target: target.request("<a x='" * 1_600, "html")),
}


@contextmanager
def attackers(target: Target, connections: int) -> Iterator[Counter]:
    """Attack the server in all ways of `ATTACKS` from another process while the body runs.

    Yields:
        the number of connections that were opened.
    """
    with _in_another_process(_attack_all, target, connections) as opened:
        yield opened


@contextmanager
def heavy_client(target: Target, connections: int) -> Iterator[Counter]:
    """Translate texts of 10,000 characters from another process while the body runs: valid requests, but very many.

    Yields:
        the number of texts that were translated.
    """
    with _in_another_process(_translate_all, target, connections) as translated:
        yield translated


@contextmanager
def _in_another_process(work: Callable[[Target, int, Counter], None], target: Target, count: int) -> Iterator[Counter]:
    """Run work in a process of its own, so that it does not delay the clients whose latency is measured."""
    context = multiprocessing.get_context("spawn")
    counter: Counter = context.Value("l", 0)
    process = context.Process(target=work, args=(target, count, counter), daemon=True)
    process.start()
    while not counter.value:
        time.sleep(0.1)
        if not process.is_alive():
            raise SystemExit("the hostile clients ended")
    try:
        yield counter
    finally:
        process.kill()
        process.join()


def _attack_all(target: Target, connections: int, counter: Counter) -> None:
    async def run() -> None:
        attacks = list(ATTACKS.values())
        works = (_attack(target, attacks[number % len(attacks)], counter) for number in range(connections))
        await asyncio.gather(*works)

    asyncio.run(run())


async def _attack(target: Target, attack: Attack, counter: Counter) -> None:
    while True:
        with suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            counter.value += 1
            try:
                await attack(target, reader, writer)
            finally:
                writer.close()
        await asyncio.sleep(_PAUSE_SECONDS)


def _translate_all(target: Target, connections: int, counter: Counter) -> None:
    async def run() -> None:
        text = "A man is sitting on a bench in the park and " * 227
        await asyncio.gather(*(_translate(target, text, counter) for _ in range(connections)))

    asyncio.run(run())


async def _translate(target: Target, text: str, counter: Counter) -> None:
    while True:
        with suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            try:
                while True:
                    writer.write(target.request(text))
                    status, _ = await read_answer(reader)
                    counter.value += status == 200
            finally:
                writer.close()
