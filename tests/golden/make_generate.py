"""Make the golden files in tests/golden/generate with a real fairseq 0.12.2: the output of fairseq-generate.

    .fairseq-env/bin/python tests/golden/make_generate.py

It trains two small models of a made-up language with fairseq-train and translates with fairseq-generate under several
flags. It runs under Python 3.8; tests/unit/stages/test_generate.py compares `kdmt generate` with these files.

    data-bin/             from fairseq-preprocess, without the training split
    model_<seed>.npz      weights, float32
    cases.json            flags of each case, without data-bin and path; the shape of the models
    <case>.txt            the lines S-, T-, H-, D-, P- and the last one
"""

import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

OUT = Path(__file__).resolve().parent / "generate"
BIN = Path(sys.executable).parent
WORDS = {"ba": "ok", "be": "uk@@ ik", "bi@@ di": "ik", "da": "olp", "de": "ulp@@ olp", "ga": "rom", "ge@@ ga": "rum"}
SIZES = {"train": 600, "valid": 15, "test": 37}
ODD = [("ba strange de", "ok odd <unk>"), ("", "ok"), ("ga", ""), ("ba  be ba", "ok uk@@ ik ok .")]
SHAPE = {
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_embed_dim": 16,
    "decoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "decoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "max_source_positions": 64,
    "max_target_positions": 64,
    "share_decoder_input_output_embed": True,
}
SEEDS = (1, 2)
# flags, and the models of the ensemble
CASES = {
    "beam": [["--beam", "4", "--remove-bpe", "--batch-size", "8"], [1]],
    "nbest": [["--beam", "5", "--nbest", "3", "--lenpen", "0.6", "--max-tokens", "200"], [1]],
    "greedy": [["--beam", "1", "--max-len-b", "6", "--remove-bpe=@@ "], [1]],
    "unnormalized": [["--beam", "3", "--unnormalized", "--post-process", "subword_nmt", "--max-len-b", "30"], [2]],
    "ensemble": [["--beam", "3", "--remove-bpe"], [1, 2]],
    "sacrebleu": [["--remove-bpe", "--scoring", "sacrebleu", "--quiet"], [1]],
    "chrf": [["--remove-bpe", "--scoring", "chrf", "--quiet"], [2]],
    "valid": [["--gen-subset", "valid", "--beam", "2", "--remove-bpe", "--seed", "3"], [1]],
    "shard": [["--beam", "2", "--batch-size", "5", "--num-shards", "2", "--shard-id", "1"], [1]],
}
# fairseq-generate 0.12.2 accepts --num-shards and --shard-id but ignores them: its shards are those of ranks
SAID_OTHERWISE = {"--num-shards": "--distributed-world-size", "--shard-id": "--distributed-rank"}


def main():
    shutil.rmtree(str(OUT), ignore_errors=True)
    OUT.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        write_text(scratch)
        data = scratch / "data-bin"
        preprocess(scratch, data)
        for seed in SEEDS:
            train(data, scratch / str(seed), seed)
            state = torch.load(str(scratch / str(seed) / "checkpoint_last.pt"))["model"]
            np.savez_compressed(str(OUT / f"model_{seed}.npz"), **{k: v.numpy() for k, v in state.items()})
        for name, (flags, seeds) in CASES.items():
            generate(data, scratch, name, flags, seeds)
        (OUT / "data-bin").mkdir()
        for path in data.iterdir():
            if path.name.startswith(("dict.", "valid.", "test.")):
                shutil.copy(str(path), str(OUT / "data-bin"))
    (OUT / "cases.json").write_text(json.dumps({"shape": SHAPE, "cases": CASES}, indent=1) + "\n")


def write_text(folder):
    rng = random.Random(0)
    for split, count in SIZES.items():
        pairs = [make_pair(rng) for _ in range(count)] + (ODD if split != "train" else [])
        for side, lang in enumerate(("en", "de")):
            text = "".join(pair[side] + "\n" for pair in pairs)
            (folder / f"{split}.{lang}").write_text(text, encoding="utf-8")


def make_pair(rng):
    """Return words and translations in reverse order; one in twenty is random, so that the model is never certain."""
    words = [rng.choice(list(WORDS)) for _ in range(rng.randint(1, 9))]
    said = [word if rng.random() < 0.95 else rng.choice(list(WORDS)) for word in reversed(words)]
    return " ".join(words), " ".join(WORDS[word] for word in said)


def preprocess(text, out):
    options = [f"--{split}pref={text}/{split}" for split in SIZES]
    run("fairseq-preprocess", "--source-lang", "en", "--target-lang", "de", "--destdir", out, *options)


def train(data, out, seed):
    shape = []
    for name, value in SHAPE.items():
        shape += ["--" + name.replace("_", "-")] + ([] if value is True else [str(value)])
    run(
        *("fairseq-train", data, "--arch", "transformer", *shape, "--save-dir", out, "--cpu", "--seed", seed),
        *("--optimizer", "adam", "--lr", "0.01", "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "50"),
        *("--max-tokens", "400", "--max-update", "600", "--dropout", "0.1", "--no-epoch-checkpoints"),
        *("--disable-validation", "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"),
    )


def generate(data, models, name, flags, seeds):
    path = ":".join(str(models / str(seed) / "checkpoint_last.pt") for seed in seeds)
    flags = [SAID_OTHERWISE.get(flag, flag) for flag in flags]
    said = run("fairseq-generate", data, "--path", path, "--cpu", *flags)
    lines = [line for line in said.split("\n") if re.match(r"[STHDP]-\d+\t|Generate ", line)]
    (OUT / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(program, *arguments):
    command = [str(BIN / program), *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
