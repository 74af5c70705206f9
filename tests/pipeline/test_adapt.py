"""The pipelines of docs/how-to/adapt-to-a-domain.md: distil, adapt, distil, with models of the size of the tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline
import yaml
from commands import run_here
from tiny_pipeline import MODEL, TRAIN, make_pairs, to_yaml, write_lines

pytestmark = pytest.mark.pipeline

PAGE = Path(__file__).parents[2] / "docs/how-to/adapt-to-a-domain.md"
SHORT = {"max_updates": 4, "warmup_updates": 1, "validate_interval_updates": 2, "save_interval_updates": 2}


def blocks() -> list[Any]:
    """Return the pipeline of the page, its corpora with replay, and its teacher with consolidation."""
    found = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return [yaml.safe_load(block) for block in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with text of two domains and a finished general pipeline."""
    folder = tmp_path_factory.mktemp("adapt")
    for seed, domain in enumerate(("general", "domain"), start=1):
        (folder / domain).mkdir()
        for split, count in {"train": 60, "valid": 6, "test": 5}.items():
            pairs = make_pairs(count, seed=10 * seed + count)
            for side, lang in enumerate(("en", "de")):
                write_lines(folder / domain / f"{split}.{lang}", [pair[side] for pair in pairs])
    general = tiny_pipeline.settings() | {"name": "general"}
    general["prepare"] = {
        **general["prepare"],
        "train": [{"source": {"path": "general/train.en"}, "target": {"path": "general/train.de"}}],
        "valid": {"source": {"path": "general/valid.en"}, "target": {"path": "general/valid.de"}},
        "test": {"general": {"source": {"path": "general/test.en"}, "target": {"path": "general/test.de"}}},
    }
    general["students"] = {"small": {"data": "distilled", "model": MODEL, "train": TRAIN}}
    (folder / "general.yaml").write_text(to_yaml(general), encoding="utf-8")
    run_here(folder, "run", "general.yaml", "--to", "student")
    return folder


def domain() -> dict[str, Any]:
    """Return the pipeline of the page with small models and few updates."""
    document = blocks()[0]
    general = tiny_pipeline.settings()
    document["prepare"] |= {"clean": "none", "decontaminate": False}
    document["distill"] = general["distill"]
    for model in (document["teacher"], document["students"]["small"]):
        model["train"] = TRAIN | model["train"] | SHORT
    document["teacher"]["model"] = general["teacher"]["model"]
    document["students"]["small"]["model"] = MODEL
    return document


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_both_models_begin_from_the_general_ones_and_the_new_teacher_distils(folder: Path) -> None:
    (folder / "domain.yaml").write_text(to_yaml(domain()), encoding="utf-8")
    run_here(folder, "run", "domain.yaml", sets=("score.speed_sentences=2", "score.bootstrap_samples=20"))
    runs = folder / "runs/domain"
    assert "init_from runs/general/teacher" in manifest(runs / "teacher")["inputs"]
    student = manifest(runs / "students/small/seed_1")["inputs"]
    assert "init_from runs/general/students/small/seed_1" in student
    assert any(name.startswith("distill/data-bin/train.") for name in student)
    rows = json.loads((runs / "scores.json").read_text(encoding="utf-8"))
    assert {row["test_set"] for row in rows} == {"domain", "general"}


def test_replay_and_consolidation_are_settings_of_this_pipeline(folder: Path) -> None:
    document = domain() | {"name": "replayed"}
    _, replay, ewc = blocks()
    document["prepare"]["train"] = replay["prepare"]["train"]
    document["teacher"]["train"] |= ewc["teacher"]["train"]
    (folder / "replayed.yaml").write_text(to_yaml(document), encoding="utf-8")
    _, err = run_here(folder, "run", "replayed.yaml", "--to", "teacher")
    assert "ewc: computed the Fisher information" in err
    assert "300 pairs" in err  # 60 pairs of the domain four times, and 60 general ones
    text = (folder / "runs/replayed/teacher/metrics.jsonl").read_text(encoding="utf-8")
    assert all("ewc" in line for line in map(json.loads, text.splitlines()) if line["kind"] == "train")
