"""Tests of the identification of languages: the values of py3langid and of fastText's formula, in batches."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from kdmt.corpus import language_id
from kdmt.corpus.language_id import (
    BUILT_IN_LANGUAGES,
    RELATED,
    group_of,
    identify_batch,
    knows_any,
    open_built_in,
    open_fasttext,
    open_identifier,
    share_of,
)
from kdmt.errors import UserError

SENTENCES = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "cs": "Všichni lidé se rodí svobodní a sobě rovní co do důstojnosti a práv.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "zh": "人人生而自由,在尊严和权利上一律平等。",
    "ar": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق.",
    "sr": "Сва људска бића рађају се слободна и једнака у достојанству и правима.",
}
ODD = ["", "12 + 7", "OK", "JA, DAS IST SO", "a\ud800b", "e\u0301te\u0301", "?" * 5000, "ja " * 700]


def test_the_built_in_identifier_has_the_probabilities_of_py3langid() -> None:
    langid = pytest.importorskip("py3langid.langid")
    reference = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    identifier = open_built_in()
    lines = [*SENTENCES.values(), *ODD[:6], *(word for line in SENTENCES.values() for word in line.split())]
    found = identifier.probabilities(lines)
    assert set(identifier.languages) == set(reference.labels)
    for line, row in zip(lines, found, strict=True):
        expected = dict(reference.rank(line))
        np.testing.assert_allclose(row, [expected[code] for code in identifier.languages], atol=2e-5)


def test_probabilities_do_not_depend_on_the_batch() -> None:
    pytest.importorskip("py3langid")
    identifier = open_built_in()
    lines = [*SENTENCES.values(), *ODD] * 150
    alone = np.concatenate([identifier.probabilities([line]) for line in lines[: len(SENTENCES) + len(ODD)]])
    np.testing.assert_allclose(identifier.probabilities(lines), np.tile(alone, (150, 1)), atol=1e-6)
    assert identifier.probabilities([]).shape == (0, len(identifier.languages))


def test_the_languages_of_the_built_in_identifier_are_known_without_opening_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("py3langid")
    assert set(open_built_in().languages) == BUILT_IN_LANGUAGES
    assert not knows_any(None, group_of("qaa"))
    monkeypatch.setattr(language_id, "open_built_in", lambda: pytest.fail("the model is not needed"))
    assert knows_any(None, group_of("de"))
    assert knows_any(None, group_of("yi"))  # as `he`


def test_sentences_are_identified() -> None:
    pytest.importorskip("py3langid")
    found = identify_batch(open_built_in(), list(SENTENCES.values()))
    assert [language for language, _ in found] == list(SENTENCES)
    assert min(probability for _, probability in found) > 0.6


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("py3langid.langid", "fasttext"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    open_built_in.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'kdmt\[language-id\]'"):
        open_identifier(None)
    with pytest.raises(UserError, match=r"pip install 'kdmt\[fasttext\]'"):
        open_identifier(Path("lid.bin"))


# ------------------------------------------------------------------------------------------------- related languages


def test_a_language_is_in_one_group() -> None:
    members = [code for group in RELATED for code in group.split()]
    assert len(set(members)) == len(members)
    assert group_of("nn") == {"nb", "nn", "no", "da"}
    assert group_of("de") == {"de"}


class Fixed:
    """Identifier with given probabilities."""

    languages = ("de", "nb", "da", "en")

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self._rows = np.array(rows, dtype=np.float32)

    def probabilities(self, lines: Sequence[str]) -> np.ndarray:
        assert len(lines) == len(self._rows)
        return self._rows


def test_share_compares_a_group_with_the_best_other_language() -> None:
    rows = [[0.1, 0.3, 0.4, 0.2], [0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    identifier = Fixed(rows)
    norwegian = share_of(identifier, identifier.probabilities([""] * 4), "nn")
    np.testing.assert_allclose(norwegian, [0.7 / (0.7 + 0.2), 0.0, 0.0, 0.0], rtol=1e-6)
    german = share_of(identifier, identifier.probabilities([""] * 4), "de")
    np.testing.assert_allclose(german, [0.1 / (0.1 + 0.4), 0.0, 1.0, 0.0], rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------- fastText


def write_model(path: Path, words: Mapping[str, Sequence[float]], labels: Mapping[str, Sequence[float]]) -> None:
    """Write a supervised model with softmax in fastText's binary format (version 12, not quantised)."""
    dim = len(next(iter(words.values())))
    integers = (dim, 5, 1, 1, 5, 1, 3, 3, 0, 0, 0, 100)  # ..., loss 3: softmax, model 3: supervised, no n-grams
    entries = [(word, 0) for word in words] + [(label, 1) for label in labels]
    with path.open("wb") as file:
        file.write(struct.pack("<2i", 793712314, 12))
        file.write(struct.pack("<12id", *integers, 1e-4))
        file.write(struct.pack("<3i2q", len(entries), len(words), len(labels), 100, -1))
        for text, kind in entries:
            file.write(text.encode() + b"\0" + struct.pack("<qb", 1, kind))
        for rows in (words, labels):
            file.write(struct.pack("<?2q", False, len(rows), dim))
            file.write(np.array(list(rows.values()), dtype="<f4").tobytes())


def test_fasttext_models_give_the_probabilities_of_their_softmax(tmp_path: Path) -> None:
    pytest.importorskip("fasttext")
    words = {"und": [2.0, 0.0], "the": [0.0, 3.0], "in": [1.0, 1.0]}
    labels = {"__label__deu_Latn": [1.0, -1.0], "__label__en": [-1.0, 1.0], "__label__de": [0.5, 0.0]}
    write_model(tmp_path / "tiny.bin", words, labels)
    identifier = open_identifier(tmp_path / "tiny.bin")
    assert identifier.languages == ("de", "en")
    found = identifier.probabilities(["und in", "the"])
    for row, hidden in zip(found, ([1.5, 0.5], [0.0, 3.0]), strict=True):
        exponentials = np.exp(np.array(list(labels.values())) @ np.array(hidden))
        own = exponentials / exponentials.sum()
        np.testing.assert_allclose(row, [own[0] + own[2], own[1]], atol=1e-3)  # fastText rounds by a table


def test_a_broken_or_missing_model_is_named(tmp_path: Path) -> None:
    pytest.importorskip("fasttext")
    with pytest.raises(UserError, match=r"none\.bin: there is no such fastText model"):
        open_fasttext(tmp_path / "none.bin")
    (tmp_path / "broken.bin").write_bytes(b"not a model" * 100)
    with pytest.raises(UserError, match=r"broken\.bin: fastText cannot read it: the file has another format"):
        open_fasttext(tmp_path / "broken.bin")
    write_model(tmp_path / "none.bin", {"a": [1.0]}, {})
    with pytest.raises(UserError, match=r"none\.bin: fastText cannot read it: the model has no labels"):
        open_fasttext(tmp_path / "none.bin")
