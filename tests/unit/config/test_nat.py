"""Tests of non-autoregressive families and the settings of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kdmt.config import NAT


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "students.raw.nat={family: cmlm, glancing: [[0, 0.5]]}",
            "students.raw.nat: 'glancing' is a setting of nat, ctc",
        ),
        (
            "students.raw.nat={family: nat, upsample: 2}",
            "students.raw.nat: 'upsample' is a setting of ctc, dag, not of",
        ),
        (
            "students.raw.nat={family: ctc, length_weight: 0.2}",
            "students.raw.nat: 'length_weight' is a setting of nat,",
        ),
        ("students.raw.nat={family: nat, layout: fairseq}", "students.raw.nat: 'layout' is a setting of cmlm, lev"),
        ("students.raw.nat={family: nat, distance: levenshtein}", "students.raw.nat: 'distance' has no effect unless"),
        ("students.raw.nat={}", "students.raw.nat.family: missing"),
        ("students.raw.nat={family: nat, loss: nmla}", "students.raw.nat: 'loss' is a setting of ctc, dag, not of"),
        ("students.raw.nat={family: dag, loss: nmla}", "students.raw.nat: 'loss: nmla' is a loss of ctc, not of 'dag'"),
        (
            "students.raw.nat={family: ctc, loss: fuzzy_alignment}",
            "students.raw.nat: 'loss: fuzzy_alignment' is a loss of dag, not of 'ctc'",
        ),
        (
            "students.raw.nat={family: ctc, ngram: 1}",
            "students.raw.nat: 'ngram' has no effect with 'loss: likelihood'",
        ),
        (
            "students.raw.nat={family: ctc, loss: nmla, ngram: 3}",
            "students.raw.nat: 'ngram' must be 1 or 2 with 'loss: nmla', not 3",
        ),
        (
            "students.raw.nat={family: glat}",
            "students.raw.nat.family: should be 'nat', 'cmlm', 'inat', 'nat_crf', 'ctc'",
        ),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"family": "cmlm", "upsample": 3},  # a default that is written out
        {"family": "ctc", "upsample": 2, "glancing": [[0, 0.5], [100, 0.3]], "distance": "levenshtein"},
        {"family": "ctc", "loss": "nmla", "ngram": 1, "glancing": [[0, 0.1]]},
        {"family": "dag", "loss": "fuzzy_alignment", "ngram": 4},
        {"family": "insertion", "insertion_temperature": 0.5, "layout": "fairseq", "deep_supervision": 1.0},
    ],
)
def test_settings_that_the_family_has_are_accepted(settings: dict[str, Any]) -> None:
    assert NAT(**settings).family == settings["family"]
