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
        (
            "students.raw.nat={family: cmlm, decoder_input: unk}",
            "students.raw.nat: 'decoder_input' is a setting of nat, inat, nat_crf, ctc, not of 'cmlm'",
        ),
        ("students.raw.nat={family: dag, decoder_input: unk}", "students.raw.nat: 'decoder_input' is a setting of nat"),
        (
            "students.raw.nat={family: ctc, decoder_input: mask}",
            "students.raw.nat.decoder_input: should be 'source' or",
        ),
        (
            "students.raw.nat={family: nat, decoder_input: unk, source_copy: soft}",
            "students.raw.nat: 'source_copy' has no effect with 'decoder_input: unk'",
        ),
        (
            "students.raw.nat={family: ctc, glancing_same_dropout: true}",
            "students.raw.nat: 'glancing_same_dropout' has no effect unless 'glancing'",
        ),
        (
            "students.raw.nat={family: dag, glancing: [[0, 0.5]], glancing_reveal: word}",
            "students.raw.nat: 'glancing_reveal' is a setting of ctc, not of 'dag'",
        ),
        (
            "students.raw.nat={family: nat, glancing: [[0, 0.5]], glancing_draw: bernoulli, glancing_rounding: round}",
            "students.raw.nat: 'glancing_rounding' has no effect unless 'glancing_draw' is 'exact'",
        ),
        (
            "students.raw.nat={family: cmlm, glancing_draw: bernoulli}",
            "students.raw.nat: 'glancing_draw' is a setting of nat, ctc, dag, not of 'cmlm'",
        ),
        (
            "students.raw.nat={family: ctc, glancing: [[0, 0.5]], glancing_divisor: predicted}",
            "students.raw.nat: 'glancing_divisor' is a setting of nat, not of 'ctc'",
        ),
        (
            "students.raw={train: {parallel: fsdp}, "
            "nat: {family: nat, glancing: [[0, 0.5]], glancing_divisor: predicted}}",
            "students.raw: 'nat.glancing_divisor: predicted' needs the whole model on each rank",
        ),
        (
            "students.raw.nat={family: nat, loss_average: sentence}",
            "students.raw.nat: 'loss_average' is a setting of ctc",
        ),
        (
            "students.raw.nat={family: dag, dslp: true, deep_supervision: 1.0}",
            "students.raw.nat: 'dslp' is a setting of nat, cmlm, ctc, not of 'dag'",
        ),
        ("students.raw.nat={family: ctc, dslp: true}", "students.raw.nat: 'dslp' needs 'deep_supervision'"),
        (
            "students.raw.nat={family: ctc, deep_supervision: 1.0, dslp_mixing: 0.3}",
            "students.raw.nat: 'dslp_mixing' has no effect unless 'dslp' is true",
        ),
        (
            "students.raw.nat={family: ctc, glancing: [[300, 0.3], [0, 0.5]]}",
            "students.raw.nat: 'glancing': the updates must increase",
        ),
        (
            "students.raw.nat={family: ctc, glancing: [[0, 0.5], [0, 0.3]]}",
            "students.raw.nat: 'glancing': the updates must increase",
        ),
        (
            "students.raw.nat={family: ctc, glancing: [[0, 0.5]], glancing_keep_path: true}",
            "students.raw.nat: 'glancing_keep_path' is a setting of dag, not of 'ctc'",
        ),
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
            "students.raw.nat={family: ctc, loss: nmla, loss_average: sentence}",
            "students.raw.nat: 'loss_average' has no effect with 'loss: nmla', the mean over sentences",
        ),
        (
            "students.raw.nat={family: dag, loss: fuzzy_alignment, glancing: [[0, 0.1]], glancing_keep_path: true}",
            "students.raw.nat: 'glancing_keep_path' has no effect with 'loss: fuzzy_alignment'",
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
