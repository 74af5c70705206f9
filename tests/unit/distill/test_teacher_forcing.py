"""Filling the knowledge cache: against each sentence read alone, after kills, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pipeline import hash_tree

from kdmt.corpus.batching import ParallelData, open_parallel
from kdmt.corpus.indexed import IndexedWriter
from kdmt.corpus.knowledge_cache import KnowledgeCache, KnowledgeSource, KnowledgeWriter, Shape
from kdmt.distill.teacher_forcing import fill_cache
from kdmt.errors import UserError
from kdmt.models.architecture import architecture
from kdmt.models.build import build_transformer
from kdmt.models.transformer import Transformer
from kdmt.types import EOS

V, PAIRS = 24, 11
MADE_FROM = {"teacher": "a" * 64, "train.de.bin": "b" * 64}
SMALL = {
    f"{side}_{field}": value
    for side in ("encoder", "decoder")
    for field, value in {"layers": 1, "embed_dim": 8, "ffn_embed_dim": 16, "attention_heads": 2}.items()
}


def teacher(seed: int = 1) -> Transformer:
    torch.manual_seed(seed)
    return build_transformer(architecture("transformer", SMALL), src_vocab_size=V, tgt_vocab_size=V).eval()


def parallel(folder: Path, *, longest: int = 9) -> ParallelData:
    random = np.random.default_rng(1)
    for side in ("en", "de"):
        with IndexedWriter(folder / f"train.en-de.{side}", V) as writer:
            for _ in range(PAIRS):
                writer.add(np.array([*random.integers(4, V, random.integers(1, longest)), EOS]))
    return open_parallel([(folder / "train.en-de.en", folder / "train.en-de.de")])


def fill(folder: Path, data: ParallelData, shape: Shape, teachers: list[Transformer]) -> None:
    assert data.tgt_sizes is not None
    writer = KnowledgeWriter(folder, shape, sizes=data.tgt_sizes, made_from=MADE_FROM)
    fill_cache(writer, teachers, data, device="cpu", max_tokens=40, progress=lambda _: None)


def shape_of(*, k: int = 5, block_size: int = 4, temperatures: tuple[float, ...] = (1.0, 2.0)) -> Shape:
    return Shape(k=k, vocab_size=V, temperatures=temperatures, value_type="float32", block_size=block_size)


def distributions(teachers: list[Transformer], data: ParallelData, index: int, temperature: float) -> torch.Tensor:
    """Of one sentence read alone, averaged over the teachers: [T, V]."""
    source, target = data[index]
    assert target is not None
    src, prev = (torch.from_numpy(np.asarray(each, dtype=np.int64))[None] for each in (source, [EOS, *target[:-1]]))
    with torch.inference_mode():
        every = [(each(src, prev)[0].double() / temperature).softmax(-1) for each in teachers]
    return torch.stack(every).mean(0)


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_is_what_the_teacher_says_of_each_token(tmp_path: Path, seeds: list[int]) -> None:
    data, teachers, shape = parallel(tmp_path), [teacher(seed) for seed in seeds], shape_of()
    fill(tmp_path / "knowledge", data, shape, teachers)
    cache = KnowledgeCache(tmp_path / "knowledge")
    everything = torch.cat([distributions(teachers, data, index, 1.0) for index in range(PAIRS)])
    np.testing.assert_allclose(cache.marginal, everything.mean(0), rtol=1e-5)
    for index in range(PAIRS):
        records = cache.records(index)
        for place, temperature in enumerate(shape.temperatures):
            p = distributions(teachers, data, index, temperature)
            ids = torch.from_numpy(records["ids"].astype(np.int64))
            np.testing.assert_allclose(np.exp(records["log_probs"][:, place, :-1]), p.gather(1, ids), rtol=1e-4)
            rest = p.scatter(1, ids, 0.0).sum(1)
            np.testing.assert_allclose(np.exp(records["log_probs"][:, place, -1]), rest, rtol=1e-4)
            if place == 0:
                np.testing.assert_array_equal(ids, p.topk(shape.k, dim=1).indices)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    data, shape = parallel(tmp_path), shape_of()
    fill(tmp_path / "whole", data, shape, [teacher()])
    assert data.tgt_sizes is not None
    writer = KnowledgeWriter(tmp_path / "killed", shape, sizes=data.tgt_sizes, made_from=MADE_FROM)

    def kill(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_cache(writer, [teacher()], data, device="cpu", max_tokens=40, progress=kill)
    first = tmp_path / "killed" / "blocks" / "000000.npy"
    assert first.is_file()
    written = first.stat().st_mtime_ns
    with pytest.raises(UserError, match=r"no knowledge cache, or an unfinished one"):
        KnowledgeCache(tmp_path / "killed")
    (tmp_path / "killed" / "blocks" / ".partial-000001.npy").write_bytes(b"half a block")
    fill(tmp_path / "killed", data, shape, [teacher()])
    assert first.stat().st_mtime_ns == written
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_blocks_of_another_origin_are_not_taken(tmp_path: Path) -> None:
    data = parallel(tmp_path)
    fill(tmp_path / "knowledge", data, shape_of(), [teacher(1)])
    made = hash_tree(tmp_path / "knowledge" / "blocks")
    assert data.tgt_sizes is not None
    for number, name in enumerate(("blocks.old", "blocks.old.2")):
        made_from = {**MADE_FROM, "teacher": f"{number}" * 64}
        KnowledgeWriter(tmp_path / "knowledge", shape_of(), sizes=data.tgt_sizes, made_from=made_from)
        assert not list((tmp_path / "knowledge" / "blocks").iterdir())
        assert hash_tree(tmp_path / "knowledge" / name) == made  # nothing is deleted
        shutil.copytree(tmp_path / "knowledge" / name, tmp_path / "knowledge" / "blocks", dirs_exist_ok=True)


def test_numpy_alone_reads_it_and_its_size_is_the_formula(tmp_path: Path) -> None:
    data = parallel(tmp_path)
    shape = Shape(k=8, vocab_size=V, temperatures=(1.0,), value_type="float16", block_size=4)
    fill(tmp_path / "knowledge", data, shape, [teacher()])
    header = json.loads((tmp_path / "knowledge" / "knowledge.json").read_text())
    blocks = [np.load(tmp_path / "knowledge" / each["file"], mmap_mode="r") for each in header["blocks"]]
    assert header["num_tokens"] == sum(map(len, blocks)) == int(np.sum(data.tgt_sizes))
    assert shape.bytes_a_token == 8 * 2 + 1 * 9 * 2 == 34
    assert sum(block.nbytes for block in blocks) == 34 * header["num_tokens"]
    assert blocks[0]["log_probs"].dtype == np.float16
    np.testing.assert_allclose(np.exp(blocks[0]["log_probs"].astype(float)).sum((1, 2)), 1.0, atol=5e-3)


def test_sentences_that_the_teacher_cannot_read_are_zeros(tmp_path: Path) -> None:
    data = parallel(tmp_path)
    torch.manual_seed(1)
    config = architecture("transformer", {**SMALL, "max_target_positions": 5})
    short = build_transformer(config, src_vocab_size=V, tgt_vocab_size=V).eval()
    fill(tmp_path / "knowledge", data, shape_of(), [short])
    cache = KnowledgeCache(tmp_path / "knowledge")
    assert data.tgt_sizes is not None
    for index, size in enumerate(data.tgt_sizes):
        assert bool(cache.records(index)["ids"].any()) == (size <= 5)


def test_another_origin_is_refused_by_name(tmp_path: Path) -> None:
    data = parallel(tmp_path)
    fill(tmp_path / "knowledge", data, shape_of(), [teacher()])
    cache = KnowledgeCache(tmp_path / "knowledge")
    cache.check(MADE_FROM)
    with pytest.raises(UserError, match=r"another train\.de\.bin"):
        cache.check({**MADE_FROM, "train.de.bin": "0" * 64})
    with pytest.raises(UserError, match=r"has temperature 1, 2, not 4"):
        cache.temperature(4.0)
    assert cache.temperature(2.0) == 1


@pytest.mark.parametrize("damage", ["short", "missing", "version", "json"])
def test_a_damaged_cache_is_refused(tmp_path: Path, damage: str) -> None:
    fill(tmp_path / "knowledge", parallel(tmp_path), shape_of(), [teacher()])
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
def test_headers_that_describe_no_cache(tmp_path: Path, name: str, value: object) -> None:
    fill(tmp_path / "knowledge", parallel(tmp_path), shape_of(), [teacher()])
    path = tmp_path / "knowledge" / "knowledge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(UserError, match=r"knowledge/.*: "):
        KnowledgeCache(tmp_path / "knowledge")


@pytest.mark.parametrize("name", ["sizes.npy", "blocks/000001.npy"])
@pytest.mark.parametrize("content", [b"", b"garbage", "object", "pickle", "two", "negative"])
def test_arrays_that_are_none_of_a_cache(tmp_path: Path, name: str, content: bytes | str) -> None:
    fill(tmp_path / "knowledge", parallel(tmp_path), shape_of(), [teacher()])
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


def test_records_that_no_teacher_writes(tmp_path: Path) -> None:
    fill(tmp_path / "knowledge", parallel(tmp_path), shape_of(), [teacher()])
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
def test_a_marginal_that_is_no_distribution(tmp_path: Path, value: float) -> None:
    fill(tmp_path / "knowledge", parallel(tmp_path), shape_of(), [teacher()])
    path = tmp_path / "knowledge" / "marginal.npy"
    marginal = np.load(path)
    marginal[3] = value
    np.save(path, marginal)
    with pytest.raises(UserError, match=r"marginal\.npy: damaged: not the probabilities"):
        _ = KnowledgeCache(tmp_path / "knowledge").marginal
