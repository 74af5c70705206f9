"""The pipelines of IWSLT14 and WMT14 for 50 updates on generated text, in the place of corpora that are not downloaded.

The optimisation of every model is that of its recipe, except that micro-batches have 300 tokens, one of them makes an
update, and the warmup has 10 updates instead of 4,000 and more. The teacher of IWSLT14 has its whole architecture. Of
the teacher of WMT14 and of the students, only the number of layers is smaller: one in the encoder and one in the
decoder (6 and 6, or 12 and 1, in the recipes).
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline
from tiny_pipeline import kdmt, write_lines

REPOSITORY = Path(__file__).parents[2]
PIPELINES = ("iwslt14-de-en", "wmt14-en-de")
STUDENTS = ("ar_raw", "ctc_raw", "cmlm_raw")
SIZES = {"train": 600, "valid": 20, "test": 10}
SHORT = (
    *("max_updates=50", "max_tokens=300", "update_freq=1", "warmup_updates=10", "validate_interval_updates=25"),
    *("log_interval_updates=5", "threads=1", "precision=float32"),
)
ONE_LAYER = ("encoder_layers=1", "decoder_layers=1")
SMALL = {"iwslt14-de-en": (), "wmt14-en-de": ONE_LAYER}  # the changes to the architecture of the teacher


def words_of(rng: random.Random) -> list[str]:
    """Return a sentence of 3 to 8 words, some of them in two parts as by subword-nmt."""
    return [
        rng.choice([f"wort{rng.randrange(60)}", f"teil{rng.randrange(9)}@@ ende"]) for _ in range(rng.randint(3, 8))
    ]


def write_text(folder: Path) -> None:
    """Write each split in two languages; the target has the source's words in reverse order, with other names."""
    rng = random.Random(1)
    for split, size in SIZES.items():
        sources = [words_of(rng) for _ in range(size)]
        targets = [[word.replace("wort", "word").replace("teil", "part") for word in words[::-1]] for words in sources]
        write_lines(folder / f"{split}.source", [" ".join(words) for words in sources])
        write_lines(folder / f"{split}.target", [" ".join(words) for words in targets])


def overrides(name: str) -> Iterable[str]:
    yield "prepare.workers=1"
    text = {split: f"source: {{path: text/{split}.source}}, target: {{path: text/{split}.target}}" for split in SIZES}
    yield f"prepare.train=[{{{text['train']}}}]"
    yield f"prepare.valid={{{text['valid']}}}"
    yield f"prepare.test={{test: {{{text['test']}}}}}"
    yield from ("prepare.clean=none", "prepare.decontaminate=false", "prepare.text={moses: false}")
    yield "prepare.tokenizer.vocab_size=100"
    for path, changes in (
        *((f"students.{student}", ONE_LAYER) for student in STUDENTS),
        ("teacher", SMALL[name]),
    ):
        yield from (f"{path}.model.{change}" for change in changes)
        yield from (f"{path}.train.{change}" for change in SHORT)


def metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == kind]


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_teacher_and_students_train_for_50_updates_with_the_rates_of_their_recipes(name: str, tmp_path: Path) -> None:
    sets = [part for change in overrides(name) for part in ("--set", change)]
    with tiny_pipeline.working_in(tmp_path) as folder:
        (folder / "text").mkdir()
        write_text(folder / "text")
        pipeline = REPOSITORY / "pipelines" / f"{name}.yaml"
        commands = [("prepare",), ("teacher",), *(("student", "--student", student) for student in STUDENTS)]
        for command, *flags in commands:
            result = kdmt(command, pipeline, *flags, *sets)
            assert result.code == 0, result.err
        teacher = Path("runs") / name / "teacher"
        runs = [teacher, *(Path("runs") / name / "students" / student / "seed_1" for student in STUDENTS)]
        for run in runs:
            rates = {line["update"]: line["lr"] for line in metrics(run, "train")}
            assert list(rates) == list(range(5, 51, 5))
            assert rates[50] == pytest.approx(5e-4 * (10 / 49) ** 0.5)  # update 49, counted from 0
            assert all(math.isfinite(line["loss"]) for line in metrics(run, "valid"))
        before, after = (line["loss"] for line in metrics(teacher, "valid"))
        assert after < before
