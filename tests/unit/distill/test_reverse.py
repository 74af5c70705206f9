"""Tests of filtering sentence pairs by a reverse model, against cross entropies computed with PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bad_input import refused, unharmed
from distilled_pipeline import (
    MADE,
    MBR,
    NBEST,
    TINY,
    done,
    manifest,
    rejected,
)
from tiny_pipeline import (
    hash_tree,
    kdmt,
    read_lines,
)

from kdmt.corpus.codec import TextCodec
from kdmt.corpus.indexed import IndexedDataset
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import resolve_checkpoint

REVERSE = "distill.reverse={checkpoint: runs/reverse/teacher, drop_percent: 12}"


def cross_entropies(sources: list[str], targets: list[str]) -> np.ndarray:
    """Return the cross entropies of the sources given the targets, in nats per token, computed with PyTorch."""
    checkpoint = resolve_checkpoint(Path("runs/reverse/teacher"))
    codec, engine = TextCodec.load(checkpoint), TorchEngine(load_model(checkpoint))
    found = engine.score_pairs(codec.encode_source(targets), codec.encode_target(sources))
    return np.array([-each.sum(dtype=np.float64) / len(each) for each in found])


@pytest.mark.usefixtures("reverse")
def test_pairs_of_highest_cross_entropy_are_dropped() -> None:
    sources, targets = read_lines(MADE / "distilled.en"), read_lines(MADE / "distilled.de")
    before = manifest()["facts"]
    assert "distill: rebuilt: the " in done(REVERSE)
    entropies = np.load(MADE / "reverse.npy")
    assert entropies.dtype == np.float32
    assert entropies == pytest.approx(cross_entropies(sources, targets), rel=1e-3, abs=1e-3)
    worst = sorted(np.argsort(entropies, kind="stable")[-9:].tolist())  # 12% of 80 lines
    assert [index for index, failure, what in rejected(MADE) if (failure, what) == ("reverse", "dropped")] == worst
    assert [index for index, *_ in rejected(MADE)] == sorted(index for index, *_ in rejected(MADE))
    left = [index for index in range(80) if index not in worst]
    assert read_lines(MADE / "distilled.en") == [sources[index] for index in left]
    assert read_lines(MADE / "distilled.de") == [targets[index] for index in left]
    facts = manifest()["facts"]
    assert facts["num_lines"] == len(left) == len(IndexedDataset(MADE / "data-bin/train.en-de.de"))
    assert facts["failures"] == before["failures"] | {"reverse": 9}
    assert facts["dropped"] == before["dropped"] | {"reverse": 9}
    assert "reverse.npy" in manifest()["outputs"]
    assert "blocks are there" in done("distill.reverse={checkpoint: runs/reverse/teacher, drop_percent: 50}")
    assert manifest()["facts"]["num_lines"] == 40
    done()
    assert manifest()["facts"] == before


@pytest.mark.usefixtures("reverse")
def test_reverse_model_scores_the_chosen_targets() -> None:
    done(*NBEST, "students.near={data: mbr}", REVERSE)
    assert sum(failure == "reverse" for _, failure, _ in rejected(MBR)) == 9
    assert manifest(MBR)["facts"]["num_lines"] == 80 - 9
    assert manifest(MBR)["inputs"]["runs/reverse/teacher"]
    made, times = hash_tree(TINY), [(folder / "reverse.npy").stat().st_mtime_ns for folder in (MADE, MBR)]
    sets = [part for setting in (*NBEST, "students.near={data: mbr}", REVERSE) for part in ("--set", setting)]
    result = kdmt("distill", "tiny.yaml", "--verify", *sets)
    assert result.code == 0, result.err
    assert hash_tree(TINY) == made
    assert [(folder / "reverse.npy").stat().st_mtime_ns for folder in (MADE, MBR)] == times
    done(*NBEST, "students.near={data: mbr}")
    assert not (MBR / "reverse.npy").exists()


@pytest.mark.usefixtures("reverse")
def test_empty_translations_are_reported_although_pairs_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchEngine, "decode", lambda _, sources, *__, **___: [[] for _ in sources])
    sets = (REVERSE, "distill.failures.empty=keep", "distill.block_size=50")
    message = refused("distill", "tiny.yaml", sets=sets)
    assert message.startswith("distill: none of 80 sentences has a translation to train on; failures: empty 80")


@pytest.mark.usefixtures("reverse")
def test_reverse_model_of_another_direction_or_text_is_refused() -> None:
    with unharmed():
        message = refused("distill", "tiny.yaml", sets=("distill.reverse={checkpoint: runs/tiny/teacher}",))
    assert message == "distill.reverse.checkpoint: runs/tiny/teacher translates en to de, not de to en"
    path = resolve_checkpoint(Path("runs/reverse/teacher")) / "text.json"
    text = json.loads(path.read_text(encoding="utf-8"))
    text["text"]["lowercase"] = True
    path.write_text(json.dumps(text), encoding="utf-8")
    with unharmed():
        message = refused("distill", "tiny.yaml", sets=(REVERSE,))
    assert message.startswith("distill.reverse.checkpoint: runs/reverse/teacher was trained on other text: moses False")
    with unharmed():
        message = refused("distill", "tiny.yaml", sets=("distill.reverse={checkpoint: nowhere}",))
    nothing = "neither a checkpoint folder nor a run that has one: there is no such file or folder"
    assert message == f"nowhere: {nothing}"
