"""Tests of `kdmt trim`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from trimmed_models import latin_lines, save_bilingual, save_checkpoint_of_both, write_text

from kdmt.cli import main
from kdmt.models.checkpoint import load_model

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bilingual("nllb", tmp_path_factory.mktemp("models") / "nllb").folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["kdmt", "trim", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_sizes_are_printed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = write_text(tmp_path / "text.txt", latin_lines(20, seed=1)), tmp_path / "out"
    assert run(monkeypatch, model, "--text", text, "--text", text, "--languages", "en, de", "--to", out) == 0
    before, after, share, path = capsys.readouterr().out.splitlines()
    assert before.startswith("before: ")
    assert after.startswith("after: ")
    assert " tokens, " in after
    assert share.endswith("tokens of the text kept (100.00%)")
    assert path == str(out)
    assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-count", "2", "--vocab-size", "90"], "--min-count and --vocab-size: give one of them"),
        (["--languages", "en,,de"], "--languages 'en,,de': write codes with commas between them"),
        (["--languages", "en,xy"], "does not know 'xy'"),
    ],
    ids=["both", "commas", "language"],
)
def test_bad_options_end_with_one_message_and_code_2(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    text, out = write_text(tmp_path / "text.txt", latin_lines(20, seed=1)), tmp_path / "out"
    assert run(monkeypatch, model, "--text", text, "--to", out, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_folder_without_a_model_is_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    text = write_text(tmp_path / "text.txt", ["ba"])
    assert run(monkeypatch, tmp_path / "empty", "--text", text, "--to", tmp_path / "out") == 2
    assert "it is an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["run/checkpoint_5", "run/best", "run"], ids=["folder", "pointer", "run"])
def test_checkpoint_is_trimmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    folder, out = save_checkpoint_of_both(tmp_path), tmp_path / "out"
    (tmp_path / "run").mkdir()
    folder.rename(tmp_path / "run" / "checkpoint_5")
    (tmp_path / "run" / "best").write_text("checkpoint_5\n", encoding="utf-8")
    (tmp_path / "run" / "config.json").write_text('{"model": {}}', encoding="utf-8")  # settings of the training
    text = write_text(tmp_path / "text.txt", latin_lines(20, seed=1))
    assert run(monkeypatch, tmp_path / path, "--text", text, "--languages", "en,de", "--to", out) == 0
    assert capsys.readouterr().out.endswith(f"{out}\n")
    assert load_model(out).src_vocab_size < load_model(tmp_path / "run" / "checkpoint_5").src_vocab_size
