"""Tests of sections: they are frozen and strict, and share types of values."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from kdmt.config import Pipeline
from kdmt.config.search import Decode, NATDecode
from kdmt.config.section import changed

Load = Callable[..., Pipeline]


def test_a_pipeline_is_frozen(load: Load) -> None:
    pipeline = load()
    for section, name in ((pipeline, "name"), (pipeline.teacher.train, "lr"), (pipeline.prepare.train[0], "weight")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, 1)


UNKNOWN = ["teh_teacher=1", "prepare.clean.foo=1", "prepare.train.0.source.pth=x", "students.raw.train.max_token=1"]


@pytest.mark.parametrize("override", UNKNOWN)
def test_an_unknown_key_is_named_by_its_path(refusal: Callable[..., str], override: str) -> None:
    path = override.partition("=")[0]
    assert re.search(rf"/p\.yaml: {re.escape(path)}: unknown setting$", refusal(override))


@pytest.mark.parametrize(
    ("section", "names"),
    [
        (Decode(), []),
        (Decode(beam=5), []),  # a default that is written out
        (Decode(beam=4, lenpen=0.5), ["beam", "lenpen"]),
        (NATDecode(dag="greedy"), ["dag"]),
    ],
)
def test_changed_settings_are_those_that_differ_from_their_defaults(section: Decode, names: list[str]) -> None:
    assert changed(section) == names
