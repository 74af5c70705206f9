"""Memory, speed and linearity of the distill stage without its engine, on 5 million generated sentences.

    make bench-distill-scale     (or: python benchmarks/bench_distill_scale.py [--sentences 5000000])

A stub replaces the teacher: `CopyTeacher` returns each source as its translation, and is only used here. The code of
the stage itself is timed: finding the distinct sentences and planning the blocks, running the blocks (workers, block
files and their checks), merging them into `nbest`, selecting the best hypothesis of each sentence and writing the text.
`distill_scale_linearity` is the time per sentence on the whole corpus, divided by that on a tenth of it.
`distill_rss_gb` is the largest sum of the resident memory of the processes. `distill_pss_gb` counts the pages that they
share only once. Both are read twice per second.

The speeds of selection by BLEU, chrF and MBR are measured with 5 hypotheses per sentence: the source and four of its
rotations.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from bench_prepare import KDMT, write_pipeline
from figures import Figure, report_figures
from generated_text import generate
from process_memory import run_measured

from kdmt.config import load_pipeline
from kdmt.distill.mbr import by_expected_utility
from kdmt.distill.selection import Selector, interpolated
from kdmt.distill.similarity import bleu_nearness, chrf_nearness
from kdmt.types import Hypothesis

LINEAR_SHARE = 10
CHOICE_SENTENCES = 50_000
RULES = {
    "bleu": interpolated(bleu_nearness("13a")),
    "chrf": interpolated(chrf_nearness),
    "mbr": by_expected_utility(),
}
STEPS = ("plan", "run", "merge", "choose")


@dataclass(frozen=True)
class CopyTeacher:
    """Stub of a teacher, only for this benchmark: translations are the source itself and its rotations."""

    max_source_tokens: int = 1024
    max_target_tokens: int = 1024
    vocab_size: int = 65_000
    limits_lengths: bool = True
    nbest: int = 1

    def open(self, _: Any, __: Any) -> Callable[..., list[list[Hypothesis]]]:
        def copy(sources: list[Any], _: Any, __: Any, progress: Callable[[int], None]) -> list[list[Hypothesis]]:
            progress(len(sources))
            return [self._hypotheses(source.tolist()) for source in sources]

        return copy

    def made_with(self, _: Any) -> dict[str, Any]:
        return {"stub": "copies"}

    def _hypotheses(self, source: list[int]) -> list[Hypothesis]:
        words = source[:-1]
        return [Hypothesis((*words[turn:], *words[:turn], source[-1]), -float(turn)) for turn in range(self.nbest)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sentences", type=int, default=5_000_000, help="Number of sentences to generate (default: %(default)s)."
    )
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/bench-distill-scale"), help="Working folder (default: %(default)s)."
    )
    parser.add_argument("--stages-of", type=Path, help=argparse.SUPPRESS)  # runs the steps that are measured
    parser.add_argument("--nbest", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stages_of:
        run_steps(options.stages_of, options.nbest)
        return
    sizes = {"tenth": options.sentences // LINEAR_SHARE, "whole": options.sentences, "choices": CHOICE_SENTENCES}
    for name, size in sizes.items():
        prepare(options.workdir / name, size)
    command = [sys.executable, __file__, "--stages-of"]
    small = run_measured([*command, str(options.workdir / "tenth")])
    whole = run_measured([*command, str(options.workdir / "whole")])
    subprocess.run([*command, str(options.workdir / "choices"), "--nbest", "5"], check=True)
    seconds = {name: json.loads((options.workdir / name / "seconds.json").read_text()) for name in sizes}
    totals = {name: sum(seconds[name][step] for step in STEPS) for name in ("tenth", "whole")}
    speed = "sentences/s"
    figures = [
        Figure("distill_scale_sentences_per_second", sizes["whole"] / totals["whole"], speed),
        Figure("distill_rss_gb", whole.peak_rss / 1e9, "GB"),
        Figure("distill_pss_gb", whole.peak_pss / 1e9, "GB"),
        Figure("distill_rss_gb_tenth", small.peak_rss / 1e9, "GB"),
        Figure("distill_scale_linearity", totals["whole"] / totals["tenth"] / LINEAR_SHARE, "ratio"),
        *(Figure(f"distill_scale_{step}_seconds", seconds["whole"][step], "s") for step in STEPS),
        *(
            Figure(
                f"distill_choose_{rule}_sentences_per_second",
                CHOICE_SENTENCES / seconds["choices"][rule],
                "sentences/s",
            )
            for rule in RULES
        ),
    ]
    settings = {"sentences": sizes, "block_size": 1000, "engine": "a stub that copies", "nbest_of_choices": 5}
    report_figures("distill-scale", figures, settings=settings)
    shutil.rmtree(options.workdir)


def prepare(folder: Path, sentences: int) -> None:
    """Generate a corpus and run the prepare stage on it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"generating {sentences:,} pairs", file=sys.stderr, flush=True)
    generate(folder, sentences)
    pipeline = write_pipeline(folder)
    document = yaml.safe_load(pipeline.read_text())
    document["prepare"]["clean"] = "none"  # every line is distilled
    document["prepare"]["decontaminate"] = False
    pipeline.write_text(yaml.safe_dump(document))
    subprocess.run([str(KDMT), "prepare", str(pipeline), "--runs", str(folder / "runs")], check=True)


# ---------------------------------------------------------------------------------------------------- measured steps


def run_steps(folder: Path, nbest: int) -> None:
    """Run the steps of the stage with the stub as the teacher, and time each step."""
    from kdmt.distill.decoding import BlockDecoder
    from kdmt.distill.teachers import CheckpointModel, OwnTeacher
    from kdmt.distill.training_text import Targets, TrainingTextWriter
    from kdmt.stages.distill import inputs_of
    from kdmt.stages.distill_work import Decoding, Job
    from kdmt.stages.workspace import Workspace
    from kdmt.workers.open import open_executor

    workspace = Workspace(load_pipeline(folder / "pipeline.yaml"), folder / "runs")
    config, inputs = workspace.config, inputs_of(workspace)
    # there is no checkpoint: text and tokens are those of a teacher with the vocabulary of the data
    stub = CopyTeacher(nbest=nbest)
    model = CheckpointModel(
        is_nonautoregressive=False,
        is_multilingual=False,
        has_ssrus=False,
        vocab_size=stub.vocab_size,
        max_source_positions=stub.max_source_tokens,
        max_target_positions=stub.max_target_tokens,
    )
    teacher = OwnTeacher(config.distill, inputs, (), (), "ctranslate2", (model,))
    writer = TrainingTextWriter(
        folder=workspace.training_set("distilled"),
        inputs=inputs,
        settings=config.distill,
        tokenize="13a",
        remove_bpe=None,
        say=workspace.say,
    )
    work = Decoding(Job(writer, config.prepare.text, {}), teacher, None)
    made_from = {"teacher": "a stub that copies"}
    work.blocks.mkdir(parents=True)
    seconds: dict[str, float] = {}

    def timed(step: str, action: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = action()
        seconds[step] = time.perf_counter() - started
        return result

    def choose(rule: Selector | None) -> None:
        writer.merge(work.targets if rule is None else Targets(work.folder, rule), work.folder)

    sources = timed("plan", work.sources)
    tasks = work.tasks(sources)
    decoder = BlockDecoder(
        teacher=stub,
        settings=config.distill.decode,
        open_text=teacher.opens_text(),
        folder=work.blocks,
        made_from=made_from,
    )
    failed = timed("run", lambda: open_executor(config.distill, work.folder).run(decoder, tasks, lambda _: None))
    assert not failed, failed
    timed("merge", lambda: work.write_candidates(made_from, tasks, sources, work.folder))
    timed("choose", lambda: choose(None))
    for name, rule in (RULES if nbest > 1 else {}).items():
        timed(name, partial(choose, rule))
    (folder / "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
