"""Tests of trimmed checkpoints against the originals: tokens, translations, directions, and refused input."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_models import random_lines
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from trimmed_models import CONFIG, CYRILLIC, DIRECTIONS, LATIN, latin_lines, save_trained, write_codec, write_text

import kdmt
from kdmt.checksum import verify_checkpoint
from kdmt.config import Context, Text, Tokenizer
from kdmt.corpus.codec import TextCodec
from kdmt.corpus.tokenizer import SentencePieceModel, SubwordNmtModel
from kdmt.corpus.vocabulary import Dictionary
from kdmt.corpus.vocabulary_choice import TokenLimits
from kdmt.errors import UserError
from kdmt.interop.checkpoint_trim import trim_checkpoint
from kdmt.interop.trim_record import TrimRecord, TrimSettings
from kdmt.models.architecture import NATConfig, TransformerConfig
from kdmt.models.build import build_nonautoregressive, build_transformer
from kdmt.models.checkpoint import load_model
from kdmt.types import SPECIALS

TEXT = latin_lines(60, seed=5)


@dataclass(frozen=True)
class Pair:
    """A checkpoint, and the same checkpoint without the Cyrillic pieces and directions."""

    folder: Path
    out: Path
    record: TrimRecord

    @cached_property
    def codecs(self) -> tuple[TextCodec, TextCodec]:
        return TextCodec.load(self.folder), TextCodec.load(self.out)

    def tokens(self, line: str) -> list[list[str]]:
        return [[codec.src_dictionary.symbols[i] for i in codec.encode_source([line])[0]] for codec in self.codecs]


def make_pair(folder: Path, tokenizer: Tokenizer, config: TransformerConfig = CONFIG, **options: Any) -> Pair:
    codec = write_codec(folder / "text", tokenizer, **options)
    torch.manual_seed(3)
    size = len(codec.src_dictionary)
    model = build_transformer(config, src_vocab_size=size, tgt_vocab_size=size)
    text = write_text(folder / "kept.txt", TEXT)
    settings = TrimSettings((text,), languages=("en", "de"))
    first = save_trained(folder / "first", codec, model)
    trim_checkpoint(first, folder / "cut", settings)
    kept = set(TextCodec.load(folder / "cut").src_dictionary.symbols)
    improbable = [symbol for symbol in codec.src_dictionary.symbols if symbol not in kept]
    saved = save_trained(folder / "model", codec, model, improbable)
    return Pair(saved, folder / "out", trim_checkpoint(saved, folder / "out", settings))


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    size = 120 if request.param == "bpe" else 75
    tokenizer = Tokenizer(type="sentencepiece", model=request.param, vocab_size=size, character_coverage=1.0)
    return make_pair(tmp_path_factory.mktemp("checkpoints"), tokenizer)


def test_dictionary_has_the_tokens_of_the_text_and_of_the_directions_that_stay(pair: Pair) -> None:
    whole, cut = (codec.src_dictionary.symbols for codec in pair.codecs)
    assert cut == [symbol for symbol in whole if symbol in set(cut)]
    assert {symbol for line in TEXT for symbol in pair.tokens(line)[0]} <= set(cut)
    assert not any("а" <= character <= "я" or symbol == "<2ru>" for symbol in cut for character in symbol)
    assert {"<2de>", "<2en>", "<bt>", *SPECIALS} <= set(cut)
    assert pair.codecs[1].text.all_directions == DIRECTIONS[:2]
    assert pair.record.languages == ("en", "de")
    assert pair.record.after.vocabulary == len(cut)
    assert pair.record.text.lost == 0


def test_pieces_of_the_tokenizer_are_those_of_the_dictionary(pair: Pair) -> None:
    model = pair.codecs[1].tokenizers.source
    assert isinstance(model, SentencePieceModel)
    assert set(model.symbols) - set(SPECIALS) <= set(pair.codecs[1].src_dictionary.symbols)


@given(text=st.text("abdegiklmopru .!ξ", max_size=40))
@hypothesis_settings(max_examples=200, deadline=None)
def test_text_whose_tokens_stay_is_cut_as_before(pair: Pair, text: str) -> None:
    before, after = pair.tokens(text)
    if set(before) <= set(pair.codecs[1].src_dictionary.symbols):
        assert after == before


def test_token_of_a_direction_in_the_text_does_not_keep_the_direction(pair: Pair, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", [*TEXT, "<2ru> ba <2de>"])
    trim_checkpoint(pair.folder, tmp_path / "out", TrimSettings((text,), languages=("en", "de")))
    symbols = TextCodec.load(tmp_path / "out").src_dictionary.symbols
    assert "<2de>" in symbols
    assert "<2ru>" not in symbols


def test_text_with_a_lost_token_gets_unk(pair: Pair) -> None:
    before, after = pair.tokens(f"ba {CYRILLIC[0]} be")
    assert "<unk>" not in before
    assert "<unk>" in after


@pytest.mark.parametrize("beam", [1, 4])
def test_translations_are_identical(pair: Pair, beam: int) -> None:
    whole, cut = (kdmt.load(folder).for_languages(target="de", source="en") for folder in (pair.folder, pair.out))
    options: dict[str, Any] = {"beam": beam, "max_len_a": 1.0, "max_len_b": 5}
    wanted = whole.translate(TEXT, **options)
    assert cut.translate(TEXT, **options) == wanted
    assert len(set(wanted)) > 5


def test_weights_are_those_of_the_original(pair: Pair) -> None:
    whole, cut = load_model(pair.folder), load_model(pair.out)
    old, new = (codec.src_dictionary.symbols for codec in pair.codecs)
    rows = torch.tensor([old.index(symbol) for symbol in new])
    weights = dict(whole.named_parameters())
    for name, tensor in cut.named_parameters():
        wanted = weights[name][rows] if "tokens" in name else weights[name]
        assert torch.equal(tensor, wanted)
    assert pair.record.before.parameters - pair.record.after.parameters == (len(old) - len(new)) * 16
    verify_checkpoint(pair.out)
    listed = json.loads((pair.out / "checksums.json").read_text(encoding="utf-8"))
    assert {"trim.json", "README.md"} <= set(listed)
    values = json.loads((pair.out / "trim.json").read_text(encoding="utf-8"))
    assert values["source"] == json.loads((pair.folder / "checksums.json").read_text(encoding="utf-8"))


def test_marian_layout_and_own_token_of_the_model(tmp_path: Path) -> None:
    tokenizer = Tokenizer(type="sentencepiece", model="bpe", vocab_size=120, character_coverage=1.0)
    codec = write_codec(tmp_path / "text", tokenizer, directions=())
    token = codec.src_dictionary.index(f"▁{LATIN[2]}")
    size = len(codec.src_dictionary)
    config = replace(CONFIG, layout="marian", source_token=token)
    model = build_transformer(config, src_vocab_size=size, tgt_vocab_size=size)
    saved = save_trained(tmp_path / "model", codec, model)
    text = write_text(tmp_path / "kept.txt", ["ba be", "uk"])
    trim_checkpoint(saved, tmp_path / "out", TrimSettings((text,)))
    cut, symbols = load_model(tmp_path / "out"), TextCodec.load(tmp_path / "out").src_dictionary.symbols
    assert cut.config.source_token is not None
    assert symbols[cut.config.source_token] == f"▁{LATIN[2]}"
    rows = torch.tensor([codec.src_dictionary.index(symbol) for symbol in symbols])
    assert torch.equal(cut.output_proj.bias, load_model(saved).output_proj.bias[rows])


def test_the_separator_of_contexts_stays(tmp_path: Path) -> None:
    tokenizer = Tokenizer(type="sentencepiece", vocab_size=75, user_defined_symbols=["||"])
    codec = write_codec(tmp_path / "text", tokenizer, directions=())
    processor = replace(codec.text, context=Context(separator="||"))
    (tmp_path / "text" / "text.json").write_text(json.dumps(processor.to_dict()), encoding="utf-8")
    codec = TextCodec.load(tmp_path / "text")
    size = len(codec.src_dictionary)
    saved = save_trained(tmp_path / "model", codec, build_transformer(CONFIG, src_vocab_size=size, tgt_vocab_size=size))
    trim_checkpoint(saved, tmp_path / "out", TrimSettings((write_text(tmp_path / "kept.txt", ["ba be", "uk"]),)))
    cut = TextCodec.load(tmp_path / "out")
    assert cut.text.context == Context(separator="||")
    assert "||" in cut.src_dictionary
    line = cut.text.preprocess_source("uk || ba be")
    texts = [each.src_dictionary.string(each.encode_source([line])[0][:-1]) for each in (codec, cut)]
    assert texts[0] == texts[1]
    assert "||" in texts[0].split()


@pytest.mark.parametrize("family", ["ctc", "nat_crf"])
def test_logits_of_non_autoregressive_models_are_those_of_the_original(tmp_path: Path, family: Any) -> None:
    tokenizer = Tokenizer(type="sentencepiece", model="bpe", vocab_size=120, character_coverage=1.0)
    codec = write_codec(tmp_path / "text", tokenizer)
    size = len(codec.src_dictionary)
    model = build_nonautoregressive(CONFIG, NATConfig(family=family), src_vocab_size=size, tgt_vocab_size=size)
    saved = save_trained(tmp_path / "model", codec, model)
    text = write_text(tmp_path / "kept.txt", TEXT)
    trim_checkpoint(saved, tmp_path / "out", TrimSettings((text,)))
    whole, cut = load_model(saved), load_model(tmp_path / "out")
    symbols = TextCodec.load(tmp_path / "out").src_dictionary.symbols
    rows = torch.tensor([codec.src_dictionary.index(symbol) for symbol in symbols])
    if family == "ctc":
        rows = torch.cat([rows, torch.tensor([whole.blank])])  # type: ignore[arg-type]
    assert torch.equal(cut.output_weight_VD, whole.output_weight_VD[rows])
    if family == "nat_crf":
        assert torch.equal(cut.transitions.first.weight, whole.transitions.first.weight[rows])  # type: ignore[union-attr]


def test_text_is_processed_by_the_rules_of_each_language_that_stays(tmp_path: Path) -> None:
    codec = write_codec(
        tmp_path / "text", Tokenizer(type="subword-nmt", model="bpe", vocab_size=60), text=Text(moses=True)
    )
    size, line = len(codec.src_dictionary), "ba be, da!"
    model = build_transformer(CONFIG, src_vocab_size=size, tgt_vocab_size=size)
    saved, text = save_trained(tmp_path / "model", codec, model), write_text(tmp_path / "kept.txt", [line])
    record = trim_checkpoint(saved, tmp_path / "out", TrimSettings((text,), languages=("en", "de")))
    words = [codec.text.preprocess(line, lang) for lang in ("en", "de")]
    english, german = (Counter(codec.encode_source([each])[0][:-1].tolist()) for each in words)
    assert record.text.tokens == (english | german).total()  # the larger count of each token
    assert english.total() != len(codec.encode_source([line])[0]) - 1  # Moses separates punctuation


def test_minimum_count_does_not_depend_on_the_number_of_languages(tmp_path: Path) -> None:
    codec = write_codec(
        tmp_path / "text", Tokenizer(type="subword-nmt", model="bpe", vocab_size=60), text=Text(moses=True)
    )
    size = len(codec.src_dictionary)
    model = build_transformer(CONFIG, src_vocab_size=size, tgt_vocab_size=size)
    saved, text = save_trained(tmp_path / "model", codec, model), write_text(tmp_path / "kept.txt", TEXT)
    words = [codec.text.preprocess(line, "en") for line in TEXT]
    counts = Counter(codec.src_dictionary.symbols[token] for ids in codec.encode_source(words) for token in ids[:-1])
    minimum = sorted(counts.values())[len(counts) // 2] + 1
    rare = {symbol for symbol, count in counts.items() if count < minimum}
    assert 0 < len(rare) < len(counts)
    assert len(codec.text.all_directions) == 4
    trim_checkpoint(saved, tmp_path / "out", TrimSettings((text,), TokenLimits(min_count=minimum)))
    kept = set(TextCodec.load(tmp_path / "out").src_dictionary.symbols)
    assert rare & kept == set()
    assert counts.keys() - rare <= kept


def test_special_token_that_the_dictionary_lists_twice_stays_at_its_place(tmp_path: Path) -> None:
    """Dictionaries of published fairseq models list `<unk>` again, with another id."""
    tokenizer = Tokenizer(type="sentencepiece", model="bpe", vocab_size=120, character_coverage=1.0)
    write_codec(tmp_path / "text", tokenizer)
    for side in ("src", "tgt"):
        path = tmp_path / "text" / f"dict.{side}.txt"
        *lines, _ = path.read_text(encoding="utf-8").splitlines()
        write_text(path, [*lines, "<unk> 5 #fairseq:overwrite"])
    codec = TextCodec.load(tmp_path / "text")
    size = len(codec.src_dictionary)
    model = build_transformer(CONFIG, src_vocab_size=size, tgt_vocab_size=size)
    saved, text = save_trained(tmp_path / "model", codec, model), write_text(tmp_path / "kept.txt", TEXT)
    trim_checkpoint(saved, tmp_path / "out", TrimSettings((text,)))
    symbols = TextCodec.load(tmp_path / "out").src_dictionary.symbols
    old, new = (load_model(folder).src_embed.tokens.weight for folder in (saved, tmp_path / "out"))
    assert tuple(symbols[: len(SPECIALS)]) == SPECIALS
    assert torch.equal(new[: len(SPECIALS)], old[: len(SPECIALS)])
    for symbol, row in zip(symbols[len(SPECIALS) :], new[len(SPECIALS) :], strict=True):
        assert torch.equal(row, old[codec.src_dictionary.index(symbol)])


def test_user_defined_symbols_stay(tmp_path: Path) -> None:
    tokenizer = Tokenizer(
        type="sentencepiece",
        model="bpe",
        vocab_size=120,
        character_coverage=1.0,
        user_defined_symbols=["@URL@", "<2ru>"],
    )
    pair = make_pair(tmp_path, tokenizer)
    assert pair.tokens("ba @URL@ be") == [["▁ba", "▁", "@URL@", "▁be", "</s>"]] * 2
    assert "<2ru>" not in pair.codecs[1].src_dictionary.symbols


def test_other_tokenizers_stay_and_lost_tokens_are_unk(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, Tokenizer(type="subword-nmt", model="bpe", vocab_size=60), directions=())
    assert isinstance(pair.codecs[1].tokenizers.source, SubwordNmtModel)
    for line in [*TEXT, *random_lines(LATIN, 20, seed=9)]:
        before, after = pair.tokens(line)
        kept = set(pair.codecs[1].src_dictionary.symbols)
        assert after == [symbol if symbol in kept else "<unk>" for symbol in before]
    assert pair.tokens(CYRILLIC[0])[1][0] == "<unk>"
    options: dict[str, Any] = {"beam": 4, "max_len_a": 1.0, "max_len_b": 5}
    whole, cut = kdmt.load(pair.folder), kdmt.load(pair.out)
    assert cut.translate(TEXT, **options) == whole.translate(TEXT, **options)


def test_counts_of_lost_tokens(pair: Pair, tmp_path: Path) -> None:
    lines = [*TEXT, *CYRILLIC]
    text = write_text(tmp_path / "text.txt", lines)
    record = trim_checkpoint(pair.folder, tmp_path / "out", TrimSettings((text,), TokenLimits(min_count=4)))
    kept = set(TextCodec.load(tmp_path / "out").src_dictionary.symbols)
    tokens = [symbol for line in lines for symbol in pair.tokens(line)[0][:-1]]
    lost = [symbol for symbol in tokens if symbol not in kept]
    assert lost
    assert (record.text.tokens, record.text.lost, record.text.lost_pieces) == (len(tokens), len(lost), len(set(lost)))


# -------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        (("en", "fr"), "--languages: .* has no 'fr'; its languages are en, de, ru"),
        (("de", "ru"), "--languages de,ru: no direction would stay: .* translates en-de, de-en, en-ru, ru-en"),
    ],
    ids=["unknown", "no direction"],
)
def test_languages_that_the_model_does_not_have_are_refused(
    pair: Pair, tmp_path: Path, languages: tuple[str, ...], message: str
) -> None:
    text = write_text(tmp_path / "text.txt", TEXT)
    with pytest.raises(UserError, match=message):
        trim_checkpoint(pair.folder, tmp_path / "out", TrimSettings((text,), languages=languages))
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_unsuitable_text_is_refused(pair: Pair, tmp_path: Path) -> None:
    empty, foreign = write_text(tmp_path / "empty.txt", [" "]), write_text(tmp_path / "foreign.txt", ["ξξ ψ"])
    with pytest.raises(UserError, match=r"empty\.txt: no text"):
        trim_checkpoint(pair.folder, tmp_path / "out", TrimSettings((empty,)))
    with pytest.raises(UserError, match=r"foreign\.txt: no token of the text is in the vocabulary"):
        trim_checkpoint(pair.folder, tmp_path / "out", TrimSettings((foreign,)))


def test_existing_folder_is_not_changed(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    text = write_text(tmp_path / "text.txt", TEXT)
    with pytest.raises(UserError, match="out: exists already"):
        trim_checkpoint(pair.folder, tmp_path / "out", TrimSettings((text,)))
    assert list((tmp_path / "out").iterdir()) == []


def test_separate_vocabularies_are_refused(pair: Pair, tmp_path: Path) -> None:
    codec = pair.codecs[0]
    size = len(codec.src_dictionary)
    folder = tmp_path / "text"
    write_codec(folder, Tokenizer(type="sentencepiece", model="bpe", vocab_size=120, character_coverage=1.0))
    other = Dictionary.from_vocabulary([f"w{number}" for number in range(size - 4)], {}, padding_factor=1)
    other.save(folder / "dict.tgt.txt")
    config = replace(CONFIG, share_all_embeddings=False)
    sizes = (len(Dictionary.load(folder / f"dict.{side}.txt")) for side in ("src", "tgt"))
    model = build_transformer(config, **dict(zip(("src_vocab_size", "tgt_vocab_size"), sizes, strict=True)))
    saved = save_trained(tmp_path / "model", TextCodec.load(folder), model)
    text = write_text(tmp_path / "text.txt", TEXT)
    with pytest.raises(UserError, match="source and target have vocabularies of their own"):
        trim_checkpoint(saved, tmp_path / "out", TrimSettings((text,)))


def test_seed_of_random_numbers_is_not_part_of_the_result(pair: Pair, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt", TEXT)
    for seed, name in ((1, "one"), (2, "two")):
        torch.manual_seed(seed)
        trim_checkpoint(pair.folder, tmp_path / name, TrimSettings((text,)))
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    assert np.frombuffer(one[:8], dtype="<u8")[0] < len(one)
