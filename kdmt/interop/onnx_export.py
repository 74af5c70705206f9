"""Export of a CTC student as an ONNX model that maps source ids to the best symbol of each position.

`kdmt.interop.onnx_folder` defines the format of the folder.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from kdmt.corpus.codec import TextCodec
from kdmt.errors import UserError
from kdmt.files import naming
from kdmt.interop.export_folder import check_new, described_folder
from kdmt.interop.model_card import ExportFormat
from kdmt.interop.onnx_folder import INPUT, MODEL_FILE, OUTPUTS
from kdmt.models.build import describe_model
from kdmt.models.checkpoint import load_model
from kdmt.models.checkpoint_folder import log_opened, resolve_checkpoint
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import Transformer
from kdmt.types import EOS, UNK

OPSET = 20
CARD = ExportFormat(
    "ONNX",
    """
`kdmt translate FOLDER < input` translates with ONNX Runtime. Without kdmt, `model.onnx` maps source ids `src_tokens`
[B, S], which end in `</s>`, to the best symbol of each position and its log-probability. `text.json` describes the
processing of text before the tokenizer in `tokenizer/`, and `dict.*.txt` have the tokens by their ids from 4 on.
""",
    library="onnx",
    tags=("onnx",),
)


def export_checkpoint(checkpoint: Path, folder: Path, *, card: str | None = None) -> None:
    """Write the model of a checkpoint, with its tokenizer and text processing, as an ONNX model.

    Args:
        checkpoint: a checkpoint folder, a pointer file or a run.
        folder: the new folder.
        card: as for `export_model`.

    Raises:
        UserError: if there is no checkpoint, and in the cases of `export_model`.
    """
    source = resolve_checkpoint(checkpoint)
    log_opened(checkpoint, source)
    export_model(load_model(source), folder, companions=TextCodec.load(source).companions(source), card=card)


def export_model(model: Transformer, folder: Path, *, companions: Sequence[Path] = (), card: str | None = None) -> None:
    """Write a CTC student as an ONNX model in float32. An error leaves no partial folder; the model is not modified.

    Args:
        model: model on any device, of any floating-point type.
        folder: the new folder.
        companions: files and folders to copy into the folder of the model.
        card: model card; None for none.

    Raises:
        UserError: if the folder exists, the packages that write ONNX are not installed, or the model is not a CTC
            student.
    """
    check_new(folder)
    if not isinstance(model, NATransformer) or model.nat.family != "ctc":
        family = model.nat.family if isinstance(model, NATransformer) else "autoregressive"
        raise UserError(f"only a 'ctc' student is exported to ONNX; this model is {family!r}")
    try:
        import onnxscript  # noqa: F401  (the exporter asks for it late, with a trace)
    except ImportError:
        raise UserError("what writes ONNX is not installed: pip install 'kdmt[onnx]'") from None
    symbols = _BestSymbols(copy.deepcopy(model).to("cpu", torch.float32)).eval()
    two_sentences = torch.full((2, 3), UNK).index_fill(1, torch.tensor([2]), EOS)
    sizes = {0: torch.export.Dim("B"), 1: torch.export.Dim("S", max=model.config.max_source_positions)}
    with described_folder(folder, describe_model(model), companions, card=card) as aside, _quiet(), torch.no_grad():
        program = torch.onnx.export(
            symbols,
            (two_sentences,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[*OUTPUTS],
            dynamic_shapes={"src_tokens_BS": sizes},
        )
        assert program is not None  # None only if a file is given
        with naming(folder / MODEL_FILE):
            program.save(str(aside / MODEL_FILE), external_data=False)


class _BestSymbols(nn.Module):
    """Module that is exported. It uses a softmax for the probability of the best symbol, since ONNX runtimes have a
    fast softmax and a slow logsumexp."""

    def __init__(self, model: NATransformer) -> None:
        super().__init__()
        self.model = model
        model.masks = "never"

    def forward(self, src_tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
        x_BLD, keep_BL = self.model.upsample(src_tokens_BS)
        features_BLD = self.model.decode_all(x_BLD, keep_BL, self.model.encode(src_tokens_BS))
        probs_BLV = (features_BLD @ self.model.output_weight_VD.t()).softmax(-1)
        best_BL, symbols_BL = probs_BLV.max(-1)
        return symbols_BL, best_BL.log()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of the exporter about libraries that the model does not use and about its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(before)
