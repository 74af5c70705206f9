"""The demo on a smaller corpus: every stage of pipelines/toy.yaml as a command, and its output files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import run

pytestmark = pytest.mark.pipeline

REPOSITORY = Path(__file__).parents[2]
TOY = REPOSITORY / "pipelines" / "toy.yaml"
PAIRS = {"train": 400, "valid": 20, "test": 20}
STUDENTS = ("raw", "distilled", "ctc_raw", "ctc_distilled")
SYSTEMS = {"teacher": "teacher"} | {name: f"students/{name}/seed_1" for name in STUDENTS}
Demo = tuple[Path, dict[str, tuple[str, str]]]  # working folder; stage -> standard output and standard error
STAGES = ("prepare", "teacher", "distill", "student", "score")

SMALL = [
    "prepare.tokenizer.vocab_size=250",
    "prepare.workers=1",
    "distill.decode={beam: 2, max_len_a: 1.0, max_len_b: 5}",
    "distill.block_size=150",
    "distill.threads=1",
    "score={checkpoint: average, max_len_a: 1.0, max_len_b: 5, bootstrap_samples: 50, speed_sentences: 2, threads: 1}",
]
TRAIN = [
    *("max_updates=40", "max_tokens=1000", "lr=0.01", "warmup_updates=10"),
    *("validate_interval_updates=20", "validate_sentences=5", "threads=1"),
]
for _system in ("teacher", *(f"students.{name}" for name in STUDENTS)):
    SMALL += [f"{_system}.model.{side}_embed_dim=32" for side in ("encoder", "decoder")]
    SMALL += [f"{_system}.train.{setting}" for setting in TRAIN]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Return the working folder after all stages, and the output of each stage."""
    folder = tmp_path_factory.mktemp("demo")
    sizes = [argument for split, size in PAIRS.items() for argument in (f"--{split}", str(size))]
    generator = [sys.executable, REPOSITORY / "data/toy/generate.py", "--out", "data/toy/corpus", *sizes]
    subprocess.run(generator, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder, {stage: run(folder, stage, TOY, sets=SMALL) for stage in STAGES}


@pytest.fixture(scope="module")
def toy(demo: Demo) -> Path:
    return demo[0] / "runs" / "toy"


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_stage_writes_its_files(toy: Path) -> None:
    expected = [
        *("prepare/train.en", "prepare/test.raw.de", "prepare/tokenizer/joint.model", "prepare/dict.de.txt"),
        *("prepare/data-bin/train.en-de.en.bin", "prepare/data-bin/valid.en-de.de.idx", "prepare/report.json"),
        *("distill/blocks/000002.gz", "distill/distilled.de", "distill/nbest"),
        *("distill/data-bin/train.en-de.de.bin", "scores.json", "significance.json", "report.html"),
    ]
    for run_folder in SYSTEMS.values():
        expected += [f"{run_folder}/{name}" for name in ("best", "last", "metrics.jsonl", "average/model.safetensors")]
        checkpoint = f"{run_folder}/checkpoint_40"
        expected += [f"{checkpoint}/{name}" for name in ("model.json", "text.json", "tokenizer", "dict.en.txt")]
    for stage in ("prepare", "distill", "score", *SYSTEMS.values()):
        expected += [f"{stage}/manifest.json", f"{stage}/config.json"]
    assert [name for name in expected if not (toy / name).exists()] == []
    assert [path.name for path in toy.rglob("*") if ".partial" in path.name or path.suffix == ".part"] == []


def test_the_distilled_text_is_aligned_with_the_training_source(toy: Path) -> None:
    facts = load(toy / "distill/manifest.json")["facts"]
    assert facts["num_sentences"] == len(lines(toy / "prepare/train.en"))
    assert lines(toy / "distill/distilled.en") == lines(toy / "prepare/train.en")
    assert len(lines(toy / "distill/distilled.de")) == facts["num_lines"] == facts["num_sentences"]
    assert sum(facts["replaced_by_reference"].values()) <= sum(facts["failures"].values())


def test_no_test_sentence_is_trained_on(toy: Path) -> None:
    for lang in ("en", "de"):
        held_out = {re.sub(r"\W", "", line.casefold()) for line in lines(toy / f"prepare/test.raw.{lang}")}
        trained = {re.sub(r"\W", "", line.casefold()) for line in lines(toy / f"prepare/train.{lang}")}
        assert not held_out & trained


def test_scores_have_every_field_for_every_system_and_beam(toy: Path) -> None:
    rows = load(toy / "scores.json")
    beams = {name: (1,) if name.startswith("ctc") else (1, 5) for name in SYSTEMS}
    assert [(row["system"], row["beam"]) for row in rows] == [(name, beam) for name in SYSTEMS for beam in beams[name]]
    for row in rows:
        assert (row["test_set"], row["seed"], row["engine"], row["compute_type"]) == ("test", 1, "pytorch", "float32")
        assert 0 <= row["bleu"] <= 100
        assert 0 <= row["chrf"] <= 100
        assert row["bleu_signature"].startswith("nrefs:1|")
        assert row["threads"] >= 1
        assert min(row["sentences_per_second_batch1"], row["sentences_per_second_max"]) > 0
        checksums = load(toy / SYSTEMS[row["system"]] / "average" / "checksums.json")
        assert row["checkpoint_sha256"] == checksums["model.safetensors"]
    parameters = {row["system"]: row["parameters"] for row in rows}
    assert parameters["raw"] == parameters["distilled"] < parameters["teacher"]
    compared = {(row["system"], row["baseline"]) for row in load(toy / "significance.json")}
    assert compared == {(name, "raw") for name in SYSTEMS if name != "raw"}


def test_the_demo_ends_with_a_table_and_the_paths_of_its_files(demo: Demo, toy: Path) -> None:
    out, _ = demo[1]["score"]
    for row in load(toy / "scores.json"):
        way = r"1 it\." if row["system"].startswith("ctc") else row["beam"]
        assert re.search(rf"^{row['system']} +{way} +{row['bleu']:.2f} ", out, re.MULTILINE)
    assert "p against" in out
    assert "translations: runs/toy/score/" in out
    assert out.rstrip().endswith("diagnostics: runs/toy/diagnostics.json")
    assert "runs/toy/scores.json" in out


def test_progress_is_printed_in_plain_lines(demo: Demo) -> None:
    stderr = {stage: err for stage, (_, err) in demo[1].items()}
    assert "400 pairs read, 400 for training" in stderr["prepare"]
    assert "teacher: validation at 40: loss " in stderr["teacher"]
    assert "distill: 400 of 400 sentences" in stderr["distill"]
    assert "student distilled seed 1: done at update 40 (max_updates)" in stderr["student"]
    assert not any("\x1b" in err or "Traceback" in err for err in stderr.values())


def test_a_second_run_has_nothing_to_do(demo: Demo) -> None:
    folder, _ = demo
    for stage in STAGES:
        out, err = run(folder, stage, TOY, sets=SMALL)
        assert out == demo[1][stage][0]  # the table is printed again
        assert all(line.endswith(": up to date, nothing to do") for line in err.splitlines())
        assert len(err.splitlines()) == (len(STUDENTS) if stage == "student" else 1)


def test_a_student_translates_from_its_checkpoint_alone(demo: Demo, toy: Path, tmp_path: Path) -> None:
    (toy / SYSTEMS["distilled"] / "average").rename(tmp_path / "student")
    source = (toy / "prepare" / "test.raw.en").read_text(encoding="utf-8")
    limits = ("--max-len-a", "1.0", "--max-len-b", "5", "--threads", "1")
    out, _ = run(tmp_path, "translate", "student", *limits, stdin=source)
    assert out == (toy / "score" / "distilled.seed_1.test.beam5.de").read_text(encoding="utf-8")
    (tmp_path / "student").rename(demo[0] / "runs/toy" / SYSTEMS["distilled"] / "average")
