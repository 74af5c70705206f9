"""Run generated hostile inputs on the command line: no traceback, no hang, no change to other files.

    make fuzz        (or: PYTHONPATH=tests python -m fuzz [--seed 1] [--inputs 400])
    PYTHONPATH=tests python -m fuzz --seed 1 --only corpora:17        repeat one of them, with its message
    PYTHONPATH=tests python -m fuzz --only hub                        one kind

It exits with 1 if there was any fault.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import monotonic

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded, because children of a fork must have no threads

from fuzz.kinds import KINDS
from fuzz.runner import Input, Result, Runner, planned
from fuzz.server import preload
from fuzz.world import World

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FAULTS = {
    "tracebacks": "traceback",
    "hangs": "hang",
    "harmed": "harmed",
    "bad_messages": "message",
    "accepted": "accepted",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the inputs (default: %(default)s)")
    parser.add_argument(
        "--inputs", type=int, default=400, help="how many, evenly over the kinds (default: %(default)s)"
    )
    parser.add_argument("--only", action="append", metavar="KIND[:N]", help="a kind, or one input; repeatable")
    parser.add_argument("--limit-seconds", type=float, default=60.0, help="of a command (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="a new folder for a copy of the one input, before it is run")
    parser.add_argument("--results", action="store_true", help="write benchmarks/results/fuzz.json")
    options = parser.parse_args()
    inputs = _inputs(options.only, options.inputs)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder is removed
    preload()
    with tempfile.TemporaryDirectory(prefix="kdmt-fuzz-world-") as scratch:
        (world := Path(scratch) / "world").mkdir()
        runner = Runner(World(world), seed=options.seed, limit_seconds=options.limit_seconds)
        results = []
        for each in inputs:
            start = monotonic()
            results.append(runner.run(each, keep=options.keep))
            _print_result(results[-1], monotonic() - start, every=bool(options.only))
    return _report(results, options.seed, write=options.results)


def _inputs(only: list[str] | None, count: int) -> list[Input]:
    if not only:
        return planned(count)
    inputs = []
    for name in only:
        kind, colon, number = name.partition(":")
        if kind not in KINDS:
            sys.exit(f"{kind}: no kind of input; there are {', '.join(KINDS)}")
        inputs += [Input(kind, int(number))] if colon else planned(count, [kind])
    return inputs


def _print_result(result: Result, seconds: float, *, every: bool) -> None:
    """Print a line for each fault, or for each input."""
    if every or result.faults:
        codes = ", ".join(map(str, result.codes))
        print(_printable(f"{result.input}: {result.damage}: exit code {codes} after {seconds:.1f} s"))
        print(_printable(f"    {result.commands[-1]}\n    {result.message[:300]}"))
    for fault in result.faults:
        print(_printable(f"    {fault.kind.upper()}: {fault.text}"), flush=True)


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() or each == "\n" else f"\\x{ord(each):02x}" for each in text)


def _report(results: list[Result], seed: int, *, write: bool) -> int:
    counts = Counter(kind for result in results for kind in {fault.kind for fault in result.faults})
    by_code = Counter(result.codes[-1] for result in results)
    print(f"exit codes: {dict(sorted(by_code.items()))}; seed {seed}")
    sys.path.insert(0, str(BENCHMARKS))
    from figures import Figure, report_figures

    figures = [Figure("fuzz_inputs", len(results), "inputs")]
    figures += [Figure(f"fuzz_{name}", counts[kind], name) for name, kind in FAULTS.items()]
    if write:
        kinds = dict(Counter(result.input.kind for result in results))
        settings = {"seed": seed, "inputs": kinds, "exit_codes": {str(code): n for code, n in sorted(by_code.items())}}
        report_figures("fuzz", figures, settings=settings, command="make fuzz" + (f" SEED={seed}" if seed != 1 else ""))
    else:
        print(*figures, sep="\n")
    return int(bool(counts))


if __name__ == "__main__":
    sys.exit(main())
