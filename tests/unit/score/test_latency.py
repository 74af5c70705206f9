"""Measured speeds, with a clock that the fake translator advances by the seconds that it is given."""

import pytest

from kdmt.score.latency import measure_speed


class FakeTranslator:
    """Takes a fixed time for each call and each sentence, plus the time in `surcharges` for some calls."""

    def __init__(self, per_call, per_sentence, surcharges=()):
        self.now = 0.0
        self.calls = []
        self.per_call, self.per_sentence, self.surcharges = per_call, per_sentence, dict(surcharges)

    def __call__(self, sentences):
        self.now += self.per_call + self.per_sentence * len(sentences) + self.surcharges.get(len(self.calls), 0.0)
        self.calls.append(list(sentences))
        return [sentence.upper() for sentence in sentences]

    def clock(self):
        return self.now


SENTENCES = [f"sentence {i}" for i in range(10)]


def test_speeds_are_sentences_over_seconds():
    translator = FakeTranslator(per_call=0.4, per_sentence=0.1)
    speed, _ = measure_speed(translator, SENTENCES, batch_1_sentences=4, clock=translator.clock)
    assert speed.batch_1 == pytest.approx(1 / 0.5)
    assert speed.full_batch == pytest.approx(10 / 1.4)


def test_single_sentences_are_spread_over_the_set_after_a_warm_up():
    translator = FakeTranslator(per_call=1, per_sentence=1)
    measure_speed(translator, SENTENCES, batch_1_sentences=5, repeats=2, clock=translator.clock)
    singles = [[SENTENCES[i]] for i in (0, 2, 4, 6, 8)]
    assert translator.calls == [singles[0], *singles, *singles, SENTENCES, SENTENCES]


def test_the_first_call_and_one_slow_call_change_nothing():
    calm = FakeTranslator(per_call=0.4, per_sentence=0.1)
    # call 0 warms up, call 2 is a single sentence, call 7 the first whole set (1 + 3 · 2 calls before it)
    disturbed = FakeTranslator(per_call=0.4, per_sentence=0.1, surcharges={0: 60.0, 2: 5.0, 7: 5.0})
    speeds = [measure_speed(t, SENTENCES, batch_1_sentences=2, clock=t.clock)[0] for t in (calm, disturbed)]
    assert speeds[1].batch_1 == pytest.approx(speeds[0].batch_1)
    assert speeds[1].full_batch == pytest.approx(speeds[0].full_batch)


def test_long_sentences_count_by_their_time():
    translator = FakeTranslator(per_call=0.0, per_sentence=0.0, surcharges={1: 1.0, 2: 3.0, 3: 2.0})
    speed, _ = measure_speed(translator, ["short", "long"], batch_1_sentences=2, repeats=1, clock=translator.clock)
    assert speed.batch_1 == pytest.approx(2 / 4.0)  # not the speed of the median sentence


def test_single_sentences_are_limited_by_the_test_set():
    translator = FakeTranslator(per_call=1, per_sentence=0)
    measure_speed(translator, SENTENCES[:3], batch_1_sentences=100, repeats=1, clock=translator.clock)
    assert len(translator.calls) == 1 + 3 + 1


def test_with_the_real_clock():
    speed, translations = measure_speed(
        lambda sentences: [f"{line} {sum(range(1000))}" for line in sentences], SENTENCES, batch_1_sentences=3
    )
    assert translations == [f"{line} 499500" for line in SENTENCES]
    assert speed.batch_1 > 0
    assert speed.full_batch > 0


@pytest.mark.parametrize(("sentences", "singles", "repeats"), [([], 1, 1), (SENTENCES, 0, 1), (SENTENCES, 1, 0)])
def test_bad_input_is_refused(sentences, singles, repeats):
    with pytest.raises(ValueError, match="nothing to time"):
        measure_speed(lambda lines: lines, sentences, batch_1_sentences=singles, repeats=repeats)
