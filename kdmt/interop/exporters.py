"""Table of exporters, one for each toolkit that a trained model can be exported to.

To add an exporter, write the function that exports a checkpoint and add it to `EXPORTERS`. `kdmt export --to` uses the
table. This module loads neither torch nor a toolkit, since the command line needs the names in the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from kdmt.choices import ComputeType as Quantization
from kdmt.errors import UserError
from kdmt.models.checkpoint_folder import resolve_checkpoint
from kdmt.models.description import is_right_to_left


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export. A quantization that the exporter does not support is refused.

    An exporter that writes no search settings ignores `beam` and `lenpen`.
    """

    quantization: Quantization = "float32"
    beam: int = 5
    lenpen: float = 1.0


@dataclass(frozen=True)
class Exporter:
    """Exporter of checkpoints to the format of a toolkit.

    Attributes:
        label: name of the toolkit in messages.
        models: supported models, for the help text.
        export: function that writes a checkpoint (a folder, a pointer file or a run) to a new folder or file.
        quantizations: number types that weights can be stored in.
    """

    label: str
    models: str
    export: Callable[[Path, Path, ExportOptions], None]
    quantizations: tuple[Quantization, ...] = ("float32",)


def _check_direction(checkpoint: Path) -> None:
    """Check that a model does not predict reversed targets, which other programs would not reverse again.

    Raises:
        UserError: if it does.
    """
    if is_right_to_left(resolve_checkpoint(checkpoint)):
        raise UserError(
            f"{checkpoint}: predicts targets from right to left: other programs would show its translations reversed; "
            "use the checkpoint itself"
        )


def _export_ctranslate2(checkpoint: Path, out: Path, options: ExportOptions) -> None:
    from kdmt.config import Decode, checked
    from kdmt.interop import ctranslate2_export

    _check_direction(checkpoint)
    decode = checked(Decode, "export", beam=options.beam, lenpen=options.lenpen)
    ctranslate2_export.export_checkpoint(checkpoint, out, quantization=options.quantization, decode=decode)


def _export_fairseq(checkpoint: Path, out: Path, _: ExportOptions) -> None:
    from kdmt.interop.fairseq import checkpoints

    _check_direction(checkpoint)
    checkpoints.export_checkpoint(checkpoint, out)


def _export_onnx(checkpoint: Path, out: Path, options: ExportOptions) -> None:
    from kdmt.config import Decode, checked
    from kdmt.interop import onnx_export

    _check_direction(checkpoint)
    decode = checked(Decode, "export", beam=options.beam, lenpen=options.lenpen)
    onnx_export.export_checkpoint(checkpoint, out, quantization=options.quantization, decode=decode)


# name for `kdmt export --to` -> exporter
EXPORTERS: dict[str, Exporter] = {
    "ctranslate2": Exporter(
        "CTranslate2", "autoregressive models", _export_ctranslate2, quantizations=get_args(Quantization)
    ),
    "fairseq": Exporter("fairseq", "models that fairseq has too", _export_fairseq),
    "onnx": Exporter("ONNX", "all models but those that edit drafts", _export_onnx, quantizations=("float32", "int8")),
}
