"""Teachers for executors: what each engine needs to be loaded where it works."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kdmt.config import Decode, NATDecode, Sample
from kdmt.distill.blocks import Block
from kdmt.distill.decoding import SourceIds, Translate
from kdmt.runtime import use_threads
from kdmt.types import Hypothesis
from kdmt.workers.processes import Place


@dataclass(frozen=True)
class CTranslate2Teacher:
    """A model that `kdmt.interop.ctranslate2` has written.

    Attributes:
        folder: of the model, on a disk that all workers see.
        compute_type: float32, int8 or float16.
        settings: of the search.
        sample: draw a translation instead of searching for the best ones.
        shortlist: look for target words in the model's vocabulary map alone.
        libraries: on which its translations depend.
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

    def open(self, place: Place) -> Translate:
        """See `Teacher.open`."""
        from kdmt.decode.engines.ctranslate2 import CTranslate2Engine

        engine = CTranslate2Engine(
            self.folder,
            device=place.device,
            compute_type=self.compute_type,
            threads=place.threads,
            shortlist=self.shortlist,
        )
        own = self.sample

        def search(
            sources: SourceIds, _: list[int], __: Block, progress: Callable[[int], None]
        ) -> list[list[Hypothesis]]:
            return engine.decode(sources, self.settings, progress=progress)

        def draw(
            sources: SourceIds, _: list[int], block: Block, progress: Callable[[int], None]
        ) -> list[list[Hypothesis]]:
            assert own is not None
            seed = block_seed(own.seed, block)
            return engine.sample(sources, self.settings, sampling_of(own), seed=seed, progress=progress)

        return search if own is None else draw

    def made_with(self, place: Place) -> dict[str, Any]:
        """See `Teacher.made_with`."""
        return {**_versions(self.libraries), **machine(place)}


@dataclass(frozen=True)
class TorchTeacher:
    """Models in PyTorch, which translate together where they are several.

    Attributes:
        checkpoints: folders on a disk that all workers see.
        settings: of the search.
        sample: draw a translation instead of searching for the best ones.
        search: how a non-autoregressive model decodes.
        load: gives the model of one of `checkpoints` where it is none of ours, but has the face of an autoregressive
            one; it can be sent to another process.
        libraries: on which its translations depend.
    """

    checkpoints: tuple[Path, ...]
    settings: Decode
    max_source_tokens: int
    max_target_tokens: int
    vocab_size: int
    sample: Sample | None = None
    search: NATDecode | None = None
    iterations: int = 10
    load: Callable[[Path], Any] | None = None
    libraries: tuple[str, ...] = ("torch",)

    def open(self, place: Place) -> Translate:
        """See `Teacher.open`."""
        from kdmt.decode.engines.nat import NATEngine
        from kdmt.decode.engines.pytorch import TorchEngine
        from kdmt.models.checkpoint import load_model
        from kdmt.models.nonautoregressive import NATransformer

        use_threads(place.threads)
        load = self.load or load_model
        models = [load(checkpoint) for checkpoint in self.checkpoints]
        if isinstance(models[0], NATransformer):
            parallel = NATEngine(models[0], device=place.device, search=self.search, iterations=self.iterations)
            return lambda sources, _, __, progress: parallel.decode(sources, self.settings, progress=progress)
        engine = TorchEngine(models[0], others=models[1:], device=place.device)
        own = self.sample
        if own is None:
            return lambda sources, _, __, progress: engine.decode(sources, self.settings, progress=progress)
        sampling, seed = sampling_of(own), own.seed
        return lambda sources, numbers, _, progress: engine.sample(
            sources, numbers, self.settings, sampling, seed=seed, progress=progress
        )

    def made_with(self, place: Place) -> dict[str, Any]:
        """See `Teacher.made_with`."""
        return {**_versions(self.libraries), **machine(place)}


def sampling_of(sample: Sample) -> Any:
    """The settings as `kdmt.decode.search.sampling` takes them."""
    from kdmt.decode.search.sampling import Sampling

    return Sampling(temperature=sample.temperature, top_k=sample.top_k, top_p=sample.top_p)


def block_seed(seed: int, block: Block) -> int:
    """Of a fresh generator for the block, in 31 bits."""
    return int(np.random.SeedSequence([seed, block.number]).generate_state(1)[0] >> 1)


def _versions(libraries: tuple[str, ...]) -> dict[str, str]:
    return {name: version(name) for name in libraries}


def machine(place: Place) -> dict[str, Any]:
    """The type of processor or GPU, and the threads of the worker."""
    if place.device.startswith("cuda"):
        import torch

        return {"device": torch.cuda.get_device_name(place.device), "threads": place.threads}
    return {"processor": processor_type(), "threads": place.threads}


def processor_type() -> str:
    """Its name with the widest vector instructions that it has, which libraries choose their paths by."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = set(text.partition("flags")[2].partition("\n")[0].split())
    widest = [flag for flag in ("amx_tile", "avx512f", "avx2") if flag in flags]
    return " ".join([name.group(1) if name else "unknown", *widest])
