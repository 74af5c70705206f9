"""Tests of data-bins: they equal those of fairseq-preprocess 0.12.2 byte for byte (tests/golden/make_data_bin.py)."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from kdmt.config import Tokenizer, Vocabulary
from kdmt.corpus.binarize import (
    TextPair,
    TokenCounts,
    binarize_files,
    binarize_tokenized,
    build_data_bin,
    count_tokens,
    data_prefix,
    dictionary_path,
)
from kdmt.corpus.indexed import IndexedDataset
from kdmt.corpus.subword_model import SubwordModel
from kdmt.corpus.tokenizer import Tokenizers, train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.languages import Direction

GOLDEN = Path(__file__).parents[2] / "golden" / "data_bin"
TEXT = GOLDEN / "text"
CASES = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
DIRECTION = Direction("en", "de")
LANGS = DIRECTION.sides


class Words(SubwordModel):
    """Tokenizer for text that is already tokenised, so that the fast path has the same input as fairseq."""

    def __init__(self):
        super().__init__(["<unk>"])

    def encode_ids(self, lines, threads=1):  # noqa: ARG002
        ids = [[self.symbol_id(word) for word in line.split()] for line in lines]
        return np.array([*itertools.chain(*ids)], dtype=np.int32), np.array([len(row) for row in ids], dtype=np.int32)

    def decode(self, tokenised):
        return tokenised

    def surfaces(self, symbols):  # noqa: ARG002
        raise AssertionError("nothing is decoded here")


def option(options, name, default):
    return int(options[options.index(name) + 1]) if name in options else default


def dictionary_options(options, side):
    return {
        "threshold": option(options, f"--threshold{side}", 0),
        "nwords": option(options, f"--nwords{side}", -1),
        "padding_factor": option(options, "--padding-factor", 8),
    }


def learn(options):
    """Return the dictionaries of both sides, built from the golden text."""
    paths = [TEXT / f"train.{lang}" for lang in LANGS]
    if "--joined-dictionary" in options:
        joined = Dictionary.from_counts(count_tokens(paths), **dictionary_options(options, "src"))
        return joined, joined
    return tuple(
        Dictionary.from_counts(count_tokens([path]), **dictionary_options(options, side))
        for path, side in zip(paths, ("src", "tgt"), strict=True)
    )


def assert_same_files(folder, expected):
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in names:
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name


@pytest.mark.parametrize("case", CASES)
def test_files_from_tokenised_text_equal_fairseq(case, tmp_path):
    for lang, dictionary in zip(LANGS, learn(CASES[case]), strict=True):
        dictionary.save(dictionary_path(tmp_path, lang))
        for split in ("train", "valid"):
            binarize_tokenized(TEXT / f"{split}.{lang}", dictionary, data_prefix(tmp_path, split, DIRECTION, lang))
    assert_same_files(tmp_path, GOLDEN / case)


def vocabulary_of(case):
    source, target = (dictionary_options(CASES[case], side) for side in ("src", "tgt"))
    if "--joined-dictionary" in CASES[case]:
        return Vocabulary(joined=True, **source)
    return Vocabulary(joined=False, **source, threshold_target=target["threshold"], nwords_target=target["nwords"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk_lines", [1, 7, 1000])
def test_files_of_the_fast_path_equal_fairseq(case, chunk_lines, tmp_path, monkeypatch):
    """Compare files; with a joined dictionary, the sides also share one tokenizer and its ids."""
    monkeypatch.setattr("kdmt.corpus.binarize.CHUNK_LINES", chunk_lines)
    joined = "--joined-dictionary" in CASES[case]
    source = Words()
    tokenizers = Tokenizers(source, source if joined else Words())
    built = build_data_bin(
        tmp_path,
        TextPair(TEXT / "train.en", TEXT / "train.de"),
        direction=DIRECTION,
        tokenizers=tokenizers,
        vocabulary=vocabulary_of(case),
    )
    binarize_files(
        tmp_path,
        "valid",
        TextPair(TEXT / "valid.en", TEXT / "valid.de"),
        direction=DIRECTION,
        tokenizers=tokenizers,
        dictionaries=(built.source_dictionary, built.target_dictionary),
    )
    assert_same_files(tmp_path, GOLDEN / case)


@pytest.mark.parametrize(("case", "size"), [("uint16", 65_499), ("uint32", 65_500)])
def test_dtype_depends_on_the_vocabulary_size_as_in_fairseq(case, size, tmp_path):
    (tmp_path / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(size - 4)), encoding="utf-8")
    (tmp_path / "text").write_text(f"w0 w{size - 5} w7\nw{size - 4}\n\n", encoding="utf-8")
    (tmp_path / "out").mkdir()
    dictionary = Dictionary.load(tmp_path / "dict.txt")
    assert len(dictionary) == size
    binarize_tokenized(tmp_path / "text", dictionary, tmp_path / "out" / "train.en-de.en")
    assert_same_files(tmp_path / "out", GOLDEN / case)


# ----------------------------------------------------------------------------------- the fast path with real tokenizers


def make_text(folder, split, num_lines, seed):
    rng = random.Random(seed)
    syllables = ["Haus", "baum", "bäu", "me", "ist", "grün", "—", "3,5", "walk", "ing", "ed"]
    vocabulary = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(60)]
    for lang in LANGS:
        lines = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 9))) for _ in range(num_lines)]
        (folder / f"{split}.{lang}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return TextPair(folder / f"{split}.en", folder / f"{split}.de")


SETTINGS = {
    "unigram": (Tokenizer(vocab_size=60), Vocabulary()),
    "separate": (Tokenizer(vocab_size=50, joint=False), Vocabulary(joined=False, threshold=5, padding_factor=1)),
    "joint model, two dictionaries": (Tokenizer(model="bpe", vocab_size=60), Vocabulary(joined=False, nwords=40)),
    "subword-nmt": (Tokenizer(type="subword-nmt", model="bpe", vocab_size=30), Vocabulary()),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_fast_path_equals_tokenised_text(name, tmp_path, monkeypatch):
    """Compare files made through ids and a temporary file with those made from a file of tokenised text."""
    monkeypatch.setattr("kdmt.corpus.binarize.CHUNK_LINES", 37)
    tokenizer_settings, vocabulary = SETTINGS[name]
    train, valid = make_text(tmp_path, "train", 200, 1), make_text(tmp_path, "valid", 20, 2)
    valid.source.write_text(valid.source.read_text() + "字 new x\n")
    valid.target.write_text(valid.target.read_text() + "\n")
    tokenizers = train_tokenizer(tokenizer_settings, (train.source, train.target), tmp_path / "tokenizer", DIRECTION)
    fast, slow = tmp_path / "fast", tmp_path / "slow"
    slow.mkdir()
    built = build_data_bin(fast, train, direction=DIRECTION, tokenizers=tokenizers, vocabulary=vocabulary)
    dictionaries = (built.source_dictionary, built.target_dictionary)
    binarize_files(fast, "valid", valid, direction=DIRECTION, tokenizers=tokenizers, dictionaries=dictionaries)

    tokenised = {}
    for split, pair in (("train", train), ("valid", valid)):
        for lang, path, model in (
            (LANGS[0], pair.source, tokenizers.source),
            (LANGS[1], pair.target, tokenizers.target),
        ):
            tokenised[split, lang] = tmp_path / f"tok.{split}.{lang}"
            lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
            text = "\n".join(model.encode_lines(lines)) + "\n"
            tokenised[split, lang].write_text(text, encoding="utf-8")
    rules = vocabulary.model_dump(include={"threshold", "nwords", "padding_factor"})
    for lang in LANGS:
        counted = [tokenised["train", other] for other in (LANGS if vocabulary.joined else [lang])]
        dictionary = Dictionary.from_counts(count_tokens(counted), **rules)
        dictionary.save(dictionary_path(slow, lang))
        for split in ("train", "valid"):
            binarize_tokenized(tokenised[split, lang], dictionary, data_prefix(slow, split, DIRECTION, lang))
    assert_same_files(fast, slow)


def build(folder, text, **rules):
    return build_data_bin(
        folder / "data-bin",
        text,
        direction=DIRECTION,
        tokenizers=Tokenizers(Words(), Words()),
        vocabulary=Vocabulary(joined=False, padding_factor=1, **rules),
    )


def write_pair(folder, source, target, tags=None):
    for name, text in (("source", source), ("target", target), ("tags", tags)):
        if text is not None:
            (folder / name).write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return TextPair(folder / "source", folder / "target", None if tags is None else folder / "tags")


def test_tags_are_prepended_to_the_source(tmp_path):
    built = build(tmp_path, write_pair(tmp_path, "a b\n\nc\n", "x\ny\nz\n", "<bt>\n<bt>\n\n"))
    dataset = IndexedDataset(data_prefix(tmp_path / "data-bin", "train", DIRECTION, "en"))
    sentences = [built.source_dictionary.string(dataset[i]) for i in range(3)]
    assert sentences == ["<bt> a b", "<bt>", "c"]
    assert built.source_dictionary.counts[built.source_dictionary.index("<bt>")] == 2
    assert "<bt>" not in built.target_dictionary
    assert built.source == TokenCounts(num_lines=3, num_tokens=8, num_unk=0)


def test_unknown_tokens_are_counted(tmp_path):
    text = write_pair(tmp_path, "a a b\na c\n", "x x\nx\n")
    built = build(tmp_path, text, threshold=2)
    assert built.source == TokenCounts(num_lines=2, num_tokens=7, num_unk=2)
    assert built.target == TokenCounts(num_lines=2, num_tokens=5, num_unk=0)


def test_a_tag_of_two_tokens_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"tags:2: a tag is one token, found 'a b'"):
        build(tmp_path, write_pair(tmp_path, "a\nb\n", "x\ny\n", "\na b\n"))
    assert list((tmp_path / "data-bin").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (("a\nb\n", "x\n"), r"different length: .*source 2 lines, .*target 1 lines"),
        (("a\n", "x\n", "\n\n"), r"different length: .*tags 2 lines"),
        (("", ""), "training text is empty"),
        (("a\nb\n", b"x\n\xe4\n"), r"target:2: not UTF-8"),
    ],
)
def test_invalid_text_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path, write_pair(tmp_path, *text))
    assert not list((tmp_path).glob("data-bin/*"))


def test_missing_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="source: there is no such file"):
        build(tmp_path, TextPair(tmp_path / "source", tmp_path / "target"))
