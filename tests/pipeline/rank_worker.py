"""Run one rank of the trainings of test_ranks.py, under `torchrun` or alone, one training after the other."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from copy_task import TINY, VOCAB, GivenBatches, make_model, make_trainer, train_settings

from kdmt.config import NAT, Denoising, HiddenKD, Online, SelfSupervised, Student, WordKD
from kdmt.corpus.batching import Batch, Extras, ParallelData, open_parallel
from kdmt.corpus.infilling import Infilling
from kdmt.log import messages_on_stderr
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.transformer import Transformer
from kdmt.objectives.build import build_objective
from kdmt.objectives.objective import Objective
from kdmt.ranks import joined_ranks
from kdmt.train.data import BinarizedData

WIDE = replace(TINY, encoder_embed_dim=48, decoder_embed_dim=48, encoder_layers=2)  # the shape of the teacher

TIED = replace(TINY, dropout=0.0, layout="marian", decoder="ssru", decoder_layers=2, tied_decoder_layers=True)


class WithText(GivenBatches):
    """Batches with their own targets as text with noise."""

    def load(self, indices: np.ndarray, epoch: int = 0, update: int = 0) -> Batch:
        noise = Infilling(Denoising(), 1, [None], [()], np.zeros(len(self.pairs), dtype=np.int16))
        text = ParallelData(tuple((target, target) for _, target in self.pairs.parts))
        batch = BinarizedData(text, train_settings(), seed=1, sampling=noise).load(indices, epoch)
        return replace(super().load(indices, epoch, update), extras=Extras(denoising=batch))


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with messages_on_stderr(), joined_ranks() as ranks:
        for job in jobs:
            data = open_parallel([(Path(job["data"]) / "a", Path(job["data"]) / "b")])
            model = make_model(1, replace(TINY, dropout=job["dropout"])).to(getattr(torch, job["dtype"]))
            batches = WithText if job["objective"] == "denoising" else GivenBatches
            make_trainer(
                Path(job["run"]),
                batches(data, job["batches"]),
                train_settings(**job["settings"]),
                objective=make_objective(job["objective"], model),
                ranks=ranks,
            ).run()


def make_objective(name: str, model: Transformer) -> Objective:
    if name == "plain":
        return build_objective(model, label_smoothing=0.1)
    if name == "ctc":  # separate embeddings, some of which are never used
        torch.manual_seed(1)
        shape = replace(TINY, dropout=0.0, share_all_embeddings=False)
        nat = NATConfig(family="ctc", upsample=2)
        student = build_nonautoregressive(shape, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
        student = student.to(model.output_weight_VD.dtype)
        return build_objective(student, Student(nat=NAT(family="ctc", upsample=2)), label_smoothing=0.1)
    if name == "ssru":
        own = make_model(1, TIED).to(model.output_weight_VD.dtype)
        return build_objective(own, label_smoothing=0.1)
    if name == "denoising":
        settings = Student(self_supervised=SelfSupervised(denoising=Denoising()))
        return build_objective(model, settings, label_smoothing=0.1)
    word_kd = WordKD(divergence="js")
    if name == "ema":
        settings = Student(word_kd=word_kd, online=Online(kind="ema", decay=0.9))
        return build_objective(model, settings, label_smoothing=0.1)
    teacher = make_model(2, WIDE).to(model.output_weight_VD.dtype)
    torch.manual_seed(3)
    settings = Student(word_kd=word_kd, hidden_kd=HiddenKD())
    objective = build_objective(model, settings, label_smoothing=0.1, teachers=[teacher])
    objective.terms.to(model.output_weight_VD.dtype)
    return objective


if __name__ == "__main__":
    main()
