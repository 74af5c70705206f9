"""The statistics of the scoreboard, compared with sacreBLEU, with enumeration and with known distributions."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import bench_science
import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from science import measurements, metrics
from science.bootstrap import Interval, System, contrast_interval, t_quantile
from science.claims import CLAIMS, Claim, Experiment, Measure, load_claims
from science.corpora import WRONG, add_wrong_pairs
from science.measurements import METRICS, Term

from kdmt.distill.similarity import chrf_matrix
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


def test_chrf_of_sentences_is_that_of_sacrebleu() -> None:
    sources, outputs, references = _sample(12, seed=4)
    chrf = CHRF()
    found = metrics.chrf_statistics(outputs, references)
    expected = [chrf.sentence_score(*pair).score for pair in zip(outputs, [[each] for each in references], strict=True)]
    np.testing.assert_allclose(100 * found[:, 0], expected, atol=1e-9)
    assert metrics.share_score(found.sum(axis=0)) == pytest.approx(np.mean(expected))
    for row, source, output in zip(metrics.expected_chrf_statistics(sources, outputs), sources, outputs, strict=True):
        by_hand = sum(
            probability * chrf.sentence_score(output, [translation]).score
            for translation, probability in target_distribution(source).items()
        )
        assert row.tolist() == pytest.approx([by_hand / 100, 1])


@pytest.mark.slow
def test_the_utility_of_the_most_probable_translation_is_close_to_the_highest() -> None:
    """The set-up of claim S8 has this bound for the gain of minimum Bayes risk in its utility."""
    sources, _, _ = _sample(500, seed=5)
    probable, best = [], []
    for source in sources:
        translations = target_distribution(source)
        texts, shares = list(translations), np.array(list(translations.values()))
        probable.append(max(translations, key=translations.__getitem__))
        best.append(texts[int(np.argmax(chrf_matrix(texts, texts) @ shares))])
    scores = [
        metrics.share_score(metrics.expected_chrf_statistics(sources, texts).sum(axis=0)) for texts in (probable, best)
    ]
    assert 0.1 <= scores[1] - scores[0] <= 0.5


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


def test_quantiles_are_those_of_the_published_tables() -> None:
    published = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 20: 2.086, 120: 1.980, math.inf: 1.960}
    for df, quantile in published.items():
        assert t_quantile(0.975, df) == pytest.approx(quantile, abs=6e-4)
    assert t_quantile(0.95, 7) == pytest.approx(1.895, abs=6e-4)
    quantile = t_quantile(0.975, 2.5)  # not in tables: the integral of the density
    t_N = np.linspace(0.0, quantile, 200_001)
    density = math.gamma(1.75) / math.sqrt(2.5 * math.pi) / math.gamma(1.25) * (1 + t_N**2 / 2.5) ** -1.75
    assert np.trapezoid(density, t_N) == pytest.approx(0.475, abs=1e-6)


def test_interval_of_seeds_alone_is_that_of_students_t() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    system = System(values[:, None, None], metrics.value_score)
    found = contrast_interval({"a": system}, {"a": 1.0})
    assert found.estimate == pytest.approx(3.0)
    assert found.high - found.low == pytest.approx(2 * 2.776 * (values.var(ddof=1) / 5) ** 0.5, rel=1e-3)


def test_separately_trained_systems_have_the_interval_of_welch() -> None:
    first, second = np.array([1.0, 2.0, 6.0]), np.array([2.0, 2.5, 3.0, 4.0, 3.5])
    systems = {
        name: System(values[:, None, None], metrics.value_score) for name, values in (("a", first), ("b", second))
    }
    found = contrast_interval(systems, {"a": 1.0, "b": -1.0})
    parts = np.array([first.var(ddof=1) / 3, second.var(ddof=1) / 5])
    df = parts.sum() ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 4)
    assert 2 < df < 3
    half = (found.high - found.low) / 2
    assert 3.182 < half / parts.sum() ** 0.5 < 4.303
    assert half == pytest.approx(t_quantile(0.975, df) * parts.sum() ** 0.5)


def test_ways_of_decoding_the_same_models_are_compared_seed_by_seed() -> None:
    """Every model gains 0.8 by beam search, whatever its own quality is."""
    greedy = np.array([30.0, 34.0, 32.0])
    scores = {"toy:raw/beam1": greedy, "toy:raw/beam5": greedy + 0.8, "toy:distilled/beam5": greedy + 0.8}
    systems = {name: System(values[:, None, None], metrics.value_score) for name, values in scores.items()}
    found = contrast_interval(systems, {"toy:raw/beam5": 1.0, "toy:raw/beam1": -1.0})
    assert (found.estimate, found.low, found.high) == pytest.approx((0.8, 0.8, 0.8))
    found = contrast_interval(systems, {"toy:distilled/beam5": 1.0, "toy:raw/beam1": -1.0})
    assert found.low < 0 < found.high
    systems["toy:raw/beam4"] = System(np.ones((2, 1, 1)), metrics.value_score)
    with pytest.raises(ValueError, match="toy:raw: different numbers of seeds"):
        contrast_interval(systems, {"toy:raw/beam5": 1.0, "toy:raw/beam4": -1.0})


def test_values_that_are_no_sample_have_no_interval() -> None:
    system = System(np.full((1, 1, 1), 3.5), metrics.value_score, is_text=True)
    found = contrast_interval({"a": system}, {"a": 1.0})
    assert (found.estimate, found.bounds) == (3.5, None)
    measure = Measure(what="", metric="faithfulness", contrast={"x:a": 1.0}, expect="above", size=3.0)
    assert measure.verdict(found) == "holds"


def test_texts_with_other_sentences_are_drawn_independently() -> None:
    """The variance of the difference of two shares of other texts is the sum of both."""
    hits = {"a": np.repeat([1.0, 0.0], [300, 700]), "b": np.repeat([1.0, 0.0], [400, 400])}
    systems = {
        name: System(np.stack([each, np.ones(len(each))], axis=1)[None], metrics.share_score, is_text=True)
        for name, each in hits.items()
    }
    found = contrast_interval(systems, {"a": 1.0, "b": -1.0})
    half = 1.96 * 100 * (0.3 * 0.7 / 1000 + 0.5 * 0.5 / 800) ** 0.5
    assert (found.estimate, found.high - found.low) == pytest.approx((-20.0, 2 * half), rel=0.08)


def test_systems_that_differ_in_no_sentence_have_no_interval() -> None:
    """Sentences are drawn together: the difference of a system and its copy is exactly 0 in every replicate."""
    rng = np.random.default_rng(0)
    statistics = np.stack([rng.random(200), np.ones(200)], axis=1)[None]
    systems = {name: System(statistics, metrics.share_score) for name in "ab"}
    found = contrast_interval(systems, {"a": 1.0, "b": -1.0})
    assert (found.estimate, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 20])
def test_interval_covers_the_true_value_as_often_as_it_promises(num_seeds: int) -> None:
    """Seeds have an effect of their own, and sentences too; of 400 intervals of 95%, at least 366 cover (3 sigma)."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        difficulty = rng.normal(size=(1, 50))
        systems = {}
        for name in "ab":
            values = difficulty + rng.normal(scale=0.3, size=(num_seeds, 1)) + rng.normal(size=(num_seeds, 50))
            statistics = np.stack([values, np.ones_like(values)], axis=2)
            systems[name] = System(statistics, lambda sums: sums[..., 0] / sums[..., 1])
        found = contrast_interval(systems, {"a": 1.0, "b": -1.0}, replicates=100)
        covered += found.low <= 0.0 <= found.high
    assert covered >= 366


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
        ("within", 0.5, (0.1, -0.3, 0.5), "holds"),
        ("within", 0.5, (0.4, -1.0, 2.0), "missed: not shown"),
        ("within", 0.5, (0.7, 0.6, 0.8), "missed"),
    ],
)
def test_verdict(expect: str, size: float, interval: tuple[float, float, float], verdict: str) -> None:
    measure = Measure(what="", metric="bleu", contrast={"x:a": 1.0}, expect=expect, size=size)  # type: ignore[arg-type]
    estimate, *bounds = interval
    assert measure.verdict(Interval(estimate, tuple(bounds))) == verdict  # type: ignore[arg-type]


def test_every_claim_is_complete_and_its_pipelines_have_its_systems() -> None:
    from kdmt.config import load_pipeline

    repository = CLAIMS.parents[2]
    for claim in load_claims().values():
        pipelines = {}
        for name, experiment in claim.experiments.items():
            overrides = [f"{key}={json.dumps(value)}" for key, value in experiment.set.items()]
            pipelines[name] = load_pipeline(repository / experiment.pipeline, overrides)
        for measure in claim.measures.values():
            for text in measure.contrast:
                term = Term.parse(text)
                pipeline = pipelines[term.experiment]
                sets = {f"text.{name}" for student in pipeline.students.values() for name in student.data_names}
                known = {"teacher", "distill", "text.raw", "text.distilled", *sets, *pipeline.students}
                assert term.system in known, f"{claim.id}: {text}"
                assert term.test_set in pipeline.tests_by_split, f"{claim.id}: {text}"


def test_experiments_that_copy_stages_have_the_settings_of_the_run_that_they_copy_from() -> None:
    """Otherwise the copied stages would be made again, with another teacher for each side of a contrast."""
    from kdmt.config import load_pipeline

    repository = CLAIMS.parents[2]
    experiments = [each for claim in load_claims().values() for each in claim.experiments.values()]
    copying = [each for each in experiments if each.copy_from is not None]
    assert copying
    for experiment in copying:
        overrides = [f"{key}={json.dumps(value)}" for key, value in experiment.set.items()]
        copy = load_pipeline(repository / experiment.pipeline, overrides)
        original = load_pipeline(repository / "pipelines" / f"{experiment.copy_from}.yaml")
        assert copy.name != original.name
        for section in ("source_lang", "target_lang", "prepare", "teacher"):
            assert getattr(copy, section) == getattr(original, section)
        if "distill" in experiment.copy_folders:
            assert copy.distill.decode == original.distill.decode
        if "pool" in experiment.copy_folders:
            assert copy.distill.pool == original.distill.pool


def test_an_experiment_refuses_half_of_the_settings_of_a_copy() -> None:
    with pytest.raises(ValueError, match="'copy_from' and 'copy_folders' need each other"):
        Experiment(pipeline="p", copy_from="run")
    with pytest.raises(ValueError, match="'copy_from' and 'copy_folders' need each other"):
        Experiment(pipeline="p", copy_folders=["prepare"])


def test_only_complete_stages_that_the_run_does_not_have_are_copied(tmp_path: Path) -> None:
    for name, text in (("prepare", "of the other run"), ("teacher", "of the other run"), ("pool", "unfinished")):
        (tmp_path / "other" / name).mkdir(parents=True)
        (tmp_path / "other" / name / "file").write_text(text)
        (tmp_path / "other" / name / ("plan.json" if name == "pool" else "manifest.json")).touch()
    (tmp_path / "run" / "teacher").mkdir(parents=True)
    (tmp_path / "run" / "teacher" / "file").write_text("its own")
    interrupted = tmp_path / "run" / "prepare.copying"
    interrupted.mkdir()
    (interrupted / "half").touch()
    names = ["prepare", "teacher", "pool", "distill"]
    bench_science.copy_stages(Experiment(pipeline="p", copy_from="other", copy_folders=names), tmp_path / "run")
    assert {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("file")} == {
        "prepare/file",
        "teacher/file",
    }
    assert (tmp_path / "run" / "prepare" / "file").read_text() == "of the other run"
    assert (tmp_path / "run" / "teacher" / "file").read_text() == "its own"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["prepare", "teacher"]
    assert not (tmp_path / "run" / "prepare" / "half").exists()


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


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Write the texts of a run on the toy language: two sources with their targets by beam search and by a choice."""
    source = "Peter helps my brothers."
    right = translations_of(source)[0]
    texts = {
        "prepare/train": ([source, source], [right, right]),
        "distill/distilled": ([source, source], [right, "Falsch."]),
        "mbr/distilled": ([source, source, source], [right, right, right]),
    }
    for name, sides in texts.items():
        for language, lines in zip(("en", "de"), sides, strict=True):
            path = tmp_path / f"{name}.{language}"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (tmp_path / "prepare" / "config.json").write_text(json.dumps({"source_lang": "en", "target_lang": "de"}))
    return tmp_path


@pytest.mark.parametrize(("text", "shares"), [("raw", [1, 1]), ("distilled", [1, 0]), ("mbr", [1, 1, 1])])
def test_targets_of_training_sets_are_measured_by_line(run: Path, text: str, shares: list[int]) -> None:
    valid = measurements.measure(Term.parse(f"x:text.{text}"), "valid", [run])
    assert valid.statistics_SNK.tolist() == [[[share, 1] for share in shares]]
    utility = measurements.measure(Term.parse(f"x:text.{text}"), "expected_chrf", [run]).statistics_SNK[0, :, 0]
    assert [int(value > 0.5) for value in utility] == shares


def test_a_direction_of_several_is_measured_by_its_own_files(tmp_path: Path) -> None:
    for folder in ("prepare", "score"):
        (tmp_path / folder).mkdir()
    (tmp_path / "prepare" / "config.json").write_text(json.dumps({"languages": ["en", "de", "fr"]}))
    sentence, row = "Ein Hund läuft über Gras.", {"system": "small", "search": "beam", "beam": 5, "iterations": None}
    rows = [
        row | {"seed": seed, "test_set": f"test.{direction}", "off_target": share}
        for direction, share in (("en-de", 12.5), ("fr-de", 50.0))
        for seed in (1, 2)
    ]
    (tmp_path / "scores.json").write_text(json.dumps(rows))
    for direction, output in (("en-de", sentence), ("fr-de", "Un chien")):
        (tmp_path / f"prepare/test.{direction}.raw.tgt").write_text(f"{sentence}\n", encoding="utf-8")
        for seed in (1, 2):
            (tmp_path / f"score/small.seed_{seed}.test.{direction}.beam5.tgt").write_text(
                f"{output}\n", encoding="utf-8"
            )
    for direction, bleu, share in (("en-de", 100, 12.5), ("fr-de", 0, 50)):
        term = Term.parse(f"x:small@test.{direction}")
        assert measurements.measure(term, "bleu", [tmp_path]).scores.tolist() == pytest.approx([bleu] * 2, abs=0.1)
        assert measurements.measure(term, "off_target", [tmp_path]).scores.tolist() == [share] * 2
    with pytest.raises(FileNotFoundError, match=r"no row of small, beam5, test\.de-fr"):
        measurements.measure(Term.parse("x:small@test.de-fr"), "bleu", [tmp_path])


def test_translations_of_two_dialects_are_right_if_all_words_are_of_one(tmp_path: Path) -> None:
    config = {"name": "modes-two-truncated", "source_lang": "qaa", "target_lang": "qab"}
    files = {
        "prepare/config.json": [json.dumps(config)],
        "prepare/test.raw.qaa": ["w00 w01"] * 4,
        "score/dag_raw.seed_2.test.iter1.qab": ["a00 a01", "a00 b01", "b00 b01", "b00"],
        "scores.json": [json.dumps([{"system": "dag_raw", "seed": 2, "test_set": "test", "iterations": 1, "beam": 1}])],
    }
    for name, lines in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    found = measurements.measure(Term.parse("x:dag_raw/iter1"), "of_one_dialect", [tmp_path])
    assert found.statistics_SNK.tolist() == [[[1, 1], [0, 1], [1, 1], [0, 1]]]


def test_lowercased_metrics_ignore_case_alone(run: Path) -> None:
    (run / "score").mkdir()
    (run / "scores.json").write_text(
        json.dumps(
            [{"system": "small", "seed": 1, "test_set": "test", "search": "beam", "beam": 1, "iterations": None}]
        )
    )
    (run / "prepare" / "test.raw.de").write_text("Ein Hund läuft über Gras.\n", encoding="utf-8")
    for output, same in (("ein hund läuft über gras.", True), ("ein hund lauft über gras.", False)):
        (run / "score" / "small.seed_1.test.beam1.de").write_text(f"{output}\n", encoding="utf-8")
        for metric in ("bleu_lowercased", "chrf_lowercased"):
            (score,) = measurements.measure(Term.parse("x:small/beam1"), metric, [run]).scores
            assert (float(score) > 99.9) is same
            assert "case:lc" in METRICS[metric].signature
