"""The exporters in one table: the toolkits that a trained model can be written for.

To add an exporter, write the function that exports a checkpoint and name it in `EXPORTERS`. `kdmt export --to` goes by
the table. The table loads neither torch nor a toolkit, since the command line shows its names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdmt.choices import ComputeType as Quantization


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export. An exporter refuses a quantization that it does not have, and ignores the search."""

    quantization: Quantization = "float32"
    beam: int = 5
    lenpen: float = 1.0


@dataclass(frozen=True)
class Exporter:
    """How a checkpoint is written for a toolkit.

    Attributes:
        label: name of the toolkit in messages.
        models: which models it takes, for the help text.
        export: writes a checkpoint (a folder, a pointer file or a run) to a new folder or file.
        quantizations: number types that weights can be stored in.
    """

    label: str
    models: str
    export: Callable[[Path, Path, ExportOptions], None]
    quantizations: tuple[Quantization, ...] = ("float32",)


def _export_ctranslate2(checkpoint: Path, out: Path, options: ExportOptions) -> None:
    from kdmt.config import Decode, checked
    from kdmt.interop import ctranslate2_export

    decode = checked(Decode, "export", beam=options.beam, lenpen=options.lenpen)
    ctranslate2_export.export_checkpoint(checkpoint, out, quantization=options.quantization, decode=decode)


def _export_fairseq(checkpoint: Path, out: Path, _: ExportOptions) -> None:
    from kdmt.interop.fairseq import checkpoints

    checkpoints.export_checkpoint(checkpoint, out)


def _export_onnx(checkpoint: Path, out: Path, _: ExportOptions) -> None:
    from kdmt.interop import onnx_export

    onnx_export.export_checkpoint(checkpoint, out)


# name, as `kdmt export --to` takes it -> exporter
EXPORTERS: dict[str, Exporter] = {
    "ctranslate2": Exporter(
        "CTranslate2", "autoregressive models", _export_ctranslate2, quantizations=("float32", "float16", "int8")
    ),
    "fairseq": Exporter("fairseq", "models that fairseq has too", _export_fairseq),
    "onnx": Exporter("ONNX", "ctc students", _export_onnx),
}
