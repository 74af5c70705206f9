"""Format of the folder of an exported ONNX model: names of its files, and checks. Loads neither torch nor ONNX.

    model.onnx                                  graph and weights
    model.json                                  shape of the model, as in a checkpoint
    tokenizer/, text.json, dict.<lang>.txt      text processing, as in a checkpoint
    checksums.json                              sha256 of each file

The graph has the input `src_tokens`, int64 [B, S]: sentences of equal length that end in </s>. There is no padding and
therefore no mask. The outputs are `symbols`, int64 [B, L], the most probable token (or the blank, whose id is one more
than that of the last token) at each of the L = upsample * S positions, and `log_probs`, float32 [B, L], its natural
log-probability.

`kdmt.interop.onnx_export` writes such folders, `kdmt.decode.engines.onnx` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdmt.checksum import verify_checkpoint
from kdmt.corpus.codec import TEXT_FILE, load_dictionaries, load_text_processor
from kdmt.errors import UserError
from kdmt.models.description import FILE as DESCRIPTION_FILE
from kdmt.models.description import read_description

MODEL_FILE = "model.onnx"
INPUT = "src_tokens"
OUTPUTS = ("symbols", "log_probs")


@dataclass(frozen=True)
class ModelFolder:
    """Properties of an ONNX model folder that an engine needs in addition to the graph."""

    path: Path
    max_source_positions: int
    blank: int  # id of the CTC blank, equal to the number of target tokens

    @classmethod
    def open(cls, path: Path) -> ModelFolder:
        """Check a folder and read it.

        Raises:
            UserError: if the folder is damaged or was not written by kdmt.
        """
        if not (path / DESCRIPTION_FILE).is_file() or not is_model_folder(path):
            raise UserError(f"{path}: not a model that 'kdmt export --to onnx' wrote")
        verify_checkpoint(path)
        description = read_description(path)
        if (path / TEXT_FILE).exists():
            load_dictionaries(path, load_text_processor(path / TEXT_FILE))  # checks that the sizes are the model's
        return cls(path, description["config"]["max_source_positions"], description["tgt_vocab_size"])

    @property
    def file(self) -> Path:
        return self.path / MODEL_FILE


def is_model_folder(path: Path) -> bool:
    """Return whether a folder holds an ONNX model."""
    return (path / MODEL_FILE).is_file()
