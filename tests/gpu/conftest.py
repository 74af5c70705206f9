"""The device of the tests in this folder: a GPU if there is one, else the simulated device.

The guard of the simulated device has to be loaded before torch, and changes it for the whole process. Therefore these
tests run in a pytest process of their own, and are skipped if other tests are collected with them.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import simulated_guard

if TYPE_CHECKING:
    import torch

    from kdmt.corpus.batching import ParallelData

_FOLDER = Path(__file__).parent
_NO_SIMULATION = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Load the guard, unless PyTorch is built for CUDA."""
    if simulated_guard.is_built_for_cuda():
        return
    try:
        if not all(_is_here(argument, config) for argument in config.args):
            raise simulated_guard.NoSimulation("the simulated device needs a process of its own: pytest tests/gpu")
        simulated_guard.load_guard(_cache(config))
    except simulated_guard.NoSimulation as reason:
        config.stash[_NO_SIMULATION] = str(reason)


def _cache(config: pytest.Config) -> Path:
    """Return the folder for the compiled guard: one that later runs find, unless pytest is to keep nothing."""
    if config.pluginmanager.hasplugin("cacheprovider"):
        return Path(config.cache.mkdir("simulated_cuda"))
    folder = tempfile.mkdtemp(prefix="kdmt-simulated-cuda-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    return Path(folder)


def _is_here(argument: str, config: pytest.Config) -> bool:
    path = (config.invocation_params.dir / argument.split("::")[0]).resolve()
    return path == _FOLDER or _FOLDER in path.parents


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _FOLDER in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def cuda(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Return the device cuda:0, real or simulated."""
    import torch

    if torch.cuda.is_available():
        with _exact_products():
            yield torch.device("cuda:0")
    elif _NO_SIMULATION in request.config.stash:
        pytest.skip(request.config.stash[_NO_SIMULATION])
    elif not simulated_guard.is_loaded():
        pytest.skip(simulated_guard.BUILT_FOR_CUDA)
    else:
        from simulated_cuda import simulated_cuda

        with _exact_products(), simulated_cuda():
            yield torch.device("cuda:0")


@pytest.fixture
def real_gpu() -> Iterator[torch.device]:
    """Return the device if it is a real GPU, else skip the test."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    with _exact_products():
        yield torch.device("cuda:0")


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Compute in float32 without TF32, until a test trains, and restore the settings for a GPU afterwards."""
    import torch

    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cuda.cudnn_sdp_enabled()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cuda.enable_cudnn_sdp(cudnn)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> ParallelData:
    """Write a data-bin of random pairs."""
    from gpu_cases import write_pairs

    return write_pairs(tmp_path_factory.mktemp("pairs"), 200, median_length=10)
