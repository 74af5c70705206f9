"""Tests of the knowledge cache on disk: its format read with only NumPy, earlier blocks, and refused caches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_pipeline import hash_tree

from kdmt.corpus.knowledge_cache import KnowledgeCache, KnowledgeSource, KnowledgeWriter, Shape, fill_records
from kdmt.errors import UserError

V = 24
SIZES = np.array([3, 1, 7, 4, 2, 5, 6, 1, 8, 3, 4], dtype=np.int32)
MADE_FROM = {"teacher": "a" * 64, "train.de.bin": "b" * 64}


def shape_of(*, k: int = 5, block_size: int = 4, temperatures: tuple[float, ...] = (1.0, 2.0)) -> Shape:
    return Shape(k=k, vocab_size=V, temperatures=temperatures, value_type="float32", block_size=block_size)


def distributions(tokens: int, *, seed: int = 1) -> NDArray[np.float64]:
    """Return random probabilities over the vocabulary for each token: [M, V]."""
    return np.random.default_rng(seed).dirichlet(np.full(V, 0.3), size=tokens) * (1 - 1e-6) + 1e-6 / V


def best_of(p_MV: NDArray[np.float64], shape: Shape) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return ids of the k best tokens [M, K] and log-probabilities of them and of the rest [temperatures, M, K + 1]."""
    ids_MK = np.argsort(-p_MV, axis=1)[:, : shape.k]
    log_probs = []
    for temperature in shape.temperatures:
        softer_MV = p_MV ** (1 / temperature)
        softer_MV /= softer_MV.sum(1, keepdims=True)
        best_MK = np.take_along_axis(softer_MV, ids_MK, axis=1)
        log_probs.append(np.log(np.concatenate([best_MK, 1 - best_MK.sum(1, keepdims=True)], axis=1)))
    return ids_MK, np.array(log_probs)


def write_cache(folder: Path, shape: Shape) -> KnowledgeWriter:
    """Write a complete cache of random distributions."""
    writer = KnowledgeWriter(folder, shape, sizes=SIZES, made_from=MADE_FROM)
    for block in range(len(writer)):
        within = writer.sentences(block)
        p_MV = distributions(int(SIZES[within.start : within.stop].sum()), seed=block)
        writer.write(block, fill_records(shape, *best_of(p_MV, shape)), p_MV.sum(0))
    writer.finish()
    return writer


def test_written_records_of_a_sentence_are_read(tmp_path: Path) -> None:
    shape = shape_of()
    writer = write_cache(tmp_path, shape)
    cache = KnowledgeCache(tmp_path)
    np.testing.assert_array_equal(cache.sizes, SIZES)
    totals = np.zeros(V)
    for block in range(len(writer)):
        within = writer.sentences(block)
        p_MV = distributions(int(SIZES[within.start : within.stop].sum()), seed=block)
        ids_MK, log_probs_TMG = best_of(p_MV, shape)
        totals += p_MV.sum(0)
        starts = np.cumsum([0, *SIZES[within.start : within.stop]])
        for place, sentence in enumerate(within):
            rows = slice(starts[place], starts[place + 1])
            records = cache.records(sentence)
            np.testing.assert_array_equal(records["ids"], ids_MK[rows])
            np.testing.assert_allclose(records["log_probs"], log_probs_TMG[:, rows].transpose(1, 0, 2), rtol=1e-6)
    np.testing.assert_allclose(cache.marginal, totals / SIZES.sum(), rtol=1e-6)


def test_sentences_of_several_caches_are_loaded_by_a_common_index(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_cache(tmp_path / name, shape_of(block_size=4 if name == "a" else 3))
    caches = [KnowledgeCache(tmp_path / name) for name in ("a", "b")]
    source = KnowledgeSource(caches, temperature=2.0)
    found = source.load([2, len(SIZES) + 1])
    expected = [caches[0].records(2), caches[1].records(1)]
    np.testing.assert_array_equal(found.ids_MK, np.concatenate([records["ids"] for records in expected]))
    stored = np.concatenate([records["log_probs"][:, 1] for records in expected])
    np.testing.assert_allclose(found.log_probs_MG, stored, atol=1e-5)
    np.testing.assert_allclose(torch.exp(found.log_probs_MG).sum(1), 1.0, atol=1e-6)
    np.testing.assert_allclose(source.marginal, np.mean([cache.marginal for cache in caches], axis=0), rtol=1e-5)


def test_the_marginal_of_a_mixture_follows_the_shares(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_cache(tmp_path / name, shape_of(block_size=4 if name == "a" else 3))
    caches = [KnowledgeCache(tmp_path / name) for name in ("a", "b")]
    caches[1].sizes = np.repeat(SIZES, 2)  # twice as many sentences, as long as the others: without effect on shares
    found = KnowledgeSource(caches, temperature=1.0, shares=(0.75, 0.25)).marginal
    np.testing.assert_allclose(found, 0.75 * caches[0].marginal + 0.25 * caches[1].marginal, rtol=1e-5)


def test_a_block_of_other_sizes_is_refused(tmp_path: Path) -> None:
    shape = shape_of()
    writer = KnowledgeWriter(tmp_path, shape, sizes=SIZES, made_from=MADE_FROM)
    p_MV = distributions(3)
    with pytest.raises(ValueError, match="block 0 has 3 records, its sentences have other sizes"):
        writer.write(0, fill_records(shape, *best_of(p_MV, shape)), p_MV.sum(0))
    assert not writer.is_complete(0)


def test_an_unfinished_cache_is_refused(tmp_path: Path) -> None:
    KnowledgeWriter(tmp_path, shape_of(), sizes=SIZES, made_from=MADE_FROM)
    with pytest.raises(UserError, match="is no knowledge cache, or an unfinished one"):
        KnowledgeCache(tmp_path)


def test_blocks_of_another_origin_are_moved_aside(tmp_path: Path) -> None:
    write_cache(tmp_path / "knowledge", shape_of())
    made = hash_tree(tmp_path / "knowledge" / "blocks")
    for number, name in enumerate(("blocks.old", "blocks.old.2")):
        made_from = {**MADE_FROM, "teacher": f"{number}" * 64}
        KnowledgeWriter(tmp_path / "knowledge", shape_of(), sizes=SIZES, made_from=made_from)
        assert not list((tmp_path / "knowledge" / "blocks").iterdir())
        assert hash_tree(tmp_path / "knowledge" / name) == made  # nothing is deleted
        shutil.copytree(tmp_path / "knowledge" / name, tmp_path / "knowledge" / "blocks", dirs_exist_ok=True)


def test_numpy_reads_a_cache_and_its_size_follows_the_formula(tmp_path: Path) -> None:
    shape = Shape(k=8, vocab_size=V, temperatures=(1.0,), value_type="float16", block_size=4)
    write_cache(tmp_path / "knowledge", shape)
    header = json.loads((tmp_path / "knowledge" / "knowledge.json").read_text())
    blocks = [np.load(tmp_path / "knowledge" / each["file"], mmap_mode="r") for each in header["blocks"]]
    assert header["num_tokens"] == sum(map(len, blocks)) == int(np.sum(SIZES))
    assert shape.bytes_a_token == 8 * 2 + 1 * 9 * 2 == 34
    assert sum(block.nbytes for block in blocks) == 34 * header["num_tokens"]
    assert blocks[0]["log_probs"].dtype == np.float16
    np.testing.assert_allclose(np.exp(blocks[0]["log_probs"].astype(float)).sum((1, 2)), 1.0, atol=5e-3)


def test_another_origin_is_refused_with_its_name(tmp_path: Path) -> None:
    write_cache(tmp_path / "knowledge", shape_of())
    cache = KnowledgeCache(tmp_path / "knowledge")
    cache.check(MADE_FROM)
    with pytest.raises(UserError, match=r"another train\.de\.bin"):
        cache.check({**MADE_FROM, "train.de.bin": "0" * 64})
    with pytest.raises(UserError, match=r"has temperature 1, 2, not 4"):
        cache.temperature(4.0)
    assert cache.temperature(2.0) == 1


@pytest.mark.parametrize("damage", ["short", "missing", "version", "json"])
def test_a_damaged_cache_is_refused(tmp_path: Path, damage: str) -> None:
    write_cache(tmp_path / "knowledge", shape_of())
    block, header = tmp_path / "knowledge" / "blocks" / "000001.npy", tmp_path / "knowledge" / "knowledge.json"
    if damage == "short":
        block.write_bytes(block.read_bytes()[:-10])
    elif damage == "missing":
        block.unlink()
    elif damage == "version":
        header.write_text(header.read_text().replace('"version": 1', '"version": 2'))
    else:
        header.write_text("{")
    path = block if damage in ("short", "missing") else header
    with pytest.raises(UserError, match=path.name.replace(".", r"\.")):
        KnowledgeCache(tmp_path / "knowledge")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("k", value) for value in (0, -1, 10**9, "5", 1.5, None)),
        *(("vocab_size", value) for value in (0, 10**12, None)),
        *(("block_size", value) for value in (0, -4, 10**12, "4", 3)),
        *(("temperatures", value) for value in ([0.0, 1.0], ["1"], 1.0, None, [True, 2.0])),
        *(("value_type", value) for value in ("object", None, "float16")),
        *(("num_sentences", value) for value in (-1, 10**9, None)),
        *(("num_tokens", value) for value in (0, "9", None)),
        *(("made_from", value) for value in ([], {"a": 1}, None)),
        *(("blocks", value) for value in (None, [], [1], [{"file": "../sizes.npy", "num_tokens": 1}])),
        *(("blocks", [{"file": "blocks/000000.npy", "num_tokens": value}]) for value in (-1, 10**12, "1")),
    ],
)
def test_invalid_headers_are_refused(tmp_path: Path, name: str, value: object) -> None:
    write_cache(tmp_path / "knowledge", shape_of())
    path = tmp_path / "knowledge" / "knowledge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(UserError, match=r"knowledge/.*: "):
        KnowledgeCache(tmp_path / "knowledge")


@pytest.mark.parametrize("name", ["sizes.npy", "blocks/000001.npy"])
@pytest.mark.parametrize("content", [b"", b"garbage", "object", "pickle", "two", "negative"])
def test_invalid_arrays_are_refused(tmp_path: Path, name: str, content: bytes | str) -> None:
    write_cache(tmp_path / "knowledge", shape_of())
    path = tmp_path / "knowledge" / name
    array = np.load(path)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        others = {
            "object": np.array([{}], dtype=object),
            "pickle": np.array([None] * len(array), dtype=object),
            "two": np.stack([array, array]),
            "negative": -np.arange(len(array), dtype="<i4"),
        }
        np.save(path, others[content])
    with pytest.raises(UserError, match=path.name.replace(".", r"\.")):
        KnowledgeCache(tmp_path / "knowledge")


def test_invalid_records_are_refused(tmp_path: Path) -> None:
    write_cache(tmp_path / "knowledge", shape_of())
    path = tmp_path / "knowledge" / "blocks" / "000000.npy"
    good = np.load(path)
    for field, value in (("ids", V), ("log_probs", np.nan)):
        records = good.copy()
        records[field][0].flat[0] = value
        np.save(path, records)
        cache = KnowledgeCache(tmp_path / "knowledge")
        cache.records(1)
        with pytest.raises(UserError, match=r"000000\.npy: damaged: sentence 0 has an id beyond the vocabulary's 24"):
            cache.records(0)
        with pytest.raises(UserError, match="damaged"):
            KnowledgeSource([cache], temperature=1.0).load([0, 1])


@pytest.mark.parametrize("value", [np.nan, -0.5, np.inf])
def test_a_marginal_that_is_not_a_distribution_is_refused(tmp_path: Path, value: float) -> None:
    write_cache(tmp_path / "knowledge", shape_of())
    path = tmp_path / "knowledge" / "marginal.npy"
    marginal = np.load(path)
    marginal[3] = value
    np.save(path, marginal)
    with pytest.raises(UserError, match=r"marginal\.npy: damaged: not the probabilities"):
        _ = KnowledgeCache(tmp_path / "knowledge").marginal
