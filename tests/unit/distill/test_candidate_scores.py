"""Choices by external scorers on the tiny pipeline: reranking, the best score, minimum Bayes risk."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_input import refused
from distilled_pipeline import MADE, MBR, NBEST, PREPARED, SCORED, TINY, distill, done, manifest, usable, verified
from tiny_pipeline import read_lines, settings, to_yaml

from kdmt.distill.mbr import COARSE, ExpectedUtility
from kdmt.distill.selection import Candidate

RERANKED = TINY / "reranked"
# a pseudo-random score of a segment; `given` has a line for each segment
PROGRAM = """
import json, os, sys, zlib
print(json.dumps({"scorer": "hash", "signature": "hash|v:1"}), flush=True)
for line in sys.stdin:
    if line.strip():
        with open("given", "a") as file:
            file.write(line)
        if os.path.exists("limit") and sum(1 for _ in open("given")) > int(open("limit").read()):
            sys.exit(3)
        each = json.loads(line)
        text = "|".join([each["source"], each["hypothesis"], each.get("reference", "")])
        print(json.dumps({"id": each["id"], "score": zlib.crc32(text.encode()) % 10007 / 100}), flush=True)
    else:
        sys.stdout.flush()
"""
BEST = ("students.best={data: scored}", "distill.scores={scorer: hash}")


def hashed(*texts: str) -> float:
    return zlib.crc32("|".join(texts).encode()) % 10007 / 100


@pytest.fixture
def scored(finished: Path) -> Path:
    """Enter a finished pipeline with two scorers, one of which is given the reference; no setting uses them."""
    Path("hash.py").write_text(PROGRAM)
    document = settings()
    command = [sys.executable, "-I", "-S", "hash.py"]
    document["scorers"] = {
        "hash": {"command": command, "range": [0, 101], "restarts": 0},
        "pair": {"command": command, "reference": True},
    }
    document["score"]["scorers"] = []
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    return finished


def rows(folder: Path) -> list[dict[str, str]]:
    names, *found = (line.split("\t") for line in read_lines(folder / "choices.tsv"))
    return [dict(zip(names, row, strict=True)) for row in found]


def sources() -> list[str]:
    return read_lines(PREPARED / "train.en")


def numbers() -> dict[str, int]:
    """Return the number of each distinct source."""
    return {source: number for number, source in enumerate(dict.fromkeys(sources()))}


def words() -> dict[int, list[str]]:
    """Return all candidates of each distinct source."""
    found: dict[int, list[str]] = {}
    for row in read_lines(MADE / "nbest"):
        number, *_, text = row.split("\t")
        found.setdefault(int(number), []).append(text)
    return found


def check_best(folder: Path, score: Callable[[str, str], float]) -> None:
    """Check that each target has the highest score among the usable candidates of its source."""
    own, number_of, checked = usable(), numbers(), 0
    for row, target in zip(rows(folder), read_lines(folder / "distilled.de"), strict=True):
        source = sources()[int(row["line"])]
        candidates = [text for _, text in own.get(number_of[source], [])]
        if row["candidate"] != "-" and int(row["usable"]) == len(candidates):
            assert score(source, target) == max(score(source, text) for text in candidates)
            checked += len(set(candidates)) > 1
    assert checked > 20


@pytest.mark.parametrize("direction", ["higher", "lower"])
@pytest.mark.usefixtures("scored")
def test_the_candidate_with_the_best_score_is_chosen(direction: str) -> None:
    sets = (*NBEST, *BEST, f"scorers.hash.direction={direction}")
    done(*sets)
    sign = 1 if direction == "higher" else -1
    check_best(SCORED, lambda source, text: sign * hashed(source, text, ""))
    record = manifest(SCORED)
    facts = record["facts"]["scorers"]["hash"]
    assert (facts["scorer"], facts["signature"], facts["direction"]) == ("hash", "hash|v:1|nrefs:0", direction)
    assert "scores/hash.txt" in record["outputs"]
    assert "scored: up to date, nothing to do" in done(*sets)
    assert verified("--verify-blocks", "0", sets=sets).code == 0


@pytest.mark.usefixtures("scored")
def test_a_candidate_with_a_failure_is_neither_scored_nor_chosen() -> None:
    done(*NBEST, *BEST)
    given = {json.loads(line)["hypothesis"] for line in read_lines(Path("given"))}
    lines = [row.split("\t") for row in read_lines(MADE / "nbest")]
    scores = read_lines(SCORED / "scores/hash.txt")
    assert len(scores) == len(lines)
    failed = [(row, score) for row, score in zip(lines, scores, strict=True) if row[3] != "-"]
    assert failed
    assert {score for _, score in failed} == {"-inf"}
    usable_texts = {row[-1] for row in lines if row[3] == "-"}
    assert not given & ({row[-1] for row, _ in failed} - usable_texts)


@pytest.mark.usefixtures("scored")
def test_failures_of_the_text_come_before_scores_too() -> None:
    done(*NBEST, *BEST, "distill.failures.scripts=[Greek]")
    assert set(read_lines(SCORED / "scores/hash.txt")) == {"-inf"}
    assert not Path("given").exists()
    assert {row["candidate"] for row in rows(SCORED)} == {"-"}


@pytest.mark.usefixtures("scored")
def test_a_killed_run_goes_on_without_scoring_anything_twice() -> None:
    Path("limit").write_text("60")
    message = refused("distill", "tiny.yaml", sets=(*NBEST, *BEST))
    assert message.startswith("scorers.hash: segment")
    assert not (SCORED / "scores/hash.txt").exists()
    Path("limit").unlink()
    done(*NBEST, *BEST)
    given = [line.split('"source"')[1] for line in read_lines(Path("given"))]
    assert len(given) - len(set(given)) <= 64  # those on their way when the process ended
    check_best(SCORED, lambda source, text: hashed(source, text, ""))


@pytest.mark.usefixtures("scored")
def test_a_damaged_file_of_scores_is_written_again() -> None:
    done(*NBEST, *BEST)
    path = SCORED / "scores/hash.txt"
    before, asked = path.read_bytes(), len(read_lines(Path("given")))
    path.write_text("0\n" * len(read_lines(path)))
    assert "hash.txt" in refused("distill", "tiny.yaml", "--verify", sets=(*NBEST, *BEST))
    done(*NBEST, *BEST)
    assert path.read_bytes() == before
    assert len(read_lines(Path("given"))) == asked  # from the cache


@pytest.mark.usefixtures("scored")
def test_a_scorer_is_a_feature_with_a_tuned_weight() -> None:
    sets = (*NBEST, "students.near={data: reranked}", "distill.rerank.features=[score, hash, length]")
    done(*sets)
    tuned = json.loads((RERANKED / "weights.json").read_text())["weights"]
    assert set(tuned) == {"score", "hash", "length"}
    assert {"scores/hash.txt", "valid/scores/hash.txt"} <= set(manifest(RERANKED)["outputs"])
    number_of = numbers()
    for row in rows(RERANKED):
        if row["candidate"] != "-":
            source = sources()[int(row["line"])]
            text = words()[number_of[source]][int(row["candidate"])]
            assert float(row["hash"]) == pytest.approx(hashed(source, text, ""), rel=1e-4)
    lines = [row.split("\t") for row in read_lines(RERANKED / "valid/nbest")]
    distinct = list(dict.fromkeys(read_lines(PREPARED / "valid.en")))
    for row, score in zip(lines, read_lines(RERANKED / "valid/scores/hash.txt"), strict=True):
        if score != "-inf":
            assert float(score) == pytest.approx(hashed(distinct[int(row[0])], row[-1], ""))
    assert verified("--verify-blocks", "0", sets=sets).code == 0
    assert "the setting scorers.hash.direction changed" in done(*sets, "scorers.hash.direction=lower")


@pytest.mark.usefixtures("scored")
def test_a_scorer_with_references_is_given_that_of_the_first_line() -> None:
    sets = (
        *NBEST,
        "students.near={data: reranked}",
        "distill.rerank={features: [pair, length], weights: {pair: 1.0, length: 0.0}}",
    )
    done(*sets)
    reference_of: dict[str, str] = {}
    for source, reference in zip(sources(), read_lines(PREPARED / "train.de"), strict=True):
        reference_of.setdefault(source, reference)
    check_best(RERANKED, lambda source, text: hashed(source, text, reference_of[source]))
    assert "prepare/train.de" in manifest(RERANKED)["inputs"]


def utilities(source: str, candidates: list[str], prune: int) -> dict[str, float]:
    """Return the expected utility of each candidate by all pairs, with equal weights of the candidates."""
    kept = list(dict.fromkeys(candidates))
    if 0 < prune < len(kept):
        coarse = ExpectedUtility(COARSE, aggregate=True)([Candidate(text, 0.0, 1) for text in candidates])
        ranked = sorted(kept, key=lambda text: -coarse[candidates.index(text)])
        kept = ranked[:prune]
    return {text: sum(hashed(source, text, other) for other in candidates) / len(candidates) for text in kept}


@pytest.mark.parametrize("prune", [0, 2])
@pytest.mark.usefixtures("scored")
def test_a_scorer_is_the_utility_of_minimum_bayes_risk(prune: int) -> None:
    sets = (*NBEST, "students.near={data: mbr}", f"distill.mbr={{utility: pair, prune: {prune}}}")
    done(*sets)
    own, number_of, checked = usable(), numbers(), 0
    for row, target in zip(rows(MBR), read_lines(MBR / "distilled.de"), strict=True):
        source = sources()[int(row["line"])]
        candidates = [text for _, text in own.get(number_of[source], [])]
        if row["candidate"] != "-" and int(row["usable"]) == len(candidates):
            expected = utilities(source, candidates, prune)
            assert expected[target] == pytest.approx(max(expected.values()))
            assert float(row["utility"]) == pytest.approx(expected[target], rel=1e-4)
            checked += len(expected) > 1
    assert checked > 20
    assert manifest(MBR)["facts"]["scorers"]["mbr"]["scorer"] == "pair"
    assert "mbr: up to date, nothing to do" in done(*sets)
    assert verified("--verify-blocks", "0", sets=sets).code == 0


@pytest.mark.usefixtures("scored")
def test_candidates_of_a_pool_are_weighted_by_their_draws_in_the_utility_of_a_scorer() -> None:
    pool = ("distill.pool={beam: 2, samples: 5, epsilon: 0.02}", "distill.failures.max_ratio=0")
    sets = (*pool, "students.near={data: mbr}", "distill.mbr={utility: pair, weights: count, top: 2}")
    done(*sets)
    drawn: dict[int, dict[str, int]] = {}
    for row in read_lines(TINY / "pool/nbest"):
        number, _, _, failure, count, _, text = row.split("\t")
        if failure == "-":
            drawn.setdefault(int(number), {})[text] = int(count)
    number_of, checked = numbers(), 0
    for row, target in zip(rows(MBR), read_lines(MBR / "distilled.de"), strict=True):
        source = sources()[int(row["line"])]
        own = drawn.get(number_of[source], {})
        if row["candidate"] != "-" and int(row["usable"]) == len(own) and sum(own.values()):
            expected = {
                text: sum(count * hashed(source, text, other) for other, count in own.items()) / sum(own.values())
                for text in own
            }
            assert float(row["utility"]) == pytest.approx(expected[target], rel=1e-4)
            assert expected[target] == pytest.approx(sorted(expected.values())[-int(row["rank"])])
            checked += int(row["rank"]) == 2
    assert checked > 20
    assert verified("--verify-blocks", "0", sets=sets).code == 0


@pytest.mark.usefixtures("scored")
def test_the_utility_of_a_scorer_is_a_feature_for_all_candidates() -> None:
    one = "distill.rerank={features: [mbr], weights: {mbr: 1.0}}"
    sets = (*NBEST, "students.near={data: reranked}", one, "distill.mbr={utility: pair, prune: 1}")
    done(*sets)
    scores = [float(score) for score in read_lines(RERANKED / "scores/mbr.txt")]
    assert sum(score > -1 for score in scores) >= sum(len(each) for each in usable().values()) * 0.9
    own, number_of = usable(), numbers()
    for row, target in zip(rows(RERANKED), read_lines(RERANKED / "distilled.de"), strict=True):
        source = sources()[int(row["line"])]
        candidates = [text for _, text in own.get(number_of[source], [])]
        if row["candidate"] != "-" and int(row["usable"]) == len(candidates):
            expected = utilities(source, candidates, 0)
            assert expected[target] == pytest.approx(max(expected.values()))


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (("distill.mbr.utility=hash",), "'distill.mbr.utility': 'hash' compares no two candidates: set 'reference: "),
        (
            ("distill.scores={scorer: pair}", "distill.monolingual=true"),
            "'distill.scores.scorer': 'pair' needs references, and the text of 'distill.monolingual' has none",
        ),
        (
            (*NBEST, "students.near={data: diverse}", "distill.mbr.utility=pair"),
            "'students.near.data: diverse' adds utilities to chrF2, from 0 to 100",
        ),
    ],
)
@pytest.mark.usefixtures("scored")
def test_what_a_scorer_cannot_do_is_refused(sets: tuple[Any, ...], expected: str) -> None:
    result = distill(sets=sets)
    assert result.code == 2
    assert expected in result.err
