"""Export of models to ONNX. `kdmt.interop.onnx_folder` defines the format of the folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdmt.config import Decode
from kdmt.corpus.codec import TextCodec
from kdmt.errors import UserError
from kdmt.files import naming, write_json
from kdmt.interop.browser_tokenizer import write_browser_tokenizers
from kdmt.interop.export_folder import check_new, described_folder
from kdmt.interop.model_card import ExportFormat
from kdmt.interop.onnx_folder import (
    AUTOREGRESSIVE,
    ENCODER_FILE,
    MERGED_DECODER_FILE,
    OPTIONS_FILE,
    SEARCH_FILE,
    files_of,
)
from kdmt.interop.streaming_models import refuse_unidirectional
from kdmt.log import get_logger
from kdmt.models.build import describe_model
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import log_opened, resolve_checkpoint
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer

if TYPE_CHECKING:
    from onnx import ModelProto

_logger = get_logger(__name__)

CARD = ExportFormat(
    "ONNX",
    """
`kdmt translate FOLDER < input` translates with ONNX Runtime. Without kdmt, an autoregressive model is
`encoder_model.onnx` and `decoder_model_merged.onnx`, with the inputs and outputs of Hugging Face's Optimum; the other
models and the search are described in kdmt's documentation. Sources end in `</s>`. `text.json` describes the processing
of text before the tokenizer in `tokenizer/`, and `dict.*.txt` have the tokens by their ids from 4 on.
""",
    library="onnx",
    tags=("onnx",),
)


def export_checkpoint(
    checkpoint: Path,
    folder: Path,
    *,
    quantization: str = "float32",
    decode: Decode | None = None,
    card: str | None = None,
) -> None:
    """Write the model of a checkpoint, with its tokenizer and text processing, as ONNX graphs.

    Args:
        checkpoint: a checkpoint folder, a pointer file or a run.
        folder: the new folder.
        quantization, decode, card: see `export_model`.

    Raises:
        UserError: if there is no checkpoint, and in the cases of `export_model`.
    """
    source = resolve_checkpoint(checkpoint)
    log_opened(checkpoint, source)
    codec = TextCodec.load(source)
    export_model(
        load_model(source),
        folder,
        companions=codec.companions(source),
        quantization=quantization,
        decode=decode,
        card=card,
        codec=codec,
    )


def export_model(
    model: Transformer,
    folder: Path,
    *,
    companions: Sequence[Path] = (),
    quantization: str = "float32",
    decode: Decode | None = None,
    card: str | None = None,
    codec: TextCodec | None = None,
) -> None:
    """Write a model as ONNX graphs. An error leaves no partial folder; the model is not modified.

    Args:
        model: model on any device, of any floating-point type.
        folder: the new folder.
        companions: files and folders to copy into the folder of the model.
        quantization: `float32`, or `int8` for weights of 8 bits.
        decode: search settings that are proposed for an autoregressive model (default: those of `Decode`).
        codec: text processing of which a browser gets the tokenizers, if they are within its reach.
        card: model card; None for none.

    Raises:
        UserError: if the folder exists, the packages that write ONNX are not installed, models of the family are not
            exported, or a graph is too large for a file.
    """
    check_new(folder)
    family = model.nat.family if isinstance(model, NATransformer) else AUTOREGRESSIVE
    files_of(family)
    refuse_unidirectional(model.config, "the export to ONNX")
    if isinstance(model, NATransformer) and model.nat.streaming is not None:
        raise UserError("the model has 'nat.streaming', which the export to ONNX does not have: use the checkpoint")
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise UserError("the package 'onnx' is not installed: pip install 'kdmt[onnx]'") from None
    from kdmt.interop.onnx_graph import save_model
    from kdmt.interop.onnx_quantization import quantize

    graphs = _graphs(model)
    with described_folder(folder, describe_model(model), companions, card=card) as aside:
        for name, graph in graphs.items():
            with naming(folder / name):
                save_model(quantize(graph) if quantization == "int8" else graph, aside / name)
        write_json(aside / OPTIONS_FILE, {"quantization": quantization})
        if codec is not None and (reason := write_browser_tokenizers(codec, aside)) is not None:
            _logger.info(f"no tokenizers for browsers: {reason}")
        if family == AUTOREGRESSIVE:
            settings = decode or Decode()
            proposed = {"beam_size": settings.beam, "length_penalty": settings.lenpen}
            write_json(aside / SEARCH_FILE, proposed)


def _graphs(model: Transformer) -> dict[str, ModelProto]:
    if isinstance(model, NATransformer):
        from kdmt.interop.onnx_nonautoregressive import nonautoregressive_graphs

        return nonautoregressive_graphs(model)
    from kdmt.interop.onnx_transformer import decoder_graph, encoder_graph

    return {ENCODER_FILE: encoder_graph(model), MERGED_DECODER_FILE: decoder_graph(model)}
