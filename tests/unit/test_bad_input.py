"""Bad input through the command line: exit code 2, one clear message, no traceback, and no change to existing files."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_input import change, refused, unharmed
from tiny_pipeline import hash_tree, kdmt, read_lines, run_stages, write_lines

from kdmt.corpus import download

TINY = Path("runs/tiny")
RAW = TINY / "students/raw/seed_1"


IN_PROGRESS = ("tiny/prepare.partial/", "downloads/")


# ----------------------------------------------------------------------------------------------------------- raw text


@pytest.mark.usefixtures("finished")
def test_source_and_target_of_different_length_are_refused() -> None:
    path = Path("text/train.de")
    write_lines(path, [*read_lines(path), "ok", "uk"])
    with unharmed(*IN_PROGRESS):
        message = refused("prepare", "tiny.yaml")
    assert message == "prepare.train.0: text/train.en has 80 lines, text/train.de has 82: they are no pairs"


@pytest.mark.usefixtures("finished")
def test_a_missing_file_is_refused() -> None:
    Path("text/valid.en").unlink()
    with unharmed(*IN_PROGRESS):
        message = refused("prepare", "tiny.yaml", sets=("prepare.clean.max_words=99",))
    assert message == "text/valid.en: there is no such file"


@pytest.mark.usefixtures("pipeline")
def test_a_missing_pipeline_is_refused() -> None:
    assert refused("prepare", "tyni.yaml") == "tyni.yaml: there is no such pipeline file"
    assert not Path("runs").exists()


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(("name", "line"), [("train.de", 7), ("test.en", 2)])
def test_invalid_utf8_is_refused_where_malformed_rows_are(name: str, line: int) -> None:
    path = Path("text") / name
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = b"caf\xe9"  # Latin-1
    path.write_bytes(b"\n".join(lines))
    with unharmed(*IN_PROGRESS):
        result = kdmt("prepare", "tiny.yaml", "--set", "prepare.train.0.malformed=error")
    assert result.code == 2
    setting = {"train.de": "train.0", "test.en": "test.test"}[name]
    assert result.err.endswith(f"kdmt: error: prepare.{setting}: text/{name} line {line}: not UTF-8\n")


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(("split", "setting"), [("train", "train.0"), ("valid", "valid"), ("test", "test.test")])
def test_an_empty_corpus_is_refused(split: str, setting: str) -> None:
    for lang in ("en", "de"):
        Path(f"text/{split}.{lang}").write_bytes(b"")
    with unharmed(*IN_PROGRESS):
        message = refused("prepare", "tiny.yaml")
    assert message == f"prepare.{setting}: text/{split}.en and text/{split}.de: the corpus is empty"


@pytest.mark.usefixtures("finished")
def test_a_corpus_without_pairs_after_filtering_is_refused() -> None:
    with unharmed(*IN_PROGRESS):
        message = refused("prepare", "tiny.yaml", sets=("prepare.clean={min_words: 100}",))
    assert re.fullmatch(
        r"cleaning leaves none of 80 training pairs; dropped: min_words 80 \(100%\); "
        r"min_words dropped '[a-z ]+' -> '[a-z ]+', for example",
        message,
    )


@pytest.mark.usefixtures("finished")
def test_a_corpus_of_pairs_too_long_for_training_is_refused() -> None:
    with unharmed():
        message = refused("student", "tiny.yaml", sets=("students.raw.train.max_source_tokens=2",))
    assert message == "no pair is within train.max_source_tokens and train.max_target_tokens"


@pytest.mark.usefixtures("finished")
def test_a_pair_larger_than_a_batch_is_refused() -> None:
    with unharmed():
        message = refused("student", "tiny.yaml", sets=("students.raw.train.max_tokens=5",))
    assert "tokens, more than max_tokens 5: raise max_tokens or lower max_source_tokens" in message


@pytest.mark.usefixtures("finished")
def test_a_wrong_sha256_is_refused() -> None:
    found = hashlib.sha256(Path("text/train.en").read_bytes()).hexdigest()
    change(lambda document: document["prepare"]["train"][0]["source"].update(sha256="0" * 64))
    with unharmed(*IN_PROGRESS):
        message = refused("prepare", "tiny.yaml")
    assert message == f"text/train.en: the sha256 is {found}, expected {'0' * 64}"


@pytest.mark.usefixtures("finished")
def test_an_unknown_language_is_refused() -> None:
    with unharmed():
        for command in ("prepare", "teacher", "score"):
            message = refused(command, "tiny.yaml", sets=("target_lang=deutsch",))
            assert message == "tiny.yaml: 'target_lang': 'deutsch' is no ISO 639 or BCP 47 language code"


# ---------------------------------------------------------------------------------------------------------- downloads


@contextmanager
def serving(body: bytes, *, announced: int) -> Iterator[str]:
    """Serve `body` on the loopback interface with a Content-Length of `announced` bytes, then close the connection."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(announced))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/train.en.gz"
        httpd.shutdown()
        thread.join()


def take_source_from(url: str, sha256: str) -> None:
    change(lambda document: document["prepare"]["train"][0].update(source={"url": url, "sha256": sha256}))


@pytest.mark.usefixtures("finished")
def test_a_truncated_download_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "_WAITS_SECONDS", (0.01, 0.02, 0.03))
    whole = gzip.compress(Path("text/train.en").read_bytes())
    with serving(whole[:100], announced=len(whole)) as url:
        take_source_from(url, hashlib.sha256(whole).hexdigest())
        with unharmed(*IN_PROGRESS):
            message = refused("prepare", "tiny.yaml")
    assert (
        message == f"prepare.train.0: {url}: truncated, 100 of {len(whole)} bytes came; they are kept, a rerun resumes"
    )
    with serving(whole, announced=len(whole)) as again:  # from another location, but with the same content
        take_source_from(again, hashlib.sha256(whole).hexdigest())
        run_stages("prepare")
    assert read_lines(TINY / "prepare/train.en") == read_lines(Path("text/train.en"))


@pytest.mark.usefixtures("finished")
def test_a_download_with_other_content_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    page = b"<html>moved</html>"
    with serving(page, announced=len(page)) as url:
        take_source_from(url, "0" * 64)
        with unharmed(*IN_PROGRESS):
            message = refused("prepare", "tiny.yaml")
    found = hashlib.sha256(page).hexdigest()
    kept = Path(f"runs/downloads/{found[:16]}-train.en.gz")
    assert message == (
        f"prepare.train.0: {url}: the sha256 of what came is {found}, expected {'0' * 64}; it is kept as {kept}, "
        "where it is found if you correct the sha256"
    )
    assert list(Path("runs/downloads").iterdir()) == [kept]


# ---------------------------------------------------------------------------------------------------------- full disks


def fill_disk_at(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Open `/dev/full`, which behaves like a full disk, when a file of this name is written."""
    real = Path.open

    def open_full(path: Path, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        full = fnmatch(path.name, name) and "w" in mode
        return real(Path("/dev/full") if full else path, mode, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", open_full)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.usefixtures("finished")
def test_a_full_disk_while_a_block_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    made = hash_tree(TINY / "distill")
    sets = ("distill.decode.max_len_b=6",)
    with monkeypatch.context() as patch, unharmed("tiny/distill"):
        fill_disk_at(patch, ".partial-*-000002.gz")
        message = refused("distill", "tiny.yaml", sets=sets)
    block = TINY / "distill/blocks/000002.gz"
    assert message == f"{block}: the disk is full; earlier blocks are kept, run it again to go on"
    assert hash_tree(TINY / "distill.previous") == made
    assert sorted(path.name for path in block.parent.iterdir()) == ["000000.gz", "000001.gz"]
    kept = {path: path.stat().st_ino for path in block.parent.iterdir()}
    assert "distill: going on: " in run_stages("distill", sets=sets)[0].err
    assert {path: path.stat().st_ino for path in kept} == kept  # the earlier ones were not written again
    assert block.is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.usefixtures("finished")
def test_a_full_disk_while_a_checkpoint_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("students.raw.train.max_updates=8",)
    with monkeypatch.context() as patch, unharmed("tiny/students/raw/seed_1/"):
        kept = {name: sha for name, sha in hash_tree(RAW).items() if name.startswith("checkpoint_")}
        fill_disk_at(patch, ".partial-training_state.json")
        message = refused("student", "tiny.yaml", "--student", "raw", sets=sets)
    assert message.endswith(": the disk is full")
    assert kept.items() <= hash_tree(RAW).items()
    assert "going on from checkpoint_4" in run_stages("student", sets=sets)[0].err


# ------------------------------------------------------------------------------------------- vocabularies and training


def other_vocabulary() -> None:
    """Prepare the same text again with a vocabulary of other symbols."""
    change(lambda document: document["prepare"]["tokenizer"].update(vocab_size=29))
    run_stages("prepare")


@pytest.mark.usefixtures("finished")
def test_an_initial_checkpoint_of_another_vocabulary_is_refused() -> None:
    (TINY / "teacher").rename("old")
    other_vocabulary()
    with unharmed():
        message = refused("student", "tiny.yaml", sets=("students.raw.train.init_from=old/average",))
    assert message.startswith("old/average/dict.en.txt does not match runs/tiny/prepare/dict.en.txt: ")
    assert " symbols against " in message


@pytest.mark.usefixtures("finished")
def test_an_initial_checkpoint_of_another_shape_is_refused() -> None:
    with unharmed():
        message = refused(
            *("student", "tiny.yaml"),
            sets=("students.raw.train.init_from=runs/tiny/teacher/average", "students.raw.model.encoder_layers=2"),
        )
    assert message.startswith("runs/tiny/teacher/average/model.safetensors: does not fit the model: encoder_layers.1.")


@pytest.mark.usefixtures("finished")
def test_layers_of_a_teacher_of_another_vocabulary_are_refused() -> None:
    """Check that nothing is taken from a teacher with another vocabulary, which is then out of date."""
    other_vocabulary()
    with unharmed():
        message = refused("student", "tiny.yaml", sets=("students.raw.encoder_layers_from_teacher=[0]",))
    assert message.startswith("teacher is not up to date: the input prepare/data-bin/")
    assert "the input prepare/dict.de.txt changed" in message


@pytest.mark.usefixtures("finished")
def test_layers_of_a_teacher_with_an_exchanged_dictionary_are_refused() -> None:
    path = TINY / "teacher/average/dict.de.txt"
    lines = read_lines(path)
    write_lines(path, [lines[1], lines[0], *lines[2:]])
    with unharmed():
        message = refused("student", "tiny.yaml", sets=("students.raw.encoder_layers_from_teacher=[0]",))
    assert message == (
        "runs/tiny/teacher/average/dict.de.txt does not match runs/tiny/prepare/dict.de.txt: "
        f"{len(lines) + 4} symbols against {len(lines) + 4}, different from symbol 4 on"
    )


def raw_train(*settings: str) -> tuple[str, ...]:
    return tuple(f"students.raw.train.{setting}" for setting in settings)


@pytest.mark.usefixtures("finished")
def test_a_loss_that_becomes_nan_stops_training() -> None:
    """Check that a loss that becomes NaN stops training: the second update has a third of the learning rate 1e30."""
    sets = raw_train("lr=1.0e+30", "warmup_updates=3", "save_interval_updates=1", "validate_interval_updates=9")
    with unharmed("tiny/students/raw/"):
        message = refused("student", "tiny.yaml", "--student", "raw", sets=sets)
    assert message.startswith("update 3 (epoch 1, batch 3): the term 'loss' of the loss is not finite. ")
    assert f"The last good checkpoint is {RAW}/checkpoint_1; try a lower 'train.lr'" in message
    assert (RAW.with_name("seed_1.previous") / "manifest.json").is_file()
    assert not (RAW / "manifest.json").exists()
    from kdmt.models.checkpoint import load_model

    weights = load_model(RAW / "checkpoint_1").state_dict().values()
    assert all(torch.isfinite(value).all() and value.abs().max() < 100 for value in weights)
    (RAW / "checkpoint_1").rename("good")
    lower = [part for setting in raw_train("init_from=good") for part in ("--set", setting)]
    assert kdmt("student", "tiny.yaml", "--student", "raw", *lower).code == 0


@pytest.mark.usefixtures("finished")
def test_a_validation_loss_of_nan_stops_without_a_checkpoint() -> None:
    sets = raw_train("lr=1.0e+30", "warmup_updates=3")
    message = refused("student", "tiny.yaml", "--student", "raw", sets=sets)
    assert message == "update 2: the validation loss is not finite"
    assert not list(RAW.glob("checkpoint_*"))  # no checkpoint is saved


# ------------------------------------------------------------------------------------------------------ damaged files


@pytest.mark.usefixtures("finished")
def test_a_damaged_teacher_is_refused() -> None:
    path = TINY / "teacher/average/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with unharmed():
        message = refused("distill", "tiny.yaml")
    assert message.startswith("teacher is not up to date: its output average/model.safetensors was changed. ")


@pytest.mark.usefixtures("finished")
def test_a_record_of_invalid_json_is_refused() -> None:
    (TINY / "prepare/manifest.json").write_text("{", encoding="utf-8")
    with unharmed():
        assert refused("prepare", "tiny.yaml") == "runs/tiny/prepare/manifest.json: not valid JSON"


def test_an_unknown_command_refers_to_the_help() -> None:
    result = kdmt("prepaer", "x.yaml")
    assert result.code == 2
    assert "No such command 'prepaer'" in result.err
    assert "Traceback" not in result.err
    assert json.dumps(result.out) == '""'
