"""Tests of what all teachers with a vocabulary have in common."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import cast

import numpy as np

from kdmt.config import Distill, Failures
from kdmt.distill.failures import CODES
from kdmt.distill.inputs import Inputs
from kdmt.distill.token_teachers import TokenTeacherModel
from kdmt.types import UNK

MODEL = TokenTeacherModel(Distill(), cast(Inputs, None))
SIZES = np.array([2, 0, 1, 4], dtype=np.int32)


def test_failures_are_found_in_tokens_and_in_workers() -> None:
    find = pickle.loads(pickle.dumps(MODEL.find_failures()))
    tokens, at_limit = np.array([7, 8, UNK, 5, 5, 5, 5]), np.array([True, False, False, False])
    codes = find(tokens, SIZES, at_limit, Failures(repetition_times=4))
    assert codes.tolist() == [CODES[name] for name in ("too_long", "empty", "unk", "repetition")]
    assert find(tokens, SIZES, at_limit, Failures(repetition_times=5))[3] == 0


def test_tokens_are_counted_with_the_end_of_the_sentence() -> None:
    count = pickle.loads(pickle.dumps(MODEL.count_tokens()))
    assert count(np.arange(7), SIZES).tolist() == [3, 1, 2, 5]


def test_blocks_can_be_made_again_and_the_manifest_has_no_more_facts(tmp_path: Path) -> None:
    assert MODEL.is_reproducible
    assert MODEL.facts(tmp_path, []) == {}
