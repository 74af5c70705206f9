"""Comparison with the real fairseq: the same weights give the same numbers, after import and after export.

    make parity               (python benchmarks/parity.py [--data DATA_BIN MODEL ...]; needs `make fairseq-env`)

Golden checkpoints are always compared: every checkpoint in tests/golden/fairseq is imported and exported, and fairseq
computes encoder output, log-probabilities and losses with the exported file. These are compared with those of the
original file. (The unit tests in tests/unit/interop/fairseq check the import.)

Models on the command line are compared in two ways. Models that fairseq has trained (`make parity-models`) are compared
like the golden checkpoints, after import and after export, on sentences of the validation set. Then each model
translates the first sentences of a subset with `fairseq-generate` and with kdmt, with the same maximum length for all
sentences. A model is a fairseq checkpoint (`.pt`), which is imported and also exported again, or a checkpoint of kdmt,
which is exported.

..._same                the share of sentences whose lists of hypotheses are equal
..._exported_same       the same, with the file that kdmt exported in fairseq
..._score_difference    the largest difference between the scores in equal lists, in nats
..._margin              if lists differ, the largest difference between the scores of fairseq and kdmt at the first
                        hypothesis that differs, in nats
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from figures import REPOSITORY, Figure, report_figures

from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.decode.engines.fairseq_refinement import RefinementEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.interop.fairseq.checkpoints import TextSettings, export_checkpoint, import_checkpoints
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.models.nonautoregressive import NATransformer
from kdmt.types import Hypothesis

FAIRSEQ = REPOSITORY / ".fairseq-env" / "bin"
GOLDEN = REPOSITORY / "tests" / "golden" / "fairseq"
SEPARATE = ("pre_norm_learned", "embeddings", "old_pre_norm")
BEAM = 5
ITERATIONS = 10


@dataclass(frozen=True)
class Listed:
    """A hypothesis as fairseq prints it."""

    words: str
    score: float  # natural log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="*", type=Path, help="Checkpoints of fairseq (.pt) or runs of kdmt (default: none)."
    )
    parser.add_argument("--data", type=Path, help="Data-bin that the models translate; required with models.")
    parser.add_argument("--subset", default="test", help="Split of the data-bin (default: %(default)s).")
    parser.add_argument("--sentences", type=int, default=1000, help="Number of sentences (default: %(default)s).")
    parser.add_argument(
        "--max-len", type=int, default=100, help="Maximum length of a translation without </s> (default: %(default)s)."
    )
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/parity"), help="Working folder (default: %(default)s)."
    )
    options = parser.parse_args()
    if not (FAIRSEQ / "fairseq-generate").exists():
        sys.exit("parity: run `make fairseq-env` first")
    if options.models and options.data is None:
        parser.error("models translate a data-bin: give --data")
    shutil.rmtree(options.workdir, ignore_errors=True)
    figures = compare_exports(GOLDEN, options.workdir / "golden", "exported")
    if trained := [path for path in options.models if path.with_suffix(".json").exists()]:
        figures += compare_trained(trained, options.data, options.workdir / "trained")
    for number, path in enumerate(options.models):
        figures += compare_translations(number, path, options)
    settings = {"beam": BEAM, "iterations": ITERATIONS, "sentences": options.sentences, "max_len": options.max_len}
    command = shlex.join(["python", "benchmarks/parity.py", *sys.argv[1:]])
    report_figures("parity", figures, settings=settings, command=command)


# ------------------------------------------------------------------------------------------------------ golden models


def compare_exports(golden: Path, work: Path, name: str) -> list[Figure]:
    """Import and export all checkpoints in a folder, load them in fairseq, and return the largest differences."""
    cases = sorted(path.stem for path in golden.glob("*.npz") if path.stem != "multilingual")
    for case in cases:
        data = golden / ("separate" if case in SEPARATE else "joined")
        (folder,) = import_checkpoints(str(golden / f"{case}.pt"), work / "in" / case, TextSettings(data=data))
        export_checkpoint(folder, work / "out" / case / "model.pt")
    worker = REPOSITORY / "benchmarks" / "parity_worker_fairseq.py"
    done = run_with_fairseq(worker, str(work / "out"), str(golden), *cases)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [each["case"] for each in found] == cases, done.stderr[-2000:]
    return [
        Figure(f"{name}_models", len(cases), "models"),
        Figure(f"{name}_states_difference", max(each["states"] for each in found), "1"),
        Figure(f"{name}_log_probs_difference", max(each["log_probs"] for each in found), "nats"),
        Figure(f"{name}_loss_difference", max(each["losses"] for each in found), "nats"),
    ]


def compare_trained(models: list[Path], data: Path, work: Path) -> list[Figure]:
    """Compare models that fairseq has trained like the golden checkpoints: import (with the unit tests) and export."""
    work.mkdir(parents=True)
    (work / "joined").symlink_to(data.resolve())
    for path in models:
        (work / path.name).symlink_to(path.resolve())
        (work / path.with_suffix(".json").name).write_bytes(path.with_suffix(".json").read_bytes())
    script = REPOSITORY / "tests" / "golden" / "make_fairseq_parity.py"
    run_with_fairseq(script, "--trained", str(work), "--data", str(data), "--out", str(work))
    tests = REPOSITORY / "tests" / "unit" / "interop" / "fairseq" / "test_fairseq_parity.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    environment = os.environ | {"KDMT_PARITY": str(work.resolve())}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode not in (0, 1):  # 0: all tests passed, 1: some tests failed
        sys.exit(f"parity: {' '.join(command)}\n{(done.stdout + done.stderr)[-2000:]}")
    print(done.stdout, file=sys.stderr)
    passed, failed = (re.search(rf"(\d+) {outcome}", done.stdout) for outcome in ("passed", "failed"))
    return [
        Figure("trained_imported_tests_passed", int(passed.group(1)) if passed else 0, "tests"),
        Figure("trained_imported_tests_failed", int(failed.group(1)) if failed else 0, "tests"),
        *compare_exports(work, work, "trained_exported"),
    ]


def run_with_fairseq(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(FAIRSEQ / "python"), str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"parity: {' '.join(command)}\n{done.stderr[-2000:]}")
    return done


# ------------------------------------------------------------------------------------------------------- translations


def compare_translations(number: int, path: Path, options: argparse.Namespace) -> list[Figure]:
    """Compare the n-best lists of one model in kdmt and in fairseq."""
    work = options.workdir / str(number)
    if path.suffix == ".pt":
        checkpoint = path
        (folder,) = import_checkpoints(str(path), work / "model", TextSettings(data=options.data))
    else:
        checkpoint, folder = work / "model.pt", resolve_checkpoint(path)
        export_checkpoint(folder, checkpoint)
    model, codec = load_model(folder), TextCodec.load(folder)
    langs = (codec.text.source_lang, codec.text.target_lang)
    data = first_sentences(options, langs, work / "data-bin")
    dataset = IndexedDataset(data / f"test.{langs[0]}-{langs[1]}.{langs[0]}")
    sources = [np.asarray(dataset[index]) for index in range(len(dataset))]
    ours = [
        [Listed(codec.tgt_dictionary.string(each.tokens), each.score) for each in every]
        for every in decode(model, sources, options.max_len)
    ]
    family = model.nat.family if isinstance(model, NATransformer) else "transformer"
    figures = []
    checkpoints = {f"{family}_{number}": checkpoint}
    if path.suffix == ".pt":
        checkpoints[f"{family}_{number}_exported"] = work / "exported" / "model.pt"
        export_checkpoint(folder, work / "exported" / "model.pt")
    for name, each in checkpoints.items():
        theirs = run_fairseq(data, each, model, options.max_len)
        figures += figures_of(name, ours, [theirs[index] for index in range(len(sources))])
    return figures


def first_sentences(options: argparse.Namespace, langs: tuple[str, str], folder: Path) -> Path:
    """Write a data-bin whose test set is the first sentences of the subset, and return its folder."""
    from kdmt.corpus.indexed import IndexedWriter

    folder.mkdir(parents=True)
    pair = "-".join(langs)
    for lang in langs:
        shutil.copy2(options.data / f"dict.{lang}.txt", folder)
        dataset = IndexedDataset(options.data / f"{options.subset}.{pair}.{lang}")
        with IndexedWriter(folder / f"test.{pair}.{lang}", 2**15) as writer:
            for index in range(min(options.sentences, len(dataset))):
                writer.add(np.asarray(dataset[index]))
    return folder


def run_fairseq(data: Path, checkpoint: Path, model: object, max_len: int) -> dict[int, list[Listed]]:
    """Translate with `fairseq-generate`, and return the hypotheses of each sentence, by its index."""
    command = [str(FAIRSEQ / "fairseq-generate"), str(data), "--path", str(checkpoint), "--cpu", "--gen-subset", "test"]
    command += ["--batch-size", "32", "--max-len-a", "0", "--max-len-b", str(max_len)]
    if isinstance(model, NATransformer):
        # fairseq copies source embeddings from the first column on; the flag disables padding on the left
        command += ["--task", "translation_lev", "--beam", "1", "--left-pad-source"]
        command += ["--iter-decode-max-iter", str(ITERATIONS - 1)]  # after the first pass
        command += ["--iter-decode-force-max-iter"] if model.nat.family == "cmlm" else []
    else:
        command += ["--beam", str(BEAM), "--nbest", str(BEAM)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"parity: {' '.join(command)}\n{done.stderr[-2000:]}")
    found: dict[int, list[Listed]] = {}
    for index, score, words in re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", done.stdout, re.MULTILINE):
        found.setdefault(int(index), []).append(Listed(words, float(score) * math.log(2.0)))
    return found


def decode(model: object, sources: list[np.ndarray], max_len: int) -> list[list[Hypothesis]]:
    if isinstance(model, NATransformer):
        engine = RefinementEngine(model, max_iter=ITERATIONS - 1, adaptive=model.nat.family != "cmlm")
        return engine.decode(sources, Decode())
    return TorchEngine(model).decode(sources, Decode(beam=BEAM, nbest=BEAM, max_len_a=0.0, max_len_b=max_len))  # type: ignore[arg-type]


def figures_of(name: str, ours: list[list[Listed]], theirs: list[list[Listed]]) -> list[Figure]:
    same, apart, margins = 0, [0.0], [0.0]
    for a, b in zip(ours, theirs, strict=True):
        differing = [(x, y) for x, y in zip(a, b, strict=False) if x.words.strip() != y.words.strip()]
        if not differing and len(a) == len(b):
            same += 1
            apart += [abs(x.score - y.score) for x, y in zip(a, b, strict=True)]
        elif differing:
            margins.append(abs(differing[0][0].score - differing[0][1].score))
    return [
        Figure(f"{name}_same", 100 * same / len(ours), "%"),
        Figure(f"{name}_sentences", len(ours), "sentences"),
        Figure(f"{name}_margin", max(margins), "nats"),
        Figure(f"{name}_score_difference", max(apart), "nats"),
    ]


if __name__ == "__main__":
    main()
