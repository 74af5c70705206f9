"""Loading of a teacher's PyTorch models in a worker process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from kdmt.config import Decode, NATDecode, Pool
from kdmt.cuda_options import configure_cuda
from kdmt.decode.engines.nat import NATEngine
from kdmt.decode.engines.pytorch import TorchEngine
from kdmt.distill.blocks import Block
from kdmt.distill.decoding import SourceIds, Translate
from kdmt.distill.pool import beam_of, pooled
from kdmt.models.checkpoint import load_model
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.runtime import use_threads
from kdmt.types import Hypothesis, Sampling
from kdmt.workers.tasks import WorkerSpec

# (sources, their numbers, function that is called with numbers of sources that are done) -> samples of each source
DrawSeveral = Callable[[SourceIds, list[int], Callable[[int], None]], list[list[Hypothesis]]]


def open_models(
    checkpoints: Sequence[Path],
    spec: WorkerSpec,
    *,
    load: Callable[[Path], Transformer] | None,
    settings: Decode,
    sampling: Sampling | None,
    seed: int,
    pool: Pool | None = None,
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
        pool: settings of the pool of candidates to make; None to make one or several translations of one kind.
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
    if pool is not None and sampling is not None:
        return partial(_fill, engine, settings, pool, _sampler(engine, settings, sampling, pool))
    if sampling is None:
        return lambda sources, _, __, progress: engine.decode(sources, settings, progress=progress)
    return lambda sources, numbers, _, progress: engine.sample(
        sources, numbers, settings, sampling, seed=seed, progress=progress
    )


def open_sampler(
    checkpoints: Sequence[Path], spec: WorkerSpec, settings: Decode, sampling: Sampling, pool: Pool
) -> DrawSeveral:
    """Load models of kdmt and return a function that draws the samples of a pool with them."""
    use_threads(spec.threads)
    if spec.device.startswith("cuda"):
        configure_cuda()
    first, *others = (load_model(checkpoint) for checkpoint in checkpoints)
    return _sampler(TorchEngine(first, others=others, device=spec.device, precision="auto"), settings, sampling, pool)


def _sampler(engine: TorchEngine, settings: Decode, sampling: Sampling, pool: Pool) -> DrawSeveral:
    return lambda sources, numbers, progress: engine.sample(
        sources,
        numbers,
        settings,
        sampling,
        seed=pool.seed,
        samples=pool.samples,
        lenpen=settings.lenpen,
        progress=progress,
    )


def _fill(
    engine: TorchEngine,
    settings: Decode,
    pool: Pool,
    draw: DrawSeveral,
    sources: SourceIds,
    numbers: list[int],
    _: Block,
    progress: Callable[[int], None],
) -> list[list[Hypothesis]]:
    """Return the pool of each source."""
    beam = beam_of(settings, pool)

    def search(report: Callable[[int], None]) -> list[list[Hypothesis]]:
        if pool.diverse is not None:
            return engine.decode_diverse(sources, beam, pool.diverse, progress=report)
        return engine.decode(sources, beam, progress=report)

    return pooled(len(sources), pool, search=search, draw=partial(draw, sources, numbers), progress=progress)
