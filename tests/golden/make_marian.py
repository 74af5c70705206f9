"""Make the golden files in tests/golden/marian with the real Marian (`make deploy-envs NAME=marian`).

    .deploy-envs/marian/bin/python tests/golden/make_marian.py

The corpus is artificial: numbers in English and German words. For each model there are its parameters, its
translations of some sources with beam 1 and 4, and, for one, its binary file. A text shortlist and its binary file are
from Marian's converter too. The model `tagged` has the format of OPUS-MT and two target languages: sources begin with a
tag, the vocabulary is a YAML file, and its text was cut by SentencePiece before.
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
FRENCH = ["zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze"]
TAGS = {">>deu<<": GERMAN, ">>fra<<": FRENCH}
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


def cut(words: str) -> str:
    """Cut words as a SentencePiece model of words does."""
    return " ".join(f"▁{word}" for word in words.split())


def make_tagged() -> None:
    """Train the model with two target languages, and write its files and translations."""
    generator = random.Random(2)
    sources, targets = [], []
    for _ in range(6000):
        tag = generator.choice(list(TAGS))
        numbers = [generator.randrange(len(ENGLISH)) for _ in range(generator.randint(1, 5))]
        sources.append(f"{tag} {cut(' '.join(ENGLISH[number] for number in numbers))}")
        targets.append(cut(" ".join(TAGS[tag][number] for number in numbers)))
    Path("tagged.en").write_text("\n".join(sources) + "\n")
    Path("tagged.xx").write_text("\n".join(targets) + "\n")
    words = sorted({cut(word) for word in (*ENGLISH, *GERMAN, *FRENCH)})
    tokens = ["</s>", "<unk>", *words, *TAGS]
    Path("opus.vocab.yml").write_text("".join(f'"{token}": {number}\n' for number, token in enumerate(tokens)))
    options = COMMON.replace("train.en train.de", "tagged.en tagged.xx").replace("batches 500", "batches 900")
    size = f"{len(tokens)} {len(tokens)}"
    marian(
        "train",
        *f"{options} --model tagged.npz --vocabs opus.vocab.yml opus.vocab.yml --dim-vocabs {size}".split(),
        "--tied-embeddings-all",
        *("--dec-depth", "1", "--transformer-ffn-activation", "relu"),
    )
    found: dict[str, dict[str, list[str]]] = {tag: {} for tag in TAGS}
    for beam in (1, 4):
        given = f"-m tagged.npz -v opus.vocab.yml opus.vocab.yml -b {beam} --normalize 1 --cpu-threads 1 --quiet"
        translator = Translator(f"{given} --allow-unk true")
        for tag in TAGS:
            lines = translator.translate([f"{tag} {cut(source)}" for source in SOURCES])
            found[tag][str(beam)] = ["".join(line.split()).replace("▁", " ").strip() for line in lines]
    for file in ("tagged.npz", "opus.vocab.yml"):
        shutil.copy(file, FOLDER)
    (FOLDER / "tagged.json").write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n")


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
        make_tagged()


if __name__ == "__main__":
    main()
