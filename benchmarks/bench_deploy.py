"""Speed, size and memory of students in the engines that they are exported to, on one and on two CPU threads.

    make bench-deploy      (python benchmarks/bench_deploy.py [--students tiny,base] [--engines pytorch,...] [--random])

The students tiny, base_memory and base (`student_tiny`, ...; CTranslate2 gets the same with self-attention in the
decoder, since it has no SSRU) and a one-pass student (`ctc`, as large as tiny) are trained briefly on Multi30k, which
is at ../shared/data/multi30k/raw; `--random` leaves the weights random. All are exported, and each engine runs in a
process of its own, as in `score.engines`. The engines take turns: each sentence is translated by all of them before
the next one, and the whole text once in each round, so that other load on the machine affects all of them. Marian and
Bergamot need `make deploy-envs`. The search is greedy (`--beam`).

deploy_<student>_<engine>_<threads>_ms                 milliseconds per sentence at batch size 1, median
deploy_<student>_<engine>_<threads>_words_per_second   source words per second in full batches, median round
deploy_<student>_<engine>_<threads>_rss_mb             highest resident memory of the process
deploy_<student>_<engine>_<threads>_output_words       words of a translation, mean: the time depends on it
deploy_<student>_<engine>_mb                           files that the engine reads

`make docs-images` draws a figure of the documentation from the results.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import yaml
from figures import REPOSITORY, Figure, report_figures

from kdmt.choices import EngineName
from kdmt.config import Decode
from kdmt.corpus.lines import read_lines
from kdmt.decode.engines.process import EngineProcess, Load
from kdmt.interop.exporters import EXPORTERS, ExportOptions
from kdmt.stages.exported_engines import ExportedModel, compute_type, find_exported_engine, python_of

PIPELINE = REPOSITORY / "pipelines" / "multi30k-en-de.yaml"
DATA = REPOSITORY.parent / "shared" / "data" / "multi30k" / "raw"
ENVIRONMENTS = REPOSITORY / ".deploy-envs"
TEST_SET = "test_2016_flickr"
ONE_PASS = "ctc"
STUDENTS = ("tiny", "base_memory", "base", ONE_PASS)


@dataclass(frozen=True)
class BenchEngine:
    """An engine of the benchmark.

    Attributes:
        name: engine of `score.engines`.
        variant: student that it translates with, instead of the one with SSRUs.
        shortlist: whether it is CTranslate2 with a lexical shortlist.
        one_pass: whether it runs the one-pass student.
    """

    name: EngineName
    variant: str = ""
    shortlist: bool = False
    one_pass: bool = False


# name in figures -> engine; Bergamot has a shortlist
ENGINES = {
    "pytorch": BenchEngine("pytorch", one_pass=True),
    "ctranslate2": BenchEngine("ctranslate2", variant="_attention"),
    "ctranslate2_shortlist": BenchEngine("ctranslate2", variant="_attention", shortlist=True),
    "ctranslate2_int8": BenchEngine("ctranslate2:int8", variant="_attention"),
    "ctranslate2_int8_shortlist": BenchEngine("ctranslate2:int8", variant="_attention", shortlist=True),
    "marian": BenchEngine("marian"),
    "bergamot": BenchEngine("bergamot"),
    "onnx": BenchEngine("onnx", one_pass=True),
    "onnx_int8": BenchEngine("onnx:int8", one_pass=True),
}


@dataclass
class Timed:
    """An engine with its process and measurements."""

    name: str
    process: EngineProcess
    seconds: list[float] = field(default_factory=list)  # of each sentence at batch size 1
    rounds: list[float] = field(default_factory=list)  # of the whole text
    peak_bytes: int = 0
    output_words: float = 0.0  # of a translation, mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", default=",".join(STUDENTS), help="Students (default: %(default)s).")
    parser.add_argument("--engines", default=",".join(ENGINES), help="Engines (default: %(default)s).")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="Numbers of threads (default: 1 2).")
    parser.add_argument("--updates", type=int, default=600, help="Updates of training (default: %(default)s).")
    parser.add_argument("--random", action="store_true", help="Leave the weights random.")
    parser.add_argument("--sentences", type=int, default=100, help="Sentences at batch size 1 (default: %(default)s).")
    parser.add_argument("--whole", type=int, default=1000, help="Sentences in full batches (default: %(default)s).")
    parser.add_argument("--rounds", type=int, default=3, help="Rounds over the whole text (default: %(default)s).")
    parser.add_argument("--beam", type=int, default=1, help="Beam size (default: %(default)s).")
    parser.add_argument("--data", type=Path, default=DATA, help="Folder of Multi30k (default: %(default)s).")
    parser.add_argument("--runs", type=Path, help="Folder of the trained students, which is kept (default: none).")
    options = parser.parse_args()
    students, engines = options.students.split(","), options.engines.split(",")
    unknown = sorted({*students} - {*STUDENTS} | {*engines} - {*ENGINES})
    if unknown:
        parser.error(f"{', '.join(unknown)}: the students are {', '.join(STUDENTS)}, the engines {', '.join(ENGINES)}")
    check_environments(engines)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as scratch:
        run = train_students(options, students, engines, options.runs or Path(scratch) / "runs", Path(scratch))
        lines = read_lines(run / "prepare" / f"{TEST_SET}.en")[: options.whole]
        for student in students:
            models = exported_models(run, student, engines, Path(scratch))
            figures += [
                Figure(f"deploy_{student}_{name}_mb", model.bytes_on_disk / 1e6, "MB") for name, model in models.items()
            ]
            for threads in options.threads:
                figures += measure(models, student, threads, lines, options)
    settings = {
        "students": students,
        "updates": 1 if options.random else options.updates,
        "test_set": TEST_SET,
        "sentences_batch1": min(options.sentences, len(lines)),
        "sentences_full": len(lines),
        "rounds": options.rounds,
        "beam": options.beam,
    }
    report_figures("deploy", figures, settings=settings)


def check_environments(engines: Sequence[str]) -> None:
    """Exit if an engine has no environment."""
    for name in engines:
        python = python_of(ENGINES[name].name, ENVIRONMENTS)
        if python is not None and not python.is_file():
            sys.exit(f"bench-deploy: no environment of {name}: make deploy-envs NAME={name}")


# -------------------------------------------------------------------------------------------------------- students


def train_students(
    options: argparse.Namespace, students: Sequence[str], engines: Sequence[str], runs: Path, scratch: Path
) -> Path:
    """Train the students that are not in `runs` yet, and return the folder of the run."""
    document = yaml.safe_load(PIPELINE.read_text(encoding="utf-8"))
    kept = {name: document[name] for name in ("source_lang", "target_lang", "prepare")}
    train = {
        "max_updates": 1 if options.random else options.updates,
        "max_tokens": 2000,
        "lr": 0.0005,
        "warmup_updates": max(1, options.updates // 4),
        "validate_interval_updates": options.updates,
        "average_checkpoints": 1,
    }
    models = {name: {"data": "raw", "train": train, **model_of(name)} for name in variants_of(students, engines)}
    pipeline = scratch / "deploy.yaml"
    pipeline.write_text(yaml.safe_dump({"name": "deploy", **kept, "students": models}), encoding="utf-8")
    for stage in ("prepare", "student"):
        command = [sys.executable, "-m", "kdmt", stage, pipeline, "--runs", runs, "--mirror", options.data]
        subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)
    return runs / "deploy"


def variants_of(students: Sequence[str], engines: Sequence[str]) -> list[str]:
    """Return the names of the students to train."""
    names = [f"{student}{ENGINES[engine].variant}" for student in students for engine in engines_of(student, engines)]
    return list(dict.fromkeys(names))


def engines_of(student: str, engines: Sequence[str]) -> list[str]:
    """Return the engines that have a model for a student."""
    return [name for name in engines if student != ONE_PASS or ENGINES[name].one_pass]


def model_of(name: str) -> dict[str, Any]:
    """Return the sections of the settings of a student that describe its model."""
    if name == ONE_PASS:
        return {"nat": {"family": "ctc", "upsample": 2}, "model": one_pass_model()}
    student, attention = name.removesuffix("_attention"), name.endswith("_attention")
    return {"model": {"arch": f"student_{student}", **({"decoder": "self_attention"} if attention else {})}}


def one_pass_model() -> dict[str, Any]:
    """Return the model of the one-pass student, which has the widths and the number of layers of tiny."""
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {"embed_dim": 256, "ffn_embed_dim": 1536, "attention_heads": 8}.items()
    }
    return {"arch": "transformer", "share_all_embeddings": True, "encoder_layers": 6, "decoder_layers": 2, **sides}


def exported_models(run: Path, student: str, engines: Sequence[str], scratch: Path) -> dict[str, ExportedModel]:
    """Export a student for each of its engines."""
    found = {}
    for name in engines_of(student, engines):
        engine = ENGINES[name]
        checkpoint = run / "students" / f"{student}{engine.variant}" / "seed_1" / "last"
        folder, to = scratch / "exports" / student / name, find_exported_engine(engine.name).to
        if to is None:
            folder = resolved(checkpoint)
        else:
            options = ExportOptions(quantization=compute_type(engine.name), beam=1)
            folder.parent.mkdir(parents=True, exist_ok=True)
            EXPORTERS[to].export(checkpoint, folder, options)
        if engine.shortlist:
            write_shortlist(run, folder)
        found[name] = ExportedModel(engine.name, folder, "")
    return found


def resolved(checkpoint: Path) -> Path:
    from kdmt.models.checkpoint_folder import resolve_checkpoint

    return resolve_checkpoint(checkpoint)


def write_shortlist(run: Path, folder: Path) -> None:
    """Add a lexical shortlist to a model of CTranslate2, learnt from the training text."""
    from kdmt.distill.shortlist import build_shortlist
    from kdmt.interop.ctranslate2_folder import add_shortlist
    from kdmt.interop.fairseq.data_bin import DataBin

    split = DataBin.open(run / "prepare" / "data-bin", "en", "de").split("train", parallel=True)
    assert split.target is not None
    made = build_shortlist(split.source, split.target)
    add_shortlist(folder, made.frequent.tolist(), {token: ids.tolist() for token, ids in made.of_token.items()})


# ----------------------------------------------------------------------------------------------------- measurements


def measure(
    models: dict[str, ExportedModel], student: str, threads: int, lines: list[str], options: argparse.Namespace
) -> Iterator[Figure]:
    """Yield the figures of a student in all engines, which take turns."""
    decode = Decode(beam=options.beam)
    with ExitStack() as stack:
        timed = []
        for name, model in models.items():
            load = Load(
                model.engine.library, model.folder, threads, decode, iterations=1, shortlist=ENGINES[name].shortlist
            )
            timed.append(Timed(name, stack.enter_context(EngineProcess(load, python_of(model.name, ENVIRONMENTS)))))
        count = min(options.sentences, len(lines))
        take_turns(timed, [lines[index * len(lines) // count] for index in range(count)], lines, options.rounds)
    words = sum(len(line.split()) for line in lines)
    for each in timed:
        name = f"deploy_{student}_{each.name}_{threads}"
        yield Figure(f"{name}_ms", 1000 * median(each.seconds), "ms")
        yield Figure(f"{name}_words_per_second", words / median(each.rounds), "words/s")
        yield Figure(f"{name}_rss_mb", each.peak_bytes / 1e6, "MB")
        yield Figure(f"{name}_output_words", each.output_words, "words")
        print(
            f"{name}: {1000 * median(each.seconds):.2f} ms, {words / median(each.rounds):.0f} words/s", file=sys.stderr
        )


def take_turns(timed: Sequence[Timed], singles: Sequence[str], lines: list[str], rounds: int) -> None:
    """Let engines translate single sentences and then the whole text in turns."""
    for each in timed:
        each.process.ask({"one_by_one": [singles[0]]})  # the first call includes lazy initialisation
    for line in singles:
        for each in timed:
            each.seconds += each.process.ask({"one_by_one": [line]})["seconds"]
    for _ in range(rounds):
        for each in timed:
            reply = each.process.ask({"translate": lines})
            each.rounds.append(reply["seconds"])
            each.peak_bytes = reply["peak_bytes"]
            each.output_words = mean(len(line.split()) for line in reply["translations"])


if __name__ == "__main__":
    main()
