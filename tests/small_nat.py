"""Small non-autoregressive models and sentence pairs, some of which do not fit the decoder positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from copy_task import TINY, VOCAB, open_data, train_settings, write_pairs

from kdmt.corpus.batching import Batch
from kdmt.families import FamilyName
from kdmt.models.architecture import NATConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.nonautoregressive import NATransformer

# the third is too long for twice its source, the fourth for the blank between its equal tokens
PAIRS = [([4, 5, 6], [7, 8]), ([9, 9], [10, 11, 4, 5]), ([6], [8, 9, 10, 11, 4]), ([6], [7, 7, 7]), ([7, 4], [5, 5])]


def small(family: FamilyName = "ctc", upsample: int = 2, *, layers: int = 1, **settings: Any) -> NATransformer:
    torch.manual_seed(1)
    nat = NATConfig(family=family, upsample=upsample, **settings)
    config = replace(TINY, dropout=0.0, decoder_layers=layers)
    model = build_nonautoregressive(config, nat, src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    return model.double()


def batch_of(folder: Path) -> Batch:
    return open_data(write_pairs(folder, PAIRS), train_settings()).load(torch.arange(len(PAIRS)).numpy())
