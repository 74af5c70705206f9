"""Make the golden data-bins in tests/golden/data_bin with a real fairseq 0.12.2.

    .fairseq-env/bin/python tests/golden/make_data_bin.py

It writes the tokenised text, runs fairseq-preprocess on it once for each case and keeps its files, without its log.
It runs under Python 3.8; tests/unit/corpus/test_binarize.py compares kdmt's files with these and needs no fairseq.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OUT = Path(__file__).resolve().parent / "data_bin"

# The options of each case; `dictionary_size` makes it use a generated dictionary, to test the limit of uint16.
CASES = {
    "joined": ["--joined-dictionary"],
    "separate": [],
    "joined_threshold": ["--joined-dictionary", "--thresholdsrc", "3", "--thresholdtgt", "3"],
    "separate_threshold": ["--thresholdsrc", "2", "--thresholdtgt", "4", "--padding-factor", "1"],
    "joined_nwords": ["--joined-dictionary", "--nwordssrc", "30", "--nwordstgt", "30"],
    "separate_nwords": ["--nwordssrc", "21", "--nwordstgt", "4", "--padding-factor", "1"],
    "joined_unpadded": ["--joined-dictionary", "--padding-factor", "1"],
    "separate_threshold_padded": ["--thresholdsrc", "2", "--thresholdtgt", "4", "--padding-factor", "8"],
    "separate_nwords_padded": ["--nwordssrc", "21", "--nwordstgt", "5", "--padding-factor", "8"],
    "separate_both": ["--thresholdsrc", "2", "--thresholdtgt", "2", "--nwordssrc", "19", "--nwordstgt", "19"],
    "joined_both": ["--joined-dictionary", "--thresholdsrc", "2", "--thresholdtgt", "2", "--nwordssrc", "25"],
}
LARGE_DICTIONARIES = {"uint16": 65499, "uint32": 65500}  # sizes with the four special symbols

WORDS = {
    "en": "the a man woman dog in on with . , ▁runs run@@ s ½ na\u00efve nai\u0308ve café ﬁne # & | \\ \" ' 10 2.5 -",
    "de": "der die das ein Mann Frau Hund in auf mit . , lä@@ uft ▁läuft Straße STRASSE größer 😀 — „ “ 10 2,5",
}
ODD_LINES = {
    "en": [
        "<unk> a <pad> b </s> c <s>",
        "madeupword0000 madeupword0002 madeupword0000",
        "a",
        "",
        "   ",
        "  two  spaces\tand a tab ",
        "no\u00a0break ideographic\u3000space line\u2028separator next\u0085line",
        "A a Á á a\u0301 ａ",
        "#fairseq:overwrite <<unk>> <UNK> 𝒂 \U0010ffff \ue000 z",
    ],
    "de": [
        "<unk>",
        "x",
        ".",
        "",
        " ",
        "a\u2003b",
        "a b c d",
        "z Z ż ź \U0010ffff \ue000",
        "the </s> the",
    ],
}


def make_text(lang, num_lines, seed):
    rng = random.Random(seed)
    words = WORDS[lang].split()
    weights = [1 / (1 + rank % 7) for rank in range(len(words))]  # equal weights: many equal counts
    return [" ".join(rng.choices(words, weights, k=rng.randint(1, 9))) for _ in range(num_lines)]


def write_text(folder):
    folder.mkdir(parents=True)
    for seed, lang in enumerate(("en", "de")):
        lines = make_text(lang, 15, seed) + ODD_LINES[lang]
        (folder / f"train.{lang}").write_bytes(("\n".join(lines) + "\n").encode("utf-8"))
        new = [*make_text(lang, 4, seed + 2), "unseen words are <unk> here", "", "last line without an end"]
        (folder / f"valid.{lang}").write_bytes("\n".join(new).encode("utf-8"))


def preprocess(out, options):
    command = [str(Path(sys.executable).with_name("fairseq-preprocess")), "--source-lang", "en", "--target-lang", "de"]
    subprocess.run([*command, "--destdir", str(out), *options], check=True)
    (out / "preprocess.log").unlink()


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    text = OUT / "text"
    write_text(text)
    for name, options in CASES.items():
        preprocess(OUT / name, ["--trainpref", f"{text}/train", "--validpref", f"{text}/valid", *options])
    with tempfile.TemporaryDirectory() as scratch:
        for name, size in LARGE_DICTIONARIES.items():
            dictionary = Path(scratch) / f"{name}.txt"
            dictionary.write_text("".join(f"w{number} 1\n" for number in range(size - 4)), encoding="utf-8")
            large = Path(scratch) / f"{name}.en"
            large.write_text(f"w0 w{size - 5} w7\nw{size - 4}\n\n", encoding="utf-8")
            preprocess(OUT / name, ["--only-source", "--trainpref", str(large)[:-3], "--srcdict", str(dictionary)])
            (OUT / name / "dict.en.txt").unlink()
    (OUT / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
