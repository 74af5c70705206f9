"""When the prepare stage is up to date, and which files a failure leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_pipeline import (
    TRAIN,
    hash_tree,
    kdmt,
    read_lines,
    run_stages,
    settings,
    to_yaml,
    write_lines,
)
from tiny_prepare import MADE, change, read_bin, words


@pytest.mark.usefixtures("pipeline")
def test_prepare_depends_on_content() -> None:
    run_stages("prepare")
    made = hash_tree(Path("runs"))
    for path in Path("text").iterdir():
        path.write_bytes(path.read_bytes())  # another modification time, the same content
    result = run_stages("prepare", sets=["prepare.workers=3", "teacher.train.lr=0.5"])[0]
    assert result.err == "prepare: up to date, nothing to do\n"
    assert hash_tree(Path("runs")) == made


@pytest.mark.usefixtures("pipeline")
def test_missing_text_is_needed_only_to_prepare_again() -> None:
    run_stages("prepare")
    Path("text/train.en").unlink()
    assert run_stages("prepare")[0].err == "prepare: up to date, nothing to do\n"


@pytest.mark.usefixtures("pipeline")
def test_a_restored_setting_restores_its_files() -> None:
    run_stages("prepare")
    made = hash_tree(MADE)
    run_stages("prepare", sets=["prepare.clean.max_ratio=8.0"])
    result = run_stages("prepare")[0]
    assert result.err.startswith("prepare: taken back from prepare.previous, which was made with these settings\n")
    assert hash_tree(MADE) == made


@pytest.mark.usefixtures("pipeline")
def test_a_given_vocabulary_is_copied() -> None:
    """Check a vocabulary for fine-tuning on other text: it is copied, with the symbols that the new text lacks."""
    run_stages("prepare")
    Path("given").mkdir()
    for name in ("tokenizer/joint.model", "dict.en.txt"):
        (MADE / name).rename(Path("given") / Path(name).name)
    dictionary = Path("given/dict.en.txt").read_bytes()
    for lang in ("en", "de"):
        path = Path(f"text/train.{lang}")
        write_lines(path, read_lines(path)[:40])
    change(tokenizer={"source_path": "given/joint.model"}, vocabulary={"source_path": "given/dict.en.txt"})
    run_stages("prepare")
    assert (MADE / "dict.de.txt").read_bytes() == (MADE / "data-bin/dict.en.txt").read_bytes() == dictionary
    assert [words(tokens) for tokens in read_bin("train", "de")] == read_lines(MADE / "train.de")


@pytest.mark.usefixtures("pipeline")
def test_a_changed_input_or_setting_is_named_and_the_last_state_kept() -> None:
    run_stages("prepare")
    made = hash_tree(MADE)
    path = Path("text/train.de")
    write_lines(path, ["rom ulp", *read_lines(path)[1:]])
    result = run_stages("prepare", sets=["prepare.clean.max_ratio=8.0"])[0]
    assert (
        "prepare: rebuilt: the setting prepare.clean.max_ratio changed from 3.0 to 8.0; the input text/train.de "
        "changed (the old one is kept as prepare.previous)\n"
    ) in result.err
    assert hash_tree(MADE.with_name("prepare.previous")) == made
    assert read_lines(MADE / "train.de")[0] == "rom ulp"


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("test.de", "text/test.en has 5 lines, text/test.de has 4"),  # read first
        ("train.de", "text/train.en has 80 lines, text/train.de has 79"),  # while cleaning
        ("vocab_size", "vocab_size 4000: too large for this text"),  # after cleaning
    ],
)
def test_a_failure_leaves_an_earlier_state_unchanged(broken: str, message: str) -> None:
    run_stages("prepare")
    made = hash_tree(MADE)
    sets = ["--set", "prepare.tokenizer.vocab_size=4000"] if broken == "vocab_size" else []
    if not sets:
        path = Path("text") / broken
        original = path.read_bytes()
        write_lines(path, read_lines(path)[:-1])
    result = kdmt("prepare", "tiny.yaml", *sets)
    assert result.code == 2
    assert message in result.err
    assert hash_tree(MADE) == made
    if not sets:
        path.write_bytes(original)
    assert run_stages("prepare")[0].err == "prepare: up to date, nothing to do\n"


@pytest.mark.usefixtures("pipeline")
def test_a_raw_reference_of_another_length_is_refused() -> None:
    document = settings()
    document["prepare"]["test"]["test"]["raw_target"] = {"path": "text/valid.de"}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    result = kdmt("prepare", "tiny.yaml")
    assert result.code == 2
    assert "text/valid.de has 6 lines, test has 5" in result.err
    assert not MADE.exists()


@pytest.mark.usefixtures("pipeline")
def test_limits_of_training_do_not_affect_prepare() -> None:
    for lang in ("en", "de"):
        path = Path(f"text/train.{lang}")
        write_lines(path, [*read_lines(path), " ".join(["ba" if lang == "en" else "ok"] * 200)])
    run_stages("prepare")
    assert len(read_lines(MADE / "train.en")[-1].split()) == 200 > TRAIN["max_source_tokens"]
