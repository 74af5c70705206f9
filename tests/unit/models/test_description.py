"""Tests of reading `model.json`: every value is checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdmt.errors import UserError
from kdmt.models.architecture import NATConfig, architecture
from kdmt.models.description import check_size, read_description


def description() -> dict[str, Any]:
    return {
        "family": "nonautoregressive",
        "config": json.loads(json.dumps(architecture("transformer_tiny").as_dict())),
        "nat": NATConfig(family="dag").as_dict(),
        "src_vocab_size": 20,
        "tgt_vocab_size": 30,
    }


def test_round_trip(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps(description()))
    assert read_description(tmp_path) == description()


def edit(part: str | None, name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(whole: dict[str, Any]) -> None:
        (whole if part is None else whole[part])[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (edit(None, "family", "rnn"), "model family 'rnn' is none of transformer, nonautoregressive"),
        (edit(None, "src_vocab_size", 0), "src_vocab_size: '0', expected a whole number from 1 on"),
        (edit(None, "config", []), "config: expected an object"),
        (edit("config", "dropout", 1.0), "config.dropout: should be at least 0 and less than 1"),
        (edit("config", "encoder_embed_dim", "64"), "config"),
        (edit("config", "target_token", 30), "config.target_token: 30 is no token of 30"),
        (edit("config", "right_to_left", True), "config.right_to_left: a non-autoregressive model has no order"),
        (edit("nat", "family", "hmm"), "nat"),
        (edit("nat", "upsample", 0), "nat.upsample: should be at least 1"),
    ],
)
def test_impossible_values_are_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    whole = description()
    change(whole)
    (tmp_path / "model.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match=f"model.json: {problem}"):
        read_description(tmp_path)


def test_folder_without_a_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a checkpoint"):
        read_description(tmp_path)


def test_boolean_is_not_accepted_as_a_size() -> None:
    with pytest.raises(UserError, match="'True', expected a whole number"):
        check_size({"k": True}, "k")
