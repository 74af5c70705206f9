"""Teachers for each engine: small values, from which a worker process loads the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kdmt.config import Decode, NATDecode, Pool, Sample
from kdmt.decode.engines.ctranslate2 import CTranslate2Engine
from kdmt.decode.engines.ctranslate2_devices import batch_limits, compute_type_on
from kdmt.distill.blocks import Block
from kdmt.distill.decoding import SourceIds, Translate
from kdmt.distill.pool import beam_of, pooled
from kdmt.runtime import gpu_name, processor_type
from kdmt.types import Hypothesis, Sampling
from kdmt.workers.tasks import WorkerSpec

if TYPE_CHECKING:
    from kdmt.distill.torch_models import DrawSeveral
    from kdmt.models.transformer import Transformer


@dataclass(frozen=True)
class CTranslate2Teacher:
    """A model in CTranslate2's format.

    Attributes:
        folder: folder of the model, on a disk that all workers can read.
        compute_type: value of `distill.compute_type`.
        settings: settings of the search.
        sample: settings for drawing translations; None to search for the best ones.
        shortlist: True to restrict target words to the model's vocabulary map.
        libraries: names of distributions that its translations depend on.
        drawn_by: checkpoints of the model, with which PyTorch draws the samples of a pool; empty for CTranslate2.
        exact: whether sentences that reach their own maximum length are searched again; see `CTranslate2Engine`.
    """

    folder: Path
    compute_type: str
    settings: Decode
    max_source_tokens: int
    max_target_tokens: int
    vocab_size: int
    sample: Sample | None = None
    shortlist: bool = False
    libraries: tuple[str, ...] = ("ctranslate2",)
    drawn_by: tuple[Path, ...] = ()
    exact: bool = True
    limits_lengths: ClassVar[bool] = True

    def open(self, spec: WorkerSpec, made_with: dict[str, object]) -> Translate:
        """See `Teacher.open`. `made_with` gets the size of batches if a batch did not fit in the memory of a GPU."""
        engine = CTranslate2Engine(
            self.folder,
            device=spec.device,
            compute_type=compute_type_on(spec.device, self.compute_type),
            threads=spec.threads,
            shortlist=self.shortlist,
            exact=self.exact,
        )
        settings = batch_limits(self.settings, spec.device)
        own = self.sample
        draw_by_torch = self._open_sampler(spec)

        def search(
            sources: SourceIds, _: list[int], __: Block, progress: Callable[[int], None]
        ) -> list[list[Hypothesis]]:
            found = engine.decode(sources, settings, progress=progress)
            if engine.memory.max_tokens is not None:  # on which the last digits of scores may depend
                made_with["max_tokens"] = engine.memory.max_tokens
            return found

        def draw(
            sources: SourceIds, _: list[int], block: Block, progress: Callable[[int], None]
        ) -> list[list[Hypothesis]]:
            assert own is not None
            seed = block_seed(own.seed, block)
            return engine.sample(sources, settings, sampling_of(own), seed=seed, progress=progress)

        def fill(
            sources: SourceIds, numbers: list[int], block: Block, progress: Callable[[int], None]
        ) -> list[list[Hypothesis]]:
            assert isinstance(own, Pool)

            def draw_several(report: Callable[[int], None]) -> list[list[Hypothesis]]:
                if draw_by_torch is not None:
                    return draw_by_torch(sources, numbers, report)
                return engine.sample(
                    sources,
                    settings,
                    sampling_of(own),
                    seed=block_seed(own.seed, block),
                    samples=own.samples,
                    lenpen=settings.lenpen,
                    progress=report,
                )

            return pooled(
                len(sources),
                own,
                search=lambda report: engine.decode(sources, beam_of(settings, own), progress=report),
                draw=draw_several,
                progress=progress,
            )

        if own is None:
            return search
        return fill if isinstance(own, Pool) else draw

    def _open_sampler(self, spec: WorkerSpec) -> DrawSeveral | None:
        if not self.drawn_by:
            return None
        from kdmt.distill.torch_models import open_sampler  # loads torch

        assert isinstance(self.sample, Pool)
        return open_sampler(self.drawn_by, spec, self.settings, sampling_of(self.sample), self.sample)

    def made_with(self, spec: WorkerSpec) -> dict[str, object]:
        """See `Teacher.made_with`."""
        made_with = {**_versions(self.libraries), **machine(spec)}
        if spec.device.startswith("cuda"):
            made_with["compute_type"] = compute_type_on(spec.device, self.compute_type)
        if self.drawn_by:
            made_with |= _versions(("torch",)) | products_on(spec)
        return made_with


@dataclass(frozen=True)
class TorchTeacher:
    """Models in PyTorch; several models translate together.

    Attributes:
        checkpoints: folders on a disk that all workers can read.
        settings: settings of the search.
        sample: settings for drawing translations; None to search for the best ones.
        search: decoding settings of a non-autoregressive model.
        load: function that loads a model of another library with the interface of an autoregressive model; it can be
            sent to another process.
        libraries: names of distributions that its translations depend on.
    """

    checkpoints: tuple[Path, ...]
    settings: Decode
    max_source_tokens: int
    max_target_tokens: int
    vocab_size: int
    sample: Sample | None = None
    search: NATDecode | None = None
    iterations: int = 10
    load: Callable[[Path], Transformer] | None = None
    libraries: tuple[str, ...] = ("torch",)
    limits_lengths: ClassVar[bool] = True

    def open(self, spec: WorkerSpec, made_with: dict[str, object]) -> Translate:  # noqa: ARG002
        """See `Teacher.open`."""
        from kdmt.distill.torch_models import open_models  # loads torch

        return open_models(
            self.checkpoints,
            spec,
            load=self.load,
            settings=self.settings,
            sampling=None if self.sample is None else sampling_of(self.sample),
            seed=0 if self.sample is None else self.sample.seed,
            pool=self.sample if isinstance(self.sample, Pool) else None,
            search=self.search,
            iterations=self.iterations,
        )

    def made_with(self, spec: WorkerSpec) -> dict[str, object]:
        """See `Teacher.made_with`."""
        return {**_versions(self.libraries), **machine(spec), **products_on(spec)}


def products_on(spec: WorkerSpec) -> dict[str, object]:
    """Return the number type of PyTorch's matrix products, if it depends on the GPU."""
    if not spec.device.startswith("cuda"):
        return {}
    from kdmt.decode.engines.precision import uses_bf16  # loads torch

    return {"products": "bf16" if uses_bf16(spec.device, "auto") else "float32"}


def sampling_of(sample: Sample) -> Sampling:
    """Return the settings in the form that `kdmt.decode.search.sampling` takes."""
    return Sampling(
        temperature=sample.temperature,
        top_k=sample.top_k,
        top_p=sample.top_p,
        epsilon=sample.epsilon,
        min_p=sample.min_p,
    )


def block_seed(seed: int, block: Block) -> int:
    """Return the seed of a new generator for the block, in 31 bits."""
    return int(np.random.SeedSequence([seed, block.number]).generate_state(1)[0] >> 1)


def _versions(libraries: tuple[str, ...]) -> dict[str, str]:
    return {name: version(name) for name in libraries}


def machine(spec: WorkerSpec) -> dict[str, object]:
    """Return the type of processor or GPU, and the number of threads of the worker."""
    is_gpu = spec.device.startswith("cuda")
    kind = {"device": gpu_name(spec.device)} if is_gpu else {"processor": processor_type()}
    return {**kind, "threads": spec.threads}
