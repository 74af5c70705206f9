"""Tests of the index of answers in earlier states of a folder."""

from __future__ import annotations

from pathlib import Path

from kdmt.distill.answer_log import ANSWERS, AnswerLog, Reply
from kdmt.distill.blocks import Block
from kdmt.distill.earlier_answers import EarlierAnswers, write_index
from kdmt.distill.llm_answers import Answer


def reply(*sources: str, settings: str = "s", error: str | None = None) -> Reply:
    return Reply(sources, "sentences" if len(sources) > 1 else None, settings, (Answer(sources[0]),), error=error)


def write(state: Path, number: int, *replies: Reply, sealed: bool = True) -> None:
    (state / ANSWERS).mkdir(parents=True, exist_ok=True)
    log = AnswerLog(state / ANSWERS, Block(number, 0, 1))
    for each in replies:
        log.append(each)
    if sealed:
        log.seal(log.replies)
    log.close()


def test_answers_are_found_by_sentence(tmp_path: Path) -> None:
    first, second, index = tmp_path / "a", tmp_path / "b", tmp_path / "index"
    write(first, 0, reply("x"), reply("y", "z"))
    write(first, 1, reply("v", settings="other"), reply("w", error="no"))
    write(second, 0, reply("u"), reply("x"), sealed=False)
    index.mkdir()
    write_index(index, [first, second, tmp_path / "none"], "s")
    earlier = EarlierAnswers(index, "s")
    assert list(earlier.find(["x"])) == [reply("x")]  # once, although two states have it
    assert list(earlier.find(["z", "u"])) == [reply("y", "z"), reply("u")]
    assert list(earlier.find(["v", "w", "nothing"])) == []  # other settings, and no answer
    assert list(earlier.find([])) == []


def test_files_that_were_removed_or_damaged_have_no_answers(tmp_path: Path) -> None:
    state, index = tmp_path / "a", tmp_path / "index"
    write(state, 0, reply("x"))
    write(state, 1, reply("y"))
    (state / ANSWERS / "000001.gz").write_bytes(b"damaged")
    index.mkdir()
    write_index(index, [state], "s")
    assert list(EarlierAnswers(index, "s").find(["x", "y"])) == [reply("x")]
    (state / ANSWERS / "000000.gz").unlink()
    assert list(EarlierAnswers(index, "s").find(["x", "y"])) == []
    assert list(EarlierAnswers(tmp_path, "s").find(["x"])) == []  # no index


def test_an_index_is_written_again_if_the_files_change(tmp_path: Path) -> None:
    write(tmp_path / "a", 0, reply("x"))
    write_index(tmp_path, [tmp_path / "a"], "s")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("earlier*")}
    write_index(tmp_path, [tmp_path / "a"], "s")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("earlier*")} == before
    opened = EarlierAnswers(tmp_path, "s")
    write(tmp_path / "b", 0, reply("y"))
    write_index(tmp_path, [tmp_path / "b", tmp_path / "a"], "s")
    assert list(EarlierAnswers(tmp_path, "s").find(["x", "y"])) == [reply("y"), reply("x")]
    assert list(opened.find(["x", "y"])) == [reply("x")]
    assert len(list(tmp_path.glob("earlier*"))) == 2
    write_index(tmp_path, [], "s")
    assert list(EarlierAnswers(tmp_path, "s").find(["x", "y"])) == []


def test_an_index_can_be_moved_with_its_files(tmp_path: Path) -> None:
    run, index = tmp_path / "run", tmp_path / "run/distill/answers"
    write(run / "distill.previous", 0, reply("x"))
    index.mkdir(parents=True)
    write_index(index, [run / "distill.previous"], "s")
    moved = run.rename(tmp_path / "moved")
    assert list(EarlierAnswers(moved / "distill/answers", "s").find(["x"])) == [reply("x")]
