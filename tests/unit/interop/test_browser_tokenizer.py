"""Tests of the tokenizers for browsers: the same ids as kdmt's own, in Hugging Face's library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from kdmt.config import Text
from kdmt.config import Tokenizer as TokenizerSettings
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.interop.browser_tokenizer import write_browser_tokenizers
from kdmt.languages import Direction

WORDS = ["walking", "talked", "walk", "house", "houses", "red", "blue", "<0x41>", "streets", "street"]


def make_codec(folder: Path, *, text: Text | None = None, dropped: int = 0, **settings: Any) -> TextCodec:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(" ".join(rng.choice(WORDS, 6)) for _ in range(200)), encoding="utf-8")
    direction = Direction("en", "de")
    given = TokenizerSettings(**{"vocab_size": 60, "hard_vocab_limit": False, "joint": True} | settings)
    tokenizers = train_tokenizer(given, (corpus, corpus), folder / "tokenizer", direction)
    symbols = tokenizers.source.symbols[4:]
    dictionary = Dictionary.from_vocabulary(symbols[: len(symbols) - dropped], {})
    return TextCodec(TextProcessor(text or Text(), "en", "de"), tokenizers, dictionary, dictionary)


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_ids_are_those_of_the_dictionary(tmp_path: Path, model: str) -> None:
    codec = make_codec(tmp_path / "made", model=model)
    assert write_browser_tokenizers(codec, tmp_path) is None
    lines = ["walked  the red houses", "<0x41> talking", "streets", "red  ¿¿ blue "]
    for name in ("source", "target"):
        tokenizer = Tokenizer.from_file(str(tmp_path / "browser" / f"{name}.json"))
        for line in lines:
            ids = [number for number in tokenizer.encode(line).ids if number != 3]
            assert ids == [number for number in codec.encode_source([line])[0][:-1].tolist() if number != 3]
            assert ids


def test_pieces_outside_the_dictionary_have_ids_behind_it(tmp_path: Path) -> None:
    codec = make_codec(tmp_path / "made", dropped=10)
    write_browser_tokenizers(codec, tmp_path)
    tokenizer, size = Tokenizer.from_file(str(tmp_path / "browser" / "source.json")), len(codec.src_dictionary)
    for line in WORDS:
        found = tokenizer.encode(line).ids
        assert [number if number < size else 3 for number in found] == codec.encode_source([line])[0][:-1].tolist()


def test_text_cannot_contain_special_symbols(tmp_path: Path) -> None:
    codec = make_codec(tmp_path / "made", byte_fallback=True, vocab_size=320)
    write_browser_tokenizers(codec, tmp_path)
    vocabulary = json.loads((tmp_path / "browser" / "source.json").read_text(encoding="utf-8"))["model"]["vocab"]
    names = [piece for piece, _ in vocabulary]
    assert names[:4] == [" <s>", " <pad>", " </s>", " <unk>"]
    assert " <0x0A>" in names
    assert {piece for piece in names if piece.startswith(("<0x", "made"))} <= set(WORDS)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"text": Text(moses=True)}, "text is processed by Moses"),
        ({"type": "subword-nmt", "model": "bpe", "hard_vocab_limit": None}, "the tokenizer is not SentencePiece"),
        ({"normalization_rule": "nmt_nfkc"}, "the tokenizer normalises text"),
        ({"user_defined_symbols": ["<tag>"]}, "the tokenizer has symbols that are never cut"),
    ],
)
def test_reason_why_there_are_no_files(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    if settings.get("type"):
        folder = tmp_path / "made"
        folder.mkdir()
        (folder / "corpus.txt").write_text("aa ab aa ab bb\n" * 20, encoding="utf-8")
        given = TokenizerSettings(type="subword-nmt", model="bpe", vocab_size=8, joint=True)
        paths = (folder / "corpus.txt", folder / "corpus.txt")
        tokenizers = train_tokenizer(given, paths, folder / "tokenizer", Direction("en", "de"))
        dictionary = Dictionary.from_vocabulary(["aa"], {})
        codec = TextCodec(TextProcessor(Text(), "en", "de"), tokenizers, dictionary, dictionary)
    else:
        codec = make_codec(tmp_path / "made", **settings)
    assert write_browser_tokenizers(codec, tmp_path) == reason
    assert not (tmp_path / "browser").exists()
