"""Measurement of systems that pipelines have trained and scored: from folders of runs to statistics of sentences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench_pipeline import way_of
from numpy.typing import NDArray

from kdmt.languages import POOLED
from kdmt.score.lexical import RareWords, rare_recall
from kdmt.score.replication import find_replicated
from kdmt.toy.grammar import target_distribution
from kdmt.toy.modes import LANGUAGES, classify
from kdmt.training_sets import stage_folders
from science import metrics
from science.bootstrap import Score, System

Array = NDArray[np.float64]

RARE = 10  # a target word is rare if the training set has it at most this often
MINOR = (0.2, 0.4)  # a word is a minor variant of a source if its translations have it with a probability in this range


@dataclass(frozen=True)
class Term:
    """A system of a contrast: EXPERIMENT:SYSTEM[/WAY][@TEST_SET].

    Attributes:
        experiment: name of the experiment.
        system: a student, `teacher`, or `text.NAME` for the targets of a training set, for example `text.mbr`.
        way: how it is decoded, `beamN` or `iterN`.
        test_set: name of the test set, with several directions `NAME.DIRECTION`, for example `test.en-de`.
    """

    experiment: str
    system: str
    way: str
    test_set: str

    @classmethod
    def parse(cls, text: str) -> Term:
        """Parse a term; the defaults are beam 5 and the test set `test`."""
        experiment, _, rest = text.partition(":")
        rest, _, test_set = rest.partition("@")
        system, _, way = rest.partition("/")
        return cls(experiment, system, way or "beam5", test_set or "test")


@dataclass(frozen=True)
class Metric:
    """A metric of the scoreboard.

    Attributes:
        unit: unit of its values.
        signature: everything that its values depend on besides the outputs.
        statistics: function of a run, a seed and a term that returns statistics [sentences, K].
        score: function from sums of statistics to scores.
    """

    unit: str
    signature: str
    statistics: Callable[[Path, int, Term], Array]
    score: Score


def measure(term: Term, metric: str, runs: Sequence[Path]) -> System:
    """Return the statistics of a system under a metric, over all its seeds.

    Args:
        term: the system.
        metric: name of the metric.
        runs: folders of the experiment's runs, one for each seed of the teacher.

    Raises:
        FileNotFoundError: if the system was not scored.
    """
    found = METRICS[metric]
    rows = [
        found.statistics(run, seed, term)
        for run in runs
        for seed in (seeds_of(run, term) if is_scored(term.system) else (0,))
    ]
    return System(np.stack(rows), found.score, is_text=not is_scored(term.system))


def is_scored(system: str) -> bool:
    """Return whether a system of a term is a model with outputs, and not distilled text."""
    return system != "distill" and not system.startswith("text.")


def seeds_of(run: Path, term: Term) -> list[int]:
    """Return the seeds of a system that was scored on a test set.

    Raises:
        FileNotFoundError: if there is none.
    """
    return sorted({int(str(row["seed"])) for row in _rows_of(run, term)})


def _rows_of(run: Path, term: Term) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    found = [row for row in rows if _is_of(row, term)]
    if not found:
        raise FileNotFoundError(f"{run / 'scores.json'}: no row of {term.system}, {term.way}, {term.test_set}")
    return found


def _is_of(row: dict[str, object], term: Term) -> bool:
    if row["system"] != term.system or row["test_set"] != term.test_set or "missing" in row:
        return False
    return way_of(row) == term.way


def outputs_of(run: Path, seed: int, term: Term) -> list[str]:
    """Return the detokenised outputs of a system, one for each sentence of the test set."""
    language = target_language(run)
    return _lines(run / "score" / f"{term.system}.seed_{seed}.{term.test_set}.{term.way}.{language}")


def sources_of(run: Path, term: Term) -> list[str]:
    """Return the sources of a system's outputs or of a training set, as they were before tokenisation."""
    if term.system.startswith("text."):
        return _lines(_text_of(run, term, source_language(run)))
    return _lines(run / "prepare" / f"{term.test_set}.raw.{source_language(run)}")


def references_of(run: Path, term: Term) -> list[str]:
    return _lines(run / "prepare" / f"{term.test_set}.raw.{target_language(run)}")


def source_language(run: Path) -> str:
    """Return the language of the source files of a run; `src` for a run with several directions."""
    return str(_config(run).get("source_lang") or POOLED.source)


def target_language(run: Path) -> str:
    """Return the language of the target files of a run; `tgt` for a run with several directions."""
    return str(_config(run).get("target_lang") or POOLED.target)


def _config(run: Path) -> dict[str, object]:
    config: dict[str, object] = json.loads((run / "prepare" / "config.json").read_text(encoding="utf-8"))
    return config


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


# ------------------------------------------------------------------------------------------------------- statistics


def _bleu(run: Path, seed: int, term: Term) -> Array:
    return metrics.bleu_statistics(outputs_of(run, seed, term), references_of(run, term), "13a")


def _expected_bleu(run: Path, seed: int, term: Term) -> Array:
    return metrics.expected_bleu_statistics(sources_of(run, term), outputs_of(run, seed, term))


def _bleu_lowercased(run: Path, seed: int, term: Term) -> Array:
    texts = (outputs_of(run, seed, term), references_of(run, term))
    outputs, references = ([line.lower() for line in text] for text in texts)
    return metrics.bleu_statistics(outputs, references, "13a")


def _chrf_lowercased(run: Path, seed: int, term: Term) -> Array:
    texts = (outputs_of(run, seed, term), references_of(run, term))
    return metrics.chrf_statistics(*([line.lower() for line in text] for text in texts))


def _expected_chrf(run: Path, seed: int, term: Term) -> Array:
    return metrics.expected_chrf_statistics(sources_of(run, term), _lines_of(run, seed, term))


def _valid(run: Path, seed: int, term: Term) -> Array:
    return metrics.valid_statistics(sources_of(run, term), _lines_of(run, seed, term))


def _of_one_dialect(run: Path, seed: int, term: Term) -> Array:
    """Return [output is a right translation, 1] for a run of `pipelines/modes-<language>.yaml`."""
    pipeline = str(_config(run)["name"])
    (language,) = (found for name, found in LANGUAGES.items() if pipeline.startswith(f"modes-{name}"))
    pairs = zip(sources_of(run, term), outputs_of(run, seed, term), strict=True)
    return np.array([[classify(language, *pair) == "valid", 1] for pair in pairs], float)


def _mixed(run: Path, seed: int, term: Term) -> Array:
    return metrics.mixed_statistics(sources_of(run, term), outputs_of(run, seed, term))


def _replicated(run: Path, seed: int, term: Term) -> Array:
    """Return [output equals the reference, 1]: for a test set of training pairs with wrong targets."""
    found = find_replicated(outputs_of(run, seed, term), references_of(run, term))
    return np.stack([found, np.ones(len(found))], axis=1)


def _minor_variants(run: Path, seed: int, term: Term) -> Array:
    """Return [minor variants in the text, minor variants expected of real text], see `MINOR`."""
    rows = []
    for source, line in zip(sources_of(run, term), _lines_of(run, seed, term), strict=True):
        words = set(line.split())
        minor = minor_variants(source)
        rows.append([len(words & minor.keys()), sum(minor.values())])
    return np.array(rows, float)


def minor_variants(source: str) -> dict[str, float]:
    """Return the words that translations of a source contain with a probability within `MINOR`."""
    low, high = MINOR
    probabilities = Counter[str]()
    for translation, probability in target_distribution(source).items():
        for word in set(translation.split()):
            probabilities[word] += probability  # type: ignore[assignment]
    return {word: probability for word, probability in probabilities.items() if low <= probability <= high}


def _rare_recall(run: Path, seed: int, term: Term) -> Array:
    """Return [rare words of the reference that the output has, rare words of the reference], see `RARE`."""
    outputs = [line.split() for line in outputs_of(run, seed, term)]
    references = [line.split() for line in references_of(run, term)]
    rare = RareWords({word for reference in references for word in reference}, most=RARE)
    for line in _lines(run / "prepare" / f"train.{target_language(run)}"):
        rare.add(line.split())
    return rare_recall(outputs, references, rare.counts)


def _lines_of(run: Path, seed: int, term: Term) -> list[str]:
    """Return the outputs of a model, or the targets of a training set."""
    return outputs_of(run, seed, term) if is_scored(term.system) else targets_of_text(run, term)


def targets_of_text(run: Path, term: Term) -> list[str]:
    """Return the targets of a training set, for example of `text.raw` or `text.mbr`."""
    return _lines(_text_of(run, term, target_language(run)))


def _text_of(run: Path, term: Term, language: str) -> Path:
    name = term.system.removeprefix("text.")
    return run / stage_folders()[name] / f"{'train' if name == 'raw' else 'distilled'}.{language}"


def _off_target(run: Path, seed: int, term: Term) -> Array:
    (row,) = [row for row in _rows_of(run, term) if row["seed"] == seed]
    return np.array([[float(str(row["off_target"]))]])


def _faithfulness(run: Path, _seed: int, _term: Term) -> Array:
    return np.array([[_diagnostics(run)["faithfulness"]]])


def _complexity_reduction(run: Path, _seed: int, _term: Term) -> Array:
    """Return C of the references minus C of the distilled text."""
    found = _diagnostics(run)
    return np.array([[found["complexity_real"] - found["complexity_distilled"]]])


def _diagnostics(run: Path) -> dict[str, float]:
    facts = json.loads((run / "distill" / "manifest.json").read_text(encoding="utf-8"))["facts"]
    found: dict[str, float] = facts["diagnostics"]
    return found


_BLEU_SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp"
_TOY = "exact p(target given source) of the toy language"

METRICS: dict[str, Metric] = {
    "bleu": Metric("BLEU", _BLEU_SIGNATURE, _bleu, metrics.bleu_score),
    "bleu_lowercased": Metric(
        "BLEU", _BLEU_SIGNATURE.replace("case:mixed", "case:lc"), _bleu_lowercased, metrics.bleu_score
    ),
    "expected_bleu": Metric(
        "BLEU",
        f"expected n-gram matches, {_TOY}, case:mixed|eff:no|tok:13a|smooth:exp",
        _expected_bleu,
        metrics.bleu_score,
    ),
    "chrf_lowercased": Metric(
        "chrF",
        "mean of sentence chrF2, nrefs:1|case:lc|eff:yes|nc:6|nw:0|space:no",
        _chrf_lowercased,
        metrics.share_score,
    ),
    "expected_chrf": Metric(
        "chrF",
        f"mean of expected sentence chrF2, {_TOY}, case:mixed|eff:yes|nc:6|nw:0|space:no",
        _expected_chrf,
        metrics.share_score,
    ),
    "valid": Metric("%", f"share of outputs with probability above 0, {_TOY}", _valid, metrics.share_score),
    "of_one_dialect": Metric(
        "%", "share of outputs that are right in a language of known modes", _of_one_dialect, metrics.share_score
    ),
    "mixed": Metric("%", f"share of invalid outputs of valid words, {_TOY}", _mixed, metrics.share_score),
    "replicated": Metric("%", "share of outputs equal to the reference", _replicated, metrics.share_score),
    "minor_variants": Metric(
        "%",
        f"words of probability {MINOR[0]} to {MINOR[1]}, relative to their expected number, {_TOY}",
        _minor_variants,
        metrics.share_score,
    ),
    "rare_recall": Metric(
        "%",
        f"recall of the reference's words that the training set has 1 to {RARE} times",
        _rare_recall,
        metrics.share_score,
    ),
    "off_target": Metric(
        "%", "share of outputs that are identified as another language", _off_target, metrics.value_score
    ),
    "complexity_reduction": Metric(
        "nats",
        "conditional entropy of aligned words (Zhou et al. 2020), real minus distilled",
        _complexity_reduction,
        metrics.value_score,
    ),
    "faithfulness": Metric(
        "nats",
        "KL divergence of aligned words (Zhou et al. 2020); lower is better",
        _faithfulness,
        metrics.value_score,
    ),
}
