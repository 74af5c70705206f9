"""Tests of data/toy/generate.py and data/modes/generate.py as commands."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdmt.toy import modes, thai_letters

DATA = Path(__file__).parents[3] / "data"
GENERATE, GENERATE_MODES = DATA / "toy" / "generate.py", DATA / "modes" / "generate.py"


def test_command_writes_the_same_sentences_without_spaces(tmp_path: Path) -> None:
    sizes = ["--train", "60", "--valid", "20", "--test", "20"]
    assert run_generate("--out", str(tmp_path / "toy"), *sizes).returncode == 0
    arguments = ["--out", str(tmp_path / "thai"), *sizes, "--no-spaces"]
    made = run_generate(*arguments, "--statistics")
    assert made.returncode == 0, made.stderr
    assert re.search(r"^th: \d+ words", made.stdout, re.MULTILINE)
    for split in ("train", "valid", "test"):
        plain, thai = (tmp_path / name for name in (f"toy/{split}.de", f"thai/{split}.th"))
        lines = thai.read_text(encoding="utf-8").splitlines()
        assert [thai_letters.restore_spaces(line) for line in lines] == plain.read_text(encoding="utf-8").splitlines()
        assert not any(" " in line for line in lines)
        assert (tmp_path / f"thai/{split}.en").read_bytes() == (tmp_path / f"toy/{split}.en").read_bytes()
    assert "up to date" in run_generate(*arguments).stdout
    assert "60 train" in run_generate(*arguments[:-1]).stdout  # a folder with the other form of the text is rebuilt


def test_command_writes_both_languages_of_known_modes(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--train", "60", "--valid", "20", "--test", "20"]
    made = run_generate(*arguments, script=GENERATE_MODES)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("60 train, 20 valid, 20 test pairs") == 2
    for name in ("two", "three"):
        pairs = [
            (tmp_path / name / f"train.{code}").read_text(encoding="utf-8").splitlines() for code in ("qaa", "qab")
        ]
        language = modes.LANGUAGES[name]
        assert all(modes.classify(language, *pair) == "valid" for pair in zip(*pairs, strict=True))
    assert run_generate(*arguments, script=GENERATE_MODES).stdout.count("up to date") == 2
    assert run_generate(*arguments, "--seed", "2", script=GENERATE_MODES).stdout.count("60 train") == 2


def test_command_refuses_a_file_as_its_folder(tmp_path: Path) -> None:
    (tmp_path / "two").write_text("")
    refused = run_generate("--out", str(tmp_path), script=GENERATE_MODES)
    assert refused.returncode == 2
    assert "is not a folder" in refused.stderr


def run_generate(*arguments: str, script: Path = GENERATE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_writes_once_and_restores_changed_files(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path / "toy"), "--train", "60", "--valid", "20", "--test", "20"]
    first = run_generate(*arguments, "--statistics")
    assert first.returncode == 0, first.stderr
    assert "60 train, 20 valid, 20 test pairs" in first.stdout
    assert "nats" in first.stdout
    manifest = json.loads((tmp_path / "toy" / "manifest.json").read_text())
    assert manifest["counts"] == {"train": 60, "valid": 20, "test": 20}
    assert manifest["seed"] == 1
    texts = {name: (tmp_path / "toy" / name).read_bytes() for name in manifest["sha256"]}
    assert {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()} == manifest["sha256"]
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == sorted([*texts, "manifest.json"])
    assert [texts[f"train.{side}"].count(b"\n") for side in ("en", "de")] == [60, 60]

    assert "up to date" in run_generate(*arguments).stdout
    (tmp_path / "toy" / "train.de").write_text("Etwas anderes.\n")
    assert "60 train" in run_generate(*arguments).stdout
    assert (tmp_path / "toy" / "train.de").read_bytes() == texts["train.de"]
    assert "60 train" in run_generate(*arguments, "--seed", "2").stdout
    assert (tmp_path / "toy" / "train.de").read_bytes() != texts["train.de"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "-1"], "--train"),
        (["--test", "1", "--statistics"], "--statistics"),
        (["--out", __file__], "folder"),
    ],
)
def test_bad_arguments_are_refused_with_one_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run_generate("--out", str(tmp_path / "toy"), *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
