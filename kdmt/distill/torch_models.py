"""Loading of a teacher's PyTorch models in a worker process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kdmt.config import Decode, NATDecode
from kdmt.cuda_options import configure_cuda
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.distill.decoding import Translate
from kdmt.models.checkpoint import load_model
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.runtime import use_threads
from kdmt.types import Sampling
from kdmt.workers.tasks import WorkerSpec


def open_models(
    checkpoints: Sequence[Path],
    spec: WorkerSpec,
    *,
    load: Callable[[Path], Transformer] | None,
    settings: Decode,
    sampling: Sampling | None,
    seed: int,
    search: NATDecode | None,
    iterations: int,
) -> Translate:
    """Load models and return a function that translates with them.

    Args:
        checkpoints: folders of models that translate together.
        load: function that loads a model of another library; None to load checkpoints of kdmt.
        settings: settings of the search.
        sampling: distribution from which translations are drawn; None to search for the best ones.
        seed: seed for drawing.
        search, iterations: decoding settings of a non-autoregressive model.
    """
    use_threads(spec.threads)
    if spec.device.startswith("cuda"):
        configure_cuda()
    models = [(load or load_model)(checkpoint) for checkpoint in checkpoints]
    first, *others = models
    if isinstance(first, NATransformer):
        nat = NATEngine(first, device=spec.device, search=search, iterations=iterations, precision="auto")
        return lambda sources, _, __, progress: nat.decode(sources, settings, progress=progress)
    engine = TorchEngine(first, others=others, device=spec.device, precision="auto")
    if sampling is None:
        return lambda sources, _, __, progress: engine.decode(sources, settings, progress=progress)
    return lambda sources, numbers, _, progress: engine.sample(
        sources, numbers, settings, sampling, seed=seed, progress=progress
    )
