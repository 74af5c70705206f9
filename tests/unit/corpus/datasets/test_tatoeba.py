"""Tests of Tatoeba."""

from __future__ import annotations

import pytest

from kdmt.corpus.datasets.opus import resolve_opus
from kdmt.corpus.datasets.recorded_index import recorded_index
from kdmt.corpus.datasets.tatoeba import resolve_tatoeba
from kdmt.errors import UserError
from kdmt.languages import Direction


def test_a_version_is_that_of_opus() -> None:
    direction = Direction("is", "en")
    dataset = resolve_tatoeba("2023-04-12", direction, recorded_index())
    assert dataset.name == "tatoeba: 2023-04-12"
    assert dataset.entry == resolve_opus("Tatoeba/v2023-04-12", direction, recorded_index()).entry
    assert dataset.licence == "CC-BY-2.0-FR"


@pytest.mark.parametrize(("codes", "sides"), [(("de", "en"), ("src", "trg")), (("en", "de"), ("trg", "src"))])
def test_the_challenge_has_codes_of_three_letters_in_alphabetical_order(
    codes: tuple[str, str], sides: tuple[str, str]
) -> None:
    entry = resolve_tatoeba("challenge-v2021-08-07/train", Direction(*codes), recorded_index()).entry
    url = "https://object.pouta.csc.fi/Tatoeba-Challenge-v2021-08-07/deu-eng.tar"
    members = [f"data/release/v2021-08-07/deu-eng/train.{side}.gz" for side in sides]
    assert entry == {"source": {"url": url, "member": members[0]}, "target": {"url": url, "member": members[1]}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2023-04-13", "not known as a version; the nearest are 2023-04-12"),
        ("challenge-v2021-08-07/tst", "the nearest are challenge-v2021-08-07/test"),
    ],
)
def test_an_unknown_version_is_refused(value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_tatoeba(value, Direction("en", "de"), recorded_index())
