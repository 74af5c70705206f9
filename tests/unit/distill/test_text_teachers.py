"""Tests of what all teachers that answer with text have in common."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import cast

import numpy as np

from kdmt.distill.blocks import BLOCKS, Decoded, plan_blocks, write_block
from kdmt.distill.decoding import BlockTask
from kdmt.distill.inputs import Inputs
from kdmt.distill.llm_answers import LanguageCheck
from kdmt.distill.text_ids import VOCAB_SIZE, encode_answer
from kdmt.distill.text_teachers import AnsweringTeacher, TextTeacherModel
from kdmt.languages import Direction
from kdmt.types import Hypothesis


def test_marks_of_all_whole_blocks_are_counted(tmp_path: Path) -> None:
    answers = [[("refusal",), ("removed_prefix",)], [("refusal", "removed_quotes")], [()], [("chatter",)]]
    (tmp_path / BLOCKS).mkdir()
    tasks = []
    for block, own in zip(plan_blocks(4, 1), answers, strict=True):
        hashes_N = np.array([block.number], dtype=np.uint64)
        hypotheses = [[Hypothesis(encode_answer("ja", marks, num_tokens=300), 0.0) for marks in own]]
        decoded = Decoded.of(hypotheses, hashes_N=hashes_N, max_len_N=[99], vocab_size=VOCAB_SIZE)
        write_block(tmp_path / BLOCKS, block, decoded, made_from={}, made_with={})
        tasks.append(BlockTask(block, np.array([block.number]), hashes_N))
    tasks[3].block.path(tmp_path / BLOCKS).write_bytes(b"damaged")
    model = TextTeacherModel(cast(Inputs, None))
    assert model.count_marks(tmp_path, tasks) == {"refusal": 2, "removed_prefix": 1, "removed_quotes": 1}
    assert model.vocab_size == VOCAB_SIZE


def test_workers_have_no_limit_of_the_length_of_a_text() -> None:
    teacher = AnsweringTeacher(LanguageCheck(Direction("en", "de")))
    assert pickle.loads(pickle.dumps(teacher)) == teacher
    assert not teacher.limits_lengths
    assert min(teacher.max_source_tokens, teacher.max_target_tokens) > 1_000_000
