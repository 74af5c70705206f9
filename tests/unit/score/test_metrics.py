"""Metrics compared with sacreBLEU's command line, and BLEU's formula computed by hand."""

import hashlib
import math
import shutil
import subprocess
import sys
from typing import get_args

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from kdmt.choices import BestMetric, ScoreMetric
from kdmt.config import Score
from kdmt.score.metrics import (
    DEFAULT_METRICS,
    METRICS,
    bleu,
    chrf,
    main_metric,
    metric_label,
    sentence_bleu,
    sentence_chrf,
)

REFERENCES = ["Der Hund läuft schnell über die Wiese.", "Zwei Frauen lesen ein Buch!", "Ein Kind spielt im Sand ."]
HYPOTHESES = ["Der Hund rennt schnell über die Wiese.", "zwei Frauen lesen Bücher!", "Ein Kind spielt im Sand ."]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """Return the path of a SentencePiece model."""
    path = tmp_path_factory.mktemp("spbleu") / "pieces.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(REFERENCES * 20), model_writer=file, vocab_size=40, minloglevel=2
        )
    return path


def run_sacrebleu(folder, *options):
    """Return the lines that the command-line tool prints."""
    (folder / "ref").write_text("\n".join(REFERENCES) + "\n", encoding="utf-8")
    (folder / "hyp").write_text("\n".join(HYPOTHESES) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", str(folder / "ref"), "-i", str(folder / "hyp"), "-w", "6", *options]
    done = subprocess.run([*command, "--format", "text"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def parse(line):
    """Convert `BLEU|nrefs:1|... = 41.020000 80.0/... (...)` to score and signature."""
    head, _, tail = line.partition(" = ")
    return float(tail.split()[0]), head.partition("|")[2]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ((), {}),
        (("-lc",), {"lowercase": True}),
        (("-tok", "none"), {"tokenize": "none"}),
        (("-tok", "intl", "-lc"), {"tokenize": "intl", "lowercase": True}),
    ],
)
def test_bleu_and_its_signature_equal_those_of_the_command_line(tmp_path, options, settings):
    score, signature = parse(run_sacrebleu(tmp_path, "-m", "bleu", *options)[0])
    metric = bleu(HYPOTHESES, REFERENCES, **settings)
    assert metric.value == pytest.approx(score, abs=1e-6)
    assert metric.signature == signature


@pytest.mark.parametrize(("options", "settings"), [((), {}), (("--chrf-lowercase",), {"lowercase": True})])
def test_chrf_and_its_signature_equal_those_of_the_command_line(tmp_path, options, settings):
    score, signature = parse(run_sacrebleu(tmp_path, "-m", "chrf", *options)[0])
    metric = chrf(HYPOTHESES, REFERENCES, **settings)
    assert metric.value == pytest.approx(score, abs=1e-6)
    assert metric.signature == signature


def test_sentence_bleu_equals_that_of_the_command_line(tmp_path):
    lines = run_sacrebleu(tmp_path, "-m", "bleu", "--sentence-level")
    expected = [parse(line) for line in lines if line.startswith("BLEU")]
    metrics = [sentence_bleu(h, r) for h, r in zip(HYPOTHESES, REFERENCES, strict=True)]
    assert [m.value for m in metrics] == pytest.approx([score for score, _ in expected], abs=1e-6)
    assert [m.signature for m in metrics] == [signature for _, signature in expected]


def test_bleu_by_hand():
    # 5 of 6 words, 3 of 5 bigrams, 1 of 4 trigrams and no 4-gram match: the last precision is smoothed to 1 / (2 * 3).
    metric = bleu(["a b c x d e"], ["a b c y d e"], tokenize="none")
    assert metric.value == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25)


def test_brevity_penalty_by_hand():
    metric = bleu(["a b c d"], ["a b c d e f"], tokenize="none")
    assert metric.value == pytest.approx(100 * math.exp(1 - 6 / 4))


def test_sentence_bleu_leaves_out_orders_longer_than_the_hypothesis():
    assert sentence_bleu("ja .", "ja .").value == pytest.approx(100)
    assert bleu(["ja ."], ["ja ."]).value < 100  # corpus BLEU counts them
    assert sentence_bleu("nein", "ja").value == 0


words = st.lists(st.sampled_from(["ein", "Hund", "läuft", "."]), min_size=1, max_size=8).map(" ".join)


@given(words, words)
def test_sentence_scores_are_between_0_and_that_of_the_reference(hypothesis, reference):
    for score in (sentence_bleu(hypothesis, reference).value, sentence_chrf(hypothesis, reference).value):
        assert 0 <= score <= 100 + 1e-9
    assert sentence_bleu(reference, reference).value == pytest.approx(100)
    assert sentence_chrf(reference, reference).value == pytest.approx(100)


@pytest.mark.parametrize("metric", [bleu, chrf])
def test_line_counts_are_checked(metric):
    with pytest.raises(ValueError, match="2 hypotheses against 3 references"):
        metric(["a", "b"], ["a", "b", "c"])
    with pytest.raises(ValueError, match="no sentence"):
        metric([], [])


def test_the_table_has_every_metric_that_training_may_choose_checkpoints_by():
    names = set(get_args(BestMetric)) - {"loss"}
    assert names <= METRICS.keys()


def test_the_table_has_every_metric_of_the_setting_and_its_default() -> None:
    assert METRICS.keys() == set(get_args(ScoreMetric))
    assert tuple(Score().metrics) == DEFAULT_METRICS


def test_bleu_is_the_main_metric_if_it_is_listed() -> None:
    assert main_metric(["ter", "bleu"]) == "bleu"
    assert main_metric(["chrf++", "ter"]) == "chrf++"


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_its_declared_range_and_direction(name, pieces):
    metric = METRICS[name]
    perfect, wrong = (
        metric.score(lines, REFERENCES, spbleu_model=str(pieces)) for lines in (REFERENCES, ["x", "y", "z"])
    )
    lowest, highest = perfect.range
    for score in (perfect, wrong):
        assert lowest <= score.value <= (math.inf if highest is None else highest) + 1e-9
    assert (perfect.value > wrong.value) == perfect.higher_is_better
    assert "version:" in perfect.signature
    assert metric_label(name) == metric.label


def test_a_metric_of_errors_is_better_when_lower():
    assert METRICS["ter"].worst is None
    assert METRICS["bleu"].worst == 0
    score = METRICS["ter"].score(["a b d"], ["a b c"])
    assert (score.value, score.higher_is_better, score.range) == (pytest.approx(100 / 3), False, (0.0, None))


def test_ter_by_hand():
    def ter(hypotheses, references, **settings):
        return METRICS["ter"].score(hypotheses, references, **settings).value

    assert ter(["c d a b x"], ["a b c d"]) == pytest.approx(100 * 2 / 4)  # a shift of two words, and a deletion
    assert ter(["a A", "b"], ["a a", "b b"]) == pytest.approx(100 * 2 / 4)  # a substitution, and an insertion
    assert ter(["a A", "b"], ["a a", "b b"], lowercase=True) == pytest.approx(100 * 1 / 4)
    # edits against the nearest reference, over the mean length of both
    assert ter(["a b c"], ["a b c d e"], further=[["a x c"]]) == pytest.approx(100 * 1 / 4)


@pytest.mark.parametrize("tokenize", ["zh", "ja-mecab"])
def test_a_character_of_chinese_and_japanese_is_a_word_of_ter(tokenize):
    score = METRICS["ter"].score(["委员会将开会。"], ["委员会在开会。"], tokenize=tokenize)
    assert score.value == pytest.approx(100 / 7)
    assert "norm:yes|punct:yes|asian:yes" in score.signature
    assert METRICS["ter"].score(["委员会将开会。"], ["委员会在开会。"]).value == 100


def test_chrf_plus_plus_by_hand():
    # character 1-grams to 6-grams of `ab` and `ac`: 1/2, 0/1, and none of the others; words: 0/1, and no bigram
    score = METRICS["chrf++"].score(["ab"], ["ac"])
    assert score.value == pytest.approx(100 * (1 / 2 + 0 + 0) / 3)
    assert "nc:6|nw:2" in score.signature


def test_an_unknown_metric_keeps_its_name():
    assert metric_label("comet") == "comet"


FURTHER = [
    ["Der Hund rennt schnell durch das Gras.", "zwei Frauen lesen", "Ein Kind spielt im Sand ."],
    ["", "Zwei Frauen lesen Bücher!", "Kinder spielen."],
]


@pytest.mark.parametrize("name", sorted(METRICS.keys() - {"spbleu"}))
@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("num_references", [2, 3])
def test_several_references_are_scored_as_by_the_command_line(tmp_path, name, lowercase, num_references):
    further = FURTHER[: num_references - 1]
    for number, lines in enumerate([HYPOTHESES, REFERENCES, *further]):
        (tmp_path / str(number)).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    references = [str(tmp_path / str(number)) for number in range(1, num_references + 1)]
    family = name.removesuffix("++")
    if family == "ter":
        case = [] if lowercase else ["--ter-case-sensitive"]
    else:
        case = [{"bleu": "-lc", "chrf": "--chrf-lowercase"}[family]] if lowercase else []
    options = ["-m", family, "-w", "6", *case, *(["--chrf-word-order", "2"] if name != family else [])]
    command = [sys.executable, "-m", "sacrebleu", *references, "-i", str(tmp_path / "0"), *options]
    done = subprocess.run([*command, "--format", "text"], capture_output=True, text=True, check=True)
    found = METRICS[name].score(HYPOTHESES, REFERENCES, further=further, lowercase=lowercase)
    score, signature = parse(done.stdout.splitlines()[0])
    assert found.value == pytest.approx(score, abs=1e-6)
    assert found.signature == signature
    assert signature.startswith(f"nrefs:{num_references}|")


def test_further_references_have_as_many_lines():
    with pytest.raises(ValueError, match="3 hypotheses against 2 references"):
        METRICS["bleu"].score(HYPOTHESES, REFERENCES, further=[REFERENCES[:2]])


@pytest.mark.parametrize("lowercase", [False, True])
def test_spbleu_is_that_of_the_command_line_with_the_same_model(tmp_path, pieces, lowercase, monkeypatch):
    (tmp_path / "models").mkdir()
    shutil.copy(pieces, tmp_path / "models" / "flores200sacrebleuspm")  # where sacreBLEU looks before it downloads
    monkeypatch.setenv("SACREBLEU", str(tmp_path))
    (line,) = run_sacrebleu(tmp_path, "-m", "bleu", "--tokenize", "flores200", *(["-lc"] if lowercase else []))
    score, signature = parse(line)
    found = METRICS["spbleu"].score(HYPOTHESES, REFERENCES, lowercase=lowercase, spbleu_model=str(pieces))
    assert found.value == pytest.approx(score, abs=1e-6)
    sha256 = hashlib.sha256(pieces.read_bytes()).hexdigest()
    assert found.signature == signature.replace("tok:flores200", f"tok:spm-pieces-{sha256[:8]}")
    assert found.value != METRICS["bleu"].score(HYPOTHESES, REFERENCES, lowercase=lowercase).value


def test_spbleu_needs_its_model():
    with pytest.raises(ValueError, match="spBLEU needs the path"):
        METRICS["spbleu"].score(HYPOTHESES, REFERENCES)
