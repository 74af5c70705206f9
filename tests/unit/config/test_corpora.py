"""Tests of settings of corpora: files, URLs and TSV columns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdmt.config import Corpus, HeldOut, Source, split_login


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("prepare.valid.tsv.path=x", "prepare.valid: give either 'tsv' or 'source' and 'target', not both"),
        ("prepare.valid={source: {path: x}}", "prepare.valid: give 'source' and 'target', or one of 'tsv'"),
        (
            "prepare.train=[{source: {path: x}, target: {path: y}, only_every: 2, except_every: 2}]",
            "prepare.train.0: give either 'only_every' or 'except_every', not both",
        ),
        (
            "prepare.valid={source: {path: x}, target: {path: y}, only_every: 2, raw_target: {path: z}}",
            "prepare.valid: 'raw_target' has a line for each pair: leave out 'only_every' and 'except_every'",
        ),
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
        ("prepare.valid={tsv: {path: x}, tmx: {path: y}}", "prepare.valid: give either 'tsv' or 'tmx', not both"),
        ("prepare.valid.jsonl.path=x", "prepare.valid: give either 'jsonl' or 'source' and 'target', not both"),
        ("prepare.valid={jsonl: {path: x}}", "prepare.valid: give both 'source_field' and 'target_field'"),
        ("prepare.valid={parquet: {path: x}, source_field: a}", "prepare.valid: give both 'source_field' and"),
        ("prepare.valid.source_field=x", "prepare.valid: 'source_field' and 'target_field' have no effect without"),
        (
            "prepare.valid={tmx: {path: x}, source_field: a, target_field: b}",
            "prepare.valid: 'source_field' and 'target_field' have no effect without 'jsonl'",
        ),
        (
            "prepare.valid={jsonl: {path: x}, source_field: a, target_field: a}",
            "prepare.valid: 'source_field' and 'target_field' are the same",
        ),
        (
            "prepare.valid={tsv: {path: x}, source_field: a, target_field: b}",
            "prepare.valid: 'source_field' needs 'header: true'",
        ),
        (
            "prepare.valid={tsv: {path: x}, source_field: a, target_field: b, header: true, target_column: 2}",
            "prepare.valid: give either columns by index ('source_column') or by name ('source_field')",
        ),
        ("prepare.valid.source.part=target", "prepare.valid.source.part: not in the form"),
        ("prepare.valid={tmx: {path: x, part: src}}", "prepare.valid: 'tmx.part' has no effect"),
        ("prepare.valid={wmt_xml: {path: x, part: src}}", "prepare.valid: 'wmt_xml.part' selects a reference"),
        ("prepare.train.0.quality={column: 1, min: 0}", "prepare.train.0: 'quality' has no effect without 'tsv'"),
        ("prepare.train=[{wmt_xml: {path: x}, quality: {column: 1, min: 0}}]", "prepare.train.0: 'quality' has no"),
        ("prepare.train=[{tmx: {path: x}, quality: {column: 1, min: 0}}]", "prepare.train.0: 'quality.column' has no"),
        ("prepare.train=[{tsv: {path: x}, quality: {field: s, min: 0}}]", "prepare.train.0: 'quality.field' needs"),
        ("prepare.train=[{tsv: {path: x}, quality: {min: 0}}]", "prepare.train.0.quality: give either 'column' or"),
        ("prepare.train=[{tsv: {path: x}, quality: {column: 2}}]", "prepare.train.0.quality.min: missing"),
        ("prepare.valid.quality={column: 1, min: 0}", "prepare.valid.quality: unknown"),
        (
            "prepare.valid={tsv: {path: x}, references: [{path: y}], malformed: drop}",
            "prepare.valid: 'malformed: drop' would leave 'references' with lines that have no pair",
        ),
        (
            "prepare.valid={tsv: {path: x}, raw_target: {path: y}, malformed: drop}",
            "prepare.valid: 'malformed: drop' would leave 'raw_target' with lines that have no pair",
        ),
    ],
)
def test_contradicting_settings_are_named(problem: Callable[..., str], override: str, expected: str) -> None:
    assert problem(override).startswith(expected)


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://bucket/x", "file:///x", "host/x", "host:8080/x", "C:\\x"])
def test_urls_of_other_schemes_are_refused_with_their_path(problem: Callable[..., str], url: str) -> None:
    refused = problem(f"prepare.train.0.source={{url: '{url}'}}")
    assert refused.startswith(
        f"prepare.train.0.source.url: should begin with 'https://' or 'http://'; a local file is given as 'path' "
        f"(it is {url!r})"
    )
    assert Source(url="HTTPS://host/x").url is not None


def test_a_login_is_not_quoted_with_a_refused_scheme(problem: Callable[..., str]) -> None:
    refused = problem("prepare.train.0.source={url: 'ftp://me:secret@host/x'}")
    assert "prepare.train.0.source.url: should begin with" in refused
    assert "secret" not in refused


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
        (Source(path="a.tgz", member="b.xml", part="ref:B"), "a.tgz:b.xml:ref:B"),
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
