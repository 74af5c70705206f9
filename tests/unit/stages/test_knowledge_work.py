"""A cache filled by the knowledge stage, compared with the teacher's predictions for each sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pipeline import hash_tree, kdmt
from training_runs import end_before_the_manifest

from kdmt.corpus.batching import open_split
from kdmt.corpus.knowledge_cache import KnowledgeCache
from kdmt.distill.teacher_forcing import CacheTask
from kdmt.languages import Direction
from kdmt.models.checkpoint import load_model
from kdmt.stages import knowledge_work
from kdmt.workers.open import open_processes
from kdmt.workers.processes import Processes
from kdmt.workers.tasks import Failed

CACHE = Path("runs/tiny/knowledge/raw")
STUDENT = ("--set", "students.raw.word_kd={source: cache}")
SETTINGS = ("--set", "knowledge={k: 4, block_size: 30, threads: 1}")


@pytest.mark.usefixtures("finished")
def test_the_cache_has_the_teachers_most_probable_tokens() -> None:
    made = kdmt("knowledge", "tiny.yaml", *STUDENT, *SETTINGS)
    assert made.code == 0, made.err
    teacher = load_model(Path("runs/tiny/teacher/average")).eval()
    pairs, cache = open_split(Path("runs/tiny/prepare/data-bin"), "train", Direction("en", "de")), KnowledgeCache(CACHE)
    for index in (0, 31, len(pairs) - 1):
        source, target = pairs[index]
        assert target is not None
        prev = torch.tensor([[2, *target[:-1].tolist()]])
        with torch.no_grad():
            log_probs = teacher(torch.tensor([source.tolist()]), prev)[0].log_softmax(-1)
        expected = log_probs.topk(4)
        records = cache.records(index)
        assert np.array_equal(records["ids"], expected.indices.numpy())
        np.testing.assert_allclose(records["log_probs"][:, 0, :4], expected.values.numpy(), atol=0.01)
    facts = json.loads((CACHE / "manifest.json").read_text())["facts"]
    assert facts["num_tokens"] == int(cache.sizes.sum())
    assert 4 / teacher.tgt_vocab_size < facts["mass_of_best"] < 1.0


@pytest.mark.usefixtures("finished")
def test_a_killed_and_resumed_stage_gives_the_same_cache() -> None:
    assert kdmt("knowledge", "tiny.yaml", *STUDENT, *SETTINGS).code == 0
    whole = hash_tree(CACHE)
    end_before_the_manifest(CACHE)
    for name in ("knowledge.json", "blocks/000001.npy"):
        (CACHE / name).unlink()
    assert kdmt("knowledge", "tiny.yaml", *STUDENT, *SETTINGS).code == 0
    assert hash_tree(CACHE) == whole


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stage find two GPUs, whose workers compute on the CPU."""
    monkeypatch.setattr(knowledge_work, "devices_of", lambda _: ["cuda:0", "cuda:1"])

    def open_two(folder: Path, *, device: str, workers: int, threads: int) -> Processes:
        assert (device, workers, threads) == ("auto", 0, 1)  # 0 workers are one for each GPU
        return open_processes(folder, device="cpu", workers=2, threads=threads)

    monkeypatch.setattr(knowledge_work, "open_processes", open_two)


@pytest.mark.slow
@pytest.mark.usefixtures("finished", "two_gpus")
def test_a_worker_for_each_gpu_gives_the_cache_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kdmt("knowledge", "tiny.yaml", *STUDENT, *SETTINGS).code == 0
    parallel = {name: sha for name, sha in hash_tree(CACHE).items() if not name.startswith("logs/")}
    assert len([name for name in parallel if name.startswith("blocks/")]) == 3
    assert len(list((CACHE / "logs").iterdir())) == 2
    shutil.rmtree(CACHE)
    monkeypatch.setattr(knowledge_work, "devices_of", lambda _: ["cpu"])
    assert kdmt("knowledge", "tiny.yaml", *STUDENT, *SETTINGS).code == 0
    assert parallel == hash_tree(CACHE)


@pytest.mark.usefixtures("finished", "two_gpus")
def test_blocks_that_fail_are_an_error_and_the_cache_is_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    class FailingExecutor:
        def run(self, filler: object, tasks: Sequence[CacheTask], progress: object) -> list[Failed]:  # noqa: ARG002
            return [Failed(task, "the GPU is lost", attempts=3) for task in tasks[1:]]

    monkeypatch.setattr(knowledge_work, "open_processes", lambda *_, **__: FailingExecutor())
    failed = kdmt("knowledge", "tiny.yaml", *STUDENT, *SETTINGS)
    assert failed.code != 0
    assert "knowledge of raw: 2 blocks failed; block 1: the GPU is lost" in failed.err
    assert not (CACHE / "manifest.json").exists()
    assert not (CACHE / "knowledge.json").exists()


@pytest.mark.usefixtures("finished")
def test_k_above_the_vocabulary_size_is_refused() -> None:
    refused = kdmt("knowledge", "tiny.yaml", *STUDENT, "--set", "knowledge.k=1000")
    assert refused.code == 2
    assert "knowledge.k (1000) is not less than the vocabulary's" in refused.err
    assert not CACHE.exists()
