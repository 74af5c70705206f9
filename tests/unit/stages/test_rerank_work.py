"""Tests of the training set `reranked` of the tiny pipeline: tuning, the choice, resuming and verification."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from bad_input import refused
from distilled_pipeline import MADE, NBEST, PREPARED, TINY, distill, done, manifest, usable, verified, watch_decoding
from tiny_pipeline import read_lines, write_lines

from kdmt.score.metrics import bleu, sentence_bleu, sentence_chrf
from kdmt.stages import rerank_work

RERANKED = TINY / "reranked"
VALID = RERANKED / "valid"
SETS = (*NBEST, "students.near={data: reranked}")
INLINE = ("distill.executor=inline", "distill.engine=torch")


def weights(folder: Path = RERANKED) -> dict[str, Any]:
    return json.loads((folder / "weights.json").read_text())


def chosen_rows() -> list[dict[str, str]]:
    names, *rows = (line.split("\t") for line in read_lines(RERANKED / "choices.tsv"))
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.usefixtures("finished")
def test_weights_are_tuned_on_the_validation_set_and_choose_the_targets() -> None:
    sets = (*SETS, "distill.rerank.features=[score, length]")
    assert "on the validation set: best hypothesis" in done(*sets)
    tuned = weights()
    assert set(tuned["weights"]) == {"score", "length"}
    assert (tuned["metric"], tuned["seed"]) == ("bleu", 1)
    record = manifest(RERANKED)
    assert record["facts"]["rerank"] == tuned
    assert {"weights.json", "choices.tsv", "valid/nbest"} <= set(record["outputs"])
    achieved = tuned["validation"]
    own = usable(VALID)
    references = read_lines(PREPARED / "valid.de")
    numbers = [index for index in range(len(references)) if index in own]
    first = bleu([own[index][0][1] for index in numbers], [references[index] for index in numbers]).value
    assert achieved["teacher"] == pytest.approx(first)
    assert achieved["best"] >= achieved["reranked"]
    assert tuned["num_sentences"] == len(numbers)

    candidates: dict[int, list[tuple[float, str, str]]] = {}
    for row in read_lines(MADE / "nbest"):
        number, score, length, failure, words = row.split("\t")
        value = tuned["weights"]["score"] * float(score) + tuned["weights"]["length"] * int(length)
        candidates.setdefault(int(number), []).append((value, failure, words))
    rows, targets = chosen_rows(), read_lines(RERANKED / "distilled.de")
    for row, target in zip(rows, targets, strict=True):
        if row["candidate"] == "-":
            continue
        value, _, words = candidates[int(row["line"])][int(row["candidate"])]
        assert words == target
        assert float(row["value"]) == pytest.approx(value, rel=1e-4, abs=1e-4)
        assert value >= max(each for each, failure, _ in candidates[int(row["line"])] if failure == "-") - 1e-6
    assert "reranked: up to date, nothing to do" in done(*sets)
    assert verified("--verify-blocks", "0", sets=sets).code == 0
    changed = tuned | {"weights": {"score": 0.0, "length": 1.0}}
    (RERANKED / "weights.json").write_text(json.dumps(changed))
    assert "weights.json" in refused("distill", "tiny.yaml", "--verify", sets=sets)


@pytest.mark.usefixtures("finished")
def test_metric_and_seed_are_used() -> None:
    found = []
    for setting in ("metric: bleu", "metric: chrf", "metric: bleu, seed: 2"):
        done(*SETS, f"distill.rerank={{features: [score, length, mbr], {setting}}}")
        found.append(weights())
    assert [each["metric"] for each in found] == ["bleu", "chrf", "bleu"]
    assert found[0]["weights"] != found[1]["weights"]
    assert found[2]["seed"] == 2


def planted(nbest: Path, references: list[str]) -> list[str]:
    """Return the sentence BLEU of each line of an n-best file."""
    scores = []
    for row in read_lines(nbest):
        number, *_, words = row.split("\t")
        scores.append(f"{sentence_bleu(words, references[int(number)]).value:.6f}")
    return scores


@pytest.mark.usefixtures("finished")
def test_scores_of_another_model_are_features(monkeypatch: pytest.MonkeyPatch) -> None:
    done(*NBEST, *INLINE)
    write_lines(Path("train.txt"), planted(MADE / "nbest", read_lines(PREPARED / "train.de")))
    decoded = watch_decoding(monkeypatch)
    without = (*SETS, *INLINE, "distill.rerank={features: [length], files: {oracle: {train: train.txt}}}")
    message = refused("distill", "tiny.yaml", sets=without)
    assert message.startswith("distill.rerank.files.oracle.valid: to tune the weights, score the candidates in")
    assert str(VALID / "nbest") in message
    assert decoded
    decoded.clear()
    write_lines(Path("valid.txt"), planted(VALID / "nbest", read_lines(PREPARED / "valid.de")))
    sets = (
        *SETS,
        *INLINE,
        "distill.rerank={features: [length], files: {oracle: {train: train.txt, valid: valid.txt}}}",
    )
    done(*sets)
    assert not decoded  # the validation set was decoded before
    tuned = weights()
    assert tuned["weights"]["oracle"] > 0
    assert tuned["validation"]["reranked"] == pytest.approx(tuned["validation"]["best"], abs=1.0)
    scores = [float(score) for score in read_lines(Path("train.txt"))]
    candidates, better = usable(), 0
    for row in chosen_rows():
        own = candidates.get(int(row["line"]), [])
        if own:
            better += float(row["oracle"]) >= max(scores[line] for line, _ in own) - 1e-3
    assert better > 0.9 * len(candidates)
    assert manifest(RERANKED)["inputs"]["train.txt"]
    write_lines(Path("train.txt"), ["0"] * len(scores))
    assert "reranked: rebuilt: the input train.txt changed" in done(*sets)


@pytest.mark.usefixtures("finished")
def test_given_weights_need_no_validation_set() -> None:
    sets = (*SETS, "distill.rerank={features: [length], weights: {length: 1.0}}")
    done(*sets)
    assert not VALID.exists()
    lengths: dict[int, list[int]] = {}
    for row in read_lines(MADE / "nbest"):
        number, _, length, failure, _ = row.split("\t")
        if failure == "-":
            lengths.setdefault(int(number), []).append(int(length))
    for row in chosen_rows():
        if row["candidate"] != "-":
            assert int(row["value"]) == max(lengths[int(row["line"])])
    assert verified("--verify-blocks", "0", sets=sets).code == 0
    shortest = (*SETS, "distill.rerank={features: [length], weights: {length: -1.0}}")
    assert "the setting distill.rerank.weights.length changed from 1.0 to -1.0" in done(*shortest)


@pytest.mark.usefixtures("finished")
def test_an_interrupted_tuning_goes_on_from_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = (*SETS, *INLINE, "distill.rerank.features=[score, length]")
    done(*NBEST, *INLINE)
    decoded = watch_decoding(monkeypatch)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rerank_work, "tune_weights", interrupted)
        assert distill(sets=sets).code == 130
    assert sum(decoded) > 0
    decoded.clear()
    done(*sets)
    assert not decoded
    made = (RERANKED / "weights.json").read_bytes(), (RERANKED / "distilled.de").read_bytes()
    done(*sets, "distill.rerank.seed=5")
    done(*sets)
    assert ((RERANKED / "weights.json").read_bytes(), (RERANKED / "distilled.de").read_bytes()) == made


@pytest.mark.usefixtures("finished")
def test_several_different_targets_are_chosen() -> None:
    sets = (*NBEST, "students.near={data: diverse}", "distill.diverse={targets: 2, quality: probability}")
    done(*sets)
    folder = TINY / "diverse"
    names, *rows = (line.split("\t") for line in read_lines(folder / "choices.tsv"))
    assert names[5:] == ["margin", "quality", "similarity"]
    assert {row[1] for row in rows} == {"1", "2"}
    assert len(read_lines(folder / "distilled.de")) == len(rows) > len(read_lines(PREPARED / "train.de"))
    assert verified("--verify-blocks", "0", sets=sets).code == 0
    assert "the setting distill.diverse.balance changed from 0.5 to 0.1" in done(
        *sets[:-1], "distill.diverse.balance=0.1"
    )


@pytest.mark.usefixtures("finished")
def test_sets_that_use_the_expected_utility_depend_on_its_settings() -> None:
    students = ("students.near={data: diverse}", "students.far={data: reranked}", "students.other={data: mbr}")
    weights_of = "distill.rerank={features: [mbr], weights: {mbr: 1.0}}"
    done(*NBEST, *students, weights_of)
    pruned = done(*NBEST, *students, weights_of, "distill.mbr.prune=2")  # has an effect on mbr only
    assert "mbr: rebuilt: the setting distill.mbr.prune changed" in pruned
    assert "diverse: up to date" in pruned
    assert "reranked: up to date" in pruned
    by_bleu = done(*NBEST, *students, weights_of, "distill.mbr.utility=bleu")
    for name in ("diverse", "reranked", "mbr"):
        assert f"{name}: rebuilt: " in by_bleu
    assert by_bleu.count("the setting distill.mbr.utility changed from 'chrf' to 'bleu'") == 3
    assert manifest(TINY / "diverse")["settings"]["bleu_tokenizer"]
    chosen = (TINY / "reranked/distilled.de").read_bytes()
    assert chosen == (TINY / "mbr/distilled.de").read_bytes()
    without = ("distill.rerank={features: [score], weights: {score: 1.0}}", "distill.diverse.quality=probability")
    done(*NBEST, *students, *without)
    again = done(*NBEST, *students, *without, "distill.mbr.utility=bleu")
    assert "diverse: up to date" in again
    assert "reranked: up to date" in again


POOL = ("distill.pool={beam: 2, samples: 5, epsilon: 0.02}", "distill.failures.max_ratio=0")


@pytest.mark.usefixtures("finished")
def test_weights_are_tuned_on_a_pool_of_the_validation_set() -> None:
    sets = (*POOL, "students.near={data: reranked}", "distill.rerank.features=[score, count, mbr]")
    done(*sets)
    rows = [line.split("\t") for line in read_lines(VALID / "nbest")]
    assert {len(row) for row in rows} == {7}  # with the columns of a pool
    drawn: dict[str, int] = {}
    for number, *_, count, _, _ in rows:
        drawn[number] = drawn.get(number, 0) + int(count)
    assert set(drawn.values()) == {5}
    assert set(weights()["weights"]) == {"score", "count", "mbr"}
    counts: dict[int, list[str]] = {}
    for row in read_lines(TINY / "pool/nbest"):
        counts.setdefault(int(row.split("\t")[0]), []).append(row.split("\t")[4])
    for row in chosen_rows():
        if row["candidate"] != "-":
            own = int(counts[int(row["line"])][int(row["candidate"])])
            assert float(row["count"]) == pytest.approx(math.log1p(own), rel=1e-4)
    assert verified("--verify-blocks", "0", sets=sets).code == 0


@pytest.mark.usefixtures("finished")
def test_candidates_are_weighted_by_their_draws() -> None:
    found = []
    for setting in ("weights: equal", "weights: count"):
        sets = (*POOL, "students.near={data: mbr}", f"distill.mbr={{{setting}, top: 2}}")
        done(*sets)
        found.append((TINY / "mbr/choices.tsv").read_text())
    assert found[0] != found[1]
    pool: dict[int, list[tuple[int, str, str]]] = {}
    for row in read_lines(TINY / "pool/nbest"):
        number, _, _, failure, count, _, words = row.split("\t")
        pool.setdefault(int(number), []).append((int(count), failure, words))
    for row in found[1].splitlines()[1:]:
        line, _, place, _, _, utility = row.split("\t")
        if place == "-":
            continue
        own = [(count, words) for count, failure, words in pool[int(line)] if failure == "-"]
        total = sum(count for count, _ in own)
        shares = [count / total if total else 1 / len(own) for count, _ in own]
        words = pool[int(line)][int(place)][2]
        expected = sum(share * sentence_chrf(words, other).value for share, (_, other) in zip(shares, own, strict=True))
        assert float(utility) == pytest.approx(expected, rel=1e-4, abs=1e-4)
