"""Unusual and invalid corpora, through the command line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_input import change, message_of, refused, unharmed
from tiny_pipeline import (
    DECODE,
    MODEL,
    SIZES,
    TRAIN,
    kdmt,
    make_pairs,
    read_lines,
    run_stages,
    settings,
    to_yaml,
    write_lines,
)

from kdmt.corpus.indexed import IndexedDataset, IndexedWriter
from kdmt.types import EOS, PAD

MADE = Path("runs/tiny/prepare")
FAMILIES = ("nat", "cmlm", "inat", "nat_crf", "ctc", "dag", "levenshtein", "insertion")


def report() -> dict[str, Any]:
    return json.loads((MADE / "report.json").read_text(encoding="utf-8"))


def warnings_of(err: str) -> list[str]:
    start = "prepare: warning: "
    return [line.removeprefix(start) for line in err.splitlines() if line.startswith(start)]


def set_prepare(**changes: Any) -> None:
    """Change settings of `prepare` in ./tiny.yaml."""
    document = settings()
    document["prepare"].update(changes)
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------- rows


@pytest.mark.usefixtures("pipeline")
def test_malformed_rows_are_left_out_counted_and_named() -> None:
    rows = list(zip(read_lines(Path("text/train.en")), read_lines(Path("text/train.de")), strict=True))
    with Path("text/train.tsv").open("w", encoding="utf-8", newline="") as file:
        written = csv.writer(file, delimiter="\t", lineterminator="\n")
        written.writerows([("en", "de"), *rows[:10], ('ga "quoted"', "rom\nrum"), *rows[10:]])
        file.write("ba\nbe\tuk\textra\n")
        file.write("ba\tok" + "x" * 1_000_001 + "\n")
    with Path("text/train.tsv").open("ab") as latin1:
        latin1.write("ba\tgrün\n".encode("latin-1"))
    tsv = {"tsv": {"path": "text/train.tsv"}, "header": True, "quoted": True}
    set_prepare(train=[tsv])
    (result,) = run_stages("prepare")
    pairs = [(read_lines(MADE / "train.en"), read_lines(MADE / "train.de"))]
    assert list(zip(*pairs[0], strict=True)) == [*rows[:10], ('ga "quoted"', "rom rum"), *rows[10:]]
    name, wrong = "train.0 text/train.tsv", "another number of columns than the first row"
    last = len(rows) + 4  # the header, and a row of two lines
    first = {wrong: [last, last + 1], "longer than 1,000,000 bytes": [last + 2], "not UTF-8": [last + 3]}
    assert report()["malformed"] == {
        name: {
            kind: {"rows": len(lines), "first": [f"text/train.tsv line {line}" for line in lines]}
            for kind, lines in first.items()
        }
    }
    start = f"{name}: 2 malformed rows were left out: {wrong}"
    assert [line.startswith(start) for line in warnings_of(result.err)] == [True, False, False]
    set_prepare(train=[tsv | {"malformed": "error"}])
    with unharmed("tiny/prepare.partial/"):
        again = kdmt("prepare", "tiny.yaml")
    assert again.code == 2
    assert again.err.endswith(f"kdmt: error: prepare.train.0: text/train.tsv line {last}: {wrong}: 1, not 2\n")


@pytest.mark.usefixtures("finished")
def test_settings_of_rows_missing_in_an_older_record_change_nothing() -> None:
    path = MADE / "manifest.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    names = ("header", "quoted", "malformed", "tmx", "jsonl", "parquet", "wmt_xml", "source_field", "target_field")
    new = [key for key in record["settings"] if key.endswith(names) or key.endswith(("part", "references", "quality"))]
    assert len(new) == 3 * (len(names) + 1) + 6
    for key in new:
        del record["settings"][key]
    path.write_text(json.dumps(record), encoding="utf-8")
    assert "up to date, nothing to do" in run_stages("prepare")[0].err
    assert (
        "the setting prepare.train.0.malformed changed from 'drop' to 'error'"
        in kdmt("prepare", "tiny.yaml", "--set", "prepare.train.0.malformed=error").err
    )


@pytest.mark.usefixtures("pipeline")
def test_invalid_lines_of_monolingual_text_are_left_out() -> None:
    Path("text/mono.en").write_bytes(b"\n".join([b"ba be ga", b"b" * 1_000_001, b"gi gi", b"ba \xc3 be", b""]))
    set_prepare(monolingual=[{"path": "text/mono.en"}])
    run_stages("prepare")
    assert read_lines(MADE / "monolingual.en") == ["ba be ga", "gi gi"]
    assert report()["malformed"] == {
        "monolingual.0 text/mono.en": {
            "longer than 1,000,000 bytes": {"rows": 1, "first": ["text/mono.en line 2"]},
            "not UTF-8": {"rows": 1, "first": ["text/mono.en line 4"]},
        }
    }


# ------------------------------------------------------------------------------------------------------------- formats


def tar_gz(text: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as file:
        info = tarfile.TarInfo("train.en")
        info.size = len(text)
        file.addfile(info, io.BytesIO(text))
    return archive.getvalue()


def xliff(text: bytes) -> bytes:
    lines = text.decode().splitlines()
    units = "".join(f'<unit id="{number}"><source>{line}</source></unit>\n' for number, line in enumerate(lines, 1))
    return f'<?xml version="1.0"?>\n<xliff version="2.1">\n{units}</xliff>\n'.encode()


DISGUISES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "tar.gz": (tar_gz, "a tar archive, not plain text: name the file inside it as 'member', or unpack it"),
    "xliff": (xliff, "SGML or XML markup, not plain text: extract the text first"),
    "utf-16": (lambda text: text.decode().encode("utf-16"), "UTF-16 text, not plain text: convert it to UTF-8"),
    "returns": (lambda text: text.replace(b"\n", b"\r"), "carriage returns inside its lines"),
}


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("place", ["train", "valid", "test", "monolingual", "raw_target"])
def test_text_in_another_format_is_refused_in_every_setting(place: str, disguise: str) -> None:
    wrap, reason = DISGUISES[disguise]
    path = Path(f"text/{place if place in SIZES else 'test'}.de")
    if place in ("monolingual", "raw_target"):
        path = Path("text/more")
        path.write_bytes(Path("text/test.de").read_bytes())
        document = settings()
        if place == "monolingual":
            document["prepare"]["monolingual"] = [{"path": "text/more"}]
        else:
            document["prepare"]["test"]["test"]["raw_target"] = {"path": "text/more"}
        Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    path.write_bytes(wrap(path.read_bytes()))
    message = refused("prepare", "tiny.yaml")
    paths = {
        "train": "train.0",
        "test": "test.test",
        "monolingual": "monolingual.0",
        "raw_target": "test.test.raw_target",
    }
    assert message.startswith(f"prepare.{paths.get(place, place)}: {path}: ")
    assert reason in message
    assert not MADE.exists()


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("disguise", DISGUISES)
def test_files_of_scores_translations_and_pairs_in_another_format_are_refused(disguise: str) -> None:
    wrap, reason = DISGUISES[disguise]
    count = len(read_lines(MADE / "train.en"))
    Path("given").write_bytes(wrap("".join(f"{number}\tok uk\n" for number in range(count)).encode()))
    student = {"model": MODEL, "train": TRAIN}
    for setting, data in (("scores", "scored"), ("imported", "imported")):
        document = settings()
        document["distill"][setting] = "given"
        document["distill"]["decode"] = DECODE | {"nbest": 2}
        document["students"] = {"other": student | {"data": data}}
        Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
        message = kdmt("distill", "tiny.yaml").err.splitlines()[-1]
        assert message.startswith("kdmt: error: given: ")
        assert reason in message
    message = message_of(kdmt("rescore", "runs/tiny/teacher", "given", "text/test.de"))
    assert message.startswith("given: ")
    assert reason in message


# ------------------------------------------------------------------------------------------------------------- symbols


def words_pipeline(**students: Any) -> None:
    document = settings()
    document["prepare"]["tokenizer"] = {"type": "words"}
    document["teacher"]["train"] = TRAIN
    document["students"] = students
    document["score"]["beams"] = [1]
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize("tokenizer", ["words", "subword-nmt"])
def test_words_spelled_like_special_symbols_are_kept(tokenizer: str) -> None:
    words_pipeline()
    if tokenizer == "subword-nmt":  # the tokenizer merges them as a whole, because they are frequent
        change_tokenizer = {"type": "subword-nmt", "model": "bpe", "vocab_size": 100}
        document = settings()
        document["prepare"]["tokenizer"] = change_tokenizer
        document["teacher"]["train"] = TRAIN
        document["students"] = {}
        Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    for split, lang, line in (
        *(("train", "de", number) for number in (0, 3, 5)),
        *(("train", "en", 7), ("valid", "de", 1), ("valid", "en", 2), ("test", "en", 0)),
    ):
        path = Path(f"text/{split}.{lang}")
        lines = read_lines(path)
        words = lines[line].split()
        lines[line] = " ".join([words[0], "<pad>", "<s>", *words[1:], "</s>", "<unk>"])
        write_lines(path, lines)
    (result, _) = run_stages("prepare", "teacher")
    expected = {"de": 3, "en": 1}
    specials = ("<s>", "<pad>", "</s>", "<unk>")
    assert report()["literal_specials"] == {lang: dict.fromkeys(specials, count) for lang, count in expected.items()}
    assert [warning for warning in warnings_of(result.err) if "side of the training set" in warning] == [
        f"the {lang} side of the training set has {expected[lang]} words {symbol}: they count as <unk>"
        for lang in ("en", "de")
        for symbol in ("<s>", "<pad>", "</s>")
    ]
    for split in SIZES:
        for lang in ("en", "de"):
            dataset = IndexedDataset(MADE / f"data-bin/{split}.en-de.{lang}")
            inner = np.concatenate([dataset[number][:-1] for number in range(len(dataset))])
            assert inner.min() > EOS


def add_inner_ids(folder: Path, *, seed: int) -> None:
    """Insert <s>, <pad> and </s> into sentences of a data-bin, as fairseq-preprocess may leave them there."""
    rng = np.random.default_rng(seed)
    for idx in sorted(folder.glob("*.idx")):
        prefix = idx.with_suffix("")
        dataset = IndexedDataset(prefix)
        sentences = [dataset[number].tolist() for number in range(len(dataset))]
        for sentence in sentences[::3]:
            for special in (PAD, 0, EOS, PAD):
                sentence.insert(int(rng.integers(len(sentence))), special)
        sentences[1] = [PAD, *sentences[1]]
        sentences[2] = [PAD, PAD, EOS]
        with IndexedWriter(prefix, 1000) as writer:
            for sentence in sentences:
                writer.add(np.array(sentence))


@pytest.mark.usefixtures("pipeline")
def test_ids_of_special_symbols_inside_sentences_of_a_data_bin_are_kept() -> None:
    """Check that every family trains on them and decodes such sources; nothing takes them for padding."""
    words_pipeline()
    run_stages("prepare")
    data = Path("theirs")
    (MADE / "data-bin").rename(data)
    add_inner_ids(data, seed=1)
    document = settings()
    document["prepare"] = {
        "data_bin": {"path": "theirs", "test": ["test"]},
        "tokenizer": {"type": "words"},
        "workers": 1,
    }
    document["teacher"]["train"] = TRAIN
    student = {"model": MODEL, "train": TRAIN, "data": "raw"}
    document["students"] = {
        "raw": student,
        "distilled": student | {"data": "distilled"},
        **{family: student | {"nat": {"family": family}} for family in FAMILIES},
        "glancing": student | {"nat": {"family": "ctc", "glancing": [[0, 0.5]], "too_long": "upsample"}},
    }
    document["students"]["masked"] = student | {"self_supervised": {}}
    document["score"]["beams"] = [1]
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    (result, *_) = run_stages("prepare", "teacher", "distill", "student", "score")
    count = -(-SIZES["train"] // 3)
    expected = {"<s>": count, "<pad>": 2 * count + 3, "</s>": count}
    assert report()["special_ids"] == {"en": expected, "de": expected}
    assert (
        f"the de side of the training set has {2 * count + 3} ids of <pad> inside sentences: they count as <unk>"
        in (warnings_of(result.err))
    )


@pytest.mark.parametrize("tag", ["<s>", "<pad>", "</s>", "<unk>"])
@pytest.mark.usefixtures("pipeline")
def test_a_tag_that_is_a_special_symbol_is_refused(tag: str) -> None:
    change(lambda document: document["prepare"]["train"][0].update(tag=tag))
    assert "prepare.train.0.tag: is one of the special symbols <s> <pad> </s> <unk>: choose" in refused(
        "prepare", "tiny.yaml"
    )


# ------------------------------------------------------------------------------------------------------------ warnings


@pytest.mark.usefixtures("pipeline")
def test_a_validation_set_that_is_a_test_set_is_a_warning() -> None:
    for lang in ("en", "de"):
        write_lines(Path(f"text/copy.{lang}"), [line.upper() + " ." for line in read_lines(Path(f"text/valid.{lang}"))])
    mixed = [*make_pairs(8, seed=77), *zip(read_lines(Path("text/valid.en")), ["other"] * 6, strict=True)][:10]
    for side, lang in enumerate(("en", "de")):
        write_lines(Path(f"text/mixed.{lang}"), [pair[side] for pair in mixed])
    test = {
        name: {"source": {"path": f"text/{name}.en"}, "target": {"path": f"text/{name}.de"}}
        for name in ("copy", "mixed", "test")
    }
    set_prepare(test=test | {"again": test["copy"]})
    (result,) = run_stages("prepare")
    held_out = report()["held_out"]
    assert held_out["copy"]["shared"] == {"valid": 6}
    assert held_out["mixed"]["shared"] == {"valid": 2, "copy": 0}
    assert held_out["test"]["shared"] == {"valid": 0, "copy": 0, "mixed": 0}
    assert held_out["again"]["shared"] == {"valid": 6, "copy": 6, "mixed": 0, "test": 0}
    chosen = "what is chosen by the validation set is not tested by them"
    assert warnings_of(result.err) == [
        f"copy: 6 of 6 source sentences are those of valid: {chosen}",
        f"mixed: 2 of 10 source sentences are those of valid: {chosen}",
        f"again: 6 of 6 source sentences are those of valid: {chosen}",
        "again: 6 of 6 pairs are those of copy",
    ]


@pytest.mark.usefixtures("pipeline")
def test_empty_lines_of_held_out_text_are_a_warning() -> None:
    lines = read_lines(Path("text/test.de"))
    write_lines(Path("text/test.de"), ["", "\u200b", *lines[2:-1], " \t"])
    (result,) = run_stages("prepare")
    assert report()["held_out"]["test"] == {"lines": 5, "empty_source": 0, "empty_target": 3, "shared": {"valid": 0}}
    assert [warning for warning in warnings_of(result.err) if "empty" in warning] == [
        "test: 3 of 5 target lines are empty"
    ]


@pytest.mark.usefixtures("pipeline")
def test_a_corpus_with_its_sides_exchanged_is_a_warning() -> None:
    lines = {lang: read_lines(Path(f"text/train.{lang}")) for lang in ("en", "de")}
    for lang, other in (("en", "de"), ("de", "en")):
        write_lines(Path(f"text/first.{lang}"), lines[lang][:40])
        write_lines(Path(f"text/second.{lang}"), lines[other][40:])
    corpora = [
        {"source": {"path": f"text/{name}.en"}, "target": {"path": f"text/{name}.de"}} for name in ("first", "second")
    ]
    set_prepare(train=corpora)
    (result,) = run_stages("prepare")
    assert report()["sides"]["train.0 text/first.en"]["exchanged"] == 0
    found = report()["sides"]["train.1 text/second.en"]
    assert found["exchanged"] == found["compared"] > 30
    assert warnings_of(result.err) == [
        f"train.1 text/second.en: source and target seem to be exchanged in {found['exchanged']} of the "
        f"{found['compared']} pairs that were compared with valid"
    ]


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.usefixtures("pipeline")
def test_a_test_set_can_have_any_valid_file_name() -> None:
    names = ("newstest2014", "flores200-dev", "2016.flickr", "übung")
    document = settings()
    document["prepare"]["test"] = dict.fromkeys(names, document["prepare"]["test"]["test"])
    document = json.loads(json.dumps(document))
    document["teacher"]["train"] = TRAIN
    document["students"] = {}
    document["score"]["beams"] = [1]
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    run_stages("prepare", "teacher", "score")
    rows = json.loads(Path("runs/tiny/scores.json").read_text(encoding="utf-8"))
    assert [row["test_set"] for row in rows] == list(names)
    inputs = json.loads(Path("runs/tiny/score/manifest.json").read_text(encoding="utf-8"))["inputs"]
    for name in names:
        assert {f"prepare/{name}.en", f"prepare/{name}.raw.de", f"prepare/data-bin/{name}.en-de.de.bin"} <= set(inputs)
        generated = kdmt("generate", MADE / "data-bin", "--path", "runs/tiny/teacher", "--cpu", "--gen-subset", name)
        assert generated.code == 0, generated.err
    assert "up to date, nothing to do" in kdmt("score", "tiny.yaml").err


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a/b", "begins with a letter"),
        ("../a", "begins with a letter"),
        (".hidden", "begins with a letter"),
        ("-x", "begins with a letter"),
        ("a b", "begins with a letter"),
        ("", "begins with a letter"),
        ("n" * 101, "at most 100 bytes"),
        ("train", "is reserved"),
        ("Valid", "is reserved"),
        ("train1", "is reserved"),
        ("valid.x", "is reserved"),
        ("monolingual", "is reserved"),
        ("dict", "is reserved"),
        ("test.raw", "is reserved"),
        ("test.raw12", "is reserved"),
        ("TEST", "differ in case alone"),
    ],
)
def test_invalid_names_of_test_sets_are_refused(name: str, problem: str) -> None:
    change(lambda document: document["prepare"]["test"].update({name: document["prepare"]["test"]["test"]}))
    assert problem in refused("prepare", "tiny.yaml")
    assert not Path("runs").exists()


@pytest.mark.usefixtures("pipeline")
def test_duplicates_are_dropped_from_the_tagged_corpus() -> None:
    pair = {"source": {"path": "text/train.en"}, "target": {"path": "text/train.de"}}
    set_prepare(train=[pair | {"tag": "<bt>"}, pair])
    run_stages("prepare")
    assert [corpus["pairs_kept"] for corpus in report()["corpora"]] == [0, SIZES["train"]]
    assert set(read_lines(MADE / "train.tags")) == {""}


@pytest.mark.usefixtures("pipeline")
def test_text_of_combining_marks_is_cleaned_quickly() -> None:
    lines = read_lines(Path("text/train.en"))
    write_lines(Path("text/train.en"), ["ba" + "\u0301\u0323" * 100_000, *lines[1:]])
    Path("text/train.en.gz").write_bytes(gzip.compress(Path("text/train.en").read_bytes()))
    run_stages("prepare", sets=("prepare.train.0.source.path=text/train.en.gz",))
    assert max(map(len, read_lines(MADE / "train.en"))) < 40
