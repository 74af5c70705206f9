"""Tests of placeholders for lines that cannot be read."""

from __future__ import annotations

from kdmt.corpus.unreadable import MAX_LINE_BYTES, NOT_UTF8, TOO_LONG, Unreadable


def test_reasons_are_compared_and_name_the_limit() -> None:
    assert Unreadable("not UTF-8") == NOT_UTF8 != TOO_LONG
    assert f"{MAX_LINE_BYTES:,}" in TOO_LONG.reason
