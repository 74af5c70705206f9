"""Translation with ONNX Runtime, for a folder that `kdmt export --to onnx` wrote.

A batch has sentences of one length, so that nothing is padded: the translation of a sentence does not depend on the
others, except for the order of floating-point operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdmt.config import Decode
from kdmt.corpus.indexed import without_padding
from kdmt.decode.engines.engine import EngineOptions, check_sentences, length_batches
from kdmt.decode.search.ctc_paths import greedy
from kdmt.errors import UserError, describe_error
from kdmt.interop.onnx_folder import INPUT, OUTPUTS, ModelFolder
from kdmt.types import Hypothesis

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def open_folder(folder: Path, options: EngineOptions) -> OnnxEngine:
    """Return the engine of an exported folder. See `OnnxEngine`."""
    return OnnxEngine(folder, threads=options.threads)


class OnnxEngine:
    """A CTC student in ONNX Runtime on the CPU, with greedy decoding.

    Args:
        folder: folder written by `kdmt.interop.onnx_export`.
        threads: number of CPU threads.

    Raises:
        UserError: if ONNX Runtime is not installed, or if the folder is damaged or was not written by kdmt.
    """

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        self._folder = ModelFolder.open(folder)
        self.max_source_positions = self._folder.max_source_positions
        self._session = _load(self._folder.file, threads)

    def decode(
        self, sources: Sequence[np.ndarray], settings: Decode, *, progress: Callable[[int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """See `Engine.decode`; returns one hypothesis per source."""
        check_sentences(sources, self.max_source_positions, "source")
        found: list[list[Hypothesis]] = [[] for _ in sources]
        lengths = [len(source) for source in sources]
        for batch in length_batches(lengths, max_tokens=settings.max_tokens, batch_size=settings.batch_size):
            for _, group in groupby(batch, key=lengths.__getitem__):  # a batch is sorted by length
                alike = list(group)
                for place, hypothesis in zip(alike, self._translate([sources[i] for i in alike]), strict=True):
                    found[place] = [hypothesis]
            if progress is not None:
                progress(len(batch))
        return found

    def _translate(self, sources: list[np.ndarray]) -> list[Hypothesis]:
        """Translate sources of one length."""
        src_tokens_BS = without_padding(np.stack(sources)).astype(np.int64)
        try:
            symbols_BL, log_probs_BL = self._session.run([*OUTPUTS], {INPUT: src_tokens_BS})
        except Exception as error:  # ONNX Runtime's own, of many types
            raise UserError(f"{self._folder.file}: ONNX Runtime cannot run it: {describe_error(error)}") from None
        self._check(symbols_BL, log_probs_BL, len(sources))
        keep_BL = torch.ones(symbols_BL.shape, dtype=torch.bool)
        return greedy(torch.from_numpy(symbols_BL), torch.from_numpy(log_probs_BL), keep_BL, blank=self._folder.blank)

    def _check(self, symbols_BL: np.ndarray, log_probs_BL: np.ndarray, count: int) -> None:
        """Check that the outputs have the shapes, types and values of a model that kdmt exported."""
        shaped = symbols_BL.ndim == 2 and symbols_BL.shape == log_probs_BL.shape and len(symbols_BL) == count
        if not shaped or symbols_BL.dtype != np.int64 or log_probs_BL.dtype != np.float32:
            raise UserError(
                f"{self._folder.file}: its outputs are not those of a model that 'kdmt export --to onnx' wrote"
            )
        if np.isnan(log_probs_BL).any():
            raise UserError(
                f"{self._folder.file}: its probabilities are no numbers: are there weights that are NaN or infinite?"
            )
        if symbols_BL.size and not 0 <= symbols_BL.min() <= symbols_BL.max() <= self._folder.blank:
            raise UserError(
                f"{self._folder.file}: it writes tokens beyond the dictionary's {self._folder.blank} symbols"
            )


def _load(file: Path, threads: int) -> InferenceSession:
    try:
        import onnxruntime
    except ImportError:
        raise UserError("ONNX Runtime is not installed: pip install 'kdmt[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # fatal only: messages would quote names from the file without escaping
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own, of many types
        raise UserError(f"{file}: ONNX Runtime cannot load it: {describe_error(error)}") from None
