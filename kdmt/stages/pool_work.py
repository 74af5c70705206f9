"""The work of the stage that makes a pool of candidates. `kdmt.stages.distill` plans it.

pool/
    blocks/                         one checksummed file for each block
    engine/, logs/                  the teacher in CTranslate2's format; a log for each worker
    nbest, nbest.npy                all candidates as text (`kdmt.distill.candidates`)
    sentences.npy                   index of the distinct sentence on each line: int64

It has no training text: sets of origin `choice` choose from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdmt.config import Pool
from kdmt.distill.candidates import Written
from kdmt.distill.decoding import BlockTask
from kdmt.distill.pool_systems import SystemCandidates, read_systems
from kdmt.distill.sources import Sources
from kdmt.distill.training_text import CANDIDATES
from kdmt.flow.manifest import Plan, finish
from kdmt.stages.distill_work import Decoding


@dataclass(frozen=True)
class Pooling(Decoding):
    """Candidates of the teacher and of other systems."""

    @property
    def pool(self) -> Pool:
        assert isinstance(self.sample, Pool)
        return self.sample

    @property
    def once(self) -> bool:
        """See `Decoding.once`."""
        return True

    def systems(self, sources: Sources, workdir: Path) -> list[SystemCandidates]:
        """See `Decoding.systems`."""
        inputs = self.job.writer.inputs
        found = read_systems(
            self.pool.systems,
            inputs.corpus.codec(),
            sources.numbers_L,
            num_sentences=len(sources),
            workdir=workdir,
            settings=self.job.settings.failures,
            tags=inputs.tags(),
        )
        for system in found:
            self.job.say(
                f"{system.name} has {system.num_candidates:,} candidates for {system.num_sentences:,} "
                f"of {len(sources):,} sentences"
            )
        return found

    def verify_targets(self) -> None:
        """See `Decoding.verify_targets`; a pool has no training text."""

    def finish(self, plan: Plan, written: Written, tasks: list[BlockTask]) -> None:
        """See `Decoding.finish`."""
        num_sentences = len(np.load(self.folder / "nbest.npy", mmap_mode="r")) - 1
        facts = {
            "num_sentences": num_sentences,
            "num_candidates": written.num_candidates,
            **self.facts_of(written, tasks),
        }
        self.job.say(f"{written.num_candidates:,} candidates of {num_sentences:,} sentences")
        finish(
            self.folder, plan, outputs=[*(self.folder / name for name in CANDIDATES), *self.noised_files()], facts=facts
        )
