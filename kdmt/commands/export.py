"""`kdmt export`: write a trained model for another toolkit."""

from __future__ import annotations

from pathlib import Path

from kdmt.errors import UserError
from kdmt.interop.exporters import EXPORTERS, ExportOptions
from kdmt.terminal import printable


def export(checkpoint: Path, out: Path, *, to: str, options: ExportOptions) -> None:
    """Write the model of a checkpoint with its tokenizer and text processing, and print the output path.

    Args:
        checkpoint: checkpoint folder, pointer file or run.
        out: new folder, or new file for a toolkit whose models are files.
        to: key of `EXPORTERS`.

    Raises:
        UserError: if the model does not exist, or the toolkit does not support it.
    """
    exporter = EXPORTERS[to]
    if options.quantization not in exporter.quantizations:
        known = " or ".join(exporter.quantizations)
        raise UserError(f"--quantization {options.quantization}: {exporter.label} models are {known}")
    exporter.export(checkpoint, out, options)
    print(f"{to} model, {options.quantization}: {printable(str(out))}")
