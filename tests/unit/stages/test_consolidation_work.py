"""Fine-tuning with elastic weight consolidation, as runs of the tiny pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from bad_input import refused
from safetensors.numpy import load_file
from tiny_pipeline import kdmt
from training_runs import RAW, TEACHER, TINY, results, stop_after_checkpoint_2, student, weights

from kdmt.stages.consolidation_work import FISHER

BEGIN = f"students.raw.train.init_from={TEACHER}/checkpoint_40"


def consolidated(weight: float, prepared: str = "runs/tiny/prepare", pairs: int = 20) -> str:
    return f"students.raw.train.ewc={{weight: {weight}, prepared: {prepared}, pairs: {pairs}}}"


def distance() -> float:
    """Return the distance of the last checkpoint to the first weights, in units of the Fisher information."""
    first, last, fisher = weights(TEACHER / "checkpoint_40"), weights(RAW / "checkpoint_4"), load_file(RAW / FISHER)
    return sum(float((fisher[name] * (last[name] - first[name]) ** 2).sum()) for name in fisher)


@pytest.mark.usefixtures("finished")
def test_a_larger_weight_keeps_the_model_nearer_and_resumes_exactly() -> None:
    distances = []
    for weight in (1e-9, 1e3):
        result = student("raw", BEGIN, consolidated(weight))
        assert result.code == 0, result.err
        distances.append(distance())
    assert distances[1] < distances[0] / 2
    expected, node = results(RAW), (RAW / FISHER).stat().st_ino
    stop_after_checkpoint_2()
    result = student("raw", BEGIN, consolidated(1e3))
    assert "going on from checkpoint_2" in result.err
    assert results(RAW) == expected
    assert (RAW / FISHER).stat().st_ino == node


@pytest.mark.usefixtures("finished")
def test_the_text_is_an_input_and_its_pairs_are_evenly_spread() -> None:
    assert student("raw", BEGIN, consolidated(1.0, pairs=10_000)).code == 0
    every = load_file(RAW / FISHER)
    assert every.keys() == weights(TEACHER / "checkpoint_40").keys()
    assert student("raw", BEGIN, consolidated(1.0, pairs=2)).code == 0
    some = load_file(RAW / FISHER)
    assert any(not np.array_equal(some[name], every[name]) for name in every)
    shutil.copytree(TINY / "prepare", "other")
    done = student("raw", BEGIN, consolidated(1.0, prepared="other"))
    assert "the setting students.raw.train.ewc.prepared changed" in done.err


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            (consolidated(1.0),),
            "'students.raw.train.ewc' has no effect without weights to stay near: 'train.init_from'",
        ),
        (
            (BEGIN, consolidated(1.0, prepared="runs/none/prepare")),
            "students.raw.train.ewc.prepared: runs/none/prepare is not the folder of a complete prepare stage",
        ),
        (
            (BEGIN, consolidated(1.0), "students.raw.nat={family: ctc, upsample: 2}"),
            "'train.ewc' is for autoregressive students: leave out 'nat'",
        ),
        (
            (BEGIN, consolidated(1.0), "students.raw.train.parallel=fsdp"),
            "'ewc' needs whole weights, which 'parallel: fsdp' shards",
        ),
        ((BEGIN, consolidated(0.0)), "students.raw.train.ewc.weight"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(sets: tuple[str, ...], message: str) -> None:
    assert message in refused("student", "tiny.yaml", "--student", "raw", sets=sets)


@pytest.mark.usefixtures("finished")
def test_fisher_of_packed_training_is_that_of_padded_training() -> None:
    found = []
    for packing in ("false", "true"):
        sets = (f"students.raw.train.packing={packing}", "students.raw.model.attention_dropout=0")
        result = student("raw", BEGIN, consolidated(1.0, pairs=5), *sets)
        assert result.code == 0, result.err
        found.append(load_file(RAW / FISHER))
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-4, atol=1e-9)


@pytest.mark.usefixtures("finished")
def test_text_with_another_dictionary_is_refused() -> None:
    shutil.copytree(TINY / "prepare", "other")
    path = Path("other/dict.de.txt")
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    message = refused("student", "tiny.yaml", "--student", "raw", sets=(BEGIN, consolidated(1.0, prepared="other")))
    assert "students.raw.train.ewc.prepared: other/dict.de.txt does not match" in message


@pytest.mark.usefixtures("finished")
def test_a_stage_stays_near_the_weights_of_the_stage_before() -> None:
    ewc = "ewc: {weight: 1.0, prepared: runs/tiny/prepare, pairs: 5}"
    done = kdmt(
        *("student", "tiny.yaml", "--student", "raw"),
        *("--set", f"students.raw.stages=[{{}}, {{data: distilled, {ewc}}}]"),
    )
    assert done.code == 0, done.err
    assert "ewc: computed the Fisher information" in done.err
    assert (RAW / "stage_2" / FISHER).is_file()
    assert not (RAW / "stage_1" / FISHER).exists()
