"""Tests of preparations that are killed and go on: the same files as without an interruption."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tiny_pipeline import Finished, hash_tree, kdmt, make_pairs, read_lines, settings, to_yaml, write_lines
from tiny_prepare import MADE

from kdmt.corpus import clean, first_pass
from kdmt.stages import preparation, prepare_cleaning, prepare_partial, prepare_text, prepare_tokenizer, prepare_work

PARTIAL = MADE.with_name("prepare.partial")
GOES_ON = f"prepare: goes on with what a stopped run left in {PARTIAL}"


@pytest.fixture
def corpora(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder with a pipeline of all kinds of corpora, cleaned in many chunks."""
    monkeypatch.setattr(first_pass, "CHUNK_PAIRS", 40)
    monkeypatch.setattr(prepare_text, "CHUNK_LINES", 40)
    drawn = random.Random(5)
    for number in range(2):
        pairs = make_pairs(500, seed=10 + number)
        rows = [f"{source}\t{target}" for source, target in pairs]
        rows[7::50] = ["one column"] * len(rows[7::50])
        rows[9::40] = [f"\u200b{row} " for row in rows[9::40]]
        write_lines(Path(f"text/more{number}.tsv"), rows)
    write_lines(Path("text/mono.en"), [" ".join(drawn.choices(["ba", "be", "da", "gi"], k=4)) for _ in range(250)])
    write_lines(Path("text/mono.de"), [" ".join(drawn.choices(["ok", "uk", "rom"], k=3)) for _ in range(20)])
    document = settings()
    document["prepare"] |= {
        "train": [
            {"tsv": {"path": "text/more0.tsv"}, "weight": 2},
            *document["prepare"]["train"],
            {"tsv": {"path": "text/more1.tsv"}, "tag": "<bt>"},
        ],
        "monolingual": [{"path": "text/mono.en"}],
        "monolingual_target": [{"path": "text/mono.de"}],
        "text": {"lowercase": True},
        "tokenizer": {"type": "subword-nmt", "model": "bpe", "vocab_size": 40},
    }
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    return pipeline


@pytest.fixture
def undisturbed(corpora: Path) -> dict[str, str]:
    """Return the hashes of the files of a run without interruption."""
    assert kdmt("prepare", "tiny.yaml", "--runs", "undisturbed").code == 0
    assert corpora.is_dir()
    return hash_tree(Path("undisturbed") / MADE.relative_to("runs"))


def _prepare_in_child(arguments: tuple[str, ...]) -> None:
    finished = kdmt("prepare", "tiny.yaml", *arguments)
    os._exit(finished.code)


def kill_at(ready: Callable[[], bool], seconds: float, arguments: tuple[str, ...] = ()) -> bool:
    """Run prepare in a child process, and kill it some time after `ready` is true; return whether it was killed."""
    child = multiprocessing.get_context("fork").Process(target=_prepare_in_child, args=(arguments,))
    child.start()
    assert child.pid is not None
    while child.is_alive() and not ready():
        time.sleep(0.001)
    child.join(seconds)
    is_killed = child.is_alive()
    if is_killed:
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert is_killed or child.exitcode == 0
    return is_killed


@pytest.mark.parametrize(
    ("kills", "workers"),
    [(3, 1), pytest.param(20, 1, marks=pytest.mark.slow), pytest.param(6, 2, marks=pytest.mark.slow)],
)
def test_a_killed_preparation_gives_the_same_files(undisturbed: dict[str, str], kills: int, workers: int) -> None:
    seed = time.time_ns() % 1_000_000
    print(f"moments of seed {seed}")
    moments = random.Random(seed)
    started = time.monotonic()
    workers_set = ("--set", f"prepare.workers={workers}")
    assert kdmt("prepare", "tiny.yaml", "--runs", "timed", *workers_set).code == 0
    duration = time.monotonic() - started
    num_killed = 0
    for _ in range(kills):
        num_killed += kill_at((PARTIAL / "plan.json").exists, moments.uniform(0.0, 1.5 * duration / kills), workers_set)
        if MADE.exists():
            # config.json has the number of workers
            assert hash_tree(MADE) | {"config.json": ""} == undisturbed | {"config.json": ""}
            shutil.rmtree(MADE)
    assert num_killed
    assert kdmt("prepare", "tiny.yaml").code == 0
    assert hash_tree(MADE) == undisturbed
    assert not PARTIAL.exists()


@pytest.fixture
def steps() -> list[str]:
    """Return the names of the records in the order in which they appear in `PARTIAL`."""
    texts = ["text.train.en", "text.monolingual.en", "text.monolingual.de", "text.train.de"]
    return ["train", "monolingual", "monolingual_target", *texts, "tokenizer"]


def test_every_step_is_resumed_after_its_record(
    undisturbed: dict[str, str], steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill the process at each record; finished steps are not repeated."""
    for name in steps:
        assert kill_at((PARTIAL / "work" / "steps" / f"{name}.json").exists, 0.0), name
    works = [
        (prepare_cleaning, "clean_corpora"),
        (prepare_text, "_process_file"),
        (prepare_tokenizer, "train_tokenizer"),
    ]
    for module, function in works:
        monkeypatch.setattr(module, function, _interrupt)  # they are not called any more
    result = kdmt("prepare", "tiny.yaml")
    assert GOES_ON in result.err
    assert hash_tree(MADE) == undisturbed


def test_finished_chunks_are_not_cleaned_again(undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    real, num_cleaned = clean.clean_chunk, 0

    def interrupted(chunk: first_pass.RawChunk, **values: object) -> first_pass.CleanedChunk:
        nonlocal num_cleaned
        num_cleaned += 1
        if num_cleaned in (12, 20, 35):
            raise KeyboardInterrupt
        return real(chunk, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(clean, "clean_chunk", interrupted)
    for _ in range(3):
        assert kdmt("prepare", "tiny.yaml").code == 130
    assert kdmt("prepare", "tiny.yaml").code == 0
    assert num_cleaned == 3 + 13 + 2 + 13 + 7 + 1  # each chunk once, and three that were interrupted
    assert hash_tree(MADE) == undisturbed


def interrupted_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a folder with finished chunks."""
    with monkeypatch.context() as patch:
        patch.setattr(prepare_work, "process_text", _interrupt)
        assert kdmt("prepare", "tiny.yaml").code == 130
    assert PARTIAL.is_dir()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["--set", "prepare.clean.max_words=5"], "as the setting prepare.clean changed"),
        (["--set", "prepare.train.0.weight=1"], "as the setting prepare.train changed"),
    ],
)
def test_work_of_other_settings_is_discarded(
    corpora: Path, monkeypatch: pytest.MonkeyPatch, change: list[str], reason: str
) -> None:
    interrupted_run(monkeypatch)
    result = kdmt("prepare", "tiny.yaml", *change)
    assert f"begins again, {reason.rpartition(' ')[0]}" in result.err
    assert f"what a stopped run left in {PARTIAL} is removed" in result.err
    assert kdmt("prepare", "tiny.yaml", *change, "--runs", "afresh").code == 0
    assert hash_tree(MADE) == hash_tree(Path("afresh/tiny/prepare"))
    assert corpora.is_dir()


def test_work_from_other_text_is_discarded(corpora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_run(monkeypatch)
    with Path("text/more1.tsv").open("a") as file:
        file.write("ba ba ba\tok ok ok\n")
    result = kdmt("prepare", "tiny.yaml")
    assert "begins again, as the input text/more1.tsv changed" in result.err
    assert corpora.is_dir()


@pytest.mark.parametrize("library", ["sentencepiece", "ftfy"])
def test_work_of_another_version_is_discarded(corpora: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    interrupted_run(monkeypatch)
    path = PARTIAL / "work" / "versions.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {library: "0.1"}))
    assert f"begins again, as the version of {library} changed" in kdmt("prepare", "tiny.yaml").err
    assert corpora.is_dir()


@pytest.mark.parametrize("name", ["work/clean/train.en", "train.tags"])
def test_a_step_whose_file_was_lost_in_part_is_repeated(
    undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    interrupted_run(monkeypatch)
    path = PARTIAL / name
    path.write_bytes(path.read_bytes()[:50])
    assert GOES_ON in kdmt("prepare", "tiny.yaml").err
    assert hash_tree(MADE) == undisturbed


@pytest.mark.parametrize("damage", ["{", "[]", None])
def test_damaged_records_of_the_folder_do_no_harm(
    undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch, damage: str | None
) -> None:
    interrupted_run(monkeypatch)
    path = PARTIAL / "work" / "versions.json"
    path.write_text(damage) if damage is not None else path.unlink()
    result = kdmt("prepare", "tiny.yaml")
    assert f"begins again; what a stopped run left in {PARTIAL} is removed" in result.err
    assert hash_tree(MADE) == undisturbed


def test_a_complete_folder_is_only_renamed(undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(prepare_work, "move_aside", _interrupt)
        assert kdmt("prepare", "tiny.yaml").code == 130
    monkeypatch.setattr(prepare_work, "_fill", _interrupt)
    result: Finished = kdmt("prepare", "tiny.yaml")
    assert result.code == 0
    assert hash_tree(MADE) == undisturbed


# -------------------------------------------------------------------------------------------------------------- shards


def shard(number: int, count: int = 3, *arguments: str) -> Finished:
    return kdmt("prepare", "tiny.yaml", "--shard", f"{number}/{count}", *arguments)


def test_shards_in_any_order_and_an_interruption_give_the_same_files(
    undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, num_cleaned = clean.clean_chunk, 0

    def interrupted(chunk: first_pass.RawChunk, **values: object) -> first_pass.CleanedChunk:
        nonlocal num_cleaned
        num_cleaned += 1
        if num_cleaned == 15:
            raise KeyboardInterrupt
        return real(chunk, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(clean, "clean_chunk", interrupted)
    first = shard(2)
    assert first.code == 0, first.err
    assert "prepare: starting" in first.err
    # 28, 7 and 1 chunks of 40 lines
    assert "prepare: the 11 chunks of shard 2 of 3 are there; without --shard" in first.err
    assert shard(0).code == 130
    assert not MADE.exists()
    second = shard(0)
    assert "the 14 chunks of shard 0 of 3 are there" in second.err
    assert "starting" not in second.err
    assert num_cleaned == 11 + 14 + 1
    assert kdmt("prepare", "tiny.yaml").code == 0
    assert num_cleaned == 11 + 14 + 1 + 11
    assert hash_tree(MADE) == undisturbed
    assert not PARTIAL.exists()
    assert "prepare: up to date, nothing to do" in shard(1).err


@pytest.mark.usefixtures("pipeline")
def test_shards_compare_text_that_is_already_processed_with_the_same_held_out_text() -> None:
    for lang, line in (("en", "ba d a ga na ma la"), ("de", "bi d i gi ni mi li")):
        path = Path(f"text/test.{lang}")
        write_lines(path, [line.replace("d ", "d\u00ad"), *read_lines(path)[1:]])
        path = Path(f"text/train.{lang}")
        write_lines(path, [f"{line} {line[:2]}", *read_lines(path)])
    document = settings()
    document["prepare"] |= {
        "text": {"moses": True, "already_applied": True},
        "decontaminate": {"ngram": 6},
        "clean": {"max_ratio": 0.0},
    }
    document["prepare"]["test"]["test"]["raw_target"] = {"path": "text/test.de"}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    assert kdmt("prepare", "tiny.yaml", "--runs", "undisturbed").code == 0
    assert shard(0, 1).code == 0
    assert kdmt("prepare", "tiny.yaml").code == 0
    assert hash_tree(MADE) == hash_tree(Path("undisturbed/tiny/prepare"))


def test_a_shard_after_the_cleaning_pass_does_nothing(
    undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shard(0).code == 0
    interrupted_run(monkeypatch)
    assert not (PARTIAL / "work/shards/train").exists()
    assert "prepare: everything is cleaned; without --shard the same command" in shard(1).err
    assert kdmt("prepare", "tiny.yaml").code == 0
    assert hash_tree(MADE) == undisturbed


@pytest.mark.usefixtures("corpora")
def test_a_shard_that_does_not_fit_the_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shard(0).code == 0
    before = hash_tree(PARTIAL)
    for refused, message in (
        (shard(1, 4), f"--shard: the chunks in {PARTIAL} are divided into 3 shards, not 4"),
        (shard(1, 3, "--set", "prepare.decontaminate=false"), "as the setting prepare.decontaminate changed"),
        (shard(1, 3, "--set", "prepare.clean.max_words=5"), "as the setting prepare.clean.max_words changed"),
    ):
        assert refused.code == 2
        assert message in refused.err
    monkeypatch.setattr(prepare_partial, "software_versions", lambda: {"sentencepiece": "0.1"})
    refused = shard(1)
    assert refused.code == 2
    assert f"{PARTIAL}: unfinished work that this shard cannot use, as the version of sentencepiece" in refused.err
    assert hash_tree(PARTIAL) == before
    assert kdmt("clean", "tiny.yaml", "prepare.partial", "--yes").code == 0
    assert shard(1, 4).code == 0


@pytest.mark.usefixtures("corpora")
def test_two_processes_do_not_make_the_same_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    inner: list[Finished] = []
    real = prepare_work.fetch_texts

    def start_others(work: preparation.Preparation) -> None:
        monkeypatch.setattr(prepare_work, "fetch_texts", real)
        inner.extend([shard(1), kdmt("prepare", "tiny.yaml"), shard(2)])
        real(work)

    monkeypatch.setattr(prepare_work, "fetch_texts", start_others)
    assert shard(1).code == 0
    assert [each.code for each in inner] == [2, 2, 0]
    assert "--shard 1/3: another process makes this shard" in inner[0].err
    assert "another process is at work on it" in inner[1].err


def _clean_shard_in_child(number: int, delay: float, arguments: tuple[str, ...]) -> None:
    time.sleep(delay)
    os._exit(shard(number, 3, *arguments).code)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_shards_at_once_and_killed_give_the_same_files(corpora: Path, workers: int) -> None:
    """Clean with rules, language identification and a filter; kill one of the shards, and restart another."""
    pytest.importorskip("py3langid")
    document = yaml.safe_load(Path("tiny.yaml").read_text(encoding="utf-8"))
    document["prepare"]["clean"] = {
        "rules": ["default", {"language": {"min": 0.01}}, {"alignment": {"drop_percent": 5}}],
        "near_duplicates": 0.9,
    }
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    assert kdmt("prepare", "tiny.yaml", "--runs", "undisturbed").code == 0
    undisturbed = hash_tree(Path("undisturbed/tiny/prepare"))
    dropped = json.loads(Path("undisturbed/tiny/prepare/report.json").read_text())["dropped"]
    assert dropped["language"]
    assert dropped["alignment"]
    seed = time.time_ns() % 1_000_000
    print(f"moments of seed {seed}")
    drawn = random.Random(seed)
    workers_set = ("--set", f"prepare.workers={workers}")
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        children = [
            context.Process(target=_clean_shard_in_child, args=(number, drawn.uniform(0.0, 0.3), workers_set))
            for number in range(3)
        ]
        for child in children:
            child.start()
        victim = children[drawn.randrange(3)]
        time.sleep(drawn.uniform(0.2, 2.0))
        victim.kill()
        for child in children:
            child.join()
        assert {child.exitcode for child in children} <= {0, -signal.SIGKILL}
        result = kdmt("prepare", "tiny.yaml")
        assert result.code == 0, result.err
        assert hash_tree(MADE) == undisturbed
        shutil.rmtree(MADE)
    assert corpora.is_dir()
