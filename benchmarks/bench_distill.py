"""Speed of the distill stage, compared with the real fairseq-generate and with direct calls of CTranslate2.

    make bench-distill        (python benchmarks/bench_distill.py [--models multi30k,iwslt]; needs `make fairseq-env`)

A trained teacher translates the training set of Multi30k and its test set of 2016 with beam 5, in one run by each of

    fairseq-generate    with the fastest of several batch sizes; the seconds are those that fairseq reports, without
                        loading
    CTranslate2         `translate_batch` on token lists that are sorted by length, with the fastest of several layouts
                        of threads and batch sizes, without loading. The maximum length is that of the longest sentence
                        (by default it is 256 tokens, and one such translation delays its whole batch)
    kdmt distill        the whole command, and the time to tokenise the text. Starting, exporting the model, blocks,
                        checks, merging, failures, binarising and the report are included; `search` is the speed of its
                        workers while they translate, without all this

With the small teacher, the stage with two processes, the stage with one process and CTranslate2 run in turns, and
ratios are medians over the rounds. Batch sizes and layouts are chosen on the first sentences. BLEU is computed on the
lines of the test set. `..._int8` has int8 weights on both sides. `..._shortlist` restricts the vocabulary of each batch
and is compared with CTranslate2 in float32 without this restriction; `..._int8_shortlist` has both. All systems use the
same teachers, which are trained first if they do not exist: the small one is that of the scoreboard, the large one has
fewer updates than in its pipeline. The large teacher translates only the first lines of the training set, since fairseq
is slow with it. `nbest_...` compares the 5-best lists of the test set by CTranslate2 with those by PyTorch. Each model
has its own results file.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from figures import REPOSITORY, Figure, report_figures

from kdmt.config import load_pipeline
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.lines import read_lines
from kdmt.runtime import cores
from kdmt.score.metrics import bleu

KDMT = Path(sysconfig.get_path("scripts")) / "kdmt"
FAIRSEQ = REPOSITORY / ".fairseq-env" / "bin"
PIPELINES = {"multi30k": "science-multi30k", "iwslt": "multi30k-iwslt"}
TRAINING: dict[str, dict[str, Any]] = {  # instead of the settings in the pipelines, with which training takes hours
    "multi30k": {},
    "iwslt": {
        "model.dropout": 0.1,
        "train.lr": 0.0007,
        "train.max_updates": 2000,
        "train.warmup_updates": 400,
        "train.max_tokens": 1024,
        "train.clip_norm": 1.0,
        "train.validate_interval_updates": 400,
        "train.average_checkpoints": 1,
    },
}
LIMITS: dict[str, int | None] = {"multi30k": None, "iwslt": 5000}  # lines of the training set
ROUNDS = {"multi30k": 3, "iwslt": 3}  # of the systems that run in turns
ONE_PROCESS = "multi30k"  # model for which the stage also runs with a single process
BEAM, MAX_LEN_A, MAX_LEN_B = 5, 1.2, 10
TRIAL_SENTENCES = 600
FAIRSEQ_BATCHES = (32, 128)
CT2_LAYOUTS = [
    *(((2, 1), batch) for batch in (16, 32, 64, 128)),
    ((1, 2), 64),
]  # (models, threads each), batch
TEST_SET = "test_2016_flickr"
_BLOCK = re.compile(r"block \d+: (\d+) sentences in ([\d.]+) s")  # in the log of a worker


@dataclass(frozen=True)
class Model:
    """A teacher and the corpus that it translates."""

    name: str
    trained: Path  # runs/<pipeline> with prepare/ and teacher/
    work: Path
    num_test: int  # number of lines of the test set, which are the last ones

    @property
    def prepared(self) -> Path:
        return self.work / "runs" / "bench" / "prepare"

    def sources(self) -> IndexedDataset:
        return IndexedDataset(self.prepared / "data-bin" / "train.en-de.en")

    def bleu(self, words: list[str]) -> float:
        """Return the BLEU of the test set, on the text that the tokenizer reads."""
        references = read_lines(self.prepared / "train.de")[-self.num_test :]
        return bleu(words[-self.num_test :], references, tokenize="none").value


@dataclass(frozen=True)
class Result:
    """Speed and BLEU of a system; for the stage also the speed of its workers while they translate."""

    sentences_per_second: float
    bleu: float
    search: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(PIPELINES), help="Models (default: %(default)s).")
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/bench-distill"), help="Working folder (default: %(default)s)."
    )
    options = parser.parse_args()
    if not (FAIRSEQ / "fairseq-generate").exists():
        sys.exit("bench-distill: run `make fairseq-env` first")
    for name in options.models.split(","):
        model = make_model(name, options.workdir / name)
        found, rounds, chosen = measure(model)
        settings = {"beam": BEAM, "limit": LIMITS[name], "training": TRAINING[name], "chosen": chosen, "rounds": rounds}
        command = f"python benchmarks/bench_distill.py --models {name}"
        figures = figures_of(name, found, rounds) + compare_nbest(model)
        report_figures(f"distill-{name}", figures, settings=settings, command=command)


def figures_of(name: str, found: dict[str, Result], rounds: list[dict[str, float]]) -> list[Figure]:
    speed = {system: result.sentences_per_second for system, result in found.items()}
    speed |= {system: median(one[system] for one in rounds) for system in rounds[0]}
    figures = [
        Figure(f"distill_over_fairseq_{name}", speed["stage"] / speed["fairseq"], "ratio"),
        Figure(f"distill_over_ct2_{name}", median(one["stage"] / one["ct2"] for one in rounds), "ratio"),
        Figure(f"distill_search_over_ct2_{name}", median(one["search"] / one["ct2"] for one in rounds), "ratio"),
        Figure(f"distill_int8_over_ct2_int8_{name}", speed["stage_int8"] / speed["ct2_int8"], "ratio"),
        Figure(f"distill_shortlist_over_ct2_{name}", speed["stage_shortlist"] / speed["ct2"], "ratio"),
        Figure(f"distill_int8_shortlist_over_ct2_{name}", speed["stage_int8_shortlist"] / speed["ct2"], "ratio"),
        Figure(
            f"distill_int8_shortlist_bleu_loss_{name}",
            found["ct2"].bleu - found["stage_int8_shortlist"].bleu,
            "BLEU",
        ),
        Figure("distill_bleu_difference", bleu_difference(found), "BLEU"),
    ]
    if name == ONE_PROCESS:
        speedup = median(one["stage"] / one["stage_1"] for one in rounds)
        figures.append(Figure("distill_two_process_speedup", speedup, "ratio"))
    figures += [Figure(f"{system}_{name}", value, "sentences/s") for system, value in speed.items()]
    figures += [Figure(f"{system}_{name}_bleu", result.bleu, "BLEU") for system, result in found.items()]
    return figures


def bleu_difference(found: dict[str, Result]) -> float:
    """Return the largest difference in BLEU from fairseq, over the float32 systems and the shortlist."""
    others = ("stage", "ct2", "stage_shortlist")
    return max(abs(found[system].bleu - found["fairseq"].bleu) for system in others)


# ------------------------------------------------------------------------------------------------------- the corpus


def train_teacher(name: str) -> Path:
    """Return the run folder of a teacher, and train the teacher first if it does not exist."""
    path = Path("pipelines") / f"{PIPELINES[name]}.yaml"
    trained = Path("runs") / PIPELINES[name]
    flags = [flag for key, value in TRAINING[name].items() for flag in ("--set", f"teacher.{key}={value}")]
    for stage in ("prepare", "teacher"):
        if not (trained / stage / "manifest.json").exists():
            subprocess.run([str(KDMT), stage, str(path), *flags], check=True)
    return trained


def make_model(name: str, work: Path) -> Model:
    """Prepare the corpus with the tokenizer and the dictionary of the teacher."""
    trained = train_teacher(name)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for lang in ("en", "de"):
        lines = read_lines(trained / "prepare" / f"train.{lang}")[: LIMITS[name]]
        test = read_lines(trained / "prepare" / f"{TEST_SET}.{lang}")
        (work / f"text.{lang}").write_text("".join(f"{line}\n" for line in [*lines, *test]), encoding="utf-8")
    write_pipeline(work, trained)
    subprocess.run([str(KDMT), "prepare", str(work / "bench.yaml"), "--runs", str(work / "runs")], check=True)
    return Model(name, trained, work, len(test))


def write_pipeline(work: Path, trained: Path) -> None:
    text = {"source": {"path": str(work / "text.en")}, "target": {"path": str(work / "text.de")}}
    codes = next((trained / "prepare" / "tokenizer").glob("joint.*"))
    given = load_pipeline(Path("pipelines") / f"{trained.name}.yaml").prepare
    document = {
        "name": "bench",
        "source_lang": "en",
        "target_lang": "de",
        "prepare": {
            "train": [text],
            "valid": text,
            "clean": "none",
            "decontaminate": False,
            "text": given.text.model_dump(),
            "tokenizer": {"type": given.tokenizer.type, "model": given.tokenizer.model, "source_path": str(codes)},
            "vocabulary": {"source_path": str(trained / "prepare" / "dict.en.txt")},
        },
        "distill": {
            "teachers": [str(trained / "teacher" / "auto")],
            "decode": {"beam": BEAM, "max_len_a": MAX_LEN_A, "max_len_b": MAX_LEN_B},
            "failures": dict.fromkeys(("empty", "too_long", "repetition", "ratio", "copied", "script"), "keep"),
        },
    }
    (work / "bench.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- the systems


def measure(model: Model) -> tuple[dict[str, Result], list[dict[str, float]], dict[str, Any]]:
    """Measure every system.

    Returns:
        Result of each system; sentences per second in each round of the systems that run in turns; chosen batch sizes
        and layouts.
    """
    chosen: dict[str, Any] = {}
    found: dict[str, Result] = {}
    rounds: list[dict[str, float]] = []
    write_fairseq_checkpoint(model)
    chosen["fairseq_batch"] = min(FAIRSEQ_BATCHES, key=lambda size: run_fairseq(model, size, TRIAL_SENTENCES)[0])
    # this run also exports the model, which CTranslate2 reads below
    found["stage_int8"] = run_stage(model, "stage_int8", "distill.compute_type=int8")
    for kind in ("float32", "int8"):
        chosen[kind] = min(CT2_LAYOUTS, key=partial(ct2_seconds, model, kind))
    found["ct2_int8"] = ct2_result(model, "int8", chosen["int8"])
    for _ in range(ROUNDS[model.name]):
        turn = {"stage": run_stage(model, "stage"), "ct2": ct2_result(model, "float32", chosen["float32"])}
        if model.name == ONE_PROCESS:
            turn["stage_1"] = run_stage(model, "stage_1", "distill.workers=1")
        found |= turn
        speeds = {system: result.sentences_per_second for system, result in turn.items()}
        rounds.append(speeds | {"search": turn["stage"].search})
    found["stage_shortlist"] = run_stage(model, "stage_shortlist", "distill.shortlist={}")
    both = ("distill.compute_type=int8", "distill.shortlist={}")
    found["stage_int8_shortlist"] = run_stage(model, "stage_int8_shortlist", *both)
    seconds, words = run_fairseq(model, chosen["fairseq_batch"], None)
    found["fairseq"] = Result(len(words) / seconds, model.bleu(words))
    return found, rounds, chosen


def ct2_result(model: Model, kind: str, chosen: tuple[tuple[int, int], int]) -> Result:
    seconds, words = run_ct2(model, kind, *chosen, limit=None)
    return Result(len(words) / seconds, model.bleu(words))


def run_stage(model: Model, name: str, *sets: str) -> Result:
    """Time the whole command in an empty folder, plus the tokenisation of the text."""
    codec = TextCodec.load(model.prepared)
    lines = read_lines(model.prepared / "train.en")
    started = time.perf_counter()
    codec.encode_source(lines)
    seconds = time.perf_counter() - started
    runs = model.work / "runs"
    shutil.rmtree(runs / "bench" / "distill", ignore_errors=True)
    flags = [flag for setting in sets for flag in ("--set", setting)]
    started = time.perf_counter()
    subprocess.run([str(KDMT), "distill", str(model.work / "bench.yaml"), "--runs", str(runs), *flags], check=True)
    seconds += time.perf_counter() - started
    words = read_lines(runs / "bench" / "distill" / "distilled.de")
    print(f"{model.name} {name}: {len(words) / seconds:.1f} sentences/s", file=sys.stderr, flush=True)
    return Result(len(words) / seconds, model.bleu(words), search_speed(runs / "bench" / "distill" / "logs"))


def search_speed(logs: Path) -> float:
    """Return the sentences per second of all workers together while they translate, from their logs."""
    done = [_BLOCK.findall(path.read_text(encoding="utf-8")) for path in sorted(logs.glob("worker-*.log"))]
    return sum(sum(int(count) for count, _ in own) / sum(float(seconds) for _, seconds in own) for own in done if own)


def ct2_seconds(model: Model, kind: str, trial: tuple[tuple[int, int], int]) -> float:
    return run_ct2(model, kind, *trial, limit=TRIAL_SENTENCES)[0]


def run_ct2(
    model: Model, kind: str, layout: tuple[int, int], batch: int, *, limit: int | None
) -> tuple[float, list[str]]:
    """Return the seconds of `translate_batch` and the translations, for all sentences or the first `limit`."""
    import ctranslate2

    codec = TextCodec.load(model.prepared)
    symbols = codec.src_dictionary.symbols
    sources = [[symbols[token] for token in sentence] for sentence in itertools.islice(iter_all(model), limit)]
    order = sorted(range(len(sources)), key=lambda index: -len(sources[index]))
    engine = model.work / "runs" / "bench" / "distill" / "engine"
    inter, intra = layout
    translator = ctranslate2.Translator(str(engine), compute_type=kind, inter_threads=inter, intra_threads=intra)
    started = time.perf_counter()
    results = translator.translate_batch(
        [sources[index] for index in order],
        beam_size=BEAM,
        max_batch_size=batch,
        max_input_length=0,
        max_decoding_length=int(MAX_LEN_A * len(sources[order[0]]) + MAX_LEN_B),
    )
    seconds = time.perf_counter() - started
    words = [""] * len(sources)
    for index, result in zip(order, results, strict=True):
        words[index] = codec.tokenizers.target.decode(" ".join(result.hypotheses[0]))
    print(
        f"{model.name} ct2 {kind} {layout} {batch}: {len(words) / seconds:.1f} sentences/s", file=sys.stderr, flush=True
    )
    return seconds, words


def compare_nbest(model: Model) -> list[Figure]:
    """Compare the 5-best lists of the test set in CTranslate2 and in PyTorch.

    The figures are the share of equal lists, the largest difference between the scores of equal lists, and the largest
    difference between PyTorch's scores of the first two hypotheses that differ (0 if all lists are equal).
    """
    from kdmt.config import Decode
    from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
    from kdmt.decode.engines.pytorch import TorchEngine
    from kdmt.models.checkpoint import load_model
    from kdmt.models.checkpoint_folder import resolve_checkpoint
    from kdmt.types import EOS

    settings = Decode(beam=BEAM, nbest=BEAM, max_len_a=MAX_LEN_A, max_len_b=MAX_LEN_B)
    dataset = model.sources()
    sources = [dataset[index] for index in range(len(dataset) - model.num_test, len(dataset))]
    torch_engine = TorchEngine(load_model(resolve_checkpoint(model.trained / "teacher" / "auto")))
    engine = CTranslate2Engine(model.work / "runs" / "bench" / "distill" / "engine", compute_type="float32", threads=2)
    same, apart, margins = 0, 0.0, [0.0]
    pairs = zip(sources, engine.decode(sources, settings), torch_engine.decode(sources, settings), strict=True)
    for source, ours, theirs in pairs:
        differing = [(a, b) for a, b in zip(ours, theirs, strict=False) if a.tokens != b.tokens]
        if not differing and len(ours) == len(theirs):
            same += 1
            apart = max(apart, *(abs(a.score - b.score) for a, b in zip(ours, theirs, strict=True)))
            continue
        targets = [np.array([*hypothesis.tokens, EOS]) for hypothesis in differing[0]]
        first, second = torch_engine.score_pairs([source, source], targets)
        margins.append(float(abs(first.mean() - second.mean())))
    return [
        Figure(f"nbest_same_{model.name}", 100 * same / len(sources), "%"),
        Figure(f"nbest_score_difference_{model.name}", apart, "nats"),
        Figure(f"nbest_margin_where_different_{model.name}", max(margins), "nats"),
    ]


def iter_all(model: Model) -> Any:
    sources = model.sources()
    return (sources[index].tolist() for index in range(len(sources)))


def run_fairseq(model: Model, batch: int, limit: int | None) -> tuple[float, list[str]]:
    """Return the seconds that fairseq reports and its translations, for all sentences or the first `limit`."""
    data = fairseq_data(model, limit)
    command = [
        *(str(FAIRSEQ / "fairseq-generate"), str(data), "--path", str(model.work / "fairseq.pt"), "--cpu"),
        *("--gen-subset", "train", "--beam", str(BEAM), "--batch-size", str(batch), "--source-lang", "en"),
        *("--target-lang", "de", "--max-len-a", str(MAX_LEN_A), "--max-len-b", str(MAX_LEN_B), "--lenpen", "1"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(cores()), "PYTHONPATH": ""}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    summary = re.search(r"Translated ([\d,]+) sentences .* in ([\d.,]+)s", done.stdout + done.stderr)
    assert summary is not None, (done.stdout + done.stderr)[-2000:]
    seconds = float(summary.group(2).replace(",", ""))
    decode = TextCodec.load(model.prepared).tokenizers.target.decode
    found = dict(re.findall(r"^H-(\d+)\t\S+\t(.*)$", done.stdout, re.MULTILINE))
    words = [decode(found[str(index)]) for index in range(len(found))]
    print(f"{model.name} fairseq {batch}: {len(words) / seconds:.1f} sentences/s", file=sys.stderr, flush=True)
    return seconds, words


def fairseq_data(model: Model, limit: int | None) -> Path:
    """Return the data-bin for fairseq: that of kdmt, or a new one with the first `limit` sentences."""
    whole = model.prepared / "data-bin"
    if limit is None:
        return whole
    folder = model.work / "trial"
    if not folder.exists():
        from kdmt.corpus.indexed import IndexedWriter

        folder.mkdir()
        for lang in ("en", "de"):
            shutil.copy2(whole / f"dict.{lang}.txt", folder)
            dataset = IndexedDataset(whole / f"train.en-de.{lang}")
            with IndexedWriter(folder / f"train.en-de.{lang}", 2**15) as writer:
                for index in range(min(limit, len(dataset))):
                    writer.add(np.asarray(dataset[index]))
    return folder


def write_fairseq_checkpoint(model: Model) -> None:
    """Export the teacher as a fairseq checkpoint."""
    from kdmt.interop.fairseq.checkpoints import export_checkpoint

    export_checkpoint(model.trained / "teacher" / "auto", model.work / "fairseq.pt")


if __name__ == "__main__":
    main()
