"""The kinds of input: the parts of the world that each needs, and how it is damaged."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzz.case import Case
from fuzz.kinds import (
    blocks,
    caches,
    checkpoints,
    corpora,
    data_bins,
    exported,
    hub,
    manifests,
    options,
    overrides,
    pickles,
    prepared,
    settings,
    streams,
    translations,
)


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        parts: parts of the world that are copied into a folder.
        damage: function that damages that folder and returns the commands to run on it.
        libraries: libraries loaded before the first input, so that not every command loads them again.
    """

    parts: tuple[str, ...]
    damage: Callable[[random.Random, Path], Case]
    libraries: tuple[str, ...] = ()


# kinds that load more libraries come last
KINDS = {
    "corpora": Kind(("pipeline",), corpora.damage),
    "streams": Kind(("pipeline",), streams.damage),
    "settings": Kind(("pipeline",), settings.damage),
    "overrides": Kind(("pipeline",), overrides.damage),
    "options": Kind(("pipeline",), options.damage),
    "prepared": Kind(("pipeline",), prepared.damage),
    "manifests": Kind(("pipeline",), manifests.damage),
    "checkpoints": Kind(("pipeline",), checkpoints.damage),
    "blocks": Kind(("pipeline",), blocks.damage),
    "caches": Kind(("pipeline",), caches.damage),
    "translations": Kind(("pipeline",), translations.damage),
    "data-bins": Kind(("pipeline", "data-bin"), data_bins.damage),
    "pickles": Kind(("pipeline", "fairseq"), pickles.damage),
    "ct2": Kind(("ct2",), exported.damage_ct2),
    "onnx": Kind(("onnx",), exported.damage_onnx),
    "hub": Kind(("pipeline", "hub"), hub.damage, hub.LIBRARIES),
}
