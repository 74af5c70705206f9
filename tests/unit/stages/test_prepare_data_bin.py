"""A data-bin of fairseq-preprocess (tests/golden/data_bin) as input of the prepare stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kdmt.config import Prepare
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset, IndexedWriter
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.stages.prepare_data_bin import take_data_bin

GOLDEN = Path(__file__).parents[2] / "golden" / "data_bin"
EN_DE = Direction("en", "de")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a copy of a data-bin with separate dictionaries."""
    return Path(shutil.copytree(GOLDEN / "separate", tmp_path / "data"))


def settings(data: Path, *, joined: bool = False) -> Prepare:
    document = {
        "data_bin": {"path": str(data)},
        "tokenizer": {"type": "words"},
        "vocabulary": {"joined": joined},
    }
    return Prepare.model_validate(document)


def take(data: Path, folder: Path, *, joined: bool = False, direction: Direction = EN_DE) -> dict[str, object]:
    folder.mkdir()
    return take_data_bin(settings(data, joined=joined), direction, folder, lambda _: None)


def test_token_files_and_dictionaries_keep_their_bytes(data: Path, tmp_path: Path) -> None:
    take(data, tmp_path / "prepare")
    for path in data.iterdir():
        assert (tmp_path / "prepare/data-bin" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("direction", [EN_DE, EN_DE.reversed()], ids=str)
def test_text_is_decoded_from_the_ids(data: Path, tmp_path: Path, direction: Direction) -> None:
    folder = tmp_path / "prepare"
    facts = take(data, folder, direction=direction)
    codec = TextCodec.load(folder)
    assert codec.text.direction == direction
    dataset = IndexedDataset(folder / f"data-bin/train.{direction}.{direction.target}")
    lines = (folder / f"train.{direction.target}").read_text(encoding="utf-8").splitlines()
    assert lines == [codec.decode_target(dataset[index].tolist()) for index in range(len(dataset))]
    assert facts["pairs_out"] == len(dataset)


def test_training_splits_are_joined(data: Path, tmp_path: Path) -> None:
    for lang in EN_DE.sides:
        for ending in ("bin", "idx"):
            shutil.copyfile(data / f"valid.en-de.{lang}.{ending}", data / f"train1.en-de.{lang}.{ending}")
    take(data, tmp_path / "prepare")
    for lang in EN_DE.sides:
        whole = IndexedDataset(tmp_path / f"prepare/data-bin/train.en-de.{lang}")
        parts = [IndexedDataset(data / f"{name}.en-de.{lang}") for name in ("train", "train1")]
        expected = [sentence for part in parts for sentence in (part[index] for index in range(len(part)))]
        assert len(whole) == len(expected)
        assert all(np.array_equal(whole[index], sentence) for index, sentence in enumerate(expected))


def test_special_ids_inside_sentences_are_counted(data: Path, tmp_path: Path) -> None:
    count = len(IndexedDataset(data / "train.en-de.de"))
    size = len((data / "dict.de.txt").read_text(encoding="utf-8").splitlines()) + 4
    with IndexedWriter(data / "train.en-de.de", size) as writer:
        for sentence in [[5, 0, 2], [1, 5, 2], [5, 2, 5, 2], *[[5, 2]] * (count - 3)]:
            writer.add(np.array(sentence))
    take(data, tmp_path / "prepare")
    report = json.loads((tmp_path / "prepare/report.json").read_text())
    assert report["special_ids"]["de"] == {"<s>": 1, "<pad>": 1, "</s>": 1}


def test_separate_dictionaries_are_refused_if_joined_is_set(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vocabulary\.joined: True, but the dictionaries of .* are different"):
        take(data, tmp_path / "prepare", joined=True)


def test_a_data_bin_without_training_text_is_refused(data: Path, tmp_path: Path) -> None:
    for path in data.glob("train.*"):
        path.unlink()
    with pytest.raises(UserError, match="no split 'train' of en-de: there is valid"):
        take(data, tmp_path / "prepare")
