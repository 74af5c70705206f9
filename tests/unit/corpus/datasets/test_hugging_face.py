"""Tests of data sets of the Hugging Face hub."""

from __future__ import annotations

import pytest

from kdmt.corpus.datasets.hugging_face import file_url, parquet_url, resolve_hugging_face
from kdmt.errors import UserError
from kdmt.languages import Direction

HUB = "https://huggingface.co/datasets"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("wmt/wmt14", "wmt/wmt14/resolve/refs%2Fconvert%2Fparquet/default/train/0000.parquet"),
        ("wmt/wmt14/de-en", "wmt/wmt14/resolve/refs%2Fconvert%2Fparquet/de-en/train/0000.parquet"),
        ("wmt/wmt14/de-en/test", "wmt/wmt14/resolve/refs%2Fconvert%2Fparquet/de-en/test/0000.parquet"),
        ("wmt/wmt14/de-en/train/0002", "wmt/wmt14/resolve/refs%2Fconvert%2Fparquet/de-en/train/0002.parquet"),
        ("wmt/wmt14@0a1b/de-en", "wmt/wmt14/resolve/0a1b/de-en/train/0000.parquet"),
    ],
)
def test_the_file_and_fields_of_a_name(value: str, path: str) -> None:
    dataset = resolve_hugging_face(value, Direction("de", "en"))
    assert dataset.entry == {
        "parquet": {"url": f"{HUB}/{path}"},
        "source_field": "translation.de",
        "target_field": "translation.en",
    }
    assert dataset.homepage == f"{HUB}/wmt/wmt14"


@pytest.mark.parametrize("value", ["wmt14", "a/b/c/d/e/f", "a/b@", "a b/c"])
def test_another_form_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="expected OWNER/NAME"):
        resolve_hugging_face(value, Direction("de", "en"))


def test_urls_of_files() -> None:
    assert parquet_url("a/b", "c", "train", "0001.parquet", "main") == f"{HUB}/a/b/resolve/main/c/train/0001.parquet"
    assert file_url("a/b", "c/d.jsonl") == f"{HUB}/a/b/resolve/main/c/d.jsonl"
