"""The choice of a model by language codes, and the list of languages."""

from __future__ import annotations

import pytest

from kdmt.languages import Direction
from kdmt.serve.models import find_directions, list_languages
from kdmt.serve.requests import RequestError

DIRECTIONS = [Direction("en", "de"), Direction("fr", "de"), Direction("eng", "zh-Hans"), Direction("x-name", "cs")]


@pytest.mark.parametrize(
    ("source", "target", "index"),
    [("en", "de", 0), ("eng", "deu", 0), ("FR", "de", 1), ("en", "zh", 2), ("auto", "zh", 2), ("x-name", "cs", 3)],
)
def test_codes_of_the_same_language_match(source: str, target: str, index: int) -> None:
    assert find_directions(DIRECTIONS, source, target) == [DIRECTIONS[index]]


def test_an_unknown_source_language_may_be_that_of_each_model_for_the_target() -> None:
    assert find_directions(DIRECTIONS, "auto", "deu") == DIRECTIONS[:2]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("cs", "de", "cs to de is not supported"),
        ("en", "fr", "fr is not supported as target language"),
        ("", "", " is not supported as target language"),
    ],
)
def test_other_languages_are_refused(source: str, target: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        find_directions(DIRECTIONS, source, target)
    assert caught.value.status == 400


def test_languages_have_names() -> None:
    rows = list_languages(DIRECTIONS)
    assert {str(row["code"]): row["name"] for row in rows}["zh-Hans"] == "Chinese (Hans)"
    assert [row["targets"] for row in rows if row["code"] == "en"] == [["de"]]
