"""Tests of filling the knowledge cache: against single sentences, after kills, and with too long sentences."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from kdmt.corpus.batching import ParallelData, open_parallel
from kdmt.corpus.indexed import IndexedWriter
from kdmt.corpus.knowledge_cache import KnowledgeCache, KnowledgeSource, KnowledgeWriter, Shape
from kdmt.distill.sources import SourceText
from kdmt.distill.teacher_forcing import CacheFiller, PairTeacher, fill_cache, missing_blocks
from kdmt.errors import UserError
from kdmt.models.architecture import architecture
from kdmt.models.build import build_transformer
from kdmt.models.transformer import Transformer
from kdmt.types import EOS
from kdmt.workers.processes import Processes

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
    return open_again(folder)


def open_again(folder: Path) -> ParallelData:
    return open_parallel([(folder / "train.en-de.en", folder / "train.en-de.de")])


def fill(folder: Path, data: ParallelData, shape: Shape, teachers: list[Transformer]) -> None:
    assert data.tgt_sizes is not None
    writer = KnowledgeWriter(folder, shape, sizes=data.tgt_sizes, made_from=MADE_FROM)
    fill_cache(writer, teachers, data, device="cpu", max_tokens=40, progress=lambda _: None)


def shape_of(*, k: int = 5, block_size: int = 4, temperatures: tuple[float, ...] = (1.0, 2.0)) -> Shape:
    return Shape(k=k, vocab_size=V, temperatures=temperatures, value_type="float32", block_size=block_size)


def distributions(teachers: list[Transformer], data: ParallelData, index: int, temperature: float) -> torch.Tensor:
    """Return the distributions for one sentence in a batch of its own, averaged over the teachers: [T, V]."""
    source, target = data[index]
    assert target is not None
    src, prev = (torch.from_numpy(np.asarray(each, dtype=np.int64))[None] for each in (source, [EOS, *target[:-1]]))
    with torch.inference_mode():
        every = [(each(src, prev)[0].double() / temperature).softmax(-1) for each in teachers]
    return torch.stack(every).mean(0)


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_cache_equals_the_teachers_distributions(tmp_path: Path, seeds: list[int]) -> None:
    data, teachers, shape = parallel(tmp_path), [teacher(seed) for seed in seeds], shape_of()
    fill(tmp_path / "knowledge", data, shape, teachers)
    cache = KnowledgeCache(tmp_path / "knowledge")
    everything = torch.cat([distributions(teachers, data, index, 1.0) for index in range(PAIRS)])
    np.testing.assert_allclose(cache.marginal, everything.mean(0), rtol=1e-5)
    for index in range(PAIRS):
        records = cache.records(index)
        for t, temperature in enumerate(shape.temperatures):
            p = distributions(teachers, data, index, temperature)
            ids = torch.from_numpy(records["ids"].astype(np.int64))
            np.testing.assert_allclose(np.exp(records["log_probs"][:, t, :-1]), p.gather(1, ids), rtol=1e-4)
            rest = p.scatter(1, ids, 0.0).sum(1)
            np.testing.assert_allclose(np.exp(records["log_probs"][:, t, -1]), rest, rtol=1e-4)
            if t == 0:
                np.testing.assert_array_equal(ids, p.topk(shape.k, dim=1).indices)


def one_teacher() -> list[Transformer]:
    return [teacher()]


def test_each_pair_has_the_distribution_of_its_teacher_for_the_source_that_it_reads(tmp_path: Path) -> None:
    """Pairs 0 to 3 have another source and two models, 4 to 6 no teacher, the others the source of the data-bin."""
    data, shape = parallel(tmp_path), shape_of()
    others: list[np.ndarray] = []
    random = np.random.default_rng(2)
    with IndexedWriter(tmp_path / "other", V) as writer:
        for index in range(PAIRS):
            # the source of pair 2 has no words, and that of pair 3 is longer than the positions of the model
            words = {2: 0, 3: 30}.get(index, index + 1)
            others.append(np.array([*random.integers(4, V, words), EOS]))
            writer.add(others[-1])
    short = architecture("transformer", SMALL | {"max_source_positions": 20})
    models = [build_transformer(short, src_vocab_size=V, tgt_vocab_size=V).eval()]
    models.append(teacher(2))
    numbers = np.arange(PAIRS)
    given = [
        PairTeacher(lambda: models, numbers < 4, partial(SourceText, [tmp_path / "other"])),
        PairTeacher(list, (numbers >= 4) & (numbers < 7)),
        PairTeacher(one_teacher, numbers >= 7),
    ]
    assert data.tgt_sizes is not None
    writer_ = KnowledgeWriter(tmp_path / "knowledge", shape, sizes=data.tgt_sizes, made_from=MADE_FROM)
    fill_cache(writer_, given, data, device="cpu", max_tokens=40, progress=lambda _: None)
    cache, total_V = KnowledgeCache(tmp_path / "knowledge"), np.zeros(V)
    for index in range(PAIRS):
        source, target = data[index]
        assert target is not None
        if index < 4:
            source = others[index] if index != 3 else np.array([*others[index][:19], EOS])
        own = models if index < 4 else [teacher()]
        src, prev = (torch.from_numpy(np.asarray(each, dtype=np.int64))[None] for each in (source, [EOS, *target[:-1]]))
        for t, temperature in enumerate(shape.temperatures):
            with torch.inference_mode():
                p = torch.stack([(each(src, prev)[0].double() / temperature).softmax(-1) for each in own]).mean(0)
            if index == 2 or 4 <= index < 7:
                p = torch.nn.functional.one_hot(torch.from_numpy(np.asarray(target, dtype=np.int64)), V).double()
            records = cache.records(index)
            ids = torch.from_numpy(records["ids"].astype(np.int64))
            assert all(len(set(row)) == shape.k for row in ids.tolist())
            found = np.exp(records["log_probs"][:, t].astype(np.float64))
            np.testing.assert_allclose(found[:, :-1], p.gather(1, ids), rtol=1e-4)
            np.testing.assert_allclose(found[:, -1], p.scatter(1, ids, 0.0).sum(1), rtol=1e-4, atol=1e-12)
            if t == 0:
                np.testing.assert_array_equal(ids[:, 0], p.argmax(1))
                total_V += p.sum(0).numpy()
    np.testing.assert_allclose(cache.marginal, total_V / data.tgt_sizes.sum(), rtol=1e-4)


def test_the_divergence_from_a_pair_without_a_teacher_is_the_cross_entropy(tmp_path: Path) -> None:
    data, shape = parallel(tmp_path), shape_of()
    assert data.tgt_sizes is not None
    writer = KnowledgeWriter(tmp_path / "knowledge", shape, sizes=data.tgt_sizes, made_from=MADE_FROM)
    fill_cache(writer, [PairTeacher(list)], data, device="cpu", max_tokens=40, progress=lambda _: None)
    found = KnowledgeSource([KnowledgeCache(tmp_path / "knowledge")], temperature=1.0).load(range(PAIRS))
    tokens = torch.from_numpy(np.concatenate([np.asarray(data[index][1]) for index in range(PAIRS)]).astype(np.int64))
    torch.manual_seed(3)
    log_q = torch.randn(len(tokens), V, dtype=torch.float64).log_softmax(1)
    rest = log_q.exp().scatter(1, found.ids_MK, 0.0).sum(1, keepdim=True).log()
    groups = torch.cat([log_q.gather(1, found.ids_MK), rest], dim=1)  # K best tokens, and all others together
    p = found.log_probs_MG.double()
    divergence = (p.exp() * (p - groups)).sum(1)
    torch.testing.assert_close(divergence, torch.nn.functional.nll_loss(log_q, tokens, reduction="none"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_resumed_run_gives_the_same_files(tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_worker_processes_write_the_same_cache(tmp_path: Path) -> None:
    """Devices of the CPU in the place of two GPUs."""
    data, shape = parallel(tmp_path), shape_of()
    assert data.tgt_sizes is not None
    fill(tmp_path / "alone", data, shape, [teacher()])
    writer = KnowledgeWriter(tmp_path / "shared", shape, sizes=data.tgt_sizes, made_from=MADE_FROM)
    teachers = [PairTeacher(one_teacher)]
    filler = CacheFiller(writer, teachers=teachers, open_data=partial(open_again, tmp_path), max_tokens=40)
    tasks = missing_blocks(writer)
    assert [(task.number, task.count) for task in tasks] == [(0, 4), (1, 4), (2, 3)]
    executor = Processes(2, torch.get_num_threads(), ["cpu", "cpu:0"], tmp_path / "logs", 60.0)
    assert executor.run(filler, tasks, lambda _: None) == []
    assert missing_blocks(writer) == []
    writer.finish()
    files = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*.npy"))
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "shared" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
    assert KnowledgeCache(tmp_path / "shared").sizes.tolist() == data.tgt_sizes.tolist()


def test_targets_too_long_for_the_teacher_have_the_probability_of_their_references(tmp_path: Path) -> None:
    data = parallel(tmp_path)
    torch.manual_seed(1)
    config = architecture("transformer", {**SMALL, "max_target_positions": 5})
    short = build_transformer(config, src_vocab_size=V, tgt_vocab_size=V).eval()
    fill(tmp_path / "knowledge", data, shape_of(), [short])
    cache = KnowledgeCache(tmp_path / "knowledge")
    assert data.tgt_sizes is not None
    for index, size in enumerate(data.tgt_sizes):
        _, targets = data[index]
        certain = cache.records(index)["log_probs"][:, 0, 0] == 0
        assert (certain & (cache.records(index)["ids"][:, 0] == targets)).all() == (size > 5)
