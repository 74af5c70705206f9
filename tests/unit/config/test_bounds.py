"""Tests of upper bounds of numbers and of control characters in text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_origin

import annotated_types
import pytest

from kdmt.config import Decode, Section, largest


def sections() -> list[type[Section]]:
    found, left = [], [Section]
    while left:
        own = left.pop().__subclasses__()
        found += own
        left += own
    return [section for section in found if section.__module__.startswith("kdmt.config.")]


def kinds_in(annotation: Any) -> Iterator[type]:
    """Yield every plain type in an annotation."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        yield annotation
    for part in get_args(annotation):
        yield from kinds_in(part)


def numeric_fields() -> list[tuple[type[Section], str]]:
    return [
        (section, name)
        for section in sections()
        for name, field in section.model_fields.items()
        if {int, float} & set(kinds_in(field.annotation))
    ]


def test_numeric_settings_are_found() -> None:
    fields = {f"{section.__name__}.{name}" for section, name in numeric_fields()}
    assert fields >= {"Model.encoder_layers", "Decode.beam", "Score.beams", "Train.adam_betas", "WordKD.alpha_schedule"}
    assert len(fields) > 100


@pytest.mark.parametrize(("section", "name"), numeric_fields(), ids=lambda value: getattr(value, "__name__", value))
def test_every_number_has_an_upper_bound(section: type[Section], name: str) -> None:
    """Check that a number beyond the bound is refused at its setting, even if the value has other problems."""
    kinds = set(kinds_in(section.model_fields[name].annotation))
    bound = largest(name)
    assert 0 < bound <= 1e30
    for number in (float(bound) * 10, -float(bound) * 10) if float in kinds else (int(bound) * 10, -int(bound) * 10):
        for value in (number, [number], [[number, number]], [[0, number]], [number, number]):
            with pytest.raises(ValueError) as caught:  # noqa: PT011  (a ValidationError)
                section.model_validate({name: value})
            assert any(problem["loc"][0] == name for problem in caught.value.errors())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("teacher.model.encoder_layers", 10**9),
        ("teacher.model.encoder_embed_dim", 10**12),
        ("teacher.model.max_source_positions", 10**12),
        ("prepare.tokenizer.vocab_size", 10**12),
        ("distill.decode.beam", 10**9),
        ("distill.workers", 10**9),
        ("distill.threads", 10**9),
        ("distill.decode.batch_size", 10**12),
        ("distill.block_size", 10**12),
        ("distill.decode.nbest", 10**9),
        ("distill.decode.lenpen", -1000.0),
        ("prepare.vocabulary.padding_factor", 10**9),
        ("score.beams", [1, 10**9]),
    ],
)
def test_unrealistic_sizes_are_refused_by_name(problem: Callable[..., str], setting: str, value: Any) -> None:
    message = problem(f"{setting}={json.dumps(value)}")
    assert re.search(rf"{re.escape(setting)}: should be (at most|at least) -?[\d,]+ \(it is ", message)


def test_a_value_equal_to_the_bound_is_allowed() -> None:
    assert Decode(beam=10_000, lenpen=-100.0).beam == 10_000
    constraint = next(each for each in Decode.model_fields["beam"].metadata if isinstance(each, annotated_types.Ge))
    assert constraint.ge == 1


@pytest.mark.parametrize("text", ['"a\\0b"', '"a\\x1b[2Jb"', '"a\\nb"', '"a\\x9bb"', '"a\\ud800b"', '"a\\u2029b\\a"'])
def test_control_characters_in_settings_are_refused(problem: Callable[..., str], text: str) -> None:
    message = problem(f"prepare.train.0.source.path={text}")
    assert message.startswith("prepare.train.0.source.path: holds the control character U+00") or "U+D800" in message
    assert message.isprintable()
