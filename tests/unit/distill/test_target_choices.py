"""Tests of the choice of targets from the teacher's n-best list, against the definitions."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from bad_input import refused, unharmed
from distilled_pipeline import (
    MADE,
    MBR,
    NBEST,
    PREPARED,
    SCORED,
    distill,
    done,
    manifest,
    usable,
    verified,
)
from tiny_pipeline import (
    hash_tree,
    read_lines,
    write_lines,
)

from kdmt.score.metrics import sentence_bleu, sentence_chrf


@pytest.mark.usefixtures("finished")
def test_minimum_bayes_risk_chooses_highest_expected_chrf() -> None:
    done(*NBEST, "students.near={data: mbr}")
    targets, references = read_lines(MBR / "distilled.de"), read_lines(PREPARED / "train.de")
    candidates, other = usable(), 0
    assert read_lines(MBR / "distilled.en") == read_lines(PREPARED / "train.en")
    for index, target in enumerate(targets):
        own = [words for _, words in candidates.get(index, [])]
        if not own:
            assert target == references[index]
            continue
        risks = [math.fsum(sentence_chrf(words, each).value for each in own) for words in own]
        assert risks[own.index(target)] == pytest.approx(max(risks), abs=1e-6)
        other += target != own[0]
    assert other  # the choice is not always the first hypothesis
    assert "mbr: up to date, nothing to do" in done(*NBEST, "students.near={data: mbr}")


@pytest.mark.usefixtures("finished")
def test_the_record_of_choices_explains_each_line() -> None:
    sets = (*NBEST, "students.near={data: mbr}", "distill.mbr={utility: bleu, weights: probability, top: 2}")
    done(*sets)
    assert "choices.tsv" in manifest(MBR)["outputs"]
    settings = manifest(MBR)["settings"]
    assert settings["distill.mbr.utility"] == "bleu"
    assert settings["bleu_tokenizer"]
    names, *rows = (line.split("\t") for line in read_lines(MBR / "choices.tsv"))
    assert names == ["line", "rank", "candidate", "usable", "reason", "utility"]
    targets, sources = read_lines(MBR / "distilled.de"), read_lines(MBR / "distilled.en")
    lines = read_lines(PREPARED / "train.en")
    assert len(rows) == len(targets)
    candidates: dict[int, list[tuple[float, int, str, str]]] = {}
    for row in read_lines(MADE / "nbest"):
        number, score, length, failure, words = row.split("\t")
        candidates.setdefault(int(number), []).append((float(score), int(length), failure, words))
    several = 0
    for row, target, source in zip(rows, targets, sources, strict=True):
        line, rank, place, num_usable, reason, utility = row
        assert source == lines[int(line)]
        if place == "-":
            assert (num_usable, utility) == ("0", "-")
            assert reason.endswith(": reference")
            continue
        assert candidates[int(line)][int(place)][3] == target
        assert reason == "highest expected utility"
        own = [each for each in candidates[int(line)] if each[2] == "-"]
        assert int(num_usable) == len(own)
        shares = [math.exp(score * length) for score, length, *_ in own]
        expected = [
            sum(share * sentence_bleu(words, other[3]).value for share, other in zip(shares, own, strict=True))
            for *_, words in own
        ]
        distinct = sorted({value / sum(shares) for value in expected}, reverse=True)
        assert float(utility) == pytest.approx(distinct[int(rank) - 1] if len(distinct) > 1 else 100.0, rel=1e-4)
        several += rank == "2"
    assert several
    assert distill("--verify", "--verify-blocks", "0", sets=sets).code == 0
    (MBR / "choices.tsv").write_text((MBR / "choices.tsv").read_text().replace("highest", "lowest"))
    assert "choices.tsv" in refused("distill", "tiny.yaml", "--verify", sets=sets)
    assert "mbr: rebuilt: the setting distill.mbr.top changed from 2 to 1" in done(
        *sets[:-1], "distill.mbr={utility: bleu, weights: probability}"
    )


@pytest.mark.usefixtures("finished")
def test_a_set_of_a_version_without_the_record_is_up_to_date() -> None:
    """Such a version had no settings of minimum Bayes risk either."""
    sets = (*NBEST, "students.near={data: mbr}")
    done(*sets)
    record = manifest(MBR)
    record["settings"] = {key: value for key, value in record["settings"].items() if "distill.mbr." not in key}
    del record["outputs"]["choices.tsv"]
    (MBR / "manifest.json").write_text(json.dumps(record))
    (MBR / "choices.tsv").unlink()
    assert "mbr: up to date, nothing to do" in done(*sets)
    assert verified("--verify-blocks", "0", sets=sets).code == 0
    assert "mbr: rebuilt" in done(*sets, "distill.mbr.weights=probability")
    assert (MBR / "choices.tsv").exists()


def write_scores() -> dict[int, float]:
    """Write a score for each line of `nbest`, some of them equal, and return the scores by line."""
    rng = random.Random(1)
    scores = {line: float(rng.randint(-3, 3)) for line in range(len(read_lines(MADE / "nbest")))}
    write_lines(Path("scores.txt"), [f"{score:g}" for score in scores.values()])
    return scores


BY_SCORES = (*NBEST, "students.near={data: scored}", "distill.scores=scores.txt")


@pytest.mark.usefixtures("finished")
def test_highest_external_score_is_chosen() -> None:
    done(*NBEST)
    scores = write_scores()
    done(*BY_SCORES)
    targets, references = read_lines(SCORED / "distilled.de"), read_lines(PREPARED / "train.de")
    candidates = usable()
    for index, target in enumerate(targets):
        own = candidates.get(index, [])
        values = [scores[line] for line, _ in own]
        assert target == (own[values.index(max(values))][1] if own else references[index])
    assert manifest(SCORED)["inputs"]["scores.txt"]
    made = hash_tree(SCORED)
    write_lines(Path("scores.txt"), [str(-score) for score in scores.values()])
    assert "scored: rebuilt: the input scores.txt changed" in done(*BY_SCORES)
    assert hash_tree(SCORED.with_name("scored.previous")) == made


@pytest.mark.usefixtures("finished")
def test_scores_that_do_not_match_the_nbest_are_refused() -> None:
    """Only the new stage's lock file is written; no text is made."""
    done(*NBEST)
    lines = [str(score) for score in write_scores().values()]
    work = ("tiny/.scored.lock",)

    def message(scores: list[str]) -> str:
        write_lines(Path("scores.txt"), scores)
        with unharmed(*work):
            return refused("distill", "tiny.yaml", sets=BY_SCORES)

    count = len(lines)
    assert message(lines[:-1]) == f"scores.txt: {count - 1} scores for the {count} lines of runs/tiny/distill/nbest"
    assert message([*lines, "1"]) == f"scores.txt: {count + 1} scores for the {count} lines of runs/tiny/distill/nbest"
    assert message([*lines[:16], "high", *lines[17:]]) == "scores.txt:17: not a number: 'high'"
    Path("scores.txt").unlink()
    with unharmed(*work):
        assert refused("distill", "tiny.yaml", sets=BY_SCORES) == "scores.txt: there is no such file"
    assert not (SCORED / "distilled.de").exists()
