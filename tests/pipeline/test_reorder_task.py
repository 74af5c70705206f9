"""Families of non-autoregressive students learn to copy and reorder: what none of their parts may get wrong.

A sentence is 5 to 20 different words of 100; its translation has each two neighbours change places. Each family has
minutes of one CPU core, and is asked for 1,000 sentences that it has not seen.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from copy_task import make_trainer, train_settings, write_pairs

from kdmt.config import NAT, Decode, NATDecode
from kdmt.decode.nonautoregressive import NATEngine
from kdmt.models.architecture import TransformerConfig
from kdmt.models.build import build_nonautoregressive
from kdmt.models.checkpoint import load_model
from kdmt.models.nonautoregressive import NATransformer
from kdmt.stages.objectives import nonautoregressive_objective
from kdmt.stages.training import nat_config
from kdmt.train.data import BinarizedData
from kdmt.types import EOS

pytestmark = pytest.mark.pipeline

VOCAB = 104  # the specials and 100 words
FAMILIES: dict[str, dict[str, Any]] = {
    "ctc": {"family": "ctc", "upsample": 2},
    "nat": {"family": "nat"},
    "cmlm": {"family": "cmlm"},
    "dag": {"family": "dag", "upsample": 2},
}
UPDATES = {"ctc": 700, "nat": 1800, "cmlm": 1200, "dag": 1300}
LEARNING_RATES = {"ctc": 6e-3, "nat": 6e-3, "cmlm": 6e-3, "dag": 4e-3}
IN_MAKE_TEST = "ctc"
Pairs = list[tuple[list[int], list[int]]]


def reordered_pairs(count: int, *, seed: int) -> Pairs:
    rng = np.random.default_rng(seed)
    words = np.arange(4, VOCAB)
    sources = [rng.permutation(words)[: rng.integers(5, 21)].tolist() for _ in range(count)]
    return [(source, swap_neighbours(source)) for source in sources]


def swap_neighbours(words: list[int]) -> list[int]:
    """[1, 2, 3, 4, 5] -> [2, 1, 4, 3, 5]"""
    swapped = list(words)
    for place in range(0, len(words) - 1, 2):
        swapped[place], swapped[place + 1] = words[place + 1], words[place]
    return swapped


def learn(folder: Path, nat: NAT, *, updates: int, lr: float) -> NATransformer:
    config = TransformerConfig(
        encoder_layers=2,
        decoder_layers=2,
        encoder_embed_dim=64,
        decoder_embed_dim=64,
        encoder_ffn_embed_dim=128,
        decoder_ffn_embed_dim=128,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        share_all_embeddings=True,
        dropout=0.0,
        max_source_positions=32,
        max_target_positions=32,
    )
    torch.manual_seed(1)
    model = build_nonautoregressive(config, nat_config(nat), src_vocab_size=VOCAB, tgt_vocab_size=VOCAB)
    settings = train_settings(
        max_updates=updates,
        max_tokens=1024,
        lr=lr,
        warmup_updates=100,
        label_smoothing=0.0,
        validate_interval_updates=50,
        average_checkpoints=5,
        log_interval_updates=100,
    )
    pairs = write_pairs(folder / "data", reordered_pairs(20_000, seed=1), vocab_size=VOCAB)
    objective = nonautoregressive_objective(nat, model, {"label_smoothing": 0.0})
    make_trainer(folder / "run", BinarizedData(pairs, settings, seed=1), settings, objective=objective).run()
    averaged = load_model(folder / "run" / "average")
    assert isinstance(averaged, NATransformer)
    return averaged


def exact_percent(model: NATransformer, unseen: Pairs) -> float:
    sources = [np.array([*source, EOS]) for source, _ in unseen]
    # the right length is certain here, and one that never occurred may look better
    search = NATDecode(length_beam=1, dag="viterbi")
    found = NATEngine(model, search=search, iterations=10).decode(sources, Decode())
    right = [best.tokens == tuple(target) for (best,), (_, target) in zip(found, unseen, strict=True)]
    return 100 * sum(right) / len(right)


@pytest.mark.parametrize(
    "name", [name if name == IN_MAKE_TEST else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_a_family_learns_to_copy_and_reorder(tmp_path: Path, name: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        model = learn(tmp_path, NAT(**FAMILIES[name]), updates=UPDATES[name], lr=LEARNING_RATES[name])
        exact = exact_percent(model, reordered_pairs(1000, seed=2))
    finally:
        torch.set_num_threads(threads)
    print(f"{name}: {exact:.1f}% exact after {UPDATES[name]} updates", file=sys.stderr)
    assert exact >= 99.0
