"""`kdmt export`: a trained model for another toolkit."""

from __future__ import annotations

from pathlib import Path

from kdmt.errors import UserError
from kdmt.interop.exporters import EXPORTERS, ExportOptions
from kdmt.terminal import printable


def export(checkpoint: Path, out: Path, *, to: str, options: ExportOptions) -> None:
    """Write the model of a checkpoint, with its tokenizer and text processing, and print where it is.

    Args:
        checkpoint: a checkpoint folder, a pointer file or a run.
        out: the new folder, or file for a toolkit that has models as files.
        to: a name of `EXPORTERS`.

    Raises:
        UserError: there is no such model, or the toolkit does not have it.
    """
    exporter = EXPORTERS[to]
    if options.quantization not in exporter.quantizations:
        known = " or ".join(exporter.quantizations)
        raise UserError(f"--quantization {options.quantization}: {exporter.label} models are {known}")
    exporter.export(checkpoint, out, options)
    print(f"{to} model, {options.quantization}: {printable(str(out))}")
