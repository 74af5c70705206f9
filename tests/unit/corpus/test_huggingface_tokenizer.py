"""Tests of tokenizers of Hugging Face: equal to the library, special tokens, odd tokens, damaged files."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdmt.config import Tokenizer
from kdmt.corpus.detokenizer import Detokenizer
from kdmt.corpus.huggingface_tokenizer import HuggingFaceModel
from kdmt.corpus.tokenizer import load_tokenizer, train_tokenizer
from kdmt.corpus.vocabulary import Dictionary
from kdmt.errors import UserError
from kdmt.languages import Direction
from kdmt.types import EOS, SPECIALS

tokenizers = pytest.importorskip("tokenizers", reason="needs the extra 'huggingface'")

TEXT = ["der Hund schläft im Haus", "die Katze sieht den Hund", "ein Haus am See", "zwei Katzen und drei Hunde"] * 20
LINES = [*TEXT[:4], "neue Wörter: Straßenbahn, 2024!", "", "日本語 und 𝔷", "a <s> b </s> <pad> <unk> [CLS]"]


def byte_level_bpe() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<s>", "<pad>", "</s>", "<|two words|>", "<|a b|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return made


def word_piece() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        TEXT,
        trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False),
    )
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    made.enable_truncation(3)
    made.enable_padding(length=10)
    return made


def unigram() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(
        TEXT,
        trainers.UnigramTrainer(
            vocab_size=90, special_tokens=["<s>", "<unk>", "</s>"], unk_token="<unk>", show_progress=False
        ),
    )
    return made


KINDS = {"bpe": byte_level_bpe, "wordpiece": word_piece, "unigram": unigram}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    for kind, make in KINDS.items():
        make().save(str(folder / f"{kind}.json"))
    return {kind: folder / f"{kind}.json" for kind in KINDS}


def library(path: Path) -> Any:
    """Return the tokenizer of the library that the model should equal."""
    made = tokenizers.Tokenizer.from_file(str(path))
    made.no_truncation()
    made.no_padding()
    made.encode_special_tokens = True
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_ids_and_text_equal_those_of_the_library(files: dict[str, Path], kind: str, threads: int) -> None:
    model, theirs = HuggingFaceModel(files[kind]), library(files[kind])
    expected = [theirs.encode(line, add_special_tokens=False).ids for line in LINES]
    tokens, sizes = model.encode_ids(LINES, threads)
    assert [part.tolist() for part in np.split(tokens, np.cumsum(sizes)[:-1])] == expected
    for line, ids in zip(model.encode_lines(LINES), expected, strict=True):
        if not any(token in model.literal_specials for token in ids):
            assert model.decode(line) == theirs.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_decoding_restores_text(files: dict[str, Path], kind: str) -> None:
    model = HuggingFaceModel(files[kind])
    lines = LINES[:4] if kind == "unigram" else LINES  # bytes can represent every text
    assert [model.decode(tokens) for tokens in model.encode_lines(lines)] == lines


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_is_that_of_the_library_without_its_special_symbols(files: dict[str, Path], kind: str) -> None:
    model, theirs = HuggingFaceModel(files[kind]), library(files[kind])
    unknown = {"[UNK]", *SPECIALS}
    expected = [theirs.id_to_token(number) for number in range(theirs.get_vocab_size())]
    expected = [token for token in expected if token not in unknown]
    named = [token if " " not in token else f"<id{theirs.token_to_id(token)}>" for token in expected]
    assert model.vocabulary == named
    assert (kind == "bpe") == (named != expected)


def test_unknown_text_becomes_unk(files: dict[str, Path]) -> None:
    for kind in ("wordpiece", "unigram"):
        model = HuggingFaceModel(files[kind])
        assert "<unk>" in model.encode_lines(["日本"])[0].split()
        assert model.decode("<unk>") == library(files[kind]).decode([0 if kind == "wordpiece" else 1], False)


def test_text_is_not_encoded_to_special_symbols(files: dict[str, Path]) -> None:
    for path in files.values():
        tokens = HuggingFaceModel(path).encode_lines(["a <s> b </s> <pad>"])[0].split()
        assert not {"<s>", "</s>", "<pad>", "[CLS]", "[SEP]"} & set(tokens)


def test_words_that_are_spelled_like_special_symbols_are_identified(tmp_path: Path) -> None:
    from tokenizers import models, pre_tokenizers

    made = tokenizers.Tokenizer(models.WordLevel({"<pad>": 0, "ab": 1, "oov": 2}, unk_token="oov"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "words.json"))
    model = HuggingFaceModel(tmp_path / "words.json")
    assert model.encode_lines(["ab <pad> zz"]) == ["ab <unk> <unk>"]
    assert model.literal_specials == {0: "<pad>"}
    assert model.vocabulary == ["ab"]
    assert model.decode("ab <unk>") == "ab oov"


def test_symbols_of_other_origin_stay_visible(files: dict[str, Path]) -> None:
    model = HuggingFaceModel(files["unigram"])
    tag = model.symbol_id("<bt>")
    assert model.symbols[tag] == "<bt>"
    line = model.encode_lines(["der Hund"])[0]
    assert model.decode(f"<bt> {line} madeupword0000") == "<bt> der Hund madeupword0000"
    assert "<bt>" not in (model.vocabulary or [])


def test_any_whitespace_is_read_as_a_space(files: dict[str, Path]) -> None:
    model = HuggingFaceModel(files["bpe"])
    assert model.encode_lines(["\u00a0der\tHund\u2028im "]) == model.encode_lines(["der Hund im"])


def test_no_output_contains_a_newline(files: dict[str, Path]) -> None:
    """Check the byte 10, which is the token Ċ of a byte-level model."""
    model = HuggingFaceModel(files["bpe"])
    assert "Ċ" in model.symbols
    assert model.decode("a Ċ b") == "a b"


def test_random_segmentation_is_switched_off(files: dict[str, Path], tmp_path: Path) -> None:
    values = json.loads(files["bpe"].read_text(encoding="utf-8"))
    values["model"]["dropout"] = 0.9
    (tmp_path / "dropout.json").write_text(json.dumps(values), encoding="utf-8")
    expected = HuggingFaceModel(files["bpe"]).encode_lines(TEXT[:4])
    assert HuggingFaceModel(tmp_path / "dropout.json").encode_lines(TEXT[:4]) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_lines_are_decoded_together_as_one_by_one(files: dict[str, Path], kind: str) -> None:
    model = HuggingFaceModel(files[kind])
    dictionary = Dictionary.from_vocabulary(model.vocabulary or [], {})
    encoded = [dictionary.encode_line(line)[:-1] for line in model.encode_lines(LINES)]
    decoded = Detokenizer(model, dictionary.symbols).decode(np.concatenate(encoded), np.array(list(map(len, encoded))))
    assert decoded == [model.decode(dictionary.string(ids)) for ids in encoded]
    assert EOS not in np.concatenate(encoded)


def test_a_folder_with_its_file_can_be_copied(files: dict[str, Path], tmp_path: Path) -> None:
    settings = Tokenizer(
        type="huggingface", joint=False, source_path=str(files["bpe"]), target_path=str(files["unigram"])
    )
    made = train_tokenizer(settings, (tmp_path, tmp_path), tmp_path / "tokenizer", Direction("en", "de"))
    assert (tmp_path / "tokenizer" / "en.json").read_bytes() == files["bpe"].read_bytes()
    copied = load_tokenizer(shutil.copytree(tmp_path / "tokenizer", tmp_path / "checkpoint"))
    assert copied.source.encode_lines(LINES) == made.source.encode_lines(LINES)
    assert copied.target.encode_lines(LINES) == HuggingFaceModel(files["unigram"]).encode_lines(LINES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "it has no 'model'"),
        ('{"model": 3}', "it has no 'model'"),
        ('{"model": {"type": "None"}}', "not a tokenizer.json of Hugging Face tokenizers"),
    ],
)
def test_a_file_that_is_not_a_tokenizer_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"t\.json: .*{message}"):
        HuggingFaceModel(tmp_path / "t.json")


def test_text_that_a_model_cannot_cut_is_an_error_with_the_file(tmp_path: Path) -> None:
    from tokenizers import models

    tokenizers.Tokenizer(models.WordPiece({"a": 0}, unk_token="[UNK]")).save(str(tmp_path / "t.json"))
    with pytest.raises(UserError, match=r"t\.json: the tokenizer cannot cut the text: .*UNK"):
        HuggingFaceModel(tmp_path / "t.json").encode_lines(["zz"])


def test_without_the_library_the_message_names_the_extra(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"is not installed: pip install 'kdmt\[huggingface\]'"):
        HuggingFaceModel(files["bpe"])
