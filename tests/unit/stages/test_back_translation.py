"""Back-translation: tagged sources of a model of the opposite direction, in blocks; training sets of a teacher."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline
from pydantic import ValidationError
from tiny_pipeline import kdmt, read_lines, run_stages, to_yaml, write_lines
from training_runs import TEACHER, TINY, metrics

from kdmt.config import Decode, Pipeline
from kdmt.corpus.batching import open_split
from kdmt.corpus.vocabulary import Dictionary
from kdmt.decode.engines.translator import Translator
from kdmt.languages import Direction
from kdmt.stages import back_translation_work
from kdmt.stages.pipeline import build_stages
from kdmt.stages.workspace import Workspace

FOLDER = TINY / "back_translated"
SHORT = {"max_updates": 4, "validate_interval_updates": 2, "log_interval_updates": 1}


def settings(**changes: Any) -> dict[str, Any]:
    """Return a pipeline whose teacher learns from raw and back-translated text."""
    document = tiny_pipeline.settings()
    document["teacher"]["train"] |= SHORT
    document["teacher"]["data"] = [{"set": "raw", "share": 0.5}, {"set": "back_translated", "share": 0.5}]
    document["prepare"]["tokenizer"]["user_defined_symbols"] = ["<bt>"]
    document["prepare"]["tokenizer"]["vocab_size"] = 33
    document["back_translation"] = {
        "checkpoint": "runs/reverse/teacher",
        "text": ["mono.de"],
        "tag": "<bt>",
        "decode": {"beam": 1},
        "block_lines": 7,
        **changes,
    }
    return document


def write_reverse() -> None:
    """Train a model from German to English."""
    document = tiny_pipeline.settings() | {"name": "reverse", "source_lang": "de", "target_lang": "en", "students": {}}
    for split in (document["prepare"]["train"][0], document["prepare"]["valid"], document["prepare"]["test"]["test"]):
        split["source"], split["target"] = split["target"], split["source"]
    document["teacher"]["train"] |= SHORT
    Path("reverse.yaml").write_text(to_yaml(document))
    for stage in ("prepare", "teacher"):
        done = kdmt(stage, "reverse.yaml")
        assert done.code == 0, done.err


def write(document: dict[str, Any]) -> None:
    Path("tiny.yaml").write_text(to_yaml(document))


def test_the_set_comes_before_the_teacher_that_learns_from_it() -> None:
    stages = build_stages(Workspace(Pipeline.model_validate(settings()), Path("runs")))
    assert [stage.name for stage in stages.groups["prepare"]] == ["prepare", "back_translated"]
    (teacher,) = stages.groups["teacher"]
    assert [stage.name for stage in teacher.upstream] == ["prepare", "back_translated"]


@pytest.mark.usefixtures("pipeline")
def test_text_is_translated_tagged_and_learnt_and_blocks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    write_reverse()
    targets = [*read_lines(Path("text/train.de"))[:16], ""]
    write_lines(Path("mono.de"), targets)
    write(settings())
    run_stages("prepare", "teacher")
    reverse = Translator.load(Path("runs/reverse/teacher"))
    expected = [" ".join(line.split()) for line in reverse.translate(targets, Decode(beam=1))]
    kept = [(source, target) for source, target in zip(expected, targets, strict=True) if source]
    assert [source for source, _ in kept] == read_lines(FOLDER / "distilled.en")
    assert [target for _, target in kept] == read_lines(FOLDER / "distilled.de")
    facts = json.loads((FOLDER / "manifest.json").read_text())["facts"]
    assert facts == {"num_sentences": len(targets), "num_lines": len(kept), "empty": len(targets) - len(kept)}
    pairs = open_split(FOLDER / "data-bin", "train", Direction("en", "de"))
    tag = Dictionary.load(TINY / "prepare/dict.en.txt").symbols.index("<bt>")
    assert len(pairs) == len(kept)
    assert all(pairs[index][0][0] == tag for index in range(len(pairs)))
    assert metrics(TEACHER, "train")
    inputs = json.loads((TEACHER / "manifest.json").read_text())["inputs"]
    assert any(name.startswith("back_translated/data-bin/train.") for name in inputs)

    # a killed stage goes on: whole blocks are kept, a damaged one is made again
    text = (FOLDER / "distilled.en").read_bytes()
    blocks = sorted((FOLDER / "blocks").iterdir())
    assert len(blocks) == -(-len(targets) // 7)
    blocks[1].write_text(blocks[1].read_text()[:-3])
    blocks[-1].unlink()
    (FOLDER / "manifest.json").rename(FOLDER / "plan.json")
    translated = []
    translate = back_translation_work._translate

    def counted(lines: Any, number: int, *more: Any) -> list[str]:
        translated.append(number)
        return translate(lines, number, *more)

    monkeypatch.setattr(back_translation_work, "_translate", counted)
    run_stages("prepare")
    assert translated == [1, len(blocks) - 1]
    assert (FOLDER / "distilled.en").read_bytes() == text

    # samples depend on their seed and their line alone
    drawn = []
    for seed, size in ((1, 7), (1, 4), (2, 7)):
        write(settings(sample={"seed": seed}, decode={}, block_lines=size))
        run_stages("prepare")
        drawn.append((FOLDER / "distilled.en").read_bytes())
    assert drawn[0] == drawn[1] != text
    assert drawn[2] != drawn[0]

    write(settings(tag="<other>"))
    done = kdmt("prepare", "tiny.yaml")
    assert done.code == 2
    assert "back_translation.tag: the source vocabulary has no token <other>" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"back_translation": None}, "'teacher.data: back_translated' needs 'back_translation'"),
        ({"teacher": {"data": "raw"}}, "'back_translation' has no effect: no teacher or student has"),
        ({"teacher": {"data": "distilled"}}, "'data': distilled is not made without the teacher: give raw or"),
    ],
)
def test_sets_of_a_teacher_are_checked(changes: dict[str, Any], message: str) -> None:
    document = settings()
    teacher = document["teacher"] | changes.pop("teacher", {})
    with pytest.raises(ValidationError, match=re.escape(message)):
        Pipeline.model_validate(document | {"teacher": teacher} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decode": {"nbest": 2}}, "'decode.nbest' has no effect"),
        ({"sample": {}, "decode": {"beam": 3}}, "'decode.beam' has no effect with 'sample'"),
        ({"text": []}, "text"),
    ],
)
def test_settings_of_back_translation_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Pipeline.model_validate(settings(**changes))
