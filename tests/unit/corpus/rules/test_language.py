"""Tests of the rule for languages: what it judges, drops and swaps."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdmt.config import Language
from kdmt.corpus.rules import language
from kdmt.corpus.rules.language import (
    LanguageRule,
    build_language_rule,
    check_language_rule,
    count_letters,
    script_share,
)
from kdmt.errors import UserError

ENGLISH = "The committee will meet again next week in Brussels."
GERMAN = "Der Ausschuss trifft sich nächste Woche wieder in Brüssel."
FRENCH = "La commission se réunira la semaine prochaine à Bruxelles."
GREEK = "Η επιτροπή θα συνεδριάσει ξανά την επόμενη εβδομάδα στις Βρυξέλλες."
CZECH = "Výbor se sejde znovu příští týden v Bruselu."
SLOVAK = "Výbor sa stretne znova budúci týždeň v Bruseli."
JAPANESE = "委員会は来週ブリュッセルで再び開かれる予定です。"
CHINESE = "委员会将于下周在布鲁塞尔再次举行会议。"


def judge(codes: tuple[str, str], pairs: Sequence[tuple[str, str]], **settings: Any) -> list[str]:
    rule = build_language_rule(Language(**settings), codes)
    verdicts = rule.judge([source for source, _ in pairs], [target for _, target in pairs])
    assert not (verdicts.dropped_N & verdicts.swapped_N).any()
    return [
        "drop" if dropped else "swap" if swapped else "keep"
        for dropped, swapped in zip(verdicts.dropped_N, verdicts.swapped_N, strict=True)
    ]


@pytest.fixture(autouse=True)
def _needs_package() -> None:
    pytest.importorskip("py3langid", reason="an extra")


def test_pairs_with_a_side_in_another_language_are_dropped() -> None:
    pairs = [(ENGLISH, GERMAN), (FRENCH, GERMAN), (ENGLISH, ENGLISH), (ENGLISH, GREEK), (GERMAN, FRENCH)]
    assert judge(("en", "de"), pairs) == ["keep", "drop", "drop", "drop", "drop"]


def test_exchanged_sides_are_swapped_back_unless_that_is_turned_off() -> None:
    pairs = [(GERMAN, ENGLISH), (GREEK, ENGLISH), (GERMAN, GERMAN)]
    assert judge(("en", "de"), pairs) == ["swap", "drop", "drop"]
    assert judge(("en", "de"), pairs, swap=False) == ["drop", "drop", "drop"]
    assert judge(("en", "el"), pairs) == ["drop", "swap", "drop"]


def test_one_side_may_be_judged_alone() -> None:
    pairs = [(FRENCH, GERMAN), (ENGLISH, FRENCH)]
    assert judge(("en", "de"), pairs, sides="source") == ["drop", "keep"]
    assert judge(("en", "de"), pairs, sides="target") == ["keep", "drop"]


def test_short_lines_are_not_judged() -> None:
    pairs = [("Hund, Katze, Maus", "Hund"), ("Hund, Kat", "Hund, Kat")]
    assert judge(("fr", "de"), pairs, min_letters=9, min=0.5) == ["drop", "keep"]
    assert judge(("fr", "de"), pairs, min_letters=14, min=0.5) == ["keep", "keep"]
    assert judge(("ja", "en"), [(CHINESE, ENGLISH), (CHINESE[:6], ENGLISH)], min_letters=21) == ["drop", "keep"]


def test_min_is_a_bound_of_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed:
        languages = ("de", "en", "fr")

        def probabilities(self, lines: Sequence[str]) -> np.ndarray:
            return np.array([[0.25, 0.75, 0.0]] * len(lines), dtype=np.float32)

    monkeypatch.setattr(language, "open_identifier", lambda _: Fixed())
    assert judge(("en", "de"), [(ENGLISH, GERMAN)], min=0.25) == ["keep"]
    assert judge(("en", "de"), [(ENGLISH, GERMAN)], min=0.26) == ["drop"]
    assert judge(("en", "de"), [(ENGLISH, GERMAN)], min=0.26, sides="source") == ["keep"]


def test_related_languages_count_as_one() -> None:
    assert judge(("en", "cs"), [(ENGLISH, CZECH), (ENGLISH, SLOVAK), (ENGLISH, GERMAN)]) == ["keep", "keep", "drop"]


def test_chinese_and_japanese_are_told_apart() -> None:
    assert judge(("zh", "ja"), [(CHINESE, JAPANESE), (JAPANESE, CHINESE)]) == ["keep", "swap"]
    assert judge(("en", "ja"), [(ENGLISH, CHINESE), (ENGLISH, JAPANESE)]) == ["drop", "keep"]


@pytest.mark.parametrize(
    ("code", "line"),
    [("el", GREEK), ("th", "คณะกรรมการจะประชุมกันอีกครั้งในสัปดาห์หน้า"), ("ko", "위원회는 다음 주에 다시 열릴 예정입니다")],
)
def test_a_script_decides_without_an_identifier(code: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("no identifier is needed")

    monkeypatch.setattr(language, "open_identifier", refuse)
    pairs = [(ENGLISH, line), (ENGLISH, ENGLISH), (ENGLISH, f"{line} Windows 11")]
    assert judge(("en", code), pairs, sides="target") == ["keep", "drop", "keep"]


def test_a_language_that_the_identifier_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match=r"does not know 'qaa'.*'sides'.*fasttext"):
        build_language_rule(Language(), ("en", "qaa"))
    with pytest.raises(UserError, match=r"does not know 'qaa'.*'sides'.*fasttext"):
        check_language_rule(Language(), ("en", "qaa"))
    assert build_language_rule(Language(sides="source"), ("en", "qaa")).identifier is not None
    check_language_rule(Language(sides="source"), ("en", "qaa"))
    assert isinstance(build_language_rule(Language(), ("en", "nb")), LanguageRule)  # as `no`


def test_letters_are_counted_without_digits_and_punctuation() -> None:
    assert count_letters("a1, b-c!") == 3
    assert count_letters("東京 (Tokyo) 2020") == 3 * 2 + 5
    assert count_letters("ながら、ん") == 3 * 4
    assert count_letters("") == 0


def test_share_of_a_script() -> None:
    assert script_share("αβγ d 12", "Grek") == pytest.approx(3 / 4)
    assert script_share("東京 서울", "Kore") == 1.0
    assert script_share("12", "Thai") == 1.0


def test_an_empty_chunk_has_no_verdicts() -> None:
    assert judge(("en", "de"), []) == []


# -------------------------------------------------------------------------------------- clauses of the declaration


UDHR = Path(__file__).parents[4] / "../shared/data/udhr"
NEEDS_UDHR = pytest.mark.skipif(not UDHR.is_dir(), reason="../shared/data/udhr is not here")
LANGUAGES = (
    *("am", "ar", "bn", "bo", "cs", "de", "el", "fa", "fr", "he", "hi", "ja"),
    *("ka", "km", "ko", "lo", "my", "ru", "ta", "th", "tr", "vi", "zh"),
)


def paragraphs(code: str) -> list[str]:
    return (UDHR / f"udhr.{code}").read_text(encoding="utf-8").splitlines()


def beginnings(code: str) -> list[str]:
    """Return the first quarter of each paragraph: some 15 to 60 letters, often only a few words."""
    return [line[: max(20, len(line) // 4)].strip() for line in paragraphs(code)]


@NEEDS_UDHR
@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("read", [paragraphs, beginnings])
def test_clean_text_is_kept(code: str, read: Callable[[str], list[str]]) -> None:
    pairs = list(zip(read("en"), read(code), strict=True))
    assert len(pairs) == 50
    assert judge(("en", code), pairs).count("keep") >= 49


def plant(code: str, other: str, rng: random.Random) -> tuple[list[tuple[str, str]], list[str]]:
    """Return pairs of English and a language with planted faults, and the right verdict of each."""
    pairs, verdicts = [], []
    for english, target, wrong in zip(beginnings("en"), beginnings(code), beginnings(other), strict=True):
        kind = rng.choice(["clean"] * 4 + ["source", "target", "swapped"])
        pair = {"source": (wrong, target), "target": (english, wrong), "swapped": (target, english)}
        pairs.append(pair.get(kind, (english, target)))
        verdicts.append({"clean": "keep", "swapped": "swap"}.get(kind, "drop"))
    return pairs, verdicts


@NEEDS_UDHR
def test_planted_languages_are_found() -> None:
    rng, found = random.Random(1), Counter[tuple[str, str]]()
    for code in ("ar", "cs", "de", "fa", "fr", "ja", "ru", "th", "tr", "vi", "zh"):
        for other in {"de": ["fr", "cs"], "fr": ["de", "tr"], "ja": ["zh"], "fa": ["ar"]}.get(code, ["de", "ja", "ru"]):
            if other != code:
                pairs, right = plant(code, other, rng)
                found.update(zip(right, judge(("en", code), pairs), strict=True))
    assert sum(found.values()) >= 1000
    for verdict, least in (("drop", 0.97), ("swap", 0.95), ("keep", 0.99)):
        recall = found[verdict, verdict] / sum(count for (right, _), count in found.items() if right == verdict)
        precision = found[verdict, verdict] / sum(count for (_, given), count in found.items() if given == verdict)
        assert recall >= least, (verdict, found)
        assert precision >= (0.95 if verdict == "keep" else 0.98), (verdict, found)


def test_russian_is_found_in_ukrainian_text() -> None:
    ukrainian = "Комітет знову збереться наступного тижня у Брюсселі, щоб вирішити це питання."
    russian = "Комитет снова соберется на следующей неделе в Брюсселе, чтобы решить этот вопрос."
    assert judge(("en", "uk"), [(ENGLISH, ukrainian), (ENGLISH, russian)]) == ["keep", "drop"]
    assert judge(("en", "ru"), [(ENGLISH, russian), (ENGLISH, ukrainian)]) == ["keep", "drop"]


def test_no_identifier_is_opened_for_a_side_that_is_not_judged() -> None:
    rule = build_language_rule(Language(sides="target"), ("tlh", "el"))
    assert rule.identifier is None
    assert not rule.judge([GREEK], [ENGLISH]).swapped_N.any()
