"""Error messages for a path that a command does not expect: what the path is, and which command takes it."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from bad_input import message_of, unharmed
from tiny_pipeline import kdmt

from kdmt.errors import UserError
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.recognition import describe_path

TINY = Path("runs/tiny")
TEACHER = TINY / "teacher"
NO_CHECKPOINT = "neither a checkpoint folder nor a run that has one"


def _write_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Write files of many kinds and return the path of each with its expected description."""
    torch.save({"model": {}}, folder / "new.pt")
    torch.save({"model": {}}, folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"model": {}}, folder / "without_ending")
    (folder / "cut.pt").write_bytes((folder / "new.pt").read_bytes()[:200])
    (folder / "plain.pickle").write_bytes(pickle.dumps([1]))
    (folder / "text.gz").write_bytes(gzip.compress(b"a"))
    with zipfile.ZipFile(folder / "text.zip", "w") as archive:
        archive.writestr("a", "b")
    with tarfile.open(folder / "text.tar", "w") as tar:
        tar.add(folder / "text.gz")
    (folder / "random").write_bytes(bytes(range(256)) * 20)
    (folder / "zeros").write_bytes(bytes(5000))
    (folder / "utf16").write_text("hello", encoding="utf-16")
    (folder / "long.de").write_text("grün\n" * 2000, encoding="utf-8")
    (folder / "some.json").write_text('{"a": 1}', encoding="utf-8")
    (folder / "news.sgm").write_text("<srcset>", encoding="utf-8")
    (folder / "empty").touch()
    os.mkfifo(folder / "pipe")
    descriptions = {
        **dict.fromkeys(("new.pt", "old.pt", "without_ending", "cut.pt", "plain.pickle"), "kdmt import-checkpoint {}"),
        "text.gz": "a gzip archive",
        "text.zip": "a zip archive",
        "text.tar": "a tar archive",
        **dict.fromkeys(("random", "zeros"), "a binary file"),
        "utf16": "text in UTF-16",
        "long.de": "a text file",
        "some.json": "a JSON file",
        "news.sgm": "an XML, SGML or HTML file",
        "empty": "an empty file",
        "pipe": "a pipe",
        "nothing": "no such file or folder",
    }
    return {name: (folder / name, text.format(folder / name)) for name, text in descriptions.items()}


def test_files_are_recognised_by_their_content(tmp_path: Path) -> None:
    for path, text in _write_files(tmp_path).values():
        assert text in describe_path(path), path
        with pytest.raises(UserError) as refused:
            resolve_checkpoint(path)
        assert str(refused.value) == f"{path}: {NO_CHECKPOINT}: {describe_path(path)}"
    (tmp_path / "long.de").chmod(0)
    if not os.access(tmp_path / "long.de", os.R_OK):  # not for the superuser
        assert describe_path(tmp_path / "long.de") == "it cannot be read (Permission denied)"


@pytest.mark.parametrize("content", ["../../x", "a/b", "/etc", "a\nb", "", "checkpoint_1\0", "nothing", "x" * 300])
def test_a_pointer_holds_a_name_in_its_own_folder(tmp_path: Path, content: str) -> None:
    (tmp_path / "best").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"best: {NO_CHECKPOINT}"):
        resolve_checkpoint(tmp_path / "best")


def test_a_pointer_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "best").write_text("best\n", encoding="utf-8")
    with pytest.raises(UserError, match=NO_CHECKPOINT):
        resolve_checkpoint(tmp_path)


@pytest.mark.usefixtures("finished")
def test_every_command_describes_an_unexpected_path(tmp_path: Path) -> None:
    """Check the messages for outputs of one command that are given to another."""
    assert kdmt("export", TEACHER, "ct2", "--to", "ctranslate2").code == 0
    assert kdmt("export", TEACHER, "teacher.pt", "--to", "fairseq").code == 0
    (tmp_path / "empty").mkdir()
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "config.json").write_text(json.dumps({"model_type": "marian"}), encoding="utf-8")
    (hub / "model.safetensors").write_bytes((TEACHER / "average/model.safetensors").read_bytes())
    weights = TEACHER / "average/model.safetensors"
    stages, data_bin = TINY / "prepare", TINY / "prepare/data-bin"
    text, pipeline, checkpoint = Path("text/train.en"), Path("tiny.yaml"), TEACHER / "average"
    pieces = stages / "tokenizer/joint.model"
    dictionary = data_bin / "dict.en.txt"
    no_pipeline = {
        checkpoint: f"a checkpoint folder of kdmt's: 'kdmt translate {checkpoint}'",
        TEACHER: f"a training run: 'kdmt translate {TEACHER}'",
        Path("teacher.pt"): "kdmt import-checkpoint teacher.pt OUT --data DATA_BIN",
        data_bin: f"kdmt import-fairseq {data_bin} PIPELINE.yaml",
        hub: f"[{{huggingface: {hub}",
        text: "a text file",
        weights: f"a safetensors file, weights alone: give its folder, {weights.parent}",
    }
    no_checkpoint = {
        pipeline: "a pipeline: 'kdmt run tiny.yaml' runs it",
        Path("teacher.pt"): no_pipeline[Path("teacher.pt")],
        data_bin: no_pipeline[data_bin],
        stages: f"{data_bin} is its data-bin",
        TINY: f"it holds training runs: {TINY}/students/distilled/seed_1, ",
        TINY / "students": f"it holds training runs: {TINY}/students/distilled/seed_1, ",
        next(data_bin.glob("*.idx")): f"kdmt generate {data_bin}",
        next(data_bin.glob("*.bin")): f"kdmt generate {data_bin}",
        dictionary: f"a dictionary of fairseq's: give its folder, {data_bin}",
        pieces: "a SentencePiece model",
        hub: no_pipeline[hub],
        weights: no_pipeline[weights],
        tmp_path / "empty": "an empty folder",
    }
    no_data_bin = {checkpoint: no_pipeline[checkpoint], pipeline: no_checkpoint[pipeline], TINY: "training runs"}
    commands = [
        (("translate",), no_checkpoint, ()),
        (("rescore",), no_checkpoint, (text, text)),
        (("export", "--to", "ctranslate2"), no_checkpoint | {Path("ct2"): "'kdmt translate ct2' runs it"}, ("new",)),
        (("prepare",), no_pipeline, ()),
        (("import-fairseq",), no_data_bin, ("new.yaml",)),
        (("generate",), no_data_bin, ("--path", checkpoint)),
        (("generate", data_bin, "--path"), {pipeline: no_checkpoint[pipeline], TINY: no_checkpoint[TINY]}, ()),
        (
            ("import-checkpoint", "--data", data_bin),
            {checkpoint: "checkpoint folder of kdmt's", text: "a text"},
            ("o",),
        ),
    ]
    with unharmed():
        for before, cases, after in commands:
            for path, description in cases.items():
                message = message_of(kdmt(*before, path, *after))
                assert message.startswith(f"{path}: "), (before, message)
                assert description in message, (before, message)
    for new in ("new", "new.yaml", "o"):
        assert not Path(new).exists()


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    "setting",
    [
        "students.raw.train.init_from={}",
        "distill.teachers=[{}]",
        "distill.reverse={{checkpoint: {}}}",
        "students.raw.word_kd={{teachers: [{}]}}",
    ],
)
def test_settings_describe_an_unexpected_checkpoint_path(setting: str) -> None:
    command = "distill" if setting.startswith("distill") else "student"
    for path, description in (("tiny.yaml", "it is a pipeline"), ("runs/tiny/prepare", "is its data-bin")):
        message = message_of(kdmt(command, "tiny.yaml", "--set", setting.format(path)))
        assert message.startswith(f"{path}: {NO_CHECKPOINT}: "), message
        assert description in message
