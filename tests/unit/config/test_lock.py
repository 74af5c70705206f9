"""Tests of lock files: their text, what they refuse, and how names and URLs are replaced."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdmt.config.lock import Lock, LockedDataset, LockedFile, lock_path, lock_text, read_lock, substitute
from kdmt.errors import UserError

SIDES = ("en", "de")
A, B = "a" * 64, "b" * 64
BIBTEX = "@inproceedings{koehn,\n  title = {Europarl: A {Parallel} Corpus},\n}\n"
EUROPARL = LockedDataset(
    "mtdata",
    "Statmt-europarl-10-deu-eng",
    SIDES,
    {"tsv": {"url": "https://x/europarl.tsv.gz"}, "source_column": 1, "target_column": 0},
    licence="CC0-1.0",
    citation=BIBTEX,
    overlaps=("opus: Europarl/v8",),
    settings=("prepare.train.0",),
)
WMT = LockedDataset(
    "sacrebleu",
    "wmt14/full",
    SIDES,
    {
        "source": {"url": "https://x/t.tgz", "member": "src.sgm"},
        "target": {"url": "https://x/t.tgz", "member": "ref.sgm"},
        "raw_target": {"url": "https://x/raw"},
    },
)
NTREX = LockedDataset("ntrex", True, SIDES, {"source": {"url": "https://x/en"}, "target": {"url": "https://x/de"}})
FILES = (
    LockedFile("https://x/europarl.tsv.gz", A, 12, 3, settings=("prepare.train.0",)),
    LockedFile("https://x/t.tgz", B, 9, 3, member="src.sgm", alternatives=("https://y/t.tgz",)),
    LockedFile("https://x/t.tgz", B, 9, 3, member="ref.sgm"),
    LockedFile("https://x/raw", "1" * 64, 0, 0),
)
LOCK = Lock((EUROPARL, WMT, NTREX), FILES)


def test_a_lock_file_is_in_the_folder_of_its_pipeline() -> None:
    assert lock_path(Path("a/x.yaml")) == Path("a/x.lock.yaml")
    assert lock_path(Path("x.v1.yml")) == Path("x.v1.lock.yaml")
    assert lock_path(Path("x.v1")) == Path("x.v1.lock.yaml")


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.lock.yaml"
    path.write_text(lock_text(LOCK), encoding="utf-8")
    found = read_lock(path)
    assert set(map(repr, found.datasets)) == set(map(repr, LOCK.datasets))
    assert set(found.files) == set(LOCK.files)
    assert lock_text(found) == lock_text(LOCK)


def test_the_text_does_not_depend_on_the_order() -> None:
    assert lock_text(Lock(LOCK.datasets[::-1], FILES[::-1])) == lock_text(LOCK)
    assert BIBTEX.splitlines()[1] in lock_text(LOCK)


def test_any_yaml_parser_reads_a_lock_file() -> None:
    content = yaml.safe_load(lock_text(LOCK))
    assert content["datasets"][0]["mtdata"] == "Statmt-europarl-10-deu-eng"
    assert content["datasets"][1]["ntrex"] is True
    assert content["datasets"][1]["licence"] is None
    assert content["files"][1]["sha256"] == "1" * 64


def test_a_missing_lock_file_locks_nothing(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "x.lock.yaml") == Lock()


def changed(part: str, index: int, **values: Any) -> str:
    content = yaml.safe_load(lock_text(LOCK))
    content[part][index].update(values)
    return yaml.safe_dump(content)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "not a lock file: while parsing"),
        ("name: x", "not a lock file: expected the keys version, datasets and files"),
        ("{version: 2, datasets: [], files: []}", "a lock file of version 2, which this kdmt cannot read"),
        ("{version: 1, datasets: {}, files: []}", "datasets: expected a list of mappings"),
        ("{version: 1, datasets: [], files: [1]}", "files: expected a list of mappings"),
        ("{version: 1, datasets: [], files: [{1: 2, a: b}]}", "files: expected a list of mappings"),
        ("{version: 1, datasets: [{}], files: []}", "datasets.0: expected one of mtdata, opus"),
        (changed("datasets", 0, opus="A/v1"), "datasets.0: expected one of mtdata"),
        (changed("datasets", 0, more=1), "datasets.0: more: unknown"),
        (changed("datasets", 0, entry={"tsv": {"url": 5}}), "datasets.0: entry: url: should be text (it is 5)"),
        (changed("datasets", 0, entry={"x": [{"url": "http://a", "member": []}]}), "datasets.0: entry: member: should"),
        (
            changed("datasets", 0, entry={"url": "http://me:secret@x:y/"}),
            "datasets.0: entry: the host or port of 'url'",
        ),
        (changed("files", 0, sha256="A" * 64), "files.0: sha256: not in the form"),
        (changed("files", 0, num_lines=-1), "files.0: num_lines: should be greater than or equal to 0"),
        (changed("files", 0, url="https://u:secret@h:port/a"), "files.0: the host or port of 'url' is not valid"),
        (changed("files", 0, alternatives=["https://[h/a"]), "files.0: the host or port of 'url' is not valid"),
        (lock_text(Lock((EUROPARL, EUROPARL))), "mtdata: Statmt-europarl-10-deu-eng is given twice for en and de"),
        (lock_text(Lock((), (*FILES, FILES[1]))), "https://x/t.tgz src.sgm is given twice"),
        (lock_text(Lock((), (FILES[1], replace(FILES[2], sha256=A)))), "https://x/t.tgz has two different sha256"),
    ],
)
def test_a_damaged_lock_file_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "x.lock.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_lock(path)
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert "secret" not in str(caught.value)


def document(**prepare: Any) -> dict[str, Any]:
    return {"name": "x", "prepare": prepare}


def test_names_are_replaced_by_their_entries() -> None:
    given = document(
        train=[{"mtdata": EUROPARL.value, "weight": 2}],
        valid={"sacrebleu": "wmt14/full", "malformed": "drop"},
        test={"a": {"source": {"path": "x"}, "target": {"path": "y"}}},
    )
    before = copy.deepcopy(given)
    made = substitute(given, LOCK, SIDES)
    assert given == before
    assert made.missing == []
    assert made.document["prepare"] == {
        "train": [
            {
                "tsv": {"url": "https://x/europarl.tsv.gz", "sha256": A},
                "source_column": 1,
                "target_column": 0,
                "weight": 2,
            }
        ],
        "monolingual": [],
        "monolingual_target": [],
        "valid": {
            "source": {"url": "https://x/t.tgz", "member": "src.sgm", "sha256": B},
            "target": {"url": "https://x/t.tgz", "member": "ref.sgm", "sha256": B},
            "raw_target": {"url": "https://x/raw", "sha256": "1" * 64},
            "malformed": "drop",
        },
        "test": before["prepare"]["test"],
    }
    assert made.datasets == {"prepare.train.0": EUROPARL, "prepare.valid": WMT}
    assert made.checksums == {A: "prepare.train.0", B: "prepare.valid", "1" * 64: "prepare.valid"}


def test_a_training_corpus_takes_what_it_can_use_of_a_test_set() -> None:
    made = substitute(document(train=[{"sacrebleu": "wmt14/full"}]), LOCK, SIDES)
    assert made.document["prepare"]["train"][0].keys() == {"source", "target"}


def test_monolingual_text_has_an_entry_of_its_own() -> None:
    news = LockedDataset("opus", "News/v1", ("en",), {"url": "https://x/raw"})
    given = document(monolingual=[{"opus": "News/v1"}, {"path": "x"}], train=[{"opus": "News/v1"}])
    made = substitute(given, Lock((news,), FILES), SIDES)
    assert made.document["prepare"]["monolingual"] == [{"url": "https://x/raw", "sha256": "1" * 64}, {"path": "x"}]
    assert made.missing == ["prepare.train.0 (opus: News/v1)"]


def test_monolingual_text_in_the_target_language_has_an_entry_of_this_language() -> None:
    news = LockedDataset("opus", "News/v1", ("de",), {"url": "https://x/raw"})
    both = {name: [{"opus": "News/v1"}] for name in ("monolingual", "monolingual_target")}
    made = substitute(document(**both), Lock((news,), FILES), SIDES)
    assert made.document["prepare"]["monolingual_target"] == [{"url": "https://x/raw", "sha256": "1" * 64}]
    assert made.missing == ["prepare.monolingual.0 (opus: News/v1)"]


def test_a_name_is_locked_for_one_pair_of_languages() -> None:
    made = substitute(document(train=[{"mtdata": EUROPARL.value}]), LOCK, ("de", "en"))
    assert made.missing == ["prepare.train.0 (mtdata: Statmt-europarl-10-deu-eng)"]


def test_a_url_is_found_without_its_login() -> None:
    texts = [{"tsv": {"url": f"https://me:secret@x/{name}"}} for name in ("europarl.tsv.gz", "other")]
    made = substitute(document(train=texts), LOCK, SIDES)
    assert made.document["prepare"]["train"][0] == {"tsv": {**texts[0]["tsv"], "sha256": A}}
    assert made.missing == ["prepare.train.1 (https://x/other)"]
    assert "secret" not in str(made.missing)


def test_each_member_of_an_archive_is_locked() -> None:
    text = {"tsv": {"url": "https://x/t.tgz", "member": "other.sgm"}}
    made = substitute(document(train=[text]), LOCK, SIDES)
    assert made.missing == ["prepare.train.0 (https://x/t.tgz:other.sgm)"]


def test_a_checksum_in_the_pipeline_file_counts() -> None:
    text = {"tsv": {"url": "https://x/europarl.tsv.gz", "sha256": B}}
    made = substitute(document(train=[text]), LOCK, SIDES)
    assert (made.document["prepare"]["train"], made.checksums, made.missing) == ([text], {}, [])
