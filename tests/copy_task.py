"""A task that a tiny Transformer learns in seconds, copying its source, with helpers for tests of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdmt.config import Student, Train
from kdmt.corpus.batching import Batch, ParallelData, collate, open_parallel
from kdmt.corpus.indexed import IndexedWriter
from kdmt.models.architecture import TransformerConfig
from kdmt.models.build import build_transformer
from kdmt.models.checkpoint import TrainingState
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.objectives.build import build_objective
from kdmt.objectives.objective import LossTerms, Objective
from kdmt.ranks import ALONE, Ranks
from kdmt.train.data import BinarizedData, TrainingData
from kdmt.train.loop import Trainer
from kdmt.train.run_log import Progress
from kdmt.train.validation import validation_loss
from kdmt.types import EOS

VOCAB = 12  # the special symbols and eight words
TINY = TransformerConfig(
    encoder_layers=1,
    decoder_layers=1,
    encoder_embed_dim=32,
    decoder_embed_dim=32,
    encoder_ffn_embed_dim=64,
    decoder_ffn_embed_dim=64,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    share_all_embeddings=True,
    dropout=0.1,
    max_source_positions=20,
    max_target_positions=20,
)
CPU = torch.device("cpu")

Validate = Callable[[Objective], dict[str, float]]


def write_pairs(
    folder: Path, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, vocab_size: int = VOCAB
) -> ParallelData:
    """Write a data-bin of these pairs of word ids, with `</s>` added, and open it."""
    folder.mkdir(parents=True, exist_ok=True)
    for side in range(2):
        with IndexedWriter(folder / "ab"[side], vocab_size) as writer:
            for pair in pairs:
                writer.add(np.array([*pair[side], EOS]))
    return open_parallel([(folder / "a", folder / "b")])


def write_copy_task(folder: Path, num_pairs: int, *, seed: int) -> ParallelData:
    """Write sentences of one to six random words, each its own translation."""
    rng = np.random.default_rng(seed)
    sentences = [rng.integers(4, VOCAB, rng.integers(1, 7)).tolist() for _ in range(num_pairs)]
    return write_pairs(folder, [(sentence, sentence) for sentence in sentences])


class GivenBatches:
    """Training data with the same batches in every epoch."""

    def __init__(self, pairs: ParallelData, batches: Iterable[Sequence[int]]) -> None:
        self.pairs, self.batches = pairs, [np.array(batch) for batch in batches]

    def epoch(self, _: int) -> Sequence[np.ndarray]:
        return self.batches

    def load(self, indices: np.ndarray, epoch: int = 0, update: int = 0) -> Batch:  # noqa: ARG002
        return collate(indices, self.pairs)


def train_settings(**changes: Any) -> Train:
    """Return the settings of a short run without BLEU."""
    defaults = {
        "max_updates": 30,
        "max_tokens": 64,
        "lr": 5e-3,
        "warmup_updates": 10,
        "validate_interval_updates": 10,
        "save_interval_updates": 1000,
        "log_interval_updates": 5,
        "validate_bleu": False,
        "best_metric": "loss",
        "precision": "float32",
        "average_checkpoints": 2,
    }
    return Train(**{**defaults, **changes})


def make_model(seed: int = 1, config: TransformerConfig = TINY) -> Transformer:
    torch.manual_seed(seed)
    return build_transformer(config, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)


def make_trainer(
    run: Path,
    data: TrainingData,
    settings: Train,
    *,
    model: Transformer | None = None,
    objective: Objective | None = None,
    validate: Validate | None = None,
    init_state: TrainingState | None = None,
    ranks: Ranks = ALONE,
) -> Trainer:
    """Return a trainer with seed 1; without `validate`, it validates on the loss of the first four training batches."""
    plain = build_objective(model or make_model(), label_smoothing=settings.label_smoothing)

    def loss_on_training_data(trained: Objective) -> dict[str, float]:
        return validation_loss(trained, data, data.epoch(1)[:4], device=CPU, ranks=ranks)

    return Trainer(
        objective=objective or plain,
        data=data,
        settings=settings,
        seed=1,
        run=run,
        companions=[],
        validate=validate or loss_on_training_data,
        progress=Progress(run / "metrics.jsonl" if ranks.is_first else None, name="test"),
        device=CPU,
        ranks=ranks,
        init_state=init_state,
    )


def terms_of(objective: Objective, batch: Batch) -> LossTerms:
    """Return the loss terms of a batch, prepared by the objective (which may draw random numbers)."""
    return objective(objective.prepare(batch))


def nat_objective(
    model: NATransformer,
    *,
    label_smoothing: float = 0.1,
    teachers: Sequence[Transformer] = (),
    besides: Mapping[str, Any] | None = None,
    **nat: Any,
) -> Objective:
    """Return the objective of a non-autoregressive student from settings of its `nat` section and other settings."""
    student = Student.model_validate({"nat": {"family": model.nat.family, **nat}, **(besides or {})})
    return build_objective(model, student, label_smoothing=label_smoothing, teachers=teachers)


def open_data(data: ParallelData, settings: Train) -> BinarizedData:
    return BinarizedData(data, settings, seed=1)
