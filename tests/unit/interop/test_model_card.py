"""Tests of model cards: what a card says about a checkpoint and about the run around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_transformers import POST_NORM, write_text_processing

from kdmt.checksum import file_sha256
from kdmt.errors import UserError
from kdmt.interop.model_card import ExportFormat, model_card
from kdmt.models.build import build_transformer
from kdmt.models.checkpoint import save_checkpoint

FORMAT = ExportFormat("Toolkit", "```bash\nrun it\n```", library="toolkit", tags=("toolkit-tag",))
URL = "https://example.org/train.en.gz"


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """Write the files of a pipeline that a card is made from, and return its folder."""
    root = tmp_path / "runs" / "pairs"
    size, companions = write_text_processing(tmp_path / "text")
    model = build_transformer(POST_NORM, src_vocab_size=size, tgt_vocab_size=size)
    for run in (root / "teacher", root / "students" / "small" / "seed_1"):
        save_checkpoint(run / "average", model, companions=companions)
        write_json(run / "config.json", CONFIG)
    (root / "students" / "small" / "seed_1" / "average" / "average_of").write_text("100\n200\n")
    write_json(root / "prepare" / "report.json", REPORT)
    write_json(root / "distill" / "manifest.json", {"facts": {"num_sentences": 28_989}})
    sha256 = file_sha256(root / "students" / "small" / "seed_1" / "average" / "model.safetensors")
    row = {
        **{"system": "small", "test_set": "news", "seed": 1, "engine": "pytorch", "beam": 5, "compute_type": "float32"},
        "checkpoint_sha256": sha256,
        "scores": {
            "bleu": {"value": 38.123456, "signature": "nrefs:1|case:mixed"},
            "chrf++": {"value": 60.5, "signature": "nrefs:1|nw:2"},
        },
    }
    write_json(root / "scores.json", [row, row | {"checkpoint_sha256": "0" * 64, "test_set": "other"}])
    return root


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


CONFIG = {
    "name": "pairs",
    "source_lang": "en",
    "target_lang": "de",
    "prepare": {},
    "teacher": {"model": {"arch": "transformer_big"}},
    "distill": {"teachers": [], "decode": {"beam": 5}},
    "students": {"small": {"data": "distilled", "word_kd": {"weight": 1.0}, "hidden_kd": None}},
}
REPORT = {
    "corpora": [
        {"name": "train.0 (opus: Tatoeba/v1)", "pairs_in": 29_000, "pairs_kept": 28_000},
        {"name": f"train.1 {URL}", "pairs_in": 10, "pairs_kept": 9},
        {"name": "train.2 /home/somebody/private/mine.en", "pairs_in": 10, "pairs_kept": 9},
    ],
    "licences": {"known": {"CC-BY-2.0": ["train.0 (opus: Tatoeba/v1)"]}, "unknown": ["train.1", "train.2"]},
}


def read(card: str) -> tuple[dict[str, Any], str]:
    """Return the front matter and the text of a card."""
    empty, front, text = card.split("---\n", maxsplit=2)
    assert not empty
    return yaml.safe_load(front), text


def test_card_of_a_student(pipeline: Path) -> None:
    checkpoint = pipeline / "students" / "small" / "seed_1" / "average"
    front, text = read(model_card(checkpoint, FORMAT, licence="cc-by-4.0"))
    assert front["language"] == ["en", "de"]
    assert (front["license"], front["library_name"], front["pipeline_tag"]) == ("cc-by-4.0", "toolkit", "translation")
    assert {"translation", "toolkit-tag"} <= set(front["tags"])
    assert (front["datasets"], front["metrics"]) == (["Tatoeba/v1"], ["bleu", "chrf"])
    (index,) = front["model-index"]
    (result,) = index["results"]
    assert (index["name"], result["dataset"]["name"]) == ("pairs: small", "news")
    assert [(each["type"], each["value"], each["args"]["signature"]) for each in result["metrics"]] == [
        ("bleu", 38.1235, "nrefs:1|case:mixed"),
        ("chrf", 60.5, "nrefs:1|nw:2"),
    ]
    assert "| news | pytorch float32, beam 5 | BLEU | 38.12 | `nrefs:1\\|case:mixed` |" in text
    assert f"| {URL} | 10 | 9 |" in text
    assert "- licence CC-BY-2.0: train.0 (opus: Tatoeba/v1)\n- no licence known: train.1, train.2" in text
    assert "Teacher: the pipeline's own, `arch: transformer_big`" in text
    assert "Training: on `data: distilled` with word-level distillation\n" in text
    assert "28,989 sentences translated by the teacher, beam 5" in text
    assert f"updates 100, 200; SHA-256 of its weights `{file_sha256(checkpoint / 'model.safetensors')}`" in text
    assert "run it" in text


def test_card_names_no_local_folder(pipeline: Path) -> None:
    card = model_card(pipeline / "students" / "small" / "seed_1" / "average", FORMAT)
    assert "| mine.en | 10 | 9 |" in card
    assert "somebody" not in card
    assert str(pipeline.parent) not in card


def test_scores_of_other_checkpoints_are_left_out(pipeline: Path) -> None:
    write_json(pipeline / "scores.json", json.loads((pipeline / "scores.json").read_text())[1:])
    front, text = read(model_card(pipeline / "students" / "small" / "seed_1" / "average", FORMAT))
    assert not {"model-index", "metrics"} & front.keys()
    assert "There are no recorded scores of this checkpoint." in text


def test_card_without_scores_is_the_same_before_and_after_scoring(pipeline: Path) -> None:
    checkpoint = pipeline / "students" / "small" / "seed_1" / "average"
    card = model_card(checkpoint, FORMAT, has_scores=False)
    front, text = read(card)
    assert not {"metrics", "model-index"} & front.keys()
    assert "## Scores" not in text
    (pipeline / "scores.json").unlink()
    assert model_card(checkpoint, FORMAT, has_scores=False) == card


def test_card_of_a_teacher_has_no_distillation(pipeline: Path) -> None:
    _, text = read(model_card(pipeline / "teacher" / "average", FORMAT))
    assert "# pairs: teacher\n" in text
    assert "Training: on parallel text" in text
    assert "Distillation" not in text


@pytest.mark.parametrize(
    ("teacher", "shown"),
    [
        ("/home/somebody/models/big", "`big`"),
        ({"huggingface": "Helsinki-NLP/opus-mt-en-de", "revision": None}, "`Helsinki-NLP/opus-mt-en-de`"),
        ({"endpoint": "https://user:secret@example.org", "model": "large"}, "`large`"),
    ],
)
def test_other_teachers_are_named(pipeline: Path, teacher: Any, shown: str) -> None:
    run = pipeline / "students" / "small" / "seed_1"
    write_json(run / "config.json", CONFIG | {"distill": {"teachers": [teacher], "decode": {"beam": 4}}})
    card = model_card(run / "average", FORMAT)
    assert f"- Teacher: {shown}\n" in card
    assert "secret" not in card


def test_checkpoint_outside_a_pipeline_has_a_card(pipeline: Path, tmp_path: Path) -> None:
    alone = (pipeline / "teacher" / "average").rename(tmp_path / "alone")
    front, text = read(model_card(alone, FORMAT))
    assert (front["language"], front["license"]) == (["en", "de"], "unknown")
    assert "# alone\n" in text
    assert "The training data is not recorded" in text


def test_damaged_scores_are_an_error(pipeline: Path) -> None:
    (pipeline / "scores.json").write_text("{}")
    with pytest.raises(UserError, match=r"scores.json: not a list of scores"):
        model_card(pipeline / "teacher" / "average", FORMAT)
