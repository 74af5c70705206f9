"""Text infilling: the share of hidden words, the lengths of spans, what is kept, and what the draws depend on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.config import Denoising
from kdmt.corpus.infilling import Infilling, infill, poisson_limits, span_lengths
from kdmt.corpus.subword_sampling import Word, WordLimits
from kdmt.types import EOS, UNK

VOCAB = 60
PIECES = 30  # ids from it on continue a word
TAG, OTHER_TAG = 4, 5


def words_of(sizes: Sequence[int]) -> list[Word]:
    """Return words of the given numbers of tokens, all tokens different."""
    ids = iter(range(100, 100 + sum(sizes)))
    return [tuple(next(ids) for _ in range(size)) for size in sizes]


def hidden_spans(words: Sequence[Word], shown: Sequence[int]) -> list[int]:
    """Return the number of words at each run of masks, by comparison with the words that are shown.

    The tokens that are shown have to be whole words in their order.
    """
    spans, place, rest = [], 0, list(shown)
    while rest:
        if rest[0] == UNK:
            num_masks = next((n for n, token in enumerate(rest) if token != UNK), len(rest))
            rest = rest[num_masks:]
            following = next((n for n in range(place, len(words)) if rest and words[n][0] == rest[0]), len(words))
            spans.append(following - place)
            place = following
        else:
            assert tuple(rest[: len(words[place])]) == words[place]
            rest = rest[len(words[place]) :]
            place += 1
    assert place == len(words)
    return spans


@given(st.lists(st.integers(1, 3), max_size=40), st.floats(0.01, 0.99), st.integers(0, 10**6))
def test_the_share_of_hidden_words_is_exact_and_the_others_keep_their_order(
    sizes: list[int], rate: float, seed: int
) -> None:
    words = words_of(sizes)
    shown = infill(words, rate, poisson_limits(3.5), Random(seed).random)
    exact = rate * len(words)
    assert sum(hidden_spans(words, shown)) == math.ceil(exact - 1e-9)
    assert len(shown) <= sum(sizes)


def test_a_sentence_of_twenty_words_hides_seven() -> None:
    words = words_of([1] * 20)
    for seed in range(200):
        assert sum(hidden_spans(words, infill(words, 0.35, poisson_limits(3.5), Random(seed).random))) == 7


def test_lengths_of_spans_have_the_poisson_distribution() -> None:
    drawn = span_lengths(400_000, poisson_limits(3.5), Random(1).random)[:-1]  # the last one is cut
    assert len(drawn) == pytest.approx(400_000 / 3.5, rel=0.01)
    for length in range(12):
        expected = math.exp(-3.5) * 3.5**length / math.factorial(length)
        deviation = 5 * math.sqrt(expected * (1 - expected) / len(drawn))
        assert drawn.count(length) / len(drawn) == pytest.approx(expected, abs=deviation)


def test_every_place_of_a_span_is_equally_probable() -> None:
    words = words_of([1] * 4)
    draws = Random(1)
    always_one = [0.0, 1.0]  # each span has one word
    counts = Counter(
        tuple(place for place, token in enumerate(infill(words, 0.5, always_one, draws.random)) if token == UNK)
        for _ in range(12_000)
    )
    assert len(counts) == 6  # two of four words
    deviation = 5 * math.sqrt(12_000 * (1 / 6) * (5 / 6))
    assert all(count == pytest.approx(2_000, abs=deviation) for count in counts.values())


def noise(**changes: object) -> Infilling:
    begins = np.arange(VOCAB) < PIECES
    settings: dict[str, object] = {
        "settings": Denoising(),
        "seed": 1,
        "limits": [WordLimits(begins, np.zeros(VOCAB, dtype=bool)), None],
        "prefixes": [(TAG,), (OTHER_TAG, TAG)],
        "language_N": np.array([0, 1, 0, 1], dtype=np.int16),
        "tag_ids": frozenset({TAG, OTHER_TAG}),
    }
    return Infilling(**{**settings, **changes})  # type: ignore[arg-type]


def joined(sentences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([token for each in sentences for token in each]), np.array([len(each) for each in sentences])


def sampled(
    made: Infilling, sentences: Sequence[Sequence[int]], places: Sequence[int], side: int, epoch: int = 1
) -> list[list[int]]:
    tokens, sizes = made.sample(*joined(sentences), np.array(places), side, epoch=epoch)
    return [each.tolist() for each in np.split(tokens, np.cumsum(sizes)[:-1])]


SENTENCES = [[TAG, *range(10, 25), EOS], [*range(10, 25), EOS], [EOS], [OTHER_TAG, TAG, 11, EOS]]


def test_targets_are_the_text_without_its_tags() -> None:
    assert sampled(noise(), SENTENCES, range(4), 1) == [[*range(10, 25), EOS], [*range(10, 25), EOS], [EOS], [11, EOS]]


def test_sources_begin_with_the_tokens_of_the_language_and_end_in_eos() -> None:
    for epoch in range(1, 50):
        found = sampled(noise(settings=Denoising(mask_rate=0.9)), SENTENCES, range(4), 0, epoch)
        for source, prefix in zip(found, ([TAG], [OTHER_TAG, TAG], [TAG], [OTHER_TAG, TAG]), strict=True):
            assert source[: len(prefix)] == prefix
            assert source[-1] == EOS
            assert not {TAG, OTHER_TAG, EOS}.intersection(source[len(prefix) : -1])
        assert found[2] == [TAG, EOS]
        assert found[3] == [OTHER_TAG, TAG, UNK, EOS]


def test_words_are_hidden_whole_where_the_tokens_show_them() -> None:
    text = [10, 40, 41, 11, 42, 12, 13, 43, 44, 45, 14, EOS]
    words = [(10, 40, 41), (11, 42), (12,), (13, 43, 44, 45), (14,)]
    tokens_alone = 0
    for epoch in range(1, 60):
        by_words, by_tokens = sampled(noise(), [text, text], [0, 1], 0, epoch)
        assert sum(hidden_spans(words, by_words[1:-1])) == 2
        tokens = [(token,) for token in text[:-1]]
        assert sum(hidden_spans(tokens, by_tokens[2:-1])) == 4
        tokens_alone += any(by_tokens[place] == UNK and by_tokens[place + 1] >= PIECES for place in range(2, 8))
    assert tokens_alone


def test_draws_depend_on_seed_epoch_and_place_alone() -> None:
    text = [*range(10, 29), EOS]
    together = sampled(noise(), [text] * 4, [0, 6, 2, 11], 0, epoch=3)
    alone = [sampled(noise(), [text], [place], 0, epoch=3)[0] for place in (0, 6, 2, 11)]
    assert together == alone
    assert together[0] != together[2]  # other places
    assert sampled(noise(), [text], [0], 0, epoch=4)[0] != together[0]
    assert sampled(noise(seed=2), [text], [0], 0, epoch=3)[0] != together[0]
