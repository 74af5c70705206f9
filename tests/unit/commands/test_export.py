"""Tests of `kdmt export`: the command uses the table of exporters."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input import message_of
from tiny_pipeline import hash_tree, kdmt

from kdmt.interop import exporters
from kdmt.interop.exporters import EXPORTERS, Exporter, ExportOptions
from kdmt.models.checkpoint_folder import resolve_checkpoint

TEACHER = Path("runs/tiny/teacher")


def test_the_help_names_every_exporter() -> None:
    text = kdmt("export", "--help").out
    assert f"[{'|'.join(EXPORTERS)}]" in text
    words = " ".join(text.split()).replace("- ", "-")  # a line may end after a hyphen
    assert all(f"{name} for {exporter.models}" in words for name, exporter in EXPORTERS.items())


@pytest.mark.usefixtures("finished")
def test_an_unknown_toolkit_is_refused_with_the_known_ones() -> None:
    before = hash_tree(Path())
    result = kdmt("export", TEACHER, "out", "--to", "tflite")
    assert result.code == 2
    assert f"'tflite' is not one of {', '.join(map(repr, EXPORTERS))}" in " ".join(result.err.split())
    assert hash_tree(Path()) == before


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("name", [name for name, each in EXPORTERS.items() if "int8" not in each.quantizations])
def test_a_quantization_that_a_toolkit_does_not_have_is_refused(name: str) -> None:
    message = message_of(kdmt("export", TEACHER, "out", "--to", name, "--quantization", "int8"))
    assert message == f"--quantization int8: {EXPORTERS[name].label} models are float32"
    assert not Path("out").exists()


@pytest.mark.usefixtures("finished")
def test_the_command_prints_format_quantization_and_path() -> None:
    result = kdmt("export", TEACHER, "out", "--to", "ctranslate2", "--quantization", "int8")
    assert (result.code, result.out) == (0, "ctranslate2 model, int8: out\n")


@pytest.mark.usefixtures("finished")
def test_the_command_names_the_checkpoint_of_a_run_that_it_opened() -> None:
    opened = resolve_checkpoint(TEACHER / "auto")
    result = kdmt("export", TEACHER, "out", "--to", "ctranslate2")
    assert (result.code, result.err.partition(" (")[0].strip()) == (0, f"{TEACHER}: opened {opened}")


def test_an_exporter_that_is_added_to_the_table_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Path, Path, ExportOptions]] = []
    monkeypatch.setitem(exporters.EXPORTERS, "mine", Exporter("Mine", "all", lambda *given: seen.append(given)))
    result = kdmt("export", tmp_path / "model", tmp_path / "out", "--to", "mine", "--beam", "2", "--lenpen", "0.5")
    assert result.code == 0, result.err
    assert seen == [(tmp_path / "model", tmp_path / "out", ExportOptions("float32", 2, 0.5))]
