"""How fast students translate beside their teacher, and how well: all systems of a pipeline in one run.

    make bench-students      (python benchmarks/bench_students.py [pipelines/nat-multi30k.yaml] [--sentences 100])

The teacher and every trained student of other data than raw (its first seed; on raw data it would be as fast) translate
the first test set. Those that write one token after the other do so in PyTorch and in CTranslate2, float32 and int8,
greedily and with beam 5; the others in PyTorch, in the iterations of the pipeline's `score.iterations`, and those that
`kdmt export --to onnx` takes in ONNX Runtime too. Text processing is not counted.

Batch 1: one thread; each of the sentences is translated by all systems in turn, so that noise meets all alike. Full
batch: all threads, the whole test set, in turns over the rounds; CTranslate2 with a model for each thread, which each
take a share of the sentences, since it gains nothing from two threads for one small batch.

speed_batch1_<system>     sentences a second, by the mean time of a sentence
speed_full_<system>       the same in full batches, by the median round
bleu_<system>             of the full batches' translations
speed_batch1_<student>_over_torch_beam5, ..._over_ct2_beam5, ..._over_ct2_greedy, ..._over_ct2_int8_beam5, ...
                          of one-pass students, over the teacher so decoded: PyTorch by PyTorch, CTranslate2 by
                          ONNX Runtime where the student was exported

`make docs-images` draws the picture of the documentation from the results.
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
    """A model with a way of decoding."""

    name: str
    student: str
    translate: Callable[[Sequence[Any]], list[Any]]  # ids of sources -> ids of translations
    one_pass: bool = False
    engine: str = "torch"
    seconds: list[float] = field(default_factory=list)  # of each sentence alone
    rounds: list[float] = field(default_factory=list)  # of the whole set
    bleu: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path, nargs="?", default=PIPELINE)
    parser.add_argument("--sentences", type=int, default=100, help="translated one by one")
    parser.add_argument("--rounds", type=int, default=3, help="of the whole test set")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument(
        "--device", default="cpu", help="cpu or cuda; ONNX Runtime stays on the CPU and is left out there"
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
    """What all systems have in common; `folder` is for exported models."""

    config: Pipeline
    run: Path
    folder: Path
    device: str
    threads: int


def systems_of(setting: Setting) -> Iterator[System]:
    """Every trained model in every way of decoding it."""
    from kdmt.models.checkpoint import load_model
    from kdmt.models.checkpoint_folder import resolve_checkpoint
    from kdmt.models.nonautoregressive import NATransformer

    config, students = setting.config, setting.run / "students"
    trained = {"teacher": setting.run / "teacher"}
    distilled = {name: each for name, each in config.students.items() if each.data != "raw"}
    trained |= {name: students / name / f"seed_{each.seeds[0]}" for name, each in distilled.items()}
    for name, place in trained.items():
        if not (place / config.score.checkpoint).exists():
            print(f"{name}: not trained, left out", file=sys.stderr)
            continue
        checkpoint = resolve_checkpoint(place / config.score.checkpoint)
        model = load_model(checkpoint)
        if isinstance(model, NATransformer):
            yield from at_once(setting, name, model, checkpoint)
        else:
            yield from one_by_one(setting, name, model, checkpoint)


def at_once(setting: Setting, name: str, model: Any, checkpoint: Path) -> Iterator[System]:
    from kdmt.decode.engines.nat import NATEngine
    from kdmt.decode.engines.onnx import OnnxEngine
    from kdmt.interop.onnx_export import export_checkpoint

    score = setting.config.score
    greedy = score.decode(beam=1)
    search = score.nat.model_copy(update={"rescore": False, "ctc_lm": None})  # the student alone
    for iterations in score.iterations if model.iterates else [1]:
        engine = NATEngine(model, device=setting.device, search=search, iterations=iterations)
        suffix = f"_iter{iterations}" if model.iterates else ""
        yield System(f"{name}{suffix}", name, translator(engine, greedy), one_pass=not model.iterates)
    if model.nat.family == "ctc" and setting.device == "cpu":
        exported = setting.folder / name
        if not exported.exists():
            export_checkpoint(checkpoint, exported)
        onnx = OnnxEngine(exported, threads=setting.threads)
        yield System(f"{name}_onnx", name, translator(onnx, greedy), one_pass=True, engine="onnx")


def one_by_one(setting: Setting, name: str, model: Any, checkpoint: Path) -> Iterator[System]:
    from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
    from kdmt.decode.engines.pytorch import TorchEngine
    from kdmt.interop.ctranslate2_export import export_checkpoint

    engines: dict[str, Any] = {"torch": TorchEngine(model, device=setting.device)}
    exported = setting.folder / name
    if not exported.exists():
        export_checkpoint(checkpoint, exported)
    for label, compute_type in (("ct2", "float32"), ("ct2_int8", "int8")):
        engines[label] = SideBySide(
            [
                CTranslate2Engine(exported, device=setting.device, compute_type=compute_type)
                for _ in range(setting.threads if setting.device == "cpu" else 1)
            ]
        )
    for label, engine in engines.items():
        for beam in BEAMS:
            way = "greedy" if beam == 1 else f"beam{beam}"
            yield System(f"{name}_{label}_{way}", name, translator(engine, setting.config.score.decode(beam)))


class SideBySide:
    """Engines that each translate a share of the sentences at the same time."""

    def __init__(self, engines: Sequence[Any]) -> None:
        self.engines = engines

    def decode(self, sources: Sequence[Any], settings: Decode) -> list[Any]:
        """See `kdmt.decode.engines.engine.Engine.decode`."""
        count = len(self.engines)
        if count == 1 or len(sources) < count:
            return self.engines[0].decode(sources, settings)
        found: list[Any] = [None] * len(sources)
        with ThreadPoolExecutor(count) as pool:
            parts = pool.map(lambda place: self.engines[place].decode(sources[place::count], settings), range(count))
            for place, part in enumerate(parts):
                found[place::count] = part
        return found


def translator(engine: Any, settings: Decode) -> Callable[[Sequence[Any]], list[Any]]:
    return lambda sources: [nbest[0].tokens for nbest in engine.decode(sources, settings)]


# ----------------------------------------------------------------------------------------------------------- time


def time_singly(systems: Sequence[System], sources: Sequence[Any]) -> None:
    for system in systems:
        system.translate(sources[:1])  # the first call pays for allocation
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
    """As the score stage takes its first figure."""
    from kdmt.score.metrics import bleu
    from kdmt.stages.references import read_references
    from kdmt.stages.workspace import Workspace

    score = config.score
    words = [codec.decode_target(tokens) for tokens in translations]
    text = [codec.finish_target(line) for line in words] if score.detokenized else words
    references = read_references(Workspace(config, run.parent, None), test_set)
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
    """One-pass students over the teacher, at batch 1."""
    by_name = {system.name: system for system in systems}
    for student in (system for system in systems if system.one_pass and system.engine == "torch"):
        for engine in ("torch", "ct2", "ct2_int8"):
            mine = student if engine == "torch" else by_name.get(f"{student.name}_onnx", student)
            for way in ("beam5", "greedy"):
                teacher = by_name[TEACHER.format(engine=engine, way=way)]
                ratio = fmean(teacher.seconds) / fmean(mine.seconds)
                yield Figure(f"speed_batch1_{plain(student.name)}_over_{engine}_{way}", ratio, "ratio")


def plain(name: str) -> str:
    """As a figure is called; a student on distilled text needs no word about it."""
    return re.sub("[^a-z0-9]", "_", name.replace("_distilled", "").lower())


if __name__ == "__main__":
    main()
