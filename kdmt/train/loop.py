"""The training loop: updates, validation, checkpoints, and going on after a stop.

What is a result (parameters, which checkpoint is best, what `average` holds) depends on the settings, the seed and the
data alone. Saving more often, a stop, or a kill in between changes nothing of it on one CPU with the same threads.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kdmt.config import Train
from kdmt.errors import Interrupted, UserError
from kdmt.models.checkpoint import (
    PREFIX,
    TrainingState,
    average_weights,
    checkpoint_update,
    list_checkpoints,
    load_state,
    load_weights,
    newest_valid_checkpoint,
    point,
    remove_unfinished,
    save_checkpoint,
)
from kdmt.models.transformer import Transformer
from kdmt.train.objectives import Objective
from kdmt.train.progress import Progress
from kdmt.train.schedule import inverse_sqrt
from kdmt.types import Batch

Ending = Literal["max_updates", "patience"]


class TrainingData(Protocol):
    """Micro-batches of an epoch, in an order that is a function of (seed, epoch) alone."""

    def epoch(self, epoch: int) -> Sequence[np.ndarray]: ...

    def load(self, indices: np.ndarray) -> Batch: ...


class Divergence(UserError):
    """The loss or the gradient is no longer a number."""


@dataclass
class Position:
    """Where training is. All of it is saved with a checkpoint."""

    update: int = 0
    epoch: int = 1
    batch: int = 0  # micro-batches of the epoch that are done
    schedule_offset: int = 0  # updates of an earlier run whose optimiser is kept
    best_score: float | None = None
    best_update: int | None = None
    bad_validations: int = 0
    validated: int = 0  # update of the last validation
    loss_sums: dict[str, float] = field(default_factory=dict)  # since the last log line
    loss_counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    ending: Ending
    update: int
    best_update: int
    best_score: float


class Trainer:
    """Trains one objective on one device.

    Args:
        objective: the module that gives the loss terms; its `model` is what is saved.
        data: training micro-batches.
        settings: the pipeline's `train` section.
        seed: of the random state (dropout); the data order has it already.
        run: folder for checkpoints and `metrics.jsonl`.
        companions: files that every checkpoint carries.
        validate: gives `loss` (nats a token), `nll` and, where set, `bleu`, of the model in evaluation mode.
        progress: receives figures as they come.
        init_state: the optimiser's state of another run, to be kept.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        data: TrainingData,
        settings: Train,
        seed: int,
        run: Path,
        companions: Sequence[Path],
        validate: Callable[[Transformer], dict[str, float]],
        progress: Progress,
        device: torch.device,
        init_state: TrainingState | None = None,
    ) -> None:
        self.objective, self.data, self.settings, self.run_folder = objective, data, settings, run
        self.companions, self.validate, self.progress, self.device = companions, validate, progress, device
        self.model = objective.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=0.0,
            betas=settings.adam_betas,
            eps=settings.adam_eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.position = Position()
        self.log_started = (time.perf_counter(), 0)  # when, and target tokens since
        torch.manual_seed(seed)
        if init_state is not None:
            self._load_optimizer(init_state.tensors)
            offset = init_state.values["update"] + init_state.values["schedule_offset"]
            self.position.schedule_offset = offset

    # ------------------------------------------------------------------------------------------------- the run

    def run(self) -> Outcome:
        """Train from the newest checkpoint, or from the start, to `max_updates` or until patience ends.

        Raises:
            Interrupted: by SIGINT or SIGTERM, after saving.
            Divergence: the loss or the gradient is not finite; the last good checkpoint stays.
        """
        self.run_folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        with _stop_signals() as stop, self.progress.running(self.position.update, self.settings.max_updates):
            while (ending := self._ending()) is None:
                for micro_batches in self._updates_of_epoch():
                    self._update(micro_batches)
                    self._after_update(stop)
                    if self._ending() is not None:
                        break
                else:
                    self.position.epoch += 1
                    self.position.batch = 0
        return self._finish(ending)

    def _ending(self) -> Ending | None:
        if self.position.update >= self.settings.max_updates:
            return "max_updates"
        if self.settings.patience and self.position.bad_validations >= self.settings.patience:
            return "patience"
        return None

    def _updates_of_epoch(self) -> Iterator[list[np.ndarray]]:
        """The micro-batches of each update that is left in this epoch."""
        batches = self.data.epoch(self.position.epoch)
        for start in range(self.position.batch, len(batches), self.settings.update_freq):
            yield list(batches[start : start + self.settings.update_freq])

    def _update(self, micro_batches: list[np.ndarray]) -> None:
        """One optimiser step on the sum over micro-batches, each term divided once by its whole count."""
        self.model.train()
        loaded = [self.data.load(indices).to(self.device) for indices in micro_batches]
        counts: dict[str, int] = {}
        for batch in loaded:
            for name, count in self.objective.counts(batch).items():
                counts[name] = counts.get(name, 0) + count
        for batch in loaded:
            self._backward(batch, counts)
        clip = self.settings.clip_norm or math.inf
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self._check_finite(grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.position.update += 1
        self.position.batch += len(micro_batches)
        for name, count in counts.items():
            self.position.loss_counts[name] = self.position.loss_counts.get(name, 0) + count
        self._maybe_log(float(grad_norm), sum(batch.num_tgt_tokens for batch in loaded))

    def _backward(self, batch: Batch, counts: dict[str, int]) -> None:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.bf16):
            terms = self.objective(batch)
            total = sum(
                (term.sum * (term.weight / counts[name]) for name, term in terms.items() if term.weight),
                start=torch.zeros((), device=self.device),
            )
        total.backward()
        for name, term in terms.items():
            self.position.loss_sums[name] = self.position.loss_sums.get(name, 0.0) + float(term.sum.detach())

    def _check_finite(self, grad_norm: Tensor) -> None:
        broken = [name for name, value in self.position.loss_sums.items() if not math.isfinite(value)]
        if not broken and math.isfinite(float(grad_norm)):
            return
        what = f"the term {broken[0]!r} of the loss" if broken else "the gradient's norm"
        failing = (
            self.position.update if broken else None
        )  # a checkpoint of the very weights that failed is no good one
        kept = [f for f in list_checkpoints(self.run_folder) if checkpoint_update(f) != failing]
        raise Divergence(
            f"update {self.position.update + 1} (epoch {self.position.epoch}, batch {self.position.batch + 1}): "
            f"{what} is not finite. The last good checkpoint is {kept[-1] if kept else 'none: nothing was saved yet'}; "
            f"try a lower 'train.lr', more 'train.warmup_updates' or 'train.clip_norm'"
        )

    def _learning_rate(self) -> float:
        return inverse_sqrt(self.position.update + self.position.schedule_offset, self.settings)

    # ------------------------------------------------------------------------------------- between the updates

    def _after_update(self, stop: _Stop) -> None:
        update = self.position.update
        validated = update % self.settings.validate_interval_updates == 0
        if validated:
            self._validate(scheduled=True)
        signal_number = stop.signal_number  # read once: a signal may come at any moment
        if signal_number is not None:
            raise Interrupted(signal_number, str(self._save()))
        if validated or update % self.settings.save_interval_updates == 0:
            self._save()

    def _maybe_log(self, grad_norm: float, num_tokens: int) -> None:
        started, tokens = self.log_started
        tokens += num_tokens
        self.log_started = (started, tokens)
        self.progress.advance(self.position.update)
        if self.position.update % self.settings.log_interval_updates:
            return
        means = {
            name: value / self.position.loss_counts[name] for name, value in sorted(self.position.loss_sums.items())
        }
        seconds = time.perf_counter() - started
        self.progress.log_training(
            update=self.position.update,
            epoch=self.position.epoch,
            lr=self.optimizer.param_groups[0]["lr"],
            grad_norm=grad_norm,
            seconds=round(seconds, 3),
            tokens_per_second=round(tokens / seconds, 1),
            **means,
        )
        self._reset_log()

    def _reset_log(self) -> None:
        self.position.loss_sums, self.position.loss_counts = {}, {}
        self.log_started = (time.perf_counter(), 0)

    def _validate(self, *, scheduled: bool) -> None:
        """Measure, and remember the best. An extended run would not have made a validation off the schedule: it
        counts for nothing, unless there is no other."""
        self.model.eval()
        started = time.perf_counter()
        figures = self.validate(self.model)
        position = self.position
        if not math.isfinite(figures["loss"]):
            raise Divergence(f"update {position.update}: the validation loss is not finite")
        score = figures[self.settings.best_metric]
        position.validated = position.update
        sign = 1 if self.settings.best_metric == "bleu" else -1
        if position.best_score is None or (scheduled and sign * score > sign * position.best_score):
            position.best_score, position.best_update, position.bad_validations = score, position.update, 0
        elif scheduled:
            position.bad_validations += 1
        self.progress.log_validation(
            update=position.update, epoch=position.epoch, best_update=position.best_update, **figures
        )
        seconds = time.perf_counter() - started
        self.log_started = (self.log_started[0] + seconds, self.log_started[1])  # tokens/s counts training alone

    # ------------------------------------------------------------------------------------- saving and going on

    def _save(self) -> Path:
        folder = self.run_folder / f"{PREFIX}{self.position.update}"
        state = TrainingState(self._state_tensors(), asdict(self.position))
        save_checkpoint(folder, self.model, companions=self.companions, state=state)
        if self.position.best_update == self.position.update:
            point(self.run_folder / "best", folder)
        point(self.run_folder / "last", folder)
        self._prune()
        return folder

    def _state_tensors(self) -> dict[str, Tensor]:
        tensors = {"random.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}.{name}"] = value
        return tensors

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            self.optimizer.state[parameter] = {
                key: tensors[f"{key}.{name}"].to(parameter.device) for key in ("step", "exp_avg", "exp_avg_sq")
            }

    def _resume(self) -> None:
        remove_unfinished(self.run_folder)
        folder, problems = newest_valid_checkpoint(self.run_folder)
        for problem in problems:
            self.progress.note(f"passed over: {problem}")
        self.progress.cut_back(0 if folder is None else checkpoint_update(folder))
        if folder is None:
            return
        load_weights(self.model, folder)
        state = load_state(folder)
        self._load_optimizer(state.tensors)
        torch.set_rng_state(state.tensors["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in state.tensors:
            torch.cuda.set_rng_state(state.tensors["random.cuda"], self.device)
        self.position = Position(**state.values)
        if self.position.update > self.settings.max_updates:
            raise UserError(
                f"{folder}: training is past 'max_updates: {self.settings.max_updates}' already; it does not go back"
            )
        # a kill may have come between a checkpoint and its pointers
        point(self.run_folder / "last", folder)
        if self.position.best_update is not None:
            point(self.run_folder / "best", self.run_folder / f"{PREFIX}{self.position.best_update}")
        self.progress.note(f"going on from {folder.name}")

    def _prune(self) -> None:
        """Keep what `average` and `best` need, and two checkpoints to resume from."""
        folders = list_checkpoints(self.run_folder)
        keep = {*self._averaged(), *folders[-2:]}
        for folder in folders:
            if folder not in keep and checkpoint_update(folder) != self.position.best_update:
                _remove(folder)

    def _averaged(self) -> list[Path]:
        """The last checkpoints that were written at validations, and that of the last update of all.

        Which they are depends on result and extend settings alone, not on when a run was saved or stopped.
        """
        interval, last = self.settings.validate_interval_updates, self.settings.max_updates
        updates = [(folder, checkpoint_update(folder)) for folder in list_checkpoints(self.run_folder)]
        chosen = [folder for folder, update in updates if update % interval == 0 or update == last]
        return chosen[-self.settings.average_checkpoints :]

    def _finish(self, ending: Ending) -> Outcome:
        """Validate and save a last update off the schedule, and write `average`."""
        if self.position.validated != self.position.update:
            self._validate(scheduled=False)
            self._save()
        average_weights(self.model, self._averaged())
        save_checkpoint(self.run_folder / "average", self.model, companions=self.companions)
        if self.position.best_update is None or self.position.best_score is None:
            raise AssertionError("a finished training has been validated")
        return Outcome(ending, self.position.update, self.position.best_update, self.position.best_score)


# ------------------------------------------------------------------------------------------------------------ signals


@dataclass
class _Stop:
    """What the signal handler leaves for the loop to find."""

    signal_number: int | None = None


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Turn the first SIGINT or SIGTERM into a request to stop after the update; a second one takes its usual course."""
    stop = _Stop()
    previous: dict[int, Any] = {}

    def request(signal_number: int, _: FrameType | None) -> None:
        stop.signal_number = signal_number
        for number, handler in previous.items():
            signal.signal(number, handler)

    for watched in (signal.SIGINT, signal.SIGTERM):
        previous[watched] = signal.signal(watched, request)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _remove(folder: Path) -> None:
    """Remove a checkpoint so that a kill half-way leaves nothing that looks like one."""
    import shutil

    aside = folder.with_name(f".partial-removed-{folder.name}")
    folder.rename(aside)
    shutil.rmtree(aside)
