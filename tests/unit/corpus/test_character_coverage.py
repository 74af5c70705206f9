"""Tests of the coverage of characters by script: properties, and models that SentencePiece learns."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config import Tokenizer
from kdmt.corpus.character_coverage import (
    LARGE_COVERAGE,
    LARGE_SCRIPTS,
    count_characters,
    covering_characters,
    script_of_character,
)
from kdmt.corpus.tokenizer import SentencePieceModel, train_tokenizer
from kdmt.errors import UserError
from kdmt.languages import Direction

HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюя"
DIRECTION = Direction("zh", "ru")


def script_by_name(char: str) -> str | None:
    """Return the script of a character by its Unicode name, which names the large scripts."""
    if 0x17000 <= ord(char) <= 0x187F7:  # has no name in some versions of Python
        return "Tangut"
    name = unicodedata.name(char, "")
    beginnings = {"CJK UNIFIED": "Han", "HANGUL SYLLABLE": "Hangul", "YI SYLLABLE": "Yi"}
    return next((script for beginning, script in beginnings.items() if name.startswith(beginning)), None)


@pytest.mark.parametrize("char", [*"漢字가힣ひカaßжع9。-🙂ก", "\ua000", "\U00017000", "\u0301"])
def test_script_of_a_character(char: str) -> None:
    assert script_of_character(char) == script_by_name(char)


alphabet = st.sampled_from("漢字語言가나다ab1жあ。")


@given(st.dictionaries(alphabet, st.integers(1, 50)), st.floats(0.01, 1.0))
def test_each_large_script_is_covered_with_as_few_characters_as_possible(
    counts: dict[str, int], coverage: float
) -> None:
    kept = covering_characters(counts, coverage=coverage)
    assert list(kept) == sorted(set(kept))
    assert set(kept) <= set(counts)
    for script in (None, *LARGE_SCRIPTS):
        own = {char: count for char, count in counts.items() if script_by_name(char) == script}
        chosen = [char for char in kept if char in own]
        if script is None:
            assert chosen == sorted(own)
        elif own:
            wanted = coverage * sum(own.values())
            assert sum(own[char] for char in chosen) >= wanted
            most_with_one_less = sum(sorted(own.values(), reverse=True)[: len(chosen) - 1])
            assert most_with_one_less < wanted
            assert min(own[char] for char in chosen) >= max(
                (count for char, count in own.items() if char not in chosen), default=0
            )


def test_whitespace_and_zero_bytes_are_no_characters() -> None:
    assert count_characters(["a b\u3000a", "\0b\tb"]) == {"a": 2, "b": 3}


# ----------------------------------------------------------------------------------------------------- learnt models


@pytest.fixture
def texts(tmp_path: Path) -> tuple[Path, Path]:
    """Write much Chinese text, and Russian text in which each letter occurs once."""
    rng = random.Random(1)
    weights = [1 / rank for rank in range(1, len(HAN) + 1)]
    chinese = ["".join(rng.choices(HAN, weights, k=80)) for _ in range(3000)]
    russian = [" ".join(CYRILLIC[start : start + 8] for start in range(0, 32, 8))]
    for lang, lines in (("zh", chinese), ("ru", russian)):
        (tmp_path / f"train.{lang}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "train.zh", tmp_path / "train.ru"


def pieces(texts: tuple[Path, Path], folder: Path, coverage: float | str, **values: object) -> set[str]:
    settings = Tokenizer.model_validate(
        {"vocab_size": 4000, "hard_vocab_limit": False, "character_coverage": coverage, **values}
    )
    model = train_tokenizer(settings, texts, folder / f"tokenizer-{coverage}", DIRECTION).source
    assert isinstance(model, SentencePieceModel)
    return {char for piece in model.symbols for char in piece}


def test_neither_rare_languages_nor_rare_characters_decide_for_the_other(
    texts: tuple[Path, Path], tmp_path: Path
) -> None:
    counts = Counter(texts[0].read_text(encoding="utf-8").replace("\n", ""))
    one = pieces(texts, tmp_path, LARGE_COVERAGE)
    assert not set(CYRILLIC) & one  # all of it is below 0.05% of the text
    everything = pieces(texts, tmp_path, 1.0)
    assert set(CYRILLIC) | set(counts) <= everything
    auto = pieces(texts, tmp_path, "auto")
    assert set(CYRILLIC) <= auto
    dropped = set(counts) - auto
    assert dropped
    assert sum(counts[char] for char in dropped) <= (1 - LARGE_COVERAGE) * counts.total()


@pytest.mark.slow
def test_characters_are_those_of_normalised_text(texts: tuple[Path, Path], tmp_path: Path) -> None:
    with texts[1].open("a", encoding="utf-8") as file:
        file.write("ＸＹ ﾊﾞ\n")
    plain = pieces(texts, tmp_path / "identity", "auto")
    folded = pieces(texts, tmp_path / "nmt_nfkc_cf", "auto", normalization_rule="nmt_nfkc_cf")
    assert {"Ｘ", "Ｙ", "ﾊ", "ﾞ"} <= plain
    assert {"x", "y", "バ"} <= folded
    assert not {"Ｘ", "X", "ﾊ", "ﾞ"} & folded


def test_too_small_a_vocabulary_names_the_least_size(texts: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the characters of the text .* set at least \d+") as raised:
        pieces(texts, tmp_path, "auto", vocab_size=100)
    least = int(str(raised.value).split("set at least ")[1].split(",")[0])
    assert set(CYRILLIC) <= pieces(texts, tmp_path, "auto", vocab_size=least)
