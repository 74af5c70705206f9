"""Links of words: a planted dictionary is found, punctuation and case do not matter."""

from __future__ import annotations

import random

from kdmt.corpus.translated_words import TranslatedWords, around_core, core

WORDS = {"hund": "dog", "katze": "cat", "haus": "house", "ball": "ball", "kind": "child", "baum": "tree"}


def planted(num_pairs: int) -> list[tuple[str, str]]:
    generator = random.Random(1)
    sources = [generator.sample(sorted(WORDS), k=generator.randint(1, 5)) for _ in range(num_pairs)]
    return [(" ".join(source), " ".join(WORDS[word] for word in source)) for source in sources]


def test_planted_translations_are_linked() -> None:
    links = TranslatedWords.train(planted(300))
    assert links.find(["Hund", "und", "(Haus)", "."], ["house", "a", "Dog!"]) == [(0, 2), (2, 0)]


def test_words_without_a_translation_have_no_link() -> None:
    links = TranslatedWords.train(planted(300))
    assert links.find(["hund"], ["house"]) == []
    assert links.find([], ["house"]) == []
    assert TranslatedWords().find(["hund"], ["dog"]) == []
    assert TranslatedWords.train([("", ""), ("", "a")]).table == {}


def test_core_is_the_word_without_punctuation() -> None:
    assert [core(word) for word in ("(Haus).", "d'Accord", "...", "3,5%")] == ["haus", "d'accord", "", "3,5"]
    assert around_core("(Haus).") == ("(", "Haus", ").")
    assert around_core("...") == ("", "...", "")
