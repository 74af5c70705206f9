"""ONNX graphs of non-autoregressive students, traced by `torch.onnx` from the model's own code.

`kdmt.interop.onnx_folder` lists the inputs and outputs of each family. The search is outside of the graphs: the path of
a `dag` model, the iterations of `cmlm` and `inat`, and the choice among several lengths. Each position has only its most
probable token, since all of them are far larger than the rest of a graph's outputs.

Shapes: B batch, S source length, T target length, L decoder positions, D width, V vocabulary.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor, nn

from kdmt.errors import UserError
from kdmt.interop.onnx_folder import (
    CTC_OUTPUTS,
    DAG_OUTPUTS,
    DECODER_FILE,
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_FILE,
    ENCODER_OUTPUTS,
    INPUT,
    MODEL_FILE,
)
from kdmt.interop.onnx_graph import OPSET
from kdmt.models.nonautoregressive import NATransformer
from kdmt.models.transformer import EncoderOutput
from kdmt.types import EOS, UNK

_NUM_LENGTHS = 256  # all lengths that a model can predict


def nonautoregressive_graphs(model: NATransformer) -> dict[str, ModelProto]:
    """Return the graphs of a model by the name of their file. The model is not modified.

    Raises:
        UserError: if the packages that write ONNX are not installed.
    """
    try:
        import onnxscript  # noqa: F401  (the exporter asks for it late, with a trace)
    except ImportError:
        raise UserError("what writes ONNX is not installed: pip install 'kdmt[onnx]'") from None
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    two_sentences = torch.full((2, 3), UNK).index_fill(1, torch.tensor([2]), EOS)
    sentences = torch.export.Dim("B")
    source = torch.export.Dim("S", max=model.config.max_source_positions)
    sizes = {0: sentences, 1: source}
    with _quiet(), torch.no_grad():
        if model.nat.family in ("ctc", "dag"):
            model.masks = "never"
            one_pass, outputs = (_Ctc, CTC_OUTPUTS) if model.nat.family == "ctc" else (_Dag, DAG_OUTPUTS)
            return {MODEL_FILE: _trace(one_pass(model), (two_sentences,), (INPUT,), outputs, (sizes,))}
        model.masks = "always"
        states = model.encode(two_sentences).states_BSD
        target = torch.export.Dim("T", max=model.config.max_target_positions)
        framed = source + model.nat.frame if model.nat.frame else source
        encoder = _trace(_Encoder(model), (two_sentences,), (INPUT,), ENCODER_OUTPUTS, (sizes,))
        drafts = torch.full((2, 5), UNK)
        decoder = _trace(
            _Decoder(model),
            (two_sentences, states, drafts),
            DECODER_INPUTS,
            DECODER_OUTPUTS,
            (sizes, {0: sentences, 1: framed}, {0: sentences, 1: target}),
        )
        return {ENCODER_FILE: encoder, DECODER_FILE: decoder}


def _trace(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    sizes: tuple[dict[int, Any], ...],
) -> ModelProto:
    program = torch.onnx.export(
        module,
        example,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=sizes,
    )
    assert program is not None  # None only if a file is given
    return program.model_proto


class _Ctc(nn.Module):
    """Positions aligned with the source, whose symbols are collapsed by the caller."""

    def __init__(self, model: NATransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, src_tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
        x_BLD, keep_BL = self.model.upsample(src_tokens_BS)
        features_BLD = self.model.decode_all(x_BLD, keep_BL, self.model.encode(src_tokens_BS))
        return _best(features_BLD @ self.model.output_weight_VD.t())


class _Dag(nn.Module):
    """Vertices with their best tokens and the links between them."""

    def __init__(self, model: NATransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, src_tokens_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_BLD, keep_BL = self.model.vertices(src_tokens_BS)
        features_BLD = self.model.decode_all(x_BLD, keep_BL, self.model.encode(src_tokens_BS))
        tokens_BL, log_probs_BL = _best(features_BLD @ self.model.output_weight_VD.t())
        return tokens_BL, log_probs_BL, self.model.link(features_BLD, keep_BL)


class _Encoder(nn.Module):
    """Hidden states of the source, and the lengths that the target may have."""

    def __init__(self, model: NATransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, src_tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.model.encode(src_tokens_BS)
        limit = self.model.config.max_target_positions
        return encoded.states_BSD, self.model.lengths.best(encoded, _NUM_LENGTHS, limit=limit)


class _Decoder(nn.Module):
    """Predictions for all positions of a draft."""

    def __init__(self, model: NATransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, src_tokens_BS: Tensor, states_BSD: Tensor, draft_BT: Tensor) -> tuple[Tensor, Tensor]:
        keep_BS = nn.functional.pad(src_tokens_BS, (self.model.nat.frame, 0), value=EOS).ne(self.model.pad)
        features_BTD = self.model.fill(src_tokens_BS, draft_BT, EncoderOutput(states_BSD, keep_BS))
        logits_BTV = features_BTD @ self.model.output_weight_VD.t()
        is_pad_V = torch.arange(logits_BTV.size(-1)) == self.model.pad  # padding marks the end of a draft
        if self.model.nat.layout == "fairseq":  # fairseq counts its probability
            return _best(logits_BTV, is_pad_V)
        return _best(logits_BTV.masked_fill(is_pad_V, -torch.inf))


def _best(logits_BLV: Tensor, forbidden_V: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the most probable symbol of each position and its natural log-probability, [B, L] each.

    It uses a softmax, since ONNX runtimes have a fast softmax and a slow logsumexp.
    """
    probs_BLV = logits_BLV.softmax(-1)
    if forbidden_V is not None:
        probs_BLV = probs_BLV.masked_fill(forbidden_V, 0.0)
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
