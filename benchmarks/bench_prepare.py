"""Memory and speed of the prepare stage on 5 million generated pairs, compared with encoding by SentencePiece alone.

    make bench-prepare        (or: python benchmarks/bench_prepare.py [--pairs 5000000] [--workdir runs/bench-prepare])

`prepare_rss_gb` is the largest sum of the resident memory of the processes of the stage, with shared pages counted once
(PSS), read every half second. `prepare_ratio_spm_encode` is the time of the whole stage (reading, cleaning,
deduplication, learning the tokenizer, encoding, dictionaries, data-bin, checksums), divided by the time that
SentencePiece alone needs to encode the cleaned text of both sides with the same number of threads in the same run.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import sentencepiece as spm
import yaml
from figures import Figure, report_figures
from process_memory import run_measured

from kdmt.runtime import cores

KDMT = Path(sysconfig.get_path("scripts")) / "kdmt"
VOCABULARY_WORDS = 200_000
CHUNK_LINES = 50_000
DUPLICATE_RATE, COPY_RATE = 0.05, 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", type=int, default=5_000_000, help="Number of sentence pairs to generate (default: %(default)s)."
    )
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/bench-prepare"), help="Working folder (default: %(default)s)."
    )
    options = parser.parse_args()

    shutil.rmtree(options.workdir, ignore_errors=True)
    options.workdir.mkdir(parents=True)
    print(f"generating {options.pairs:,} pairs", file=sys.stderr, flush=True)
    generate(options.workdir, options.pairs)
    pipeline = write_pipeline(options.workdir)
    measured = run_measured([str(KDMT), "prepare", str(pipeline), "--runs", str(options.workdir / "runs")])
    seconds = measured.seconds
    prepared = options.workdir / "runs" / "bench-prepare" / "prepare"
    threads = cores()
    bare = encode_seconds(prepared, threads)
    figures = [
        Figure("prepare_rss_gb", measured.peak_pss / 1e9, "GB"),
        Figure("prepare_pairs_per_second", options.pairs / seconds, "pairs/s"),
        Figure("prepare_ratio_spm_encode", seconds / bare, "ratio"),
        Figure("prepare_seconds", seconds, "s"),
        Figure("spm_encode_seconds", bare, "s"),
    ]
    settings = {
        "pairs": options.pairs,
        "text_gb": sum((options.workdir / f"train.{lang}").stat().st_size for lang in ("en", "de")) / 1e9,
        "threads": threads,
        "tokenizer": "SentencePiece unigram, 8000 pieces, joint",
        "duplicate_rate": DUPLICATE_RATE,
        "copy_rate": COPY_RATE,
    }
    report_figures("prepare", figures, settings=settings)
    shutil.rmtree(options.workdir)


# ---------------------------------------------------------------------------------------------------------- the text


def generate(folder: Path, pairs: int) -> None:
    """Write parallel text of invented words with Zipf frequencies; some pairs are repeated, some targets are copies."""
    rng = np.random.default_rng(1)
    source_words, target_words = make_words(rng), make_words(rng)
    frequencies = 1.0 / np.arange(1, VOCABULARY_WORDS + 1)
    cumulative = np.cumsum(frequencies / frequencies.sum())
    with (folder / "train.en").open("w") as source, (folder / "train.de").open("w") as target:
        for start in range(0, pairs, CHUNK_LINES):
            count = min(CHUNK_LINES, pairs - start)
            write_chunk(rng, count, cumulative, (source_words, target_words), source, target)
    for split in ("valid", "test"):
        for lang, words in (("en", source_words), ("de", target_words)):
            lines = (" ".join([split, *words[start : start + 8]]) for start in range(0, 8000, 8))
            (folder / f"{split}.{lang}").write_text("\n".join(lines) + "\n")


def make_words(rng: np.random.Generator) -> list[str]:
    """Return distinct words of two to four syllables; frequent words are shorter."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvw", "aeiouäöü")]
    words: dict[str, None] = {}
    while len(words) < VOCABULARY_WORDS:
        length = 2 + (len(words) > 5_000) + (len(words) > 100_000)  # 112 syllables make 12,544 words of two
        for row in rng.integers(len(syllables), size=(10_000, length)):
            words["".join(syllables[i] for i in row)] = None
    return list(words)[:VOCABULARY_WORDS]


def write_chunk(rng, count, cumulative, words, source, target) -> None:  # type: ignore[no-untyped-def]
    """Write `count` pairs of 3 to 20 words; the target has the words with the same indices in reverse order."""
    lengths = rng.integers(3, 21, size=count)
    numbers = np.searchsorted(cumulative, rng.random(int(lengths.sum()))).clip(max=VOCABULARY_WORDS - 1)
    ends = np.cumsum(lengths)
    copies = rng.random(count) < COPY_RATE
    repeats = rng.random(count) < DUPLICATE_RATE
    previous = ("", "")
    for start, end, copy, repeat in zip(ends - lengths, ends, copies, repeats, strict=True):
        if not (repeat and previous[0]):
            row = numbers[start:end].tolist()
            left = " ".join([words[0][i] for i in row])
            previous = (left, left if copy else " ".join([words[1][i] for i in reversed(row)]))
        source.write(previous[0] + "\n")
        target.write(previous[1] + "\n")


def write_pipeline(folder: Path) -> Path:
    def pair(split: str) -> dict[str, dict[str, str]]:
        return {"source": {"path": str(folder / f"{split}.en")}, "target": {"path": str(folder / f"{split}.de")}}

    document = {
        "name": "bench-prepare",
        "source_lang": "en",
        "target_lang": "de",
        "prepare": {
            "train": [pair("train")],
            "valid": pair("valid"),
            "test": {"test": pair("test")},
            "tokenizer": {"vocab_size": 8000},
        },
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


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
