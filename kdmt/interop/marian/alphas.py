"""Factors by which Bergamot multiplies the inputs of matrices before it rounds them to int8, from a sample decode.

The factor of a matrix W is alpha = 127 / (m + 1.1 s), where m and s are the mean and the standard deviation of max|A|
over all products A W of the decode (browsermt/marian-dev, scripts/alphas). With fixed factors the engine does not look
for the largest value of each input.

Shapes: B sentences, S source length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from kdmt.errors import UserError
from kdmt.interop.marian.files import is_matrix
from kdmt.interop.marian.names import parts
from kdmt.models.transformer import Transformer
from kdmt.types import EOS, PAD

_BATCH = 32  # sentences, as in the decode of Firefox's models
_MAX_LENGTH_FACTOR = 3
_DEVIATIONS = 1.1
_OUTPUT_NAMES = ("decoder_ff_logit_out_Wt", "Wemb", "decoder_Wemb")  # the first one that a model has is its output
_SELECTED = "none"  # name that versions of the engine give to the rows of the output that a shortlist selects


@torch.inference_mode()
def activation_factors(model: Transformer, sources: Sequence[NDArray[np.integer]]) -> dict[str, float]:
    """Return the factor of each matrix, by Marian's name, from translating a sample greedily.

    Args:
        model: model with Marian's layout, in evaluation mode.
        sources: sample of sources of kdmt's ids, each ending in </s>.

    Raises:
        UserError: if the sample is empty.
    """
    if not sources:
        raise UserError("the sample for the factors of activations is empty")
    largest: dict[str, list[float]] = {}
    with _recording(model, largest):
        ordered = sorted(sources, key=len)
        for start in range(0, len(ordered), _BATCH):
            _translate(model, ordered[start : start + _BATCH])
    return {name: _factor(values) for name, values in largest.items()}


def _factor(values: Sequence[float]) -> float:
    scale = float(np.mean(values) + _DEVIATIONS * np.std(values))
    return 127.0 / scale if scale > 0 else 127.0


def _translate(model: Transformer, sources: Sequence[NDArray[np.integer]]) -> None:
    """Translate a batch greedily, without keeping the translations."""
    src_tokens_BS = pad_sequence(
        [torch.from_numpy(np.asarray(source, dtype=np.int64)) for source in sources],
        batch_first=True,
        padding_value=PAD,
    )
    max_len = min(_MAX_LENGTH_FACTOR * src_tokens_BS.size(1), model.config.max_target_positions)
    cache = model.start_cache(model.encode(src_tokens_BS), beam=1, max_len=max_len)
    last_B = torch.full((len(sources),), EOS)
    for _ in range(max_len):
        logits_BV = model.decode_step(last_B, cache)
        logits_BV[:, PAD] = -torch.inf
        last_B = logits_BV.argmax(dim=-1)
        going_on_B = last_B.ne(EOS)
        if not going_on_B.any():
            break
        if not going_on_B.all():
            index_B = going_on_B.nonzero()[:, 0]
            cache.select_sentences(index_B)
            last_B = last_B[index_B]


@contextmanager
def _recording(model: Transformer, largest: dict[str, list[float]]) -> Iterator[None]:
    """Record the largest absolute value of each input of a linear layer while in the context."""

    def record(names: tuple[str, ...], _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        value = float(inputs[0].abs().max())
        for name in names:
            largest.setdefault(name, []).append(value)

    modules = dict(model.named_modules())
    hooks = []
    for ours, part in parts(model.config).items():
        if part.kind == "matrix" and all(map(is_matrix, part.names)):
            module = modules[ours.removesuffix(".weight")]
            hooks.append(module.register_forward_pre_hook(partial(record, part.names)))
    hooks.append(model.output_proj.register_forward_pre_hook(partial(record, (output_name(model), _SELECTED))))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def output_name(model: Transformer) -> str:
    """Return Marian's name of the matrix of the output projection."""
    known = {name for part in parts(model.config).values() for name in part.names}
    return next(name for name in _OUTPUT_NAMES if name in known)
