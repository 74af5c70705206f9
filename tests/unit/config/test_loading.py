"""Tests of pipeline files with a lock file: what needs one, and what is refused without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_pipeline

from kdmt.config import load_locked_pipeline, load_pipeline, load_unlocked_pipeline
from kdmt.config.lock import Lock, LockedDataset, LockedFile, lock_path, lock_text
from kdmt.errors import UserError

A, B = "a" * 64, "b" * 64
OPUS = LockedDataset(
    "opus", "Tiny/v1", ("en", "de"), {"source": {"url": "http://x/en"}, "target": {"url": "http://x/de"}}
)
LOCK = Lock((OPUS,), (LockedFile("http://x/en", A, 1, 1), LockedFile("http://x/de", B, 1, 1)))
NAMED = "prepare.train.0={opus: Tiny/v1, weight: 3}"


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(tiny_pipeline.to_yaml(tiny_pipeline.settings()), encoding="utf-8")
    return path


def write_lock(pipeline: Path, lock: Lock = LOCK) -> None:
    lock_path(pipeline).write_text(lock_text(lock), encoding="utf-8")


def test_a_pipeline_without_names_reads_no_lock_file(pipeline: Path) -> None:
    lock_path(pipeline).write_text("damaged", encoding="utf-8")
    loaded = load_locked_pipeline(pipeline, [f"prepare.valid.source={{url: 'http://x/en', sha256: {A}}}"])
    assert (loaded.provenance.datasets, loaded.provenance.checksums) == ({}, {})


def test_a_locked_name_equals_the_entry_written_by_hand(pipeline: Path) -> None:
    write_lock(pipeline)
    by_hand = f"{{source: {{url: 'http://x/en', sha256: {A}}}, target: {{url: 'http://x/de', sha256: {B}}}, weight: 3}}"
    assert load_pipeline(pipeline, [NAMED]) == load_pipeline(pipeline, [f"prepare.train.0={by_hand}"])


def test_a_locked_url_keeps_its_login(pipeline: Path) -> None:
    write_lock(pipeline)
    loaded = load_locked_pipeline(pipeline, ["prepare.valid.source={url: 'http://me:secret@x/en'}"])
    source = loaded.config.prepare.valid.source  # type: ignore[union-attr]
    assert source is not None
    assert (source.sha256, source.login) == (A, "me:secret")
    assert loaded.provenance.checksums == {A: "prepare.valid"}


def test_a_text_is_described_with_the_name_of_its_data_set(pipeline: Path) -> None:
    write_lock(pipeline)
    provenance = load_locked_pipeline(pipeline, [NAMED]).provenance
    assert provenance.describe("prepare.train.0") == "prepare.train.0 (opus: Tiny/v1)"
    assert provenance.describe("prepare.valid") == "prepare.valid"


def test_an_error_about_a_checksum_names_the_data_set_and_the_command(pipeline: Path) -> None:
    write_lock(pipeline)
    provenance = load_locked_pipeline(pipeline, [NAMED]).provenance
    found = provenance.explain(f"http://x/de: the sha256 of what came is {A}, expected {B}")
    assert found.startswith(
        f"prepare.train.0 (opus: Tiny/v1): http://x/de: the sha256 of what came is {A}, expected {B}"
    )
    assert found.endswith(f". To lock the file again: {provenance.lock_command} --update prepare.train.0")
    assert provenance.lock_command == f"kdmt lock {pipeline} --set 'prepare.train.0={{opus: Tiny/v1, weight: 3}}'"
    other = f"http://x/de: the sha256 of what came is {B}, expected {'c' * 64}"
    assert provenance.explain(other) == other


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["prepare.train.0.source={url: 'http://x/new'}"], "prepare.train.0 (http://x/new): "),
        (["prepare.train.0={opus: Tiny/v2}"], "prepare.train.0 (opus: Tiny/v2): "),
        ([NAMED, "source_lang=fr"], "prepare.train.0 (opus: Tiny/v1): "),
        (["prepare.train.0={opus: T/v2}", "prepare.valid={ntrex: true}"], "prepare.train.0 (opus: T/v2) and 1 more: "),
    ],
)
def test_what_is_not_locked_is_refused(pipeline: Path, overrides: list[str], problem: str) -> None:
    for present in (False, True):
        if present:
            write_lock(pipeline)
        with pytest.raises(UserError) as caught:
            load_pipeline(pipeline, overrides)
        message = str(caught.value)
        where = "not in" if present else "no lock file"
        assert message.startswith(f"{pipeline}: {problem}{where} {lock_path(pipeline)}; run kdmt lock {pipeline} --set")
        assert load_unlocked_pipeline(pipeline, overrides)


def test_the_command_in_the_message_shows_no_login(pipeline: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_pipeline(pipeline, ["prepare.train.0.source={url: 'http://me:s@cret@x/new'}"])
    assert "cret" not in str(caught.value)
    assert "run kdmt lock" in str(caught.value)


def test_settings_for_scores_are_checked_when_the_files_are_known(pipeline: Path) -> None:
    override = "prepare.train.0={opus: Tiny/v1, quality: {column: 2, min: 0.5}}"
    assert load_unlocked_pipeline(pipeline, [override])
    write_lock(pipeline)
    with pytest.raises(UserError, match=r"prepare\.train\.0: 'quality' has no effect without 'tsv'"):
        load_pipeline(pipeline, [override])
    scored = LockedDataset("opus", "Tiny/v1", ("en", "de"), {"tsv": {"url": "http://x/en"}})
    write_lock(pipeline, Lock((scored,), LOCK.files))
    quality = load_pipeline(pipeline, [override]).prepare.train[0].quality
    assert quality is not None
    assert quality.column == 2


def test_an_entry_that_contradicts_the_pipeline_is_located(pipeline: Path) -> None:
    wrong = LockedDataset("opus", "Tiny/v1", ("en", "de"), {"source": {"url": "http://x/en"}})
    write_lock(pipeline, Lock((wrong,), LOCK.files))
    with pytest.raises(UserError, match=r"p\.yaml: prepare\.train\.0: give 'source' and 'target'"):
        load_pipeline(pipeline, [NAMED])
