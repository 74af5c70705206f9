"""Load test of `kdmt serve`: requests per second, latency and errors, and what hostile clients cost the others.

    make load-test MODEL=runs/x/students/small/seed_1    (or: python benchmarks/bench_serve.py MODEL [--seconds 600])

Each connection sends one sentence after the other. Three measurements follow one another on the same server:

- load: `--connections` connections (default 1,000);
- quiet: 8 connections alone;
- attacked: the same 8 connections, while as many others as in the first measurement send nothing, half a request, a
  body byte by byte, a body that is too large, or JSON that cannot be parsed, and open a new connection when they are
  closed.

An error is an answer other than 200, a connection that is closed, or an empty translation. Clients and server share the
cores of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from figures import Figure, report_figures

NUM_QUIET = 8
WHO = ("A man", "A woman", "A young boy", "Two girls", "A dog", "People")
DOES = ("is sitting", "is sleeping", "runs", "is playing", "is standing", "walks")
WHERE = ("in the park", "on a bench", "near the water", "in front of a house", "on the street", "in the snow")
SENTENCES = [f"{who} {does} {where}." for who, does, where in itertools.product(WHO, DOES, WHERE)]


@dataclass
class Measured:
    """Latency in seconds of each request with an answer, and the number of errors by kind."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)

    def error(self, kind: str) -> None:
        self.errors[kind] = self.errors.get(kind, 0) + 1

    def figures(self, name: str) -> list[Figure]:
        """Return the figures `serve_<name>_...`."""
        p50, p95, p99 = np.percentile(self.latencies, (50, 95, 99)) * 1000
        return [
            Figure(f"serve_{name}_requests_per_second", len(self.latencies) / self.seconds, "requests/s"),
            Figure(f"serve_{name}_p50_ms", float(p50), "ms"),
            Figure(f"serve_{name}_p95_ms", float(p95), "ms"),
            Figure(f"serve_{name}_p99_ms", float(p99), "ms"),
            Figure(f"serve_{name}_requests", len(self.latencies), "requests"),
            Figure(f"serve_{name}_errors", sum(self.errors.values()), "errors"),
        ]


@dataclass(frozen=True)
class Target:
    """The address of the server and a language pair of it."""

    host: str
    port: int
    source: str
    target: str

    def request(self, text: str) -> bytes:
        fields = {"q": text, "source": self.source, "target": self.target, "format": "text"}
        return self.head("POST /translate", body := json.dumps(fields).encode()) + body

    def head(self, line: str, body: bytes = b"", length: int | None = None) -> bytes:
        return (
            f"{line} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
        ).encode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Model, as for kdmt serve.")
    parser.add_argument("--seconds", type=float, default=60, help="Time of each measurement (default: %(default)s).")
    parser.add_argument("--connections", type=int, default=1000, help="Number of connections (default: %(default)s).")
    parser.add_argument("--threads", type=int, default=0, help="Threads of the model; 0 for one per core (default).")
    parser.add_argument("--text", type=Path, help="File with a sentence per line (default: captions in English).")
    arguments = parser.parse_args()

    sentences = arguments.text.read_text(encoding="utf-8").splitlines() if arguments.text else SENTENCES
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    command = [
        sys.executable,
        "-m",
        "kdmt",
        "serve",
        arguments.model,
        "--port",
        "0",
        "--threads",
        str(arguments.threads),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            target = target_of(server)
            measured = asyncio.run(measure(target, sentences, arguments.connections, arguments.seconds))
            memory = peak_memory(server.pid)
        finally:
            start = time.monotonic()
            server.terminate()
            code = server.wait()
            stopped = time.monotonic() - start
    figures = [figure for name, each in measured.items() for figure in each.figures(name)]
    figures += [
        Figure("serve_peak_rss_mb", memory, "MB"),
        Figure("serve_stop_seconds", stopped, "s"),
        Figure("serve_exit_code", code, "ratio"),
    ]
    settings = {name: value for name, value in vars(arguments).items() if name not in ("text", "model")}
    report_figures("serve", figures, settings=settings | {"model": Path(arguments.model).name})
    for name, each in measured.items():
        if each.errors:
            print(f"errors of {name}: {each.errors}", file=sys.stderr)
    return 1 if any(each.errors for each in measured.values()) or code else 0


def target_of(server: subprocess.Popen[str]) -> Target:
    """Wait until the server has started and return its address and its first language pair."""
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r" on http://(\S+):(\d+)$", line.rstrip()):
            url = f"http://{found[1]}:{found[2]}/languages"
            with urllib.request.urlopen(url) as response:
                languages = json.load(response)
            source = next(each for each in languages if each["targets"])
            return Target(found[1], int(found[2]), source["code"], source["targets"][0])
        print(line, end="", file=sys.stderr)
    raise SystemExit("the server did not start")


async def measure(target: Target, sentences: Sequence[str], connections: int, seconds: float) -> dict[str, Measured]:
    """Return the three measurements by name."""
    await load(target, sentences, NUM_QUIET, min(3.0, seconds))  # warms up
    measured = {
        "load": await load(target, sentences, connections, seconds),
        "quiet": await load(target, sentences, NUM_QUIET, seconds),
    }
    async with attackers(target, connections):
        await asyncio.sleep(1)
        measured["attacked"] = await load(target, sentences, NUM_QUIET, seconds)
    return measured


async def load(target: Target, sentences: Sequence[str], connections: int, seconds: float) -> Measured:
    """Send sentences over connections for a time; requests that are sent by then are waited for."""
    measured = Measured()
    start = time.monotonic()
    clients = (client(target, sentences, measured, start + seconds, seed) for seed in range(connections))
    await asyncio.gather(*clients)
    measured.seconds = time.monotonic() - start
    return measured


async def client(target: Target, sentences: Sequence[str], measured: Measured, until: float, seed: int) -> None:
    """Send one sentence after the other over one connection, which is opened again if it is closed."""
    draw = random.Random(seed)
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection(target.host, target.port)
        except OSError as error:
            measured.error(type(error).__name__)
            await asyncio.sleep(0.1)
            continue
        try:
            while time.monotonic() < until:
                start = time.monotonic()
                writer.write(target.request(draw.choice(sentences)))
                status, body = await read_answer(reader)
                if status != 200 or not json.loads(body).get("translatedText"):
                    measured.error(str(status))
                else:
                    measured.latencies.append(time.monotonic() - start)
        except (OSError, EOFError) as error:
            measured.error(type(error).__name__)
        finally:
            writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return the status and the body of an answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    body = await reader.readexactly(int(length[1]) if length else 0)
    return int(head.split(None, 2)[1]), body


@asynccontextmanager
async def attackers(target: Target, connections: int) -> AsyncIterator[None]:
    """Keep hostile connections open while the body runs."""
    tasks = [asyncio.ensure_future(attack(target, number)) for number in range(connections)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def attack(target: Target, number: int) -> None:
    """Behave badly in one of five ways, again and again."""
    while True:
        with suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            try:
                match number % 5:
                    case 0:
                        pass
                    case 1:
                        writer.write(b"POST /translate HTTP/1.1\r\nHost: x\r\n")
                    case 2:
                        writer.write(target.head("POST /translate", length=1000))
                        for _ in range(30):
                            writer.write(b"[")
                            await asyncio.sleep(1)
                    case 3:
                        writer.write(target.head("POST /translate", length=1 << 30) + b"x" * 10_000)
                    case _:
                        writer.write(target.head("POST /translate", body := b"[" * 10_000) + body)
                while await reader.read(65536):
                    pass
            finally:
                writer.close()
        await asyncio.sleep(1)


def peak_memory(process: int) -> float:
    """Return the largest resident memory that a process has had, in MB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1000 if found else 0.0


if __name__ == "__main__":
    sys.exit(main())
