"""Tests of encoding and decoding text with the files of a folder, and of folders whose vocabularies do not match."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_pipeline import WORDS, make_pairs, read_lines, write_lines

from kdmt.config import Text, Tokenizer
from kdmt.corpus.binarize import count_tokens
from kdmt.corpus.codec import TextCodec, check_vocabulary, companion_names, cut_source
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.languages import POOLED, Direction
from kdmt.types import BOS, EOS, PAD, UNK

MOSES = Text(moses=True, lowercase=True)


def make_codec(folder: Path, *, tokenizer: Tokenizer, text: Text) -> TextCodec:
    """Return the codec of a folder like that of prepare, for a made-up language with capitals and exclamation marks."""
    processor = TextProcessor(text, "en", "de", "NFC")
    pairs = [(f"{source}!", f"{target}!") for source, target in make_pairs(60, seed=4)]
    (folder / "words").mkdir(parents=True)
    paths = folder / "words" / "en", folder / "words" / "de"
    write_lines(paths[0], [processor.preprocess_source(source) for source, _ in pairs])
    write_lines(paths[1], [processor.preprocess_target(target) for _, target in pairs])
    tokenizers = train_tokenizer(tokenizer, paths, folder / "tokenizer", Direction("en", "de"))
    for path, model in zip(paths, (tokenizers.source, tokenizers.target), strict=True):
        write_lines(folder / "words" / f"{path.name}.bpe", model.encode_lines(read_lines(path)))
    counts = [count_tokens([folder / "words" / f"{lang}.bpe"]) for lang in ("en", "de")]
    for lang, count in zip(("en", "de"), counts, strict=True):
        Dictionary.from_counts(counts[0] + counts[1] if tokenizer.joint else count).save(folder / f"dict.{lang}.txt")
    (folder / "text.json").write_text(json.dumps(processor.to_dict()), encoding="utf-8")
    return TextCodec.load(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("codec")
    make_codec(folder, tokenizer=Tokenizer(vocab_size=24), text=MOSES)
    return folder


@pytest.fixture(scope="module")
def codec(folder: Path) -> TextCodec:
    return TextCodec.load(folder)


def test_a_raw_source_is_encoded_with_eos(codec: TextCodec) -> None:
    ids, empty = codec.encode_raw_source(["Ba  BE, di!", "  \u200b "])
    assert ids[-1] == EOS
    assert EOS not in ids[:-1]
    words = codec.tokenizers.source.decode(codec.src_dictionary.string(ids))
    assert words.split() == ["ba", "be", "⁇", "di", "!"]  # the training text has no comma
    assert empty.tolist() == [EOS]


sentences = st.lists(st.sampled_from([*WORDS.values()]), min_size=1, max_size=8)


@given(sentences)
def test_decoding_restores_encoded_text(codec: TextCodec, words: list[str]) -> None:
    line = " ".join([*words, "!"])
    tokens = codec.tgt_dictionary.encode_line(codec.tokenizers.target.encode_lines([line])[0])
    assert codec.decode_target(tokens[:-1].tolist()) == line
    assert codec.finish_target(line) == " ".join(words) + "!"


@given(st.lists(sentences, max_size=4))
def test_targets_are_encoded_independently_of_each_other(codec: TextCodec, lines: list[list[str]]) -> None:
    words = [" ".join([*line, "!"]) for line in lines]
    encoded = codec.encode_target([*words, ""])
    pieces = [codec.tokenizers.target.encode_lines([line])[0] for line in words]
    assert [ids.tolist() for ids in encoded[:-1]] == [
        [*(codec.tgt_dictionary.index(piece) for piece in line.split()), EOS] for line in pieces
    ]
    assert [codec.decode_target(ids[:-1].tolist()) for ids in encoded] == [*words, ""]
    assert encoded[-1].tolist() == [EOS]


@given(st.lists(st.text(), max_size=4))
def test_any_text_is_encoded_within_the_vocabulary(codec: TextCodec, lines: list[str]) -> None:
    encoded = codec.encode_raw_source(lines)
    assert len(encoded) == len(lines)
    for ids in encoded:
        assert ids.dtype.kind == "i"
        assert ids[-1] == EOS
        assert all(UNK <= token < len(codec.src_dictionary) for token in ids[:-1].tolist())


@given(st.lists(st.integers(0, 40), max_size=12))
def test_decoded_text_has_no_special_symbols_or_line_endings(codec: TextCodec, tokens: list[int]) -> None:
    words = codec.decode_target(tokens)
    assert not any(special in words for special in ("<s>", "</s>", "<pad>", "\n", "\r"))
    assert words == codec.decode_target([token for token in tokens if token not in (BOS, PAD, EOS)])
    assert "\n" not in codec.finish_target(words)


def test_an_unknown_symbol_is_decoded_to_a_visible_mark(codec: TextCodec) -> None:
    tokens = codec.tgt_dictionary.encode_line(codec.tokenizers.target.encode_lines(["ok"])[0])[:-1].tolist()
    assert UNK not in tokens
    assert codec.decode_target([*tokens, UNK]).split() == ["ok", "⁇"]


@pytest.mark.parametrize(
    "tokenizer",
    [
        Tokenizer(vocab_size=24),
        Tokenizer(joint=False, vocab_size=14),
        Tokenizer(type="subword-nmt", model="bpe", vocab_size=10),
        Tokenizer(type="subword-nmt", model="bpe", vocab_size=8, joint=False),
    ],
    ids=str,
)
def test_a_codec_is_loaded_from_copies_of_its_companions(tmp_path: Path, tokenizer: Tokenizer) -> None:
    codec = make_codec(tmp_path / "prepare", tokenizer=tokenizer, text=MOSES)
    (tmp_path / "checkpoint").mkdir()
    for path in codec.companions(tmp_path / "prepare"):
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, tmp_path / "checkpoint" / path.name)
    shutil.rmtree(tmp_path / "prepare")
    copied = TextCodec.load(tmp_path / "checkpoint")
    lines = ["Ba be!", "GI, ga", ""]
    for one, other in zip(codec.encode_raw_source(lines), copied.encode_raw_source(lines), strict=True):
        assert np.array_equal(one, other)
    assert (copied.text, copied.src_dictionary, copied.tgt_dictionary) == (
        *(codec.text, codec.src_dictionary, codec.tgt_dictionary),
    )


def test_names_of_companions() -> None:
    assert companion_names(Direction("en", "de")) == ["tokenizer", "text.json", "dict.en.txt", "dict.de.txt"]


@pytest.mark.parametrize("missing", ["text.json", "dict.de.txt", "tokenizer/tokenizer.json", "tokenizer/joint.model"])
def test_a_missing_file_is_named(folder: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / missing).unlink()
    with pytest.raises(UserError, match=missing):
        TextCodec.load(tmp_path / "copy")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"text": 1}', "3"])
def test_invalid_text_settings_are_refused(folder: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "text.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"text\.json"):
        TextCodec.load(tmp_path / "copy")


@given(st.integers(0, 9), st.integers(2, 9))
def test_a_cut_source_ends_in_eos(length: int, max_tokens: int) -> None:
    source = np.array([*range(10, 10 + length), EOS], dtype=np.int32)
    cut = cut_source(source, max_tokens)
    assert len(cut) == min(len(source), max_tokens)
    assert cut[-1] == EOS
    assert np.array_equal(cut[:-1], source[: len(cut) - 1])


# -------------------------------------------------------------------------------------------- vocabularies that match


def write_dictionary(folder: Path, lang: str, symbols: list[str], count: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    write_lines(folder / f"dict.{lang}.txt", [f"{symbol} {count}" for symbol in symbols])


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("checkpoint", "data"):
        write_dictionary(tmp_path / name, "en", ["a", "b", "c"])
        write_dictionary(tmp_path / name, "de", ["x", "y"])
    return tmp_path / "checkpoint", tmp_path / "data"


def test_equal_vocabularies_match_with_different_counts(two: tuple[Path, Path]) -> None:
    check_vocabulary(*two, Direction("en", "de"))
    write_dictionary(two[1], "en", ["a", "b", "c"], count=7)
    assert (two[0] / "dict.en.txt").read_bytes() != (two[1] / "dict.en.txt").read_bytes()
    check_vocabulary(*two, Direction("en", "de"))  # raises an error if they do not match


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        (["y", "x"], "6 symbols against 6, different from symbol 4 on"),
        (["x", "y", "z"], "6 symbols against 7, different from symbol 6 on"),
        (["x"], "6 symbols against 5, different from symbol 5 on"),
    ],
)
def test_the_first_symbol_that_differs_is_named(two: tuple[Path, Path], symbols: list[str], message: str) -> None:
    write_dictionary(two[1], "de", symbols)
    with pytest.raises(UserError) as caught:
        check_vocabulary(*two, Direction("en", "de"))
    assert str(caught.value) == f"{two[0] / 'dict.de.txt'} does not match {two[1] / 'dict.de.txt'}: {message}"


def test_a_checkpoint_of_another_language_pair_is_refused(two: tuple[Path, Path]) -> None:
    write_dictionary(two[1], "fr", ["x", "y"])
    with pytest.raises(UserError, match=r"dict\.fr\.txt: .* made for another language pair"):
        check_vocabulary(*two, Direction("en", "fr"))
    with pytest.raises(UserError, match=r"dict\.src\.txt: .* a model with one direction, but the pipeline has several"):
        check_vocabulary(*two, POOLED)


def test_a_checkpoint_with_several_directions_is_refused_for_one(two: tuple[Path, Path]) -> None:
    for side in POOLED.sides:
        (two[0] / f"dict.{side}.txt").write_text("x 1\n")
    with pytest.raises(UserError, match=r"dict\.fr\.txt: .* use it in a pipeline with 'directions: \[fr-de\]'$"):
        check_vocabulary(*two, Direction("fr", "de"))
