"""Translations of exported students by the programs that run them, compared with those of kdmt in PyTorch.

    make bench-exactness      (python benchmarks/bench_exactness.py [--nat] [--programs marian,onnx] [--students ssru])

Small students are trained briefly on Multi30k, which is at ../shared/data/multi30k/raw: `ssru` and `attention` with
`layout: marian`; with `--nat`, one of each non-autoregressive family that is exported to ONNX. The test set of 1,000
sentences is translated, 200 of them by Transformers.js and by the non-autoregressive students. Marian, Bergamot, Argos
Translate and Transformers.js need `make deploy-envs`. Everything computes in float32 except Bergamot, which computes in
int8 and has a lexical shortlist. The result of each comparison is added to exactness.json at once, or with `--nat` to
exactness-nat.json; the results of programs and students that are left out remain if they are of the same commit.

<comparison> is marian_ssru_beam4, for example. Argos Translate is compared with CTranslate2, all others with PyTorch.

exactness_<comparison>_same      percentage of sentences with the same translation
exactness_<comparison>_ties      differing sentences for which kdmt's scores differ by less than 0.0001: for greedy
                                 search those of the first token that differs, for a beam those of the translations
exactness_<comparison>_limits    differing sentences whose translation reaches the maximum length
exactness_<comparison>_others    all other differing sentences
exactness_bergamot_<student>_beam<k>_bleu_loss    BLEU of kdmt minus BLEU of Bergamot
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import argos_program
import numpy as np
import transformers_js_program
import yaml
from figures import REPOSITORY, RESULTS, Figure, describe_commit, write_figures

from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.lines import read_lines
from kdmt.decode.engines.engine import Engine, EngineOptions, ScoringEngine
from kdmt.decode.engines.process import EngineProcess, Load
from kdmt.decode.engines.table import find_engine
from kdmt.interop.exporters import EXPORTERS, ExportOptions
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.runtime import use_threads
from kdmt.score.metrics import bleu

PIPELINE = REPOSITORY / "pipelines" / "multi30k-en-de.yaml"
DATA = REPOSITORY.parent / "shared" / "data" / "multi30k" / "raw"
RUNS = REPOSITORY / "runs"
ENVIRONMENTS = REPOSITORY / ".deploy-envs"
TEST_SET = "test_2016_flickr"
TIE = 1e-4
# Marian's maximum length is a multiple of the longest source in a batch: both limits are beyond every translation that
# ends
LIMIT, LENGTH_FACTOR = 400, 30

SHAPE = {
    "arch": "transformer_multi30k",
    **{f"{side}_embed_dim": 64 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_embed_dim": 256 for side in ("encoder", "decoder")},
    "encoder_layers": 2,
    "dropout": 0.0,
}
MODELS: dict[str, dict[str, Any]] = {
    "ssru": {"layout": "marian", "decoder": "ssru", "decoder_layers": 2},
    "attention": {"layout": "marian", "decoder_layers": 1},
}
NAT: dict[str, dict[str, Any]] = {
    "nat": {"family": "nat"},
    "cmlm": {"family": "cmlm"},
    "ctc": {"family": "ctc", "upsample": 2},
    "dag": {"family": "dag", "upsample": 3},
}
TRAIN = {"max_tokens": 1200, "lr": 0.004, "warmup_updates": 150, "validate_interval_updates": 250, "threads": 1}
UPDATES, NAT_UPDATES = 1500, 300
FEW = 200  # sentences of the slower comparisons
ITERATIONS = 4  # of `cmlm`

Difference = Literal["ties", "limits", "others"]
DIFFERENCES: tuple[Difference, ...] = ("ties", "limits", "others")


@dataclass(frozen=True)
class Comparison:
    """Comparison of a program with kdmt.

    Attributes:
        program: key of `PROGRAMS`.
        student: name of the student.
        beam: beam size of both.
        sentences: maximum number of sentences.
    """

    program: str
    student: str
    beam: int = 1
    sentences: int = 1000

    @property
    def name(self) -> str:
        return f"{self.program}_{self.student}" + (f"_beam{self.beam}" if self.student in MODELS else "")


@dataclass(frozen=True)
class Outcome:
    """Result of a comparison.

    Attributes:
        ours, theirs: translations.
        differences: number of the sentence -> kind of difference.
    """

    ours: list[str]
    theirs: list[str]
    differences: dict[int, Difference]

    @property
    def same(self) -> float:
        """Percentage of sentences with the same translation."""
        return 100 * (1 - len(self.differences) / len(self.ours))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=RUNS, help="Folder of the trained students (default: runs).")
    parser.add_argument("--data", type=Path, default=DATA, help="Folder of Multi30k (default: %(default)s).")
    parser.add_argument("--sentences", type=int, default=1000, help="Number of sentences (default: %(default)s).")
    parser.add_argument(
        "--programs", default=",".join(PROGRAMS), help="Programs that are compared (default: %(default)s)."
    )
    parser.add_argument("--students", help="Students that are compared (default: all).")
    parser.add_argument("--nat", action="store_true", help="Compare the non-autoregressive students.")
    options = parser.parse_args()
    known = NAT_COMPARISONS if options.nat else COMPARISONS
    students = {each.student for each in known} if options.students is None else set(options.students.split(","))
    chosen = [each for each in known if each.program in options.programs.split(",") and each.student in students]
    bench = "exactness-nat" if options.nat else "exactness"
    figures, differences = earlier_results(bench, chosen)
    settings = {
        "students": NAT if options.nat else MODELS,
        "updates": NAT_UPDATES if options.nat else UPDATES,
        "test_set": TEST_SET,
        "sentences": {each.name: min(options.sentences, each.sentences) for each in known},
        "differences": differences,
    }
    command = f"python benchmarks/bench_exactness.py{' --nat' if options.nat else ''}"
    with tempfile.TemporaryDirectory() as scratch:
        run = train_students(options.runs, students, data=options.data)
        for each in chosen:
            outcome = compare(each, run, Path(scratch), options.sentences)
            figures += figures_of(each, outcome, references(run, len(outcome.ours)))
            if each.program != "bergamot":
                differences[each.name] = {str(number): kind for number, kind in outcome.differences.items()}
            write_figures(bench, figures, settings=settings, command=command)
    print(*figures, sep="\n")


def earlier_results(bench: str, chosen: Sequence[Comparison]) -> tuple[list[Figure], dict[str, dict[str, str]]]:
    """Return the figures and differences of comparisons that are not made again, from results of the same commit."""
    path = RESULTS / f"{bench}.json"
    if not path.is_file():
        return [], {}
    results = json.loads(path.read_text(encoding="utf-8"))
    if results["commit"] != describe_commit():
        return [], {}
    names = {each.name for each in chosen}
    prefixes = tuple(f"exactness_{name}_" for name in names)
    figures = [Figure(**each) for each in results["figures"] if not each["name"].startswith(prefixes)]
    kept = {name: kinds for name, kinds in results["settings"]["differences"].items() if name not in names}
    return figures, kept


def figures_of(comparison: Comparison, outcome: Outcome, expected: Sequence[str]) -> list[Figure]:
    """Return the figures of a comparison.

    Args:
        expected: reference translations.
    """
    name = f"exactness_{comparison.name}"
    if comparison.program == "bergamot":
        scores = [bleu(each, list(expected), tokenize="13a").value for each in (outcome.ours, outcome.theirs)]
        return [Figure(f"{name}_bleu_loss", round(scores[0] - scores[1], 3), "BLEU")]
    counts = Counter(outcome.differences.values())
    kinds = [Figure(f"{name}_{kind}", counts[kind], "sentences") for kind in DIFFERENCES]
    return [Figure(f"{name}_same", outcome.same, "%"), *kinds]


# ------------------------------------------------------------------------------------------------------------ students


def train_students(runs: Path, names: set[str], *, data: Path = DATA) -> Path:
    """Train the students that are not in `runs` yet, and return the folder of the run."""
    document = yaml.safe_load(PIPELINE.read_text(encoding="utf-8"))
    document["prepare"]["tokenizer"]["vocab_size"] = 4000
    students: dict[str, dict[str, Any]] = {
        name: {"model": SHAPE | own, "train": TRAIN | {"max_updates": UPDATES}} for name, own in MODELS.items()
    }
    for name, nat in NAT.items():
        train = TRAIN | {"max_updates": NAT_UPDATES, "max_tokens": 600, "lr": 0.001}
        students[name] = {"model": SHAPE | {"decoder_layers": 2}, "nat": nat, "train": train}
    kept = {name: document[name] for name in ("source_lang", "target_lang", "prepare")}
    kept["students"] = {name: {"data": "raw", **each} for name, each in students.items() if name in names}
    with tempfile.TemporaryDirectory() as scratch:
        pipeline = Path(scratch) / "exactness.yaml"
        pipeline.write_text(yaml.safe_dump({"name": "exactness", **kept}), encoding="utf-8")
        for stage in ("prepare", "student"):
            command = [sys.executable, "-m", "kdmt", stage, pipeline, "--runs", runs, "--mirror", data]
            subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)
    return runs / "exactness"


def sources(run: Path, count: int) -> list[str]:
    """Return the first sentences of the test set."""
    return read_lines(run / "prepare" / f"{TEST_SET}.raw.en")[:count]


def references(run: Path, count: int) -> list[str]:
    """Return the reference translations of `sources`."""
    return read_lines(run / "prepare" / f"{TEST_SET}.raw.de")[:count]


# ---------------------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True)
class Ours:
    """A student in kdmt. The engine is that of PyTorch, or of an exported folder.

    Attributes:
        lenpen: length penalty of the beam search.
    """

    engine: Engine
    codec: TextCodec
    beam: int
    lenpen: float = 1.0

    @classmethod
    def open(cls, path: Path, beam: int) -> Ours:
        kind, folder = find_engine(path)
        return cls(kind.open(folder, EngineOptions(iterations=ITERATIONS)), TextCodec.load(folder), beam)

    def translate(self, lines: Sequence[str]) -> list[str]:
        settings = Decode(beam=self.beam, lenpen=self.lenpen, max_len_a=0.0, max_len_b=LIMIT)
        found = self.engine.decode(self.codec.encode_raw_source(lines), settings)
        return [self.codec.finish_target(self.codec.decode_target(nbest[0].tokens)) for nbest in found]

    def difference(self, source: str, first: str, second: str) -> Difference:
        """Return the kind of difference of two translations."""
        one, other = self.codec.encode_target([first, second])
        if max(len(one), len(other)) > LIMIT:
            return "limits"
        if not isinstance(self.engine, ScoringEngine):
            return "others"
        (encoded,) = self.codec.encode_raw_source([source])
        scores = self.engine.score_pairs([encoded, encoded], [one, other])
        if self.beam == 1:
            place = next(place for place in range(len(one)) if one[place] != other[place])
            gap = scores[0][place] - scores[1][place]
        else:
            gap = np.subtract(*(float(each.sum()) / len(each) ** self.lenpen for each in scores))
        return "ties" if abs(gap) < TIE else "others"


def compare(comparison: Comparison, run: Path, scratch: Path, count: int) -> Outcome:
    """Translate sentences with a program and with kdmt.

    Args:
        run: folder of the run with the student.
        scratch: folder for the exported model.
        count: maximum number of sentences.
    """
    use_threads(1)
    checkpoint = resolve_checkpoint(run / "students" / comparison.student / "seed_1")
    lines = sources(run, min(count, comparison.sentences))
    folder = scratch / comparison.name
    theirs = PROGRAMS[comparison.program](checkpoint, folder, comparison.beam, lines)
    ours = Ours.open(checkpoint, comparison.beam)
    if comparison.program == "argos":
        found = ctranslate2_translations(folder, lines)
    else:
        found = kdmt_translations(checkpoint, comparison.beam, tuple(lines))
    if len(theirs) != len(lines):
        raise ValueError(f"{comparison.name}: {len(theirs)} translations of {len(lines)} sentences")
    differing = [number for number in range(len(lines)) if found[number] != theirs[number]]
    if comparison.program == "bergamot":  # int8: only its quality is compared
        return Outcome(found, theirs, dict.fromkeys(differing, "others"))
    kinds = {number: ours.difference(lines[number], found[number], theirs[number]) for number in differing}
    return Outcome(found, theirs, kinds)


@cache
def kdmt_translations(checkpoint: Path, beam: int, lines: tuple[str, ...]) -> list[str]:
    return Ours.open(checkpoint, beam).translate(lines)


# ------------------------------------------------------------------------------------------------------------ programs


def export(checkpoint: Path, folder: Path, to: str, beam: int) -> Path:
    options = ExportOptions(quantization="int8" if to == "bergamot" else "float32", beam=beam, lenpen=1.0)
    EXPORTERS[to].export(checkpoint, folder, options)
    return folder


def marian(checkpoint: Path, folder: Path, beam: int, lines: list[str]) -> list[str]:
    export(checkpoint, folder, "marian", beam)
    decoder = folder / "model.npz.decoder.yml"
    options = yaml.safe_load(decoder.read_text(encoding="utf-8")) | {"max-length-factor": LENGTH_FACTOR}
    decoder.write_text(yaml.safe_dump(options), encoding="utf-8")
    return in_environment("marian", folder, beam, lines)


def bergamot(checkpoint: Path, folder: Path, beam: int, lines: list[str]) -> list[str]:
    return in_environment("bergamot", export(checkpoint, folder, "bergamot", beam), beam, lines)


def in_environment(name: str, folder: Path, beam: int, lines: list[str]) -> list[str]:
    """Translate with the program of an environment of `make deploy-envs`."""
    load = Load(name, folder, 1, Decode(beam=beam, lenpen=1.0))
    with EngineProcess(load, ENVIRONMENTS / name / "bin" / "python") as process:
        found: list[str] = process.ask({"translate": lines})["translations"]
    return found


def onnx(checkpoint: Path, folder: Path, beam: int, lines: list[str]) -> list[str]:
    return Ours.open(export(checkpoint, folder, "onnx", beam), beam).translate(lines)


def transformers(checkpoint: Path, folder: Path, beam: int, lines: list[str]) -> list[str]:
    """Translate with `MarianMTModel`, one sentence at a time."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    export(checkpoint, folder, "huggingface", beam)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModelForSeq2SeqLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    found = []
    for line in lines:
        batch = tokenizer([line], return_tensors="pt")
        (tokens,) = model.generate(**batch, max_length=LIMIT + 2, generation_config=model.generation_config)
        found.append(tokenizer.decode(tokens, skip_special_tokens=True))
    return found


def transformers_js(checkpoint: Path, folder: Path, beam: int, lines: list[str]) -> list[str]:
    return transformers_js_program.translate(
        export(checkpoint, folder, "transformers-js", beam), lines, limit=LIMIT + 1
    )


def argos(checkpoint: Path, folder: Path, beam: int, lines: list[str]) -> list[str]:
    folder.mkdir()
    package = export(checkpoint, folder / "model.argosmodel", "argos", beam)
    export(checkpoint, folder / "ctranslate2", "ctranslate2", beam)
    return argos_program.translate(package, folder / "home", lines, compute_type="float32")


def ctranslate2_translations(folder: Path, lines: Sequence[str]) -> list[str]:
    """Translate with CTranslate2 and the search of Argos Translate."""
    import ctranslate2

    model, codec = folder / "ctranslate2", TextCodec.load(folder / "ctranslate2")
    pieces = [line.split() for line in codec.tokenizers.source.encode_lines(list(lines))]
    translator = ctranslate2.Translator(str(model), compute_type="float32")
    found = translator.translate_batch([[*each, "</s>"] for each in pieces], **argos_program.SEARCH)
    return [codec.finish_target(codec.tokenizers.target.decode(" ".join(each.hypotheses[0]))) for each in found]


# function of a checkpoint, a new folder, a beam size and lines that returns translations
PROGRAMS: dict[str, Callable[[Path, Path, int, list[str]], list[str]]] = {
    "marian": marian,
    "transformers": transformers,
    "transformers_js": transformers_js,
    "argos": argos,
    "onnx": onnx,
    "bergamot": bergamot,
}
COMPARISONS = (
    *(Comparison("marian", student, beam) for student in MODELS for beam in (1, 4)),
    Comparison("transformers", "attention"),
    Comparison("transformers_js", "attention", sentences=FEW),
    Comparison("argos", "attention", 4),  # the beam of `argos_program.SEARCH`
    *(Comparison("onnx", student, beam) for student in MODELS for beam in (1, 4)),
    *(Comparison("bergamot", student, beam) for student in MODELS for beam in (1, 4)),
)
NAT_COMPARISONS = tuple(Comparison("onnx", student, sentences=FEW) for student in NAT)


if __name__ == "__main__":
    main()
