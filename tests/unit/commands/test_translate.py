"""Tests of `kdmt translate`: one output line for any input line, with only a checkpoint folder."""

from __future__ import annotations

import gzip
import html
import io
import json
import os
import pty
import select
import shutil
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from tiny_pipeline import Finished, hash_tree, kdmt, read_pty

from kdmt.commands.models import ModelTable, SearchOptions
from kdmt.commands.translate import translate_objects, translate_page, translate_stream
from kdmt.config import Context, Decode, Text
from kdmt.corpus.context import Document
from kdmt.corpus.text import TextProcessor
from kdmt.decode.engines.translator import Translator
from kdmt.documents.sentences import split_long
from kdmt.errors import UserError
from kdmt.interop.ctranslate2_folder import proposed_search
from kdmt.languages import Direction

TEACHER = Path("runs/tiny/teacher")
MAX_SOURCE_TOKENS = 64  # number of positions of the tiny model


class WithoutContext:
    """Part of a stand-in for a translator that reads no context."""

    def begin_documents(self) -> None:
        return None

    def add_context(self, sentences: Sequence[str]) -> list[str]:
        return list(sentences)


def translate(stdin: bytes | str, *arguments: str, checkpoint: Path = TEACHER) -> Finished:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    return kdmt("translate", checkpoint, "--threads", "1", *arguments, stdin=data)


@pytest.mark.usefixtures("finished")
def test_one_output_line_for_each_input_line() -> None:
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
    assert output[6] == translate("da\n").out[:-1]  # a translation does not depend on the lines around it


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_line_endings(ending: str) -> None:
    whole = translate("ba be\nda\n")
    assert whole.out.count("\n") == 2
    assert translate(f"ba be{ending}da{ending}").out == whole.out
    assert translate(f"ba be{ending}da").out == whole.out  # a last line without a line ending counts too


@pytest.mark.usefixtures("finished")
def test_empty_input_gives_empty_output() -> None:
    assert translate("") == Finished(0, "", "")
    assert translate("\n").out == "\n"


@pytest.mark.usefixtures("finished")
def test_a_line_of_ten_thousand_words_is_cut_and_reported() -> None:
    result = translate("ba\n" + "be " * 10_000 + "\nda\n")
    assert result.code == 0
    assert result.out.count("\n") == 3
    assert result.err.startswith("line 2: ")
    assert result.err.endswith(f" tokens, cut to the model's {MAX_SOURCE_TOKENS}\n")
    assert result.out.split("\n")[::2] == translate("ba\nda\n").out.splitlines()


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("buffer_size", ["1", "2", "1024"])
def test_output_does_not_depend_on_the_buffer_size(buffer_size: str) -> None:
    lines = "ba be\nbe\n\ngi ga da\nbi\n"
    assert translate(lines, "--buffer-size", buffer_size).out == translate(lines).out


@pytest.mark.usefixtures("finished")
def test_lines_that_are_not_utf8_are_reported() -> None:
    result = translate(b"ba\nbe\nb\xffa\nda\n\xc3\n", "--buffer-size", "2")
    assert result.code == 2
    *lines, last = result.err.splitlines()
    assert lines == [f"line {number}: not UTF-8, its translation is empty" for number in (3, 5)]
    assert last == (
        "kdmt: error: standard input: 2 of 5 lines cannot be read, the first is line 3; their translations are empty"
    )
    first, second, fourth = translate("ba\nbe\nda\n").out.splitlines()
    assert result.out == f"{first}\n{second}\n\n{fourth}\n\n"


@pytest.mark.usefixtures("finished")
def test_the_translation_of_a_line_that_is_too_long_is_empty() -> None:
    result = translate("ba\n" + "b" * 1_000_001 + "\nda\n")
    assert result.code == 2
    assert result.err.startswith("line 2: longer than 1,000,000 bytes, its translation is empty\n")
    before, empty, after = result.out.removesuffix("\n").split("\n")
    assert empty == ""
    assert [before, after] == translate("ba\nda\n").out.splitlines()


@pytest.mark.usefixtures("finished")
def test_input_that_is_not_text_is_refused() -> None:
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
def test_translating_needs_only_a_checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    stdin = Path("text/test.en").read_bytes()
    expected = {name: translate(stdin, checkpoint=TEACHER / name).out for name in ("average", "checkpoint_40")}
    for name in expected:
        shutil.copytree(TEACHER / name, elsewhere / name)
    shutil.rmtree("runs")
    for name, output in expected.items():
        assert translate(stdin, checkpoint=elsewhere / name).out == output != ""


@pytest.mark.usefixtures("finished")
def test_a_run_is_translated_with_its_chosen_checkpoint_and_a_pointer_with_its_folder() -> None:
    stdin, record = Path("text/test.en").read_bytes(), TEACHER / "chosen.json"
    values = json.loads(record.read_text(encoding="utf-8"))
    outputs = set()
    for name in ("best", "average"):
        record.write_text(json.dumps(values | {"checkpoint": name}), encoding="utf-8")
        assert translate(stdin).out == translate(stdin, checkpoint=TEACHER / name).out
        outputs.add(translate(stdin).out)
    assert len(outputs) == 2
    record.unlink()
    assert translate(stdin).out == translate(stdin, checkpoint=TEACHER / "average").out
    pointed = TEACHER / (TEACHER / "best").read_text(encoding="utf-8").strip()
    assert translate(stdin, checkpoint=TEACHER / "best").out == translate(stdin, checkpoint=pointed).out


@pytest.mark.usefixtures("finished")
def test_translating_writes_nothing() -> None:
    before = hash_tree(Path())
    translate("ba be\n")
    assert hash_tree(Path()) == before


@pytest.mark.usefixtures("finished")
def test_missing_and_damaged_checkpoints_are_refused() -> None:
    result = translate("ba\n", checkpoint=Path("runs/tiny/prepare"))
    assert (result.code, result.out) == (2, "")
    assert "runs/tiny/prepare: neither a checkpoint folder nor a run that has one" in result.err
    weights = TEACHER / "average" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    result = translate("ba\n", checkpoint=TEACHER / "average")
    assert (result.code, result.out) == (2, "")
    assert result.err == f"kdmt: error: {weights}: damaged: its sha256 is not the one in checksums.json\n"


@pytest.mark.usefixtures("finished")
def test_the_library_and_the_command_give_equal_translations() -> None:
    translator = Translator.load(TEACHER)
    lines = ["ba be", "", "gi"]
    target = io.BytesIO()
    translate_stream(translator, Decode(), io.BytesIO("\n".join(lines).encode()), target, buffer_size=2)
    assert target.getvalue().decode().split("\n")[:-1] == translator.translate(lines, Decode())
    assert target.getvalue().decode() == translate("\n".join(lines)).out
    target = io.BytesIO()
    with pytest.raises(UserError, match="1 of 2 lines cannot be read, the first is line 1"):
        translate_stream(translator, Decode(), io.BytesIO(b"\xff\nba be"), target, buffer_size=2)
    assert target.getvalue().decode().split("\n") == ["", *translator.translate(["ba be"], Decode()), ""]


@pytest.mark.usefixtures("finished")
def test_a_byte_order_mark_is_removed_from_the_first_line() -> None:
    assert translate(b"\xef\xbb\xbfba be\nda\n") == translate("ba be\nda\n")


@pytest.mark.usefixtures("finished")
def test_only_lines_beyond_the_byte_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdmt.commands.arrivals.MAX_LINE_BYTES", 100)
    monkeypatch.setattr("kdmt.commands.translate.MAX_LINE_BYTES", 100)
    fits, long = "ba " * 33 + "b", "ba " * 100_000
    result = translate(f"da\n{fits}\n{fits}a\n{long}\nda\n{long}")
    assert result.code == 2
    da = translate("da\n").out
    assert result.out == f"{da}{translate(fits).out}\n\n{da}\n"
    assert result.err.count("longer than 1,000,000 bytes, its translation is empty\n") == 3  # the default limit
    assert "3 of 6 lines cannot be read, the first is line 3" in result.err


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    "options",
    [
        *(("--lenpen", value) for value in ("1000", "-1000", "nan", "inf", "-inf")),
        *(("--max-len-a", value) for value in ("nan", "inf")),
        ("--beam", "1000000000000"),
        ("--device", "cuda:99999999999999999999"),
        ("--device", "\x1b[31m"),
    ],
    ids=" ".join,
)
def test_extreme_options_are_refused_in_one_line(options: tuple[str, str]) -> None:
    result = translate("ba be\n", *options)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("kdmt: error: ")
    assert result.err.count("\n") == 1
    assert options[0].removeprefix("--").replace("-", "_") in result.err


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("lenpen", ["100", "-100", "0"])
@pytest.mark.parametrize("checkpoint", [TEACHER, Path("out")], ids=["torch", "ctranslate2"])
def test_length_penalties_at_the_ends_of_their_range_are_accepted(lenpen: str, checkpoint: Path) -> None:
    if checkpoint != TEACHER:
        assert kdmt("export", TEACHER, checkpoint, "--to", "ctranslate2").code == 0
    result = translate("ba be bi\nda\n", "--lenpen", lenpen, checkpoint=checkpoint)
    assert (result.code, result.err) == (0, "")
    assert result.out.count("\n") == 2


@pytest.mark.usefixtures("finished")
def test_an_exported_model_is_searched_with_the_settings_of_its_export(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float]] = []

    def remember(_: object, settings: Decode, *__: object, **___: object) -> None:
        seen.append((settings.beam, settings.lenpen))

    assert kdmt("export", TEACHER, "out", "--to", "ctranslate2", "--beam", "3", "--lenpen", "0.6").code == 0
    monkeypatch.setattr("kdmt.commands.translate.translate_stream", remember)
    for options, checkpoint in (
        ((), Path("out")),
        (("--beam", "2"), Path("out")),
        (("--lenpen", "1"), Path("out")),
        ((), TEACHER),
    ):
        assert translate("ba\n", *options, checkpoint=checkpoint).code == 0
    assert seen == [(3, 0.6), (2, 0.6), (3, 1.0), (5, 1.0)]
    for wrong in ("{}", "[]", '{"beam_size": 0, "length_penalty": 1}', '{"beam_size": 2, "length_penalty": NaN}', "x"):
        Path("out/translate.json").write_text(wrong, encoding="utf-8")
        result = translate("ba\n", checkpoint=Path("out"))
        assert result.code == 2
        assert result.err == "kdmt: error: out/translate.json: damaged: its sha256 is not the one in checksums.json\n"
        with pytest.raises(UserError, match=r"^out/translate\.json: "):
            proposed_search(Path("out"))


def _lines_from(descriptor: int, count: int) -> list[str]:
    """Return `count` lines of output, read while the input of the command is open and nothing more is written to it."""
    data = b""
    while data.count(b"\n") < count:
        assert select.select([descriptor], [], [], 120)[0], data  # a timeout, so that the test cannot hang
        data += os.read(descriptor, 65536)
    return data.decode().replace("\r\n", "\n").split("\n")[:-1]


def _start(stdin: int, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kdmt", "translate", str(TEACHER), "--threads", "1"]
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr)


@pytest.mark.usefixtures("finished")
def test_available_lines_are_translated_while_a_pipe_pauses() -> None:
    """Check that complete lines are translated while the pipe is open; a bad line affects only its own translation."""
    pieces = [b"ba be\n", b"da\n\nb\xff\ngi", b" ga\n", "grün".encode()[:3], "grün".encode()[3:] + b"\nbi"]
    expected = translate(b"".join(pieces))
    with _start(subprocess.PIPE, subprocess.PIPE, subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        found = []
        for piece in pieces:
            process.stdin.write(piece)
            process.stdin.flush()
            found += _lines_from(process.stdout.fileno(), piece.count(b"\n"))
        process.stdin.close()
        found += _lines_from(process.stdout.fileno(), 1)
        assert (process.stdout.read(), process.stderr.read().decode()) == (b"", expected.err)
    assert found == expected.out.split("\n")[:-1]
    assert process.returncode == expected.code == 2


@pytest.mark.usefixtures("finished")
def test_input_from_a_terminal_is_translated_line_by_line() -> None:
    leader, follower = pty.openpty()
    modes = termios.tcgetattr(follower)
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(follower, termios.TCSANOW, modes)
    with _start(follower, follower, subprocess.PIPE) as process:
        os.close(follower)
        for line in ("ba be", "", "da"):
            os.write(leader, f"{line}\n".encode())
            assert _lines_from(leader, 1) == translate(f"{line}\n").out.split("\n")[:-1]
        os.write(leader, b"\x04")  # the end of input
        assert read_pty(leader) == ""
    assert process.returncode == 0


def test_out_of_memory_is_a_user_error() -> None:
    """Check the message for the error that PyTorch raises; other errors are raised unchanged."""

    class Greedy(WithoutContext):
        def translate(self, *_: object, **__: object) -> list[str]:
            torch.empty(10**15)
            return []

    class Broken(WithoutContext):
        def translate(self, *_: object, **__: object) -> list[str]:
            raise RuntimeError("something else")

    def run(translator: object) -> None:
        translate_stream(cast(Translator, translator), Decode(), io.BytesIO(b"a\n"), io.BytesIO(), buffer_size=1)

    with pytest.raises(UserError, match="out of memory: a beam smaller than 5 needs less memory"):
        run(Greedy())
    with pytest.raises(RuntimeError, match="something else"):
        run(Broken())


def test_translations_are_escaped_on_a_terminal_only() -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    class Evil(WithoutContext):
        def translate(self, lines: list[str], *_: object, **__: object) -> list[str]:
            return ["\x1b[31m\tä" for _ in lines]

    for target, expected in ((io.BytesIO(), "\x1b[31m\tä\n"), (Terminal(), "\\x1b[31m\tä\n")):
        translate_stream(cast(Translator, Evil()), Decode(), io.BytesIO(b"a\n"), target, buffer_size=1)
        assert target.getvalue().decode() == expected


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    "closed", [*(pytest.param(closed, marks=pytest.mark.slow) for closed in ("<&-", "2>&-")), ">&-", "| head -n 1"]
)
def test_closed_standard_streams(closed: str) -> None:
    command = f"{sys.executable} -m kdmt translate {TEACHER} --threads 1 {closed}"
    if closed == "2>&-":  # messages for a closed stderr are not written to stdout
        result = subprocess.run(command, shell=True, input=b"ba\n\xff\n", capture_output=True, check=False)
        assert (result.returncode, result.stdout.decode()) == (2, translate("ba\n").out + "\n")
        return
    result = subprocess.run(command, shell=True, input=b"ba\n" * 5000, capture_output=True, check=False)
    assert b"Traceback" not in result.stderr
    if "head" in closed:
        assert result.stdout == translate("ba\n").out.encode()
    else:
        assert (result.returncode, result.stdout) == (2, b"")
        assert result.stderr.startswith(b"kdmt: error: ")


@pytest.mark.usefixtures("finished")
def test_documents_are_split_into_sentences() -> None:
    first, second, third = translate("Ba be.\nDa ga.\nBi.\n").out.splitlines()
    text = "  Ba be.  Da ga.\n\n\tBi.\r\n* * *\n"
    result = translate(text, "--document")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"  {first}  {second}\n\n\t{third}\n* * *\n"


@pytest.mark.usefixtures("finished")
def test_html_is_translated_as_a_whole() -> None:
    first, second = translate("Ba be.\nDa ga.\n").out.splitlines()
    page = "<html>\n<p class='x'>Ba\nbe. Da ga.</p><script>ba();</script>\n"
    result = translate(page, "--input-format", "html", "--buffer-size", "1")
    assert result.out == f"<html>\n<p class='x'>{first} {second}</p><script>ba();</script>\n"
    bad = translate(b"<p>\xff</p>", "--input-format", "html")
    assert (bad.code, bad.out, bad.err) == (2, "", "kdmt: error: standard input: not UTF-8\n")


@pytest.mark.usefixtures("finished")
def test_jsonl_keeps_other_fields_and_reports_bad_lines() -> None:
    first, second = translate("Ba be.\nDa ga.\n").out.splitlines()
    lines = [
        '{"id": 7, "text": "Ba be."}',
        "",
        "{",
        '{"text": 3}',
        "[1]",
        '{"text": ""}',
        '{"text": "Ba be.\\nDa ga."}',
    ]
    result = translate("\n".join(lines) + "\n", "--input-format", "jsonl", "--document")
    output = result.out.removesuffix("\n").split("\n")
    assert [json.loads(line) if line else None for line in output] == [
        {"id": 7, "text": "Ba be.", "translation": first},
        *(None, None, None, None),
        {"text": "", "translation": ""},
        {"text": "Ba be.\nDa ga.", "translation": f"{first}\n{second}"},
    ]
    assert result.code == 2
    assert result.err.splitlines()[:3] == [
        "line 3: not JSON, its translation is empty",
        "line 4: field 'text' is not text, its translation is empty",
        "line 5: not a JSON object, its translation is empty",
    ]


@pytest.mark.usefixtures("finished")
def test_a_tag_is_put_before_each_sentence() -> None:
    translator = Translator.load(TEACHER)
    word = translator.codec.src_dictionary.symbols[-1]  # any symbol of the vocabulary may be a tag
    tagged = translator.with_tag(word)
    tag = translator.codec.src_dictionary.index(word)
    (plain,), (with_tag,) = translator.encode(["ba be"]), tagged.encode(["ba be"])
    assert with_tag.tolist() == [tag, *plain.tolist()]
    assert tagged.encode([""])[0].tolist() == translator.encode([""])[0].tolist()
    settings = Decode(beam=1)
    assert tagged.translate_sentences(["ba be", ""], settings) == tagged.translate(["ba be", ""], settings)
    result = translate("ba\n", "--tag", "<nothing>")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("kdmt: error: tag '<nothing>': the vocabulary does not have it")


@pytest.mark.usefixtures("finished")
def test_sentences_that_are_too_long_are_translated_in_parts() -> None:
    translator = Translator.load(TEACHER)
    settings = Decode(beam=1)
    long = " ".join(["ba be da"] * 60)
    parts = split_long(long, lambda part: len(translator.encode([part])[0]) <= MAX_SOURCE_TOKENS)
    assert len(parts) > 1
    assert translator.translate_sentences([long], settings) == [" ".join(translator.translate(parts, settings))]
    assert translator.translate_sentences(["ba be"], settings) == translator.translate(["ba be"], settings)


class Upper(WithoutContext):
    """Stand-in for a translator."""

    def translate_sentences(self, sentences: list[str], _: Decode) -> list[str]:
        return [sentence.upper() for sentence in sentences]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "a", "id": "\\ud800"}', "a name or a value is not Unicode text"),
        ('{"text": "a", "\\udc00": 1}', "a name or a value is not Unicode text"),
        ('{"text": "a", "x": [{"y": ["\\ud800"]}]}', "a name or a value is not Unicode text"),
        ('{"text": "\\ud800"}', "field 'text' is not Unicode text"),
        *(
            (f'{{"text": "a", "x": [{value}]}}', "not JSON")
            for value in ("1e999", "-1e999", "NaN", "Infinity", "-Infinity", "9" * 4400)
        ),
    ],
)
def test_json_that_cannot_be_written_again_costs_its_own_line_only(
    caplog: pytest.LogCaptureFixture, line: str, problem: str
) -> None:
    target = io.BytesIO()
    source = io.BytesIO(f'{{"text": "b"}}\n{line}\n{{"text": "c", "x": [1e308, "\\ud83d\\ude00"]}}\n'.encode())
    with pytest.raises(UserError, match="1 of 3 lines cannot be read, the first is line 2"):
        translate_stream(cast(Translator, Upper()), Decode(), source, target, buffer_size=9, is_jsonl=True)
    first, second, third, _ = target.getvalue().decode().split("\n")
    assert (json.loads(first), second) == ({"text": "b", "translation": "B"}, "")
    assert json.loads(third) == {"text": "c", "x": [1e308, "😀"], "translation": "C"}
    assert f"line 2: {problem}, its translation is empty" in caplog.text


def test_every_depth_that_is_read_is_written() -> None:
    lines = [f'{{"text": "a", "x": {"[" * depth}{"]" * depth}}}\n' for depth in range(900, 1_010)]
    target = io.BytesIO()
    with pytest.raises(UserError, match=f"of {len(lines)} lines cannot be read"):
        translate_stream(
            cast(Translator, Upper()),
            Decode(),
            io.BytesIO("".join(lines).encode()),
            target,
            buffer_size=9,
            is_jsonl=True,
        )
    assert target.getvalue().count(b"\n") == len(lines)


class Lower(WithoutContext):
    """Stand-in for another translator."""

    def translate_sentences(self, sentences: list[str], _: Decode) -> list[str]:
        return [sentence.lower() for sentence in sentences]


def test_each_object_chooses_its_model_by_languages(caplog: pytest.LogCaptureFixture) -> None:
    directions = (Direction("en", "de"), Direction("en", "fr"), Direction("cs", "fr"))
    models = dict(zip(directions, (Upper(), Lower(), Upper()), strict=True))
    table = ModelTable({direction: Path(str(direction)) for direction in directions}, SearchOptions())
    table.open = lambda direction: (models[direction], Decode())  # type: ignore[method-assign,assignment,return-value]
    lines = [
        *('{"text": "Ab", "target": "de"}', '{"text": "Ab", "source": "eng", "target": "fr"}', ""),
        *('{"text": "Ab"}', '{"text": "Ab", "target": "pl"}', '{"text": "Ab", "target": 3}'),
        '{"text": "Cd", "source": "cs"}',
    ]
    target = io.BytesIO()
    source = io.BytesIO("\n".join(lines).encode())
    with pytest.raises(UserError, match="3 of 7 lines cannot be read, the first is line 4"):
        translate_objects(table, source, target, buffer_size=9, is_document=False)
    output = target.getvalue().decode().split("\n")[:-1]
    assert [json.loads(line)["translation"] if line else "" for line in output] == ["AB", "ab", "", "", "", "", "CD"]
    for message in (
        "line 4: several models translate: choose from en-de, en-fr, cs-fr, its",
        "line 5: no model translates to 'pl': choose from",
        "line 6: field 'target' is not text, its",
    ):
        assert message in caplog.text


@pytest.mark.usefixtures("finished")
def test_languages_choose_a_model() -> None:
    other = Path("runs/tiny/students/raw/seed_1")
    expected = translate("ba be\n").out
    assert translate("ba be\n", "--from", "en", "--to", "deu").out == expected
    for arguments, message in (
        (("--to", "fr"), "no model translates to 'fr': choose from en-de"),
        ((str(other),), f"{TEACHER} and {other} both translate en-de"),
    ):
        result = translate("ba\n", *arguments)
        assert (result.code, result.out, result.err) == (2, "", f"kdmt: error: {message}\n")


# ------------------------------------------------------------------------------------------------------------ context


class Echo:
    """A translator with context whose translations are its sources in brackets."""

    class codec:  # noqa: N801
        """Its text processing."""

        text = TextProcessor(Text(), "en", "de", context=Context())

    def begin_documents(self) -> Document:
        return Document(Context())

    def add_context(self, sentences: Sequence[str]) -> list[str]:
        return Document(Context()).add_lines(sentences)

    def translate(self, lines: Sequence[str], _: Decode, *, first_line: int) -> list[str]:  # noqa: ARG002
        return [f"[{line}]" for line in lines]

    def translate_sentences(self, sentences: Sequence[str], _: Decode) -> list[str]:
        return [f"[{sentence.strip()}]" for sentence in sentences]


def echoed(text: str, *, buffer_size: int = 2, is_jsonl: bool = False, is_document: bool = False) -> list[str]:
    """Return the output lines for a text."""
    out = io.BytesIO()
    translate_stream(
        cast(Translator, Echo()),
        Decode(),
        io.BytesIO(text.encode()),
        out,
        buffer_size=buffer_size,
        is_jsonl=is_jsonl,
        is_document=is_document,
    )
    return out.getvalue().decode().splitlines()


@pytest.mark.parametrize("buffer_size", [1, 2, 100])
def test_lines_are_the_context_of_the_next_ones_until_an_empty_line(buffer_size: int) -> None:
    assert echoed("a\nb\nc\n\nd\n", buffer_size=buffer_size) == [
        "[<sep> a]",
        "[a <sep> b]",
        "[b <sep> c]",
        "[]",
        "[<sep> d]",
    ]


def test_each_text_that_is_split_into_sentences_is_a_document() -> None:
    assert echoed("One. Two.\nThree.\n", is_document=True) == ["[<sep> One.] [One. <sep> Two.]", "[<sep> Three.]"]


def test_texts_of_objects_have_no_context() -> None:
    lines = echoed('{"text": "a"}\n{"text": "b <sep> c"}\n', is_jsonl=True)
    assert [json.loads(line)["translation"] for line in lines] == ["[<sep> a]", "[<sep> b   c]"]


def test_the_sentences_of_a_page_are_a_document() -> None:
    out = io.BytesIO()
    page = io.BytesIO(b"<p>One. Two.</p><p>Three.</p>")
    translate_page(cast(Translator, Echo()), Decode(), page, out, buffer_size=2)
    text = html.unescape(out.getvalue().decode())
    assert text == "<p>[<sep> One.] [One. <sep> Two.]</p><p>[Two. <sep> Three.]</p>"
