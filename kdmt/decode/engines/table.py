"""Table of decoding engines: how each recognises and opens a folder, and what it supports.

To add an engine, write its module with a function `open_folder` and add an entry to `ENGINES`. `kdmt translate`,
`kdmt score` and `kdmt.load` read the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdmt.decode.engines import ctranslate2, nat, onnx, pytorch
from kdmt.decode.engines.engine import Engine, EngineOptions
from kdmt.errors import UserError
from kdmt.files import read_json_object
from kdmt.interop import ctranslate2_folder, onnx_folder
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.models.description import FILE as DESCRIPTION_FILE


@dataclass(frozen=True)
class EngineKind:
    """A decoding engine.

    Attributes:
        library: name in scores.json, which is that of the library that computes.
        recognizes: function that returns whether the engine can open a folder.
        open: function that returns the engine of such a folder.
        compute_type: number type in scores.json; `default` for that of the stored weights.
        nbest: whether the engine returns several hypotheses.
        samples: whether the engine draws samples.
        forced_scores: whether the engine returns the probability of a given target.
    """

    library: str
    recognizes: Callable[[Path], bool]
    open: Callable[[Path, EngineOptions], Engine]
    compute_type: str = "float32"
    nbest: bool = False
    samples: bool = False
    forced_scores: bool = False


def _is_nonautoregressive(folder: Path) -> bool:
    try:
        return read_json_object(folder / DESCRIPTION_FILE).get("family") == "nonautoregressive"
    except UserError:  # the engine that opens the folder reports the problem
        return False


def _is_checkpoint(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file()


# exported models; the first that recognises a folder opens it
_EXPORTED = {
    "ctranslate2": EngineKind(
        "ctranslate2",
        ctranslate2_folder.is_model_folder,
        ctranslate2.open_folder,
        compute_type="default",
        nbest=True,
        samples=True,
        forced_scores=True,
    ),
    "onnx_nat": EngineKind(
        "onnxruntime", onnx_folder.is_nonautoregressive, onnx.open_nonautoregressive, compute_type="default"
    ),
    "onnx": EngineKind(
        "onnxruntime",
        onnx_folder.is_model_folder,
        onnx.open_folder,
        compute_type="default",
        nbest=True,
        forced_scores=True,
    ),
}
# checkpoints, and all paths that `resolve_checkpoint` resolves to a checkpoint
_CHECKPOINTS = {
    "nat": EngineKind("pytorch", _is_nonautoregressive, nat.open_folder),
    "pytorch": EngineKind("pytorch", _is_checkpoint, pytorch.open_folder, nbest=True, samples=True, forced_scores=True),
}
ENGINES: dict[str, EngineKind] = _EXPORTED | _CHECKPOINTS


def find_engine(path: Path) -> tuple[EngineKind, Path]:
    """Return the engine for a path and the folder that it opens.

    Args:
        path: an exported model, a checkpoint folder, a pointer file, or a training run.

    Raises:
        UserError: if the path is none of these.
    """
    for kind in _EXPORTED.values():
        if kind.recognizes(path):
            return kind, path
    folder = resolve_checkpoint(path)
    return next(kind for kind in _CHECKPOINTS.values() if kind.recognizes(folder)), folder
