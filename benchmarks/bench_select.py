"""Speed and memory of `kdmt select`: n-gram diversity, and clusters of embeddings.

    make bench-select        (or: python benchmarks/bench_select.py [--lines 1000000])

The lines are generated; the embeddings are random directions around as many centres as there are clusters. A tenth of
the lines is chosen. Times are wall-clock times of the whole choice, without the computation of embeddings.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from figures import RESULTS, Figure, report_figures
from generated_text import generate

from kdmt.commands.select import Selection, select_lines

SHARE = 10  # lines of the text for each chosen line
DIMENSIONS = 384  # those of multilingual-e5-small
CHUNK_LINES = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000, help="Number of lines (default: %(default)s).")
    parser.add_argument("--clusters", type=int, default=1000, help="Number of clusters (default: %(default)s).")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="Folder of the results (default: benchmarks/results)."
    )
    options = parser.parse_args()
    count = max(1, options.lines // SHARE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, options.lines)
        embeddings = folder / "embeddings.npy"
        write_embeddings(embeddings, options.lines, options.clusters)
        selections = {
            "ngrams": Selection("ngrams", count),
            "clusters": Selection("clusters", count, embeddings=embeddings, clusters=options.clusters),
        }
        figures = []
        for method, selection in selections.items():
            started = time.perf_counter()
            print(*select_lines(folder / "train.en", folder / f"{method}.en", selection))
            seconds = time.perf_counter() - started
            figures.append(Figure(f"select_{method}_lines_per_second", options.lines / seconds, "lines/s"))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    figures.append(Figure("select_rss_gb", memory, "GB"))
    settings = {"lines": options.lines, "clusters": options.clusters, "chosen": count, "dimensions": DIMENSIONS}
    report_figures("select", figures, settings=settings, results_dir=options.results)


def write_embeddings(path: Path, lines: int, clusters: int) -> None:
    """Write random embeddings around random centres, of 16-bit numbers."""
    rng = np.random.default_rng(1)
    centres_KD = rng.normal(size=(clusters, DIMENSIONS)).astype(np.float32)
    found = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(lines, DIMENSIONS))
    for start in range(0, lines, CHUNK_LINES):
        size = min(CHUNK_LINES, lines - start)
        noise = rng.normal(0, 0.5, (size, DIMENSIONS)).astype(np.float32)
        found[start : start + size] = centres_KD[rng.integers(clusters, size=size)] + noise
    found.flush()


if __name__ == "__main__":
    main()
