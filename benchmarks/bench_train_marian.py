"""Training speed, compared with Marian (pymarian): same model, words and batches, in turns in one run, on the CPU.

    make bench-train-marian   (python benchmarks/bench_train_marian.py [--rounds 7] [--updates 4] [--threads 1 2])

Both sides train a Transformer of 4+4 layers (width 128, feed-forward width 256, 4 heads, post-norm, one matrix for all
embeddings, dropout 0.3) on Multi30k with Adam in float32. A batch has `--sentences` pairs of similar length, and both
sides read the same batches in the same order: kdmt as indices, Marian as lines of subwords without shuffling. Marian
needs `make deploy-envs NAME=marian`. It runs in a process that is stopped by a signal while kdmt trains, and goes on
after that; kdmt waits for a command. Marian's log has the number of sentences, which gives the batches that it read.
Several threads need as many idle cores: kdmt's threads wait for each other, and thus for one that other work delays.

train_words_per_second_<side>_<threads>          target subwords per second, </s> included, median over the rounds
train_source_words_per_second_<side>_<threads>   the same for source subwords
train_words_per_cpu_second_<side>_<threads>      target subwords per second of processor time in all rounds, on which
                                                 other programs have less effect
train_over_marian_<threads>                      kdmt divided by Marian, median over the rounds
train_over_marian_cpu_<threads>                  the same for processor time
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from bench_train import JOBS, KDMT, LANGS, PIPELINE, Worker
from figures import REPOSITORY, Figure, report_figures
from numpy.typing import NDArray

from kdmt.corpus.batching import ParallelData, open_parallel
from kdmt.corpus.binarize import data_prefix, dictionary_path
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.vocabulary import Dictionary
from kdmt.decode.engines.process import library_version
from kdmt.languages import Direction
from kdmt.types import EOS, UNK

ARCH = "transformer_multi30k"
ADAM = {"lr": 5e-4, "warmup_updates": 4000, "weight_decay": 0.0}
DATA = REPOSITORY.parent / "shared" / "data" / "multi30k" / "tok"
MARIAN = REPOSITORY / ".deploy-envs" / "marian" / "bin" / "python"
PROGRAM = "import sys; from pymarian import Trainer; Trainer(' '.join(sys.argv[1:])).train()"
_PROGRESS = re.compile(r"Up\. [\d,]+ : Sen\. ([\d,]+) ")
# the same model and training as `ARCH` with the layout of Marian
OPTIONS: dict[str, Any] = {
    **{"type": "transformer", "precision": "float32 float32", "seed": 1},
    **{"enc-depth": 4, "dec-depth": 4, "dim-emb": 128, "transformer-dim-ffn": 256, "transformer-heads": 4},
    **{"transformer-postprocess": "dan", "transformer-postprocess-emb": "d"},
    **{"transformer-ffn-activation": "relu", "tied-embeddings-all": "true", "transformer-dropout": 0.3},
    **{"optimizer": "adam", "optimizer-params": "0.9 0.98 1e-8", "label-smoothing": 0.1, "clip-norm": 0},
    **{"learn-rate": ADAM["lr"], "lr-warmup": ADAM["warmup_updates"], "lr-decay-inv-sqrt": ADAM["warmup_updates"]},
    **{"shuffle": "none", "maxi-batch": 1, "maxi-batch-sort": "none", "max-length": 1000, "sync-sgd": "true"},
    **{"workspace": 2000, "save-freq": 10**9, "valid-freq": 10**9, "after-batches": 10**9, "overwrite": "true"},
}


@dataclass(frozen=True)
class Turn:
    """A round of one side: source and target words, seconds, and seconds of all its processors."""

    source_words: int
    words: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Corpus:
    """Parallel text in the order of the batches.

    Attributes:
        batches: indices of the pairs of each batch, int64 [batches, pairs].
        words: number of source and target subwords of each batch, </s> included, int64 [batches, 2].
    """

    data: ParallelData
    batches: NDArray[np.int64]
    words: NDArray[np.int64]

    @classmethod
    def open(cls, data_bin: Path, sentences: int) -> Corpus:
        """Open a data-bin; pairs of similar length form a batch, and the batches have a random order."""
        source, target = (data_prefix(data_bin, "train", Direction(*LANGS), lang) for lang in LANGS)
        data = open_parallel([(source, target)])
        assert data.tgt_sizes is not None
        count = len(data) // sentences
        ordered = np.lexsort((data.src_sizes, data.tgt_sizes))[: count * sentences]
        batches = np.random.default_rng(1).permutation(ordered.reshape(count, sentences))
        words = np.stack([sizes[batches].sum(axis=1, dtype=np.int64) for sizes in (data.src_sizes, data.tgt_sizes)], 1)
        return cls(data, batches, words)

    def write_text(self, folder: Path, dictionaries: Sequence[Dictionary]) -> None:
        """Write both sides as lines of subwords, and the vocabulary as Marian reads it: `</s>` 0, `<unk>` 1."""
        (source, target), *_ = self.data.parts
        assert target is not None
        for lang, side, dictionary in zip(LANGS, (source, target), dictionaries, strict=True):
            lines = (self._line(side, int(index), dictionary) for index in self.batches.flatten())
            (folder / f"train.{lang}").write_text("".join(lines), encoding="utf-8")
        names = ["</s>", "<unk>", *dictionaries[0].symbols[UNK + 1 :]]
        vocabulary = "".join(f"{json.dumps(name)}: {number}\n" for number, name in enumerate(names))
        (folder / "vocab.yml").write_text(vocabulary, encoding="utf-8")

    @staticmethod
    def _line(side: IndexedDataset, index: int, dictionary: Dictionary) -> str:
        return " ".join(dictionary.symbols[token] for token in side[index] if token != EOS) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="Number of rounds (default: %(default)s).")
    parser.add_argument("--updates", type=int, default=4, help="Updates of a round (default: %(default)s).")
    parser.add_argument("--sentences", type=int, default=288, help="Pairs of a batch (default: %(default)s).")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="Numbers of threads (default: 1).")
    parser.add_argument(
        "--data", type=Path, default=DATA, help="Folder of the files of Multi30k, if it exists (default: %(default)s)."
    )
    options = parser.parse_args()
    if not MARIAN.is_file():
        sys.exit("bench_train_marian: there is no environment of Marian: make deploy-envs NAME=marian")
    mirror = ["--mirror", str(options.data)] if options.data.is_dir() else []
    subprocess.run([str(KDMT), "prepare", str(PIPELINE), *mirror], check=True)
    data_bin = Path("runs") / PIPELINE.stem / "prepare" / "data-bin"
    corpus = Corpus.open(data_bin, options.sentences)
    figures, rounds = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        corpus.write_text(Path(scratch), [Dictionary.load(dictionary_path(data_bin, lang)) for lang in LANGS])
        for threads in options.threads:
            rounds[threads] = compare(corpus, data_bin, Path(scratch), threads, options)
            figures += figures_of(rounds[threads], threads)
    settings = {
        "arch": ARCH,
        "sentences": options.sentences,
        "words_per_batch": corpus.words.mean(axis=0).round(1).tolist(),
        "updates_a_round": options.updates,
        "marian": library_version("pymarian", MARIAN),
        "load_average": round(os.getloadavg()[1], 1),
        "rounds": {
            threads: [{side: asdict(turn) for side, turn in each.items()} for each in found]
            for threads, found in rounds.items()
        },
    }
    report_figures("train-marian", figures, settings=settings)


def figures_of(rounds: Sequence[dict[str, Turn]], threads: int) -> list[Figure]:
    """Return the figures of the rounds with a number of threads."""

    def speed(name: str, side: str) -> list[float]:
        return [getattr(turns[side], name) / turns[side].seconds for turns in rounds]

    def cpu_speed(side: str) -> float:
        return sum(turns[side].words for turns in rounds) / sum(turns[side].cpu_seconds for turns in rounds)

    figures = [
        Figure(f"train_{name}_per_second_{side}_{threads}", median(speed(name, side)), "words/s")
        for name in ("words", "source_words")
        for side in ("kdmt", "marian")
    ]
    figures += [
        Figure(f"train_words_per_cpu_second_{side}_{threads}", cpu_speed(side), "words/s")
        for side in ("kdmt", "marian")
    ]
    ratio = median(ours / theirs for ours, theirs in zip(speed("words", "kdmt"), speed("words", "marian"), strict=True))
    figures.append(Figure(f"train_over_marian_{threads}", ratio, "ratio"))
    return [*figures, Figure(f"train_over_marian_cpu_{threads}", cpu_speed("kdmt") / cpu_speed("marian"), "ratio")]


def compare(
    corpus: Corpus, data_bin: Path, folder: Path, threads: int, options: argparse.Namespace
) -> list[dict[str, Turn]]:
    """Train both sides in turns; the side that begins alternates. The first round of each is not counted."""
    rounds = []
    with ExitStack() as stack:
        sides = {
            "kdmt": stack.enter_context(kdmt_side(corpus, data_bin, threads, options.updates)),
            "marian": stack.enter_context(marian_side(corpus, folder, threads, options)),
        }
        for number in range(options.rounds + 1):
            turns = {name: next(sides[name]) for name in list(sides)[:: 1 if number % 2 else -1]}
            print(f"{threads} threads, round {number}: {turns}", file=sys.stderr)
            if number:
                rounds.append(turns)
    return rounds


# ------------------------------------------------------------------------------------------------------------ the sides


@contextmanager
def kdmt_side(corpus: Corpus, data_bin: Path, threads: int, updates: int) -> Iterator[Iterator[Turn]]:
    """Provide an iterator that trains for a round."""
    job = {
        **{"arch": ARCH, "model": JOBS[ARCH]["model"] | {"layout": "marian"}, "data_bin": str(data_bin)},
        **{"langs": LANGS, "max_tokens": 10**6, "interval": updates, "seed": 1, "threads": threads},
        **{"precision": "float32", "batches": corpus.batches.tolist(), **ADAM},
    }

    def rounds(worker: Worker) -> Iterator[Turn]:
        for first in range(0, len(corpus.words), updates):
            before = cpu_seconds(worker.process.pid)
            done = worker.train(updates)
            source, target = corpus.words[first : first + updates].sum(axis=0).tolist()
            assert abs(done["tokens"] - target) <= 0.001 * target, (done, target)  # its speed is rounded
            yield Turn(source, target, done["seconds"], cpu_seconds(worker.process.pid) - before)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job))
        command = [sys.executable, str(Path(__file__).with_name("train_worker_kdmt.py")), str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            try:
                yield rounds(Worker(process))
            finally:
                process.stdin.close()


@contextmanager
def marian_side(corpus: Corpus, folder: Path, threads: int, options: argparse.Namespace) -> Iterator[Iterator[Turn]]:
    """Provide an iterator that trains for a round."""
    given = OPTIONS | {
        **{"train-sets": " ".join(f"train.{lang}" for lang in LANGS), "vocabs": "vocab.yml vocab.yml"},
        **{"model": f"model{threads}.npz", "mini-batch": options.sentences, "disp-freq": options.updates},
        **{"cpu-threads": threads, "dim-vocabs": "0 0"},
    }
    words = [f"--{name} {value}" for name, value in given.items()]
    process = subprocess.Popen(
        [str(MARIAN), "-I", "-c", PROGRAM, *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
    )

    def rounds() -> Iterator[Turn]:
        read = 0
        while True:
            process.send_signal(signal.SIGCONT)
            start, before = perf_counter(), cpu_seconds(process.pid)
            sentences = read_progress(process)
            seconds, spent = perf_counter() - start, cpu_seconds(process.pid) - before
            process.send_signal(signal.SIGSTOP)
            assert sentences % options.sentences == 0, sentences
            batches = sentences // options.sentences
            source, target = corpus.words[read:batches].sum(axis=0).tolist()
            yield Turn(source, target, seconds, spent)
            read = batches

    try:
        process.send_signal(signal.SIGSTOP)
        yield rounds()
    finally:
        process.kill()
        process.communicate()


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, in all of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read_progress(process: subprocess.Popen[str]) -> int:
    """Return the number of sentences in the next line of Marian's log that reports progress."""
    assert process.stderr is not None
    printed = []
    for line in process.stderr:
        if found := _PROGRESS.search(line):
            return int(found[1].replace(",", ""))
        printed.append(line)
    sys.exit(f"bench_train_marian: Marian ended with {process.wait()}: {''.join(printed[-20:])}")


if __name__ == "__main__":
    main()
