"""Tests of reading sentences and pairs of corpora from local files."""

from __future__ import annotations

import gzip
import hashlib
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from corpus_formats import ARCHIVE, COMPRESS, ONE_FILE, sgm, wmt_xml, write_corpus, zip_file
from fault_server import FaultServer
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config import Corpus, HeldOut, Source
from kdmt.corpus.fetch import Places, fetch_corpus
from kdmt.corpus.reading import Skipped, monolingual_lines, read_pairs, source_lines
from kdmt.corpus.text_files import Malformed, open_lines
from kdmt.errors import UserError
from kdmt.languages import Direction

DIRECTION = Direction("en", "de")

# ------------------------------------------------------------------------------------------------------------- lines


def write_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


TEXT = "a\u2028b\x0bc\x85d\x1ce\rf\r\n\nlast \u00e9"
LINES = ["a\u2028b\x0bc\x85d\x1ce\rf", "", "last \u00e9"]


def test_lines_end_only_at_newlines(tmp_path: Path) -> None:
    plain, gzipped = tmp_path / "a.txt", tmp_path / "a.txt.gz"
    plain.write_bytes(TEXT.encode())
    gzipped.write_bytes(gzip.compress(TEXT.encode()))
    archive = write_zip(tmp_path / "a.zip", text=TEXT.encode(), **{"inner.gz": gzipped.read_bytes()})
    assert list(open_lines(plain)) == LINES
    assert list(open_lines(gzipped)) == LINES
    assert list(open_lines(archive, member="text")) == LINES
    assert list(open_lines(archive, member="inner.gz")) == LINES
    plain.write_bytes(TEXT.encode() + b"\n")
    assert list(open_lines(plain)) == LINES


def test_a_byte_order_mark_is_removed_only_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\n\ufefftwo\n".encode())
    assert list(open_lines(path)) == ["one", "\ufefftwo"]


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("grün\ngr".encode() + b"\xfcn\n")
    with pytest.raises(UserError, match=r"a\.txt line 2: not UTF-8"):
        list(open_lines(path))
    with pytest.raises(UserError, match="the corpus line 2: not UTF-8"):
        list(open_lines(path, name="the corpus"))


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    long_text = "\n".join(str(hash((1, n))) for n in range(20_000)).encode()
    gzipped = tmp_path / "a.gz"
    gzipped.write_bytes(gzip.compress(long_text)[:-5000])
    with pytest.raises(UserError, match=r"a\.gz: truncated or damaged after line \d+"):
        list(open_lines(gzipped))
    gzipped.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"a\.gz: truncated or damaged after line 0"):
        list(open_lines(gzipped))
    archive = write_zip(tmp_path / "a.zip", text=long_text)
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-1000])
    with pytest.raises(UserError, match=r"a\.zip:text: truncated or damaged"):
        list(open_lines(archive, member="text"))
    archive.write_bytes(whole[:5000] + b"\0" * 100 + whole[5100:])
    with pytest.raises(UserError, match=r"a\.zip:text: truncated or damaged"):
        list(open_lines(archive, member="text"))


def test_missing_files_and_members_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing: No such file"):
        list(open_lines(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"a\.zip:deu\.txt: no such member; the archive holds text, about"):
        list(open_lines(write_zip(tmp_path / "a.zip", text=b"", about=b""), member="deu.txt"))


# ------------------------------------------------------------------------------------------------------------- pairs


def two_files(tmp_path: Path, source: str, target: str) -> Corpus:
    (tmp_path / "c.en").write_text(source, encoding="utf-8")
    (tmp_path / "c.de").write_text(target, encoding="utf-8")
    return Corpus(source=Source(path="c.en"), target=Source(path="c.de"))


def pairs_of(corpus: Corpus, base: Path) -> list[tuple[str, str]]:
    return list(read_pairs(corpus, fetch_corpus(corpus, Places(base, base=base)), DIRECTION))


def test_pairs_of_two_files(tmp_path: Path) -> None:
    corpus = two_files(tmp_path, "a\n\nc\n", "x\ny\nz")
    assert pairs_of(corpus, tmp_path) == [("a", "x"), ("", "y"), ("c", "z")]


def test_every_third_pair_is_either_held_out_or_in_the_training_text(tmp_path: Path) -> None:
    corpus = two_files(tmp_path, "".join(f"{n}\n" for n in range(1, 12)), "".join(f"t{n}\n" for n in range(1, 12)))
    only, rest = (corpus.model_copy(update={name: 3}) for name in ("only_every", "except_every"))
    assert [source for source, _ in pairs_of(only, tmp_path)] == ["3", "6", "9"]
    assert pairs_of(rest, tmp_path) == [(str(n), f"t{n}") for n in (1, 2, 4, 5, 7, 8, 10, 11)]


@pytest.mark.parametrize(
    ("source", "target", "counts"),
    [("a\nb\nc\n", "x\n", (3, 1)), ("a\n", "x\ny\n", (1, 2)), ("", "x\ny\n", (0, 2)), ("a\n", "", (1, 0))],
)
def test_two_files_of_different_length_are_refused(
    tmp_path: Path, source: str, target: str, counts: tuple[int, int]
) -> None:
    corpus = two_files(tmp_path, source, target)
    with pytest.raises(UserError, match=rf"c\.en has {counts[0]} lines, c\.de has {counts[1]}"):
        pairs_of(corpus, tmp_path)


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"c\.en and c\.de: the corpus is empty"):
        pairs_of(two_files(tmp_path, "", ""), tmp_path)
    corpus = Corpus(tsv=Source(path="c.en"))
    with pytest.raises(UserError, match=r"c\.en: the corpus is empty"):
        pairs_of(corpus, tmp_path)


def test_pairs_of_a_tsv_file_inside_a_zip_archive(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", text="1\tein\u2028s\tone\n2\tzwei\ttwo\n".encode())
    tsv = Source(path="a.zip", member="text")
    assert pairs_of(Corpus(tsv=tsv, source_column=2, target_column=1), tmp_path) == [
        ("one", "ein\u2028s"),
        ("two", "zwei"),
    ]
    with pytest.raises(UserError, match=r"a\.zip:text line 1: 3 columns, at least 4 expected"):
        pairs_of(Corpus(tsv=tsv, source_column=0, target_column=3), tmp_path)


def pairs_of_file(
    folder: Path, form: str, pairs: list[tuple[str, str]], skipped: Skipped | None = None, **settings: object
) -> list[tuple[str, str]]:
    corpus, path = write_corpus(folder, form, pairs, **settings)
    return list(read_pairs(corpus, [path], DIRECTION, skipped))


PAIRS = [("a house", "ein Haus"), ('R&D <b> "x"', "F&E"), ("家", "ü"), ("last", "letztes")]
word = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=10)
sentence = st.lists(word, min_size=1, max_size=5).map(" ".join)


@given(st.lists(st.tuples(sentence, sentence), min_size=1, max_size=6), st.sampled_from([*ONE_FILE]))
def test_pairs_are_the_same_in_every_format(pairs: list[tuple[str, str]], form: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert pairs_of_file(Path(folder), form, pairs) == pairs


@pytest.mark.parametrize("form", ONE_FILE)
@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
@pytest.mark.parametrize("archive", [None, *ARCHIVE])
def test_every_format_may_be_compressed_or_in_an_archive(
    tmp_path: Path, form: str, compression: str | None, archive: str | None
) -> None:
    corpus, path = write_corpus(tmp_path, form, PAIRS)
    content = path.read_bytes()
    content = content if compression is None else COMPRESS[compression](content)
    member = None if archive is None else "data/corpus"
    path.write_bytes(content if archive is None else ARCHIVE[archive]({"x": b"", "data/corpus": content}))
    source = Source(path=str(path), member=member)
    assert list(read_pairs(corpus.model_copy(update={form: source}), [path], DIRECTION)) == PAIRS


@pytest.mark.parametrize(
    ("form", "quality"),
    [
        ("tsv", {"column": 0, "min": 2}),
        ("tsv", {"field": "score", "min": 2}),
        ("jsonl", {"field": "score", "min": 2}),
        ("parquet", {"field": "score", "min": 2}),
        ("tmx", {"field": "score", "min": 2.0}),
    ],
)
def test_pairs_with_a_low_score_are_left_out_and_counted(tmp_path: Path, form: str, quality: dict[str, object]) -> None:
    skipped = Skipped()
    assert pairs_of_file(tmp_path, form, PAIRS, skipped, quality=quality) == PAIRS[2:]
    assert (skipped.left_out, skipped.malformed.total) == ({"quality": 2}, 0)
    assert pairs_of_file(tmp_path, form, PAIRS, quality={**quality, "min": 0}) == PAIRS
    with pytest.raises(UserError, match=rf"corpus\.{form}: the corpus is empty; rows left out: quality 4"):
        pairs_of_file(tmp_path, form, PAIRS, quality={**quality, "min": 99})


def test_a_score_that_is_not_a_number_makes_a_row_malformed(tmp_path: Path) -> None:
    corpus = Corpus.model_validate({"tsv": {"path": "t"}, "quality": {"column": 2, "min": 0}})
    path = tmp_path / "t"
    path.write_text("a\tx\t1\nb\ty\thigh\nc\tz\t0\n", encoding="utf-8")
    skipped = Skipped()
    assert list(read_pairs(corpus, [path], DIRECTION, skipped)) == [("a", "x"), ("c", "z")]
    assert skipped.malformed.as_dict() == {"a score that is not a number": {"rows": 1, "first": ["t line 2"]}}
    strict = corpus.model_copy(update={"malformed": "error"})
    with pytest.raises(UserError, match="t line 2: a score that is not a number: 'high'"):
        list(read_pairs(strict, [path], DIRECTION))


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    settings = {"source_field": "en", "target_field": "de", "header": True}
    path = tmp_path / "t"
    path.write_text("de\tx\ten\nHaus\t1\thouse\n", encoding="utf-8")
    corpus = Corpus.model_validate({"tsv": {"path": "t"}, **settings})
    assert list(read_pairs(corpus, [path], DIRECTION)) == [("house", "Haus")]
    mixed = Corpus.model_validate({"tsv": {"path": "t"}, **settings, "quality": {"column": 1, "min": 0}})
    assert list(read_pairs(mixed, [path], DIRECTION)) == [("house", "Haus")]
    path.write_text("de\ten\ten\nHaus\t1\thouse\n", encoding="utf-8")
    with pytest.raises(UserError, match="t: two columns 'en'; the first row has de, en, en"):
        list(read_pairs(corpus, [path], DIRECTION))
    path.write_text("de\tfr\nHaus\tmaison\n", encoding="utf-8")
    with pytest.raises(UserError, match="t: no column 'en'; the first row has de, fr"):
        list(read_pairs(corpus, [path], DIRECTION))
    with pytest.raises(UserError, match="t line 1: 2 columns, at least 6 expected"):
        list(read_pairs(Corpus.model_validate({"tsv": {"path": "t"}, "source_column": 5}), [path], DIRECTION))


def test_two_members_of_one_archive_are_a_corpus_and_one_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    archive = zip_file({"OPUS.de-en.en": b"a\nb\n", "OPUS.de-en.de": b"x\ny\n"})
    with FaultServer({"/moses.zip": archive}).serving() as server:
        file = {"url": f"{server.url}/moses.zip", "sha256": hashlib.sha256(archive).hexdigest()}
        corpus = Corpus.model_validate(
            {"source": {**file, "member": "OPUS.de-en.en"}, "target": {**file, "member": "OPUS.de-en.de"}}
        )
        paths = fetch_corpus(corpus, Places(tmp_path / "downloads"))
        assert list(read_pairs(corpus, paths, DIRECTION)) == [("a", "x"), ("b", "y")]
        assert len(server.requests) == 1


def test_sides_in_markup_must_have_the_same_sentences(tmp_path: Path) -> None:
    names = ("a-src.en.sgm", "a-ref.de.sgm")
    corpus = Corpus(source=Source(path=names[0]), target=Source(path=names[1]))
    (tmp_path / names[0]).write_bytes(sgm(["a", "b", "c"]))
    (tmp_path / names[1]).write_bytes(sgm(["x", "y", "z"], "ref"))
    assert pairs_of(corpus, tmp_path) == [("a", "x"), ("b", "y"), ("c", "z")]
    (tmp_path / names[1]).write_bytes(sgm(["x", "y", "z"], "ref", document="other"))
    with pytest.raises(UserError) as caught:
        pairs_of(corpus, tmp_path)
    assert str(caught.value) == (
        "a-src.en.sgm has sentence '1' of document 'd1-0' as sentence 1, a-ref.de.sgm has sentence '1' of document "
        "'other-0': they are no pairs"
    )
    (tmp_path / names[1]).write_text("x\ny\nz\n", encoding="utf-8")
    assert pairs_of(corpus, tmp_path)[0] == ("a", "x")


def test_messages_name_the_line_of_tagged_text_and_the_sentence_of_markup(tmp_path: Path) -> None:
    head = b"<url>http://x</url>\n<speaker>A. B.</speaker>\n<title>One</title>\n"
    tagged, marked, good = tmp_path / "tagged", tmp_path / "marked", tmp_path / "good"
    tagged.write_bytes(head + b"two\n<talkid>1</talkid>\ngr\xfcn\nfour\n")  # the third sentence is in line 6
    marked.write_bytes(sgm(["one", "two", "GREEN", "four"]).replace(b"GREEN", b"gr\xfcn"))
    good.write_text("x\ny\nz\nw\n", encoding="utf-8")
    for path, where in ((tagged, "line 6"), (marked, "sentence 3")):
        source, target = Source(path=str(path)), Source(path=str(good))
        message = f"{path} {where}: not UTF-8"
        for read in (
            lambda path=path: open_lines(path),
            lambda path=path, source=source: source_lines(source, path),
            lambda path=path, source=source, target=target: read_pairs(
                HeldOut(source=source, target=target), [path, good], DIRECTION
            ),
        ):
            with pytest.raises(UserError) as caught:
                list(read())
            assert str(caught.value) == message
        skipped, malformed = Skipped(), Malformed()
        pairs = list(read_pairs(Corpus(source=source, target=target), [path, good], DIRECTION, skipped))
        assert [target_line for _, target_line in pairs] == ["x", "y", "w"]
        assert len(list(monolingual_lines(source, path, malformed))) == 3
        for counts in (skipped.malformed, malformed):
            assert counts.first_lines == {"not UTF-8": [f"{path} {where}"]}


def test_references_of_wmt_xml_are_selected_by_part(tmp_path: Path) -> None:
    references = {"ref lang='de' translator='A'": ["xA", "yA"], "ref lang='de' translator='B'": ["xB", "yB"]}
    path = tmp_path / "wmt.xml"
    path.write_bytes(wmt_xml(["a", "b"], {**references, "hyp system='S'": ["xS", "yS"]}))
    found = {
        part: list(read_pairs(HeldOut(wmt_xml=Source(path=str(path), part=part)), [path], DIRECTION))
        for part in (None, "ref", "ref:B")
    }
    assert found[None] == found["ref"] == [("a", "xA"), ("b", "yA")]
    assert found["ref:B"] == [("a", "xB"), ("b", "yB")]
    assert list(source_lines(Source(path=str(path), part="hyp:S"), path)) == ["xS", "yS"]
    with pytest.raises(UserError, match=r"wmt\.xml:ref:C: it has no part 'ref:C', but src, ref:A, ref:B, hyp:S"):
        list(source_lines(Source(path=str(path), part="ref:C"), path))
    (tmp_path / "plain").write_text("x\n", encoding="utf-8")
    with pytest.raises(UserError, match="'part' is given, but the file is not SGM or XML with <seg>"):
        list(source_lines(Source(path="plain", part="ref"), tmp_path / "plain"))


@pytest.mark.parametrize(("form", "others"), [(form, [each for each in ONE_FILE if each != form]) for form in ONE_FILE])
def test_a_file_of_another_format_is_refused(tmp_path: Path, form: str, others: list[str]) -> None:
    for other in (*others, "binary"):
        content = ONE_FILE[other][0](PAIRS) if other in ONE_FILE else bytes(100)
        corpus, path = write_corpus(tmp_path, form, PAIRS)
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            list(read_pairs(corpus, [path], DIRECTION))
        assert str(caught.value).startswith(str(path)), (form, other)


@pytest.mark.parametrize("form", ONE_FILE)
def test_truncated_and_damaged_corpora_give_one_message(tmp_path: Path, form: str) -> None:
    """Cut a file anywhere and change bytes, with a fixed seed: pairs or one message with the name, nothing else."""
    rng = random.Random(form)
    pairs = [(f"house {rng.random()} & <b>", f"Häuser {rng.random()}") for _ in range(50)]
    corpus, path = write_corpus(tmp_path, form, pairs, malformed="error")
    whole, messages = path.read_bytes(), []
    for number in range(150):
        data = bytearray(whole[: rng.randrange(len(whole))] if number % 2 else whole)
        for _ in range(0 if number % 2 else rng.randint(1, 4)):
            place = rng.randrange(len(data))
            data[place : place + rng.choice([0, 1, 1, 20])] = rng.randbytes(rng.choice([0, 1, 1, 5]))
        path.write_bytes(data)
        try:
            list(read_pairs(corpus, [path], DIRECTION))
        except UserError as error:
            messages.append(str(error))
    assert all(re.match(rf"{re.escape(str(path))}.*: \w", message) for message in messages)
    assert not any("None" in message for message in messages)
    assert len(messages) > 50


def test_memory_of_a_table_is_that_of_a_batch(tmp_path: Path) -> None:
    """Read a table of 48 MB of text with row groups of 4 MB in a process of its own."""
    path = tmp_path / "t.parquet"
    column = pyarrow.array([f"{number} " + "x" * 1000 for number in range(2000)])
    schema = pyarrow.schema({"en": pyarrow.string(), "de": pyarrow.string()})
    with pyarrow.parquet.ParquetWriter(path, schema, use_dictionary=False, compression="none") as writer:
        for _ in range(12):
            writer.write_table(pyarrow.table({"en": column, "de": column}))
    code = (
        "import resource, sys, pathlib\n"
        "import pyarrow.compute, pyarrow.parquet\n"
        "from kdmt.config import Corpus\n"
        "from kdmt.corpus.reading import read_pairs\n"
        "from kdmt.languages import Direction\n"
        "corpus = Corpus.model_validate({'parquet': {'path': 'x'}, 'source_field': 'en', 'target_field': 'de'})\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "pairs = read_pairs(corpus, [pathlib.Path(sys.argv[1])], Direction('en', 'de'))\n"
        "print(sum(1 for pair in pairs), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == 24_000
    assert grown * (1 if sys.platform == "darwin" else 1024) < 30 << 20
