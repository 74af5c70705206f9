"""Speed and BLEU of students, compared with their teacher: all systems of a pipeline in one run.

    make bench-students      (python benchmarks/bench_students.py [pipelines/nat-multi30k.yaml] [--sentences 100])

The teacher and every trained student whose data is not raw (its first seed; a student on raw data has the same speed)
translate the first test set. Autoregressive models run in PyTorch and in CTranslate2, in float32 and int8, greedily and
with beam 5. Non-autoregressive models run in PyTorch with the numbers of iterations in `score.iterations` of the
pipeline, and in ONNX Runtime if `kdmt export --to onnx` supports them. Text processing is not timed.

Batch size 1: one thread; each sentence is translated by all systems in turns, so that other load on the machine affects
all of them. Full batches: all threads, the whole test set, in turns in each round. CTranslate2 has one model per
thread, each of which translates a share of the sentences, since it is not faster with two threads for one small batch.

speed_batch1_<system>     sentences per second, from the mean time of a sentence
speed_full_<system>       sentences per second in full batches, from the median round
bleu_<system>             BLEU of the translations in full batches
speed_batch1_<student>_over_torch_beam5, ..._over_ct2_beam5, ..._over_ct2_greedy, ..._over_ct2_int8_beam5, ...
                          speed of a one-pass student, divided by that of the teacher with this engine and search: the
                          student in PyTorch for torch; for ct2 in ONNX Runtime, if it was exported

`make docs-images` draws a figure of the documentation from the results.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from figures import Figure, report_figures

from kdmt.config import Decode, Pipeline, load_pipeline
from kdmt.corpus.lines import read_lines

PIPELINE = Path("pipelines/nat-multi30k.yaml")
BEAMS = (1, 5)
TEACHER = "teacher_{engine}_{way}"


@dataclass
class System:
    """A model with its engine and search."""

    name: str
    student: str
    translate: Callable[[Sequence[Any]], list[Any]]  # ids of sources -> ids of translations
    one_pass: bool = False
    engine: str = "torch"
    seconds: list[float] = field(default_factory=list)  # of each sentence at batch size 1
    rounds: list[float] = field(default_factory=list)  # seconds of each round over the whole test set
    bleu: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pipeline", type=Path, nargs="?", default=PIPELINE, help="Pipeline file (default: %(default)s)."
    )
    parser.add_argument(
        "--sentences", type=int, default=100, help="Number of sentences at batch size 1 (default: %(default)s)."
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="Number of rounds over the whole test set (default: %(default)s)."
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="Folder with the runs of the pipeline (default: %(default)s)."
    )
    parser.add_argument(
        "--device", default="cpu", help="Device: cpu, or cuda without ONNX Runtime (default: %(default)s)."
    )
    options = parser.parse_args()

    from kdmt.corpus.codec import TextCodec
    from kdmt.runtime import use_threads

    config = load_pipeline(options.pipeline)
    run = options.runs / config.name
    codec = TextCodec.load(run / "prepare")
    test_set = config.prepare.test_sets[0]
    sources = codec.encode_source(read_lines(run / "prepare" / f"{test_set}.{config.source_lang}"))
    with tempfile.TemporaryDirectory() as folder:
        use_threads(1)
        singles = list(systems_of(Setting(config, run, Path(folder), options.device, threads=1)))
        time_singly(singles, sources[:: max(len(sources) // options.sentences, 1)][: options.sentences])
        threads = use_threads(0)
        wholes = list(systems_of(Setting(config, run, Path(folder), options.device, threads=threads)))
        time_whole(wholes, sources, rounds=options.rounds)
        for system, whole in zip(singles, wholes, strict=True):
            system.rounds = whole.rounds
            system.bleu = bleu_of(config, run, codec, test_set, whole.translate(sources))
    settings = {
        "pipeline": str(options.pipeline),
        "test_set": test_set,
        "sentences_batch1": len(singles[0].seconds),
        "sentences_full": len(sources),
        "threads_full": threads,
        "device": options.device,
    }
    report_figures("students", figures_of(singles, len(sources)), settings=settings, command="make bench-students")


# -------------------------------------------------------------------------------------------------------- systems


@dataclass(frozen=True)
class Setting:
    """Values that all systems have in common; `folder` is for exported models."""

    config: Pipeline
    run: Path
    folder: Path
    device: str
    threads: int


def systems_of(setting: Setting) -> Iterator[System]:
    """Yield every trained model with each of its engines and searches."""
    from kdmt.models.checkpoint import load_model
    from kdmt.models.checkpoint_folder import resolve_checkpoint
    from kdmt.models.nonautoregressive import NATransformer

    config, students = setting.config, setting.run / "students"
    trained = {"teacher": setting.run / "teacher"}
    distilled = {name: each for name, each in config.students.items() if each.data != "raw"}
    trained |= {name: students / name / f"seed_{each.seeds[0]}" for name, each in distilled.items()}
    for name, folder in trained.items():
        if not (folder / "last").exists():
            print(f"{name}: not trained, left out", file=sys.stderr)
            continue
        checkpoint = resolve_checkpoint(folder / config.score.checkpoint)
        model = load_model(checkpoint)
        if isinstance(model, NATransformer):
            yield from nonautoregressive_systems(setting, name, model, checkpoint)
        else:
            yield from autoregressive_systems(setting, name, model, checkpoint)


def nonautoregressive_systems(setting: Setting, name: str, model: Any, checkpoint: Path) -> Iterator[System]:
    from kdmt.decode.engines.nat import NATEngine
    from kdmt.decode.engines.onnx import OnnxNATEngine
    from kdmt.interop.onnx_export import export_checkpoint

    score = setting.config.score
    greedy = score.decode(beam=1)
    search = score.nat.model_copy(update={"rescore": False, "ctc_lm": None})  # without other models
    for iterations in score.iterations if model.iterates else [1]:
        engine = NATEngine(model, device=setting.device, search=search, iterations=iterations)
        suffix = f"_iter{iterations}" if model.iterates else ""
        yield System(f"{name}{suffix}", name, translator(engine, greedy), one_pass=not model.iterates)
    if model.nat.family == "ctc" and setting.device == "cpu":
        exported = setting.folder / name
        if not exported.exists():
            export_checkpoint(checkpoint, exported)
        onnx = OnnxNATEngine(exported, threads=setting.threads)
        yield System(f"{name}_onnx", name, translator(onnx, greedy), one_pass=True, engine="onnx")


def autoregressive_systems(setting: Setting, name: str, model: Any, checkpoint: Path) -> Iterator[System]:
    from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
    from kdmt.decode.engines.pytorch import TorchEngine
    from kdmt.interop.ctranslate2_export import export_checkpoint

    engines: dict[str, Any] = {"torch": TorchEngine(model, device=setting.device)}
    exported = setting.folder / name
    if not exported.exists():
        export_checkpoint(checkpoint, exported)
    for label, compute_type in (("ct2", "float32"), ("ct2_int8", "int8")):
        engines[label] = EnginePool(
            [
                CTranslate2Engine(exported, device=setting.device, compute_type=compute_type)
                for _ in range(setting.threads if setting.device == "cpu" else 1)
            ]
        )
    for label, engine in engines.items():
        for beam in BEAMS:
            way = "greedy" if beam == 1 else f"beam{beam}"
            yield System(f"{name}_{label}_{way}", name, translator(engine, setting.config.score.decode(beam)))


class EnginePool:
    """Engines in threads; each engine translates a share of the sentences."""

    def __init__(self, engines: Sequence[Any]) -> None:
        self.engines = engines

    def decode(self, sources: Sequence[Any], settings: Decode) -> list[Any]:
        """See `kdmt.decode.engines.engine.Engine.decode`."""
        count = len(self.engines)
        if count == 1 or len(sources) < count:
            return self.engines[0].decode(sources, settings)
        found: list[Any] = [None] * len(sources)
        with ThreadPoolExecutor(count) as pool:
            parts = pool.map(lambda index: self.engines[index].decode(sources[index::count], settings), range(count))
            for index, part in enumerate(parts):
                found[index::count] = part
        return found


def translator(engine: Any, settings: Decode) -> Callable[[Sequence[Any]], list[Any]]:
    return lambda sources: [nbest[0].tokens for nbest in engine.decode(sources, settings)]


# ----------------------------------------------------------------------------------------------------------- time


def time_singly(systems: Sequence[System], sources: Sequence[Any]) -> None:
    for system in systems:
        system.translate(sources[:1])  # memory is allocated in the first call
    for source in sources:
        for system in systems:
            started = time.perf_counter()
            system.translate([source])
            system.seconds.append(time.perf_counter() - started)


def time_whole(systems: Sequence[System], sources: Sequence[Any], *, rounds: int) -> None:
    for number in range(rounds):
        for system in systems[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            system.translate(sources)
            system.rounds.append(time.perf_counter() - started)


# --------------------------------------------------------------------------------------------------------- results


def bleu_of(config: Pipeline, run: Path, codec: Any, test_set: str, translations: Sequence[Any]) -> float:
    """Return the BLEU of a system, computed like in the score stage."""
    from kdmt.score.metrics import bleu
    from kdmt.stages.references import read_references
    from kdmt.stages.workspace import Workspace

    score = config.score
    words = [codec.decode_target(tokens) for tokens in translations]
    text = [codec.finish_target(line) for line in words] if score.detokenized else words
    references = read_references(Workspace(config, run.parent), test_set)
    return bleu(text, references, tokenize=score.tokenize, lowercase=config.scores_lowercased).value


def figures_of(systems: Sequence[System], num_sentences: int) -> list[Figure]:
    figures = []
    for system in systems:
        name = plain(system.name)
        figures += [
            Figure(f"speed_batch1_{name}", 1 / fmean(system.seconds), "sentences/s"),
            Figure(f"speed_full_{name}", num_sentences / median(system.rounds), "sentences/s"),
            Figure(f"bleu_{name}", system.bleu, "BLEU"),
        ]
    return [*figures, *ratios(systems)]


def ratios(systems: Sequence[System]) -> Iterator[Figure]:
    """Yield the speed of one-pass students divided by that of the teacher, at batch size 1."""
    by_name = {system.name: system for system in systems}
    for student in (system for system in systems if system.one_pass and system.engine == "torch"):
        for engine in ("torch", "ct2", "ct2_int8"):
            mine = student if engine == "torch" else by_name.get(f"{student.name}_onnx", student)
            for way in ("beam5", "greedy"):
                teacher = by_name[TEACHER.format(engine=engine, way=way)]
                ratio = fmean(teacher.seconds) / fmean(mine.seconds)
                yield Figure(f"speed_batch1_{plain(student.name)}_over_{engine}_{way}", ratio, "ratio")


def plain(name: str) -> str:
    """Return the name of a system in the names of figures, without "distilled"."""
    return re.sub("[^a-z0-9]", "_", name.replace("_distilled", "").lower())


if __name__ == "__main__":
    main()
