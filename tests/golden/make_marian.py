"""Make the golden files in tests/golden/marian with the real Marian (`make deploy-envs NAME=marian`).

    .deploy-envs/marian/bin/python tests/golden/make_marian.py

The corpus is artificial: numbers in English and German words. For each model there are its parameters, its
translations of some sources with beam 1 and 4, and, for one, its binary file. A text shortlist and its binary file are
from Marian's converter too.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pymarian import Translator

FOLDER = Path(__file__).parent / "marian"
ENGLISH = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
GERMAN = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"]
COMMON = (
    "--type transformer --train-sets train.en train.de --dim-emb 16 --transformer-dim-ffn 32 --transformer-heads 2 "
    "--enc-depth 2 --mini-batch 64 --learn-rate 0.005 --after-batches 500 --cpu-threads 1 --workspace 100 --seed 3 "
    "--max-length 30 --disp-freq 100 --overwrite --quiet"
)
SENTENCEPIECE = "--normalization_rule_name=identity --hard_vocab_limit=false --num_threads=1"
MODELS = {
    "attention": "--vocabs vocab.spm vocab.spm --dim-vocabs 72 72 --tied-embeddings-all --dec-depth 1 "
    "--transformer-ffn-activation relu",
    "ssru": "--vocabs vocab.spm vocab.spm --dim-vocabs 72 72 --tied-embeddings-all --dec-depth 2 "
    "--transformer-ffn-activation relu --transformer-decoder-autoreg rnn --dec-cell ssru --transformer-tied-layers 1 1",
    "separate": "--vocabs source.spm target.spm --dim-vocabs 48 56 --dec-depth 1 --transformer-postprocess-emb nd",
}
SOURCES = ["one two three", "twelve", "five five five five", "nine one eleven ten two zero", "three ten seven eight"]


def write_corpus() -> None:
    generator = random.Random(1)
    lines = [[generator.randrange(len(ENGLISH)) for _ in range(generator.randint(1, 7))] for _ in range(3000)]
    for name, words in (("train.en", ENGLISH), ("train.de", GERMAN)):
        Path(name).write_text("".join(" ".join(words[number] for number in line) + "\n" for line in lines))


def translate(name: str, beam: int) -> list[str]:
    vocabularies = "source.spm target.spm" if name == "separate" else "vocab.spm vocab.spm"
    options = f"-m {name}.npz -v {vocabularies} -b {beam} --normalize 1 --allow-unk true --cpu-threads 1 --quiet"
    return list(Translator(options).translate(SOURCES))


def marian(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pymarian", *arguments], check=True)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        write_corpus()
        translations: dict[str, dict[str, list[str]]] = {}
        for name, options in MODELS.items():
            given = f"{COMMON} --model {name}.npz {options}".split()
            marian("train", *given, "--sentencepiece-options", SENTENCEPIECE)
            translations[name] = {str(beam): translate(name, beam) for beam in (1, 4)}
            shutil.copy(f"{name}.npz", FOLDER)
        marian("convert", "-f", "ssru.npz", "-t", "ssru.bin")
        pieces = ["▁f", "▁n", "▁t", "▁ze"]  # of the vocabulary
        rows = [(f"{second}", first, 0.5 / (1 + abs(i - j))) for i, first in enumerate(pieces)
                for j, second in enumerate(pieces)]  # fmt: skip
        Path("lex.s2t").write_text("".join(f"{target} {source} {value:.7f}\n" for target, source, value in rows))
        marian(
            "convert",
            "--shortlist",
            "lex.s2t",
            "5",
            "2",
            "0",
            "--dump-shortlist",
            "lex.bin",
            "-V",
            "vocab.spm",
            "vocab.spm",
        )
        for file in ("vocab.spm", "source.spm", "target.spm", "ssru.bin", "lex.s2t", "lex.bin"):
            shutil.copy(file, FOLDER)
        content = {"sources": SOURCES, "translations": translations}
        (FOLDER / "translations.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
