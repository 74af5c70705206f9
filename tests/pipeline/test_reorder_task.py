"""Families of non-autoregressive students learn to copy and reorder, which needs all of their parts to be correct.

A sentence has 5 to 20 different words of 100; its translation has each two neighbours exchanged. Each family has at
most three minutes of one CPU core, and is tested on 1,000 unseen sentences.

A model of the family `insertion` decides from the words next to a slot what to insert there. They do not show which
neighbours are exchanged, except by looking up their positions in the source, which takes longer to learn. Therefore its
translation has the words in the order of their ids.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copy_task import make_trainer, train_settings, write_pairs

from kdmt.config import NAT, Decode, NATDecode, Student
from kdmt.decode.engines.nat import NATEngine
from kdmt.models.architecture import TransformerConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.checkpoint import load_model
from kdmt.models.nonautoregressive import NATransformer
from kdmt.objectives.build import build_objective
from kdmt.stages.training_work import nat_config
from kdmt.train.data import BinarizedData
from kdmt.types import EOS

pytestmark = pytest.mark.pipeline

VOCAB = 104  # the special symbols and 100 words
FAMILIES: dict[str, dict[str, Any]] = {
    "ctc": {"family": "ctc", "upsample": 2},
    "ctc_glat": {"family": "ctc", "upsample": 2, "glancing": [[0, 0.5], [700, 0.3]]},
    "nat": {"family": "nat"},
    "glat": {"family": "nat", "glancing": [[0, 0.5], [300, 0.0]]},
    "cmlm": {"family": "cmlm"},
    "inat": {"family": "inat", "passes": 2},
    "nat_crf": {"family": "nat_crf", "crf_candidates": 16},
    "dag": {"family": "dag", "upsample": 2},
    "levenshtein": {"family": "levenshtein"},
    "insertion": {"family": "insertion", "insertion_temperature": 2.0},
}
UPDATES = {
    "ctc": 700,
    "ctc_glat": 700,
    "nat": 1800,
    "glat": 2400,
    "cmlm": 1200,
    "inat": 2100,
    "nat_crf": 1500,
    "dag": 1700,
    "levenshtein": 1800,
    "insertion": 3500,
}
# levenshtein decodes each sentence three times in an update
TRAIN: dict[str, dict[str, Any]] = {
    "dag": {"lr": 3e-3},
    "inat": {"lr": 8e-3},
    "levenshtein": {"lr": 5e-3, "max_tokens": 512},
    "insertion": {"lr": 1e-2, "average_checkpoints": 10},
}
MODEL: dict[str, dict[str, int]] = {
    "levenshtein": {"encoder_layers": 1, "decoder_layers": 3},
    "insertion": {"encoder_layers": 1, "decoder_ffn_embed_dim": 256},
}
Pairs = list[tuple[list[int], list[int]]]


def reordered_pairs(name: str, count: int, *, seed: int) -> Pairs:
    rng = np.random.default_rng(seed)
    words = np.arange(4, VOCAB)
    sources = [rng.permutation(words)[: rng.integers(5, 21)].tolist() for _ in range(count)]
    reorder = sorted if name == "insertion" else swap_neighbours
    return [(source, reorder(source)) for source in sources]


def swap_neighbours(words: list[int]) -> list[int]:
    """Exchange neighbours: [1, 2, 3, 4, 5] -> [2, 1, 4, 3, 5]."""
    swapped = list(words)
    for place in range(0, len(words) - 1, 2):
        swapped[place], swapped[place + 1] = words[place + 1], words[place]
    return swapped


def learn(folder: Path, name: str) -> NATransformer:
    nat = NAT(**FAMILIES[name])
    shape: dict[str, Any] = {
        **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
        **{f"{side}_embed_dim": 64 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_embed_dim": 128 for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
        **{"share_all_embeddings": True, "dropout": 0.0, "max_source_positions": 32, "max_target_positions": 32},
    }
    config = TransformerConfig(**{**shape, **MODEL.get(name, {})})
    torch.manual_seed(1)
    model = build_nonautoregressive(config, nat_config(nat), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    usual: dict[str, Any] = {
        **{"max_tokens": 1024, "lr": 6e-3, "warmup_updates": 100, "label_smoothing": 0.0, "max_updates": UPDATES[name]},
        **{"validate_interval_updates": 50, "average_checkpoints": 5, "log_interval_updates": 100},
    }
    settings = train_settings(**{**usual, **TRAIN.get(name, {})})
    pairs = write_pairs(folder / "data", reordered_pairs(name, 20_000, seed=1), vocab_size=VOCAB)
    objective = build_objective(model, Student(nat=nat), label_smoothing=0.0)
    make_trainer(folder / "run", BinarizedData(pairs, settings, seed=1), settings, objective=objective).run()
    averaged = load_model(folder / "run" / "average")
    assert isinstance(averaged, NATransformer)
    return averaged


def exact_percent(model: NATransformer, unseen: Pairs) -> float:
    sources = [np.array([*source, EOS]) for source, _ in unseen]
    search = NATDecode(dag="viterbi", eos_penalty=0.5)
    found = NATEngine(model, search=search, iterations=20).decode(sources, Decode())
    right = [best.tokens == tuple(target) for (best,), (_, target) in zip(found, unseen, strict=True)]
    return 100 * sum(right) / len(right)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_learns_to_copy_and_reorder(tmp_path: Path, name: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        started = time.process_time()
        model = learn(tmp_path, name)
        minutes = (time.process_time() - started) / 60
        exact = exact_percent(model, reordered_pairs(name, 1000, seed=2))
    finally:
        torch.set_num_threads(threads)
    print(f"{name}: {exact:.1f}% exact after {UPDATES[name]} updates, {minutes:.1f} minutes of CPU", file=sys.stderr)
    assert exact >= 99.0
