"""Tests of the licences and citations of a pipeline."""

from __future__ import annotations

from kdmt.config import NO_LOCK_FILE, Prepare, Provenance
from kdmt.config.lock import LockedDataset
from kdmt.corpus.licences import bibtex, describe_licences, licences_of

SIDES = ("en", "de")
FILES = {"source": {"path": "x"}, "target": {"path": "y"}}
PREPARE = Prepare.model_validate(
    {"train": [FILES, FILES, FILES], "valid": FILES, "test": {"b": FILES, "a": FILES}, "monolingual": [{"path": "z"}]}
)


def dataset(value: str, licence: str | None, citation: str | None = None) -> LockedDataset:
    return LockedDataset("opus", value, SIDES, {}, licence=licence, citation=citation)


PROVENANCE = Provenance(
    datasets={
        "prepare.train.1": dataset("B/v1", "MIT", "@misc{both,\n}\n"),
        "prepare.train.2": dataset("A/v1", None),
        "prepare.test.a": dataset("C/v1", "CC0-1.0", "@misc{both,\n}"),
        "prepare.monolingual.0": dataset("D/v1", "MIT", "@misc{other,\n\tyear = 2020,\n}\n\n@misc{both,\n}"),
    }
)


def test_licences_are_listed_with_all_their_texts() -> None:
    assert describe_licences(licences_of(PREPARE, PROVENANCE)) == [
        "licence CC0-1.0: prepare.test.a (opus: C/v1)",
        "licence MIT: prepare.train.1 (opus: B/v1), prepare.monolingual.0 (opus: D/v1)",
        "no licence known: prepare.train.0, prepare.train.2 (opus: A/v1), prepare.valid, prepare.test.b",
    ]


def test_without_a_lock_file_no_licence_is_known() -> None:
    (only,) = licences_of(PREPARE, NO_LOCK_FILE)
    assert only is None


def test_a_citation_is_printed_once_for_all_data_sets_that_share_it() -> None:
    assert bibtex(PROVENANCE) == (
        "% opus: B/v1, opus: C/v1, opus: D/v1\n@misc{both,\n}\n\n"
        "% opus: D/v1\n@misc{other,\n  year = 2020,\n}\n\n"
        "% opus: A/v1: no citation known\n"
    )
    assert bibtex(NO_LOCK_FILE) == ""
