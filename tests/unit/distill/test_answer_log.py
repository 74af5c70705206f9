"""Tests of the record of answers: it survives kills, and damage is found."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest

from kdmt.distill.answer_log import AnswerLog, Reply, read_replies, sealed_path
from kdmt.distill.blocks import Block
from kdmt.distill.llm_answers import Answer
from kdmt.errors import UserError

BLOCK = Block(3, 90, 30)
REPLIES = [
    Reply(("a\u2028b",), None, "s", (Answer("x\ny\x85", "stop"), Answer("", None)), 3, 4, "m", "f"),
    Reply(("c", "d"), "sentences", "s", (Answer("1. z\n2. w", "length"),)),
    Reply(("e",), None, "s", error="the server answers 500"),
]


def test_replies_are_read_as_they_were_written(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, BLOCK)
    for reply in REPLIES:
        log.append(reply)
    assert AnswerLog(tmp_path, BLOCK).replies == REPLIES  # without closing, as after a kill
    log.seal([REPLIES[1], REPLIES[0]])
    assert [path.name for path in tmp_path.iterdir()] == ["000003.gz"]
    assert AnswerLog(tmp_path, BLOCK).replies == [REPLIES[1], REPLIES[0]]


def test_a_file_cut_at_any_byte_keeps_the_lines_before(tmp_path: Path) -> None:
    path = tmp_path / "000003.jsonl"
    lines = [reply.line() for reply in REPLIES]
    whole = b"".join(lines)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        kept = [reply for number, reply in enumerate(REPLIES, 1) if len(b"".join(lines[:number])) - 1 <= size]
        log = AnswerLog(tmp_path, BLOCK)
        assert log.replies == kept, size
        log.append(REPLIES[0])  # not joined to the line that was cut off
        log.close()
        assert AnswerLog(tmp_path, BLOCK).replies == list(dict.fromkeys([*kept, REPLIES[0]])), size


def test_a_changed_byte_costs_one_line_only(tmp_path: Path) -> None:
    lines = [reply.line() for reply in REPLIES]
    for place in range(0, len(lines[1]) - 1, 7):
        changed = bytearray(lines[1])
        changed[place] ^= 1
        if b"\n" in changed[:-1]:
            continue
        (tmp_path / "000003.jsonl").write_bytes(lines[0] + changed + lines[2])
        assert AnswerLog(tmp_path, BLOCK).replies == [REPLIES[0], REPLIES[2]]


def test_damaged_answers_of_a_finished_block_are_refused(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, BLOCK)
    log.seal(REPLIES)
    path = sealed_path(tmp_path, BLOCK)
    whole = path.read_bytes()
    for damaged in (whole[:-3], whole[:40] + bytes([whole[40] ^ 4]) + whole[41:], b"", b"no"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"000003\.gz: damaged.*remove it to request its sentences again"):
            read_replies(path)


def test_both_files_of_a_kill_between_them_count_once(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, BLOCK)
    log.append(REPLIES[0])
    opened = (tmp_path / "000003.jsonl").read_bytes()
    log.seal(log.replies)
    (tmp_path / "000003.jsonl").write_bytes(opened)
    assert AnswerLog(tmp_path, BLOCK).replies == REPLIES[:1]


def test_threads_append_whole_lines(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, BLOCK)
    made = [Reply((f"{number}",), None, "s", (Answer("x" * 5000),)) for number in range(200)]
    threads = [threading.Thread(target=lambda own: [*map(log.append, own)], args=(made[i::8],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(AnswerLog(tmp_path, BLOCK).replies) == set(made)


def test_equal_candidates_of_one_sentence_are_all_kept(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, BLOCK)
    made = [Reply(("a",), None, "s", (Answer("x", "stop"),), before=number) for number in range(2)]
    for reply in made:
        log.append(reply)
    assert AnswerLog(tmp_path, BLOCK).replies == made
    log.seal(made)
    assert AnswerLog(tmp_path, BLOCK).replies == made


def test_replies_of_versions_without_the_number_of_candidates_are_read() -> None:
    _, data = REPLIES[0].line().split(b" ", 1)
    values = json.loads(data)
    del values["before"]
    text = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    line = hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n"
    assert Reply.parse(line) == REPLIES[0]
