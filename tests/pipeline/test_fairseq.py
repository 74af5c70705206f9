"""Tests with the real fairseq 0.12.2 (`make fairseq-env`; else skipped): our data-bin, its commands, the plug-in."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
import torch
from copy_task import terms_of
from tiny_pipeline import kdmt

from kdmt.config import Student, WordKD
from kdmt.corpus.batching import Extras, collate, open_parallel
from kdmt.corpus.knowledge_cache import KnowledgeCache, KnowledgeSource
from kdmt.interop.fairseq.states import convert_state, fairseq_state
from kdmt.models.architecture import architecture
from kdmt.models.build import build_transformer
from kdmt.objectives.build import build_objective
from kdmt.types import PAD

HERE = Path(__file__).parent
FAIRSEQ = HERE.parents[1] / ".fairseq-env" / "bin"
pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.skipif(not (FAIRSEQ / "fairseq-train").exists(), reason="make fairseq-env makes a real fairseq"),
]

MODEL = {**tiny_pipeline.MODEL, "dropout": 0.0}
RUNS = Path("runs/tiny")
DATA = RUNS / "prepare" / "data-bin"
TEMPERATURE, ALPHA = 2.0, 0.3
USER_DIR = kdmt("fairseq-plugin").out.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with a tiny pipeline that is finished up to the teacher's translations and knowledge."""
    folder = tmp_path_factory.mktemp("fairseq")
    document = tiny_pipeline.settings()
    document["knowledge"] = {"k": 4, "temperatures": [TEMPERATURE], "block_size": 30}
    word_kd = {"source": "cache", "temperature": TEMPERATURE}
    document["students"] = {"raw": {**document["students"]["raw"], "word_kd": word_kd}}
    tiny_pipeline.write_pipeline(folder, document)
    with tiny_pipeline.working_in(folder):
        tiny_pipeline.run_stages("prepare", "teacher", "distill", "knowledge")
        yield folder


def fairseq(program, *arguments, check=True):
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(FAIRSEQ / program), *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def shape():
    flags = []
    for name, value in MODEL.items():
        flags += [f"--{name.replace('_', '-')}"] if value is True else [f"--{name.replace('_', '-')}", str(value)]
    return flags


def train_flags(criterion, *flags):
    return [
        *(str(DATA), "--task", "translation", "--source-lang", "en", "--target-lang", "de", *shape(), "--cpu"),
        *("--criterion", criterion, "--label-smoothing", "0.1", *map(str, flags), "--optimizer", "adam"),
        *("--lr", "0.01", "--max-tokens", "200", "--max-epoch", "3", "--no-epoch-checkpoints"),
    ]


WORD_KD = ("--user-dir", USER_DIR, "--kd-alpha", ALPHA, "--kd-temperature", TEMPERATURE)
SEQ_KD = ("--user-dir", USER_DIR, "--kd-alpha", ALPHA, "--distilled", RUNS / "distill" / "data-bin")


def test_fairseq_trains_and_translates_with_our_data_bin(made, tmp_path):  # noqa: ARG001
    output = fairseq("fairseq-train", *train_flags("label_smoothed_cross_entropy"), "--save-dir", tmp_path)
    assert re.search(r"en-de 80 examples|train en-de \d+ examples", output), output[-2000:]
    output = fairseq("fairseq-generate", DATA, "--path", tmp_path / "checkpoint_last.pt", "--cpu", "--max-len-b", "20")
    words = tiny_pipeline.read_lines(RUNS / "prepare" / "test.de")
    assert len(re.findall(r"^H-\d+\t", output, re.MULTILINE)) == len(words)
    references = {int(index): text for index, text in re.findall(r"^T-(\d+)\t(.*)$", output, re.MULTILINE)}
    joined = [references[index].replace(" ", "").replace("▁", " ").strip() for index in range(len(words))]
    assert joined == words


def scored_lines(text):
    """Return (kind, sentence) -> scores and texts, in order."""
    found = {}
    for kind, index, rest in re.findall(r"^([STHDP])-(\d+)\t(.*)$", text, re.MULTILINE):
        score, tab, words = rest.partition("\t")
        value = [float(each) for each in rest.split()] if kind == "P" else [float(score)] if tab else []
        found.setdefault((kind, int(index)), []).append((value, words if tab else "" if kind == "P" else rest))
    return found


@pytest.mark.parametrize("split", ["test", "train"])
def test_generate_writes_the_same_as_fairseq_generate(split, made, tmp_path):  # noqa: ARG001
    """Compare our checkpoint, translated by kdmt, with its output of `kdmt export`, translated by fairseq."""
    exported = kdmt("export", "--to", "fairseq", RUNS / "teacher", tmp_path / "model.pt")
    assert exported.code == 0, exported.err
    flags = ("--cpu", "--gen-subset", split, "--beam", "3", "--nbest", "2", "--max-len-b", "20", "--batch-size", "4")
    flags += ("--remove-bpe", "sentencepiece")
    theirs = fairseq("fairseq-generate", DATA, "--path", tmp_path / "model.pt", *flags)
    ours = kdmt("generate", DATA, "--path", RUNS / "teacher", *flags)
    assert ours.code == 0, ours.err
    expected, found = scored_lines(theirs), scored_lines(ours.out)
    assert found.keys() == expected.keys()
    for key, each in expected.items():
        assert [text for _, text in found[key]] == [text for _, text in each]
        for (scores, _), (wanted, _) in zip(found[key], each, strict=True):
            assert scores == pytest.approx(wanted, abs=1e-3)
    assert ours.out.splitlines()[-1] in theirs


def test_word_kd_trains(made, tmp_path):  # noqa: ARG001
    flags = train_flags("word_kd", *WORD_KD, "--knowledge", RUNS / "knowledge" / "raw")
    output = fairseq("fairseq-train", *flags, "--save-dir", tmp_path)
    values = [float(value) for value in re.findall(r"train \| .*?\| kd_loss ([\d.]+)", output)]
    assert len(values) == 3, output[-2000:]
    assert values[-1] < values[0]
    assert (tmp_path / "checkpoint_last.pt").is_file()


def test_seq_kd_trains(made, tmp_path):  # noqa: ARG001
    output = fairseq("fairseq-train", *train_flags("seq_kd", *SEQ_KD), "--save-dir", tmp_path)
    values = [float(value) for value in re.findall(r"train \| .*?\| loss ([\d.]+)", output)]
    assert len(values) == 3, output[-2000:]
    assert values[-1] < values[0]


def test_a_cache_of_other_text_is_refused(made, tmp_path):  # noqa: ARG001
    other = tmp_path / "data"
    fairseq(
        *(
            "fairseq-preprocess",
            "--source-lang",
            "en",
            "--target-lang",
            "de",
            "--trainpref",
            RUNS / "prepare" / "train",
        ),
        *("--validpref", RUNS / "prepare" / "valid", "--destdir", other, "--joined-dictionary"),
    )
    flags = [str(other), *train_flags("word_kd", *WORD_KD, "--knowledge", RUNS / "knowledge" / "raw")[1:]]
    output = fairseq("fairseq-train", *flags, "--save-dir", tmp_path, check=False)
    assert "the knowledge cache was made for another" in output


# ------------------------------------------------------------------------------------- the same loss, the same gradient


@pytest.fixture(scope="module")
def student(made):  # noqa: ARG001
    torch.manual_seed(5)
    config = architecture(MODEL["arch"], {key: value for key, value in MODEL.items() if key != "arch"})
    size = 4 + sum(1 for _ in (DATA / "dict.de.txt").open(encoding="utf-8"))
    return build_transformer(config, src_vocab_size=size, tgt_vocab_size=size)


def in_fairseq(folder, student, batch, criterion, *flags):
    """Return the loss and other figures, and the gradients by our parameter names."""
    np.savez(folder / "state.npz", **{name: each.numpy() for name, each in fairseq_state(student).items()})
    job = {"arguments": train_flags(criterion, *flags), "state": str(folder / "state.npz"), "batch": batch}
    (folder / "job.json").write_text(json.dumps(job))
    fairseq("python", HERE / "fairseq_criterion_worker.py", folder / "job.json", folder / "out.npz")
    with np.load(folder / "out.npz") as out:
        state = {name: torch.zeros_like(each) for name, each in fairseq_state(student).items()}
        found = {n.removeprefix("gradient/"): torch.from_numpy(out[n]) for n in out.files if n.startswith("gradient/")}
        figures = json.loads(str(out["figures"]))
    tied = {name: each for name, each in found.items() if name in state}
    for alias in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        tied[alias] = tied["encoder.embed_tokens.weight"]
    return figures, convert_state({**state, **tied}, student.config)


def pairs(folder):
    return open_parallel([(folder / "train.en-de.en", folder / "train.en-de.de")])


def compare(student, loss, figures, gradients):
    student.zero_grad()
    loss.backward()
    assert figures["loss"] == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-4)
    for name, parameter in student.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-4), name


def test_word_kd_equals_that_of_kdmt(student, tmp_path):
    batch = [7, 31, 2, 64, 65]
    flags = (*WORD_KD, "--knowledge", RUNS / "knowledge" / "raw")
    figures, gradients = in_fairseq(tmp_path, student, batch, "word_kd", *flags)
    settings = WordKD(source="cache", alpha=ALPHA, temperature=TEMPERATURE)
    made = build_objective(student, Student(word_kd=settings), label_smoothing=0.1).train()
    known = KnowledgeSource([KnowledgeCache(RUNS / "knowledge" / "raw")], temperature=TEMPERATURE).load(batch)
    terms = terms_of(made, replace(collate(batch, pairs(DATA)), extras=Extras(knowledge=known)))
    compare(student, terms["loss"].sum, figures, gradients)
    assert figures["sample_size"] == terms["loss"].count


def smoothed(student, batch):
    """Return the label-smoothed cross entropy by its formula, summed."""
    log_probs = student(batch.src_tokens_BS, batch.prev_tokens_BT).log_softmax(-1)
    real = batch.tgt_tokens_BT.ne(PAD)
    log_probs, targets = log_probs[real], batch.tgt_tokens_BT[real]
    each = 0.1 / (log_probs.size(1) - 1)
    return ((1 - 0.1 - each) * -log_probs.gather(1, targets[:, None])[:, 0] - each * log_probs.sum(1)).sum()


def test_seq_kd_equals_the_mixture_of_losses(student, tmp_path):
    batch = [3, 40, 12]
    figures, gradients = in_fairseq(tmp_path, student, batch, "seq_kd", *SEQ_KD)
    own, distilled = (collate(batch, pairs(folder)) for folder in (DATA, RUNS / "distill" / "data-bin"))
    assert not torch.equal(own.tgt_tokens_BT, distilled.tgt_tokens_BT)
    student.train()
    loss = (1 - ALPHA) * smoothed(student, own) + ALPHA * smoothed(student, distilled)
    compare(student, loss, figures, gradients)
    assert figures["sample_size"] == pytest.approx((1 - ALPHA) * own.num_tgt_tokens + ALPHA * distilled.num_tgt_tokens)


def test_seq_kd_applies_weights_of_pairs(student, tmp_path):
    batch, weights = [3, 40, 12], np.linspace(0.5, 1.5, 80, dtype=np.float32)
    np.save(tmp_path / "weights.npy", weights)
    flags = ("--user-dir", USER_DIR, "--kd-weights", tmp_path / "weights.npy")
    figures, gradients = in_fairseq(tmp_path, student, batch, "seq_kd", *flags)
    student.train()
    each = [collate([index], pairs(DATA)) for index in batch]
    loss = sum(float(weights[index]) * smoothed(student, one) for index, one in zip(batch, each, strict=True))
    compare(student, loss, figures, gradients)
    assert figures["sample_size"] == pytest.approx(
        sum(float(weights[index]) * one.num_tgt_tokens for index, one in zip(batch, each, strict=True))
    )
