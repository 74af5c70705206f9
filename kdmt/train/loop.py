"""The training loop: updates, validation, checkpoints, and resuming after a stop.

Results (parameters, the best checkpoint, the content of `average`) depend on the settings, the seed and the data alone.
On one CPU with the same number of threads, saving more often, stopping or killing the run does not change them.

The host does not wait for a GPU within an update. Whether an update is applied is decided on the device; the host reads
the loss and the gradient norm one update later, and before it validates, saves or ends. Then it logs them, and stops if
`on_divergence` requires it: the update that followed was computed from unchanged parameters and is never saved.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from kdmt.choices import Precision
from kdmt.config import Train, read_record
from kdmt.errors import Interrupted, UserError
from kdmt.models.average_record import checkpoint_update
from kdmt.models.checkpoint import TrainingState, load_state, load_weights
from kdmt.models.checkpoint_choice import CANDIDATES, is_current, read_choice, updates_of, write_choice
from kdmt.models.moving_average import decay_at, follow
from kdmt.models.quantization import int8_weights, make_quantization_aware
from kdmt.objectives.direction_selection import describe_states
from kdmt.objectives.objective import Objective, Prepared
from kdmt.ranks import ALONE, Ranks
from kdmt.runtime import StopRequest, stop_requests
from kdmt.train.arithmetic import ModelShape, bound_memory, choose_arithmetic
from kdmt.train.background import BackgroundWriter
from kdmt.train.choice import Scale, choose_checkpoint, describe_choice, scale_of
from kdmt.train.data import Prefetched, Step, TrainingData, steps
from kdmt.train.distributed import ParallelObjective, replaced
from kdmt.train.meter import Meter
from kdmt.train.run_folder import Position, RunFolder, Validated
from kdmt.train.run_log import Progress
from kdmt.train.schedule import learning_rate
from kdmt.train.update_results import HostCopy, UnreadUpdate, is_unusable

Ending = Literal["max_updates", "patience"]

_TRAINED = "trained."  # prefix, in training states, of the weights whose moving average is the model
_STEPS_AHEAD = 4  # number of updates whose batches are loaded in advance
_MAX_SKIPS_IN_A_ROW = 100  # with `on_divergence: skip`; after 100, the model no longer learns


class Divergence(UserError):
    """The loss or the gradient is not finite, or the norm of the gradient is too large."""


@dataclass(frozen=True)
class Outcome:
    """The result of a training run."""

    ending: Ending
    update: int
    best_update: int
    best_score: float


class Trainer:
    """Trains one objective on one device, together with the other ranks if there are any.

    Args:
        objective: module that returns the loss terms, on the CPU; its `model` is saved.
        data: training micro-batches.
        settings: the pipeline's `train` section.
        seed: seed of the random state (dropout); the order of the data is already determined by `data`.
        run: folder for checkpoints and `metrics.jsonl`, visible to all ranks.
        companions: files that are copied into every checkpoint.
        validate: function that takes an objective in evaluation mode and returns `loss` (nats per token), `nll` and, if
            set, scores of metrics. All ranks call it together and must get the same figures.
        progress: receiver of the figures; silent on all ranks but the first.
        ranks: the processes that train together.
        init_state: optimiser state of another run from which this one continues.
        signature: signature of `best_metric`; None for the loss.
        scale: scale of `best_metric`; None for that of a metric that kdmt computes.
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
        validate: Callable[[Objective], dict[str, float]],
        progress: Progress,
        device: torch.device,
        ranks: Ranks = ALONE,
        init_state: TrainingState | None = None,
        signature: str | None = None,
        scale: Scale | None = None,
    ) -> None:
        self.objective, self.data, self.settings, self.seed = objective, data, settings, seed
        self.validate, self.progress, self.device, self.ranks = validate, progress, device, ranks
        self.model = objective.model
        self.folder = RunFolder(run, settings, companions)
        self.init_state = init_state
        self.signature = signature
        self.scale = scale or scale_of(settings.best_metric)
        self.average: dict[str, Tensor] = {}  # moving average of the model's weights; empty without `ema`
        self.position = Position(world=ranks.world)
        self.meter = Meter(device, objective)
        self.saved_at = time.monotonic()
        self.writer = BackgroundWriter()
        self.unread: UnreadUpdate | None = None
        self.lr = 0.0  # of the last update that was applied
        self.stop = StopRequest()
        self.requests = (0, False)  # signal and due save that the ranks exchanged with the counts of an update

    # ------------------------------------------------------------------------------------------------- the run

    def run(self) -> Outcome:
        """Train from the newest checkpoint, or from the start, to `max_updates` or until patience ends.

        Raises:
            Interrupted: if SIGINT, SIGTERM, SIGHUP or SIGUSR1 stopped the run, after saving.
            Divergence: if the loss or the gradient cannot be used; the last good checkpoint is kept.
        """
        self.folder.path.mkdir(parents=True, exist_ok=True)
        try:
            return self._run()
        finally:
            self._note_unwritten()

    def _run(self) -> Outcome:
        self._start()
        with stop_requests() as self.stop, self.progress.running(self.position.update, self.settings.max_updates):
            if self._ending() is None:
                for step in self._steps():
                    self._update(step)
                    self._after_update()
                    if self._ending() is not None:
                        break
            self._read_results()
        return self._finish()

    def _ending(self) -> Ending | None:
        if self.position.update >= self.settings.max_updates:
            return "max_updates"
        if self.settings.patience and self.position.bad_validations >= self.settings.patience:
            return "patience"
        return None

    def _steps(self) -> Prefetched[Step]:
        place = self.position
        stream = steps(
            self.data,
            epoch=place.epoch,
            done=place.batch,
            update_freq=self.settings.update_freq,
            ranks=self.ranks,
            update=place.update,
            pin_memory=self.device.type == "cuda",
        )
        prefetched = Prefetched(stream, depth=_STEPS_AHEAD)
        self.meter.start(prefetched)
        return prefetched

    # ---------------------------------------------------------------------------------------------- the update

    def _update(self, step: Step) -> None:
        """Take one optimiser step on the sum over micro-batches and ranks, with each term divided once by its count."""
        self.objective.train()
        self.objective.before_update(self.position.update)
        sums: dict[str, Tensor] = {}
        with self._int8_weights(self.model):
            batches = [self.objective.prepare(batch.to(self.device)) for batch in step.batches]
            own = batches[: len(batches) - step.idle]
            memory = self.objective.memory()
            counts, tokens = self._counts(own)
            for number, batch in enumerate(batches, start=1):
                self._backward(batch, counts, sums, last=number == len(batches), idle=number > len(own))
        figures = self._figures(sums, self._clip_gradient())
        lr = self._learning_rate()
        self._apply(is_unusable(figures, explosion_norm=self.settings.explosion_norm), lr, memory)
        self.position.epoch, self.position.batch = step.epoch, step.done
        self.position.update += 1
        self.meter.count(own, tokens)
        self._read_results()
        self.unread = UnreadUpdate(
            update=self.position.update,
            epoch=step.epoch,
            batch=step.done,
            lr=lr,
            counts=counts,
            figures=HostCopy(figures),
            speed=self._read_meter(),
        )
        self.progress.advance(self.position.update)

    def _int8_weights(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which a model has rounded weights, if training is aware of quantisation."""
        scales = self.settings.quantization_aware
        return nullcontext() if scales is None else replaced(model, int8_weights(model, scales))

    def _apply(self, unusable: Tensor, lr: float, memory: dict[str, Tensor]) -> None:
        """Take the step of the optimiser, which changes nothing if the update is unusable, and clear the gradient.

        What follows the student or remembers batches must not change with an update that is skipped. In this case only
        the host has to know at once whether it is.

        Args:
            unusable: scalar on the device, 1 if the update must not be applied.
            memory: what the objective remembered before the update.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.found_inf = unusable  # type: ignore[attr-defined]  # as gradient scalers set it
        self.optimizer.step()
        follows = bool(self.average or memory or self.objective.memory() or self.objective.teachers.moving())
        if follows and self.settings.on_divergence == "skip" and bool(unusable):
            self.objective.remember(memory)
        else:
            self.objective.after_update()
            done = self.position.update + self.position.schedule_offset
            follow(self.average.values(), self._followed(), decay=decay_at(done, self.settings.ema))
        self.optimizer.zero_grad()

    def _followed(self) -> list[Tensor]:
        """Return the weights that the moving average follows; an empty list without one."""
        return list(self.model.parameters()) if self.average else []

    def _counts(self, batches: Sequence[Prepared]) -> tuple[dict[str, float], float]:
        """Return the count of each term, by which its sum is divided, and the number of target tokens.

        Both are sums over all micro-batches of all ranks. Signals and a due save travel in the same message: they may
        arise at any moment, and at a single rank, and all ranks must act on them after the same update.
        """
        names = self.objective.weights
        counts = [self.objective.counts(batch) for batch in batches]
        own = [sum(each[name] for each in counts) for name in names]
        own.append(sum(batch.num_loss_tokens for batch in batches))
        signals = [0] * self.ranks.world
        signals[self.ranks.rank] = self.stop.signal_number
        save_due = self.ranks.is_first and self._save_is_due()
        everyone = self.ranks.sum([*own, save_due, *signals])
        *totals, tokens = everyone[: len(own)]
        self.requests = (int(max(everyone[len(own) + 1 :])), bool(everyone[len(own)]))
        return dict(zip(names, totals, strict=True)), tokens

    def _backward(
        self, batch: Prepared, counts: dict[str, float], sums: dict[str, Tensor], *, last: bool, idle: bool
    ) -> None:
        memory = self.objective.memory()
        with self.parallel.accumulating(last=last):
            terms = self.parallel.module(batch)
            total = torch.stack(
                [term.sum * (term.weight / (counts[name] or 1.0)) for name, term in terms.items() if term.weight]
            ).sum()
            (total * (0.0 if idle else self.parallel.scale)).backward()
        if idle:
            self.objective.remember(memory)
            return
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + term.sum.detach().double()

    def _clip_gradient(self) -> Tensor:
        """Clip the gradient if the settings request it, and return the largest norm before clipping, a scalar.

        Models that are trained together are clipped separately.
        """
        norms = []
        for parameters in self.objective.clipped_together():
            if self.settings.clip_norm:
                norm = nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)
            else:
                norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
            norms.append(self.parallel.whole(norm))
        return torch.stack(norms).amax()

    def _figures(self, sums: dict[str, Tensor], norm: Tensor) -> Tensor:
        """Return the sum of each term over all micro-batches of all ranks, and the norm, float64 [terms + 1].

        All ranks use the norm of the first rank, so that they make the same decision.
        """
        norm = norm.double()
        zero = torch.zeros_like(norm)
        own = [sums.get(name, zero) for name in self.objective.weights]
        return self.ranks.add(torch.stack([*own, norm if self.ranks.is_first else zero]))

    # ----------------------------------------------------------------------------------- the results of an update

    def _read_results(self) -> None:
        """Read the loss and the norm of the latest update if that has not been done, and log them if they are due.

        Raises:
            Divergence: if the update is unusable and training must stop.
        """
        unread, self.unread = self.unread, None
        if unread is None:
            return
        totals, norm = unread.read()
        if self._is_usable(unread, totals, norm):
            self.lr = unread.lr
            self._remember(totals, unread.counts)
        if unread.speed is not None:
            self._log(unread, norm, unread.speed)

    def _remember(self, totals: dict[str, float], counts: dict[str, float]) -> None:
        for name, total in totals.items():
            self.position.loss_sums[name] = self.position.loss_sums.get(name, 0.0) + total
            self.position.loss_counts[name] = self.position.loss_counts.get(name, 0.0) + counts[name]

    def _is_usable(self, unread: UnreadUpdate, totals: dict[str, float], norm: float) -> bool:
        """Return whether the gradient could be used; if not, the update was skipped or training stops.

        Raises:
            Divergence: if the gradient cannot be used, and `on_divergence` is `stop` or too many updates in a row were
                skipped.
        """
        problem = self._problem(totals, norm)
        if problem is None:
            self.position.skipped_in_a_row = 0
            return True
        self.position.skipped += 1
        self.position.skipped_in_a_row += 1
        in_a_row = self.position.skipped_in_a_row
        if self.settings.on_divergence == "skip" and in_a_row < _MAX_SKIPS_IN_A_ROW:
            self.progress.note(f"{unread.place}: {problem}: skipped")
            return False
        self._note_unwritten()
        # a checkpoint of the weights whose loss is not finite is not a good one
        failing = unread.update - 1 if not all(map(math.isfinite, totals.values())) else None
        raise Divergence(
            f"{unread.place}: {problem}{f', {in_a_row} times in a row' if in_a_row > 1 else ''}. "
            f"The last good checkpoint is {self.folder.last_good(failing) or 'none: nothing was saved yet'}; "
            f"try a lower 'train.lr', more 'train.warmup_updates' or 'train.clip_norm'"
        )

    def _problem(self, totals: dict[str, float], norm: float) -> str | None:
        for name, total in totals.items():
            if not math.isfinite(total):
                return f"the term {name!r} of the loss is not finite"
        if not math.isfinite(norm):
            return "the gradient's norm is not finite"
        if self.settings.explosion_norm and norm > self.settings.explosion_norm:
            return f"the gradient's norm is {norm:.4g}, over 'train.explosion_norm: {self.settings.explosion_norm:g}'"
        return None

    def _learning_rate(self) -> float:
        return learning_rate(self.position.update, self.settings, offset=self.position.schedule_offset)

    # ------------------------------------------------------------------------------------- between the updates

    def _after_update(self) -> None:
        update = self.position.update
        validated = update % self.settings.validate_interval_updates == 0
        if validated:
            self._read_results()
            self._validate(scheduled=True)
        signal_number, save_due = self._requests()
        if signal_number:
            self._read_results()
            folder = self._save()
            self._wait_for_checkpoint()
            raise Interrupted(signal_number, str(folder))
        if validated or save_due or update % self.settings.save_interval_updates == 0:
            self._read_results()
            self._save()

    def _save_is_due(self) -> bool:
        minutes = self.settings.save_interval_minutes
        return bool(minutes) and time.monotonic() - self.saved_at >= 60 * minutes

    def _requests(self) -> tuple[int, bool]:
        """Return the signal that requests a stop, 0 for none, and whether a save is due; the same on all ranks."""
        return (self.stop.signal_number, self._save_is_due()) if self.ranks.world == 1 else self.requests

    def _read_meter(self) -> dict[str, float] | None:
        """Return the figures of the meter if the update is to be logged, and reset it."""
        if self.position.update % self.settings.log_interval_updates:
            return None
        figures = self.meter.read(self.ranks)
        self.meter.reset()
        return figures

    def _log(self, unread: UnreadUpdate, grad_norm: float, speed: dict[str, float]) -> None:
        sums, counts = self.position.loss_sums, self.position.loss_counts
        if not sums:
            return  # every update was skipped
        self.progress.log_training(
            update=unread.update,
            epoch=unread.epoch,
            lr=self.lr,
            grad_norm=grad_norm,
            skipped=self.position.skipped,
            **speed,
            **{name: total / (counts[name] or 1.0) for name, total in sorted(sums.items())},
        )
        self.position.loss_sums, self.position.loss_counts = {}, {}

    def _validate(self, *, scheduled: bool) -> None:
        """Validate, and update the best score.

        Args:
            scheduled: whether a longer run would make this validation too, or there is no longer run, since the
                learning rates depend on `max_updates`. Another one at the end of the run is not counted unless it is
                the only one.
        """
        evaluating = self.parallel.evaluating(self.average)
        with self.meter.paused(), evaluating as objective, self._int8_weights(objective.model):
            figures = self.validate(objective)
        position = self.position
        if not math.isfinite(figures["loss"]):
            raise Divergence(f"update {position.update}: the validation loss is not finite")
        position.validated = position.update
        if scheduled and (position.lowest_loss is None or figures["loss"] < position.lowest_loss):
            position.lowest_loss, position.lowest_loss_update = figures["loss"], position.update
        if self._is_best(figures, scheduled=scheduled):
            position.best_score, position.best_loss = figures[self.settings.best_metric], figures["loss"]
            position.best_update, position.bad_validations = position.update, 0
        elif scheduled and self._counts_for_patience():
            position.bad_validations += 1
        self._rank(figures, scheduled=scheduled)
        states = self.objective.after_validation(figures) if scheduled else {}
        self.progress.log_validation(
            update=position.update, epoch=position.epoch, best_update=position.best_update, **figures, **states
        )
        if states:
            self.progress.note(describe_states(states))

    def _is_best(self, figures: dict[str, float], *, scheduled: bool) -> bool:
        """Return whether a validation is the best so far, by `best_metric` and for equal values by the loss."""
        position, metric = self.position, self.settings.best_metric
        if position.best_score is None or position.best_update is None:
            return True
        if not scheduled:
            return False
        if position.best_update % self.settings.validate_interval_updates:
            return True  # the best so far is an unscheduled validation, at the end of a run that was extended since
        sign = self.scale.sign
        best_loss = math.inf if position.best_loss is None else position.best_loss  # None: saved by an older version
        return (sign * figures[metric], -figures["loss"]) > (sign * position.best_score, -best_loss)

    def _rank(self, figures: dict[str, float], *, scheduled: bool) -> None:
        """Add a validation to the best ones if it is one of them, in the order of `_is_best`.

        As for the best one, an unscheduled validation is dropped as soon as there is another one.
        """
        position, metric = self.position, self.settings.best_metric
        interval = self.settings.validate_interval_updates
        others = [each for each in position.best_validations if each.update % interval == 0]
        if not scheduled and others:
            return
        sign = self.scale.sign
        others.append(Validated(position.update, figures[metric], figures["loss"]))
        others.sort(key=lambda each: (-sign * each.score, math.inf if each.loss is None else each.loss, each.update))
        position.best_validations = others[: self.settings.average_checkpoints]

    def _counts_for_patience(self) -> bool:
        """Return whether a validation without improvement counts for `patience`.

        It does not count during the warmup, nor while the best score is still the worst possible one: neither means
        that the model has stopped learning.
        """
        position, worst = self.position, self.scale.worst
        warm = position.update + position.schedule_offset >= self.settings.warmup_updates
        return warm and not (worst is not None and position.best_score == worst)

    def _note_falling_loss(self) -> None:
        """Log a message if training ends by `patience` although the validation loss still falls.

        It still falls if its lowest value is in the later half of the updates since the best validation.
        """
        position, settings = self.position, self.settings
        if position.best_update is None or 2 * position.lowest_loss_update <= position.best_update + position.update:
            return
        self.progress.note(
            f"'patience: {settings.patience}' ends training at update {position.update} while the validation loss "
            f"still falls: the best {settings.best_metric} was at update {position.best_update}, the lowest loss "
            f"({position.lowest_loss:.3f}) at update {position.lowest_loss_update}; a larger 'patience' or "
            "'best_metric: loss' trains on"
        )

    # ------------------------------------------------------------------------------------- saving and resuming

    def _start(self) -> None:
        """Load the newest checkpoint if there is one, wrap the objective and create its optimiser."""
        if self.ranks.is_first:
            folder, problems = self.folder.clean_up()
            for problem in problems:
                self.progress.note(f"passed over: {problem}")
            self.progress.cut_back(0 if folder is None else checkpoint_update(folder))
        else:
            folder = None
        folder = self.ranks.share(folder)
        torch.manual_seed(self.seed + self.ranks.rank)  # dropout differs between replicas
        state = None if folder is None else self._load(folder)
        self.objective.use(self._arithmetic())
        self.model.recompute_layers = self.settings.activation_checkpointing
        if self.settings.quantization_aware is not None:
            make_quantization_aware(self.model)
        if self.settings.compile:
            self.model.compile_layers(packed=self.settings.packing)
        self.parallel = ParallelObjective(
            self.objective, parallel=self.settings.parallel, ranks=self.ranks, device=self.device
        )
        if self.settings.ema:  # the loaded weights are those of an average, if there is one
            self.average = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
        self.optimizer = self._make_optimizer()
        if state is not None:
            self._load_trained(state.tensors)
            self._load_optimizer(state.tensors)
            self._load_objective(state.tensors)
            self._load_random_state(state)
        elif self.init_state is not None:
            folder = Path(self.settings.init_from or "")
            self._check_state(self.init_state.tensors, folder, {})
            self._load_trained(self.init_state.tensors)
            self._load_optimizer(self.init_state.tensors)
            before = read_record(Position, self.init_state.values, f"{folder}: training_state.json")
            self.position.schedule_offset = before.update + before.schedule_offset

    def _load(self, folder: Path) -> TrainingState:
        """Load the weights and the position of a checkpoint, and return its state."""
        load_weights(self.model, folder)
        state = load_state(folder)
        self.position = read_record(Position, state.values, str(folder / "training_state.json"))
        trained = {f"{_TRAINED}{name}": weight for name, weight in self.model.named_parameters()}
        self._check_state(state.tensors, folder, self.objective.moving() | (trained if self.settings.ema else {}))
        self._complete_position()
        if self.position.update > self.settings.max_updates:
            raise UserError(
                f"{folder}: training is past 'max_updates: {self.settings.max_updates}' already; it does not go back"
            )
        if self.ranks.is_first:
            self.folder.mend_pointers(folder, self.position)
        self.progress.note(f"going on from {folder.name}")
        return state

    def _complete_position(self) -> None:
        """Add the best validation to the list of the best ones, which older versions did not save."""
        position = self.position
        if not position.best_validations and position.best_update is not None and position.best_score is not None:
            position.best_validations = [Validated(position.best_update, position.best_score, position.best_loss)]

    def _check_state(self, tensors: dict[str, Tensor], folder: Path, moving: Mapping[str, Tensor]) -> None:
        """Check that a saved state has all tensors of this model and optimiser, with the same shapes."""
        trained = self.objective.trained()
        wanted = {
            f"{key}.{name}": parameter.shape
            for name, parameter in trained.items()
            if f"step.{name}" in tensors
            for key in ("exp_avg", "exp_avg_sq")
        }
        wanted |= {name: tensor.shape for name, tensor in moving.items()}
        for name, shape in wanted.items():
            if name not in tensors or tensors[name].shape != shape:
                raise UserError(f"{folder / 'training_state.safetensors'}: {name} is missing or of another shape")

    def _arithmetic(self) -> Precision:
        """Return the precision of the run, which the first rank chooses on the first start."""
        if not self.ranks.is_first:
            return self.ranks.share("float32")
        shape = ModelShape(self.model.config.decoder_embed_dim, self.model.tgt_vocab_size)
        arithmetic = choose_arithmetic(
            self.folder.path, self.settings, device=self.device, shape=shape, note=self.progress.note
        )
        precision = self.ranks.share(arithmetic.precision)
        bound_memory(precision, self.device)
        return precision

    def _make_optimizer(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            self.objective.trained().values(),
            lr=0.0,
            betas=self.settings.adam_betas,
            eps=self.settings.adam_eps,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )

    def _save(self) -> Path:
        """Save a checkpoint: whole tensors are copied from all ranks, and the first rank writes them in the background.

        Raises:
            BaseException: the error of the writing before.
        """
        with self.meter.paused():
            self.writer.wait()  # before the copies are made, so that there is one set of them
            weights = self.parallel.collect(self.average or dict(self.model.named_parameters()))
            tensors = self._state_tensors()
            if self.ranks.is_first:
                position = copy.deepcopy(self.position)
                self.writer.submit(partial(self.folder.save, self.model, position, weights=weights, tensors=tensors))
        self.saved_at = time.monotonic()
        return self.folder.folder_of(self.position.update)

    def _wait_for_checkpoint(self) -> None:
        """Wait until the first rank has written the latest checkpoint."""
        self.writer.wait()
        self.ranks.wait()

    def _note_unwritten(self) -> None:
        """Wait for the checkpoint that is being written, and log why it could not be written, if so.

        This is for a run that ends with another error.
        """
        error = self.writer.drain()
        if error is not None:
            self.progress.note(f"the latest checkpoint could not be written: {error}")

    def _state_tensors(self) -> dict[str, Tensor]:
        """Return all tensors of a checkpoint but the model's weights.

        These are the random state and the objective's memory of each rank, the state of the optimiser, the tensors of
        the objective outside the model that change during training, and the trained weights if the model is saved with
        their moving average.
        """
        of_ranks = {
            f"{name}.{rank}.{key}": value
            for rank, states in enumerate(self.ranks.collect((self._random_state(), self._memory())))
            for name, state in zip(("random", "memory"), states, strict=True)
            for key, value in state.items()
        }
        optimizer = {
            f"{key}.{name}": value
            for name, parameter in self.objective.trained().items()
            for key, value in self.optimizer.state[parameter].items()
        }
        trained = {f"{_TRAINED}{name}": weight for name, weight in self.model.named_parameters() if self.average}
        return of_ranks | self.parallel.collect(optimizer | self.objective.moving() | trained)

    def _memory(self) -> dict[str, Tensor]:
        return {name: value.to("cpu", copy=True) for name, value in self.objective.memory().items()}

    def _random_state(self) -> dict[str, Tensor]:
        if self.device.type == "cuda":
            return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(self.device)}
        return {"cpu": torch.get_rng_state()}

    def _load_random_state(self, state: TrainingState) -> None:
        saved = {name: value for name, value in state.tensors.items() if name.startswith(f"random.{self.ranks.rank}.")}
        world, self.position.world = self.position.world, self.ranks.world
        if world != self.ranks.world or len(saved) != len(self._random_state()):
            self.progress.note(
                f"saved by {world} rank(s), goes on with {self.ranks.world} on {self.device.type}: parameters, "
                f"optimiser and place in the data are kept; dropout draws other units, and sums round otherwise"
            )
            torch.manual_seed(self.seed + self.ranks.rank + 1000 * self.position.update)
            return
        for name, value in saved.items():
            if name.endswith("cuda"):
                torch.cuda.set_rng_state(value, self.device)
            else:
                torch.set_rng_state(value)

    def _load_objective(self, tensors: dict[str, Tensor]) -> None:
        """Load the tensors of the objective other than the model's.

        A rank that did not exist when the checkpoint was saved starts with the memory of the first rank.
        """
        with torch.no_grad():
            for name, tensor in self.objective.moving().items():
                tensor.copy_(self.parallel.part_of(tensors[name], tensor))
        for rank in (0, self.ranks.rank):
            prefix = f"memory.{rank}."
            memory = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            if memory:
                self.objective.remember({name: value.to(self.device) for name, value in memory.items()})

    def _load_trained(self, tensors: dict[str, Tensor]) -> None:
        """Load the trained weights of a run that saves their moving average, to which the optimiser's state belongs."""
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                if f"{_TRAINED}{name}" in tensors:
                    weight.copy_(self.parallel.part_of(tensors[f"{_TRAINED}{name}"], weight))

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.objective.trained().items():
            if f"step.{name}" not in tensors:
                continue  # every update so far was skipped
            self.optimizer.state[parameter] = {
                key: self.parallel.part_of(tensors[f"{key}.{name}"], parameter)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }

    def _finish(self) -> Outcome:
        """Validate and save the last update if no scheduled validation did so, and write and compare the averages."""
        ending = self._ending()
        if ending == "patience":
            self._note_falling_loss()
        if self.position.validated != self.position.update:
            self._save()  # before validating, which may take long
            cannot_be_extended = "max_updates" in self.settings.fixed()
            self._validate(scheduled=cannot_be_extended)
            self._save()
        self.writer.wait()
        if self.ranks.is_first:
            self.folder.write_averages(self.model, self.position)
        self.ranks.wait()
        self._choose()
        best_update, best_score = self.position.best_update, self.position.best_score
        if ending is None or best_update is None or best_score is None:
            raise AssertionError("a finished training has an ending and has been validated")
        return Outcome(ending, self.position.update, best_update, best_score)

    def _is_chosen(self) -> bool:
        """Return whether the record of a choice is that of this run with these settings; a damaged one is not."""
        settings = self.settings
        try:
            choice = read_choice(self.folder.path)
        except UserError:
            return False
        if choice is None or (choice.of, choice.metric) != (settings.average.of, settings.best_metric):
            return False
        return is_current(self.folder.path, choice)

    def _choose(self) -> None:
        """Choose the checkpoint that `auto` is, and record it. All ranks validate the candidates together.

        A recorded choice between the same candidates is kept.
        """
        run = self.folder.path
        found = {} if self._is_chosen() else {name: updates_of(run, name) for name in CANDIDATES}
        candidates = self.ranks.share(found)  # a file of the first rank may reach other machines later
        if not candidates:
            return
        with self.parallel.evaluating() as objective:
            trained = {name: weight.detach().cpu().clone() for name, weight in objective.model.named_parameters()}

            def validate(folder: Path) -> dict[str, float]:
                load_weights(objective.model, folder)
                with self._int8_weights(objective.model):
                    return self.validate(objective)

            choice = choose_checkpoint(
                run,
                candidates,
                self.position,
                self.settings,
                validate=validate,
                signature=self.signature,
                scale=self.scale,
            )
            with torch.no_grad():
                for name, weight in objective.model.named_parameters():
                    weight.copy_(trained[name])
        if self.ranks.is_first:
            write_choice(run, choice)
        self.progress.note(describe_choice(choice))
        self.ranks.wait()
