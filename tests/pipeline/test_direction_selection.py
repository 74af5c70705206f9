"""Selective distillation by direction against a teacher that is wrong in one of its directions.

The languages are word-for-word translations of each other. The teacher has learnt one of two target languages from text
whose sentences are reversed. Three students learn from the right text: alone, with plain word-level distillation, and
while the teacher is better on the validation set.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline
from tiny_pipeline import MODEL, TRAIN, WORDS, hash_tree, kdmt, read_lines, working_in, write_lines

from kdmt.api import load

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

SIZES = {"train": 400, "valid": 20, "test": 40}
LEXICONS = {"en": {word: word for word in WORDS}, "de": WORDS, "fr": {word: f"z{WORDS[word]}" for word in WORDS}}
DIRECTIONS = ("en-de", "en-fr")
KD = {"teachers": ["runs/wrong/teacher"], "alpha": 0.8}
STUDENTS: dict[str, dict[str, Any]] = {
    "alone": {},
    "plain": {"word_kd": KD},
    "selective": {"word_kd": {**KD, "direction_selection": {}}},
}
RUNS = Path("runs/tiny/students")


def document(name: str, french: str, students: dict[str, Any]) -> dict[str, Any]:
    """Return the document of a pipeline from English to German and French.

    Args:
        french: name of the French side of the training and validation text.
    """

    def parallel(split: str, french: str) -> dict[str, Any]:
        files = {"en": "en", "de": "de", "fr": french}
        return {"parallel": {lang: {"path": f"text/{split}.{own}"} for lang, own in files.items()}}

    model = MODEL | dict.fromkeys(("encoder_embed_dim", "decoder_embed_dim"), 32) | {"dropout": 0.0}
    train = TRAIN | {"max_updates": 320, "max_tokens": 600, "warmup_updates": 40, "validate_interval_updates": 40}
    train |= {"save_interval_updates": 60, "log_interval_updates": 100, "validate_bleu": False, "best_metric": "loss"}
    train |= {"label_smoothing": 0.0}
    made = {
        "name": name,
        "directions": list(DIRECTIONS),
        "prepare": {
            "train": [parallel("train", french)],
            "valid": parallel("valid", french),
            "test": {"test": parallel("test", "fr")},
            "tokenizer": {"type": "words"},
            "clean": "none",  # so that both pipelines have the same words
            "decontaminate": False,
            "workers": 1,
        },
        "teacher": {"model": model, "train": train},
        "students": {each: {"data": "raw", "model": model, "train": train, **own} for each, own in students.items()},
    }
    return json.loads(json.dumps(made))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working folder with all students."""
    folder = tmp_path_factory.mktemp("selection")
    pairs = list(dict.fromkeys(tiny_pipeline.make_pairs(3000, seed=1)))
    (folder / "text").mkdir()
    for split, size in SIZES.items():
        own, pairs = pairs[:size], pairs[size:]
        for name, lexicon in LEXICONS.items():
            lines = [[lexicon[word] for word in source.split()] for source, _ in own]
            write_lines(folder / f"text/{split}.{name}", map(" ".join, lines))
        write_lines(folder / f"text/{split}.reversed", [" ".join(line[::-1]) for line in lines])
    with working_in(folder):
        good = document("tiny", "fr", STUDENTS)
        wrong = document("wrong", "reversed", {})
        for made in (good, wrong):
            Path(f"{made['name']}.yaml").write_text(tiny_pipeline.to_yaml(made), encoding="utf-8")
        for command in (
            ["prepare", "tiny.yaml"],
            ["prepare", "wrong.yaml"],
            ["teacher", "wrong.yaml"],
            *(["student", "tiny.yaml", "--student", name] for name in STUDENTS),
        ):
            finished = kdmt(*command)
            assert finished.code == 0, finished.err
    return folder


def accuracy(folder: Path, run: str, target: str) -> float:
    """Return the share of the test sentences whose translation is right."""
    model = load(folder / run, threads=1).for_languages(target)
    outputs = model.translate(read_lines(folder / "text/test.en"), beam=1)
    expected = read_lines(folder / f"text/test.{target}")
    return sum(output == line for output, line in zip(outputs, expected, strict=True)) / len(expected)


def validations(folder: Path, student: str) -> list[dict[str, float]]:
    records = read_lines(folder / RUNS / student / "seed_1/metrics.jsonl")
    return [each for each in map(json.loads, records) if each["kind"] == "valid"]


def test_selective_distillation_is_not_worse_than_training_alone_and_plain_distillation_is(folder: Path) -> None:
    assert accuracy(folder, "runs/wrong/teacher", "fr") < 0.1
    found = {
        name: {lang: accuracy(folder, f"{RUNS}/{name}/seed_1", lang) for lang in ("de", "fr")} for name in STUDENTS
    }
    assert found["alone"]["fr"] > 0.7, found
    assert found["plain"]["fr"] < found["alone"]["fr"] - 0.5, found
    assert found["selective"]["fr"] >= found["alone"]["fr"] - 0.05, found
    assert found["selective"]["de"] >= found["alone"]["de"] - 0.05, found


def test_a_direction_is_distilled_while_the_teacher_is_better(folder: Path) -> None:
    teacher = json.loads((folder / RUNS / "selective/seed_1/teacher_validation.json").read_text())
    for record in validations(folder, "selective"):
        for direction in DIRECTIONS:
            assert record[f"word_kd_{direction}"] == (record[f"nll_{direction}"] > teacher[direction])
    first = validations(folder, "selective")[0]
    assert (first["word_kd_en-de"], first["word_kd_en-fr"]) == (1.0, 0.0)
    assert not any("nll_en-de" in record for record in validations(folder, "plain"))


def test_a_resumed_run_is_the_same(folder: Path) -> None:
    run = folder / RUNS / "selective/seed_1"
    expected = hash_tree(run)
    before = {path.name for path in run.glob("checkpoint_*")}
    assert before
    with working_in(folder):
        half = document("tiny", "fr", STUDENTS)
        half["name"] = "half"
        half["students"]["selective"]["train"]["max_updates"] = 100  # between two validations
        for updates in (100, 320):
            half["students"]["selective"]["train"]["max_updates"] = updates
            Path("half.yaml").write_text(tiny_pipeline.to_yaml(half), encoding="utf-8")
            for command in (["prepare", "half.yaml"], ["student", "half.yaml", "--student", "selective"]):
                finished = kdmt(*command)
                assert finished.code == 0, finished.err
    again = hash_tree(folder / "runs/half/students/selective/seed_1")
    name = "checkpoint_320/model.safetensors"
    assert again[name] == expected[name]
