"""Diagnostics compared with the formulas on small counts, an EM written with dictionaries, and toy languages."""

import math
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmt.corpus.alignment import DIAGONAL_TENSION, EMPTY_WORD_PROBABILITY
from kdmt.score.diagnostics import (
    complexity,
    conditional_entropy,
    count_links,
    diagnose,
    divergence,
    faithfulness,
    identical_fraction,
    length_ratio,
    type_count,
)

WORDS = [f"x{i}" for i in range(20)]


def random_sources(count, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 8))) for _ in range(count)]


def translate(lines, translations, seed=1):
    """Translate word for word; `translations` gives the equally likely translations of each word."""
    rng = random.Random(seed)
    return [" ".join(rng.choice(translations(word)) for word in line.split()) for line in lines]


# -- the formulas


def test_entropy_by_hand():
    links = {"a": Counter(x=3, y=1), "b": Counter(z=5)}
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / 2
    assert conditional_entropy(links) == pytest.approx(expected)


def test_divergence_by_hand():
    real = {"a": Counter(x=3, y=1), "b": Counter(z=1)}
    distilled = {"a": Counter(x=2), "c": Counter(z=9)}
    # a: {x, y} on either side, 0.1 added; b: {z} alone, so both sides are certain; c does not occur in `real`.
    real_x, real_y, other_x, other_y = 3.1 / 4.2, 1.1 / 4.2, 2.1 / 2.2, 0.1 / 2.2
    expected = (real_x * math.log(real_x / other_x) + real_y * math.log(real_y / other_y)) / 2
    assert divergence(real, distilled) == pytest.approx(expected)


counts = st.dictionaries(
    st.sampled_from("abc"),
    st.dictionaries(st.sampled_from("xyz"), st.integers(1, 9), min_size=1).map(Counter),
    min_size=1,
)


@given(counts, counts)
def test_divergence_is_positive_and_zero_for_the_same_distribution(real, other):
    assert divergence(real, other) >= -1e-12
    assert divergence(real, real) == 0
    assert 0 <= conditional_entropy(real) <= math.log(3) + 1e-12


def test_less_smoothing_penalises_a_lost_translation_more():
    real, distilled = {"a": Counter(x=5, y=5)}, {"a": Counter(x=10)}
    assert divergence(real, distilled, smoothing=0.01) > divergence(real, distilled, smoothing=1.0) > 0


# -- the aligner


def em_with_dictionaries(src_lines, tgt_lines, iterations):
    """Return the alignment of Model 1 with the diagonal prior, computed one link at a time."""

    def prior(i, m, j, n):  # i counts from 1, 0 is the empty word
        if i == 0:
            return EMPTY_WORD_PROBABILITY
        weights = [math.exp(-DIAGONAL_TENSION * abs(k / m - j / n)) for k in range(1, m + 1)]
        return (1 - EMPTY_WORD_PROBABILITY) * weights[i - 1] / sum(weights)

    pairs = [(["", *s.split()], t.split()) for s, t in zip(src_lines, tgt_lines, strict=True)]
    table = defaultdict(lambda: 1.0)

    def joint(src, tgt, j):
        return [table[x, tgt[j]] * prior(i, len(src) - 1, j + 1, len(tgt)) for i, x in enumerate(src)]

    for _ in range(iterations):
        expected, totals = Counter(), Counter()
        for src, tgt in pairs:
            for j, y in enumerate(tgt):
                scores = joint(src, tgt, j)
                for x, score in zip(src, scores, strict=True):
                    expected[x, y] += score / sum(scores)
                    totals[x] += score / sum(scores)
        table.update({(x, y): count / totals[x] for (x, y), count in expected.items()})

    links = defaultdict(Counter)
    for src, tgt in pairs:
        for j, y in enumerate(tgt):
            scores = joint(src, tgt, j)
            best = max(range(len(src)), key=lambda i: scores[i])
            if best != 0:
                links[src[best]][y] += 1
    return dict(links)


def test_links_equal_those_of_an_em_with_dictionaries():
    rng = random.Random(4)
    src_lines = [*random_sources(40, seed=3), "", "x1 x2", "x3"]
    # with noise: words are dropped, added and moved, so that the alignment is not obvious
    tgt_lines = []
    for line in src_lines:
        kept = ["y" + word[1:] for word in line.split() if rng.random() < 0.8]
        tgt_lines.append(" ".join([*rng.sample(kept, len(kept)), "."]))
    tgt_lines[-1] = ""
    assert count_links(src_lines, tgt_lines, iterations=4) == em_with_dictionaries(src_lines, tgt_lines, 4)


def test_a_dictionary_in_another_word_order_is_recovered():
    src_lines = random_sources(300)
    tgt_lines = [" ".join("y" + word[1:] for word in reversed(line.split())) for line in src_lines]
    links = count_links(src_lines, tgt_lines)
    most_frequent = {x: targets.most_common(1)[0][0] for x, targets in links.items()}
    assert most_frequent == {f"x{i}": f"y{i}" for i in range(20)}


def test_alignment_uses_a_limited_sample_spread_over_the_corpus():
    src_lines = ["early"] * 50 + ["late"] * 50
    links = count_links(src_lines, [line.upper() for line in src_lines], max_sentences=10)
    assert links == {"early": Counter(EARLY=5), "late": Counter(LATE=5)}


def test_long_training_stays_finite():
    src_lines = random_sources(50)
    tgt_lines = translate(src_lines, lambda word: ["y" + word[1:]])
    assert conditional_entropy(count_links(src_lines, tgt_lines, iterations=500)) == 0


# -- toy languages


def test_a_deterministic_dictionary_has_no_entropy():
    src_lines = random_sources(300)
    assert complexity(src_lines, translate(src_lines, lambda word: ["y" + word[1:]])) == 0


def test_two_equally_likely_synonyms_have_entropy_ln_2():
    src_lines = random_sources(2000)
    tgt_lines = translate(src_lines, lambda word: ["y" + word[1:], "z" + word[1:]])
    assert complexity(src_lines, tgt_lines) == pytest.approx(math.log(2), abs=0.01)


def test_distillation_that_picks_one_synonym_is_simpler_and_unfaithful():
    src_lines = random_sources(1000)
    real = translate(src_lines, lambda word: ["y" + word[1:], "z" + word[1:]])
    distilled = translate(src_lines, lambda word: ["y" + word[1:]])
    found = diagnose(src_lines, real, distilled)
    assert found.complexity_distilled == 0 == complexity(src_lines, distilled)
    assert found.complexity_real == complexity(src_lines, real) > 0.5
    assert found.faithfulness == faithfulness(src_lines, real, distilled) > 0.5
    assert faithfulness(src_lines, real, real) == 0
    assert (found.types_real, found.types_distilled, found.length_ratio) == (40, 20, 1.0)
    # A line of n words keeps all of them with probability 2^-n, n uniform over 3..8.
    assert found.identical_fraction == pytest.approx(sum(2**-n for n in range(3, 9)) / 6, abs=0.03)


# -- plain counts


def test_plain_counts():
    lines, reference_lines = ["a b c", "a  b", "d"], ["a b c", "a b", "d e f"]
    assert length_ratio(lines, reference_lines) == 6 / 8
    assert type_count(lines) == 4
    assert identical_fraction(lines, reference_lines) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: complexity(["a"], ["a", "b"]), "1 and 2 lines"),
        (lambda: faithfulness(["a"], ["a"], []), "1 and 0 lines"),
        (lambda: complexity([], []), "empty"),
        (lambda: complexity(["", " "], ["a", "b"]), "no word pair"),
        (lambda: complexity(["a", "b"], ["", ""]), "no word pair"),
        (lambda: complexity(["a", ""], ["", "b"]), "no word pair"),
        (lambda: length_ratio(["a"], [""]), "no word"),
        (lambda: identical_fraction(["a"], []), "1 and 0 lines"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
