"""The statistics of the scoreboard, compared with sacreBLEU, with enumeration and with known distributions."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from science import metrics
from science.bootstrap import Interval, System, contrast_interval
from science.claims import CLAIMS, Claim, Measure, load_claims
from science.corpora import WRONG, add_wrong_pairs
from science.measurements import Term

from kdmt.toy.grammar import render_source, target_distribution
from kdmt.toy.meanings import sample_meaning, sample_translation


def _sample(count: int, seed: int = 1) -> tuple[list[str], list[str], list[str]]:
    """Return sources, and two translations of each drawn from the language."""
    rng = random.Random(seed)
    meanings = [sample_meaning(rng) for _ in range(count)]
    sources = [render_source(meaning) for meaning in meanings]
    first, second = ([sample_translation(rng, meaning) for meaning in meanings] for _ in range(2))
    return sources, first, second


def test_bleu_from_sums_equals_sacrebleu() -> None:
    _, outputs, references = _sample(50)
    sums = metrics.bleu_statistics(outputs, references, "13a").sum(axis=0)
    assert metrics.bleu_score(sums) == pytest.approx(BLEU().corpus_score(outputs, [references]).score, abs=1e-9)


def test_bleu_from_sums_is_smoothed_as_in_sacrebleu() -> None:
    outputs, references = ["a b c d e", "x y z u v"], ["a b q r s", "x y w w w"]  # no matching 3-gram
    sums = metrics.bleu_statistics(outputs, references, "none").sum(axis=0)
    expected = BLEU(tokenize="none").corpus_score(outputs, [references]).score
    assert 0 < metrics.bleu_score(sums) == pytest.approx(expected, abs=1e-9)


def test_bleu_of_no_match_is_zero() -> None:
    sums = metrics.bleu_statistics(["a b c d"], ["e f g h"], "none").sum(axis=0)
    assert metrics.bleu_score(sums) == 0.0


def test_expected_bleu_is_the_mean_of_the_statistics_over_all_translations() -> None:
    sources, outputs, _ = _sample(12, seed=3)
    found = metrics.expected_bleu_statistics(sources, outputs)
    for row, source, output in zip(found, sources, outputs, strict=True):
        by_hand = sum(
            probability * metrics.bleu_statistics([output], [translation], "13a")[0]
            for translation, probability in target_distribution(source).items()
        )
        np.testing.assert_allclose(row, by_hand, atol=1e-9)


def test_valid_and_mixed_are_exclusive() -> None:
    source = "Peter helps my brothers."
    valid = translations_of(source)[0]
    outputs = [valid, " ".join(reversed(valid.split())), "Peter xyz.", ""]
    assert metrics.valid_statistics([source] * 4, outputs)[:, 0].tolist() == [1, 0, 0, 0]
    assert metrics.mixed_statistics([source] * 4, outputs)[:, 0].tolist() == [0, 1, 0, 0]


def translations_of(source: str) -> list[str]:
    return list(target_distribution(source))


def test_interval_of_a_single_seed_is_that_of_the_sentences() -> None:
    """The mean of n Bernoulli values has the standard error sqrt(p (1 - p) / n)."""
    hits = np.repeat([1.0, 0.0], [300, 700])
    system = System(np.stack([np.stack([hits, np.ones(1000)], axis=1)]), metrics.share_score)
    found = contrast_interval({"a": system}, {"a": 1.0})
    assert found.estimate == pytest.approx(30.0)
    half = 1.96 * 100 * (0.3 * 0.7 / 1000) ** 0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.08)


def test_interval_of_seeds_alone_is_that_of_the_drawn_mean() -> None:
    """The mean of n draws from n values has the population's standard deviation over sqrt(n)."""
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    system = System(values[:, None, None], metrics.value_score)
    found = contrast_interval({"a": system}, {"a": 1.0}, replicates=20_000)
    assert found.estimate == pytest.approx(3.0)
    assert found.high - found.low == pytest.approx(2 * 1.96 * (values.var() / 5) ** 0.5, rel=0.06)


def test_systems_that_differ_in_no_sentence_have_no_interval() -> None:
    """Sentences are drawn together: the difference of a system and its copy is exactly 0 in every replicate."""
    rng = np.random.default_rng(0)
    statistics = np.stack([rng.random(200), np.ones(200)], axis=1)[None]
    systems = {name: System(statistics, metrics.share_score) for name in "ab"}
    found = contrast_interval(systems, {"a": 1.0, "b": -1.0})
    assert (found.estimate, found.low, found.high) == (0.0, 0.0, 0.0)


def test_interval_covers_the_true_value_as_often_as_it_promises() -> None:
    """Seeds have an effect of their own, and sentences too; intervals of 95% cover in 85 of 100 runs or more."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        difficulty = rng.normal(size=(1, 100))
        seeds = rng.normal(scale=0.3, size=(20, 1))
        values = difficulty + seeds + rng.normal(size=(20, 100))
        system = System(np.stack([values, np.ones_like(values)], axis=2), lambda sums: sums[..., 0] / sums[..., 1])
        found = contrast_interval({"a": system}, {"a": 1.0}, replicates=300)
        covered += found.low <= 0.0 <= found.high
    assert 85 <= covered <= 100


def test_contrast_refuses_unknown_systems_and_other_test_sets() -> None:
    systems = {name: System(np.ones((1, size, 2)), metrics.share_score) for name, size in (("a", 3), ("b", 4))}
    with pytest.raises(ValueError, match="no such system: c"):
        contrast_interval(systems, {"c": 1.0})
    with pytest.raises(ValueError, match=r"different numbers of sentences: \[3, 4\]"):
        contrast_interval(systems, {"a": 1.0, "b": -1.0})


@pytest.mark.parametrize(
    ("expect", "size", "interval", "verdict"),
    [
        ("above", 1.0, (2.0, 1.5, 2.5), "holds"),
        ("above", 1.0, (0.5, 0.1, 0.9), "right sign, smaller than expected"),
        ("above", 1.0, (2.0, -0.1, 4.0), "missed: no difference shown"),
        ("above", 1.0, (-2.0, -3.0, -1.0), "missed: opposite sign"),
        ("below", -1.0, (-2.0, -3.0, -1.0), "holds"),
        ("below", 0.0, (1.0, 0.5, 1.5), "missed: opposite sign"),
        ("within", 0.5, (0.4, -1.0, 2.0), "holds"),
        ("within", 0.5, (0.6, 0.5, 0.7), "missed"),
    ],
)
def test_verdict(expect: str, size: float, interval: tuple[float, float, float], verdict: str) -> None:
    measure = Measure(what="", metric="bleu", contrast={"x:a": 1.0}, expect=expect, size=size)  # type: ignore[arg-type]
    assert measure.verdict(Interval(*interval)) == verdict


def test_every_claim_is_complete_and_its_pipelines_have_its_systems() -> None:
    from kdmt.config import load_pipeline

    repository = CLAIMS.parents[2]
    for claim in load_claims().values():
        for measure in claim.measures.values():
            for text in measure.contrast:
                term = Term.parse(text)
                experiment = claim.experiments[term.experiment]
                overrides = [f"{key}={json.dumps(value)}" for key, value in experiment.set.items()]
                pipeline = load_pipeline(repository / experiment.pipeline, overrides)
                known = {"teacher", "distill", "text.raw", "text.distilled", *pipeline.students}
                assert term.system in known, f"{claim.id}: {text}"
                assert term.test_set in pipeline.prepare.test, f"{claim.id}: {text}"


def test_a_claim_refuses_a_measure_of_no_experiment() -> None:
    fields = dict.fromkeys(("id", "title", "claim", "source", "set_up"), "x")
    measure = {"what": "", "metric": "bleu", "contrast": {"other:a": 1}, "expect": "above", "size": 0}
    with pytest.raises(ValueError, match="'other:a' is of none of toy"):
        Claim.model_validate({**fields, "experiments": {"toy": {"pipeline": "p"}}, "measures": {"m": measure}})


def test_wrong_pairs_are_repeated_and_have_the_target_of_another_source() -> None:
    pairs = [(f"s{index}", f"t{index}") for index in range(2000)]
    train, test_sets = add_wrong_pairs(pairs, random.Random(1))
    for times, count in WRONG.items():
        wrong = test_sets[f"wrong{times}"]
        assert len(wrong) == count
        for source, target in wrong:
            assert source[1:] != target[1:]
            assert train.count((source, target)) == times
            assert (source, f"t{source[1:]}") not in train
    assert len(train) == len(pairs) + sum((times - 1) * count for times, count in WRONG.items())


def test_corpora_hold_what_they_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from science import corpora

    monkeypatch.setattr(corpora, "COUNTS", {"test": 20, "valid": 10, "train": 700})
    monkeypatch.setattr(corpora, "NUM_SMALL", 50)
    corpora.write_corpora(tmp_path)
    lines = {path.relative_to(tmp_path).as_posix(): path.read_text().splitlines() for path in tmp_path.rglob("*.*")}
    assert lines["small/train.en"] + lines["small/more.en"] == lines["toy/train.en"]
    assert len(lines["noisy/wrong20.de"]) == WRONG[20]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    corpora.write_corpora(tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
