"""Tests of PyTorch models as worker processes open them: the translations equal those of the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_transformers import make_model, make_sources

from kdmt.config import Decode
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.distill.blocks import Block
from kdmt.distill.decoding import Translate
from kdmt.distill.torch_models import open_models
from kdmt.models.transformer import Transformer
from kdmt.types import Sampling
from kdmt.workers.tasks import WorkerSpec

SETTINGS = Decode(beam=3, nbest=2, max_len_a=1.0, max_len_b=3)
SOURCES = make_sources([3, 5, 2], seed=1)
SPEC = WorkerSpec(0, 1, "cpu", Path("worker.log"))
BLOCK = Block(number=0, first=10, count=3)


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


def model(seed: int) -> Transformer:
    torch.manual_seed(seed)
    return make_model()


MODELS = {Path(str(seed)): seed for seed in (1, 2)}


def load(path: Path) -> Transformer:
    return model(MODELS[path])


def opened(*checkpoints: Path, sampling: Sampling | None = None, seed: int = 0) -> Translate:
    return open_models(
        checkpoints, SPEC, load=load, settings=SETTINGS, sampling=sampling, seed=seed, search=None, iterations=1
    )


def translate(function: Translate, counted: Callable[[int], None] = lambda _: None) -> list[list[tuple[int, ...]]]:
    found = function(list(SOURCES), [10, 11, 12], BLOCK, counted)
    return [[hypothesis.tokens for hypothesis in nbest] for nbest in found]


def test_one_model_equals_its_engine() -> None:
    counted: list[int] = []
    expected = TorchEngine(model(1)).decode(SOURCES, SETTINGS)
    assert translate(opened(Path("1")), counted.append) == [[each.tokens for each in nbest] for nbest in expected]
    assert sum(counted) == 3


def test_several_models_form_an_ensemble() -> None:
    expected = TorchEngine(model(1), others=[model(2)]).decode(SOURCES, SETTINGS)
    assert translate(opened(Path("1"), Path("2"))) == [[each.tokens for each in nbest] for nbest in expected]


def test_samples_depend_on_the_seed_and_the_number_of_the_sentence() -> None:
    sampling = Sampling(temperature=2.0)
    expected = TorchEngine(model(1)).sample(SOURCES, [10, 11, 12], SETTINGS, sampling, seed=5)
    found = translate(opened(Path("1"), sampling=sampling, seed=5))
    assert found == [[each.tokens for each in nbest] for nbest in expected]
    assert found != translate(opened(Path("1"), sampling=sampling, seed=6))
    alone = opened(Path("1"), sampling=sampling, seed=5)(list(SOURCES[1:2]), [11], BLOCK, lambda _: None)
    assert [alone[0][0].tokens] == found[1]
