"""Host waits and kernel launches of one update of each objective, and of one batch of each decoder.

    make bench-gpu-counters    (PYTHONPATH=tests/gpu python benchmarks/bench_gpu_counters.py [--only NAME] [--show])

They are counted on the simulated CUDA device of tests/gpu, so that no GPU is needed: models with six encoder and six
decoder layers, sources of about 28 tokens, one GPU. An update is counted from its start to the start of the next one;
names that end in `_packed` are updates with packed sentences. Searches of autoregressive models are counted per step,
other decoders per batch. Launches are estimates; waits are the places where the host waits for the GPU, so that the GPU
has no work while the host prepares the next kernels.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import simulated_guard
from figures import Figure, report_figures

if TYPE_CHECKING:
    from gpu_counting import Count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="name of an objective or a decoder; repeatable; default: all")
    parser.add_argument("--show", action="store_true", help="print the lines that wait and those that launch the most")
    parser.add_argument("--results", default="gpu-counters", help="name of the file of the results, without .json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        simulated_guard.load_guard(Path(folder))  # before torch is imported
        counts = count_all(Path(folder), options.only, show=options.show)
    if options.only:  # the file of the results has them all
        return
    figures = [
        figure
        for name, count in counts.items()
        for figure in (
            Figure(f"gpu_waits_{name}", round(count.num_waits / count.steps, 2), "waits"),
            Figure(f"gpu_launches_{name}", round(count.launches / count.steps, 1), "launches"),
        )
    ]
    report_figures(
        options.results,
        figures,
        settings={
            "waits": {name: dict(count.waits.most_common()) for name, count in counts.items()},
            "steps": {name: count.steps for name, count in counts.items() if count.steps > 1},
        },
        command="make bench-gpu-counters",
    )


def count_all(folder: Path, only: list[str] | None, *, show: bool) -> dict[str, Count]:
    """Count all objectives and decoders, or the named ones, and print the table."""
    from gpu_cases import OBJECTIVES
    from gpu_counting import DECODERS, PACKED, count_decoding, count_packed_update, count_update, counting_pairs
    from simulated_cuda import simulated_cuda

    counters = {
        **dict.fromkeys(OBJECTIVES, count_update),
        **dict.fromkeys(PACKED, count_packed_update),
        **dict.fromkeys(DECODERS, count_decoding),
    }
    unknown = set(only or ()) - set(counters)
    if unknown:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}")
    pairs, counts = counting_pairs(folder), {}
    print(f"{'':28s} {'waits':>8s} {'launches':>9s}")
    with simulated_cuda():
        for name in only or counters:
            count = counts[name] = counters[name](name, pairs)
            per_step = f"  per step, {count.steps} steps" if count.steps > 1 else ""
            waits, launches = count.num_waits / count.steps, count.launches / count.steps
            print(f"{name:28s} {waits:8.4g} {launches:9.5g}{per_step}", flush=True)
            if show:
                print(f"  waits:\n{count.waiting_lines()}\n  launches:\n{count.launching_lines()}", flush=True)
    return counts


if __name__ == "__main__":
    main()
