"""Load test of `kdmt serve`: requests per second, latency and errors, and what hostile clients cost the others.

    make load-test MODEL=runs/x/students/small/seed_1    (or: python benchmarks/bench_serve.py MODEL [--seconds 600])

Each connection sends one sentence after the other. Four measurements follow one another on the same server:

- load: `--connections` connections (default 1,000), for `--seconds`;
- quiet: 8 connections alone, for `--attack-seconds`, as all that follow;
- attacked: the same 8 connections, while as many others as in the first measurement attack the server in one of the
  ways of `serve_attacks.py`, and open a new connection when theirs is closed;
- heavy: the same 8 connections, while another client sends texts of 10,000 characters over 100 connections.

The first measurement is made with wrk if it is installed, and otherwise with the clients of this script, as are the
others: wrk sends only valid requests, and in one pattern. An error is an answer other than 200, a connection that is
closed, or an empty translation. Clients and server share the cores of the machine, and hostile clients are in a process
of their own. `serve_request_cpu_ms` and `serve_attack_cpu_ms` are the CPU time of the server for a request and for a
hostile connection; unlike latencies, they do not depend on what else runs on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from figures import Figure, report_figures
from serve_attacks import Target, attackers, heavy_client, read_answer

NUM_QUIET, NUM_HEAVY = 8, 100
TIMEOUT_SECONDS = 60
WHO = ("A man", "A woman", "A young boy", "Two girls", "A dog", "People")
DOES = ("is sitting", "is sleeping", "runs", "is playing", "is standing", "walks")
WHERE = ("in the park", "on a bench", "near the water", "in front of a house", "on the street", "in the snow")
SENTENCES = [f"{who} {does} {where}." for who, does, where in itertools.product(WHO, DOES, WHERE)]
LUA = Path(__file__).parent / "serve_load.lua"


@dataclass(frozen=True)
class Measured:
    """Requests with an answer, the time, percentiles of the latency in milliseconds, and errors by kind."""

    requests: int
    seconds: float
    p50: float
    p95: float
    p99: float
    errors: dict[str, int]

    def figures(self, name: str) -> list[Figure]:
        """Return the figures `serve_<name>_...`."""
        return [
            Figure(f"serve_{name}_requests_per_second", self.requests / self.seconds, "requests/s"),
            Figure(f"serve_{name}_p50_ms", self.p50, "ms"),
            Figure(f"serve_{name}_p95_ms", self.p95, "ms"),
            Figure(f"serve_{name}_p99_ms", self.p99, "ms"),
            Figure(f"serve_{name}_requests", self.requests, "requests"),
            Figure(f"serve_{name}_errors", sum(self.errors.values()), "errors"),
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Model, as for kdmt serve.")
    parser.add_argument("--seconds", type=float, default=60, help="Time of the load (default: %(default)s).")
    parser.add_argument(
        "--attack-seconds", type=float, default=60, help="Time of each other measurement (default: %(default)s)."
    )
    parser.add_argument("--connections", type=int, default=1000, help="Number of connections (default: %(default)s).")
    parser.add_argument("--threads", type=int, default=0, help="Threads of the model; 0 for one per core (default).")
    parser.add_argument("--text", type=Path, help="File with a sentence per line (default: captions in English).")
    arguments = parser.parse_args()

    sentences = arguments.text.read_text(encoding="utf-8").splitlines() if arguments.text else SENTENCES
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    command = [sys.executable, "-m", "kdmt", "serve", arguments.model, "--port", "0"]
    command += ["--threads", str(arguments.threads)]
    environment = os.environ | {"KDMT_API_KEYS": "honest,hostile"}
    busy = os.getloadavg()[0]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            target = target_of(server, "honest")
            started = memory_of(server.pid, "VmRSS")
            measured = {"load": load(target, sentences, arguments.connections, arguments.seconds)}
            loaded = cpu_seconds(server.pid)
            few, hostile = (target, sentences, NUM_QUIET, arguments.attack_seconds), replace(target, key="hostile")
            measured["quiet"] = asyncio.run(clients(*few))
            cpu_of_request = (cpu_seconds(server.pid) - loaded) / measured["quiet"].requests
            with attackers(hostile, arguments.connections) as opened:
                before, start = opened.value, cpu_seconds(server.pid)
                measured["attacked"] = asyncio.run(clients(*few))
                attacks = opened.value - before
                cpu_of_attacks = cpu_seconds(server.pid) - start - cpu_of_request * measured["attacked"].requests
            with heavy_client(hostile, NUM_HEAVY) as translated:
                before = translated.value
                measured["heavy"] = asyncio.run(clients(*few))
                texts = (translated.value - before) / measured["heavy"].seconds
            peak = memory_of(server.pid, "VmHWM")
        finally:
            start = time.monotonic()
            server.terminate()
            code = server.wait()
            stopped = time.monotonic() - start
    figures = [figure for name, each in measured.items() for figure in each.figures(name)]
    figures += [
        Figure("serve_p95_under_attack_ratio", measured["attacked"].p95 / measured["quiet"].p95, "ratio"),
        Figure("serve_p95_under_heavy_ratio", measured["heavy"].p95 / measured["quiet"].p95, "ratio"),
        Figure("serve_request_cpu_ms", cpu_of_request * 1000, "ms"),
        Figure("serve_attacks_per_second", attacks / measured["attacked"].seconds, "connections/s"),
        Figure("serve_attack_cpu_ms", cpu_of_attacks / max(attacks, 1) * 1000, "ms"),
        Figure("serve_heavy_texts_per_second", texts, "texts/s"),
        Figure("serve_started_rss_mb", started, "MB"),
        Figure("serve_peak_rss_mb", peak, "MB"),
        Figure("serve_stop_seconds", stopped, "s"),
        Figure("serve_exit_code", code, "ratio"),
    ]
    settings = {name: value for name, value in vars(arguments).items() if name not in ("text", "model")}
    settings |= {"model": arguments.model.resolve().name, "generator": "wrk" if shutil.which("wrk") else "python"}
    settings |= {"load_average_before": round(busy, 1)}
    report_figures(
        "serve", figures, settings=settings, command=f"make load-test SECONDS={arguments.seconds:g} MODEL=..."
    )
    for name, each in measured.items():
        if any(each.errors.values()):
            print(f"errors of {name}: {each.errors}", file=sys.stderr)
    return 1 if any(any(each.errors.values()) for each in measured.values()) or code else 0


def target_of(server: subprocess.Popen[str], key: str) -> Target:
    """Wait until the server has started and return its address and its first language pair."""
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r" on http://(\S+):(\d+)$", line.rstrip()):
            url = f"http://{found[1]}:{found[2]}/languages"
            with urllib.request.urlopen(url) as response:
                languages = json.load(response)
            source = next(each for each in languages if each["targets"])
            return Target(found[1], int(found[2]), source["code"], source["targets"][0], key)
        print(line, end="", file=sys.stderr)
    raise SystemExit("the server did not start")


def load(target: Target, sentences: Sequence[str], connections: int, seconds: float) -> Measured:
    """Warm the server up, then send sentences over connections with wrk, or else with the clients of this script."""
    asyncio.run(clients(target, sentences, NUM_QUIET, min(3.0, seconds)))
    if wrk := shutil.which("wrk"):
        return load_with_wrk(wrk, target, sentences, connections, seconds)
    return asyncio.run(clients(target, sentences, connections, seconds))


def load_with_wrk(wrk: str, target: Target, sentences: Sequence[str], connections: int, seconds: float) -> Measured:
    """Send sentences with wrk, which needs less of the cores than Python."""
    with tempfile.NamedTemporaryFile("wb") as file:
        bodies = [target.request(sentence).partition(b"\r\n\r\n")[2] for sentence in sentences]
        file.write(b"".join(body + b"\n" for body in bodies))
        file.flush()
        command = [wrk, "--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"]
        command += ["--timeout", f"{TIMEOUT_SECONDS}s", "--script", str(LUA), f"http://{target.host}:{target.port}"]
        output = subprocess.run([*command, "--", file.name, target.key], check=True, stdout=subprocess.PIPE, text=True)
    return Measured(**json.loads(output.stdout.splitlines()[-1]))


async def clients(target: Target, sentences: Sequence[str], connections: int, seconds: float) -> Measured:
    """Send sentences over connections for a time; requests that are sent by then are waited for."""
    latencies: list[float] = []
    errors: dict[str, int] = {}
    start = time.monotonic()
    working = (client(target, sentences, latencies, errors, start + seconds, seed) for seed in range(connections))
    await asyncio.gather(*working)
    elapsed = time.monotonic() - start
    p50, p95, p99 = (float(value) * 1000 for value in np.percentile(latencies or [0.0], (50, 95, 99)))
    return Measured(len(latencies), elapsed, p50, p95, p99, errors)


async def client(
    target: Target, sentences: Sequence[str], latencies: list[float], errors: dict[str, int], until: float, seed: int
) -> None:
    """Send one sentence after the other over one connection, which is opened again if it is closed."""
    draw = random.Random(seed)

    def failed(kind: str) -> None:
        errors[kind] = errors.get(kind, 0) + 1

    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection(target.host, target.port)
        except OSError as error:
            failed(type(error).__name__)
            await asyncio.sleep(0.1)
            continue
        try:
            while time.monotonic() < until:
                start = time.monotonic()
                writer.write(target.request(draw.choice(sentences)))
                status, body = await read_answer(reader)
                if status != 200 or not json.loads(body).get("translatedText"):
                    failed(str(status))
                else:
                    latencies.append(time.monotonic() - start)
        except (OSError, EOFError) as error:
            failed(type(error).__name__)
        finally:
            writer.close()


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process with all its threads, in user and system mode."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(process: int, field: str) -> float:
    """Return the resident memory of a process in MB: `VmRSS` for that of now, `VmHWM` for the largest."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    return int(found[1]) / 1000 if found else 0.0


if __name__ == "__main__":
    sys.exit(main())
