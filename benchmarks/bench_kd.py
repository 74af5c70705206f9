"""Time and memory of word-level distillation, compared with plain training.

    make bench-kd        (python benchmarks/bench_kd.py [--rounds 15])

Time: the student of pipelines/multi30k-paper.yaml is trained on batches of Multi30k (10k vocabulary, max_tokens 4096).
The kinds of updates run in turns: plain training, distillation from a knowledge cache with k = 8, and distillation from
the teacher of the pipeline (with random weights) in the same process. The forward pass of this teacher, up to its
log-probabilities, is also timed alone. Loading of batches is included.

kd_cache_time_ratio     time with the cache, divided by plain training; median over the rounds
kd_live_time_ratio      time with the teacher, divided by plain training plus the forward pass of the teacher
kd_cache_bytes_a_token  size of the blocks of the cache on disk, per target token
kd_memory_ratio         peak resident memory of a process that does three updates with a vocabulary of 32k, 4096 target
                        tokens and `transformer_iwslt_de_en` for student and teacher: with the teacher, divided by plain
kd_cache_memory_ratio   the same with a cache
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench_memory import LENGTH, ROWS, VOCAB, peak
from figures import Figure, report_figures

from kdmt.config import Student, WordKD, load_pipeline

KDMT = Path(sysconfig.get_path("scripts")) / "kdmt"
PIPELINE = Path("pipelines/multi30k-paper.yaml")
STUDENT = "distilled"
K = 8
UPDATES = 4  # of each kind in a round
KINDS = ("plain", "cache", "live")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="Number of rounds (default: %(default)s).")
    parser.add_argument(
        "--memory", choices=KINDS, help="Kind of training to print the peak memory of (default: none, run everything)."
    )
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory_peak(options.memory)))
        return
    subprocess.run([str(KDMT), "prepare", str(PIPELINE)], check=True)
    with tempfile.TemporaryDirectory() as folder:
        rounds = compare_times(Path(folder), options.rounds)
        cache_bytes = bytes_a_token(Path(folder) / "knowledge")
    memory = {kind: memory_of(kind) for kind in KINDS}
    figures = [
        Figure("kd_cache_time_ratio", median(each["cache"] / each["plain"] for each in rounds), "ratio"),
        Figure(
            "kd_live_time_ratio", median(each["live"] / (each["plain"] + each["teacher"]) for each in rounds), "ratio"
        ),
        Figure("kd_teacher_forward_ratio", median(each["teacher"] / each["plain"] for each in rounds), "ratio"),
        Figure("kd_cache_bytes_a_token", cache_bytes, "bytes"),
        Figure("kd_memory_ratio", memory["live"] / memory["plain"], "ratio"),
        Figure("kd_cache_memory_ratio", memory["cache"] / memory["plain"], "ratio"),
        Figure("kd_memory_plain_gb", memory["plain"] / 1e9, "GB"),
    ]
    settings = {"pipeline": str(PIPELINE), "student": STUDENT, "k": K, "updates_a_round": UPDATES, "seconds": rounds}
    report_figures("kd", figures, settings=settings)


def objective_of(kind: str, student: Any, teacher: Any) -> Any:
    from kdmt.objectives.build import build_objective

    if kind == "plain":
        return build_objective(student, label_smoothing=0.1).train()
    settings = Student(word_kd=WordKD(source="cache" if kind == "cache" else "teacher"))
    teachers = [teacher] if kind == "live" else []
    return build_objective(student, settings, label_smoothing=0.1, teachers=teachers).train()


# ----------------------------------------------------------------------------------------------------------- time


def compare_times(folder: Path, num_rounds: int) -> list[dict[str, float]]:
    """Return the seconds of each kind in each round; in a round all kinds have the same batches."""
    import torch

    from kdmt.runtime import use_threads

    use_threads(0)
    torch.manual_seed(1)
    works, epoch = prepare_works(folder)
    for work in works.values():  # allocations, first use of every shape
        work(epoch[0])
    rounds = []
    for number in range(num_rounds):
        batches = epoch[number * UPDATES : (number + 1) * UPDATES]
        order = list(works)[:: 1 if number % 2 else -1]
        rounds.append({kind: seconds_of(works[kind], batches) for kind in order})
        print({kind: round(seconds, 2) for kind, seconds in rounds[-1].items()}, file=sys.stderr)
    return rounds


def bytes_a_token(cache: Path) -> float:
    """Return the size of the block files, with their headers, divided by the number of target tokens."""
    blocks = list((cache / "blocks").iterdir())
    return (
        sum(path.stat().st_size for path in blocks) / json.loads((cache / "knowledge.json").read_text())["num_tokens"]
    )


def seconds_of(work: Callable[[Any], None], batches: list[Any]) -> float:
    started = time.perf_counter()
    for indices in batches:
        work(indices)
    return time.perf_counter() - started


def prepare_works(folder: Path) -> tuple[dict[str, Callable[[Any], None]], list[Any]]:
    """Return the function of each kind, which is called with the indices of a batch, and the batches of an epoch."""
    import torch

    from kdmt.corpus.batching import open_parallel
    from kdmt.corpus.binarize import data_prefix, dictionary_path
    from kdmt.corpus.knowledge_cache import KnowledgeCache, KnowledgeSource, KnowledgeWriter, Shape
    from kdmt.corpus.vocabulary import Dictionary
    from kdmt.distill.teacher_forcing import fill_cache
    from kdmt.losses.cross_entropy import CHUNKS
    from kdmt.losses.word_kd import WholeDistribution
    from kdmt.models.architecture import architecture
    from kdmt.models.build import build_transformer
    from kdmt.objectives.objective import Prepared, read_target
    from kdmt.train.data import BinarizedData

    config = load_pipeline(PIPELINE)
    direction, langs = config.direction, config.direction.sides
    data_bin = Path("runs") / config.name / "prepare" / "data-bin"
    source, target = (data_prefix(data_bin, "train", direction, lang) for lang in langs)
    pairs = open_parallel([(source, target)])
    sizes = [len(Dictionary.load(dictionary_path(data_bin, lang))) for lang in langs]

    def build(model: Any) -> Any:
        shape = architecture(model.arch, model.overrides())
        return build_transformer(shape, src_vocab_size=sizes[0], tgt_vocab_size=sizes[1])

    teacher = build(config.teacher.model).eval()
    shape = Shape(k=K, vocab_size=sizes[1], temperatures=(1.0,), value_type="float16", block_size=10_000)
    writer = KnowledgeWriter(folder / "knowledge", shape, sizes=pairs.tgt_sizes, made_from={})  # type: ignore[arg-type]
    fill_cache(writer, [teacher], pairs, device="cpu", max_tokens=4096, progress=lambda _: None)
    knowledge = KnowledgeSource([KnowledgeCache(folder / "knowledge")], temperature=1.0)
    settings = config.students[STUDENT].train
    works: dict[str, Callable[[Any], None]] = {}
    for kind in KINDS:
        student = build(config.students[STUDENT].model)
        data = BinarizedData(pairs, settings, seed=1, knowledge=knowledge if kind == "cache" else None)
        works[kind] = make_update(objective_of(kind, student, teacher), data)

    @torch.no_grad()
    def read(indices: Any) -> None:
        batch = data.load(indices)
        features_MD = read_target(teacher, Prepared.of(batch), frozenset(), "float32").features_MD
        distribution = WholeDistribution((features_MD,), (teacher.output_weight_VD,))
        for start in range(0, batch.num_tgt_tokens, CHUNKS["cpu"]):
            chunk = distribution.distribution(slice(start, start + CHUNKS["cpu"]))
            chunk.scores.sub_(chunk.log_sums)

    works["teacher"] = read
    return works, list(data.epoch(1))


def make_update(objective: Any, data: Any) -> Callable[[Any], None]:
    import torch

    optimizer = torch.optim.AdamW(objective.trained().values(), lr=1e-4, fused=True)

    def update(indices: Any) -> None:
        batch = data.load(indices)
        term = objective(objective.prepare(batch))["loss"]
        (term.sum / term.count).backward()
        optimizer.step()
        optimizer.zero_grad()

    return update


# --------------------------------------------------------------------------------------------------------- memory


def memory_of(kind: str) -> float:
    command = [sys.executable, __file__, "--memory", kind]
    return float(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def memory_peak(kind: str) -> int:
    import torch

    from kdmt.corpus.batching import Batch, Extras, Knowledge
    from kdmt.models.architecture import architecture
    from kdmt.models.build import build_transformer
    from kdmt.runtime import use_threads
    from kdmt.types import EOS

    use_threads(0)
    config = architecture("transformer_iwslt_de_en", {"share_all_embeddings": True, "dropout": 0.3})
    student, teacher = (
        build_transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB) if wanted else None
        for wanted in (True, kind == "live")
    )
    tokens = ROWS * LENGTH

    class Random:
        def load(self, _: int) -> Batch:
            src_BS, prev_BT, tgt_BT = torch.randint(4, VOCAB, (3, ROWS, LENGTH))
            tgt_BT[:, -1] = EOS
            knowledge = Knowledge(
                torch.randint(VOCAB // K, (tokens, K)) * K + torch.arange(K),
                torch.randn(tokens, K + 1).log_softmax(1),
            )
            return Batch(
                index_B=torch.arange(ROWS),
                src_tokens_BS=src_BS,
                prev_tokens_BT=prev_BT,
                tgt_tokens_BT=tgt_BT,
                num_src_tokens=tokens,
                num_tgt_tokens=tokens,
                extras=Extras(knowledge if kind == "cache" else None),
            )

    update = make_update(objective_of(kind, student, teacher), Random())
    for number in range(3):
        update(number)
    return peak()


if __name__ == "__main__":
    main()
