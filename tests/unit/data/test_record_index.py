"""Tests of the script that records the index of data sets; it is run with mtdata and opustools only by hand."""

from __future__ import annotations

import importlib.util
import lzma
from pathlib import Path
from types import ModuleType

import pytest

from kdmt.corpus.datasets.recorded_index import RECORDED, DatasetIndex

SCRIPT = Path(__file__).parents[3] / "data" / "datasets" / "record_index.py"


@pytest.fixture(name="script")
def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_index", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_releases_and_pairs_are_written_as_the_package_reads_them(script: ModuleType, tmp_path: Path) -> None:
    listed = [("B", "v2", "de", "en"), ("A", "v1", "en", "is"), ("A", "v1", "de", "en")]
    sizes = {("A", "v1", "de", "en"): ("120", "7"), ("A", "v1", "en", "fr"): ("9", "")}
    lines = list(script.opus_lines(listed, sizes, {("B", "v2"): "Folder"}, {("B", "v2")}))
    (tmp_path / "opus.txt.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    index = DatasetIndex(tmp_path)
    first, second = index.opus_releases()
    assert (first.name, first.folder, first.has_tmx) == ("A/v1", "A", False)
    assert (second.name, second.folder, second.has_tmx) == ("B/v2", "Folder", True)
    assert [(*pair.codes, pair.num_pairs, pair.size_bytes) for pair in index.opus_pairs(first)] == [
        ("de", "en", 120, 7000),
        ("en", "fr", 9, None),
        ("en", "is", None, None),
    ]


def test_the_script_writes_the_files_of_the_package(script: ModuleType) -> None:
    assert script.OUT == RECORDED
    assert {path.name for path in RECORDED.iterdir()} == {
        "opus.txt.xz",
        "mtdata.jsonl.xz",
        "mtdata-codes.json",
        "citations.json.xz",
    }
