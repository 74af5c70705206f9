"""Tests of contrastive pairs: their file, and the accuracy of scores."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from kdmt.errors import UserError
from kdmt.score.contrastive import ContrastivePair, compare_scores, read_pairs

PAIR = {
    "context": ["I held the cup ."],
    "source": "It fell .",
    "right": "Sie fiel .",
    "wrong": ["Er fiel .", "Es fiel ."],
}


def test_a_pair_is_correct_if_the_right_target_beats_all_wrong_ones() -> None:
    pairs = [
        ContrastivePair("a", "1", ("2", "3")),
        ContrastivePair("b", "1", ("2",)),
        ContrastivePair("c", "1", ("2",)),
    ]
    result = compare_scores(pairs, [-1.0, -2.0, -1.5, -3.0, -1.0, -2.0, -2.0])
    assert result.margins == (0.5, -2.0, 0.0)
    assert result.correct == (True, False, False)
    assert result.num_correct == 1
    assert result.accuracy == pytest.approx(100 / 3)


def test_a_pair_without_all_scores_is_wrong() -> None:
    result = compare_scores([ContrastivePair("a", "1", ("2",))], [-1.0, math.nan])
    assert result.accuracy == 0.0


@pytest.mark.parametrize("scores", [[-1.0], [-1.0, -2.0, -3.0]])
def test_each_target_has_one_score(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="than the targets"):
        compare_scores([ContrastivePair("a", "1", ("2",))], scores)


def test_pairs_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    short = {"source": "a", "right": "1", "wrong": "2", "context": "z"}
    path.write_text(f"{json.dumps(PAIR)}\n\n{json.dumps(short)}\n", encoding="utf-8")
    assert read_pairs(path) == [
        ContrastivePair("It fell .", "Sie fiel .", ("Er fiel .", "Es fiel ."), ("I held the cup .",)),
        ContrastivePair("a", "1", ("2",), ("z",)),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: not a JSON object"),
        (json.dumps(PAIR | {"gender": "f"}), "line 2: unknown field 'gender'"),
        (json.dumps({"source": "a", "right": "b"}), "line 2: no field 'wrong'"),
        (json.dumps(PAIR | {"wrong": []}), "line 2: field 'wrong' has no target"),
        (json.dumps(PAIR | {"wrong": ["Sie fiel ."]}), "line 2: field 'wrong' has the right target"),
        (json.dumps(PAIR | {"right": 3}), "line 2: field 'right' is not text"),
        (json.dumps(PAIR | {"right": ["b"]}), "line 2: field 'right' is not text"),
        (json.dumps(PAIR | {"context": ["a\nb"]}), "line 2: field 'context' holds a line break"),
    ],
)
def test_other_lines_are_refused_with_their_number(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{json.dumps(PAIR)}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"pairs.jsonl {problem}"):
        read_pairs(path)


def test_a_file_without_pairs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(UserError, match="no contrastive pair"):
        read_pairs(path)
