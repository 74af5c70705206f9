"""Tests of the off-target rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from kdmt.config import OffTarget
from kdmt.errors import UserError
from kdmt.score.off_target import OffTargetRate, check_languages


class FirstLetter:
    """An identifier by the first letter of a line: d German, f French, s Slovak, x a language of no pipeline."""

    languages = ("de", "fr", "sk", "xh", "en", "cs")

    def probabilities(self, lines: Sequence[str]) -> np.ndarray:
        table = {"d": [0.6, 0.3, 0, 0, 0.1, 0], "f": [0.2, 0.8, 0, 0, 0, 0], "s": [0.1, 0.1, 0.6, 0, 0.1, 0.1]}
        table["x"] = [0.0, 0.15, 0.0, 0.75, 0.1, 0]  # Xhosa, and among the others French
        return np.array([table[line[0]] for line in lines], dtype=np.float32)


RATE = OffTargetRate(FirstLetter(), ("de", "fr", "en"))


@pytest.mark.parametrize(
    ("lines", "target", "rate"),
    [
        (["d", "d", "f", "d"], "de", 25.0),
        (["d", "d", "f", "d"], "fr", 75.0),
        (["x", "f"], "fr", 0.0),  # the identifier's first choice is no language of the pipeline
        (["d", "", "...", "12"], "fr", 100.0),  # lines without letters are not judged
        (["", "1."], "fr", None),
    ],
)
def test_rate_is_the_share_of_the_judged_lines(lines: list[str], target: str, rate: float | None) -> None:
    assert RATE.of_lines(lines, target) == rate


def test_related_languages_count_together_if_the_pipeline_has_one_of_them() -> None:
    rate = OffTargetRate(FirstLetter(), ("cs", "fr"))
    assert rate.of_lines(["s", "s", "f", "s"], "cs") == 25.0


def test_related_languages_of_the_pipeline_are_told_apart() -> None:
    rate = OffTargetRate(FirstLetter(), ("cs", "sk", "fr"))
    assert rate.of_lines(["s", "s", "f", "s"], "cs") == 100.0
    assert rate.of_lines(["s", "s", "f", "s"], "sk") == 25.0


def test_an_identifier_that_does_not_tell_two_languages_of_the_pipeline_apart_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kdmt.score.off_target.open_identifier", lambda _: FirstLetter())
    assert OffTargetRate.open(OffTarget(), ["de", "zu"]).languages == ("de", "zu")  # as Xhosa
    with pytest.raises(UserError, match=r"score\.off_target: the identifier does not know 'zu'"):
        OffTargetRate.open(OffTarget(), ["de", "zu", "xh"])


def test_slovak_is_no_czech_where_both_are_languages_of_the_pipeline() -> None:
    pytest.importorskip("py3langid")
    slovak = ["Včera som si kúpil novú knihu a večer ju čítal.", "Deti sa hrajú na ihrisku pri škole."]
    assert OffTargetRate.open(OffTarget(), ["en", "cs", "sk"]).of_lines(slovak, "cs") == 100.0
    assert OffTargetRate.open(OffTarget(), ["en", "cs", "sk"]).of_lines(slovak, "sk") == 0.0


def test_a_language_that_the_identifier_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdmt.score.off_target.open_identifier", lambda _: FirstLetter())
    with pytest.raises(UserError, match=r"score\.off_target: the identifier does not know 'qaa'"):
        OffTargetRate.open(OffTarget(), ["de", "qaa"])
    assert OffTargetRate.open(OffTarget(), ["de", "fr", "deu"]).languages == ("de", "fr")


def test_unknown_languages_and_missing_packages_are_found_without_the_identifier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("py3langid")
    check_languages(OffTarget(), ["en", "pt_BR", "zh-Hans"])
    with pytest.raises(UserError, match=r"^score\.off_target: the identifier does not know 'qaa': give another"):
        check_languages(OffTarget(), ["en", "qaa"])
    monkeypatch.setattr("kdmt.corpus.language_id.is_installed", lambda _: False)
    with pytest.raises(UserError, match=r"^py3langid is not installed: pip install 'kdmt\[language-id\]'"):
        check_languages(OffTarget(), ["en"])
