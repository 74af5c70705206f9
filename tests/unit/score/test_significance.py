"""Significance tests compared with sacreBLEU's command line, a bootstrap written in the test, and formulas for mean and
standard deviation.
"""

import json
import os
import random
import re
import statistics
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest

from kdmt.score.metrics import bleu
from kdmt.score.significance import bootstrap_means, mean_and_sd, paired_bootstrap

VOCABULARY = [f"w{i}" for i in range(30)]


def noisy(lines, rate, seed):
    """Return the lines with each word replaced by another with probability `rate`."""
    rng = random.Random(seed)
    return [" ".join(rng.choice(VOCABULARY) if rng.random() < rate else w for w in line.split()) for line in lines]


@pytest.fixture(scope="module")
def corpus():
    rng = random.Random(0)
    references = [" ".join(rng.choices(VOCABULARY, k=rng.randint(5, 12))) for _ in range(80)]
    systems = {
        "worse": noisy(references, 0.5, 1),
        "raw": noisy(references, 0.2, 2),
        "twin": noisy(references, 0.2, 3),
    }
    return systems, references


def run_sacrebleu(folder, *options):
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "raw", "worse", "twin", "--paired-bs", *options]
    environment = {**os.environ, "SACREBLEU_SEED": "7", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=True
    ).stdout


def test_agrees_with_the_command_line(corpus, tmp_path):
    systems, references = corpus
    for name, lines in {**systems, "ref": references}.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = paired_bootstrap(systems, references, baseline="raw", samples=100, seed=7)

    rows = json.loads(run_sacrebleu(tmp_path, "--paired-bs-n", "100", "-m", "bleu", "--format", "json"))
    for row in rows:
        ours = found.estimates["bleu"][row["system"].split()[-1]]
        theirs = [row["BLEU"][key] for key in ("score", "mean", "ci")]
        assert [ours.score, ours.mean, ours.half_width] == pytest.approx(theirs)
        assert ours.p_value == row["BLEU"]["p_value"]

    # For chrF the command line cannot write JSON (its figures are float32), so its table is read.
    table = run_sacrebleu(tmp_path, "--paired-bs-n", "100", "-m", "bleu", "chrf", "--format", "text")
    chrf_p_values = [float(p) for p in re.findall(r"p = ([\d.]+)", table)[1::2]]
    ours = [found.estimates["chrf"][name].p_value for name in ("worse", "twin")]
    assert ours == pytest.approx(chrf_p_values, abs=5e-5)
    assert found.signatures["bleu"] in table
    assert found.signatures["chrf"] in table


def test_p_value_equals_that_of_a_bootstrap_in_plain_python(corpus):
    systems, references = corpus
    samples, seed = 60, 11
    found = paired_bootstrap(systems, references, baseline="raw", samples=samples, seed=seed)

    def score(name, draw):
        return bleu([systems[name][i] for i in draw], [references[i] for i in draw]).value

    draws = np.random.default_rng(seed).choice(len(references), size=(samples, len(references)), replace=True)
    for name in ("worse", "twin"):
        differences = np.array([abs(score(name, draw) - score("raw", draw)) for draw in draws])
        observed = abs(bleu(systems[name], references).value - bleu(systems["raw"], references).value)
        hits = int((differences - differences.mean() > observed).sum())
        assert found.estimates["bleu"][name].p_value == pytest.approx((hits + 1) / (samples + 1))


def test_a_clear_difference_is_found(corpus):
    systems, references = corpus
    found = paired_bootstrap(systems, references, baseline="raw", samples=200)
    assert found.estimates["bleu"]["worse"].p_value < 0.01
    assert found.estimates["chrf"]["worse"].p_value < 0.01
    assert found.estimates["bleu"]["worse"].score < found.estimates["bleu"]["raw"].score
    assert next(iter(found.estimates["bleu"])) == "raw"
    assert found.estimates["bleu"]["raw"].p_value is None


def test_identical_texts_have_a_p_value_of_1(corpus):
    systems, references = corpus
    found = paired_bootstrap(
        {"raw": systems["raw"], "same": tuple(systems["raw"])}, references, baseline="raw", samples=50
    )
    assert found.estimates["bleu"]["same"] == replace(
        found.estimates["bleu"]["same"], score=found.estimates["bleu"]["raw"].score, p_value=1.0
    )
    assert found.estimates["chrf"]["same"].p_value == 1.0


REFERENCES = ["the cat sat on the mat today", "a dog barked at the moon last night", "we eat bread and butter at noon"]


@pytest.mark.parametrize(
    ("first", "second", "lowercase"),
    [
        pytest.param(["x y z", "p q", "u v w"], ["a", "b c d", "e"], False, id="nothing right on either side"),
        pytest.param(["", "", ""], ["x", "y", "z"], False, id="nothing at all"),
        pytest.param(
            ["the cat sat on xx mat today", *REFERENCES[1:]],
            ["the cat sat on yy mat today", *REFERENCES[1:]],
            False,
            id="one wrong word for another",
        ),
        pytest.param(REFERENCES, [f"  {line} ".replace(" ", "  ") for line in REFERENCES], False, id="white space"),
        pytest.param(REFERENCES, [line.title() for line in REFERENCES], True, id="case that is not compared"),
    ],
)
def test_texts_that_are_equal_for_the_metric_have_a_p_value_of_1(first, second, lowercase):
    """Check that the p-value is 1 where sacreBLEU's own is the smallest possible one.

    In sacreBLEU none of the draws is above their mean, which is 0.
    """
    systems, metric = {"raw": first, "other": second}, {"BLEU": BLEU(lowercase=lowercase)}
    found = paired_bootstrap(systems, REFERENCES, baseline="raw", samples=50, lowercase=lowercase)
    _, peers = PairedTest(list(systems.items()), metric, [REFERENCES], test_type="bs", n_samples=50)()
    assert peers["BLEU"][1].p_value == pytest.approx(1 / 51)
    assert peers["BLEU"][1].score == found.estimates["bleu"]["other"].score == found.estimates["bleu"]["raw"].score
    assert found.estimates["bleu"]["other"].p_value == 1.0


def test_equal_scores_of_different_texts_have_a_p_value_of_1():
    """Check a mistake in one of two equal sentences: the draws differ, the scores do not."""
    references = ["the cat sat on the mat today"] * 2 + REFERENCES[1:]
    first, second = list(references), list(references)
    first[0] = second[1] = "the cat sat on a mat today"
    found = paired_bootstrap({"raw": first, "other": second}, references, baseline="raw", samples=50)
    assert found.estimates["bleu"]["other"].score == found.estimates["bleu"]["raw"].score < 100
    assert found.estimates["bleu"]["other"].mean != found.estimates["bleu"]["raw"].mean
    assert (found.estimates["bleu"]["other"].p_value, found.estimates["chrf"]["other"].p_value) == (1.0, 1.0)


def test_a_difference_in_chrf_alone_has_a_p_value_for_chrf():
    """Check a wrong word that is nearly right: BLEU's p is 1, chrF's is that of the formula."""
    references = [line for line in REFERENCES for _ in range(4)]
    near = [line.replace("bread", "breat").replace("cat", "caq").replace("dog", "dob") for line in references]
    far = [line.replace("bread", "xyzuv").replace("cat", "xyz").replace("dog", "xyz") for line in references]
    found = paired_bootstrap({"raw": far, "near": near}, references, baseline="raw", samples=50)
    assert found.estimates["bleu"]["near"].p_value == 1.0
    assert found.estimates["chrf"]["near"].p_value == pytest.approx(1 / 51)


def test_the_same_seed_gives_the_same_figures_and_is_in_the_signature(corpus, monkeypatch):
    systems, references = corpus
    monkeypatch.setenv("SACREBLEU_SEED", "none")  # the user's own variable has no effect and is restored
    runs = [paired_bootstrap(systems, references, baseline="raw", samples=50, seed=5) for _ in range(2)]
    assert runs[0] == runs[1]
    assert os.environ["SACREBLEU_SEED"] == "none"
    assert runs[0].seed == 5
    assert "bs:50" in runs[0].signatures["bleu"].split("|")
    assert "seed:5" in runs[0].signatures["chrf"].split("|")
    other = paired_bootstrap(systems, references, baseline="raw", samples=50, seed=6)
    assert other.estimates["bleu"]["twin"].mean != runs[0].estimates["bleu"]["twin"].mean


def test_the_environment_is_restored(corpus, monkeypatch):
    systems, references = corpus
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    paired_bootstrap(systems, references, baseline="raw", samples=2)
    assert "SACREBLEU_SEED" not in os.environ


def test_settings_of_bleu_are_applied(corpus):
    systems, references = corpus
    shouted = {name: [line.upper() for line in lines] for name, lines in systems.items()}
    found = paired_bootstrap(shouted, references, baseline="raw", samples=2, tokenize="none", lowercase=True)
    assert found.estimates["bleu"]["raw"].score == bleu(systems["raw"], references, tokenize="none").value
    assert {"case:lc", "tok:none"} <= set(found.signatures["bleu"].split("|"))


@pytest.mark.parametrize(
    ("systems", "references", "settings", "message"),
    [
        ({"a": ["x"]}, ["x"], {"baseline": "b"}, "baseline 'b'"),
        ({"a": ["x"], "b": ["x", "y"]}, ["x"], {"baseline": "a"}, "b: 2 hypotheses against 1"),
        ({"a": []}, [], {"baseline": "a"}, "no sentence"),
        ({"a": ["x"]}, ["x"], {"baseline": "a", "seed": 0}, "seed"),
        ({"a": ["x"]}, ["x"], {"baseline": "a", "samples": 0}, "samples"),
    ],
)
def test_bad_input_is_refused(systems, references, settings, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(systems, references, **settings)


def test_mean_and_sample_standard_deviation():
    assert mean_and_sd([30.0, 32.0, 34.0]) == (32.0, pytest.approx(2.0))  # sqrt(((-2)² + 0 + 2²) / 2)
    assert mean_and_sd([41.02]) == (41.02, None)
    values = [random.Random(i).gauss(30, 1) for i in range(5)]
    mean, sd = mean_and_sd(values)
    assert (mean, sd) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    with pytest.raises(ValueError, match="no value"):
        mean_and_sd([])
    assert sd == pytest.approx(statistics.stdev(values))


# ------------------------------------------------------------------------------------------------- mean segment scores


def test_the_p_value_of_means_follows_the_formula() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=40)
    other = base + rng.normal(0.1, 0.5, size=40)
    found = bootstrap_means(base, other, samples=200, seed=7)
    draw = np.random.default_rng(7)
    drawn = []
    for _ in range(200):
        own = draw.integers(40, size=40)  # the same segments of both systems
        drawn.append(abs(float(np.mean([other[index] for index in own]) - np.mean([base[index] for index in own]))))
    mean, observed = sum(drawn) / 200, abs(other.mean() - base.mean())
    assert found == (sum(each - mean > observed for each in drawn) + 1) / 201


def test_the_p_value_of_means_is_small_for_a_clear_difference_only() -> None:
    rng = np.random.default_rng(4)
    base = rng.normal(size=300)
    assert bootstrap_means(base, base + 0.5 + rng.normal(size=300) * 0.1, samples=200) == 1 / 201
    assert bootstrap_means(base, base - 0.5 + rng.normal(size=300) * 0.1, samples=200) == 1 / 201
    assert bootstrap_means(base, base.copy(), samples=200) == 1.0
    assert bootstrap_means(base, base[::-1].copy() + 1e-3, samples=200) > 0.05


@pytest.mark.parametrize("settings", [{"samples": 0}, {"seed": 0}])
def test_the_p_value_of_means_needs_samples_and_a_seed(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        bootstrap_means(np.zeros(3), np.ones(3), **settings)
    with pytest.raises(ValueError, match="2 scores against 3"):
        bootstrap_means(np.zeros(3), np.ones(2))
