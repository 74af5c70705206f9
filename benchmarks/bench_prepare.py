"""Speed, memory and linearity of the prepare stage on generated pairs that it downloads from this machine.

    make bench-prepare        (or: python benchmarks/bench_prepare.py [--pairs 2000000 20000000])

The stage downloads the text (gzip) from a server on this machine, cleans it with all default rules and language
identification, drops duplicates and near-duplicates, removes pairs that share n-grams with held-out sets, trains a
tokenizer and writes the data-bin.
Figures for the largest number of pairs have no suffix. `prepare_rss_gb` is the largest sum of the resident memory of
the processes of the stage, with shared pages counted once (PSS), read every half second. `prepare_cpu_per_pair` is the
CPU time of all processes, user and system. `prepare_linearity` is the wall time per pair of the largest number divided
by that of the smallest. `prepare_ratio_spm_encode` is the time of the whole
stage for the smallest number, divided by the time that SentencePiece alone needs to encode the cleaned text of both
sides with the same number of threads in the same run.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import itertools
import json
import shutil
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sentencepiece as spm
import yaml
from figures import RESULTS, Figure, report_figures
from generated_text import COPIES, DUPLICATES, NEAR_DUPLICATES, OVERLAPS, generate
from process_memory import run_measured

from kdmt.checksum import file_sha256
from kdmt.runtime import cores
from kdmt.stages.prepare_partial import WORK

KDMT = Path(sysconfig.get_path("scripts")) / "kdmt"
NAME = "bench-prepare"
CHUNK_LINES = 50_000
RULES = ["default", "language"]
STEPS = ("download", "first_pass", "second_pass", "write", "tokenizer", "binarize")


@dataclass(frozen=True)
class Run:
    """Measurements of one number of pairs."""

    pairs: int
    kept: int
    seconds: float
    cpu_seconds: float
    steps: Mapping[str, float]  # step -> seconds
    pss_gb: float
    text_gb: float
    dropped: Mapping[str, int]
    spm_seconds: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs",
        type=int,
        nargs="+",
        default=[2_000_000, 20_000_000],
        help="Numbers of sentence pairs to generate (default: 2000000 20000000).",
    )
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/bench-prepare"), help="Working folder (default: %(default)s)."
    )
    parser.add_argument("--near-duplicates", type=float, default=0.8, help="Threshold; 0 to keep them (default: 0.8).")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="Folder of the results (default: benchmarks/results)."
    )
    options = parser.parse_args()
    sizes = sorted(set(options.pairs))
    runs = [
        measure(options.workdir, size, near_duplicates=options.near_duplicates, encode=size == sizes[0])
        for size in sizes
    ]
    settings = {
        "pairs": sizes,
        "text_gb": [run.text_gb for run in runs],
        "threads": cores(),
        "rules": RULES,
        "near_duplicates": options.near_duplicates,
        "tokenizer": "SentencePiece unigram, 8000 pieces, joint",
        "planted": {"duplicates": DUPLICATES, "near": NEAR_DUPLICATES, "copies": COPIES, "overlaps": OVERLAPS},
        "dropped": [dict(run.dropped) for run in runs],
    }
    report_figures("prepare", list(figures_of(runs)), settings=settings, results_dir=options.results)


def figures_of(runs: Sequence[Run]) -> Iterator[Figure]:
    """Yield the figures of runs in the order of their numbers of pairs."""
    small, large = runs[0], runs[-1]
    yield Figure("prepare_rss_gb", large.pss_gb, "GB")
    yield Figure("prepare_pairs_per_second", large.pairs / large.seconds, "pairs/s")
    yield Figure("prepare_seconds", large.seconds, "s")
    yield Figure("prepare_cpu_per_pair", 1e6 * large.cpu_seconds / large.pairs, "us")
    yield from (Figure(f"prepare_{step}_seconds", large.steps[step], "s") for step in STEPS)
    if len(runs) > 1:
        yield Figure("prepare_rss_gb_small", small.pss_gb, "GB")
        yield Figure("prepare_pairs_per_second_small", small.pairs / small.seconds, "pairs/s")
        yield Figure("prepare_cpu_per_pair_small", 1e6 * small.cpu_seconds / small.pairs, "us")
        yield Figure("prepare_linearity", (large.seconds / large.pairs) / (small.seconds / small.pairs), "ratio")
        yield from (Figure(f"prepare_{step}_seconds_small", small.steps[step], "s") for step in STEPS)
    assert small.spm_seconds is not None
    yield Figure("prepare_ratio_spm_encode", small.seconds / small.spm_seconds, "ratio")
    yield Figure("spm_encode_seconds", small.spm_seconds, "s")


def measure(workdir: Path, pairs: int, *, near_duplicates: float, encode: bool) -> Run:
    """Generate text, run the stage on it, and remove both.

    Args:
        encode: whether SentencePiece alone is measured too.
    """
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir(parents=True)
    print(f"generating {pairs:,} pairs", file=sys.stderr, flush=True)
    generate(workdir, pairs, compressed=True)
    partial = workdir / "runs" / NAME / "prepare.partial"
    chunks = partial / WORK / "train"
    # paths that show that a step has ended
    signs = {
        "download": [chunks],
        "first_pass": [chunks / "digests-pair.repeats"],
        "second_pass": [partial / "train.en.part", partial / "train.en"],  # the first may be there for a moment only
        "write": [partial / "text.json"],
        "tokenizer": [partial / "data-bin"],
    }
    with serving(workdir) as address:
        pipeline = write_download_pipeline(workdir, address, near_duplicates)
        command = [str(KDMT), "prepare", str(pipeline), "--runs", str(workdir / "runs")]
        measured = run_measured(command, signs=signs)
    prepared = workdir / "runs" / NAME / "prepare"
    ends = [*(measured.seen[step] for step in STEPS[:-1]), measured.seconds]
    report = json.loads((prepared / "report.json").read_text())
    run = Run(
        pairs=pairs,
        kept=report["pairs_out"],
        seconds=measured.seconds,
        cpu_seconds=measured.cpu_seconds,
        steps=dict(zip(STEPS, (end - start for start, end in itertools.pairwise([0.0, *ends])), strict=True)),
        pss_gb=measured.peak_pss / 1e9,
        text_gb=sum((prepared / f"train.{lang}").stat().st_size for lang in ("en", "de")) / 1e9,
        dropped=report["dropped"],
        spm_seconds=encode_seconds(prepared, cores()) if encode else None,
    )
    print(
        f"{pairs:,} pairs: {run.kept:,} kept, {pairs / run.seconds:,.0f} pairs/s, {run.pss_gb:.2f} GB; "
        + ", ".join(f"{step} {seconds:.1f} s" for step, seconds in run.steps.items()),
        file=sys.stderr,
        flush=True,
    )
    shutil.rmtree(workdir)
    return run


# ------------------------------------------------------------------------------------------------------- the pipeline


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the files of a folder on this machine, and provide the address."""
    handler = functools.partial(_QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def write_pipeline(folder: Path) -> Path:
    """Write a pipeline for the text in a folder with default settings."""
    return _write(folder, {"train": [_local(folder, "train")]})


def write_download_pipeline(folder: Path, address: str, near_duplicates: float) -> Path:
    """Write a pipeline that downloads the training text, with all default rules and that for languages."""
    train = {
        side: {"url": f"{address}/train.{lang}.gz", "sha256": file_sha256(folder / f"train.{lang}.gz")}
        for side, lang in (("source", "en"), ("target", "de"))
    }
    cleaning = {"rules": RULES, "near_duplicates": near_duplicates}
    return _write(folder, {"train": [train], "clean": cleaning, "decontaminate": {"ngram": 13}})


def _write(folder: Path, prepare: Mapping[str, object]) -> Path:
    document = {
        "name": NAME,
        "source_lang": "en",
        "target_lang": "de",
        "prepare": {
            **prepare,
            "valid": _local(folder, "valid"),
            "test": {"test": _local(folder, "test")},
            "tokenizer": {"vocab_size": 8000},
        },
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _local(folder: Path, split: str) -> dict[str, dict[str, str]]:
    return {"source": {"path": str(folder / f"{split}.en")}, "target": {"path": str(folder / f"{split}.de")}}


# --------------------------------------------------------------------------------------------------------- measuring


def encode_seconds(prepared: Path, threads: int) -> float:
    """Return the seconds that SentencePiece needs to encode the cleaned training text, without reading the files."""
    model = spm.SentencePieceProcessor(model_file=str(prepared / "tokenizer" / "joint.model"))
    seconds = 0.0
    for lang in ("en", "de"):
        with (prepared / f"train.{lang}").open() as file:
            while lines := [line.rstrip("\n") for line in itertools.islice(file, CHUNK_LINES)]:
                started = time.perf_counter()
                model.encode(lines, out_type=int, num_threads=threads)
                seconds += time.perf_counter() - started
    return seconds


if __name__ == "__main__":
    main()
