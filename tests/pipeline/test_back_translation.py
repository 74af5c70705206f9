"""Back-translation as users run it: shares in stages of a teacher and a student, and iterations in both directions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tiny_pipeline
from commands import KDMT, run, run_here
from tiny_pipeline import MODEL, TRAIN, hash_tree, read_lines, to_yaml, write_lines

pytestmark = pytest.mark.pipeline

SHORT = {"max_updates": 8, "validate_interval_updates": 4, "save_interval_updates": 4, "log_interval_updates": 1}
PAGE = Path(__file__).parents[2] / "docs/how-to/back-translation.md"


def document(source: str, target: str) -> dict[str, Any]:
    """Return a pipeline whose teacher learns from raw and back-translated text, then from raw text alone."""
    made = tiny_pipeline.settings() | {"name": f"{source}-{target}", "source_lang": source, "target_lang": target}
    made |= {"students": {}}
    for split in (made["prepare"]["train"][0], made["prepare"]["valid"], made["prepare"]["test"]["test"]):
        paths = {side.rpartition(".")[2]: {"path": side} for side in (each["path"] for each in split.values())}
        split |= {"source": paths[source], "target": paths[target]}
    made["prepare"]["tokenizer"] = {"user_defined_symbols": ["<bt>"], "vocab_size": 33}
    made["prepare"]["monolingual_target"] = [{"path": f"mono.{target}"}]
    made["back_translation"] = {
        "checkpoint": f"runs/{target}-{source}/teacher",
        "tag": "<bt>",
        "decode": {"beam": 2, "max_len_a": 1.0, "max_len_b": 5},
        "block_lines": 8,
        "executor": "inline",
    }
    made["teacher"]["train"] |= SHORT
    made["teacher"]["data"] = [{"set": "raw", "share": 0.8}, {"set": "back_translated", "share": 0.2}]
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_pipeline.write_text(tmp_path)
    for lang in ("en", "de"):
        write_lines(tmp_path / f"mono.{lang}", read_lines(tmp_path / f"text/train.{lang}")[:30])
        other = "en" if lang == "de" else "de"
        (tmp_path / f"{lang}-{other}.yaml").write_text(to_yaml(document(lang, other)))
    return tmp_path


def trained(run_folder: Path) -> tuple[dict[str, str], set[str]]:
    """Return the inputs of a run, and the training sets among them."""
    inputs = json.loads((run_folder / "manifest.json").read_text())["inputs"]
    found = {name.partition("/")[0] for name in inputs if "/data-bin/train." in name}
    return inputs, found


def test_shares_in_stages_of_a_teacher_and_of_a_student(folder: Path) -> None:
    alone = ("back_translation=null", "teacher.data=raw", "teacher.train.max_updates=40")
    run_here(folder, "run", "de-en.yaml", "--to", "teacher", sets=alone)
    made = document("en", "de")
    mixed = {
        share: [{"set": "raw", "share": 1 - share}, {"set": "back_translated", "share": share}] for share in (0.2, 0.5)
    }
    made["teacher"] |= {"data": mixed[0.2], "stages": [{"data": mixed[0.5]}, {"max_updates": 4}, {"data": "raw"}]}
    sets = [{"set": "distilled", "share": 0.6}, *({**each, "share": 0.2} for each in mixed[0.5])]
    made["students"] = {"small": {"data": sets, "model": MODEL, "train": TRAIN, "stages": [{}, {"data": mixed[0.2]}]}}
    (folder / "en-de.yaml").write_text(to_yaml(made))
    _, err = run_here(folder, "run", "en-de.yaml", "--to", "student")
    assert "back_translated: starting\n" in err
    runs = folder / "runs/en-de"
    both = {"prepare", "back_translated"}
    assert [trained(runs / f"teacher/stage_{number}")[1] for number in (1, 2, 3)] == [both, both, {"prepare"}]
    student = runs / "students/small/seed_1"
    assert [trained(student / f"stage_{number}")[1] for number in (1, 2)] == [both | {"distill"}, both]
    settings = json.loads((runs / "teacher/stage_2/manifest.json").read_text())["settings"]
    assert [settings[f"teacher.data.{number}.share"] for number in (0, 1)] == [0.8, 0.2]
    _, err = run_here(folder, "run", "en-de.yaml", "--to", "student")
    assert "starting" not in err
    # another share redoes the teacher that has it, and no back-translation
    made["teacher"]["stages"][0]["data"] = mixed[0.2]
    (folder / "en-de.yaml").write_text(to_yaml(made))
    _, err = run_here(folder, "run", "en-de.yaml", "--to", "teacher")
    assert "back_translated: up to date, nothing to do\n" in err
    assert "teacher stage 1: rebuilt" in err


def back_translated(folder: Path) -> dict[str, str]:
    """Return the hashes of the files of the training set, without the record of how workers ran."""
    made = hash_tree(folder / "runs/en-de/back_translated")
    del made["config.json"]
    return {name: sha for name, sha in made.items() if not name.startswith("logs/")}


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_actors_of_a_ray_cluster_make_the_same_bytes(folder: Path) -> None:
    alone = ("back_translation=null", "teacher.data=raw", "teacher.train.max_updates=20")
    run_here(folder, "run", "de-en.yaml", "--to", "teacher", sets=alone)
    run_here(folder, "prepare", "en-de.yaml")
    run_here(folder, "back-translate", "en-de.yaml")
    inline = back_translated(folder)
    shutil.rmtree(folder / "runs/en-de/back_translated")
    _, err = run(folder, "back-translate", "en-de.yaml", sets=["back_translation.executor=ray"])
    assert re.search(r"([2-9]\d*) of \1 blocks", err)
    assert list((folder / "runs/en-de/back_translated/logs").glob("worker-*.log"))
    assert back_translated(folder) == inline


@pytest.mark.slow
def test_the_iterations_of_the_page_run_and_repeat(folder: Path) -> None:
    (loop,) = (
        block for block in re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.M | re.S) if "for i" in block
    )
    (folder / "runs/en-de.2").mkdir(parents=True)
    (folder / "runs/en-de.2/prepare").symlink_to("../en-de.1/prepare")
    environment = os.environ | {"PATH": f"{KDMT.parent}:{os.environ['PATH']}"}
    command = ["bash", "-e", "-c", loop]
    first = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert first.stderr.count("back_translated: starting\n") == 4
    assert first.stderr.count("prepare: starting\n") == 4  # the fifth run has a link
    runs = {name: folder / "runs" / name for name in ("de-en.0", "en-de.1", "de-en.1", "en-de.2", "de-en.2")}
    assert all((each / "teacher/manifest.json").is_file() for each in runs.values())
    assert trained(runs["de-en.0"] / "teacher")[1] == {"prepare"}
    for name, reverse in (
        ("en-de.1", "de-en.0"),
        ("de-en.1", "en-de.1"),
        ("en-de.2", "de-en.1"),
        ("de-en.2", "en-de.2"),
    ):
        made = json.loads((runs[name] / "back_translated/manifest.json").read_text())
        assert f"teacher runs/{reverse}/teacher" in made["inputs"]
        assert trained(runs[name] / "teacher")[1] == {"prepare", "back_translated"}
    texts = [(runs[f"en-de.{number}"] / "back_translated/distilled.en").read_text() for number in (1, 2)]
    assert texts[0] != texts[1]
    again = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert "starting" not in again.stderr
    assert again.stderr.count("teacher: up to date, nothing to do\n") == 5
