"""Tests of messages for unknown names."""

from __future__ import annotations

from kdmt.corpus.datasets.messages import nearest_names, unknown_name


def test_the_nearest_names_come_first_regardless_of_case() -> None:
    known = ["Books/v1", "ParaCrawl/v8", "ParaCrawl/v9"]
    assert nearest_names("paracrwl/V9", known) == ["ParaCrawl/v9", "ParaCrawl/v8"]


def test_names_that_contain_the_text_are_near() -> None:
    assert nearest_names("crawl", ["NewsCommentary/v16", "a-long-name-with-crawl-in-it"]) == [
        "a-long-name-with-crawl-in-it"
    ]


def test_at_most_five_names_are_listed() -> None:
    assert len(nearest_names("set", [f"set{number}" for number in range(9)])) == 5


def test_the_message_has_the_name_its_kind_and_the_command_that_lists_names() -> None:
    message = str(unknown_name("opus: Boks/v1", ["Books/v1"], what="a release of OPUS"))
    assert message.startswith("opus: Boks/v1: not known as a release of OPUS; the nearest are Books/v1. ")
    assert "kdmt find" in message


def test_without_similar_names_the_message_lists_none() -> None:
    assert "nearest" not in str(unknown_name("opus: xyz", ["Books/v1"], what="a release of OPUS"))
