"""Students in the engines of `score.engines`: exported once, translated in a process of the engine, and measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import ctranslate2
import pytest
import sacrebleu
from small_transformers import POST_NORM
from tiny_pipeline import Finished, hash_tree, kdmt, read_lines

from kdmt.config import NATDecode
from kdmt.errors import UserError
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.checkpoint import save_checkpoint
from kdmt.score.systems import System
from kdmt.stages import score_work
from kdmt.stages.exported_engines import exported_model
from kdmt.stages.workspace import Workspace

TINY = Path("runs/tiny")


def score(*sets: str) -> Finished:
    chosen = ("score.beams=[2]", "score.diagnostics=null", *sets)
    return kdmt("score", "tiny.yaml", *(part for setting in chosen for part in ("--set", setting)))


def rows() -> list[dict[str, Any]]:
    return json.loads((TINY / "scores.json").read_text(encoding="utf-8"))


def engines(*names: str) -> str:
    return f"score.engines=[{', '.join(json.dumps(name) for name in names)}]"


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    "names", [("ctranslate2:int8",), pytest.param(("pytorch", "ctranslate2:int8", "onnx"), marks=pytest.mark.slow)]
)
def test_students_are_scored_and_measured_in_each_engine(names: tuple[str, ...]) -> None:
    sets = (engines(*names), 'score.engine_students=["raw"]')
    result = score(*sets)
    assert result.code == 0, result.err
    assert "students in engines" in result.out
    found = {f"{row['system']} {row['engine']} {row['compute_type']}": row for row in rows()}
    libraries = {"ctranslate2:int8": "raw ctranslate2 int8", "onnx": "raw onnxruntime float32"}
    keys = [libraries[name] for name in names if name in libraries]
    assert list(found) == ["teacher pytorch float32", "raw pytorch float32", *keys, "distilled pytorch float32"]
    measured = {row["deployment"]["engine"]: row for row in found.values() if "deployment" in row}
    assert tuple(measured) == names
    own = found["raw pytorch float32"]
    for name, row in measured.items():
        check_measured(row["deployment"], name)
        ending = "" if name == "pytorch" else f".{name.replace(':', '-')}"
        hypotheses = read_lines(TINY / "score" / f"raw.seed_1.test.beam2{ending}.de")
        assert row["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [read_lines(Path("text/test.de"))]).score)
        losses = {} if name == "pytorch" else {metric: own[metric] - row[metric] for metric in ("bleu", "chrf")}
        assert row["deployment"]["losses"] == pytest.approx(losses)
        if name == "onnx":
            assert hypotheses == read_lines(TINY / "score" / "raw.seed_1.test.beam2.de")
    check_bytes(measured["ctranslate2:int8"]["deployment"])

    before = hash_tree(TINY)
    assert "up to date" in score(*sets).err
    again = score(*sets, "score.bootstrap_samples=10")
    assert (again.code, "exported for" in again.err) == (0, False)  # copied from the earlier state
    kept = {name: sha256 for name, sha256 in before.items() if name.startswith(("score/exports", "score/decoded"))}
    assert kept.items() <= hash_tree(TINY).items()


def check_measured(deployment: dict[str, Any], name: str) -> None:
    cost = deployment["cost"]
    assert deployment["engine"] == name
    assert 0 < cost["median_ms"] <= cost["p95_ms"]
    assert min(cost["load_seconds"], cost["first_sentence_ms"], cost["mean_ms"]) > 0
    words = sum(len(line.split()) for line in read_lines(Path("text/test.en")))
    assert cost["words_per_second"] / cost["sentences_per_second"] == pytest.approx(words / 5)
    assert 1e6 < cost["library_bytes"] < cost["resident_bytes"] < 4e9


def check_bytes(deployment: dict[str, Any]) -> None:
    (folder,) = (TINY / "score/exports/raw/seed_1").glob("ctranslate2-int8.*")
    unread = ("README.md", "checksums.json", "translate.json")  # for people and for use without kdmt
    read = [path for path in folder.rglob("*") if path.is_file() and path.name not in unread]
    assert deployment["bytes_on_disk"] == sum(path.stat().st_size for path in read)


def test_search_of_a_student_that_onnx_does_not_have_is_refused(tmp_path: Path) -> None:
    nat = {"family": "ctc", "upsample": 2}
    model = build_nonautoregressive(POST_NORM, NATConfig(**nat), src_vocab_size=40, tgt_vocab_size=40)
    save_checkpoint(tmp_path / "checkpoint", model)
    score = SimpleNamespace(nat=NATDecode(ctc_beam=8))
    workspace = cast(
        Workspace,
        SimpleNamespace(prepare=tmp_path / "prepare", score=tmp_path, config=SimpleNamespace(score=score)),
    )
    with pytest.raises(UserError, match="'ctc_beam: 8'"):
        exported_model(workspace, System("ctc", 1, tmp_path), tmp_path / "checkpoint", "onnx")
    assert not (tmp_path / "exports").exists()


def exported_files() -> dict[str, str]:
    return {name: sha256 for name, sha256 in hash_tree(TINY).items() if name.startswith("score/exports")}


@pytest.mark.usefixtures("finished")
def test_exports_depend_on_the_model_and_measurements_on_the_version_of_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = (engines("ctranslate2:int8"), 'score.engine_students=["raw"]')
    assert score(*chosen).code == 0
    (measured,) = (row["deployment"] for row in rows() if "deployment" in row)
    assert measured["library"] == f"ctranslate2 {ctranslate2.__version__}"
    before = exported_files()
    (export,) = (TINY / "score/exports/raw/seed_1").iterdir()
    assert "## Scores" not in (export / "README.md").read_text(encoding="utf-8")
    shutil.rmtree(TINY / "score" / "exports")
    monkeypatch.setattr(score_work, "library_version", lambda *_: "ctranslate2 99")
    again = score(*chosen, "score.beams=[3, 2]")
    assert exported_files() == before != {}
    assert "raw seed 1 on test, beam2, ctranslate2:int8\n" in again.err  # translated again
    assert {row["deployment"]["library"] for row in rows() if "deployment" in row} == {"ctranslate2 99"}


@pytest.mark.usefixtures("finished")
def test_scores_without_engines_are_those_of_earlier_versions() -> None:
    manifest = json.loads((TINY / "score" / "manifest.json").read_text(encoding="utf-8"))
    for name in ("engines", "engine_students"):
        manifest["settings"].pop(f"score.{name}")
    (TINY / "score" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "up to date" in kdmt("score", "tiny.yaml").err
    assert not any("deployment" in row for row in rows())


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([engines("marian")], "score.engines: 'marian' runs in an environment of its own, and .deploy-envs/marian is"),
        ([engines("pytorch"), 'score.engine_students=["none"]'], "score.engine_students: there is no student 'none'"),
        (['score.engine_students=["raw"]'], "'engine_students' has no effect without 'engines'"),
        (["score.engine_environments=other"], "'engine_environments' has no effect without 'marian' or 'bergamot'"),
        ([engines("onnx", "onnx")], "'engines' holds a name twice"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(sets: list[str], message: str) -> None:
    before = hash_tree(TINY)
    result = score(*sets)
    assert (result.code, message in result.err) == (2, True), result.err
    assert hash_tree(TINY) == before


@pytest.mark.usefixtures("finished")
def test_an_engine_without_such_a_model_is_left_out_unless_the_student_is_named(tmp_path: Path) -> None:
    python = tmp_path / "environments" / "marian" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    sets = (engines("marian"), f"score.engine_environments={tmp_path}/environments")
    result = score(*sets)
    assert result.code == 0, result.err
    assert "raw seed 1 is left out of marian: " in result.err
    left_out = [row for row in rows() if "missing" in row]
    assert [(row["system"], row["engine"], len(row)) for row in left_out] == [
        ("raw", "marian", 4),
        ("distilled", "marian", 4),
    ]
    assert f"missing: raw seed 1 in marian: {left_out[0]['missing']}" in result.out
    assert len(rows()) == 3 + 2
    other = score(engines("marian"), f"score.engine_environments={tmp_path / 'environments'}/../environments")
    assert "up to date" in other.err, other.err
    result = score(*sets, 'score.engine_students=["raw"]')
    assert (result.code, "score.engines: marian: " in result.err) == (2, True)
