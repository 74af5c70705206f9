"""Arguments of the command lines that generate corpora."""

from __future__ import annotations

import argparse

import pytest

from kdmt.toy.arguments import add_counts_and_seed


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_counts_and_seed(parser, {"train": 3, "valid": 2, "test": 1})
    return parser


def test_counts_and_seed_have_their_defaults_and_can_be_given(parser: argparse.ArgumentParser) -> None:
    assert vars(parser.parse_args([])) == {"train": 3, "valid": 2, "test": 1, "seed": 1}
    assert vars(parser.parse_args(["--valid", "0", "--seed", "7"])) == {"train": 3, "valid": 0, "test": 1, "seed": 7}


@pytest.mark.parametrize("value", ["-1", "1.5", "many", ""])
def test_a_value_that_is_no_count_is_refused(
    parser: argparse.ArgumentParser, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args([f"--train={value}"])
    assert f"{value!r} is not a whole number of 0 or more" in capsys.readouterr().err
