"""Tests of detokenising many lines of ids at once, compared with one line at a time, for every kind of tokenizer."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipeline import write_lines

from kdmt.config import Text, Tokenizer
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.detokenizer import Detokenizer
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import Tokenizers, train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.languages import Direction
from kdmt.types import BOS, EOS, PAD, SPECIALS, UNK

RNG = random.Random(3)
SYLLABLES = ["ba", "be", "grö", "ßer", "stra", "ße", "naï", "ve", "go", "nu", "lem", "kat", "on", "ir"]
WORDS = ["".join(RNG.choices(SYLLABLES, k=RNG.randint(1, 3))) for _ in range(60)]
WORDS += ["3", "№", "«so»", "ga@@", "@@", "ひら", "x"]
LINES = [" ".join(RNG.choices(WORDS, k=RNG.randint(1, 9))) for _ in range(300)]
# tokens that models of these lines do not have or spell differently, and strings that are never tokens
STRANGE = ["madeupword0000", "madeupword0001", "▁▁ma", "ga@@▁", "@@@@", "a b", "a@@ b", "\u3000", "\u00a0x", "", "⁇"]

KINDS = ["unigram", "bpe", "bytes", "spaces", "suffix", "subword-nmt"]


def train_sentencepiece(folder: Path, **options: Any) -> Path:
    model = io.BytesIO()
    special = {"bos_id": BOS, "pad_id": PAD, "eos_id": EOS, "unk_id": UNK, "minloglevel": 2, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, **special, **options, normalization_rule_name="identity"
    )
    path = folder / "given.model"
    path.write_bytes(model.getvalue())
    return path


def make_codec(folder: Path, kind: str) -> TextCodec:
    options: dict[str, dict[str, Any]] = {
        "bytes": {"vocab_size": 330, "byte_fallback": True, "character_coverage": 0.98},
        "spaces": {"vocab_size": 60, "remove_extra_whitespaces": False, "add_dummy_prefix": False},
        "suffix": {"vocab_size": 60, "treat_whitespace_as_suffix": True},
    }
    write_lines(folder / "text", LINES)
    tokenizer = Tokenizer(type="subword-nmt", model="bpe", vocab_size=30)
    if kind in ("unigram", "bpe"):
        tokenizer = Tokenizer.model_validate({"model": kind, "vocab_size": 60})
    elif kind in options:
        tokenizer = Tokenizer(source_path=str(train_sentencepiece(folder, **options[kind])))
    tokenizers = train_tokenizer(
        tokenizer, (folder / "text", folder / "text"), folder / "tokenizer", Direction("en", "de")
    )
    model = tokenizers.target
    seen = dict.fromkeys(token for line in model.encode_lines(LINES) for token in line.split())
    dictionary = Dictionary()
    for symbol in dict.fromkeys([*seen, *model.symbols, *STRANGE, *SPECIALS[:UNK]]):
        dictionary._append(symbol, 1)
    return TextCodec(TextProcessor(Text(), "en", "de"), Tokenizers(model, model), dictionary, dictionary)


@pytest.fixture(scope="module")
def codec_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TextCodec]:
    made: dict[str, TextCodec] = {}

    def codec_of(kind: str) -> TextCodec:
        if kind not in made:
            made[kind] = make_codec(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return codec_of


def flat(lines: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ids = [token for line in lines for token in line]
    return np.array(ids, dtype=np.int32), np.array(list(map(len, lines)), dtype=np.int32)


def test_language_tokens_that_a_model_writes_have_no_text(multilingual_text: Path) -> None:
    codec = TextCodec.load(multilingual_text)
    word = codec.encode_target(["ok uk"])[0][:-1].tolist()
    tokens = [codec.tgt_dictionary.symbols.index(token) for token in ("<2de>", "<2fr>", "<2en>")]
    lines = [[*word[:1], tokens[0], *word[1:]], [tokens[1], *word], [*word, *tokens], tokens]
    for each in (codec, codec.for_direction(Direction("en", "fr"))):
        expected = ["ok uk", "ok uk", "ok uk", ""]
        assert [each.decode_target(line) for line in lines] == expected
        assert each.decode_targets(*flat(lines)) == expected


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80)
@given(data=st.data())
def test_any_ids_are_decoded_like_one_line_at_a_time(
    codec_of: Callable[[str], TextCodec], kind: str, data: st.DataObject
) -> None:
    codec = codec_of(kind)
    token = st.integers(0, len(codec.tgt_dictionary) + 2) | st.integers(0, 5)
    lines = data.draw(st.lists(st.lists(token, max_size=8), max_size=6))
    assert codec.decode_targets(*flat(lines)) == [codec.decode_target(line) for line in lines]


@pytest.mark.parametrize("kind", KINDS)
def test_every_symbol_is_decoded_in_every_position(codec_of: Callable[[str], TextCodec], kind: str) -> None:
    codec = codec_of(kind)
    ids = range(len(codec.tgt_dictionary))
    other = codec.tgt_dictionary.index(codec.tokenizers.target.encode_lines(["ba"])[0].split()[0])
    lines = [[i] for i in ids] + [[i, other] for i in ids] + [[other, i] for i in ids] + [[i, i] for i in ids]
    lines += [[other, i, other] for i in ids]
    assert codec.decode_targets(*flat(lines)) == [codec.decode_target(line) for line in lines]


def test_bytes_of_line_ends_are_decoded_to_spaces(codec_of: Callable[[str], TextCodec]) -> None:
    codec = codec_of("bytes")
    ids = {symbol: number for number, symbol in enumerate(codec.tgt_dictionary.symbols)}
    word = codec.encode_target(["ba"])[0][:-1].tolist()
    lines = [[*word, ids["<0x0A>"], *word], [*word, ids["<0x0D>"], ids["<0x0A>"]], [ids["<0x41>"]], word]
    expected = ["ba  ba", "ba  ", "A", "ba"]
    assert [codec.decode_target(line) for line in lines] == expected
    assert codec.decode_targets(*flat(lines)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_encoded_text_is_restored(codec_of: Callable[[str], TextCodec], kind: str) -> None:
    codec = codec_of(kind)
    encoded = [ids.tolist() for ids in codec.encode_source(LINES)]
    expected = [codec.decode_target(ids) for ids in encoded]
    assert codec.decode_targets(*flat(encoded)) == expected
    if kind not in ("subword-nmt", "bytes"):
        known = [UNK not in ids for ids in encoded]
        assert [line.rstrip() for line, ok in zip(expected, known, strict=True) if ok] == [
            line for line, ok in zip(LINES, known, strict=True) if ok
        ]


@pytest.mark.parametrize("kind", ["unigram", "bpe", "subword-nmt"])
def test_the_model_decodes_fewer_than_half_of_the_lines(codec_of: Callable[[str], TextCodec], kind: str) -> None:
    """Check that decoding many lines at once saves time."""
    codec = codec_of(kind)
    encoded = codec.encode_source(LINES)
    decoded = []

    class Counting:
        surfaces = codec.tokenizers.target.surfaces

        @staticmethod
        def decode(tokenised: str) -> str:
            decoded.append(tokenised)
            return codec.tokenizers.target.decode(tokenised)

    detokenizer = Detokenizer(Counting(), codec.tgt_dictionary.symbols)  # type: ignore[arg-type]
    detokenizer.decode(*flat([ids.tolist() for ids in encoded]))
    assert len(decoded) < len(LINES) / 2


def test_empty_input_and_empty_lines(codec_of: Callable[[str], TextCodec]) -> None:
    assert codec_of("unigram").decode_targets(*flat([])) == []
    assert codec_of("unigram").decode_targets(*flat([[], [EOS], []])) == ["", "", ""]


def test_sizes_that_do_not_match_the_tokens_are_refused(codec_of: Callable[[str], TextCodec]) -> None:
    with pytest.raises(ValueError, match="3 tokens in lines of 4"):
        codec_of("unigram").decode_targets(np.array([5, 6, 7]), np.array([1, 3]))
