"""The pipelines of the field on a mirror of cut-down archives with the original addresses and layouts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_pipeline
import yaml
from huggingface_models import save_model
from mirror.archives import ARCHIVES, write_mirror
from tiny_pipeline import hash_tree, kdmt, read_lines

from kdmt.commands.new import new_pipeline
from kdmt.corpus.datasets.resolve import KINDS, resolve
from kdmt.languages import Direction

REPOSITORY = Path(__file__).parents[2]
PIPELINES = (
    *("iwslt14-de-en", "wmt14-en-de", "wmt16-en-ro", "wmt17-zh-en", "ted2020-de-en", "kftt-en-ja"),
    "low-resource-en-is",
)
OPUS = "opus-en-is"  # from the template `opus`
SMALL_MODEL = ("arch=transformer_tiny", "encoder_layers=1", "decoder_layers=1")
SHORT = (
    *("max_updates=4", "max_tokens=600", "update_freq=1", "warmup_updates=2", "validate_interval_updates=4"),
    *("threads=1", "precision=float32"),
)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mirror")
    write_mirror(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: Path) -> Iterator[Path]:
    """Provide an empty working folder, with the mirror as the only network."""
    monkeypatch.setenv("KDMT_MIRROR", str(mirror))
    with tiny_pipeline.working_in(tmp_path) as working:
        yield working


def copy_of(name: str, folder: Path) -> Path:
    path = folder / f"{name}.yaml"
    if name == OPUS:
        new_pipeline(path, source="en", target="is", template="opus")
        return path
    path.write_text((REPOSITORY / "pipelines" / path.name).read_text(encoding="utf-8"), encoding="utf-8")
    return path


def small(pipeline: Path) -> list[str]:
    """Return the changes of a pipeline for a few updates of small models on the cut-down corpora."""
    document = yaml.safe_load(pipeline.read_text(encoding="utf-8"))
    sets = [f"distill.failures.{failure}=reference" for failure in ("empty", "too_long", "ratio")]
    sets += ["prepare.workers=1", "score.speed_sentences=2", "score.bootstrap_samples=10", "score.beams=[1]"]
    sets.append("prepare.tokenizer.vocab_size=200")
    if document["prepare"]["tokenizer"]["type"] == "sentencepiece":
        sets.append("prepare.tokenizer.hard_vocab_limit=false")
    for path in ("teacher", *(f"students.{student}" for student in document["students"])):
        sets += [f"{path}.model.{change}" for change in SMALL_MODEL]
        sets += [f"{path}.train.{change}" for change in SHORT]
    return [part for change in sets for part in ("--set", change)]


def test_a_pipeline_is_locked_twice_with_the_same_bytes_and_prepared_from_the_lock(folder: Path) -> None:
    pipeline = copy_of("ted2020-de-en", folder)
    assert kdmt("lock", pipeline).code == 0
    lock = folder / "ted2020-de-en.lock.yaml"
    first = lock.read_bytes()
    lock.unlink()
    assert kdmt("lock", pipeline).code == 0
    assert lock.read_bytes() == first
    result = kdmt("prepare", pipeline, *small(pipeline))
    assert result.code == 0, result.err
    prepared = folder / "runs" / "ted2020-de-en" / "prepare"
    assert len(read_lines(prepared / "train.de")) > 380  # of 400 pairs of clean text
    assert "CC-BY-NC-ND-4.0" in result.err


def test_a_changed_archive_is_refused_by_its_name(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "changed"
    write_mirror(other)
    pipeline = copy_of("ted2020-de-en", folder)
    assert kdmt("lock", pipeline, "--mirror", other).code == 0
    archive = other / "object.pouta.csc.fi/OPUS-TED2020/v1/moses/de-en.txt.zip"
    archive.write_bytes(archive.read_bytes() + b"\0")
    result = kdmt("prepare", pipeline, "--mirror", other, *small(pipeline))
    assert result.code == 2
    assert "TED2020" in result.err.splitlines()[-1]
    assert not (folder / "runs" / "ted2020-de-en" / "prepare").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PIPELINES, OPUS])
def test_a_pipeline_is_locked_and_prepared_twice_with_the_same_bytes_and_every_stage_runs(
    name: str, folder: Path
) -> None:
    pipeline = copy_of(name, folder)
    sets = small(pipeline)
    if name == "low-resource-en-is":
        save_model("nllb", folder / "nllb")  # a tiny one, into German
        for change in (f"huggingface={folder / 'nllb'}", "target_code=deu_Latn", "other_languages=true"):
            sets += ["--set", f"distill.teachers.0.{change}"]
    lock = pipeline.with_suffix(".lock.yaml")
    assert kdmt("lock", pipeline).code == 0
    first = lock.read_bytes()
    lock.unlink()
    assert kdmt("lock", pipeline).code == 0
    assert lock.read_bytes() == first
    result = kdmt("run", pipeline, *sets)
    assert result.code == 0, result.err
    assert kdmt("prepare", pipeline, *sets, "--runs", folder / "again").code == 0
    assert hash_tree(folder / "again" / name / "prepare") == hash_tree(folder / "runs" / name / "prepare")
    assert (folder / "runs" / name / "scores.json").is_file()
    again = kdmt("run", pipeline, *sets)
    assert "up to date" in again.err


def test_every_name_in_the_pipelines_means_an_archive_of_the_mirror(tmp_path: Path) -> None:
    urls = set()
    for name in (*PIPELINES, OPUS):
        document = yaml.safe_load(copy_of(name, tmp_path).read_text(encoding="utf-8"))
        direction, prepare = Direction(document["source_lang"], document["target_lang"]), document["prepare"]
        for entry in (*prepare["train"], prepare["valid"], *prepare["test"].values()):
            (kind,) = set(entry) & set(KINDS)
            resolved = resolve(kind, entry[kind], direction).entry
            urls |= {resolved[side]["url"] for side in ("source", "target")}
    assert urls == set(ARCHIVES)
