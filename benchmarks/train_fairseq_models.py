"""Train small models for parity.py on Multi30k with the real `fairseq-train`: one of each family that kdmt imports.

    make parity-models        (python benchmarks/train_fairseq_models.py [MODEL ...]; needs `make fairseq-env`)

runs/parity-models/<name>.pt is the checkpoint of fairseq after the last update. <name>.json has the command line and
the training losses. Models that exist are not trained again. The training is short; good translations are not needed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from figures import REPOSITORY

from kdmt.runtime import cores

KDMT = Path(sysconfig.get_path("scripts")) / "kdmt"
FAIRSEQ = REPOSITORY / ".fairseq-env" / "bin" / "fairseq-train"
PIPELINE = Path("pipelines/multi30k-paper.yaml")
DATA_BIN = Path("runs") / PIPELINE.stem / "prepare" / "data-bin"

SHAPE = " ".join(
    f"--{side}-layers {{layers}} --{side}-embed-dim 128 --{side}-ffn-embed-dim 256 --{side}-attention-heads 4"
    for side in ("encoder", "decoder")
)
COMMON = (
    "--share-all-embeddings --dropout 0.1 --label-smoothing 0.1 --optimizer adam --adam-betas (0.9,0.98) --clip-norm 1 "
    "--lr-scheduler inverse_sqrt --warmup-updates 100 --warmup-init-lr 1e-7 --source-lang en --target-lang de --cpu"
)
NAT = "--task translation_lev --criterion nat_loss --lr 0.002"
POSITIONS = "--encoder-learned-pos --decoder-learned-pos"
MODELS = {
    "transformer": "--arch transformer_iwslt_de_en --criterion label_smoothed_cross_entropy --lr 0.004",
    "nat": f"--arch nonautoregressive_transformer --noise full_mask --src-embedding-copy --pred-length-offset {NAT}",
    "cmlm": f"--arch cmlm_transformer --noise random_mask --pred-length-offset {POSITIONS} {NAT}",
    "inat": "--arch iterative_nonautoregressive_transformer --noise full_mask --src-embedding-copy "
    f"--pred-length-offset --train-step 3 --dae-ratio 0.5 {NAT}",
    "nacrf": f"--arch nacrf_transformer --noise full_mask --src-embedding-copy --pred-length-offset {NAT}",
    "levenshtein": f"--arch levenshtein_transformer --noise random_delete {POSITIONS} {NAT}",
    "insertion": f"--arch insertion_transformer --noise random_delete {NAT}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"Models: {', '.join(MODELS)} (default: all).")
    parser.add_argument("--updates", type=int, default=250, help="Number of updates (default: %(default)s).")
    parser.add_argument(
        "--max-tokens", type=int, default=2048, help="Maximum number of tokens in a batch (default: %(default)s)."
    )
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/parity-models"), help="Folder of the models (default: %(default)s)."
    )
    options = parser.parse_args()
    if unknown := sorted({*options.models} - {*MODELS}):
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(MODELS)}")
    if not FAIRSEQ.exists():
        sys.exit("train_fairseq_models: run `make fairseq-env` first")
    subprocess.run([str(KDMT), "prepare", str(PIPELINE)], check=True)
    for name in options.models or MODELS:
        if not (options.workdir / f"{name}.pt").exists():
            train(name, options)


def train(name: str, options: argparse.Namespace) -> None:
    """Train a model; its file is written only after the last update."""
    layers = 4 if name == "transformer" else 3
    command = f"{MODELS[name]} {SHAPE.format(layers=layers)} {COMMON}".split()
    command += ["--max-tokens", str(options.max_tokens), "--max-update", str(options.updates)]
    work = options.workdir / name
    work.mkdir(parents=True, exist_ok=True)
    saving = ["--save-dir", str(work), "--no-epoch-checkpoints", "--no-save-optimizer-state", "--disable-validation"]
    log = work / "log"
    with log.open("w") as out:
        arguments = [str(FAIRSEQ), str(DATA_BIN), *command, *saving, "--no-progress-bar", "--log-interval", "25"]
        environment = os.environ | {"PYTHONPATH": "", "OMP_NUM_THREADS": str(cores())}
        done = subprocess.run(arguments, stdout=out, stderr=subprocess.STDOUT, check=False, env=environment)
    output = log.read_text()
    if done.returncode:
        sys.exit(f"train_fairseq_models: {name}: fairseq-train ended with {done.returncode}\n{output[-2000:]}")
    losses = [float(loss) for loss in re.findall(r"train_inner .*? loss=([\d.]+)", output)]
    print(f"{name}: loss {losses[0]:.2f}, then {losses[-1]:.2f} bits", file=sys.stderr, flush=True)
    described = {"command": " ".join(["fairseq-train", *command]), "losses": losses}
    (options.workdir / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n")
    (work / "checkpoint_last.pt").replace(options.workdir / f"{name}.pt")


if __name__ == "__main__":
    main()
