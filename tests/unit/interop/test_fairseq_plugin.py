"""Tests of the plug-in's modules without fairseq, against kdmt; tests/pipeline/test_fairseq.py runs it in fairseq."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pipeline import kdmt

from kdmt.checksum import file_sha256
from kdmt.corpus.knowledge_cache import KnowledgeCache, KnowledgeSource, KnowledgeWriter, Shape, fill_records
from kdmt.losses.cross_entropy import projected_loss
from kdmt.losses.divergences import divergence
from kdmt.losses.word_kd import BestTokens, WordKDLoss

FOLDER = Path(kdmt("fairseq-plugin").out.strip())
V, K = 23, 4
SIZES = np.array([3, 1, 5, 2, 4], dtype=np.int32)


def load(name):
    """Load a module of the plug-in without its package, which imports fairseq."""
    spec = importlib.util.spec_from_file_location(f"plugin_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cache_module, losses = load("cache"), load("losses")


def random_distributions(tokens, temperatures, seed=0):
    """Return ids [M, K] and log-probabilities [T, M, K + 1] of random distributions."""
    logits = torch.randn(tokens, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    ids = logits.topk(K).indices
    every = []
    for temperature in temperatures:
        probs = (logits / temperature).softmax(1)
        best = probs.gather(1, ids)
        every.append(torch.cat([best, 1 - best.sum(1, keepdim=True)], dim=1).log())
    return ids, torch.stack(every)


@pytest.fixture
def cache(tmp_path):
    """Write a cache of two temperatures in three blocks; the teacher could not read sentence 2."""
    shape = Shape(k=K, vocab_size=V, temperatures=(1.0, 2.0), value_type="float16", block_size=2)
    writer = KnowledgeWriter(tmp_path / "cache", shape, sizes=SIZES, made_from={"teacher/average": "0" * 64})
    ids, log_probs = random_distributions(int(SIZES.sum()), shape.temperatures)
    records = fill_records(shape, ids.numpy(), log_probs.numpy())
    records[4:9] = np.zeros(5, dtype=shape.record)
    ends = np.cumsum(SIZES)
    for block in range(len(writer)):
        within = writer.sentences(block)
        writer.write(block, records[ends[within.start] - SIZES[within.start] : ends[within.stop - 1]], np.ones(V))
    writer.finish()
    return tmp_path / "cache"


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_cache_is_read_as_kdmt_reads_it(cache, temperature):
    indices = [4, 0, 2, 3]
    ids, log_probs, known = cache_module.KnowledgeCache(cache, temperature).read(indices)
    expected = KnowledgeSource([KnowledgeCache(cache)], temperature=temperature).load(indices)
    assert np.array_equal(ids, expected.ids_MK.numpy())
    assert np.allclose(log_probs, expected.log_probs_MG.numpy(), atol=1e-6)
    assert known.tolist() == [True] * 7 + [False] * 5 + [True] * 2


def damage_header(folder, **changes):
    path = folder / "knowledge.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "knowledge.json").unlink(), "no knowledge cache, or an unfinished one"),
        (lambda folder: damage_header(folder, version=2), "not version 1 of the format kdmt-knowledge"),
        (lambda folder: damage_header(folder, temperatures=[2.0]), "has temperature 2, not 1"),
        (
            lambda folder: (folder / "blocks" / "000001.npy").unlink(),
            "01.npy: the knowledge cache's block is missing",
        ),
        (lambda folder: np.save(folder / "blocks" / "000001.npy", np.zeros(1)), "damaged: 1 records, 7 tokens"),
    ],
)
def test_invalid_cache_is_refused(cache, damage, message):
    damage(cache)
    with pytest.raises(ValueError, match=message):
        cache_module.KnowledgeCache(cache, 1.0)


@pytest.fixture
def data_bin(tmp_path):
    """Write the files that the cache is made from; the training set has two files."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in (
        ("dict.de.txt", b"a 1\n"),
        ("train.de-en.de.bin", b"first"),
        ("train1.en-de.de.bin", b"second"),
        ("train.en-de.en.bin", b"source"),
    ):
        (folder / name).write_bytes(content)
    (tmp_path / "joined").write_bytes(b"firstsecond")
    return folder


def test_cache_of_other_data_is_refused(cache, data_bin, tmp_path):
    opened = cache_module.KnowledgeCache(cache, 1.0)
    opened.made_from = {
        "dict.de.txt": file_sha256(data_bin / "dict.de.txt"),
        "data-bin/train.en-de.de.bin": file_sha256(tmp_path / "joined"),
        "data-bin/train.en-de.en.bin": file_sha256(data_bin / "train.en-de.en.bin"),
        "data-bin/train.en-de.de.idx": "not looked at",
        "teacher/average": "neither",
    }
    cache_module.check_data(opened, data_bin, "en", "de")
    with pytest.raises(ValueError, match=r"is of data-bin/train.en-de.de.bin, not of en-fr"):
        cache_module.check_data(opened, data_bin, "en", "fr")
    (data_bin / "train1.en-de.de.bin").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"made for another data-bin/train.en-de.de.bin than .*train1.en-de.de.bin"):
        cache_module.check_data(opened, data_bin, "en", "de")
    (data_bin / "dict.de.txt").write_bytes(b"b 1\n")
    with pytest.raises(ValueError, match=r"made for another dict.de.txt"):
        cache_module.check_data(opened, data_bin, "en", "de")


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_loss_and_gradient_equal_kdmt(alpha, temperature):
    generator = torch.Generator().manual_seed(1)
    logits = (torch.randn(9, V, generator=generator, dtype=torch.float64) * 2).requires_grad_()
    targets = torch.randint(4, V, (9,), generator=generator)
    ids, log_probs = random_distributions(9, [temperature])
    own = WordKDLoss(
        targets_M=targets,
        epsilon=0.1,
        alpha=alpha,
        divergence=divergence("kl"),
        teacher=BestTokens(ids, log_probs[0]),
        temperature=temperature,
    )
    expected, others = projected_loss(logits, torch.eye(V, dtype=torch.float64), own)
    (expected_gradient,) = torch.autograd.grad(expected, logits)

    student_log_probs = logits.log_softmax(1)
    cross_entropy, nll = losses.smoothed_cross_entropy(student_log_probs, targets, 0.1)
    pull = losses.group_divergence(student_log_probs, ids, log_probs[0], temperature)
    found = ((1 - alpha) * cross_entropy + alpha * pull).sum()
    (gradient,) = torch.autograd.grad(found, logits)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-9)
    assert float(nll.detach().sum()) == pytest.approx(float(others[0]), abs=1e-9)
    assert float(pull.detach().sum()) == pytest.approx(float(others[1]), abs=1e-9)
    assert torch.allclose(gradient, expected_gradient, atol=1e-9)


def test_gradient_is_finite_if_the_rest_has_almost_no_mass():
    logits = torch.full((1, V), -80.0)
    logits[0, :K] = 0.0
    logits.requires_grad_()
    teacher = torch.tensor([[0.2] * (K + 1)]).log()
    pull = losses.group_divergence(logits.log_softmax(1), torch.arange(K)[None], teacher, 1.0)
    pull.sum().backward()
    assert torch.isfinite(pull).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_plugin_is_python_3_8_and_does_not_import_kdmt(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] == "kdmt" for name in names)


def test_parent_folder_contains_only_the_plugin():
    """fairseq inserts the parent folder at the start of `sys.path`: other files there could hide modules."""
    assert [path.name for path in FOLDER.parent.iterdir() if path.name != "__pycache__"] == [FOLDER.name]
