"""Tests of the tokenizers in folders of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece

from kdmt.errors import UserError
from kdmt.interop.text_tokenizer import open_text_tokenizer


def train(path: Path, **options: int) -> None:
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a dog runs", "two dogs run", "a cat"] * 20),
            model_writer=file,
            vocab_size=40,
            hard_vocab_limit=False,
            user_defined_symbols=["<2de>", "<turn>"],
            minloglevel=2,
            **options,
        )


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"])
def test_sentencepiece_models_are_found(tmp_path: Path, name: str) -> None:
    train(tmp_path / name)
    plain = open_text_tokenizer(tmp_path, begin=False, end=False).encode("<2de> a dog")
    assert "<2de>" in plain  # a symbol of the model, not its letters
    assert open_text_tokenizer(tmp_path, begin=True, end=True).encode("<2de> a dog") == ["<s>", *plain, "</s>"]
    tokenizer = open_text_tokenizer(tmp_path, begin=True, end=True)
    assert tokenizer.decode(tokenizer.encode("a dog runs")) == "a dog runs"


def test_models_without_a_beginning_have_none(tmp_path: Path) -> None:
    train(tmp_path / "spiece.model", bos_id=-1, pad_id=0, eos_id=1, unk_id=2)
    tokenizer = open_text_tokenizer(tmp_path, begin=True, end=True)
    assert tokenizer.encode("a")[-1] == "</s>"
    assert "<s>" not in tokenizer.encode("a")


def test_tokenizer_json_adds_its_own_special_tokens(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<unk>": 0, "<s>": 1, "a": 2, "dog": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<s>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.enable_truncation(1)
    made.save(str(tmp_path / "tokenizer.json"))
    train(tmp_path / "spiece.model")  # not used
    tokenizer = open_text_tokenizer(tmp_path, begin=False, end=False)
    assert tokenizer.encode("a dog") == ["<s>", "a", "dog"]
    assert tokenizer.decode(["<s>", "a", "unknown", "dog"]) == "a dog"


def test_folders_without_a_usable_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer: copy that of the model into the folder \(tokenizer\.json, "):
        open_text_tokenizer(tmp_path, begin=True, end=True)
    (tmp_path / "spiece.model").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"spiece\.model: not a SentencePiece model"):
        open_text_tokenizer(tmp_path, begin=True, end=True)
