"""Speed and memory of pools of candidates: beam hypotheses, samples, and the choice among them.

    make bench-pool                     (or: python benchmarks/bench_pool.py [--sentences 6000])
    make bench-pool SCALE=1000000       (or: python benchmarks/bench_pool.py --sentences 0 --scale 1000000)

A trained teacher of 4+4 layers and width 128 (that of `bench-distill`, which is trained first if it does not exist)
makes a pool for sentences of Multi30k in two processes: 4 hypotheses of beam search, by CTranslate2, and 32 samples by
epsilon sampling, by PyTorch (`distill.pool.engine: auto`) and by CTranslate2. The whole stage is timed: loading,
decoding, blocks, their checks, merging.

    pool_candidates_per_second              hypotheses and samples, before equal ones are merged
    pool_candidates_per_second_ctranslate2  the same with samples by CTranslate2
    pool_distinct_candidates_per_second     candidates in the file
    pool_rss_gb                             largest sum of the resident memory of the processes, read twice per second
    pool_mbr_sentences_per_second_32, _256  choice by expected chrF among 32 and 256 samples, in one process

With `--scale N`, a stub that returns rotations of the source replaces the teacher, for N generated sentences with 32
candidates each: `pool_scale_rss_gb`, and `pool_scale_sentences_per_second` of writing blocks and candidates.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from bench_distill import KDMT, make_model
from bench_distill_scale import CopyTeacher
from bench_distill_scale import prepare as generate_corpus
from figures import Figure, report_figures
from process_memory import run_measured

from kdmt.config import Decode, load_pipeline
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.lines import read_lines
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.distill.candidates import find_failures_of_tokens
from kdmt.distill.mbr import by_expected_utility
from kdmt.distill.selection import Candidate, Line
from kdmt.types import Sampling

POOL = {"beam": 4, "samples": 32, "epsilon": 0.02}
WORKERS = 2
ENGINES = {"": "auto", "_ctranslate2": "ctranslate2"}  # suffix of the figure -> engine that draws the samples
MBR_SENTENCES = 50
MBR_SAMPLES = (32, 256)
SCALE_CANDIDATES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sentences",
        type=int,
        default=6000,
        help="Number of sentences of Multi30k; 0 for none (default: %(default)s).",
    )
    parser.add_argument(
        "--scale", type=int, default=0, help="Number of generated sentences for the stub; 0 for none (default: 0)."
    )
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/bench-pool"), help="Working folder (default: %(default)s)."
    )
    parser.add_argument("--stage-of", type=Path, help=argparse.SUPPRESS)  # runs the stage that is measured
    parser.add_argument("--scale-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage_of:
        run_pool(options.stage_of)
        return
    if options.scale_of:
        run_stub(options.scale_of)
        return
    if options.sentences:
        settings = {"pool": POOL, "workers": WORKERS, "sentences": options.sentences}
        report_figures("pool", measure_stage(options.workdir / "pool", options.sentences), settings=settings)
    if options.scale:
        settings = {"candidates": SCALE_CANDIDATES, "workers": WORKERS, "sentences": options.scale}
        figures = measure_scale(options.workdir / "scale", options.scale)
        command = f"make bench-pool SCALE={options.scale}"
        report_figures("pool-scale", figures, settings=settings, command=command)


# ------------------------------------------------------------------------------------------------- a trained teacher


def measure_stage(work: Path, sentences: int) -> list[Figure]:
    """Measure the stage with a trained teacher, and the choice among its samples."""
    make_model("multi30k", work)
    for lang in ("en", "de"):
        text = work / f"text.{lang}"
        text.write_text("".join(f"{line}\n" for line in read_lines(text)[:sentences]), encoding="utf-8")
    measured = {suffix: measure_engine(work, engine) for suffix, engine in ENGINES.items()}
    folder = work / "runs" / "bench" / "pool"
    return [
        *(
            Figure(f"pool_candidates_per_second{suffix}", each.candidates / each.seconds, "candidates/s")
            for suffix, each in measured.items()
        ),
        Figure("pool_distinct_candidates_per_second", measured[""].distinct / measured[""].seconds, "candidates/s"),
        Figure("pool_rss_gb", max(each.peak_rss for each in measured.values()) / 1e9, "GB"),
        *measure_choice(work, folder),
    ]


@dataclass(frozen=True)
class Stage:
    """A stage that was run: its candidates before and after merging, seconds, and largest resident memory in bytes."""

    candidates: int
    distinct: int
    seconds: float
    peak_rss: int


def measure_engine(work: Path, engine: str) -> Stage:
    """Run the stage from the start with an engine for the samples."""
    pipeline = work / "bench.yaml"
    document = yaml.safe_load(pipeline.read_text(encoding="utf-8"))
    document["distill"] |= {"pool": {**POOL, "engine": engine}, "executor": "processes", "workers": WORKERS}
    pipeline.write_text(yaml.safe_dump(document), encoding="utf-8")
    subprocess.run([str(KDMT), "prepare", str(pipeline), "--runs", str(work / "runs")], check=True)
    measured = run_measured([sys.executable, __file__, "--stage-of", str(work)])
    folder = work / "runs" / "bench" / "pool"
    facts = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["facts"]
    made = facts["num_sentences"] * (POOL["beam"] + POOL["samples"])
    return Stage(made, facts["num_candidates"], measured.seconds, measured.peak_rss)


def run_pool(work: Path) -> None:
    from kdmt.flow.stage import run_stage
    from kdmt.stages.pipeline import build_stages
    from kdmt.stages.workspace import Workspace

    workspace = Workspace(load_pipeline(work / "bench.yaml"), work / "runs")
    run_stage(build_stages(workspace).texts["pool"].stage, rebuild=False, say=partial(print, file=sys.stderr))


def measure_choice(work: Path, folder: Path) -> list[Figure]:
    """Measure the choice by expected chrF among samples of the shortest and longest sentences alike."""
    prepared = work / "runs" / "bench" / "prepare"
    codec, sources = TextCodec.load(prepared), read_lines(prepared / "train.en")[:MBR_SENTENCES]
    engine = CTranslate2Engine(folder / "engine")
    drawn = engine.sample(
        codec.encode_source(sources), Decode(), Sampling(epsilon=POOL["epsilon"]), seed=1, samples=max(MBR_SAMPLES)
    )
    lists = [
        [Candidate(codec.decode_target(each.tokens), each.score, len(each.tokens) + 1) for each in own] for own in drawn
    ]
    rule, figures = by_expected_utility(), []
    for samples in MBR_SAMPLES:
        started = time.perf_counter()
        for source, own in zip(sources, lists, strict=True):
            rule.choose(own[:samples], Line(source))
        speed = len(lists) / (time.perf_counter() - started)
        figures.append(Figure(f"pool_mbr_sentences_per_second_{samples}", speed, "sentences/s"))
    return figures


# ----------------------------------------------------------------------------------------------------------- the stub


def measure_scale(work: Path, sentences: int) -> list[Figure]:
    """Measure the stage without its engine on generated text."""
    generate_corpus(work, sentences)
    measured = run_measured([sys.executable, __file__, "--scale-of", str(work)])
    seconds = json.loads((work / "seconds.json").read_text(encoding="utf-8"))
    shutil.rmtree(work)
    return [
        Figure("pool_scale_rss_gb", measured.peak_rss / 1e9, "GB"),
        Figure("pool_scale_sentences_per_second", sentences / seconds, "sentences/s"),
    ]


def run_stub(work: Path) -> None:
    """Write blocks and candidates of a pool with the stub as the teacher."""
    from kdmt.distill.candidates import write_candidates
    from kdmt.distill.decoding import BlockDecoder, plan_tasks
    from kdmt.distill.sources import SourceText, find_sources
    from kdmt.stages.distill import inputs_of
    from kdmt.stages.workspace import Workspace
    from kdmt.workers.open import num_helpers, open_executor

    config = load_pipeline(work / "pipeline.yaml")
    workspace = Workspace(config, work / "runs")
    inputs, folder = inputs_of(workspace), work / "pool"
    (folder / "blocks").mkdir(parents=True)
    stub: Any = CopyTeacher(nbest=SCALE_CANDIDATES)
    made_from = {"teacher": "a stub that copies"}
    started = time.perf_counter()
    open_text = partial(SourceText, inputs.source_prefixes())
    sources = find_sources(open_text(), once=True, workdir=folder)
    tasks = plan_tasks(sources, 1000)
    settings = config.distill.model_copy(update={"executor": "processes", "workers": WORKERS})
    decoder = BlockDecoder(stub, settings.decode, open_text, folder / "blocks", made_from, is_pool=True)
    failed = open_executor(settings, folder).run(decoder, tasks, lambda _: None)
    assert not failed, failed
    write_candidates(
        tasks,
        folder / "blocks",
        made_from=made_from,
        to_words=inputs.corpus.codec().decode_targets,
        settings=config.distill.failures,
        find_failures=find_failures_of_tokens,
        out=folder / "nbest",
        out_offsets=folder / "nbest.npy",
        workers=num_helpers(len(sources)),
    )
    (work / "seconds.json").write_text(json.dumps(time.perf_counter() - started), encoding="utf-8")


if __name__ == "__main__":
    main()
