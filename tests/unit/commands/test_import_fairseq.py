"""Tests of `kdmt import-fairseq` with data-bins made by fairseq-preprocess (tests/golden/data_bin)."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from bad_input import message_of
from tiny_pipeline import DECODE, MODEL, TRAIN, kdmt, read_lines

from kdmt.commands.import_fairseq import new_pipeline
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset, IndexedWriter
from kdmt.corpus.vocabulary import Dictionary

GOLDEN = Path(__file__).parents[2] / "golden"
PREPARED = Path("runs/x/prepare")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the working folder with data-bins `joined`, `separate` (train and valid) and `tested` (valid and test)."""
    for name in ("joined", "separate"):
        shutil.copytree(GOLDEN / "data_bin" / name, tmp_path / name)
    shutil.copytree(GOLDEN / "generate" / "data-bin", tmp_path / "tested")
    for path in list((tmp_path / "tested").glob("valid.*")):
        shutil.copy2(path, path.with_name(path.name.replace("valid", "train")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(data, *flags):
    result = kdmt("import-fairseq", data, "x.yaml", *flags)
    assert result.code == 0, result.err
    return result


def refused(*arguments):
    """Return the error message, and check that neither a stage nor a pipeline is left."""
    before = Path("x.yaml").exists()
    message = message_of(kdmt("import-fairseq", *arguments))
    assert Path("x.yaml").exists() == before
    assert not Path("runs").exists() or not Path("runs/x/prepare").exists()
    return message


@pytest.mark.parametrize("data", ["joined", "separate"])
def test_imported_files_equal_the_data_bin(data, folder):  # noqa: ARG001
    imported(data)
    names = sorted(path.name for path in Path(data).iterdir())
    assert sorted(path.name for path in (PREPARED / "data-bin").iterdir()) == names
    for name in names:
        assert (PREPARED / "data-bin" / name).read_bytes() == (Path(data) / name).read_bytes()
    for lang in ("en", "de"):
        assert (PREPARED / f"dict.{lang}.txt").read_bytes() == (Path(data) / f"dict.{lang}.txt").read_bytes()


def test_text_is_decoded_from_the_ids_and_encodes_to_the_same_ids(folder):  # noqa: ARG001
    imported("separate")
    codec = TextCodec.load(PREPARED)
    encode = {"en": codec.encode_source, "de": codec.encode_target}
    for split in ("train", "valid"):
        for lang in ("en", "de"):
            lines = read_lines(PREPARED / f"{split}.{lang}")
            written = (GOLDEN / "data_bin" / "text" / f"{split}.{lang}").read_text(encoding="utf-8").splitlines()
            dataset = IndexedDataset(PREPARED / "data-bin" / f"{split}.en-de.{lang}")
            assert len(lines) == len(dataset)
            unlike = [i for i, ids in enumerate(encode[lang](lines)) if not np.array_equal(ids, dataset[i])]
            spelled = {"<s>", "<pad>", "</s>"}  # words of the text that fairseq reads as its special symbols
            assert all(spelled & set(dataset_words(dataset[i], codec, lang)) for i in unlike)
            assert lines[0] == " ".join(written[0].split())


def dataset_words(ids, codec, lang):
    dictionary = codec.src_dictionary if lang == "en" else codec.tgt_dictionary
    return [dictionary.symbols[token] for token in ids[:-1]]


def test_the_pipeline_describes_the_data_bin(folder):  # noqa: ARG001
    imported("joined")
    document = yaml.safe_load(Path("x.yaml").read_text(encoding="utf-8"))
    assert document["name"] == "x"
    assert (document["source_lang"], document["target_lang"]) == ("en", "de")
    assert document["prepare"]["data_bin"] == {"path": "joined", "test": []}
    assert document["prepare"]["vocabulary"] == {"joined": True}
    again = kdmt("prepare", "x.yaml")
    assert again.code == 0
    assert "up to date, nothing to do" in again.err


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_error_in_the_stage_leaves_no_pipeline(error, folder):  # noqa: ARG001
    with pytest.raises(error), new_pipeline(Path("joined"), Path("x.yaml")):  # noqa: PT012
        assert Path("x.yaml").is_file()
        raise error
    assert not list(Path().glob("*x.yaml*"))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV])
def test_import_on_a_disk_without_hard_links(number, folder, monkeypatch):  # noqa: ARG001
    def link(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.link", link)
    imported("joined")
    assert sorted(path.name for path in Path().glob("*x.yaml*")) == ["x.yaml"]
    assert kdmt("prepare", "x.yaml").code == 0


def test_without_hard_links_a_file_created_meanwhile_is_kept(folder, monkeypatch):  # noqa: ARG001
    def link(*_):
        Path("x.yaml").write_text("mine\n")
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr("os.link", link)
    assert "x.yaml: exists already; nothing was written" in message_of(kdmt("import-fairseq", "joined", "x.yaml"))
    assert Path("x.yaml").read_text() == "mine\n"


def test_a_changed_data_bin_is_read_again(folder):  # noqa: ARG001
    imported("joined")
    shutil.copytree("separate", "joined", dirs_exist_ok=True)
    result = kdmt("prepare", "x.yaml")
    assert "dictionaries of joined are different" in message_of_last(result)
    assert (PREPARED / "manifest.json").is_file()


def message_of_last(result):
    assert result.code == 2
    return result.err.removesuffix("\n").split("\n")[-1]


def test_a_deleted_data_bin_leaves_the_stage_up_to_date(folder):  # noqa: ARG001
    imported("joined")
    shutil.rmtree("joined")
    result = kdmt("prepare", "x.yaml")
    assert result.code == 0
    assert "up to date" in result.err


def test_all_training_splits_are_concatenated(folder):  # noqa: ARG001
    for lang in ("en", "de"):
        for end in ("bin", "idx"):
            shutil.copy2(f"joined/valid.en-de.{lang}.{end}", f"joined/train1.en-de.{lang}.{end}")
    imported("joined")
    whole = IndexedDataset(PREPARED / "data-bin" / "train.en-de.de")
    parts = [IndexedDataset(Path(f"joined/{name}.en-de.de")) for name in ("train", "train1")]
    expected = [part[i].tolist() for part in parts for i in range(len(part))]
    assert [whole[i].tolist() for i in range(len(whole))] == expected
    assert len(read_lines(PREPARED / "train.de")) == len(expected)


def test_import_in_the_other_direction(folder):  # noqa: ARG001
    imported("separate", "-s", "de", "-t", "en")
    theirs = Path("separate/train.en-de.de.bin").read_bytes()
    assert (PREPARED / "data-bin" / "train.de-en.de.bin").read_bytes() == theirs


def test_later_stages_run_on_an_imported_data_bin(folder):  # noqa: ARG001
    """Run the pipeline to its scores, and check that the references are words and not subwords."""
    imported("tested", "--remove-bpe", "@@ ")
    document = yaml.safe_load(Path("x.yaml").read_text(encoding="utf-8"))
    model = {key: value for key, value in MODEL.items() if key != "share_all_embeddings"}
    document["teacher"] = {"model": model, "train": TRAIN}
    document["distill"] = {"decode": DECODE, "executor": "inline", "engine": "torch"}
    document["students"] = {"distilled": {"model": model, "train": TRAIN}}
    document["score"] = {"beams": [1], "bootstrap_samples": 20, "speed_sentences": 2, "threads": 1}
    Path("x.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    for stage in ("teacher", "distill", "student", "score"):
        result = kdmt(stage, "x.yaml")
        assert result.code == 0, result.err
    assert "@@" in Path(PREPARED / "test.de").read_text(encoding="utf-8")
    assert "@@" not in Path(PREPARED / "test.raw.de").read_text(encoding="utf-8")
    assert all("@@" not in path.read_text(encoding="utf-8") for path in Path("runs/x/score").glob("*.de"))
    rows = json.loads(Path("runs/x/scores.json").read_text(encoding="utf-8"))
    assert [row["test_set"] for row in rows] == ["test", "test"]
    generated = kdmt("generate", "tested", "--path", "runs/x/teacher", "--cpu", "--beam", "1", "--remove-bpe")
    assert generated.code == 0, generated.err


def write_side(prefix, sentences, size=60):
    with IndexedWriter(Path(prefix), size) as writer:
        for sentence in sentences:
            writer.add(np.array(sentence))


def test_ids_beyond_the_dictionary_are_refused(folder):  # noqa: ARG001
    size = len(Dictionary.load(Path("joined/dict.de.txt")))
    count = len(IndexedDataset(Path("joined/valid.en-de.de")))
    write_side("joined/valid.en-de.de", [[5, 2]] * (count - 1) + [[5, size, 2]], size=size + 1)
    message = refused("joined", "x.yaml")
    assert (
        f"valid.en-de.de.bin: sentence {count - 1} (from 0) has the id {size}, the dictionary {size} symbols" in message
    )


def test_a_sentence_without_eos_is_refused(folder):  # noqa: ARG001
    count = len(IndexedDataset(Path("joined/valid.en-de.de")))
    write_side("joined/valid.en-de.de", [[5, 2], [5]] + [[5, 2]] * (count - 2))
    assert "valid.en-de.de.bin: sentence 1 (from 0) does not end in </s>" in refused("joined", "x.yaml")


def test_sides_of_different_length_are_refused(folder):  # noqa: ARG001
    write_side("joined/valid.en-de.de", [[5, 2]])
    assert "valid.en-de.de.idx has 1: not parallel" in refused("joined", "x.yaml")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("valid.en-de.de.idx", None, "valid.en-de.de.idx: there is no such file"),
        ("valid.en-de.de.bin", None, "valid.en-de.de.bin: there is no such file"),
        ("dict.de.txt", None, "dict.de.txt: there is no such dictionary"),
        ("dict.de.txt", b"one two three\n", "dict.de.txt:1: expected 'token count'"),
        ("valid.en-de.de.idx", b"TNTIDX\x00\x00more", "format 'lazy or cached': make the data-bin again with"),
        ("valid.en-de.de.idx", b"HUFFIDX\x00\x00more", "format 'huffman'"),
        ("valid.en-de.de.idx", b"MMIDIDX\x00\x00", "cut short: 9 bytes"),
        ("valid.en-de.de.idx", b"", "not an index of fairseq's mmap format"),
        ("valid.en-de.de.bin", b"12", "cut short: 2 bytes"),
    ],
)
def test_damaged_files_are_refused(file, content, message, folder):  # noqa: ARG001
    path = Path("joined") / file
    path.unlink() if content is None else path.write_bytes(content)
    assert message in refused("joined", "x.yaml")


def test_text_in_place_of_an_index_is_refused(folder):  # noqa: ARG001
    for path in list(Path("joined").glob("valid.*.de.*")):
        path.unlink()
    Path("joined/valid.en-de.de").write_text("a b\n")
    assert "valid.en-de.de: data of fairseq's format 'raw'" in refused("joined", "x.yaml")


def test_a_missing_side_is_refused(folder):  # noqa: ARG001
    for path in list(Path("joined").glob("train.*.de.*")):
        path.unlink()
    assert "train.en-de.de.idx: there is no such file" in refused("joined", "x.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none", "x.yaml"), "none: there is no such folder"),
        ((".", "x.yaml"), ".: not a data-bin"),
        (("joined", "x.yaml", "-t", "fr"), "joined: a data-bin of en-de, not of ...-fr"),
        (("joined", "x.yaml", "--bpe-codes", "a", "--sentencepiece", "b"), "text was cut by one of them"),
        (("joined", "x.yaml", "--bpe-codes", "a", "--remove-bpe", "@@ "), "--remove-bpe is for tokens"),
        (("joined", "x.yaml", "--remove-bpe", "spm"), "prepare.tokenizer.remove_bpe: should be 'subword_nmt'"),
        (("joined", "x.yaml", "--bpe-codes", "a"), "a: there is no such file"),
        (("tested", "x.yaml", "--name", "a b"), "name: not in the form"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message, folder):  # noqa: ARG001
    assert message in refused(*arguments)


def test_an_existing_pipeline_is_kept(folder):  # noqa: ARG001
    Path("x.yaml").write_text("mine\n")
    assert "x.yaml: exists already; nothing was written" in refused("joined", "x.yaml")
    assert Path("x.yaml").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("tokenizer", "flag"),
    [
        ({"type": "subword-nmt", "model": "bpe", "vocab_size": 12}, "--bpe-codes"),
        ({"vocab_size": 32}, "--sentencepiece"),
    ],
)
def test_a_given_tokenizer_joins_the_subwords(tokenizer, flag, pipeline):  # noqa: ARG001
    """Import a data-bin made by `kdmt prepare`, and check that its text is restored exactly."""
    kinds = [f"prepare.tokenizer.{name}={value}" for name, value in tokenizer.items()]
    result = kdmt("prepare", "tiny.yaml", *(part for kind in kinds for part in ("--set", kind)))
    assert result.code == 0, result.err
    own = Path("runs/tiny/prepare")
    (model,) = (path for path in (own / "tokenizer").iterdir() if path.suffix != ".json")
    imported(own / "data-bin", flag, model)
    for name in ("train.en", "train.de", "valid.en", "test.de", "test.raw.de"):
        assert (PREPARED / name).read_bytes() == (own / name).read_bytes()
    facts = json.loads((PREPARED / "manifest.json").read_text(encoding="utf-8"))["facts"]
    assert facts["cut_otherwise"] == {"en": 0, "de": 0}


def test_another_tokenizer_is_refused(folder):  # noqa: ARG001
    Path("codes").write_text("#version: 0.2\nu k\nuk i\nuki k</w>\n")
    message = refused("tested", "x.yaml", "--bpe-codes", "codes")
    assert "the given tokenizer is not that of the data-bin: it cuts" in message


def use_as_test_set(**changes):
    """Add the data-bin `tested`, which fairseq made, to tiny.yaml as a second test set."""
    sides = {"source": "tested/test.en-de.en.bin", "target": "tested/test.en-de.de.bin"}
    document = yaml.safe_load(Path("tiny.yaml").read_text(encoding="utf-8"))
    source = {side: {"path": path, "remove_bpe": "subword_nmt", **changes} for side, path in sides.items()}
    document["prepare"]["test"]["test_old"] = source
    Path("tiny.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


def test_a_data_bin_can_be_a_test_set_of_another_pipeline(pipeline, folder):  # noqa: ARG001
    """Check the words of the test set, which the tokenizer of the pipeline segments again."""
    use_as_test_set()
    result = kdmt("prepare", "tiny.yaml")
    assert result.code == 0, result.err
    made = Path("runs/tiny/prepare")
    golden = (GOLDEN / "generate" / "beam.txt").read_text(encoding="utf-8").split("\n")  # generated with --remove-bpe
    for kind, lang in (("S", "en"), ("T", "de")):
        texts = dict(line.removeprefix(f"{kind}-").split("\t") for line in golden if line.startswith(f"{kind}-"))
        lines = [texts[str(index)].replace("<<unk>>", "<unk>") for index in range(len(texts))]
        assert read_lines(made / f"test_old.raw.{lang}") == lines
    Path("tested/dict.de.txt").write_bytes(Path("tested/dict.de.txt").read_bytes().replace(b"rom ", b"ROM "))
    assert "the input tested/dict.de.txt changed" in kdmt("prepare", "tiny.yaml").err
    assert "ROM" in (made / "test_old.raw.de").read_text(encoding="utf-8")


def test_a_token_file_without_its_dictionary_is_refused(pipeline, folder):  # noqa: ARG001
    use_as_test_set()
    Path("tested/dict.de.txt").unlink()
    assert "tested/dict.de.txt: there is no such file" in message_of(kdmt("prepare", "tiny.yaml"))


def test_remove_bpe_is_refused_unless_the_path_is_a_token_file(pipeline, folder):  # noqa: ARG001
    use_as_test_set(path="text/test.en")
    message = message_of(kdmt("prepare", "tiny.yaml"))
    assert "prepare.test.test_old.source: 'remove_bpe' has no effect unless 'path' is a token file" in message


def test_text_that_looks_like_subwords_is_reported(folder):  # noqa: ARG001
    assert "looks like subword_nmt: --remove-bpe subword_nmt" in imported("tested").err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("lang", ["zh-CN", "zh_CN", "ZH", "pt-BR", "sr-Latn", "no"])
def test_a_data_bin_with_any_language_tag_is_imported(lang):
    """Check that file names keep the tag; if it has a hyphen, both languages must be given as options."""
    Path("tagged").mkdir()
    for path in Path("separate").iterdir():
        name = path.name.replace(".de.", f".{lang}.").replace("en-de", f"en-{lang}")
        shutil.copy2(path, Path("tagged") / name)
    imported("tagged", "-s", "en", "-t", lang)
    written = yaml.safe_load(Path("x.yaml").read_text(encoding="utf-8"))
    assert (written["source_lang"], written["target_lang"]) == ("en", lang)
    assert sorted(path.name for path in (PREPARED / "data-bin").iterdir()) == sorted(
        path.name for path in Path("tagged").iterdir()
    )
    pairs = zip(*(read_lines(PREPARED / f"train.{side}") for side in ("en", lang)), strict=True)
    ratios = sorted(len(target) / len(source) for source, target in pairs if source and target)
    report = json.loads((PREPARED / "report.json").read_text(encoding="utf-8"))
    assert report["typical_ratio"] == pytest.approx(ratios[(len(ratios) - 1) // 2], rel=1e-3)


def test_a_common_mistake_in_a_language_code_is_corrected_in_the_message(folder):  # noqa: ARG001
    for path in list(Path("separate").iterdir()):
        path.rename(path.with_name(path.name.replace(".de.", ".cn.").replace("en-de", "en-cn")))
    message = refused("separate", "x.yaml")
    assert message == "'target_lang': 'cn' is no ISO 639 or BCP 47 language code: write 'zh'"
