"""Tests of counting lines that processing and its inverse change, with known cases of every step."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from kdmt.config import Text, Tokenizer
from kdmt.corpus.round_trip import RoundTrip, measure_round_trip, survives_lowercasing
from kdmt.corpus.subword_model import SubwordModel
from kdmt.corpus.text import TextProcessor
from kdmt.corpus.tokenizer import train_tokenizer
from kdmt.languages import Direction

SYLLABLES = ["ba", "no", "ti", "ke", "Lu", "ßo", "ära", "win"]
MARKED = "user@@ sieht"  # frequent enough in the text for `@@` to become one subword symbol
ODD = 'lLiIİ▁ＡＢﬁ&;am p"„-,!'  # other characters of the lines below, so that the tokenizers know them


def make_lines(count: int) -> list[str]:
    rng = random.Random(1)
    return [" ".join("".join(rng.choices(SYLLABLES, k=2)) for _ in range(rng.randint(1, 6))) for _ in range(count)]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "train.de"
    path.write_text("".join(f"{line}\n" for line in [*make_lines(300), *[MARKED] * 50, ODD]), encoding="utf-8")
    return path


def learn(text: Path, folder: Path, **settings: Any) -> SubwordModel:
    return train_tokenizer(Tokenizer(**settings), [text, text], folder / "tokenizer", Direction("de", "en")).target


@pytest.fixture(scope="module")
def pieces(text: Path) -> SubwordModel:
    return learn(text, text.parent / "sentencepiece", vocab_size=70)


def measure(lines: list[str], model: SubwordModel, lang: str = "de", **settings: bool) -> RoundTrip:
    processor = TextProcessor(Text(**settings), "en", lang, "NFC")
    return measure_round_trip(lines, processor=processor, lang=lang, model=model)


def test_ordinary_text_is_not_changed(pieces: SubwordModel) -> None:
    lines = [*make_lines(50), ""]
    for settings in ({}, {"lowercase": True}, {"moses": True}, {"moses": True, "normalize": True, "lowercase": True}):
        found = measure(lines, pieces, **settings)
        assert (found.num_changed, found.warning()) == (0, None)


def test_a_joiner_in_raw_text_is_counted_under_subword_nmt(text: Path, tmp_path: Path) -> None:
    model = learn(text, tmp_path, type="subword-nmt", model="bpe", vocab_size=40)
    lines = [*make_lines(49), MARKED]
    found = measure(lines, model)
    assert found.as_dict() == {
        "lines": 50,
        "changed": 1,
        "moses": 0,
        "lowercase": 0,
        "tokenizer": 1,
        "examples": {"tokenizer": [(MARKED, "usersieht")]},
    }
    warning = found.warning()
    assert warning is not None
    assert warning.startswith("1 of 50 lines do not survive processing and back ('prepare.tokenizer' 1): ")
    assert "'user@@ sieht' comes back as 'usersieht'" in warning


def test_the_sentencepiece_space_in_raw_text_is_counted(pieces: SubwordModel) -> None:
    found = measure(["ba▁no", "ba no"], pieces)
    assert found.examples["tokenizer"] == [("ba▁no", "ba no")]
    assert found.num_changed == 1


def test_the_normalisation_of_a_given_model_is_counted(text: Path, tmp_path: Path) -> None:
    """Use the default of SentencePiece, a modified NFKC, which changes full-width letters and ligatures."""
    path = tmp_path / "given.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text.read_text(encoding="utf-8").splitlines()),
            model_writer=file,
            vocab_size=50,
            minloglevel=2,
        )
    model = learn(text, tmp_path, source_path=str(path))
    found = measure(["ＡＢ", "ﬁ", "ba"], model)
    assert [before for before, _ in found.examples["tokenizer"]] == ["ＡＢ", "ﬁ"]


def test_unknown_characters_are_counted(pieces: SubwordModel) -> None:
    assert measure(["ba 漢 no"], pieces).examples["tokenizer"] == [("ba 漢 no", "ba  ⁇  no")]


def test_lines_that_moses_does_not_restore_are_counted(pieces: SubwordModel) -> None:
    lines = ["ba & amp ; no", 'ba "no"-ti', "ba, no!"]
    found = measure(lines, pieces, moses=True, lowercase=True)
    assert found.changed["moses"] == 2
    assert found.examples["moses"][1] == ('ba "no"-ti', 'ba "no" -ti')


def test_intended_changes_of_normalising_are_not_counted(pieces: SubwordModel) -> None:
    for settings in ({"normalize": True}, {"normalize": True, "moses": True}):
        assert measure(["ba „no“ ti"], pieces, **settings).changed["moses"] == 0
    assert measure(["ba  \u00a0 no\tti"], pieces).num_changed == 0  # changed whitespace is not counted either


@pytest.mark.parametrize(
    ("line", "lang", "survives"),
    [
        ("Istanbul İzmir ısı", "en", False),  # İ becomes two characters in lower case
        ("İzmir", "tr", False),
        ("Isparta", "tr", False),  # its Turkish lower case is ısparta
        ("Isparta", "az", False),
        ("Isparta", "en", True),
        ("izmir ısı Ankara", "tr", True),
        ("Straße GROSS", "de", True),
        ("STRAẞE", "de", False),
        ("Ο ΟΔΥΣΣΕΥΣ", "el", True),  # with a final sigma
        ("Москва ЁЛКА", "ru", True),
        ("東京 กรุงเทพ मुंबई", "ja", True),
    ],
)
def test_whether_lowercasing_keeps_all_information(line: str, lang: str, survives: bool) -> None:
    assert survives_lowercasing(line, lang) is survives


def test_turkish_capitals_are_counted_if_text_is_lowercased(pieces: SubwordModel) -> None:
    lines = ["ba Ino", "ba İti", "ba no", "Ba No"]
    found = measure(lines, pieces, lang="tr", lowercase=True)
    assert found.changed == {"moses": 0, "lowercase": 2, "tokenizer": 0}
    assert measure(lines, pieces, lang="tr").changed["lowercase"] == 0


def test_text_that_is_already_processed_is_compared_as_tokens(text: Path, tmp_path: Path) -> None:
    model = learn(text, tmp_path, type="subword-nmt", model="bpe", vocab_size=40)
    lines = ["ba &amp; no", MARKED, "Isparta"]
    found = measure(lines, model, lang="tr", moses=True, lowercase=True, already_applied=True)
    assert found.changed == {"moses": 0, "lowercase": 0, "tokenizer": 1}


def test_a_warning_is_given_above_one_percent() -> None:
    found = RoundTrip(1000, {"moses": 6, "lowercase": 0, "tokenizer": 4})
    assert found.warning() is None
    found.changed["tokenizer"] = 5
    assert found.warning() == (
        "11 of 1,000 lines do not survive processing and back ('prepare.text.moses' 6, 'prepare.tokenizer' 5): "
    )


def test_bytes_restore_characters_that_have_no_piece(text: Path, tmp_path: Path) -> None:
    rare = ["ba ☃", "no 𝔷"]
    without = learn(text, tmp_path / "without", vocab_size=70)
    assert measure(rare, without).changed["tokenizer"] == 2
    assert measure(rare, learn(text, tmp_path / "with", vocab_size=330, byte_fallback=True)).num_changed == 0


def test_the_normalisation_that_a_model_was_learnt_with_is_no_change(text: Path, tmp_path: Path) -> None:
    model = learn(text, tmp_path, vocab_size=70, normalization_rule="nfkc_cf")
    processor = TextProcessor(Text(), "en", "de", "NFC")
    for rule, num_changed in (("identity", 2), ("nfkc_cf", 0)):
        found = measure_round_trip(
            ["ＢＡ no", "Lu", "ba"], processor=processor, lang="de", model=model, normalization_rule=rule
        )
        assert found.changed["tokenizer"] == num_changed
