"""Counts of host waits and kernel launches of objectives and searches, on the simulated device.

Models have six encoder and six decoder layers, sources about 28 tokens. The counts do not depend on the widths.
"""

from __future__ import annotations

import collections
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from gpu_cases import make_model, make_nat_model, make_trainer, write_pairs
from simulated_cuda import CUDA, SimulatedCuda

from kdmt.config import NAT, Decode, NATDecode
from kdmt.corpus.batching import ParallelData
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.models.transformer import Transformer
from kdmt.train.data import Step
from kdmt.train.loop import Trainer
from kdmt.types import Sampling

SHAPE: Mapping[str, Any] = {
    **{f"{side}_layers": 6 for side in ("encoder", "decoder")},
    **{f"{side}_embed_dim": 16 for side in ("encoder", "decoder")},
    "dropout": 0.1,
}
MEDIAN_LENGTH, SENTENCES, MAX_TOKENS = 26, 16, 240  # a batch of about eight sentences
FIRST_COUNTED = 1  # index of the update that is counted: the optimiser has its state by then
_DECODE = Decode(beam=5, batch_size=SENTENCES, max_len_a=1.0, max_len_b=4)

# Count of an update with packed sentences -> its objective. On a GPU the projections are computed in bf16.
PACKED: Mapping[str, str] = {f"{name}_packed": name for name in ("teacher", "word_kd", "word_kd_cache")}
_PACKING: Mapping[str, Any] = {"packing": True, "precision": "float32"}

Search = Callable[[ParallelData], Callable[[], object]]  # loads a model, and returns the search over a batch


@dataclass(frozen=True)
class Count:
    """Waits and launches of an update or of a batch.

    Attributes:
        waits: number of host waits by reason and line.
        launches: number of kernels.
        lines: number of kernels by line of kdmt.
        steps: number of decoding steps of a batch.
    """

    waits: collections.Counter[str]
    launches: int
    lines: collections.Counter[str]
    steps: int = 1

    @property
    def num_waits(self) -> int:
        return sum(self.waits.values())

    def waiting_lines(self) -> str:
        """Return one line of text for each place that waits."""
        return "\n".join(f"{times:5d} {place}" for place, times in self.waits.most_common())

    def launching_lines(self, most: int = 15) -> str:
        """Return one line of text for each place that launches many kernels."""
        return "\n".join(f"{times:5d} {place}" for place, times in self.lines.most_common(most))


class _Counted(Exception):
    """Ends a training once the update is counted."""


class _CountingTrainer(Trainer):
    """Counts from the start of an update to the start of the next one."""

    count: Count

    def _update(self, step: Step) -> None:
        device = SimulatedCuda.current
        assert device is not None
        if self.position.update == FIRST_COUNTED:
            device.counters.reset()
        elif self.position.update == FIRST_COUNTED + 1:
            self.count = _take(device)
            raise _Counted
        super()._update(step)


def _take(device: SimulatedCuda, steps: int = 1) -> Count:
    counters = device.counters
    return Count(counters.waits.copy(), counters.launches, counters.lines.copy(), steps)


def counting_pairs(folder: Path) -> ParallelData:
    """Write the sentence pairs of the counted batches."""
    return write_pairs(folder, 40, median_length=MEDIAN_LENGTH)


def count_packed_update(name: str, pairs: ParallelData) -> Count:
    """Return the counts of one update of `PACKED`."""
    return count_update(PACKED[name], pairs, **_PACKING)


def count_update(name: str, pairs: ParallelData, **settings: Any) -> Count:
    """Return the counts of one update of an objective; `settings` change the `train` section."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            Path(folder) / "run",
            name,
            pairs,
            CUDA,
            kind=_CountingTrainer,
            shape=SHAPE,
            max_updates=FIRST_COUNTED + 2,
            max_tokens=MAX_TOKENS,
            validate_interval_updates=1000,
            save_interval_updates=1000,
            **settings,
        )
        assert isinstance(trainer, _CountingTrainer)
        try:
            trainer.run()
        except _Counted:
            return trainer.count
    raise AssertionError("the training ended before the update was counted")


def _sources(pairs: ParallelData) -> list[np.ndarray]:
    return [np.asarray(pairs[index][0], dtype=np.int64) for index in range(SENTENCES)]


def _engine() -> TorchEngine:
    return TorchEngine(make_model(**SHAPE).eval(), device=CUDA)


def _beam_search(beam: int) -> Search:
    def search(pairs: ParallelData) -> Callable[[], object]:
        return partial(_engine().decode, _sources(pairs), _DECODE.model_copy(update={"beam": beam}))

    return search


def _sampling(pairs: ParallelData) -> Callable[[], object]:
    return partial(_engine().sample, _sources(pairs), range(SENTENCES), _DECODE, Sampling(top_k=10), seed=1)


def _score_pairs(pairs: ParallelData) -> Callable[[], object]:
    targets = [np.asarray(pairs[index][1], dtype=np.int64) for index in range(SENTENCES)]
    return partial(_engine().score_pairs, _sources(pairs), targets)


def _nat(nat: Mapping[str, Any], search: Mapping[str, Any]) -> Search:
    def decode(pairs: ParallelData) -> Callable[[], object]:
        model = make_nat_model(NAT(**nat), **SHAPE).eval()
        return partial(NATEngine(model, device=CUDA, search=NATDecode(**search)).decode, _sources(pairs), _DECODE)

    return decode


# Searches over one batch, with the model on the device; those of autoregressive models are counted per step.
DECODERS: Mapping[str, Search] = {
    "beam_search": _beam_search(5),
    "greedy_search": _beam_search(1),
    "sampling": _sampling,
    "score_pairs": _score_pairs,
    "decode_nat": _nat({"family": "nat"}, {"length_beam": 3}),
    "decode_cmlm": _nat({"family": "cmlm"}, {"length_beam": 3}),
    "decode_cmlm_correction": _nat({"family": "cmlm", "correction": 0.3}, {}),
    "decode_inat": _nat({"family": "inat"}, {}),
    "decode_nat_crf": _nat({"family": "nat_crf", "crf_candidates": 8}, {}),
    "decode_ctc": _nat({"family": "ctc"}, {}),
    "decode_ctc_beam": _nat({"family": "ctc"}, {"ctc_beam": 3}),
    "decode_dag_greedy": _nat({"family": "dag"}, {"dag": "greedy"}),
    "decode_dag_lookahead": _nat({"family": "dag"}, {"dag": "lookahead"}),
    "decode_dag_viterbi": _nat({"family": "dag"}, {"dag": "viterbi"}),
    "decode_levenshtein": _nat({"family": "levenshtein"}, {}),
    "decode_insertion": _nat({"family": "insertion"}, {}),
}


def count_decoding(name: str, pairs: ParallelData) -> Count:
    """Return the counts of one of `DECODERS` over a batch, and the number of steps of the decoder with a cache."""
    device = SimulatedCuda.current
    assert device is not None
    search = DECODERS[name](pairs)
    device.counters.reset()
    with mock.patch.object(Transformer, "decode_step", autospec=True, side_effect=Transformer.decode_step) as step:
        search()
    return _take(device, max(step.call_count, 1))
