"""The training loop on a copying task: it learns, and stops, kills and other batch splits change no result."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copy_task import (
    CPU,
    TINY,
    VOCAB,
    GivenBatches,
    Validate,
    make_model,
    make_trainer,
    open_data,
    train_settings,
    write_copy_task,
)
from safetensors.torch import load_file
from slow_parameters import some_of
from tiny_pipeline import hash_tree
from torch.utils._python_dispatch import TorchDispatchMode

import kdmt
from kdmt.checksum import file_sha256
from kdmt.config import Decode, Student, Train
from kdmt.corpus.batching import Batch, ParallelData
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.errors import Interrupted, UserError
from kdmt.models import averages, checkpoint
from kdmt.models.average_record import average_of, checkpoint_update
from kdmt.models.checkpoint import load_model, load_state
from kdmt.models.checkpoint_choice import CHOSEN, is_current, read_choice
from kdmt.models.checkpoint_folder import list_checkpoints, resolve_checkpoint
from kdmt.models.quantization import int8_weights, make_quantization_aware
from kdmt.models.transformer import Transformer
from kdmt.objectives.build import build_objective
from kdmt.objectives.objective import CrossEntropy, LeftToRight, LossTerm, LossTerms, Objective, Prepared
from kdmt.outputs import open_lock, take
from kdmt.score.metrics import METRICS
from kdmt.train import arithmetic, loop, run_folder
from kdmt.train.data import Step, TrainingData
from kdmt.train.distributed import replaced
from kdmt.train.loop import Divergence, Outcome, Trainer
from kdmt.train.schedule import inverse_sqrt, learning_rate
from kdmt.train.update_results import UnreadUpdate
from kdmt.train.validation import validation_loss

NO_DROPOUT = replace(TINY, dropout=0.0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> ParallelData:
    """Return the copying task, with about 15 micro-batches of 64 tokens in an epoch."""
    return write_copy_task(tmp_path_factory.mktemp("data"), 190, seed=1)


CLOCK_AND_MEMORY = ("seconds", "tokens_per_second", "data_wait", "memory_gb")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the metrics without those that depend on the clock."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in CLOCK_AND_MEMORY} for record in records]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


# -------------------------------------------------------------------------------------------------------- learning


def test_copying_is_learnt(tmp_path: Path) -> None:
    settings = train_settings(
        max_updates=300, max_tokens=256, lr=1e-2, warmup_updates=50, label_smoothing=0.0, validate_interval_updates=100,
        log_interval_updates=100,
    )  # fmt: skip
    unseen = open_data(write_copy_task(tmp_path / "valid", 100, seed=2), settings)
    model = make_model(1, NO_DROPOUT)
    objective = build_objective(model, label_smoothing=0.0)
    trainer = make_trainer(
        tmp_path / "run",
        open_data(write_copy_task(tmp_path / "train", 2000, seed=1), settings),
        settings,
        model=model,
        validate=lambda _: validation_loss(objective, unseen, unseen.batches(), device=CPU),
    )
    assert trainer.run().best_score < 0.1  # nats per token; guessing among eight words and </s> costs about 2

    sources = [unseen.data[index][0] for index in range(100)]
    found = TorchEngine(load_model(resolve_checkpoint(tmp_path / "run" / "best"))).decode(sources, Decode(beam=1))
    right = [(*nbest[0].tokens, 2) == tuple(source.tolist()) for nbest, source in zip(found, sources, strict=True)]
    assert sum(right) >= 90


def test_bf16_is_close_to_float32(tmp_path: Path, pairs: ParallelData) -> None:
    losses = []
    for precision in ("float32", "bf16", "bf16_output"):
        settings = train_settings(max_updates=10, precision=precision)
        run = tmp_path / precision
        make_trainer(run, open_data(pairs, settings), settings, model=make_model(1, NO_DROPOUT)).run()
        losses.append([record["loss"] for record in read_metrics(run)])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=0.03)
        assert other != losses[0]
    assert losses[1] != losses[2]


def test_activation_checkpointing_changes_no_bit(tmp_path: Path, pairs: ParallelData) -> None:
    """Check activation checkpointing with dropout: the recomputation drops the same units."""
    ends = []
    for again in (False, True):
        settings = train_settings(max_updates=5, activation_checkpointing=again)
        make_trainer(tmp_path / str(again), open_data(pairs, settings), settings).run()
        ends.append(weights(tmp_path / str(again) / "checkpoint_5"))
    assert same(*ends)


def test_packed_training_learns_and_continues_after_a_kill_as_undisturbed(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(packing=True, max_updates=40, save_interval_updates=10)
    data = open_data(pairs, settings)
    make_trainer(tmp_path / "undisturbed", data, settings).run()
    losses = [record["loss"] for record in read_metrics(tmp_path / "undisturbed")]
    assert losses[-1] < losses[0] - 0.3
    with pytest.raises(Killed):
        make_trainer(tmp_path / "run", Disturbed(data, at=25, happening=kill), settings).run()
    make_trainer(tmp_path / "run", data, settings, model=make_model(99)).run()
    ends = [(tmp_path / name / "checkpoint_40/checksums.json").read_bytes() for name in ("undisturbed", "run")]
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_compiled_training_is_near_and_compiles_few_programs(tmp_path: Path, pairs: ParallelData) -> None:
    from torch._dynamo.utils import counters

    losses = []
    for compiled in (False, True):
        settings = train_settings(max_updates=30, compile=compiled)
        counters.clear()
        run = tmp_path / str(compiled)
        data = open_data(pairs, settings)
        some = GivenBatches(pairs, [[0], *data.epoch(1)])  # every length that occurs, and a single sentence
        make_trainer(run, some, settings, model=make_model(1, replace(NO_DROPOUT, encoder_layers=3))).run()
        losses.append([record["loss"] for record in read_metrics(run)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    # a program for the encoder's layers and one for the decoder's, in training, in evaluation and for one sentence
    assert 2 <= counters["stats"]["unique_graphs"] <= 8


@pytest.mark.parametrize("minutes", [0.0, 1e-6])
def test_saving_by_the_clock(tmp_path: Path, pairs: ParallelData, minutes: float) -> None:
    settings = train_settings(max_updates=4, validate_interval_updates=4, save_interval_minutes=minutes)
    saved: list[int] = []
    trainer = make_trainer(tmp_path, open_data(pairs, settings), settings)
    save = trainer.folder.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "save", lambda _, *a, **k: (saved.append(a[1].update), save(*a, **k))[1])
        trainer.run()
    assert saved == ([1, 2, 3, 4] if minutes else [4])


# ---------------------------------------------------------------------------------------------- stopping and resuming


class Killed(BaseException):
    """An exception that ends training like a kill at the same point, with the same files."""


class Disturbed:
    """Training data that calls `happening` when the n-th micro-batch is loaded."""

    def __init__(self, data: TrainingData, *, at: int, happening: Callable[[], None]) -> None:
        self.data, self.left, self.happening = data, at, happening

    def epoch(self, epoch: int) -> Sequence[np.ndarray]:
        return self.data.epoch(epoch)

    def load(self, places: np.ndarray, epoch: int = 0, update: int = 0) -> Batch:
        self.left -= 1
        if self.left == 0:
            self.happening()
        return self.data.load(places, epoch, update)


def kill() -> None:
    raise Killed


# 33 is not a multiple of the validation interval, and an epoch has an odd number of batches
UPDATES_OF_TWO = {"max_updates": 33, "update_freq": 2}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, pairs: ParallelData) -> tuple[Path, Outcome]:
    run = tmp_path_factory.mktemp("undisturbed")
    settings = train_settings(**UPDATES_OF_TWO)
    outcome = make_trainer(run, open_data(pairs, settings), settings).run()
    assert len(open_data(pairs, settings).epoch(1)) % 2 == 1
    assert load_state(run / "checkpoint_33").values["epoch"] > 3
    return run, outcome


def assert_same_run(run: Path, outcome: Outcome, undisturbed: tuple[Path, Outcome]) -> None:
    """Check that parameters, optimiser, random state, position, best checkpoint and metrics are equal, bit for bit."""
    expected_run, expected_outcome = undisturbed
    assert outcome == expected_outcome
    for name in ("average/model.safetensors", "best", "last"):
        assert (run / name).read_bytes() == (expected_run / name).read_bytes()
    last = "checkpoint_33/checksums.json"  # the SHA-256 of every file of the checkpoint
    assert (run / last).read_bytes() == (expected_run / last).read_bytes()
    assert read_metrics(run) == read_metrics(expected_run)
    for name in ("average_best/model.safetensors", "average_best_of", "chosen.json"):
        assert (run / name).read_bytes() == (expected_run / name).read_bytes()
    assert not [name for name in names(run) if name.startswith(".")]


@pytest.mark.parametrize(
    ("number", "at"),
    [
        *((signal.SIGTERM, 1), (signal.SIGINT, 11), (signal.SIGHUP, 42), (signal.SIGUSR1, 60)),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((signal.SIGTERM, 42), (signal.SIGINT, 60))),
    ],
)
def test_run_stopped_by_a_signal_resumes_exactly(
    tmp_path: Path, pairs: ParallelData, undisturbed: tuple[Path, Outcome], number: int, at: int
) -> None:
    settings = train_settings(**UPDATES_OF_TWO)
    before = signal.getsignal(number)
    data = Disturbed(open_data(pairs, settings), at=at, happening=lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted) as stop:
        make_trainer(tmp_path, data, settings).run()
    saved = resolve_checkpoint(tmp_path / "last")
    assert stop.value.signal_number == number
    assert str(saved) in str(stop.value)
    assert signal.getsignal(number) is before
    outcome = make_trainer(tmp_path, open_data(pairs, settings), settings).run()
    assert_same_run(tmp_path, outcome, undisturbed)


@pytest.mark.parametrize(
    ("at", "save_interval"), [([5], 4), ([31], 4), ([20, 20, 20], 4), ([44], 1000), ([84], 1000)], ids=str
)
def test_run_killed_resumes_exactly(
    tmp_path: Path, pairs: ParallelData, undisturbed: tuple[Path, Outcome], at: list[int], save_interval: int
) -> None:
    settings = train_settings(**UPDATES_OF_TWO, save_interval_updates=save_interval)
    data = open_data(pairs, settings)
    for each in at:
        with pytest.raises(Killed):
            make_trainer(tmp_path, Disturbed(data, at=each, happening=kill), settings).run()
    # weights are loaded from the checkpoint if there is one, whatever the weights of the model
    model = make_model(99 if list_checkpoints(tmp_path) else 1)
    outcome = make_trainer(tmp_path, data, settings, model=model).run()
    assert_same_run(tmp_path, outcome, undisturbed)


@pytest.mark.parametrize(
    ("module", "step", "call"),
    some_of(
        [
            (checkpoint, "save_file", 4),  # in the second checkpoint: its weights exist, the training state does not
            (checkpoint, "verify_checkpoint", 2),  # not yet renamed
            (run_folder, "point", 3),  # the checkpoint exists, `best` still names the one before
            (run_folder, "write_wanted_of", 4),  # the second list of the best is not yet written
            (averages, "average_weights", 1),  # everything is done except the averages and the choice
            (averages, "average_weights", 2),  # `average_best` and the choice are missing
            (loop, "write_choice", 1),  # everything is done except the choice
        ],
        3,
    ),
)
def test_run_killed_while_saving_resumes_exactly(
    tmp_path: Path,
    pairs: ParallelData,
    undisturbed: tuple[Path, Outcome],
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    step: str,
    call: int,
) -> None:
    settings = train_settings(**UPDATES_OF_TWO)
    data = open_data(pairs, settings)
    done, calls = getattr(module, step), []

    def dying(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == call:
            raise Killed
        return done(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, step, dying)
        with pytest.raises(Killed):
            make_trainer(tmp_path, data, settings).run()
    outcome = make_trainer(tmp_path, data, settings).run()
    assert_same_run(tmp_path, outcome, undisturbed)


def test_run_stopped_in_bf16_resumes_exactly(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(max_updates=20, precision="bf16")
    data = open_data(pairs, settings)
    make_trainer(tmp_path / "straight", data, settings).run()
    with pytest.raises(Killed):
        make_trainer(tmp_path / "killed", Disturbed(data, at=17, happening=kill), settings).run()
    make_trainer(tmp_path / "killed", data, settings).run()
    assert same(*(weights(tmp_path / run / "checkpoint_20") for run in ("straight", "killed")))


def test_damaged_newest_checkpoint_is_skipped(
    tmp_path: Path, pairs: ParallelData, undisturbed: tuple[Path, Outcome], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="kdmt")
    settings = train_settings(**UPDATES_OF_TWO)
    data = open_data(pairs, settings)
    with pytest.raises(Killed):
        make_trainer(tmp_path, Disturbed(data, at=60, happening=kill), settings).run()
    (tmp_path / "checkpoint_20" / "model.safetensors").write_bytes(b"nothing")
    outcome = make_trainer(tmp_path, data, settings).run()
    assert_same_run(tmp_path, outcome, undisturbed)
    assert f"passed over: {tmp_path}/checkpoint_20/model.safetensors: damaged" in caplog.text
    assert (tmp_path / "damaged-checkpoint_20" / "model.safetensors").read_bytes() == b"nothing"


def test_damaged_checkpoints_are_kept_and_not_counted_in_pruning(
    tmp_path: Path, pairs: ParallelData, undisturbed: tuple[Path, Outcome], caplog: pytest.LogCaptureFixture
) -> None:
    """Check all checkpoints damaged, twice: training starts again and ends as without them."""
    caplog.set_level(logging.INFO, logger="kdmt")
    settings = train_settings(**UPDATES_OF_TWO)
    data = open_data(pairs, settings)
    for _ in range(2):
        with pytest.raises(Killed):
            make_trainer(tmp_path, Disturbed(data, at=60, happening=kill), settings).run()
        for folder in list_checkpoints(tmp_path):
            (folder / "model.safetensors").write_bytes(b"nothing")
    outcome = make_trainer(tmp_path, data, settings).run()
    assert_same_run(tmp_path, outcome, undisturbed)
    assert caplog.text.count("passed over: ") == 4
    kept = [f"damaged-checkpoint_{update}{ending}" for update in (10, 20) for ending in ("", ".2")]
    assert [name for name in names(tmp_path) if name.startswith("damaged")] == kept


def test_a_second_signal_ends_the_process(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings()
    trainer = make_trainer(tmp_path, open_data(pairs, settings), settings)
    passes = itertools.count(1)

    def interrupt_twice(*_: object) -> None:
        if next(passes) == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    trainer.objective.register_forward_hook(interrupt_twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
    finally:
        signal.signal(signal.SIGINT, before)


def test_finished_run_has_nothing_left_to_do(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings()
    data = open_data(pairs, settings)
    outcome = make_trainer(tmp_path, data, settings).run()
    metrics, folders = read_metrics(tmp_path), names(tmp_path)
    idle = Disturbed(data, at=1, happening=kill)
    assert make_trainer(tmp_path, idle, settings).run() == outcome
    assert read_metrics(tmp_path) == metrics
    assert names(tmp_path) == folders


def test_extended_run_equals_a_longer_run(tmp_path: Path, pairs: ParallelData) -> None:
    for run, lengths in (("extended", (10, 20)), ("straight", (20,))):
        for max_updates in lengths:
            settings = train_settings(max_updates=max_updates)
            make_trainer(tmp_path / run, open_data(pairs, settings), settings).run()
    assert read_metrics(tmp_path / "extended") == read_metrics(tmp_path / "straight")
    for name in ("average", "checkpoint_20"):
        checksums = [(tmp_path / run / name / "checksums.json").read_bytes() for run in ("extended", "straight")]
        assert checksums[0] == checksums[1]


def test_fine_tuning_may_keep_optimiser_and_schedule(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(max_updates=10, log_interval_updates=1, validate_interval_updates=5)
    data = open_data(pairs, settings)
    make_trainer(tmp_path / "first", data, settings).run()
    folder = tmp_path / "first" / "checkpoint_10"
    state = load_state(folder)
    kept = make_trainer(tmp_path / "kept", data, settings, model=load_model(folder), init_state=state)
    kept.run()
    make_trainer(tmp_path / "fresh", data, settings, model=load_model(folder)).run()

    rates = {
        run: [record["lr"] for record in read_metrics(tmp_path / run) if record["kind"] == "train"]
        for run in ("kept", "fresh")
    }
    assert rates["kept"] == [inverse_sqrt(update, settings) for update in range(10, 20)]
    assert rates["fresh"] == [inverse_sqrt(update, settings) for update in range(10)]
    again = load_state(tmp_path / "kept" / "checkpoint_10")
    assert {float(value) for name, value in again.tensors.items() if name.startswith("step.")} == {20.0}
    assert again.values["schedule_offset"] == 10


# ------------------------------------------------------------------------------------------------------- the update


def test_update_freq_2_equals_the_joined_batch(tmp_path: Path, pairs: ParallelData) -> None:
    # parts of very different size, so that the mean of their means would be different
    cuts = [0, 1, 12, 20, 23, 40, 41]
    parts = [range(start, end) for start, end in pairwise(cuts)]
    joined = [[*one, *other] for one, other in zip(parts[::2], parts[1::2], strict=True)]
    trained = []
    for name, batches, update_freq in (("joined", joined, 1), ("parts", parts, 2)):
        settings = train_settings(max_updates=20, update_freq=update_freq, clip_norm=0.5, weight_decay=0.01)
        model = make_model(1, NO_DROPOUT).double()
        make_trainer(
            tmp_path / name, GivenBatches(pairs, batches), settings, model=model, validate=scripted([1.0])
        ).run()
        trained.append(dict(model.named_parameters()))
    fresh = dict(make_model(1, NO_DROPOUT).double().named_parameters())
    for name, parameter in trained[0].items():
        torch.testing.assert_close(trained[1][name], parameter, rtol=0, atol=1e-9)
        assert not torch.allclose(parameter, fresh[name])


def test_learning_rates_follow_the_schedule(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(max_updates=20, log_interval_updates=1)
    make_trainer(tmp_path, open_data(pairs, settings), settings).run()
    rates = [record["lr"] for record in read_metrics(tmp_path) if record["kind"] == "train"]
    assert rates == [inverse_sqrt(update, settings) for update in range(20)]


DECAYS: dict[str, dict[str, Any]] = {
    "linear": {"min_lr": 1e-5},
    "cosine": {"min_lr": 1e-5},
    "polynomial_decay": {"power": 2.0},
    "wsd": {"decay_share": 0.5},
}


@pytest.mark.parametrize("name", DECAYS)
def test_decaying_run_follows_its_schedule_and_resumes_exactly(tmp_path: Path, pairs: ParallelData, name: str) -> None:
    settings = train_settings(
        max_updates=12, warmup_updates=4, log_interval_updates=1, lr_schedule=name, **DECAYS[name]
    )
    make_trainer(tmp_path / "whole", open_data(pairs, settings), settings).run()
    rates = [record["lr"] for record in read_metrics(tmp_path / "whole") if record["kind"] == "train"]
    assert rates == [learning_rate(update, settings) for update in range(12)]
    assert rates != [inverse_sqrt(update, settings) for update in range(12)]

    data = Disturbed(open_data(pairs, settings), at=7, happening=lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        make_trainer(tmp_path / "stopped", data, settings).run()
    make_trainer(tmp_path / "stopped", open_data(pairs, settings), settings).run()
    assert read_metrics(tmp_path / "stopped") == read_metrics(tmp_path / "whole")
    sums = [(tmp_path / run / "checkpoint_12" / "checksums.json").read_bytes() for run in ("stopped", "whole")]
    assert sums[0] == sums[1]


def test_fine_tuning_that_keeps_the_schedule_decays_to_the_end_of_both_runs(
    tmp_path: Path, pairs: ParallelData
) -> None:
    first = train_settings(max_updates=10, validate_interval_updates=5)
    data = open_data(pairs, first)
    make_trainer(tmp_path / "first", data, first).run()
    folder = tmp_path / "first" / "checkpoint_10"
    second = train_settings(
        max_updates=8,
        warmup_updates=4,
        log_interval_updates=1,
        lr_schedule="linear",
        init_from=str(folder),
        init_optimizer=True,
    )
    model, state = load_model(folder), load_state(folder)
    make_trainer(tmp_path / "kept", data, second, model=model, init_state=state).run()
    rates = [record["lr"] for record in read_metrics(tmp_path / "kept") if record["kind"] == "train"]
    assert rates == pytest.approx([second.lr * (1 - (update - 4) / (18 - 4)) for update in range(10, 18)])


@pytest.mark.parametrize("clip_norm", [0.0, 1e-3])
def test_gradient_is_clipped_to_its_norm(tmp_path: Path, pairs: ParallelData, clip_norm: float) -> None:
    settings = train_settings(max_updates=1, clip_norm=clip_norm, log_interval_updates=1, adam_betas=(0.5, 0.98))
    make_trainer(tmp_path, open_data(pairs, settings), settings).run()
    first_moments = [
        value for name, value in load_state(tmp_path / "checkpoint_1").tensors.items() if name.startswith("exp_avg.")
    ]
    used = torch.stack([value.norm() for value in first_moments]).norm() / 0.5  # Adam's first average is half of it
    reported = read_metrics(tmp_path)[0]["grad_norm"]
    assert reported > 0.1
    assert float(used) == pytest.approx(clip_norm or reported, rel=1e-3)


def test_logged_loss_is_the_mean_over_the_tokens_since_the_last_line(tmp_path: Path, pairs: ParallelData) -> None:
    means = []
    for interval in (1, 4):
        run = tmp_path / str(interval)
        settings = train_settings(max_updates=4, log_interval_updates=interval)
        data = open_data(pairs, settings)
        make_trainer(run, data, settings).run()
        losses = [record["nll"] for record in read_metrics(run) if record["kind"] == "train"]
        tokens = [data.load(batch).num_tgt_tokens for batch in data.epoch(1)[:4]]
        means.append(np.average(losses, weights=tokens) if interval == 1 else losses[0])
    assert means[0] == pytest.approx(means[1], rel=1e-6)


# ------------------------------------------------------------------------------------- validation, best and average


def scripted(scores: Iterable[float], metric: str = "loss") -> Validate:
    """Return a validation that gives these scores one after the other, and then always the last one."""
    left = list(scores)

    def validate(model: Transformer) -> dict[str, float]:
        assert not model.training
        score = left.pop(0) if len(left) > 1 else left[0]
        return {"loss": 1.0, "nll": 1.0, metric: score}

    return validate


def run_with_scores(run: Path, pairs: ParallelData, scores: list[float], **changes: Any) -> Outcome:
    settings = train_settings(validate_interval_updates=2, **changes)
    validate = scripted(scores, settings.best_metric)
    return make_trainer(run, open_data(pairs, settings), settings, validate=validate).run()


def test_patience_ends_training_without_a_better_score(tmp_path: Path, pairs: ParallelData) -> None:
    scores = [5.0, 4.0, 4.5, 4.0, 3.0, 3.0, 3.5, 3.1, 2.0]
    outcome = run_with_scores(tmp_path, pairs, scores, patience=3)
    assert outcome == Outcome("patience", update=16, best_update=10, best_score=3.0)
    assert resolve_checkpoint(tmp_path / "best").name == "checkpoint_10"
    assert resolve_checkpoint(tmp_path / "last").name == "checkpoint_16"


@pytest.mark.parametrize(
    ("lr_schedule", "best"),
    [("inverse_sqrt", 4), *((name, 5) for name in ("linear", "cosine", "polynomial_decay", "wsd"))],
)
def test_the_end_of_a_decaying_schedule_can_be_the_best(
    tmp_path: Path, pairs: ParallelData, lr_schedule: str, best: int
) -> None:
    """A run of `inverse_sqrt` can be extended, and a longer one would not validate after update 5."""
    changes = {"lr_schedule": lr_schedule, "max_updates": 5, "warmup_updates": 1, "average_checkpoints": 1}
    outcome = run_with_scores(tmp_path, pairs, [3.0, 2.0, 1.0], **changes)
    assert outcome.best_update == best
    assert resolve_checkpoint(tmp_path / "best").name == f"checkpoint_{best}"
    assert list(average_of(tmp_path / "average_best")) == [best]


def test_without_patience_training_continues(tmp_path: Path, pairs: ParallelData) -> None:
    outcome = run_with_scores(tmp_path, pairs, [1.0, 2.0])
    assert outcome == Outcome("max_updates", update=30, best_update=2, best_score=1.0)


def test_higher_bleu_is_better(tmp_path: Path, pairs: ParallelData) -> None:
    scores = [10.0, 12.0, 11.0]
    outcome = run_with_scores(tmp_path, pairs, scores, best_metric="bleu", validate_bleu=True, max_updates=6)
    assert outcome == Outcome("max_updates", update=6, best_update=4, best_score=12.0)


def test_a_lower_score_is_better_for_metrics_of_errors(
    tmp_path: Path, pairs: ParallelData, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = replace(METRICS["chrf"], higher_is_better=False, range=(0.0, None))
    monkeypatch.setitem(METRICS, "chrf", errors)
    scores = [10.0, 8.0, 9.0, 0.0, 5.0]
    outcome = run_with_scores(tmp_path, pairs, scores, best_metric="chrf", validate_bleu=True, max_updates=10)
    assert outcome == Outcome("max_updates", update=10, best_update=8, best_score=0.0)


def test_a_run_ended_by_patience_stays_ended_after_a_restart(tmp_path: Path, pairs: ParallelData) -> None:
    first = run_with_scores(tmp_path, pairs, [1.0, 2.0], patience=2, warmup_updates=1)
    assert first == Outcome("patience", update=6, best_update=2, best_score=1.0)
    assert run_with_scores(tmp_path, pairs, [0.0], patience=2, warmup_updates=1) == first


def scripted_figures(figures: Sequence[tuple[float, float]]) -> Validate:
    """Return a validation that gives these BLEU scores and losses by update (every second one), also after a stop."""

    def validate(objective: Any) -> dict[str, float]:
        bleu, loss = figures[min(trainer_of[objective].position.update // 2, len(figures)) - 1]
        return {"loss": loss, "nll": loss, "bleu": bleu}

    trainer_of: dict[Any, Trainer] = {}
    validate.trainer_of = trainer_of  # type: ignore[attr-defined]
    return validate


def bleu_trainer(run: Path, data: TrainingData, figures: Sequence[tuple[float, float]], **changes: Any) -> Trainer:
    defaults = {"best_metric": "bleu", "validate_bleu": True, "validate_interval_updates": 2, "warmup_updates": 1}
    validate = scripted_figures(figures)
    trainer = make_trainer(run, data, train_settings(**{**defaults, **changes}), validate=validate)
    validate.trainer_of[trainer.objective] = trainer  # type: ignore[attr-defined]
    return trainer


def expected_outcome(
    figures: Sequence[tuple[float, float]], *, patience: int, warmup: int, max_updates: int
) -> tuple[str, int, int]:
    """Return ending, last update and best update, computed from all validations up to each of them."""
    bad = 0
    for number in range(1, max_updates // 2 + 1):
        seen = [figures[min(place, len(figures) - 1)] for place in range(number)]
        ranked = sorted(range(number), key=lambda place: (-seen[place][0], seen[place][1], place))
        best, update = 2 * (ranked[0] + 1), 2 * number
        if best == update:
            bad = 0
        elif update >= warmup and max(bleu for bleu, _ in seen) > 0.0:
            bad += 1
        if bad == patience and update < max_updates:
            return "patience", update, best
    return "max_updates", max_updates, best


@pytest.mark.parametrize("seed", [2, 6, 7, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 1, 3, 4, 5))])
def test_best_and_patience_compare_bleu_then_loss(tmp_path: Path, pairs: ParallelData, seed: int) -> None:
    """Compare with a ranking of all validations; many scores are equal, and the first ones have no BLEU."""
    rng = np.random.default_rng(seed)
    bleu = np.where(np.arange(15) < rng.integers(0, 7), 0.0, rng.integers(0, 4, 15).astype(float))
    figures = list(zip(bleu.tolist(), rng.integers(1, 5, 15).astype(float).tolist(), strict=True))
    patience, warmup = int(rng.integers(2, 5)), int(rng.integers(1, 9))
    ending, update, best = expected_outcome(figures, patience=patience, warmup=warmup, max_updates=30)
    data = open_data(pairs, train_settings())
    outcome = bleu_trainer(tmp_path, data, figures, patience=patience, warmup_updates=warmup).run()
    assert (outcome.ending, outcome.update, outcome.best_update) == (ending, update, best)
    assert outcome.best_score == figures[best // 2 - 1][0]
    assert resolve_checkpoint(tmp_path / "best").name == f"checkpoint_{best}"


def test_patience_does_not_count_while_bleu_is_zero(tmp_path: Path, pairs: ParallelData) -> None:
    """Check a loss that falls all the time: among checkpoints with equal BLEU, the one with the lowest loss is best."""
    figures = [
        (0.0, 9.0),
        (0.0, 8.0),
        (0.0, 8.5),
        (0.0, 8.2),
        (0.0, 8.4),
        (0.0, 7.0),
        (0.5, 6.0),
        (0.5, 6.5),
        (0.0, 7.0),
    ]
    outcome = bleu_trainer(tmp_path, open_data(pairs, train_settings()), figures, patience=2).run()
    assert outcome == Outcome("patience", update=18, best_update=14, best_score=0.5)


@pytest.mark.parametrize(("warmup", "end"), [(1, 6), (8, 10), (20, 22)])
def test_patience_does_not_count_before_the_warmup_ends(
    tmp_path: Path, pairs: ParallelData, warmup: int, end: int
) -> None:
    outcome = run_with_scores(tmp_path, pairs, [1.0, 2.0], patience=2, warmup_updates=warmup)
    assert outcome == Outcome("patience", update=end, best_update=2, best_score=1.0)


def test_patience_counts_the_updates_of_a_kept_optimiser(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(max_updates=10, validate_interval_updates=5)
    data = open_data(pairs, settings)
    make_trainer(tmp_path / "first", data, settings).run()
    folder = tmp_path / "first" / "checkpoint_10"
    settings = train_settings(validate_interval_updates=2, warmup_updates=12, patience=2)
    trainer = make_trainer(
        tmp_path / "kept", data, settings, model=load_model(folder), init_state=load_state(folder),
        validate=scripted([1.0, 2.0]),
    )  # fmt: skip
    assert trainer.run() == Outcome("patience", update=6, best_update=2, best_score=1.0)


@pytest.mark.parametrize("at", [7, *(pytest.param(at, marks=pytest.mark.slow) for at in (13, 16))])
def test_patience_of_a_killed_run_resumes_exactly(tmp_path: Path, pairs: ParallelData, at: int) -> None:
    figures = [(0.0, 9.0), (0.0, 8.0), (3.0, 7.0), (3.0, 6.5), (3.0, 6.6), (2.0, 6.0), (3.0, 6.5), (1.0, 5.0)]
    settings = {"patience": 4, "save_interval_updates": 1}
    data = open_data(pairs, train_settings())
    undisturbed = bleu_trainer(tmp_path / "straight", data, figures, **settings).run()
    assert undisturbed == Outcome("patience", update=16, best_update=8, best_score=3.0)
    with pytest.raises(Killed):
        bleu_trainer(tmp_path / "killed", Disturbed(data, at=at, happening=kill), figures, **settings).run()
    assert bleu_trainer(tmp_path / "killed", data, figures, **settings).run() == undisturbed
    last = "checkpoint_16/checksums.json"
    assert (tmp_path / "killed" / last).read_bytes() == (tmp_path / "straight" / last).read_bytes()
    assert read_metrics(tmp_path / "killed") == read_metrics(tmp_path / "straight")


@pytest.mark.parametrize(
    ("losses", "lowest"),
    [([9.0, 8.0, 7.5, 7.0, 6.5], "6.500) at update 10"), ([9.0, 8.0, 7.0, 6.5, 6.6], "6.500) at update 8")],
)
def test_patience_that_ends_while_the_loss_falls_is_reported(
    tmp_path: Path, pairs: ParallelData, caplog: pytest.LogCaptureFixture, losses: list[float], lowest: str
) -> None:
    caplog.set_level(logging.INFO, logger="kdmt")
    figures = [(5.0, losses[0]), *((4.0, loss) for loss in losses[1:])]
    bleu_trainer(tmp_path, open_data(pairs, train_settings()), figures, patience=4).run()
    assert (
        "test: 'patience: 4' ends training at update 10 while the validation loss still falls: the best bleu was at "
        f"update 2, the lowest loss ({lowest}; a larger 'patience' or 'best_metric: loss' trains on\n"
    ) in caplog.text


@pytest.mark.parametrize("losses", [[9.0, 9.1, 9.2, 9.3, 9.4], [9.0, 8.0, 8.5, 8.6, 8.7]])
def test_patience_that_ends_while_the_loss_rises_is_not_reported(
    tmp_path: Path, pairs: ParallelData, caplog: pytest.LogCaptureFixture, losses: list[float]
) -> None:
    caplog.set_level(logging.INFO, logger="kdmt")
    figures = [(5.0, losses[0]), *((4.0, loss) for loss in losses[1:])]
    bleu_trainer(tmp_path, open_data(pairs, train_settings()), figures, patience=4).run()
    assert "still falls" not in caplog.text


def test_a_best_between_validations_is_dropped_when_the_run_is_extended(tmp_path: Path, pairs: ParallelData) -> None:
    """Compare with a run of the full length, which never validates at that update."""
    figures = [(5.0, 5.0), (4.0, 6.0), (3.0, 7.0)]
    data = open_data(pairs, train_settings())
    for max_updates in (1, 6):
        bleu_trainer(tmp_path / "extended", data, figures, max_updates=max_updates).run()
    straight = bleu_trainer(tmp_path / "straight", data, figures, max_updates=6).run()
    assert straight.best_update == 2
    assert (tmp_path / "extended/best").read_text() == (tmp_path / "straight/best").read_text()


def test_a_checkpoint_of_an_older_version_can_be_resumed(tmp_path: Path, pairs: ParallelData) -> None:
    """Check a position without losses: the first equal score replaces its best."""
    data = open_data(pairs, train_settings())
    figures = [(5.0, 5.0), (4.0, 6.0), (5.0, 9.0), (5.0, 9.0)]
    bleu_trainer(tmp_path, data, figures, max_updates=4).run()
    path = tmp_path / "checkpoint_4"
    values = json.loads((path / "training_state.json").read_text())
    for name in ("best_loss", "lowest_loss", "lowest_loss_update", "best_validations"):
        del values[name]
    for name in ("average_best_of", "chosen.json"):
        (tmp_path / name).unlink()
    shutil.rmtree(tmp_path / "average_best")
    (path / "training_state.json").write_text(json.dumps(values))
    checksums = json.loads((path / "checksums.json").read_text())
    checksums["training_state.json"] = file_sha256(path / "training_state.json")
    (path / "checksums.json").write_text(json.dumps(checksums))
    assert bleu_trainer(tmp_path, data, figures, max_updates=8).run().best_update == 6
    # of the earlier validations, only the best one was recorded
    assert average_of(tmp_path / "average_best") == [6, 8]
    assert read_choice(tmp_path) is not None


# ------------------------------------------------------------------------------------- the average of a resumed run


def extend_and_kill(run: Path, data: TrainingData, *, at: int = 45, **changes: Any) -> None:
    """Train to update 20, with an average, then towards 60 until a kill at the `at`-th micro-batch."""
    settings = {"save_interval_updates": 5, "average": {"of": "last"}, **changes}
    make_trainer(run, data, train_settings(max_updates=20, **settings)).run()
    longer = make_trainer(run, Disturbed(data, at=at, happening=kill), train_settings(max_updates=60, **settings))
    with pytest.raises(Killed):
        longer.run()


def test_an_average_from_before_an_interrupted_extension_is_rebuilt(
    tmp_path: Path, pairs: ParallelData, caplog: pytest.LogCaptureFixture
) -> None:
    """Check that it becomes the average of a run that ends at the last validation."""
    caplog.set_level(logging.INFO, logger="kdmt")
    data = open_data(pairs, train_settings())
    extend_and_kill(tmp_path / "run", data)
    last = checkpoint_update(resolve_checkpoint(tmp_path / "run/last"))
    assert last >= 30
    before = weights(tmp_path / "run/average")
    end = last - last % 10
    make_trainer(tmp_path / "straight", data, train_settings(max_updates=end, save_interval_updates=5)).run()
    assert resolve_checkpoint(tmp_path / "run") == tmp_path / "run/average"
    assert not same(weights(tmp_path / "run/average"), before)
    assert hash_tree(tmp_path / "run/average") == hash_tree(tmp_path / "straight/average")
    assert f"rebuilt from updates {end - 10}, {end}" in caplog.text
    made = (tmp_path / "run/average/model.safetensors").stat().st_mtime_ns
    assert resolve_checkpoint(tmp_path / "run") == tmp_path / "run/average"
    assert (tmp_path / "run/average/model.safetensors").stat().st_mtime_ns == made
    assert not [name for name in names(tmp_path / "run") if name.startswith(".")]
    load_model(resolve_checkpoint(tmp_path / "run"))


def test_an_average_is_kept_until_the_run_validates_again(tmp_path: Path, pairs: ParallelData) -> None:
    """Check the average of an end between validations, which is later than the last validation."""
    data = open_data(pairs, train_settings())
    make_trainer(tmp_path, data, train_settings(max_updates=23, average={"of": "last"})).run()
    made = hash_tree(tmp_path / "average")
    settings = train_settings(max_updates=60, save_interval_updates=1, average={"of": "last"})
    longer = make_trainer(tmp_path, Disturbed(data, at=5, happening=kill), settings)
    with pytest.raises(Killed):
        longer.run()
    assert checkpoint_update(resolve_checkpoint(tmp_path / "last")) > 23
    assert resolve_checkpoint(tmp_path) == tmp_path / "average"
    assert hash_tree(tmp_path / "average") == made


def test_an_average_that_cannot_be_rebuilt_is_refused_with_the_alternatives(
    tmp_path: Path, pairs: ParallelData
) -> None:
    run = tmp_path / "run"
    extend_and_kill(run, open_data(pairs, train_settings()))
    made = hash_tree(run / "average")
    newest = list_checkpoints(run)[-1]
    where = f"{run}/average: older than the run's last validation, and it cannot be rebuilt"
    what = f"finish the run's training, or name {run}/best or {run}/last, or {run}/average for the old one"
    with open_lock(run) as file:
        assert take(file)
        with pytest.raises(UserError) as caught:
            resolve_checkpoint(run)
    assert str(caught.value) == f"{where} (it is being trained now); {what}"
    used = run / f"checkpoint_{average_of(run)[0]}"
    used.rename(tmp_path / "away")
    with pytest.raises(UserError) as caught:
        resolve_checkpoint(run)
    assert str(caught.value) == f"{where} ({used}: not a checkpoint: it has no checksums.json); {what}"
    (run / "average_of").unlink()
    (run / "average" / "average_of").unlink()
    (run / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="an older version trained it"):
        resolve_checkpoint(run)
    (run / "manifest.json").write_text("{}")  # complete
    assert resolve_checkpoint(run) == run / "average"
    assert resolve_checkpoint(run / "last") == newest
    del made["average_of"]
    assert hash_tree(run / "average") == made


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS], ids=["EACCES", "EROFS"])
def test_an_average_in_a_run_that_cannot_be_written_is_refused_with_the_alternatives(
    tmp_path: Path, pairs: ParallelData, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    extend_and_kill(tmp_path, open_data(pairs, train_settings()))

    def read_only(path: Path, **_: object) -> Iterator[None]:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(averages, "writing", read_only)
    with pytest.raises(UserError, match=rf"cannot be rebuilt \({tmp_path}/average: {os.strerror(code)}\); finish"):
        resolve_checkpoint(tmp_path)


def test_an_old_average_that_is_named_is_used_with_a_warning(
    tmp_path: Path, pairs: ParallelData, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="kdmt")
    extend_and_kill(tmp_path, open_data(pairs, train_settings()))
    made = hash_tree(tmp_path / "average")
    assert resolve_checkpoint(tmp_path / "average") == tmp_path / "average"
    assert hash_tree(tmp_path / "average") == made
    assert f"{tmp_path}/average: older than the run's last validation" in caplog.text


def test_best_follows_the_last_validation_after_an_interrupted_extension(tmp_path: Path, pairs: ParallelData) -> None:
    data = open_data(pairs, train_settings())
    extend_and_kill(tmp_path, data)
    scores = {record["update"]: record["loss"] for record in read_metrics(tmp_path) if record["kind"] == "valid"}
    last = checkpoint_update(resolve_checkpoint(tmp_path / "last"))
    best = min((update for update in scores if update <= last), key=lambda update: scores[update])
    assert best > 20
    assert resolve_checkpoint(tmp_path / "best").name == f"checkpoint_{best}"


@pytest.mark.parametrize("save_interval", [1000, 1])
def test_average_is_the_mean_of_the_last_validated_checkpoints_and_the_end(
    tmp_path: Path, pairs: ParallelData, save_interval: int
) -> None:
    run_with_scores(
        tmp_path, pairs, [3.0, 2.0, 4.0], average_checkpoints=3, max_updates=11, save_interval_updates=save_interval
    )
    parts = [weights(tmp_path / f"checkpoint_{update}") for update in (8, 10, 11)]
    for name, average in weights(tmp_path / "average").items():
        assert torch.equal(average, torch.stack([part[name].double() for part in parts]).mean(dim=0).float())
    assert not (tmp_path / "average" / "training_state.json").exists()


@pytest.mark.parametrize("save_interval", [1000, 1])
def test_average_best_is_the_mean_of_the_best_validated_checkpoints(
    tmp_path: Path, pairs: ParallelData, save_interval: int
) -> None:
    """Compare with the means of the weights, from a run whose average of the last checkpoints keeps all of them."""
    scores = [3.0, 1.0, 4.0, 1.0, 5.0, 2.0]
    settings = {"max_updates": 13, "save_interval_updates": save_interval}
    run_with_scores(tmp_path / "all", pairs, scores, average_checkpoints=100, **settings)
    run_with_scores(tmp_path / "best", pairs, scores, average_checkpoints=3, **settings)
    parts = [weights(tmp_path / f"all/checkpoint_{update}") for update in (4, 8, 12)]  # of losses 1, 1 and 2
    found = weights(tmp_path / "best/average_best")
    assert found.keys() == parts[0].keys()
    for name, average in found.items():
        expected = np.mean([part[name].double().numpy() for part in parts], axis=0)
        np.testing.assert_array_equal(average.numpy(), expected.astype(np.float32))
    assert average_of(tmp_path / "best/average_best") == [4, 8, 12]
    assert not (tmp_path / "best/average_best/training_state.json").exists()


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_best_checkpoints_equal_a_ranking_of_all_validations(tmp_path: Path, pairs: ParallelData, seed: int) -> None:
    """Interrupt the run twice; many scores are equal, and equal ones are ranked by the loss, then by the update."""
    rng = np.random.default_rng(seed)
    figures = list(zip(rng.integers(0, 3, 15).astype(float).tolist(), rng.integers(1, 4, 15).tolist(), strict=True))
    data, settings = open_data(pairs, train_settings()), {"average_checkpoints": 4, "save_interval_updates": 3}
    for at in (8, 9):
        with pytest.raises(Killed):
            bleu_trainer(tmp_path, Disturbed(data, at=at, happening=kill), figures, **settings).run()
    bleu_trainer(tmp_path, data, figures, **settings).run()
    ranked = sorted(range(15), key=lambda place: (-figures[place][0], figures[place][1], place))
    assert average_of(tmp_path / "average_best") == sorted(2 * (place + 1) for place in ranked[:4])
    kept = {checkpoint_update(folder) for folder in list_checkpoints(tmp_path)}
    assert len(kept) <= 2 * 4 + 2


def test_a_best_checkpoint_between_validations_is_in_no_average_of_an_extended_run(
    tmp_path: Path, pairs: ParallelData
) -> None:
    figures = [(5.0, 5.0), (4.0, 6.0), (3.0, 7.0)]
    data = open_data(pairs, train_settings())
    bleu_trainer(tmp_path, data, figures, max_updates=1).run()
    assert average_of(tmp_path / "average_best") == [1]
    bleu_trainer(tmp_path, data, figures, max_updates=6).run()
    assert average_of(tmp_path / "average_best") == [2, 4]


# --------------------------------------------------------------------------------------------- the checkpoint `auto`


def score_of(tensors: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> float:
    """Return a score that depends on the weights alone: higher for weights that are nearer to `target`."""
    return 100.0 - sum(float((tensors[name] - target[name]).detach().double().norm()) for name in sorted(target))


def weights_trainer(run: Path, data: TrainingData, target: Mapping[str, torch.Tensor], **changes: Any) -> Trainer:
    """Return a trainer whose validation scores the weights with `score_of`."""

    def validate(objective: Objective) -> dict[str, float]:
        assert not objective.training
        return {"loss": 1.0, "nll": 1.0, "bleu": score_of(dict(objective.model.named_parameters()), target)}

    settings = {"best_metric": "bleu", "validate_bleu": True, "validate_interval_updates": 2, "max_updates": 15}
    return make_trainer(run, data, train_settings(**{**settings, **changes}), validate=validate)


@pytest.mark.parametrize("nearest", ["best", "average_best", "average"])
def test_auto_is_the_candidate_with_the_best_validation(tmp_path: Path, pairs: ParallelData, nearest: str) -> None:
    """Compare with a brute-force evaluation of the candidates' weights, for targets that favour each of them."""
    data = open_data(pairs, train_settings())
    weights_trainer(tmp_path / "first", data, dict(make_model(7).named_parameters())).run()
    # the score of the run rises towards the target; the best checkpoint of a target within the run is near it
    target = weights(resolve_checkpoint(tmp_path / "first" / nearest))
    trainer = weights_trainer(tmp_path / "second", data, target)
    trainer.run()
    choice = read_choice(tmp_path / "second")
    assert choice is not None
    folders = {name: resolve_checkpoint(tmp_path / "second" / name) for name in ("best", "average_best", "average")}
    scores = {name: score_of(weights(folder), target) for name, folder in folders.items()}
    assert {name: candidate.score for name, candidate in choice.candidates.items()} == pytest.approx(scores)
    assert choice.checkpoint == max(scores, key=lambda name: scores[name])
    assert resolve_checkpoint(tmp_path / "second" / "auto") == folders[choice.checkpoint]
    assert same(clone(trainer.model), weights(tmp_path / "second/checkpoint_15"))  # the model has its own weights again


@pytest.mark.parametrize(("of", "chosen"), [("best", "average_best"), ("last", "average")])
def test_auto_is_the_average_that_is_set_without_a_comparison(
    tmp_path: Path, pairs: ParallelData, of: str, chosen: str
) -> None:
    data, target = open_data(pairs, train_settings()), dict(make_model(7).named_parameters())
    for setting in (of, "auto", of):  # a changed setting renews the choice
        weights_trainer(tmp_path, data, target, average={"of": setting}).run()
    choice = read_choice(tmp_path)
    assert choice is not None
    assert choice.checkpoint == chosen
    assert choice.candidates["average"].score is None
    assert resolve_checkpoint(tmp_path / "auto") == tmp_path / chosen


def test_auto_compares_losses_without_bleu(tmp_path: Path, pairs: ParallelData) -> None:
    """Compare with the losses of models that are loaded from the candidates."""
    settings = train_settings()
    data = open_data(pairs, settings)
    make_trainer(tmp_path, data, settings).run()
    choice = read_choice(tmp_path)
    assert choice is not None
    assert choice.metric == "loss"
    for name, candidate in choice.candidates.items():
        objective = build_objective(load_model(resolve_checkpoint(tmp_path / name)), label_smoothing=0.1).eval()
        loss = validation_loss(objective, data, data.epoch(1)[:4], device=torch.device("cpu"))["loss"]
        assert candidate.score == candidate.loss == pytest.approx(loss)
    assert choice.checkpoint == min(choice.candidates, key=lambda name: choice.candidates[name].score)


def test_a_damaged_record_of_the_choice_is_written_again(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(max_updates=10)
    data = open_data(pairs, settings)
    make_trainer(tmp_path, data, settings).run()
    whole = (tmp_path / CHOSEN).read_bytes()
    (tmp_path / CHOSEN).write_bytes(whole[:20])
    make_trainer(tmp_path, data, settings).run()
    assert (tmp_path / CHOSEN).read_bytes() == whole


def test_auto_of_an_interrupted_extension_keeps_its_kind_and_is_rebuilt(
    tmp_path: Path, pairs: ParallelData, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="kdmt")
    data = open_data(pairs, train_settings())
    extend_and_kill(tmp_path / "run", data, average={"of": "best"})
    choice = read_choice(tmp_path / "run")
    assert choice is not None
    assert choice.candidates["average_best"].updates == [10, 20]
    end = checkpoint_update(resolve_checkpoint(tmp_path / "run/last")) // 10 * 10
    assert end >= 30
    assert resolve_checkpoint(tmp_path / "run/auto") == tmp_path / "run/average_best"
    assert f"rebuilt from updates {end - 10}, {end}" in caplog.text
    assert not is_current(tmp_path / "run", choice)
    assert f"validated since {CHOSEN} was written; 'auto' is still average_best" in caplog.text
    make_trainer(tmp_path / "straight", data, train_settings(max_updates=end, save_interval_updates=5)).run()
    assert hash_tree(tmp_path / "run/average_best") == hash_tree(tmp_path / "straight/average_best")
    for run in ("run", "straight"):
        make_trainer(tmp_path / run, data, train_settings(max_updates=60, save_interval_updates=5)).run()
    for name in ("average_best/model.safetensors", CHOSEN):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_auto_of_a_run_that_is_being_extended_does_not_fail(
    tmp_path: Path, pairs: ParallelData, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    extend_and_kill(run, open_data(pairs, train_settings()), average={"of": "best"})
    with open_lock(run) as file:
        assert take(file)
        assert resolve_checkpoint(run / "auto") == resolve_checkpoint(run / "best")
    assert f"{run}: 'auto' is best, since no checkpoint was chosen by validation" in caplog.text


def test_run_shorter_than_a_validation_interval_averages_its_end(tmp_path: Path, pairs: ParallelData) -> None:
    run_with_scores(tmp_path, pairs, [3.0], max_updates=1)
    average, last = weights(tmp_path / "average"), weights(tmp_path / "checkpoint_1")
    assert all(torch.equal(average[name], last[name]) for name in last)
    assert resolve_checkpoint(tmp_path / "best").name == "checkpoint_1"


@pytest.mark.parametrize(("smallest", "expected"), [(VOCAB, "bf16_output"), (VOCAB + 1, "float32")])
def test_automatic_precision_depends_on_the_models_shape(
    tmp_path: Path, pairs: ParallelData, monkeypatch: pytest.MonkeyPatch, smallest: int, expected: str
) -> None:
    monkeypatch.setattr(arithmetic, "has_bf16_units", lambda _: True)
    monkeypatch.setattr(arithmetic, "has_amx", lambda: False)
    monkeypatch.setattr(arithmetic, "MIN_WIDTH", TINY.decoder_embed_dim)
    monkeypatch.setattr(arithmetic, "MIN_VOCABULARY", smallest)
    settings = train_settings(max_updates=1, precision="auto")
    make_trainer(tmp_path, open_data(pairs, settings), settings).run()
    stored = arithmetic.read_arithmetic(tmp_path)
    assert stored is not None
    assert stored.precision == expected


@pytest.mark.parametrize(
    ("save_interval", "kept"),
    [
        (1000, [2, 4, 14, 15]),  # the two best; two for the average, one of them the last
        (1, [2, 4, 14, 15]),
        (5, [2, 4, 14, 15]),
    ],
)
def test_pruning_keeps_those_of_both_averages_and_two_to_resume_from(
    tmp_path: Path, pairs: ParallelData, save_interval: int, kept: list[int]
) -> None:
    run_with_scores(tmp_path, pairs, [3.0, 2.0, 4.0], max_updates=15, save_interval_updates=save_interval)
    expected = [
        *(f"checkpoint_{update}" for update in kept),
        "arithmetic.json",
        "average",
        "average_best",
        "average_best_of",
        "average_of",
        "best",
        "chosen.json",
        "last",
        "metrics.jsonl",
    ]
    assert names(tmp_path) == sorted(expected)
    assert resolve_checkpoint(tmp_path / "best").name == "checkpoint_4"


def test_pruning_keeps_two_to_resume_from_in_addition_to_those_of_the_average(
    tmp_path: Path, pairs: ParallelData
) -> None:
    settings = train_settings(validate_interval_updates=4, save_interval_updates=1, average_checkpoints=1)
    data = Disturbed(open_data(pairs, settings), at=12, happening=kill)
    with pytest.raises(Killed):
        make_trainer(tmp_path, data, settings, validate=scripted([1.0, 2.0])).run()
    assert [name for name in names(tmp_path) if name.startswith("checkpoint")] == [
        "checkpoint_10", "checkpoint_11", "checkpoint_4", "checkpoint_8",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------ divergence


def poison(trainer: Trainer, *, at: int, value: float, weight: bool = True) -> Trainer:
    """Make a weight, or the loss alone, not finite at the n-th training pass."""
    passes = itertools.count(1)

    def spoil(module: torch.nn.Module, arguments: tuple[Batch], terms: LossTerms) -> LossTerms:  # noqa: ARG001
        if module.training and next(passes) == at:
            if weight:
                with torch.no_grad():
                    next(trainer.model.parameters())[5, 0] = value
            return {name: replace(term, sum=term.sum * value) for name, term in terms.items()}
        return terms

    trainer.objective.register_forward_hook(spoil)
    return trainer


def test_nan_stops_at_its_update_and_the_last_good_checkpoint_is_kept(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(validate_interval_updates=4, max_updates=12)
    data = open_data(pairs, settings)
    ill = poison(make_trainer(tmp_path, data, settings, validate=scripted([2.0, 1.0])), at=7, value=float("nan"))
    with pytest.raises(Divergence) as stop:
        ill.run()
    assert str(stop.value).startswith("update 7 (epoch 1, batch 7): the term 'loss' of the loss is not finite.")
    assert f"The last good checkpoint is {tmp_path / 'checkpoint_4'};" in str(stop.value)
    assert all(bool(value.isfinite().all()) for value in load_model(tmp_path / "checkpoint_4").parameters())

    # without the fault, the run is resumed from there and ends as if there had been none
    make_trainer(tmp_path, data, settings, validate=scripted([1.0])).run()
    make_trainer(tmp_path / "healthy", data, settings, validate=scripted([2.0, 1.0])).run()
    ends = [weights(run / "checkpoint_12") for run in (tmp_path, tmp_path / "healthy")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_checkpoint_of_failing_weights_is_not_the_last_good_one(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(lr=1e30, warmup_init_lr=1e30, warmup_updates=1, save_interval_updates=1)
    with pytest.raises(Divergence, match=r"update 2 .* last good checkpoint is none") as stop:
        make_trainer(tmp_path, open_data(pairs, settings), settings).run()
    assert "lower 'train.lr'" in str(stop.value)


def test_divergence_before_the_first_checkpoint_is_reported(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings()
    ill = poison(make_trainer(tmp_path, open_data(pairs, settings), settings), at=2, value=float("inf"))
    with pytest.raises(Divergence, match=r"update 2 .* nothing was saved yet"):
        ill.run()


def test_update_without_a_usable_gradient_can_be_skipped(
    tmp_path: Path, pairs: ParallelData, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="kdmt")
    settings = train_settings(max_updates=12, validate_interval_updates=4, on_divergence="skip", log_interval_updates=1)
    data, seen = open_data(pairs, settings), []
    ill = poison(make_trainer(tmp_path, data, settings), at=7, value=float("nan"), weight=False)

    def look(module: torch.nn.Module, _: tuple[Batch]) -> None:
        if module.training:
            seen.append(clone(ill.model))

    ill.objective.register_forward_pre_hook(look)
    ill.run()
    assert "update 7 (epoch 1, batch 7): the term 'loss' of the loss is not finite: skipped" in caplog.text
    moved = [not same(before, after) for before, after in pairwise(seen)]
    assert moved == [True] * 6 + [False] + [True] * 4
    records = [record for record in read_metrics(tmp_path) if record["kind"] == "train"]
    assert [record["update"] for record in records] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert [record["skipped"] for record in records] == [0] * 6 + [1] * 5
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path / "checkpoint_12").values())


def test_skipped_update_changes_no_weight(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(
        max_updates=2, validate_interval_updates=1, on_divergence="skip", explosion_norm=1e-6, average_checkpoints=1
    )
    trainer = make_trainer(tmp_path, open_data(pairs, settings), settings)
    before = clone(trainer.model)
    trainer.run()
    assert same(clone(trainer.model), before)


def test_explosion_stops_and_reports_the_norm(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(explosion_norm=1e-3)
    with pytest.raises(
        Divergence, match=r"update 1 \(epoch 1, batch 1\): the gradient's norm is [1-9].*, over 'train.exp"
    ):
        make_trainer(tmp_path, open_data(pairs, settings), settings).run()


def test_run_can_be_extended_after_only_skipped_updates(tmp_path: Path, pairs: ParallelData) -> None:
    for max_updates, explosion_norm in ((2, 1e-6), (4, 0.0)):
        settings = train_settings(max_updates=max_updates, on_divergence="skip", explosion_norm=explosion_norm)
        make_trainer(tmp_path, open_data(pairs, settings), settings).run()
    steps = [value for name, value in load_state(tmp_path / "checkpoint_4").tensors.items() if name.startswith("step.")]
    assert {float(step) for step in steps} == {2.0}


def test_skipping_ends_after_100_updates_in_a_row(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(max_updates=1000, on_divergence="skip", explosion_norm=1e-6)
    with pytest.raises(Divergence, match=r"update 100 .*, 100 times in a row"):
        make_trainer(tmp_path, open_data(pairs, settings), settings, validate=scripted([1.0])).run()


def clone(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


class EndlessSlope(Objective):
    """A finite loss with a gradient that is not finite: a square root at zero."""

    def forward(self, prepared: Prepared) -> LossTerms:
        slope = (next(self.model.parameters()).sum() * 0).abs().sqrt()
        return {name: LossTerm(slope, count) for name, count in self.counts(prepared).items()}


def test_gradient_that_is_not_finite_stops_too(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings()
    trainer = make_trainer(tmp_path, open_data(pairs, settings), settings)
    trainer.objective = EndlessSlope(trainer.model, LeftToRight(), [CrossEntropy(0.0)])
    with pytest.raises(Divergence, match=r"update 1 .*: the gradient's norm is not finite"):
        trainer.run()


def test_validation_loss_that_is_not_finite_stops_before_saving(tmp_path: Path, pairs: ParallelData) -> None:
    settings: Train = train_settings(validate_interval_updates=2)
    with pytest.raises(Divergence, match="update 4: the validation loss is not finite"):
        make_trainer(tmp_path, open_data(pairs, settings), settings, validate=scripted([1.0, float("nan")])).run()
    assert resolve_checkpoint(tmp_path / "last").name == "checkpoint_2"
    assert "checkpoint_4" not in names(tmp_path)


# ------------------------------------------------------------------------------- results that are read an update later


class HostReads(TorchDispatchMode):
    """Records the operations of the loop for which the host would wait for a GPU.

    Models look at their masks on a CPU only, and objectives are tested by themselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"):
            package = Path(kdmt.__file__).parent
            files = [Path(frame.filename) for frame in traceback.extract_stack()]
            if [file for file in files if file.is_relative_to(package)][-1].parent == package / "train":
                self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_host_reads_nothing_within_an_update_and_its_results_after_the_next(
    tmp_path: Path, pairs: ParallelData, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = train_settings(max_updates=5, log_interval_updates=1, clip_norm=1.0, explosion_norm=1e9)
    trainer = make_trainer(tmp_path, open_data(pairs, settings), settings)
    reads, order, update = HostReads(), [], trainer._update

    def watched(step: Step) -> None:
        with reads:
            update(step)
        order.append(f"end of {trainer.position.update}")

    read = UnreadUpdate.read

    def recorded(unread: UnreadUpdate) -> tuple[dict[str, float], float]:
        order.append(f"read {unread.update}")
        return read(unread)

    monkeypatch.setattr(trainer, "_update", watched)
    monkeypatch.setattr(UnreadUpdate, "read", recorded)
    trainer.run()
    assert reads.found == []
    between = [name for number in range(1, 5) for name in (f"read {number}", f"end of {number + 1}")]
    assert order == ["end of 1", *between, "read 5"]
    assert [record["update"] for record in read_metrics(tmp_path) if record["kind"] == "train"] == [1, 2, 3, 4, 5]


def test_log_is_that_of_every_update_alone(tmp_path: Path, pairs: ParallelData) -> None:
    """Figures of logs over several updates are the sums of those of a log at each update."""
    found = {}
    for interval in (1, 3):
        settings = train_settings(max_updates=9, log_interval_updates=interval)
        make_trainer(tmp_path / str(interval), open_data(pairs, settings), settings).run()
        found[interval] = {r["update"]: r for r in read_metrics(tmp_path / str(interval)) if r["kind"] == "train"}
    for update in (3, 6, 9):
        assert [found[3][update][key] for key in ("lr", "grad_norm", "epoch")] == [
            found[1][update][key] for key in ("lr", "grad_norm", "epoch")
        ]
        losses = [found[1][each]["loss"] for each in range(update - 2, update + 1)]
        assert min(losses) <= found[3][update]["loss"] <= max(losses)


def test_saving_reads_the_results_first(tmp_path: Path, pairs: ParallelData) -> None:
    """A checkpoint is never written of an update whose results are not known."""
    settings = train_settings(save_interval_updates=1, validate_interval_updates=100)
    ill = poison(make_trainer(tmp_path, open_data(pairs, settings), settings), at=3, value=float("nan"), weight=False)
    with pytest.raises(Divergence, match=r"update 3 \(epoch 1, batch 3\)"):
        ill.run()
    assert [name for name in names(tmp_path) if name.startswith("checkpoint")] == ["checkpoint_1", "checkpoint_2"]
    healthy = train_settings(max_updates=2, validate_interval_updates=100)
    make_trainer(tmp_path / "healthy", open_data(pairs, healthy), healthy).run()
    assert same(weights(tmp_path / "checkpoint_2"), weights(tmp_path / "healthy/checkpoint_2"))


def test_training_ends_with_the_divergence_of_its_last_update(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(max_updates=3, validate_interval_updates=100)
    ill = poison(make_trainer(tmp_path, open_data(pairs, settings), settings), at=3, value=float("nan"), weight=False)
    with pytest.raises(Divergence, match="update 3 "):
        ill.run()
    assert "checkpoint_3" not in names(tmp_path)


@pytest.mark.parametrize(
    "section",
    [
        {"word_kd": {}, "online": {"kind": "ema", "decay": 0.5}},
        {"word_kd": {"select": "global", "queue": 50}, "online": {"kind": "ema", "decay": 0.5}},
    ],
    ids=["teacher that follows", "queue of losses"],
)
def test_skipped_update_changes_nothing_that_follows_the_student(
    tmp_path: Path, pairs: ParallelData, section: dict[str, Any]
) -> None:
    settings = train_settings(max_updates=6, on_divergence="skip", log_interval_updates=1)
    student = Student.model_validate(section)
    objective = build_objective(make_model(), student, label_smoothing=0.1)
    ill = make_trainer(tmp_path, open_data(pairs, settings), settings, objective=objective)
    poison(ill, at=4, value=float("nan"), weight=False)
    seen: list[dict[str, torch.Tensor]] = []

    def look(module: torch.nn.Module, _: tuple[Batch]) -> None:
        if module.training:
            kept = {**dict(objective.model.named_parameters()), **objective.moving(), **objective.memory()}
            seen.append({name: value.detach().clone() for name, value in kept.items()})

    objective.register_forward_pre_hook(look)
    ill.run()
    equal = [
        [name for name in after if name in before and torch.equal(before[name], after[name])]
        for before, after in pairwise(seen)
    ]
    assert sorted(equal[3]) == sorted(seen[3])
    assert not any(equal[index] for index in (1, 2, 4))


# -------------------------------------------------------------------------------- checkpoints written in the background


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, pairs: ParallelData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint holds the values of its own update."""
    settings = train_settings(max_updates=6, save_interval_updates=3, validate_interval_updates=100)
    data = open_data(pairs, settings)
    trainer = make_trainer(tmp_path / "run", data, settings)
    later, save_file, update = threading.Event(), checkpoint.save_file, trainer._update

    def slow(*arguments: Any) -> None:
        assert later.wait(120)
        save_file(*arguments)

    def watched(step: Step) -> None:
        update(step)
        if trainer.position.update == 5:
            assert "checkpoint_3" not in names(tmp_path / "run")
            later.set()

    monkeypatch.setattr(checkpoint, "save_file", slow)
    monkeypatch.setattr(trainer, "_update", watched)
    trainer.run()
    shorter = train_settings(max_updates=3, save_interval_updates=3, validate_interval_updates=100)
    make_trainer(tmp_path / "short", open_data(pairs, shorter), shorter).run()
    tensors, expected = (load_state(tmp_path / run / "checkpoint_3").tensors for run in ("run", "short"))
    assert same(tensors, expected)
    assert same(*(weights(tmp_path / run / "checkpoint_3") for run in ("run", "short")))


@pytest.mark.parametrize(("fails_at", "last"), [(4, 8), (12, 12)], ids=["next save", "end"])
def test_checkpoint_that_cannot_be_written_ends_training(
    tmp_path: Path, pairs: ParallelData, monkeypatch: pytest.MonkeyPatch, fails_at: int, last: int
) -> None:
    settings = train_settings(max_updates=12, save_interval_updates=4, validate_interval_updates=12)
    trainer = make_trainer(tmp_path, open_data(pairs, settings), settings)
    save = run_folder.save_checkpoint

    def full(folder: Path, *arguments: Any, **named: Any) -> None:
        if folder.name == f"checkpoint_{fails_at}":
            raise OSError(errno.ENOSPC, "No space left on device")
        save(folder, *arguments, **named)

    monkeypatch.setattr(run_folder, "save_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.run()
    assert trainer.position.update == last
    assert f"checkpoint_{fails_at}" not in names(tmp_path)
    assert "average" not in names(tmp_path)


def test_divergence_waits_for_the_checkpoint_and_reports_one_that_failed(
    tmp_path: Path, pairs: ParallelData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="kdmt")
    settings = train_settings(save_interval_updates=2, validate_interval_updates=100)
    trainer = poison(make_trainer(tmp_path, open_data(pairs, settings), settings), at=5, value=float("nan"))
    save = run_folder.save_checkpoint

    def full(folder: Path, *arguments: Any, **named: Any) -> None:
        if folder.name == "checkpoint_4":
            raise OSError(errno.ENOSPC, "No space left on device")
        save(folder, *arguments, **named)

    monkeypatch.setattr(run_folder, "save_checkpoint", full)
    with pytest.raises(Divergence, match=f"update 5 .*The last good checkpoint is {tmp_path / 'checkpoint_2'};"):
        trainer.run()
    assert "the latest checkpoint could not be written: [Errno 28] No space left on device" in caplog.text


# ------------------------------------------------------------------------------------- moving average of the weights

EMA = {"ema": 0.8, "max_updates": 20, "validate_interval_updates": 5}


def trained_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights from which training goes on, of a checkpoint of their moving average."""
    tensors = load_state(folder).tensors
    return {name.removeprefix("trained."): each for name, each in tensors.items() if name.startswith("trained.")}


def test_the_saved_and_validated_model_is_the_moving_average(tmp_path: Path, pairs: ParallelData) -> None:
    """Weights that are trained are those of a run without `ema`, and the average is that of its formula."""
    settings = train_settings(**EMA | {"validate_interval_updates": 1, "average_checkpoints": 20})
    plain = settings.model_copy(update={"ema": 0.0})
    validated: list[dict[str, torch.Tensor]] = []

    def validate(objective: Objective) -> dict[str, float]:
        validated.append(clone(objective.model))
        return {"loss": 1.0, "nll": 1.0}

    data = open_data(pairs, settings)
    average = {name: each.double().numpy() for name, each in clone(make_model()).items()}
    trainer = make_trainer(tmp_path / "ema", data, settings, validate=validate)
    trainer.run()
    make_trainer(tmp_path / "plain", data, plain, validate=lambda _: {"loss": 1.0, "nll": 1.0}).run()
    for update in range(1, 21):
        folder, other = (tmp_path / run / f"checkpoint_{update}" for run in ("ema", "plain"))
        raw = weights(other)
        assert same(trained_weights(folder), raw)
        decay = min(0.8, update / (9 + update))  # after update - 1 updates
        average = {name: decay * each + (1 - decay) * raw[name].double().numpy() for name, each in average.items()}
        for name, saved in weights(folder).items():
            np.testing.assert_allclose(saved.numpy(), average[name], rtol=1e-4, atol=1e-6)
        assert same(validated[update - 1], weights(folder))
    assert same(clone(trainer.model), weights(tmp_path / "plain" / "checkpoint_20"))
    mean = np.mean(
        [weights(tmp_path / "ema" / f"checkpoint_{n}")["src_embed.tokens.weight"].numpy() for n in range(1, 21)], axis=0
    )
    np.testing.assert_allclose(weights(tmp_path / "ema/average")["src_embed.tokens.weight"].numpy(), mean, rtol=1e-5)


def test_moving_average_counts_the_updates_of_the_optimiser_state(tmp_path: Path, pairs: ParallelData) -> None:
    first = train_settings(max_updates=10, validate_interval_updates=5)
    data = open_data(pairs, first)
    make_trainer(tmp_path / "first", data, first).run()
    folder = tmp_path / "first" / "checkpoint_10"
    second = train_settings(max_updates=1, ema=0.9, init_from=str(folder), init_optimizer=True)
    make_trainer(tmp_path / "kept", data, second, model=load_model(folder), init_state=load_state(folder)).run()
    last = tmp_path / "kept" / "checkpoint_1"
    trained, before = trained_weights(last), weights(folder)
    for name, saved in weights(last).items():
        mean = (11 * before[name].double() + 9 * trained[name].double()) / 20  # the decay is (1 + 10) / (10 + 10)
        np.testing.assert_allclose(saved.numpy(), mean.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("at", [2, 13, *(pytest.param(at, marks=pytest.mark.slow) for at in (8, 17))])
def test_killed_run_with_a_moving_average_resumes_exactly(tmp_path: Path, pairs: ParallelData, at: int) -> None:
    settings = train_settings(**EMA, save_interval_updates=2)
    data = open_data(pairs, settings)
    make_trainer(tmp_path / "straight", data, settings).run()
    with pytest.raises(Killed):
        make_trainer(tmp_path / "killed", Disturbed(data, at=at, happening=kill), settings).run()
    model = make_model(99 if list_checkpoints(tmp_path / "killed") else 1)
    make_trainer(tmp_path / "killed", data, settings, model=model).run()
    for name in ("checkpoint_20/checksums.json", "average/model.safetensors", "best", "chosen.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert read_metrics(tmp_path / "killed") == read_metrics(tmp_path / "straight")


def test_checkpoint_without_the_trained_weights_does_not_continue_a_moving_average(
    tmp_path: Path, pairs: ParallelData
) -> None:
    settings = train_settings(max_updates=5)
    data = open_data(pairs, settings)
    make_trainer(tmp_path, data, settings).run()
    with pytest.raises(UserError, match=r"trained\.src_embed\.tokens\.weight is missing"):
        make_trainer(tmp_path, data, settings.model_copy(update={"ema": 0.9, "max_updates": 9})).run()


def test_skipped_update_changes_no_moving_average(tmp_path: Path, pairs: ParallelData) -> None:
    changes = {"max_updates": 3, "validate_interval_updates": 1, "average_checkpoints": 3, "on_divergence": "skip"}
    settings = train_settings(**EMA | changes)
    ill = poison(make_trainer(tmp_path, open_data(pairs, settings), settings), at=2, value=float("nan"), weight=False)
    ill.run()
    first, second, third = (weights(tmp_path / f"checkpoint_{update}") for update in (1, 2, 3))
    assert same(first, second)
    assert not same(second, third)


def test_fine_tuning_that_keeps_the_optimiser_begins_from_the_trained_weights(
    tmp_path: Path, pairs: ParallelData
) -> None:
    settings = train_settings(**EMA)
    data = open_data(pairs, settings)
    make_trainer(tmp_path / "first", data, settings).run()
    folder = tmp_path / "first" / "checkpoint_20"
    kept = make_trainer(tmp_path / "kept", data, settings, model=load_model(folder), init_state=load_state(folder))
    (tmp_path / "kept").mkdir()
    kept._start()
    assert same(clone(kept.model), trained_weights(folder))
    assert same(dict(kept.average), weights(folder))
    plain = make_trainer(tmp_path / "plain", data, settings, model=load_model(folder))
    (tmp_path / "plain").mkdir()
    plain._start()
    assert same(clone(plain.model), weights(folder))


# ------------------------------------------------------------------------------------------ quantisation-aware training


def _quantization_aware(run: Path, pairs: ParallelData, ends: Sequence[int], **changes: Any) -> dict[str, torch.Tensor]:
    """Train to each of the ends in turn, each time with new objects, and return the state and the weights."""
    for end in ends:
        settings = train_settings(max_updates=end, save_interval_updates=7, update_freq=2, **changes)
        make_trainer(run, open_data(pairs, settings), settings).run()
    folder = run / f"checkpoint_{ends[-1]}"
    return load_file(folder / "training_state.safetensors") | load_file(folder / "model.safetensors")


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_quantization_aware_training_resumes_exactly(tmp_path: Path, pairs: ParallelData, ema: float) -> None:
    whole = _quantization_aware(tmp_path / "whole", pairs, [10], quantization_aware="int8", ema=ema)
    stopped = _quantization_aware(tmp_path / "stopped", pairs, [7, 10], quantization_aware="int8", ema=ema)
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_quantization_aware_training_computes_with_rounded_weights(tmp_path: Path, pairs: ParallelData) -> None:
    """One update from the same weights: the gradient is that of the rounded model, the step that of the own weights."""
    settings = train_settings(max_updates=1, warmup_init_lr=1e-5, quantization_aware="int8_matrix")
    data, model = GivenBatches(pairs, [range(8)]), make_model(config=NO_DROPOUT)
    own = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    rounded = make_model(config=NO_DROPOUT)
    make_quantization_aware(rounded)
    with torch.no_grad():
        for name, weight in int8_weights(rounded, "int8_matrix").items():
            dict(rounded.named_parameters())[name].copy_(weight)
    objective = build_objective(rounded, label_smoothing=settings.label_smoothing)
    terms = objective(objective.prepare(data.load(np.arange(8))))
    (terms["loss"].sum / terms["loss"].count).backward()
    make_trainer(tmp_path, data, settings, model=model).run()
    state = load_state(tmp_path / "checkpoint_1").tensors
    saved = load_file(tmp_path / "checkpoint_1" / "model.safetensors")
    for name, parameter in rounded.named_parameters():
        assert parameter.grad is not None
        first_moment = (1 - settings.adam_betas[0]) * parameter.grad
        assert torch.allclose(state[f"exp_avg.{name}"], first_moment, rtol=1e-4, atol=1e-9)
        assert (saved[name] - own[name]).abs().max() <= 1.1 * learning_rate(0, settings)  # of rounding: above 1e-3


def test_quantization_aware_training_validates_what_int8_engines_compute(tmp_path: Path, pairs: ParallelData) -> None:
    settings = train_settings(max_updates=20, quantization_aware="int8", average="auto")
    data = open_data(pairs, settings)
    make_trainer(tmp_path, data, settings).run()
    validations = [record for record in read_metrics(tmp_path) if record["kind"] == "valid"]
    recorded = {f"checkpoint_{record['update']}": record["loss"] for record in validations}
    choice = read_choice(tmp_path)
    assert choice is not None
    recorded["average"] = choice.candidates["average"].loss
    for name, expected in recorded.items():
        model = load_model(resolve_checkpoint(tmp_path / name))
        objective = build_objective(model, label_smoothing=settings.label_smoothing).eval()
        floats = validation_loss(objective, data, data.epoch(1)[:4], device=CPU)["loss"]
        make_quantization_aware(model)
        with replaced(model, int8_weights(model, "int8")):
            rounded = validation_loss(objective, data, data.epoch(1)[:4], device=CPU)["loss"]
        assert rounded == pytest.approx(expected, rel=1e-6)
        assert floats != pytest.approx(expected, rel=1e-6)
