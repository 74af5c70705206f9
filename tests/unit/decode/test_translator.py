"""`kdmt translate`: one line for one line whatever the lines hold, with a checkpoint folder alone."""

from __future__ import annotations

import gzip
import io
import shutil
from pathlib import Path

import pytest
from tiny_pipeline import Finished, hash_tree, kdmt, run_stages, settings, to_yaml

from kdmt.config import Decode
from kdmt.decode.translator import Translator, translate_stream
from kdmt.errors import UserError

TEACHER = Path("runs/tiny/teacher")
MAX_SOURCE_TOKENS = 64  # the tiny model's positions


def translate(stdin: bytes | str, *arguments: str, checkpoint: Path = TEACHER) -> Finished:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    return kdmt("translate", checkpoint, "--threads", "1", *arguments, stdin=data)


@pytest.mark.usefixtures("finished")
def test_one_line_for_one_line() -> None:
    lines = [
        *("ba be", "", "   ", "\t", "\u00a0\u3000", "\ufeff", "da"),
        *("\x00", "ba\x00be", "🙂 ba 👩‍👩‍👧", "ba\u2028be\x85bi\x0c\x0bda", "<s> </s> <pad>", "▁", "'\"&|[]"),
        "ba be",
    ]
    result = translate("\n".join(lines) + "\n")
    assert (result.code, result.err) == (0, "")
    output = result.out.removesuffix("\n").split("\n")
    assert len(output) == len(lines)
    assert [bool(line) for line in output[:7]] == [True, False, False, False, False, False, True]
    assert output[0] == output[-1]
    assert output[6] == translate("da\n").out[:-1]  # nothing that stands around a line changes it


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_ends_of_lines(ending: str) -> None:
    whole = translate("ba be\nda\n")
    assert whole.out.count("\n") == 2
    assert translate(f"ba be{ending}da{ending}").out == whole.out
    assert translate(f"ba be{ending}da").out == whole.out  # a last line without an end is a line


@pytest.mark.usefixtures("finished")
def test_no_input_is_no_output() -> None:
    assert translate("") == Finished(0, "", "")
    assert translate("\n").out == "\n"


@pytest.mark.usefixtures("finished")
def test_a_line_of_ten_thousand_words_is_cut_and_named() -> None:
    result = translate("ba\n" + "be " * 10_000 + "\nda\n")
    assert result.code == 0
    assert result.out.count("\n") == 3
    assert result.err.startswith("line 2: ")
    assert result.err.endswith(f" tokens, cut to the model's {MAX_SOURCE_TOKENS}\n")
    assert result.out.split("\n")[::2] == translate("ba\nda\n").out.splitlines()


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("buffer_size", ["1", "2", "1024"])
def test_the_buffer_changes_nothing(buffer_size: str) -> None:
    lines = "ba be\nbe\n\ngi ga da\nbi\n"
    assert translate(lines, "--buffer-size", buffer_size).out == translate(lines).out


@pytest.mark.usefixtures("finished")
def test_a_line_that_is_not_utf8_is_named() -> None:
    result = translate(b"ba\nbe\nb\xffa\nda\n", "--buffer-size", "2")
    assert result.code == 2
    assert result.err == "kdmt: error: standard input line 3: not UTF-8\n"
    assert result.out == translate("ba\nbe\n").out  # what came before it


@pytest.mark.usefixtures("finished")
def test_a_line_that_is_too_long_stays_empty_and_is_named() -> None:
    result = translate("ba\n" + "b" * 1_000_001 + "\nda\n")
    assert (result.code, result.err) == (0, "line 2: longer than 1,000,000 bytes, not translated\n")
    before, empty, after = result.out.removesuffix("\n").split("\n")
    assert empty == ""
    assert [before, after] == translate("ba\nda\n").out.splitlines()


@pytest.mark.usefixtures("finished")
def test_a_stream_that_is_no_text_is_refused() -> None:
    for stdin, what in (
        (gzip.compress(b"ba be\nda\n" * 9), "compressed with gzip"),
        ("ba be da ga\n".encode("utf-16"), "UTF-16 text"),
        ("ba be da ga\n".encode("utf-16-le"), "UTF-16 text"),
    ):
        result = translate(stdin)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"kdmt: error: standard input: {what}")
    marked = translate(b"\xef\xbb\xbfba be\n")
    assert marked.out == translate("ba be\n").out


@pytest.mark.usefixtures("finished")
def test_a_checkpoint_folder_alone_suffices(tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    stdin = Path("text/test.en").read_bytes()
    expected = {name: translate(stdin, checkpoint=TEACHER / name).out for name in ("average", "checkpoint_40")}
    for name in expected:
        shutil.copytree(TEACHER / name, elsewhere / name)
    shutil.rmtree("runs")
    for name, output in expected.items():
        assert translate(stdin, checkpoint=elsewhere / name).out == output != ""


@pytest.mark.usefixtures("finished")
def test_a_run_stands_for_its_average_and_a_pointer_for_its_folder() -> None:
    stdin = "ba be bi\nga\n"
    assert translate(stdin).out == translate(stdin, checkpoint=TEACHER / "average").out
    pointed = TEACHER / (TEACHER / "best").read_text(encoding="utf-8").strip()
    assert translate(stdin, checkpoint=TEACHER / "best").out == translate(stdin, checkpoint=pointed).out


@pytest.mark.usefixtures("finished")
def test_translating_writes_nothing() -> None:
    before = hash_tree(Path())
    translate("ba be\n")
    assert hash_tree(Path()) == before


@pytest.mark.usefixtures("finished")
def test_folders_that_hold_no_whole_checkpoint() -> None:
    result = translate("ba\n", checkpoint=Path("runs/tiny/prepare"))
    assert (result.code, result.out) == (2, "")
    assert "runs/tiny/prepare: neither a checkpoint folder nor a run that has one" in result.err
    weights = TEACHER / "average" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    result = translate("ba\n")
    assert (result.code, result.out) == (2, "")
    assert result.err == f"kdmt: error: {weights}: damaged: its sha256 is not the one in checksums.json\n"


@pytest.mark.usefixtures("pipeline")
def test_text_is_processed_and_finished_as_it_was_for_training() -> None:
    """Tokenised, lowercased sources; detokenised output: a pair of apostrophes comes back as the language writes it."""
    document = settings()
    document["prepare"]["text"] = {"moses": True, "lowercase": True}
    document["teacher"]["train"] |= {"max_updates": 2}
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare", "teacher")
    result = translate("Ba, BE!\nba , be !\n")
    first, second = result.out.splitlines()
    assert first == second
    translator = Translator.load(TEACHER)
    assert translator.codec.finish_target("ok , uk !") == "ok, uk!"


@pytest.mark.usefixtures("finished")
def test_the_library_gives_what_the_command_gives() -> None:
    translator = Translator.load(TEACHER)
    lines = ["ba be", "", "gi"]
    target = io.BytesIO()
    translate_stream(translator, Decode(), io.BytesIO("\n".join(lines).encode()), target, buffer_size=2)
    assert target.getvalue().decode().split("\n")[:-1] == translator.translate(lines, Decode())
    assert target.getvalue().decode() == translate("\n".join(lines)).out
    with pytest.raises(UserError, match="line 1: not UTF-8"):
        translate_stream(translator, Decode(), io.BytesIO(b"\xff"), io.BytesIO(), buffer_size=2)
