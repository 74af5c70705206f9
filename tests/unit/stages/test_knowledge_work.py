"""A cache filled by the knowledge stage, compared with the teacher's predictions for each sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pipeline import hash_tree, kdmt
from training_runs import end_before_the_manifest

from kdmt.corpus.batching import open_split
from kdmt.corpus.knowledge_cache import KnowledgeCache
from kdmt.languages import Direction
from kdmt.models.checkpoint import load_model

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


@pytest.mark.usefixtures("finished")
def test_k_above_the_vocabulary_size_is_refused() -> None:
    refused = kdmt("knowledge", "tiny.yaml", *STUDENT, "--set", "knowledge.k=1000")
    assert refused.code == 2
    assert "knowledge.k (1000) is not less than the vocabulary's" in refused.err
    assert not CACHE.exists()
