"""The filter of training sets by an external scorer, on the tiny pipeline."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_input import unharmed
from distilled_pipeline import MADE, MBR, NBEST, PREPARED, distill, done, manifest, rejected, verified
from tiny_pipeline import WORDS, read_lines, settings, to_yaml

# the number of characters of a segment, with a fraction so that scores differ; `given` has a line for each segment
PROGRAM = """
import json, sys, zlib
print(json.dumps({"scorer": "size", "signature": "size|v:1", "licence": "CC-BY-NC-SA-4.0"}), flush=True)
for line in sys.stdin:
    if line.strip():
        with open("given", "a") as file:
            file.write(line)
        each = json.loads(line)
        text = each["source"] + "|" + each["hypothesis"] + "|" + each.get("reference", "")
        print(json.dumps({"id": each["id"], "score": len(text) + zlib.crc32(text.encode()) / 2**32}), flush=True)
"""


@pytest.fixture
def filtered(finished: Path) -> Path:
    """Enter a finished pipeline with a scorer; the filter is not set."""
    Path("size.py").write_text(PROGRAM)
    document = settings()
    document["scorers"] = {"size": {"command": [sys.executable, "-I", "-S", "size.py"], "range": [0, 1000]}}
    document["score"]["scorers"] = []
    Path("tiny.yaml").write_text(to_yaml(document), encoding="utf-8")
    return finished


def quality(limits: str) -> str:
    return f"distill.quality={{scorer: size, {limits}}}"


def pairs(folder: Path = MADE) -> list[tuple[str, str]]:
    return list(zip(*(read_lines(folder / f"distilled.{lang}") for lang in ("en", "de")), strict=True))


def scores(folder: Path = MADE) -> np.ndarray:
    return np.load(folder / "quality.npy")


def facts(folder: Path = MADE) -> dict[str, Any]:
    return manifest(folder)["facts"]["quality"]


@pytest.mark.usefixtures("filtered")
def test_the_worst_pairs_are_dropped_and_noted() -> None:
    before, indices_before = pairs(), rejected(MADE)
    err = done(quality("drop_percent: 25.0"))
    assert "quality by size: 20 of 80 pairs dropped" in err
    found = scores()
    assert len(found) == 80
    worst = set(np.argsort(found)[:20].tolist())
    assert pairs() == [pair for index, pair in enumerate(before) if index not in worst]
    noted = [(index, failure, what) for index, failure, what in rejected(MADE) if failure == "quality"]
    assert noted == [(index, "quality", "dropped") for index in sorted(worst)]
    assert [row for row in rejected(MADE) if row[1] != "quality"] == indices_before
    made = manifest()
    assert made["facts"]["dropped"]["quality"] == 20
    assert {"quality.npy", "quality.html"} <= made["outputs"].keys()


@pytest.mark.usefixtures("filtered")
def test_the_manifest_and_the_page_have_a_histogram_and_ten_examples() -> None:
    before = pairs()
    done(quality("drop_percent: 50.0"))
    found, values = facts(), scores()
    assert (found["scorer"], found["licence"]) == ("size", "CC-BY-NC-SA-4.0")
    assert found["signature"] == "size|v:1|nrefs:0|licence:CC-BY-NC-SA-4.0"
    assert (found["num_scored"], found["num_dropped"], found["direction"]) == (80, 40, "higher")
    assert found["mean"] == pytest.approx(values.mean())
    assert found["mean_kept"] == pytest.approx(np.sort(values)[40:].mean())
    edges, counts = found["histogram"]["edges"], found["histogram"]["counts"]
    assert sum(counts) == 80
    inside = [(values >= low) & (values < high) for low, high in itertools.pairwise(edges)]
    assert [int(mask.sum()) for mask in inside[:-1]] == counts[:-1]
    assert len(found["examples"]) == 10
    given = [each["score"] for each in found["examples"]]
    assert given == sorted(given)
    assert given[0] == values.min()
    assert given[-1] == np.sort(values)[39]
    for each in found["examples"]:
        assert (each["source"], each["target"]) == before[values.tolist().index(each["score"])]
    page = (MADE / "quality.html").read_text(encoding="utf-8")
    assert all(each["source"] in page for each in found["examples"])
    assert "licence of the model: CC-BY-NC-SA-4.0" in page
    assert "<svg" in page


@pytest.mark.parametrize("direction", ["higher", "lower"])
@pytest.mark.usefixtures("filtered")
def test_the_limit_is_the_worst_score_that_is_kept(direction: str) -> None:
    done(quality("drop_percent: 1.0"))
    limit = float(np.median(scores()))
    done(quality(f"min_quality: {limit!r}"), f"scorers.size.direction={direction}")
    values = scores()
    kept = values >= limit if direction == "higher" else values <= limit
    assert len(pairs()) == kept.sum()
    assert 30 <= kept.sum() <= 50
    given = [each["score"] for each in facts()["examples"]]
    assert given == sorted(given, reverse=direction == "lower")


@pytest.mark.usefixtures("filtered")
def test_each_pair_is_scored_once_and_nothing_is_decoded_again() -> None:
    different = len(set(pairs()))
    done(quality("drop_percent: 10.0"))
    assert len(Path("given").read_text().splitlines()) == different
    err = done(quality("drop_percent: 20.0"))
    assert "3 of 3 blocks are there" in err
    assert len(Path("given").read_text().splitlines()) == different


@pytest.mark.usefixtures("filtered")
def test_scorers_are_given_references_and_finished_text() -> None:
    done(quality("drop_percent: 10.0"), "scorers.size.reference=true")
    given = [json.loads(line) for line in Path("given").read_text(encoding="utf-8").splitlines()]
    prepared = zip(*(read_lines(PREPARED / f"train.{lang}") for lang in ("en", "de")), strict=True)
    assert {(each["source"], each["reference"]) for each in given} == set(prepared)


@pytest.mark.usefixtures("filtered")
def test_references_of_text_with_noise_are_changed_as_the_sources_are() -> None:
    sets = (quality("drop_percent: 10.0"), "scorers.size.reference=true", "distill.augment={merged: 0.5}")
    done(*sets)
    given = [json.loads(line) for line in Path("given").read_text(encoding="utf-8").splitlines()]
    assert len({each["source"] for each in given} - set(read_lines(PREPARED / "train.en"))) > 10
    for each in given:
        assert each["reference"] == " ".join(WORDS[word] for word in each["source"].split())
    record = manifest()
    del record["settings"]["references of distill.quality"]  # as in earlier versions, which read other references
    (MADE / "manifest.json").write_text(json.dumps(record), encoding="utf-8")
    assert "an earlier version read other references" in done(*sets)
    assert "up to date" in done(*sets)


@pytest.mark.usefixtures("filtered")
def test_another_choice_among_the_hypotheses_is_filtered_too() -> None:
    done("students.mbr={data: mbr}", *NBEST, quality("drop_percent: 50.0"))
    for folder in (MADE, MBR):
        assert len(pairs(folder)) == 40
        assert facts(folder)["num_dropped"] == 40


@pytest.mark.usefixtures("filtered")
def test_a_filtered_set_is_up_to_date_and_verified() -> None:
    done(quality("drop_percent: 10.0"))
    with unharmed():
        again = distill(sets=(quality("drop_percent: 10.0"), "scorers.size.batch_size=3"))
    assert "up to date" in again.err
    assert verified(sets=(quality("drop_percent: 10.0"),)).code == 0


@pytest.mark.usefixtures("filtered")
def test_a_failure_of_the_scorer_is_one_message_and_a_rerun_goes_on() -> None:
    setting = quality("drop_percent: 10.0")
    Path("size.py").write_text(
        PROGRAM.replace("len(text)", '(1 if len(given) < 50 else float("nan"))')
        .replace("for line", "given = []\nfor line")
        .replace("if line.strip():", "if line.strip():\n        given.append(line)")
    )
    result = distill(sets=(setting, "scorers.size.batch_size=20"))
    assert result.code == 2
    assert "scorers.size: segment 50" in result.err
    assert "NaN is no number" in result.err
    Path("size.py").write_text(PROGRAM)
    done(setting)
    assert facts()["num_dropped"] == 8


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("distill.quality={scorer: other, drop_percent: 1.0}", "'distill.quality.scorer': 'other': 'scorers' has size"),
        ("distill.quality={scorer: size}", "give 'min_quality' or 'drop_percent'"),
        ("distill.quality={scorer: size, drop_percent: 100.0}", "distill.quality.drop_percent"),
    ],
)
@pytest.mark.usefixtures("filtered")
def test_limits_that_cannot_be_are_refused(setting: str, expected: str) -> None:
    with unharmed():
        result = distill(sets=(setting,))
    assert result.code == 2
    assert expected in result.err
