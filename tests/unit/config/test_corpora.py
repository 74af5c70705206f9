"""Tests of settings of corpora: files, URLs and TSV columns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdmt.config import Corpus, HeldOut, Source, split_login


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("prepare.valid.tsv.path=x", "prepare.valid: give either 'tsv' or 'source' and 'target', not both"),
        ("prepare.valid={source: {path: x}}", "prepare.valid: give 'source' and 'target', 'tsv', or one of 'mtdata'"),
        ("prepare.valid.source={}", "prepare.valid.source: give either 'path' or 'url'"),
        ("prepare.valid.source={path: x, url: 'http://x/y'}", "prepare.valid.source: give either 'path' or 'url'"),
        ("prepare.valid={tsv: {path: x.zip}}", "prepare.valid.tsv: a zip archive needs 'member'"),
        ("prepare.valid.source={path: x, sha256: abc}", "prepare.valid.source.sha256: not in the form"),
        (
            "prepare.valid={tsv: {path: x}, source_column: 1}",
            "prepare.valid: 'source_column' and 'target_column' are the same",
        ),
        ("prepare.valid.header=true", "prepare.valid: 'header' has no effect without 'tsv'"),
        ("prepare.valid.quoted=true", "prepare.valid: 'quoted' has no effect without 'tsv'"),
        ("prepare.valid.source.remove_bpe=letter", "prepare.valid.source: 'remove_bpe' has no effect unless 'path' is"),
        ("prepare.train.0.tag=<s>", "prepare.train.0.tag: is one of the special symbols <s> <pad> </s> <unk>"),
        ("prepare.train.0.tag='a b'", "prepare.train.0.tag: not in the form"),
        (
            "prepare.valid={tsv: {path: x}, raw_target: {path: y}, malformed: drop}",
            "prepare.valid: 'malformed: drop' would leave 'raw_target' with lines that have no pair",
        ),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


def test_a_login_is_removed_from_the_url() -> None:
    source = Source(url="https://me:s%2Fcret@host:8080/file", sha256="0" * 64)
    assert (source.url, source.login) == ("https://host:8080/file", "me:s/cret")
    assert "cret" not in repr(source)
    assert "cret" not in source.model_dump_json()
    assert Source(url="https://host/file", sha256="0" * 64).login is None


@pytest.mark.parametrize("url", ["http://me:pass@/file", "http://me:pass@host:x/file", "http://me:pa/ss@host/file"])
def test_an_invalid_url_is_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="the host or port of 'url' is not valid") as caught:
        split_login(url)
    assert "pa" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (Source(path="a.de"), "a.de"),
        (Source(path="a.zip", member="b.de"), "a.zip:b.de"),
        (Source(url="http://x/y", sha256="0" * 64), "http://x/y"),
    ],
)
def test_a_source_has_a_name_for_messages(source: Source, name: str) -> None:
    assert source.name == name


def test_malformed_lines_are_dropped_from_training_text_only() -> None:
    text = {"source": {"path": "a"}, "target": {"path": "b"}}
    assert (Corpus(**text).malformed, HeldOut(**text).malformed) == ("drop", "error")


def test_a_token_file_ends_in_bin() -> None:
    assert Source(path="test.de-en.de.bin").is_tokens
    assert not Source(path="test.de").is_tokens
