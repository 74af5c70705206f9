"""Exceptions that reach the command line."""

from __future__ import annotations

import signal

import pytest

from kdmt.errors import Interrupted, UserError, describe_error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a b"), "ValueError: a b"),
        (KeyError("a"), "KeyError: 'a'"),
        (RuntimeError("first\n  second\tthird"), "RuntimeError: first second third"),
        (OSError(), "OSError: "),
    ],
)
def test_an_exception_of_another_library_is_one_line(error: Exception, text: str) -> None:
    assert describe_error(error) == text


def test_a_long_message_is_cut() -> None:
    assert describe_error(ValueError("x" * 1000)) == f"ValueError: {'x' * 288}"  # 300 characters


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")])
def test_an_interruption_names_the_signal_and_the_saved_state(number: int, name: str) -> None:
    stop = Interrupted(number, "checkpoint_3")
    assert str(stop) == f"stopped by {name}; saved checkpoint_3; run it again to go on"
    assert stop.signal_number == number


def test_an_interruption_is_no_user_error() -> None:
    assert not issubclass(Interrupted, UserError)
